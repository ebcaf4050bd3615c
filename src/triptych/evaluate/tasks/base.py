"""What every evaluation task shares: its settings, its result, and how retrievers are asked in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from triptych.data.splits import Part
from triptych.data.targets import HistoryFrom, UserItems
from triptych.evaluate.records import AnyRecord
from triptych.foundation.config import Config
from triptych.foundation.errors import DataError
from triptych.foundation.progress import Progress
from triptych.metrics.ranking import IntArray, TargetSets
from triptych.recall.base import Request, Retriever

Models = Mapping[str, Retriever | Sequence[Retriever]]
"""Model name → its retriever, or one retriever for each seed."""

BATCH = 512
"""Requests given to a retriever at a time; no number depends on it."""


class EvaluationConfig(Config):
    """How retrievers are compared."""

    part: Part = Part.TEST
    """Held-out period whose clicks are the targets: validation or test. Settings are chosen on validation, and the test
    period is read once."""
    ks: tuple[int, ...] = (5, 10, 20, 100)
    """Cut-offs, ascending."""
    headline_k: int = Field(20, gt=0)
    """The cut-off that is shown first; one of `ks`."""
    model: str = "title+photo"
    """The model that is compared with every other."""
    title_model: str = "title"
    """The same model without photos: what the picture's gain is measured against."""
    control_model: str = "permuted-photo"
    """The same model with photos permuted over items: its gain must vanish."""
    recall_model: str = "recall"
    """The recall model over `model`, which claims to be above it."""
    hybrid_model: str = "hybrid"
    """The fused channels, which claim to be above `model`, `recall_model` and bm25."""
    ranked_model: str = "ranked"
    """The whole line: what is found, its first in the ranker's order, which claims to be above what finds."""
    min_photo_gain: float = Field(1.25, gt=0)
    """Claim: recall of `model` / recall of `title_model` is at least this on the slice photo_only."""
    max_control_gain: float = Field(1.05, gt=0)
    """Claim: recall of `control_model` / recall of `title_model` is at most this on the slice photo_only."""
    relevant_grade: float | None = None
    """Judged grade from which an item counts as relevant; none: the highest in the judgements."""
    bootstrap_repeats: int = Field(2000, ge=100)
    """Resamples behind each interval."""
    seed: int = 0
    """Seed of the resamples and of the examples shown; every interval starts from it afresh."""
    max_queries: int | None = Field(None, gt=0)
    """Evaluate this many queries (users), drawn at random; none: all."""
    users_per_query: int | None = Field(None, gt=0)
    """Search: ask each query for up to so many of the users who chose something under it in the part, each with his
    history before that, and average his metrics; every model is then asked so often. None: once, for nobody known, or,
    in a run with a ranker, for one of those."""
    history: HistoryFrom = HistoryFrom.EARLIER
    """What a recommendation starts from and leaves out: a user's choices in all earlier parts, or in train alone."""
    examples: int = Field(12, ge=0)
    """Queries shown with photos in the report."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.part is Part.TRAIN:
            raise ValueError("part must be 'validation' or 'test': the training period was learnt from.")
        if not self.ks or list(self.ks) != sorted(set(self.ks)) or self.ks[0] < 1:
            raise ValueError(f"ks must be distinct cut-offs from 1 up in ascending order, not {list(self.ks)}.")
        if self.headline_k not in self.ks:
            raise ValueError(f"headline_k is {self.headline_k}, which is not one of ks {list(self.ks)}.")
        return self


class Rankings(NamedTuple):
    """What was retrieved, kept for the examples of the report."""

    query_rows: IntArray
    """`[queries]`: rows of the catalogue's queries, or of its users where there are histories."""
    targets: TargetSets
    item_rows: Mapping[str, IntArray]
    """Model → `[queries, k]` of its first seed, padded with -1."""
    histories: UserItems | None = None
    """What each user had chosen before; None where queries ask."""
    by_seed: Mapping[str, Sequence[IntArray]] | None = None
    """Model → as `item_rows`, of each of its seeds; None: of the first alone."""

    def seeds(self, model: str) -> Sequence[IntArray]:
        """Return what a model retrieved, ``[queries, k]`` for each seed that is kept."""
        return [self.item_rows[model]] if self.by_seed is None else self.by_seed[model]


@dataclass(frozen=True)
class TaskResult:
    """What a task hands to the report."""

    task: str
    title: str
    """The task in a few words."""
    records: Sequence[AnyRecord]
    per_query: pl.DataFrame
    """One row per slice, model, seed and query; a column per metric. Every interval can be computed from it again."""
    definitions: Mapping[str, str] = field(default_factory=dict)
    """Slice → what is in it."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """Metric → what it means in this task, where that is not what `definitions.METRICS` says."""
    rankings: Rankings | None = None
    drawn_by: str | None = None
    """Column of `per_query` whose equal values were resampled together; None: each row of a slice by itself."""
    weighed_by: str | None = None
    """Column of `per_query` that says how often a row counts, as a whole number; its repetitions are resampled
    together. None: once."""


def seeds_of(models: Models) -> dict[str, Sequence[Retriever]]:
    """Give every model a list of retrievers, one for each seed.

    Raises:
        DataError: There is no model, or a model has no retriever.
    """
    listed: dict[str, Sequence[Retriever]] = {
        name: list(one) if isinstance(one, Sequence) else [one] for name, one in models.items()
    }
    if not listed:
        raise DataError("evaluate: there is no retriever to evaluate; give at least one.")
    for name, retrievers in listed.items():
        if not retrievers:
            raise DataError(f"evaluate: model '{name}' has an empty list of retrievers; give one for each seed.")
    return listed


def retrieve_all(
    retriever: Retriever,
    *,
    num_requests: int,
    make: Callable[[int], Request],
    k: int,
    label: str,
) -> IntArray:
    """Ask a retriever for `k` items for every request, in batches.

    Args:
        retriever: Whom to ask.
        num_requests: How many requests there are.
        make: Position → request; called when its batch is due, so that photos need not all be in memory.
        k: Items per request.
        label: Shown beside the progress.

    Returns:
        int64 `[num_requests, k]`, padded with -1.

    Raises:
        DataError: The retriever returned something of another shape.
    """
    item_rows = np.full((num_requests, k), -1, dtype=np.int64)
    with Progress(label, total=num_requests, unit="request") as bar:
        for start in range(0, num_requests, BATCH):
            stop = min(start + BATCH, num_requests)
            found = retriever.retrieve([make(position) for position in range(start, stop)], k).item_rows
            if found.ndim != 2 or len(found) != stop - start or found.shape[1] > k:
                raise DataError(
                    f"evaluate: retriever '{retriever.name}' returned item rows of shape {found.shape} for "
                    f"{stop - start} requests and k = {k}; it must return one row per request and k columns."
                )
            item_rows[start:stop, : found.shape[1]] = found
            bar.advance(stop - start)
    return item_rows
