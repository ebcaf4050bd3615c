"""Learning rate by step."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple


class Schedule(StrEnum):
    """Shape of the learning rate after warm-up."""

    COSINE = "cosine"
    """Half a cosine from the peak down to 0 at the last step."""
    WSD = "wsd"
    """Warm-up, stable, decay: the peak is held, the last `decay_rate` of all steps fall in a line to 5 % of it."""


class Stretch(NamedTuple):
    """The part of a longer schedule that a run is."""

    before: int
    """Steps of the schedule before it."""
    total: int
    """Steps of the whole schedule."""


WSD_FLOOR_RATE = 0.05


def learning_rate_factor(step: int, *, schedule: Schedule, steps: int, warmup_steps: int, decay_rate: float) -> float:
    """Return the learning rate of a step as a share of the peak.

    Args:
        step: from 0.
        schedule: shape after warm-up.
        steps: of the whole run.
        warmup_steps: steps over which the rate rises in a line; step 0 already has ``1 / warmup_steps``.
        decay_rate: share of the steps that decay, for `Schedule.WSD`.

    Source of wsd: Hu et al., "MiniCPM", 2024, section 4.
    """
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if schedule is Schedule.COSINE:
        done = max(0, step - warmup_steps) / max(1, steps - warmup_steps)
        return warmup * 0.5 * (1.0 + math.cos(math.pi * done))
    decay_steps = decay_rate * steps
    left = (steps - step) / decay_steps if decay_steps else 1.0
    return warmup * (WSD_FLOOR_RATE + (1.0 - WSD_FLOOR_RATE) * min(1.0, left))
