"""Value types that cross stage borders."""

from __future__ import annotations

from typing import NamedTuple

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
