"""The colour histogram: the photo baseline that knows nothing of shape, text or clicks.

Swain and Ballard 1991, with Hellinger similarity. Near-white pixels are left out, so that a product on a white page and
the same product on a shelf can meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from triptych.data.catalogue import Catalogue
from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import Request, rank

BINS = 8
"""Bins for each of red, green and blue."""
WHITE = 240
"""A pixel whose three channels are all at least this is background."""
_BLOCK = 1024


class ColourHistogram:
    """Retrieves items by the colours of their photos."""

    name = "colour-histogram"

    def __init__(self, vectors: npt.NDArray[np.float32], *, has_photo: npt.NDArray[np.bool_]) -> None:
        """Keep the items' histograms.

        Args:
            vectors: float32 `[num_items, BINS ** 3]`, from `colour_vectors`.
            has_photo: bool `[num_items]`; an item without a photo is never found.
        """
        self.vectors = vectors
        self.has_photo = has_photo

    @classmethod
    def fit(cls, catalogue: Catalogue) -> ColourHistogram:
        """Take the histogram of every photo of a catalogue."""
        blocks = np.array_split(np.arange(catalogue.num_items), max(1, catalogue.num_items // _BLOCK))
        vectors = [colour_vectors(catalogue.photos.pixels(block)) for block in blocks]
        return cls(np.concatenate(vectors), has_photo=np.asarray(catalogue.photos.has))

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Rank items by the similarity of their histogram to the request's photo; ties by item row.

        Raises:
            EngineError: A request has no photo.
        """
        if any(request.photo is None for request in requests):
            raise EngineError("colour-histogram: the request has no photo; this baseline can only search by photo.")
        photos = np.stack([request.photo for request in requests if request.photo is not None])
        scores = colour_vectors(photos) @ self.vectors.T
        scores[:, ~self.has_photo] = -np.inf
        return rank(scores, k=k)


def colour_vectors(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Square roots of the colour shares, so that a dot product is the Hellinger similarity.

    Args:
        pixels: uint8 `[photos, px, px, 3]`.

    Returns:
        float32 `[photos, BINS ** 3]` of length 1.
    """
    flat = pixels.reshape(len(pixels), -1, 3)
    counted: npt.NDArray[np.bool_] = np.min(flat, axis=2) < WHITE
    counted[~counted.any(axis=1)] = True  # an all-white photo is white
    bins = (flat.astype(np.int64) * BINS) // 256
    index = (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]
    index += np.arange(len(pixels))[:, None] * BINS**3
    counts = np.bincount(index[counted], minlength=len(pixels) * BINS**3).reshape(len(pixels), BINS**3)
    vectors: npt.NDArray[np.float32] = np.sqrt(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    return vectors
