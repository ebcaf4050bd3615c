"""The recipe for real photos and titles with simulated shoppers."""

from __future__ import annotations

from triptych.recipes.config import Arm, RunConfig


def fashion() -> RunConfig:
    """Real fashion photos and titles (TRIPTYCH_DATA) with simulated shoppers; every control in the table."""
    tree = {
        "recipe": "fashion",
        "dataset": {"kind": "fashion"},
        "recall": {},
        "compare": [Arm.TITLE, Arm.PHOTO, Arm.PERMUTED_PHOTO],
        "seeds": [0, 1, 2],  # one seed is never evidence
    }
    return RunConfig.parse(tree)
