"""Training the encoders of a run: one after the other, side by side, or each by several processes together."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
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
from triptych.foundation.errors import TriptychError
from triptych.foundation.machine import num_cores
from triptych.foundation.progress import Progress, heard_by
from triptych.foundation.registry import config_class
from triptych.pretrain import base as pretrain
from triptych.pretrain.base import TASKS, Given, PretrainConfig
from triptych.training.distributed import ALONE, Group, Processes

THREADS = "OMP_NUM_THREADS"


class Plan(NamedTuple):
    """An encoder that a run wants, with each of its seeds."""

    name: str
    """What tables and messages call it: an arm of a run, a row of a table."""
    config: PretrainConfig
    """Model and training, complete."""
    permutes_photos: bool = False
    """Whether each item is shown another item's photo: the permuted-photo control."""
    start: PretrainConfig | None = None
    """A training that comes before, once for all seeds and all plans that name it: a warm start that they share. Its
    encoder has the shape of this one's. None: new weights."""

    @property
    def pretrain(self) -> PretrainConfig:
        """How the encoder is trained."""
        return self.config

    @property
    def start_plan(self) -> Plan:
        """That training as a plan of its own."""
        assert self.start is not None
        return Plan("warm start", self.start)


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
            plan=Plan(**{**plan, "config": config}),
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
        if not self.plan.permutes_photos:
            return None
        return permuted_photos(Catalogue.open(self.catalogue), seed=self.seed)

    @property
    def _inputs(self) -> dict[str, Artifact]:
        made_from = {"catalogue": self.catalogue, "tokenizer": self.tokenizer, **self.models.named()}
        more = {"split": self.split, "start": self.start}
        return {**made_from, **{name: artifact for name, artifact in more.items() if artifact is not None}}


def _place(artifact: Artifact | None) -> str | None:
    return None if artifact is None else str(artifact.path.resolve())


def permuted_photos(catalogue: Catalogue, *, seed: int) -> NDArray[np.int64]:
    """Draw the permuted-photo control: item i is shown the photo of item ``rows[i]``.

    Photos change places among the items that have one, so that as many items have a photo as before.
    """
    rows = np.arange(catalogue.num_items)
    with_photo = np.flatnonzero(np.asarray(catalogue.photos.has))
    rows[with_photo] = np.random.default_rng([seed, 7]).permutation(with_photo)
    return rows


def follow_all(group: Processes) -> None:
    """Train along whatever the first process of the group trains, until it has nothing more.

    Raises:
        Parted: the first process ended before its time.
        ArtifactError: this process does not see the first one's files.
    """
    while (work := group.listen()) is not None:
        EncoderWork.parse(work).follow(group)


def train_side_by_side(works: Sequence[EncoderWork], *, jobs: int) -> None:
    """Train the encoders that are not finished yet, `jobs` at a time, each in a process with its share of the cores.

    Where small models are trained on few cores this takes about half the time of one after the other on all of them
    (`benchmarks/training.py`): two threads wait for each other at every operator, two processes never. The weights
    differ in their last digits from those of another number of threads, as on another machine.

    Args:
        works: the encoders.
        jobs: processes at a time; each needs the memory of a training of its own.

    Raises:
        TriptychError: one of them failed; the others were stopped, and go on where they were the next time.
    """
    waiting = [work for work in works if work.find() is None]
    if not waiting:
        return
    running: dict[Connection, _Child] = {}
    label = f"training {len(waiting)} encoders" if len(waiting) > 1 else "training encoder"
    try:
        with Progress(label, total=sum(work.num_steps for work in waiting), unit="step") as bar:
            while waiting or running:
                while waiting and len(running) < jobs:
                    child = _Child(waiting.pop(0), threads=_threads(jobs))
                    running[child.pipe] = child
                bar.note(", ".join(child.work.name for child in running.values()))
                for pipe in connection.wait(list(running)):
                    child = running[pipe]  # type: ignore[index]  # wait() returns what it was given
                    bar.advance(child.listen())
                    if child.finished:
                        bar.advance(child.work.num_steps - child.done)  # stopped early
                        del running[child.pipe]
    finally:
        for child in running.values():
            child.stop()


def _threads(jobs: int) -> int:
    """Return the threads of each job: its share of the cores, and no more than the user allows a process."""
    share = max(1, num_cores() // jobs)
    allowed = os.environ.get(THREADS, "")
    return min(share, int(allowed)) if allowed.isdecimal() else share


class _Child:
    """A process that trains one encoder, and what it said last."""

    def __init__(self, work: EncoderWork, *, threads: int) -> None:
        self.work = work
        self.done = 0
        self.finished = False
        context = get_context("spawn")  # torch's threads do not survive a fork
        self.pipe, its_end = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(target=_train_in_child, args=(work, its_end), daemon=True)
        before = os.environ.get(THREADS)
        os.environ[THREADS] = str(threads)  # read by OpenMP before anything of ours runs there
        try:
            self._process.start()
        finally:
            os.environ.pop(THREADS) if before is None else os.environ.update({THREADS: before})
        its_end.close()

    def listen(self) -> int:
        """Take in one message and return how many steps have been done since the one before.

        Raises:
            TriptychError: the child failed.
        """
        try:
            message: int | str | None = self.pipe.recv()
        except EOFError:
            self._process.join()
            raise TriptychError(
                f"Training {self.work.name} ended without a result (exit status {self._process.exitcode}; its own "
                "words, if it had any, are above). Run the same command again: finished encoders are kept."
            ) from None
        if isinstance(message, str):
            raise TriptychError(message)
        if message is None:
            self._process.join()
            self.finished = True
            return 0
        before, self.done = self.done, message
        return message - before

    def stop(self) -> None:
        """End the process; its checkpoints stay."""
        self._process.kill()
        self._process.join()


def _train_in_child(work: EncoderWork, pipe: Connection) -> None:
    """Train, telling the parent the number of steps done (int), a failure (str), or that all is done (None)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops its children
    threading.Thread(target=_die_with_parent, daemon=True).start()

    before = 0
    current: Progress | None = None

    def tell(progress: Progress) -> None:
        nonlocal before, current
        if progress.unit != "step":
            return
        if current is not None and progress is not current:  # the bar of the next stage
            before += current.done
        current = progress
        pipe.send(before + progress.done)

    try:
        with heard_by(tell):
            work.train()
    except TriptychError as error:
        pipe.send(str(error))
    else:
        pipe.send(None)


def _die_with_parent() -> None:
    """A killed parent must leave nobody behind who still holds an artefact's lock."""
    parent = parent_process()
    if parent is not None:
        with suppress(OSError):
            connection.wait([parent.sentinel])
        sys.stderr.flush()
        os._exit(1)
