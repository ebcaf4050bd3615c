"""Semantic IDs on the shelf: the codes of every item, those added at run time included, and who shares how many."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.stored import SemanticIds


class CodePaths:
    """Codes by item row, and the frozen quantiser that gives new items theirs. Replaced, never changed."""

    def __init__(self, codes: NDArray[np.uint16], *, quantizer: Quantizer) -> None:
        """Keep codes ``[items, levels]``; use `open`."""
        self._codes = codes
        self._quantizer = quantizer

    @classmethod
    def open(cls, artifact: Artifact) -> Self:
        """Open a ``semantic_ids`` artefact. What tells items of equal codes apart says nothing of them, and is left."""
        ids = SemanticIds.open(artifact)
        return cls(np.asarray(ids.codes)[:, : ids.quantizer.levels], quantizer=ids.quantizer)

    def with_items(self, vectors: NDArray[np.float32]) -> CodePaths:
        """Append items by the encoder's vectors ``[n, dim]`` of them."""
        return CodePaths(np.concatenate([self._codes, self._quantizer.assign(vectors)]), quantizer=self._quantizer)

    def of(self, row: int) -> list[int]:
        """Return an item's codes, the coarsest first."""
        return [int(code) for code in self._codes[row]]

    def shared(self, row: int) -> NDArray[np.int64]:
        """Return how many codes each item has in common with one, counted from the first: ``[items]``."""
        alike: NDArray[np.bool_] = self._codes == self._codes[row]
        shared: NDArray[np.int64] = np.logical_and.accumulate(alike, axis=1).sum(axis=1)
        return shared
