"""What is written down of every request: its id, a log line, the counters."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triptych.serve.errors import problem
from triptych.serve.logs import REQUEST_ID, log_request
from triptych.serve.metrics import Metrics, route_of

REQUEST_ID_HEADER = "x-request-id"
CLIENT_GONE = 499
"""Status in log and counters where nobody waited for the answer; nginx' number, HTTP has none."""

STOPPING = "The service is stopping; send this again in a moment."

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Observe:
    """Gives every request an id, and logs and counts it once its response has ended.

    The id is the one that a proxy before us sent in ``X-Request-Id``, where it is short and plain, else a new one. It
    is in the response's header of that name and in ``state.request_id``.

    Plain ASGI: no task and no buffering per request.

    Args:
        app: the application inside.
        metrics: what to count with.
        log_queries: write ``state.query`` into the log line, where a handler left it there.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log_queries: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log_queries = log_queries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and write it down when it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        state = scope.setdefault("state", {})
        request_id = state["request_id"] = _request_id(scope)
        # Not reset at the end: the server logs a defect after us, in this same task, and that line needs the id too.
        REQUEST_ID.set(request_id)
        status = CLIENT_GONE

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # before the answer began, or there would be a status
        except asyncio.CancelledError:  # the server is stopping and has waited long enough
            if status == CLIENT_GONE:
                await problem(HTTPStatus.SERVICE_UNAVAILABLE, STOPPING)(scope, receive, send_with_id)
        except BaseException:
            status = HTTPStatus.INTERNAL_SERVER_ERROR  # Starlette answers with it, outside of all middleware
            raise
        finally:
            self._write(scope, status=int(status), seconds=time.perf_counter() - start)

    def _write(self, scope: Scope, *, status: int, seconds: float) -> None:
        route, state = route_of(scope), scope["state"]
        self._metrics.count_request(method=scope["method"], route=route, status=status, seconds=seconds)
        fields = {
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "request_id": state["request_id"],
        }
        if self._log_queries and state.get("query"):
            fields["query"] = state["query"]
        log_request(fields)


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return sent if _ACCEPTED_ID.fullmatch(sent) else secrets.token_hex(8)
