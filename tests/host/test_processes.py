"""What only a process of its own can show."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


def test_importing_is_cheap_and_the_first_image_tower_of_a_process_draws_nothing() -> None:
    code = """
import sys, random, torch, numpy
from types import SimpleNamespace
import lib_ipadapter.encode
assert not {"open_clip", "torchvision", "transformers", "timm"} & set(sys.modules), "heavy import"
from lib_ipadapter.encode.clip_image import _empty_tower
torch.manual_seed(3); random.seed(3); numpy.random.seed(3)
before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
_empty_tower(SimpleNamespace(width=64, layers=2, heads=1, mlp_width=256, patch=14, image_size=28, projection=8,
                             quick_gelu=False))
assert torch.equal(before[0], torch.get_rng_state())
assert before[1:] == (random.getstate(), numpy.random.get_state()[1].tolist())
"""

    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_importing_is_cheap_and_the_first_text_tower_of_a_process_draws_nothing() -> None:
    code = """
import sys, random, torch, numpy
from types import SimpleNamespace
from lib_ipadapter.encode.clip_text import _empty_tower, token_ids
assert not {"open_clip", "torchvision", "transformers", "timm"} & set(sys.modules), "heavy import"
torch.manual_seed(3); random.seed(3); numpy.random.seed(3)
before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
_empty_tower(SimpleNamespace(width=64, layers=2, heads=1, mlp_width=256, context=77, vocabulary=49408, projection=8,
                             quick_gelu=False))
token_ids("red")
assert torch.equal(before[0], torch.get_rng_state())
assert before[1:] == (random.getstate(), numpy.random.get_state()[1].tolist())
"""

    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_the_store_of_presets_needs_no_webui() -> None:
    code = (
        "import sys; import lib_ipadapter.presets.store; "
        "sys.exit(any(name.split('.')[0] in ('gradio', 'modules', 'fastapi') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


MEASURED = """
import io, resource, sys
from PIL import Image
from lib_ipadapter.encode.picture import Picture, Pictures
job, held = Pictures(), []
def file(n):
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000), (n, 0, 0)).save(buffer, "WEBP", method=0)
    return buffer.getvalue()
files = [file(n) for n in range(8)]
held.append(job.of(Picture, files[0]).image.size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
held += [job.of(Picture, data) for data in files]
[one.image.size for one in held[1:]]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_one_large_picture_at_a_time_is_in_memory() -> None:
    """Eight of 36 MB each, after one."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 75  # MiB more than for the first one


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children start too slowly without fork")
def test_real_processes_at_once_and_killed() -> None:
    """The benchmark with few rounds: it exits with 1 where anything is lost."""
    command = [sys.executable, "-m", "benchmarks.presets", "--presets", "0", "--writers", "3", "--kills", "12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 12 at random moments" in done.stdout
