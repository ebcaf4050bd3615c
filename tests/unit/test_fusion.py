"""Fusions of ID and content: what each is made of, what gets a gradient, what a new ID's vector is."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from triptych.nn.fusion import FusedVectors, Fusion

DIM, CONTENT, IDS = 5, 7, 9


def made(fusion: Fusion, **settings) -> FusedVectors:
    torch.manual_seed(0)
    return FusedVectors(fusion, num_ids=IDS, content_dim=CONTENT, dim=DIM, id_init_std=0.5, **settings)


def asked() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.tensor([3, 0, 3, 8]), functional.normalize(torch.randn(4, CONTENT), dim=1)


def expected(vectors: FusedVectors, fusion: Fusion, ids: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    own = None if vectors.ids is None else vectors.ids.weight[ids]
    if fusion is Fusion.ID:
        return own
    (reduce,) = vectors.reduce
    if fusion is Fusion.TRAINABLE:
        return (content + own) @ reduce.weight.T + reduce.bias
    a = content @ reduce.weight.T + reduce.bias
    if fusion is Fusion.MM:
        return a
    if fusion is Fusion.SUM:
        return a + own
    if fusion is Fusion.CAT:
        return torch.cat([a, own], dim=1)
    bent = own @ vectors.bend.weight.T + vectors.bend.bias
    if fusion is Fusion.IDFC:
        return a + bent
    return torch.cat([a, bent], dim=1) @ vectors.join.weight.T + vectors.join.bias


@pytest.mark.parametrize("fusion", Fusion)
def test_each_is_its_formula_made_a_unit_vector(fusion):
    vectors, (ids, content) = made(fusion), asked()
    found = vectors(ids, content)
    assert found.shape == (4, vectors.out_dim)
    assert vectors.out_dim == (2 * DIM if fusion is Fusion.CAT else DIM)
    torch.testing.assert_close(found, functional.normalize(expected(vectors, fusion, ids, content), dim=1))


@pytest.mark.parametrize("fusion", [fusion for fusion in Fusion if fusion.reads_content])
def test_content_is_frozen_and_all_else_learns(fusion):
    """Check 9 of the Taobao reconstruction, section 9: p gets no gradient; e and every map do."""
    vectors, (ids, content) = made(fusion).train(), asked()
    vectors(ids, content)[:, 0].sum().backward()
    assert not content.requires_grad
    maps = {name: weight for name, weight in vectors.named_parameters() if not name.startswith("ids.")}
    assert maps and all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in maps.values())
    if vectors.ids is not None:
        before = vectors.ids.weight.detach().clone()
        vectors.ids.sum_row_gradients(Alone())
        vectors.ids.update_rows(learning_rate=0.1, seed=0)
        changed = (vectors.ids.weight != before).any(dim=1)
        assert changed.tolist() == [row in (0, 3, 8) for row in range(IDS)]


class Alone:
    size = 1


def test_what_is_trained_as_content_begins_as_the_content():
    vectors, (ids, content) = made(Fusion.TRAINABLE), asked()
    torch.testing.assert_close(vectors(ids, content), vectors(torch.zeros_like(ids), content))


def test_an_mlp_may_stand_in_the_place_of_the_map():
    vectors, (ids, content) = made(Fusion.MM, hidden_dims=(6, 4)), asked()
    first, _, second, _, last = vectors.reduce
    hidden = functional.relu(second(functional.relu(first(content))))
    torch.testing.assert_close(vectors(ids, content), functional.normalize(last(hidden), dim=1))


@pytest.mark.parametrize("fusion", ["mm", "mm+idfc", "mm+id_cat"])
def test_sides_that_begin_alike_keep_the_inner_products_of_their_content(fusion):
    sides = [FusedVectors(Fusion(fusion), num_ids=3, content_dim=6, dim=8, id_init_std=0.0) for _ in range(2)]
    sides[1].begin_like(sides[0])
    content = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    query, item = (side.reduce(content) for side in sides)
    torch.testing.assert_close(query @ item.T, content @ content.T, atol=1e-5, rtol=1e-5)
    sides[0].reduce[0].weight.data.zero_()
    assert sides[1].reduce[0].weight.abs().sum() > 0  # two maps


def test_sides_without_content_begin_as_they_were_drawn():
    sides = [FusedVectors(Fusion.ID, num_ids=3, content_dim=0, dim=8) for _ in range(2)]
    before = sides[1].ids.weight.clone()
    sides[1].begin_like(sides[0])
    assert torch.equal(sides[1].ids.weight, before)
