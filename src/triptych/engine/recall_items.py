"""What a recall model reads of items that its index has not met: new ones, and those that are explained.

The engine has an item's words and the encoder's vector of it. What else a model `Needs` is made of these, by what the
run has frozen: the encoder makes a vector of the title alone, the quantiser chooses the item's semantic ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import encode_titles
from triptych.engine.bundle import Parts
from triptych.recall.learned import Needs
from triptych.recall.retriever import LearnedRetriever
from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.stored import SemanticIds


@dataclass(frozen=True)
class RecallItems:
    """Encoder and quantiser behind a recall model's items."""

    embedder: Embedder
    quantizer: Quantizer | None
    """None: the model reads no semantic IDs."""
    reads_title_content: bool
    """Whether it reads what the encoder makes of a title alone."""

    @classmethod
    def open(cls, parts: Parts, *, embedder: Embedder, needs: Needs) -> Self:
        """Open what a bundle names.

        Args:
            parts: of the bundle; they belong together.
            embedder: the encoder whose vectors the model reads.
            needs: of the model.
        """
        ids = parts.semantic_ids if needs.codes is not None else None
        return cls(embedder, None if ids is None else SemanticIds.open(ids).quantizer, needs.title_content)

    def vectors(
        self,
        recall: LearnedRetriever,
        item_ids: Sequence[str | None],
        *,
        content: NDArray[np.float32],
        titles: Sequence[str],
        texts: Sequence[str | None],
    ) -> NDArray[np.float32]:
        """Return the model's vectors of items ``[n, vector_dim]``.

        As in generation, a token that tells items of equal codes apart is not chosen, and none is read.

        Args:
            recall: the model.
            item_ids: ``[n]``; None: an item that nobody knows.
            content: ``[n, dim]``, the encoder's vectors of what is to be read of the items.
            titles: ``[n]``, "" for none.
            texts: ``[n]``, what the encoder reads as titles; None or "" for none.
        """
        found: NDArray[np.float32] = recall.item_vectors(
            item_ids,
            content=content,
            titles=titles,
            title_content=encode_titles(texts, embedder=self.embedder) if self.reads_title_content else None,
            codes=None if self.quantizer is None else self.quantizer.assign(content),
        )
        return found
