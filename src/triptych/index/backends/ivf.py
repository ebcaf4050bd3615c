"""Inverted lists: items lie in lists around learned centres, and a search looks into the lists nearest to its query.

The choice above a few hundred thousand items: quick to build, one byte a number with ``sq8``, filters and removals cost
little. Vectors should have about equal lengths (ours have length 1): lists are chosen by the inner product with a
centre of length 1, so items much longer than others are found in fewer searches than they belong to.

Source: Jégou et al., "Product Quantization for Nearest Neighbor Search" (2011), section IV (inverted lists over
residuals); 4-bit codes: André et al., "Quicker ADC" (2018). The lists are faiss's; which lists are looked into is
computed here by exact search over the centres, because faiss's own choice depends, at near ties, on the batch's size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from triptych.foundation.errors import ConfigError
from triptych.index.approximate import ApproximateConfig, float32_blocks
from triptych.index.base import Trial
from triptych.index.faiss_structures import read_structure, selector, write_structure
from triptych.index.stored import NumberFormat, StoredVectors
from triptych.index.top_k import Store, exact_top_k

LEAST_PER_LIST = 39
"""Items per list from which its centre is learned, at least, where the number of lists is ours to choose (faiss warns
below)."""
SAMPLE_PER_LIST = 64
PROBE_RATE = 1 / 8
LEAST_PROBES = 16
MOST_PROBES_TRIED = 6
"""Numbers of probes that a sweep tries, the largest powers of two, beside all lists."""
LEAST_ROWS = 16
"""A 4-bit code has as many values, and needs as many items to learn them from."""


class Storage(StrEnum):
    """What the lists hold of an item; the vectors that decide are stored beside them in any case."""

    FLAT = "flat"
    SQ8 = "sq8"
    PQ = "pq"


REFINE = {Storage.FLAT: 1, Storage.SQ8: 2, Storage.PQ: 8}


class IvfConfig(ApproximateConfig):
    """Inverted lists."""

    kind: Literal["ivf"] = "ivf"
    """Name of the file that defines it."""
    storage: Storage = Storage.SQ8
    """What the lists hold of an item: flat (as stored), sq8 (a byte a number), pq (two bits a number: four for each
    pair, compared by table look-ups in registers)."""
    num_lists: int | None = Field(None, ge=1)
    """Lists; none: four times the square root of the number of items, as long as 39 items are left for each."""
    num_probes: int | None = Field(None, ge=1)
    """Lists looked into for a query; none: an eighth of them, at least 16. A filter multiplies it by one over the share
    it keeps."""
    refine: int | None = Field(None, ge=1)
    """Candidates for each place wanted, among which true scores decide; none: 1 for flat, 2 for sq8, 8 for pq."""
    training_sample: int | None = Field(None, ge=1)
    """Items from which centres and codes are learned; none: 64 for each list."""
    seed: int = Field(0, ge=0)
    """Of the sample and of the first centres."""

    search_fields: ClassVar[frozenset[str]] = ApproximateConfig.search_fields | {"num_probes"}

    @classmethod
    def grid(cls, num_items: int) -> list[Trial]:
        """Try the default first, then the other storages and half as many lists, which are learned in half the time.

        Each is searched as it is by default, and with more and more probes up to all lists.
        """
        num_lists = _lists_for(num_items)
        configs = [cls(), *(cls(storage=storage) for storage in Storage if storage is not cls().storage)]
        if num_lists > 1:
            configs.append(cls(num_lists=num_lists // 2))
        return [Trial(config, config._searches(config.num_lists or num_lists)) for config in configs]

    def _searches(self, num_lists: int) -> list[dict[str, Any]]:
        """Return what is tried on one build: nothing changed, then numbers of probes."""
        probes = [2**power for power in range(2, 20) if 2**power < num_lists][-MOST_PROBES_TRIED:]
        return [{}, *({"num_probes": num} for num in [*probes, num_lists] if num != _probes_for(num_lists))]

    @property
    def candidates_per_place(self) -> int:
        """As `refine`, or by the storage."""
        return self.refine or REFINE[self.storage]

    def organise(self, stored: StoredVectors) -> Lists | None:
        """Learn centres and codes from a sample, then put every row into its list."""
        if stored.num_rows < LEAST_ROWS:
            return None
        num_lists = self.num_lists or _lists_for(stored.num_rows)
        sample_size = min(stored.num_rows, self.training_sample or SAMPLE_PER_LIST * num_lists)
        if num_lists > sample_size:
            raise ConfigError(
                f"index.num_lists is {num_lists}, and there are {sample_size} items to learn their centres from; "
                "lower it, or leave it out."
            )
        index = self._empty(stored, num_lists=num_lists)
        rows = np.random.default_rng(self.seed).choice(stored.num_rows, sample_size, replace=False)
        index.train(stored.take(np.sort(rows)))
        for block in float32_blocks(stored, label="index lists"):
            index.add(block)
        return Lists.over(index, config=self)

    def _empty(self, stored: StoredVectors, *, num_lists: int) -> Any:
        """Make faiss's index, not yet trained."""
        import faiss

        dim, metric = stored.dim, faiss.METRIC_INNER_PRODUCT
        centres, scalar = faiss.IndexFlatIP(dim), faiss.ScalarQuantizer
        if self.storage is Storage.PQ:
            if dim % 2:
                raise ConfigError(f"index.storage = 'pq' codes numbers in pairs, and vectors have {dim}; use 'sq8'.")
            index = faiss.IndexIVFPQFastScan(centres, dim, num_lists, dim // 2, 4, metric)
            index.by_residual = True
            index.pq.cp.seed, index.pq.cp.min_points_per_centroid = self.seed, 1
        elif self.storage is Storage.SQ8:
            index = faiss.IndexIVFScalarQuantizer(centres, dim, num_lists, scalar.QT_8bit, metric, True)
        elif stored.number_format is NumberFormat.FLOAT16:
            index = faiss.IndexIVFScalarQuantizer(centres, dim, num_lists, scalar.QT_fp16, metric, False)
        else:
            index = faiss.IndexIVFFlat(centres, dim, num_lists, metric)
        index.cp.seed, index.cp.min_points_per_centroid = self.seed, 1
        index.cp.max_points_per_centroid = 1 << 30  # the sample is ours
        return index

    def open_structure(self, path: Path) -> Lists:
        """Read the lists into memory."""
        return Lists.over(read_structure(path), config=self)


CONFIG = IvfConfig


@dataclass(frozen=True, eq=False)
class Lists:
    """faiss's inverted lists, which are only read, and the centres as exact search reads them."""

    index: Any
    centres: Store
    config: IvfConfig

    @classmethod
    def over(cls, index: Any, *, config: IvfConfig) -> Self:
        """Wrap a filled index."""
        centres = np.asarray(index.quantizer.reconstruct_n(0, index.nlist), np.float32)
        largest = float(np.linalg.norm(centres.astype(np.float64), axis=1).max())
        return cls(index, Store([torch.from_numpy(centres)], largest), config)

    @property
    def num_rows(self) -> int:
        """Rows in the lists."""
        return int(self.index.ntotal)

    @property
    def num_lists(self) -> int:
        """Lists."""
        return int(self.index.nlist)

    @property
    def num_probes(self) -> int:
        """Lists looked into where nothing is filtered."""
        return min(self.config.num_probes or _probes_for(self.num_lists), self.num_lists)

    @property
    def memory_bytes(self) -> int:
        """Codes, row numbers and centres."""
        return int(self.num_rows * (self.index.code_size + 8) + self.num_lists * self.index.d * 4)

    def propose(
        self, queries: NDArray[np.float32], *, places: int, kept: NDArray[np.bool_] | None, widening: float
    ) -> NDArray[np.int64]:
        """Return the rows that score best by their codes, of the lists whose centres are nearest."""
        import faiss

        probes = min(self.num_lists, math.ceil(self.num_probes * widening))
        nearest = exact_top_k(self.centres, queries, k=probes)
        scores = np.empty((len(queries), places), np.float32)
        rows = np.empty((len(queries), places), np.int64)
        point = faiss.swig_ptr
        with selector(kept) as chosen:
            # the wrapper for numpy takes no parameters, so this calls what it wraps
            self.index.search_preassigned_c(
                len(queries),
                point(queries),
                places,
                point(nearest.item_rows),
                point(nearest.scores),
                point(scores),
                point(rows),
                False,
                faiss.SearchParametersIVF(nprobe=probes, sel=chosen),
            )
        return rows

    def tuned(self, config: IvfConfig) -> Lists:
        """Return the same lists, searched by another config."""
        return replace(self, config=config)

    def write(self, path: Path) -> None:
        """Write them in faiss's own format."""
        write_structure(self.index, path)


def _probes_for(num_lists: int) -> int:
    """Choose how many lists a query looks into."""
    return min(num_lists, max(LEAST_PROBES, math.ceil(PROBE_RATE * num_lists)))


def _lists_for(num_rows: int) -> int:
    """Choose a number of lists; faiss's guidance is 4 to 16 times the square root."""
    return max(1, min(round(4 * math.sqrt(num_rows)), num_rows // LEAST_PER_LIST))
