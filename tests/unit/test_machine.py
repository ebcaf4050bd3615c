"""The cores a process may use are those it is bound to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from triptych.foundation.machine import num_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_a_process_bound_to_one_core_counts_one():
    script = (
        "import os; from triptych.foundation.machine import num_cores\n"
        "before = num_cores(); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(before, num_cores())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(os.sched_getaffinity(0))), "1"]


def test_where_processes_are_not_bound_every_core_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert num_cores() == os.cpu_count()
