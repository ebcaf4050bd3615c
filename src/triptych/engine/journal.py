"""The journal: changes of a served shop, each on disk before anybody can see it, so that a kill forgets none.

    DIR/
    ├── changes.journal    `MAGIC`, then records, one per change; the first says what the journal is of
    └── lock               held by the process that writes

A record is a frame (length of the body, crc32 of that length, crc32 of the body) and a body (length of the JSON, JSON,
then the files of photos end to end). The first one's JSON is ``{"catalogue": id, "created": time}``. A change's is
``{"time": …, "put": [row, …]}``, a row's ``photo`` being the size of its file, or ``{"time": …, "remove": [id, …]}``.

The file only grows. Whoever is killed while writing leaves the beginning of a record: it was never acknowledged, and
the next opening cuts it off. Anything else that does not add up is damage, and an error: the length has a checksum of
its own, so that a damaged one is never taken for a record without end.

What counts of an item is its last change, so replaying is putting or removing each id once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

from triptych.foundation.durable import sync
from triptych.foundation.errors import ArtifactError, EngineError

log = logging.getLogger(__name__)

CHANGES, LOCK, TEMPORARY = "changes.journal", "lock", ".tmp"
MAGIC = b"triptych journal 1\n"
"""The number is the version of the format."""

_FRAME = struct.Struct("<QII")
_JSON_LENGTH = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")


class JournalError(EngineError):
    """A change that could not be written down, and was therefore not made."""


class Entry(NamedTuple):
    """The last change of one item."""

    item_id: str
    time: datetime
    offset: int
    """Of the record, in bytes."""
    place: int | None
    """Its row's place in the record; None: the item was removed."""


class _Record(NamedTuple):
    offset: int
    end: int
    about: dict[str, Any]
    body: bytes
    """With the photos from `photos_start` on."""
    photos_start: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what was put, photos as bytes."""
        start = self.photos_start
        for row in self.about.get("put", ()):
            size = row.get("photo")
            if size is None:
                yield row
            else:
                yield {**row, "photo": self.body[start : start + size]}
                start += size


class Journal:
    """An open journal, held by this process alone. Safe to share between threads."""

    def __init__(self, folder: Path, *, lock: int, descriptor: int) -> None:
        """Wrap what is open; use `open`."""
        self._folder, self._lock, self._descriptor = folder, lock, descriptor
        self._changing = threading.Lock()
        self._is_broken = False
        self._read_all()

    @classmethod
    def open(cls, folder: str | Path, *, catalogue_id: str) -> Self:
        """Open a journal, or begin one, and check every record of it.

        Args:
            folder: where it is; made if it is absent.
            catalogue_id: of the catalogue that a new one is begun on. An old one keeps its own, see `catalogue_id`.

        Raises:
            ArtifactError: another process holds it, it is damaged, of a newer version, or the folder cannot be used.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ArtifactError(f"No journal can be kept in {str(folder)!r}: {error.strerror}.") from None
        descriptor = None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(
                    f"Another process is writing the journal in {str(folder)!r}. Stop it, or name another folder."
                ) from None
            try:
                if not (folder / CHANGES).exists():
                    os.close(_written(folder, [_first_record(catalogue_id)]))
                    os.replace(folder / (CHANGES + TEMPORARY), folder / CHANGES)
                    sync(folder)
                descriptor = os.open(folder / CHANGES, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise ArtifactError(f"The journal in {str(folder)!r} cannot be opened: {error.strerror}.") from None
            return cls(folder, lock=lock, descriptor=descriptor)
        except BaseException:
            for one in (lock, descriptor):
                if one is not None:
                    os.close(one)
            raise

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    @property
    def catalogue_id(self) -> str:
        """Id of the catalogue that the changes were made to."""
        return self._catalogue_id

    @property
    def end(self) -> int:
        """Its size in bytes: where the next record will begin."""
        return self._end

    @property
    def num_changes(self) -> int:
        """Number of items put or removed, those changed again since included."""
        return self._num_changes

    def latest(self, since: int = 0) -> list[Entry]:
        """Return the last change of every item that was changed, in the order of those changes.

        Args:
            since: only changes whose record begins there or later; an earlier `end`.
        """
        with self._changing:
            entries = [entry for entry in self._latest.values() if entry.offset >= since]
        return sorted(entries, key=lambda entry: (entry.offset, -1 if entry.place is None else entry.place))

    def rows(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, dict[str, Any]]]:
        """Yield the row that each entry put, its photo as bytes; each record is read once.

        Args:
            entries: in the order of `latest`; those that removed an item are passed over.
        """
        puts = (entry for entry in entries if entry.place is not None)
        for offset, group in groupby(puts, key=lambda entry: entry.offset):
            rows = list(self._read(offset).rows())
            for entry in group:
                assert entry.place is not None
                yield entry, rows[entry.place]

    def append(
        self, *, put: Sequence[Mapping[str, Any]] = (), remove: Sequence[str] = (), time: datetime | None = None
    ) -> None:
        """Write one change, all of it or nothing; when this returns it is on disk.

        Args:
            put: rows that are added or take the place of those of the same ids; photos are bytes.
            remove: ids of items that are removed.
            time: when; None: now.

        Raises:
            JournalError: it could not be written. Nothing of it is left behind.
        """
        time = time or datetime.now(UTC)
        written = _change_record(put=put, remove=remove, time=time)
        with self._changing:
            if self._is_broken:
                raise JournalError(
                    f"The journal in {str(self._folder)!r} could not be written before, so no more changes are taken. "
                    "Make room for it and open the engine again; what was acknowledged is in it."
                )
            try:
                _write(self._descriptor, written, at=self._end)
                os.fsync(self._descriptor)
            except OSError as error:
                self._take_back()
                raise JournalError(
                    f"The change could not be written into the journal in {str(self._folder)!r} ({error.strerror}), "
                    "so it was not made."
                ) from None
            self._note([row["item_id"] for row in put], remove, time=time, end=self._end + len(written))

    def rewrite(self, *, catalogue_id: str, keep: Sequence[Entry]) -> None:
        """Replace the journal by one of another catalogue, or by a shorter one of the same, at one stroke.

        Args:
            catalogue_id: that the changes are made to from now on.
            keep: changes that stay, in the order of `latest`, with their times.

        Raises:
            JournalError: it could not be written; the journal is as it was.
        """
        with self._changing:
            try:
                descriptor = _written(self._folder, self._filtered(catalogue_id, keep))
                os.replace(self._folder / (CHANGES + TEMPORARY), self._folder / CHANGES)
            except OSError as error:
                raise JournalError(
                    f"The journal in {str(self._folder)!r} could not be written anew: {error.strerror}."
                ) from None
            os.close(self._descriptor)
            self._descriptor = descriptor
            self._read_all()
            sync(self._folder)

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._descriptor)
        os.close(self._lock)

    def _read_all(self) -> None:
        """Check every record, note what each item's last change is, and cut off what was never finished."""
        size = os.fstat(self._descriptor).st_size
        magic = os.pread(self._descriptor, len(MAGIC), 0)
        if magic != MAGIC:
            if magic.startswith(b"triptych journal "):
                raise ArtifactError(f"The journal {self._name} is of a newer version of triptych. Upgrade triptych.")
            raise ArtifactError(f"{self._name} is no journal of triptych. Name another folder.")
        self._latest: dict[str, Entry] = {}
        self._num_changes, self._end = 0, len(MAGIC)
        if not self._is_whole(size):
            raise ArtifactError(f"The journal {self._name} ends within its first record. Delete it to begin anew.")
        first = self._read(self._end, size=size)
        self._catalogue_id, self._end = str(first.about["catalogue"]), first.end
        while self._is_whole(size):
            record = self._read(self._end, size=size)
            put, remove = record.about.get("put", ()), record.about.get("remove", ())
            time = datetime.fromisoformat(record.about["time"])
            self._note([row["item_id"] for row in put], remove, time=time, end=record.end)
        if self._end < size:
            log.warning(
                "%s: the last change was never finished, nor said to be made; its %d bytes are cut off",
                self._name,
                size - self._end,
            )
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)

    def _is_whole(self, size: int) -> bool:
        """Say whether a record begins at the end of what was read, and all of it is there."""
        if self._end + _FRAME.size > size:
            return False
        length, checksum, _ = _FRAME.unpack(_read_at(self._descriptor, _FRAME.size, self._end))
        if zlib.crc32(_LENGTH.pack(length)) != checksum:
            raise self._damage(self._end)
        return bool(self._end + _FRAME.size + length <= size)

    def _read(self, offset: int, *, size: int | None = None) -> _Record:
        """Read the record that begins somewhere.

        Raises:
            ArtifactError: it is not as it was written.
        """
        size = self._end if size is None else size
        length, length_checksum, checksum = _FRAME.unpack(_read_at(self._descriptor, _FRAME.size, offset))
        end = offset + _FRAME.size + length
        if zlib.crc32(_LENGTH.pack(length)) != length_checksum or end > size:
            raise self._damage(offset)
        body = _read_at(self._descriptor, length, offset + _FRAME.size)
        if zlib.crc32(body) != checksum:
            raise self._damage(offset)
        (json_length,) = _JSON_LENGTH.unpack_from(body)
        photos_start = _JSON_LENGTH.size + json_length
        about = json.loads(body[_JSON_LENGTH.size : photos_start])
        return _Record(offset, end, about, body, photos_start)

    def _note(self, put: Sequence[str], remove: Sequence[str], *, time: datetime, end: int) -> None:
        """Count in the record that begins where the last one ended."""
        changed: list[tuple[str, int | None]] = [(item_id, place) for place, item_id in enumerate(put)]
        changed += [(item_id, None) for item_id in remove]
        for item_id, place in changed:
            self._latest[item_id] = Entry(item_id, time, self._end, place)
        self._num_changes += len(changed)
        self._end = end

    def _filtered(self, catalogue_id: str, keep: Sequence[Entry]) -> Iterator[bytes]:
        """Yield the records of a journal that holds only some of the changes."""
        yield _first_record(catalogue_id)
        for offset, group in groupby(keep, key=lambda entry: entry.offset):
            entries, record = list(group), self._read(offset)
            rows = list(record.rows())
            yield _change_record(
                put=[rows[entry.place] for entry in entries if entry.place is not None],
                remove=[entry.item_id for entry in entries if entry.place is None],
                time=entries[0].time,
            )

    def _take_back(self) -> None:
        """Cut off what a failed write left; where even that fails, take no more changes."""
        try:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        except OSError:
            self._is_broken = True

    @property
    def _name(self) -> str:
        return repr(str(self._folder / CHANGES))

    def _damage(self, offset: int) -> ArtifactError:
        return ArtifactError(
            f"The journal {self._name} is damaged at byte {offset:,}: what is there is not what was written. Put back "
            f"a copy of it, or give up that change and all later ones: truncate -s {offset} {self._name}"
        )


def _first_record(catalogue_id: str) -> bytes:
    return _framed({"catalogue": catalogue_id, "created": datetime.now(UTC).isoformat(timespec="seconds")}, [])


def _change_record(*, put: Sequence[Mapping[str, Any]], remove: Sequence[str], time: datetime) -> bytes:
    photos = [row["photo"] for row in put if row.get("photo") is not None]
    about: dict[str, Any] = {"time": time.isoformat()}
    if put:
        about["put"] = [row if row.get("photo") is None else {**row, "photo": len(row["photo"])} for row in put]
    if remove:
        about["remove"] = list(remove)
    return _framed(about, photos)


def _framed(about: Mapping[str, Any], photos: Sequence[bytes]) -> bytes:
    text = json.dumps(about, allow_nan=False).encode()
    body = b"".join([_JSON_LENGTH.pack(len(text)), text, *photos])
    return _FRAME.pack(len(body), zlib.crc32(_LENGTH.pack(len(body))), zlib.crc32(body)) + body


def _written(folder: Path, records: Sequence[bytes] | Iterator[bytes]) -> int:
    """Write a journal beside the one that is there, and leave it open."""
    temporary = folder / (CHANGES + TEMPORARY)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        end = 0
        for piece in chain([MAGIC], records):
            _write(descriptor, piece, at=end)
            end += len(piece)
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    return descriptor


def _write(descriptor: int, data: bytes, *, at: int) -> None:
    written, left = 0, memoryview(data)
    while written < len(data):
        written += os.pwrite(descriptor, left[written:], at + written)


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Read so many bytes; fewer where the file ends before."""
    pieces: list[bytes] = []
    while size > 0 and (piece := os.pread(descriptor, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)
