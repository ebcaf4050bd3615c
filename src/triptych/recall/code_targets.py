"""What tasks of semantic IDs are asked in a step: one choice of each page, and the IDs that it is told apart from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.pages import PageBatch, Pages
from triptych.data.sampling import KnownPairs
from triptych.recall.base import BoolArray
from triptych.recall.features import Features
from triptych.recall.item_codes import CodeNegatives, ItemCodes, joined
from triptych.recall.learned import CodeNeeds, CodeTargets

STREAM = 7
"""Sets apart what is drawn from a seed and a batch's number."""


class CodeTargetSource:
    """Draws the targets of a batch: a pure function of its number.

    A query has many right items, so of a page one choice is drawn anew each time, and its ID is learned as one of a
    distribution. Of several sets, the first one's ID is said half of the time, the others' as often as each other.
    """

    def __init__(
        self,
        pages: Pages,
        *,
        sets: Sequence[ItemCodes],
        known: BoolArray,
        needs: CodeNeeds,
        features: Features,
        seed: int,
    ) -> None:
        """Sort the IDs and what was chosen.

        Args:
            pages: those that are learned from.
            sets: of IDs.
            known: ``[items]``, which training knows; all that was chosen is among them.
            needs: of the model.
            features: gathers what it reads of items.
            seed: of all batches.
        """
        self._needs, self._features, self._seed, self._num_sets = needs, features, seed, len(sets)
        self._codes, self._first_of_set = joined(sets), np.cumsum([0, *(one.shape.levels for one in sets[:-1])])
        self._negatives = CodeNegatives(sets, known=known)
        self._query_row = pages.query_row
        self._known = KnownPairs(
            np.repeat(pages.query_row, np.diff(pages.offsets)), self._negatives.leaves[pages.item_rows]
        )

    def draw(self, drawn: PageBatch, *, own: NDArray[np.int64], index: int) -> CodeTargets:
        """Draw for batch `index`, of which this process has the pages at places `own`."""
        rng = np.random.default_rng([self._seed, index, STREAM])
        rows = _one_each(drawn, rng=rng)
        relatives = self._negatives.relatives(rows, count=self._needs.prefix_negatives, rng=rng)
        corrupted = self._negatives.corrupted(rows, count=self._needs.corrupted_negatives, rng=rng)
        code_set = self._sets_to_say(rows, rng=rng)
        negatives = np.concatenate([self._codes[relatives], corrupted], axis=1)[own]
        leaves, query_row = self._negatives.leaves[rows], self._query_row[drawn.pages][own]
        of_relatives = self._negatives.leaves[relatives][own]
        same_relatives = of_relatives == leaves[own][:, None]
        return CodeTargets(
            items=self._features.items(rows),
            code_set=torch.from_numpy(code_set),
            own=torch.from_numpy(own),
            negatives=torch.from_numpy(negatives),
            same=torch.from_numpy(leaves[own][:, None] == leaves),
            chosen=torch.from_numpy(self._chosen(query_row, leaves)),
            # A corrupted ID is never the item's own; whether it is anybody's is not asked.
            same_negatives=torch.from_numpy(self._padded(same_relatives)),
            chosen_negatives=torch.from_numpy(self._padded(self._chosen_of_each(query_row, of_relatives))),
        )

    def _sets_to_say(self, rows: NDArray[np.int64], *, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the set whose ID is said for each item ``[n]``; of an item without one in it, the first."""
        luck = rng.random(len(rows))
        if self._num_sets == 1:
            return np.zeros(len(rows), np.int64)
        other = 1 + np.floor((luck * 2 % 1) * (self._num_sets - 1)).astype(np.int64)
        chosen = np.where(luck < 0.5, 0, other)
        has = self._codes[rows, self._first_of_set[chosen]] >= 0
        return np.where(has, chosen, 0)

    def _chosen(self, query_row: NDArray[np.integer], leaves: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which IDs ``[m]`` were chosen under which queries ``[n]``."""
        distinct, place = np.unique(leaves, return_inverse=True)
        return self._known.among(query_row, item_rows=distinct)[:, place]

    def _chosen_of_each(self, query_row: NDArray[np.integer], leaves: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell the same of IDs ``[n, count]`` of its own that each query has."""
        distinct, place = np.unique(leaves, return_inverse=True)
        if not len(distinct):
            return np.zeros(leaves.shape, np.bool_)
        known = self._known.among(query_row, item_rows=distinct)
        return np.take_along_axis(known, place.reshape(leaves.shape), axis=1)

    def _padded(self, of_relatives: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.pad(of_relatives, ((0, 0), (0, self._needs.corrupted_negatives)))


def _one_each(drawn: PageBatch, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one choice of each page, item rows ``[pages]``."""
    sizes = np.bincount(drawn.page, minlength=len(drawn.pages))
    first = np.cumsum(sizes) - sizes  # the choices of a page stand together, pages in their order
    return drawn.item_rows[first + rng.integers(sizes)]
