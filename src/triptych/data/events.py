"""Histories: what each user chose, in time order, as offsets into one array.

Positions are places in the catalogue's events, which are sorted by time; so "what the user had done before event n" is
a binary search, and nothing later than n can leak into it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.schema import CLICK_KINDS, EventKind
from triptych.foundation.errors import DataError

KIND_CODES: dict[EventKind, int] = {kind: code for code, kind in enumerate(EventKind)}
"""The number that stands for each kind in a catalogue: impression 0, click 1, cart 2, order 3."""


def is_positive(kind: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which events chose their item (click, cart, order).

    Args:
        kind: ``[events]``, codes as in `KIND_CODES`.
    """
    chosen = np.zeros(len(KIND_CODES), dtype=np.bool_)
    chosen[[KIND_CODES[positive] for positive in CLICK_KINDS]] = True
    return chosen.take(kind)


class Histories(NamedTuple):
    """The positive events of every user."""

    offsets: NDArray[np.int64]
    """``[users + 1]``; user u has ``positions[offsets[u]:offsets[u + 1]]``."""
    positions: NDArray[np.int32]
    """``[positive events with a user]``, places in the events, ascending within a user."""

    def of(self, user_row: int, *, before: int | None = None) -> NDArray[np.int32]:
        """Return the places of a user's positive events.

        Args:
            user_row: which user.
            before: only events whose place is smaller; None for all.
        """
        own = self.positions[self.offsets[user_row] : self.offsets[user_row + 1]]
        return own if before is None else own[: np.searchsorted(own, before)]


def build_histories(*, user_row: NDArray[Any], kind: NDArray[Any], num_users: int) -> Histories:
    """Gather each user's positive events.

    Args:
        user_row: ``[events]`` in time order, -1 where the user is unknown.
        kind: ``[events]``, codes as in `KIND_CODES`.
        num_users: how many users there are.

    Raises:
        DataError: there are more events than an int32 can count.
    """
    if len(user_row) > np.iinfo(np.int32).max:
        raise DataError(
            f"events: {len(user_row):,} rows are more than a catalogue holds (2^31 - 1). Use a shorter log."
        )
    places = np.flatnonzero(is_positive(kind) & (user_row >= 0))
    users = user_row[places]
    # By user, then place. Sorted as one number each: several times as fast as a stable sort of the users.
    both = np.sort(users.astype(np.int64) << 32 | places)
    positions = (both & 0xFFFFFFFF).astype(np.int32)
    offsets = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=num_users), out=offsets[1:])
    return Histories(offsets, positions)
