"""Artefacts: same work same id, existence means completeness, damage and wrong lineage are refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from triptych.foundation.artifact import Artifact, find, find_artifacts, is_being_built, produce, remove, work_id
from triptych.foundation.errors import ArtifactError


def build_counting(calls: list[Path]):
    def build(folder: Path) -> dict[str, int]:
        calls.append(folder)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "values.txt").write_text("1 2 3")
        return {"rows": 3}

    return build


def test_finished_work_is_found_and_not_redone(tmp_path: Path):
    calls: list[Path] = []
    make = lambda steps: produce(  # noqa: E731
        tmp_path / "stage", kind="toy", config={"steps": steps}, inputs={"a": "f00"}, build=build_counting(calls)
    )
    first, again, other = make(1), make(1), make(2)
    assert first.id == again.id != other.id
    assert len(calls) == 2
    assert first.summary == {"rows": 3}
    assert first.inputs == {"a": "f00"}
    assert first.file("sub/values.txt").read_text() == "1 2 3"
    assert {a.id for a in find_artifacts(tmp_path)} == {first.id, other.id}
    assert not list(tmp_path.rglob("*.partial"))


def test_the_id_depends_on_kind_config_and_inputs_and_not_on_key_order():
    base = work_id(kind="toy", config={"a": 1, "b": 2}, inputs={"x": "1"})
    assert base == work_id(kind="toy", config={"b": 2, "a": 1}, inputs={"x": "1"})
    assert (
        len(
            {
                base,
                *(
                    work_id(**{"kind": "toy", "config": {"a": 1, "b": 2}, "inputs": {"x": "1"}} | change)
                    for change in ({"kind": "toys"}, {"config": {"a": 1, "b": 3}}, {"inputs": {"x": "2"}})
                ),
            }
        )
        == 4
    )


def test_a_failed_build_leaves_no_artefact_but_keeps_its_resume_state(tmp_path: Path):
    def failing(folder: Path) -> dict[str, int]:
        (folder / "resume").mkdir()
        (folder / "resume" / "step").write_text("7")
        raise RuntimeError("out of luck")

    arguments = {"kind": "toy", "config": {}, "inputs": {}}
    with pytest.raises(RuntimeError):
        produce(tmp_path / "toy", build=failing, **arguments)
    artifact_id = work_id(**arguments)
    with pytest.raises(ArtifactError, match="was interrupted before it was complete"):
        Artifact.open(tmp_path / "toy" / artifact_id)
    assert list(find_artifacts(tmp_path)) == []

    def resuming(folder: Path) -> dict[str, str]:
        step = (folder / "resume" / "step").read_text()
        (folder / "out.txt").write_text(step)
        return {"from": step}

    artifact = produce(tmp_path / "toy", build=resuming, **arguments)
    assert artifact.summary == {"from": "7"}
    assert not (artifact.path / "resume").exists()
    assert list(artifact.manifest["files"]) == ["out.txt"]


def test_damage_a_wrong_kind_and_a_newer_layout_are_refused(tmp_path: Path):
    artifact = produce(tmp_path / "toy", kind="toy", config={}, inputs={}, build=build_counting([]))
    artifact.verify()
    with pytest.raises(ArtifactError, match="is a 'toy', not a 'index'"):
        Artifact.open(artifact.path, kind="index")
    (artifact.path / "sub" / "values.txt").write_text("1 2 4")
    with pytest.raises(ArtifactError, match=r"values\.txt.*has changed since it was written"):
        artifact.verify()
    (artifact.path / "sub" / "values.txt").unlink()
    with pytest.raises(ArtifactError, match=r"has no file 'sub/values\.txt'"):
        artifact.file("sub/values.txt")
    manifest = json.loads((artifact.path / "artifact.json").read_text())
    (artifact.path / "artifact.json").write_text(json.dumps(manifest | {"schema_version": 999}))
    with pytest.raises(ArtifactError, match="layout 999"):
        Artifact.open(artifact.path)
    (artifact.path / "artifact.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        Artifact.open(artifact.path)


def test_lineage_is_checked_with_both_ids(tmp_path: Path):
    build = build_counting([])
    encoder, other = (produce(tmp_path, kind="encoder", config={"seed": s}, inputs={}, build=build) for s in (0, 1))
    index = produce(tmp_path, kind="index", config={}, inputs={"encoder": encoder}, build=build)
    index.require_input("encoder", encoder)
    with pytest.raises(ArtifactError, match=f"was made from encoder {encoder.id}, but is used with encoder {other.id}"):
        index.require_input("encoder", other)


def test_two_processes_cannot_build_the_same_work(tmp_path: Path):
    def nested(folder: Path) -> dict[str, int]:
        with pytest.raises(ArtifactError, match="Another process is building toy"):
            produce(tmp_path, kind="toy", config={}, inputs={}, build=build_counting([]))
        return {}

    produce(tmp_path, kind="toy", config={}, inputs={}, build=nested)


def test_a_folder_without_manifest_is_no_artefact_and_is_built_anew(tmp_path: Path):
    arguments = {"kind": "toy", "config": {}, "inputs": {}}
    remains = tmp_path / work_id(**arguments)
    (remains / "sub").mkdir(parents=True)
    (remains / "sub" / "half_deleted.txt").write_text("1")
    artifact = produce(tmp_path, build=build_counting([]), **arguments)
    artifact.verify()
    assert artifact.path == remains
    assert list(artifact.manifest["files"]) == ["sub/values.txt"]
    assert not (remains / "sub" / "half_deleted.txt").exists()


def test_a_kill_between_manifest_and_rename_does_not_make_the_old_manifest_a_file_of_the_new(tmp_path: Path):
    arguments = {"kind": "toy", "config": {}, "inputs": {}}
    partial = tmp_path / f"{work_id(**arguments)}.partial"
    partial.mkdir()
    for name in ("artifact.json", "artifact.json.tmp"):
        (partial / name).write_text("{}")
    artifact = produce(tmp_path, build=build_counting([]), **arguments)
    assert list(artifact.manifest["files"]) == ["sub/values.txt"]
    artifact.verify()


def test_remove_deletes_what_is_finished_what_is_partial_and_nothing_twice(tmp_path: Path):
    artifact = produce(tmp_path, kind="toy", config={}, inputs={}, build=build_counting([]))
    partial = artifact.path.with_name(artifact.id + ".partial")
    (partial / "resume").mkdir(parents=True)
    other = tmp_path / "other"
    other.mkdir()
    for _ in range(2):
        remove(artifact.path)
        remove(partial)
    assert list(tmp_path.iterdir()) == [other]


def test_what_a_running_process_builds_is_not_removed(tmp_path: Path):
    def build(folder: Path) -> dict[str, int]:
        final = folder.with_suffix("")
        assert is_being_built(folder)
        assert is_being_built(final)
        for path in (folder, final):
            with pytest.raises(ArtifactError, match=f"Another process is building {final.name}"):
                remove(path)
        assert folder.is_dir()
        return {}

    artifact = produce(tmp_path, kind="toy", config={}, inputs={}, build=build)
    assert not is_being_built(artifact.path)


def test_the_lock_of_a_killed_process_holds_nobody(tmp_path: Path):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    script = (
        "import sys; from pathlib import Path; from triptych.foundation.artifact import produce\n"
        f"def build(folder):\n    {kill}\n"
        "produce(Path(sys.argv[1]), kind='toy', config={}, inputs={}, build=build)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    (partial,) = tmp_path.glob("*.partial")
    assert list(tmp_path.glob(".*.lock"))
    assert not is_being_built(partial)
    remove(partial)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_middle_of_a_write_leaves_nothing_that_opens(tmp_path: Path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from triptych.foundation.artifact import produce
        def build(folder):
            (folder / "half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        produce(Path(sys.argv[1]) / "toy", kind="toy", config={}, inputs={}, build=build)
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert list(find_artifacts(tmp_path)) == []
    artifact = produce(tmp_path / "toy", kind="toy", config={}, inputs={}, build=build_counting([]))
    artifact.verify()


def write(content: str, *, folder: Path) -> dict[str, int]:
    (folder / "content.txt").write_text(content)
    return {"letters": len(content)}


def test_the_same_content_from_another_fingerprint_is_the_same_artefact(tmp_path: Path):
    """Photos that were copied have new times and the same pixels: what was made of them need not be made again."""
    made = partial(produce, tmp_path, kind="catalogue", config={"px": 64})
    first = made(inputs={"photos": "monday"}, build=lambda folder: write("abc", folder=folder))
    again = made(inputs={"photos": "tuesday"}, build=lambda folder: write("abc", folder=folder))
    assert (again.id, again.path) == (first.id, first.path)
    third = made(inputs={"photos": "tuesday"}, build=lambda folder: pytest.fail("it is known"))
    assert third.id == first.id
    assert find(tmp_path, kind="catalogue", config={"px": 64}, inputs={"photos": "tuesday"}).id == first.id
    other = made(inputs={"photos": "wednesday"}, build=lambda folder: write("abd", folder=folder))
    assert other.id not in (first.id, "")
    shutil.rmtree(first.path)
    assert find(tmp_path, kind="catalogue", config={"px": 64}, inputs={"photos": "tuesday"}) is None
    rebuilt = made(inputs={"photos": "tuesday"}, build=lambda folder: write("abc", folder=folder))
    assert rebuilt.id != first.id


def test_what_was_made_from_another_artefact_is_another(tmp_path: Path):
    """Lineage is by id: the same titles of two catalogues are two artefacts."""
    catalogues = [
        produce(tmp_path / "c", kind="catalogue", config={"n": n}, inputs={}, build=lambda _: {}) for n in (1, 2)
    ]
    made = [
        produce(
            tmp_path / "t",
            kind="titles",
            config={},
            inputs={"catalogue": one, "photos": "x"},
            build=lambda folder: write("abc", folder=folder),
        )
        for one in catalogues
    ]
    assert made[0].id != made[1].id
    for one, catalogue in zip(made, catalogues, strict=True):
        one.require_input("catalogue", catalogue)
