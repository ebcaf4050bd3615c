"""How fast the training loop is, against the fastest matrix product of the same minute.

    python benchmarks/training.py [--out benchmarks/results/training.json] [--rounds 5] [--only together compiled]
    python benchmarks/training.py --device cuda --batch 4096 [--only loop compiled]

Two shapes. *reference*: 6 layers, width 256, 4 heads, 32 text tokens against 49 patches (112 px), 64 pairs a step,
in-batch softmax, 12.8 M parameters. *default*: the model that ships (3 layers, width 128, 256 items x 2 queries).

For each: samples/s of the whole loop on real batches (drawn, gathered from a memory-mapped store, augmented) and on
batches already in memory; executed GFLOP/s as a share of the best bf16 product (2048 and 4096) measured between the
rounds; and the operators that take the time. Everything runs once as it is and once with tcmalloc, where that is found.
Beside the reference shape stands the loop one would write by hand: torch.nn.TransformerEncoder, bf16 autocast, fused
AdamW, batches in memory. It computes every token of the last block, of which ours computes [CLS] alone.
Then the default shape trained by one process per core at a time, each on one thread, as `triptych run --jobs` does
(side_by_side); by one process per core that share each batch, as under torchrun, against one process on all cores
(together); and with its blocks compiled, against the same as written (compiled).

On a GPU: the loop on real batches and on batches in memory, the bare loop, the product measured there, and compiled.
The shapes are small ones; --batch sets the items of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from torch.utils.flop_counter import FlopCounterMode

from triptych.cli.launch import find_tcmalloc
from triptych.data.photo_store import PhotoStore
from triptych.data.splits import Part, Targets, TrainPairs
from triptych.data.text import CLS, MASK, PAD, SEP
from triptych.foundation.machine import num_cores
from triptych.nn.precision import Precision, autocast, uses_bf16
from triptych.pretrain.base import Given
from triptych.pretrain.passes import MultitaskBatch
from triptych.pretrain.stage_task import StageTask
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.training.distributed import ALONE, Group, Processes, join
from triptych.training.log import read_log
from triptych.training.loop import LoopConfig, fit, follow, on_device

WARM_STEPS = 3
PARTS = ("loop", "side_by_side", "together", "compiled")


@dataclass(frozen=True)
class Shape:
    """One model and its data."""

    name: str
    config: ContrastiveConfig | MultitaskConfig
    vocab_size: int
    title_tokens: tuple[int, int]
    """Shortest and longest title, [CLS] and [SEP] included."""
    query_tokens: tuple[int, int]
    steps: int
    num_items: int = 2_048


SHAPES = (
    Shape(
        name="reference",
        config=ContrastiveConfig.parse(
            {
                "encoder": {
                    "modalities": "photo",
                    "dim": 256,
                    "layers": 6,
                    "heads": 4,
                    "vector_dim": 256,
                    "stem": "linear",
                    "photo_px": 112,
                    "max_query_tokens": 32,
                    "max_title_tokens": 32,
                },
                "batch_items": 64,
                "queries_per_item": 1,
                "photo_view_weight": 0,
            }
        ),
        vocab_size=30_000,
        title_tokens=(32, 32),
        query_tokens=(32, 32),
        steps=15,
    ),
    Shape(
        name="default",
        config=ContrastiveConfig(),
        vocab_size=4_000,
        title_tokens=(6, 14),  # as on fashion: mean 8, a few long
        query_tokens=(4, 9),
        steps=25,
    ),
)


class Words:
    """A tokenizer whose texts are numbers: each gives the same random ids, lengths leaning to the short."""

    mask_id = MASK
    special_ids = np.arange(MASK + 1, dtype=np.int32)

    def __init__(self, shape: Shape) -> None:
        self.vocab_size = shape.vocab_size
        self._bounds = {"t": shape.title_tokens, "q": shape.query_tokens}

    def encode(self, texts: list[str], *, max_tokens: int) -> np.ndarray:
        """Return token ids as `TextTokenizer.encode` does."""
        out = np.full((len(texts), max_tokens), PAD, dtype=np.int32)
        for row, text in zip(out, texts, strict=True):
            rng = np.random.default_rng(int(text[1:]))
            low, high = self._bounds[text[0]]
            length = low + int((high - low + 1) * rng.uniform() ** 3)
            row[:length] = rng.integers(SEP + 1, self.vocab_size, size=length)
            row[0], row[length - 1] = CLS, SEP
        return out


class Shop:
    """What the task asks of a catalogue and a split, without tables: random photos on disk, random clicks."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        rng = np.random.default_rng(0)
        px = shape.config.encoder.photo_px
        self.num_items = shape.num_items
        self.titles = [f"t{i}" for i in range(self.num_items)]
        self.queries = [f"q{i}" for i in range(self.num_items)]
        folder.mkdir()
        np.save(folder / "pixels.npy", rng.integers(0, 256, size=(self.num_items, px, px, 3), dtype=np.uint8))
        np.save(folder / "photo_rows.npy", np.arange(self.num_items, dtype=np.int32))
        self.photos = PhotoStore(folder)
        keys = np.unique(rng.integers(0, self.num_items**2, size=8 * self.num_items))
        self._pairs = TrainPairs(
            keys // self.num_items, keys % self.num_items, rng.integers(1, 9, size=len(keys)).astype(np.int32)
        )

    def train_pairs(self, _catalogue: Any) -> TrainPairs:
        """Return the random clicks."""
        return self._pairs

    def items_known(self, _catalogue: Any) -> np.ndarray:
        """All items were there from the start."""
        return np.ones(self.num_items, dtype=bool)

    def items_of_validation(self, _catalogue: Any) -> np.ndarray:
        """None came later."""
        return np.zeros(self.num_items, dtype=bool)

    def targets(self, _part: Part) -> Targets:
        """Return a target for ten queries: validation is not what is measured."""
        return Targets(np.arange(10, dtype=np.int32), np.arange(11), np.arange(10, dtype=np.int32))


class InMemory:
    """A task whose batches have all been made before."""

    def __init__(self, task: StageTask, *, count: int) -> None:
        self._task = task
        self._batches = [task.batch(index) for index in range(count)]
        self.name, self.module = task.name, task.module
        self.num_samples, self.losses, self.validate = task.num_samples, task.losses, task.validate

    def batch(self, index: int) -> MultitaskBatch:
        """Return one of the batches."""
        return self._batches[index % len(self._batches)]


def loop_config(shape: Shape, *settings: str) -> LoopConfig:
    """Return how a shape is trained here: no validation or checkpoint before the last step."""
    base = (f"steps={shape.steps}", f"validate_every={shape.steps}", "checkpoint_every_s=1e6")
    return shape.config.loop.override(*base, f"log_every={WARM_STEPS}", *settings)


def samples_per_s(task: Any, *, shape: Shape, out: Path, config: LoopConfig, group: Group = ALONE) -> float:
    """Train for a few steps and read the rate off the log, the first steps left out."""
    fit(task, config=config, out=out, seed=0, group=group)
    records = [r for r in read_log(out / "train.jsonl") if r["event"] == "train"]
    first, last = records[0], records[-1]
    return (last["step"] - first["step"]) * shape.config.batch_items / (last["seconds"] - first["seconds"])


def wait_for(device: torch.device) -> None:
    """Let a GPU finish what it has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, *, precision: Precision = Precision.AUTO) -> float:
    """Return the best GFLOP/s of a bf16 product of 2048 or 4096 squared (float32 where bf16 is not used)."""
    dtype = torch.bfloat16 if uses_bf16(precision, device=device) else torch.float32
    best = 0.0
    for size, repeats in ((2048, 8), (4096, 2)) if device.type == "cpu" else ((4096, 20), (8192, 20)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(repeats):
            wait_for(device)
            started = time.perf_counter()
            a @ b
            wait_for(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e9)
    return best


def one_step(task: StageTask, batch: MultitaskBatch) -> None:
    """Forward and backward, without the optimiser."""
    device = next(task.module.parameters()).device
    with autocast(Precision.AUTO, device=device):
        total = task.losses(on_device(device, batch)).total
    total.backward()
    task.module.zero_grad(set_to_none=True)


class BareTower(torch.nn.Module):
    """The reference shape out of torch's own parts."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        encoder = shape.config.encoder
        self.words = torch.nn.Embedding(shape.vocab_size, encoder.dim)
        self.positions = torch.nn.Parameter(torch.zeros(128, encoder.dim))
        self.stem = torch.nn.Conv2d(3, encoder.dim, 16, stride=16)
        self.cls = torch.nn.Parameter(torch.zeros(1, 1, encoder.dim))
        block = torch.nn.TransformerEncoderLayer(
            encoder.dim, encoder.heads, 4 * encoder.dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        norm = torch.nn.LayerNorm(encoder.dim)
        self.blocks = torch.nn.TransformerEncoder(block, encoder.layers, norm, enable_nested_tensor=False)

    def loss(self, tokens: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Contrast ``[batch, tokens]`` with photos ``[batch, 3, px, px]``."""
        patches = self.stem(pixels).flatten(2).transpose(1, 2)
        photos = torch.cat([self.cls.expand(len(patches), 1, -1), patches], dim=1)
        sides = [states + self.positions[: states.shape[1]] for states in (self.words(tokens), photos)]
        a, b = (torch.nn.functional.normalize(self.blocks(side)[:, 0].float(), dim=-1) for side in sides)
        logits = 20 * a @ b.T
        places = torch.arange(len(logits))
        return torch.nn.functional.cross_entropy(logits, places) + torch.nn.functional.cross_entropy(logits.T, places)


def bare_samples_per_s(shape: Shape, *, device: torch.device, steps: int = 12) -> tuple[float, float]:
    """Train the bare tower for a few steps; return samples/s and the GFLOP of a sample."""
    size, encoder = shape.config.batch_items, shape.config.encoder
    torch.set_default_device(device)
    tower = BareTower(shape)
    optimizer = torch.optim.AdamW(tower.parameters(), fused=True)
    tokens = torch.randint(5, shape.vocab_size, (size, shape.query_tokens[1]))
    pixels = torch.rand(size, 3, encoder.photo_px, encoder.photo_px)

    def step() -> None:
        with autocast(Precision.AUTO, device=device):
            loss = tower.loss(tokens, pixels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        step()
    for _ in range(WARM_STEPS):
        step()
    wait_for(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait_for(device)
    seconds = time.perf_counter() - started
    torch.set_default_device(None)
    return steps * size / seconds, counter.get_total_flops() / size / 1e9


def gflop_per_sample(task: StageTask, *, batches: int = 4) -> float:
    """Count the products that a step executes, forward and backward."""
    made = [task.batch(index) for index in range(batches)]
    with FlopCounterMode(display=False) as counter:
        for batch in made:
            one_step(task, batch)
    return counter.get_total_flops() / sum(task.num_samples(batch) for batch in made) / 1e9


def top_operators(task: StageTask, *, steps: int = 5, rows: int = 14) -> list[dict[str, Any]]:
    """Profile a few steps: share of the processor time by operator."""
    batches = [task.batch(index) for index in range(steps)]
    one_step(task, batches[0])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for batch in batches:
            one_step(task, batch)
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        {
            "operator": event.key,
            "share": round(event.self_cpu_time_total / total, 4),
            "ms_per_step": round(event.self_cpu_time_total / steps / 1000, 2),
            "calls_per_step": event.count // steps,
        }
        for event in events[:rows]
    ]


def milliseconds(work: Callable[[], Any], *, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times) * 1000


def make_task(shape: Shape, folder: Path, *, group: Group = ALONE) -> StageTask:
    """Make the shape's task over a random shop."""
    shop: Any = Shop(shape, folder)
    words: Any = Words(shape)
    given = Given(catalogue=shop, split=shop, tokenizer=words, seed=0, group=group)
    task = next(shape.config.phases(given)).task
    assert isinstance(task, StageTask)
    return task


def measure(shape: Shape, *, rounds: int, folder: Path, device: torch.device) -> dict[str, Any]:
    """Alternate real batches, batches in memory and the bare product; the ratios come from neighbours in time."""
    task = make_task(shape, folder / "photos")
    task.module.to(device)
    config = loop_config(shape, f"device={device.type}")
    # As many as the steps: a few that come again would have fewer shapes than real ones, and so fewer kernels.
    in_memory = InMemory(task, count=shape.steps)
    gflop = gflop_per_sample(task)
    is_reference = shape.name == "reference"
    bare_gflop = 0.0
    rates: dict[str, list[float]] = {"real": [], "memory": [], "peak": [], "bare": []}
    for number in range(rounds):
        rates["peak"].append(matmul_peak(device))
        rates["real"].append(samples_per_s(task, shape=shape, out=folder / f"real{number}", config=config))
        rates["memory"].append(samples_per_s(in_memory, shape=shape, out=folder / f"memory{number}", config=config))
        if is_reference:
            bare_rate, bare_gflop = bare_samples_per_s(shape, device=device)
            rates["bare"].append(bare_rate)
    peak = max(rates["peak"])
    to_bare = {}
    if is_reference:
        to_bare = {
            "samples_per_s_bare_loop": round(median(rates["bare"]), 1),
            "to_bare_loop": round(median(r / b for r, b in zip(rates["real"], rates["bare"], strict=True)), 3),
            "bare_loop_gflop_per_sample": round(bare_gflop, 4),
            "share_of_peak_as_if_every_token_were_computed": round(median(rates["real"]) * bare_gflop / peak, 3),
        }
    return {
        **to_bare,
        "parameters": sum(p.numel() for p in task.module.parameters()),
        "samples_per_s": round(median(rates["real"]), 1),
        "samples_per_s_in_memory": round(median(rates["memory"]), 1),
        "real_to_memory_rate": round(median(r / m for r, m in zip(rates["real"], rates["memory"], strict=True)), 3),
        "executed_gflop_per_sample": round(gflop, 4),
        "gflop_per_s": round(median(rates["real"]) * gflop, 1),
        "matmul_peak_gflop_per_s": round(peak, 1),
        "share_of_peak": round(median(rates["real"]) * gflop / peak, 3),
        "make_batch_ms": round(milliseconds(lambda: task.batch(1), repeats=10), 2),
        "all_rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "top_operators": top_operators(task) if device.type == "cpu" else None,
    }


def measure_compiled(shape: Shape, *, rounds: int, folder: Path, device: torch.device) -> dict[str, Any]:
    """Alternate the loop as written and with compiled blocks."""
    config = loop_config(shape, f"device={device.type}")
    compiled = config.override("compile_model=true")
    tasks = [make_task(shape, folder / f"photos{number}") for number in range(2)]
    # Once beforehand: the first steps compile, those after meet what they have not met.
    started = time.perf_counter()
    samples_per_s(tasks[1], shape=shape, out=folder / "warm", config=compiled)
    first = time.perf_counter() - started
    rates: dict[str, list[float]] = {"as_written": [], "compiled": []}
    for number in range(rounds):
        rates["as_written"].append(samples_per_s(tasks[0], shape=shape, out=folder / f"w{number}", config=config))
        rates["compiled"].append(samples_per_s(tasks[1], shape=shape, out=folder / f"c{number}", config=compiled))
    ratios = [c / w for c, w in zip(rates["compiled"], rates["as_written"], strict=True)]
    return {
        "first_run_s": round(first, 1),
        "the_same_later_s": round(shape.steps * shape.config.batch_items / median(rates["compiled"]), 1),
        "to_as_written": round(median(ratios), 3),
        "gradient_difference": gradient_difference(tasks[1], shape=shape, device=device),
        "all_rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
    }


def gradient_difference(task: StageTask, *, shape: Shape, device: torch.device) -> float:
    """Return how far a batch's gradient by compiled blocks is from that as written, as a share of its length."""
    batch = on_device(device, task.batch(shape.steps))
    found = []
    for stance in ("default", "force_eager"):
        with torch.compiler.set_stance(stance), autocast(Precision.FP32, device=device):
            task.losses(batch).total.backward()
        found.append(torch.cat([p.grad.flatten() for p in task.module.parameters() if p.grad is not None]))
        task.module.zero_grad(set_to_none=True)
    return float((found[0] - found[1]).norm() / found[1].norm())


def train_in_group(shape: Shape, *, folder: Path) -> float | None:
    """Train as one of the processes of torchrun; the first returns samples/s of all."""
    group = join()
    task = make_task(shape, folder / "photos", group=group)
    config = loop_config(shape, "device=cpu")
    if isinstance(group, Processes) and group.rank > 0:
        follow(task, config=config, seed=0, group=group)
        return None
    return samples_per_s(task, shape=shape, out=folder / "run", config=config, group=group)


def together(options: argparse.Namespace, *, library: Path | None, cores: int) -> dict[str, Any]:
    """Alternate one process on all cores and one process per core that share each batch."""
    rates: dict[str, list[float]] = {"one_process": [], "together": []}
    for _ in range(options.rounds):
        for name, processes in (("one_process", 1), ("together", cores)):
            child = start_child(
                options, part="together", library=library, threads=cores // processes, processes=processes
            )
            rates[name].append(result_of(child)["samples_per_s"])
    return {
        "processes": cores,
        "to_one_process": round(median(t / o for t, o in zip(rates["together"], rates["one_process"], strict=True)), 3),
        "all_rounds": rates,
    }


def start_child(
    options: argparse.Namespace,
    *,
    part: str,
    library: Path | None,
    threads: int,
    shapes: tuple[str, ...] = ("default",),
    processes: int = 1,
) -> subprocess.Popen[bytes]:
    """Start this script in a child, or several, whose allocator and threads are chosen before it starts."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    environment["OMP_NUM_THREADS"] = str(threads)
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(starter if processes > 1 else ()), __file__, "--child", part, *shapes]
    command += ["--rounds", str(options.rounds), "--device", options.device]
    command += ["--batch", str(options.batch)] if options.batch else []
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def result_of(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for a child and read what it printed."""
    printed, _ = child.communicate()
    if child.returncode:
        sys.exit(f"a child ended with exit status {child.returncode}")
    return json.loads(printed)


def side_by_side(options: argparse.Namespace, *, library: Path | None, cores: int, alone: float) -> dict[str, Any]:
    """Train the default shape in one process per core at the same time.

    Args:
        options: of the command line.
        library: allocator.
        cores: processes.
        alone: samples/s of one process on all cores.
    """
    children = [start_child(options, part="loop", library=library, threads=1) for _ in range(cores)]
    rates = [result_of(child)["default"]["samples_per_s"] for child in children]
    return {"processes": cores, "samples_per_s_of_each": rates, "to_one_process": round(sum(rates) / alone, 3)}


def be_child(options: argparse.Namespace) -> None:
    """Measure one part and print it."""
    part, *names = options.child
    device = torch.device(options.device)
    shapes = [sized(shape, options.batch) for shape in SHAPES if shape.name in names]
    with tempfile.TemporaryDirectory() as folder:
        if part == "together":
            rate = train_in_group(shapes[0], folder=Path(folder))
            if rate is not None:
                print(json.dumps({"samples_per_s": round(rate, 1)}))
            return
        found = {}
        for shape in shapes:
            (Path(folder) / shape.name).mkdir()
            how = measure if part == "loop" else measure_compiled
            found[shape.name] = how(shape, rounds=options.rounds, folder=Path(folder) / shape.name, device=device)
    print(json.dumps(found))


def sized(shape: Shape, batch: int | None) -> Shape:
    """Change the items of a step; on more of them there are more items and steps."""
    if batch is None:
        return shape
    config = shape.config.override(f"batch_items={batch}")
    return replace(shape, config=config, num_items=max(shape.num_items, 4 * batch), steps=10 * shape.steps)


def measure_loop(options: argparse.Namespace, *, library: Path | None, cores: int) -> dict[str, Any]:
    """Measure both shapes with each allocator."""
    names = tuple(shape.name for shape in SHAPES)
    allocators = {"default_allocator": None, "tcmalloc": library} if library else {"default_allocator": None}
    return {
        key: result_of(start_child(options, part="loop", library=preloaded, threads=cores, shapes=names))
        for key, preloaded in allocators.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="items of a step, instead of each shape's own")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to measure")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        be_child(options)
        return
    if "side_by_side" in (options.only or ()) and "loop" not in options.only:
        parser.error("side_by_side is held against the loop: --only loop side_by_side")
    on_gpu = options.device == "cuda"
    parts = options.only or (("loop", "compiled") if on_gpu else PARTS[:3])
    cores, library = num_cores(), find_tcmalloc()
    result: dict[str, Any] = {
        "benchmark": "training",
        "machine": {**machine(), "gpu": torch.cuda.get_device_name(0) if on_gpu else None},
        "batch": options.batch,
        "threads": cores,
        "rounds": options.rounds,
    }
    if "loop" in parts:
        result |= measure_loop(options, library=library, cores=cores)
    if "side_by_side" in parts and not on_gpu:
        alone = (result.get("tcmalloc") or result["default_allocator"])["default"]["samples_per_s"]
        result["side_by_side"] = side_by_side(options, library=library, cores=cores, alone=alone)
    if "together" in parts and not on_gpu:
        result["together"] = together(options, library=library, cores=cores)
    if "compiled" in parts:
        # One thread: the ratio is the same, and threads that wait for each other would drown it where others work too.
        result["compiled"] = result_of(start_child(options, part="compiled", library=library, threads=1))["default"]
    out = options.out or Path(__file__).parent / "results" / f"training{'_gpu' if on_gpu else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    tell(result, cores=cores)


def tell(result: dict[str, Any], *, cores: int) -> None:
    """Print the figures that matter."""
    for allocator in ("default_allocator", "tcmalloc"):
        for name, figures in result.get(allocator, {}).items():
            bare = f"  {figures['to_bare_loop']:.2f} x a bare torch loop" if "to_bare_loop" in figures else ""
            print(
                f"{allocator:18s} {name:10s} {figures['samples_per_s']:8.1f} samples/s  "
                f"{figures['share_of_peak']:.0%} of {figures['matmul_peak_gflop_per_s']:.0f} GFLOP/s  "
                f"real/memory {figures['real_to_memory_rate']:.1%}{bare}"
            )
    one = f"one process of {cores} threads"
    if "side_by_side" in result:
        print(f"{cores} processes of one thread, side by side: {result['side_by_side']['to_one_process']:.2f} x {one}")
    if "together" in result:
        print(f"{cores} processes of one thread, together: {result['together']['to_one_process']:.2f} x {one}")
    if "compiled" in result:
        found = result["compiled"]
        print(
            f"compiled blocks: {found['to_as_written']:.2f} x as written, after a first run of "
            f"{found['first_run_s']} s that later takes {found['the_same_later_s']} s; "
            f"gradients differ by {found['gradient_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
