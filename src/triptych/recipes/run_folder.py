"""A run folder: stages, their artefacts, and which of them belong to the latest run.

::

    runs/shop/
    ├── run.json                 stage → artefact of the latest run, its recipe and its config; what commands made
    ├── config.json              that config alone: what `triptych run` takes to make it all again
    ├── catalogue/<id>/          one artefact per piece of work; older ones stay until pruned
    ├── encoder/<id>/ ...
    └── report/<id>/report.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triptych.foundation.artifact import (
    MANIFEST,
    PARTIAL,
    Artifact,
    find_artifacts,
    is_being_built,
    remove,
    write_json,
)
from triptych.foundation.errors import ArtifactError, did_you_mean

RUN = "run.json"
CONFIG = "config.json"
MADE = "made"
"""Field of `RUN`: places of what commands have made beside the run's stages."""


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        """Wrap a folder, which need not exist yet."""
        self.path = path
        self._started: dict[str, Any] | None = None

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """Open a folder that holds a run.

        Raises:
            ArtifactError: there is no run there; the message names runs beside it.
        """
        if not (path / RUN).is_file():
            beside = [p.parent.name for p in path.parent.glob(f"*/{RUN}")] if path.parent.is_dir() else []
            near = did_you_mean(path.name, beside) or (
                f" Runs beside it: {', '.join(sorted(beside))}." if beside else ""
            )
            raise ArtifactError(
                f"There is no run in {str(path)!r}.{near} Make one with: triptych run RECIPE --out {path}"
            )
        return cls(path)

    def stages(self) -> dict[str, str]:
        """Return stage → path of its artefact relative to the run folder, for the latest run."""
        return dict(self._read().get("stages", {}))

    def stage(self, name: str) -> Artifact:
        """Open the latest run's artefact of a stage.

        Raises:
            ArtifactError: the run has not finished that stage.
        """
        stages = self.stages()
        if name not in stages:
            raise ArtifactError(
                f"The run in {str(self.path)!r} has no finished '{name}' stage yet (finished: "
                f"{', '.join(stages) or 'none'}). Run the same `triptych run` again: it resumes."
            )
        return Artifact.open(self.path / stages[name])

    def record(self, stage: str, artifact: Artifact) -> None:
        """Note that `stage` of the latest run is `artifact`; the first one ends what the run before it had."""
        state = self._read()
        if self._started is not None and state.get("config") != self._started:
            state = self._write_config(self._started)
        state.setdefault("stages", {})[stage] = artifact.path.relative_to(self.path).as_posix()
        write_json(self.path / RUN, state)

    def keep(self, artifact: Artifact) -> None:
        """Note what a command has made of the run's artefacts, so that `prune` leaves it while these are there."""
        state = self._read()
        place = artifact.path.relative_to(self.path).as_posix()
        state[MADE] = [*(one for one in state.get(MADE, []) if one != place), place]
        write_json(self.path / RUN, state)

    @property
    def recipe(self) -> str | None:
        """Name of the recipe that the folder was begun with; None: it is new."""
        found = self._read().get("recipe")
        return None if found is None else str(found)

    def start(self, config: dict[str, Any]) -> None:
        """Begin a run.

        The stages of a run with another config stay until this one has its first: a run that fails at once, over a
        path with a typo say, leaves the folder as it was.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._started = config
        if not self.stages():
            write_json(self.path / RUN, self._write_config(config))

    def _write_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the config, and return the state of a run that has no stage yet."""
        write_json(self.path / CONFIG, config)
        made = self._read().get(MADE)
        return {"recipe": config.get("recipe"), "config": config, "stages": {}, **({MADE: made} if made else {})}

    def _read(self) -> dict[str, Any]:
        path = self.path / RUN
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every complete artefact in the folder."""
        yield from find_artifacts(self.path)

    def rows(self) -> list[dict[str, Any]]:
        """Describe every artefact in a line; its ``of`` is the row and seed it belongs to, as the run calls them."""
        current = set(self.stages().values())
        owners = self._owners()
        return [
            {
                "latest": "*" if (place := artifact.path.relative_to(self.path).as_posix()) in current else "",
                "artifact": place,
                "kind": artifact.kind,
                "of": owners[artifact.id],
                "size_mib": round(_size(artifact.path) / 2**20, 1),
                "seconds": artifact.manifest["seconds"],
                "created": artifact.manifest["created"],
            }
            for artifact in self.artifacts()
        ]

    def _owners(self) -> dict[str, str]:
        """Return whose each artefact is, by id: ``title seed 0`` for what the run calls ``embeddings title seed 0``.

        What the latest run does not name (a command made it, or an earlier run) is that of the first of its inputs
        which is somebody's; where none is, of the encoder or vectors it was made from, by place. Empty: of the run as a
        whole.
        """
        by_id = {artifact.id: artifact for artifact in self.artifacts()}
        named: dict[str, list[str]] = {}
        for stage, place in self.stages().items():
            folder = place.partition("/")[0]
            named.setdefault(place, []).append(stage.removeprefix(folder.replace("_", " ")).strip())
        owners: dict[str, str] = {}

        def owner(artifact: Artifact) -> str:
            if artifact.id not in owners:
                place = artifact.path.relative_to(self.path).as_posix()
                if place in named:
                    owners[artifact.id] = ", ".join(named[place])
                else:
                    made_of = {name: by_id[one] for name, one in artifact.inputs.items() if one in by_id}
                    found = next(filter(None, map(owner, made_of.values())), "")
                    near = next((made_of[name] for name in ("embeddings", "encoder") if name in made_of), None)
                    owners[artifact.id] = found or ("" if near is None else f"{near.path.parent.name}/{near.id}")
            return owners[artifact.id]

        for artifact in by_id.values():
            owner(artifact)
        return owners

    def tree(self) -> Iterator[str]:
        """Yield lines that show, for every artefact of the latest run, what it was made from."""
        by_id = {artifact.id: artifact for artifact in self.artifacts()}
        for stage, place in self.stages().items():
            artifact = Artifact.open(self.path / place)
            yield f"{stage}  {artifact.kind} {artifact.id}"
            for name, input_id in artifact.inputs.items():
                made = by_id.get(input_id)
                yield f"    from {name}: {made.path.relative_to(self.path) if made else input_id}"

    def prune(self, *, delete: bool) -> list[tuple[Path, int]]:
        """List, and where asked delete, what the latest run does not need.

        Returns:
            Paths with their sizes in bytes: complete artefacts that are no stage of the latest run, none of its stages
            was made from, and no command has made of those; and what interrupted work and interrupted deletions left.
            What a running process is building is not among them.

        Raises:
            ArtifactError: a process has just begun to build one of them.
        """
        by_id = {artifact.id: artifact for artifact in self.artifacts()}
        needed: set[str] = set()
        waiting = [Artifact.open(self.path / place).id for place in self.stages().values()]
        while waiting:
            current = waiting.pop()
            if current in by_id and current not in needed:
                needed.add(current)
                waiting.extend(by_id[current].inputs.values())
        made = set(self._read().get(MADE, []))
        for artifact in list(by_id.values()):
            own = {one for one in artifact.inputs.values() if one in by_id}
            if artifact.path.relative_to(self.path).as_posix() in made and own and own <= needed:
                needed.add(artifact.id)
        gone = [artifact.path for artifact_id, artifact in by_id.items() if artifact_id not in needed]
        gone += [path for path in self.path.glob("*/*") if _is_left_over(path)]
        sizes = [(path, _size(path)) for path in sorted(gone) if not is_being_built(path)]
        if delete:
            for path, _ in sizes:
                remove(path)
        return sizes


def _is_left_over(folder: Path) -> bool:
    """Whether this is a partial folder, or one with an artefact's name and no manifest."""
    is_partial = folder.name.endswith(PARTIAL)
    is_empty_shell = re.fullmatch("[0-9a-f]{16}", folder.name) is not None and not (folder / MANIFEST).is_file()
    return folder.is_dir() and (is_partial or is_empty_shell)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
