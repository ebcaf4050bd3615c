"""Photo → item: does a photo alone find the item, or the items, it shows?

Two uses: photos of shelves and rooms against the studio photos of the products in them, and a shop's own photos cropped
and re-lit. Items whose catalogue photos are identical count as one. Chance and a colour histogram stand in the same
table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.compare import Column, Comparison
from triptych.evaluate.histogram import ColourHistogram
from triptych.evaluate.records import AnyRecord, Role, role_of
from triptych.evaluate.tasks.base import EvaluationConfig, Models, TaskResult, retrieve_all, seeds_of
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import FloatArray, IntArray, TargetSets, hit_rate_at_k, match
from triptych.recall.base import Request

Shown = npt.NDArray[Any] | Sequence[npt.NDArray[Any]]
"""What each photo shows: one item row `[photos]`, or for each photo its item rows."""
KS = (1, 5, 10)
CHANCE = "chance"
_BLOCK = 1024


def evaluate(
    models: Models,
    *,
    catalogue: Catalogue,
    photos: npt.NDArray[np.uint8],
    item_rows: Shown,
    config: EvaluationConfig,
    split: Split | None = None,
    task: str = "photo",
    title: str = "Photo → item",
) -> TaskResult:
    """Search with each photo alone and look for its item.

    Args:
        models: Name → retriever that answers requests with a photo, or one for each seed.
        catalogue: The items to search in.
        photos: uint8 `[photos, px, px, 3]` at the side the encoders expect.
        item_rows: What each photo shows.
        config: Resamples and their seed.
        split: Divides the photos into those of items that were there to learn from and those that show a new one; None:
            no slices.
        task: Name for the records.
        title: The task in a few words.

    Returns:
        Recall@1, 5 and 10 of the models, the colour histogram and chance; every model against the two.

    Raises:
        DataError: There are no photos, or one of them shows nothing.
        ArtifactError: The split is of another catalogue.
    """
    shown = [np.atleast_1d(np.asarray(rows, dtype=np.int64)) for rows in item_rows]
    if not len(photos) or len(photos) != len(shown) or not all(len(rows) for rows in shown):
        raise DataError(
            f"evaluate {task}: there are {len(photos)} photos and {len(shown)} lists of items they show; give at least "
            "one photo, and at least one item row for each."
        )
    problem = _Problem.of(shown, catalogue=catalogue)
    slices = _photo_slices(catalogue, shown=shown, split=split)
    listed = seeds_of({**models, ColourHistogram.name: ColourHistogram.fit(catalogue)})
    values: dict[str, dict[Column, FloatArray]] = {}
    for model, retrievers in listed.items():
        found = [
            retrieve_all(
                retriever,
                num_requests=len(photos),
                make=lambda position: Request(photo=photos[position]),
                k=max(KS),
                label=f"{task} with {model}",
            )
            for retriever in retrievers
        ]
        values[model] = {Column("recall", k): np.stack([problem.recall(rows, k=k) for rows in found]) for k in KS}
    values[CHANCE] = {
        Column("recall", k): problem.mean(chance(problem.targets, num_items=catalogue.num_items, k=k))[None] for k in KS
    }
    records: list[AnyRecord] = []
    frames: list[pl.DataFrame] = []
    for one in slices:
        own = {
            model: {column: by_seed[:, one.positions] for column, by_seed in columns.items()}
            for model, columns in values.items()
        }
        records += _records(Comparison(own, task=task, slice_name=one.name, split="all", config=config))
        frames += _frames(own, one, catalogue=catalogue, shown=shown)
    return TaskResult(
        task=task,
        title=title,
        records=records,
        per_query=pl.concat(frames),
        meanings={
            "recall": "Share of the items a photo shows that stand among the first K of the whole catalogue, averaged "
            "over photos."
        },
        definitions={one.name: one.definition for one in slices},
    )


class _PhotoSlice(NamedTuple):
    name: str
    definition: str
    positions: IntArray
    """Of its photos among all."""


class _Problem(NamedTuple):
    """What has to be found: a pair for each photo and each different picture among the items it shows."""

    photo_of_pair: IntArray
    """`[pairs]`, ascending."""
    targets: TargetSets
    """`[pairs]` sets: the items with that picture."""

    @classmethod
    def of(cls, shown: Sequence[IntArray], *, catalogue: Catalogue) -> _Problem:
        group = _photo_groups(catalogue)
        firsts = [rows[np.unique(group[rows], return_index=True)[1]] for rows in shown]
        photos = np.repeat(np.arange(len(shown)), [len(rows) for rows in firsts])
        return cls(photos, _same_group(group, item_rows=np.concatenate(firsts)))

    def recall(self, item_rows: IntArray, *, k: int) -> FloatArray:
        """Share of the pictures found among the first `k` of lists `[photos, n]`: float64 `[photos]`."""
        return self.mean(hit_rate_at_k(match(item_rows[self.photo_of_pair], targets=self.targets), k=k))

    def mean(self, values: FloatArray) -> FloatArray:
        """Average a value of each pair over each photo's."""
        sums = np.bincount(self.photo_of_pair, weights=values)
        return np.asarray(sums / np.bincount(self.photo_of_pair), dtype=np.float64)


def _photo_slices(catalogue: Catalogue, *, shown: Sequence[IntArray], split: Split | None) -> list[_PhotoSlice]:
    """All photos, and with a split those of items chosen in training and of new ones; none that is empty."""
    every = "Every photo; items with identical catalogue photos count as one."
    slices = [_PhotoSlice("all", every, np.arange(len(shown)))]
    if split is not None:
        new = split.items_new(catalogue)
        is_new = np.array([bool(new[rows].any()) for rows in shown])
        slices += [
            _PhotoSlice(
                "seen_items", "Photos of items that were chosen in the training period.", np.flatnonzero(~is_new)
            ),
            _PhotoSlice(
                "new_items", "Photos of an item that was never chosen in the training period.", np.flatnonzero(is_new)
            ),
        ]
    return [one for one in slices if len(one.positions)]


def _records(comparison: Comparison) -> list[AnyRecord]:
    """Every model's recall, and every trained model against the baselines."""
    found: list[AnyRecord | None] = []
    for model, columns in comparison.values.items():
        for column, by_seed in columns.items():
            if model == CHANCE:
                found.append(
                    comparison.constant(model, column, seed_values=by_seed.mean(axis=1), num_queries=by_seed.shape[1])
                )
            else:
                found.append(comparison.record(model, column))
    for model, columns in comparison.values.items():
        if role_of(model) is Role.BASELINE:
            continue
        for baseline in (ColourHistogram.name, CHANCE):
            found += [comparison.difference(model, baseline=baseline, column=column) for column in columns]
    return [record for record in found if record is not None]


def same_photo_targets(catalogue: Catalogue, *, item_rows: IntArray) -> TargetSets:
    """For each photo, the items whose catalogue photo is the same, pixel for pixel, as that of the item it shows."""
    return _same_group(_photo_groups(catalogue), item_rows=item_rows)


def _same_group(group: IntArray, *, item_rows: IntArray) -> TargetSets:
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 2))
    first, last = starts[group[item_rows]], starts[group[item_rows] + 1]
    offsets = np.concatenate([[0], np.cumsum(last - first)])
    inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], last - first)
    return TargetSets(offsets, order[np.repeat(first, last - first) + inside])


def _photo_groups(catalogue: Catalogue) -> IntArray:
    """Number the distinct photos: int64 `[num_items]`. An item without a photo is alone."""
    numbers: dict[bytes, int] = {}
    groups = np.empty(catalogue.num_items, dtype=np.int64)
    for start in range(0, catalogue.num_items, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, catalogue.num_items))
        for row, pixels, has in zip(rows, catalogue.photos.pixels(rows), catalogue.photos.has[rows], strict=True):
            key = hashlib.sha256(pixels.tobytes()).digest() if has else int(row).to_bytes(8, "little")
            groups[row] = numbers.setdefault(key, len(numbers))
    return groups


def chance(targets: TargetSets, *, num_items: int, k: int) -> FloatArray:
    """Probability that `k` different items drawn blindly hold at least one target, per query."""
    wanted = np.diff(targets.offsets)[:, None]
    draws = np.arange(min(k, num_items))
    missed = np.clip(num_items - wanted - draws, 0, None) / (num_items - draws)
    return np.asarray(1.0 - missed.prod(axis=1), dtype=np.float64)


def crop_and_relight(pixels: npt.NDArray[np.uint8], *, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Make photos look as if taken again: 50–85 % of the area, other light, another white balance.

    Args:
        pixels: uint8 `[photos, px, px, 3]`, or one photo `[px, px, 3]`.
        rng: Source of the crops and lights.

    Returns:
        uint8 of the same shape.
    """
    if pixels.ndim == 3:
        return crop_and_relight(pixels[None], rng=rng).reshape(pixels.shape)
    side = pixels.shape[1]
    length = side * np.sqrt(rng.uniform(0.5, 0.85, size=len(pixels)))
    corner = rng.uniform(0.0, 1.0, size=(len(pixels), 2)) * (side - length)[:, None]
    light = rng.uniform(0.7, 1.2, size=(len(pixels), 1)) * rng.uniform(0.9, 1.1, size=(len(pixels), 3))
    gamma = rng.uniform(0.8, 1.25, size=len(pixels))
    made = np.empty_like(pixels)
    for i, (left, top) in enumerate(corner):
        box = (left, top, left + length[i], top + length[i])
        cropped = Image.fromarray(pixels[i]).resize((side, side), Image.Resampling.BILINEAR, box=box)
        lit = light[i] * (np.asarray(cropped, dtype=np.float64) / 255.0) ** gamma[i]
        made[i] = np.clip(np.rint(lit * 255.0), 0, 255)
    return made


def _frames(
    values: dict[str, dict[Column, FloatArray]],
    one: _PhotoSlice,
    *,
    catalogue: Catalogue,
    shown: Sequence[IntArray],
) -> Iterator[pl.DataFrame]:
    """One row for each model, seed and photo of the slice."""
    item_ids = [" ".join(catalogue.item_ids[row] for row in shown[place]) for place in one.positions]
    for model, columns in values.items():
        for seed in range(len(next(iter(columns.values())))):
            yield pl.DataFrame(
                {
                    "slice": pl.Series([one.name]).new_from_index(0, len(item_ids)),
                    "model": pl.Series([model]).new_from_index(0, len(item_ids)),
                    "seed": np.full(len(item_ids), seed, dtype=np.int32),
                    "photo": one.positions.astype(np.int32),
                    "item_id": item_ids,
                    **{str(column): by_seed[seed] for column, by_seed in columns.items()},
                }
            )
