"""What has to be found: the items of each query, or those of each user after his history."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.events import Histories


class Targets(NamedTuple):
    """What each query of a part should find: everybody's positives under it, or its relevant items, merged."""

    query_row: NDArray[np.int32]
    """``[queries]``, ascending."""
    offsets: NDArray[np.int64]
    """``[queries + 1]``; query i has ``item_rows[offsets[i]:offsets[i + 1]]``."""
    item_rows: NDArray[np.int32]
    """``[pairs]``, distinct and ascending within a query."""


class CellTargets(NamedTuple):
    """What each query should find in each delivery cell: everybody's positives under it there, merged."""

    query_row: NDArray[np.int32]
    """``[units]``, one unit for each query in each cell where something was chosen under it; by cell, then query."""
    cell: NDArray[np.int32]
    """``[units]``, place among the categories of the catalogue's ``events["cell"]``."""
    offsets: NDArray[np.int64]
    """``[units + 1]``; unit i has ``item_rows[offsets[i]:offsets[i + 1]]``."""
    item_rows: NDArray[np.int32]
    """``[pairs]``, distinct and ascending within a unit."""


class TrainPairs(NamedTuple):
    """Distinct (query, item) pairs of the training part, sorted by query, then item."""

    query_row: NDArray[np.int32]
    """``[pairs]``."""
    item_row: NDArray[np.int32]
    """``[pairs]``."""
    clicks: NDArray[np.int32]
    """``[pairs]``, how many positive events the pair has; 1 for a judged one."""

    def some(self, rate: float, *, rng: np.random.Generator) -> TrainPairs:
        """Keep a share of the pairs, drawn at random, at least one."""
        count = max(1, round(rate * len(self.item_row)))
        kept = np.sort(rng.permutation(len(self.item_row))[:count])
        return TrainPairs(self.query_row[kept], self.item_row[kept], self.clicks[kept])

    def most_clicked(self) -> TrainPairs:
        """Keep each query's most-clicked item; of several, the one with the smallest row."""
        order = np.lexsort((self.item_row, -self.clicks, self.query_row))
        _, first = np.unique(self.query_row[order], return_index=True)
        kept = order[first]
        return TrainPairs(self.query_row[kept], self.item_row[kept], self.clicks[kept])


class UserItems(NamedTuple):
    """Items of each user, as one ragged array."""

    offsets: NDArray[np.int64]
    """``[users + 1]``; user i has ``item_rows[offsets[i]:offsets[i + 1]]``."""
    item_rows: NDArray[np.int32]
    """``[pairs]``."""

    def of(self, place: int) -> NDArray[np.int32]:
        """Return the items of the user at a place."""
        return self.item_rows[self.offsets[place] : self.offsets[place + 1]]


class HistoryFrom(StrEnum):
    """Which of a user's positives are his history when a part is evaluated."""

    EARLIER = "earlier"
    """Those of all earlier parts: all that he had done."""
    TRAIN = "train"
    """Those of the training part alone, as MMRec and the tables published with it have it."""


class UserTargets(NamedTuple):
    """What each user of a part should be shown, and what he had chosen before."""

    user_row: NDArray[np.int64]
    """``[users]``, ascending: those with a history and a target."""
    histories: UserItems
    """In time order, an item as often as it was chosen."""
    targets: UserItems
    """Distinct, ascending; no item of the history."""
    num_without_history: int
    """Users of the part with a positive and nothing before it: they are not asked."""


def merge_targets(query_row: NDArray[np.int32], item_row: NDArray[np.int32], *, num_items: int) -> Targets:
    """Merge the chosen items of each query into a set.

    Args:
        query_row: ``[events]`` of positive search events.
        item_row: ``[events]``, the item of each.
        num_items: items in the catalogue.
    """
    pairs = count_pairs(query_row, item_row, num_items=num_items)
    queries, starts = np.unique(pairs.query_row, return_index=True)
    return Targets(queries, np.append(starts, len(pairs.item_row)).astype(np.int64), pairs.item_row)


def merge_cell_targets(
    query_row: NDArray[np.int32],
    cell: NDArray[np.int32],
    item_row: NDArray[np.int32],
    *,
    num_queries: int,
    num_items: int,
) -> CellTargets:
    """Merge the chosen items of each query in each cell into a set.

    Args:
        query_row: ``[events]`` of positive search events in a known cell.
        cell: ``[events]``, where.
        item_row: ``[events]``, the item of each.
        num_queries: queries in the catalogue.
        num_items: items in the catalogue.
    """
    units, unit_of = np.unique(cell.astype(np.int64) * num_queries + query_row, return_inverse=True)
    merged = merge_targets(unit_of.astype(np.int32), item_row, num_items=num_items)
    cells, queries = np.divmod(units, max(num_queries, 1))
    return CellTargets(queries.astype(np.int32), cells.astype(np.int32), merged.offsets, merged.item_rows)


def count_pairs(query_row: NDArray[np.int32], item_row: NDArray[np.int32], *, num_items: int) -> TrainPairs:
    """Count how often each distinct (query, item) pair occurs, sorted by query, then item."""
    codes, counts = np.unique(query_row.astype(np.int64) * num_items + item_row, return_counts=True)
    queries, items = np.divmod(codes, max(num_items, 1))
    return TrainPairs(queries.astype(np.int32), items.astype(np.int32), counts.astype(np.int32))


def user_items(
    histories: Histories, *, item_row: NDArray[np.integer], wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Take some of every user's positives.

    Args:
        histories: places of the positives by user.
        item_row: ``[events]``.
        wanted: bool ``[events]``, which to take.

    Returns:
        User and item of each, in the order of users and, within one, of time.
    """
    user_of = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    kept = wanted[histories.positions]
    return user_of[kept], item_row[histories.positions[kept]].astype(np.int32)


def ragged(user_row: NDArray[np.int64], item_row: NDArray[np.int32], *, users: NDArray[np.int64]) -> UserItems:
    """Gather the items of some users.

    Args:
        user_row: ``[pairs]``, ascending.
        item_row: ``[pairs]``.
        users: distinct, ascending; pairs of others are left out.
    """
    kept = np.isin(user_row, users)
    counts = np.bincount(np.searchsorted(users, user_row[kept]), minlength=len(users))
    return UserItems(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), item_row[kept])


def make_user_targets(
    histories: Histories,
    *,
    item_row: NDArray[np.integer],
    is_history: NDArray[np.bool_],
    is_target: NDArray[np.bool_],
    num_items: int,
) -> UserTargets:
    """Divide every user's positives into what he had chosen and what he chose next.

    Args:
        histories: places of the positives by user.
        item_row: ``[events]``.
        is_history: bool ``[events]``, which were before.
        is_target: bool ``[events]``, which are to be found.
        num_items: items in the catalogue.
    """
    before_user, before_item = user_items(histories, item_row=item_row, wanted=is_history)
    after_user, after_item = user_items(histories, item_row=item_row, wanted=is_target)
    known = np.unique(before_user * num_items + before_item)
    codes = np.setdiff1d(after_user * num_items + after_item, known)  # sorted and distinct
    target_user, target_item = np.divmod(codes, max(num_items, 1))
    users = np.intersect1d(before_user, target_user)
    return UserTargets(
        user_row=users,
        histories=ragged(before_user, before_item, users=users),
        targets=ragged(target_user, target_item.astype(np.int32), users=users),
        num_without_history=len(np.setdiff1d(after_user, before_user)),
    )
