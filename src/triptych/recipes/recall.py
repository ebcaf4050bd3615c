"""Vector recall in a run: the pretrained encoder whose vectors a model reads, the model, and the index of its items."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from triptych.data.catalogue import Catalogue
from triptych.data.pages import read_pages
from triptych.data.splits import Split
from triptych.encoders import embeddings
from triptych.encoders.base import Export
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import Modality, load_vectors, load_views
from triptych.encoders.inputs import Modalities, View
from triptych.engine.bundle import write_index, write_retriever
from triptych.foundation.artifact import Artifact
from triptych.foundation.config import Config
from triptych.foundation.registry import one_of
from triptych.index.backends.exact import ExactIndex
from triptych.pretrain.base import TASKS, PretrainConfig
from triptych.recall import relevance_control, train
from triptych.recall.config import RecallTrainConfig
from triptych.recall.item_codes import ItemCodes
from triptych.recall.learned import Needs
from triptych.recall.models.dense import Dense
from triptych.recall.models.semantic_tower import Content as TowerContent
from triptych.recall.models.semantic_tower import SemanticTowerConfig
from triptych.recall.recommender import Recommender
from triptych.recall.relevance_control import (
    Answers,
    ControlledRetriever,
    RelevanceControl,
    RelevanceControlConfig,
)
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given
from triptych.recipes.config import RECALL, RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.encoders import Plan
from triptych.recipes.semantic_ids import SetsConfig, codes_of, said_by
from triptych.recipes.side_by_side import train_new
from triptych.recipes.stages import AllTrained, Stages, Trained
from triptych.recipes.views import SIDES, of_modalities, query_vectors, side_by_side
from triptych.semantic_ids.stored import PARTS, SemanticIds
from triptych.training.epochs import find_trained


class RecallConfig(Config):
    """A recall model, and the pretraining whose vectors it reads."""

    pretrain: Annotated[PretrainConfig | None, one_of(TASKS)] = None
    """What the encoder is trained on; none for a model that reads no content."""
    export: Export | None = None
    """Which of the encoder's vectors are read; none: those that it answers with."""
    semantic_ids: SetsConfig | None = None
    """Of the items, the model reads what their semantic IDs stand for, made so of the encoder's vectors, or the IDs
    themselves where it has tokens for them, of one set or several; none: it reads the vectors."""
    content: tuple[Modality, ...] = Field((Modality.ITEM,), min_length=1)
    """Which of the encoder's vectors of an item a model that reads one is given: item, or several, such as title and
    photo, side by side."""
    modalities: tuple[Modality, ...] = SIDES
    """What items are made of, for a model that fuses it itself: title, photo, item (both together)."""
    recall: RecallTrainConfig = RecallTrainConfig()
    """Model and training."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        model = self.recall.recall_model
        reads = model.reads_content or model.needs.modalities
        if model.reads_content and self.pretrain is None:
            raise ValueError("recall.model reads the vectors of a pretrained encoder: set pretrain.")
        if self.modalities != SIDES and not model.needs.modalities:
            raise ValueError("modalities have no effect on a model that does not fuse them itself. Remove them.")
        if model.needs.modalities and (self.export or self.semantic_ids):
            raise ValueError("export and semantic_ids have no effect on a model that reads modalities. Remove them.")
        if not reads and (self.pretrain or self.export or self.semantic_ids):
            raise ValueError(
                "pretrain, export and semantic_ids have no effect on a model that reads no content. Remove them."
            )
        if self.recall.mined_negatives and self.pretrain is None:
            raise ValueError("recall.mined_negatives are mined by a pretrained encoder's vectors: set pretrain, or 0.")
        if self.reads_sides and not self._reads_sides_for_the_whole:
            self._check_sides()
        if self.semantic_ids is not None and self.export is not None:
            raise ValueError("semantic_ids are made of the vectors that the encoder answers with. Remove export.")
        needs = self.recall.recall_model.needs
        if needs.codes is not None and self.semantic_ids is None:
            raise ValueError("recall.model reads semantic IDs: set semantic_ids.")
        if needs.codes is None and self.semantic_ids is not None and self.semantic_ids.reads_sides:
            raise ValueError(
                "semantic_ids.sets have no effect on a model that reads what the item's IDs stand for. Remove them."
            )
        if needs.title_content and needs.codes is None and self.semantic_ids is not None:
            raise ValueError("semantic_ids have no effect with this recall.model.content. Remove them.")
        if needs.title_content and self.export is not None:
            raise ValueError("recall.model reads titles as the encoder answers with them. Remove export.")
        modalities = None if self.pretrain is None else self.pretrain.encoder.modalities
        if needs.title_content and modalities not in (None, Modalities.TITLE_PHOTO):
            raise ValueError(
                "recall.model reads titles by themselves beside titles with photos: the encoder must read both. Set "
                "pretrain.encoder.modalities to 'title+photo'."
            )
        return self

    @property
    def reads_sides(self) -> bool:
        """Whether the model is given other vectors of an item than the one that the encoder answers with."""
        return self.content != (Modality.ITEM,)

    @property
    def _reads_sides_for_the_whole(self) -> bool:
        """Whether the model reads titles beside vectors of items, and in the place of these is given those of sides."""
        model = self.recall.recall_model
        return isinstance(model, SemanticTowerConfig) and model.content is TowerContent.DENSE

    def _check_sides(self) -> None:
        model = self.recall.recall_model
        if not model.reads_content or model.needs.query:
            raise ValueError(
                "content has no effect on a model that reads none, and one that reads queries is given their vectors "
                "of the same encoder. Remove it."
            )
        if self.export or self.semantic_ids:
            raise ValueError("content is of the vectors as they are. Remove export and semantic_ids.")
        if self.pretrain is not None and self.pretrain.encoder.modalities is not Modalities.TITLE_PHOTO:
            raise ValueError(
                "content: an encoder has vectors of title and photo each where it reads both. Set "
                "pretrain.encoder.modalities to 'title+photo'."
            )


class RecallPlan(NamedTuple):
    """A recall model that a run wants, with each of its seeds."""

    name: str
    """What tables and messages call it."""
    config: RecallConfig
    """Encoder, model and training, complete."""
    control: Control = Control.NONE
    """What items have in the place of their own."""
    keeps_relevant: bool = False
    """Whether its answers keep only items of a category that the query asks for (`recall.relevance_control`)."""
    start: PretrainConfig | None = None
    """What the encoder's training goes on from, as of `encoders.Plan`; None: new weights."""

    @property
    def pretrain(self) -> PretrainConfig | None:
        """How the encoder is trained; None: there is none."""
        return self.config.pretrain


class Content(NamedTuple):
    """What a model reads of an encoder."""

    encoder: Artifact
    embeddings: Artifact
    """Its vectors of the items."""
    query_embeddings: Artifact | None
    """And of the queries; None: the model answers none."""
    semantic_ids: Artifact | None = None
    """Of the items, read in the place of their vectors, or as tokens; None: the vectors are read, or other sets."""
    item_views: Artifact | None = None
    """Title and photo of the items each; None: the model reads neither by itself."""
    semantic_ids_title: Artifact | None = None
    """Of the titles, read as tokens; None: they are not."""
    semantic_ids_photo: Artifact | None = None
    """Of the photos, likewise."""


@dataclass(frozen=True)
class RecallWork:
    """One recall model to train: what a process must be told, and no more."""

    plan: RecallPlan
    seed: int
    catalogue: Artifact
    split: Artifact
    content: Content | None
    """None: it reads none."""
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
        """What becomes of its answers is no part of a training."""
        made_of = tuple(sorted((name, str(one)) for name, one in self._inputs.items()))
        return self.plan.config.recall.to_json(), self.seed, made_of

    @property
    def num_steps(self) -> int:
        """Steps that its training counts; of models that read runs, about."""
        config = self.plan.config.recall
        num_pages = max(1.0, self.num_pages * config.pages_rate)
        return config.loop(batches_per_epoch=num_pages / min(config.batch_pages, num_pages)).steps

    def find(self) -> Artifact | None:
        """Return the finished model, or None."""
        return find_trained(train.KIND, self.plan.config.recall, seed=self.seed, inputs=self._inputs, out=self.out)

    def train(self) -> Artifact:
        """Train it, go on where an attempt was interrupted, or open it."""
        of_queries = None if self.content is None else self.content.query_embeddings
        query_content = None if of_queries is None else load_vectors(of_queries)
        catalogue, split = Catalogue.open(self.catalogue), Split.open(self.split)
        given = Given(
            catalogue,
            split,
            query_content,
            self.item_content,
            self.seed,
            item_modalities=self._item_modalities,
            title_content=self._title_content,
            item_codes=self.item_codes,
        )
        return train.run(self.plan.config.recall, given, inputs=self._inputs, out=self.out)

    @property
    def item_content(self) -> NDArray[Any] | None:
        """What it reads of the items ``[items, dim]``; None: nothing."""
        if self.content is None or not self.plan.config.recall.recall_model.reads_content:
            return None
        if self.content.semantic_ids is not None and self._needs.codes is None:
            return said_by(self.content.semantic_ids, control=self.plan.control, seed=self.seed)
        wanted = self.plan.config.content
        found = of_modalities(wanted, item_vectors=self.content.embeddings, views=self.content.item_views)
        found = self.plan.control.content(found, seed=self.seed)
        return side_by_side(found) if self.plan.config.reads_sides else found[Modality.ITEM]

    @property
    def _item_modalities(self) -> dict[str, NDArray[Any]] | None:
        """What items are made of, name → ``[items, dim]``; None: the model does not fuse it itself."""
        if self.content is None or not self._needs.modalities:
            return None
        item_vectors, views = self.content.embeddings, self.content.item_views
        found = of_modalities(self.plan.config.modalities, item_vectors=item_vectors, views=views)
        return self.plan.control.content(found, seed=self.seed)

    @property
    def _needs(self) -> Needs:
        return self.plan.config.recall.recall_model.needs

    @property
    def _title_content(self) -> NDArray[Any] | None:
        if self.content is None or self.content.item_views is None:
            return None
        return load_views(self.content.item_views)[View.TITLE.value] if self._needs.title_content else None

    @property
    def item_codes(self) -> tuple[ItemCodes, ...]:
        """The IDs that it reads as tokens; one against collisions means nothing, and is not among them."""
        if self.content is None or self._needs.codes is None:
            return ()
        found = []
        for part in PARTS.values():
            if (ids := getattr(self.content, part)) is not None:
                codebooks = SemanticIds.open(ids).quantizer.codebooks
                codes = codes_of(ids, control=self.plan.control, seed=self.seed)
                found.append(ItemCodes(codes[:, : len(codebooks)], codebooks))
        return tuple(found)

    @property
    def _inputs(self) -> dict[str, Artifact | str]:
        inputs: dict[str, Artifact | str] = {"catalogue": self.catalogue, "split": self.split}
        if self.content is not None:
            inputs |= {name: one for name, one in self.content._asdict().items() if one is not None}
            if self.plan.config.reads_sides:
                inputs["content"] = ", ".join(self.plan.config.content)
        return inputs | self.plan.control.inputs


@dataclass(frozen=True)
class TrainedRecall:
    """One recall model and its vectors of the catalogue."""

    model: Artifact
    """Kind ``recall``."""
    index: Artifact
    encoder: Artifact | None
    """Whose vectors the model reads; None: it reads none."""
    export: Export | None
    catalogue: Catalogue
    """In whose log a personal model looks up who asks."""
    item_content: NDArray[Any] | None
    """What it reads of the items in a history ``[items, dim]``; None: it reads no content."""
    control: RelevanceControl | None = None
    """What its answers must have; None: nothing."""

    def retriever(self, *, name: str, config: RunConfig) -> LearnedRetriever | ControlledRetriever:
        """Open it `alone`, its answers cut down to what they must have."""
        del config  # of how an encoder's retriever is asked
        alone = self.alone(name=name)
        return alone if self.control is None else self.control.over(alone)

    def alone(self, *, name: str) -> LearnedRetriever:
        """Put the model before its vectors, all of which are compared, as of `Trained.retriever`."""
        encoder = None if self.encoder is None else Embedder.open(self.encoder, export=self.export)
        return LearnedRetriever.load(
            self.model.path,
            index=ExactIndex.build(self.vectors),
            encoder=encoder,
            name=name,
            catalogue=self.catalogue,
            item_content=self.item_content,
        )

    def recommender(self, *, name: str, dense: Dense) -> Recommender:
        """Put a model of users or histories before the encoder, as the engine does.

        Args:
            name: in tables and logs.
            dense: the served encoder of the same seed.
        """
        return Recommender.of(self.alone(name=name), dense=dense, item_ids=self.catalogue.item_ids)

    @property
    def vectors(self) -> NDArray[np.float16]:
        """Its vectors of the items ``[items, vector_dim]``, mapped."""
        found: NDArray[np.float16] = np.load(self.model.file(train.VECTORS), mmap_mode="r", allow_pickle=False)
        return found


PUBLISHED = RelevanceControlConfig(answers=Answers.SHORTER)
"""MGDSPR's, in a table's row."""
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
    behind = stages.train_behind(plans, seeds=seeds, split=split, tokenizer=tokenizer)
    wanted = [(plan, seed, behind[plan.name, seed]) for seed in seeds for plan in plans]
    return _train(wanted, stages=stages, split=split)


def control_of_run(stages: Stages, *, split: Split) -> Artifact | None:
    """Count what the run's queries ask for, before anything is trained; None: its answers are left as they are.

    Raises:
        ConfigError: the catalogue or the log does not say.
    """
    config = stages.config.relevance_control
    if config is None:
        return None
    return stages.stage(
        relevance_control.KIND,
        lambda out: write_retriever(
            out,
            fit=lambda: RelevanceControl.fit(config, catalogue=stages.catalogue, split=split),
            kind=relevance_control.KIND,
            config=config,
            inputs={"catalogue": stages.catalogue.artifact, "split": split.artifact},
        ),
    )


def recall_of_run(
    trained: AllTrained, *, stages: Stages, split: Split, served: Plan, control: Artifact | None = None
) -> dict[str, list[TrainedRecall]]:
    """Train the run's recall models over its served encoder, and over the run's semantic IDs where they read such.

    Args:
        trained: the encoders.
        stages: of the run.
        split: its training part is learned.
        served: whose vectors they read.
        control: what the answers of the served one must have; None: nothing. Those beside it answer freely.

    Returns:
        Row of the tables → one model for each seed; `RECALL` first, which is served. Empty where the run has none.
    """
    config = stages.config
    if config.recall is None:
        return {}
    wanted = []
    for seed in config.seeds:
        for name, recall in {RECALL: config.recall, **config.recall_beside}.items():
            reads = recall.recall_model.reads_content
            ids = None if recall.recall_model.needs.codes is None else config.semantic_ids
            own = RecallConfig(pretrain=served.config if reads else None, semantic_ids=ids, recall=recall)
            plan = RecallPlan(name, own)
            wanted.append((plan, seed, trained[served.name, seed] if reads else None))
    found = _train(wanted, stages=stages, split=split)
    kept = None if control is None else RelevanceControl.load(control.path, catalogue=stages.catalogue)
    return {
        RECALL: [replace(found[RECALL, seed], control=kept) for seed in config.seeds],
        **{name: [found[name, seed] for seed in config.seeds] for name in config.recall_beside},
    }


def recall_inputs(recalled: Mapping[str, Sequence[TrainedRecall]], *, stages: Stages) -> dict[str, Artifact]:
    """Name what a report of a run's recall models is made of."""
    return {
        f"{part} seed {seed}": artifact
        for name, by_seed in recalled.items()
        for seed, one in zip(stages.config.seeds, by_seed, strict=True)
        for part, artifact in ((name, one.model), (f"{name} index", one.index))
    }


def _train(
    wanted: Sequence[tuple[RecallPlan, int, Trained | None]], *, stages: Stages, split: Split
) -> dict[tuple[str, int], TrainedRecall]:
    """Train plans with a seed and the encoder whose vectors they read each, and index their item vectors."""
    kinds = {plan.config.recall.pages_of for plan, _, _ in wanted}
    num_pages = {of: len(read_pages(stages.catalogue, places=split.train, of=of).place) for of in kinds}
    works = []
    for plan, seed, own in wanted:
        content = None if own is None else _embedded(plan, seed=seed, own=own, stages=stages, split=split)
        out, catalogue = stages.out / "recall", stages.catalogue.artifact
        count = num_pages[plan.config.recall.pages_of]
        works.append(RecallWork(plan, seed, catalogue, split.artifact, content, count, out))
    new = train_new(works, jobs=stages.jobs, what="recall model")
    control = None
    if any(plan.keeps_relevant for plan, _, _ in wanted):
        control = RelevanceControl.fit(PUBLISHED, catalogue=stages.catalogue, split=split)
    return {
        (work.plan.name, work.seed): replace(
            _finish(work, is_new=work.name in new, stages=stages),
            control=control if work.plan.keeps_relevant else None,
        )
        for work in works
    }


def _finish(work: RecallWork, *, is_new: bool, stages: Stages) -> TrainedRecall:
    """Train it if nobody has, and index its item vectors."""
    model = stages.stage("recall", lambda _: work.train(), record=f"recall {work.name}", is_new=is_new)
    index = stages.stage(
        "index",
        lambda out: write_index(
            out,
            vectors=lambda: np.load(model.file(train.VECTORS), mmap_mode="r", allow_pickle=False),
            catalogue=work.catalogue,
            encoder=model,
            config=stages.config.index,
        ),
        record=f"index {work.name}",
    )
    encoder = None if work.content is None else work.content.encoder
    return TrainedRecall(model, index, encoder, work.plan.config.export, stages.catalogue, work.item_content)


def _embedded(plan: RecallPlan, *, seed: int, own: Trained, stages: Stages, split: Split) -> Content:
    """Return the vectors of items and of queries that the model reads."""
    catalogue, export, pretrain = stages.catalogue, plan.config.export, plan.pretrain
    assert pretrain is not None
    items, photo_rows = own.embeddings, plan.control.photo_rows(catalogue, seed=seed)
    if export is not None:
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
    config, name = plan.config.semantic_ids, f"{plan.name} seed {seed}"
    views = _views(plan, seed=seed, own=own, stages=stages, photo_rows=photo_rows)
    sets = {} if config is None else stages.code_sets(own, config=config, name=name, split=split, views=views)
    ids = {PARTS[of]: one for of, one in sets.items()}
    asks = plan.config.recall.recall_model.needs.query
    queries = query_vectors(own, stages=stages, name=name, export=export) if asks else None
    return Content(own.encoder, items, queries, item_views=views, **ids)


def _views(
    plan: RecallPlan, *, seed: int, own: Trained, stages: Stages, photo_rows: NDArray[np.int64] | None
) -> Artifact | None:
    """Encode title and photo each for a model that reads one of them by itself."""
    needs = plan.config.recall.recall_model.needs
    wanted = {*plan.config.content, *(plan.config.modalities if needs.modalities else ())}
    reads_one = needs.title_content or set(SIDES) & wanted
    if plan.pretrain is None or not reads_one:
        return None
    name = f"{plan.name} seed {seed}"
    return stages.item_views(own, pretrain=plan.pretrain, name=name, photo_rows=photo_rows)
