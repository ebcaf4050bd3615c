"""The recipe behind ``make demo``."""

from __future__ import annotations

from triptych.recipes.config import Arm, RunConfig


def demo() -> RunConfig:
    """A generated shop with simulated shoppers, small enough for six minutes on two cores."""
    tree = {
        "recipe": "demo",
        "dataset": {"kind": "generated_shop"},
        "pretrain": {"kind": "contrastive", "loop": {"steps": 300, "warmup_steps": 30, "validate_every": 100}},
        "recall": {},
        "semantic_ids": {"quantizer": {"kind": "residual_kmeans", "codes": 64}},
        "compare": [Arm.TITLE],
    }
    return RunConfig.parse(tree)
