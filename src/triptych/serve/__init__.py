"""The HTTP service and its search page: one engine behind a JSON API. HTTP stays inside this package.

Read in this order: `app` (factory), `config` (what can be set), `routes` (one router per noun), `schemas` (what
travels), `present` (from the engine's answers to that), `runtime` (the engine off the event loop), `errors` (what a
mistake looks like), `body` and `uploads` (how large a request and a photo may be), `hosts` (which hosts it answers
for), `observe`, `logs` and `metrics` (what is written down), `server` (listening). The page is plain HTML, CSS and
JavaScript modules in ``static/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from triptych.foundation.errors import MissingExtra
from triptych.serve.config import LogFormat, ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

    from triptych.engine import Engine

__all__ = ["LogFormat", "ServeConfig", "create_app", "run"]

BROUGHT_BY_EXTRA = frozenset(
    {"fastapi", "starlette", "anyio", "python_multipart", "multipart", "prometheus_client", "uvicorn"}
)


def create_app(
    engine: Engine | Path,
    *,
    allowed_hosts: Sequence[str] = (),
    config: ServeConfig | None = None,
    journal: Path | None = None,
    carry_over: bool = False,
) -> FastAPI:
    """Make the service around an engine.

    Args:
        engine: an open engine, or the run folder to open. A folder is opened when the service already listens, so that
            ``/health`` answers meanwhile and ``/ready`` says 503 until then.
        allowed_hosts: names by which it may be called besides localhost and the address it is reached at, without port,
            e.g. ``["shop.local"]``; ``"*"`` for any. A request for another host is refused (see `hosts`).
        config: limits and log; the defaults where left out.
        journal: where changes are kept, as of `Engine.open`; only with a run folder.
        carry_over: as of `Engine.open`.

    Raises:
        ConfigError: one of `allowed_hosts` is no host, or a journal is named for an engine that is open already.
        MissingExtra: the ``serve`` extra is not installed.
    """
    with _extra():
        from triptych.serve import app
    return app.create_app(engine, allowed_hosts=allowed_hosts, config=config, journal=journal, carry_over=carry_over)


def run(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: Sequence[str] = (),
    config: ServeConfig | None = None,
    journal: Path | None = None,
    carry_over: bool = False,
    when_listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve a run until Ctrl-C; returns when the service has stopped. SIGHUP has it open the run again (see `runtime`).

    Args:
        folder: the run folder, or a bundle in it.
        host: name or address to listen on.
        port: port to listen on; 0 for any that is free.
        allowed_hosts: as for `create_app`; `host` is always allowed.
        config: limits and log.
        journal: folder in which changes are kept; None: they end with the service.
        carry_over: the journal may be of an earlier catalogue, see `Engine.open`.
        when_listening: gets the service's address, ``http://127.0.0.1:8000``, once it has it.

    Raises:
        ArtifactError: there is no finished run in the folder, or it cannot be opened, or the journal cannot.
        ConfigError: the address cannot be listened on, one of `allowed_hosts` is no host, or there is no journal to
            carry over.
        MissingExtra: the ``serve`` extra is not installed.
    """
    with _extra():
        from triptych.serve import app, logs, server
    from triptych.engine.bundle import open_bundle

    open_bundle(folder)  # a wrong folder is told here, not by a service that never gets ready
    config = config or ServeConfig()
    hosts = [host, *allowed_hosts]
    service = app.create_app(folder, allowed_hosts=hosts, config=config, journal=journal, carry_over=carry_over)
    sockets = server.listen(host, port)
    when_listening(server.url(host, sockets))
    logs.set_up(config.log_format)
    server.run(service, sockets=sockets)


@contextmanager
def _extra() -> Iterator[None]:
    """Say how to install what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name in BROUGHT_BY_EXTRA:
            raise MissingExtra("The HTTP service", extra="serve") from None
        raise
