"""What this machine lets the process have."""

from __future__ import annotations

import os
from pathlib import Path

_STATUS, _MEMORY = Path("/proc/self/status"), Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Return how many cores this process may use: those it is bound to, where the system binds processes at all."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int:
    """Return how much memory this process may still take: what is free on the machine, or left of its group's share."""
    if not _MEMORY.exists():  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _kilobytes(_MEMORY, "MemAvailable") * 1024
    limit, used = _GROUP / "memory.max", _GROUP / "memory.current"
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()) + _reclaimable())
    return max(0, free)


def _reclaimable() -> int:
    """Return what the group holds of files and would give up: a log that was read once must not count as memory."""
    held = _GROUP / "memory.stat"
    lines = held.read_text(encoding="utf-8").splitlines() if held.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def held_bytes() -> int:
    """Return how much memory this process holds; 0 where the system does not say."""
    return _kilobytes(_STATUS, "VmRSS") * 1024 if _STATUS.exists() else 0


def most_held_bytes() -> int:
    """Return the most memory that this process has held; 0 where the system does not say."""
    return _kilobytes(_STATUS, "VmHWM") * 1024 if _STATUS.exists() else 0


def _kilobytes(file: Path, name: str) -> int:
    lines = file.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
