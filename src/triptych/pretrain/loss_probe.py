"""The contrast loss of fixed pairs, of training and of validation: what is learned, and what is learned by heart.

Recall says how good a model is, these two curves say how it got there: where they part, it overfits. Gradient blending
weights the losses of joint training by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.sampling import KnownPairs
from triptych.data.targets import Targets, TrainPairs
from triptych.losses.infonce import infonce

PAIRS = 256
"""Pairs of each sample, each contrasted with the others; the loss of chance is the log of that."""
TEMPERATURE = 0.05
SAMPLE_SEED = 1
WHERE = ("training", "validation")
LEAST_OVERFIT = 0.01
"""Smaller growths of the gap are luck of the sample, and would have all the weight."""


class _Sample(NamedTuple):
    """Pairs of distinct items."""

    query_rows: NDArray[np.int64]
    item_rows: NDArray[np.int64]
    known: NDArray[np.bool_]
    """``[pairs, pairs]``, chosen under the query at any time: no negative."""


class LossProbe:
    """Two samples of pairs, the same for every model and seed."""

    def __init__(self, *, pairs: TrainPairs, log: TrainPairs, targets: Targets) -> None:
        """Draw the samples.

        Args:
            pairs: those that are learned from.
            log: all of the training part.
            targets: of the validation part.
        """
        asked = np.repeat(targets.query_row, np.diff(targets.offsets)).astype(np.int64)
        found = {
            "training": (pairs.query_row.astype(np.int64), pairs.item_row.astype(np.int64)),
            "validation": (asked, targets.item_rows.astype(np.int64)),
        }
        chosen = zip(log[:2], found["validation"], strict=True)
        known = KnownPairs(*(np.concatenate(both) for both in chosen))
        self._samples = {where: _drawn(*found[where], known=known) for where in WHERE}

    @property
    def query_rows(self) -> NDArray[np.int64]:
        """The queries of both samples, one behind the other."""
        return np.concatenate([self._samples[where].query_rows for where in WHERE])

    def measure(self, queries: NDArray[np.float32], items: NDArray[np.float32]) -> dict[str, float]:
        """Compute both losses.

        Args:
            queries: vectors of `query_rows`.
            items: vectors of all items of the catalogue.

        Returns:
            "training" and "validation" → mean loss of a pair.
        """
        losses, start = {}, 0
        for where in WHERE:
            sample = self._samples[where]
            end = start + len(sample.query_rows)
            output = infonce(
                torch.from_numpy(queries[start:end]),
                items=torch.from_numpy(items[sample.item_rows]),
                positive=torch.arange(end - start),
                known=torch.from_numpy(sample.known),
                temperature=TEMPERATURE,
            )
            losses[where], start = float(output.total), end
        return losses


def blend_weights(start: Mapping[str, Mapping[str, float]], end: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Weight losses by how much each generalises, and how little it overfits, when it is trained alone.

    Source: Wang et al., "What makes training multi-modal classification networks hard?" (gradient blending), 2020,
    section 3: weights in proportion to G / O², with G what the validation loss has gained and O by how much the gap
    between validation and training loss has grown. A loss that gained nothing gets 0; ours add up to their number.

    Args:
        start: name of a loss → its "training" and "validation" loss before a short training by it alone.
        end: likewise, after it.

    Raises:
        ValueError: none of them gained anything.
    """
    raw = {}
    for name in start:
        gain = start[name]["validation"] - end[name]["validation"]
        gaps = [one[name]["validation"] - one[name]["training"] for one in (start, end)]
        overfit = max(abs(gaps[1] - gaps[0]), LEAST_OVERFIT)
        raw[name] = max(gain, 0.0) / overfit**2
    whole = sum(raw.values())
    if whole == 0:
        raise ValueError("blend_weights: no loss gained anything on validation, so there is nothing to weight by")
    return {name: len(raw) * value / whole for name, value in raw.items()}


def _drawn(query_rows: NDArray[np.int64], item_rows: NDArray[np.int64], *, known: KnownPairs) -> _Sample:
    """Draw pairs of distinct items, in ascending order of item."""
    order = np.random.default_rng(SAMPLE_SEED).permutation(len(item_rows))
    _, first = np.unique(item_rows[order], return_index=True)
    chosen = order[np.sort(np.sort(first)[:PAIRS])]
    chosen = chosen[np.argsort(item_rows[chosen])]
    queries, items = query_rows[chosen], item_rows[chosen]
    return _Sample(queries, items, known.among(queries, item_rows=items))
