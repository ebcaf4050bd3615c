"""Semantic IDs on the shelf: the codes of every item, those added at run time included, and the tree they make.

Who shares how many codes with an item; what follows a prefix, and which items stand for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import EngineError
from triptych.index.base import Index
from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.stored import SemanticIds

LOOKED_AT = 256
"""Items of a branch that are looked at to find those that stand for it."""
_BLOCK = 4096
"""Vectors held at a time."""


class PrefixError(EngineError):
    """No item's semantic ID begins with such codes."""


class Branch(NamedTuple):
    """The items whose ID goes on with one code."""

    code: int
    item_rows: NDArray[np.int64]


class CodePaths:
    """Codes by item row, and the frozen quantiser that gives new items theirs. Replaced, never changed."""

    def __init__(self, codes: NDArray[np.integer], *, quantizer: Quantizer) -> None:
        """Keep codes ``[items, levels]``, -1 at every level of an item that has no ID; use `open`."""
        self._codes = codes
        self._quantizer = quantizer

    @classmethod
    def open(cls, artifact: Artifact) -> Self:
        """Open a ``semantic_ids`` artefact. What tells items of equal codes apart says nothing of them, and is left."""
        ids = SemanticIds.open(artifact)
        codes: NDArray[np.integer] = np.asarray(ids.codes)[:, : ids.quantizer.levels]
        if ids.there is not None:
            codes = np.where(ids.there[:, None], codes.astype(np.int32), -1)
        return cls(codes, quantizer=ids.quantizer)

    def with_items(self, codes: NDArray[np.int32]) -> CodePaths:
        """Append items by their codes ``[n, levels]``, as `code_sets.CodeSets` chooses them."""
        own = codes if (codes < 0).any() else codes.astype(self._codes.dtype)
        return CodePaths(np.concatenate([self._codes, own]), quantizer=self._quantizer)

    def of(self, row: int) -> list[int]:
        """Return an item's codes, the coarsest first; none where it has no ID."""
        return [int(code) for code in self._codes[row] if code >= 0]

    def shared(self, row: int) -> NDArray[np.int64]:
        """Return how many codes each item has in common with one, counted from the first: ``[items]``."""
        alike: NDArray[np.bool_] = self._codes == self._codes[row]
        shared: NDArray[np.int64] = np.logical_and.accumulate(alike, axis=1).sum(axis=1)
        return shared

    @property
    def levels(self) -> int:
        """Codes of a whole ID."""
        return self._quantizer.levels

    @property
    def num_codes(self) -> int:
        """Codes to choose from at each level."""
        return self._quantizer.num_codes

    def below(self, prefix: Sequence[int], *, live: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the items whose IDs begin with some codes, by row.

        Args:
            prefix: codes, the coarsest first; none: all items.
            live: ``[items]``, which items are there.

        Raises:
            EngineError: an ID has fewer codes.
            PrefixError: there is none.
        """
        if len(prefix) > self.levels:
            raise EngineError(
                f"{dotted(prefix)} has {len(prefix)} codes; a semantic ID of this shop has {self.levels}."
            )
        rows = np.flatnonzero(live & (self._codes[:, 0] >= 0))
        for depth, code in enumerate(prefix):
            left = rows[self._codes[rows, depth] == code]
            if not len(left):
                there = f"; the longest part that there is: {dotted(prefix[:depth])}" if depth else ""
                raise PrefixError(f"No item's semantic ID begins with {dotted(prefix)}{there}.")
            rows = left
        return rows

    def branches(self, rows: NDArray[np.int64], *, depth: int) -> list[Branch]:
        """Part items by their code behind the first ``depth``: the most items first, of equal ones the lower code."""
        codes = self._codes[rows, depth]
        by_code = rows[np.argsort(codes, kind="stable")]
        sizes = np.bincount(codes)
        ends = np.cumsum(sizes)
        order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)].tolist()
        return [Branch(code, by_code[ends[code] - sizes[code] : ends[code]]) for code in order]


def dotted(codes: Sequence[int]) -> str:
    """Write codes as they stand in addresses: ``12.7``."""
    return ".".join(map(str, codes))


def nearest_to_centre(
    rows: NDArray[np.int64], *, index: Index, most: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Order items by how near they are to the mean of their vectors.

    The mean is that of the items that are there now. A sum of codebook vectors would be that of the items the codebooks
    were learned from, and of quantisers whose first codes alone stand for nothing there would be none.

    Args:
        rows: item rows ``[n]``, at least one.
        index: has their vectors.
        most: items that are looked at; of more, so many are taken at equal distances. None: all.

    Returns:
        ``[looked at]`` each: item rows, and the cosine of each with the mean, the largest first, of equal ones the
        lower row.
    """
    if most is not None and len(rows) > most:
        rows = rows[np.arange(most) * len(rows) // most]
    centre = sum(block.sum(axis=0, dtype=np.float64) for block in _vectors(rows, index=index))
    unit = (centre / max(float(np.linalg.norm(centre)), 1e-12)).astype(np.float32)
    cosines = np.concatenate(
        [block @ unit / np.maximum(np.linalg.norm(block, axis=1), 1e-12) for block in _vectors(rows, index=index)]
    )
    order = np.argsort(-cosines, kind="stable")
    return rows[order], np.minimum(cosines[order], 1.0)  # float32 ends a hair above


def _vectors(rows: NDArray[np.int64], *, index: Index) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(rows), _BLOCK):
        yield index.vectors(rows[start : start + _BLOCK])
