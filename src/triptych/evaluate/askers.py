"""Who asks a query, and when: users who chose something under it, each as he was just before that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.data.splits import Places
from triptych.metrics.ranking import IntArray
from triptych.recall.base import Request


class Askers(NamedTuple):
    """Who asks each query."""

    query_of: IntArray
    """``[requests]``, the place of the query, ascending; each has at least one."""
    users: Sequence[str | None]
    """``[requests]``; None: nobody who asked is known."""
    before: Sequence[int | None]
    """``[requests]``, the place in the log of what he chose first under the query in the period; None: no user."""

    def request(self, place: int, *, queries: Sequence[str]) -> Request:
        """Ask as one of them; `queries` are those that `query_of` speaks of."""
        return Request(query=queries[self.query_of[place]], user=self.users[place], before=self.before[place])


def draw_askers(catalogue: Catalogue, *, places: Places, query_rows: IntArray, most: int, seed: int) -> Askers:
    """Draw the users that ask each query, of those who chose something under it in a period.

    Args:
        catalogue: whose log and users.
        places: of the period, in the log.
        query_rows: ``[queries]``.
        most: users of a query, at most; where nobody is known, it is asked once for nobody.
        seed: of the draw.
    """
    within = np.arange(len(catalogue.events))[places]
    query_row, user_row = (catalogue.event_array(name)[within] for name in ("query_row", "user_row"))
    chosen = is_positive(catalogue.event_array("kind")[within]) & (user_row >= 0) & np.isin(query_row, query_rows)
    within, query_row, user_row = within[chosen], query_row[chosen], user_row[chosen]
    pairs, first = np.unique(np.stack([query_row, user_row]), axis=1, return_index=True)
    rng = np.random.default_rng(seed)
    query_of: list[int] = []
    users: list[str | None] = []
    before: list[int | None] = []
    for position, row in enumerate(query_rows.tolist()):
        own = np.flatnonzero(pairs[0] == row)
        drawn = np.sort(rng.permutation(own)[:most])
        query_of += [position] * max(1, len(drawn))
        users += [catalogue.users[pairs[1, place]] for place in drawn] or [None]
        before += within[first[drawn]].tolist() or [None]
    return Askers(np.array(query_of, dtype=np.int64), users, before)
