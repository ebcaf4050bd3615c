"""Processes that share every batch, really started: they reach what one process reaches, killed or not.

Sums over two halves round otherwise than over the whole, in float32 by some 1e-7 of the larger term, so nothing is
equal bit for bit; but the same number of processes gives the same bits again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from small_demo import DEMO_SETTINGS, ENCODER_ALONE, begun

from triptych.foundation.artifact import Artifact
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder
from triptych.training.distributed import ALONE
from triptych.training.log import read_log

SCRIPT = Path(__file__).with_name("gradients_together.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
SETTINGS = (
    *DEMO_SETTINGS,
    "photo_queries=0",
    "compare=[]",
    "evaluation.bootstrap_repeats=100",
    "pretrain.encoder.dim=32",
    "pretrain.encoder.layers=2",
    "pretrain.encoder.heads=2",
    "pretrain.batch_items=33",  # no even number
    "pretrain.photo_view_items=9",
    "pretrain.validation_queries=100",
    "pretrain.loop.steps=12",
    "pretrain.loop.accumulate=2",
    "pretrain.loop.warmup_steps=3",
    "pretrain.loop.validate_every=6",
    "pretrain.loop.log_every=3",
    "pretrain.loop.precision=fp32",
    "pretrain.loop.device=cpu",
    "pretrain.loop.checkpoint_every_s=0",
)
CLOSE = 1e-4
"""Of the length of all weights, at the end. Rounding left 2.5e-6 after 20 steps of the model that ships; the rest is
room for other processors."""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TRIPTYCH_TCMALLOC": "0", **more}


def run_command(out: Path, *more: str) -> list[str]:
    settings = [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]
    return ["triptych", "run", "demo", "--out", str(out), *settings]


def together(out: Path, *more: str) -> list[str]:
    return [*TORCHRUN, "--nproc-per-node", "2", "-m", *run_command(out, *more)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, demo_run: Path) -> Path:
    """A run by one process, without the encoders of the fixture it begins with."""
    out = begun(tmp_path_factory.mktemp("alone") / "run", like=demo_run)
    train_alone(out)
    return out


def train_alone(out: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resolved = resolve("demo", settings=(*SETTINGS, *ENCODER_ALONE))
        run_pipeline(resolved.config, base=resolved.base, out=out)
    finally:
        torch.set_num_threads(threads)


def encoder(run: Path) -> Path:
    return RunFolder.existing(run).stage("encoder title+photo seed 0").path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(encoder(run) / "model.safetensors")


def distance(first: Path, second: Path) -> float:
    """Return how far the weights of two runs are from each other, as a share of their length."""
    a, b = (torch.cat([w.flatten() for _, w in sorted(weights(run).items())]) for run in (first, second))
    return float((a - b).norm() / b.norm())


def figures(run: Path, event: str) -> list[dict[str, float]]:
    timing = ("samples_per_s", "seconds", "validation_seconds", "peak_memory_bytes", "event")
    records = [record for record in read_log(encoder(run) / "train.jsonl") if record["event"] == event]
    return [{name: value for name, value in record.items() if name not in timing} for record in records]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, demo_run: Path) -> Path:
    """A run by two processes, started as docs/training.md says."""
    out = begun(tmp_path_factory.mktemp("two") / "run", like=demo_run)
    done = subprocess.run(together(out), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: ") == 1
    assert done.stderr.count("training encoder: 12 steps") == 1
    return out


def test_two_processes_reach_the_result_of_one(alone: Path, two: Path):
    assert 0 < distance(two, alone) < CLOSE
    validations = [figures(run, "validation") for run in (alone, two)]
    assert [one["step"] for one in validations[0]] == [6, 12]
    # the same queries find the same items, but where two scores are nearly equal
    assert validations[1][-1]["recall@100/query-item"] == pytest.approx(
        validations[0][-1]["recall@100/query-item"], abs=0.005
    )
    for one, other in zip(figures(alone, "train"), figures(two, "train"), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=0.02)  # a query's rank may change in `accuracy`
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert (two / "report").is_dir()


def test_a_process_is_killed_and_the_same_command_goes_on(alone: Path, two: Path, demo_run: Path, tmp_path: Path):
    out = begun(tmp_path / "run", like=demo_run)
    command = together(out, *ENCODER_ALONE)
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(out.glob("encoder/*.partial/resume/step_0000000[3-9]")):
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    second = process_of_rank(1, starter=process.pid)
    os.kill(second, signal.SIGKILL)
    assert process.wait(timeout=300) != 0
    assert not list(out.glob("encoder/*/artifact.json"))
    by_one = tmp_path / "by_one"
    shutil.copytree(out, by_one)

    subprocess.run(command, env=environment(), capture_output=True, check=True)
    assert all(torch.equal(weights(out)[name], weight) for name, weight in weights(two).items())
    assert figures(out, "train") == figures(two, "train")

    train_alone(by_one)  # a checkpoint does not know how many processes made it
    assert 0 < distance(by_one, alone) < CLOSE


def process_of_rank(rank: int, *, starter: int) -> int:
    children = subprocess.run(["pgrep", "-P", str(starter)], capture_output=True, text=True, check=True).stdout.split()
    wanted = f"RANK={rank}".encode()
    (found,) = (pid for pid in children if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return int(found)


def test_a_failure_is_told_once_and_nobody_waits(demo_run: Path, tmp_path: Path):
    """Without torchrun, which would stop the others itself."""
    out = begun(tmp_path / "run", like=demo_run)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *run_command(out, "pretrain.loop.learning_rate=1e30")]
    processes = [
        subprocess.Popen(
            command,
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                MASTER_ADDR="localhost",
                MASTER_PORT=str(port),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [2, 0]
    assert "error: training encoder: the " in said[0][1]
    assert "Lower learning_rate" in said[0][1]
    assert said[1] == ("", "")
    assert not list(out.glob("encoder/*/artifact.json"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("gradients_together", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    return script


@pytest.fixture(scope="module")
def three(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three processes have written down."""
    out = tmp_path_factory.mktemp("three")
    command = [*TORCHRUN, "--nproc-per-node", "3", str(SCRIPT), str(demo_run), str(out)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_gradients_of_three_are_those_of_one(script: ModuleType, three: Path, demo_run: Path):
    for case in script.CASES:
        expected = script.compute(case, run=demo_run, group=ALONE)
        gradients = load_file(three / f"{case}.safetensors")
        assert set(gradients) == set(expected.gradients), case  # what nobody used has none
        largest = max(float(gradient.abs().max()) for gradient in expected.gradients.values())
        for name, gradient in expected.gradients.items():
            assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=1e-5 * largest), (case, name)
        assert json.loads((three / f"{case}.json").read_text()) == pytest.approx(expected.figures, rel=1e-5), case


@pytest.mark.parametrize("schedules", ["fresh", "one"])
def test_stages_by_three_hand_on_what_one_hands_on(
    script: ModuleType, three: Path, demo_run: Path, tmp_path: Path, schedules: str
):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = script.train(schedules, run=demo_run, out=tmp_path, group=ALONE)
    finally:
        torch.set_num_threads(threads)
    together = Artifact.open(three / "staged" / alone.path.name)
    first, second = (load_file(one.file("model.safetensors")) for one in (alone, together))
    length = torch.cat([weight.flatten() for weight in first.values()]).norm()
    apart = torch.cat([(first[name] - second[name]).flatten() for name in first]).norm()
    assert 0 < apart / length < CLOSE
    best = [{name: one["best_step"] for name, one in run.summary["phases"].items()} for run in (alone, together)]
    assert best[0] == best[1]


def test_recall_by_three_reaches_what_one_reaches(script: ModuleType, three: Path, demo_run: Path, tmp_path: Path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = {
            case: script.train_recall(case, run=demo_run, out=tmp_path, group=ALONE) for case in script.RECALL_CASES
        }
    finally:
        torch.set_num_threads(threads)
    for case, alone in made.items():
        together = Artifact.open(three / "recall" / alone.path.name)
        first, second = (load_file(one.file("model.safetensors")) for one in (alone, together))
        length = torch.cat([weight.flatten() for weight in first.values()]).norm()
        apart = torch.cat([(first[name] - second[name]).flatten() for name in first]).norm()
        assert apart / length < CLOSE, case
        assert alone.summary["best_step"] == together.summary["best_step"], case
