"""Value types that cross stage borders."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Hits(NamedTuple):
    """Ranked items for a batch of requests.

    Rows are sorted by descending score; equal scores by ascending item row. Unused places at the end of a
    row hold -1 and -inf.
    """

    item_rows: NDArray[np.int64]
    """``[requests, k]``, item rows of the catalogue, padded with -1."""
    scores: NDArray[np.float32]
    """``[requests, k]``, unbounded, padded with -inf."""

    @classmethod
    def empty(cls, num_requests: int, k: int) -> Self:
        """Return places that are all unused, to be filled."""
        shape = num_requests, k
        return cls(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
