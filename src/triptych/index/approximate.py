"""Approximate search: a structure proposes candidates, their true scores decide.

What every approximate backend shares. The structure (inverted lists, a graph) looks at few items and proposes more than
are wanted; the proposed are scored like the exact index scores: float64 inner product with the stored vector, ties by
item row. So an approximate index may miss an item, and never misjudges one.

A structure covers the rows it was built over and is never changed. Rows added since are a tail that is searched
exactly; rows removed are masked. Both cost: the tail what exact search over so many rows costs, removed rows the places
they take in the structure. Build anew (`triptych run` with the new items table) when the tail is a few percent
of the items, when a tenth of them is removed, or when what is sold has changed so much that the structure, learned from
the old items, no longer divides the new ones (`triptych index sweep` shows the recall).

Source: filter and refine, as faiss's ``IndexRefineFlat``; what differs is that the refining scores are exact and do not
depend on the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.foundation.progress import Progress
from triptych.foundation.types import Hits
from triptych.index.base import IndexConfig
from triptych.index.stored import COPY_ROWS, NumberFormat, StoredVectors, read_meta, require_files
from triptych.index.top_k import QUERY_BLOCK, Arithmetic, exact_top_k, rescored_top_k

EQUAL_PLACES = 16
"""Candidates beyond those wanted, so that items equal to the last one are there to be told apart by their rows."""


class Structure(Protocol):
    """Proposes rows among the first `num_rows`; immutable, and read by several threads at once."""

    @property
    def num_rows(self) -> int:
        """Rows it was built over."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes it takes beside the stored vectors."""
        ...

    def propose(
        self, queries: NDArray[np.float32], *, places: int, kept: NDArray[np.bool_] | None, widening: float
    ) -> NDArray[np.int64]:
        """Return rows that are probably near, in any order, those of one query distinct.

        Args:
            queries: ``[n, dim]``.
            places: rows wanted per query.
            kept: ``[num_rows]``, which may be proposed; None for all.
            widening: by how much more it has to look at, because so few are kept; at least 1.

        Returns:
            ``[n, places]``, padded with -1; a query's rows do not depend on the other queries.
        """
        ...

    def tuned(self, config: Any) -> Self:
        """Return the same structure searched by another config."""
        ...

    def write(self, path: Path) -> None:
        """Write it into a file."""
        ...


class ApproximateConfig(IndexConfig):
    """What every approximate index is told."""

    stored_as: NumberFormat = NumberFormat.FLOAT16
    """How the vectors that decide are stored: float16 (2 bytes a number) or float32 (4)."""
    arithmetic: Arithmetic = Arithmetic.AUTO
    """What exact parts multiply in: the tail, and searches under a narrow filter."""
    exact_below_rate: float = Field(0.1, ge=0, le=1)
    """A filter that keeps at most this share of the items is searched exactly over what it keeps: that misses nothing,
    and is faster than looking for few items everywhere."""

    search_fields: ClassVar[frozenset[str]] = frozenset({"arithmetic", "exact_below_rate", "refine"})
    """What may change without building anew."""
    structure_file: ClassVar[str] = "structure.faiss"
    """Name of the file that `Structure.write` is given, in the folder of the index."""

    @property
    @abstractmethod
    def candidates_per_place(self) -> int:
        """Rows proposed for each place wanted."""

    @abstractmethod
    def organise(self, stored: StoredVectors) -> Structure | None:
        """Build the structure over all rows; None where there are too few to be organised."""

    @abstractmethod
    def open_structure(self, path: Path) -> Structure:
        """Read what `Structure.write` wrote."""

    def build(self, vectors: NDArray[Any]) -> ApproximateIndex:
        """Index vectors ``[items, dim]`` held in memory.

        Raises:
            DataError: the array is no matrix, or holds NaN, infinities or numbers too large for the format.
            ConfigError: a setting does not go with these vectors.
        """
        stored = StoredVectors.of(vectors, number_format=self.stored_as)
        return ApproximateIndex(_State(stored, self.organise(stored)), config=self)

    def open_saved(self, folder: Path) -> ApproximateIndex:
        """Open what `ApproximateIndex.save` wrote: vectors memory-mapped, the structure in memory."""
        return ApproximateIndex.load(folder, config_class=type(self))


class _State(NamedTuple):
    """All of an index at one moment; replaced in one step, never changed."""

    stored: StoredVectors
    structure: Structure | None
    """Of the first rows; those behind are the tail."""

    @property
    def num_organised(self) -> int:
        return 0 if self.structure is None else self.structure.num_rows


class ApproximateIndex:
    """Approximate search; see `triptych.index.base.Index` for each method's meaning."""

    def __init__(self, state: _State, *, config: ApproximateConfig) -> None:
        """Wrap a state; use `ApproximateConfig.build` or `load`."""
        self._state = state
        self._config = config

    @property
    def config(self) -> ApproximateConfig:
        """What it was built by, and is searched by."""
        return self._config

    @property
    def num_rows(self) -> int:
        """Item rows, those of removed items included."""
        return self._state.stored.num_rows

    @property
    def num_tail_rows(self) -> int:
        """Rows added since the structure was built, searched exactly."""
        return self._state.stored.num_rows - self._state.num_organised

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._state.stored.dim

    @property
    def memory_bytes(self) -> int:
        """Bytes of vectors and structure."""
        stored, structure = self._state
        return stored.memory_bytes + (0 if structure is None else structure.memory_bytes)

    def search(self, vectors: NDArray[np.float32], *, k: int, keep: NDArray[np.bool_] | None = None) -> Hits:
        """Return k items of large inner product for each vector.

        A filter that keeps little, or hardly more than is wanted, is searched exactly over the kept rows. So is a query
        for which fewer items are proposed than wanted and kept: places stay empty only where no item is left.

        Args:
            vectors: ``[n, dim]``, finite.
            k: places per vector, at least 1.
            keep: ``[num_rows]``, which items may be returned.

        Returns:
            ``[n, k]``; a score is the float64 inner product with the stored vector, rounded to float32.

        Raises:
            DataError: wrong shape, NaN or infinite numbers, or k < 1.
        """
        state = self._state
        queries, kept = state.stored.checked(vectors, k=k), state.stored.kept(keep)
        hits = Hits.empty(len(queries), k)
        for start in range(0, len(queries), QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            hits.item_rows[part], hits.scores[part] = self._search(state, queries[part], k=k, kept=kept)
        return hits

    def _search(self, state: _State, queries: NDArray[np.float32], *, k: int, kept: NDArray[np.bool_] | None) -> Hits:
        stored, structure = state
        num_kept = stored.num_rows if kept is None else int(np.count_nonzero(kept))
        places = k * self._config.candidates_per_place + EQUAL_PLACES
        is_narrow = kept is not None and num_kept <= self._config.exact_below_rate * stored.num_rows
        if structure is None or is_narrow or num_kept <= places:
            return self._exact(stored, queries, k=k, rows=None if kept is None else np.flatnonzero(kept))
        organised = structure.num_rows
        own = None if kept is None or kept[:organised].all() else kept[:organised]
        num_own = organised if own is None else int(np.count_nonzero(own))
        candidates = np.empty((len(queries), 0), np.int64)
        if num_own:
            candidates = structure.propose(queries, places=min(places, num_own), kept=own, widening=organised / num_own)
        is_short = np.count_nonzero(candidates >= 0, axis=1) < min(k, num_own)  # whatever the tail has beside them
        tail = np.arange(organised, stored.num_rows) if kept is None else organised + np.flatnonzero(kept[organised:])
        if len(tail):
            found = self._exact(stored, queries, k=min(k, len(tail)), rows=tail)
            candidates = np.concatenate([candidates, found.item_rows], axis=1)
        hits = rescored_top_k(stored.store(), queries, candidates=candidates, k=k)
        short = np.flatnonzero(is_short)
        if len(short):
            rows = None if kept is None else np.flatnonzero(kept)
            hits.item_rows[short], hits.scores[short] = self._exact(stored, queries[short], k=k, rows=rows)
        return hits

    def _exact(
        self, stored: StoredVectors, queries: NDArray[np.float32], *, k: int, rows: NDArray[np.int64] | None
    ) -> Hits:
        return exact_top_k(stored.store(), queries, k=k, kept=rows, arithmetic=self._config.arithmetic)

    def vectors(self, item_rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored vectors as float32 ``[n, dim]``."""
        return self._state.stored.take(item_rows)

    def add(self, vectors: NDArray[Any]) -> NDArray[np.int64]:
        """Append vectors ``[n, dim]`` to the tail and return their rows; see this module for when to build anew.

        Raises:
            DataError: wrong shape, NaN, infinities or numbers too large for the format.
        """
        before = self._state
        self._state = before._replace(stored=before.stored.appended(vectors))
        return np.arange(before.stored.num_rows, self._state.stored.num_rows, dtype=np.int64)

    def remove(self, item_rows: NDArray[Any]) -> None:
        """Never return these rows again; they keep their places in the structure until it is built anew.

        Raises:
            DataError: there is no such row.
        """
        self._state = self._state._replace(stored=self._state.stored.without(item_rows))

    def copy(self) -> Self:
        """Return an index that shares vectors and structure and can be changed on its own."""
        return type(self)(self._state, config=self._config)

    def tuned(self, **settings: Any) -> Self:
        """Return an index that shares vectors and structure, searched by other settings, as a sweep wants it.

        Args:
            settings: fields of the config that do not decide how the structure is built.

        Raises:
            ConfigError: there is no such field, or it would need another structure.
        """
        config = type(self._config).parse({**self._config.dump(), **settings})
        fixed = sorted(set(settings) - config.search_fields)
        if fixed:
            raise ConfigError(f"index.{fixed[0]} decides how the index is built; build it anew with that setting.")
        stored, structure = self._state
        return type(self)(_State(stored, None if structure is None else structure.tuned(config)), config=config)

    def save(self, folder: Path) -> None:
        """Write the files of the vectors and that of the structure; may be the folder it was loaded from."""
        stored, structure = self._state
        folder.mkdir(parents=True, exist_ok=True)
        if structure is not None:
            structure.write(folder / self._config.structure_file)
        stored.write(folder, about={"config": self._config.dump(), "organised_rows": self._state.num_organised})

    @classmethod
    def load(cls, folder: Path, *, config_class: type[ApproximateConfig]) -> Self:
        """Open what `save` wrote.

        Args:
            folder: where it is.
            config_class: of the backend that wrote it.

        Raises:
            ArtifactError: files are absent, or do not belong together.
        """
        meta = read_meta(folder)
        config = config_class.parse(meta["config"])
        stored = StoredVectors.open(folder)
        if not meta["organised_rows"]:
            return cls(_State(stored, None), config=config)
        require_files(folder, config.structure_file)
        structure = config.open_structure(folder / config.structure_file)
        if structure.num_rows != meta["organised_rows"]:
            raise ArtifactError(
                f"Index folder {str(folder)!r}: {config.structure_file} covers {structure.num_rows} rows, index.json "
                f"says {meta['organised_rows']}. Build the index again: triptych run."
            )
        return cls(_State(stored, structure), config=config)


def float32_blocks(stored: StoredVectors, *, label: str) -> Iterator[NDArray[np.float32]]:
    """Yield all vectors as float32 ``[rows, dim]``, block by block, with a progress bar where there are many.

    Args:
        stored: the vectors.
        label: in front of the bar.
    """
    starts = range(0, stored.num_rows, COPY_ROWS)
    if len(starts) <= 1:
        yield from (stored.take(np.arange(stored.num_rows)) for _ in starts)
        return
    with Progress(label, total=stored.num_rows, unit="item") as bar:
        for start in starts:
            block = stored.take(np.arange(start, min(start + COPY_ROWS, stored.num_rows)))
            yield block
            bar.advance(len(block))
