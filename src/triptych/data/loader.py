"""Preparing the next batch while the current one is being used."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetched(make: Callable[[int], Batch], *, indices: Iterable[int]) -> Generator[Batch]:
    """Yield ``make(index)`` for each index in order, one batch ahead, in one background thread.

    A thread and not a process: batches are gathered by numpy, which lets go of the interpreter's lock for that, and
    are handed over without a copy. An exception in `make` is raised here, at its batch. Close the generator when
    leaving early, so that the thread ends.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting: Future[Batch] | None = None
        for index in indices:
            coming = pool.submit(make, index)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()
