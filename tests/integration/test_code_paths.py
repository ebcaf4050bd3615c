"""Semantic IDs in the engine: an item's codes, the nearest items for each number in common, and the tree of all."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from tiny_shop import write_run

from triptych.engine import Engine, PrefixError, code_paths
from triptych.engine.bundle import open_bundle
from triptych.engine.code_paths import nearest_to_centre
from triptych.foundation.errors import EngineError
from triptych.index.backends.exact import ExactConfig
from triptych.index.base import open_index
from triptych.semantic_ids.stored import SemanticIds


@pytest.fixture
def engine(demo_run: Path) -> Engine:
    return Engine.open(demo_run)


def in_common(one: list[int], other: list[int]) -> int:
    """Count equal codes from the first, one by one."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=True))))


def test_each_step_has_the_nearest_items_that_share_so_many_codes_and_not_one_more(
    demo_run: Path, engine: Engine
) -> None:
    _, parts = open_bundle(demo_run)
    assert parts.semantic_ids is not None
    codes = np.asarray(SemanticIds.open(parts.semantic_ids).codes).tolist()
    everything = engine.search(channel="popularity", k=engine.num_items)
    row_of = {hit.item_id: hit.item_row for hit in everything}
    sizes = set()
    for asked in everything[:5]:
        own = codes[asked.item_row]
        ranked = [row_of[hit.item_id] for hit in engine.similar(asked.item_id, k=engine.num_items)]
        found = engine.code_path(asked.item_id, k=3)
        assert found.codes == own
        assert [step.codes_shared for step in found.steps] == list(range(len(own), 0, -1))
        for step in found.steps:
            shares = [row for row in ranked if in_common(codes[row], own) == step.codes_shared]
            assert step.num_items == len(shares)
            assert [hit.item_row for hit in step.hits] == shares[:3]
            sizes.add(min(len(shares), 4))
    assert {0, 4} <= sizes  # both an empty step and one that is cut were looked at


def test_items_that_are_added_get_codes_and_those_that_are_removed_are_nobodys_neighbours(engine: Engine) -> None:
    asked = engine.search(channel="popularity", k=1)[0].item_id
    photo = engine.photo_jpeg(asked)
    title = engine.item(asked)["title"]
    before = engine.code_path(asked)
    engine.add_items([{"item_id": "twin", "title": title, "photo": photo}])
    twin = engine.code_path("twin")
    assert twin.codes[0] == before.codes[0]  # the photo is the one that is shown, not the one that was read
    after = engine.code_path(asked, k=engine.num_items)
    assert "twin" in [hit.item_id for step in after.steps for hit in step.hits]
    assert sum(step.num_items for step in after.steps) == 1 + sum(step.num_items for step in before.steps)
    engine.remove_items(["twin"])
    assert engine.code_path(asked) == before


@pytest.fixture(scope="module")
def codes(demo_run: Path) -> list[list[int]]:
    """The IDs of all items, by row."""
    _, parts = open_bundle(demo_run)
    assert parts.semantic_ids is not None
    return np.asarray(SemanticIds.open(parts.semantic_ids).codes).tolist()


def check_nearest(rows: list[int], cosines: list[float], *, of: list[int], vectors: np.ndarray, k: int) -> None:
    """Check that rows are those with the largest cosines with the mean of some rows' vectors, one by one in float64."""
    own = vectors[of].astype(np.float64)
    mean = own.mean(axis=0)
    expected = own @ mean / (np.linalg.norm(own, axis=1) * np.linalg.norm(mean))
    assert len(set(rows)) == len(rows) == min(k, len(of))
    np.testing.assert_allclose(cosines, np.sort(expected)[::-1][:k], atol=1e-5)
    np.testing.assert_allclose(cosines, [expected[of.index(row)] for row in rows], atol=1e-5)


def test_the_tree_is_that_of_all_codes_counted_one_by_one(
    demo_run: Path, engine: Engine, codes: list[list[int]]
) -> None:
    _, parts = open_bundle(demo_run)
    index = open_index(parts.index)
    vectors = index.vectors(np.arange(index.num_rows))
    prefixes = {tuple(own[:depth]) for own in codes for depth in range(len(own))}
    for prefix in [(), *sorted(prefixes)[::9]]:
        depth = len(prefix)
        below = [row for row, own in enumerate(codes) if tuple(own[:depth]) == prefix]
        counts = Counter(codes[row][depth] for row in below)
        found = engine.code_tree(prefix, k=4, limit=200)
        assert (found.prefix, found.levels, found.hits) == (list(prefix), 3, [])
        assert (found.num_items, found.num_branches) == (len(below), len(counts))
        assert [(one.code, one.num_items) for one in found.branches] == sorted(
            counts.items(), key=lambda pair: (-pair[1], pair[0])
        )
        for one in found.branches:
            rows = [row for row in below if codes[row][depth] == one.code]
            cosines = [hit.score for hit in one.hits]
            check_nearest([hit.item_row for hit in one.hits], cosines, of=rows, vectors=vectors, k=4)


def test_behind_a_whole_id_are_the_items_that_share_it_a_part_at_a_time(engine: Engine, codes: list[list[int]]) -> None:
    (whole, number), *_ = Counter(map(tuple, codes)).most_common(1)
    assert number >= 2
    found = engine.code_tree(whole)
    assert (found.num_items, found.num_branches, found.branches) == (number, 0, [])
    rows = [hit.item_row for hit in found.hits]
    assert sorted(rows) == [row for row, own in enumerate(codes) if tuple(own) == whole]
    assert [hit.item_row for hit in engine.code_tree(whole, limit=1, offset=1).hits] == rows[1:2]
    all_codes = [one.code for one in engine.code_tree(limit=200).branches]
    parts = [engine.code_tree(limit=5, offset=offset) for offset in range(0, len(all_codes), 5)]
    assert [one.code for part in parts for one in part.branches] == all_codes
    assert engine.code_tree(offset=len(all_codes)).branches == []


def test_of_a_crowd_some_at_equal_distances_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading every vector below the root for a few photos would be a search of the whole shop for each code."""
    vectors = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    index = ExactConfig().build(vectors)
    rows, cosines = nearest_to_centre(np.arange(1000), index=index, most=100)
    every = list(range(0, 1000, 10))
    check_nearest(rows.tolist(), cosines.tolist(), of=every, vectors=index.vectors(np.arange(1000)), k=100)
    monkeypatch.setattr(code_paths, "_BLOCK", 7)
    again, same = nearest_to_centre(np.arange(1000), index=index, most=100)
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_allclose(same, cosines, atol=1e-6)


def test_items_that_come_and_go_are_counted_in_the_tree(engine: Engine) -> None:
    asked = engine.search(channel="popularity", k=1)[0].item_id
    path = engine.code_path(asked).codes
    before = engine.code_tree()
    engine.add_items([{"item_id": "twin", "title": engine.item(asked)["title"], "photo": engine.photo_jpeg(asked)}])
    twin = engine.code_path("twin").codes
    assert engine.code_tree().num_items == before.num_items + 1
    assert "twin" in [hit.item_id for hit in engine.code_tree(twin, limit=200).hits]
    number = engine.code_tree(path).num_items
    engine.remove_items([asked])
    left = [hit.item_id for hit in engine.code_tree(path, limit=200).hits] if number > 1 else []
    assert asked not in left and len(left) == number - 1
    engine.remove_items([*left, *{"twin"}.difference(left)])
    with pytest.raises(PrefixError, match=f"begins with {'.'.join(map(str, path))}; the longest part that there is: "):
        engine.code_tree(path)


def test_what_cannot_be_answered_is_refused(engine: Engine, tmp_path: Path) -> None:
    asked = engine.search(channel="popularity", k=1)[0].item_id
    with pytest.raises(EngineError, match="There is no item 'nothing'"):
        engine.code_path("nothing")
    with pytest.raises(EngineError, match="k is 0, it must be at least 1"):
        engine.code_path(asked, k=0)
    without = Engine.open(write_run(tmp_path / "shop").path)
    with pytest.raises(EngineError, match="no semantic IDs. Run it with \\[semantic_ids\\] set"):
        without.code_path("i0")
    with pytest.raises(EngineError, match="no semantic IDs"):
        without.code_tree()
    with pytest.raises(PrefixError, match=r"begins with 7000$|begins with 7000\."):
        engine.code_tree([7000])
    for numbers in ({"k": 0}, {"limit": 0}, {"offset": -1}):
        (name,) = numbers
        with pytest.raises(EngineError, match=f"{name} is .*, it must be at least"):
            engine.code_tree(**numbers)
