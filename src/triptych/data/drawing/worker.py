"""Draw many pictures, in processes of their own.

A process is started as ``python -m triptych.data.drawing.worker`` and told its share on standard input: unlike
`multiprocessing`, this asks nothing of the caller's ``__main__``. It reports on standard output as it goes, so it
ends by itself within a few pictures when the caller is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from triptych.data.drawing.photo import Look, jpeg
from triptych.foundation.machine import num_cores
from triptych.foundation.progress import Progress

_REPORT_EVERY = 16
_WORTH_A_PROCESS = 250


class _Share(NamedTuple):
    """What one process draws."""

    looks: Sequence[Look]
    paths: Sequence[Path]
    px: int


def draw_photos(looks: Sequence[Look], *, paths: Sequence[Path], px: int, processes: int | None = None) -> None:
    """Draw each look into its JPEG file; the bytes do not depend on the number of processes.

    Args:
        looks: what to draw.
        paths: one file per look; the folders exist.
        px: side of the pictures.
        processes: how many at once; None takes one per core, and none for a few pictures.
    """
    if processes is None:
        processes = min(num_cores(), max(1, len(looks) // _WORTH_A_PROCESS))
    with Progress("drawing photos", total=len(looks), unit="photo") as bar:
        if processes == 1:
            for done in _draw(_Share(looks, paths, px)):
                bar.advance(done)
            return
        shares = [_Share(looks[i::processes], paths[i::processes], px) for i in range(processes)]
        with ThreadPoolExecutor(processes) as threads:  # each waits for its process; the bar counts under the GIL
            for finished in [threads.submit(_run, share, bar) for share in shares]:
                finished.result()


def _run(share: _Share, bar: Progress) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "triptych.data.drawing.worker"]
    task = {"looks": share.looks, "paths": [os.fspath(path.resolve()) for path in share.paths], "px": share.px}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task))
        process.stdin.close()
        for line in process.stdout:
            bar.advance(int(line))
    if process.returncode != 0:
        raise RuntimeError(f"A drawing process ended with code {process.returncode}; its message stands above.")


def _draw(share: _Share) -> Iterator[int]:
    """Draw a share, yielding the number of new pictures every now and then."""
    fresh = 0
    for look, path in zip(share.looks, share.paths, strict=True):
        path.write_bytes(jpeg(look, px=share.px))
        fresh += 1
        if fresh == _REPORT_EVERY:
            yield fresh
            fresh = 0
    yield fresh


def main() -> None:
    """Read a share from standard input, draw it, and write the number of new pictures as it goes."""
    task = json.load(sys.stdin)
    looks = [
        Look(kind, colour, pattern, setting, tuple(seed)) for kind, colour, pattern, setting, seed in task["looks"]
    ]
    for done in _draw(_Share(looks, [Path(path) for path in task["paths"]], task["px"])):
        sys.stdout.write(f"{done}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
