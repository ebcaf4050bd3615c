"""The engine of a running service: opened and warmed up in the background, called off the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
from fastapi import Request

from triptych.engine import Engine
from triptych.foundation.errors import TriptychError
from triptych.foundation.machine import num_cores

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

WARM_UP_QUERY = "warm up"


class NotReady(Exception):
    """The engine has not finished loading, or could not be loaded; the message says which."""


class Runtime:
    """Holds the engine of one service from start to stop.

    Engine calls are synchronous and busy (a forward pass, a matrix product), so they run in worker threads, never on
    the event loop, and never more of them at once than the process has cores: more would only share the same cores.

    Args:
        engine: an open engine, or the run folder to open (in a worker thread, by `start`).
        num_workers: most engine calls that run at the same time; the others wait in line.
    """

    def __init__(self, engine: Engine | Path, *, num_workers: int | None = None) -> None:
        self._source = engine
        self._engine: Engine | None = None
        self._version = ""
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
        if self._engine is None:
            raise NotReady(self._reason)
        return self._engine

    def check_ready(self) -> None:
        """Pass where the engine can answer.

        Raises:
            NotReady: it cannot yet, or it could not be opened.
        """
        _ = self.engine

    @property
    def version(self) -> str:
        """A short fingerprint of what was opened; it makes photo addresses of another run other addresses."""
        return self._version

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
        self._loading = asyncio.create_task(self._load())

    async def stop(self) -> None:
        """Stop waiting for an engine that is still loading."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

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

    async def _load(self) -> None:
        try:
            engine = await anyio.to_thread.run_sync(self._open_and_search, limiter=self._limiter)
            self._version = _fingerprint(engine)
            self._engine = engine
        except Exception as error:
            self._failure = error
            is_told = isinstance(error, TriptychError)
            self._reason = f"The engine could not be opened{f': {error}' if is_told else '; the log has the cause.'}"
            if self._when_failed is not None:
                self._when_failed()
            else:
                logger.error("%s", self._reason, exc_info=None if is_told else error)

    def _open_and_search(self) -> Engine:
        engine = Engine.open(self._source) if isinstance(self._source, Path) else self._source
        # The first search pays for lazy initialisation, so no visitor does. By words of this shop: where nothing in a
        # query is known, the encoder is never asked.
        engine.search(next(iter(engine.example_queries(1)), WARM_UP_QUERY), k=1)
        return engine


def _fingerprint(engine: Engine) -> str:
    told = json.dumps(engine.info(), sort_keys=True, default=str)
    return hashlib.blake2b(told.encode(), digest_size=5).hexdigest()
