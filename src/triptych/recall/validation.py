"""What is asked in validation, a fixed sample of queries or of users, and by what the answers are judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.askers import Askers, draw_askers
from triptych.data.catalogue import Catalogue
from triptych.data.splits import Part, Split
from triptych.data.targets import UserItems
from triptych.foundation.errors import DataError
from triptych.foundation.types import Hits
from triptych.metrics.ranking import Gain, TargetSets, graded_ndcg_at_k, match, recall_at_k

VALIDATION_SEED = 0
"""Draws the queries that are validated on: the same for every model and seed."""
GRADED_K = 10
SCORED = 32_000_000
"""Scores in memory at a time."""


class Asked(NamedTuple):
    """Who is asked in validation, and what should be found."""

    query_rows: NDArray[np.int64]
    """``[n]``; -1 where users are asked."""
    user_rows: NDArray[np.int64] | None
    """``[n]``, who is asked; None: queries are."""
    histories: UserItems | None
    """Theirs; None: queries are asked."""
    wanted: TargetSets


class Measure:
    """By what one answer is better than another: recall; where there are grades, NDCG@10 with gain = grade."""

    def __init__(self, wanted: TargetSets, *, recall_k: int) -> None:
        """Keep what should be found ``[n]``, and the cut-off of recall."""
        self.wanted = wanted
        self.k = recall_k if wanted.grades is None else GRADED_K
        self.name = f"recall@{recall_k}" if wanted.grades is None else f"ndcg@{GRADED_K}"

    def __call__(self, hits: Hits) -> NDArray[np.float64]:
        """Return ``[n]``; NaN where nothing could be found."""
        matches = match(hits.item_rows[:, : self.k], targets=self.wanted)
        if self.wanted.grades is None:
            return recall_at_k(matches, k=self.k)
        return graded_ndcg_at_k(matches, k=self.k, gain=Gain.LINEAR)


def nearest(requests: Tensor, items: Tensor, *, k: int, left_out: UserItems | None = None) -> Tensor:
    """Return the places of each request's k items of largest inner product, int64 ``[n, k]`` on the CPU.

    Args:
        requests: ``[n, dim]``.
        items: ``[items, dim]``.
        k: how many.
        left_out: ``[n]`` lists of items that are no answer; None: all may be.
    """
    block = max(1, SCORED // max(1, len(items)))
    found = []
    for first in range(0, len(requests), block):
        scores = requests[first : first + block] @ items.T
        for row in range(len(scores) if left_out is not None else 0):
            assert left_out is not None
            scores[row, torch.from_numpy(left_out.of(first + row).astype(np.int64))] = float("-inf")
        found.append(torch.topk(scores, k, dim=1).indices.cpu())
    return torch.cat(found) if found else torch.empty(0, k, dtype=torch.int64)


def some_queries(split: Split, *, most: int) -> Asked:
    """Draw a fixed sample of the validation part's queries, with what each should find.

    Raises:
        DataError: there are none.
    """
    targets = split.targets(Part.VALIDATION)
    if not len(targets.query_row):
        raise DataError(
            "events: nothing was chosen under a query in the validation part, so the best weights cannot be chosen. "
            "Choose another split."
        )
    chosen = _some(len(targets.query_row), most=most)
    found = UserItems(targets.offsets, targets.item_rows)
    return Asked(targets.query_row[chosen].astype(np.int64), None, None, TargetSets(*_taken(found, chosen)))


def for_users(asked: Asked, *, catalogue: Catalogue, split: Split, most: int) -> tuple[Asked, Askers]:
    """Ask queries for up to so many of those who chose something under each in the validation part.

    Returns:
        What is asked, once for each of them, and who they are.
    """
    places = split.part(Part.VALIDATION)
    askers = draw_askers(catalogue, places=places, query_rows=asked.query_rows, most=most, seed=VALIDATION_SEED)
    found = UserItems(asked.wanted.offsets, asked.wanted.item_rows)
    wanted = TargetSets(*_taken(found, askers.query_of))
    return asked._replace(query_rows=asked.query_rows[askers.query_of], wanted=wanted), askers


def some_users(catalogue: Catalogue, *, split: Split, most: int) -> Asked:
    """Draw a fixed sample of the validation part's users, with what each should find.

    Raises:
        DataError: there are none.
    """
    found = split.user_targets(catalogue, Part.VALIDATION)
    if not len(found.user_row):
        raise DataError(
            "events: nobody chose something in the validation part and something else before it, so the best weights "
            "cannot be chosen. Choose another split."
        )
    chosen = _some(len(found.user_row), most=most)
    nobody_asks = np.full(len(chosen), -1, dtype=np.int64)
    return Asked(
        nobody_asks,
        found.user_row[chosen].astype(np.int64),
        _taken(found.histories, chosen),
        TargetSets(*_taken(found.targets, chosen)),
    )


def _some(number: int, *, most: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(VALIDATION_SEED).permutation(number)[:most])


def _taken(found: UserItems, chosen: NDArray[np.int64]) -> UserItems:
    lists = [found.of(place) for place in chosen.tolist()]
    return UserItems(np.concatenate([[0], np.cumsum([len(one) for one in lists])]), np.concatenate(lists))
