"""A limit on the pixels of an uploaded photo, read off its header: a small file can unpack to gigabytes."""

from __future__ import annotations

import io

from PIL import Image

from triptych.data.images import FORMATS
from triptych.serve.body import too_large

MAX_PHOTO_PIXELS = 25_000_000
"""What cameras call 24 megapixels passes; decoded, it takes 75 to 100 MB for a moment."""


def check_pixels(photo: bytes, *, what: str = "The photo") -> None:
    """Pass a photo that is small enough to be decoded; also what is no photo, of which the engine says so.

    Args:
        photo: the bytes of a file; its pixels are not decoded.
        what: the thing that is too large, at the start of the refusal.

    Raises:
        HTTPException: 413, it has more than `MAX_PHOTO_PIXELS`.
    """
    Image.init()
    readable = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(io.BytesIO(photo), formats=readable) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limits, all above ours
        raise too_large(
            f"{what} has far more than {MAX_PHOTO_PIXELS // 10**6} million pixels; send a smaller one."
        ) from None
    except Exception:  # damaged headers make decoders raise anything
        return
    if width * height > MAX_PHOTO_PIXELS:
        raise too_large(
            f"{what} has {width} × {height} pixels, more than {MAX_PHOTO_PIXELS // 10**6} million; send a smaller one."
        )
