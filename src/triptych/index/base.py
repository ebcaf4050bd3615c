"""The index protocol: item vectors in, nearest items out; rows come and go while it serves.

An exact index returns the nearest. An approximate one may miss some of them; what it returns has the exact index's
scores and order, so that the two can be exchanged and compared.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.foundation.config import Config
from triptych.foundation.registry import config_class
from triptych.foundation.types import Hits

BACKENDS = "triptych.index.backends"


class IndexConfig(Config):
    """Base of every index config: makes the index, and opens it again."""

    kind: str
    """Which index: a file of `triptych.index.backends`."""

    @classmethod
    def grid(cls, num_items: int) -> Sequence[Trial]:
        """Return what a sweep over so many items tries: this kind as it is by default, where nothing else is said.

        The first trial is built by default, and its first search changes nothing: every sweep measures the default.
        """
        del num_items
        return [Trial(cls.parse({}), [{}])]

    @abstractmethod
    def build(self, vectors: NDArray[Any]) -> Index:
        """Index vectors ``[items, dim]`` held in memory, one per item row."""

    @abstractmethod
    def open_saved(self, folder: Path) -> Index:
        """Open what `Index.save` wrote."""


class Trial(NamedTuple):
    """An index that a sweep builds."""

    config: IndexConfig
    searches: Sequence[Mapping[str, Any]]
    """Settings by which it is searched in turn, each fields of the config that need no other build."""


class Index(Protocol):
    """Item vectors by item row, searched by inner product.

    A reader never sees half a change: `add` and `remove` replace the state in one step, and a search works on the
    state it started with. Two writers at a time must be kept apart by the caller.
    """

    @property
    def config(self) -> IndexConfig:
        """What it searches by; where a rule chose (kind ``auto``), that of what was chosen."""
        ...

    @property
    def num_rows(self) -> int:
        """Item rows, those of removed items included: the row that `add` gives next."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes the index takes, on disk and mapped or in memory."""
        ...

    def search(self, vectors: NDArray[np.float32], *, k: int, keep: NDArray[np.bool_] | None = None) -> Hits:
        """Return the items of largest inner product; the same for a vector, whatever it is asked together with.

        Args:
            vectors: ``[n, dim]``, finite.
            k: places per vector; may exceed the number of items.
            keep: ``[num_rows]``, which items may be returned; None for all.

        Returns:
            ``[n, k]``, equal scores by item row, padded with -1 and -inf.
        """
        ...

    def vectors(self, item_rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored vectors ``[n, dim]``."""
        ...

    def add(self, vectors: NDArray[Any]) -> NDArray[np.int64]:
        """Append vectors ``[n, dim]`` and return their item rows."""
        ...

    def remove(self, item_rows: NDArray[Any]) -> None:
        """Never return these items again; the other rows keep their numbers."""
        ...

    def copy(self) -> Self:
        """Return an index that shares the stored vectors and can be changed on its own."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index into a folder."""
        ...


def open_index(artifact: Artifact) -> Index:
    """Open an index artefact with the backend that wrote it.

    Raises:
        ArtifactError: files are absent, or do not belong together.
        ConfigError: this installation has no such backend.
    """
    config = config_class(BACKENDS, artifact.config["kind"]).parse(artifact.config)
    assert isinstance(config, IndexConfig)
    return config.open_saved(artifact.path)
