"""What EM3 end to end takes a step, over a finished run of searches: estimated as before a training, and measured.

    python benchmarks/ranking_end_to_end.py runs/demo [--threads 2] [--only "full, 32"]

For each size a process of its own estimates the training as `ranker.estimate` does before it begins (seconds a step,
memory of the process at most, what a pass keeps), then does steps of that training and says what they took: seconds by
the clock, and of processor time for each thread, which other work on the machine changes less. The run lends its
catalogue, split and encoder, and nothing is written to it. Candidates train everything (`train = "full"`).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.encoders.inputs import View
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.estimate import estimate
from triptych.ranker.own_encoder import EncoderStart
from triptych.ranker.task import Given, RankTask
from triptych.recipes.run_folder import RunFolder
from triptych.training.loop import rehearsed

ENCODER = "encoder title+photo seed 0"
STATES = {"form": "full", "tokens": "states"}
SIZES: dict[str, tuple[int, dict[str, Any]]] = {
    "lora_cache, 128": (128, {"train_behaviours": "lora_cache"}),
    "lora_cache, 512": (512, {"train_behaviours": "lora_cache"}),
    "lora, 128": (128, {"train_behaviours": "lora"}),
    "full, 32": (32, {"train_behaviours": "full"}),
    "full, 128": (128, {"train_behaviours": "full"}),
    "full, 128, recompute": (128, {"train_behaviours": "full", "recompute": True, "chunk_items": 256}),
    "lora_cache, 128, states": (128, {"train_behaviours": "lora_cache", **STATES}),
    "full, 32, states": (32, {"train_behaviours": "full", **STATES}),
}
"""What behaviours train, samples of a batch, and the settings of `content` that say so."""
HISTORY, MEASURED_STEPS = 20, 3


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=SIZES, help="one size alone")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part is not None:
        print(json.dumps(measured(chosen.run, chosen.part, threads=chosen.threads)))
        return
    print(
        "behaviours, samples a batch: distinct items; estimated s/step, memory, kept by a pass; measured s/step, CPU s"
    )
    for name in [chosen.only] if chosen.only else SIZES:
        command = [sys.executable, __file__, str(chosen.run), "--threads", str(chosen.threads), "--part", name]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": str(chosen.threads)}
        )
        one = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name}: {one['items']:,.0f}; {one['seconds']:.2f} s, {one['peak_mib']:,} MiB, {one['kept_mib']:,} MiB; "
            f"{one['clock_s']:.2f} s, {one['cpu_s']:.2f} s",
            flush=True,
        )


def measured(run: Path, name: str, *, threads: int) -> dict[str, Any]:
    """Estimate and measure one size, in this process."""
    torch.set_num_threads(threads)
    folder, (batch, content) = RunFolder.existing(run), SIZES[name]
    tree = {
        "model": {"kind": "din", "history_items": HISTORY},
        "content": {"kind": "em3", "train": "full", **content},
        "batch_samples": batch,
        "validation_samples": 1_000,
        "device": "cpu",
    }
    config = RankTrainConfig.parse(tree)
    encoder = EncoderStart(folder.stage(ENCODER), [View.ITEM, View.TITLE, View.PHOTO])
    catalogue, split = Catalogue.open(folder.stage("catalogue")), Split.open(folder.stage("split"))
    task = RankTask(config, Given(catalogue, split, seed=0, encoder=encoder))
    loop = config.loop(batches_per_epoch=task.batches_per_epoch)
    expected = estimate(task, config=loop, seed=0, short_s=0.0)
    assert expected is not None, "none is too short"
    clock, cpu = zip(*_steps(task, loop=loop), strict=True)
    return {
        "items": expected.items_per_batch,
        "seconds": expected.seconds / expected.steps,
        "peak_mib": expected.peak_memory_bytes // 2**20,
        "kept_mib": expected.activation_bytes // 2**20,
        "clock_s": statistics.median(clock),
        "cpu_s": statistics.median(cpu) / threads,
    }


def _steps(task: RankTask, *, loop: Any) -> Iterator[tuple[float, float]]:
    """Do a few steps with a copy; of each behind the first, seconds by the clock and of processor time."""
    trial = copy.copy(task)
    trial.module = copy.deepcopy(task.module)
    trial.module.content.settle()
    with closing(rehearsed(trial, config=loop, seed=0)) as steps:
        next(steps)
        before = time.process_time()
        for _, one in zip(range(MEASURED_STEPS), steps, strict=False):
            after = time.process_time()
            yield one.seconds, after - before
            before = after


if __name__ == "__main__":
    main()
