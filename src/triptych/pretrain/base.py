"""What every way of training the encoder shares: its settings, what it is trained from, and the artefact.

One task per file, and the file's name is its kind: `contrastive` learns from queries and what was clicked under them,
`history_contrast` from what users chose one after another, `item_contrast` from titles and photos alone, `multitask`
by any mix of objectives in any order of stages.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from triptych.data.augment import AugmentConfig
from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import AnyTokenizer, TextTokenizer
from triptych.encoders.base import MODELS, SLOTS, Encoder, EncoderConfig, load_encoder, open_models
from triptych.encoders.embed import KIND, TOKENIZER_FILE
from triptych.encoders.model_files import KIND as PRETRAINED
from triptych.encoders.model_files import provenance_of
from triptych.encoders.models.two_tower import TwoTowerConfig
from triptych.encoders.slots import NO_ARTIFACTS, ModelArtifacts
from triptych.foundation.artifact import RESUME, Artifact, find, produce
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, DataError
from triptych.foundation.registry import one_of
from triptych.losses.base import LossOutput
from triptych.training.distributed import ALONE, Group, Processes
from triptych.training.log import LOG_FILE, read_log
from triptych.training.loop import FitResult, LoopConfig, fit
from triptych.training.loop import follow as follow_steps
from triptych.training.schedule import Stretch
from triptych.training.task import Validation

TASKS = "triptych.pretrain.tasks"
"""The registry folder."""
VALIDATION_SEED = 0
"""Draws what is validated on: the same for every model and training seed."""


class LearnsFrom(StrEnum):
    """What a training learns from, which decides the kind of log it takes."""

    QUERIES = "queries"
    """Queries and what was chosen under them."""
    HISTORIES = "histories"
    """What users chose one after another."""
    ITEMS = "items"
    """Titles and photos alone."""


class EncoderTask(Protocol):
    """A `training.task.Task` that trains an encoder."""

    name: str
    module: nn.Module

    @property
    def encoder(self) -> Encoder:
        """The encoder: the module itself, or a part of it."""
        ...

    def batch(self, index: int) -> Any:
        """As in `training.task.Task`."""
        ...

    def num_samples(self, batch: Any) -> int:
        """As in `training.task.Task`."""
        ...

    def losses(self, batch: Any) -> LossOutput:
        """As in `training.task.Task`."""
        ...

    def validate(self) -> Validation:
        """As in `training.task.Task`."""
        ...


class Phase(NamedTuple):
    """A part of a training with a task, an optimiser and a validation of its own."""

    name: str
    """"" where there is but one."""
    task: EncoderTask
    loop: LoopConfig
    stretch: Stretch | None = None
    """Where one schedule goes over all phases, the part of it that this one is."""
    keeps_optimizer: bool = False
    """Whether each weight goes on with the optimiser's state of the last phase that trained it."""


class PretrainConfig(Config):
    """Base of every training task: the model, the loop, and how items are shown in training."""

    kind: str
    """Name of the task's file."""
    encoder: Annotated[EncoderConfig, one_of(MODELS, default="two_tower")] = TwoTowerConfig()
    """The model: two_tower (title and patches in one stream), late_fusion (each by itself, joined at the end)."""
    loop: LoopConfig = LoopConfig()
    """Steps, rates, validation."""
    title_dropout_rate: float = Field(0.15, ge=0, lt=1)
    """Share of items with both title and photo whose title is hidden in training; teaches search by photo."""
    photo_dropout_rate: float = Field(0.1, ge=0, lt=1)
    """Share of items with both title and photo whose photo is hidden in training; teaches items without photo."""
    photo_view_items: int = Field(64, ge=1)
    """Items of a batch whose photo alone, varied, must also find its item among the batch."""
    augment: AugmentConfig = AugmentConfig()
    """How the photos of that loss are varied; items themselves are shown their photos as they are."""
    validation_k: int = Field(100, ge=1)
    """Cut-off of the recall that chooses the best weights."""

    @model_validator(mode="after")
    def _dropout_leaves_something(self) -> Self:
        if self.title_dropout_rate + self.photo_dropout_rate > 1:
            raise ValueError("title_dropout_rate and photo_dropout_rate must add up to at most 1.")
        return self

    @property
    @abstractmethod
    def learns_from(self) -> LearnsFrom:
        """What it learns from."""

    @property
    @abstractmethod
    def varies_photos(self) -> bool:
        """Whether photos are shown varied, alone, and must find their items."""

    @abstractmethod
    def phases(self, given: Given) -> Iterator[Phase]:
        """Yield the phases of the training; the next one is asked for when the one before has been trained.

        Raises:
            ConfigError: the catalogue's photos have another size than the encoder takes.
            DataError: there is nothing to train or validate on.
        """


class OneTaskConfig(PretrainConfig):
    """Base of the ways of training that have one contrast, one phase, and the contrast of varied photos beside it."""

    temperature: float = Field(0.05, gt=0)
    """Divides cosines in the softmax."""
    photo_view_weight: float = Field(0.2, ge=0)
    """Weight of the contrast of photos, varied and alone, with their items; 0 leaves it out."""

    @property
    def varies_photos(self) -> bool:
        """Whether that contrast has a weight."""
        return self.photo_view_weight > 0


@dataclass(frozen=True)
class Given:
    """What an encoder is trained from, beside its config."""

    catalogue: Catalogue
    """Items and photos."""
    split: Split | None
    """Its training part is learned, its validation part chooses the weights; None where there is no log."""
    tokenizer: AnyTokenizer
    """Of titles and queries."""
    seed: int
    """Of initial weights and batches."""
    photo_rows: NDArray[np.integer] | None = None
    """``[items]``, for the permuted-photo control: item i is shown the photo of item ``photo_rows[i]``."""
    models: ModelArtifacts = NO_ARTIFACTS
    """The pretrained models that the encoder's config names, and what a frozen one sees in the photos."""
    group: Group = ALONE
    """The processes that train together: each gathers and encodes its share of a batch."""
    start: Artifact | None = None
    """An encoder of the same shape and tokenizer whose weights are trained on; None: new ones."""

    def require_split(self, why: str) -> Split:
        """Return the split, where a task cannot do without.

        Raises:
            DataError: there is none; `why` says what it is needed for.
        """
        if self.split is None:
            raise DataError(f"events: there are none, and {why}.")
        return self.split

    def encoder(self, config: EncoderConfig) -> Encoder:
        """Make the encoder: new but for pretrained models, or as the one that is started from.

        Raises:
            ConfigError: the one that is started from is of another shape.
        """
        made = make_encoder(config, tokenizer=self.tokenizer, seed=self.seed, models=self.models)
        if self.start is not None:
            _start_from(made, self.start)
        return made


def make_encoder(
    config: EncoderConfig, *, tokenizer: AnyTokenizer, seed: int, models: ModelArtifacts = NO_ARTIFACTS
) -> Encoder:
    """Draw a new encoder's weights, except those of pretrained models, from a seed of their own."""
    named = zip(SLOTS, (models.text, models.vision), strict=True)
    opened = open_models(config, places={name: artifact.path for name, artifact in named if artifact is not None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return config.build(vocab_size=tokenizer.vocab_size, models=opened)


def _start_from(encoder: Encoder, start: Artifact) -> None:
    try:
        encoder.load_state_dict(load_encoder(start.path).state_dict())
    except RuntimeError as error:  # torch's, for names and shapes that differ
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"encoder: it cannot start from the weights of {start.id}, which has another shape ({reason}). Use its "
            "encoder settings and its tokenizer."
        ) from None


def run(
    config: PretrainConfig,
    given: Given,
    *,
    inputs: Mapping[str, Artifact],
    out: Path,
    when_training: Callable[[], None] = lambda: None,
) -> Artifact:
    """Train an encoder, or open it where it has been trained.

    Args:
        config: of model and training; its kind says what is learned.
        given: what it is trained from; of its group this is the first process.
        inputs: the artefacts that catalogue, split, tokenizer and models were opened from; their ids enter the
            artefact's id.
        out: folder of the stage.
        when_training: called before training begins, if it has to; then the others of the group must `follow`.

    Returns:
        Artefact ``encoder``: ``model.safetensors``, ``config.json``, ``tokenizer.json``, ``train.jsonl``. A pretrained
        text model brings its own tokenizer; see `Encoder.save` for where it and the weights are.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        results: dict[str, FitResult] = {}
        encoder = None
        for phase in config.phases(given):
            if not results:
                when_training()
            results[phase.name] = _fit(phase, given, folder=folder, before=list(results))
            encoder = phase.task.encoder
        assert encoder is not None, "a training has a phase"
        _join_logs(folder, phases=results)
        encoder.cpu().save(folder)
        if isinstance(given.tokenizer, TextTokenizer):
            given.tokenizer.save(folder / TOKENIZER_FILE)
        parameters = sum(p.numel() for p in encoder.parameters())
        models = given.models.named()
        by = {name: provenance_of(model) for name, model in models.items() if model.kind == PRETRAINED}
        return {**_summary(results), "parameters": parameters, "modalities": str(config.encoder.modalities), **by}

    described = _described(config, given.seed, given.photo_rows)
    return produce(out, kind=KIND, config=described, inputs=inputs, build=build)


def follow(config: PretrainConfig, given: Given) -> None:
    """Do this process's share of the training that the first one of its group keeps with `run`."""
    assert isinstance(given.group, Processes)
    for phase in config.phases(given):
        follow_steps(phase.task, config=phase.loop, seed=given.seed, group=given.group, stretch=phase.stretch)


def _fit(phase: Phase, given: Given, *, folder: Path, before: list[str]) -> FitResult:
    return fit(
        phase.task,
        config=phase.loop,
        out=_place(folder, phase.name),
        seed=given.seed,
        group=given.group,
        stretch=phase.stretch,
        optimizer_from=[_place(folder, name) for name in before] if phase.keeps_optimizer else (),
    )


def _place(folder: Path, phase: str) -> Path:
    """Return where a phase keeps its log and its checkpoints: with a name, among what goes when all are done."""
    place = folder / RESUME / phase if phase else folder
    place.mkdir(parents=True, exist_ok=True)
    return place


def _join_logs(folder: Path, *, phases: Mapping[str, FitResult]) -> None:
    """Write one log of all phases, steps and seconds counted on; every record names its phase."""
    if list(phases) == [""]:
        return
    lines, steps, seconds = [], 0, 0.0
    for name, result in phases.items():
        for record in read_log(_place(folder, name) / LOG_FILE):
            since = {"seconds": round(record["seconds"] + seconds, 3)} if "seconds" in record else {}
            lines.append(json.dumps({**record, **since, "step": record["step"] + steps, "phase": name}) + "\n")
        steps, seconds = steps + result.steps, seconds + result.seconds
    (folder / LOG_FILE).write_text("".join(lines), encoding="utf-8")


def _summary(results: Mapping[str, FitResult]) -> dict[str, Any]:
    """Summarise a training: its last phase's validation, the steps and seconds of all."""
    every = list(results.values())
    last = every[-1]._asdict()
    if len(every) == 1:
        return last
    seconds = sum(one.seconds for one in every)
    samples = sum(one.seconds * one.samples_per_s for one in every)
    steps = sum(one.steps for one in every)
    before = steps - every[-1].steps
    named = {name: {"steps": one.steps, "best_step": one.best_step, **one.metrics} for name, one in results.items()}
    return {
        **last,
        "steps": steps,
        "best_step": before + every[-1].best_step,
        "seconds": seconds,
        "samples_per_s": samples / max(seconds, 1e-9),
        "phases": named,
    }


def find_trained(
    config: PretrainConfig,
    *,
    inputs: Mapping[str, Artifact],
    out: Path,
    seed: int,
    photo_rows: NDArray[np.integer] | None = None,
) -> Artifact | None:
    """Return the encoder that `run` would open, or None where it would have to train.

    Args:
        config: as of `run`.
        inputs: as of `run`.
        out: as of `run`.
        seed: of initial weights and batches.
        photo_rows: as `Given.photo_rows`.
    """
    return find(out, kind=KIND, config=_described(config, seed, photo_rows), inputs=inputs)


def _described(config: PretrainConfig, seed: int, photo_rows: NDArray[np.integer] | None) -> dict[str, Any]:
    """Return all settings that decide an encoder's weights, beside its inputs.

    What a pretrained model is called and where it lies are not among them: its files are an input.
    """
    tree = config.dump()
    for slot in config.encoder.model_configs:
        tree["encoder"][slot] = {k: v for k, v in tree["encoder"][slot].items() if k not in ("name", "revision")}
    shown = None if photo_rows is None else hashlib.sha256(photo_rows.astype("<i8").tobytes()).hexdigest()
    return {"pretrain": tree, "seed": seed, "photo_rows": shown}
