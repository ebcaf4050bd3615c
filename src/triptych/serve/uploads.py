"""Photos that are refused unread: too many bytes, or too many pixels, read off the header.

A small file can unpack to gigabytes. Nothing is decoded before its header has told how large it will be.
"""

from __future__ import annotations

import io
from enum import StrEnum
from http import HTTPStatus

from PIL import Image
from starlette.exceptions import HTTPException

from triptych.data.images import FORMATS
from triptych.serve.config import ServeConfig


class Reason(StrEnum):
    """Why a photo was refused."""

    BYTES = "bytes"
    """The file is too large."""
    PIXELS = "pixels"
    """Decoded, it would be too large."""
    UNREADABLE = "unreadable"
    """It is no photo, or damaged."""


class PhotoRefused(HTTPException):
    """A photo that is larger than the service takes: 413."""

    def __init__(self, sentence: str, *, reason: Reason) -> None:
        """Refuse with one sentence.

        Args:
            sentence: what is too large, what the limit is, what to do.
            reason: what is counted.
        """
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
        self.reason = reason


def too_many_bytes(limit: int, *, what: str = "The photo") -> PhotoRefused:
    """Make the refusal of a file of more than `limit` bytes."""
    return PhotoRefused(f"{what} is larger than {in_mib(limit)}; send a smaller one.", reason=Reason.BYTES)


def check_photo(photo: bytes, *, config: ServeConfig, what: str = "The photo") -> None:
    """Pass a photo that is small enough to be decoded; also what is no photo, of which the engine says so.

    Args:
        photo: the bytes of a file; its pixels are not decoded.
        config: the limits.
        what: the thing that is too large, at the start of the refusal.

    Raises:
        PhotoRefused: it has more bytes or pixels than the limits allow.
    """
    if len(photo) > config.max_photo_bytes:
        raise too_many_bytes(config.max_photo_bytes, what=what)
    limit, in_words = config.max_photo_pixels, f"{config.max_photo_pixels / 10**6:g} million"
    Image.init()
    readable = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(io.BytesIO(photo), formats=readable) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limits, none below ours
        sentence = f"{what} has far more than {in_words} pixels; send a smaller one."
        raise PhotoRefused(sentence, reason=Reason.PIXELS) from None
    except Exception:  # damaged headers make decoders raise anything
        return
    if width * height > limit:
        sentence = f"{what} has {width} × {height} pixels, more than {in_words}; send a smaller one."
        raise PhotoRefused(sentence, reason=Reason.PIXELS)


def in_mib(size: int) -> str:
    """A number of bytes in words: ``8 MiB``, ``1.5 MiB``, ``100 KiB``."""
    return f"{size / 2**20:.3g} MiB" if size >= 2**20 else f"{size / 2**10:.3g} KiB"
