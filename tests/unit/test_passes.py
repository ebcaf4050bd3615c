"""A step's passes: who sees what, and that chunks, and the cheap pass, are what they say."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from multitask_batches import everything, model_of, objective, passes_of, photos, small_encoder, texts

from triptych.data.text import PAD
from triptych.encoders.base import MODELS
from triptych.encoders.inputs import ItemInputs, View
from triptych.encoders.models.two_tower import TwoTowerEncoder
from triptych.foundation.registry import kinds

KINDS = kinds(MODELS)
CLOSE = 1e-5
QUERY, TITLE, PHOTO = "query-item", "query-title", "query-photo"
OBJECTIVES: dict[str, dict[str, Any]] = {
    **{
        f"contrast {between}": {"kind": "contrast", "between": between, "symmetric": True}
        for between in (QUERY, TITLE, PHOTO, "title-photo")
    },
    "am-softmax": {"kind": "contrast", "loss": "am-softmax", "log_q_weight": 0.5},
    "sigmoid": {"kind": "contrast", "loss": "sigmoid", "same_title": True},
    **{
        f"words of {of} at {at}": {"kind": "masked_words", "of": of, "at": at}
        for of, at in product(("query", "title"), ("tower", "cross"))
    },
    **{f"patches at {at}": {"kind": "masked_patches", "at": at} for at in ("tower", "cross")},
    **{f"matching {pair}": {"kind": "matching", "pair": pair} for pair in (QUERY, PHOTO, "title-photo")},
    "photo views": {"kind": "photo_view"},
}
CASES = [
    *product(KINDS, OBJECTIVES, [False]),
    *(("two_tower", name, True) for name, tree in OBJECTIVES.items() if tree.get("at") == "cross" or "pair" in tree),
]
"""Encoder, objective, and whether query and item meet in the encoder's own transformer."""


def loss_and_gradients(kind: str, tree: dict[str, Any], *, single_stream: bool, encoder: dict[str, Any], **settings):
    task = objective(**tree)
    model = model_of(small_encoder(kind, **encoder), task, single_stream=single_stream)
    torch.manual_seed(0)
    output = model.objectives[task.label](passes_of(model, everything(), **settings))
    output.total.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return output, gradients


def assert_same(first, second) -> None:
    assert first[0].total.item() == pytest.approx(second[0].total.item(), rel=1e-5)
    assert {n: v.item() for n, v in first[0].parts.items()} == pytest.approx(
        {n: v.item() for n, v in second[0].parts.items()}, rel=1e-5
    )
    assert set(first[1]) == set(second[1])
    largest = max(float(gradient.abs().max()) for gradient in first[1].values())
    assert largest > 0
    for name, gradient in first[1].items():
        assert torch.allclose(gradient, second[1][name], rtol=1e-4, atol=1e-5 * largest), name


@pytest.mark.parametrize(("kind", "name", "single_stream"), CASES)
def test_rows_at_once_change_neither_loss_nor_gradients(kind: str, name: str, single_stream: bool):
    given = {"tree": OBJECTIVES[name], "single_stream": single_stream, "encoder": {}}
    whole = loss_and_gradients(kind, **given)
    assert_same(whole, loss_and_gradients(kind, **given, rows_at_once=3))
    assert_same(whole, loss_and_gradients(kind, **given, rows_at_once=3, keeps_states=False))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("settings", [{"export": "mean"}, {"export": "mean-with-padding"}, {"photos": 2}])
def test_every_objective_can_be_learned_whatever_is_exported(name: str, settings: dict[str, Any]):
    tree = OBJECTIVES[name]
    for single_stream in (False, True):
        output, gradients = loss_and_gradients("two_tower", tree, single_stream=single_stream, encoder=settings)
        assert torch.isfinite(output.total)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("at", ["tower", "cross"])
@pytest.mark.parametrize("of", ["query", "title"])
def test_the_states_of_words_do_not_depend_on_the_export(of: str, at: str):
    """A mean over padding reads longer texts, and its words stand where they stood."""
    tree = {"kind": "masked_words", "of": of, "at": at}
    for single_stream in (False, True):
        cls, padded = (
            loss_and_gradients("two_tower", tree, single_stream=single_stream, encoder={"export": export})
            for export in ("cls", "mean-with-padding")
        )
        assert_same(cls, padded)


@pytest.mark.parametrize("kind", KINDS)
def test_items_do_not_know_the_queries_nor_queries_the_items(kind: str):
    model, batch = model_of(small_encoder(kind)), everything()
    before = passes_of(model, batch)
    asked_otherwise = passes_of(model, batch._replace(query_tokens=texts([5] * 11, seed=20)))
    assert torch.equal(before.item_vectors, asked_otherwise.item_vectors)
    assert not torch.allclose(before.query_vectors, asked_otherwise.query_vectors, atol=CLOSE)
    others = batch.items._replace(title_tokens=texts([6] * 8, seed=21), pixels=photos(8, seed=22))
    of_others = passes_of(model, batch._replace(items=others))
    assert torch.equal(before.query_vectors, of_others.query_vectors)
    assert not torch.allclose(before.item_vectors, of_others.item_vectors, atol=CLOSE)


@pytest.mark.parametrize(("kind", "single_stream"), [*((kind, False) for kind in KINDS), ("two_tower", True)])
def test_an_untitled_pair_does_not_know_the_title(kind: str, single_stream: bool):
    model, batch = model_of(small_encoder(kind), single_stream=single_stream), everything()
    retitled = batch.items._replace(title_tokens=texts([7, 3, 5, 6, 8, 4, 3, 6], seed=20), drop_title=batch.has_title)
    queries, items = torch.tensor([0, 3, 5, 8]), torch.tensor([6, 2, 4, 0])
    before, after = (
        passes_of(model, one).cross_pairs(queries, items, untitled=True).states
        for one in (batch, batch._replace(items=retitled))
    )
    assert torch.equal(before, after)
    titled, retitled_pairs = (
        passes_of(model, one).cross_pairs(queries, items).states[:, 0]
        for one in (batch, batch._replace(items=batch.items._replace(title_tokens=retitled.title_tokens)))
    )
    differs = ((titled - retitled_pairs).abs().amax(dim=1) > CLOSE).tolist()
    assert differs == [True, True, False, True]  # item 4 has none
    assert not torch.allclose(before[:, 0], titled, atol=CLOSE)
    rephotographed = batch._replace(items=batch.items._replace(pixels=255 - batch.items.pixels))
    other = passes_of(model, rephotographed).cross_pairs(queries, items, untitled=True).states[:, 0]
    assert ((before[:, 0] - other).abs().amax(dim=1) > CLOSE).all()


@pytest.mark.parametrize(("kind", "single_stream"), [*((kind, False) for kind in KINDS), ("two_tower", True)])
def test_a_pair_is_of_the_query_and_the_item_that_are_asked_for(kind: str, single_stream: bool):
    """In any order, more than once, and as if there were no others."""
    model, batch = model_of(small_encoder(kind), single_stream=single_stream), everything()
    queries, items = torch.tensor([8, 0, 8, 3]), torch.tensor([2, 6, 0, 2])
    together = passes_of(model, batch).cross_pairs(queries, items)
    for place in range(4):
        alone = passes_of(model, batch).cross_pairs(queries[place : place + 1], items[place : place + 1])
        assert torch.allclose(alone.states[0], together.states[place], atol=CLOSE)
        assert torch.equal(alone.keep[0], together.keep[place])
    assert not torch.allclose(together.states[0, 0], together.states[2, 0], atol=CLOSE)
    assert passes_of(model, batch).cross_pairs(queries[:0], items[:0]).states.shape[0] == 0


def test_a_single_stream_is_the_towers_transformer_over_query_and_item():
    """One pair at a time, written out without padding."""
    encoder = small_encoder("two_tower")
    assert isinstance(encoder, TwoTowerEncoder)
    model, batch = model_of(encoder, single_stream=True), everything()
    queries, items = torch.tensor([0, 2, 10]), torch.tensor([6, 2, 1])
    found = passes_of(model, batch).cross_pairs(queries, items)
    for place, (query, item) in enumerate(zip(queries.tolist(), items.tolist(), strict=True)):
        words = batch.query_tokens[query][batch.query_tokens[query] != PAD].long()
        title = batch.items.title_tokens[item]
        title = title[title != PAD].long()
        position = encoder.text.positions.weight
        patches = encoder.patches(batch.items.pixels[item : item + 1])[0]
        states = torch.cat(
            [
                encoder.text.words.weight[words] + position[: len(words)] + encoder.types[0],
                encoder.text.words.weight[title] + position[: len(title)] + encoder.types[1],
                patches + encoder.types[2],
            ]
        )
        expected = encoder.transformer(encoder.input_norm(states)[None])[0]
        assert torch.allclose(found.states[place][found.keep[place]], expected, atol=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cross_encoder_reads_the_states_of_both_towers(kind: str):
    model, batch = model_of(small_encoder(kind)), everything()
    found = passes_of(model, batch).cross_pairs(torch.tensor([0]), torch.tensor([6]))
    query = model.encoder.read_queries(batch.query_tokens[:1]).tokens
    item = model.encoder.read_items(ItemInputs(*(part[6:7] for part in batch.items[:4]))).tokens
    sides = [
        (model.cross.norm(side.states) + kind_vector)[0][side.keep[0]]
        for side, kind_vector in zip((query, item), model.cross.kinds, strict=True)
    ]
    expected = model.cross.transformer(torch.cat(sides)[None])[0]
    assert torch.allclose(found.states[0][found.keep[0]], expected, atol=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cheap_pass_reads_what_is_masked(kind: str):
    model, batch = model_of(small_encoder(kind)), everything()
    cheap, clean = passes_of(model, batch, cheap=True), passes_of(model, batch)
    assert cheap.queries is cheap.masked_queries
    assert cheap.items is cheap.masked_items
    assert torch.equal(cheap.item_vectors, clean.masked_items.vectors)
    assert torch.equal(cheap.query_vectors, clean.masked_queries.vectors)
    assert not torch.allclose(cheap.item_vectors, clean.item_vectors, atol=CLOSE)
    shown = batch.items._replace(title_tokens=batch.masked_titles.tokens, hidden=batch.hidden_patches.chosen)
    assert torch.allclose(cheap.item_vectors, model.encoder.encode_items(shown), atol=CLOSE)
    assert torch.allclose(cheap.query_vectors, model.encoder.encode_queries(batch.masked_queries.tokens), atol=CLOSE)
    # with nothing masked there is nothing cheaper than the clean pass
    plain = batch._replace(masked_queries=None, masked_titles=None, hidden_patches=None)
    bare = passes_of(model, plain, cheap=True)
    assert torch.equal(bare.item_vectors, clean.items.vectors)
    assert torch.equal(bare.query_vectors, clean.queries.vectors)


@pytest.mark.parametrize(("kind", "single_stream"), [*((kind, False) for kind in KINDS), ("two_tower", True)])
def test_pairs_of_the_cheap_pass_are_of_what_is_masked(kind: str, single_stream: bool):
    """FashionBERT, whose query and item meet in one stream, matches what it has masked."""
    model, batch = model_of(small_encoder(kind), single_stream=single_stream), everything()
    queries, items = torch.tensor([0, 3, 5, 8]), torch.tensor([6, 2, 4, 0])
    shown = batch.items._replace(title_tokens=batch.masked_titles.tokens, hidden=batch.hidden_patches.chosen)
    masked = batch._replace(query_tokens=batch.masked_queries.tokens, items=shown)
    cheap, expected, clean = (
        passes_of(model, one, cheap=is_cheap).cross_pairs(queries, items).states[:, 0]
        for one, is_cheap in ((batch, True), (masked, False), (batch, False))
    )
    assert torch.allclose(cheap, expected, atol=CLOSE)
    assert not torch.allclose(cheap, clean, atol=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keeps_states", [False, True])
def test_vectors_are_the_encoders_whatever_else_is_kept(kind: str, keeps_states: bool):
    model, batch = model_of(small_encoder(kind)), everything()
    drop = torch.tensor([True, False, True, False, False, False, False, False])
    items = batch.items._replace(drop_title=drop, drop_photo=drop.roll(2) & ~drop)
    passes = passes_of(model, batch._replace(items=items), keeps_states=keeps_states)
    encoder = model.encoder
    assert torch.allclose(passes.item_vectors, encoder.encode_items(items), atol=CLOSE)
    assert torch.allclose(passes.query_vectors, encoder.encode_queries(batch.query_tokens), atol=CLOSE)
    for vectors, view, has in (
        (passes.title_vectors, View.TITLE, batch.has_title),
        (passes.photo_vectors, View.PHOTO, batch.has_photo),
    ):
        assert torch.allclose(vectors[has], encoder.encode_items(items, view=view)[has], atol=CLOSE)
    # whether the item has been read without its title before makes no difference
    again = passes_of(model, batch._replace(items=items), keeps_states=keeps_states)
    assert again.untitled_items is not None
    assert torch.allclose(again.photo_vectors[batch.has_photo], passes.photo_vectors[batch.has_photo], atol=CLOSE)
    # what is masked is masked whether or not the item was to be kept from it
    assert torch.equal(passes.masked_items.vectors, passes_of(model, batch).masked_items.vectors)
