"""Fusion-Q-Former: its published counts and formula, and masks by changing what they hide."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from triptych.nn.query_former import ModalityTokens, Norm, QueryFormer

ITEMS, DIMS, PLACES = 5, (6, 4, 3), (7, 5, 1)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


def count(model) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.fixture
def tokens() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ITEMS, n, dim, generator=generator) for n, dim in zip(PLACES, DIMS, strict=True)]


@pytest.fixture
def keeps() -> list[torch.Tensor]:
    """Lengths of every kind; item 3 lacks the second modality, item 4 all of them."""
    lengths = ((7, 1, 4, 6, 0), (5, 2, 1, 0, 0), (1, 1, 0, 1, 0))
    return [torch.arange(n) < torch.tensor(own)[:, None] for n, own in zip(PLACES, lengths, strict=True)]


def small(**settings) -> QueryFormer:
    return seeded(lambda: QueryFormer.full(DIMS, dim=16, out_dim=8, heads=4, queries=3, **settings)).eval()


def joined(tokens, keeps):
    return [ModalityTokens(own, keep) for own, keep in zip(tokens, keeps, strict=True)]


@pytest.mark.parametrize("queries", [1, 2])
def test_the_published_one_has_the_published_parameters(queries):
    """Of the trained weights in the authors' logs (Baby), those that are neither tables nor heads of the contrast."""
    trained = 2_011_840 + 4_160 * (queries - 1)
    tables, heads = 64 * (19_445 + 7_050), 2 * 64 * 65
    assert count(QueryFormer.as_published((4096, 384), queries=queries)) == trained - tables - heads


def test_the_full_one_has_what_its_layers_sum_up_to():
    dim, queries, layers = 256, 4, 2
    block = 4 * dim * (dim + 1) + dim * (4 * dim + 1) + 4 * dim * (dim + 1) + 4 * dim
    read = sum(own * dim + dim + 2 * dim for own in (768, 384))
    whole = queries * dim + read + 2 * 2 * dim + layers * block + 2 * dim + queries * dim * 64 + 64
    assert count(QueryFormer.full((768, 384), dim=dim, queries=queries, layers=layers)) == whole


def test_the_published_one_is_its_formula():
    """Item by item and head by head: softmax of products, post-norm, only the queries are read."""
    model = seeded(lambda: QueryFormer.as_published((6, 4), dim=8, queries=2, heads=2)).eval()
    generator = torch.Generator().manual_seed(3)
    vectors = [torch.randn(ITEMS, 1, dim, generator=generator) for dim in (6, 4)]
    found = model([ModalityTokens(own) for own in vectors])
    attention, norm = model.blocks[0].attention, model.blocks[0].attention_norm
    weights, biases = (part.chunk(3) for part in (attention.query_key_value.weight, attention.query_key_value.bias))
    for item in range(ITEMS):
        own = [layer(vector[item]) for layer, vector in zip(model.projections, vectors, strict=True)]
        states = torch.cat([model.queries, *own])
        query, key, value = (states @ weight.T + bias for weight, bias in zip(weights, biases, strict=True))
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            scores = query[:, part] @ key[:, part].T / (8 / 2 + 1e-5) ** 0.5
            heads.append(torch.softmax(scores, dim=1) @ value[:, part])
        mixed = functional.linear(torch.cat(heads, dim=1), attention.out.weight, attention.out.bias)
        read = functional.layer_norm(mixed + states, (8,), norm.weight, norm.bias, 1e-5)[:2]
        expected = model.readout.weight @ read.flatten() + model.readout.bias
        torch.testing.assert_close(found[item], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("hidden", [1e6, float("nan")])
@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("learns_absent", [True, False])
def test_what_is_hidden_changes_nothing(tokens, keeps, hidden, norm, learns_absent):
    settings = {"dim": 16, "out_dim": 8, "queries": 2, "layers": 2, "heads": 4, "hidden_dim": 32}
    model = seeded(lambda: QueryFormer(DIMS, norm=norm, learns_absent=learns_absent, **settings)).eval()
    found = model(joined(tokens, keeps))
    other = [own.masked_fill(~keep[:, :, None], hidden) for own, keep in zip(tokens, keeps, strict=True)]
    assert torch.equal(found, model(joined(other, keeps)))
    assert found.isfinite().all()
    seen = [tokens[0] + torch.zeros_like(tokens[0]).index_fill_(1, torch.tensor([0]), 1.0), *tokens[1:]]
    changed = (model(joined(seen, keeps)) != found).any(dim=1)
    assert changed.tolist() == [True, True, True, True, False]  # the last item has no token at all


def test_padding_and_the_order_of_tokens_change_nothing(tokens, keeps):
    model = small()
    found = model(joined(tokens, keeps))
    longer = [torch.cat([own, torch.full((ITEMS, 3, own.shape[2]), 9.0)], dim=1) for own in tokens]
    kept = [torch.cat([keep, torch.zeros(ITEMS, 3, dtype=torch.bool)], dim=1) for keep in keeps]
    torch.testing.assert_close(model(joined(longer, kept)), found)
    turned = [own.flip(1) for own in tokens], [keep.flip(1) for keep in keeps]
    torch.testing.assert_close(model(joined(*turned)), found)


def test_an_absent_modality_is_one_trained_token(tokens, keeps):
    model = small()
    found = model(joined(tokens, keeps))
    with torch.no_grad():
        model.absent[1] += 1.0
    changed = (model(joined(tokens, keeps)) != found).any(dim=1)
    assert changed.tolist() == [False, False, False, True, True]
    found[3].sum().backward()
    assert (model.absent.grad != 0).any(dim=1).tolist() == [False, True, False]


def test_modalities_are_told_apart(tokens):
    """With equal projections, swapping the tokens of two modalities is seen by the vectors of modalities alone."""
    model = seeded(lambda: QueryFormer.full((6, 6), dim=16, out_dim=8, heads=4, queries=3)).eval()
    model.projections[1].load_state_dict(model.projections[0].state_dict())
    one, two = tokens[0][:, :2], tokens[0][:, 2:]
    given = [ModalityTokens(one), ModalityTokens(two)]
    assert not torch.allclose(model(given), model(given[::-1]), atol=1e-4)
    torch.nn.init.zeros_(model.modalities)
    torch.testing.assert_close(model(given), model(given[::-1]))


@pytest.mark.parametrize("preset", [QueryFormer.as_published, QueryFormer.full])
def test_all_weights_learn_and_the_queries_first(preset, tokens, keeps):
    model = seeded(lambda: preset(DIMS, dim=16, heads=4, queries=2)).eval()
    model(joined(tokens, keeps)).square().sum().backward()
    assert all((weight.grad != 0).any() for weight in model.parameters())
    assert (model.queries.grad != 0).any(dim=1).all()


def test_training_takes_modalities_for_absent(tokens):
    model = small(modality_dropout_rate=0.5)
    given = [ModalityTokens(own.expand(ITEMS, -1, -1)) for own in (own[:1] for own in tokens)]
    assert len(model(given).detach().unique(dim=0)) == 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [model.train()(given).detach() for _ in range(40)]
    distinct = torch.cat(drawn).mul(1e4).round().unique(dim=0)
    assert len(distinct) == 2 ** len(DIMS)  # every set of absent modalities
