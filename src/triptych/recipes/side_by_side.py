"""Training several models of a run side by side, each in a process with its share of the cores."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Hashable, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Protocol

from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import TriptychError
from triptych.foundation.machine import num_cores
from triptych.foundation.progress import Progress, heard_by

THREADS = "OMP_NUM_THREADS"


class Work(Protocol):
    """A model to train: what a process must be told, and no more."""

    @property
    def name(self) -> str:
        """What the run calls it."""
        ...

    @property
    def key(self) -> Hashable:
        """Equal for those that are one training under two names, such as a model and it with its answers fused."""
        ...

    @property
    def num_steps(self) -> int:
        """Steps that its training counts, if it is not stopped early."""
        ...

    def find(self) -> Artifact | None:
        """Return the finished model, or None."""
        ...

    def train(self) -> Artifact:
        """Train it, go on where an attempt was interrupted, or open it."""
        ...


def train_new(works: Sequence[Work], *, jobs: int, what: str = "encoder") -> set[str]:
    """Train what is not finished yet, side by side where more than one job is allowed.

    Then each has its share of the cores, however many are left to train: the number of threads is in the last digits of
    the weights, and an interrupted run shall end with those that it would have had. With one job they are left to
    whoever asks for them next, who trains each on all cores.

    Args:
        works: the models; of those with one key the first is trained.
        jobs: processes at a time.
        what: they are called on the progress bar.

    Returns:
        The names of those that were not finished, for the record of the run.
    """
    distinct: dict[Hashable, Work] = {}
    for work in works:
        distinct.setdefault(work.key, work)
    new = {work.name: work for work in distinct.values() if work.find() is None}
    if jobs > 1 and new:
        train_side_by_side(list(new.values()), jobs=jobs, what=what)
    return set(new)


def train_side_by_side(works: Sequence[Work], *, jobs: int, what: str = "encoder") -> None:
    """Train the models that are not finished yet, `jobs` at a time, each in a process with its share of the cores.

    Where small models are trained on few cores this takes about half the time of one after the other on all of them
    (`benchmarks/training.py`): two threads wait for each other at every operator, two processes never. The weights
    differ in their last digits from those of another number of threads, as on another machine.

    Args:
        works: the models.
        jobs: processes at a time; each needs the memory of a training of its own.
        what: they are called on the progress bar.

    Raises:
        TriptychError: one of them failed; the others were stopped, and go on where they were the next time.
    """
    waiting = [work for work in works if work.find() is None]
    if not waiting:
        return
    running: dict[Connection, _Child] = {}
    label = f"training {len(waiting)} {what}s" if len(waiting) > 1 else f"training {what}"
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
    """A process that trains one model, and what it said last."""

    def __init__(self, work: Work, *, threads: int) -> None:
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
                "words, if it had any, are above). Run the same command again: finished ones are kept."
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


def _train_in_child(work: Work, pipe: Connection) -> None:
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
