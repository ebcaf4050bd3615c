"""Photo → item: the colour histogram, chance, merged duplicates, and photos that look taken again."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from triptych.evaluate.histogram import ColourHistogram, colour_vectors
from triptych.evaluate.records import select, to_rows
from triptych.evaluate.tasks import photo
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import DataError, EngineError
from triptych.foundation.types import Hits
from triptych.metrics.ranking import TargetSets
from triptych.recall.base import Request, rank

CONFIG = EvaluationConfig(bootstrap_repeats=200)


class NearestPixels:
    """Finds the photo with the most similar pixels."""

    name = "pixels"

    def __init__(self, catalogue) -> None:
        self.vectors = catalogue.photos.pixels(np.arange(catalogue.num_items)).reshape(catalogue.num_items, -1) / 255.0

    def retrieve(self, requests, k: int) -> Hits:
        asked = np.stack([request.photo for request in requests]).reshape(len(requests), -1) / 255.0
        distances = ((asked[:, None] - self.vectors[None]) ** 2).sum(axis=2)
        return rank((-distances).astype(np.float32), k=k)


def test_the_catalogues_own_photos_are_found_and_duplicates_count_as_one(small_shop):
    catalogue = small_shop.catalogue
    rows = np.flatnonzero(catalogue.photos.has)
    result = photo.evaluate(
        {"pixels": NearestPixels(catalogue)},
        catalogue=catalogue,
        photos=catalogue.photos.pixels(rows),
        item_rows=rows,
        config=CONFIG,
    )
    records = to_rows(result.records)
    found = select(records, model="pixels", metric="recall", k=1, baseline=None)
    # Rows 2 and 3 share a photo: for row 3 the tie goes to row 2, and that is right.
    assert found[0]["value"] == 1.0
    assert found[0]["num_queries"] == len(rows)
    chance = select(records, model="chance", k=5, baseline=None)[0]
    assert chance["value"] == pytest.approx(np.mean([5 / 40] * 37 + [1 - 35 * 34 / (40 * 39)] * 2))
    assert chance["low"] is None
    against = select(records, model="pixels", baseline="chance", k=1)[0]
    assert against["verdict"] == "holds"
    assert against["value"] == pytest.approx(1.0 - select(records, model="chance", k=1, baseline=None)[0]["value"])
    assert {row["baseline"] for row in records if "baseline" in row} == {"chance", "colour-histogram"}
    assert len(result.per_query) == 3 * len(rows)


def test_slices_divide_the_photos_by_what_was_there_to_learn_from(small_shop):
    catalogue, split = small_shop.catalogue, small_shop.split
    rows = np.flatnonzero(catalogue.photos.has)
    photos = photo.crop_and_relight(catalogue.photos.pixels(rows), rng=np.random.default_rng(0))
    given = {"catalogue": catalogue, "photos": photos, "item_rows": rows, "config": CONFIG}
    result = photo.evaluate({"pixels": NearestPixels(catalogue)}, split=split, **given)
    train = catalogue.events[: split.train.stop].filter(pl.col("kind") > 0)
    chosen = set(train["item_row"].to_list())
    members = {
        "all": list(range(len(rows))),
        "seen_items": [i for i, row in enumerate(rows) if row in chosen],
        "new_items": [i for i, row in enumerate(rows) if row not in chosen],
    }
    assert len(members["seen_items"]) > len(members["new_items"]) > 5
    assert set(result.definitions) == set(members)
    records = to_rows(result.records)
    alone = to_rows(photo.evaluate({"pixels": NearestPixels(catalogue)}, **given).records)
    assert select(records, slice="all") == alone
    values = result.per_query.filter(model="pixels", slice="all").sort("photo")["recall@1"].to_numpy()
    assert 0 < values.mean() < 1
    targets = photo.same_photo_targets(catalogue, item_rows=rows)
    blind = photo.chance(targets, num_items=catalogue.num_items, k=1)
    for name, positions in members.items():
        assert result.per_query.filter(model="pixels", slice=name)["photo"].to_list() == positions
        for model, expected in (("pixels", values), ("chance", blind)):
            (found,) = select(records, slice=name, model=model, k=1, baseline=None)
            assert found["value"] == pytest.approx(expected[positions].mean())
            assert found["num_queries"] == len(positions)


def test_a_slice_without_a_photo_is_left_out(small_shop):
    catalogue = small_shop.catalogue
    rows = np.flatnonzero(small_shop.split.items_new(catalogue) & catalogue.photos.has)
    photos = catalogue.photos.pixels(rows)
    result = photo.evaluate(
        {}, catalogue=catalogue, photos=photos, item_rows=rows, config=CONFIG, split=small_shop.split
    )
    assert list(result.definitions) == ["all", "new_items"]


def test_same_photo_targets(small_shop):
    targets = photo.same_photo_targets(small_shop.catalogue, item_rows=np.array([3, 0, 2, 39]))
    sets = [
        set(targets.item_rows[start:stop].tolist())
        for start, stop in zip(targets.offsets[:-1], targets.offsets[1:], strict=True)
    ]
    assert sets == [{2, 3}, {0}, {2, 3}, {39}]  # row 39 has no photo and is nobody's double


def test_chance_equals_a_simulation():
    targets = TargetSets(np.array([0, 1, 4]), np.array([0, 1, 2, 3]))
    rng = np.random.default_rng(0)
    draws = np.stack([rng.permutation(12)[:5] for _ in range(20_000)])
    simulated = [np.isin(draws, wanted).any(axis=1).mean() for wanted in ([0], [1, 2, 3])]
    np.testing.assert_allclose(photo.chance(targets, num_items=12, k=5), simulated, atol=0.01)
    assert photo.chance(targets, num_items=12, k=12).tolist() == [1.0, 1.0]
    assert photo.chance(targets, num_items=12, k=50).tolist() == [1.0, 1.0]


def test_the_histogram_equals_a_loop_and_ignores_white():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(3, 6, 6, 3), dtype=np.uint8)
    pixels[0, :3] = 255
    pixels[2] = 250
    vectors = colour_vectors(pixels)
    for image, vector in zip(pixels, vectors, strict=True):
        counts: dict[int, int] = {}
        flat = [tuple(int(v) for v in p) for p in image.reshape(-1, 3)]
        kept = [p for p in flat if min(p) < 240] or flat
        for red, green, blue in kept:
            key = (red // 32) * 64 + (green // 32) * 8 + blue // 32
            counts[key] = counts.get(key, 0) + 1
        expected = np.zeros(512)
        for key, count in counts.items():
            expected[key] = np.sqrt(count / len(kept))
        np.testing.assert_allclose(vector, expected, atol=1e-6)
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1.0, atol=1e-6)


def test_the_histogram_finds_the_colour_and_never_an_item_without_photo(small_shop):
    catalogue = small_shop.catalogue
    histogram = ColourHistogram.fit(catalogue)
    rows = np.arange(0, 39, 2)
    requests = [
        Request(photo=pixels)
        for pixels in photo.crop_and_relight(catalogue.photos.pixels(rows), rng=np.random.default_rng(0))
    ]
    hits = histogram.retrieve(requests, 40)
    colour = np.arange(40) // 2 % 4
    black = colour[rows] == 3  # darkening does not change black into another bin
    assert (colour[hits.item_rows[black, 0]] == 3).all()
    assert (hits.item_rows != 39).all()
    assert (hits.item_rows[:, -1] == -1).all()
    with pytest.raises(EngineError, match="the request has no photo"):
        histogram.retrieve([Request(query="red shirt")], 5)


def test_crop_and_relight_changes_every_photo_but_not_what_it_shows():
    rng = np.random.default_rng(0)
    ramp = np.linspace(30, 220, 32)
    pixels = np.stack([np.stack([np.tile(ramp, (32, 1))] * 3, axis=-1)] * 50).astype(np.uint8)
    made = photo.crop_and_relight(pixels, rng=rng)
    assert made.shape == pixels.shape
    assert made.dtype == np.uint8
    # A crop of 50 to 85 % of the area shows 71 to 92 % of the ramp; light only stretches what is left.
    assert (np.diff(made[..., 0].astype(int), axis=2) >= 0).all()
    assert all((one != pixels[0]).any() for one in made)
    assert len({one.tobytes() for one in made}) == 50
    again = photo.crop_and_relight(pixels, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(made, again)
    alone = photo.crop_and_relight(pixels[0], rng=np.random.default_rng(1))
    np.testing.assert_array_equal(alone, photo.crop_and_relight(pixels[:1], rng=np.random.default_rng(1))[0])


def test_errors_say_what_is_wrong(small_shop):
    with pytest.raises(DataError, match="there are 0 photos and 2 lists of items they show"):
        photo.evaluate(
            {"pixels": NearestPixels(small_shop.catalogue)},
            catalogue=small_shop.catalogue,
            photos=np.empty((0, 24, 24, 3), dtype=np.uint8),
            item_rows=np.array([1, 2]),
            config=CONFIG,
        )


def test_a_photo_of_several_items_asks_for_each_of_them_once(small_shop):
    """A collage of two items; rows 2 and 3 share a photo, so that asking for both asks for one thing."""
    catalogue = small_shop.catalogue
    photos = catalogue.photos.pixels(np.array([0, 2, 5]))
    shown = [np.array([0, 8]), np.array([2, 3]), np.array([5])]
    given = {"catalogue": catalogue, "photos": photos, "item_rows": shown, "config": CONFIG}
    result = photo.evaluate({"pixels": NearestPixels(catalogue)}, **given)
    values = result.per_query.filter(model="pixels")
    assert values["item_id"].to_list() == ["i0 i8", "i2 i3", "i5"]
    first = NearestPixels(catalogue).retrieve([Request(photo=photos[0])], 5).item_rows[0]
    assert values["recall@1"].to_list() == [0.5, 1.0, 1.0]
    assert values["recall@5"][0] == (0.5 if 8 not in first else 1.0)
    chance = result.per_query.filter(model="chance")["recall@1"].to_list()
    assert chance == pytest.approx([1 / 40, 2 / 40, 1 / 40])
