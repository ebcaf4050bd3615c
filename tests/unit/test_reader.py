"""What training leaves out of items, counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.pretrain.base import Given
from triptych.pretrain.reader import ItemReader
from triptych.pretrain.tasks.multitask import MultitaskConfig

TITLES, PHOTOS, DRAWS = 0.3, 0.15, 4_000


@pytest.fixture
def reader(other_shop) -> ItemReader:
    shop = other_shop(photo_px=32)
    catalogue = shop.catalogue
    tokenizer = TextTokenizer.fit(catalogue.titles, config=TokenizerConfig(min_count=1))
    encoder = {"dim": 16, "heads": 2, "layers": 1, "vector_dim": 8, "photo_px": catalogue.photos.px}
    rates = {"title_dropout_rate": TITLES, "photo_dropout_rate": PHOTOS}
    config = MultitaskConfig.parse({"kind": "multitask", "encoder": encoder, **rates})
    return ItemReader(config, Given(catalogue=catalogue, split=shop.split, tokenizer=tokenizer, seed=0))


@pytest.fixture
def rows(reader: ItemReader) -> np.ndarray:
    return np.resize(np.arange(len(reader.has_title)), DRAWS)


def check(reader: ItemReader, rows: np.ndarray, without_title: np.ndarray, without_photo: np.ndarray) -> None:
    both = reader.has_title[rows] & reader.has_photo[rows]
    assert 0 < both.sum() < DRAWS  # the shop has items that lack one
    assert not (without_title & without_photo).any()
    assert not ((without_title | without_photo) & ~both).any()  # what has one of them keeps it
    for found, rate in ((without_title, TITLES), (without_photo, PHOTOS)):
        error = 4 * np.sqrt(rate * (1 - rate) / both.sum())
        assert found[both].mean() == pytest.approx(rate, abs=error)


def test_items_leave_their_title_or_their_photo_out_at_its_rate_and_never_both(reader, rows):
    items = reader.whole(rows, rng=np.random.default_rng(0))
    check(reader, rows, items.drop_title.numpy(), items.drop_photo.numpy())
    np.testing.assert_array_equal(items.has_title, reader.has_title[rows])  # it is read by what guesses words


def test_hidden_in_parts_likewise(reader, rows):
    parts = reader.parts(rows, rng=np.random.default_rng(0))
    has_title, has_photo = (
        torch.cat([getattr(one, name) for one in parts.inputs]).numpy() for name in ("has_title", "has_photo")
    )
    order = rows[parts.order]
    check(reader, order, reader.has_title[order] & ~has_title, reader.has_photo[order] & ~has_photo)
