"""Ranking: of what was shown, does a score put first what was chosen, and is its probability true?

Protocol: every item that a search of the held-out period showed is a sample, chosen or not; nothing else is ranked. The
ranker stands beside what costs nothing to ask: popularity of training, the served encoder's cosine, the recall model's
score, and the training part's rate as everybody's probability. What was shown was chosen by whoever showed it, so these
figures do not say how much of what is relevant a shop would find: the search table does.

Intervals draw users (or requests) again, with all that each was shown. An overall AUC is no mean over samples; its
interval is that of its first-order expansion (`metrics.classification.auc_values`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.compare import Column, Comparison, Values
from triptych.evaluate.definitions import RANKING_BY
from triptych.evaluate.measure import some_requests
from triptych.evaluate.records import AnyRecord, Role, role_of
from triptych.evaluate.tasks.base import EvaluationConfig, TaskResult
from triptych.foundation.errors import DataError
from triptych.metrics.calibration import expected_calibration_error
from triptych.metrics.classification import auc_values, group_aucs, sample_log_losses
from triptych.metrics.ranking import BoolArray, FloatArray, IntArray
from triptych.ranker.measure import GroupBy, groups_of, slices
from triptych.ranker.samples import Samples, read_samples
from triptych.ranker.scorer import Ranker
from triptych.recall.models.popularity import Popularity

CONSTANT = "constant"
"""Row of the training part's rate, as the probability of everything."""
AUC, GAUC, LOG_LOSS = Column("auc"), Column("gauc"), Column("log_loss")
PREDICTED, OBSERVED = Column("predicted"), Column("observed")
CALIBRATION, RATIO = Column("calibration_error"), Column("predicted_over_observed")

Ranks = Popularity | Ranker
"""What gives a score to what was shown."""


class Scored(NamedTuple):
    """What one model says of the samples."""

    by_seed: Sequence[NDArray[Any]]
    """Scores ``[samples]`` for each seed."""
    are_logits: bool = False
    """Whether they are log odds, so that there are probabilities to be judged."""


def evaluate(
    models: Mapping[str, Ranks | Sequence[Ranks]],
    *,
    catalogue: Catalogue,
    split: Split,
    config: EvaluationConfig,
    with_chance: bool = False,
) -> TaskResult:
    """Compare rankers on all that a held-out part showed, by user.

    Args:
        models: name → what scores, or one for each seed.
        catalogue: whose log.
        split: the parts.
        config: which part, resamples; of more than `max_queries` requests so many are drawn.
        with_chance: without effect: the training part's rate for everything stands in every such table.

    Raises:
        DataError: nothing was shown in the part, or all of it chosen, or nothing.
    """
    del with_chance
    samples = read_samples(catalogue, places=split.part(config.part))
    samples = samples.of_requests(some_requests(len(samples.requests.time_us), config=config))
    listed = {name: list(one) if isinstance(one, Sequence) else [one] for name, one in models.items()}
    return compare(
        {name: _scored(by_seed, samples) for name, by_seed in listed.items()},
        samples=samples,
        train=read_samples(catalogue, places=split.train),
        catalogue=catalogue,
        by=GroupBy.USER,
        config=config,
    )


def compare(
    models: Mapping[str, Scored],
    *,
    samples: Samples,
    train: Samples,
    catalogue: Catalogue,
    by: GroupBy,
    config: EvaluationConfig,
    main: str | None = None,
) -> TaskResult:
    """Compare scores of what was shown in a held-out period.

    Args:
        models: name → scores of `samples`.
        samples: of the period.
        train: of the training part: by what it has shown slices are cut, and its rate is the row `CONSTANT`.
        catalogue: items, users.
        by: within what GAUC judges the order, and what the intervals draw.
        config: resamples; which period.
        main: the model that is compared with every other; None: none is.

    Raises:
        DataError: nothing was shown in the period, or nothing of it chosen, or everything.
    """
    if not len(samples.label) or samples.label.all() or not samples.label.any():
        raise DataError(
            f"evaluate: what searches of the {config.part} period showed was all chosen or all left, so there is no "
            "order to be measured. Check the impressions of the log, or choose other split dates."
        )
    task = RANKING_BY[by.value]
    rate = float(train.label.mean())
    flat = np.full(len(samples.label), np.log(rate) - np.log1p(-rate))
    models = {CONSTANT: Scored([flat], are_logits=True), **models}
    groups = _drawn_together(samples, by=by)
    records: list[AnyRecord] = []
    frames: list[pl.DataFrame] = []
    definitions = {}
    for one in _slices(samples, train=train, catalogue=catalogue):
        inside = _Inside(samples, keep=one.keep, groups=groups, is_group=groups_of(samples, by=by) >= 0)
        values = {name: _columns(scored, inside) for name, scored in models.items()}
        comparison = Comparison(
            values,
            task=task,
            slice_name=one.name,
            split=config.part.value,
            config=config,
            groups=groups[one.keep],
        )
        records += _records(comparison, models, inside, main=main)
        frames += _frames(values, one.name, inside, catalogue=catalogue, by=by)
        definitions[one.name] = one.definition
    return TaskResult(
        task=task,
        title=f"Ranking: of what was shown, what was chosen (by {by.value})",
        records=records,
        per_query=pl.concat(frames, how="diagonal"),
        definitions=definitions,
        weighed_by="samples",
    )


def _scored(by_seed: Sequence[Ranks], samples: Samples) -> Scored:
    scores = [
        one.counts[samples.item_row].astype(np.float64) if isinstance(one, Popularity) else one.score_samples(samples)
        for one in by_seed
    ]
    return Scored(scores, are_logits=not isinstance(by_seed[0], Popularity))


class _Slice(NamedTuple):
    name: str
    definition: str
    keep: BoolArray


class _Inside(NamedTuple):
    """The samples of a slice."""

    samples: Samples
    keep: BoolArray
    groups: IntArray
    """``[all samples]``, what is drawn together."""
    is_group: BoolArray
    """``[all samples]``, whether GAUC judges it: of an unknown user's it does not."""

    @property
    def labels(self) -> BoolArray:
        """``[samples of the slice]``."""
        return self.samples.label[self.keep]


def _slices(samples: Samples, *, train: Samples, catalogue: Catalogue) -> list[_Slice]:
    """All samples, and those by how often their item was shown in training and by its age; none without both labels."""
    every = "Everything that searches of the period showed."
    found = [_Slice("all", every, np.ones(len(samples.label), dtype=np.bool_))]
    for one in slices(samples, train=train, catalogue=catalogue):
        what = "the item was shown so often in training" if one.name.startswith("shown") else "the item was so old"
        found.append(_Slice(one.name, f"Samples in which {what}.", one.keep))
    return [one for one in found if samples.label[one.keep].any() and not samples.label[one.keep].all()]


def _drawn_together(samples: Samples, *, by: GroupBy) -> IntArray:
    """Number what the intervals draw ``[samples]``: users or requests; each request of an unknown user by itself."""
    groups = groups_of(samples, by=by)
    return np.where(groups >= 0, groups, groups.max(initial=-1) + 1 + samples.request)


def _columns(scored: Scored, inside: _Inside) -> dict[Column, FloatArray]:
    """Every metric of one model on one slice as values of samples, of which it is the mean: ``[seeds, samples]``."""
    by_seed = [np.asarray(one, dtype=np.float64)[inside.keep] for one in scored.by_seed]
    labels = inside.labels
    columns = {AUC: [auc_values(labels, one) for one in by_seed], GAUC: [_group_values(one, inside) for one in by_seed]}
    if scored.are_logits:
        columns[LOG_LOSS] = [sample_log_losses(labels, one) for one in by_seed]
        columns[PREDICTED] = [expit(one) for one in by_seed]
        columns[OBSERVED] = [labels.astype(np.float64)] * len(by_seed)
    return {column: np.stack(values) for column, values in columns.items()}


def _group_values(scores: FloatArray, inside: _Inside) -> FloatArray:
    """Give each sample the AUC of its group; their mean is GAUC, in which groups weigh by samples."""
    values = np.full(len(scores), np.nan)
    known = inside.is_group[inside.keep]
    groups = inside.groups[inside.keep][known]
    found = group_aucs(inside.labels[known], scores[known], groups=groups)
    values[known] = found.values[np.searchsorted(found.groups, groups)]
    return values


def _records(
    comparison: Comparison, models: Mapping[str, Scored], inside: _Inside, *, main: str | None
) -> Iterator[AnyRecord]:
    """Every model's figures, then the main one against each other."""
    found: list[AnyRecord | None] = []
    for model, scored in models.items():
        found += [comparison.record(model, column) for column in (AUC, GAUC, LOG_LOSS)]
        found.append(comparison.quotient(model, RATIO, numerator=PREDICTED, denominator=OBSERVED))
        if scored.are_logits:
            errors = [expected_calibration_error(inside.labels, expit(one[inside.keep])) for one in scored.by_seed]
            found.append(
                comparison.constant(
                    model, CALIBRATION, seed_values=np.array(errors), num_queries=int(inside.keep.sum())
                )
            )
    for other in models:
        if main is not None and other != main and role_of(other) is not Role.CEILING:
            found += [comparison.difference(main, baseline=other, column=column) for column in (GAUC, AUC)]
            found.append(comparison.difference(main, baseline=other, column=LOG_LOSS, claim=None))
    yield from (record for record in found if record is not None)


def _frames(
    values: Values, slice_name: str, inside: _Inside, *, catalogue: Catalogue, by: GroupBy
) -> Iterator[pl.DataFrame]:
    """Yield one row for each model, seed and group: its samples, those chosen, its AUC, its mean log loss."""
    groups, start, of = np.unique(inside.groups[inside.keep], return_index=True, return_inverse=True)
    sizes = np.bincount(of)
    positives = np.bincount(of, weights=inside.labels).astype(np.int64)
    names = _names(groups, known=inside.is_group[inside.keep][start], catalogue=catalogue, by=by)
    for model, columns in values.items():
        for seed in range(len(columns[AUC])):
            frame = {
                "slice": pl.Series([slice_name]).new_from_index(0, len(groups)),
                "model": pl.Series([model]).new_from_index(0, len(groups)),
                "seed": np.full(len(groups), seed, dtype=np.int32),
                "group": names,
                "samples": sizes,
                "positives": positives,
                str(GAUC): pl.Series(columns[GAUC][seed][start]).fill_nan(None),
            }
            if LOG_LOSS in columns:
                frame[str(LOG_LOSS)] = np.bincount(of, weights=columns[LOG_LOSS][seed]) / sizes
            yield pl.DataFrame(frame)


def _names(groups: IntArray, *, known: BoolArray, catalogue: Catalogue, by: GroupBy) -> pl.Series:
    """Name what is drawn: a user by his name, a request by its place; None for requests of unknown users."""
    if by is GroupBy.REQUEST:
        return pl.Series([str(group) for group in groups.tolist()], dtype=pl.String)
    users = catalogue.users
    return pl.Series(
        [users[group] if is_known else None for group, is_known in zip(groups.tolist(), known, strict=True)],
        dtype=pl.String,
    )
