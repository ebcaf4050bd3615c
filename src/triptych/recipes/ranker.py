"""Rankers: those of a table, each behind an encoder of its own training, and a run's, behind the served encoder."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.embeddings import Modality, load_vectors
from triptych.encoders.inputs import View
from triptych.foundation.artifact import Artifact
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, DataError
from triptych.foundation.registry import one_of
from triptych.pretrain.base import TASKS, PretrainConfig
from triptych.ranker import train
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.content.semantic_ids import SEMANTIC_ID, code_tokens
from triptych.ranker.feature_ids import item_field_names
from triptych.ranker.match import Match
from triptych.ranker.measure import GroupBy
from triptych.ranker.own_encoder import EncoderStart
from triptych.ranker.samples import read_samples
from triptych.ranker.scorer import Ranker
from triptych.ranker.task import Given
from triptych.recipes.config import RANKER, RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.encoders import Plan
from triptych.recipes.semantic_ids import check_codes, codes_of
from triptych.recipes.side_by_side import train_new
from triptych.recipes.stages import AllTrained, Stages, Trained
from triptych.recipes.views import SIDES, of_modalities, query_vectors
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.stored import SemanticIds
from triptych.training.epochs import find_trained


class RankerConfig(Config):
    """A ranker, and the pretraining whose vectors it reads."""

    pretrain: Annotated[PretrainConfig | None, one_of(TASKS)] = None
    """What the encoder is trained on; none for a ranker that reads no content."""
    modalities: tuple[Modality, ...] = ()
    """Which of its vectors the ranker reads of an item: item, title, photo; none: item, with the other two where it
    fuses them itself and the encoder reads both."""
    semantic_ids: SemanticIdsConfig | None = None
    """How the items' IDs are made of its vectors, for a ranker that reads those in their place; none: it reads none."""
    ranker: RankTrainConfig = RankTrainConfig()
    """Model, what it makes of content, and training."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        content, match = self.ranker.content, self.ranker.reads_match
        if match and self.pretrain is None:
            raise ValueError("ranker.reads_match reads an encoder's vectors of queries and items: set pretrain.")
        if content.reads_modalities and self.pretrain is None:
            raise ValueError(f"ranker.content.kind = '{content.kind}' reads vectors of items: set pretrain.")
        if not content.reads_modalities and (self.modalities or (self.pretrain and not match)):
            unread = "modalities" if match else "pretrain and modalities"
            raise ValueError(f"ranker.content.kind = '{content.kind}' reads no vectors of items: remove {unread}.")
        if content.reads_codes and self.modalities:
            raise ValueError(f"ranker.content.kind = '{content.kind}' reads semantic IDs: remove modalities.")
        if self.semantic_ids is not None and not content.reads_codes:
            raise ValueError(f"ranker.content.kind = '{content.kind}' reads no semantic IDs: remove semantic_ids.")
        check_codes(self.ranker, self.semantic_ids)
        return self

    @property
    def reads(self) -> tuple[Modality, ...]:
        """Which of the encoder's vectors it reads of an item; none where it reads no content."""
        content = self.ranker.content
        if self.modalities or self.pretrain is None or not content.reads_modalities or content.reads_codes:
            return self.modalities
        encoder = self.pretrain.encoder.modalities
        fuses = content.fuses_modalities and encoder.reads_title and encoder.reads_photo
        return (Modality.ITEM, *SIDES) if fuses else (Modality.ITEM,)


class RankerPlan(NamedTuple):
    """A ranker that a table or a run wants, with each of its seeds."""

    name: str
    """What tables and messages call it."""
    config: RankerConfig
    """Encoder, ranker and training, complete."""
    control: Control = Control.NONE
    """What items have in the place of their own."""

    start: PretrainConfig | None = None
    """What the encoder's training goes on from, as of `encoders.Plan`; None: new weights."""

    @property
    def pretrain(self) -> PretrainConfig | None:
        """How the encoder is trained; None: there is none."""
        return self.config.pretrain

    @property
    def trains_encoder(self) -> bool:
        """Whether the ranker goes on training it."""
        return self.config.ranker.content.trains_encoder


class Read(NamedTuple):
    """What a ranker reads of an encoder."""

    encoder: Artifact
    embeddings: Artifact | None
    """Its vectors of items; None: the ranker trains the encoder and makes its own, and reads no match."""
    item_views: Artifact | None
    """Title and photo each; None: neither is read, or likewise."""
    photo_features: Artifact | None = None
    """What its frozen vision model sees, for a ranker that trains the encoder; None: there is none."""
    query_embeddings: Artifact | None = None
    """Its vectors of queries; None: the ranker reads no match of query and item."""
    semantic_ids: Artifact | None = None
    """Of the items, read in the place of their vectors; None: it reads none."""


@dataclass(frozen=True)
class RankerWork:
    """One ranker to train: what a process must be told, and no more."""

    plan: RankerPlan
    seed: int
    catalogue: Artifact
    split: Artifact
    read: Read | None
    """None: it reads no content."""
    num_samples: int
    """That an epoch learns from, by which its steps are counted."""
    out: Path
    """Folder of the stage."""

    @property
    def name(self) -> str:
        """What the run calls it."""
        return f"{self.plan.name} seed {self.seed}"

    @property
    def key(self) -> Hashable:
        """No two that are wanted are one training."""
        return self.name

    @property
    def num_steps(self) -> int:
        """Steps that its training counts."""
        config = self.plan.config.ranker
        return config.loop(batches_per_epoch=math.ceil(self.num_samples / config.batch_samples)).steps

    def find(self) -> Artifact | None:
        """Return the finished ranker, or None."""
        return find_trained(RANKER, self.plan.config.ranker, seed=self.seed, inputs=self._inputs, out=self.out)

    def train(self) -> Artifact:
        """Train it, go on where an attempt was interrupted, or open it."""
        catalogue = Catalogue.open(self.catalogue)
        encoder = self._encoder(catalogue) if self.plan.trains_encoder else None
        given = Given(catalogue, Split.open(self.split), self.seed, self.modalities, encoder, self.match)
        return train.run(self.plan.config.ranker, given, inputs=self._inputs, out=self.out)

    @property
    def modalities(self) -> dict[str, NDArray[Any]] | None:
        """What it reads of the items, name → ``[items, dim]``; None: nothing, or what it makes itself."""
        if self.read is not None and self.read.semantic_ids is not None:
            ids, control = self.read.semantic_ids, self.plan.control
            levels = SemanticIds.open(ids).quantizer.levels  # a token against collisions says nothing of the item
            codes = codes_of(ids, control=control, seed=self.seed)[:, :levels]
            return control.content({SEMANTIC_ID: code_tokens(codes)}, seed=self.seed)
        wanted = self.plan.config.reads
        if self.read is None or self.read.embeddings is None or not wanted or self.plan.trains_encoder:
            return None
        found = of_modalities(wanted, item_vectors=self.read.embeddings, views=self.read.item_views)
        return self.plan.control.content(found, seed=self.seed)

    @property
    def match(self) -> Match | None:
        """Of which encoder it reads how query and item go together; None: it reads no such thing."""
        read = self.read
        if read is None or read.embeddings is None or read.query_embeddings is None:
            return None
        count = len(load_vectors(read.embeddings))
        return Match.open(
            encoder=read.encoder,
            embeddings=read.embeddings,
            query_embeddings=read.query_embeddings,
            content_rows=self.plan.control.content_rows(count, seed=self.seed),
        )

    def _encoder(self, catalogue: Catalogue) -> EncoderStart:
        """Describe the encoder that it trains on, shown what the encoder was shown in its own training."""
        plan, read = self.plan, self.read
        assert read is not None, "what trains an encoder reads one"
        return EncoderStart(
            read.encoder,
            [View(name.value) for name in plan.config.reads],
            features=read.photo_features,
            photo_rows=plan.control.photo_rows(catalogue, seed=self.seed),
            content_rows=plan.control.content_rows(catalogue.num_items, seed=self.seed),
        )

    @property
    def _inputs(self) -> dict[str, Artifact | str]:
        inputs: dict[str, Artifact | str] = {"catalogue": self.catalogue, "split": self.split}
        if self.read is not None:
            inputs |= {name: one for name, one in self.read._asdict().items() if one is not None}
            if self.plan.config.modalities:
                inputs["modalities"] = ", ".join(self.plan.config.modalities)
        return inputs | self.plan.control.inputs


@dataclass(frozen=True)
class TrainedRanker:
    """One ranker, and what it reads."""

    model: Artifact
    """Kind ``ranker``."""
    work: RankerWork
    """What it was trained from, which is what it reads."""
    catalogue: Catalogue

    def open(self) -> Ranker:
        """Open it over its catalogue."""
        return Ranker.load(self.model, catalogue=self.catalogue, modalities=self.work.modalities, match=self.work.match)

    @property
    def views(self) -> Artifact | None:
        """Vectors of title and photo; None: it fuses none."""
        return None if self.work.read is None else self.work.read.item_views


AllRankers = Mapping[tuple[str, int], TrainedRanker]
"""Name of a plan and seed → what was trained."""


def require_shown(config: RunConfig, *, catalogue: Catalogue, split: Split) -> None:
    """Check, before anything is trained, that a log tells a ranker what was shown and not chosen; nothing without one.

    Raises:
        ConfigError: the items lack a feature that the model cannot do without.
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
    config.ranker.model.check_fields(_item_fields(catalogue, split=split))


def _item_fields(catalogue: Catalogue, *, split: Split) -> list[str]:
    """Return the names of the fields that the items of the training part have."""
    return item_field_names(catalogue, shown=np.unique(catalogue.event_array("item_row")[split.train]))


def train_rankers(
    plans: Sequence[RankerPlan], *, stages: Stages, seeds: Sequence[int], split: Split, tokenizer: Artifact
) -> AllRankers:
    """Train every plan with every seed, with an encoder of that seed; encoders that plans share are trained once.

    Args:
        plans: names are distinct.
        stages: of the run.
        seeds: of initial weights and batches.
        split: its training part is learned.
        tokenizer: from `Stages.tokenizer`.

    Raises:
        ConfigError: a ranker reads how query and item go together, and the log has no queries; the items lack a feature
            that its model cannot do without.
    """
    fields = _item_fields(stages.catalogue, split=split)
    for plan in plans:
        try:
            plan.config.ranker.model.check_fields(fields)
        except ConfigError as error:
            raise ConfigError(f"{plan.name}: {error}") from None
        if plan.config.ranker.reads_match and not len(stages.catalogue.queries):
            raise ConfigError(
                f"{plan.name}: ranker.reads_match reads how query and item go together, and the log has no queries. "
                "Leave it out."
            )
    behind = stages.train_behind(plans, seeds=seeds, split=split, tokenizer=tokenizer)
    wanted = [(plan, seed, behind[plan.name, seed]) for seed in seeds for plan in plans]
    return _train(wanted, stages=stages, split=split)


def ranker_of_run(trained: AllTrained, *, stages: Stages, split: Split, served: Plan) -> list[TrainedRanker]:
    """Train the run's ranker over its served encoder, with each seed; none where it has none."""
    config = stages.config
    if config.ranker is None:
        return []
    reads = config.ranker.content.reads_modalities or config.ranker.reads_match
    ids = config.semantic_ids.of_one if config.semantic_ids and config.ranker.content.reads_codes else None
    own = RankerConfig(pretrain=served.config if reads else None, semantic_ids=ids, ranker=config.ranker)
    plan = RankerPlan(RANKER, own)
    wanted = [(plan, seed, trained[served.name, seed] if reads else None) for seed in config.seeds]
    found = _train(wanted, stages=stages, split=split)
    return [found[plan.name, seed] for seed in config.seeds]


def ranker_inputs(rankers: Sequence[TrainedRanker], *, stages: Stages) -> dict[str, Artifact]:
    """Name what a report of a run's rankers is made of."""
    return {f"{RANKER} seed {seed}": one.model for seed, one in zip(stages.config.seeds, rankers, strict=False)}


def _train(
    wanted: Sequence[tuple[RankerPlan, int, Trained | None]], *, stages: Stages, split: Split
) -> dict[tuple[str, int], TrainedRanker]:
    """Train plans with a seed and the encoder whose vectors they read each."""
    label = read_samples(stages.catalogue, places=split.train).label
    positives = int(label.sum())
    catalogue, out = stages.catalogue.artifact, stages.out / RANKER
    works = []
    for plan, seed, own in wanted:
        read = None if own is None else _read(plan, seed=seed, own=own, stages=stages, split=split)
        kept = positives + round(plan.config.ranker.negative_rate * (len(label) - positives))
        works.append(RankerWork(plan, seed, catalogue, split.artifact, read, kept, out))
    new = train_new(works, jobs=stages.jobs, what="ranker")
    return {
        (work.plan.name, work.seed): TrainedRanker(
            _finish(work, is_new=work.name in new, stages=stages), work, stages.catalogue
        )
        for work in works
    }


def _finish(work: RankerWork, *, is_new: bool, stages: Stages) -> Artifact:
    record = work.name if work.plan.name == RANKER else f"{RANKER} {work.name}"
    return stages.stage(RANKER, lambda _: work.train(), record=record, is_new=is_new)


def _read(plan: RankerPlan, *, seed: int, own: Trained, stages: Stages, split: Split) -> Read:
    """Gather what the ranker reads of its encoder."""
    assert plan.pretrain is not None
    name, match = f"{plan.name} seed {seed}", plan.config.ranker.reads_match
    views = features = None
    vectors = None if plan.trains_encoder and not match else own.embeddings
    if plan.trains_encoder:
        features = stages.models_for(plan.pretrain).features
    elif set(SIDES) & set(plan.config.reads):
        photo_rows = plan.control.photo_rows(stages.catalogue, seed=seed)
        views = stages.item_views(own, pretrain=plan.pretrain, name=name, photo_rows=photo_rows)
    queries = query_vectors(own, stages=stages, name=name) if match else None
    config = plan.config.semantic_ids
    ids = None if config is None else stages.semantic_ids(own, config=config, name=name, split=split)
    return Read(own.encoder, vectors, views, features, queries, ids)
