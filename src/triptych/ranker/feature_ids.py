"""What training has met of each feature: a row for every value, quantiles for every number.

Row 0 of every table stands for what is not known: a value that is absent, that training has not met, or that has been
hidden. It learns from what is hidden and from what is absent. Hours and weekdays have such a row too: a log of a few
days has not met all of them, and the day that comes next is often one of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNK, IdVocabulary
from triptych.data.schema import Role
from triptych.data.text import folded, words
from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError
from triptych.ranker.samples import Samples

FILE = "features.json"
ITEM, USER, QUERY, CELL, HOUR, WEEKDAY = "item", "user", "query", "cell", "hour", "weekday"
CATEGORY = "category"
ATTRIBUTES = (CATEGORY, "brand", "merchant")
PRICE, AGE, MATCH = "price", "age", "match"
WORDS = "query words"
QUANTILES = 33
"""Steps of what a number becomes."""
HOUR_US = 3_600 * 1_000_000
DAY_US = 24 * HOUR_US
HOURS, WEEKDAYS = 24, 7


class Quantiles:
    """Numbers by their place among those of training: 0 is the median, -1 and 1 the ends, whatever the unit."""

    def __init__(self, edges: NDArray[np.float64]) -> None:
        """Take ascending edges, at least one; use `fit`."""
        self.edges = edges

    @classmethod
    def fit(cls, values: NDArray[np.float64]) -> Self | None:
        """Take the quantiles of what is a finite number; None where nothing is."""
        finite = values[np.isfinite(values)]
        return cls(np.quantile(finite, np.linspace(0, 1, QUANTILES))) if len(finite) else None

    def __call__(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the places in [-1, 1] of numbers ``[n]``, 0 for what is none, and 1 for what is one, else 0."""
        is_number = np.isfinite(values)
        given = np.where(is_number, values, self.edges[0])
        # The mean of both sides: of equal edges the middle one counts.
        low, high = (np.searchsorted(self.edges, given, side=side) for side in ("left", "right"))
        between = np.interp(given, self.edges, np.arange(len(self.edges)))
        place = np.where(high > low, (low + high - 1) / 2, between)
        scaled = 2 * place / max(len(self.edges) - 1, 1) - 1
        return np.where(is_number, scaled, 0.0).astype(np.float32), is_number.astype(np.float32)


class Calendar(NamedTuple):
    """Hours (UTC) and weekdays that training has met; row 0 stands for the others."""

    hours: tuple[int, ...] = tuple(range(HOURS))
    weekdays: tuple[int, ...] = tuple(range(WEEKDAYS))
    """0 is Monday."""

    @classmethod
    def fit(cls, time_us: NDArray[np.int64]) -> Self:
        """Take those of some moments, in microseconds since 1970 UTC."""
        hours, weekdays = (np.unique(one).tolist() for one in _hours_and_weekdays(time_us))
        return cls(tuple(hours), tuple(weekdays))

    def rows(self, time_us: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of moments' hours ``[n]`` and of their weekdays ``[n]``."""
        hours, weekdays = (
            np.where(np.isin(one, known), 1 + one, UNK)
            for one, known in zip(_hours_and_weekdays(time_us), self, strict=True)
        )
        return hours, weekdays


EVERY_MOMENT = Calendar()


def _hours_and_weekdays(time_us: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return time_us // HOUR_US % HOURS, (time_us // DAY_US + 3) % WEEKDAYS  # 1970 began on a Thursday


class FeatureIds:
    """Tables' rows and numbers' quantiles, by name, in the order in which a model sees them."""

    def __init__(
        self,
        *,
        item_fields: Mapping[str, IdVocabulary],
        item_lists: Mapping[str, IdVocabulary],
        item_numbers: Mapping[str, Quantiles],
        request_fields: Mapping[str, IdVocabulary],
        request_lists: Mapping[str, IdVocabulary],
        age: Quantiles | None,
        match: Quantiles | None = None,
        calendar: Calendar = EVERY_MOMENT,
    ) -> None:
        """Put them together; use `fit` or `load`."""
        self.item_fields, self.item_lists, self.item_numbers = dict(item_fields), dict(item_lists), dict(item_numbers)
        self.request_fields, self.request_lists, self.age = dict(request_fields), dict(request_lists), age
        self.match, self.calendar = match, calendar

    @classmethod
    def fit(
        cls,
        catalogue: Catalogue,
        *,
        samples: Samples,
        min_count: int = 1,
        matches: NDArray[np.float64] | None = None,
    ) -> Self:
        """Give rows to what the training samples have met.

        Args:
            catalogue: whose.
            samples: of the training part.
            min_count: samples in which an item must stand, and requests in which a user or a query must, to have a row
                of its own.
            matches: ``[samples]``, how query and item go together (`ranker.match`), NaN where there are no words; None:
                nobody reads that.
        """
        items, shown = catalogue.items, np.unique(samples.item_row)
        roles = catalogue.feature_roles
        item_fields = {
            ITEM: IdVocabulary.fit(items["item_id"].gather(samples.item_row), min_count=min_count),
            **_fitted(_categories(catalogue, shown=shown)),
        }
        lists = {name: items[name].gather(shown).explode() for name, role in roles.items() if role is Role.MULTI}
        numeric = [PRICE, *(name for name, role in roles.items() if role is Role.NUMERIC)]
        quantiles = {name: Quantiles.fit(_numbers(items[name])[shown]) for name in numeric}
        asked = samples.requests
        queries = pl.Series(folded(catalogue.queries), dtype=pl.String).gather(asked.query_row[asked.query_row >= 0])
        users = pl.Series(catalogue.users, dtype=pl.String).gather(asked.user_row[asked.user_row >= 0])
        cells = pl.Series(cell_names(catalogue), dtype=pl.String).gather(asked.cell[asked.cell >= 0])
        request_fields = _fitted({USER: users, QUERY: queries}, min_count=min_count) | _fitted({CELL: cells})
        spoken = [word for query in queries.unique(maintain_order=True).to_list() for word in words(query)]
        return cls(
            item_fields=item_fields,
            item_lists=_fitted(lists),
            item_numbers={name: one for name, one in quantiles.items() if one is not None},
            request_fields=request_fields,
            request_lists=_fitted({WORDS: pl.Series(spoken, dtype=pl.String)}),
            age=Quantiles.fit(ages(catalogue, item_row=samples.item_row, time_us=asked.time_us[samples.request])),
            match=None if matches is None else Quantiles.fit(matches),
            calendar=Calendar.fit(asked.time_us),
        )

    def save(self, folder: Path) -> None:
        """Write ``features.json``, and a folder for each table's rows."""
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {
            name: None if one is None else one.edges.tolist() for name, one in ((AGE, self.age), (MATCH, self.match))
        }
        about["item_numbers"] = [[name, one.edges.tolist()] for name, one in self.item_numbers.items()]
        about["calendar"] = self.calendar._asdict()
        for group in _GROUPS:
            about[group] = list(getattr(self, group))
            for place, ids in enumerate(getattr(self, group).values()):
                (folder / f"{group}_{place}").mkdir(exist_ok=True)
                ids.save(folder / f"{group}_{place}")
        write_json(folder / FILE, about)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: the folder holds none.
        """
        if not (folder / FILE).is_file():
            raise ArtifactError(f"'{folder}' holds no features ('{FILE}'). Train the ranker again.")
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        groups = {
            group: {name: IdVocabulary.load(folder / f"{group}_{place}") for place, name in enumerate(about[group])}
            for group in _GROUPS
        }
        numbers = {name: Quantiles(np.array(edges)) for name, edges in about["item_numbers"]}
        # Rankers trained before there was a match, or a calendar, have no such entry.
        age, match = (None if about.get(name) is None else Quantiles(np.array(about[name])) for name in (AGE, MATCH))
        calendar = Calendar(**{name: tuple(known) for name, known in about.get("calendar", {}).items()})
        return cls(**groups, item_numbers=numbers, age=age, match=match, calendar=calendar)


def item_field_names(catalogue: Catalogue, *, shown: NDArray[np.integer]) -> list[str]:
    """Return the names of the fields that `FeatureIds.fit` finds in items.

    Args:
        catalogue: whose.
        shown: rows of those that training has met.
    """
    return [ITEM, *(name for name, one in _categories(catalogue, shown=shown).items() if _occurs(one))]


_GROUPS = ("item_fields", "item_lists", "request_fields", "request_lists")


def cell_names(catalogue: Catalogue) -> Sequence[str]:
    """Return the names of delivery cells in the order of their codes in the log."""
    dtype = catalogue.events["cell"].dtype
    assert isinstance(dtype, pl.Enum)
    return dtype.categories.to_list()


def ages(catalogue: Catalogue, *, item_row: NDArray[Any], time_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how old items were at some moments, in days, at least 0; NaN where that is not known."""
    return since(first_seen_us(catalogue.items)[item_row], time_us=time_us)


def since(first_us: NDArray[np.float64], *, time_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the days between two times, at least 0."""
    days: NDArray[np.float64] = np.maximum((time_us - first_us) / DAY_US, 0.0)
    return days


def first_seen_us(items: pl.DataFrame) -> NDArray[np.float64]:
    """Return when items entered the catalogue ``[items]``, NaN where that is not known."""
    return _numbers(items["first_seen"].to_physical())


def _numbers(values: pl.Series) -> NDArray[np.float64]:
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _categories(catalogue: Catalogue, *, shown: NDArray[np.integer]) -> dict[str, pl.Series]:
    """Return the values of some items in what may be their categories, by name."""
    roles = catalogue.feature_roles
    names = [*ATTRIBUTES, *(name for name, role in roles.items() if role is Role.CATEGORICAL)]
    return {name: catalogue.items[name].cast(pl.String).gather(shown) for name in names}


def _occurs(values: pl.Series) -> bool:
    return values.null_count() < len(values)


def _fitted(values: Mapping[str, pl.Series], *, min_count: int = 1) -> dict[str, IdVocabulary]:
    """Give rows to what occurs, and no table to a feature of which nothing does."""
    return {
        name: IdVocabulary.fit(one.drop_nulls(), min_count=min_count) for name, one in values.items() if _occurs(one)
    }
