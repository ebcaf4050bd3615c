"""The log of a run: a line for each stage says when it was made, and under which name."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from triptych.foundation.artifact import Artifact, produce
from triptych.recipes import resolve
from triptych.recipes.stages import Stages


def made(out: Path, *, steps: int) -> Artifact:
    def build(_: Path) -> dict[str, Any]:
        return {"items": steps}

    return produce(out, kind="encoder", config={"steps": steps}, inputs={}, build=build)


def lines_of_a_run(out: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Run three plans, two of which share an encoder."""
    stages = Stages(resolve("demo", settings=()).config, base=out, out=out, command="test")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="triptych.recipes.stages"):
        for name, steps in (("one", 1), ("two", 1), ("three", 3), ("one", 1)):
            stages.stage("encoder", lambda folder, steps=steps: made(folder, steps=steps), record=f"encoder {name}")
    return [record.getMessage() for record in caplog.records]


def test_what_a_run_shares_with_itself_is_not_said_to_be_of_an_earlier_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    one, two, three, again = lines_of_a_run(tmp_path, caplog)
    second = lines_of_a_run(tmp_path, caplog)
    assert re.fullmatch(r"encoder one {19} +[0-9.]+ s   items 1", one)
    assert re.fullmatch(r"encoder three +[0-9.]+ s   items 3", three)
    assert two.endswith("made above   as encoder one")
    assert again.endswith("made above   items 1")
    assert {line[30:50].strip() for line in second} == {"finished before"}
    assert {re.search("(items|as encoder)", line).start() for line in (one, two, three, again, *second)} == {50}


def test_what_was_trained_beforehand_is_told_as_new_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Models trained side by side are finished when their stage is asked for."""
    stages = Stages(resolve("demo", settings=()).config, base=tmp_path, out=tmp_path, command="test")
    made(tmp_path / "encoder", steps=1)
    with caplog.at_level(logging.INFO, logger="triptych.recipes.stages"):
        for name in ("one", "two"):
            stages.stage("encoder", lambda out: made(out, steps=1), record=f"encoder {name}", is_new=True)
    one, two = (record.getMessage() for record in caplog.records)
    assert " s   items 1" in one
    assert "made above   as encoder one" in two
