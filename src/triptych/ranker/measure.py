"""How well scores rank and how honest they are, over all samples and by what is known of their items."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from triptych.data.catalogue import Catalogue
from triptych.foundation.errors import DataError
from triptych.metrics.calibration import expected_calibration_error, predicted_over_observed
from triptych.metrics.classification import GroupAucs, auc, group_aucs, log_loss
from triptych.ranker.feature_ids import ages
from triptych.ranker.samples import Samples

FREQUENCIES = (("0", 0, 0), ("1–5", 1, 5), ("6–20", 6, 20), ("more", 21, None))
"""Times that an item was shown in training: name, least, most."""
AGES = (("first day", 0, 1), ("to a week", 1, 7), ("to a month", 7, 30), ("older", 30, None))
"""Days since an item entered the catalogue: name, from, before."""


class GroupBy(StrEnum):
    """Within what the order of samples is judged."""

    USER = "user"
    """All that one user was shown; samples of unknown users are left out."""
    REQUEST = "request"
    """What one request showed."""


class RankFigures(NamedTuple):
    """Figures of some samples; NaN where they say nothing."""

    samples: int
    positives: int
    auc: float
    gauc: float
    """Weighed by samples."""
    uauc: float
    """Each group alike."""
    groups: int
    """Groups with both labels, of which the two speak."""
    log_loss: float
    calibration_error: float
    """ECE of twenty bins with equally many samples."""
    predicted_over_observed: float
    """Sum of probabilities over positives."""


class Slice(NamedTuple):
    """A part of the samples."""

    name: str
    keep: NDArray[np.bool_]
    """``[samples]``."""


def groups_of(samples: Samples, *, by: GroupBy) -> NDArray[np.int64]:
    """Return the group of each sample, int64 ``[samples]``, -1 where there is none.

    Raises:
        DataError: there is none at all.
    """
    groups = samples.user_row.astype(np.int64) if by is GroupBy.USER else samples.request
    if len(groups) and (groups < 0).all():
        raise DataError("events: no sample has a known user, so none can be grouped by them. Set grouped_by = request.")
    return groups


def by_group(samples: Samples, logits: NDArray[Any], *, by: GroupBy) -> GroupAucs:
    """Return the AUC of each group of samples with scores ``[samples]``, for intervals over groups."""
    groups = groups_of(samples, by=by)
    known = groups >= 0
    return group_aucs(samples.label[known], logits[known], groups=groups[known])


def figures(
    samples: Samples, logits: NDArray[Any], *, by: GroupBy, keep: NDArray[np.bool_] | None = None
) -> RankFigures:
    """Measure scores.

    Args:
        samples: what was shown.
        logits: ``[samples]``, log odds.
        by: within what GAUC judges the order.
        keep: bool ``[samples]``, a slice; groups are then those of its samples. None: all.
    """
    keep = np.ones(len(logits), dtype=bool) if keep is None else keep
    labels, scores, groups = samples.label[keep], logits[keep], groups_of(samples, by=by)[keep]
    known, chances = groups >= 0, expit(scores.astype(np.float64))
    within = group_aucs(labels[known], scores[known], groups=groups[known])
    return RankFigures(
        samples=len(labels),
        positives=int(labels.sum()),
        auc=auc(labels, scores),
        gauc=within.gauc(),
        uauc=within.uauc(),
        groups=int(within.is_defined.sum()),
        log_loss=log_loss(labels, scores),
        calibration_error=expected_calibration_error(labels, chances),
        predicted_over_observed=predicted_over_observed(labels, chances),
    )


def slices(samples: Samples, *, train: Samples, catalogue: Catalogue) -> Iterator[Slice]:
    """Cut samples by how often their item was shown in training, and by its age at that moment."""
    shown = np.bincount(train.item_row, minlength=catalogue.num_items)[samples.item_row]
    for name, least, most in FREQUENCIES:
        yield Slice(f"shown {name} times", (shown >= least) & (shown <= (np.inf if most is None else most)))
    age = ages(catalogue, item_row=samples.item_row, time_us=samples.requests.time_us[samples.request])
    for name, start, end in AGES:
        yield Slice(f"age {name}", (age >= start) & (age < (np.inf if end is None else end)))
