"""Those who ask a query (`data.askers`) as requests."""

from __future__ import annotations

from collections.abc import Sequence

from triptych.data.askers import Askers
from triptych.recall.base import Request


def as_request(askers: Askers, place: int, *, queries: Sequence[str], users: Sequence[str]) -> Request:
    """Ask as one of them.

    Args:
        askers: who asks.
        place: which of the requests.
        queries: those that ``askers.query_of`` speaks of.
        users: all of the catalogue.
    """
    query, user_row = queries[askers.query_of[place]], int(askers.user_row[place])
    if user_row < 0:
        return Request(query=query)
    return Request(query=query, user=users[user_row], before=int(askers.before[place]))
