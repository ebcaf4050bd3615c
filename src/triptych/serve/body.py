"""A limit on the size of a request body, kept while it is received: nothing larger is ever held or spooled to disk."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message

# Room for the other fields of a form, and for its boundaries.
FORM_OVERHEAD_BYTES = 64 * 2**10

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def limited(max_bytes: int, *, what: str) -> type[APIRoute]:
    """Make the route class of a router whose requests have bodies of at most `max_bytes`.

    Args:
        max_bytes: largest body.
        what: the thing that is too large, at the start of the refusal, e.g. ``"The photo"``.

    Returns:
        A route class, for ``APIRouter(route_class=...)``. A larger body is refused with 413 and one sentence: before
        it is read where its length is declared, and as soon as the limit is passed where it is not.
    """
    sentence = f"{what} is larger than {max_bytes // 2**20} MiB; send a smaller one."

    class LimitedRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handle_limited(request: Request) -> Response:
                declared = request.headers.get("content-length", "")
                if declared.isdigit() and int(declared) > max_bytes + FORM_OVERHEAD_BYTES:
                    raise too_large(sentence)
                return await handle(Request(request.scope, _counted(request, max_bytes, sentence)))

            return handle_limited

    return LimitedRoute


def too_large(sentence: str) -> HTTPException:
    """The refusal of a body or photo that is too large."""
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)


def _counted(request: Request, max_bytes: int, sentence: str) -> Callable[[], Coroutine[Any, Any, Message]]:
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes + FORM_OVERHEAD_BYTES:
            raise too_large(sentence)
        return message

    return receive
