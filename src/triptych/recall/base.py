"""What is asked, who answers, and the one rule of order: score descending, equal scores by item row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.config import Config
from triptych.foundation.types import Hits

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Request:
    """One request for candidates; what it holds decides what is asked.

    ``query``, ``photo`` or both: search. ``item_row``: similar items. ``history``: recommendation. A retriever raises
    EngineError for a request it cannot read, for instance BM25 for a photo.
    """

    query: str | None = None
    """Search text."""
    photo: NDArray[np.uint8] | None = None
    """``[px, px, 3]``, decoded to the encoder's size (`data.images.decode_photo`)."""
    user: str | None = None
    """Who asks: without a ``history``, personal retrievers read his from the log that they were opened with."""
    history: NDArray[Any] | None = None
    """``[events]``, item rows the user chose before, oldest first."""
    before: int | None = None
    """Of ``user``'s history in the log, only events whose place is smaller are read; None for all. Evaluation gives the
    place of what is to be found. Without a user it says nothing."""
    item_row: int | None = None
    """The item whose neighbours are wanted."""
    keep: BoolArray | None = None
    """``[items]``, which items may be returned; None for all. Requests that share one array share its cost."""


class RetrieverConfig(Config):
    """Base of every retriever config."""

    kind: str
    """Which retriever: a file of `triptych.recall.models`."""


class Retriever(Protocol):
    """Ranks the whole catalogue for requests."""

    @property
    def name(self) -> str:
        """Short name in tables and logs."""
        ...

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k best items of each request.

        Args:
            requests: ``[n]``; an empty list gives an empty answer.
            k: places per request, at least 1. May exceed the number of items: the rest is padding.

        Returns:
            ``[n, k]`` item rows and scores, padded with -1 and -inf.

        Raises:
            EngineError: a request lacks what this retriever reads.
        """
        ...


class VectorIndex(Protocol):
    """What dense retrieval needs of an index; every backend of `triptych.index` has it."""

    @property
    def num_rows(self) -> int:
        """Item rows, those of removed items included."""
        ...

    def search(self, vectors: FloatArray, *, k: int, keep: BoolArray | None = None) -> Hits:
        """Return the k items of largest inner product for each vector ``[n, dim]``; ``keep`` as in `Request`."""
        ...

    def vectors(self, item_rows: NDArray[Any]) -> FloatArray:
        """Return the stored vectors of some items as float32 ``[n, dim]``."""
        ...


def rank(scores: FloatArray, *, k: int) -> Hits:
    """Take the k best places of each row of a score matrix.

    Args:
        scores: ``[requests, items]``; -inf marks what must not be returned. NaN is a defect of the caller.
        k: places per request.

    Returns:
        ``[requests, k]``, exact at ties: of equal scores the smaller item row comes first, and is taken first.
    """
    num_requests = len(scores)
    hits = Hits.empty(num_requests, k)
    for row in range(num_requests):
        own = scores[row]
        candidates = np.flatnonzero(own > -np.inf)
        if len(candidates) > k:
            # argpartition would take any of the equal scores at the border; all that reach the k-th are sorted instead
            reached = own[candidates]
            candidates = candidates[reached >= np.partition(reached, len(reached) - k)[len(reached) - k]]
        best = candidates[np.argsort(-own[candidates], kind="stable")][:k]
        hits.item_rows[row, : len(best)] = best
        hits.scores[row, : len(best)] = own[best]
    return hits


def group_by_keep(requests: Sequence[Request]) -> Iterator[tuple[IntArray, BoolArray | None]]:
    """Yield the places of the requests that share a ``keep`` array, with that array."""
    places: dict[int, list[int]] = {}
    for place, request in enumerate(requests):
        places.setdefault(id(request.keep), []).append(place)
    for group in places.values():
        yield np.asarray(group, dtype=np.int64), requests[group[0]].keep
