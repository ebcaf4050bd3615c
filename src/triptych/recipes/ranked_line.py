"""Retrieve → rank in a run: a ranker behind what answers words, and whether validation finds its order better."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from triptych.data.catalogue import Catalogue
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.engine.answers import Channel
from triptych.engine.ranking import RankedRetriever, Ranking, RankRule
from triptych.foundation.artifact import Artifact, produce
from triptych.metrics.ranking import match, ndcg_at_k
from triptych.metrics.significance import paired_difference
from triptych.recall.base import Retriever
from triptych.recall.relevance_control import KIND as RELEVANCE_CONTROL
from triptych.recipes.config import HYBRID, RANKED, RECALL
from triptych.recipes.encoders import Plan
from triptych.recipes.hybrid import ChosenHybrid
from triptych.recipes.ranker import TrainedRanker
from triptych.recipes.recall import TrainedRecall
from triptych.recipes.stages import AllTrained, Stages
from triptych.recipes.validation import validation_askers

log = logging.getLogger(__name__)

RULE_KIND = "ranking"
LEAST_QUERIES, MOST_QUERIES, NDCG_K = 100, 500, 10
"""Queries of the validation part that choose, and by what; of fewer than the least, no order is preferred."""


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
        """Ask queries of the validation part with and without the first seed's ranker, for those who asked them.

        Returns:
            Artefact ``ranking``: whether NDCG@10 of what was chosen is better with it, by more than chance.

        Raises:
            DataError: there is no query to choose by.
        """
        channel, candidates = self.first.channel, self.candidates
        config = {"channel": channel.value, "candidates": candidates, "queries": MOST_QUERIES, "asked": "by users"}
        inputs = {
            "catalogue": self.catalogue.artifact,
            "split": self.split.artifact,
            "ranker": self.rankers[0].model,
            **self.first.inputs,
        }

        def build(folder: Path) -> dict[str, Any]:
            asked = validation_askers(stages, split=self.split, most=MOST_QUERIES)
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
        ranker = self.rankers[place].open().answering()
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
    control: Artifact | None,
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
        control: what its answers must have, if anything.
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
        found = [one.retriever(name=RECALL, config=config) for one in recalled]
        inputs = {RECALL: recalled[0].model} | ({} if control is None else {RELEVANCE_CONTROL: control})
        first = FirstStage(Channel.RECALL, found, inputs)
    else:
        found = [one.retriever(name=served.name, config=config) for one in encoders]
        first = FirstStage(Channel.DENSE, found, {"embeddings": encoders[0].embeddings})
    return RankedLine(rankers, first, stages.catalogue, split, config.rank_candidates)
