"""Popularity: the most chosen items of the training period, the same for everybody. The baseline of every table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.data.splits import Places
from triptych.foundation.artifact import write_json
from triptych.foundation.types import Hits
from triptych.recall.base import BoolArray, FloatArray, Request, RetrieverConfig, group_by_keep

DAY_US = 86_400_000_000
COUNTS, CONFIG_FILE = "counts.npy", "config.json"


class PopularityConfig(RetrieverConfig):
    """How choices are counted."""

    kind: Literal["popularity"] = "popularity"
    """Name of the file that defines it."""
    half_life_days: float | None = Field(None, gt=0)
    """Age, before the last training event, at which a choice counts half, in days; none: all count alike."""


CONFIG = PopularityConfig


class Popularity:
    """Ranks all items by their count; items that nobody chose come last, by item row."""

    name = "popularity"

    def __init__(self, counts: NDArray[np.float64], *, config: PopularityConfig) -> None:
        """Wrap counts ``[items]``; use `fit` or `load`."""
        self._counts = counts
        self._config = config
        self._scores = counts.astype(np.float32)
        self._order = np.argsort(-self._scores, kind="stable")

    @classmethod
    def fit(cls, catalogue: Catalogue, *, train: Places, config: PopularityConfig | None = None) -> Self:
        """Count the positive events (click, cart, order) of each item.

        Args:
            catalogue: whose events.
            train: places of the training events (`Split.train`); no other event is looked at.
            config: how they count.
        """
        config = config or PopularityConfig()
        chosen = is_positive(catalogue.event_array("kind")[train])
        time_us = catalogue.event_array("time")[train]
        weights: FloatArray | NDArray[np.float64] = np.ones(int(chosen.sum()))
        if config.half_life_days is not None and len(time_us):
            age_days = (time_us[-1] - time_us[chosen]) / DAY_US
            weights = 0.5 ** (age_days / config.half_life_days)
        item_row = catalogue.event_array("item_row")[train][chosen]
        counts = np.bincount(item_row, weights=weights, minlength=catalogue.num_items)
        return cls(counts.astype(np.float64), config=config)

    @property
    def counts(self) -> NDArray[np.float64]:
        """``[items]``, how often each item was chosen, decayed where so configured."""
        return self._counts

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k most chosen items that each request keeps; query, photo, user and history are not looked at."""
        hits = Hits.empty(len(requests), k)
        for places, keep in group_by_keep(requests):
            best = self._best(k, keep)
            hits.item_rows[places, : len(best)] = best
            hits.scores[places, : len(best)] = self._scores[best]
        return hits

    def _best(self, k: int, keep: BoolArray | None) -> NDArray[np.int64]:
        return self._order[:k] if keep is None else self._order[keep[self._order]][:k]

    def with_items(self, counts: Sequence[float]) -> Self:
        """Return the same with items appended.

        Args:
            counts: of the new items; 0 for one that nobody has chosen yet.
        """
        new = np.asarray(counts, dtype=np.float64)
        return type(self)(np.concatenate([self._counts, new]), config=self._config)

    def save(self, folder: Path) -> None:
        """Write ``counts.npy`` and ``config.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / COUNTS, self._counts)
        write_json(folder / CONFIG_FILE, self._config.dump())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = PopularityConfig.load(folder / CONFIG_FILE)
        return cls(np.load(folder / COUNTS, allow_pickle=False), config=config)
