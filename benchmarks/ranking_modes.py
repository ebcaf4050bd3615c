"""EM3's modes against the length of histories: memory and speed of a training, expected and found (`ranking.py`).

    python benchmarks/ranking.py --only modes [--smoke]
    python benchmarks/ranking_modes.py --draw      the picture of what was measured, again

Results: `results/ranking_modes.json` and `docs/images/ranking-modes.svg`.

DIN with EM3 over one vector an item. Candidates train the Q-Former (`adapter`), behaviours what the mode says; with
`full` both train the encoder of titles too, from which the others read a vector that is there. A batch has as many
distinct items as it has, said beside the figures: each goes through the Q-Former once a side, so cost follows them and
not the places in histories. Of `full` chunks are encoded again in the backward pass, and few steps are done.

Each cell has two processes: one estimates the training as `ranker.estimate` does before it begins, the other does the
same steps. Memory is what the process itself holds at most while it trains (RssAnon: no file that it maps), and, where
the estimate speaks of it, all that it holds (RSS). Titles are one word, so a real encoder costs more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders.base import MODELS, EncoderConfig
from triptych.encoders.embed import Embedder
from triptych.encoders.inputs import View
from triptych.encoders.slots import NO_MODELS
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.registry import config_class
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.estimate import estimate
from triptych.ranker.own_encoder import EncoderStart
from triptych.ranker.task import Given, RankTask
from triptych.training.loop import LoopConfig, fit

RESULTS = Path(__file__).parent / "results" / "ranking_modes.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "ranking-modes.svg"
MODES: dict[str, dict[str, Any]] = {
    "frozen": {"train_behaviours": "frozen"},
    "adapter": {"train_behaviours": "adapter"},
    "lora": {"train_behaviours": "lora"},
    "lora_cache": {"train_behaviours": "lora_cache"},
    "full": {"train": "full", "train_behaviours": "full", "recompute": True, "chunk_items": 1024},
}
"""Of behaviours; candidates train the Q-Former, or with `full` the encoder too."""
HISTORIES = (20, 50, 100, 200, 500)
STEPS, STEPS_OF_FULL = 20, 4
ESTIMATE, TRAINING = "estimate", "training"
EVERY_S = 0.01
"""Seconds between two looks at memory."""


def encoder_of(catalogue: Catalogue, out: Path) -> Artifact:
    """Write an encoder of titles as it is by default, with weights as drawn: they cost the same."""
    titles = [title or "" for title in catalogue.titles]
    tokenizer = TextTokenizer.fit(titles, config=TokenizerConfig(vocab_size=1_000, min_count=1))
    config = config_class(MODELS, "two_tower").parse({"kind": "two_tower", "modalities": "title"})
    assert isinstance(config, EncoderConfig)
    encoder = config.build(vocab_size=tokenizer.vocab_size, models=NO_MODELS)

    def write(folder: Path) -> dict[str, Any]:
        Embedder(encoder, tokenizer=tokenizer, device="cpu").save(folder)
        return {}

    return produce(out, kind="encoder", config={}, inputs={}, build=write)


def measured(
    catalogue: Catalogue, split: Split, *, batch: int, histories: Sequence[int], folder: Path, smoke: bool
) -> Iterator[dict[str, Any]]:
    """Estimate and train each mode with each length, each in processes of its own.

    Args:
        catalogue: whose users have histories as long as the longest.
        split: its training part is learned.
        batch: samples of a batch.
        histories: lengths.
        folder: for what is made on the way.
        smoke: whether two steps are enough.
    """
    encoder = encoder_of(catalogue, folder / "encoder")
    for mode in MODES:
        for length in histories:
            asked = {
                "catalogue": str(catalogue.artifact.path),
                "split": str(split.artifact.path),
                "encoder": str(encoder.path),
                "mode": mode,
                "history": length,
                "batch": batch,
                "steps": 2 if smoke else STEPS_OF_FULL if mode == "full" else STEPS,
                "threads": torch.get_num_threads(),
            }
            yield {
                "mode": mode,
                "history": length,
                "steps": asked["steps"],
                **{part: _in_a_process({**asked, "part": part}) for part in (TRAINING, ESTIMATE)},
            }


def _in_a_process(asked: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, json.dumps(asked)], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"{asked['mode']}, {asked['history']}: its process ended with exit status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def cell(asked: dict[str, Any]) -> dict[str, Any]:
    """Do one part of a cell, in this process."""
    torch.set_num_threads(asked["threads"])
    catalogue, split = (Artifact.open(asked[name]) for name in ("catalogue", "split"))
    tree = {
        "model": {"kind": "din", "history_items": asked["history"]},
        "content": {"kind": "em3", **MODES[asked["mode"]]},
        "batch_samples": asked["batch"],
        "validation_samples": 1_000,
        "headline": "auc",
        "device": "cpu",
    }
    config = RankTrainConfig.parse(tree)
    task = RankTask(config, _given(Catalogue.open(catalogue), Split.open(split), config=config, asked=asked))
    whole, steps = config.loop(batches_per_epoch=task.batches_per_epoch), asked["steps"]
    loop = LoopConfig.parse({**whole.dump(), "steps": steps, "warmup_steps": 0, "validate_every": steps})
    if asked["part"] == ESTIMATE:
        expected = estimate(task, config=loop, seed=0, short_s=0.0)
        assert expected is not None, "none is too short"
        return {
            "samples_per_s": round(expected.samples_per_s, 1),
            "peak_rss_mib": _mib(expected.peak_memory_bytes),
            "activations_mib": _mib(expected.activation_bytes),
            "items_per_batch": round(expected.items_per_batch),
            "content_rate": None if expected.content_rate is None else round(expected.content_rate, 3),
        }
    with tempfile.TemporaryDirectory() as folder, watched() as most:
        before = anonymous_bytes()
        result = fit(task, config=loop, out=Path(folder), seed=0)
    return {
        "samples_per_s": round(result.samples_per_s, 1),
        "peak_rss_mib": _mib(result.peak_memory_bytes),
        "peak_anonymous_mib": _mib(max(most)),
        "before_mib": _mib(before),
        "auc": round(result.metrics["auc"], 4),
    }


def _given(catalogue: Catalogue, split: Split, *, config: RankTrainConfig, asked: dict[str, Any]) -> Given:
    if config.content.trains_encoder:
        return Given(catalogue, split, 0, encoder=EncoderStart(Artifact.open(asked["encoder"]), [View.ITEM]))
    dim = Embedder.open(asked["encoder"], device="cpu").vector_dim
    vectors = np.random.default_rng(0).normal(size=(catalogue.num_items, dim)).astype(np.float16)
    return Given(catalogue, split, 0, modalities={View.ITEM.value: vectors})


def anonymous_bytes() -> int:
    """Return what this process holds that is of no file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


@contextmanager
def watched() -> Iterator[list[int]]:
    """Look at that again and again; the most stands in the list afterwards."""
    most, done = [anonymous_bytes()], threading.Event()

    def look() -> None:
        while not done.wait(EVERY_S):
            most[0] = max(most[0], anonymous_bytes())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


def draw(rows: Sequence[dict[str, Any]], place: Path) -> None:
    """Draw memory, speed, and how far either is from what was expected, against the length of histories."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    colours = dict(zip(MODES, ("#7a7a7a", "#0f766e", "#c2410c", "#1d4ed8", "#a21caf"), strict=True))
    panels = (
        ("Memory", "RssAnon at most, MiB", lambda row: row[TRAINING]["peak_anonymous_mib"]),
        ("Speed", "samples a second", lambda row: row[TRAINING]["samples_per_s"]),
        ("Distinct items", "of a batch", lambda row: row[ESTIMATE]["items_per_batch"]),
        (
            "Memory expected",
            "RSS: expected / found",
            lambda row: row[ESTIMATE]["peak_rss_mib"] / row[TRAINING]["peak_rss_mib"],
        ),
    )
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "ranking modes"}):
        figure = Figure(figsize=(3.0 * len(panels), 3.1), layout="constrained")
        for number, (axes, (title, unit, value)) in enumerate(
            zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)
        ):
            axes.spines[["top", "right"]].set_visible(False)
            for mode, colour in colours.items():
                own = [row for row in rows if row["mode"] == mode]
                at = [str(row["history"]) for row in own]
                axes.plot(at, [value(row) for row in own], marker="o", markersize=4, label=mode, color=colour)
            if number == len(panels) - 1:
                axes.axhline(1, color="#999999", linewidth=1, zorder=0)
            else:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
            axes.set(title=title, xlabel="choices of a history", ylabel=unit)
            axes.title.set(fontweight="bold", fontsize=10)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(MODES), frameon=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(place, metadata={"Date": None})


def _mib(count: int) -> float:
    return round(count / 2**20, 1)


def main() -> None:
    """Do a part of a cell that `measured` asks for, or draw again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("asked", nargs="?", help="one part of a cell, as JSON")
    parser.add_argument("--draw", action="store_true")
    chosen = parser.parse_args()
    if chosen.draw:
        draw(json.loads(RESULTS.read_text())["cells"], PICTURE)
    elif chosen.asked is None:
        parser.error("python benchmarks/ranking.py --only modes measures; --draw draws again")
    else:
        print(json.dumps(cell(json.loads(chosen.asked))))


if __name__ == "__main__":
    main()
