"""What this machine lets the process have."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Return how many cores this process may use: those it is bound to, where the system binds processes at all."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
