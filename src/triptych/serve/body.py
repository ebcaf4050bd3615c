"""A limit on the size of a request body, kept while it is received: nothing larger is ever held or spooled to disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message

from triptych.serve.config import ServeConfig
from triptych.serve.uploads import in_mib, too_many_bytes

# Room for the other fields of a form, and for its boundaries.
FORM_OVERHEAD_BYTES = 64 * 2**10

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class LimitedRoute(APIRoute, ABC):
    """A route whose body is limited: for ``APIRouter(route_class=...)``.

    A larger body is refused with 413 and one sentence: before it is read where its length is declared, and as soon as
    the limit is passed where it is not.
    """

    @abstractmethod
    def limit_bytes(self, config: ServeConfig) -> int:
        """Give the size of the largest body."""

    @abstractmethod
    def refusal(self, limit: int) -> HTTPException:
        """Make the refusal of a larger one."""

    def get_route_handler(self) -> Handler:
        """Put the limit before FastAPI's handler, which reads the body."""
        handle = super().get_route_handler()

        async def handle_limited(request: Request) -> Response:
            limit = self.limit_bytes(request.app.state.config)
            refusal = self.refusal(limit)
            declared = request.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > limit + FORM_OVERHEAD_BYTES:
                raise refusal
            return await handle(Request(request.scope, _counted(request, limit + FORM_OVERHEAD_BYTES, refusal)))

        return handle_limited


class PhotoRoute(LimitedRoute):
    """A route that takes a form with one photo."""

    def limit_bytes(self, config: ServeConfig) -> int:
        """Give the size of the largest photo."""
        return config.max_photo_bytes

    def refusal(self, limit: int) -> HTTPException:
        """Refuse a photo."""
        return too_many_bytes(limit)


class ItemsRoute(LimitedRoute):
    """A route that takes items as JSON."""

    def limit_bytes(self, config: ServeConfig) -> int:
        """Give the size of the largest body."""
        return config.max_items_bytes

    def refusal(self, limit: int) -> HTTPException:
        """Refuse a body; more than one request can add them all."""
        sentence = f"The body is larger than {in_mib(limit)}; send fewer items at a time."
        return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)


def _counted(request: Request, most: int, refusal: HTTPException) -> Callable[[], Coroutine[Any, Any, Message]]:
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise refusal
        return message

    return receive
