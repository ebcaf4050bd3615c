"""An item's semantic ID in the engine: its codes, and the nearest items for each number of codes in common."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from tiny_shop import write_run

from triptych.engine import Engine
from triptych.engine.bundle import open_bundle
from triptych.foundation.errors import EngineError
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


def test_what_cannot_be_answered_is_refused(engine: Engine, tmp_path: Path) -> None:
    asked = engine.search(channel="popularity", k=1)[0].item_id
    with pytest.raises(EngineError, match="There is no item 'nothing'"):
        engine.code_path("nothing")
    with pytest.raises(EngineError, match="k is 0, it must be at least 1"):
        engine.code_path(asked, k=0)
    without = Engine.open(write_run(tmp_path / "shop").path)
    with pytest.raises(EngineError, match="no semantic IDs. Run it with \\[semantic_ids\\] set"):
        without.code_path("i0")
