"""From a journal's changes to items: which of them hold for a catalogue, and the items they put.

On the catalogue that a journal was begun on, all of its changes hold. On a newer one (the run was made anew, while
changes came in) a change counts if it is younger than the catalogue, that is, made after its tables began to be read.
Of an older one:

- an item that was put and is in the new catalogue is that of the catalogue: the tables have caught up;
- an item that was put and is not there stays: the tables have yet to learn of it;
- an item that was removed stays removed, though the tables still have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.schema import Role
from triptych.encoders.embed import SMALL_REQUEST, Embedder
from triptych.engine.journal import Entry, Journal
from triptych.engine.new_items import NewItem, PhotoSizes, check_rows, encode_items
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, EngineError
from triptych.foundation.progress import Progress

BAR_FROM = 500
"""Items from which on a replay shows its progress: some seconds."""


class Holding(NamedTuple):
    """The changes of a journal, sorted by whether they hold for a catalogue."""

    entries: list[Entry]
    """Those that do, in order."""
    overtaken: list[str]
    """Items that were put, and that the catalogue knows better."""


def holding(
    journal: Journal, *, catalogue: Artifact, is_in_catalogue: Callable[[str], bool], since: int = 0
) -> Holding:
    """Sort the last changes of all items.

    Args:
        journal: whose changes.
        catalogue: the one they are to be made to, newer than that of the journal or the same.
        is_in_catalogue: says whether it has an item of an id.
        since: only changes from that byte of the journal on.
    """
    entries = journal.latest(since)
    if journal.catalogue_id == catalogue.id:
        return Holding(entries, [])
    read_from = began(catalogue)

    def is_overtaken(entry: Entry) -> bool:
        return entry.place is not None and entry.time < read_from and is_in_catalogue(entry.item_id)

    overtaken = [entry.item_id for entry in entries if is_overtaken(entry)]
    return Holding([entry for entry in entries if not is_overtaken(entry)], overtaken)


def began(catalogue: Artifact) -> datetime:
    """Return when a catalogue's tables began to be read, or up to a second before."""
    finished = datetime.fromisoformat(catalogue.manifest["created"])
    return finished - timedelta(seconds=catalogue.manifest["seconds"])


def read_items(
    journal: Journal,
    entries: Sequence[Entry],
    *,
    features: Mapping[str, Role],
    photos: PhotoSizes,
    embedder: Embedder,
) -> tuple[list[NewItem], NDArray[np.float32]]:
    """Read the items that entries put, and encode them, some at a time, with a progress bar where there are many.

    Args:
        journal: where they are.
        entries: which, in order; those that removed an item are passed over.
        features: as of `check_rows`.
        photos: likewise.
        embedder: the encoder.

    Returns:
        The items, and their vectors ``[n, dim]``.

    Raises:
        ArtifactError: one of them does not fit into this catalogue.
    """
    puts = [entry for entry in entries if entry.place is not None]
    items: list[NewItem] = []
    vectors = [np.empty((0, embedder.vector_dim), np.float32)]

    def blocks() -> Iterator[list[NewItem]]:
        block: list[NewItem] = []
        for entry, row in journal.rows(puts):
            try:
                checked = check_rows(
                    [row], features=features, is_known=lambda _: False, room=1, photos=photos, now=entry.time
                )
            except EngineError as error:
                raise ArtifactError(
                    f"A change in the journal in {str(journal.folder)!r} does not fit this catalogue: {error} "
                    f"To give it up, remove item '{entry.item_id}' where the journal is in use, or name another folder."
                ) from None
            block += (item.lightened() for item in checked)
            if len(block) == SMALL_REQUEST:
                yield block
                block = []
        if block:
            yield block

    def read() -> Iterator[int]:
        for block in blocks():
            items.extend(block)
            vectors.append(encode_items(block, embedder=embedder))
            yield len(block)

    if len(puts) < BAR_FROM:
        for _ in read():
            pass
    else:
        with Progress("journal", total=len(puts), unit="item") as bar:
            for count in read():
                bar.advance(count)
    return items, np.concatenate(vectors)
