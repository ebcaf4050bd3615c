"""Means over bags and attention with a row of zeros, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.nn.bags import TableBags, bag_means, bags_of
from triptych.nn.zero_attention import zero_attention


def test_means_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.standard_normal((7, 3))).requires_grad_()
    lists = [[0, 0, 4], [], [6], [2, 5], []]
    bags = bags_of(np.concatenate(lists).astype(int), sizes=[len(one) for one in lists])
    there = torch.tensor([True, True, False, True, True, True, False])
    for counts in (None, there):
        found = bag_means(vectors, bags, there=counts)
        for row, one in enumerate(lists):
            own = [vectors[place] for place in one if counts is None or counts[place]]
            expected = torch.stack(own).mean(dim=0) if own else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(found.vectors[row], expected)
            assert bool(found.filled[row]) == bool(own)
    bag_means(vectors, bags, there=there).vectors[1:].sum().backward()
    assert (vectors.grad.abs().sum(dim=1) > 0).tolist() == [False, False, False, False, False, True, False]


def test_bags_of_a_table_name_each_row_once():
    padded = np.array([[5, 9, -1], [-1, -1, -1], [9, 5, 5]])
    found = TableBags.of(padded)
    assert found.rows.tolist() == [5, 9]
    assert found.rows[found.bags.places].tolist() == [5, 9, 9, 5, 5]
    assert found.bags.starts.tolist() == [0, 2, 2]


def test_no_vectors_at_all_are_means_of_zeros():
    found = bag_means(torch.zeros(0, 4), bags_of(np.empty(0, int), sizes=[0, 0]))
    assert torch.equal(found.vectors, torch.zeros(2, 4))
    assert not found.filled.any()


@pytest.mark.parametrize("steps", [1, 6])
def test_attention_with_a_row_of_zeros_is_that_of_a_loop(steps):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(4, 3, 5, generator=generator)
    rows = torch.randn(4, steps, 5, generator=generator)
    lengths = [0, 1, steps, max(1, steps - 2)]
    keep = torch.arange(steps) < torch.tensor(lengths)[:, None]
    found = zero_attention(queries, rows, keep=keep)
    assert torch.equal(found[0], torch.zeros(3, 5))
    for place, length in enumerate(lengths):
        own = torch.cat([torch.zeros(1, 5), rows[place, :length]])
        for asked in range(3):
            weights = torch.softmax(torch.stack([queries[place, asked] @ row for row in own]), dim=0)
            expected = sum(weight * row for weight, row in zip(weights, own, strict=True))
            torch.testing.assert_close(found[place, asked], expected)


def test_what_stands_behind_the_end_changes_nothing_and_gets_no_gradient():
    queries = torch.ones(1, 1, 2, requires_grad=True)
    rows = torch.tensor([[[1.0, 2.0], [float("nan"), 3.0]]], requires_grad=True)
    keep = torch.tensor([[True, False]])
    found = zero_attention(queries, rows, keep=keep)
    torch.testing.assert_close(found, zero_attention(queries, rows[:, :1], keep=keep[:, :1]))
    found.sum().backward()
    assert queries.grad.isfinite().all()
    assert rows.grad[0].abs().sum(dim=1).tolist()[1] == 0 < rows.grad[0, 0].abs().sum()
