"""Log lines: one per request, as words for people or as JSON for programs.

A line holds no address and no query: the template of the route says what was asked for. The id that a line ends with is
the one in the answer's ``X-Request-Id``, and is on every line that was written on the way to that answer.
"""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from triptych.serve.config import LogFormat

REQUEST_ID: ContextVar[str | None] = ContextVar("triptych_request_id", default=None)
"""Id of the request that is being answered; set by `observe`."""
REQUESTS = logging.getLogger("triptych.serve.requests")

_FIELDS = "fields"


def set_up(log_format: LogFormat) -> None:
    """Write the log of this process to stderr: requests, and what libraries are worried about.

    Args:
        log_format: words or JSON.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format is LogFormat.JSON else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("triptych.serve").setLevel(logging.INFO)


def log_request(fields: dict[str, Any]) -> None:
    """Write the line of one request.

    Args:
        fields: ``method``, ``route``, ``status``, ``ms``, ``request_id``, and ``query`` where queries are logged.
    """
    query = f" {json.dumps(fields['query'], ensure_ascii=False)}" if fields.get("query") else ""
    words = "{method} {route} {status} {ms:.1f} ms".format(**fields)
    REQUESTS.info("%s%s", words, query, extra={_FIELDS: fields})


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, and the request's fields; else logger, message, and a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower()}
        fields = getattr(record, _FIELDS, None)
        if fields is not None:
            return json.dumps({**line, **fields}, ensure_ascii=False)
        line |= {"logger": record.name, "message": record.getMessage().strip(), "request_id": REQUEST_ID.get()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)


class TextLines(logging.Formatter):
    """Time, level, message, and the id of the request in brackets; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        request_id = REQUEST_ID.get()
        words = [_time(record), record.levelname.lower(), record.getMessage().strip()]
        line = " ".join([*words, f"[{request_id}]"] if request_id else words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, tz=UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
