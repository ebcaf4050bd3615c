"""What a recall model reads: rows of its tables, and the vectors that a pretrained encoder has made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNK, IdVocabulary
from triptych.data.pages import Pages
from triptych.data.text import folded
from triptych.recall.learned import ItemFeatures, RequestFeatures, Sizes

QUERIES, ITEMS = "query_ids", "item_ids"
HASH_SEED = 0


class Ids:
    """The queries and items that have a row of their own in a model's tables: those that training has met."""

    def __init__(self, *, queries: IdVocabulary, items: IdVocabulary) -> None:
        """Put the two together; use `fit` or `load`."""
        self.queries, self.items = queries, items

    @classmethod
    def fit(
        cls,
        catalogue: Catalogue,
        *,
        pages: Pages,
        min_count: int = 1,
        query_buckets: int | None = None,
        item_buckets: int | None = None,
    ) -> Self:
        """Give rows to queries and items.

        Args:
            catalogue: whose.
            pages: those that are learned from.
            min_count: pages on which a query was asked, or an item chosen, to have a row of its own.
            query_buckets: rows that queries share by a hash instead; None: none do.
            item_buckets: rows that items share.
        """
        asked = pl.Series(folded(catalogue.queries), dtype=pl.String).gather(pages.query_row)
        chosen = pl.Series(catalogue.item_ids, dtype=pl.String).gather(pages.item_rows)

        def ids_of(strings: pl.Series, buckets: int | None) -> IdVocabulary:
            if buckets is None:
                return IdVocabulary.fit(strings, min_count=min_count)
            return IdVocabulary.hashed(buckets, seed=HASH_SEED)

        return cls(queries=ids_of(asked, query_buckets), items=ids_of(chosen, item_buckets))

    def save(self, folder: Path) -> None:
        """Write both."""
        for name, ids in ((QUERIES, self.queries), (ITEMS, self.items)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            ids.save(folder / name)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(queries=IdVocabulary.load(folder / QUERIES), items=IdVocabulary.load(folder / ITEMS))


class Features:
    """Gathers what a model reads of the queries and items of a catalogue, by their rows there."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        ids: Ids,
        query_content: NDArray[Any] | None = None,
        item_content: NDArray[Any] | None = None,
    ) -> None:
        """Look the ids up once.

        Args:
            catalogue: whose queries and items.
            ids: of the model's tables.
            query_content: ``[queries, dim]``, in memory or mapped; None where the model reads none.
            item_content: ``[items, dim]``, likewise.
        """
        self._query_ids = ids.queries.rows(folded(catalogue.queries))
        self._item_ids = ids.items.rows(catalogue.item_ids)
        self._query_content, self._item_content = query_content, item_content
        self.sizes = Sizes(
            num_queries=ids.queries.num_rows,
            num_items=ids.items.num_rows,
            query_content_dim=0 if query_content is None else query_content.shape[1],
            item_content_dim=0 if item_content is None else item_content.shape[1],
        )

    def requests(self, query_rows: NDArray[np.integer], *, hidden: NDArray[np.bool_] | None = None) -> RequestFeatures:
        """Gather what is known of some queries.

        Args:
            query_rows: ``[n]``, of the catalogue.
            hidden: bool ``[n]``, whose ID is hidden (ID dropout); None: nobody's.
        """
        ids = _shown(self._query_ids[query_rows], hidden)
        return RequestFeatures(torch.from_numpy(ids), taken(self._query_content, query_rows))

    def items(self, item_rows: NDArray[np.integer], *, hidden: NDArray[np.bool_] | None = None) -> ItemFeatures:
        """Gather what is known of some items; arguments as of `requests`."""
        ids = _shown(self._item_ids[item_rows], hidden)
        return ItemFeatures(torch.from_numpy(ids), taken(self._item_content, item_rows))


def requests_of(texts: Sequence[str], *, ids: Ids, content: NDArray[np.float32] | None) -> RequestFeatures:
    """Gather what is known of queries by their words, whether the catalogue has them or not.

    Args:
        texts: ``[n]``.
        ids: of the model's tables.
        content: ``[n, dim]``, from the pretrained encoder; None where the model reads none.
    """
    rows = torch.from_numpy(ids.queries.rows(folded(texts)))
    return RequestFeatures(rows, None if content is None else torch.from_numpy(content))


def taken(content: NDArray[Any] | None, rows: NDArray[np.integer]) -> torch.Tensor | None:
    """Copy some rows of the content vectors as float32."""
    return None if content is None else torch.from_numpy(content[rows].astype(np.float32))


def _shown(ids: NDArray[np.int64], hidden: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    return ids if hidden is None else np.where(hidden, UNK, ids)
