"""The photos of a catalogue: decoded once, at the wanted size, into files that are memory-mapped.

    pixels.npy                                uint8 [photos, px, px, 3]    what models see
    photo_rows.npy                            int32 [items]                each item's photo, -1 for none
    display.bin, display_offsets.npy          int64 [photos + 1]           the JPEGs that the page shows, end to end
    checksums.npy                             uint8 [photos, 32]           sha256 of each file
    other_rows.npy, other_offsets.npy         int32, int64 [items + 1]     each item's further photos, if kept

Equal photos are stored once. Decoding 100,000 photos takes minutes, so it can be stopped at any point and goes on
behind the photos that are written: see `_Written`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self, TypeVar

import numpy as np
import PIL
from numpy.typing import ArrayLike, NDArray

from triptych.data.images import MAX_PIXELS, Decoded, Source, decode_both, decode_photo
from triptych.foundation.errors import DataError
from triptych.foundation.machine import num_cores
from triptych.foundation.progress import Progress

R = TypeVar("R")

SAVE_EVERY_S = 5.0
"""Seconds of decoding that a kill may cost."""
_AT_ONCE = 8
"""Photos that a thread takes at a time: handing over each by itself costs a tenth of decoding a small one."""
_JOURNAL = "photos.jsonl"


def check_photos(
    sources: Sequence[Source | None], *, max_pixels: int = MAX_PIXELS, workers: int | None = None
) -> dict[int, str]:
    """Read every photo to its end and keep nothing.

    Args:
        sources: photos; None where there is none.
        max_pixels: larger photos are refused before they are decoded.
        workers: threads; None takes one per core.

    Returns:
        Place among the sources → reason, for the photos that cannot be used.
    """

    def fault(source: Source) -> str | None:
        try:
            decode_photo(source, px=8, max_pixels=max_pixels)  # JPEGs are scaled while decoding: small is fastest
        except DataError as error:
            return str(error)
        return None

    at, given = _given(sources)
    with Progress("checking photos", total=len(given), unit="photo") as bar:
        reasons = zip(at, _in_order(fault, given, workers=workers, bar=bar), strict=True)
        return {place: reason for place, reason in reasons if reason is not None}


class PhotoReport(NamedTuple):
    """What `decode_photos` did."""

    num_photos: int
    """Distinct photos stored; items that share a photo share its place."""
    num_with_photo: int
    """Items that have one."""
    num_others: int
    """Further photos of items, beside the first of each."""
    faults: dict[int, str]
    """Place of a photo (its item's row; for those in `others` counted on) → why it cannot be used."""


def decode_photos(
    sources: Sequence[Source | None],
    *,
    px: int,
    display_px: int,
    out: Path,
    others: Sequence[tuple[int, Source]] | None = None,
    keep_bytes: int = 0,
    max_pixels: int = MAX_PIXELS,
    resume: Path | None = None,
    workers: int | None = None,
) -> PhotoReport:
    """Decode the photos of a catalogue into a folder that `PhotoStore` opens.

    Photos are stored in the order of the first item that shows them, whatever the number of threads, first photos of
    items before further ones; a few are in memory at a time.

    Args:
        sources: the photo of each item row, the one that stands for it; None where there is none.
        px: side of the square that models see.
        display_px: longest side of the JPEG that the page shows.
        out: folder to write into; created, and overwritten.
        others: further photos with their item rows, in each item's order; None where none are kept. Where an item's
            own photo cannot be used, its first usable one stands for it.
        keep_bytes: JPEG files of at most so many bytes are shown as they are (see `images.display_jpeg`).
        max_pixels: larger photos are refused before they are decoded.
        resume: folder for what is needed to go on after a kill; it may hold that of an earlier attempt at the same
            photos, and can go when this returns. None decodes all anew.
        workers: threads; None takes one per core (Pillow decodes outside the interpreter's lock).
    """
    out.mkdir(parents=True, exist_ok=True)

    def decode(source: Source) -> Decoded | str:
        try:
            return decode_both(source, px=px, display_px=display_px, keep_bytes=keep_bytes, max_pixels=max_pixels)
        except DataError as error:
            return str(error)

    at, given = _given([*sources, *(source for _, source in others or ())])
    settings = {"px": px, "display_px": display_px, "keep_bytes": keep_bytes, "max_pixels": max_pixels}
    with _Written(out, px=px, resume=resume, work=_described(given, settings)) as written:
        done = len(written.places)
        with Progress("decoding photos", total=len(given), unit="photo", start=done) as bar:
            for photo in _in_order(decode, given[done:], workers=workers, bar=bar):
                written.add(photo)
        written.finish()
    places = np.full(len(sources) + len(others or ()), -1, dtype=np.int32)
    places[at] = written.places
    own = places[: len(sources)].copy()
    num_others = 0
    if others is not None:
        further, offsets = _others(own, item_rows=[row for row, _ in others], places=places[len(sources) :])
        np.save(out / "other_rows.npy", further)
        np.save(out / "other_offsets.npy", offsets)
        num_others = len(further)
    np.save(out / "photo_rows.npy", own)
    faults = {at[nth]: reason for nth, reason in written.faults.items()}
    return PhotoReport(len(written.known), int((own >= 0).sum()), num_others, faults)


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

    @cached_property
    def other_counts(self) -> NDArray[np.int64]:
        """``[items]``, how many further photos each item has."""
        return np.diff(self._other_offsets)

    def others(self, item_row: int) -> NDArray[np.int32]:
        """Return the places of an item's further photos among the distinct ones, in its order; the first is not here.

        Returns:
            ``[further photos]``, without repeats; empty for an item with one photo or none.
        """
        start, end = self._other_offsets[item_row : item_row + 2]
        return self._other_rows[start:end]

    def pixels(self, item_rows: ArrayLike) -> NDArray[np.uint8]:
        """Return the photos of some items.

        Args:
            item_rows: ``[n]``, repeats allowed.

        Returns:
            RGB, uint8 ``[n, px, px, 3]``, a copy; zeros for an item without photo.
        """
        return self.of_items(self._pixels, item_rows)

    def of_items(self, values: NDArray[Any], item_rows: ArrayLike) -> NDArray[Any]:
        """Gather what was made of the distinct photos, as `pixels` gathers the photos themselves.

        Args:
            values: ``[photos, …]``.
            item_rows: ``[n]``, repeats allowed.

        Returns:
            ``[n, …]``, a copy; zeros for an item without photo.
        """
        photo_rows = self._photo_rows[np.asarray(item_rows, dtype=np.int64)]
        out = np.zeros((len(photo_rows), *values.shape[1:]), dtype=values.dtype)
        present = photo_rows >= 0
        out[present] = values[photo_rows[present]]
        return out

    def other_pixels(self, item_rows: ArrayLike, *, most: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return further photos of some items.

        Args:
            item_rows: ``[n]``, repeats allowed.
            most: how many of each item, from its first on.

        Returns:
            RGB, uint8 ``[n, photos, px, px, 3]``, zeros where an item has fewer, and bool ``[n, photos]``, which are
            there; as many as the item of most has.
        """
        return self.of_others(self._pixels, item_rows, most=most)

    def of_others(
        self, values: NDArray[Any], item_rows: ArrayLike, *, most: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Gather what was made of the distinct photos ``[photos, …]``, as `other_pixels` gathers the photos."""
        rows = np.asarray(item_rows, dtype=np.int64)
        counts = np.minimum(self.other_counts[rows], most)
        present = np.arange(counts.max(initial=0)) < counts[:, None]
        starts = self._other_offsets[rows][:, None] + np.arange(present.shape[1])
        out = np.zeros((*present.shape, *values.shape[1:]), dtype=values.dtype)
        out[present] = values[self._other_rows[starts[present]]]
        return out, present

    def distinct(self, photo_rows: slice | NDArray[np.integer]) -> NDArray[np.uint8]:
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

    @cached_property
    def _other_rows(self) -> NDArray[np.int32]:
        path = self._folder / "other_rows.npy"
        return _mapped(path) if path.is_file() else np.empty(0, dtype=np.int32)

    @cached_property
    def _other_offsets(self) -> NDArray[np.int64]:
        path = self._folder / "other_offsets.npy"
        return _mapped(path) if path.is_file() else np.zeros(len(self._photo_rows) + 1, dtype=np.int64)


class _Written:
    """The growing files of a store, and a journal from which a killed process goes on.

    The journal has a line for what is being decoded, then one for each photo in order: a text for a fault, ``[place]``
    for a photo stored before, ``[place, checksum, end in display.bin]`` for one stored then. A line is written after
    what it speaks of: whatever the files hold beyond the last whole line is cut off, and the bytes are those of an
    unbroken attempt. Where the files hold less than a line says (the power failed), it and all that follow are decoded
    again.
    """

    def __init__(self, out: Path, *, px: int, resume: Path | None, work: dict[str, Any]) -> None:
        self.places: list[int] = []
        self.known: dict[bytes, int] = {}
        self.faults: dict[int, str] = {}
        self._out = out
        self._px = px
        self._ends = [0]
        self._unsaved: list[str] = []
        self._saved_at = time.monotonic()
        for name in ("pixels.npy", "display.bin"):
            (out / name).touch()
        self._pixels = (out / "pixels.npy").open("r+b", buffering=2**20)
        self._display = (out / "display.bin").open("r+b", buffering=2**20)
        self._journal: BinaryIO | None = None
        self._header_bytes = _write_header(self._pixels, shape=(0, px, px, 3))
        head = json.dumps(work, sort_keys=True).encode() + b"\n"
        if resume is not None:
            resume.mkdir(parents=True, exist_ok=True)
            self._replay(resume / _JOURNAL, head=head)
        self._cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:  # stopped by hand: lose nothing
                self._save()
        finally:
            for file in (self._pixels, self._display, self._journal):
                if file is not None:
                    file.close()

    def add(self, photo: Decoded | str) -> None:
        """Take what came of the next photo."""
        line: object = photo
        if isinstance(photo, Decoded):
            place = self.known.setdefault(photo.checksum, len(self.known))
            line = [place]
            if place == len(self._ends) - 1:
                self._pixels.write(photo.pixels.data)
                self._display.write(photo.display)
                self._ends.append(self._ends[-1] + len(photo.display))
                line = [place, photo.checksum.hex(), self._ends[-1]]
            self.places.append(place)
        else:
            self.faults[len(self.places)] = photo
            self.places.append(-1)
        if self._journal is not None:
            self._unsaved.append(json.dumps(line))
            if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
                self._save()

    def finish(self) -> None:
        """Write what is known only at the end."""
        self._save()
        self._pixels.seek(0)
        _write_header(self._pixels, shape=(len(self.known), self._px, self._px, 3))
        np.save(self._out / "display_offsets.npy", np.asarray(self._ends, dtype=np.int64))
        np.save(self._out / "checksums.npy", np.frombuffer(b"".join(self.known), dtype=np.uint8).reshape(-1, 32))

    def _save(self) -> None:
        if self._journal is None:
            return
        self._pixels.flush()
        self._display.flush()
        self._journal.write("".join(f"{line}\n" for line in self._unsaved).encode())
        self._journal.flush()
        self._unsaved.clear()
        self._saved_at = time.monotonic()

    def _replay(self, path: Path, *, head: bytes) -> None:
        """Take up what an earlier attempt at the same work has written."""
        path.touch()
        self._journal = path.open("r+b")
        if self._journal.readline() == head:
            whole = self._journal.tell()
            for line in self._journal:
                if not line.endswith(b"\n") or not self._take(json.loads(line)):  # torn, or ahead of the files
                    break
                whole += len(line)
            self._journal.seek(whole)
        else:
            self._journal.seek(0)
            self._journal.write(head)
        self._journal.truncate()

    def _take(self, line: Any) -> bool:
        """Replay one line; False where the files do not hold its photo."""
        if isinstance(line, list) and len(line) == 3:
            _, checksum, end = line
            if end > self._size(self._display) or self._pixels_end(len(self.known) + 1) > self._size(self._pixels):
                return False
            self.known[bytes.fromhex(checksum)] = len(self.known)
            self._ends.append(end)
        if isinstance(line, str):
            self.faults[len(self.places)] = line
        self.places.append(line[0] if isinstance(line, list) else -1)
        return True

    def _cut(self) -> None:
        """Leave of the files what is known of, and go to their ends."""
        for file, size in ((self._pixels, self._pixels_end(len(self.known))), (self._display, self._ends[-1])):
            file.truncate(size)
            file.seek(size)

    def _pixels_end(self, num_photos: int) -> int:
        return self._header_bytes + num_photos * self._px * self._px * 3

    @staticmethod
    def _size(file: BinaryIO) -> int:
        return os.fstat(file.fileno()).st_size


def _described(sources: Sequence[Source], settings: dict[str, int]) -> dict[str, Any]:
    """Describe a work, so that the journal of another is not taken for its own.

    Photos are told apart by path, or length of bytes; that their contents are the same is the caller's to know.
    """
    digest = hashlib.sha256()
    for source in sources:
        name = str(len(source)) if isinstance(source, bytes) else str(source)
        digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    return {**settings, "sources": digest.hexdigest(), "pillow": PIL.__version__}


def _others(
    own: NDArray[np.int32], *, item_rows: Sequence[int], places: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Sort further photos by item, without repeats; an item without a photo is given its first one, in `own`."""
    found: list[list[int]] = [[] for _ in own]
    for item_row, place in zip(item_rows, places.tolist(), strict=True):
        if place < 0 or place in found[item_row]:
            continue
        if own[item_row] < 0:
            own[item_row] = place
        elif own[item_row] != place:
            found[item_row].append(place)
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in found], dtype=np.int64)])
    return np.fromiter(chain.from_iterable(found), dtype=np.int32), offsets.astype(np.int64)


def _given(sources: Sequence[Source | None]) -> tuple[list[int], list[Source]]:
    """Return the photos that there are, and where among the sources each stands: many items may have none."""
    given = [(place, source) for place, source in enumerate(sources) if source is not None]
    return [place for place, _ in given], [source for _, source in given]


def _in_order(
    work: Callable[[Source], R], sources: Sequence[Source], *, workers: int | None, bar: Progress
) -> Iterator[R]:
    """Map over threads, results in order of the sources, never far ahead of the reader."""
    workers = workers or num_cores()

    def some(start: int) -> list[R]:
        return [work(source) for source in sources[start : start + _AT_ONCE]]

    waiting: deque[Future[list[R]]] = deque()

    def first() -> list[R]:
        results = waiting.popleft().result()
        bar.advance(len(results))
        return results

    with ThreadPoolExecutor(workers, thread_name_prefix="photos") as pool:
        try:
            for start in range(0, len(sources), _AT_ONCE):
                waiting.append(pool.submit(some, start))
                if len(waiting) >= 2 * workers:
                    yield from first()
            while waiting:
                yield from first()
        finally:
            for future in waiting:  # the reader stopped early: do not decode what nobody will take
                future.cancel()


def _write_header(file: BinaryIO, *, shape: tuple[int, ...]) -> int:
    """Write an npy header and return its length; numpy pads it so that a longer first axis needs no more room."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _mapped(path: Path) -> NDArray[Any]:
    """Open an npy file read-only without reading it."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
