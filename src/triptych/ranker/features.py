"""Gathers what rankers read, for candidates from the log or from anywhere.

Everything about the catalogue is looked up once, when the object is made. Of a batch each distinct item is gathered
once, whether it is a candidate of many requests, stands in many histories, or both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.events import KIND_CODES
from triptych.data.ids import UNK, IdVocabulary
from triptych.data.text import folded, words
from triptych.encoders.catalogue_inputs import CatalogueInputs
from triptych.encoders.inputs import View
from triptych.foundation.errors import ConfigError
from triptych.nn.bags import TableBags
from triptych.nn.query_former import ModalityTokens
from triptych.ranker.feature_ids import (
    AGE,
    CELL,
    HOUR,
    HOURS,
    ITEM,
    MATCH,
    QUERY,
    USER,
    WEEKDAY,
    WEEKDAYS,
    FeatureIds,
    cell_names,
    first_seen_us,
    since,
)
from triptych.ranker.inputs import Candidates, ItemFeatures, RequestFeatures, Shown, Sizes
from triptych.ranker.match import Match
from triptych.ranker.samples import Requests

GAP_ROWS = 21
"""A step's time before the request, in minutes: 0, 1, 2–3, 4–7, …; the last one begins at nine months."""
MOST_VALUES = 16
"""Values of a list, and words of a query, that are read: the first ones."""
MINUTE_US = 60_000_000
HIDDEN = (USER, QUERY, HOUR, WEEKDAY)
"""Fields of requests whose values training hides now and then, so that what it has not met has a vector."""

Modalities = Mapping[str, NDArray[Any]]
"""What items are made of: name → ``[items, dim]`` or ``[items, tokens, dim]`` by item row, NaN where there is none."""


class Looks(NamedTuple):
    """How items look to an encoder, whose vectors are then what they are made of."""

    inputs: CatalogueInputs
    views: tuple[View, ...]
    """Which of its vectors, in the order of their names."""
    states: bool = False
    """Whether those of title and photo are no vectors, but the states of words and patches."""

    @property
    def token_dims(self) -> dict[str, int]:
        """Length of a token of each."""
        if self.states:
            return {view.value: shape[-1] for view, shape in self.inputs.state_shapes(self.views).items()}
        return {view.value: self.inputs.vector_dim for view in self.views}


class Asking(NamedTuple):
    """Some requests, in rows of tables; from the log by `Features.of_log`, from elsewhere by `Features.of_words`."""

    fields: NDArray[np.int64]
    """``[requests, fields]``."""
    lists: tuple[NDArray[np.int64], ...]
    """Of each list ``[requests, most]``, -1 behind the end."""
    time_us: NDArray[np.int64]
    """``[requests]``."""
    steps: NDArray[np.int64]
    """``[requests, longest]``, item rows, oldest first, -1 behind the end."""
    step_time_us: NDArray[np.int64]
    """``[requests, longest]``."""
    step_kind: NDArray[np.int64]
    """``[requests, longest]``, as `data.events.KIND_CODES`."""
    queries: NDArray[np.float32] | None = None
    """``[requests, dim]``, vectors of their words for the match with items, NaN where there are none; None: nobody
    reads it."""


class Past(NamedTuple):
    """What one user has chosen before, oldest first."""

    item_rows: NDArray[Any]
    time_us: NDArray[Any]
    kind: NDArray[Any]
    """As `data.events.KIND_CODES`."""

    def latest(self, most: int) -> Past:
        """Keep the latest choices."""
        return Past(*(part[-most:] for part in self))


class Spoken(NamedTuple):
    """A request that is in no log."""

    user: str | None
    """Who asks; None, or somebody whom training has not met: a stranger."""
    query: str | None
    """In which words, if any."""
    cell: str | None
    """Where, if that is known."""
    time_us: int
    """When, in microseconds since 1970 UTC."""
    past: Past | None
    """What he has chosen before; None: nothing."""


class Features:
    """What is known of a catalogue's items and of its log, in rows of a model's tables."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        ids: FeatureIds,
        history_items: int,
        modalities: Modalities | None = None,
        looks: Looks | None = None,
        match: Match | None = None,
    ) -> None:
        """Look everything up.

        Args:
            catalogue: whose items, queries, users and log.
            ids: rows of tables, quantiles of numbers.
            history_items: the latest choices that are read, at most.
            modalities: what items are made of; None: nobody reads it.
            looks: how they look, in the place of that, to an encoder that is being trained.
            match: of which encoder the match of query and item is read; None: none is.

        Raises:
            ConfigError: a modality is not of these items; a match is read and there is none, or there is one and it is
                not read, or not of this catalogue.
        """
        self.ids = ids
        self._match = _checked_match(match, ids=ids, catalogue=catalogue)
        self._history_items = history_items
        self._catalogue_items = catalogue.num_items
        self._modalities = self._checked(modalities or {})
        self._looks = looks
        self._items = _Items.of(catalogue.items, ids=ids)
        self._names = [*ids.request_fields, HOUR, WEEKDAY]
        texts = folded(catalogue.queries)
        by_name = {USER: catalogue.users, QUERY: texts, CELL: cell_names(catalogue)}
        self._rows_of = {name: one.rows(by_name[name]) for name, one in ids.request_fields.items()}
        spoken = [words(text) for text in texts] if ids.request_lists else []
        self._spoken = [_lists(spoken, ids=one) for one in ids.request_lists.values()]
        self._positions = catalogue.histories.positions
        self._log = {name: catalogue.event_array(name) for name in ("item_row", "time", "kind")}

    @property
    def sizes(self) -> Sizes:
        """What a model's shape depends on."""
        ids = self.ids
        return Sizes(
            item_fields={name: one.num_rows for name, one in ids.item_fields.items()},
            item_lists={name: one.num_rows for name, one in ids.item_lists.items()},
            item_numbers=tuple(ids.item_numbers),
            request_fields={
                **{name: one.num_rows for name, one in ids.request_fields.items()},
                HOUR: 1 + HOURS,
                WEEKDAY: 1 + WEEKDAYS,
            },
            request_lists={name: one.num_rows for name, one in ids.request_lists.items()},
            sample_numbers=tuple(name for name, one in ((AGE, ids.age), (MATCH, ids.match)) if one is not None),
            gap_rows=1 + GAP_ROWS,
            kind_rows=1 + len(KIND_CODES),
            modalities=self._token_dims,
            catalogue_items=self._catalogue_items,
        )

    def id_rows(self, item_rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the rows of some items in the model's table of items ``[n]``; 0 for what training has not met."""
        found: NDArray[np.int64] = self._items.fields[item_rows, 0]
        return found

    @property
    def num_items(self) -> int:
        """Items that there are, those behind the catalogue's included."""
        return len(self._items.fields)

    @property
    def _token_dims(self) -> dict[str, int]:
        if self._looks is None:
            return {name: vectors.shape[-1] for name, vectors in self._modalities.items()}
        return self._looks.token_dims

    @property
    def tokens_per_item(self) -> int:
        """How many tokens what an item is made of has at most, of all modalities together."""
        return sum(vectors.shape[1] if vectors.ndim == 3 else 1 for vectors in self._modalities.values())

    @property
    def mapped_bytes(self) -> int:
        """What of the items' content lies in files, whose pages come into memory as they are read."""
        return sum(vectors.nbytes for vectors in self._modalities.values() if isinstance(vectors, np.memmap))

    def _checked(self, modalities: Modalities) -> dict[str, NDArray[Any]]:
        """Bring modalities into one order, whoever gives them."""
        for name, vectors in modalities.items():
            if vectors.ndim not in (2, 3) or len(vectors) != self._catalogue_items:
                raise ConfigError(
                    f"modalities: '{name}' has the shape {vectors.shape}; it must have one row, or one row of tokens, "
                    f"for each of the {self._catalogue_items:,} items of the catalogue."
                )
        return dict(sorted(modalities.items()))

    def with_modalities(self, modalities: Modalities) -> Features:
        """Return the same with other vectors of items, such as an encoder's in the place of how items look, or none."""
        other = copy.copy(self)
        other._modalities, other._looks = self._checked(modalities), None
        return other

    def of_log(self, requests: Requests) -> Asking:
        """Gather requests of the catalogue's log, with what their users had chosen before."""
        rows = {USER: requests.user_row, QUERY: requests.query_row, CELL: requests.cell}
        fields = [np.where(rows[name] >= 0, found[rows[name]], UNK) for name, found in self._rows_of.items()]
        lists = tuple(np.where(requests.query_row[:, None] >= 0, one[requests.query_row], -1) for one in self._spoken)
        stop, most = requests.history_stop, self._history_items
        count = np.minimum(stop - requests.history_start, most)
        inside = np.arange(max(1, int(count.max(initial=0))))
        there = inside < count[:, None]
        at = np.where(there, (stop - count)[:, None] + inside, 0)
        places = self._positions[at] if len(self._positions) else np.zeros_like(at)
        steps, times, kinds = (
            np.where(there, self._log[name][places], fill) if len(self._positions) else np.full(at.shape, fill)
            for name, fill in (("item_row", -1), ("time", 0), ("kind", 0))
        )
        queries = None if self._match is None else self._match.of_log(requests.query_row)
        return self._asking(fields, lists, requests.time_us, steps=steps, times=times, kinds=kinds, queries=queries)

    def of_words(
        self, *, user: str | None, query: str | None, cell: str | None, time_us: int, past: Past | None
    ) -> Asking:
        """Gather one request that is in no log; arguments as of `Spoken`."""
        return self.of_spoken([Spoken(user, query, cell, time_us, past)])

    def of_spoken(self, spoken: Sequence[Spoken]) -> Asking:
        """Gather requests that are in no log."""
        texts = folded([one.query or "" for one in spoken])
        given = {
            USER: [one.user for one in spoken],
            QUERY: [None if one.query is None else text for one, text in zip(spoken, texts, strict=True)],
            CELL: [one.cell for one in spoken],
        }
        fields = [one.rows(given[name]) for name, one in self.ids.request_fields.items()]
        lists = tuple(_lists([words(text) for text in texts], ids=one) for one in self.ids.request_lists.values())
        most = self._history_items
        latest = [None if one.past is None or not most else one.past.latest(most) for one in spoken]
        longest = max([1, *(len(one.item_rows) for one in latest if one is not None)])
        steps, times, kinds = (np.full((len(spoken), longest), fill, dtype=np.int64) for fill in (-1, 0, 0))
        for place, past in enumerate(latest):
            if past is not None:
                inside = slice(len(past.item_rows))
                steps[place, inside], times[place, inside], kinds[place, inside] = past
        time_us = np.array([one.time_us for one in spoken], dtype=np.int64)
        queries = None if self._match is None else self._match.of_words([one.query for one in spoken])
        return self._asking(fields, lists, time_us, steps=steps, times=times, kinds=kinds, queries=queries)

    def with_items(
        self, items: pl.DataFrame, *, modalities: Modalities, match_vectors: NDArray[Any] | None = None
    ) -> Features:
        """Return the same with more items behind the others, as candidates and for histories.

        Args:
            items: what is known of them: ``item_id``, ``first_seen``, and the columns of every feature. An id that
                training has not met is one that it does not know.
            modalities: what they are made of, the same names; left unread where nobody reads any.
            match_vectors: ``[n, dim]``, theirs of the encoder whose match with a query is read; left unread likewise.

        Raises:
            ConfigError: the match is read, and there are no such vectors.
        """
        assert self._looks is None, "items are added to what answers, which has vectors of them"
        more = copy.copy(self)
        more._items = self._items.followed_by(_Items.of(items, ids=self.ids))
        more._modalities = {
            name: _behind(vectors, np.asarray(modalities[name], dtype=vectors.dtype))
            for name, vectors in self._modalities.items()
        }
        if self._match is not None:
            if match_vectors is None:
                raise ConfigError(
                    "match_vectors: the ranker reads how query and item go together, and new items have no vectors of "
                    "that encoder. Give them."
                )
            more._match = self._match.with_items(match_vectors)
        return more

    def shown(self, item_rows: NDArray[np.integer]) -> Shown:
        """Gather what some items are made of."""
        if self._looks is not None:
            return Shown(looks=self._looks.inputs.of(item_rows))
        return Shown(tuple(tokens_of(vectors, item_rows) for vectors in self._modalities.values()))

    def candidates(
        self,
        asking: Asking,
        *,
        request: NDArray[np.integer],
        item_rows: NDArray[np.integer],
        hide: np.random.Generator | None = None,
        hide_rate: float = 0.0,
    ) -> Candidates:
        """Gather what is to be scored.

        Args:
            asking: the requests.
            request: ``[n]``, the place of each candidate's request.
            item_rows: ``[n]``, the candidates.
            hide: draws what is hidden, in training: ids of items, users and queries, hours and weekdays.
            hide_rate: which share of them.
        """
        there = asking.steps >= 0
        distinct, place = np.unique(np.concatenate([item_rows, asking.steps[there]]), return_inverse=True)
        steps = np.full(asking.steps.shape, -1, dtype=np.int64)
        steps[there] = place[len(item_rows) :]
        items, shown = self._items, self.shown(distinct)
        fields, asked = items.fields[distinct], asking.fields.copy()
        if hide is not None and hide_rate:
            fields[hide.random(len(distinct)) < hide_rate, 0] = UNK
            for column, name in enumerate(self._names):
                if name in HIDDEN:
                    asked[hide.random(len(asked)) < hide_rate, column] = UNK
        gaps = np.maximum(asking.time_us[:, None] - asking.step_time_us, 0) // MINUTE_US
        gap_rows = 1 + np.minimum(np.log2(1 + gaps).astype(np.int64), GAP_ROWS - 1)
        time_us = asking.time_us[request]
        numbers = []
        if self.ids.age is not None:
            numbers.append(self.ids.age(since(items.first_seen_us[item_rows], time_us=time_us)))
        if self.ids.match is not None and self._match is not None and asking.queries is not None:
            numbers.append(self.ids.match(self._match.cosines(asking.queries, request=request, item_rows=item_rows)))
        return Candidates(
            ItemFeatures(
                item_rows=torch.from_numpy(distinct.astype(np.int64)),
                fields=torch.from_numpy(fields),
                lists=tuple(TableBags.of(one[distinct]) for one in items.lists),
                numbers=torch.from_numpy(items.numbers[distinct]),
                content=shown.content,
                looks=shown.looks,
            ),
            RequestFeatures(
                fields=torch.from_numpy(asked),
                lists=tuple(TableBags.of(one) for one in asking.lists),
                steps=torch.from_numpy(steps),
                gaps=torch.from_numpy(np.where(there, gap_rows, 0)),
                kinds=torch.from_numpy(np.where(there, 1 + asking.step_kind, 0)),
            ),
            request=torch.from_numpy(request.astype(np.int64)),
            target=torch.from_numpy(place[: len(item_rows)].astype(np.int64)),
            numbers=torch.from_numpy(_side_by_side(numbers, rows=len(item_rows))),
        )

    def _asking(
        self,
        fields: Sequence[NDArray[Any]],
        lists: tuple[NDArray[np.int64], ...],
        time_us: NDArray[np.int64],
        *,
        steps: NDArray[Any],
        times: NDArray[Any],
        kinds: NDArray[Any],
        queries: NDArray[np.float32] | None,
    ) -> Asking:
        columns = [*fields, *self.ids.calendar.rows(time_us)]
        steps, times, kinds = (part.astype(np.int64) for part in (steps, times, kinds))
        return Asking(np.stack(columns, axis=1).astype(np.int64), lists, time_us, steps, times, kinds, queries)


class _Items(NamedTuple):
    """What is known of items, looked up."""

    fields: NDArray[np.int64]
    """``[items, fields]``."""
    lists: tuple[NDArray[np.int64], ...]
    """Of each list ``[items, most]``, -1 behind the end."""
    numbers: NDArray[np.float32]
    """``[items, 2 · numbers]``."""
    first_seen_us: NDArray[np.float64]
    """``[items]``, NaN where that is not known."""

    @classmethod
    def of(cls, items: pl.DataFrame, *, ids: FeatureIds) -> _Items:
        """Look items up in the columns of a catalogue."""
        columns = {ITEM: items["item_id"], **{name: items[name] for name in ids.item_fields if name != ITEM}}
        numbers = [
            one(items[name].cast(pl.Float64).fill_null(float("nan")).to_numpy())
            for name, one in ids.item_numbers.items()
        ]
        return cls(
            _table({name: columns[name].cast(pl.String) for name in ids.item_fields}, ids.item_fields),
            tuple(_lists(items[name].to_list(), ids=one) for name, one in ids.item_lists.items()),
            _side_by_side(numbers, rows=len(items)),
            first_seen_us(items),
        )

    def followed_by(self, more: _Items) -> _Items:
        """Put more items behind these."""
        return _Items(
            np.concatenate([self.fields, more.fields]),
            tuple(_below(one, other) for one, other in zip(self.lists, more.lists, strict=True)),
            np.concatenate([self.numbers, more.numbers]),
            np.concatenate([self.first_seen_us, more.first_seen_us]),
        )


def _checked_match(match: Match | None, *, ids: FeatureIds, catalogue: Catalogue) -> Match | None:
    """See that there is a match exactly where one is read, and that it is of this catalogue."""
    if match is None and ids.match is not None:
        raise ConfigError(
            "match: the ranker was trained to read how query and item go together (reads_match), and is given no "
            "encoder's vectors of them. Give match."
        )
    if match is not None and ids.match is None:
        raise ConfigError("match: the ranker was trained without it and reads none. Leave it out.")
    if match is not None:
        match.check(catalogue)
    return match


def _behind(before: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
    """Put what more items are made of behind the others, tokens up to one number."""
    if before.ndim == 2:
        return np.concatenate([before, more])
    longest = max(before.shape[1], more.shape[1])
    parts = [
        np.pad(one, ((0, 0), (0, longest - one.shape[1]), (0, 0)), constant_values=np.nan) for one in (before, more)
    ]
    return np.concatenate(parts)


def _below(above: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put lists below others, of one length."""
    longest = max(above.shape[1], below.shape[1])
    parts = [np.pad(one, ((0, 0), (0, longest - one.shape[1])), constant_values=-1) for one in (above, below)]
    return np.concatenate(parts)


def _table(columns: Mapping[str, pl.Series], ids: Mapping[str, IdVocabulary]) -> NDArray[np.int64]:
    return np.stack([one.rows(columns[name]) for name, one in ids.items()], axis=1)


def _lists(values: Sequence[Sequence[str | None] | None], *, ids: IdVocabulary) -> NDArray[np.int64]:
    """Look up lists, int64 ``[n, most]``, -1 behind the end; values without a row are passed over."""
    named = [[value for value in one or () if value is not None] for one in values]
    rows = ids.rows([value for one in named for value in one])
    of = np.repeat(np.arange(len(named)), [len(one) for one in named])
    of, rows = of[rows != UNK], rows[rows != UNK]
    inside = np.arange(len(of)) - np.searchsorted(of, of)
    kept = inside < MOST_VALUES
    found = np.full((len(named), int(inside[kept].max(initial=0)) + 1), -1, dtype=np.int64)
    found[of[kept], inside[kept]] = rows[kept]
    return found


def _side_by_side(
    numbers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], *, rows: int
) -> NDArray[np.float32]:
    """Join numbers, values first: float32 ``[rows, 2 · numbers]``."""
    columns = [one[side] for side in (0, 1) for one in numbers]
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0), dtype=np.float32)


def require_tokens(modalities: Modalities) -> None:
    """Refuse one vector of each modality where words and patches are read: nothing else tells one from the other.

    Raises:
        ConfigError: none has several tokens.
    """
    if all(vectors.ndim < 3 for vectors in modalities.values()):
        raise ConfigError(
            "modalities: content.tokens = 'states' reads words and patches, and these are one vector of each. Give "
            "those of encoders.item_states.load_states, or train with tokens = 'vectors'."
        )


def tokens_of(vectors: NDArray[Any], rows: NDArray[np.integer]) -> ModalityTokens:
    """Gather the tokens of some items in one of their `Modalities`."""
    found = np.asarray(vectors[rows], dtype=np.float32)
    tokens = found[:, None] if found.ndim == 2 else found
    keep = ~np.asarray(np.isnan(tokens).any(axis=2))
    return ModalityTokens(torch.from_numpy(np.where(keep[:, :, None], tokens, 0.0)), torch.from_numpy(keep))
