"""Fashion: real photos and titles found, read and handed to the simulated shoppers."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from triptych.data.datasets.base import dataset_folder
from triptych.data.datasets.fashion import FOLDER, FashionConfig, guess_brands, read_fashion_items
from triptych.data.simulate.fashion_lexicon import COLOUR, TYPE, fashion_attributes
from triptych.data.simulate.lexicon import read_lexicon
from triptych.foundation.errors import DataError
from triptych.foundation.registry import config_class


def test_brands_are_beginnings_that_often_stand_before_a_gender_word():
    titles = [f"Red Tape Men Shoe {i}" for i in range(9)] + [f"RED TAPE Women Boot {i}" for i in range(3)]
    titles += ["Red Tape Canvas Men Shoe", "Red Tape Brown Boot", "Redundant Men Shoe", "Women Red Tape", ""]
    expected = ["Red Tape"] * 14 + [None, None, None]
    assert guess_brands(titles) == expected


def test_the_registry_finds_it():
    assert config_class("triptych.data.datasets", "fashion") is FashionConfig


def test_absent_data_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"^TRIPTYCH_DATA .* has no folder 'fashion_products'\. Set data_root or"):
        FashionConfig().prepare(tmp_path)
    with pytest.raises(DataError, match=r"^data_root \(nowhere\) has no folder"):
        FashionConfig(data_root="nowhere").prepare(tmp_path)
    monkeypatch.delenv("TRIPTYCH_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^the default folder \(\.\./shared/data\) has no folder"):
        FashionConfig().prepare(tmp_path)


def test_the_named_folder_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a", "b"):
        (tmp_path / name / FOLDER).mkdir(parents=True)
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path / "a"))
    assert dataset_folder(FOLDER, data_root=None) == tmp_path / "a" / FOLDER
    assert dataset_folder(FOLDER, data_root=str(tmp_path / "b")) == tmp_path / "b" / FOLDER


@pytest.mark.real_data
def test_the_lexicon_knows_the_values(real_data: Path):
    items = read_fashion_items(real_data / FOLDER, seed=0)
    assert set(items["colour"].drop_nulls()) == set(read_lexicon(COLOUR))
    known = read_lexicon(TYPE)
    assert set(known) <= set(items["type"])
    assert items["type"].is_in(list(known)).mean() > 0.99
    for attribute in fashion_attributes():
        assert attribute.column in items.columns


@pytest.mark.real_data
def test_real_titles_lose_half_their_colours_and_keep_all_else(real_data: Path, tmp_path: Path):
    small = FashionConfig(data_root=str(real_data)).override("shoppers.num_pages=3000", "shoppers.num_users=300")
    tables = small.prepare(tmp_path)
    items = pl.read_parquet(tmp_path / tables.items.path)
    full = read_fashion_items(real_data / FOLDER, seed=0)
    assert items.height == 9_583
    assert "colour" not in items.columns
    assert items["item_id"].equals(full["item_id"])
    edited = items["title"] != full["title"]
    assert 0.45 < edited.mean() < 0.5  # 95 % of the titles had a colour word
    colours = [word for words in read_lexicon(COLOUR).values() for phrase in words.own for word in phrase.split()]
    droppable = {*colours, "and", "off"}
    for before, after in zip(full["title"].filter(edited), items["title"].filter(edited), strict=True):
        words_before, words_after = (re.findall(r"\w+", title.lower()) for title in (before, after))
        lost = list(words_before)
        for word in words_after:
            lost.remove(word)  # nothing is added
        assert lost
        assert set(lost) <= droppable, (before, after)
    brand = items.filter(pl.col("brand") == "Red Tape")["title"]
    assert brand.str.starts_with("Red Tape").all()
    assert len(brand) > 40
    assert tables.items.photo_root is not None
    for name in items["photo"].sample(20, seed=1):
        with Image.open(Path(tables.items.photo_root) / name) as image:
            assert image.size == (224, 224)
    assert items["price"].is_between(1, 1000).all()
