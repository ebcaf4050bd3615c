"""One photo: from whatever file it is to pixels, or a reason why it cannot be used.

Every photo becomes two things: a square of RGB pixels that the models see, and a JPEG that the page shows. Whatever
comes in (rotated by EXIF, transparent, palette, CMYK, 16 bits per channel, another colour space), both are upright
sRGB on white, aspect kept. The same photo gives the same pixels in a catalogue and at search time, because both go
through `decode_photo`.

Files come from anywhere. What is no ordinary file is not opened, how large a photo will be is read off its header
before anything is decoded, and what all threads decode at one time is bounded: a photo costs what its pixels deserve.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from triptych.data.colour_profiles import read_profile
from triptych.foundation.errors import DataError

Source = Path | bytes
R = TypeVar("R")

# What shops have. Not among them: EPS, which Pillow hands to Ghostscript; JPEG 2000, of which 150 bytes can ask for
# 700 MB; PPM, decoded in Python at a microsecond per pixel; TGA, which has no signature, so that any noise may be one.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_478_485
"""Larger photos are refused unread. Pillow's own limit (it warns above this one): a gigapixel PNG can be 100 kB."""
MAX_SIDE = 65_535
"""Longest side. JPEG, GIF and WebP know no longer one; Pillow needs gigabytes to keep and to resize such lines."""
MAX_SCANS = 100
"""Passes of a progressive JPEG; cameras and tools write about ten. Each goes over all pixels, in a hundred bytes, so a
small file could take minutes. libtiff draws the same line."""
MAX_REASON_CHARS = 200
JPEG_QUALITY = 85

_ORIENTATION_TAG = 0x0112
_TIFF_PHOTOMETRIC, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 262, 322, 323
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EIGHT_OF_SIXTEEN_BITS = np.rint(np.arange(2**16) / 257).astype(np.uint8)
# Bytes a file may have for each pixel that a photo may have: an uncompressed one with alpha passes.
_BYTES_PER_PIXEL = 4
_LARGE_BYTES = 2**24
_LARGE_PIXELS = 2**20
_PIXELS_AT_ONCE = 2**27


class _Room:
    """How many pixels all threads together have decoded at one time; a photo that is larger has the room alone.

    Decoding takes up to 13 bytes per pixel (transparent ones), so the room is 1.7 GB.
    """

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        if pixels < _LARGE_PIXELS:  # as many as there are threads: not worth counting
            yield
            return
        taken = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()


_ROOM = _Room(_PIXELS_AT_ONCE)
_ONE_LARGE_FILE = threading.RLock()


class Decoded(NamedTuple):
    """Both pictures of one photo."""

    checksum: bytes
    """sha256 of the file, ``[32]``."""
    pixels: NDArray[np.uint8]
    """What `decode_photo` returns."""
    display: bytes
    """What `display_jpeg` returns."""


def decode_photo(source: Source, *, px: int, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a photo into a square: upright, long side scaled to `px` (up or down), centred on white.

    Args:
        source: a file, or the bytes of one.
        px: side of the square.
        max_pixels: larger photos are refused before they are decoded.

    Returns:
        RGB, uint8 ``[px, px, 3]``.

    Raises:
        DataError: there is no such file, or it is no photo, damaged, truncated or too large; the message is a reason
            that fits behind a colon, since the caller knows the row and column.
    """
    return _decoded(source, lambda image, _: _square(image, px), max_pixels=max_pixels)


def display_jpeg(source: Source, *, px: int, keep_bytes: int = 0, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return a photo as a JPEG for the page: upright RGB on white, long side at most `px`, never enlarged.

    A JPEG that can be shown as it is (RGB or grey, without EXIF or XMP) is returned byte for byte where it is no larger
    than that, or is a file of at most `keep_bytes`.

    Raises:
        DataError: as `decode_photo`.
    """

    def shown(image: Image.Image, data: bytes) -> bytes:
        if not _can_be_shown(image, data, px=px, keep_bytes=keep_bytes):
            return _as_jpeg(image, px)
        image.draft("RGB", (1, 1))  # truncated bytes must not reach the page: read to the end, at an eighth of the cost
        image.load()
        return data

    return _decoded(source, shown, max_pixels=max_pixels)


def decode_both(
    source: Source, *, px: int, display_px: int, keep_bytes: int = 0, max_pixels: int = MAX_PIXELS
) -> Decoded:
    """Do `decode_photo` and `display_jpeg` in one go; the answers are the same to the byte.

    Raises:
        DataError: as `decode_photo`.
    """

    def both(image: Image.Image, data: bytes) -> Decoded:
        as_it_is = _can_be_shown(image, data, px=display_px, keep_bytes=keep_bytes)
        pixels = _square(image, px)  # has read the photo to its end
        if as_it_is:
            display = data
        elif image.format in ("JPEG", "MPO"):  # now decoded at the smaller size
            display = display_jpeg(data, px=display_px, keep_bytes=keep_bytes, max_pixels=max_pixels)
        else:
            display = _as_jpeg(image, display_px)
        return Decoded(checksum=hashlib.sha256(data).digest(), pixels=pixels, display=display)

    return _decoded(source, both, max_pixels=max_pixels)


def read_photo(path: Path, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the bytes of a photo's file, as the other functions read it; whether it is a photo is theirs to say.

    Raises:
        DataError: there is no such file, it is no ordinary one, or it is too large.
    """
    with _read(path, max_bytes=_BYTES_PER_PIXEL * max_pixels) as data:
        return data


def _decoded(source: Source, use: Callable[[Image.Image, bytes], R], *, max_pixels: int) -> R:
    """Open a photo, use it, and turn whatever its bytes make Pillow raise into a reason."""
    if isinstance(source, bytes):
        return _opened(source, use, max_pixels=max_pixels)
    with _read(source, max_bytes=_BYTES_PER_PIXEL * max_pixels) as data:
        return _opened(data, use, max_pixels=max_pixels)


def _opened(data: bytes, use: Callable[[Image.Image, bytes], R], *, max_pixels: int) -> R:
    if not data:
        raise DataError("the photo file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_readable_formats()) as image:
            _refuse_bombs(image, data, max_pixels=max_pixels)
            return use(image, data)
    except DataError:
        raise
    except MemoryError:  # of one photo: a catalogue of many must not end with it
        raise DataError("decoding the photo takes more memory than there is") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"the photo has more than {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise DataError(f"the file is not a photo in a format that can be read{_what_else(data)}") from None
    except Exception as error:  # damaged bytes make decoders raise anything: OSError, SyntaxError, struct.error, …
        why = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_CHARS]
        raise DataError(f"the photo is damaged ({why})") from None


def _refuse_bombs(image: Image.Image, data: bytes, *, max_pixels: int) -> None:
    """Stop before a photo is decoded that takes more than its bytes let expect; all of it stands in headers."""
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"the photo has {width} × {height} pixels, more than {max_pixels:,}")
    if max(width, height) > MAX_SIDE:
        raise DataError(f"the photo has {width} × {height} pixels, and a side may have {MAX_SIDE:,}")
    if image.info.get("progressive"):
        codes = np.frombuffer(data, dtype=np.uint8)  # 0xFF is never followed by 0xDA within a scan
        scans = np.count_nonzero((codes[:-1] == 0xFF) & (codes[1:] == 0xDA))
        if scans > MAX_SCANS:
            raise DataError(f"the photo is stored in {scans:,} passes, more than {MAX_SCANS}")
    if image.format == "TIFF":  # libtiff unpacks a whole tile, of whatever size, for a photo of one pixel
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile_width, tile_length = int(tags.get(_TIFF_TILE_WIDTH, 0)), int(tags.get(_TIFF_TILE_LENGTH, 0))
        if tile_width * tile_length > max_pixels:
            raise DataError(f"the photo is stored in tiles of {tile_width} × {tile_length} pixels")


@cache
def _readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow has; some builds lack AVIF or WebP."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _what_else(data: bytes) -> str:
    """Say what a file is that is no photo, where its first bytes tell."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if start.startswith((b"<!doctype html", b"<html")):
        return " (it is a web page)"
    if b"<svg" in start:
        return " (it is a drawing in SVG; save it as PNG)"
    if brand[:3] in (b"hei", b"hev", b"mif"):
        return " (it is HEIC; save it as JPEG)"
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or data[:4] == b"\xff\x4f\xff\x51":
        return " (it is JPEG 2000; save it as JPEG)"
    for signature, name in ((b"8BPS", "a Photoshop file"), (b"%PDF", "a PDF"), (b"PK\x03\x04", "a ZIP archive")):
        if data.startswith(signature):
            return f" (it is {name})"
    return ""


# A FIFO that nobody writes to would be waited for; without the flag (Windows) there are no FIFOs in folders.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_FILES = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a pipe",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}


@contextmanager
def _read(path: Path, *, max_bytes: int) -> Iterator[bytes]:
    """Hand out the bytes of a file; of large ones, one at a time may be in memory."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise DataError("the photo file does not exist") from None
    except ValueError:  # a NUL in it, or letters that the file system has no bytes for
        raise DataError("the photo file cannot be read (no file can have this name)") from None
    except OSError as error:
        raise DataError(f"the photo file cannot be read ({_kind(path) or error.strerror})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"the photo file cannot be read ({_NO_FILES.get(stat.S_IFMT(status.st_mode), 'no file')})")
        if status.st_size > max_bytes:
            raise DataError(f"the photo file has {status.st_size:,} bytes, more than {max_bytes:,}")
        if status.st_size > _LARGE_BYTES:
            with _ONE_LARGE_FILE:
                yield _all_of(descriptor, size=status.st_size)
        else:
            yield _all_of(descriptor, size=status.st_size)
    finally:
        os.close(descriptor)


def _all_of(descriptor: int, *, size: int) -> bytes:
    """Read as much as there was when the file was opened; what is written to it meanwhile is not waited for."""
    try:
        data = os.read(descriptor, size)
        while 0 < len(data) < size:
            more = os.read(descriptor, size - len(data))
            if not more:
                break
            data += more
    except OSError as error:
        raise DataError(f"the photo file cannot be read ({error.strerror})") from None
    return data


def _kind(path: Path) -> str | None:
    """Say what cannot be opened is, if not a file."""
    try:
        return _NO_FILES.get(stat.S_IFMT(path.stat().st_mode))
    except OSError:
        return None


def _square(image: Image.Image, px: int) -> NDArray[np.uint8]:
    scale = px / max(image.size)
    fitted = _upright_rgb(image, size=_scaled(image.size, scale))
    if fitted.size == (px, px):
        return np.array(fitted)
    canvas = Image.new("RGB", (px, px), "white")
    canvas.paste(fitted, ((px - fitted.width) // 2, (px - fitted.height) // 2))
    return np.array(canvas)


def _can_be_shown(image: Image.Image, data: bytes, *, px: int, keep_bytes: int) -> bool:
    """Say whether the file's bytes can go to the page.

    An EXIF block may turn the photo; it and XMP may tell where it was taken. A small photo in a large file carries
    something that is no picture.
    """
    small = (max(image.size) <= px and len(data) <= 4 * px * px) or len(data) <= keep_bytes
    plain = image.format == "JPEG" and image.mode in ("RGB", "L")
    return small and plain and "exif" not in image.info and "xmp" not in image.info


def _as_jpeg(image: Image.Image, px: int) -> bytes:
    size = _scaled(image.size, min(1.0, px / max(image.size)))
    shown = _upright_rgb(image, size=size, filtered=Image.Resampling.HAMMING)  # cheaper, and the eye sees no difference
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=b"")  # left out, Pillow writes the one it has read
    return buffer.getvalue()


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _upright_rgb(
    image: Image.Image, *, size: tuple[int, int], filtered: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Decode, convert and resize to `size` (before rotation), then turn upright: small pictures turn faster."""
    kept = image.width * image.height // 2 if image.info.get("progressive") else 0  # coefficients, until the last pass
    image.draft("RGB", size)  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that still covers the size
    profile = read_profile(image)
    with _ROOM.of(max(kept, image.width * image.height)):
        keeps_inks = profile is not None and profile.mode == "CMYK"  # Pillow's own way from inks to RGB is far off
        flat = image if keeps_inks else _on_white(image)
        if flat.size != size:
            flat = flat.resize(size, filtered)
        elif flat is image:
            image.load()
    rgb = profile.to_srgb(flat) if profile is not None else flat if flat.mode == "RGB" else flat.convert("RGB")
    turn = _UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    """Return the photo in RGB or grey, without transparency."""
    if image.mode == "F":
        raise DataError("the photo holds floating-point numbers, of which nobody knows what is white")
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image)
    if not image.has_transparency_data:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits; `convert` would clip it at 255 and paint it white."""
    grey = np.asarray(image)
    if grey.dtype.itemsize > 2 and (grey.min() < 0 or grey.max() > 65_535):
        raise DataError("the photo holds 32-bit numbers, of which nobody knows what is white")
    inverted = image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    look_up = _EIGHT_OF_SIXTEEN_BITS[::-1] if inverted else _EIGHT_OF_SIXTEEN_BITS
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        look_up = look_up.copy()
        look_up[transparent] = 255
    levels = np.empty(grey.shape, dtype=np.uint8)
    rows = max(1, _LARGE_PIXELS // image.width)
    for start in range(0, image.height, rows):  # looking up makes an index of 8 bytes per pixel
        levels[start : start + rows] = look_up[grey[start : start + rows]]
    return Image.fromarray(levels)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # every browser shows a photo whose EXIF block is damaged, as it lies; so do we
        return 1
