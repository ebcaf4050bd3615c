"""Histograms counted some pairs at a time are those of a loop over pairs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from triptych.ranker.content import simtier
from triptych.ranker.content.simtier import SimTierConfig


@pytest.mark.parametrize("block", [3, 1000])
def test_counts_are_those_of_a_loop(monkeypatch, block):
    monkeypatch.setattr(simtier, "CACHED_PAIRS", block)
    torch.manual_seed(0)
    plugin = SimTierConfig(tiers=5).build({"a": 4, "b": 3}, id_dim=2, catalogue_items=8)
    items = []
    for dim in (4, 3):
        there = torch.rand(8) < 0.7
        items.append(
            torch.cat([functional.normalize(torch.randn(8, dim), dim=1) * there[:, None], there[:, None]], dim=1)
        )
    target, steps = torch.randint(8, (6,)), torch.randint(-1, 8, (6, 4))
    expected = torch.zeros(6, 5)
    for row in range(6):
        for step in steps[row].tolist():
            cosines = [
                float(one[target[row], :-1] @ one[step, :-1])
                for one in items
                if step >= 0 and one[target[row], -1] and one[step, -1]
            ]
            if cosines:
                expected[row, min(4, int((sum(cosines) / len(cosines) + 1) / 2 * 5))] += 1
    assert torch.equal(plugin.counts(items, target=target, steps=steps), expected)
