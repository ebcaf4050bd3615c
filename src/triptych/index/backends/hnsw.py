"""A navigable graph: every item is linked to near ones, and a search walks from link to link towards its query.

Fast for single queries at high recall. What it costs: building takes several times as long as lists (`ivf`), links take
memory beside a second copy of the vectors, and filters work badly, since the walk passes through items that may not be
returned. So filters are searched exactly up to a larger share than elsewhere. Under a wider one the walk is the one
without a filter, so much longer, and what may be returned is taken from the nearest that it met: so it finds of them
what it finds of all. Where they are too few, because the filter keeps nothing of that region, the query is searched
exactly (`triptych.index.approximate`). A walk that collects only what is kept ends, there, at whatever it meets first.

With more than one thread the graph, and with it which items are missed, differs a little from build to build.

Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
Small World graphs" (2018); the graph is faiss's. It is built by inner product, which is right for vectors of equal
length (ours have length 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.index.approximate import ApproximateConfig, float32_blocks
from triptych.index.base import Trial
from triptych.index.faiss_structures import read_structure, write_structure
from triptych.index.stored import NumberFormat, StoredVectors

EF_TRIED = (100, 200, 400, 800, 1600)
"""Widths that a sweep tries."""
SPARE = 1.25
"""Times the places wanted, of kept items, that a walk under a filter is long enough for: some queries meet fewer."""
BUILDS_TRIED: tuple[dict[str, int], ...] = ({}, {"links": 8}, {"links": 32}, {"ef_construction": 40})
"""Graphs that a sweep builds: by default, with half and twice the links, and with less care."""


class HnswConfig(ApproximateConfig):
    """A navigable graph."""

    kind: Literal["hnsw"] = "hnsw"
    """Name of the file that defines it."""
    exact_below_rate: float = Field(0.2, ge=0, le=1)
    """A filter that keeps at most this share of the items is searched exactly over what it keeps: that misses nothing,
    and is faster than walking through items that may not be returned."""
    links: int = Field(16, ge=2, le=256)
    """Links of an item on every level but the lowest, which has twice as many (M in the paper)."""
    ef_construction: int = Field(100, ge=1)
    """Candidates held while an item's links are chosen."""
    ef_search: int = Field(200, ge=1)
    """Candidates held while a query walks; at least as many as places are wanted. A filter multiplies it by one over
    the share it keeps; where fewer than wanted of those may be returned, the query is searched exactly."""
    refine: int = Field(1, ge=1)
    """Candidates for each place wanted, among which true scores decide. The graph compares the vectors as stored, so
    one is enough."""

    search_fields: ClassVar[frozenset[str]] = ApproximateConfig.search_fields | {"ef_search"}

    @classmethod
    def grid(cls, num_items: int) -> list[Trial]:
        """Try the default first, then other graphs: each is walked as by default, and in other widths."""
        default = cls().ef_search
        widths = [ef for ef in EF_TRIED if ef != default and (ef < num_items or ef == EF_TRIED[0])]
        searches: list[dict[str, Any]] = [{}, *({"ef_search": ef} for ef in widths)]
        return [Trial(cls.parse(build), searches) for build in BUILDS_TRIED]

    @property
    def candidates_per_place(self) -> int:
        """As `refine`."""
        return self.refine

    def organise(self, stored: StoredVectors) -> Graph | None:
        """Insert every row."""
        if stored.num_rows == 0:
            return None
        import faiss

        if stored.number_format is NumberFormat.FLOAT16:
            half = faiss.ScalarQuantizer.QT_fp16
            index = faiss.IndexHNSWSQ(stored.dim, half, self.links, faiss.METRIC_INNER_PRODUCT)
            index.train(stored.take(np.zeros(1, np.int64)))  # marks it as ready; there is nothing to learn
        else:
            index = faiss.IndexHNSWFlat(stored.dim, self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        for block in float32_blocks(stored, label="index graph"):
            index.add(block)
        return Graph(index, self)

    def open_structure(self, path: Path) -> Graph:
        """Read the graph into memory."""
        return Graph(read_structure(path), self)


CONFIG = HnswConfig


@dataclass(frozen=True, eq=False)
class Graph:
    """faiss's graph, which is only read."""

    index: Any
    config: HnswConfig

    @property
    def num_rows(self) -> int:
        """Rows in the graph."""
        return int(self.index.ntotal)

    @property
    def memory_bytes(self) -> int:
        """Vectors and links."""
        number = 2 if self.config.stored_as is NumberFormat.FLOAT16 else 4
        return int(self.num_rows * self.index.d * number + self.index.hnsw.neighbors.size() * 4)

    def propose(
        self, queries: NDArray[np.float32], *, places: int, kept: NDArray[np.bool_] | None, widening: float
    ) -> NDArray[np.int64]:
        """Return the best rows that the walk met; under a filter those of them that are kept."""
        import faiss

        if kept is None:
            ef = min(self.num_rows, max(places, self.config.ef_search))
            met: NDArray[np.int64] = self.index.search(queries, places, params=faiss.SearchParametersHNSW(efSearch=ef))[
                1
            ]
            return met
        wanted = max(math.ceil(SPARE * places), self.config.ef_search)
        ef = min(self.num_rows, math.ceil(wanted * widening))
        met = self.index.search(queries, ef, params=faiss.SearchParametersHNSW(efSearch=ef))[1]
        is_kept = (met >= 0) & kept[met]
        first = np.argsort(~is_kept, axis=1, kind="stable")[:, :places]  # those that are kept, nearest first
        return np.where(np.take_along_axis(is_kept, first, axis=1), np.take_along_axis(met, first, axis=1), -1)

    def tuned(self, config: HnswConfig) -> Graph:
        """Return the same graph, searched by another config."""
        return replace(self, config=config)

    def write(self, path: Path) -> None:
        """Write it in faiss's own format."""
        write_structure(self.index, path)
