"""The recipe for a user's own log without queries: a ranked feed."""

from __future__ import annotations

from triptych.data.splits import SplitBy
from triptych.recipes.config import RunConfig


def feed() -> RunConfig:
    """Your own users without queries: a feed, learned from what they chose one after another."""
    tree = {"recipe": "feed", "split": {"by": SplitBy.FRACTION}, "pretrain": {"kind": "history_contrast"}}
    return RunConfig.parse(tree)
