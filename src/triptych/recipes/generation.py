"""Generative retrieval in a table or a run: an encoder, semantic IDs of its vectors, the decoder that says them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from triptych.data.catalogue import Catalogue
from triptych.data.pages import read_pages
from triptych.data.splits import Split
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import load_vectors
from triptych.foundation.artifact import Artifact
from triptych.foundation.config import Config
from triptych.foundation.registry import one_of
from triptych.pretrain.base import TASKS, PretrainConfig
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.recall import generative_train
from triptych.recall.fusion_choice import given_rule
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recall.generative_train import KIND, GenerativeTrainConfig, Given
from triptych.recall.hybrid_channels import DENSE
from triptych.recall.models.generative import Asks
from triptych.recall.models.hybrid import AskedBy, Hybrid, HybridChannel, HybridConfig
from triptych.recipes.config import GENERATIVE, RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.encoders import Plan
from triptych.recipes.semantic_ids import codes_of
from triptych.recipes.side_by_side import train_new
from triptych.recipes.stages import AllTrained, Stages, Trained
from triptych.recipes.views import query_vectors
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.stored import SemanticIds
from triptych.training.epochs import find_trained


class GenerationConfig(Config):
    """A decoder, the IDs that it says, and the pretraining whose vectors both are made from."""

    pretrain: Annotated[PretrainConfig, one_of(TASKS)] = ContrastiveConfig()
    """What the encoder is trained on."""
    semantic_ids: SemanticIdsConfig = SemanticIdsConfig()
    """How IDs are made of its vectors of the items."""
    generative: GenerativeTrainConfig = GenerativeTrainConfig()
    """The decoder and its training."""
    hybrid: HybridConfig | None = None
    """How its answers are fused with the encoder's, channels dense and generative; none: they are not."""

    @model_validator(mode="after")
    def _fused_by_a_given_rule(self) -> Self:
        if self.hybrid is None:
            return self
        if self.generative.model.asks is not Asks.QUERY:
            raise ValueError("hybrid fuses answers to queries, and histories ask this decoder. Remove it.")
        if self.hybrid.channels != (DENSE, KIND) or self.hybrid.weights is None:
            raise ValueError(
                f"hybrid fuses the encoder with the decoder by a rule that is given: set hybrid.channels = ['{DENSE}', "
                f"'{KIND}'], fusion and weights."
            )
        return self


class GenerationPlan(NamedTuple):
    """A decoder that a table wants, with each of its seeds."""

    name: str
    """What tables and messages call it."""
    config: GenerationConfig
    """Encoder, IDs, decoder and training, complete."""
    control: Control = Control.NONE
    """What items have in the place of their own."""

    start: PretrainConfig | None = None
    """What the encoder's training goes on from, as of `encoders.Plan`; None: new weights."""

    @property
    def pretrain(self) -> PretrainConfig:
        """How the encoder is trained."""
        return self.config.pretrain


@dataclass(frozen=True)
class GenerationWork:
    """One decoder to train: what a process must be told, and no more."""

    plan: GenerationPlan
    seed: int
    catalogue: Artifact
    split: Artifact
    queries: Artifact | None
    """The encoder's vectors of the queries; None: histories ask."""
    ids: Artifact
    """Kind ``semantic_ids``."""
    num_pages: int
    """Pages of the training part, by which its steps are counted."""
    out: Path
    """Folder of the stage."""

    @property
    def name(self) -> str:
        """What the run calls it."""
        return f"{self.plan.name} seed {self.seed}"

    @property
    def key(self) -> Hashable:
        """That of a hybrid is the decoder's own."""
        return self.plan.config.generative.to_json(), self.seed, self.ids.id, self.plan.control

    @property
    def num_steps(self) -> int:
        """Steps that its training counts."""
        config, num_pages = self.plan.config.generative, max(1, self.num_pages)
        return config.loop(batches_per_epoch=num_pages / min(config.batch_pages, num_pages)).steps

    def find(self) -> Artifact | None:
        """Return the finished decoder, or None."""
        config = self.plan.config.generative
        return find_trained(KIND, config, seed=self.seed, inputs=self._inputs, out=self.out)

    def train(self) -> Artifact:
        """Train it, go on where an attempt was interrupted, or open it."""
        given = Given(
            catalogue=Catalogue.open(self.catalogue),
            split=Split.open(self.split),
            query_content=None if self.queries is None else load_vectors(self.queries),
            codes=codes_of(self.ids, control=self.plan.control, seed=self.seed),
            num_codes=SemanticIds.open(self.ids).num_codes,
            seed=self.seed,
        )
        return generative_train.run(self.plan.config.generative, given, inputs=self._inputs, out=self.out)

    @property
    def _inputs(self) -> dict[str, Artifact | str]:
        inputs: dict[str, Artifact | str] = {
            "catalogue": self.catalogue,
            "split": self.split,
            "semantic_ids": self.ids,
        }
        if self.queries is not None:
            inputs["query_embeddings"] = self.queries
        return inputs | self.plan.control.inputs


@dataclass(frozen=True)
class TrainedGeneration:
    """One decoder, and the encoder before it."""

    model: Artifact
    """Kind ``generative``."""
    own: Trained
    """The encoder, whose vectors order the items under one ID."""
    catalogue: Catalogue
    """In whose log users are looked up."""
    asks: Asks
    """What a request is."""
    hybrid: HybridConfig | None = None
    """How its answers are fused with the encoder's; None: they are not."""

    @property
    def index(self) -> Artifact:
        """The encoder's."""
        return self.own.index

    def alone(self, *, name: str) -> GenerativeRetriever:
        """Put before the decoder what gives it requests: encoder or log."""
        return GenerativeRetriever.load(
            self.model.path,
            encoder=Embedder.open(self.own.encoder) if self.asks is Asks.QUERY else None,
            vectors=np.asarray(load_vectors(self.own.embeddings), dtype=np.float32),
            catalogue=self.catalogue,
            name=name,
        )

    def retriever(self, *, name: str, config: RunConfig) -> GenerativeRetriever | Hybrid:
        """Open it `alone`, or with what it is fused with beside it."""
        alone = self.alone(name=name)
        if self.hybrid is None:
            return alone
        words = frozenset({AskedBy.WORDS})
        channels = {
            DENSE: HybridChannel(self.own.retriever(name=DENSE, config=config), words),
            KIND: HybridChannel(alone, words),
        }
        rule = given_rule(list(channels), config=self.hybrid)
        assert rule is not None, "its weights are given"
        return Hybrid(channels, rule=rule, config=self.hybrid, name=name)


AllGeneration = Mapping[tuple[str, int], TrainedGeneration]
"""Name of a plan and seed → what was trained."""


def train_generation(
    plans: Sequence[GenerationPlan], *, stages: Stages, seeds: Sequence[int], split: Split, tokenizer: Artifact
) -> AllGeneration:
    """Train every plan with every seed, with an encoder of that seed; encoders that plans share are trained once.

    Args:
        plans: names are distinct.
        stages: of the run.
        seeds: of initial weights and batches.
        split: its training part is learned.
        tokenizer: from `Stages.tokenizer`.
    """
    behind = stages.train_behind(plans, seeds=seeds, split=split, tokenizer=tokenizer)
    wanted = []
    for seed in seeds:
        for plan in plans:
            own = behind[plan.name, seed]
            assert own is not None, "every decoder stands behind an encoder"
            wanted.append((plan, seed, own))
    return _train(wanted, stages=stages, split=split)


def generation_of_run(trained: AllTrained, *, stages: Stages, split: Split, served: Plan) -> list[TrainedGeneration]:
    """Train the run's decoder over the semantic IDs of its served encoder, with each seed; none where it has none."""
    config = stages.config
    if config.generative is None or config.semantic_ids is None:
        return []
    ids = config.semantic_ids.of_one
    decoder = GenerationConfig(pretrain=served.config, semantic_ids=ids, generative=config.generative)
    plan = GenerationPlan(GENERATIVE, decoder)
    found = _train([(plan, seed, trained[served.name, seed]) for seed in config.seeds], stages=stages, split=split)
    return [found[plan.name, seed] for seed in config.seeds]


def _train(
    wanted: Sequence[tuple[GenerationPlan, int, Trained]], *, stages: Stages, split: Split
) -> dict[tuple[str, int], TrainedGeneration]:
    """Train plans with a seed and the encoder whose vectors their IDs are of each."""
    kinds = {plan.config.generative.pages_of for plan, _, _ in wanted}
    num_pages = {of: len(read_pages(stages.catalogue, places=split.train, of=of).place) for of in kinds}
    works, owns = [], []
    for plan, seed, own in wanted:
        name, config = f"{plan.name} seed {seed}", plan.config.generative
        queries = query_vectors(own, stages=stages, name=name) if config.model.asks is Asks.QUERY else None
        ids = stages.semantic_ids(own, config=plan.config.semantic_ids, name=name, split=split)
        catalogue, out = stages.catalogue.artifact, stages.out / generative_train.KIND
        count = num_pages[config.pages_of]
        works.append(GenerationWork(plan, seed, catalogue, split.artifact, queries, ids, count, out))
        owns.append(own)
    new = train_new(works, jobs=stages.jobs, what="decoder")
    return {
        (work.plan.name, work.seed): TrainedGeneration(
            _finish(work, is_new=work.name in new, stages=stages),
            own,
            stages.catalogue,
            work.plan.config.generative.model.asks,
            work.plan.config.hybrid,
        )
        for work, own in zip(works, owns, strict=True)
    }


def _finish(work: GenerationWork, *, is_new: bool, stages: Stages) -> Artifact:
    return stages.stage(generative_train.KIND, lambda _: work.train(), record=f"generative {work.name}", is_new=is_new)
