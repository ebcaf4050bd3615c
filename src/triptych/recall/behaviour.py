"""Histories: what a user chose and asked before a moment, cut as MGDSPR cuts it.

Real-time are the latest choices; short-term those before them, of ten days; long-term the latest of thirty days, by
kind. Of a moment in the log only what stands before it is read, so nothing later can leak in. Where a history comes as
items alone (`Request.history`), all are clicks of just now.

Source: MGDSPR (arXiv 2106.09297), section 3.2. Changed: its lists hold clicks, ours whatever was chosen; its long-term
lists are counted each, ours together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.events import KIND_CODES
from triptych.data.schema import CLICK_KINDS
from triptych.recall.base import Request
from triptych.recall.learned import Needs

DAY_US = 24 * 3_600 * 1_000_000
SHORT_TERM_US, LONG_TERM_US = 10 * DAY_US, 30 * DAY_US
NUM_KINDS = len(CLICK_KINDS)
"""Lists of the long term: clicks, carts, orders."""


class Moments(NamedTuple):
    """Who asks, and when."""

    user_row: NDArray[np.integer]
    """``[n]``, -1 where the user is unknown, or is not to be known."""
    place: NDArray[np.integer]
    """``[n]``, among the catalogue's events: what stands before it is known."""


def moments_of(requests: Sequence[Request], *, catalogue: Catalogue) -> Moments:
    """Find who asks among the catalogue's users, and when; whoever it does not know has no history."""
    rows = [None if request.user is None else catalogue.user_row(request.user) for request in requests]
    places = [len(catalogue.events) if request.before is None else request.before for request in requests]
    return Moments(np.array([-1 if row is None else row for row in rows], dtype=np.int64), np.array(places, np.int64))


def history_of(request: Request, *, catalogue: Catalogue | None) -> NDArray[Any]:
    """Return what somebody had chosen who asks, item rows, oldest first: his own list, or else what the log has of him.

    Args:
        request: of a recommendation.
        catalogue: whose log; None: nobody is known, and only `Request.history` speaks.
    """
    if request.history is not None:
        return request.history
    if catalogue is None:
        return np.empty(0, np.int64)
    (user_row,), (place,) = moments_of([request], catalogue=catalogue)
    return np.empty(0, np.int64) if user_row < 0 else catalogue.history(int(user_row), before=int(place))


class Choices(NamedTuple):
    """Some users' histories, in rows of the catalogue: oldest first, -1 behind the end."""

    real_time: NDArray[np.int32]
    """``[n, needs.real_time]``, items."""
    short_term: NDArray[np.int32]
    """``[n, needs.short_term]``, items."""
    long_term: NDArray[np.int32]
    """``[n, 3, needs.long_term]``, items: clicks, carts, orders."""
    past_queries: NDArray[np.int32]
    """``[n, needs.past_queries]``, queries, each once, where it was asked last."""


class BehaviourLog:
    """The choices in a catalogue's log, by user and moment."""

    def __init__(self, catalogue: Catalogue, *, needs: Needs) -> None:
        """Map the log."""
        self._needs = needs
        # As plain arrays, mapped still: a piece of a `memmap` takes longer to cut than to read.
        self._offsets, self._positions = (np.asarray(one) for one in catalogue.histories)
        names = ("item_row", "query_row", "kind", "time")
        self._item_row, self._query_row, self._kind, self._time = (catalogue.event_array(name) for name in names)

    def before(self, moments: Moments) -> Choices:
        """Gather what users had chosen before a moment each."""
        if not len(self._positions):
            return choices_of([None] * len(moments.user_row), needs=self._needs)
        starts, stops = self._ends(moments)
        now = self._times(moments.place)
        needs, after_latest = self._needs, stops - self._needs.real_time
        latest = self._window(starts, stops, most=needs.real_time)
        earlier = self._recent(self._window(starts, after_latest, most=needs.short_term), now - SHORT_TERM_US)
        month = self._recent(self._window(starts, stops, most=needs.long_term), now - LONG_TERM_US)
        return Choices(
            real_time=self._items(latest),
            short_term=self._items(earlier),
            long_term=np.stack([self._items(self._of_kind(month, KIND_CODES[kind])) for kind in CLICK_KINDS], axis=1),
            past_queries=self._queries(starts, stops),
        )

    def _ends(self, moments: Moments) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where among all users' choices each one's begin, and where the moment cuts them off."""
        offsets, positions = self._offsets, self._positions
        starts, stops = np.zeros((2, len(moments.user_row)), dtype=np.int64)
        for row, (user, place) in enumerate(zip(moments.user_row.tolist(), moments.place.tolist(), strict=True)):
            if user >= 0:
                starts[row] = offsets[user]
                stops[row] = offsets[user] + np.searchsorted(positions[offsets[user] : offsets[user + 1]], place)
        return starts, stops

    def _times(self, place: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the time of the event at each place; beyond the log's end, of its last one."""
        return self._time[np.minimum(place, len(self._time) - 1)]

    def _window(self, starts: NDArray[np.int64], stops: NDArray[np.int64], *, most: int) -> NDArray[np.int64]:
        """Return the places in the log ``[n, most]`` of the choices that end at `stops`, -1 before `starts`."""
        at = stops[:, None] - most + np.arange(most)
        there = at >= starts[:, None]
        return np.where(there, self._positions[np.where(there, at, 0)], -1)

    def _recent(self, places: NDArray[np.int64], since: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(self._time[places] >= since[:, None], places, -1)

    def _of_kind(self, places: NDArray[np.int64], kind: int) -> NDArray[np.int64]:
        return np.where(self._kind[places] == kind, places, -1)

    def _items(self, places: NDArray[np.int64]) -> NDArray[np.int32]:
        return to_the_left(np.where(places >= 0, self._item_row[places], -1).astype(np.int32))

    def _queries(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the queries under which something was chosen, each once."""
        most = self._needs.past_queries
        found = np.full((len(starts), most), -1, dtype=np.int32)
        if not most:
            return found
        for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            asked = self._query_row[self._positions[start:stop]]
            latest_first = list(dict.fromkeys(asked[asked >= 0][::-1].tolist()))[:most]
            found[row, : len(latest_first)] = latest_first[::-1]
        return found


def choices_of(histories: Sequence[NDArray[Any] | None], *, needs: Needs) -> Choices:
    """Cut histories that are items alone, oldest first: all are clicks of just now, and no query is known.

    Args:
        histories: ``[n]``, item rows; None: there is none.
        needs: how much is read.
    """
    rows = [np.empty(0, np.int32) if history is None else np.asarray(history, dtype=np.int32) for history in histories]
    clicks = latest_of(rows, needs.long_term)
    nothing = np.full((len(rows), NUM_KINDS - 1, needs.long_term), -1, dtype=np.int32)
    before = [history[: max(0, len(history) - needs.real_time)] for history in rows]
    return Choices(
        real_time=latest_of(rows, needs.real_time),
        short_term=latest_of(before, needs.short_term),
        long_term=np.concatenate([clicks[:, None], nothing], axis=1),
        past_queries=np.full((len(rows), needs.past_queries), -1, dtype=np.int32),
    )


def either(own: NDArray[np.bool_], given: Choices, logged: Choices) -> Choices:
    """Take some rows ``own`` of one, and all others of the other."""
    return Choices(
        *(
            np.where(own.reshape(-1, *[1] * (one.ndim - 1)), one, other)
            for one, other in zip(given, logged, strict=True)
        )
    )


def to_the_left(rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Move what is not -1 to the beginning of its list ``[..., most]``, in its order."""
    order = np.argsort(rows < 0, axis=-1, kind="stable")
    return np.take_along_axis(rows, order, axis=-1)


def latest_of(rows: Sequence[NDArray[Any]], most: int) -> NDArray[np.int32]:
    """Cut lists of item rows, oldest first, to the latest ``[n, most]``, -1 behind the end."""
    found = np.full((len(rows), most), -1, dtype=np.int32)
    for row, history in enumerate(rows):
        own = history[max(0, len(history) - most) :]
        found[row, : len(own)] = own
    return found
