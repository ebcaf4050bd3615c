"""The semantic IDs of items that come while a shop is served, of every set: what the frozen quantisers choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from triptych.encoders.embed import Embedder, OtherPixels
from triptych.encoders.embeddings import Modality, encode_titles, encode_views
from triptych.encoders.inputs import View
from triptych.engine.bundle import Parts
from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.stored import PARTS, SemanticIds

Codes = Mapping[Modality, NDArray[np.int32]]
"""What they are of → codes ``[n, levels]``, -1 at every level of an item that has no such side."""


class Shown(NamedTuple):
    """Items ``[n]``, as a model is to see them."""

    item_ids: Sequence[str | None]
    """None: an item that nobody knows."""
    titles: Sequence[str]
    """"" for none."""
    texts: Sequence[str | None]
    """What the encoder reads as titles; None or "" for none."""
    content: NDArray[np.float32]
    """``[n, dim]``, the encoder's vectors of what is to be seen."""
    pixels: NDArray[np.uint8] | None
    """``[n, px, px, 3]``; None where nothing looks at photos by themselves."""
    has_photo: NDArray[np.bool_]
    """``[n]``."""
    others: OtherPixels | None = None
    """Further photos, for an encoder that reads several; None: nobody has any."""


@dataclass(frozen=True)
class CodeSets:
    """The encoder, and the quantiser of each set in the order in which models read them."""

    embedder: Embedder
    quantizers: Mapping[Modality, Quantizer]

    @classmethod
    def open(cls, parts: Parts, *, embedder: Embedder, names: Iterable[str]) -> Self:
        """Open those of a bundle's sets whose parts are named."""
        there = set(names)
        wanted = {of: getattr(parts, name) for of, name in PARTS.items() if name in there}
        return cls(embedder, {of: SemanticIds.open(one).quantizer for of, one in wanted.items() if one is not None})

    def codes(self, shown: Shown, *, title_content: NDArray[np.float32] | None = None) -> Codes:
        """Choose the IDs of items. A token that tells items of equal codes apart is not chosen.

        Args:
            shown: the items.
            title_content: ``[n, dim]``, what the encoder makes of their titles, NaN for none, where that is known
                already; None: it is made here.
        """
        found: dict[Modality, NDArray[np.int32]] = {}
        for of, quantizer in self.quantizers.items():
            vectors = self._vectors(shown, of=of, title_content=title_content)
            found[of] = np.full((len(vectors), quantizer.levels), -1, np.int32)
            there = ~np.isnan(vectors[:, 0])
            found[of][there] = quantizer.assign(vectors[there])
        return found

    def _vectors(self, shown: Shown, *, of: Modality, title_content: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Return what a set's IDs are of ``[n, dim]``, NaN for none."""
        if of is Modality.ITEM:
            return shown.content
        if of is Modality.TITLE:
            return encode_titles(shown.texts, embedder=self.embedder) if title_content is None else title_content
        assert shown.pixels is not None, "a set is of photos"
        seen = encode_views(
            [None] * len(shown.titles),
            pixels=shown.pixels,
            has_photo=shown.has_photo,
            embedder=self.embedder,
            views=(View.PHOTO,),
            others=shown.others,
        )
        return seen[View.PHOTO.value]
