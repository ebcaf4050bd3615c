"""Retrieve → rank: a channel finds, and a ranker puts the first of what it found into its own order.

A ranker learned from what was shown at some moment. It is asked as at the end of the log: what it knows of ages and
histories ends there, and so an answer does not change with the clock. An evaluation asks as at the beginning of the
part that it looks into.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from triptych.data.catalogue import Catalogue
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import encode_views, load_views
from triptych.encoders.inputs import View
from triptych.encoders.item_states import encode_states, load_states
from triptych.engine.answers import Channel, Placed
from triptych.engine.bundle import Parts
from triptych.engine.new_items import NewItem
from triptych.foundation.artifact import write_json
from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.index.base import Index
from triptych.ranker.content.semantic_ids import SEMANTIC_ID, code_tokens
from triptych.ranker.features import Past, Spoken
from triptych.ranker.match import Match
from triptych.ranker.scorer import ITEM_VECTORS, SCORED_AT_ONCE, Ranker, read_needs
from triptych.recall.base import Request, Retriever
from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.stored import SemanticIds

RULE_FILE = "rule.json"


class RankRule(NamedTuple):
    """What validation said of a ranker."""

    channel: Channel
    """Whose answers it ordered there: the one that answers words."""
    candidates: int
    """How many of the first it looks at."""
    is_preferred: bool
    """Whether they were better in its order, by more than chance."""

    def save(self, folder: Path) -> None:
        """Write it."""
        write_json(folder / RULE_FILE, self._asdict())

    @classmethod
    def load(cls, folder: Path) -> RankRule:
        """Read what `save` wrote."""
        tree = json.loads((folder / RULE_FILE).read_text(encoding="utf-8"))
        return cls(Channel(tree["channel"]), int(tree["candidates"]), bool(tree["is_preferred"]))


class Ordered(NamedTuple):
    """Answers in a ranker's order."""

    hits: Hits
    """As they were found, in another order; scores are those of who found them."""
    placed: Sequence[Mapping[int, Placed]]
    """Of each request item row → what the ranker made of it, of those that it looked at."""


class Ranking:
    """A ranker over the items of one moment."""

    def __init__(
        self,
        ranker: Ranker,
        *,
        candidates: int,
        catalogue: Catalogue,
        moment_us: int | None = None,
        quantizer: Quantizer | None = None,
    ) -> None:
        """Put a ranker to use.

        Args:
            ranker: opened over the catalogue; `Ranker.answering` has it look content up, as `open` does.
            candidates: how many of the first found it looks at.
            catalogue: in whose log users' histories are looked up.
            moment_us: when is asked, in microseconds since 1970 UTC: nothing later is looked up. None: at the end of
                the log.
            quantizer: chooses the semantic IDs of new items; None: the ranker reads none.
        """
        self._quantizer = quantizer
        self._ranker, self._candidates, self._catalogue = ranker, candidates, catalogue
        times = catalogue.event_array("time")
        self._moment_us = moment_us if moment_us is not None else int(times[-1]) + 1 if len(times) else 0

    @classmethod
    def open(cls, parts: Parts, *, catalogue: Catalogue, index: Index, embedder: Embedder) -> Ranking | None:
        """Open what a bundle names; None where it has no ranker.

        Args:
            parts: of the bundle.
            catalogue: its items and log.
            index: of the encoder's item vectors.
            embedder: that encoder, for queries.
        """
        if parts.ranker is None or parts.ranking is None:
            return None
        ranker = open_ranker(parts, catalogue=catalogue, index=index, embedder=embedder)
        ids = parts.semantic_ids if SEMANTIC_ID in ranker.model.sizes.modalities else None
        return cls(
            ranker.answering(),
            candidates=RankRule.load(parts.ranking.path).candidates,
            catalogue=catalogue,
            quantizer=None if ids is None else SemanticIds.open(ids).quantizer,
        )

    @property
    def content_bytes(self) -> int:
        """What the items' content vectors take in memory."""
        return 0 if self._ranker.content is None else self._ranker.content.memory_bytes

    @property
    def candidates(self) -> int:
        """How many of the first found it looks at."""
        return self._candidates

    def with_items(self, new: Sequence[NewItem], *, vectors: NDArray[np.float32], embedder: Embedder) -> Ranking:
        """Return the same with items behind the others: what training has not met has no vector by ID, but content.

        Theirs is worked out here, once.

        Args:
            new: the items.
            vectors: of the encoder, ``[n, dim]``.
            embedder: that encoder. A ranker that has trained its own reads of both at most the match with a query.
        """
        features, own = self._ranker.features, self._ranker.encoder
        embedder = embedder if own is None else own.embedder
        modalities: dict[str, NDArray[Any]] = {ITEM_VECTORS: vectors}
        if self._quantizer is not None:
            modalities[SEMANTIC_ID] = code_tokens(self._quantizer.assign(vectors))
        reads, states = self._ranker.model.sizes.modalities, self._ranker.model.content_config.reads_states
        if own is not None or states or len(reads) > 1:
            px = embedder.px
            pixels = np.stack([np.zeros((px, px, 3), np.uint8) if one.pixels is None else one.pixels for one in new])
            has_photo = np.array([one.pixels is not None for one in new], dtype=np.bool_)
            titles = [one.text(embedder.title_features) for one in new]
            if own is None and states:
                sides = [View(name) for name in reads if name != ITEM_VECTORS]
                modalities |= encode_states(titles, pixels=pixels, has_photo=has_photo, embedder=embedder, views=sides)
            elif own is None:
                modalities |= encode_views(titles, pixels=pixels, has_photo=has_photo, embedder=embedder)
            else:
                modalities = dict(own.encode(titles, pixels=pixels, has_photo=has_photo))
        ids = features.ids
        types = {
            "item_id": pl.String(),
            "first_seen": pl.Datetime("us", "UTC"),
            **{name: pl.String() for name in ids.item_fields if name != "item"},
            **{name: pl.List(pl.String) for name in ids.item_lists},
            **{name: pl.Float64() for name in ids.item_numbers},
        }
        columns = [
            pl.Series(name, [getattr(one, name, one.features.get(name)) for one in new], dtype=dtype)
            for name, dtype in types.items()
        ]
        ranker = self._ranker.with_items(pl.DataFrame(columns), modalities=modalities, match_vectors=vectors)
        return Ranking(
            ranker,
            candidates=self._candidates,
            catalogue=self._catalogue,
            moment_us=self._moment_us,
            quantizer=self._quantizer,
        )

    def order(self, requests: Sequence[Request], found: Hits, *, cell: str | None = None) -> Ordered:
        """Put the first of each answer into the ranker's order; what stands behind them stays where it is.

        Args:
            requests: ``[n]``, of words; by whom, where that is said.
            found: ``[n, k]``.
            cell: where is asked, if that is known.
        """
        rows, scores = found.item_rows.copy(), found.scores.copy()
        first = rows[:, : self._candidates]
        request, place = np.nonzero(first >= 0)
        log_odds = np.full(first.shape, -np.inf, dtype=np.float32)
        log_odds[request, place] = self._log_odds(requests, request=request, item_rows=first[request, place], cell=cell)
        placed = []
        for one in range(len(rows)):
            kept = np.flatnonzero(first[one] >= 0)
            order = kept[np.lexsort((first[one, kept], -log_odds[one, kept]))]
            chances = expit(log_odds[one, order].astype(np.float64))
            placed.append(
                {
                    int(row): Placed(int(before) + 1, float(chance))
                    for row, before, chance in zip(first[one, order], order, chances, strict=True)
                }
            )
            scores[one, kept], rows[one, kept] = found.scores[one, order], found.item_rows[one, order]
        return Ordered(Hits(rows, scores), placed)

    def _log_odds(
        self, requests: Sequence[Request], *, request: NDArray[np.int64], item_rows: NDArray[np.int64], cell: str | None
    ) -> NDArray[np.float32]:
        """Score candidates ``[n]`` of requests, which come in order."""
        asking = [self._spoken(one, cell=cell) for one in requests]
        found = np.empty(len(item_rows), dtype=np.float32)
        at_once = max(1, SCORED_AT_ONCE // self._candidates)
        for start in range(0, len(requests), at_once):
            some = slice(*np.searchsorted(request, [start, start + at_once]))
            features = self._ranker.features.of_spoken(asking[start : start + at_once])
            found[some] = self._ranker.score(features, item_rows=item_rows[some], request=request[some] - start)
        return found

    def _spoken(self, request: Request, *, cell: str | None) -> Spoken:
        log = self._catalogue
        times = log.event_array("time")
        time_us = self._moment_us
        if request.user is not None and request.before is not None:
            time_us = int(times[request.before])
        row = None if request.user is None else log.user_row(request.user)
        past = None
        if row is not None:  # before the instant, as in training: not what the log has of the same moment
            places = log.histories.of(row, before=int(np.searchsorted(times, time_us, side="left")))
            past = Past(log.event_array("item_row")[places], times[places], log.event_array("kind")[places])
        return Spoken(request.user, request.query, cell, time_us, past)


def open_ranker(parts: Parts, *, catalogue: Catalogue, index: Index, embedder: Embedder) -> Ranker:
    """Open the ranker of a bundle that has one, over what it reads; arguments as of `Ranking.open`."""
    assert parts.ranker is not None
    needs = read_needs(parts.ranker.path)
    there: dict[str, NDArray[Any]] = {} if parts.item_views is None else dict(load_views(parts.item_views))
    if parts.item_states is not None:
        there |= load_states(parts.item_states)
    if needs.match or ITEM_VECTORS in needs.modalities:
        there[ITEM_VECTORS] = index.vectors(np.arange(catalogue.num_items))
    if SEMANTIC_ID in needs.modalities:
        assert parts.semantic_ids is not None, "the lineage was checked"
        ids = SemanticIds.open(parts.semantic_ids)
        there[SEMANTIC_ID] = code_tokens(ids.codes[:, : ids.quantizer.levels])
    modalities = {name: vectors for name, vectors in there.items() if name in needs.modalities}
    match = Match(there[ITEM_VECTORS], embedder.queries) if needs.match else None
    return Ranker.load(parts.ranker, catalogue=catalogue, modalities=modalities or None, match=match)


class RankedRetriever:
    """The whole line as one retriever: what finds, and the ranker behind it."""

    def __init__(self, first: Retriever, ranking: Ranking, *, name: str) -> None:
        """Put a ranker behind a retriever."""
        self._first, self._ranking, self._name = first, ranking, name

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k first of each answer in the ranker's order."""
        found = self._first.retrieve(requests, max(k, self._ranking.candidates))
        rows, scores = self._ranking.order(requests, found).hits
        return Hits(rows[:, :k], scores[:, :k])


def require_rankable(*, has_ranker: bool, text: str | None, has_photo: bool) -> None:
    """Refuse what no ranker can order.

    Raises:
        EngineError: there is none, or the search is not by words alone.
    """
    if not has_ranker:
        raise EngineError("This shop has no ranker. Leave rank out, or run it with [ranker] set.")
    if text is None or has_photo:
        raise EngineError("The ranker orders what was found by words alone. Leave rank out, or the photo.")
