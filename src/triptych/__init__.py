"""Triptych: from a catalogue with photos and a click log to a search page and a ranked feed.

Example:
    >>> import triptych
    >>> shop = triptych.load("runs/shop")          # doctest: +SKIP
    >>> shop.search("white dress", k=10)           # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triptych.engine import Engine

__all__ = ["load"]


def load(path: str | Path, *, journal: str | Path | None = None, carry_over: bool = False) -> Engine:
    """Open a finished run for search, recommendation and updates.

    Args:
        path: the run folder, e.g. ``"runs/shop"``, or a bundle artefact inside it.
        journal: a folder in which updates are kept; None: they end with the engine.
        carry_over: the journal may be of an earlier catalogue; see `Engine.open`.

    Raises:
        ArtifactError: there is no finished run at `path`, or the journal cannot be used.
        EngineError: there is no journal to carry over.
    """
    from triptych.engine import Engine  # imported here: `import triptych` stays light and without torch

    return Engine.open(path, journal=journal, carry_over=carry_over)
