"""The embedder: order kept, batch size without influence, small and bulk requests alike, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders import embed
from triptych.encoders.embed import Embedder
from triptych.encoders.two_tower import EncoderConfig, Modalities, TwoTowerEncoder
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


def build(modalities: Modalities) -> tuple[TwoTowerEncoder, TextTokenizer]:
    tokenizer = TextTokenizer.fit(phrases(200), config=TokenizerConfig(vocab_size=64, min_count=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = EncoderConfig(modalities=modalities, dim=32, layers=2, heads=4, vector_dim=16, photo_px=PX)
        return TwoTowerEncoder(config, vocab_size=tokenizer.vocab_size), tokenizer


def embedder(modalities: Modalities = Modalities.TITLE_PHOTO, *, precision: Precision = Precision.FP32) -> Embedder:
    encoder, tokenizer = build(modalities)
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
