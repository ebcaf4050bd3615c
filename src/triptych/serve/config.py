"""What can be set of the service: how much it takes in, and how it tells what it did."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from triptych.data.images import MAX_PIXELS
from triptych.foundation.config import Config


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    """For people: one line of words."""
    JSON = "json"
    """For programs: one JSON object per line."""


class ServeConfig(Config):
    """Limits and log of the service; ``triptych serve --set max_photo_bytes=1000000`` changes one."""

    max_photo_bytes: int = Field(8 * 2**20, ge=2**10)
    """Largest photo that is taken, as a file."""
    max_photo_pixels: int = Field(25_000_000, ge=64**2, le=MAX_PIXELS)
    """Largest photo that is decoded. What cameras call 24 megapixels passes; decoded, it takes 100 MB for a moment."""
    max_items_bytes: int = Field(64 * 2**20, ge=2**10)
    """Largest body of a request that adds items; their photos come in it, in base64."""
    log_format: LogFormat = LogFormat.TEXT
    """How log lines are written: text or json."""
    log_queries: bool = False
    """Write the words of each search into its log line. What people search for can be personal."""
