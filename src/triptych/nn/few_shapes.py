"""Sizes that differ from batch to batch, rounded up so that a training meets few of them.

A CPU's bf16 products are compiled for their shape, and a batch has as many distinct items as it has: each step would
compile all of a module's products anew, there and back, which for a small module takes as long as the products.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 256
"""What is smaller stays as it is."""


def in_few_shapes(places: Tensor) -> Tensor:
    """Repeat the first of some places ``[n]`` up to a rounder number of them, by an eighth at most.

    What is worked out of the further ones is to be cut off again. Nothing is done where it would save nothing: on a
    GPU, and outside bf16.
    """
    count = len(places)
    if count < LEAST or places.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return places
    multiple = 1 << (count.bit_length() - 4)
    return torch.cat([places, places[:1].expand(-count % multiple)])
