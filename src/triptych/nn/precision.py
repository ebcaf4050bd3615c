"""Where a model runs and in which numbers: device, and bf16 autocast where the hardware gains by it.

Weights, losses and softmax over candidates stay in float32; only the matrix products of a forward pass drop to
bfloat16. On a CPU with ``avx512_bf16`` or AMX that is 2 to 3 times faster than float32; on one without, bfloat16 is
emulated and slower, so `Precision.AUTO` keeps float32 there.
"""

from __future__ import annotations

from enum import StrEnum

import torch

from triptych.foundation.errors import ConfigError


class Precision(StrEnum):
    """Number format of the matrix products."""

    AUTO = "auto"
    """bf16 where the device has instructions for it, else fp32."""
    BF16 = "bf16"
    FP32 = "fp32"


def find_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device; ``auto`` takes a GPU if there is one.

    Raises:
        ConfigError: the device is asked for by name and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: '{name}' was asked for, but torch sees no GPU. Use 'auto' or 'cpu'.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: '{name}' is no device. Use 'auto', 'cpu' or 'cuda'.") from None


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether bfloat16 products are faster than float32 ones on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        # torch has no public name for the instruction set yet; absent ones count as "no".
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(bool(getattr(torch.cpu, probe, bool)()) for probe in probes)
    return False


def uses_bf16(precision: Precision, *, device: torch.device) -> bool:
    """Resolve ``auto`` for a device."""
    return precision is Precision.BF16 or (precision is Precision.AUTO and has_fast_bf16(device))


def autocast(precision: Precision, *, device: torch.device) -> torch.autocast:
    """Return the context in which a forward pass runs at this precision, whatever context is around it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(precision, device=device))
