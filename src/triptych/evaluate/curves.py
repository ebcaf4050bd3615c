"""What training logs say: curves, the balance of modalities, and whether a second look at the data did harm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Lines = Sequence[Mapping[str, Any]]
"""Records of one `train.jsonl`."""

NOT_MEASURED = ("event", "step", "seconds", "validation_seconds", "phase", "epoch")
"""Fields of a validation's record that are no metrics."""
EPOCH = "epoch"
LOSS = "loss of "
"""What the name of a loss in a record of validation begins with: lower is better."""
RATIO = "gradient photo / text"


def learned(lines: Lines) -> list[dict[str, Any]]:
    """Return the records of training, with the ratio of the gradient norms of photo and text where both are there.

    The ratio is the diagnostic of modality neglect: near 0, the photo's part of the model has stopped to learn.
    """
    found = [dict(line) for line in lines if line["event"] == "train"]
    for line in found:
        photo, text = (_any(line, ending) for ending in ("grad_norm/photo", "grad_norm/text"))
        if photo is not None and text:
            line[RATIO] = photo / text
    return found


def checked(lines: Lines) -> list[dict[str, Any]]:
    """Return the records of validation."""
    return [dict(line) for line in lines if line["event"] == "validation"]


def metrics_of(curves: Iterable[Lines]) -> list[str]:
    """List the metrics in records of validation, in order of first appearance."""
    fields = dict.fromkeys(field for lines in curves for line in lines for field in line)
    return [field for field in fields if field not in NOT_MEASURED]


def stage_ends(lines: Lines, *, field: str) -> list[Mapping[str, Any]]:
    """Return the last record with that field of every stage but the last one; of a training without stages, none."""
    found = [line for line in lines if isinstance(line.get(field), int | float)]
    return [line for line, after in pairwise(found) if line.get("phase") != after.get("phase")]


def one_epoch_index(lines: Lines, metric: str) -> float | None:
    """Return what a second epoch costs: the best value within the first one, less the value at the end of the second.

    Positive where the second epoch did harm, as in the one-epoch phenomenon of models with fast tables of ids (Zhang et
    al., "Towards understanding the overfitting phenomenon of deep click-through rate models", 2022). Between
    validations values are interpolated.

    Args:
        lines: records of validation, each with its `epoch`.
        metric: name of the metric; higher is better.

    Returns:
        None where the log does not reach from before the end of the first epoch to that of the second.
    """
    points = [(line[EPOCH], line[metric]) for line in lines if EPOCH in line and metric in line]
    epochs, values = np.array(points, dtype=float).reshape(-1, 2).T
    if not len(epochs) or epochs[0] > 1 or epochs[-1] < 2:
        return None
    at_one, at_two = (float(np.interp(end, epochs, values)) for end in (1.0, 2.0))
    return float(max([at_one, *values[epochs <= 1].tolist()]) - at_two)


def _any(line: Mapping[str, Any], ending: str) -> float | None:
    value = line.get(ending)
    return float(value) if isinstance(value, int | float) else None
