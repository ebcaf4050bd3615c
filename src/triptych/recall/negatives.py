"""What a page's choices are contrasted with: where negatives come from, and how their scores are corrected for it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.pages import PageBatch, Pages
from triptych.foundation.errors import DataError


class Against(StrEnum):
    """What a page's choices are contrasted with."""

    SAMPLED = "sampled"
    """Items drawn by how often they were chosen."""
    FULL = "full"
    """All items that training may know: exact, for catalogues up to some hundred thousand."""
    IN_BATCH = "in_batch"
    """The other pages' choices."""
    MIXED = "mixed"
    """Both those and drawn ones."""


class LogQ(StrEnum):
    """How a score is corrected for how often its item is drawn."""

    IMPORTANCE = "importance"
    """Negatives alone, by the draws expected of them: the sum over them is an unbiased estimate of the full one."""
    TF = "tf"
    """Distinct negatives, and positives, by the chance to be among them (TensorFlow's sampled softmax)."""
    NONE = "none"
    """Nothing: scores come out damped by popularity."""


class Negatives(NamedTuple):
    """What was drawn for a batch, each item once."""

    item_rows: NDArray[np.int64]
    """``[negatives]``, distinct, ascending."""
    counts: NDArray[np.int64]
    """``[negatives]``, how often each was drawn."""


class NegativeSampler:
    """Draw items with replacement, each by a power of its smoothed count."""

    def __init__(
        self,
        counts: NDArray[np.integer],
        *,
        num_negatives: int,
        power: float = 1.0,
        smoothing: float = 0.0,
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take the cumulated distribution.

        Args:
            counts: ``[items]``, how often each was chosen in training.
            num_negatives: draws for a batch, N.
            power: of the smoothed count; 0 draws all items alike.
            smoothing: added to every count; above 0, items that nobody chose are drawn too.
            known: ``[items]``, which may be drawn at all; None: all.

        Raises:
            DataError: no item can be drawn.
        """
        weight = (np.asarray(counts, dtype=np.float64) + smoothing) ** power
        if known is not None:
            weight = np.where(known, weight, 0.0)
        if not len(weight) or not weight.sum() > 0:
            raise DataError("events: no item was chosen in training and smoothing is 0, so there are no negatives.")
        cumulated = np.cumsum(weight)
        self._cumulated = cumulated / cumulated[-1]
        self._chance = weight / cumulated[-1]
        self.num_negatives = num_negatives

    @property
    def chance(self) -> NDArray[np.float64]:
        """``[items]``, Q: the chance of each item in a draw."""
        return self._chance

    def draw(self, rng: np.random.Generator) -> Negatives:
        """Draw the negatives of a batch."""
        # In order, the search goes through the table once, and what it finds is sorted.
        drawn = np.searchsorted(self._cumulated, np.sort(rng.random(self.num_negatives)), side="right")
        found = np.unique(np.minimum(drawn, len(self._chance) - 1), return_counts=True)
        return Negatives(found[0].astype(np.int64), found[1].astype(np.int64))

    def negative_bias(
        self, drawn: Negatives, *, log_q: LogQ, also: NDArray[np.float64] | None = None
    ) -> NDArray[np.float32]:
        """Return what is added to the score of each negative ``[negatives]``, as `log_q` says.

        Args:
            drawn: what was drawn.
            log_q: which correction.
            also: ``[items]``, times that each is expected among negatives of another source (the other positives of
                the batch, in mixed sampling); None: there is none.
        """
        if log_q is LogQ.NONE:
            found = np.log(drawn.counts)
        elif log_q is LogQ.IMPORTANCE:
            found = np.log(drawn.counts) - np.log(self._expected(drawn.item_rows, also=also))
        else:
            found = -self._log_inclusion(drawn.item_rows)
        return found.astype(np.float32)

    def positive_bias(self, item_rows: NDArray[np.integer], *, log_q: LogQ) -> NDArray[np.float32] | None:
        """Return what is added to the score of each positive ``[pairs]``; None: nothing."""
        if log_q is not LogQ.TF:
            return None
        return (-self._log_inclusion(item_rows)).astype(np.float32)

    def _expected(self, item_rows: NDArray[np.integer], *, also: NDArray[np.float64] | None) -> NDArray[np.float64]:
        expected = self.num_negatives * self._chance[item_rows]
        return expected if also is None else expected + also[item_rows]

    def _log_inclusion(self, item_rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the log of the chance to be drawn at all, 1 − (1 − Q)^N."""
        found: NDArray[np.float64] = np.log(-np.expm1(self.num_negatives * np.log1p(-self._chance[item_rows])))
        return found


class NegativeSource:
    """Draws the negatives of a batch, as the config says."""

    def __init__(
        self,
        pages: Pages,
        *,
        known: NDArray[np.bool_],
        batch_pages: int,
        most_positives: int,
        against: Against,
        log_q: LogQ,
        num_negatives: int,
        power: float,
        smoothing: float,
    ) -> None:
        """Count.

        Args:
            pages: those that are learned from.
            known: ``[items]``, which items of the catalogue training may know; of the others none is a negative.
            batch_pages: pages of a batch.
            most_positives: choices of a page that are learned from.
            against: which negatives.
            log_q: which correction.
            num_negatives: draws for a batch; without effect where none are drawn.
            power: as of `NegativeSampler`.
            smoothing: likewise.
        """
        self._log_q = log_q
        num_items = len(known)
        self._all = np.flatnonzero(known) if against is Against.FULL else None
        chosen = np.bincount(pages.item_rows, minlength=num_items)
        draws = num_negatives if against in (Against.SAMPLED, Against.MIXED) else 0
        self._sampler = NegativeSampler(chosen, num_negatives=draws, power=power, smoothing=smoothing, known=known)
        self._in_batch = None
        if against in (Against.IN_BATCH, Against.MIXED):
            self._in_batch = _expected_in_batch(
                pages, num_items=num_items, batch_pages=batch_pages, most_positives=most_positives
            )

    def draw(self, drawn: PageBatch, *, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the negatives of a batch, distinct and ascending, and what is added to their scores."""
        if self._all is not None:
            return self._all, np.zeros(len(self._all), dtype=np.float32)
        found = self._sampler.draw(rng)
        if self._in_batch is not None:
            found = _joined(found, drawn.item_rows)
        return found.item_rows, self._sampler.negative_bias(found, log_q=self._log_q, also=self._in_batch)

    def positive_bias(self, item_rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return what is added to the scores of choices ``[pairs]``; None: nothing."""
        return None if self._all is not None else self._sampler.positive_bias(item_rows, log_q=self._log_q)


def _expected_in_batch(pages: Pages, *, num_items: int, batch_pages: int, most_positives: int) -> NDArray[np.float64]:
    """Return how often each item is expected among the choices of a batch's other pages ``[items]``.

    To a page that did not choose it: what a page chose is no negative of its own, so that it counts for all others
    alone. Of a long page some choices are drawn. A batch of one page has none of these, and counts itself.
    """
    sizes = np.diff(pages.offsets)
    drawn = np.repeat(np.minimum(sizes, most_positives) / sizes, sizes)
    others = max(1, batch_pages - 1) / max(1, len(sizes) - 1)
    expected = np.bincount(pages.item_rows, weights=drawn, minlength=num_items) * others
    return expected.astype(np.float64)


def _joined(drawn: Negatives, more: NDArray[np.int64]) -> Negatives:
    """Count items in with what was drawn."""
    rows = np.concatenate([drawn.item_rows, more])
    counts = np.concatenate([drawn.counts, np.ones(len(more), dtype=np.int64)])
    item_rows, place = np.unique(rows, return_inverse=True)
    return Negatives(item_rows, np.bincount(place, weights=counts).astype(np.int64))
