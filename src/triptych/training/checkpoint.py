"""Resume state on disk: tensors as safetensors, the rest as JSON, no pickles.

::

    resume/step_00000400/tensors.safetensors   model/<name>, optimizer/<name>/<slot>
                         state.json
    resume/best_00000300/tensors.safetensors   model/<name>: the best weights so far

A folder is written under a temporary name, then renamed: one that exists is complete. The last two steps are kept, and
the best weights that they or the running process refer to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from triptych.foundation.artifact import write_json
from triptych.foundation.durable import sync

KEEP = 2
TENSORS_FILE = "tensors.safetensors"
STATE_FILE = "state.json"


class Checkpoint(NamedTuple):
    """One saved moment of a run."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The resume folder of one run."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, and clear what an interrupted write has left in it."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".*.partial"):
            shutil.rmtree(torn)

    def save(
        self, *, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], best_step: int | None
    ) -> None:
        """Write the state after `step` steps, then drop what is no longer needed.

        Args:
            step: finished steps.
            tensors: flat names → tensors.
            state: anything JSON can hold.
            best_step: the step of the best weights, saved before by `save_best`; None if there are none.
        """
        self._write(f"step_{step:08d}", tensors=tensors, state={**state, "step": step, "best_step": best_step})
        kept = self._steps()[-KEEP:]
        needed = {json.loads((folder / STATE_FILE).read_text())["best_step"] for folder in kept}
        self._drop(folder for folder in self._steps() if folder not in kept)
        self._drop(folder for folder in self._folder.glob("best_*") if int(folder.name[5:]) not in needed)

    def save_best(self, *, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the weights after `step` steps as the best so far; older ones go with the next `save`."""
        self._write(f"best_{step:08d}", tensors=tensors, state={"step": step})

    def latest(self) -> Checkpoint | None:
        """Read the newest saved moment; None on a first start."""
        steps = self._steps()
        return None if not steps else self._read(steps[-1])

    def best(self, step: int) -> dict[str, Tensor]:
        """Read the weights that `save_best` wrote at this step."""
        return self._read(self._folder / f"best_{step:08d}").tensors

    def _steps(self) -> list[Path]:
        return sorted(self._folder.glob("step_*"))

    def _read(self, folder: Path) -> Checkpoint:
        return Checkpoint(load_file(folder / TENSORS_FILE), json.loads((folder / STATE_FILE).read_text()))

    def _write(self, name: str, *, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        partial, final = self._folder / f".{name}.partial", self._folder / name
        partial.mkdir()
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, partial / TENSORS_FILE)
        sync(partial / TENSORS_FILE)  # before the rename, else a power cut could leave a complete-looking folder
        write_json(partial / STATE_FILE, state)
        if final.exists():  # the same step again, after a resume from an older one: the same content
            shutil.rmtree(final)
        partial.rename(final)

    def _drop(self, folders: Iterable[Path]) -> None:
        for folder in list(folders):
            # Renamed first: a half-deleted folder must not look complete.
            torn = folder.with_name(f".{folder.name}.partial")
            folder.rename(torn)
            shutil.rmtree(torn)
