"""Training killed with SIGKILL at random moments, and what its checkpoints leave on disk."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from triptych.training.checkpoint import Checkpoints
from triptych.training.log import read_log

SCRIPT = Path(__file__).with_name("toy_training.py")
KILLS = 5


def start(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(out: Path) -> None:
    process = start(out)
    process.communicate()
    assert process.returncode == 0


def kill_after(process: subprocess.Popen[str], out: Path, *, step: int, pause_s: float) -> bool:
    """Kill a run a moment after its log has reached a step; False if it ended before."""
    while process.poll() is None:
        if max((r["step"] for r in read_log(out / "train.jsonl")), default=0) >= step:
            time.sleep(pause_s)
            break
        time.sleep(0.002)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_killed_runs_end_with_the_weights_of_an_unbroken_one(tmp_path):
    finish(tmp_path / "unbroken")
    rng = random.Random(0)
    out = tmp_path / "killed"
    kills = [
        kill_after(start(out), out, step=step, pause_s=rng.uniform(0, 0.03))
        for step in sorted(rng.sample(range(130), KILLS))
    ]
    assert sum(kills) >= KILLS - 1
    finish(out)
    unbroken, killed = (load_file(tmp_path / run / "weights.safetensors") for run in ("unbroken", "killed"))
    assert all(torch.equal(unbroken[name], killed[name]) for name in unbroken)
    losses = [
        [(r["step"], r.get("loss"), r.get("score")) for r in read_log(tmp_path / run / "train.jsonl")]
        for run in ("unbroken", "killed")
    ]
    assert losses[0] == losses[1]
    kept = sorted(folder.name for folder in (out / "resume").iterdir())
    assert sum(name.startswith("step_") for name in kept) == 2
    assert not any(name.endswith(".partial") for name in kept)
    files = {file.suffix for file in (out / "resume").rglob("*") if file.is_file()}
    assert files == {".safetensors", ".json"}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model/w": torch.full((3,), value)}


def test_the_last_two_steps_and_their_best_weights_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save_best(step=5, tensors=tensors(0.5))
    for step, best in ((10, 5), (20, 5), (30, 30), (40, 30)):
        if best == step:
            checkpoints.save_best(step=step, tensors=tensors(step / 10))
        checkpoints.save(step=step, tensors=tensors(step), state={"note": step}, best_step=best)
        assert torch.equal(checkpoints.best(best)["model/w"], tensors(best / 10)["model/w"])
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["best_00000030", "step_00000030", "step_00000040"]
    latest = checkpoints.latest()
    assert latest.state == {"note": 40, "step": 40, "best_step": 30}
    assert torch.equal(latest.tensors["model/w"], tensors(40)["model/w"])


@pytest.mark.parametrize("torn", ["tensors.safetensors", "state.json"])
def test_an_interrupted_write_is_not_read(tmp_path, torn):
    Checkpoints(tmp_path).save(step=10, tensors=tensors(1), state={}, best_step=None)
    partial = tmp_path / ".step_00000020.partial"
    partial.mkdir()
    (partial / torn).write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest().state["step"] == 10
    assert not partial.exists()


def test_the_same_step_may_be_saved_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for value in (1.0, 2.0):
        checkpoints.save_best(step=7, tensors=tensors(value))
        checkpoints.save(step=7, tensors=tensors(value), state={}, best_step=7)
    assert checkpoints.latest().tensors["model/w"][0] == 2.0
    assert checkpoints.best(7)["model/w"][0] == 2.0
