"""What a recall model reads of items that its index has not met: new ones, and those that are explained.

The engine has an item's words, its photo and the encoder's vector of it. What else a model `Needs` is made of these, by
what the run has frozen: the encoder makes a vector of the title alone, the quantisers choose the item's semantic IDs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import encode_titles
from triptych.engine.bundle import Parts
from triptych.engine.code_sets import Codes, CodeSets, Shown
from triptych.recall.learned import Needs
from triptych.recall.retriever import LearnedRetriever


@dataclass(frozen=True)
class RecallItems:
    """Encoder and quantisers behind a recall model's items."""

    sets: CodeSets
    """Those that the model reads; none: it reads no semantic IDs."""
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
        read = () if parts.recall is None or needs.codes is None else parts.recall.inputs
        return cls(CodeSets.open(parts, embedder=embedder, names=read), needs.title_content)

    def vectors(self, recall: LearnedRetriever, shown: Shown, *, codes: Codes | None = None) -> NDArray[np.float32]:
        """Return the model's vectors of items ``[n, vector_dim]``.

        Args:
            recall: the model.
            shown: the items.
            codes: their IDs, of all sets that it reads or more; None: they are chosen here.
        """
        title_content = encode_titles(shown.texts, embedder=self.sets.embedder) if self.reads_title_content else None
        read = None
        if self.sets.quantizers:
            codes = self.sets.codes(shown, title_content=title_content) if codes is None else codes
            read = np.concatenate([codes[of] for of in self.sets.quantizers], axis=1)
        found: NDArray[np.float32] = recall.item_vectors(
            shown.item_ids, content=shown.content, titles=shown.titles, title_content=title_content, codes=read
        )
        return found
