"""Artefacts: what a stage leaves behind, and all that is needed to use it.

A folder ``<stage>/<id>/`` with an ``artifact.json``: kind, schema version, id, package version, git commit, config,
inputs, summary, and every file with its size and sha256. The id is a hash over what decides the content (kind,
schema version, config, input ids), so the same work has the same id and a finished stage is found, not redone.

A stage builds in ``<id>.partial/``, writes ``artifact.json`` last, and renames the folder: an artefact that exists is
complete. A partial folder survives a kill, so a long stage can keep its resume state in ``<id>.partial/resume/``,
which is removed before the rename: what is shipped and what is resumed from stay apart. Deleting goes the same way
back: the folder becomes partial again before anything in it goes.

Where all that differs from an artefact that is there is a fingerprint in words (photos were copied, say, and have new
times), and what was built is the same to the byte, the one that is there is returned and ``<id>.same`` names it: what
was made from it is not made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from triptych.foundation.config import Config
from triptych.foundation.durable import sync
from triptych.foundation.errors import ArtifactError

MANIFEST = "artifact.json"
RESUME = "resume"
PARTIAL = ".partial"
SAME = ".same"
TEMPORARY = ".tmp"
SCHEMA_VERSION = 1
"""Raised when the layout of any artefact changes; part of every id."""

Build = Callable[[Path], Mapping[str, Any]]


class Artifact:
    """A finished artefact on disk, opened for reading."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Wrap a folder and its manifest; use `Artifact.open`."""
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path, *, kind: str | None = None) -> Artifact:
        """Open an artefact folder.

        Args:
            path: the folder that holds ``artifact.json``.
            kind: the kind it must be; None accepts any.

        Raises:
            ArtifactError: there is none, it is incomplete, of another kind, or from a newer version.
        """
        path = Path(path)
        manifest_file = path / MANIFEST
        if not manifest_file.is_file():
            unfinished = path.with_name(path.name + PARTIAL).is_dir()
            what = "was interrupted before it was complete" if unfinished else "does not exist"
            raise ArtifactError(f"Artefact {str(path)!r} {what}. Run the stage that makes it again: triptych run.")
        try:
            manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise ArtifactError(
                f"{str(manifest_file)!r} is damaged (not JSON). Delete the folder and run again."
            ) from None
        if manifest["schema_version"] > SCHEMA_VERSION:
            raise ArtifactError(
                f"Artefact {str(path)!r} has layout {manifest['schema_version']}, this version of triptych reads up "
                f"to {SCHEMA_VERSION}. Upgrade triptych, or run the stage again."
            )
        if kind is not None and manifest["kind"] != kind:
            raise ArtifactError(f"Artefact {str(path)!r} is a '{manifest['kind']}', not a '{kind}'.")
        return cls(path, manifest)

    @property
    def kind(self) -> str:
        """What it is: catalogue, split, encoder, …"""
        return str(self.manifest["kind"])

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits: the hash of what decides the content."""
        return str(self.manifest["id"])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config it was made with."""
        return dict(self.manifest["config"])

    @property
    def inputs(self) -> dict[str, str]:
        """Name of each input → its artefact id or fingerprint."""
        return dict(self.manifest["inputs"])

    @property
    def summary(self) -> dict[str, Any]:
        """Figures the stage wants remembered: counts, seconds, best metric."""
        return dict(self.manifest["summary"])

    def file(self, name: str) -> Path:
        """Return the path of one of its files.

        Raises:
            ArtifactError: the manifest lists no such file, or it has gone.
        """
        path = self.path / name
        if name not in self.manifest["files"] or not path.is_file():
            raise ArtifactError(f"Artefact {str(self.path)!r} has no file '{name}'. Delete the folder and run again.")
        return path

    def verify(self) -> None:
        """Read every file and compare its checksum.

        Raises:
            ArtifactError: the first file that is absent or differs.
        """
        for name, expected in self.manifest["files"].items():
            if sha256(self.file(name)) != expected["sha256"]:
                raise ArtifactError(
                    f"File '{name}' of artefact {str(self.path)!r} has changed since it was written. "
                    "Delete the folder and run again."
                )

    def require_input(self, name: str, expected: Artifact) -> None:
        """Check lineage: that this artefact was made from `expected`.

        Raises:
            ArtifactError: it was made from another one; both ids are named.
        """
        made_from = self.inputs.get(name)
        if made_from != expected.id:
            raise ArtifactError(
                f"The {self.kind} {self.id} was made from {name} {made_from}, but is used with {name} {expected.id}. "
                f"Rebuild the {self.kind}: triptych run."
            )


def produce(
    parent: Path,
    *,
    kind: str,
    config: Config | Mapping[str, Any],
    inputs: Mapping[str, Artifact | str],
    build: Build,
) -> Artifact:
    """Return the artefact of this work, building it only if it is not there yet.

    Args:
        parent: the stage's folder, ``runs/<name>/<stage>``.
        kind: what is made.
        config: all settings that decide the content.
        inputs: name → artefact or fingerprint; their ids enter the id.
        build: writes the files into the folder it is given and returns the summary. The folder may hold leftovers of
            an interrupted attempt at the *same* work: they are to be resumed from or overwritten.

    Raises:
        ArtifactError: another process is building the same artefact.
    """
    tree, input_ids = _described(config, inputs)
    artifact_id = work_id(kind=kind, config=tree, inputs=input_ids)
    final = parent / artifact_id
    if (known := _finished(final)) is not None:
        return Artifact.open(known, kind=kind)
    partial = _partial(final)
    parent.mkdir(parents=True, exist_ok=True)
    with _alone(final, what=f"{kind} {artifact_id}"):
        if (known := _finished(final)) is not None:  # somebody finished it while we waited for the lock
            return Artifact.open(known, kind=kind)
        if final.exists():  # no manifest, so no artefact: half deleted, and in the way of the rename
            shutil.rmtree(final)
        partial.mkdir(exist_ok=True)
        for leftover in (MANIFEST, MANIFEST + TEMPORARY):  # of a kill just before the rename: no part of the content
            (partial / leftover).unlink(missing_ok=True)
        started = time.perf_counter()
        summary = dict(build(partial))
        shutil.rmtree(partial / RESUME, ignore_errors=True)
        manifest = {
            "kind": kind,
            "id": artifact_id,
            "schema_version": SCHEMA_VERSION,
            "triptych": package_version(),
            "git": git_commit(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - started, 3),
            "config": tree,
            "inputs": input_ids,
            "summary": summary,
            "files": {
                file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
                for file in sorted(partial.rglob("*"))
                if file.is_file()
            },
        }
        words = {name for name, one in inputs.items() if isinstance(one, str)}
        if (twin := _twin(manifest, parent=parent, words=words)) is not None:
            write_json(_same(final), twin.name)
            shutil.rmtree(partial)
            return Artifact.open(twin, kind=kind)
        write_json(partial / MANIFEST, manifest)
        os.rename(partial, final)
        sync(parent)
    return Artifact.open(final, kind=kind)


def find(
    parent: Path, *, kind: str, config: Config | Mapping[str, Any], inputs: Mapping[str, Artifact | str]
) -> Artifact | None:
    """Return the artefact that `produce` would find finished, or None where it would have to build."""
    tree, input_ids = _described(config, inputs)
    known = _finished(parent / work_id(kind=kind, config=tree, inputs=input_ids))
    return None if known is None else Artifact.open(known, kind=kind)


def _finished(folder: Path) -> Path | None:
    """Return where an artefact is: under its own id, or under that of one with the same content; None: nowhere."""
    if (folder / MANIFEST).is_file():
        return folder
    if not _same(folder).is_file():
        return None
    twin = folder.with_name(json.loads(_same(folder).read_text(encoding="utf-8")))
    return twin if (twin / MANIFEST).is_file() else None


def _twin(manifest: Mapping[str, Any], *, parent: Path, words: set[str]) -> Path | None:
    """Find an artefact of the same content that was made from the same, but for inputs told in words; None: none is."""
    if not words or not manifest["files"]:
        return None
    manifest = json.loads(json.dumps(manifest))  # as it would be read again: tuples are lists
    for file in sorted(parent.glob(f"*/{MANIFEST}")):
        other = json.loads(file.read_text(encoding="utf-8"))
        inputs = [
            {name: one for name, one in tree["inputs"].items() if name not in words} for tree in (manifest, other)
        ]
        alike = ("kind", "schema_version", "config", "summary", "files")
        if inputs[0] == inputs[1] and all(manifest[name] == other.get(name) for name in alike):
            return file.parent
    return None


def _same(folder: Path) -> Path:
    return folder.with_name(folder.name + SAME)


def remove(folder: Path) -> None:
    """Delete an artefact, or what is left of an interrupted build or deletion; nothing where there is nothing.

    It stops being an artefact at one stroke: a kill in the middle leaves a partial folder, as a killed build does.

    Args:
        folder: ``<stage>/<id>`` or ``<stage>/<id>.partial``.

    Raises:
        ArtifactError: a running process is building it.
    """
    partial = _partial(folder)
    with _alone(folder, what=folder.name.removesuffix(PARTIAL)):
        if partial.exists():
            shutil.rmtree(partial)
        if folder.exists():
            os.rename(folder, partial)
            shutil.rmtree(partial)


def is_being_built(folder: Path) -> bool:
    """Say whether a running process builds (or deletes) the artefact ``<stage>/<id>`` or ``<stage>/<id>.partial``."""
    if not _lock(folder).exists():
        return False
    try:
        with _alone(folder, what=folder.name):
            return False
    except ArtifactError:
        return True


def work_id(*, kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash what decides an artefact's content into sixteen hexadecimal digits."""
    work = {"kind": kind, "schema_version": SCHEMA_VERSION, "config": config, "inputs": dict(inputs)}
    text = json.dumps(work, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _described(
    config: Config | Mapping[str, Any], inputs: Mapping[str, Artifact | str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the config as plain JSON values, and the ids of the inputs."""
    tree = config.dump() if isinstance(config, Config) else dict(config)
    return tree, {name: value.id if isinstance(value, Artifact) else value for name, value in inputs.items()}


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + TEMPORARY)
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal digits, reading it in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_artifacts(run: Path) -> Iterator[Artifact]:
    """Yield every complete artefact below a run folder, sorted by stage and id."""
    for manifest in sorted(run.glob(f"*/*/{MANIFEST}")):
        if not manifest.parent.name.endswith(PARTIAL):
            yield Artifact.open(manifest.parent)


@cache
def package_version() -> str:
    """Return the installed version of triptych."""
    return metadata.version("triptych")


@cache
def git_commit() -> str | None:
    """Return the commit of the source tree triptych runs from, ``+dirty`` if it has changes; None outside git."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        dirty = "+dirty" if _git(here, "status", "--porcelain", "--", ".") else ""
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + dirty


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _partial(folder: Path) -> Path:
    """Where the artefact that `folder` is, or becomes, is built and taken apart."""
    return folder.with_name(folder.name.removesuffix(PARTIAL) + PARTIAL)


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name.removesuffix(PARTIAL)}.lock")


@contextmanager
def _alone(folder: Path, *, what: str) -> Iterator[None]:
    """Hold the advisory lock of an artefact's folder; the kernel releases it however the process ends."""
    lock = _lock(folder)
    while True:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(f"Another process is building {what}. Wait for it, or stop it.") from None
            if not _is_file(file.fileno(), lock):
                continue  # whoever held it removed it as we opened it: this one guards nothing
            yield
            lock.unlink(missing_ok=True)
            return


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
