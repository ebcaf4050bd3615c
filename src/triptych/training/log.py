"""The log of a run: one JSON object per line, the record of truth for curves and rates."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LOG_FILE = "train.jsonl"


class TrainLog:
    """Append-only ``train.jsonl``. Every record has an ``event`` (train or validation) and a ``step``."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        """Open the log, dropping what an interrupted attempt wrote after `from_step`.

        Those steps are about to be done again, so no step stands twice; a line torn by a kill goes with them.
        """
        kept = [record for record in read_log(path) if record["step"] <= from_step]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(_line(record) for record in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, *, step: int, values: Mapping[str, Any]) -> None:
        """Append one record."""
        self._file.write(_line({"event": event, "step": step, **values}))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a log, oldest first; none if there is no log. A torn last line is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
