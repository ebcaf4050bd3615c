"""What has a row of its own in a recall model's tables: queries, items, and what else the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNK, IdVocabulary
from triptych.data.pages import Pages
from triptych.data.text import folded
from triptych.recall.learned import Needs
from triptych.recall.text_units import UNITS, fit_units, unit_rows

QUERIES, ITEMS, USERS = "query_ids", "item_ids", "user_ids"
ATTRIBUTES = ("category", "brand", "merchant")
"""Columns of the catalogue that are read as attributes of items, where anything stands in them."""
HASH_SEED = 0


class Ids:
    """What has a row of its own in a model's tables: what training has met."""

    def __init__(
        self, *, queries: IdVocabulary, items: IdVocabulary, others: Mapping[str, IdVocabulary] | None = None
    ) -> None:
        """Put them together; use `fit` or `load`.

        Args:
            queries: query texts.
            items: item ids.
            others: by name, units of texts (`text_units.UNITS`), values of attributes (`ATTRIBUTES`), and `USERS`.
        """
        self.queries, self.items, self.others = queries, items, dict(others or {})

    @classmethod
    def fit(
        cls,
        catalogue: Catalogue,
        *,
        pages: Pages,
        min_count: int = 1,
        query_buckets: int | None = None,
        item_buckets: int | None = None,
        needs: Needs | None = None,
        titles: Sequence[str] = (),
    ) -> Self:
        """Give rows to queries and items, and to what else the model reads.

        Args:
            catalogue: whose.
            pages: those that are learned from.
            min_count: pages on which a query was asked, or an item chosen, to have a row of its own.
            query_buckets: rows that queries share by a hash instead; None: none do.
            item_buckets: rows that items share.
            needs: of the model; None: nothing else.
            titles: from which words are learned, beside the queries.
        """
        needs = Needs() if needs is None else needs
        asked = pl.Series(folded(catalogue.queries), dtype=pl.String).gather(pages.query_row[pages.query_row >= 0])
        chosen = pl.Series(catalogue.item_ids, dtype=pl.String).gather(pages.item_rows)

        def ids_of(strings: pl.Series, buckets: int | None) -> IdVocabulary:
            if buckets is None:
                return IdVocabulary.fit(strings, min_count=min_count)
            return IdVocabulary.hashed(buckets, seed=HASH_SEED)

        others: dict[str, IdVocabulary] = {}
        for name in _units_read(needs):
            others[name] = fit_units([*asked.unique(maintain_order=True).to_list(), *titles], name=name)
        if needs.user:
            known = pages.user_row[pages.user_row >= 0]
            others[USERS] = IdVocabulary.fit(pl.Series(catalogue.users, dtype=pl.String).gather(known))
        for name in ATTRIBUTES if needs.history_attributes else ():
            values = catalogue.items[name].cast(pl.String).gather(pages.item_rows).drop_nulls()
            if len(values):
                others[name] = IdVocabulary.fit(values)
        every = pl.Series(catalogue.item_ids, dtype=pl.String)
        items = IdVocabulary.fit(every) if needs.modalities else ids_of(chosen, item_buckets)
        return cls(queries=ids_of(asked, query_buckets), items=items, others=others)

    def save(self, folder: Path) -> None:
        """Write all."""
        for name, ids in {QUERIES: self.queries, ITEMS: self.items, **self.others}.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            ids.save(folder / name)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        others = [name for name in (*UNITS, *ATTRIBUTES, USERS) if (folder / name).is_dir()]
        return cls(
            queries=IdVocabulary.load(folder / QUERIES),
            items=IdVocabulary.load(folder / ITEMS),
            others={name: IdVocabulary.load(folder / name) for name in others},
        )

    @property
    def attributes(self) -> list[str]:
        """The attributes that items have, in the order in which a model sees them."""
        return [name for name in ATTRIBUTES if name in self.others]

    def users(self, users: Sequence[str | None]) -> NDArray[np.int64]:
        """Look up users, int64 ``[n]``; row 0 where training has not met one, or None."""
        return self.others[USERS].rows(users)

    def units(self, texts: Sequence[str], *, name: str, most: int) -> NDArray[np.int32]:
        """Look up units of texts, int32 ``[n, most]``; see `text_units.unit_rows`."""
        return unit_rows(texts, name=name, ids=self.others[name], most=most)


def attribute_rows(items: pl.DataFrame, *, ids: Ids) -> NDArray[np.int64]:
    """Look up the attributes of items, int64 ``[items, attributes]``; -1 where there is none, or training met none."""
    found = np.full((len(items), len(ids.attributes)), -1, dtype=np.int64)
    for column, name in enumerate(ids.attributes):
        rows = ids.others[name].rows(items[name].cast(pl.String))
        found[:, column] = np.where(rows == UNK, -1, rows)
    return found


def _units_read(needs: Needs) -> Sequence[str]:
    if needs.query_units:
        return tuple(UNITS)
    return ("words",) if needs.title_words else ()
