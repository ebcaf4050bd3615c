"""Alignment and uniformity of a ranker's two spaces: against loops, at chance, where both say the same."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from planted_ranking import planted_log
from tiny_rankers import EM3, drawn, warmed

from triptych.evaluate import figures
from triptych.evaluate.item_spaces import LEAST_ITEMS, alignment, item_spaces, measured, uniformity
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.scorer import Ranker
from triptych.ranker.task import Given, RankTask


def units(count, dim, *, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, dim))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_both_are_loops_over_pairs():
    left, right = units(7, 3), units(7, 3, seed=1)
    pairs = [np.sum((one - other) ** 2) for one, other in zip(left, right, strict=True)]
    assert alignment(left, right) == pytest.approx(np.mean(pairs))
    within = [math.exp(-2 * np.sum((left[i] - left[j]) ** 2)) for i in range(7) for j in range(7) if i != j]
    assert uniformity(left) == pytest.approx(math.log(np.mean(within)))
    assert uniformity(np.ones((5, 1))) == 0.0
    two = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(two) == pytest.approx(-8.0)


@pytest.mark.parametrize("noise", [0.0, 0.5, None])
def test_spaces_that_say_the_same_are_aligned_whatever_their_axes(noise):
    """Content is IDs in other axes and of other length, with noise, or something else altogether (None)."""
    rng = np.random.default_rng(2)
    ids = rng.normal(size=(800, 6))
    content = 5 * ids @ rng.normal(size=(6, 10)) + 3
    content = rng.normal(size=(800, 10)) if noise is None else content + 5 * noise * rng.normal(size=(800, 10))
    found = measured(ids, content, categories=["a"] * 800)
    low, high = {0.0: (0, 0.01), 0.5: (0.01, 1.0), None: (1.8, 2.2)}[noise]
    assert low <= found.alignment <= high
    assert found.num_items == 800 and found.ids.shape == found.content.shape == (400, 2)
    assert len(found.categories) == 400
    turned = measured(-ids[:, ::-1], 9 * content[:, ::-1], categories=["a"] * 800)
    assert turned.alignment == pytest.approx(found.alignment, abs=1e-6)
    assert turned.uniformity_content == pytest.approx(found.uniformity_content)


def test_a_space_in_which_items_cluster_is_less_uniform():
    rng = np.random.default_rng(0)
    ids, spread = rng.normal(size=(2, 300, 8))
    clustered = rng.normal(size=(3, 8))[np.arange(300) % 3] + 0.05 * spread
    found = [measured(ids, one, categories=[None] * 300) for one in (spread, clustered)]
    assert found[1].uniformity_content > found[0].uniformity_content + 1
    assert found[1].uniformity_ids == found[0].uniformity_ids < -1


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return planted_log(tmp_path_factory.mktemp("log"))


def ranker(log, content):
    vectors = torch.randn(log.catalogue.num_items, 6, generator=drawn()).numpy()
    tree = {"model": {"kind": "din", "dim": 4, "hidden_dims": [8]}, "content": content}
    given = Given(log.catalogue, log.split, 0, modalities=None if content["kind"] == "none" else {"item": vectors})
    task = RankTask(RankTrainConfig.parse(tree), given)
    return Ranker(warmed(task.module), task.features)


def test_a_rankers_items_are_those_with_a_vector_by_id(log, monkeypatch):
    monkeypatch.setattr("triptych.evaluate.item_spaces.LEAST_ITEMS", 10)
    one = ranker(log, EM3)
    found = item_spaces(one, catalogue=log.catalogue)
    assert found.num_items == int((one.features.id_rows(np.arange(log.catalogue.num_items)) > 0).sum())
    assert set(found.categories) <= {"cups", "hats", "rugs", "toys"}
    again = item_spaces(one, catalogue=log.catalogue)
    assert np.array_equal(found.ids, again.ids) and found.alignment == again.alignment
    assert item_spaces(ranker(log, {"kind": "none"}), catalogue=log.catalogue) is None
    assert item_spaces(ranker(log, {"kind": "simtier"}), catalogue=log.catalogue) is None
    svg = figures.item_spaces({"din, em3": found})
    assert "din, em3" in svg and "by content" in svg and len(re.findall("<use", svg)) >= 2 * len(found.ids)


def test_of_too_few_items_nothing_is_said(log):
    assert log.catalogue.num_items < LEAST_ITEMS
    assert item_spaces(ranker(log, EM3), catalogue=log.catalogue) is None
