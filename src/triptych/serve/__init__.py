"""The HTTP service and its search page: one engine behind a JSON API. HTTP stays inside this package.

Read in this order: `app` (factory), `routes` (one router per noun), `schemas` (what travels), `present` (from the
engine's answers to that), `runtime` (the engine off the event loop), `errors` (what a mistake looks like), `body` and
`uploads` (how large a request and a photo may be), `hosts` (which hosts it answers for). The page is plain HTML, CSS
and JavaScript modules in ``static/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from triptych.foundation.errors import MissingExtra

if TYPE_CHECKING:
    from fastapi import FastAPI

    from triptych.engine import Engine

__all__ = ["create_app"]

BROUGHT_BY_EXTRA = frozenset({"fastapi", "starlette", "anyio", "python_multipart", "multipart"})


def create_app(engine: Engine | Path, *, allowed_hosts: Sequence[str] = ()) -> FastAPI:
    """Make the service around an engine.

    Args:
        engine: an open engine, or the run folder to open. A folder is opened when the service already listens, so that
            ``/health`` answers meanwhile and ``/ready`` says 503 until then.
        allowed_hosts: names by which it may be called besides localhost and the address it is reached at, without port,
            e.g. ``["shop.local"]``; ``"*"`` for any. A request for another host is refused (see `hosts`).

    Raises:
        ConfigError: one of `allowed_hosts` is no host.
        MissingExtra: the ``serve`` extra is not installed.
    """
    try:
        from triptych.serve import app
    except ModuleNotFoundError as error:
        if error.name in BROUGHT_BY_EXTRA:
            raise MissingExtra("The HTTP service", extra="serve") from None
        raise
    return app.create_app(engine, allowed_hosts=allowed_hosts)
