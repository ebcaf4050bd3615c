"""Texts read in parts of like length, and pairs of which only the first state is made: nothing may come out changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.data.text import CLS, PAD, SEP
from triptych.encoders.base import Encoder, EncoderConfig
from triptych.encoders.cross import CrossEncoder
from triptych.encoders.inputs import ItemInputs, Tokens
from triptych.encoders.models.late_fusion import LateFusionConfig
from triptych.encoders.models.two_tower import TwoTowerConfig
from triptych.encoders.slots import NO_MODELS
from triptych.pretrain.rows import LengthParts, length_parts, parts_of, whole_of

SIZE = {"dim": 16, "heads": 2, "photo_px": 32, "vector_dim": 8, "max_query_tokens": 12, "max_title_tokens": 12}
CONFIGS: dict[str, EncoderConfig] = {
    "two_tower": TwoTowerConfig.parse({**SIZE, "layers": 2}),
    "two_tower, means": TwoTowerConfig.parse({**SIZE, "layers": 2, "export": "mean"}),
    "two_tower, padding too": TwoTowerConfig.parse({**SIZE, "layers": 2, "export": "mean-with-padding"}),
    "late_fusion": LateFusionConfig.parse(SIZE),
    "late_fusion, titles": LateFusionConfig.parse({**SIZE, "modalities": "title"}),
}
ROWS = 100


def texts(*, shortest: int) -> np.ndarray:
    """Most are short, some long; of length 0 there is none."""
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(ROWS) < 0.7, rng.integers(shortest, 4, size=ROWS), rng.integers(8, 12, size=ROWS))
    found = rng.integers(SEP + 1, 50, size=(ROWS, 11)).astype(np.int32)
    found[:, 0] = CLS
    found[np.arange(11) >= lengths[:, None]] = PAD
    return found


def cut(tokens: np.ndarray) -> LengthParts:
    parts = length_parts(tokens)
    assert parts is not None
    assert parts.widths[0] < parts.widths[1] == tokens.shape[1]
    return parts


def encoder(name: str) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CONFIGS[name].build(vocab_size=50, models=NO_MODELS)


def same_tokens(found: Tokens, wanted: Tokens) -> None:
    assert torch.equal(found.keep, wanted.keep)
    torch.testing.assert_close(found.states[found.keep], wanted.states[wanted.keep], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_queries_are_read_in_parts_as_at_once(name: str) -> None:
    made, tokens = encoder(name), texts(shortest=1)
    parts = cut(tokens)
    whole = made.read_queries(torch.from_numpy(tokens))
    found = whole_of([made.read_queries(one) for one in parts_of(torch.from_numpy(tokens), parts)], parts)
    torch.testing.assert_close(found.vectors, whole.vectors, rtol=1e-4, atol=1e-5)
    same_tokens(found.tokens, whole.tokens)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("has_short_titles", [True, False])
def test_items_are_read_in_parts_as_at_once(name: str, has_short_titles: bool) -> None:
    # Without short titles the first part is one of items that have none at all.
    made, tokens = encoder(name), texts(shortest=0)
    if not has_short_titles:
        tokens[(tokens != PAD).sum(axis=1) < 4] = PAD
    parts = cut(tokens)
    rng = np.random.default_rng(1)
    items = ItemInputs(
        title_tokens=torch.from_numpy(tokens),
        pixels=torch.from_numpy(rng.integers(0, 256, size=(ROWS, 32, 32, 3), dtype=np.uint8)),
        has_title=torch.from_numpy(tokens[:, 0] != PAD),
        has_photo=torch.from_numpy(rng.random(ROWS) < 0.8),
    )
    whole = made.read_items(items)
    found = whole_of([made.read_items(one) for one in parts_of(items, parts)], parts)
    assert found.places == whole.places
    torch.testing.assert_close(found.vectors, whole.vectors, rtol=1e-4, atol=1e-5)
    same_tokens(found.tokens, whole.tokens)
    if made.GIVES_VIEWS:
        has = items.has_title
        assert found.title_vectors is not None and whole.title_vectors is not None
        torch.testing.assert_close(found.title_vectors[has], whole.title_vectors[has], rtol=1e-4, atol=1e-5)


def test_texts_of_one_length_are_not_cut() -> None:
    assert length_parts(np.full((ROWS, 6), SEP + 1, dtype=np.int32)) is None


@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_state_of_a_pair_is_the_same_where_no_other_is_made(layers: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cross = CrossEncoder(16, layers=layers, heads=2)
        states = torch.randn(2, 3, 5, 16)
    keep = torch.arange(5) < torch.tensor([[5], [2], [3]])
    query, item = Tokens(states[0], keep), Tokens(states[1], keep.flip(0))
    first, every = cross(query, item, read=1), cross(query, item)
    assert first.states.shape[:2] == first.keep.shape == (3, 1)
    torch.testing.assert_close(first.states, every.states[:, :1], rtol=1e-4, atol=1e-5)
