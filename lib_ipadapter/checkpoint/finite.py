"""Whether all numbers of a tensor are finite, told from their sum, or from their bits: asking each takes some ten times
as long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# By torch's name of a dtype: the whole numbers of the same size, and the least bits, their sign aside, that are no
# finite number. Bits grow with the number that they stand for, and those of infinity and NaN come last.
_LEAST = {
    "float64": ("int64", 0x7FF0 << 48),
    "float32": ("int32", 0x7F80 << 16),
    "float16": ("int16", 0x7C00),
    "bfloat16": ("int16", 0x7F80),
    "float8_e5m2": ("int8", 0x7C),
    "float8_e4m3fn": ("int8", 0x7F),
}


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor on the CPU holds neither NaN nor infinities."""
    import torch

    if not tensor.numel():
        return True
    # A sum with NaN or an infinity in it is never finite. One of numbers alone may be too large: their bits tell then.
    if tensor.dtype in (torch.float32, torch.float64) and bool(torch.isfinite(tensor.sum())):
        return True
    known = _LEAST.get(str(tensor.dtype).removeprefix("torch."))
    if known is None:
        return bool(torch.isfinite(tensor.float()).all())
    whole, least = known
    bits = tensor.detach().view(getattr(torch, whole)).numpy()
    sign = 1 << (8 * tensor.element_size() - 1)
    # As signed numbers the positive ones are the largest, as unsigned numbers the negative ones are.
    return int(bits.max()) < least and int(bits.view(f"u{whole}").max()) < sign + least
