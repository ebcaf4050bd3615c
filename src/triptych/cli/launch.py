"""What must be in the environment before Python starts.

tcmalloc can make training on a CPU faster (glibc returns every large activation to the kernel and pays page faults on
each step; `benchmarks/training.py` measures both), and an allocator can only be chosen before the process starts. It is
used where the system has it (Debian: libtcmalloc-minimal4) and never required.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
NAMES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
SWITCH = "TRIPTYCH_TCMALLOC"


def find_tcmalloc() -> Path | None:
    """Return the path of the system's tcmalloc, or None."""
    places = (Path(folder) / name for folder in FOLDERS for name in NAMES)
    return next((place for place in places if place.is_file()), None)


def with_fast_allocator() -> None:
    """Start this command over under tcmalloc where there is one; does nothing the second time.

    ``TRIPTYCH_TCMALLOC=0`` turns it off.
    """
    library = find_tcmalloc()
    preloaded = os.environ.get("LD_PRELOAD", "")
    if library is None or "tcmalloc" in preloaded or os.environ.get(SWITCH) == "0":
        return
    environment = dict(os.environ)
    environment["LD_PRELOAD"] = f"{library} {preloaded}".strip()
    # tcmalloc reports allocations above 1 GiB on stderr; the catalogue's arrays are no accident.
    environment.setdefault("TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD", str(1 << 40))
    sys.stdout.flush()
    # -P: `-m` would put the current folder first on the import path, and a user's random.py before Python's.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "triptych.cli", *sys.argv[1:]], environment)  # noqa: S606
