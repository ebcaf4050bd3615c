"""The photo of a request: from whatever it was given as to the pixels that the encoder takes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.data.images import decode_photo
from triptych.foundation.errors import DataError, EngineError

Photo = bytes | str | Path | NDArray[np.uint8]


class PhotoError(EngineError):
    """A photo that cannot be used: it is none, is damaged, or is not there."""


def query_pixels(photo: Photo | None, *, px: int) -> NDArray[np.uint8] | None:
    """Decode the photo of a search; None where there is none.

    Args:
        photo: a path, the bytes of a file, or RGB pixels uint8 ``[height, width, 3]``.
        px: side of the square.

    Returns:
        RGB, uint8 ``[px, px, 3]``.

    Raises:
        PhotoError: it cannot be decoded.
        EngineError: it is none of these.
    """
    if photo is None:
        return None
    source = _source(photo)
    try:
        return decode_photo(source, px=px)
    except DataError as error:
        raise PhotoError(f"The photo to search with cannot be used: {error}.") from None


def _source(photo: Photo) -> Path | bytes:
    """Return what the decoder takes; pixels become a lossless file first, so that they are scaled like any photo."""
    if isinstance(photo, str):
        return Path(photo)
    if isinstance(photo, bytes | Path):
        return photo
    if not isinstance(photo, np.ndarray) or photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        what = f"{photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else f"a {type(photo).__name__}"
        raise EngineError(
            f"The photo to search with is {what}; give a path, the bytes of a file, or uint8 pixels [height, width, 3]."
        )
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()
