"""The engine of a running service: opened and warmed up in the background, called off the event loop, exchanged.

Another run takes over while requests are answered: `Runtime.reload` opens it in the background, warms it up, has it
take over the journal, and then makes it the one that is asked. Requests under way end on the engine that they began
with. A run that cannot be opened changes nothing but the log. For as long as that takes, both are in memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio
from fastapi import Request

from triptych.engine import Engine
from triptych.engine.bundle import open_bundle
from triptych.foundation.errors import ConfigError, TriptychError
from triptych.foundation.machine import num_cores

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

WARM_UP_QUERY = "warm up"


class NotReady(Exception):
    """The engine has not finished loading, or could not be loaded; the message says which."""


class Serving(NamedTuple):
    """What answers; exchanged as one."""

    engine: Engine
    generation: int
    """Which engine of this process it is, from 1."""


class Runtime:
    """Holds the engine of one service from start to stop.

    Engine calls are synchronous and busy (a forward pass, a matrix product), so they run in worker threads, never on
    the event loop, and never more of them at once than the process has cores: more would only share the same cores.

    Args:
        engine: an open engine, or the run folder to open (in a worker thread, by `start`).
        num_workers: most engine calls that run at the same time; the others wait in line.
        journal: where changes are kept, as of `Engine.open`; only with a run folder.
        carry_over: as of `Engine.open`.

    Raises:
        ConfigError: `journal` or `carry_over` would have no effect.
    """

    def __init__(
        self,
        engine: Engine | Path,
        *,
        num_workers: int | None = None,
        journal: Path | None = None,
        carry_over: bool = False,
    ) -> None:
        if journal is not None and isinstance(engine, Engine):
            raise ConfigError("The engine is open already; name the journal where it is opened: Engine.open.")
        if carry_over and journal is None:
            raise ConfigError("There is no journal to carry over; name its folder with --journal.")
        self._source = engine
        self._journal, self._carry_over = journal, carry_over
        self._serving: Serving | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._swapping: asyncio.Task[None] | None = None
        self._next: Path | None = None
        self._num_failed_swaps = 0
        self._reason = "The engine is still loading; try again in a moment."
        self._limiter = anyio.CapacityLimiter(num_workers or num_cores())
        self._loading: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._when_failed: Callable[[], None] | None = None

    @property
    def engine(self) -> Engine:
        """The engine, once it has answered a search.

        Raises:
            NotReady: it has not yet, or it could not be opened.
        """
        return self.serving.engine

    @property
    def serving(self) -> Serving:
        """The engine and its number.

        Raises:
            NotReady: as `engine`.
        """
        if self._serving is None:
            raise NotReady(self._reason)
        return self._serving

    @property
    def num_failed_swaps(self) -> int:
        """How often another run was to be served and could not be."""
        return self._num_failed_swaps

    @property
    def failure(self) -> Exception | None:
        """Why the engine could not be opened; None where it was, or is not yet."""
        return self._failure

    def when_failed(self, end: Callable[[], None]) -> None:
        """Have `end` called if the engine cannot be opened; it then tells why. Without it the log does.

        Args:
            end: called on the event loop.
        """
        self._when_failed = end

    def start(self) -> None:
        """Begin to open the engine and warm it up; returns at once. Must be called on a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loading = asyncio.create_task(self._load())

    def reload(self, run: Path | None = None) -> None:
        """Begin to exchange the engine for one of another run; returns at once. May be called by a signal handler.

        Asked for while that is being done, it is done once more afterwards.

        Args:
            run: its folder; None: the one the service was started with, where there may be a new run, or which may be a
                link that points elsewhere now.

        Raises:
            ConfigError: the service was started with an open engine, and no folder is given.
        """
        if run is None and isinstance(self._source, Engine):
            raise ConfigError("The service was started with an open engine; say which run it is to open.")
        wanted = run if run is not None else self._source
        assert isinstance(wanted, Path)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_swap, wanted)

    async def stop(self) -> None:
        """Stop waiting for an engine that is still loading, and let go of the journal of one that was opened here."""
        for task in (self._loading, self._swapping):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._serving is not None and self._serving.engine is not self._source:
            self._serving.engine.close()

    async def call(self, work: Callable[[Engine], Answer], *, request: Request) -> Answer:
        """Run one piece of engine work in a worker thread.

        Args:
            work: what to do with the engine.
            request: the HTTP request it is for; its ``state.engine_ms`` grows by the time taken, waiting excluded.

        Raises:
            NotReady: the engine is not loaded.
        """
        engine = self.engine

        def timed() -> Answer:
            start = time.perf_counter()
            try:
                return work(engine)
            finally:
                spent_ms = (time.perf_counter() - start) * 1000
                request.state.engine_ms = getattr(request.state, "engine_ms", 0.0) + spent_ms

        return await anyio.to_thread.run_sync(timed, limiter=self._limiter)

    def _begin_swap(self, run: Path) -> None:
        self._next = run
        if self._swapping is None or self._swapping.done():
            self._swapping = asyncio.create_task(self._swap())

    async def _swap(self) -> None:
        if self._loading is not None:
            await self._loading
        while self._next is not None and self._serving is not None:
            run, self._next = self._next, None
            try:
                # By a thread of its own: in the line for cores it would hold one for as long as it takes.
                await anyio.to_thread.run_sync(self._open_and_succeed, run, limiter=anyio.CapacityLimiter(1))
            except Exception as error:
                self._num_failed_swaps += 1
                is_told = isinstance(error, TriptychError)
                logger.error(
                    "The run in '%s' cannot be served, so run %s goes on to be%s",
                    run,
                    self._serving.engine.version,
                    f": {error}" if is_told else "; the cause follows.",
                    exc_info=None if is_told else error,
                )

    def _open_and_succeed(self, run: Path) -> None:
        """Open a run and make it the one that is asked, in a worker thread."""
        start = time.perf_counter()
        old, generation = self.serving
        bundle, _ = open_bundle(run)
        if bundle.id == old.bundle_id:
            logger.info("The run in '%s' is the one that is served, %s", run, old.version)
            return
        logger.info("Opening the run in '%s'; %s is served meanwhile", run, old.version)
        new = _warm(Engine.open(run))

        def publish() -> None:
            self._serving = Serving(new, generation + 1)

        new.succeed(old, publish=publish)
        logger.info(
            "Run %s is served now, in the place of %s (%.1f s)", new.version, old.version, time.perf_counter() - start
        )

    async def _load(self) -> None:
        try:
            engine = await anyio.to_thread.run_sync(self._open, limiter=self._limiter)
            self._serving = Serving(engine, 1)
        except Exception as error:
            self._failure = error
            is_told = isinstance(error, TriptychError)
            self._reason = f"The engine could not be opened{f': {error}' if is_told else '; the log has the cause.'}"
            if self._when_failed is not None:
                self._when_failed()
            else:
                logger.error("%s", self._reason, exc_info=None if is_told else error)

    def _open(self) -> Engine:
        if isinstance(self._source, Engine):
            return _warm(self._source)
        return _warm(Engine.open(self._source, journal=self._journal, carry_over=self._carry_over))


def _warm(engine: Engine) -> Engine:
    # The first search pays for lazy initialisation, so no visitor does. By words of this shop: where nothing in a
    # query is known, the encoder is never asked.
    engine.search(next(iter(engine.example_queries(1)), WARM_UP_QUERY), k=1)
    return engine
