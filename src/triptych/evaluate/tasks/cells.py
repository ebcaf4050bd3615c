"""Search by delivery cell: does a model find, among what can be delivered there, what people in a cell clicked next?

Protocol (SMGR): the unit is a query in a delivery cell. The clicks, carts and orders of all users in that cell under
that query in the held-out period are one target set; the candidates are the items delivered to the cell, and no other
can be in an answer; each metric is a mean over units. An item delivered to several cells is a candidate, and may be a
target, in each. SMGR's cut-offs are `KS`.

One query asked in several cells is not several independent pieces of evidence, so the intervals draw queries, each
with all its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.engine.filters import FilterColumns, Filters
from triptych.evaluate.measure import (
    GRADED_K,
    Answer,
    Problem,
    judged_targets,
    measure,
    query_categories,
    relevant_targets,
    some_requests,
    take_queries,
)
from triptych.evaluate.slices import Slice, search_slices
from triptych.evaluate.tasks.base import EvaluationConfig, Models, TaskResult, retrieve_all, seeds_of
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import BoolArray, IntArray, TargetSets
from triptych.recall.base import Request, Retriever

TASK = "cells"
KS = (5, 10, 20)
"""The cut-offs of SMGR's tables."""
_AVERAGED = "averaged over pairs of a query and a delivery cell. Only items delivered to the cell are ranked."
MEANINGS = {
    "recall": f"Share of what was chosen under a query in a cell that stands among the first K; {_AVERAGED}",
    "ndcg": "Σ 1/log2(rank + 1) over the targets among the first K, divided by the same sum with all targets first; "
    + _AVERAGED,
    "ndcg_graded": "NDCG with gain 2^grade − 1 and log2 discount over the judged items delivered to the cell; an item "
    "without a judgement gains nothing. Pairs without a judgement above 0 are left out.",
    "mrr": "1 / rank of the first target, 0 where none stands among the first K; averaged over query–cell pairs.",
    "hit_rate": "Share of query–cell pairs with at least one target among the first K.",
    "relevance": "Share of the first K whose judged grade is at least the highest in the judgements (or the one set in "
    "the config); pairs without a judged item in the cell are left out.",
    "category": "Share of the first K whose category is one of the query's: those with a tenth or more of what was "
    "chosen under it in training, in whatever cell; pairs whose query training has not met are left out.",
    "coverage": "Share of the catalogue that is among the first K of at least one query–cell pair.",
}

Delivered = Callable[[int], BoolArray]
"""Cell → which items are delivered to it, bool `[items]`; the same array for the same cell asked twice in a row."""


class _Units(NamedTuple):
    """What is asked, sorted by cell, then query."""

    query_row: IntArray
    cell: IntArray
    """Place among `names`."""
    names: Sequence[str]
    """Of the cells."""
    num_unknown: int
    """Choices left out: of items that, by the items table, are not delivered to the cell they were chosen in."""

    def places(self, cell: int) -> slice:
        """The run of units of one cell."""
        return slice(*np.searchsorted(self.cell, [cell, cell + 1]).tolist())


def evaluate(
    models: Models, *, catalogue: Catalogue, split: Split, config: EvaluationConfig, with_chance: bool = False
) -> TaskResult:
    """Compare retrievers on the queries of a held-out period, cell by cell.

    Args:
        models: Name → retriever that heeds `Request.keep`, or one for each seed.
        catalogue: Items with their cells, events with theirs, queries and judgements.
        split: The periods.
        config: Cut-offs, number of resamples, which models the claims speak of; `max_queries` counts units.
        with_chance: Whether a row says what answers drawn at random from the cell would have.

    Returns:
        As `search.evaluate`, with a row for each unit in the values.

    Raises:
        DataError: No choice of the period has a query and a cell, no item has cells, or a retriever returned an item
            that is not delivered to the cell: it cannot filter.
    """
    delivered = _delivered(catalogue)
    units, problem = _problem(catalogue, split=split, config=config, delivered=delivered)
    answers = {
        model: [
            Answer.of(
                _retrieve(
                    retriever,
                    units,
                    catalogue=catalogue,
                    delivered=delivered,
                    k=max(*config.ks, GRADED_K),
                    label=f"search by cell with {model}" + (f", seed {seed}" if len(retrievers) > 1 else ""),
                ),
                problem,
            )
            for seed, retriever in enumerate(retrievers)
        ]
        for model, retrievers in seeds_of(models).items()
    }
    slices = _slices(catalogue, split=split, units=units, targets=problem.targets)
    measured = measure(
        answers,
        slices=slices,
        asked={
            "query_row": pl.Series(units.query_row, dtype=pl.Int32),
            "query": pl.Series([catalogue.queries[row] for row in units.query_row]),
            "cell": pl.Series([units.names[cell] for cell in units.cell]),
        },
        task=TASK,
        num_items=catalogue.num_items,
        config=config,
        drawn_by="query_row",
        num_candidates=_num_candidates(units, delivered) if with_chance else None,
    )
    return TaskResult(
        task=TASK,
        title="Search by delivery cell: what was clicked there next",
        records=measured.records,
        per_query=measured.per_query,
        definitions={one.name: one.definition for one in slices},
        meanings=MEANINGS,
        drawn_by="query_row",
    )


def some(catalogue: Catalogue, *, split: Split, config: EvaluationConfig, count: int) -> list[Request]:
    """Draw requests of those that `evaluate` asks, by cell; fewer where there are fewer.

    Raises:
        DataError: As `evaluate`.
    """
    delivered = _delivered(catalogue)
    units, _ = _problem(catalogue, split=split, config=config, delivered=delivered)
    drawn = np.sort(np.random.default_rng(config.seed).permutation(len(units.cell))[:count])
    return [
        Request(query=catalogue.queries[query_row], keep=delivered(cell))
        for query_row, cell in zip(units.query_row[drawn].tolist(), units.cell[drawn].tolist(), strict=True)
    ]


def _delivered(catalogue: Catalogue) -> Delivered:
    """Read which items are delivered where.

    Raises:
        DataError: No item has cells.
    """
    columns = FilterColumns.of(catalogue.items)
    if not columns.cells.names:
        raise DataError(
            "items: no item has delivery cells, so search cannot be measured by cell. Name the column with cells under "
            "[items]."
        )
    names, known = _cell_names(catalogue), set(columns.cells.names)

    @lru_cache(maxsize=1)  # units are sorted by cell, and masks of all cells at once may not fit into memory
    def mask(cell: int) -> BoolArray:
        found = columns.mask(Filters(cell=names[cell])) if names[cell] in known else None
        return np.zeros(catalogue.num_items, dtype=np.bool_) if found is None else found

    return mask


def _cell_names(catalogue: Catalogue) -> list[str]:
    dtype = catalogue.events["cell"].dtype
    assert isinstance(dtype, pl.Enum)
    return dtype.categories.to_list()


def _problem(
    catalogue: Catalogue, *, split: Split, config: EvaluationConfig, delivered: Delivered
) -> tuple[_Units, Problem]:
    """Collect the units of the period, their chosen items and their judgements.

    Raises:
        DataError: There is no unit.
    """
    found = split.cell_targets(catalogue, config.part)
    everything = TargetSets(found.offsets, found.item_rows.astype(np.int64))
    units = _Units(found.query_row.astype(np.int64), found.cell.astype(np.int64), _cell_names(catalogue), 0)
    targets = _inside(everything, units, delivered)
    with_targets = np.flatnonzero(np.diff(targets.offsets))
    if not len(with_targets):
        raise DataError(
            f"evaluate: no choice of the {config.part} period has a query and a delivery cell that its item is "
            "delivered to, so search cannot be measured by cell. Check the events' query and cell columns and the "
            "items' cells, or choose earlier split dates."
        )
    chosen = with_targets[some_requests(len(with_targets), config=config)]
    num_unknown = len(everything.item_rows) - len(targets.item_rows)
    units = units._replace(query_row=units.query_row[chosen], cell=units.cell[chosen], num_unknown=num_unknown)
    judged = judged_targets(catalogue, query_rows=units.query_row)
    judged = None if judged is None else _inside(judged, units, delivered)
    relevant = None if judged is None else relevant_targets(judged, catalogue=catalogue, config=config)
    categories = query_categories(catalogue, split=split, query_rows=units.query_row)
    return units, Problem(take_queries(targets, chosen=chosen), judged, relevant, categories)


def _inside(sets: TargetSets, units: _Units, delivered: Delivered) -> TargetSets:
    """Keep, of the items of each unit, those that are delivered to its cell."""
    cell_of_pair = units.cell[sets.query_of_pair]
    keep = np.zeros(len(sets.item_rows), dtype=np.bool_)
    for cell in np.unique(units.cell):
        own = slice(*np.searchsorted(cell_of_pair, [cell, cell + 1]).tolist())
        keep[own] = delivered(int(cell))[sets.item_rows[own]]
    sizes = np.bincount(sets.query_of_pair[keep], minlength=sets.num_queries)
    grades = None if sets.grades is None else sets.grades[keep]
    return TargetSets(np.concatenate([[0], np.cumsum(sizes)]), sets.item_rows[keep], grades)


def _retrieve(
    retriever: Retriever, units: _Units, *, catalogue: Catalogue, delivered: Delivered, k: int, label: str
) -> IntArray:
    """Ask for every unit's items among those delivered to its cell: int64 `[units, k]`.

    Raises:
        DataError: An answer holds an item that is not delivered there.
    """

    def make(position: int) -> Request:
        return Request(query=catalogue.queries[units.query_row[position]], keep=delivered(int(units.cell[position])))

    item_rows = retrieve_all(retriever, num_requests=len(units.cell), make=make, k=k, label=label)
    for cell in np.unique(units.cell):
        answered = item_rows[units.places(int(cell))]
        outside = answered[(answered >= 0) & ~delivered(int(cell))[answered]]
        if len(outside):
            raise DataError(
                f"evaluate: retriever '{retriever.name}' returned item '{catalogue.item_ids[outside[0]]}' for cell "
                f"'{units.names[cell]}', where it is not delivered: it does not heed Request.keep, and a retriever "
                "that cannot filter cannot be measured by cell. Leave it out."
            )
    return item_rows


def _num_candidates(units: _Units, delivered: Delivered) -> IntArray:
    """Count the items delivered to each unit's cell: int64 `[units]`."""
    counts = np.zeros(len(units.cell), dtype=np.int64)
    for cell in np.unique(units.cell):
        counts[units.places(int(cell))] = np.count_nonzero(delivered(int(cell)))
    return counts


def _slices(catalogue: Catalogue, *, split: Split, units: _Units, targets: TargetSets) -> list[Slice]:
    """List the slices of search; what is in the first is told anew."""
    found = search_slices(catalogue, split=split, query_rows=units.query_row, targets=targets)
    unknown = (
        f" {units.num_unknown:,} choices of items that are not delivered to the cell they were chosen in are left out."
        if units.num_unknown
        else ""
    )
    everything = f"Every query of the period in every delivery cell where something was chosen under it.{unknown}"
    return [one._replace(definition=everything) if one.name == "all" else one for one in found]
