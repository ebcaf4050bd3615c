"""The ranker in a run: trained on what searches showed, over the served encoder's vectors where it reads content."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.embeddings import load_vectors, load_views
from triptych.encoders.inputs import View
from triptych.engine.answers import Channel
from triptych.engine.ranking import RankedRetriever, Ranking, RankRule
from triptych.evaluate.measure import some_requests
from triptych.evaluate.tasks import ranking as ranking_task
from triptych.evaluate.tasks.base import BATCH, EvaluationConfig, TaskResult
from triptych.evaluate.tasks.ranking import Scored
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import match, ndcg_at_k
from triptych.metrics.significance import paired_difference
from triptych.ranker import train
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.match import Match
from triptych.ranker.measure import GroupBy
from triptych.ranker.own_encoder import EncoderStart
from triptych.ranker.samples import Samples, read_samples
from triptych.ranker.scorer import ITEM_VECTORS, Ranker
from triptych.ranker.task import Given
from triptych.recall.base import Request, Retriever
from triptych.recall.models.popularity import Popularity
from triptych.recipes.config import HYBRID, RANKED, RANKER, RECALL, RunConfig
from triptych.recipes.encoders import Plan
from triptych.recipes.hybrid import ChosenHybrid
from triptych.recipes.recall import TrainedRecall
from triptych.recipes.stages import AllTrained, Stages, Trained
from triptych.recipes.validation import validation_queries
from triptych.recipes.views import item_views, query_vectors

log = logging.getLogger(__name__)

RULE_KIND = "ranking"
LEAST_QUERIES, MOST_QUERIES, NDCG_K = 100, 500, 10
"""Queries of the validation part that choose, and by what; of fewer than the least, no order is preferred."""


@dataclass(frozen=True)
class TrainedRanker:
    """The ranker of one seed, and what it reads."""

    artifact: Artifact
    """Kind ``ranker``."""
    embeddings: Artifact | None
    """Item vectors of the encoder; None: it reads no content, or has trained the encoder and has vectors of its own."""
    views: Artifact | None
    """Those of title and photo; None: it fuses none."""
    match: Match | None
    """The served encoder, whose match of query and item it reads; None: it reads none."""

    def open(self, catalogue: Catalogue) -> Ranker:
        """Open it over its catalogue."""
        modalities = modalities_of(self.embeddings, self.views)
        return Ranker.load(self.artifact, catalogue=catalogue, modalities=modalities, match=self.match)


def modalities_of(item_vectors: Artifact | None, views: Artifact | None) -> dict[str, NDArray[Any]] | None:
    """Return what items are made of, for a ranker: name → ``[items, dim]``; None where it reads no content.

    Args:
        item_vectors: an ``embeddings`` artefact; None: nothing is read.
        views: an ``item_views`` artefact, for a ranker that fuses title and photo itself.
    """
    if item_vectors is None:
        return None
    return {ITEM_VECTORS: load_vectors(item_vectors), **({} if views is None else load_views(views))}


def require_shown(config: RunConfig, *, catalogue: Catalogue, split: Split) -> None:
    """Check, before anything is trained, that a log tells a ranker what was shown and not chosen; nothing without one.

    Raises:
        DataError: a part has nothing of the kind, or nobody is known by whom samples could be grouped.
    """
    if config.ranker is None:
        return
    kind = catalogue.event_array("kind")
    for part, name in ((Part.TRAIN, "training"), (Part.VALIDATION, "validation")):
        chosen = is_positive(kind[split.part(part)])
        if chosen.all() or not chosen.any():
            lacks = "impressions: items that were shown and not chosen" if chosen.all() else "choices"
            raise DataError(
                f"events: the {name} part has no {lacks}, and a ranker learns to tell one from the other. Keep "
                "impressions in the log, or leave [ranker] out."
            )
    if config.ranker.grouped_by is GroupBy.USER and not catalogue.num_users:
        raise DataError(
            "events: no event has a user, and ranker.grouped_by = 'user' judges what each was shown. Set "
            "ranker.grouped_by = 'request'."
        )


def ranker_of_run(trained: AllTrained, *, stages: Stages, split: Split, served: Plan) -> list[TrainedRanker]:
    """Train the run's ranker with each seed, or open it; none where the run has none.

    Args:
        trained: the encoders.
        stages: of the run.
        split: its training part is learned, its validation part chooses the weights.
        served: whose encoder's vectors are read.
    """
    config = stages.config.ranker
    if config is None:
        return []
    return [
        _train(config, own=trained[served.name, seed], seed=seed, stages=stages, split=split, served=served)
        for seed in stages.config.seeds
    ]


def ranking_of_run(
    rankers: Sequence[TrainedRanker],
    trained: AllTrained,
    *,
    stages: Stages,
    split: Split,
    served: Plan,
    popularity: Artifact,
    recalled: Sequence[TrainedRecall],
) -> list[Callable[[], TaskResult]]:
    """Return the task that measures the ranker on what searches of the evaluated part showed; none without a ranker.

    Args:
        rankers: of each seed.
        trained: the encoders.
        stages: of the run.
        split: whose part is evaluated.
        served: whose encoder stands beside it.
        popularity: the baseline.
        recalled: the recall model of each seed, if there is one.
    """
    config = stages.config
    by = None if config.ranker is None else config.ranker.grouped_by
    if by is None:
        return []

    def ranked() -> TaskResult:
        catalogue, part = stages.catalogue, config.evaluation.part
        samples = _searched(read_samples(catalogue, places=split.part(part)), config=config.evaluation)
        encoders = [trained[served.name, seed] for seed in config.seeds]
        models = {
            "popularity": Scored([Popularity.load(popularity.path).counts[samples.item_row]]),
            served.name: Scored(
                [
                    _products(
                        one.retriever(name=served.name, config=config),
                        samples,
                        items=load_vectors(one.embeddings),
                        stages=stages,
                    )
                    for one in encoders
                ]
            ),
        }
        if recalled:
            models[RECALL] = Scored(
                [_products(one.alone(name=RECALL), samples, items=one.vectors, stages=stages) for one in recalled]
            )
        models[RANKER] = Scored([one.open(catalogue).score_samples(samples) for one in rankers], are_logits=True)
        return ranking_task.evaluate(
            models,
            samples=samples,
            train=read_samples(catalogue, places=split.train),
            catalogue=catalogue,
            by=by,
            config=config.evaluation,
            main=RANKER,
        )

    return [ranked]


class FirstStage(NamedTuple):
    """What finds, before a ranker orders: the channel that answers words where nobody names one."""

    channel: Channel
    retrievers: Sequence[Retriever]
    """One for each seed."""
    inputs: Mapping[str, Artifact]
    """What the first seed's is made of."""


@dataclass(frozen=True)
class RankedLine:
    """Retrieve → rank, of each seed."""

    rankers: Sequence[TrainedRanker]
    first: FirstStage
    catalogue: Catalogue
    split: Split
    candidates: int
    """How many of the first found the ranker looks at."""

    def retrievers(self, part: Part) -> list[RankedRetriever]:
        """Put each seed's ranker behind what finds, asked as at the beginning of a part."""
        return [self._retriever(place, part) for place in range(len(self.rankers))]

    def rule(self, stages: Stages) -> Artifact:
        """Ask queries of the validation part with and without the first seed's ranker.

        Returns:
            Artefact ``ranking``: whether NDCG@10 of what was chosen is better with it, by more than chance.

        Raises:
            DataError: there is no query to choose by.
        """
        channel, candidates = self.first.channel, self.candidates
        config = {"channel": channel.value, "candidates": candidates, "queries": MOST_QUERIES}
        inputs = {
            "catalogue": self.catalogue.artifact,
            "split": self.split.artifact,
            "ranker": self.rankers[0].artifact,
            **self.first.inputs,
        }

        def build(folder: Path) -> dict[str, Any]:
            asked = validation_queries(stages, split=self.split, most=MOST_QUERIES)
            without, ranked = (
                ndcg_at_k(match(one.retrieve(asked.requests, NDCG_K).item_rows, targets=asked.wanted), k=NDCG_K)
                for one in (self.first.retrievers[0], self._retriever(0, Part.VALIDATION))
            )
            gain = paired_difference(ranked, baseline=without, rng=np.random.default_rng(0))
            enough = len(without) >= LEAST_QUERIES
            if not enough:
                log.warning(
                    "ranking: the validation part has %d queries, and it takes %d to tell whether the ranker's order "
                    "is better; it is used only where it is asked for",
                    len(without),
                    LEAST_QUERIES,
                )
            rule = RankRule(channel, candidates, is_preferred=enough and bool(gain.low > 0))
            rule.save(folder)
            return {
                "is_preferred": rule.is_preferred,
                f"ndcg@{NDCG_K} {channel}": float(without.mean()),
                f"ndcg@{NDCG_K} {RANKED}": float(ranked.mean()),
                "queries": len(without),
                "gain": [gain.low, gain.value, gain.high],
            }

        return stages.stage(
            RULE_KIND, lambda out: produce(out, kind=RULE_KIND, config=config, inputs=inputs, build=build)
        )

    def _retriever(self, place: int, part: Part) -> RankedRetriever:
        moment_us = int(self.catalogue.event_array("time")[self.split.part(part)][0])
        ranker = self.rankers[place].open(self.catalogue)
        ranking = Ranking(ranker, candidates=self.candidates, catalogue=self.catalogue, moment_us=moment_us)
        return RankedRetriever(self.first.retrievers[place], ranking, name=RANKED)


def ranked_line(
    rankers: Sequence[TrainedRanker],
    trained: AllTrained,
    *,
    stages: Stages,
    split: Split,
    served: Plan,
    recalled: Sequence[TrainedRecall],
    hybrids: Sequence[ChosenHybrid],
) -> RankedLine | None:
    """Put rankers behind what answers words in the run's engine; None without a ranker.

    Args:
        rankers: of each seed.
        trained: the encoders.
        stages: of the run.
        split: of the log.
        served: whose encoder answers.
        recalled: the recall model of each seed, if there is one.
        hybrids: the hybrid of each seed, if there is one.
    """
    if not rankers:
        return None
    config = stages.config
    encoders = [trained[served.name, seed] for seed in config.seeds]
    found: list[Retriever]
    if hybrids and hybrids[0].retriever(name=HYBRID).rule.is_preferred:
        found = [one.retriever(name=HYBRID) for one in hybrids]
        first = FirstStage(Channel.HYBRID, found, {HYBRID: hybrids[0].artifact})
    elif recalled:
        found = [one.alone(name=RECALL) for one in recalled]
        first = FirstStage(Channel.RECALL, found, {RECALL: recalled[0].model})
    else:
        found = [one.retriever(name=served.name, config=config) for one in encoders]
        first = FirstStage(Channel.DENSE, found, {"embeddings": encoders[0].embeddings})
    return RankedLine(rankers, first, stages.catalogue, split, config.rank_candidates)


def ranker_inputs(rankers: Sequence[TrainedRanker], *, stages: Stages) -> dict[str, Artifact]:
    """Name what a report of a run's rankers is made of."""
    return {f"{RANKER} seed {seed}": one.artifact for seed, one in zip(stages.config.seeds, rankers, strict=False)}


def _train(
    config: RankTrainConfig, *, own: Trained, seed: int, stages: Stages, split: Split, served: Plan
) -> TrainedRanker:
    catalogue, content = stages.catalogue, config.content
    inputs: dict[str, Artifact | str] = {"catalogue": catalogue.artifact, "split": split.artifact}
    vectors, views = own.embeddings if content.reads_modalities else None, None
    encoder = None
    if content.trains_encoder:
        vectors, encoder = None, _start(own, stages=stages, served=served)
        seen = {} if encoder.features is None else {"photo_features": encoder.features}
        inputs |= {"encoder": own.encoder, **seen}
    if vectors is not None:
        inputs |= {"encoder": own.encoder, "embeddings": vectors}
        modalities = served.config.encoder.modalities
        if content.fuses_modalities and modalities.reads_title and modalities.reads_photo:
            name = f"{served.name} seed {seed}"
            views = item_views(own, pretrain=served.config, stages=stages, name=name)
            inputs["item_views"] = views
    match = None
    if config.reads_match:
        queries = query_vectors(own, stages=stages, name=f"{served.name} seed {seed}")
        inputs |= {"encoder": own.encoder, "embeddings": own.embeddings, "query_embeddings": queries}
        match = Match.open(encoder=own.encoder, embeddings=own.embeddings, query_embeddings=queries)
    given = Given(catalogue, split, seed, modalities_of(vectors, views), encoder, match)
    artifact = stages.stage(
        RANKER, lambda out: train.run(config, given, inputs=inputs, out=out), record=f"{RANKER} seed {seed}"
    )
    return TrainedRanker(artifact, vectors, views, match)


def _start(own: Trained, *, stages: Stages, served: Plan) -> EncoderStart:
    """Have the ranker train on the served encoder, of which it reads all that there is."""
    reads = served.config.encoder.modalities
    views = [View.ITEM, View.TITLE, View.PHOTO] if reads.reads_title and reads.reads_photo else [View.ITEM]
    return EncoderStart(own.encoder, views, features=stages.models_for(served.config).features)


class _AsksByVectors(Protocol):
    """A retriever that turns requests into vectors."""

    def request_vectors(self, requests: Sequence[Request]) -> NDArray[np.float32]:
        """Encode requests ``[n, dim]``."""
        ...


def _searched(samples: Samples, *, config: EvaluationConfig) -> Samples:
    """Keep what searches showed, of `max_queries` of them at most."""
    searched = np.flatnonzero(samples.requests.query_row >= 0)
    return samples.of_requests(searched[some_requests(len(searched), config=config)])


def _products(
    retriever: _AsksByVectors, samples: Samples, *, items: NDArray[Any], stages: Stages
) -> NDArray[np.float32]:
    """Return the product of each sample's request and item ``[samples]``, each asked by whom it was, at that moment."""
    catalogue, requests = stages.catalogue, samples.requests
    users = catalogue.users
    instants = np.searchsorted(catalogue.event_array("time"), requests.time_us, side="left")
    found = np.empty(len(samples.label), dtype=np.float32)
    for start in range(0, len(requests.time_us), BATCH):
        some = range(start, min(start + BATCH, len(requests.time_us)))
        asked = [
            Request(
                query=catalogue.queries[requests.query_row[place]],
                user=users[requests.user_row[place]] if requests.user_row[place] >= 0 else None,
                before=int(instants[place]),
            )
            for place in some
        ]
        vectors = retriever.request_vectors(asked)
        own = slice(*np.searchsorted(samples.request, [some.start, some.stop]))
        pairs = vectors[samples.request[own] - start], items[samples.item_row[own]].astype(np.float32)
        found[own] = np.einsum("nd,nd->n", *pairs)
    return found
