"""Content vectors of items: what a ranker works out when an item appears, and looks up in every request.

A vector depends on the item and on the ranker's weights, and on nothing of who asks. They are held in memory beside the
ranker that they are of, so that there are none of another version; as float32, since scores are to be those of a pass
through the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.foundation.progress import Progress
from triptych.ranker.content.base import ItemSide
from triptych.ranker.features import Features, Modalities, tokens_of
from triptych.ranker.inputs import Shown, on_device

ENCODED_AT_ONCE, TOKENS_AT_ONCE = 4_096, 16_384
"""Items at a time, fewer of many tokens."""
LONG = 20 * ENCODED_AT_ONCE
"""Items whose work is shown as it goes on."""


@dataclass(frozen=True, eq=False)
class ContentVectors:
    """What `content.base.ItemSide` says of some items."""

    vectors: Mapping[str, Tensor]
    """By its names: float32 ``[items, ...]``, on the CPU."""

    @classmethod
    def of_catalogue(cls, side: ItemSide, features: Features, *, device: torch.device) -> ContentVectors:
        """Work out those of every item that features are of, by item row; arguments as of `of_rows`."""
        return cls.of_rows(side, features, item_rows=np.arange(features.num_items), device=device)

    @classmethod
    def of_rows(
        cls, side: ItemSide, features: Features, *, item_rows: NDArray[np.int64], device: torch.device
    ) -> ContentVectors:
        """Work out those of some items.

        Args:
            side: of the plug-in.
            features: gather what items are made of.
            item_rows: ``[n]``, at least one.
            device: where `side` is.
        """
        count, parts = len(item_rows), []
        tokens = max(1, features.tokens_per_item)
        at_once = max(1, min(ENCODED_AT_ONCE, TOKENS_AT_ONCE // tokens))
        is_long = count * tokens >= LONG
        told = Progress("content of items", total=count, unit="item") if is_long else nullcontext()
        with told as bar:
            for start in range(0, count, at_once):
                rows = item_rows[start : start + at_once]
                parts.append(_said(side, features.shown(rows), device=device))
                if bar is not None:
                    bar.advance(len(rows))
        return cls({name: torch.cat(found) for name, found in zip(side.names, zip(*parts, strict=True), strict=True)})

    @classmethod
    def of_new(cls, side: ItemSide, modalities: Modalities, *, device: torch.device) -> ContentVectors:
        """Work out those of items that appear now.

        Args:
            side: of the plug-in.
            modalities: what they are made of, those that it was trained with in their order.
            device: where `side` is.
        """
        content = (tokens_of(vectors, np.arange(len(vectors))) for vectors in modalities.values())
        found = _said(side, Shown(tuple(content)), device=device)
        return cls(dict(zip(side.names, found, strict=True)))

    @property
    def memory_bytes(self) -> int:
        """What they take."""
        return sum(one.nbytes for one in self.vectors.values())

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return them as arrays."""
        return {name: one.numpy() for name, one in self.vectors.items()}

    def at(self, item_rows: Tensor) -> tuple[Tensor, ...]:
        """Look some items up, int64 ``[n]``; the result is what `content.base.ContentModule.describe` asks for."""
        return tuple(one[item_rows] for one in self.vectors.values())

    def followed_by(self, more: ContentVectors) -> ContentVectors:
        """Put those of more items behind these."""
        return ContentVectors({name: torch.cat([one, more.vectors[name]]) for name, one in self.vectors.items()})


@torch.no_grad()
def _said(side: ItemSide, shown: Shown, *, device: torch.device) -> tuple[Tensor, ...]:
    found = side(on_device(shown, device).content)
    return tuple(one.cpu() for one in found)
