"""A whole job without a WebUI: files and pictures in, hooks on, hooks off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ipadapter.attend.layers import Topology, cross_attention_layers
from lib_ipadapter.checkpoint import load
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.encode import clip_image as clip
from lib_ipadapter.errors import IPAdapterError, MismatchError
from lib_ipadapter.jobs.resources import Resources
from tests.helpers.files import base64_of, picture, unit, write_adapter, write_encoder
from tests.helpers.jobs import denoise, far, generation
from tests.helpers.tensors import close
from tests.helpers.unets import sd_unet, sdxl_unet


@pytest.fixture
def resources(catalog: Catalog) -> Resources:
    """New for each test: it counts what is read and encoded."""
    return Resources(catalog)


@pytest.mark.parametrize("kind", ["base", "plus", "full-face"])
def test_each_kind_of_adapter_acts_and_leaves(kind: str, unet, resources) -> None:
    plain = denoise(unet, None)
    job = generation(unet, resources, unit(kind))
    assert far(denoise(unet, job), plain)
    assert far(denoise(unet, job), denoise(unet, generation(unet, resources, unit(kind, (1,)))))
    assert torch.equal(denoise(unet, None), plain)


def test_two_half_units_are_one(unet, resources) -> None:
    whole = denoise(unet, generation(unet, resources, unit(weight=0.8)))
    halves = denoise(unet, generation(unet, resources, unit(weight=0.4), unit(weight=0.4)))
    assert close(whole, halves, 1e-5)


@pytest.mark.parametrize("combine", ["concat", "average"])
@pytest.mark.parametrize("kind", ["base", "plus"])
def test_two_equal_references_are_one(kind: str, combine: str, unet, resources) -> None:
    one = denoise(unet, generation(unet, resources, unit(kind)))
    two = denoise(unet, generation(unet, resources, unit(kind, (0, 0), combine=combine)))
    other = denoise(unet, generation(unet, resources, unit(kind, (0, 1), combine=combine)))
    assert close(one, two, 1e-5)
    assert far(one, other)


@pytest.mark.parametrize("combine", ["concat", "average"])
def test_the_weight_of_all_references_is_the_units(combine: str, unet, resources) -> None:
    pictures = [base64_of(picture(seed)) for seed in (0, 1)]
    weighted = [{"image": image, "weight": 0.5} for image in pictures]
    inside = generation(unet, resources, {"model": "base", "images": weighted, "combine": combine})
    outside = generation(unet, resources, {"model": "base", "images": pictures, "combine": combine, "weight": 0.5})
    assert close(denoise(unet, inside), denoise(unet, outside), 1e-5)
    silent = [{"image": image, "weight": 0} for image in pictures]
    zero = generation(unet, resources, {"model": "base", "images": silent, "combine": combine})
    assert close(denoise(unet, zero), denoise(unet, None), 1e-6)


def test_combine_modes_differ(unet, resources) -> None:
    joined = denoise(unet, generation(unet, resources, unit(seeds=(0, 1))))
    mean = denoise(unet, generation(unet, resources, unit(seeds=(0, 1), combine="average")))
    swapped = denoise(unet, generation(unet, resources, unit(seeds=(1, 0))))
    assert far(joined, mean)
    assert close(joined, swapped, 1e-5)


def test_per_image_batches_give_each_picture_its_own_reference(unet, resources) -> None:
    job = generation(unet, resources, unit(seeds=(0, 1), batch="per image"))
    both = denoise(unet, job, pictures=2)
    for i in range(2):
        same = denoise(unet, generation(unet, resources, unit(seeds=(i,))), pictures=2)
        assert close(both[[i, 2 + i]], same[[i, 2 + i]], 1e-5)
    next_batch = denoise(unet, job, pictures=2, first_picture=1)  # picture 1 of the job sees reference 1, picture 2 …
    assert close(next_batch[[1, 3]], denoise(unet, generation(unet, resources, unit()), pictures=2)[[1, 3]], 1e-5)
    assert far(next_batch, both)


def test_hires_chooses_the_pass(unet, resources) -> None:
    plain, acting = denoise(unet, None), denoise(unet, generation(unet, resources, unit()))
    for hires, base_acts, hires_acts in (("both", True, True), ("base", True, False), ("hires", False, True)):
        job = generation(unet, resources, unit(hires=hires))
        assert torch.equal(denoise(unet, job), acting if base_acts else plain)
        assert torch.equal(denoise(unet, job, hires_pass=True), acting if hires_acts else plain)


def test_weight_zero_is_checked_but_loads_nothing(unet, resources, monkeypatch) -> None:
    monkeypatch.setattr(load, "load_adapter", None)
    job = generation(unet, resources, unit(weight=0))
    assert torch.equal(denoise(unet, job), denoise(unet, None))
    with pytest.raises(IPAdapterError, match=r"unit 1: .*there-is-none"):
        generation(unet, resources, unit("there-is-none", weight=0))


def test_a_reference_is_encoded_once_and_an_adapter_read_once(unet, resources, monkeypatch) -> None:
    encoded, read = [], []
    encode, load_adapter = clip.ImageEncoder.encode, load.load_adapter
    monkeypatch.setattr(clip.ImageEncoder, "encode", lambda *a, **k: encoded.append(1) or encode(*a, **k))
    monkeypatch.setattr(load, "load_adapter", lambda *a, **k: read.append(1) or load_adapter(*a, **k))
    first = denoise(unet, generation(unet, resources, unit(seeds=(0, 1, 0))))
    assert (len(encoded), len(read)) == (2, 1)
    assert torch.equal(denoise(unet, generation(unet, resources, unit(seeds=(0, 1, 0)))), first)
    generation(unet, resources, unit(seeds=(1, 2)))
    generation(unet, resources, unit("other", (2,)), unit(seeds=(2,), weight=0.3))
    assert (len(encoded), len(read)) == (3, 2)
    resources.unload()
    assert torch.equal(denoise(unet, generation(unet, resources, unit(seeds=(0, 1, 0)))), first)
    assert (len(encoded), len(read)) == (5, 3)


def test_without_a_cache_everything_still_works(unet, resources) -> None:
    expected = denoise(unet, generation(unet, resources, unit("plus")))
    resources.cache.limit = 0
    assert torch.equal(denoise(unet, generation(unet, resources, unit("plus"))), expected)
    assert len(resources.cache) == 0


def test_a_changed_file_is_read_again(unet, tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder.safetensors")
    path = write_adapter(tmp_path / "base.safetensors", unet, seed=5)
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    resources = Resources(catalog)
    before = denoise(unet, generation(unet, resources, unit()))
    write_adapter(path, unet, seed=6)
    catalog.refresh()
    assert far(denoise(unet, generation(unet, resources, unit())), before)


def test_a_file_that_came_later_is_found(unet, tmp_path: Path) -> None:
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    resources = Resources(catalog)
    write_adapter(tmp_path / "sub" / "base.safetensors", unet)
    write_encoder(tmp_path / "encoder.safetensors")
    assert far(denoise(unet, generation(unet, resources, unit("BASE.safetensors"))), denoise(unet, None))


def test_progress_says_what_takes_time(unet, resources) -> None:
    said: list[str] = []
    generation(unet, resources, unit(seeds=(0, 1)), unit("plus", (2,)), progress=said.append)
    assert said == [
        "loading image encoder encoder", "encoding reference 1 of 3", "encoding reference 2 of 3",
        "loading adapter base", "loading image encoder encoder", "encoding reference 3 of 3", "loading adapter plus",
    ]  # fmt: skip
    said.clear()
    generation(unet, resources, unit(seeds=(0, 1)), progress=said.append)
    assert said == []


def test_nothing_random_is_drawn(unet, resources) -> None:
    before = torch.get_rng_state()
    generation(unet, resources, unit("plus"))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (unit("nothing-here"), "nothing-here"),
        (unit("faceid"), "face"),
        (unit(weight=9), "weight is 9"),
        ({"model": "base", "images": ["!"]}, "the reference: "),
        ({"model": "base", "images": [base64_of(picture()), "aGVsbG8="]}, r"images\[1\]: "),
    ],
)
def test_refusals_name_the_unit_and_load_nothing(settings: dict, says: str, unet, resources, monkeypatch) -> None:
    monkeypatch.setattr(load, "load_adapter", None)
    monkeypatch.setattr(load, "load_encoder_state", None)
    with pytest.raises(IPAdapterError, match=f"^IP-Adapter unit 2: .*{says}"):
        generation(unet, resources, unit(), settings)


def test_an_adapter_for_another_model_is_refused_with_what_would_fit(resources) -> None:
    with pytest.raises(IPAdapterError, match=r"base is for SD1.5, the model is SDXL: load a checkpoint for SD1.5"):
        generation(sdxl_unet(), resources, unit())
    with pytest.raises(IPAdapterError, match=r"is for SD1.5, the model is SD2.x"):
        generation(sd_unet(1024), resources, unit())


def test_the_fitting_adapters_are_named(tmp_path: Path, unet) -> None:
    other = sd_unet(1024)
    write_adapter(tmp_path / "small.safetensors", unet)
    write_adapter(tmp_path / "wide.safetensors", other)
    write_encoder(tmp_path / "encoder.safetensors")
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    with pytest.raises(IPAdapterError, match=r"adapter small is for SD1.5, the model is SD2.x: choose one of wide\."):
        generation(other, Resources(catalog), unit("small"))


def test_a_hires_checkpoint_that_does_not_fit_is_foreseen(unet, resources) -> None:
    xl = ("big.safetensors", Topology(2048, (640,) * 70))
    with pytest.raises(IPAdapterError, match=r"unit 1: .* the hires checkpoint big.safetensors is SDXL: set hires"):
        generation(unet, resources, unit(), hires_topology=xl)
    generation(unet, resources, unit(hires="base"), hires_topology=xl)
    generation(unet, resources, unit(acts_in="detailer"), hires_topology=xl)  # that pass is none of its own


def test_a_topology_stands_for_a_model_that_is_not_loaded_yet(unet, resources) -> None:
    topology = Topology.of(cross_attention_layers(unet))
    assert topology.blocks == 16
    made, expected = (generation(model, resources, unit(weight_type="style transfer")) for model in (topology, unet))
    assert made.topology == expected.topology
    (one,), (other,) = (job.prompts for job in (made, expected))
    assert one.prompt.spread == other.prompt.spread
    assert all(torch.equal(a, b) for a, b in zip(one.prompt.kv.keys, other.prompt.kv.keys, strict=True))


def test_some_units_of_a_generation(unet, resources) -> None:
    """Each has its own prompts in, and leaves the others' alone."""
    whole = generation(unet, resources, unit(), unit(weight=0.5), unit(weight=0.0))
    some = whole.only({2, 3})
    assert [one.number for one in some.prompts] == [2] and [plan.number for plan in some.plans] == [2, 3]
    assert [one.number for one in whole.prompts] == [1, 2]
    injection = some.attach(unet)
    assert injection is not None and [prompt.weight for prompt in injection.prompts] == [0.5]
    some.detach()
    assert whole.only(()).attach(unet) is None


def test_a_missing_encoder_is_named(tmp_path: Path, unet) -> None:
    write_adapter(tmp_path / "base.safetensors", unet)
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    with pytest.raises(IPAdapterError, match=r"unit 1: .*encoder"):
        generation(unet, Resources(catalog), unit())


def test_a_file_that_went_bad_is_named(tmp_path: Path, unet) -> None:
    path = write_adapter(tmp_path / "base.safetensors", unet)
    write_encoder(tmp_path / "encoder.safetensors")
    tensors = load_file(path)
    tensors["ip_adapter.5.to_v_ip.weight"][0, 0] = float("nan")
    save_file(tensors, path)
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    with pytest.raises(IPAdapterError, match=r"unit 1: base.safetensors cannot be used. .*ip_adapter.5.to_v_ip"):
        generation(unet, Resources(catalog), unit())
    path.unlink()
    with pytest.raises(IPAdapterError, match=r"unit 1: .*base"):
        generation(unet, Resources(catalog), unit())


def test_another_unet_of_the_job_is_served_if_it_fits(unet, resources) -> None:
    job = generation(unet, resources, unit())
    twin = sd_unet()
    job.attach(unet)
    assert torch.equal(denoise(twin, job), denoise(unet, job))
    with pytest.raises(MismatchError, match="70 cross-attention layers"):
        job.attach(sdxl_unet())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*unet.modules(), *twin.modules()))


def test_leaving_the_job_leaves_the_unet_clean(unet, resources) -> None:
    plain = denoise(unet, None)
    with pytest.raises(KeyError), generation(unet, resources, unit()) as job:
        job.attach(unet)
        raise KeyError
    assert torch.equal(denoise(unet, None), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_layers_and_file_agree(unet, resources) -> None:
    spec = resources.catalog.find("base").spec
    topology = Topology.of(cross_attention_layers(unet))
    assert (spec.context_width, spec.layer_widths) == (topology.context_width, topology.layer_widths)
