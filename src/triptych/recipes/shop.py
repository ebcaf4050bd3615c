"""The recipe for a user's own log of searches."""

from __future__ import annotations

from triptych.recall.config import RecallTrainConfig
from triptych.recipes.config import RunConfig


def shop() -> RunConfig:
    """Your own log of searches and clicks (docs/data.md); for tables of other kinds: feed, judged, catalogue."""
    return RunConfig(recall=RecallTrainConfig())
