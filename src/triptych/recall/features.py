"""What a recall model reads: rows of its tables, and the vectors that a pretrained encoder has made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNKNOWN, IdVocabulary
from triptych.data.pages import Pages
from triptych.data.text import folded
from triptych.recall.learned import ItemFeatures, RequestFeatures, Sizes

QUERIES, ITEMS = "query_ids", "item_ids"


class Ids:
    """The queries and items that have a row of their own in a model's tables: those that training has met."""

    def __init__(self, *, queries: IdVocabulary, items: IdVocabulary) -> None:
        """Put the two together; use `fit` or `load`."""
        self.queries, self.items = queries, items

    @classmethod
    def fit(cls, catalogue: Catalogue, *, pages: Pages, min_count: int = 1) -> Self:
        """Give a row to every query that was asked, and every item that was chosen, on at least so many pages."""
        asked = np.bincount(pages.query_row, minlength=catalogue.num_queries)
        chosen = np.bincount(pages.item_rows, minlength=catalogue.num_items)
        return cls(
            queries=IdVocabulary.fit(folded(catalogue.queries), counts=asked, min_count=min_count),
            items=IdVocabulary.fit(catalogue.item_ids, counts=chosen, min_count=min_count),
        )

    def save(self, folder: Path) -> None:
        """Write both."""
        self.queries.save(folder / QUERIES)
        self.items.save(folder / ITEMS)

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
    return ids if hidden is None else np.where(hidden, UNKNOWN, ids)
