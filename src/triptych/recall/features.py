"""What a recall model reads: rows of its tables, and the vectors that a pretrained encoder has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNK
from triptych.data.pages import Runs
from triptych.data.text import folded
from triptych.nn.bags import TableBags, bags_of
from triptych.recall.behaviour import NUM_KINDS, BehaviourLog, Choices, Moments
from triptych.recall.ids import USERS, Ids, attribute_rows
from triptych.recall.item_codes import ItemCodes, joined
from triptych.recall.learned import Behaviour, ItemFeatures, Needs, PastQueries, QueryUnits, RequestFeatures, Sizes
from triptych.recall.text_units import UNITS


class Features:
    """Gathers what a model reads of the queries, items and users of a catalogue, by their rows there."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        ids: Ids,
        query_content: NDArray[Any] | None = None,
        item_content: NDArray[Any] | None = None,
        item_modalities: Mapping[str, NDArray[Any]] | None = None,
        title_content: NDArray[Any] | None = None,
        item_codes: Sequence[ItemCodes] = (),
        needs: Needs | None = None,
    ) -> None:
        """Look the ids up once.

        Args:
            catalogue: whose queries and items.
            ids: of the model's tables.
            query_content: ``[queries, dim]``, in memory or mapped; None where the model reads none.
            item_content: ``[items, dim]``, likewise.
            item_modalities: name → ``[items, dim]``, likewise; read in training alone.
            title_content: ``[items, dim]``, of titles alone, likewise; NaN for none.
            item_codes: sets of semantic IDs; empty where the model reads none.
            needs: of the model; None: nothing but IDs and content.
        """
        self.needs = needs = Needs() if needs is None else needs
        self.catalogue = catalogue
        self._query_ids = ids.queries.rows(folded(catalogue.queries))
        self._item_ids = ids.items.rows(catalogue.item_ids)
        self._query_content, self._item_content = query_content, item_content
        self._item_modalities = dict(item_modalities or {})
        self._title_content = title_content
        self._codes = joined(item_codes) if item_codes else None
        self._set_of_level = np.repeat(np.arange(len(item_codes)), [one.shape.levels for one in item_codes])
        self._units = {
            name: ids.units(catalogue.queries, name=name, most=needs.query_units)
            for name in (UNITS if needs.query_units else ())
        }
        self._past_words, self._title_words, self._attributes, self._log = None, None, None, None
        if needs.past_queries:
            self._past_words = ids.units(catalogue.queries, name="words", most=needs.query_units)
        if needs.title_words:
            self._title_words = ids.units(catalogue.titles, name="words", most=needs.title_words)
        if needs.history_attributes:
            self._attributes = attribute_rows(catalogue.items, ids=ids)
        if needs.history:
            self._log = BehaviourLog(catalogue, needs=needs)
        self._user_ids = ids.users(catalogue.users) if needs.user else None
        self.sizes = Sizes(
            num_queries=ids.queries.num_rows,
            num_items=ids.items.num_rows,
            query_content_dim=0 if query_content is None else query_content.shape[1],
            item_content_dim=0 if item_content is None else item_content.shape[1],
            unit_rows=tuple(ids.others[name].num_rows if name in ids.others else 0 for name in UNITS),
            attribute_rows=tuple(ids.others[name].num_rows for name in ids.attributes),
            num_users=ids.others[USERS].num_rows if needs.user else 0,
            modalities=tuple((name, vectors.shape[1]) for name, vectors in self._item_modalities.items()),
            title_content_dim=0 if title_content is None else title_content.shape[1],
            code_sets=tuple((one.shape.levels, one.shape.num_codes) for one in item_codes),
        )

    def requests(
        self,
        query_rows: NDArray[np.integer],
        *,
        hidden: NDArray[np.bool_] | None = None,
        moments: Moments | None = None,
    ) -> RequestFeatures:
        """Gather what is known of some queries and of who asks.

        Args:
            query_rows: ``[n]``, of the catalogue; -1 where there is none, for models that read none.
            hidden: bool ``[n]``, whose ID is hidden (ID dropout); None: nobody's.
            moments: who asks and when; None: nobody is known.
        """
        if not self.needs.query:
            asked = RequestFeatures(torch.zeros(len(query_rows), dtype=torch.int64), None)
            if self._user_ids is not None:
                rows = np.full(len(query_rows), -1) if moments is None else moments.user_row
                asked = asked._replace(user_ids=torch.from_numpy(_shown(self.user_ids(rows), hidden)))
        else:
            ids = torch.from_numpy(_shown(self._query_ids[query_rows], hidden))
            distinct, of = np.unique(query_rows, return_inverse=True)
            units = query_units({name: rows[distinct] for name, rows in self._units.items()}, of=of)
            asked = RequestFeatures(ids, taken(self._query_content, query_rows), units)
        if self._log is None:
            return asked
        if moments is None:
            nobody = np.full(len(query_rows), -1)
            moments = Moments(nobody, nobody)
        return self.with_history(asked, self._log.before(moments))

    def user_ids(self, user_rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Look up users by their rows in the catalogue ``[n]``, -1 for nobody known; of a model that needs them."""
        assert self._user_ids is not None, "the model knows no users"
        if not len(self._user_ids):
            return np.full(len(user_rows), UNK, dtype=np.int64)
        return np.where(user_rows >= 0, self._user_ids[user_rows], UNK)

    def item_ids(self, item_rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Look up items by their rows in the catalogue."""
        return self._item_ids[item_rows]

    def modalities(self) -> dict[str, torch.Tensor]:
        """Return what items are made of, by rows of the table of items; see `ModalityModel.describe`."""
        known = self._item_ids != UNK
        found = {}
        for name, vectors in self._item_modalities.items():
            table = torch.full((self.sizes.num_items, vectors.shape[1]), torch.nan)
            table[torch.from_numpy(self._item_ids[known])] = torch.from_numpy(vectors[known].astype(np.float32))
            found[name] = table
        return found

    def in_runs(self, runs: Runs) -> RequestFeatures:
        """Gather histories that many requests share, one request for each step."""
        distinct, places = _distinct(runs.before)
        count = len(places)
        behaviour = Behaviour(
            self._chosen_items(distinct),
            real_time=torch.from_numpy(places),
            short_term=torch.empty(count, 0, dtype=torch.int64),
            long_term=bags_of(np.empty(0, np.int64), sizes=np.zeros(count * NUM_KINDS, dtype=np.int64)),
        )
        nobody_asks = torch.zeros(len(runs.step), dtype=torch.int64)
        return RequestFeatures(nobody_asks, None, behaviour=behaviour, step=torch.from_numpy(runs.step))

    def with_history(self, asked: RequestFeatures, choices: Choices) -> RequestFeatures:
        """Add histories ``[n]`` to what is known of requests, as far as the model reads them."""
        past = self._past(choices.past_queries) if self.needs.past_queries else None
        return asked._replace(past=past, behaviour=self._behaviour(choices))

    def before(self, moments: Moments) -> Choices:
        """Gather the histories of a model that reads some."""
        assert self._log is not None, "the model reads no history"
        return self._log.before(moments)

    def with_items(self, item_ids: NDArray[np.int64], *, content: NDArray[Any] | None) -> Features:
        """Return the same with items appended, so that histories may name them by the rows that follow.

        Args:
            item_ids: ``[n]``, their rows in the table of items.
            content: ``[n, dim]``, theirs; left unread by a model that reads none.
        """
        assert self._attributes is None, "attributes are read of the catalogue's items alone"
        found = copy(self)
        found._item_ids = np.concatenate([self._item_ids, item_ids])
        if self._item_content is not None:
            assert content is not None, "the model reads content"
            found._item_content = np.concatenate([self._item_content, content])
        return found

    def items(
        self,
        item_rows: NDArray[np.integer],
        *,
        hidden: NDArray[np.bool_] | None = None,
        hidden_codes: NDArray[np.bool_] | None = None,
    ) -> ItemFeatures:
        """Gather what is known of some items.

        Args:
            item_rows: ``[n]``, of the catalogue.
            hidden: as of `requests`.
            hidden_codes: bool ``[n, sets]``, whose semantic IDs are hidden; None: nobody's.
        """
        ids = _shown(self._item_ids[item_rows], hidden)
        words = None if self._title_words is None else TableBags.of(self._title_words[item_rows])
        return ItemFeatures(
            torch.from_numpy(ids),
            taken(self._item_content, item_rows),
            words,
            title_content=taken(self._title_content, item_rows),
            codes=self._shown_codes(item_rows, hidden_codes),
        )

    def _shown_codes(
        self, item_rows: NDArray[np.integer], hidden: NDArray[np.bool_] | None = None
    ) -> torch.Tensor | None:
        if self._codes is None:
            return None
        codes = self._codes[item_rows]
        if hidden is not None:
            codes[hidden[:, self._set_of_level]] = -1
        return torch.from_numpy(codes)

    def _past(self, query_rows: NDArray[np.int32]) -> PastQueries:
        assert self._past_words is not None
        distinct, places = _distinct(query_rows)
        return PastQueries(TableBags.of(self._past_words[distinct]), torch.from_numpy(cut(places)))

    def _behaviour(self, choices: Choices) -> Behaviour | None:
        if not self.needs.choices:
            return None
        count, _, most = choices.long_term.shape
        lists = (choices.real_time, choices.short_term, choices.long_term.reshape(count, NUM_KINDS * most))
        distinct, places = _distinct(np.concatenate(lists, axis=1))
        real_time, short_term, long_term = np.split(
            places, np.cumsum([choices.real_time.shape[1], choices.short_term.shape[1]]), axis=1
        )
        long_term = long_term.reshape(count * NUM_KINDS, most)
        there = long_term >= 0
        return Behaviour(
            self._chosen_items(distinct),
            torch.from_numpy(cut(real_time)),
            torch.from_numpy(cut(short_term)),
            bags_of(long_term[there], sizes=there.sum(axis=1)),
        )

    def _chosen_items(self, rows: NDArray[np.integer]) -> ItemFeatures:
        """Gather what the model reads of items in histories."""
        return ItemFeatures(
            torch.from_numpy(self._item_ids[rows]),
            taken(self._item_content, rows) if self.needs.history_content else None,
            attributes=None if self._attributes is None else torch.from_numpy(self._attributes[rows]),
        )


def query_units(rows: Mapping[str, NDArray[np.int32]], *, of: NDArray[np.int64]) -> QueryUnits | None:
    """Gather the units of requests, name → ``[distinct, most]``, whose queries are these; None where there are none."""
    if not rows:
        return None
    words = torch.from_numpy(cut(rows["words"].astype(np.int64)))
    return QueryUnits(TableBags.of(rows["characters"]), TableBags.of(rows["pairs"]), words, torch.from_numpy(of))


def requests_of(
    texts: Sequence[str], *, ids: Ids, content: NDArray[np.float32] | None, needs: Needs | None = None
) -> RequestFeatures:
    """Gather what is known of queries by their words, whether the catalogue has them or not.

    Args:
        texts: ``[n]``.
        ids: of the model's tables.
        content: ``[n, dim]``, from the pretrained encoder; None where the model reads none.
        needs: of the model; None: nothing but IDs and content.
    """
    most = 0 if needs is None else needs.query_units
    rows = torch.from_numpy(ids.queries.rows(folded(texts)))
    units = {name: ids.units(texts, name=name, most=most) for name in (UNITS if most else ())}
    each = query_units(units, of=np.arange(len(texts)))
    return RequestFeatures(rows, None if content is None else torch.from_numpy(content), each)


def strangers(asked: RequestFeatures, *, needs: Needs, sizes: Sizes) -> RequestFeatures:
    """Give requests the empty histories of somebody unknown, where there is no catalogue to look anything up in."""
    count, nothing = len(asked.query_ids), torch.zeros(0, dtype=torch.int64)
    none_each = torch.full((count, 1), -1, dtype=torch.int64)
    no_items = ItemFeatures(
        nothing,
        torch.zeros(0, sizes.item_content_dim) if needs.history_content else None,
        attributes=torch.zeros(0, len(sizes.attribute_rows), dtype=torch.int64) if needs.history_attributes else None,
    )
    no_choices = bags_of(np.empty(0, np.int64), sizes=np.zeros(count * NUM_KINDS, dtype=np.int64))
    no_words = TableBags.of(np.full((0, 1), -1))
    return asked._replace(
        past=PastQueries(no_words, none_each) if needs.past_queries else None,
        behaviour=Behaviour(no_items, none_each, none_each, no_choices) if needs.choices else None,
    )


def taken(content: NDArray[Any] | None, rows: NDArray[np.integer]) -> torch.Tensor | None:
    """Copy some rows of the content vectors as float32."""
    return None if content is None else torch.from_numpy(content[rows].astype(np.float32, copy=False))


def cut(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut the padding that all lists ``[n, most]`` have in common, but for one column."""
    longest = int((places >= 0).sum(axis=1).max(initial=1))
    return np.ascontiguousarray(places[:, :longest])


def _distinct(rows: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Return the distinct rows, ascending, and for each its place among them, -1 for -1."""
    there = rows >= 0
    distinct, of = np.unique(rows[there], return_inverse=True)
    places = np.full(rows.shape, -1, dtype=np.int64)
    places[there] = of
    return distinct, places


def _shown(ids: NDArray[np.int64], hidden: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    return ids if hidden is None else np.where(hidden, UNK, ids)
