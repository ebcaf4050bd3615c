"""Whether a probability means what it says: of what is given 0.2, is a fifth chosen?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.foundation.errors import DataError


def expected_calibration_error(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], *, bins: int = 20) -> float:
    """Return the mean distance between what bins predict and what happens in them, weighed by their samples.

    Bins hold equally many samples, equal probabilities in one. With bins of equal width nearly all clicks, which are
    rare, would lie in the first one.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; with bins of
    equal mass (Nixon et al., "Measuring calibration in deep learning", 2019).

    Args:
        labels: Bool ``[n]``.
        probabilities: Floats ``[n]`` in [0, 1].
        bins: At most so many; at least 1.

    Returns:
        In [0, 1], 0 is perfect; NaN without samples.

    Raises:
        DataError: lengths differ, or something is no probability.
    """
    _check(labels, probabilities)
    if not len(labels):
        return float("nan")
    order = np.argsort(probabilities, kind="stable")
    ordered, chosen = probabilities[order].astype(np.float64), labels[order].astype(np.float64)
    # A bin ends at every n / bins samples, or where the last of equal probabilities does.
    edges = np.arange(1, bins) * len(ordered) // bins
    inner = np.unique(np.searchsorted(ordered, ordered[edges], side="left"))
    starts = np.concatenate([[0], inner[inner > 0]])
    gaps = np.add.reduceat(ordered, starts) - np.add.reduceat(chosen, starts)
    return float(np.abs(gaps).sum() / len(ordered))


def predicted_over_observed(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> float:
    """Return the sum of probabilities over the number of positives: 1 is right, 2 promises twice as many.

    NaN without a positive. Args and errors as of `expected_calibration_error`.
    """
    _check(labels, probabilities)
    positives = int(labels.astype(bool).sum())
    return float(probabilities.astype(np.float64).sum() / positives) if positives else float("nan")


def _check(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> None:
    if len(labels) != len(probabilities):
        raise DataError(
            f"calibration: {len(labels)} labels and {len(probabilities)} probabilities; give one of each per sample."
        )
    wrong = ~((probabilities >= 0) & (probabilities <= 1))
    if wrong.any():
        raise DataError(
            f"calibration: {int(wrong.sum())} of {len(probabilities)} values are not in [0, 1]; give probabilities, "
            "not logits."
        )
