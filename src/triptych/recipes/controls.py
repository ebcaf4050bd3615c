"""Controls: what items have in the place of their own, so that a table says what the own is worth."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue


class Control(StrEnum):
    """What items have in the place of their own; drawn anew for each seed of training.

    Draws are set apart by the number behind that seed: artefacts depend on it.
    """

    NONE = ""
    """Nothing: they have their own."""
    PHOTO = "permuted photo"
    """Another item's photo, as the encoder is shown it in training and after; as many items have one as before."""
    CONTENT = "permuted content"
    """Another item's content, for what stands behind an encoder. An item's vectors stay together, and what is alike
    stays alike: a graph of items has the same shape, and is about other items."""
    RANDOM = "random vectors"
    """A random unit vector for each of their content, for a recall model."""
    IDS = "shuffled ids"
    """Another item's semantic ID: as many share one as before, and none says anything of its item."""

    @property
    def row_prefix(self) -> str:
        """What the names of its rows in a table begin with (`evaluate.records.role_of`)."""
        return _PREFIXES[self]

    @property
    def of_encoder(self) -> Control:
        """What of it the training of an encoder knows."""
        return self if self is Control.PHOTO else Control.NONE

    @property
    def inputs(self) -> dict[str, str]:
        """What tells a model behind an encoder from the same without it; of other photos the encoder tells."""
        return {} if self is self.of_encoder else {"control": self.value}

    def photo_rows(self, catalogue: Catalogue, *, seed: int) -> NDArray[np.int64] | None:
        """Draw whose photo each item is shown ``[items]``; None: its own."""
        if self is not Control.PHOTO:
            return None
        rows = np.arange(catalogue.num_items)
        with_photo = np.flatnonzero(np.asarray(catalogue.photos.has))
        rows[with_photo] = np.random.default_rng([seed, 7]).permutation(with_photo)
        return rows

    def content_rows(self, count: int, *, seed: int) -> NDArray[np.int64] | None:
        """Draw whose content each of `count` items has; None: its own."""
        return np.random.default_rng([seed, 9]).permutation(count) if self is Control.CONTENT else None

    def id_rows(self, count: int, *, seed: int) -> NDArray[np.int64] | None:
        """Draw whose semantic ID each of `count` items has; None: its own."""
        return np.random.default_rng([seed, 12]).permutation(count) if self is Control.IDS else None

    def content(self, own: dict[str, NDArray[Any]], *, seed: int) -> dict[str, NDArray[Any]]:
        """Return what a model reads in the place of the items' content: name → ``[items, dim]``."""
        if self is Control.RANDOM:
            return {name: _random(*own[name].shape, seed=[seed, 4, place]) for place, name in enumerate(own)}
        if self is not Control.CONTENT:
            return own
        (count,) = {len(vectors) for vectors in own.values()}
        rows = self.content_rows(count, seed=seed)
        return {name: np.asarray(vectors)[rows] for name, vectors in own.items()}


_PREFIXES = {
    Control.NONE: "",
    Control.PHOTO: "permuted-photo ",
    Control.CONTENT: "permuted-content ",
    Control.RANDOM: "random-vector ",
    Control.IDS: "random-id ",
}


def _random(count: int, dim: int, *, seed: list[int]) -> NDArray[np.float32]:
    """Draw unit vectors ``[count, dim]``."""
    drawn = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit
