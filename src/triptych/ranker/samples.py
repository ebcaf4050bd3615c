"""Ranking samples: what somebody was shown at a moment, and whether he chose it.

A request is one list of results that was shown: a page, where the log names pages; else one user's events under one
query, up to half an hour apart. Without page and query (ratings, feeds) each item is a request by itself, what happens
to it within half an hour belonging together. An item that a request showed is one sample, chosen or not.

Nothing later leaks in. A request's history ends before the *instant* at which it begins, so that neither its own clicks
nor what the log has of the same second is in it. A request belongs to the part of a split in which it begins, and its
labels read that part's events alone: a click after the cut is not known before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.data.pages import SESSION_US
from triptych.data.splits import Places


class Requests(NamedTuple):
    """Who asked, when, and what he had chosen before."""

    user_row: NDArray[np.int32]
    """``[requests]``, -1 where the user is unknown."""
    query_row: NDArray[np.int32]
    """``[requests]``, -1 where there was none."""
    cell: NDArray[np.int32]
    """``[requests]``, as `Catalogue.event_array` has it, -1 where it is unknown."""
    time_us: NDArray[np.int64]
    """``[requests]``, of the first event, ascending."""
    history_start: NDArray[np.int64]
    """``[requests]``, where the user's choices begin among ``Histories.positions``."""
    history_stop: NDArray[np.int64]
    """``[requests]``, where those before the request end."""

    def at(self, places: NDArray[np.int64]) -> Requests:
        """Take some of them."""
        found: list[NDArray[Any]] = [part[places] for part in self]
        return Requests(*found)


class Samples(NamedTuple):
    """Items that requests showed."""

    requests: Requests
    request: NDArray[np.int64]
    """``[samples]``, the place of each one's request, ascending."""
    item_row: NDArray[np.int32]
    """``[samples]``, distinct within a request, in the order in which the log shows them."""
    label: NDArray[np.bool_]
    """``[samples]``, whether it was chosen (click, cart, order)."""
    position: NDArray[np.int32]
    """``[samples]``, on the page, from 0; -1 where it is unknown."""

    @property
    def user_row(self) -> NDArray[np.int32]:
        """Whose each sample is, ``[samples]``, -1 where he is unknown."""
        return self.requests.user_row[self.request]

    def of_requests(self, places: NDArray[np.int64]) -> Samples:
        """Keep the samples of some requests, distinct and ascending."""
        kept = np.flatnonzero(np.isin(self.request, places))
        return Samples(
            self.requests.at(places),
            np.searchsorted(places, self.request[kept]),
            self.item_row[kept],
            self.label[kept],
            self.position[kept],
        )


def read_samples(catalogue: Catalogue, *, places: Places) -> Samples:
    """Gather the samples of a part of the log.

    Args:
        catalogue: whose events.
        places: of the part, such as `Split.train`.
    """
    names = ("user_row", "query_row", "item_row", "time", "page", "position", "cell")
    user, query, item, time_us, page, position, cell = (catalogue.event_array(name) for name in names)
    request = _requests(user=user, query=query, item=item, page=page, time_us=time_us)
    _, first = np.unique(request, return_index=True)  # events are by time, so the first one is the earliest
    inside = np.zeros(len(user), dtype=bool)
    inside[places] = True
    inside &= inside[first][request]
    at = np.flatnonzero(inside)
    sample, of_sample = np.unique(request[at].astype(np.int64) * catalogue.num_items + item[at], return_inverse=True)
    shown = np.full(len(sample), len(user))
    np.minimum.at(shown, of_sample, at)
    label = np.zeros(len(sample), dtype=bool)
    label[of_sample[is_positive(catalogue.event_array("kind")[at])]] = True
    begins = first[request[shown]]
    order = np.lexsort((shown, begins))
    shown, begins, label = shown[order], begins[order], label[order]
    starts, of_request = np.unique(begins, return_inverse=True)
    requests = Requests(
        user[starts].astype(np.int32),
        query[starts].astype(np.int32),
        cell[starts].astype(np.int32),
        np.asarray(time_us[starts]),
        *_history_ends(catalogue, user_row=user[starts], time_us=time_us, place=starts),
    )
    return Samples(
        requests, of_request, item[shown].astype(np.int32), label, np.asarray(position[shown], dtype=np.int32)
    )


def _requests(
    *,
    user: NDArray[Any],
    query: NDArray[Any],
    item: NDArray[Any],
    page: NDArray[Any],
    time_us: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Number the request of every event of a log ``[events]``."""
    found = page.astype(np.int64)
    alone = page < 0
    nobody = np.where(user < 0, -2 - np.arange(len(user)), user)  # who is not known belongs to nobody else
    for at, keys in (
        (np.flatnonzero(alone & (query >= 0)), (nobody, query)),
        (np.flatnonzero(alone & (query < 0)), (nobody, item)),
    ):
        found[at] = _sessions([key[at] for key in keys], time_us=time_us[at]) + found.max(initial=-1) + 1
    return np.unique(found, return_inverse=True)[1]


def _sessions(keys: Sequence[NDArray[Any]], *, time_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number runs of equal keys whose neighbours are at most half an hour apart; events come by time."""
    order = np.lexsort((np.arange(len(time_us)), *keys))
    is_new = np.diff(time_us[order], prepend=0) > SESSION_US
    for key in keys:
        ordered = key[order]
        is_new[1:] |= ordered[1:] != ordered[:-1]
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.cumsum(is_new)
    return numbers


def _history_ends(
    catalogue: Catalogue, *, user_row: NDArray[Any], time_us: NDArray[np.int64], place: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where users' choices begin, and where the instants of some events cut them off."""
    offsets, positions = catalogue.histories
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    by_user = users << 32 | positions  # ascending: choices stand by user, then by place
    instant = np.searchsorted(time_us, time_us[place], side="left")
    known = user_row >= 0
    whose = np.where(known, user_row, 0).astype(np.int64)
    start = np.where(known, np.asarray(offsets)[whose] if len(offsets) > 1 else 0, 0)
    stop = np.where(known, np.searchsorted(by_user, whose << 32 | instant), 0)
    return start, stop
