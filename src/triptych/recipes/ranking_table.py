"""The report's table of ranking: how a run's ranker orders what searches showed, beside what it stands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.data.splits import Split
from triptych.encoders.embeddings import load_vectors
from triptych.evaluate.measure import some_requests
from triptych.evaluate.tasks import ranking
from triptych.evaluate.tasks.base import BATCH, EvaluationConfig, TaskResult
from triptych.evaluate.tasks.ranking import Scored
from triptych.foundation.artifact import Artifact
from triptych.ranker.samples import Samples, read_samples
from triptych.recall.base import Request
from triptych.recall.models.popularity import Popularity
from triptych.recipes.config import RANKER, RECALL
from triptych.recipes.encoders import Plan
from triptych.recipes.ranker import TrainedRanker
from triptych.recipes.recall import TrainedRecall
from triptych.recipes.stages import AllTrained, Stages


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
        models[RANKER] = Scored([one.open().score_samples(samples) for one in rankers], are_logits=True)
        return ranking.compare(
            models,
            samples=samples,
            train=read_samples(catalogue, places=split.train),
            catalogue=catalogue,
            by=by,
            config=config.evaluation,
            main=RANKER,
        )

    return [ranked]


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
