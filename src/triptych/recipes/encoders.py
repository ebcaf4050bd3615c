"""The encoders that a run trains: one after the other, side by side, or each by several processes together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from triptych.data import text
from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import AnyTokenizer, TextTokenizer
from triptych.encoders.model_files import KIND as PRETRAINED
from triptych.encoders.pretrained import PretrainedTokenizer
from triptych.encoders.slots import NO_ARTIFACTS, ModelArtifacts
from triptych.foundation.artifact import Artifact
from triptych.foundation.registry import config_class
from triptych.pretrain import base as pretrain
from triptych.pretrain.base import TASKS, Given, PretrainConfig
from triptych.recipes.controls import Control
from triptych.training.distributed import ALONE, Group, Processes


class Plan(NamedTuple):
    """An encoder that a run wants, with each of its seeds."""

    name: str
    """What tables and messages call it: an arm of a run, a row of a table."""
    config: PretrainConfig
    """Model and training, complete."""
    control: Control = Control.NONE
    """Whether each item is shown another item's photo."""
    start: PretrainConfig | None = None
    """A training that comes before, once for all seeds and all plans that name it: a warm start that they share, with
    photos permuted if this one's are. Its encoder has the shape of this one's. None: new weights."""

    @property
    def pretrain(self) -> PretrainConfig:
        """How the encoder is trained."""
        return self.config

    @property
    def start_plan(self) -> Plan:
        """That training as a plan of its own."""
        assert self.start is not None
        return Plan("warm start with permuted photos" if self.control else "warm start", self.start, self.control)


@dataclass(frozen=True)
class EncoderWork:
    """One encoder to train: what a process must be told, and no more."""

    plan: Plan
    seed: int
    catalogue: Artifact
    split: Artifact | None
    """None where there is no log."""
    tokenizer: Artifact
    """Trained on the shop's words, or the pretrained text model, which has its own."""
    out: Path
    """Folder of the stage."""
    models: ModelArtifacts = NO_ARTIFACTS
    """Those that the plan's config names, and what a frozen one sees in the photos."""
    start: Artifact | None = None
    """The encoder whose weights it starts from, made by the plan's `start`."""

    @property
    def name(self) -> str:
        """What the run calls it."""
        return f"{self.plan.name} seed {self.seed}"

    @property
    def key(self) -> Hashable:
        """Equal for those that are one training under two names."""
        start = None if self.start is None else self.start.id
        return self.plan.config.to_json(), self.plan.control, self.seed, start

    @property
    def num_steps(self) -> int:
        """Steps that its training counts, if it is not stopped early."""
        return self.plan.config.loop.steps

    def find(self) -> Artifact | None:
        """Return the finished encoder, or None."""
        return pretrain.find_trained(
            self.plan.config, inputs=self._inputs, out=self.out, seed=self.seed, photo_rows=self.photo_rows
        )

    def train(self, group: Group = ALONE) -> Artifact:
        """Train it, go on where an attempt was interrupted, or open it.

        Args:
            group: the processes that train it together, of which this is the first; the others `follow_all`.
        """
        return pretrain.run(
            self.plan.config,
            self._given(group),
            inputs=self._inputs,
            out=self.out,
            when_training=lambda: group.tell(self.dump()),
        )

    def follow(self, group: Processes) -> None:
        """Do this process's share of the training that the first process of the group does with `train`."""
        pretrain.follow(self.plan.config, self._given(group))

    def _given(self, group: Group) -> Given:
        return Given(
            catalogue=Catalogue.open(self.catalogue),
            split=None if self.split is None else Split.open(self.split),
            tokenizer=self._open_tokenizer(),
            seed=self.seed,
            photo_rows=self.photo_rows,
            models=self.models,
            group=group,
            start=self.start,
        )

    def dump(self) -> dict[str, Any]:
        """Return it as JSON can hold it, for a process with the same files; see `parse`."""
        artifacts = {
            "catalogue": self.catalogue,
            "split": self.split,
            "tokenizer": self.tokenizer,
            "start": self.start,
        }
        return {
            "plan": {**self.plan._asdict(), "config": self.plan.config.dump(), "start": None},
            "seed": self.seed,
            "out": str(self.out.resolve()),
            **{name: _place(found) for name, found in artifacts.items()},
            "models": [_place(found) for found in self.models],
        }

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Self:
        """Take in what `dump` returned.

        Raises:
            ArtifactError: this process does not see the files.
        """
        plan = tree["plan"]
        config = config_class(TASKS, plan["config"]["kind"]).parse(plan["config"])
        assert isinstance(config, PretrainConfig)
        return cls(
            plan=Plan(**{**plan, "config": config, "control": Control(plan["control"])}),
            seed=tree["seed"],
            catalogue=Artifact.open(tree["catalogue"]),
            split=None if tree["split"] is None else Artifact.open(tree["split"]),
            tokenizer=Artifact.open(tree["tokenizer"]),
            out=Path(tree["out"]),
            models=ModelArtifacts(*(found and Artifact.open(found) for found in tree["models"])),
            start=None if tree["start"] is None else Artifact.open(tree["start"]),
        )

    def _open_tokenizer(self) -> AnyTokenizer:
        if self.tokenizer.kind == PRETRAINED:
            return PretrainedTokenizer(self.tokenizer.path)
        return TextTokenizer.load(self.tokenizer.file(text.FILE))

    @cached_property
    def photo_rows(self) -> NDArray[np.int64] | None:
        """Whose photo each item is shown in the permuted-photo control; None: its own."""
        return self.plan.control.photo_rows(Catalogue.open(self.catalogue), seed=self.seed)

    @property
    def _inputs(self) -> dict[str, Artifact]:
        made_from = {"catalogue": self.catalogue, "tokenizer": self.tokenizer, **self.models.named()}
        more = {"split": self.split, "start": self.start}
        return {**made_from, **{name: artifact for name, artifact in more.items() if artifact is not None}}


def _place(artifact: Artifact | None) -> str | None:
    return None if artifact is None else str(artifact.path.resolve())


def follow_all(group: Processes) -> None:
    """Train along whatever the first process of the group trains, until it has nothing more.

    Raises:
        Parted: the first process ended before its time.
        ArtifactError: this process does not see the first one's files.
    """
    while (work := group.listen()) is not None:
        EncoderWork.parse(work).follow(group)
