"""Product k-means: a vector is cut into as many parts as there are levels, and each part has a k-means of its own.

No level says anything of what the others say: prefixes are no families, and no code is coarser than another. So these
are no IDs to say or to share prefixes by. They are the usual way of keeping vectors small, and what residual codes of
as many bytes are to be measured against.

Source: Jégou et al., "Product Quantization for Nearest Neighbor Search" (2011), without its rotation; parts of unequal
length where the levels do not divide the vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.foundation.errors import ConfigError
from triptych.semantic_ids.base import ClosedFormConfig
from triptych.semantic_ids.kmeans import Assignment, cluster
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeans, read_codebooks
from triptych.semantic_ids.vectors import check_shape, draw


class ProductKmeansConfig(ClosedFormConfig):
    """Product k-means."""

    kind: Literal["product_kmeans"] = "product_kmeans"
    """Name of the file that defines it."""
    iterations: int = Field(25, ge=1)
    """Rounds of assignment and averaging, of each level."""
    sample_per_code: int = Field(256, ge=1)
    """Vectors for each code of a level that the codebooks are learned from, drawn of those given; decides memory."""

    def fit(self, vectors: NDArray[Any], *, rows: NDArray[np.int64] | None = None) -> ResidualKmeans:
        """Learn the codebooks from a sample of the vectors, part by part.

        A part's codes are 0 in all other places. Then the nearest code of what is left is the nearest of that part, and
        the sum of an item's codes is its parts side by side: the quantiser is a residual one with such codebooks.
        """
        check_shape(vectors)
        self.require_enough(len(vectors) if rows is None else len(rows))
        dim = vectors.shape[1]
        if dim < self.levels:
            raise ConfigError(f"quantizer.levels is {self.levels}, and vectors of {dim} numbers have fewer parts.")
        rng = np.random.default_rng(self.seed)
        sample = draw(vectors, of=rows, size=self.sample_per_code * self.codes, rng=rng)
        codebooks = np.zeros((self.levels, self.codes, dim), np.float32)
        for level, places in enumerate(np.array_split(np.arange(dim), self.levels)):
            codebooks[level][:, places] = cluster(
                np.ascontiguousarray(sample[:, places]),
                codes=self.codes,
                iterations=self.iterations,
                assignment=Assignment.PLAIN,
                rng=rng,
            )
        return ResidualKmeans(codebooks)

    def open_saved(self, folder: Path) -> ResidualKmeans:
        """Read the codebooks."""
        return ResidualKmeans(read_codebooks(folder))


CONFIG = ProductKmeansConfig
