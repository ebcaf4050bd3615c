"""16-bit storage that still learns: rounding up or down by chance.

A step of training changes a weight by a thousandth of it or less. bfloat16 tells numbers apart by 1/256 of their size,
so rounding to the nearest takes such a step back, every time, and the weight stands still. Rounded up with the
probability that the remainder has, the weight is right on average (Gupta et al., 2015, "Deep Learning with Limited
Numerical Precision", section 3).
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

_HALF_STEP = 2.0**-24
"""What float16 tells apart below `_HALF_NORMAL`."""
_HALF_NORMAL = 2.0**-14


class StoredAs(StrEnum):
    """Number format in which a table is kept; arithmetic is in float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    """As wide a range as float32, 8 bits of precision."""
    FLOAT16 = "float16"
    """11 bits of precision, numbers up to 65504."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of torch."""
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.value]


def store(values: Tensor, *, to: Tensor, rows: Tensor, generator: torch.Generator) -> None:
    """Write rows, rounded by chance where the target has 16 bits.

    Args:
        values: float32 ``[rows, ...]``.
        to: the target, changed in place.
        rows: int64 ``[rows]``, each once.
        generator: on the target's device; a float32 target draws nothing.
    """
    if to.dtype != torch.float32:
        values = round_by_chance(values, dtype=to.dtype, generator=generator)
    to.index_copy_(0, rows, values)


def round_by_chance(values: Tensor, *, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Round float32 to one of the two nearest numbers of a 16-bit type, so that the mean is the value.

    Numbers that the type has stay as they are.
    """
    noise = _noise(values, generator=generator)
    if dtype == torch.bfloat16:
        return _carried(values, noise, dropped_bits=16).to(dtype)
    assert dtype == torch.float16
    normal = _carried(values, noise & 0x1FFF, dropped_bits=13)
    small = torch.floor(values / _HALF_STEP + noise / 65_536) * _HALF_STEP
    return torch.where(values.abs() < _HALF_NORMAL, small, normal).to(dtype)


def _carried(values: Tensor, noise: Tensor, *, dropped_bits: int) -> Tensor:
    """Add noise to the bits that will be dropped, and drop them: what is carried over rounds up."""
    bits = (values.contiguous().view(torch.int32) + noise).bitwise_and_(-1 << dropped_bits)
    return bits.view(torch.float32)


def _noise(like: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw int32 from 0 to 65535; four come from one number of 64 bits, which is what drawing costs."""
    count = like.numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device)
    drawn.random_(-(2**63), None, generator=generator)
    return drawn.view(torch.int16)[:count].view(like.shape).to(torch.int32).bitwise_and_(0xFFFF)
