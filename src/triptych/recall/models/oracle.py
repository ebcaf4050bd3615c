"""The oracle: knows the judgements, and so shows how high a table can go.

Ranks by judged grade, then by training popularity, then by item row; an item that was not judged for the query has
grade 0. It is not a perfect score: what people click is noisy, and nobody can know the noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.foundation.artifact import write_json
from triptych.foundation.errors import DataError, EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import Request, RetrieverConfig, rank

CONFIG_FILE, QUERIES = "config.json", "queries.json"


class OracleConfig(RetrieverConfig):
    """The oracle has nothing to set."""

    kind: Literal["oracle"] = "oracle"
    """Name of the file that defines it."""


CONFIG = OracleConfig


class _Judged(NamedTuple):
    """Grades by query."""

    offsets: NDArray[np.int64]
    """``[queries + 1]``"""
    item_rows: NDArray[np.int64]
    grades: NDArray[np.float64]
    tie_breaks: NDArray[np.float64]
    """``[items]``, training popularity scaled to less than a grade: added, it orders items of equal grade."""


class Oracle:
    """Ranks by what the judgements say; for reports, never for users."""

    name = "oracle"

    def __init__(self, queries: Sequence[str], judged: _Judged) -> None:
        """Wrap grades; use `fit` or `load`."""
        self._query_rows = {query: row for row, query in enumerate(queries)}
        self._judged = judged

    @classmethod
    def fit(cls, catalogue: Catalogue, *, counts: NDArray[np.float64], config: OracleConfig | None = None) -> Self:
        """Read a catalogue's judgements.

        Args:
            catalogue: whose judgements.
            counts: ``[items]``, training popularity (`Popularity.counts`).
            config: has nothing to set.

        Raises:
            DataError: the catalogue has no judgements.
        """
        judgements = catalogue.judgements
        if judgements is None or judgements.is_empty():
            raise DataError("judgements: the catalogue has none, so there is no oracle.")
        ordered = judgements.sort("query_row", "item_row", maintain_order=True)
        grades = ordered["grade"].to_numpy().astype(np.float64)
        levels = np.unique(np.append(grades, 0.0))
        # popularity must not overrule a grade: spread it over half the smallest gap between two
        gap = float(np.diff(levels).min()) if len(levels) > 1 else 1.0
        ends = np.cumsum(np.bincount(ordered["query_row"].to_numpy(), minlength=catalogue.num_queries))
        judged = _Judged(
            offsets=np.concatenate([[0], ends]).astype(np.int64),
            item_rows=ordered["item_row"].to_numpy().astype(np.int64),
            grades=grades,
            tie_breaks=counts / (float(counts.max(initial=0)) + 1.0) * (gap / 2),
        )
        return cls(catalogue.queries, judged)

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k best items of each query: all items are ranked, judged or not.

        Raises:
            EngineError: a request has no query text.
        """
        hits = Hits.empty(len(requests), k)
        for place, request in enumerate(requests):
            if request.query is None:
                raise EngineError("The oracle knows grades of queries only; this request has no query text.")
            scores = self._judged.tie_breaks.copy()
            row = self._query_rows.get(request.query)
            if row is not None:
                own = slice(self._judged.offsets[row], self._judged.offsets[row + 1])
                scores[self._judged.item_rows[own]] += self._judged.grades[own]
            kept = scores.astype(np.float32)
            if request.keep is not None:
                kept[~request.keep] = -np.inf
            found = rank(kept[None], k=k)
            hits.item_rows[place], hits.scores[place] = found.item_rows[0], found.scores[0]
        return hits

    def save(self, folder: Path) -> None:
        """Write npy and JSON files."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, OracleConfig().dump())
        write_json(folder / QUERIES, list(self._query_rows))
        for name, array in self._judged._asdict().items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        queries = json.loads((folder / QUERIES).read_text(encoding="utf-8"))
        arrays = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in _Judged._fields)
        return cls(queries, _Judged(*arrays))
