"""Vector recall in a run: the pretrained encoder whose vectors a model reads, the model, and the index of its items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from triptych.data.splits import Split
from triptych.encoders import embeddings
from triptych.encoders.base import Export
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import load_vectors
from triptych.engine.bundle import write_index
from triptych.foundation.artifact import Artifact
from triptych.foundation.config import Config
from triptych.foundation.registry import one_of
from triptych.index.backends.exact import ExactIndex
from triptych.pretrain.base import TASKS, PretrainConfig
from triptych.recall import train
from triptych.recall.config import RecallTrainConfig
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given
from triptych.recipes.config import RECALL, RunConfig
from triptych.recipes.encoders import Plan, permuted_photos
from triptych.recipes.stages import AllTrained, Stages, Trained


class RecallConfig(Config):
    """A recall model, and the pretraining whose vectors it reads."""

    pretrain: Annotated[PretrainConfig | None, one_of(TASKS)] = None
    """What the encoder is trained on; none for a model that reads no content."""
    export: Export | None = None
    """Which of the encoder's vectors are read; none: those that it answers with."""
    recall: RecallTrainConfig = RecallTrainConfig()
    """Model and training."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        reads = self.recall.recall_model.reads_content
        if reads and self.pretrain is None:
            raise ValueError("recall.model reads the vectors of a pretrained encoder: set pretrain.")
        if not reads and (self.pretrain is not None or self.export is not None):
            raise ValueError("pretrain and export have no effect on a model that reads no content. Remove them.")
        return self


class RecallPlan(NamedTuple):
    """A recall model that a run wants, with each of its seeds."""

    name: str
    """What tables and messages call it."""
    config: RecallConfig
    """Encoder, model and training, complete."""
    permutes_photos: bool = False
    """Whether the encoder is shown another item's photo for each item: the permuted-photo control."""
    random_vectors: bool = False
    """Whether each item has a random vector in the place of its content: the random-vector control."""

    @property
    def pretrain(self) -> PretrainConfig | None:
        """How the encoder is trained; None: there is none."""
        return self.config.pretrain

    @property
    def pretraining(self) -> tuple[str, bool]:
        """What decides the encoder: plans with the same share one."""
        return ("" if self.config.pretrain is None else self.config.pretrain.to_json(), self.permutes_photos)


@dataclass(frozen=True)
class TrainedRecall:
    """One recall model and its vectors of the catalogue."""

    model: Artifact
    """Kind ``recall``."""
    index: Artifact
    encoder: Artifact | None
    """Whose vectors the model reads; None: it reads none."""
    export: Export | None

    def retriever(self, *, name: str, config: RunConfig) -> LearnedRetriever:
        """Put the model before its vectors, all of which are compared, as of `Trained.retriever`."""
        del config  # of how an encoder's retriever is asked
        encoder = None if self.encoder is None else Embedder.open(self.encoder, export=self.export)
        return LearnedRetriever.open(self.model, index=ExactIndex.build(self.vectors), encoder=encoder, name=name)

    @property
    def vectors(self) -> NDArray[np.float16]:
        """Its vectors of the items ``[items, vector_dim]``, mapped."""
        found: NDArray[np.float16] = np.load(self.model.file(train.VECTORS), mmap_mode="r", allow_pickle=False)
        return found


AllRecall = Mapping[tuple[str, int], TrainedRecall]
"""Name of a plan and seed → what was trained."""


def train_recall(
    plans: Sequence[RecallPlan], *, stages: Stages, seeds: Sequence[int], split: Split, tokenizer: Artifact
) -> AllRecall:
    """Train every plan with every seed, with an encoder of that seed; encoders that plans share are trained once.

    Args:
        plans: names are distinct.
        stages: of the run.
        seeds: of initial weights and batches.
        split: its training part is learned.
        tokenizer: from `Stages.tokenizer`.
    """
    encoders: dict[tuple[str, bool], Plan] = {}
    for plan in plans:
        if plan.pretrain is not None and plan.pretraining not in encoders:
            name = f"pretraining {len(encoders) + 1}"
            encoders[plan.pretraining] = Plan(name, plan.pretrain, plan.permutes_photos)
    trained = stages.train_plans(list(encoders.values()), seeds=seeds, split=split, tokenizer=tokenizer)
    made = {}
    for seed in seeds:
        for plan in plans:
            encoder = encoders.get(plan.pretraining)
            own = None if encoder is None else trained[encoder.name, seed]
            made[plan.name, seed] = train_one(plan, seed=seed, own=own, stages=stages, split=split)
    return made


def recall_of_run(trained: AllTrained, *, stages: Stages, split: Split) -> list[TrainedRecall]:
    """Train the run's recall model over its served encoder, one for each seed; none where the run has none."""
    config = stages.config
    if config.recall is None:
        return []
    reads = config.recall.recall_model.reads_content
    plan = RecallPlan(RECALL, RecallConfig(pretrain=config.pretrain if reads else None, recall=config.recall))
    served = config.arms[0].value
    return [
        train_one(plan, seed=seed, own=trained[served, seed] if reads else None, stages=stages, split=split)
        for seed in config.seeds
    ]


def train_one(plan: RecallPlan, *, seed: int, own: Trained | None, stages: Stages, split: Split) -> TrainedRecall:
    """Train a plan with one seed, and index its item vectors.

    Args:
        plan: what is trained.
        seed: of initial weights and batches.
        own: the encoder whose vectors it reads; None: it reads none.
        stages: of the run.
        split: its training part is learned.
    """
    label, config, catalogue = f"{plan.name} seed {seed}", plan.config, stages.catalogue
    inputs: dict[str, Artifact | str] = {"catalogue": catalogue.artifact, "split": split.artifact}
    query_content: NDArray[Any] | None = None
    item_content: NDArray[Any] | None = None
    if own is not None:
        items, queries = _embedded(plan, seed=seed, own=own, stages=stages)
        inputs |= {"encoder": own.encoder, "embeddings": items, "query_embeddings": queries}
        query_content, item_content = load_vectors(queries), load_vectors(items)
        if plan.random_vectors:
            inputs["control"] = "random vectors"
            item_content = _random(len(item_content), dim=item_content.shape[1], seed=seed)
    given = Given(catalogue, split, query_content, item_content, seed)
    model = stages.stage(
        "recall", lambda out: train.run(config.recall, given, inputs=inputs, out=out), record=f"recall {label}"
    )
    index = stages.stage(
        "index",
        lambda out: write_index(
            out,
            vectors=lambda: np.load(model.file(train.VECTORS), mmap_mode="r", allow_pickle=False),
            catalogue=catalogue.artifact,
            encoder=model,
            config=stages.config.index,
        ),
        record=f"index {label}",
    )
    return TrainedRecall(model, index, None if own is None else own.encoder, config.export)


def _embedded(plan: RecallPlan, *, seed: int, own: Trained, stages: Stages) -> tuple[Artifact, Artifact]:
    """Return the vectors of items and of queries that the model reads."""
    catalogue, export, pretrain = stages.catalogue, plan.config.export, plan.pretrain
    assert pretrain is not None
    items = own.embeddings
    if export is not None:
        photo_rows = permuted_photos(catalogue, seed=seed) if plan.permutes_photos else None
        items = stages.stage(
            "embeddings",
            lambda out: embeddings.run(
                encoder=own.encoder,
                catalogue=catalogue,
                photo_rows=photo_rows,
                features=stages.models_for(pretrain).features,
                out=out,
                export=export,
            ),
            record=f"embeddings {plan.name} seed {seed}",
        )
    queries = stages.stage(
        "query_embeddings",
        lambda out: embeddings.run_queries(encoder=own.encoder, catalogue=catalogue, out=out, export=export),
        record=f"query embeddings {plan.name} seed {seed}",
    )
    return items, queries


def _random(count: int, *, dim: int, seed: int) -> NDArray[np.float32]:
    """Draw unit vectors ``[count, dim]``."""
    drawn = np.random.default_rng([seed, 4]).standard_normal((count, dim), dtype=np.float32)
    unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit
