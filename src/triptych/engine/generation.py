"""The decoder of semantic IDs while a shop is served: items come and go, and what it may say with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from triptych.encoders.embed import Embedder
from triptych.engine.bundle import Parts
from triptych.index.base import Index
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.stored import SemanticIds


@dataclass(frozen=True)
class IndexVectors:
    """The vectors in an index, looked up like the rows of an array."""

    index: Index

    @property
    def shape(self) -> tuple[int, int]:
        """``(item rows, dim)``."""
        return self.index.num_rows, self.index.dim

    def __getitem__(self, item_rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Return those of some rows ``[n, dim]``."""
        return self.index.vectors(item_rows)


@dataclass(frozen=True)
class Generation:
    """The retriever over the IDs that exist, and the frozen quantiser that gives new items theirs."""

    retriever: GenerativeRetriever
    quantizer: Quantizer

    @classmethod
    def open(cls, parts: Parts, *, embedder: Embedder, index: Index) -> Self | None:
        """Open what a bundle names; None: the shop has no decoder.

        Args:
            parts: of the bundle.
            embedder: whose query vectors the decoder reads.
            index: of the same encoder's item vectors, by which items under one ID are ordered.
        """
        if parts.generative is None or parts.semantic_ids is None:
            return None
        retriever = GenerativeRetriever.load(parts.generative.path, encoder=embedder, vectors=IndexVectors(index))
        return cls(retriever, SemanticIds.open(parts.semantic_ids).quantizer)

    def changed(self, *, vectors: NDArray[np.float32] | None, gone: Sequence[int], index: Index) -> Generation:
        """Return the same with items appended and others taken out.

        A token that tells items of equal codes apart is not chosen anew: such a new item shares the ID of the first
        that has its codes.

        Args:
            vectors: the encoder's, of the new items ``[n, dim]``, the last rows of the index; None: there are none.
            gone: rows that are no answer any more.
            index: with the new items.
        """
        trie = self.retriever.trie
        if len(gone):
            trie = trie.without(np.asarray(gone, dtype=np.int64))
        if vectors is not None and len(vectors):
            codes = np.zeros((len(vectors), trie.levels), dtype=np.uint16)
            codes[:, : self.quantizer.levels] = self.quantizer.assign(vectors)
            trie = trie.with_items(codes, item_rows=np.arange(index.num_rows - len(vectors), index.num_rows))
        return Generation(self.retriever.over(trie, vectors=IndexVectors(index)), self.quantizer)
