"""The application factory: routers, page, error shapes, headers, and the engine's life."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version as package_version
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triptych.engine import Engine
from triptych.serve import errors, routes
from triptych.serve.config import ServeConfig
from triptych.serve.hosts import Hosts, check_hosts
from triptych.serve.metrics import Metrics
from triptych.serve.observe import Observe
from triptych.serve.runtime import Runtime

STATIC = Path(__file__).parent / "static"
OPENAPI = "/api/openapi.json"

# The page loads nothing from elsewhere and runs no inline script: an item's title can never become code.
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


def create_app(
    engine: Engine | Path,
    *,
    allowed_hosts: Sequence[str] = (),
    config: ServeConfig | None = None,
    journal: Path | None = None,
    carry_over: bool = False,
) -> FastAPI:
    """Make the service.

    Args:
        engine: an open engine, or the run folder to open once the service runs.
        allowed_hosts: names by which it may be called besides localhost and the address it is reached at.
        config: limits and log.
        journal: where changes are kept, as of `Engine.open`; only with a run folder.
        carry_over: as of `Engine.open`.

    Returns:
        The ASGI application. Its lifespan must run (uvicorn does that): it opens and warms up the engine in the
        background.

    Raises:
        ConfigError: one of `allowed_hosts` is no host, or a journal is named for an engine that is open already.
    """
    allowed = check_hosts(allowed_hosts)  # now: middleware is only made with the first request
    config = config or ServeConfig()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime: Runtime = app.state.runtime
        runtime.start()
        yield
        await runtime.stop()

    app = FastAPI(
        title="Triptych",
        summary="Search by words and photos, similar items, recommendations, and why.",
        version=package_version("triptych"),
        lifespan=lifespan,
        openapi_url=OPENAPI,
        docs_url=None,  # the stock documentation pages load their scripts from a CDN; ours is static/docs.html
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.config = config
    app.state.runtime = Runtime(engine, journal=journal, carry_over=carry_over)
    app.state.metrics = Metrics(app.state.runtime)
    errors.install(app)
    for router in (routes.searches, routes.items, routes.catalogue, routes.states):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_api_route("/", _page, include_in_schema=False)
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.add_api_route("/openapi.json", _openapi, include_in_schema=False)  # where most services have theirs
    app.add_middleware(Hosts, allowed=allowed)
    app.add_middleware(Headers)
    app.add_middleware(Observe, metrics=app.state.metrics, log_queries=config.log_queries)
    return app


class Headers:
    """Adds to every response its times (``server-timing``: total and engine, ms) and the security headers.

    Plain ASGI: no task and no buffering per request.

    Args:
        app: the application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers when the response starts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        state = scope.setdefault("state", {})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["server-timing"] = _timing(start, engine_ms=state.get("engine_ms"))
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/static/"):
                    headers["cache-control"] = "no-cache"  # ask again each time: the ETag makes that cheap
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _timing(start: float, *, engine_ms: float | None) -> str:
    total = f"total;dur={(time.perf_counter() - start) * 1000:.1f}"
    return total if engine_ms is None else f"{total}, engine;dur={engine_ms:.1f}"


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html", headers={"cache-control": "no-cache"})


async def _openapi() -> RedirectResponse:
    return RedirectResponse(OPENAPI)
