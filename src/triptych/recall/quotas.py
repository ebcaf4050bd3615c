"""Quotas: a channel has at least so many of the first places, if it found so much.

The order of what stays and of what is lifted does not change. What a channel lacks among the first places is lifted
from below, its best first; what makes room is the lowest of the first places that no quota holds there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from triptych.foundation.types import Hits
from triptych.recall.base import BoolArray, FloatArray


def with_quotas(found: Hits, has: BoolArray, *, quotas: Mapping[int, int], places: int) -> Hits:
    """Give channels their places.

    A score must fall with the place, so an item that is lifted gets the least one by which it stands there.

    Args:
        found: ``[n, k]``, all candidates in order, padded behind.
        has: ``[n, k, channels]``, which channels found each.
        quotas: channel → least number of the first places; together at most `places`, so that all can be met.
        places: how many are the first.
    """
    hits = Hits(found.item_rows.copy(), found.scores.copy())
    for request in range(len(found.item_rows)):
        count = int((found.item_rows[request] >= 0).sum())
        order = _lifted(has[request, :count], quotas=quotas, places=places)
        if order is not None:
            hits.item_rows[request, :count] = found.item_rows[request, order]
            hits.scores[request, :count] = _falling(found.scores[request, order], hits.item_rows[request, :count])
    return hits


def _lifted(has: BoolArray, *, quotas: Mapping[int, int], places: int) -> list[int] | None:
    """Return the new order of ``[candidates]``; None where it stays."""
    first = list(range(min(places, len(has))))
    below = list(range(len(first), len(has)))
    lifted = False
    for channel, least in quotas.items():
        while sum(has[one, channel] for one in first) < least:
            candidate = next((one for one in below if has[one, channel]), None)
            if candidate is None:  # it found no more than that
                break
            held = {other for other, own in quotas.items() if sum(has[one, other] for one in first) <= own}
            leaves = next(one for one in reversed(first) if not any(has[one, other] for other in held))
            first.remove(leaves)
            below.remove(candidate)
            first, below, lifted = sorted([*first, candidate]), sorted([*below, leaves]), True
    return [*first, *below] if lifted else None


def _falling(scores: FloatArray, item_rows: np.ndarray) -> FloatArray:
    """Raise scores, from the last to the first, until they fall in this order, equal ones by item row."""
    raised = scores.copy()
    for place in range(len(raised) - 2, -1, -1):
        after = raised[place + 1]
        least = after if item_rows[place] < item_rows[place + 1] else np.nextafter(after, np.float32(np.inf))
        raised[place] = max(raised[place], least)
    return raised
