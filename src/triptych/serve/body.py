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
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

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

    def check(self, request: Request) -> None:
        """Raise an HTTPException where what is sent would have no effect."""

    def get_route_handler(self) -> Handler:
        """Put the limit before FastAPI's handler, which reads the body."""
        handle = super().get_route_handler()

        async def handle_limited(request: Request) -> Response:
            self.check(request)
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

    def check(self, request: Request) -> None:
        """Refuse a body that is no form, and parameters behind the address of a form: neither would be read."""
        if request.method != "POST":
            return
        sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        path = request.url.path
        if sent and sent not in FORMS:
            sentence = f"POST {path} takes a form ({FORMS[0]}), not {sent}; without a photo, ask GET {path}?q=WORDS."
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, sentence)
        if request.url.query:
            sentence = f"POST {path} reads its form alone: put {', '.join(request.query_params)} there, or ask by GET."
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, sentence)


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
