"""The generated shop: same seed, same bytes; pictures that show what the attributes say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from triptych.data.datasets.generated_shop import GeneratedShopConfig, generate_items
from triptych.data.drawing.photo import TYPES, Look, jpeg, photo
from triptych.data.drawing.textures import COLOURS, PATTERNS, SETTINGS
from triptych.data.drawing.worker import draw_photos
from triptych.data.simulate import ShoppersConfig
from triptych.data.simulate.lexicon import TitleWords
from triptych.data.simulate.shop_lexicon import shop_attributes
from triptych.foundation.registry import config_class

SMALL = GeneratedShopConfig(
    num_items=240,
    photo_px=64,
    shoppers=ShoppersConfig(num_pages=600, num_users=80, num_intents=40, num_cells=3, min_matches=2),
)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prepared(config: GeneratedShopConfig, folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    config.prepare(folder)
    return digests(folder)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    SMALL.prepare(folder)
    return folder


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(shop: Path, tmp_path: Path):
    first = digests(shop)
    assert prepared(SMALL, tmp_path / "again") == first
    other = prepared(SMALL.override("seed=1"), tmp_path / "other")
    assert not set(other.values()) & set(first.values())


def test_leftovers_of_an_interrupted_attempt_are_overwritten(shop: Path, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "stray.jpg").write_bytes(b"half a picture")
    (tmp_path / "items.parquet").write_bytes(b"half a table")
    assert prepared(SMALL, tmp_path) == digests(shop)


def test_the_number_of_processes_does_not_change_the_pictures(tmp_path: Path):
    looks = [Look(kind, "teal", "floral", "marble", (5, i)) for i, kind in enumerate(list(TYPES)[:9])]
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        paths = [tmp_path / str(processes) / f"{i}.jpg" for i in range(len(looks))]
        draw_photos(looks, paths=paths, px=64, processes=processes)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    assert len(digests(tmp_path / "1")) == len(looks)


def test_the_tables_fit_together(shop: Path):
    tables = SMALL.prepare(shop)  # over itself
    items = pl.read_parquet(shop / tables.items.path)
    assert items.height == items["item_id"].n_unique() == 240
    # What a photo shows must not be among the features.
    assert not set(items.columns) & {"colour", "pattern", "setting"}
    assert set(tables.items.features) == set(items.columns) - {
        "item_id", "title", "photo", "category", "brand", "merchant", "price", "cells", "first_seen",
    }  # fmt: skip
    assert tables.events is not None
    events = pl.read_parquet(shop / tables.events.path)
    assert set(events["item_id"]) <= set(items["item_id"])
    assert tables.items.photo_root is not None
    for name in items["photo"]:
        with Image.open(shop / tables.items.photo_root / name) as image:
            assert image.size == (64, 64)
    truth = pl.read_parquet(shop / "truth.parquet")
    assert truth["item_id"].to_list() == items["item_id"].to_list()


def test_the_registry_finds_it():
    assert config_class("triptych.data.datasets", "generated_shop") is GeneratedShopConfig


def test_the_default_shop_has_hundreds_of_looks():
    items = generate_items(5_000, seed=0)
    assert items["type"].n_unique() == len(TYPES) >= 24
    assert items["colour"].n_unique() == len(COLOURS) >= 12
    assert items.select("type", "colour").n_unique() > 400
    assert items.select("type", "colour", "pattern").n_unique() > 1_500


def test_full_titles_say_every_attribute_in_its_own_words():
    items = generate_items(300, seed=3)
    for attribute in shop_attributes():
        values = items[attribute.column].drop_nulls().unique().sort().to_list()
        finder = TitleWords(attribute, values)
        for title, value in items.select("title", attribute.column).iter_rows():
            assert value is None or finder.says(title, value), (title, value)


def test_the_lexicon_covers_every_value_and_no_word_stands_for_two():
    columns = {"type": TYPES, "colour": COLOURS, "pattern": PATTERNS, "setting": SETTINGS}
    for attribute in shop_attributes():
        if attribute.column in columns:
            assert set(attribute.words) == set(columns[attribute.column])
        said = [word for words in attribute.words.values() for word in (*words.own, *words.synonyms)]
        assert len(said) == len(set(said))


def test_a_picture_is_a_function_of_its_look():
    look = Look("vase", "blue", "striped", "walnut", (1, 2))
    assert jpeg(look, px=96) == jpeg(look, px=96)
    for other in (look._replace(seed=(1, 3)), look._replace(colour="red"), look._replace(setting="slate")):
        assert jpeg(other, px=96) != jpeg(look, px=96)


@pytest.mark.parametrize("kind", list(TYPES))
def test_every_type_is_drawn_over_its_ground(kind: str):
    """Colour changes a good part of the picture, all of it inside the frame's middle for the most part."""
    red, blue = (
        np.asarray(photo(Look(kind, colour, "plain", "slate", (4,)), px=128), dtype=int) for colour in ("red", "blue")
    )
    changed = np.abs(red - blue).sum(axis=2) > 60
    assert red.shape == (128, 128, 3)
    assert changed.mean() > 0.03
    assert changed[24:104, 24:104].sum() > changed.sum() * 0.4


def tiny(look: Look) -> np.ndarray:
    return np.asarray(photo(look, px=96).resize((12, 12), Image.Resampling.BOX), dtype=float).ravel()


def nearest_centroid_accuracy(classes: list[str], pictures: dict[str, list[np.ndarray]], *, train: int) -> float:
    centroids = np.stack([np.mean(pictures[name][:train], axis=0) for name in classes])
    right = total = 0
    for place, name in enumerate(classes):
        for pixels in pictures[name][train:]:
            right += int(np.argmin(((centroids - pixels) ** 2).sum(axis=1)) == place)
            total += 1
    return right / total


def test_types_can_be_told_apart_by_tiny_pixels():
    rng = np.random.default_rng(0)
    colours, patterns, settings = list(COLOURS), list(PATTERNS), list(SETTINGS)
    pictures = {
        kind: [
            tiny(Look(kind, *(str(rng.choice(words)) for words in (colours, patterns, settings)), (9, draw)))
            for draw in range(14)
        ]
        for kind in TYPES
    }
    # Chance is 1 in 39; colours, patterns and grounds vary freely, and the classifier is the simplest there is.
    assert nearest_centroid_accuracy(list(TYPES), pictures, train=10) > 0.25


def test_colours_can_be_told_apart_by_tiny_pixels():
    rng = np.random.default_rng(1)
    pictures = {
        colour: [
            tiny(Look("cushion", colour, str(rng.choice(PATTERNS)), str(rng.choice(SETTINGS)), (8, draw)))
            for draw in range(14)
        ]
        for colour in COLOURS
    }
    assert nearest_centroid_accuracy(list(COLOURS), pictures, train=10) > 0.3  # chance is 1 in 14


def test_patterns_can_be_told_apart_by_their_edges():
    """Brightness steps across and along, and how much of the cloth is covered, separate the patterns."""

    def edges(look: Look) -> np.ndarray:
        grey = np.asarray(photo(look, px=192).convert("L"), dtype=float)[56:136, 56:136]
        steps = [np.abs(np.diff(grey, n=order, axis=axis)).mean() for order in (1, 2) for axis in (0, 1)]
        return np.array([*sorted(steps[:2]), *sorted(steps[2:]), grey.std(), (grey > grey.mean()).mean() * 50])

    pictures = {
        pattern: [edges(Look("rug", "blue", pattern, "studio", (7, draw))) for draw in range(16)]
        for pattern in PATTERNS
    }
    assert nearest_centroid_accuracy(list(PATTERNS), pictures, train=10) > 0.5  # chance is 1 in 7
