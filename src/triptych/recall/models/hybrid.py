"""Hybrid retrieval: several retrievers are asked, and their candidates become one list.

Each channel is asked for its best `candidates`, a formula of `triptych.recall.fusion` orders their union, and quotas
(`triptych.recall.quotas`) give a channel its least number of the first places.

A channel is asked what it can read. What a request holds is known (words, a photo, an item, a history), and so is what
a channel reads; one that would leave out part of the request is left out of its answer, as BM25 is where there is a
photo. `Hybrid.asked` says who answers; a request that no channel reads is refused.

A filter is handed on to the channels: places and scores are those among the items that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import folded
from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError, EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import FloatArray, IntArray, Request, Retriever, RetrieverConfig
from triptych.recall.fusion import (
    Context,
    Float64Array,
    Fusion,
    Union,
    best,
    feature_names,
    features,
    normalised,
    reciprocal,
    unite,
    weighted,
)
from triptych.recall.quotas import with_quotas

CONFIG_FILE, RULE_FILE = "config.json", "rule.json"
QUERY_COUNTS, ITEM_COUNTS = "query_counts.parquet", "item_counts.npy"


class HybridConfig(RetrieverConfig):
    """Which channels are fused, and how."""

    kind: Literal["hybrid"] = "hybrid"
    """Name of the file that defines it."""
    channels: tuple[str, ...] | None = Field(None, min_length=2)
    """Who is asked, of recall, dense (the served encoder), generative (the decoder of semantic IDs), bm25, popularity,
    and new (dense among the items that nobody chose in training); none: recall where there is a recall model, dense and
    bm25."""
    candidates: int = Field(200, ge=1)
    """Items that each channel is asked for; no answer is longer than theirs together."""
    fusion: Fusion | None = None
    """rrf, minmax, zscore or learned; none: the one that is best on validation, each fitted on one half of its queries
    and measured on the other."""
    weights: dict[str, float] | None = None
    """Of each channel, with fusion = 'rrf', 'minmax' or 'zscore'; none: chosen on validation among shares in quarters,
    as many trials for each formula."""
    rrf_constant: float = Field(60.0, gt=0)
    """Added to the place in reciprocal-rank fusion: the larger, the less the first places stand out."""
    quotas: dict[str, int] = Field(default_factory=dict)
    """Channel → least number of the first places that are of its candidates; it has fewer where it found fewer."""
    quota_places: int = Field(10, ge=1)
    """How many the first places are."""
    validation_queries: int = Field(1_000, ge=2)
    """Queries of the validation part by which weights and formula are chosen; fewer where it has fewer."""
    validation_k: int = Field(20, ge=1)
    """Cut-off of the recall that chooses them. Judged queries choose by NDCG@10."""
    l2: float = Field(1e-3, gt=0)
    """Half of it times the squared length of the learned weights is added to their loss."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = None if self.channels is None else set(self.channels)
        if self.channels is not None and len(set(self.channels)) < len(self.channels):
            raise ValueError("channels must not name a channel twice.")
        for field, named in (("weights", self.weights or {}), ("quotas", self.quotas)):
            unknown = sorted(set(named) - names) if names is not None else []
            if unknown:
                raise ValueError(f"{field} names {', '.join(unknown)}, which is not among channels. Add it there.")
        if any(least < 1 for least in self.quotas.values()):
            raise ValueError("quotas must be at least 1 place each. Remove those that ask for nothing.")
        if sum(self.quotas.values()) > self.quota_places:
            raise ValueError(
                f"quotas take {sum(self.quotas.values())} places, and quota_places is {self.quota_places}. Ask for "
                "fewer, or raise quota_places."
            )
        if self.weights is not None:
            if self.fusion is None or self.fusion is Fusion.LEARNED:
                raise ValueError("weights need a formula: set fusion = 'rrf', 'minmax' or 'zscore'.")
            if names is not None and names != set(self.weights):
                raise ValueError("weights must give each of channels one; 0 for none.")
            if any(weight < 0 for weight in self.weights.values()) or not any(self.weights.values()):
                raise ValueError("weights must be 0 or more, and not all 0.")
        without_effect = {
            "rrf_constant": self.fusion not in (None, Fusion.RRF),
            "quota_places": not self.quotas,
            "l2": self.fusion not in (None, Fusion.LEARNED),
            "validation_queries": self.weights is not None,
            "validation_k": self.weights is not None,
        }
        for name, idle in without_effect.items():
            if idle and getattr(self, name) != HybridConfig.model_fields[name].default:
                raise ValueError(f"{name} has no effect with the other settings of hybrid. Remove it.")
        return self


CONFIG = HybridConfig


class AskedBy(StrEnum):
    """What a request may hold."""

    WORDS = "words"
    PHOTO = "a photo"
    ITEM = "an item"
    HISTORY = "a history"


def parts_of(request: Request) -> frozenset[AskedBy]:
    """Return what a request asks by; who asks counts where there is nothing else."""
    held = {
        AskedBy.WORDS: request.query is not None,
        AskedBy.PHOTO: request.photo is not None,
        AskedBy.ITEM: request.item_row is not None,
        AskedBy.HISTORY: request.history is not None,
    }
    found = frozenset(part for part, there in held.items() if there)
    return found or (frozenset({AskedBy.HISTORY}) if request.user is not None else found)


@dataclass(frozen=True)
class HybridChannel:
    """A retriever, and what it reads."""

    retriever: Retriever
    reads: frozenset[AskedBy]
    """A request that holds anything else is not for it."""
    knows: Callable[[str], bool] | None = None
    """Whether it knows anything of a query; one that knows nothing is not asked. None: it always does."""

    def can_answer(self, request: Request) -> bool:
        """Say whether it reads all that a request holds, and knows something of its words."""
        parts = parts_of(request)
        if not parts or not parts <= self.reads:
            return False
        return self.knows is None or request.query is None or self.knows(request.query)


class Rule(NamedTuple):
    """What was chosen on validation, or given: the formula and its weights."""

    fusion: Fusion
    weights: tuple[float, ...]
    """Of the channels, or of `fusion.feature_names`, with context where the hybrid has counts."""
    is_preferred: bool = False
    """Whether validation says that it is better than each channel alone, by more than chance."""


class LogCounts(NamedTuple):
    """What training has seen of a log. Judgements have no such counts: which items were judged is somebody's choice."""

    of_query: Mapping[str, int]
    """Query as `data.text.folded` writes it → choices under it."""
    of_item: IntArray
    """``[items]``, choices of each; items behind the last were added later, and have none."""

    @classmethod
    def fit(cls, catalogue: Catalogue, *, split: Split) -> LogCounts:
        """Count the choices of the training part."""
        pairs = split.train_pairs(catalogue)
        counts = (
            pl.DataFrame({"row": pairs.query_row, "clicks": pairs.clicks})
            .with_columns(query=pl.Series(folded(catalogue.queries), dtype=pl.String).gather(pairs.query_row))
            .group_by("query")
            .agg(pl.col("clicks").sum())
        )
        return cls(dict(counts.select("query", "clicks").iter_rows()), split.train_counts(catalogue).astype(np.int64))

    def save(self, folder: Path) -> None:
        """Write both, the queries in alphabetical order."""
        queries = sorted(self.of_query)
        counts = pl.DataFrame(
            {"query": queries, "count": [self.of_query[query] for query in queries]},
            schema={"query": pl.String, "count": pl.Int64},
        )
        counts.write_parquet(folder / QUERY_COUNTS)
        np.save(folder / ITEM_COUNTS, self.of_item)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        of_query = dict(pl.read_parquet(folder / QUERY_COUNTS).select("query", "count").iter_rows())
        return cls(of_query, np.load(folder / ITEM_COUNTS, allow_pickle=False))

    def context(self, requests: Sequence[Request], *, united: Union) -> Context:
        """Look requests and candidates up."""
        queries = folded([request.query or "" for request in requests])
        frequency = np.array([self.of_query.get(query, 0) for query in queries], dtype=np.float64)
        inside = (united.item_rows >= 0) & (united.item_rows < len(self.of_item))
        chosen = inside & (self.of_item[np.where(inside, united.item_rows, 0)] > 0)
        return Context(np.log1p(frequency), ~chosen)


class Hybrid:
    """Channels whose candidates are fused by a rule."""

    def __init__(
        self,
        channels: Mapping[str, HybridChannel],
        *,
        rule: Rule,
        config: HybridConfig | None = None,
        counts: LogCounts | None = None,
        name: str = "hybrid",
    ) -> None:
        """Put channels together.

        Args:
            channels: name → channel; the order is that of the rule's weights.
            rule: from `recall.fusion_choice.choose`, or of your own.
            config: candidates, quotas.
            counts: what training has seen of a log, for learned fusion and channel new; None: there is no log.
            name: in tables.

        Raises:
            EngineError: the rule is of other channels, or a quota names one that there is not.
        """
        self._channels, self._rule, self._config = dict(channels), rule, config or HybridConfig()
        self._counts, self._name = counts, name
        expected = _weight_names(rule, list(channels), counts)
        if len(rule.weights) != len(expected):
            raise EngineError(
                f"{name} has {len(rule.weights)} weights for {len(expected)} ({', '.join(expected)}). Choose its rule "
                "for these channels."
            )
        unknown = sorted(set(self._config.quotas) - set(channels))
        if unknown:
            raise EngineError(f"{name} has a quota of {', '.join(unknown)}, and no such channel.")

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def rule(self) -> Rule:
        """How the channels are fused."""
        return self._rule

    @property
    def channels(self) -> Mapping[str, HybridChannel]:
        """Who is asked."""
        return self._channels

    @property
    def counts(self) -> LogCounts | None:
        """What training has seen of a log; None: there is no log."""
        return self._counts

    def over(self, channels: Mapping[str, HybridChannel]) -> Hybrid:
        """Return the same over channels of the same names, for instance with more items."""
        if list(channels) != list(self._channels):
            raise EngineError(f"{self._name} is fused of {', '.join(self._channels)}, not of {', '.join(channels)}.")
        return Hybrid(channels, rule=self._rule, config=self._config, counts=self._counts, name=self._name)

    def asked(self, request: Request) -> list[str]:
        """Name the channels that a request is put to.

        Raises:
            EngineError: there is none.
        """
        names = [name for name, channel in self._channels.items() if channel.can_answer(request)]
        if not names:
            held = " and ".join(sorted(parts_of(request))) or "nothing"
            raise EngineError(f"No channel of {self._name} ({', '.join(self._channels)}) can answer {held}.")
        return names

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k best of the channels' candidates for each request; fewer where they have fewer together.

        Raises:
            EngineError: no channel reads a request.
        """
        for request in requests:
            self.asked(request)
        united = unite(ask(self._channels, requests, candidates=self._config.candidates))
        scores = self._scores(requests, united)
        quotas = {place: self._config.quotas[name] for place, name in enumerate(self._channels) if name in self._quotas}
        if not quotas:
            return best(scores, united=united, k=k)
        ranked = best(scores, united=united, k=united.item_rows.shape[1])
        place = np.argsort(-scores, axis=1, kind="stable")
        has = np.take_along_axis(united.places > 0, place[..., None], axis=1)
        hits = with_quotas(ranked, has, quotas=quotas, places=self._config.quota_places)
        return _cut(hits, k=k)

    def places(self, request: Request, item_rows: Sequence[int]) -> list[dict[str, int]]:
        """Say which channels found items for a request, and at what place, from 1 up.

        Returns:
            For each item, channel → place, of those that found it.

        Raises:
            EngineError: no channel reads the request.
        """
        self.asked(request)
        found = ask(self._channels, [request], candidates=self._config.candidates)
        place_of = {
            name: {int(row): place + 1 for place, row in enumerate(hits.item_rows[0]) if row >= 0}
            for name, hits in zip(self._channels, found, strict=True)
        }
        return [{name: own[row] for name, own in place_of.items() if row in own} for row in item_rows]

    def save(self, folder: Path) -> None:
        """Write config, rule and counts; the channels have artefacts of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, self._config.dump())
        names = _weight_names(self._rule, list(self._channels), self._counts)
        rule = {
            "channels": list(self._channels),
            "fusion": self._rule.fusion.value,
            "weights": dict(zip(names, self._rule.weights, strict=True)),
            "is_preferred": self._rule.is_preferred,
        }
        write_json(folder / RULE_FILE, rule)
        if self._counts is not None:
            self._counts.save(folder)

    @classmethod
    def load(cls, folder: Path, *, channels: Mapping[str, HybridChannel], name: str = "hybrid") -> Self:
        """Read what `save` wrote.

        Args:
            folder: where.
            channels: of the names that `saved_channels` gives, in that order.
            name: in tables.

        Raises:
            EngineError: they are others.
            ArtifactError: another version weighed other features.
        """
        stored = _stored_rule(folder)
        if list(channels) != stored["channels"]:
            raise EngineError(f"{name} is fused of {', '.join(stored['channels'])}, not of {', '.join(channels)}.")
        rule = Rule(Fusion(stored["fusion"]), tuple(stored["weights"].values()), bool(stored["is_preferred"]))
        counts = saved_counts(folder)
        if list(stored["weights"]) != _weight_names(rule, list(channels), counts):
            raise ArtifactError(
                f"The hybrid in {str(folder)!r} was made by another version of triptych, with other features. Run the "
                "same `triptych run` again."
            )
        config = HybridConfig.load(folder / CONFIG_FILE)
        return cls(channels, rule=rule, config=config, counts=counts, name=name)

    @property
    def _quotas(self) -> Mapping[str, int]:
        return self._config.quotas

    def _scores(self, requests: Sequence[Request], united: Union) -> FloatArray:
        if self._rule.fusion is Fusion.LEARNED:
            context = None if self._counts is None else self._counts.context(requests, united=united)
            columns = features(united, context=context)
        else:
            columns = formula_columns(united, fusion=self._rule.fusion, rrf_constant=self._config.rrf_constant)
        return weighted(columns, np.array(self._rule.weights), united=united)


def saved_channels(folder: Path) -> list[str]:
    """Return the names of the channels that a saved hybrid is fused of."""
    return [str(name) for name in _stored_rule(folder)["channels"]]


def saved_counts(folder: Path) -> LogCounts | None:
    """Return the counts of a saved hybrid; None where there was no log."""
    return LogCounts.load(folder) if (folder / ITEM_COUNTS).is_file() else None


def ask(channels: Mapping[str, HybridChannel], requests: Sequence[Request], *, candidates: int) -> list[Hits]:
    """Ask every channel what it can answer: channel → ``[n, candidates]``, only padding for what it cannot."""
    found = []
    for channel in channels.values():
        shape = (len(requests), candidates)
        hits = Hits.empty(*shape)
        places = [place for place, request in enumerate(requests) if channel.can_answer(request)]
        if places:
            own = channel.retriever.retrieve([requests[place] for place in places], candidates)
            width = own.item_rows.shape[1]
            hits.item_rows[places, :width], hits.scores[places, :width] = own.item_rows, own.scores
        found.append(hits)
    return found


def formula_columns(united: Union, *, fusion: Fusion, rrf_constant: float) -> Float64Array:
    """Return what a formula without training weighs: ``[n, m, channels]``."""
    if fusion is Fusion.RRF:
        return reciprocal(united.places, constant=rrf_constant)
    return normalised(united, fusion=fusion)


def _weight_names(rule: Rule, channels: Sequence[str], counts: LogCounts | None) -> list[str]:
    learned = rule.fusion is Fusion.LEARNED
    return feature_names(channels, with_context=counts is not None) if learned else list(channels)


def _cut(hits: Hits, *, k: int) -> Hits:
    cut = Hits.empty(len(hits.item_rows), k)
    width = min(k, hits.item_rows.shape[1])
    cut.item_rows[:, :width], cut.scores[:, :width] = hits.item_rows[:, :width], hits.scores[:, :width]
    return cut


def _stored_rule(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / RULE_FILE).read_text(encoding="utf-8"))
    return stored
