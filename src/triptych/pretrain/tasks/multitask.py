"""Many objectives, in any mix and any order of stages: Taobao's pretraining, SMGR's, and whatever lies between.

A stage names the objectives it mixes, what it trains at which rate, what it draws from and what chooses its weights
(`pretrain.stages`); the objectives are files of `pretrain.objectives`. One stage is joint training. One set of weights
goes through all stages, each of which hands on its best.

Source: the Taobao pre-training article (tasks, towers) and SMGR, 2602.06654, component A (stages), as reconstructed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from triptych.encoders.base import EncoderConfig
from triptych.encoders.cross import Crossing
from triptych.encoders.models.two_tower import TwoTowerConfig
from triptych.foundation.errors import ConfigError
from triptych.pretrain.base import Given, LearnsFrom, Phase, PretrainConfig
from triptych.pretrain.model import CROSS, PretrainModel
from triptych.pretrain.objectives.base import ObjectiveConfig
from triptych.pretrain.objectives.matching import QUERY_ITEM
from triptych.pretrain.stage_task import Feed, StageTask
from triptych.pretrain.stages import Balance, Data, Pairs, StageConfig, check_stages, preset_stages
from triptych.training.loop import LoopConfig
from triptych.training.schedule import Stretch

_DEFAULT = "contrastive"


class Schedules(StrEnum):
    """How the learning rate goes over several stages."""

    FRESH = "fresh"
    """Each stage has a schedule and an optimiser of its own (SMGR's reconstruction)."""
    ONE = "one"
    """One schedule and one optimiser go over all stages."""


class MultitaskConfig(PretrainConfig):
    """Objectives in stages."""

    kind: Literal["multitask"] = "multitask"
    """Learn many things, at once or one after another."""
    stages: Annotated[tuple[StageConfig, ...], BeforeValidator(preset_stages)] = Field(
        default_factory=lambda: tuple(StageConfig.parse(tree) for tree in preset_stages(_DEFAULT)), min_length=1
    )
    """In their order; or the name of a preset: contrastive, taobao, fashionbert, joint, fused, o1, o1-open,
    o1-own-stops, o1-anchored, o1-cumulative, o2, o3, o4, o5, three."""
    schedules: Schedules = Schedules.FRESH
    """Learning rate over several stages: fresh (a schedule and optimiser each), one (over all)."""
    batch_items: int = Field(256, ge=2)
    """Distinct items in a batch."""
    queries_per_item: int = Field(2, ge=1)
    """Queries drawn for each item of a batch, by clicks."""
    item_power: float = Field(0.5, ge=0, le=1)
    """Items are drawn by their training clicks to this power: 0 all alike, 1 by clicks."""
    pairs: Pairs = Pairs.CLICKED
    """Which pairs are positive: clicked, or most-clicked (of each query one item; the others are no negatives)."""
    pairs_rate: float = Field(1.0, gt=0, le=1)
    """Share of the distinct training pairs that is learned from, the same for every seed: as a shorter log."""
    cell_rate: float = Field(0.0, ge=0, le=1)
    """Share of a batch's items drawn from a few delivery cells; SMGR's reconstruction has 0.5."""
    cells_per_batch: int = Field(2, ge=1)
    """Cells they are drawn from."""
    word_mask_rate: float = Field(0.15, gt=0, lt=1)
    """Share of words that are masked, at least one of a text: 80 % of them by [MASK], 10 % by another word."""
    patch_mask_rate: float = Field(0.25, gt=0, lt=1)
    """Share of a photo's patches that are blanked."""
    crossing: Crossing = Crossing.ON_TOP
    """Where query and item meet: on-top (in blocks of their own), single-stream (in the encoder's transformer)."""
    cross_layers: int = Field(1, ge=1, le=48)
    """Blocks of the meeting, with crossing = on-top."""
    cheap_pass: bool = False
    """Whether contrast and matching read the masked texts and photos too, which saves a pass (FashionBERT)."""
    rows_at_once: int | None = Field(None, ge=1)
    """Rows encoded at a time, and again for the gradient: a large batch in the memory of a small one. None: all."""
    validation_queries: int = Field(1_000, ge=1)
    """Queries of the validation part that choose the best weights; fewer where it has fewer."""
    balance: Balance = Balance.NONE
    """Whether the modality that is ahead is held back: none, ogm-ge (of stages with queries)."""
    balance_alpha: float = Field(0.5, gt=0)
    """How hard, with balance = ogm-ge."""
    id_rate: float = Field(10.0, gt=0)
    """Learning rate of vectors by id as a multiple of the rate, in stages that have them."""
    rank_queries: int = Field(0, ge=0)
    """Queries of the validation part for which matching ranks the chosen item and 100 others of its category, a
    diagnostic that chooses nothing; 200 take some 15 core-seconds each time. 0: none."""
    diagnose: bool = True
    """Whether validation also measures title and photo alone, and items with either hidden."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        encoder = self.encoder
        parts = [*encoder.PARTS, CROSS] if self._has_cross else list(encoder.PARTS)
        check_stages(self.stages, parts=parts, kind=encoder.kind)
        for stage in self.stages:
            for task in stage.tasks:
                if not _can_learn(encoder, task):
                    raise ValueError(
                        f"stage '{stage.name}': {task.label} takes a photo or a title that an encoder of modalities = "
                        f"'{encoder.modalities}' does not read. Remove it."
                    )
                task.check(encoder)
            if not stage.validate_on.can_be_asked(encoder.modalities):
                raise ValueError(
                    f"stage '{stage.name}': validate_on = '{stage.validate_on}' takes a photo or a title that an "
                    f"encoder of modalities = '{encoder.modalities}' does not read. Set it to 'query-item'."
                )
        self._no_option_without_effect()
        if self.rank_queries and all(task.label != QUERY_ITEM for stage in self.stages for task in stage.tasks):
            raise ValueError("rank_queries has no effect without a task that matches queries and items. Set it to 0.")
        if self.crossing is Crossing.SINGLE_STREAM and not isinstance(encoder, TwoTowerConfig):
            raise ValueError(f"crossing = 'single-stream' takes an encoder of kind 'two_tower', not '{encoder.kind}'.")
        if self.schedules is Schedules.ONE and any(stage.learning_rate or stage.patience for stage in self.stages):
            raise ValueError(
                "schedules = 'one': a stage's own learning_rate or patience would break the one schedule. Remove them."
            )
        if self.schedules is Schedules.ONE and self.loop.patience and len(self.stages) > 1:
            raise ValueError("schedules = 'one': loop.patience would end a stage amid the one schedule. Remove it.")
        return self

    def _no_option_without_effect(self) -> None:
        needs = [task.needs for stage in self.stages for task in stage.tasks]
        masked = any(one.masked_queries or one.masked_titles for one in needs)
        hidden = any(one.hidden_patches for one in needs)
        idle = {
            "cells_per_batch": self.cell_rate == 0,
            "word_mask_rate": not masked,
            "patch_mask_rate": not hidden,
            "cheap_pass": not (masked or hidden),
            "crossing": not any(one.cross for one in needs),
            "cross_layers": not self._has_cross,
            "balance": not any(one.queries for one in needs),
            "balance_alpha": self.balance is Balance.NONE,
            "id_rate": not any(stage.with_ids for stage in self.stages),
        }
        for name, has_no_effect in idle.items():
            if has_no_effect and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on these stages. Remove it.")

    @property
    def learns_from(self) -> LearnsFrom:
        """Queries, unless every stage draws items alone."""
        return LearnsFrom.ITEMS if all(stage.data is Data.ITEMS for stage in self.stages) else LearnsFrom.QUERIES

    @property
    def varies_photos(self) -> bool:
        """Whether a stage has the objective that needs it."""
        return any(task.needs.photo_views for stage in self.stages for task in stage.tasks)

    def phases(self, given: Given) -> Iterator[Phase]:
        """Yield the stages that have something the encoder can learn: a model of titles has no photos to look at.

        Raises:
            ConfigError: nothing is left to learn, or the catalogue's photos have another size than the encoder takes.
            DataError: there is nothing to train or validate on.
        """
        stages = [(stage, self._tasks(stage)) for stage in self.stages]
        stages = [(stage, tasks) for stage, tasks in stages if tasks]
        if not stages:
            raise ConfigError(f"stages: an encoder of modalities = '{self.encoder.modalities}' can learn none of them.")
        model = self._model(given, [task for _, tasks in stages for task in tasks])
        feed = Feed(self, given, stages=[stage for stage, _ in stages])
        whole = sum(stage.steps_rate for stage, _ in stages)
        before, share = 0, 0.0
        for place, (stage, tasks) in enumerate(stages):
            share += stage.steps_rate / whole
            steps = max(1, round(self.loop.steps * share) - before)
            labels = [task.label for task in tasks]
            model.train_only(stage.train, labels=labels, id_rate=self.id_rate if stage.with_ids else None)
            one = self.schedules is Schedules.ONE
            task = StageTask(self, given, stage=stage, tasks=tasks, model=model, feed=feed, first_batch=before)
            yield Phase(
                name=f"{place + 1}-{stage.name}" if len(stages) > 1 else "",
                task=task,
                loop=self._loop(stage, steps=steps),
                stretch=Stretch(before, self.loop.steps) if one else None,
                keeps_optimizer=one,
            )
            task.close()
            before += steps
            given.group.spread([value for _, value in sorted(model.state_dict().items())])

    @property
    def _has_cross(self) -> bool:
        """Whether query and item meet in blocks of their own."""
        crosses = any(task.needs.cross for stage in self.stages for task in stage.tasks)
        return crosses and self.crossing is Crossing.ON_TOP

    def _tasks(self, stage: StageConfig) -> list[ObjectiveConfig]:
        return [task for task in stage.tasks if _can_learn(self.encoder, task)]

    def _model(self, given: Given, tasks: Sequence[ObjectiveConfig]) -> PretrainModel:
        catalogue = given.catalogue
        crosses = self._has_cross and any(task.needs.cross for task in tasks)
        return PretrainModel(
            given.encoder(self.encoder),
            cross_layers=self.cross_layers if crosses else None,
            objectives=tasks,
            batch_items=self.batch_items,
            ids=(catalogue.num_queries, catalogue.num_items) if any(one.with_ids for one in self.stages) else None,
            seed=given.seed,
        )

    def _loop(self, stage: StageConfig, *, steps: int) -> LoopConfig:
        """Return the loop of one stage: its steps, and a warm-up of no more than a quarter of them."""
        loop = self.loop
        changes = {
            "steps": steps,
            "learning_rate": stage.learning_rate or loop.learning_rate,
            "patience": stage.patience or loop.patience,
        }
        if self.schedules is Schedules.FRESH:
            changes["warmup_steps"] = min(loop.warmup_steps, steps // 4)
        return loop.model_copy(update=changes)


CONFIG = MultitaskConfig


def _can_learn(encoder: EncoderConfig, task: ObjectiveConfig) -> bool:
    reads, needs = encoder.modalities, task.needs
    return (reads.reads_title or not needs.title) and (reads.reads_photo or not needs.photo)
