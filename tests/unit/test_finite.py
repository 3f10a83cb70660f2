"""Numbers that are not finite are told from their bits, as torch tells them one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_ipadapter.checkpoint.finite import is_finite

PATTERNS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float8_e5m2: torch.int8,
    torch.float8_e4m3fn: torch.int8,
}


@pytest.mark.parametrize("dtype", PATTERNS, ids=str)
def test_every_pattern_of_bits_is_told_as_torch_tells_it(dtype: torch.dtype) -> None:
    whole = PATTERNS[dtype]
    limits = torch.iinfo(whole)
    bits = torch.arange(limits.min, limits.max + 1, dtype=torch.int64).to(whole)
    numbers = bits.view(dtype)
    finite = torch.isfinite(numbers.float())
    assert not is_finite(numbers)
    assert is_finite(bits[finite].view(dtype))
    told = [is_finite(torch.cat([bits[finite][:3], bit[None]]).view(dtype)) for bit in bits[~finite]]
    assert told and not any(told)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 32), (torch.float64, 64)])
@given(data=st.data())
def test_wide_numbers_are_told_as_torch_tells_them(dtype: torch.dtype, width: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.floats(width=width), min_size=1, max_size=4))
    tensor = torch.tensor(numbers, dtype=dtype)
    assert is_finite(tensor) == bool(torch.isfinite(tensor).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_whose_sum_is_too_large_are_finite(dtype: torch.dtype) -> None:
    large = torch.full((5,), torch.finfo(dtype).max, dtype=dtype)
    assert not torch.isfinite(large.sum()) and is_finite(large)
    assert not is_finite(torch.tensor([float("inf"), -float("inf")], dtype=dtype))


def test_views_and_nothing_at_all_are_told_too() -> None:
    whole = torch.zeros(4, 4, dtype=torch.float16)
    whole[1, 1] = float("nan")
    assert not is_finite(whole.t()) and is_finite(whole[::2, ::2]) and not is_finite(whole[1::2, 1::2])
    assert is_finite(torch.zeros(0, 3)) and is_finite(torch.tensor(1.0)) and not is_finite(torch.tensor(float("inf")))
    assert is_finite(torch.nn.Parameter(torch.ones(2)))
