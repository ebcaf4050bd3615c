"""Photos: decoded once, at the wanted size, into files that are memory-mapped.

Every photo becomes two things: a square of RGB pixels that the models see, and a JPEG that the page shows. Whatever
comes in (rotated by EXIF, transparent, palette, CMYK, 16 bits per channel), both are upright RGB on white, aspect
kept. The same photo gives the same pixels here and at search time, because both go through `decode_photo`.

Embedded colour profiles are not applied: their cost is not worth the shade at the sizes that models see.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError

from triptych.foundation.errors import DataError
from triptych.foundation.machine import num_cores
from triptych.foundation.progress import track

Source = Path | bytes
S = TypeVar("S")
R = TypeVar("R")

# Raster formats only: Pillow would hand EPS to Ghostscript, and others (FITS, HDF5, WMF) are no product photos.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000")
MAX_PIXELS = 89_478_485
"""Larger photos are refused unread. Pillow's own limit (it warns above this one): a gigapixel PNG can be 100 kB."""
JPEG_QUALITY = 85
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_photo(source: Source, *, px: int) -> NDArray[np.uint8]:
    """Decode a photo into a square: upright, long side scaled to `px` (up or down), centred on white.

    Args:
        source: a file, or the bytes of one.
        px: side of the square.

    Returns:
        RGB, uint8 ``[px, px, 3]``.

    Raises:
        DataError: there is no such file, or it is no photo, damaged, truncated or too large; the message is a reason
            that fits behind a colon, since the caller knows the row and column.
    """
    return _decoded(source, lambda image: _square(image, px))


def display_jpeg(source: Source, *, px: int) -> bytes:
    """Return a photo as a JPEG for the page: upright RGB on white, long side at most `px`, never enlarged.

    A JPEG that is already so (no larger, RGB or grey, no EXIF block) is returned byte for byte.

    Raises:
        DataError: as `decode_photo`.
    """
    data = source if isinstance(source, bytes) else _read(source)

    def shown(image: Image.Image) -> bytes:
        if not _can_be_shown(image, px):
            return _as_jpeg(image, px)
        image.draft("RGB", (1, 1))  # truncated bytes must not reach the page: read to the end, at an eighth of the cost
        image.load()
        return data

    return _decoded(data, shown)


def check_photos(sources: Sequence[Source | None], *, workers: int | None = None) -> dict[int, str]:
    """Read every photo to its end and keep nothing.

    Args:
        sources: one per row; None where there is no photo.
        workers: threads; None takes one per core.

    Returns:
        Row → reason, for the photos that cannot be used.
    """

    def fault(source: Source | None) -> str | None:
        try:
            if source is not None:
                decode_photo(source, px=8)  # JPEGs are scaled while decoding, so a small size is read fastest
        except DataError as error:
            return str(error)
        return None

    faults = _in_order(fault, sources, workers=workers)
    tracked = track(faults, label="checking photos", total=len(sources), unit="item")
    return {row: reason for row, reason in enumerate(tracked) if reason is not None}


class PhotoReport(NamedTuple):
    """What `decode_photos` did."""

    num_photos: int
    """Distinct photos stored; items that share a photo share its place."""
    num_with_photo: int
    """Items that have one."""
    faults: dict[int, str]
    """Item row → why its photo could not be used."""


def decode_photos(
    sources: Sequence[Source | None], *, px: int, display_px: int, out: Path, workers: int | None = None
) -> PhotoReport:
    """Decode the photos of a catalogue into a folder that `PhotoStore` opens.

    The folder gets ``pixels.npy`` (uint8 ``[photos, px, px, 3]``), ``photo_rows.npy`` (int32 ``[items]``, -1 for none),
    ``display.bin`` with ``display_offsets.npy`` (the JPEGs, end to end; int64 ``[photos + 1]``) and ``checksums.npy``
    (sha256 of each source, uint8 ``[photos, 32]``). Photos are stored in the order of the first item that shows them,
    whatever the number of threads; a few are in memory at a time.

    Args:
        sources: one per item row; None where there is no photo.
        px: side of the square that models see.
        display_px: longest side of the JPEG that the page shows.
        out: folder to write into; created, and overwritten.
        workers: threads; None takes one per core (Pillow decodes outside the interpreter's lock).
    """
    out.mkdir(parents=True, exist_ok=True)
    photo_rows = np.full(len(sources), -1, dtype=np.int32)
    known: dict[bytes, int] = {}
    offsets = [0]
    faults: dict[int, str] = {}

    def decode(source: Source | None) -> _Decoded | str | None:
        try:
            return None if source is None else _decode_both(source, px=px, display_px=display_px)
        except DataError as error:
            return str(error)

    in_order = _in_order(decode, sources, workers=workers)
    decoded = track(in_order, label="decoding photos", total=len(sources), unit="item")
    with (out / "pixels.npy").open("wb") as pixels_file, (out / "display.bin").open("wb") as display_file:
        _write_header(pixels_file, shape=(0, px, px, 3))
        for item_row, photo in enumerate(decoded):
            if isinstance(photo, str):
                faults[item_row] = photo
            elif photo is not None:
                if photo.checksum not in known:
                    known[photo.checksum] = len(known)
                    pixels_file.write(photo.pixels.tobytes())
                    display_file.write(photo.display)
                    offsets.append(offsets[-1] + len(photo.display))
                photo_rows[item_row] = known[photo.checksum]
        pixels_file.seek(0)
        _write_header(pixels_file, shape=(len(known), px, px, 3))
    np.save(out / "photo_rows.npy", photo_rows)
    np.save(out / "display_offsets.npy", np.asarray(offsets, dtype=np.int64))
    np.save(out / "checksums.npy", np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, 32))
    return PhotoReport(num_photos=len(known), num_with_photo=int((photo_rows >= 0).sum()), faults=faults)


class PhotoStore:
    """The photos of a catalogue, memory-mapped: opening reads nothing, asking reads what is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the folder that `decode_photos` wrote."""
        self._folder = folder
        self._pixels = _mapped(folder / "pixels.npy")
        self._photo_rows: NDArray[np.int32] = _mapped(folder / "photo_rows.npy")

    @property
    def px(self) -> int:
        """Side of the square that models see."""
        return int(self._pixels.shape[1])

    @property
    def num_photos(self) -> int:
        """Distinct photos stored."""
        return int(self._pixels.shape[0])

    @property
    def photo_rows(self) -> NDArray[np.int32]:
        """``[items]``, place of each item's photo among the distinct ones, -1 for none. Equal places, equal photos."""
        return self._photo_rows

    @cached_property
    def has(self) -> NDArray[np.bool_]:
        """``[items]``, which items have a photo."""
        return np.asarray(self._photo_rows >= 0)

    def pixels(self, item_rows: ArrayLike) -> NDArray[np.uint8]:
        """Return the photos of some items.

        Args:
            item_rows: ``[n]``, repeats allowed.

        Returns:
            RGB, uint8 ``[n, px, px, 3]``, a copy; zeros for an item without photo.
        """
        photo_rows = self._photo_rows[np.asarray(item_rows, dtype=np.int64)]
        out = np.zeros((len(photo_rows), self.px, self.px, 3), dtype=np.uint8)
        present = photo_rows >= 0
        out[present] = self._pixels[photo_rows[present]]
        return out

    def distinct(self, photo_rows: slice) -> NDArray[np.uint8]:
        """Return some of the distinct photos, RGB, uint8 ``[n, px, px, 3]``, a copy."""
        return np.array(self._pixels[photo_rows])

    def jpeg(self, item_row: int) -> bytes | None:
        """Return the JPEG that the page shows, or None where the item has no photo."""
        photo_row = int(self._photo_rows[item_row])
        if photo_row < 0:
            return None
        start, end = self._display_offsets[photo_row : photo_row + 2]
        return self._display[start:end].tobytes()

    def checksum(self, item_row: int) -> str | None:
        """Return the sha256 of the file the photo came from, or None where the item has no photo."""
        photo_row = int(self._photo_rows[item_row])
        return None if photo_row < 0 else self._checksums[photo_row].tobytes().hex()

    @cached_property
    def _display(self) -> NDArray[np.uint8]:
        path = self._folder / "display.bin"
        if path.stat().st_size == 0:  # nothing to map
            return np.empty(0, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r")

    @cached_property
    def _display_offsets(self) -> NDArray[np.int64]:
        return _mapped(self._folder / "display_offsets.npy")

    @cached_property
    def _checksums(self) -> NDArray[np.uint8]:
        return _mapped(self._folder / "checksums.npy")


class _Decoded(NamedTuple):
    checksum: bytes
    pixels: NDArray[np.uint8]
    display: bytes


def _decode_both(source: Source, *, px: int, display_px: int) -> _Decoded:
    """Do `decode_photo` and `display_jpeg` in one go; the answers are the same to the byte."""
    data = source if isinstance(source, bytes) else _read(source)

    def both(image: Image.Image) -> _Decoded:
        as_it_is = _can_be_shown(image, display_px)
        pixels = _square(image, px)  # has read the photo to its end
        if as_it_is:
            display = data
        elif image.format in ("JPEG", "MPO"):  # now decoded at the smaller size
            display = display_jpeg(data, px=display_px)
        else:
            display = _as_jpeg(image, display_px)
        return _Decoded(checksum=hashlib.sha256(data).digest(), pixels=pixels, display=display)

    return _decoded(data, both)


def _decoded(source: Source, use: Callable[[Image.Image], R]) -> R:
    """Open a photo, use it, and turn whatever its bytes make Pillow raise into a reason."""
    data = source if isinstance(source, bytes) else _read(source)
    if not data:
        raise DataError("the photo file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_readable_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"the photo has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
            return use(image)
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"the photo has more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise DataError("the file is not a photo in a format that can be read") from None
    except Exception as error:  # damaged bytes make decoders raise anything: OSError, SyntaxError, struct.error, …
        raise DataError(f"the photo is damaged ({type(error).__name__}: {error})") from None


@cache
def _readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow has; some builds lack AVIF or JPEG 2000."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError("the photo file does not exist") from None
    except OSError as error:
        raise DataError(f"the photo file cannot be read ({error.strerror})") from None


def _square(image: Image.Image, px: int) -> NDArray[np.uint8]:
    scale = px / max(image.size)
    fitted = _upright_rgb(image, size=_scaled(image.size, scale))
    if fitted.size == (px, px):
        return np.array(fitted)
    canvas = Image.new("RGB", (px, px), "white")
    canvas.paste(fitted, ((px - fitted.width) // 2, (px - fitted.height) // 2))
    return np.array(canvas)


def _can_be_shown(image: Image.Image, px: int) -> bool:
    """Say whether the file's bytes can go to the page; an EXIF block may turn the photo, or tell where it was taken."""
    small = max(image.size) <= px
    return small and image.format == "JPEG" and image.mode in ("RGB", "L") and "exif" not in image.info


def _as_jpeg(image: Image.Image, px: int) -> bytes:
    shown = _upright_rgb(image, size=_scaled(image.size, min(1.0, px / max(image.size))))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _upright_rgb(image: Image.Image, *, size: tuple[int, int]) -> Image.Image:
    """Decode, convert and resize to `size` (before rotation), then turn upright: small pictures turn faster."""
    image.draft("RGB", size)  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that still covers the size
    rgb = _on_white(image)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    turn = _UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("the photo holds floating-point numbers, of which nobody knows what is white")
    if image.mode.startswith("I"):  # 16 bits of grey; convert() would clip at 255 and paint it white
        grey = np.asarray(image, dtype=np.int64)
        if grey.min() < 0 or grey.max() > 65_535:
            raise DataError("the photo holds 32-bit numbers, of which nobody knows what is white")
        return Image.fromarray(np.rint(grey / 257).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # every browser shows a photo whose EXIF block is damaged, as it lies; so do we
        return 1


def _in_order(work: Callable[[S], R], sources: Iterable[S], *, workers: int | None) -> Iterator[R]:
    """Map over threads, results in order of the sources, never far ahead of the reader."""
    workers = workers or num_cores()
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="photos") as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(work, source))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the reader stopped early: do not decode what nobody will take
                future.cancel()


def _write_header(file: BinaryIO, *, shape: tuple[int, ...]) -> None:
    """Write an npy header; numpy pads it so that a longer first axis, known at the end, needs no more room."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _mapped(path: Path) -> NDArray[Any]:
    """Open an npy file read-only without reading it."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
