"""The exception tree.

::

    TriptychError          anything a user can cause or mend; the CLI prints it as one sentence
    ├── ConfigError        a setting: dotted path, nearest valid name
    ├── DataError          a table or photo: table, column, first bad rows, count
    ├── ArtifactError      a stored result: absent, incomplete, damaged, or made from something else
    ├── MissingExtra       an optional library that is not installed: the command that installs it
    └── EngineError        a request that cannot be answered

A message says what is wrong, where, and what to do. Any other exception is a defect of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TriptychError(Exception):
    """Base of every error a user can cause or mend."""


class ConfigError(TriptychError):
    """A setting that is unknown, of the wrong type, out of range or without effect."""


class DataError(TriptychError):
    """A table, column, row or photo that cannot be used."""


class ArtifactError(TriptychError):
    """A stored artefact that is absent, incomplete, damaged, or does not belong to its neighbours."""


class MissingExtra(TriptychError):
    """An optional library is needed and not installed."""

    def __init__(self, feature: str, *, extra: str) -> None:
        """Say which feature needs which extra.

        Args:
            feature: what the user asked for, e.g. ``"the HTTP service"``.
            extra: the extra that brings it, e.g. ``"serve"``.
        """
        super().__init__(
            f"{feature} needs the '{extra}' extra, which is not installed. Run: pip install 'triptych[{extra}]'"
        )


class EngineError(TriptychError):
    """A search, recommendation or update request that cannot be answered."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return a hint with the nearest valid name, to be appended to a sentence.

    Args:
        word: what the user wrote.
        options: the valid names.

    Returns:
        ``" Did you mean 'x'?"`` (with its leading space), or ``""`` where nothing is near.
    """
    names = [str(option) for option in options]
    lowered = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean '{lowered[near[0]]}'?" if near else ""
