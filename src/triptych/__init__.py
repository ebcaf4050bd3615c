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


def load(path: str | Path) -> Engine:
    """Open a finished run for search, recommendation and updates.

    Args:
        path: the run folder, e.g. ``"runs/shop"``, or a bundle artefact inside it.

    Raises:
        ArtifactError: there is no finished run at `path`.
    """
    from triptych.engine import Engine  # imported here: `import triptych` stays light and without torch

    return Engine.open(path)
