"""Hybrid retrieval in a run: its channels are those of the report, its rule is chosen on the validation part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from triptych.data.splits import Part, Split, SplitBy
from triptych.evaluate.measure import judged_targets
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import TargetSets
from triptych.recall.base import Request
from triptych.recall.fusion_choice import choose, given_rule
from triptych.recall.hybrid_channels import RECALL, channel_names, search_channels
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.hybrid import Hybrid, HybridChannel, HybridConfig, LogCounts
from triptych.recall.models.popularity import Popularity
from triptych.recall.validation import VALIDATION_SEED, some_queries
from triptych.recipes.recall import TrainedRecall
from triptych.recipes.stages import AllTrained, Stages, Trained

KIND = "hybrid"


@dataclass(frozen=True)
class ChosenHybrid:
    """The hybrid of one seed."""

    artifact: Artifact
    channels: dict[str, HybridChannel]

    def retriever(self, *, name: str) -> Hybrid:
        """Open it over its channels."""
        return Hybrid.load(self.artifact.path, channels=self.channels, name=name)


class _Asked(NamedTuple):
    requests: Sequence[Request]
    wanted: TargetSets


def hybrid_of_run(
    trained: AllTrained,
    *,
    stages: Stages,
    split: Split,
    popularity: Artifact,
    bm25: Artifact,
    recalled: Sequence[TrainedRecall] = (),
) -> list[ChosenHybrid]:
    """Choose how the run's channels are fused, for each seed; none where the run has no hybrid.

    Args:
        trained: the encoders; the served arm's is fused.
        stages: of the run.
        split: its validation part chooses; of its training part queries and items are counted.
        popularity: the baseline.
        bm25: over the titles.
        recalled: the recall model of each seed, if there is one.
    """
    config = stages.config
    if config.hybrid is None:
        return []
    judged = split.config.by is SplitBy.QUERY
    counts = None if judged else LogCounts.fit(stages.catalogue, split=split)
    names = channel_names(config.hybrid.channels, has_recall=bool(recalled))
    found = []
    for place, seed in enumerate(config.seeds):
        own = trained[config.arms[0].value, seed]
        recall = recalled[place] if recalled else None
        channels = search_channels(
            names,
            dense=own.retriever(name="dense", config=config),
            bm25=Bm25.load(bm25.path),
            popularity=Popularity.load(popularity.path),
            recall=None if recall is None else recall.retriever(name=RECALL, config=config),
            counts=counts,
        )
        inputs = _inputs(own, stages=stages, split=split, popularity=popularity, bm25=bm25, recall=recall)
        build = partial(_chosen, config.hybrid, channels=channels, counts=counts, stages=stages, split=split)
        make = partial(produce, kind=KIND, config=config.hybrid, inputs=inputs, build=build)
        found.append(ChosenHybrid(stages.stage(KIND, make, record=f"{KIND} seed {seed}"), channels))
    return found


def _inputs(
    own: Trained,
    *,
    stages: Stages,
    split: Split,
    popularity: Artifact,
    bm25: Artifact,
    recall: TrainedRecall | None,
) -> dict[str, Artifact]:
    inputs = {
        "catalogue": stages.catalogue.artifact,
        "split": split.artifact,
        "encoder": own.encoder,
        "embeddings": own.embeddings,
        "popularity": popularity,
        "bm25": bm25,
    }
    return inputs if recall is None else {**inputs, "recall": recall.model}


def _chosen(
    config: HybridConfig,
    folder: Path,
    *,
    channels: dict[str, HybridChannel],
    counts: LogCounts | None,
    stages: Stages,
    split: Split,
) -> dict[str, Any]:
    """Choose the rule and write the hybrid; returns the summary."""
    rule, summary = given_rule(list(channels), config=config), dict[str, Any]()
    if rule is None:
        asked = _validation(stages, split=split, most=config.validation_queries)
        rule, summary = choose(channels, requests=asked.requests, wanted=asked.wanted, config=config, counts=counts)
    Hybrid(channels, rule=rule, config=config, counts=counts).save(folder)
    return {"fusion": rule.fusion.value, "channels": ", ".join(channels), **summary}


def _validation(stages: Stages, *, split: Split, most: int) -> _Asked:
    """Draw queries of the validation part: with their grades where they were judged, else with what was chosen."""
    catalogue = stages.catalogue
    if split.config.by is not SplitBy.QUERY:
        asked = some_queries(split, most=most)
        return _Asked([Request(query=catalogue.queries[row]) for row in asked.query_rows], asked.wanted)
    rows = split.query_rows(Part.VALIDATION, catalogue=catalogue)
    rows = np.sort(np.random.default_rng(VALIDATION_SEED).permutation(rows)[:most])
    wanted = judged_targets(catalogue, query_rows=rows)
    if wanted is None:
        raise DataError("judgements: no query of the validation part was judged, so no fusion can be chosen there.")
    return _Asked([Request(query=catalogue.queries[row]) for row in rows], wanted)
