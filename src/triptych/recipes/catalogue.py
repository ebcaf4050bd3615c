"""The recipe for a user's own items without a log."""

from __future__ import annotations

from triptych.recipes.config import RunConfig


def catalogue() -> RunConfig:
    """Your own items without any log: found by words and by photo, learned from titles and photos alone."""
    return RunConfig.parse({"recipe": "catalogue", "pretrain": {"kind": "item_contrast"}, "compare": []})
