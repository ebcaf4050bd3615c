"""Hybrid retrieval in a run: its channels are those of the report, its rule is chosen on the validation part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from triptych.data.splits import Split, SplitBy
from triptych.foundation.artifact import Artifact, produce
from triptych.recall.fusion_choice import choose, given_rule
from triptych.recall.hybrid_channels import GENERATIVE, RECALL, channel_names, search_channels
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.hybrid import Hybrid, HybridChannel, HybridConfig, LogCounts
from triptych.recall.models.popularity import Popularity
from triptych.recall.relevance_control import KIND as RELEVANCE_CONTROL
from triptych.recipes.encoders import Plan
from triptych.recipes.generation import TrainedGeneration
from triptych.recipes.recall import TrainedRecall
from triptych.recipes.stages import AllTrained, Stages
from triptych.recipes.validation import validation_queries

KIND = "hybrid"


@dataclass(frozen=True)
class ChosenHybrid:
    """The hybrid of one seed."""

    artifact: Artifact
    channels: dict[str, HybridChannel]

    def retriever(self, *, name: str) -> Hybrid:
        """Open it over its channels."""
        return Hybrid.load(self.artifact.path, channels=self.channels, name=name)


def hybrid_of_run(
    trained: AllTrained,
    *,
    stages: Stages,
    split: Split,
    served: Plan,
    popularity: Artifact,
    bm25: Artifact,
    recalled: Sequence[TrainedRecall] = (),
    control: Artifact | None = None,
    generated: Sequence[TrainedGeneration] = (),
) -> list[ChosenHybrid]:
    """Choose how the run's channels are fused, for each seed; none where the run has no hybrid.

    Args:
        trained: the encoders.
        stages: of the run.
        split: its validation part chooses; of its training part queries and items are counted.
        served: whose encoder is fused.
        popularity: the baseline.
        bm25: over the titles.
        recalled: the recall model of each seed, if there is one.
        control: what its answers must have, if anything.
        generated: the decoder of semantic IDs of each seed, likewise.
    """
    config = stages.config
    if config.hybrid is None:
        return []
    judged = split.config.by is SplitBy.QUERY
    counts = None if judged else LogCounts.fit(stages.catalogue, split=split)
    names = channel_names(config.hybrid.channels, has_recall=bool(recalled))
    found = []
    for place, seed in enumerate(config.seeds):
        own = trained[served.name, seed]
        recall = recalled[place] if recalled else None
        generation = generated[place] if generated else None
        channels = search_channels(
            names,
            dense=own.retriever(name="dense", config=config),
            bm25=Bm25.load(bm25.path),
            popularity=Popularity.load(popularity.path),
            recall=None if recall is None else recall.alone(name=RECALL),
            control=None if recall is None else recall.control,
            generative=None if generation is None else generation.alone(name=GENERATIVE),
            counts=counts,
        )
        inputs = {
            "catalogue": stages.catalogue.artifact,
            "split": split.artifact,
            "encoder": own.encoder,
            "embeddings": own.embeddings,
            "popularity": popularity,
            "bm25": bm25,
            **({} if recall is None else {"recall": recall.model}),
            **({} if control is None else {RELEVANCE_CONTROL: control}),
            **({} if generation is None else {"generative": generation.model}),
        }
        build = partial(_chosen, config.hybrid, channels=channels, counts=counts, stages=stages, split=split)
        make = partial(produce, kind=KIND, config=config.hybrid, inputs=inputs, build=build)
        found.append(ChosenHybrid(stages.stage(KIND, make, record=f"{KIND} seed {seed}"), channels))
    return found


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
        asked = validation_queries(stages, split=split, most=config.validation_queries)
        rule, summary = choose(channels, requests=asked.requests, wanted=asked.wanted, config=config, counts=counts)
    Hybrid(channels, rule=rule, config=config, counts=counts).save(folder)
    return {"fusion": rule.fusion.value, "channels": ", ".join(channels), **summary}
