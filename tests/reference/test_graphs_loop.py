"""Graphs against dense matrices and loops: who chose what, the nearest items, and which edges an epoch keeps."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from triptych.nn import graphs
from triptych.nn.graphs import Neighbours, along, averaged, bipartite, fixed, gathered, kept_edges, nearest, normalized

USERS, ITEMS = torch.tensor([1, 1, 2, 3, 3, 3, 5]), torch.tensor([1, 2, 2, 4, 5, 7, 7])
COUNTS = {"num_users": 6, "num_items": 8}


def dense(neighbours: Neighbours) -> torch.Tensor:
    count = len(neighbours.rows)
    matrix = torch.zeros(count, count)
    for item in range(count):
        for other, weight in zip(neighbours.rows[item].tolist(), neighbours.weights[item], strict=True):
            matrix[item, other] += weight
    return matrix


def vectors(count: int = 12, *, seed: int = 0, dim: int = 5) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_who_chose_what_is_weighed_by_both_degrees():
    expected = torch.zeros(14, 14)
    for user, item in zip(USERS.tolist(), ITEMS.tolist(), strict=True):
        weight = 1 / np.sqrt(int((user == USERS).sum()) * int((item == ITEMS).sum()))
        expected[user, 6 + item] = expected[6 + item, user] = weight
    torch.testing.assert_close(along(bipartite(USERS, ITEMS, **COUNTS), torch.eye(14)), expected)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_layers_are_powers_of_the_graph(layers):
    graph, first = bipartite(USERS, ITEMS, **COUNTS), vectors(14)
    matrix = along(graph, torch.eye(14))
    powers = [torch.linalg.matrix_power(matrix, power) @ first for power in range(layers + 1)]
    torch.testing.assert_close(averaged(graph, first, layers=layers), sum(powers) / (layers + 1))


@pytest.mark.parametrize("block", [3, 1024])
def test_the_nearest_are_those_of_a_loop(monkeypatch, block):
    monkeypatch.setattr(graphs, "COMPARED_ROWS", block)
    own = vectors().numpy()
    known = np.arange(12) % 5 != 0  # 0, 5 and 10 have no vector
    found = nearest(
        torch.from_numpy(np.where(known[:, None], own, np.nan)), neighbours=4, described=torch.tensor(known)
    )
    for item in range(12):
        if not known[item]:
            assert (found.weights[item] == 0).all()
            continue
        cosine = own @ own[item] / np.linalg.norm(own, axis=1) / np.linalg.norm(own[item])
        order = [other for other in np.argsort(-cosine) if known[other]][:4]
        assert order[0] == item  # itself first
        assert found.rows[item].tolist() == order
        np.testing.assert_allclose(found.weights[item].numpy(), cosine[order], rtol=1e-5)


def test_of_few_described_items_all_are_neighbours():
    known = torch.arange(12) < 3
    found = nearest(vectors(), neighbours=5, described=known)
    assert ((found.weights != 0).sum(dim=1) == torch.where(known, 3, 0)).all()
    assert sorted(found.rows[1, :3].tolist()) == [0, 1, 2]


def test_normalising_divides_by_the_roots_of_row_sums():
    near = nearest(vectors(), neighbours=4, described=torch.arange(12) != 7)
    near = near._replace(weights=near.weights.clamp(min=0))
    matrix = dense(near)
    degree = matrix.sum(dim=1)
    scale = torch.where(degree > 0, degree, torch.inf).rsqrt()
    assert degree[7] == 0
    torch.testing.assert_close(dense(normalized(near)), scale[:, None] * matrix * scale)


def test_passing_vectors_along_is_a_product_with_gradients_of_both():
    near = nearest(vectors(), neighbours=4, described=torch.ones(12, dtype=torch.bool))
    matrix, passed = dense(near).requires_grad_(), vectors(seed=1).requires_grad_()
    weights, again = near.weights.clone().requires_grad_(), passed.detach().clone().requires_grad_()
    found = gathered(near._replace(weights=weights), again)
    torch.testing.assert_close(found, matrix @ passed)
    found.square().sum().backward()
    (matrix @ passed).square().sum().backward()
    torch.testing.assert_close(again.grad, passed.grad)
    torch.testing.assert_close(weights.grad, matrix.grad.gather(1, near.rows))


@pytest.mark.parametrize("graph", ["who chose what", "neighbours"])
def test_a_graph_is_a_sparse_product_both_ways(graph):
    """Against torch's own, which is the slower way to the same."""
    if graph == "who chose what":
        made = bipartite(USERS, ITEMS, **COUNTS)
    else:
        near = nearest(vectors(14), neighbours=4, described=torch.arange(14) != 3)  # one way: no symmetric matrix
        made = fixed(near)
        torch.testing.assert_close(along(made, torch.eye(14)), dense(near))
    first = vectors(14).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: along(made, given), (first,))
    matrix = along(made, torch.eye(14)).double()
    slow = torch.sparse.mm(matrix.to_sparse_coo(), first.detach().clone().requires_grad_())
    torch.testing.assert_close(along(made, first), slow.detach())


def test_edges_are_kept_as_often_as_drawing_one_after_the_other_keeps_them():
    keep, draws = 3, 8_000
    degrees = torch.bincount(USERS)[USERS].double() * torch.bincount(ITEMS)[ITEMS].double()
    share = (degrees.rsqrt() / degrees.rsqrt().sum()).tolist()
    expected = np.zeros(len(USERS))
    for drawn in permutations(range(len(USERS)), keep):
        chance, left = 1.0, 1.0
        for edge in drawn:
            chance *= share[edge] / left
            left -= share[edge]
        expected[list(drawn)] += chance
    generator = torch.Generator().manual_seed(0)
    counts = np.zeros(len(USERS))
    for _ in range(draws):
        kept = kept_edges(USERS, ITEMS, **COUNTS, keep=keep, generator=generator).numpy()
        assert len(np.unique(kept)) == keep
        counts[kept] += 1
    assert expected.sum() == pytest.approx(keep)
    assert expected.max() - expected.min() > 0.1
    np.testing.assert_allclose(counts / draws, expected, atol=0.022)  # four standard deviations
