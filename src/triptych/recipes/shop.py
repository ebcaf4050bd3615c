"""The recipe for a user's own tables."""

from __future__ import annotations

from triptych.recipes.config import RunConfig


def shop() -> RunConfig:
    """Your own tables and photos: name them in a config file (see README, "Your own data")."""
    return RunConfig()
