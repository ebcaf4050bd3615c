"""What a run's validation part asks by words, and what should be found: by this a run chooses between what it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from triptych.data.askers import draw_askers
from triptych.data.splits import Part, Split, SplitBy
from triptych.evaluate.askers import as_request
from triptych.evaluate.measure import judged_targets
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import TargetSets
from triptych.recall.base import Request
from triptych.recall.validation import VALIDATION_SEED, some_queries
from triptych.recipes.stages import Stages


class Asked(NamedTuple):
    """Queries of the validation part."""

    requests: Sequence[Request]
    """``[n]``."""
    wanted: TargetSets
    """What each should find: with its grades where queries were judged, else what was chosen under it."""


def validation_askers(stages: Stages, *, split: Split, most: int) -> Asked:
    """Draw a fixed sample of the validation part's queries, each asked for one of those who chose something under it.

    He is asked as he was before that, with his history; what should be found is what all users chose.

    Args:
        stages: of the run.
        split: by time.
        most: queries that are drawn.

    Raises:
        DataError: there are none.
    """
    catalogue, asked = stages.catalogue, some_queries(split, most=most)
    places = split.part(Part.VALIDATION)
    askers = draw_askers(catalogue, places=places, query_rows=asked.query_rows, most=1, seed=VALIDATION_SEED)
    queries = [catalogue.queries[row] for row in asked.query_rows]
    requests = [
        as_request(askers, place, queries=queries, users=catalogue.users) for place in range(len(askers.query_of))
    ]
    return Asked(requests, asked.wanted)


def validation_queries(stages: Stages, *, split: Split, most: int) -> Asked:
    """Draw a fixed sample of the validation part's queries.

    Args:
        stages: of the run.
        split: by time, or of judged queries.
        most: how many are drawn.

    Raises:
        DataError: there are none.
    """
    catalogue = stages.catalogue
    if split.config.by is not SplitBy.QUERY:
        asked = some_queries(split, most=most)
        return Asked([Request(query=catalogue.queries[row]) for row in asked.query_rows], asked.wanted)
    rows = split.query_rows(Part.VALIDATION, catalogue=catalogue)
    rows = np.sort(np.random.default_rng(VALIDATION_SEED).permutation(rows)[:most])
    wanted = judged_targets(catalogue, query_rows=rows)
    if wanted is None:
        raise DataError("judgements: no query of the validation part was judged, so nothing can be chosen there.")
    return Asked([Request(query=catalogue.queries[row]) for row in rows], wanted)
