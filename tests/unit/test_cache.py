import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lib_ipadapter.encode.cache import ByteCache, remembered_bytes
from tests.helpers.paths import ROOT

SMALL_PROMPTS = """
import torch
from benchmarks.bench.own_memory import own_memory
from lib_ipadapter.attend.prompt import KeysValues
from lib_ipadapter.encode.cache import ByteCache
from lib_ipadapter.jobs.prepare import Prepared

def prompt():
    layers = lambda: tuple(torch.zeros(2, 4, 2) for _ in range(16))
    return Prepared(KeysValues(layers(), layers()), torch.zeros(1, 4, 2), torch.zeros(1, 4, 2))

cache, before = ByteCache(2**30), own_memory()
for number in range(2000):
    prepared = prompt()
    cache.put(("keys and values", f"{number:064x}"), prepared, prepared.nbytes)
print(own_memory() - before, cache.nbytes)
"""


def test_drops_what_was_not_used_for_longest():
    cache = ByteCache(100)
    for key in "abc":
        cache.put(key, key.upper(), 30)
    assert cache.get("a") == "A"
    cache.put("d", "D", 30)
    assert [key for key in "abcd" if key in cache] == ["a", "c", "d"]
    assert cache.get("b") is None and cache.get("b", 7) == 7
    assert cache.nbytes == 90 and len(cache) == 3


def test_replacing_a_value_counts_it_once():
    cache = ByteCache(100)
    cache.put("a", 1, 60)
    cache.put("a", 2, 70)
    assert cache.get("a") == 2 and cache.nbytes == 70


def test_a_value_larger_than_the_limit_is_not_kept_and_evicts_nothing_else():
    cache = ByteCache(100)
    cache.put("a", 1, 60)
    cache.put("b", 2, 101)
    assert cache.get("a") == 1 and "b" not in cache
    cache.put("a", 3, 101)  # the old value must not survive under a key whose value is another now
    assert "a" not in cache and cache.nbytes == 0


def test_a_value_of_exactly_the_limit_is_kept():
    cache = ByteCache(100)
    cache.put("a", 1, 100)
    assert cache.get("a") == 1


def test_limit_0_is_off_even_for_values_without_size():
    cache = ByteCache(0)
    cache.put("a", 1, 0)
    assert "a" not in cache
    cache.limit = 10
    cache.put("a", 1, 0)
    assert cache.get("a") == 1
    cache.limit = 0
    assert "a" not in cache and cache.limit == 0


def test_a_lower_limit_takes_effect_at_once():
    cache = ByteCache(100)
    for key in range(10):
        cache.put(key, key, 10)
    cache.limit = 35
    assert [key for key in range(10) if key in cache] == [7, 8, 9] and cache.nbytes == 30


def test_clear_and_nonsense():
    cache = ByteCache(100)
    cache.put("a", 1, 10)
    cache.clear()
    assert cache.nbytes == 0 and "a" not in cache
    with pytest.raises(ValueError, match="-1 bytes"):
        cache.put("a", 1, -1)


def test_threads_leave_the_count_right():
    cache = ByteCache(500)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(2000):
            key = rng.randrange(40)
            if rng.random() < 0.5:
                cache.put(key, key, 10 + key)
            else:
                assert cache.get(key, key) == key
            assert cache.nbytes >= 0

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert cache.nbytes == sum(10 + key for key in range(40) if key in cache) <= 500


def test_what_is_remembered_takes_no_more_than_is_counted():
    """Most of what small embeddings take stands around their numbers."""
    done = subprocess.run([sys.executable, "-c", SMALL_PROMPTS], cwd=ROOT, capture_output=True, text=True, check=True)
    taken, counted = map(int, done.stdout.split())
    assert taken <= counted


def test_a_view_counts_for_all_that_it_keeps():
    whole = torch.zeros(1000)
    one, two = remembered_bytes([whole[:1]]), remembered_bytes([whole[:1], whole[1:2]])
    assert 4000 <= one <= two < 8000
