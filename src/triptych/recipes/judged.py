"""The recipe for a user's own judged queries."""

from __future__ import annotations

from triptych.data.splits import SplitBy
from triptych.recipes.config import RunConfig


def judged() -> RunConfig:
    """Your own judged queries without a log: search, learned from relevant pairs and measured by grades."""
    return RunConfig.parse({"recipe": "judged", "split": {"by": SplitBy.QUERY}})
