"""Who asks each query of a part of the log, and when: what a personal model is asked by, to be judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.data.splits import Places


class Askers(NamedTuple):
    """Requests, some for each query."""

    query_of: NDArray[np.int64]
    """``[requests]``, the place of the query, ascending; each has at least one."""
    user_row: NDArray[np.int64]
    """``[requests]``; -1: nobody who asked is known."""
    before: NDArray[np.int64]
    """``[requests]``, the place in the log of what he chose first under the query in the part: earlier events alone are
    his history."""

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average the values of requests ``[requests]`` over those who ask each query ``[queries]``."""
        return np.bincount(self.query_of, weights=values) / np.bincount(self.query_of)


def draw_askers(
    catalogue: Catalogue, *, places: Places, query_rows: NDArray[np.integer], most: int, seed: int
) -> Askers:
    """Draw up to so many of the users who chose something under each query in a part of the log.

    Args:
        catalogue: whose log.
        places: of the part, such as `Split.test`.
        query_rows: ``[queries]``, of the catalogue, distinct.
        most: users for a query.
        seed: of the draws.
    """
    at = np.arange(len(catalogue.events))[places]
    query_row, user_row = (catalogue.event_array(name)[at] for name in ("query_row", "user_row"))
    chosen = is_positive(catalogue.event_array("kind")[at]) & (user_row >= 0) & np.isin(query_row, query_rows)
    at, query_row, user_row = at[chosen], query_row[chosen], user_row[chosen]
    pairs, first = np.unique(np.stack([query_row, user_row]), axis=1, return_index=True)
    starts, stops = (np.searchsorted(pairs[0], query_rows, side=side) for side in ("left", "right"))
    rng = np.random.default_rng(seed)
    query_of: list[int] = []
    drawn: list[int] = []
    for position, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        own = np.sort(rng.permutation(np.arange(start, stop))[:most]).tolist() or [-1]
        query_of += [position] * len(own)
        drawn += own
    found, known = np.array(drawn, dtype=np.int64), np.array(drawn, dtype=np.int64) >= 0
    users, before = np.full(len(found), -1, dtype=np.int64), np.zeros(len(found), dtype=np.int64)
    users[known], before[known] = pairs[1, found[known]], at[first[found[known]]]
    return Askers(np.array(query_of, dtype=np.int64), users, before)
