"""What a mistake looks like over HTTP: problem JSON (RFC 9457) whose ``detail`` is one sentence."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from triptych.engine import JournalError, PhotoError
from triptych.foundation.errors import DataError, EngineError
from triptych.serve import hints
from triptych.serve.runtime import NotReady
from triptych.serve.uploads import PhotoRefused, Reason

RETRY_AFTER_S = 1
UNKNOWN_NAME = "extra_forbidden"
"""What pydantic calls a parameter that is not there."""

logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """A refused or failed request."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ProblemResponse(JSONResponse):
    """A response with the media type of problem JSON."""

    media_type = "application/problem+json"


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> ProblemResponse:
    """Make the response for a refused or failed request.

    Args:
        status: HTTP status, 4xx or 5xx.
        detail: one sentence: what is wrong, where, and what to do.
        headers: further headers.
    """
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return ProblemResponse(body.model_dump(), status_code=status, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Make `app` answer every mistake with problem JSON.

    An EngineError or a DataError (a photo that cannot be read) is the request's fault: 422. `NotReady` is 503. A
    `JournalError`, a change that could not be written down, is 507. Anything else is a defect of ours: 500, with the
    cause in the log only.
    """
    app.add_exception_handler(JournalError, _not_stored)
    app.add_exception_handler(EngineError, _unprocessable)
    app.add_exception_handler(DataError, _unprocessable)
    app.add_exception_handler(NotReady, _not_ready)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)


async def _unprocessable(request: Request, error: Exception) -> ProblemResponse:
    if isinstance(error, PhotoError):
        request.app.state.metrics.count_refused_photo(Reason.UNREADABLE)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))


async def _not_stored(request: Request, error: Exception) -> ProblemResponse:
    logger.error("%s", error)
    return problem(HTTPStatus.INSUFFICIENT_STORAGE, "The change could not be stored, so it was not made.")


async def _not_ready(request: Request, error: Exception) -> ProblemResponse:
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers={"retry-after": str(RETRY_AFTER_S)})


async def _invalid(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    # A name that is unknown explains one that is missing, as a rule.
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != UNKNOWN_NAME)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, _sentence(faults[0], request=request))


async def _http(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    if isinstance(error, PhotoRefused):
        request.app.state.metrics.count_refused_photo(error.reason)
    if error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase:
        return problem(error.status_code, hints.nothing_there(method, path, others=hints.operations(request.app)))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        sentence, taken = hints.not_allowed(method, path, others=hints.operations(request.app))
        return problem(error.status_code, sentence, headers={"allow": ", ".join(taken)} if taken else error.headers)
    return problem(error.status_code, error.detail, headers=error.headers)


async def _defect(request: Request, error: Exception) -> ProblemResponse:
    # Starlette raises the error again after this response, so the server logs it once, with its traceback. It answers
    # outside of all middleware, so the id that finds the log line is given here.
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The service failed on this request; its log has the cause.",
        headers={"x-request-id": request.state.request_id},
    )


def _sentence(fault: Mapping[str, Any], *, request: Request) -> str:
    """One sentence from one fault that pydantic found."""
    others = hints.operations(request.app)
    asked = request.method, getattr(request.scope.get("route"), "path_format", "")
    here = next((one for one in others if (one.method, one.path) == asked), None)
    place = ".".join(str(part) for part in fault["loc"][1:])
    if fault["type"] == UNKNOWN_NAME:
        return hints.unknown_name(place, here=here, others=others)
    if fault["type"] == "missing":
        return hints.missing(place, here=here, others=others)
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "json_invalid":
        return f"The body is not JSON: {str(fault.get('ctx', {}).get('error', message)).lower()}, at byte {place}."
    if not place:
        is_of_body = here is not None and here.example and fault["loc"] == ("body",)
        return hints.wanted_body(here) if here and is_of_body else f"{message[:1].upper()}{message[1:]}."
    got = fault.get("input")
    shown = f", got {got!r}" if isinstance(got, str | int | float) and len(repr(got)) < 60 else ""
    return f"{place}: {message[:1].lower()}{message[1:]}{shown}."
