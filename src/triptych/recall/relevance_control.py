"""Relevance control: of what was retrieved, only items of a kind that the query asks for are kept.

Vectors find what is near, and near a query for trousers stand shirts of the same brand. MGDSPR drops what lacks a field
that query understanding requires; here a query requires one of the values of an attribute, such as the category, that
hold a share of what was chosen under it in training. A query without any, such as one that training has not met,
requires nothing. It changes a retriever's answers, not its training: whoever wants it wraps it around one.

Source: MGDSPR (arXiv 2106.09297), section 3.5; the rule is the Taobao reconstruction's (section 6).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import folded
from triptych.foundation.errors import ConfigError
from triptych.foundation.types import Hits
from triptych.recall.base import Request, Retriever

ATTRIBUTES = ("category", "brand", "merchant")
"""What can be required."""
LEAST_SHARE = 0.1


class RequiredValues:
    """Which values of an attribute each query asks for."""

    def __init__(self, of_item: NDArray[np.int64], *, of_query: dict[str, NDArray[np.int64]]) -> None:
        """Put them together; use `fit`.

        Args:
            of_item: ``[items]``, each item's value, -1 for none.
            of_query: query text, as `data.text.folded` writes it → values.
        """
        self._of_item, self._of_query = of_item, of_query

    @classmethod
    def fit(
        cls, catalogue: Catalogue, *, split: Split, attribute: str = "category", least_share: float = LEAST_SHARE
    ) -> RequiredValues:
        """Count what was chosen under each query in training.

        Args:
            catalogue: whose items.
            split: of its log.
            attribute: category, brand or merchant.
            least_share: of a query's choices that a value must hold, above 0.

        Raises:
            ConfigError: items have no such attribute.
        """
        if attribute not in ATTRIBUTES or catalogue.items[attribute].null_count() == catalogue.num_items:
            held = [name for name in ATTRIBUTES if catalogue.items[name].null_count() < catalogue.num_items]
            there = ", ".join(held) or "none"
            raise ConfigError(f"attribute: items have no '{attribute}' that could be required. They have: {there}.")
        values = catalogue.items[attribute].cast(pl.String)
        names = values.drop_nulls().unique().sort()
        of_item = np.full(catalogue.num_items, -1, dtype=np.int64)
        of_item[values.is_not_null().to_numpy()] = names.search_sorted(values.drop_nulls()).to_numpy()
        pairs = split.train_pairs(catalogue)
        counts = pl.DataFrame(
            {
                "query": pl.Series(folded(catalogue.queries), dtype=pl.String).gather(pairs.query_row),
                "value": of_item[pairs.item_row],
                "clicks": pairs.clicks,
            }
        )
        holding = (
            counts.group_by("query", "value")
            .agg(pl.col("clicks").sum())
            .with_columns(share=pl.col("clicks") / pl.col("clicks").sum().over("query"))
            .filter(pl.col("value") >= 0, pl.col("share") >= least_share)
        )
        of_query = {
            str(query): own["value"].to_numpy().astype(np.int64)
            for (query,), own in holding.partition_by("query", as_dict=True).items()
        }
        return cls(of_item, of_query=of_query)

    @property
    def of_item(self) -> NDArray[np.int64]:
        """``[items]``, each item's value as a number, -1 for none."""
        return self._of_item

    def of_query(self, query: str | None) -> NDArray[np.int64]:
        """Return the values that a query requires, none where it requires nothing."""
        (text,) = folded([query or ""])
        return self._of_query.get(text, np.empty(0, dtype=np.int64))

    def dropped(self, query: str | None, item_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which items ``[n]`` lack what a query requires; an item without a value lacks any."""
        required = self.of_query(query)
        if not len(required):
            return np.zeros(len(item_rows), dtype=np.bool_)
        return ~np.isin(self._of_item[item_rows], required)


class ControlledRetriever:
    """A retriever, and what its answers must have. They come out shorter, not filled up, as in the publication."""

    def __init__(self, retriever: Retriever, *, required: RequiredValues, name: str | None = None) -> None:
        """Wrap a retriever.

        Args:
            retriever: whose answers.
            required: by its queries.
            name: in tables; None: the retriever's.
        """
        self._retriever, self._required = retriever, required
        self._name = retriever.name if name is None else name

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return what is left of the k items of each request, in their order, padded behind."""
        found = self._retriever.retrieve(requests, k)
        hits = Hits(np.full_like(found.item_rows, -1), np.full_like(found.scores, -np.inf))
        for row, request in enumerate(requests):
            there = found.item_rows[row] >= 0
            kept = there.copy()
            kept[there] = ~self._required.dropped(request.query, found.item_rows[row][there])
            count = int(kept.sum())
            hits.item_rows[row, :count], hits.scores[row, :count] = found.item_rows[row][kept], found.scores[row][kept]
        return hits
