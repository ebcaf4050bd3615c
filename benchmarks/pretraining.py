"""What multitask pretraining costs: by preset, by objective, in memory, and beside sentence-transformers.

    python benchmarks/pretraining.py [--out benchmarks/results/pretraining.json] [--rounds 3] [--only presets memory]
    python benchmarks/pretraining.py --device cuda
    python benchmarks/pretraining.py --smoke     the same in less than a minute, whose figures mean nothing

*presets*: samples/s (items) of the whole loop on real batches, in bf16 and in fp32, and executed GFLOP/s as a share of
the best product in that precision measured between the rounds (MFU), for the model that ships at 256 items x 2 queries;
of a preset in stages, each stage.
*objectives*: forward and backward of one batch with each of Taobao's objectives alone, and with all but that one.
*memory*: peak resident memory of a process that does a few steps, against the items of a batch, with and without
`rows_at_once`, and the time that it takes more.
*beside*: contrastive training of one text encoder by our loop and by sentence-transformers' trainer, on the same pairs
in the same batches (`benchmarks/beside_sentence_transformers.py`). Left out, with a note, where that is not installed.

Photos and words of the first three parts are random. Every part runs in a process of its own; what is compared
alternates within it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from beside_sentence_transformers import INSTALL, beside, is_installed
from machine import machine
from training import (
    WARM_STEPS,
    Shape,
    Shop,
    Words,
    gflop_per_sample,
    loop_config,
    matmul_peak,
    milliseconds,
    result_of,
    samples_per_s,
    wait_for,
)

from triptych.foundation.machine import num_cores
from triptych.nn.precision import Precision, autocast
from triptych.pretrain.base import EncoderTask, Given
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.training.loop import on_device, peak_memory_bytes
from triptych.training.task import Validation

PARTS = ("presets", "objectives", "memory", "beside")
PRESETS = (
    ("contrastive", "two_tower"),
    ("taobao", "two_tower"),
    ("joint", "late_fusion"),
    ("o1", "late_fusion"),
)
PRECISIONS = (Precision.BF16, Precision.FP32)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "contrast": {"kind": "contrast", "loss": "am-softmax"},
    "masked words of query": {"kind": "masked_words", "of": "query"},
    "masked words of title": {"kind": "masked_words", "of": "title"},
    "masked patches": {"kind": "masked_patches"},
    "matching": {"kind": "matching", "pair": "query-item", "warmup_steps": 0},
    "photo matching": {"kind": "matching", "pair": "query-photo", "warmup_steps": 0},
    "title-photo matching": {"kind": "matching", "pair": "title-photo"},
}
"""The preset `taobao`, its warm-up over, and the objective that the article tried and rejected."""
AT_ONCE = 256
MOST_OF_MEMORY = 0.8
"""Share of the free memory that a process of the memory part may take."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    batch_items: int = 256
    steps: int = 12
    rows_at_once: int = AT_ONCE
    memory_presets: tuple[tuple[str, str], ...] = PRESETS[:3]
    memory_items: tuple[int, ...] = (256, 1024, 4096)
    encoder: tuple[tuple[str, Any], ...] = ()


FULL = Sizes()
SMOKE = Sizes(
    batch_items=16,
    steps=WARM_STEPS + 2,
    rows_at_once=16,
    memory_presets=PRESETS[1:2],
    memory_items=(64,),
    encoder=(("dim", 32), ("heads", 2), ("photo_px", 32), ("vector_dim", 16)),
)


class Measured:
    """A stage whose validation, which is not what is measured, takes no time."""

    def __init__(self, task: EncoderTask) -> None:
        self.name, self.module = task.name, task.module
        self.batch, self.num_samples, self.losses = task.batch, task.num_samples, task.losses

    def validate(self) -> Validation:
        """Say that the last step is as good as any."""
        return Validation({"none": 0.0}, headline="none")


def shape_of(stages: Any, encoder: str, *, sizes: Sizes, **settings: Any) -> Shape:
    """Return a training at the shipped size, and its data: texts and photos as of the benchmark of the loop."""
    tree = {"stages": stages, "encoder": {"kind": encoder, **dict(sizes.encoder)}, "diagnose": False, **settings}
    config = MultitaskConfig.parse({"kind": "multitask", "batch_items": sizes.batch_items, **tree})
    return Shape(
        name=stages if isinstance(stages, str) else "objectives",
        config=config,
        vocab_size=4_000,
        title_tokens=(6, 14),
        query_tokens=(4, 9),
        steps=sizes.steps,
        num_items=8 * config.batch_items if config.batch_items <= AT_ONCE else 2 * config.batch_items,
    )


def given_of(shape: Shape, folder: Path) -> Given:
    """Make the shop of a shape."""
    shop: Any = Shop(shape, folder)
    words: Any = Words(shape)
    return Given(catalogue=shop, split=shop, tokenizer=words, seed=0)


def stages_of(shape: Shape, given: Given) -> Iterator[tuple[str, Measured]]:
    """Make the stages of a training one after the other, each with the weights it trains."""
    for phase in shape.config.phases(given):
        yield phase.name or shape.name, Measured(phase.task)


def measure_presets(sizes: Sizes, *, rounds: int, folder: Path, device: torch.device) -> dict[str, Any]:
    """Alternate precisions and presets; a rate's peak is the best of its precision in all rounds."""
    shapes = {name: shape_of(name, kind, sizes=sizes) for name, kind in PRESETS}
    given = {name: given_of(shape, folder / f"photos-{name}") for name, shape in shapes.items()}
    counted = {
        (name, stage): (gflop_per_sample(task), milliseconds(lambda task=task: task.batch(1), repeats=5))
        for name, shape in shapes.items()
        for stage, task in stages_of(shape, given[name])
    }
    peaks = dict.fromkeys(PRECISIONS, 0.0)
    rates: dict[tuple[str, str, Precision], list[float]] = {}
    for number in range(rounds):
        for precision in PRECISIONS:
            peaks[precision] = max(peaks[precision], matmul_peak(device, precision=precision))
            for name, shape in shapes.items():
                config = loop_config(shape, f"device={device.type}", f"precision={precision}")
                for stage, task in stages_of(shape, given[name]):
                    out = folder / f"{name}-{stage}-{precision}-{number}"
                    rate = samples_per_s(task, shape=shape, out=out, config=config)
                    rates.setdefault((name, stage, precision), []).append(rate)
    found: dict[str, Any] = {}
    for (name, stage, precision), values in rates.items():
        gflop, make_ms = counted[name, stage]
        entry = found.setdefault(name, {}).setdefault(stage, {"gflop_per_sample": round(gflop, 4)})
        entry["make_batch_ms"] = round(make_ms, 2)
        entry[precision.value] = {
            "samples_per_s": round(median(values), 1),
            "step_ms": round(1000 * sizes.batch_items / median(values), 1),
            "gflop_per_s": round(median(values) * gflop, 1),
            "mfu": round(median(values) * gflop / peaks[precision], 3),
            "all_rounds": [round(value, 1) for value in values],
        }
    return {"matmul_peak_gflop_per_s": {p.value: round(peak, 1) for p, peak in peaks.items()}, "presets": found}


def measure_objectives(sizes: Sizes, *, rounds: int, folder: Path, device: torch.device) -> dict[str, Any]:
    """Alternate all mixes of objectives, each on a batch of its own, forward and backward."""
    mixes = {"all": list(OBJECTIVES.values())}
    for name, tree in OBJECTIVES.items():
        mixes[f"{name} alone"] = [tree]
        mixes[f"all but {name}"] = [other for label, other in OBJECTIVES.items() if label != name]
    given, ready = None, {}
    for name, tasks in mixes.items():
        shape = shape_of([{"name": "mix", "tasks": tasks}], "two_tower", sizes=sizes)
        given = given or given_of(shape, folder / "photos")
        (_, task), *_ = stages_of(shape, given)
        task.module.to(device)
        ready[name] = (task, on_device(device, task.batch(0)))
    times: dict[str, list[float]] = {name: [] for name in mixes}
    for number in range(WARM_STEPS + 2 * rounds):
        for name, (task, batch) in ready.items():
            seconds = step_seconds(task, batch, precision=Precision.AUTO, device=device)
            if number >= WARM_STEPS:
                times[name].append(seconds)
    ms = {name: 1000 * min(values) for name, values in times.items()}  # the work is the same in every round
    table = {
        name: {
            "alone_ms": round(ms[f"{name} alone"], 1),
            "all_but_it_ms": round(ms[f"all but {name}"], 1),
            "saved_without_it": round(1 - ms[f"all but {name}"] / ms["all"], 3),
        }
        for name in OBJECTIVES
    }
    return {"all_ms": round(ms["all"], 1), "objectives": table}


def step_seconds(task: Measured, batch: Any, *, precision: Precision, device: torch.device) -> float:
    """Time forward and backward."""
    wait_for(device)
    started = time.perf_counter()
    with autocast(precision, device=device):
        total = task.losses(batch).total
    total.backward()
    task.module.zero_grad(set_to_none=True)
    wait_for(device)
    return time.perf_counter() - started


def measure_point(point: str, *, folder: Path, device: torch.device) -> dict[str, Any]:
    """Do a few steps and say how much memory this process has ever taken.

    Args:
        point: size, preset, encoder, items and rows at once (0: all), joined by commas.
        folder: for the photos.
        device: of the steps.
    """
    size, preset, encoder, items, rows = point.split(",")
    sizes = replace(SMOKE if size == "smoke" else FULL, batch_items=int(items))
    shape = shape_of(preset, encoder, sizes=sizes, rows_at_once=int(rows) or None)
    (_, task), *_ = stages_of(shape, given_of(shape, folder / "photos"))
    task.module.to(device)
    batch = on_device(device, task.batch(200))  # behind the warm-up of the negatives
    before, limit = peak_memory_bytes(), limit_memory() if device.type == "cpu" else None
    try:
        seconds = [step_seconds(task, batch, precision=Precision.AUTO, device=device) for _ in range(WARM_STEPS)]
    except (RuntimeError, MemoryError) as error:
        if "allocate memory" not in str(error) and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        return {"does_not_fit_in_gib": None if limit is None else round(limit / 2**30, 1)}
    peak = peak_memory_bytes() if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    return {
        "peak_mib": round(peak / 2**20),
        "before_steps_mib": round(before / 2**20) if device.type == "cpu" else None,
        "step_s": round(min(seconds[1:]), 3),
    }


def limit_memory() -> int | None:
    """Have what does not fit end as an error of this process, and not as the machine's; return the bytes left to it."""
    if not hasattr(resource, "RLIMIT_DATA") or not Path("/proc/meminfo").is_file():
        return None
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    limit = int(MOST_OF_MEMORY * 1024 * int(free.split()[1]))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return limit


def measure_memory(options: argparse.Namespace, sizes: Sizes, *, threads: int) -> list[dict[str, Any]]:
    """Start a process for each point, with and without `rows_at_once` one after the other, in every round."""
    size = "smoke" if options.smoke else "full"
    table = []
    for preset, encoder in sizes.memory_presets:
        for items in sizes.memory_items:
            ways: dict[int, list[dict[str, Any]]] = {0: [], sizes.rows_at_once: []}
            if items <= sizes.rows_at_once:
                del ways[sizes.rows_at_once]
            for _ in range(options.rounds):
                for rows, found in ways.items():
                    point = f"{size},{preset},{encoder},{items},{rows}"
                    child = start_child("memory", point, *passed_on(options), threads=threads)
                    found.append(result_of(child))
            table.append(
                {"preset": preset, "items": items, "ways": [_way(rows, found) for rows, found in ways.items()]}
            )
            _compare(table[-1])
            print(json.dumps(table[-1]), file=sys.stderr)
    return table


def _way(rows: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    if any("peak_mib" not in one for one in found):
        return {"rows_at_once": rows or None, **next(one for one in found if "peak_mib" not in one)}
    names = ("peak_mib", "before_steps_mib", "step_s")
    middle = {name: None if found[0][name] is None else median(one[name] for one in found) for name in names}
    return {"rows_at_once": rows or None, **middle, "step_s_all_rounds": [one["step_s"] for one in found]}


def _compare(row: dict[str, Any]) -> None:
    """Add how long the chunks take and how much of the memory, by the rounds' neighbours."""
    if len(row["ways"]) < 2 or any("peak_mib" not in way for way in row["ways"]):
        return
    whole, chunks = row["ways"]
    pairs = zip(chunks["step_s_all_rounds"], whole["step_s_all_rounds"], strict=True)
    row["time_ratio"] = round(median(c / w for c, w in pairs), 3)
    row["memory_ratio"] = round(chunks["peak_mib"] / whole["peak_mib"], 3)


def start_child(*arguments: str, threads: int) -> subprocess.Popen[bytes]:
    """Start this script in a process whose number of threads is chosen before it starts."""
    command = [sys.executable, __file__, "--child", *arguments]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE)


def passed_on(options: argparse.Namespace) -> list[str]:
    """Return the options that children take over."""
    return ["--rounds", str(options.rounds), "--device", options.device, *(["--smoke"] if options.smoke else [])]


def be_child(options: argparse.Namespace) -> None:
    """Measure one part and print it."""
    part, *more = options.child
    device, sizes = torch.device(options.device), SMOKE if options.smoke else FULL
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        match part:
            case "presets":
                found = measure_presets(sizes, rounds=options.rounds, folder=folder, device=device)
            case "objectives":
                found = measure_objectives(sizes, rounds=options.rounds, folder=folder, device=device)
            case "memory":
                found = measure_point(more[0], folder=folder, device=device)
            case _:
                precision = Precision(more[0])
                found = beside(precision, device=device, rounds=options.rounds, folder=folder, is_small=options.smoke)
    print(json.dumps(found))


def measure_beside(options: argparse.Namespace, *, threads: int) -> dict[str, Any]:
    """Measure each precision in a process of its own: theirs is chosen once in a process."""
    if not is_installed():
        print(f"beside: left out, as sentence-transformers is not installed: {INSTALL}")
        return {"left_out": INSTALL}
    precisions = PRECISIONS[1:] if options.smoke else PRECISIONS
    return {
        one.value: result_of(start_child("beside", one.value, *passed_on(options), threads=threads))
        for one in precisions
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=num_cores(), help="of every process; default: all cores")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes and one round: does it all still run?")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.rounds = 1
    if options.child:
        be_child(options)
        return
    on_gpu, threads = options.device == "cuda", options.threads
    out = options.out or Path(__file__).parent / "results" / f"pretraining{'_gpu' if on_gpu else ''}.json"
    result: dict[str, Any] = {"benchmark": "pretraining", "how": {}}
    if out.is_file():  # parts that are not measured now stay, each with what it was measured on
        result = json.loads(out.read_text())
    for part in options.only:
        result["how"][part] = {
            "machine": {**machine(), "gpu": torch.cuda.get_device_name(0) if on_gpu else None},
            "smoke": options.smoke,
            "threads": threads,
            "rounds": options.rounds,
        }
        match part:
            case "memory":
                result[part] = measure_memory(options, SMOKE if options.smoke else FULL, threads=threads)
            case "beside":
                result[part] = measure_beside(options, threads=threads)
            case _:
                result[part] = result_of(start_child(part, *passed_on(options), threads=threads))
        if options.out or not options.smoke:  # after each part: what follows may fail, or be stopped
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2) + "\n")
    tell(result)


def tell(result: dict[str, Any]) -> None:
    """Print the figures that matter."""
    presets = result.get("presets", {"presets": {}})
    for name, stages in presets["presets"].items():
        for stage, found in stages.items():
            rates = "  ".join(
                f"{p.value} {found[p.value]['samples_per_s']:8.1f} samples/s, MFU {found[p.value]['mfu']:4.0%}"
                for p in PRECISIONS
            )
            print(f"{name:12s} {stage:14s} {rates}")
    if "objectives" in result:
        print(f"all objectives {result['objectives']['all_ms']:8.1f} ms")
        for name, found in result["objectives"]["objectives"].items():
            print(f"{name:22s} alone {found['alone_ms']:8.1f} ms, saves {found['saved_without_it']:6.1%} of all")
    for row in result.get("memory", []):
        for way in row["ways"]:
            print(
                f"{row['preset']:12s} {row['items']:5d} items, {way.get('rows_at_once') or 'all'} at once: {_told(way)}"
            )
        if "time_ratio" in row:
            print(f"{'':12s} {row['memory_ratio']:.2f} x the memory in {row['time_ratio']:.2f} x the time")
    for precision, found in result.get("beside", {}).items():
        if isinstance(found, dict):
            for way, one in found["ways"].items():
                print(
                    f"{precision} {way}: {one['to_sentence_transformers']:.2f} x sentence-transformers "
                    f"({one['samples_per_s']['triptych']:.1f} pairs/s), losses differ by at most "
                    f"{one['largest_loss_difference']:.1e}"
                )


def _told(way: dict[str, Any]) -> str:
    if "peak_mib" not in way:
        return f"does not fit in {way['does_not_fit_in_gib']} GiB"
    return f"{way['peak_mib']:.0f} MiB, {way['step_s']:.2f} s a step"


if __name__ == "__main__":
    main()
