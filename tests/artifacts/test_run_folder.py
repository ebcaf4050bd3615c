"""Run folders: what a failed start leaves, and what is never pruned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from triptych.foundation.artifact import Artifact, produce, work_id
from triptych.foundation.errors import ArtifactError
from triptych.recipes.run_folder import RunFolder

OLD, NEW = ({"recipe": "toy", "steps": steps} for steps in (1, 2))


def make(run: Path, stage: str, *, steps: int, inputs: dict[str, Artifact] | None = None) -> Artifact:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "values.txt").write_text(f"{stage} {steps}")
        return {}

    return produce(run / stage, kind=stage, config={"steps": steps}, inputs=inputs or {}, build=build)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run of two stages."""
    run = tmp_path / "run"
    folder = RunFolder(run)
    folder.start(OLD)
    encoder = make(run, "encoder", steps=1)
    folder.record("encoder", encoder)
    folder.record("bundle", make(run, "bundle", steps=1, inputs={"encoder": encoder}))
    return run


def test_a_run_that_fails_before_its_first_stage_leaves_the_former_one_in_place(finished: Path):
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    RunFolder(finished).start(NEW)
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before
    assert RunFolder.existing(finished).stage("bundle").kind == "bundle"


def test_the_first_stage_of_another_config_ends_the_former_run(finished: Path):
    folder = RunFolder(finished)
    folder.start(NEW)
    folder.record("encoder", make(finished, "encoder", steps=2))
    assert list(RunFolder.existing(finished).stages()) == ["encoder"]
    assert json.loads((finished / "config.json").read_text()) == NEW
    folder.record("bundle", make(finished, "bundle", steps=2))
    assert list(RunFolder.existing(finished).stages()) == ["encoder", "bundle"]
    with pytest.raises(ArtifactError, match=r"no finished 'report' stage yet \(finished: encoder, bundle\)"):
        RunFolder.existing(finished).stage("report")


def test_the_same_config_goes_on_where_it_stopped(finished: Path):
    folder = RunFolder(finished)
    folder.start(OLD)
    folder.record("report", make(finished, "report", steps=1))
    assert list(folder.stages()) == ["encoder", "bundle", "report"]


def test_a_first_run_keeps_its_config_from_the_start(tmp_path: Path):
    folder = RunFolder(tmp_path / "new")
    folder.start(OLD)
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == OLD
    assert RunFolder.existing(tmp_path / "new").stages() == {}


def test_prune_takes_unused_artefacts_and_what_interruptions_left(finished: Path):
    unused = make(finished, "encoder", steps=7)
    partial = finished / "encoder" / (work_id(kind="encoder", config={"steps": 8}, inputs={}) + ".partial")
    (partial / "resume").mkdir(parents=True)
    shell = finished / "encoder" / work_id(kind="encoder", config={"steps": 9}, inputs={})
    shell.mkdir()
    (shell / "half.txt").write_text("half")
    notes = finished / "notes" / "mine"
    notes.mkdir(parents=True)
    folder = RunFolder.existing(finished)
    expected = {unused.path, partial, shell}
    assert {path for path, _ in folder.prune(delete=False)} == expected
    assert all(path.exists() for path in expected)
    assert dict(folder.prune(delete=True))[shell] == 4
    assert not any(path.exists() for path in expected)
    assert notes.is_dir()
    assert {artifact.kind for artifact in folder.artifacts()} == {"encoder", "bundle"}
    assert folder.prune(delete=False) == []


def test_prune_leaves_what_another_process_is_building(finished: Path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from triptych.foundation.artifact import produce
        def build(folder):
            (folder / "half.txt").write_text("half")
            print(folder, flush=True)
            sys.stdin.readline()
            assert (folder / "half.txt").read_text() == "half"
            return {}
        produce(Path(sys.argv[1]) / "encoder", kind="encoder", config={"steps": 8}, inputs={}, build=build)
        """
    )
    command = [sys.executable, "-c", script, str(finished)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        partial = Path(process.stdout.readline().strip())
        assert partial.name.endswith(".partial")
        assert RunFolder.existing(finished).prune(delete=True) == []
        process.communicate("go on\n")
    assert process.returncode == 0
    Artifact.open(partial.with_suffix("")).verify()
    assert [path for path, _ in RunFolder.existing(finished).prune(delete=True)] == [partial.with_suffix("")]


def test_each_artefact_says_whose_it_is(tmp_path: Path):
    run = tmp_path / "run"
    folder = RunFolder(run)
    folder.start(OLD)
    vectors = {}
    for steps, name in enumerate(("title seed 0", "title+photo seed 0", "")):  # the last is of an earlier run
        encoder = make(run, "encoder", steps=steps)
        vectors[name] = make(run, "query_embeddings", steps=steps, inputs={"encoder": encoder})
        if name:
            folder.record(f"encoder {name}", encoder)
            folder.record(f"query embeddings {name}", vectors[name])
    folder.record("query embeddings other seed 0", vectors["title seed 0"])
    made = [make(run, "codes", steps=0, inputs={"embeddings": one}) for one in vectors.values()]
    folder.record("codes", make(run, "codes", steps=1))
    of = {row["artifact"]: row["of"] for row in folder.rows()}

    def owner(one: Artifact) -> str:
        return of[one.path.relative_to(run).as_posix()]

    assert [owner(one) for one in vectors.values()] == [
        "title seed 0, other seed 0",
        "title+photo seed 0",
        f"encoder/{encoder.id}",
    ]
    assert [owner(one) for one in made] == [owner(one) for one in vectors.values()]
    assert owner(folder.stage("encoder title seed 0")) == "title seed 0"
    assert owner(folder.stage("codes")) == owner(encoder) == ""
