"""The recipe for real photos and titles with simulated shoppers."""

from __future__ import annotations

from triptych.recipes.config import Arm, RunConfig

STAGED = {
    "kind": "multitask",
    "stages": "o1",
    "encoder": {"kind": "late_fusion"},
    "cell_rate": 0.5,
    "photo_dropout_rate": 0.15,
    "loop": {"learning_rate": 0.002},
}
"""As in `triptych reproduce smgr --part pretraining`, where trials have chosen the rate."""


def fashion() -> RunConfig:
    """Real fashion photos and titles (TRIPTYCH_DATA) with simulated shoppers; every control in the table.

    SMGR's stages stand beside the contrast, with as many steps and items; validation chooses which of them is served.
    """
    tree = {
        "recipe": "fashion",
        "dataset": {"kind": "fashion"},
        "recall": {},
        "compare": [Arm.TITLE, Arm.PHOTO, Arm.PERMUTED_PHOTO],
        "beside": {"staged": STAGED},
        "serve": "validation",
        "seeds": [0, 1, 2],  # one seed is never evidence
    }
    return RunConfig.parse(tree)
