"""Relevance control: of what was retrieved, only items of a kind that the query asks for are kept.

Vectors find what is near, and near a query for trousers stand shirts of the same brand. MGDSPR drops what lacks a field
that query understanding requires; here a query requires one of the values of an attribute, such as the category, that
hold a share of what was chosen under it in training. A query without any, such as one that training has not met,
requires nothing. It changes a retriever's answers, not its training: whoever wants it wraps it around one.

In the publication answers come out shorter; a shop that shows so many results a page wants them filled up by further
items of the kind. Where nothing of the kind may be in an answer, such as under another category as a filter, nothing is
required: whoever asks for that knows what he wants.

Source: MGDSPR (arXiv 2106.09297), section 3.5; the rule is the Taobao reconstruction's (section 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import folded
from triptych.foundation.artifact import write_json
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError
from triptych.foundation.types import Hits
from triptych.recall.base import BoolArray, Request, Retriever

KIND = "relevance_control"
CONFIG_FILE, REQUIRED = "config.json", "required.parquet"
LEAST_SHARE = 0.1


class Attribute(StrEnum):
    """What can be required."""

    CATEGORY = "category"
    BRAND = "brand"
    MERCHANT = "merchant"


class Answers(StrEnum):
    """What becomes of an answer of which items are dropped."""

    FILLED = "filled"
    """It goes on with further items of the kind."""
    SHORTER = "shorter"
    """It is left as short as it is, as in the publication."""


class RelevanceControlConfig(Config):
    """What answers must have."""

    attribute: Attribute = Attribute.CATEGORY
    """Of which attribute a query requires values: category, brand or merchant."""
    least_share: float = Field(LEAST_SHARE, gt=0, le=1)
    """Share of what was chosen under a query that a value must hold to be one that it asks for."""
    answers: Answers = Answers.FILLED
    """filled: an answer is made of items of the kind alone; shorter: others are dropped from it, as published."""


class RequiredValues:
    """Which values of an attribute each query asks for."""

    def __init__(
        self,
        of_item: NDArray[np.int64],
        *,
        of_query: Mapping[str, NDArray[np.int64]],
        names: Sequence[str] = (),
    ) -> None:
        """Put them together; use `fit`.

        Args:
            of_item: ``[items]``, each item's value, -1 for none.
            of_query: query text, as `data.text.folded` writes it → values.
            names: of the values, where they are to be told.
        """
        self._of_item, self._of_query, self._names = of_item, of_query, list(names)

    @classmethod
    def fit(
        cls,
        catalogue: Catalogue,
        *,
        split: Split,
        attribute: str = Attribute.CATEGORY,
        least_share: float = LEAST_SHARE,
    ) -> Self:
        """Count what was chosen under each query in training.

        Args:
            catalogue: whose items.
            split: of its log.
            attribute: category, brand or merchant.
            least_share: of a query's choices that a value must hold, above 0.

        Raises:
            ConfigError: items have no such attribute.
        """
        names, of_item = _values_of(catalogue, attribute=attribute)
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
            .sort("query", "value")
        )
        of_query = {
            str(query): own["value"].to_numpy().astype(np.int64)
            for (query,), own in holding.partition_by("query", as_dict=True).items()
        }
        return cls(of_item, of_query=of_query, names=names)

    @property
    def of_item(self) -> NDArray[np.int64]:
        """``[items]``, each item's value as a number, -1 for none."""
        return self._of_item

    @property
    def num_queries(self) -> int:
        """Queries that require something."""
        return len(self._of_query)

    def of_query(self, query: str | None) -> NDArray[np.int64]:
        """Return the values that a query requires, none where it requires nothing."""
        (text,) = folded([query or ""])
        return self._of_query.get(text, np.empty(0, dtype=np.int64))

    def named(self, values: NDArray[np.int64]) -> list[str]:
        """Return the names of values."""
        return [self._names[value] for value in values.tolist()]

    def dropped(self, query: str | None, item_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which items ``[n]`` lack what a query requires; an item without a value lacks any."""
        required = self.of_query(query)
        if not len(required):
            return np.zeros(len(item_rows), dtype=np.bool_)
        return ~np.isin(self._of_item[item_rows], required)

    def with_items(self, values: Sequence[str | None]) -> Self:
        """Return the same with items appended, whose values are given by name; no query asks for a new name."""
        numbers = {name: number for number, name in enumerate(self._names)}
        new = np.array([-1 if value is None else numbers.get(value, -1) for value in values], dtype=np.int64)
        return type(self)(np.concatenate([self._of_item, new]), of_query=self._of_query, names=self._names)

    def table(self) -> pl.DataFrame:
        """Return ``query`` and ``values`` (a list of names), of every query that requires something."""
        texts = sorted(self._of_query)
        named = [self.named(self._of_query[text]) for text in texts]
        return pl.DataFrame(
            {"query": texts, "values": named}, schema={"query": pl.String, "values": pl.List(pl.String)}
        )

    @classmethod
    def of_table(cls, table: pl.DataFrame, *, catalogue: Catalogue, attribute: str) -> Self:
        """Read what `table` returned, over the same catalogue."""
        names, of_item = _values_of(catalogue, attribute=attribute)
        numbers = {name: number for number, name in enumerate(names)}
        of_query = {
            query: np.array([numbers[name] for name in values], dtype=np.int64)
            for query, values in table.select("query", "values").iter_rows()
        }
        return cls(of_item, of_query=of_query, names=names)


def _values_of(catalogue: Catalogue, *, attribute: str) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of an attribute's values, and each item's ``[items]`` as a number, -1 for none.

    Raises:
        ConfigError: items have no such attribute.
    """
    if attribute not in list(Attribute) or catalogue.items[attribute].null_count() == catalogue.num_items:
        held = [name.value for name in Attribute if catalogue.items[name].null_count() < catalogue.num_items]
        there = ", ".join(held) or "none"
        raise ConfigError(
            f"relevance_control.attribute: items have no '{attribute}' that could be required. They have: {there}."
        )
    values = catalogue.items[attribute].cast(pl.String)
    names = values.drop_nulls().unique().sort()
    of_item = np.full(catalogue.num_items, -1, dtype=np.int64)
    of_item[values.is_not_null().to_numpy()] = names.search_sorted(values.drop_nulls()).to_numpy()
    return names.to_list(), of_item


@dataclass(frozen=True)
class RelevanceControl:
    """What a shop's answers must have, to be put around a retriever."""

    required: RequiredValues
    config: RelevanceControlConfig

    @classmethod
    def fit(cls, config: RelevanceControlConfig, *, catalogue: Catalogue, split: Split) -> Self:
        """Count what was chosen under each query in training.

        Raises:
            ConfigError: items have no such attribute, or no query asks for a value.
        """
        attribute = config.attribute
        required = RequiredValues.fit(catalogue, split=split, attribute=attribute, least_share=config.least_share)
        if not required.num_queries:
            raise ConfigError(
                f"relevance_control: no {attribute} holds {100 * config.least_share:g} % of what was chosen under a "
                "query in training, so that nothing would be required. Lower relevance_control.least_share, or remove "
                "it."
            )
        return cls(required, config)

    def over(self, retriever: Retriever, *, name: str | None = None) -> ControlledRetriever:
        """Put it around a retriever; `name` as there."""
        return ControlledRetriever(retriever, required=self.required, name=name, answers=self.config.answers)

    def with_items(self, items: Sequence[Mapping[str, str | None]]) -> Self:
        """Return the same with items appended, given by their attributes."""
        return replace(self, required=self.required.with_items([item[self.config.attribute] for item in items]))

    def save(self, folder: Path) -> None:
        """Write ``required.parquet`` and ``config.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.required.table().write_parquet(folder / REQUIRED)
        write_json(folder / CONFIG_FILE, self.config.dump())

    @classmethod
    def load(cls, folder: Path, *, catalogue: Catalogue) -> Self:
        """Read what `save` wrote, over the catalogue that it was made for."""
        config = RelevanceControlConfig.load(folder / CONFIG_FILE)
        table = pl.read_parquet(folder / REQUIRED)
        return cls(RequiredValues.of_table(table, catalogue=catalogue, attribute=config.attribute), config)


class ControlledRetriever:
    """A retriever, and what its answers must have."""

    def __init__(
        self,
        retriever: Retriever,
        *,
        required: RequiredValues,
        name: str | None = None,
        answers: Answers = Answers.SHORTER,
    ) -> None:
        """Wrap a retriever.

        Args:
            retriever: whose answers.
            required: by its queries.
            name: in tables; None: the retriever's.
            answers: whether they come out shorter, as in the publication, or are filled up.
        """
        self._retriever, self._required, self._answers = retriever, required, answers
        self._name = retriever.name if name is None else name

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    def required(self, request: Request) -> list[str]:
        """Name the values of which each item of an answer has one; none: nothing is required of it."""
        return self._required.named(self._values(request))

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k best items of the kind that each request asks for.

        With `Answers.SHORTER` what is left of the k best items: in their order, padded behind.
        """
        if self._answers is Answers.FILLED:
            return self._filled(requests, k)
        found = self._retriever.retrieve(requests, k)
        hits = Hits.empty(len(requests), k)
        for row, request in enumerate(requests):
            values = self._values(request)
            kept = found.item_rows[row] >= 0
            if len(values):
                kept &= np.isin(self._required.of_item[found.item_rows[row]], values)
            count = int(kept.sum())
            hits.item_rows[row, :count], hits.scores[row, :count] = found.item_rows[row][kept], found.scores[row][kept]
        return hits

    def _filled(self, requests: Sequence[Request], k: int) -> Hits:
        """Ask for those that require the same together: each has a mask of all items, and there is one at a time."""
        groups: dict[tuple[bytes, int], list[int]] = {}
        for place, request in enumerate(requests):
            values = self._required.of_query(request.query)
            groups.setdefault((values.tobytes(), id(request.keep)), []).append(place)
        hits = Hits.empty(len(requests), k)
        for places in groups.values():
            own = [requests[place] for place in places]
            if len(values := self._values(own[0])):
                keep: BoolArray = np.isin(self._required.of_item, values)
                if own[0].keep is not None:
                    keep &= own[0].keep
                own = [replace(request, keep=keep) for request in own]
            hits.item_rows[places], hits.scores[places] = self._retriever.retrieve(own, k)
        return hits

    def _values(self, request: Request) -> NDArray[np.int64]:
        """Return the values that a request requires; none where no item that it keeps has one."""
        values = self._required.of_query(request.query)
        if request.keep is None or np.isin(self._required.of_item[request.keep], values).any():
            return values
        return values[:0]
