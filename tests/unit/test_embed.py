"""The embedder: order kept, batch size without influence, small and bulk requests alike, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from photo_files import encoded
from PIL import Image

from triptych.data import catalogue as catalogues
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import ItemsConfig
from triptych.data.tables import read_items
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders import embed
from triptych.encoders.embed import Embedder
from triptych.encoders.inputs import Modalities
from triptych.encoders.models.two_tower import TwoTowerConfig, TwoTowerEncoder
from triptych.foundation.artifact import produce
from triptych.foundation.errors import ArtifactError, DataError
from triptych.nn.precision import Precision

PX = 32
WORDS = "white red long short dress shirt lamp bowl of with and cotton steel for men women".split()


def phrases(count: int, *, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in range(count)]


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, size=(count, PX, PX, 3), dtype=np.uint8)


def build(modalities: Modalities, **settings: int) -> tuple[TwoTowerEncoder, TextTokenizer]:
    tokenizer = TextTokenizer.fit(phrases(200), config=TokenizerConfig(vocab_size=64, min_count=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"dim": 32, "layers": 2, "heads": 4, "vector_dim": 16, "photo_px": PX}
        config = TwoTowerConfig(modalities=modalities, **sizes, **settings)
        return TwoTowerEncoder(config, vocab_size=tokenizer.vocab_size), tokenizer


def embedder(
    modalities: Modalities = Modalities.TITLE_PHOTO, *, precision: Precision = Precision.FP32, **settings: int
) -> Embedder:
    encoder, tokenizer = build(modalities, **settings)
    return Embedder(encoder, tokenizer=tokenizer, precision=precision, device="cpu")


@pytest.fixture(params=[40, 16_384])
def block_tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of an item or two, and one block for all."""
    monkeypatch.setattr(embed, "BLOCK_TOKENS", request.param)
    return request.param


@pytest.mark.parametrize("modalities", Modalities)
def test_items_come_back_in_order_whatever_the_batch(modalities, block_tokens):
    model, count = embedder(modalities), 90
    titles = [None if i % 7 == 0 else "" if i % 11 == 0 else title for i, title in enumerate(phrases(count))]
    pixels, has_photo = photos(count), np.arange(count) % 3 > 0
    together = model.items(titles, pixels=pixels, has_photo=has_photo)
    assert together.shape == (count, 16) and together.dtype == np.float32
    for i in range(0, count, 5):
        alone = model.items(titles[i : i + 1], pixels=pixels[i : i + 1], has_photo=has_photo[i : i + 1])
        assert np.allclose(alone, together[i : i + 1], atol=1e-5)
    differ = np.unique(together.round(4), axis=0)
    assert len(differ) > 30


def test_queries_come_back_in_order_whatever_the_batch(block_tokens):
    model, texts = embedder(precision=Precision.BF16), phrases(300)
    together = model.queries(texts)
    for i in (0, 17, 299):
        assert np.allclose(model.queries([texts[i]])[0], together[i], atol=1e-6)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_bulk_bf16_is_near_float32():
    titles, pixels = phrases(300), photos(300)
    exact = embedder().items(titles, pixels=pixels)
    bulk = embedder(precision=Precision.BF16).items(titles, pixels=pixels)
    small = embedder(precision=Precision.BF16).items(titles[:60], pixels=pixels[:60])
    assert 1e-6 < np.abs(bulk - exact).max() < 1e-2
    assert np.allclose(small, exact[:60], atol=1e-5)  # a small request is float32


def test_an_empty_title_is_no_title():
    model, pixels = embedder(), photos(1)
    assert np.array_equal(model.items([None], pixels=pixels), model.items([""], pixels=pixels))
    assert np.array_equal(model.items(["red dress"]), model.items(["red dress"], pixels=pixels, has_photo=[False]))


def test_nothing_in_nothing_out():
    assert embedder().queries([]).shape == (0, 16)
    assert embedder().items([]).shape == (0, 16)


def test_photos_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"Photos must be uint8 \(1, 32, 32, 3\), these are uint8 \(1, 16, 16, 3\)"):
        embedder().items([None], pixels=np.zeros((1, 16, 16, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="these are float32"):
        embedder().items([None], pixels=np.zeros((1, PX, PX, 3), dtype=np.float32))


def test_opens_an_artefact_and_nothing_else(tmp_path):
    encoder, tokenizer = build(Modalities.TITLE_PHOTO)

    def write(folder):
        encoder.save(folder)
        tokenizer.save(folder / "tokenizer.json")
        return {}

    artifact = produce(tmp_path, kind="encoder", config={}, inputs={}, build=write)
    opened = Embedder.open(artifact)
    assert (opened.vector_dim, opened.px, opened.modalities) == (16, PX, Modalities.TITLE_PHOTO)
    assert np.array_equal(Embedder.open(artifact.path).queries(["red dress"]), embedder().queries(["red dress"]))
    other = produce(tmp_path, kind="index", config={}, inputs={}, build=lambda folder: {})
    with pytest.raises(ArtifactError, match="is a 'index', not a 'encoder'"):
        Embedder.open(other)


def with_several_photos(folder: Path) -> Catalogue:
    """Fifty items with no, one, two or three photos; a photo here and there is shown by several items."""
    rng = np.random.default_rng(4)
    noise = [encoded(Image.fromarray(photo), "PNG") for photo in photos(60)]
    shown = [[noise[n] for n in rng.choice(60, size=row % 4, replace=False)] or None for row in range(50)]
    rows = {"item_id": [str(row) for row in range(50)], "title": phrases(50, seed=5), "photo": shown}
    pl.DataFrame(rows).write_parquet(folder / "items.parquet")
    checked = check_tables(read_items(ItemsConfig(path="items.parquet", photo="photo"), base=folder), None, None)
    config = CatalogueConfig(photo_px=PX, display_px=PX, max_photos=3)
    return Catalogue.open(catalogues.build(config, tables=checked, inputs={}, out=folder / "out"))


def test_further_photos_of_a_catalogue_are_read(tmp_path: Path, block_tokens: int) -> None:
    catalogue = with_several_photos(tmp_path)
    store = catalogue.photos
    assert store.other_counts.tolist() == [max(0, row % 4 - 1) for row in range(50)]
    one, several = embedder(), embedder(photos=3)
    plain, vectors = one.embed_catalogue(catalogue, label=None), several.embed_catalogue(catalogue, label=None)
    alone = store.other_counts == 0
    assert np.abs(vectors[alone] - plain[alone]).max() < 1e-3
    assert np.abs(vectors[~alone] - plain[~alone]).max(axis=1).min() > 1e-3
    rows = np.array([7, 2, 3, 1, 3])  # as the engine asks, one small request
    asked = several.items(
        [catalogue.titles[row] for row in rows],
        pixels=store.pixels(rows),
        has_photo=store.has[rows],
        others=store.other_pixels(rows, most=2),
    )
    assert np.abs(asked - vectors[rows]).max() < 2e-3
    two = embedder(photos=2).embed_catalogue(catalogue, label=None)  # reads only the first of the further ones
    assert np.abs(two[store.other_counts < 2] - vectors[store.other_counts < 2]).max() < 1e-3
    assert np.abs(two[store.other_counts == 2] - vectors[store.other_counts == 2]).max(axis=1).min() > 1e-4


def test_an_encoder_of_one_photo_does_not_ask_for_further_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = with_several_photos(tmp_path)
    monkeypatch.setattr(type(catalogue.photos), "other_pixels", None)
    assert embedder().embed_catalogue(catalogue, label=None).shape == (50, 16)
