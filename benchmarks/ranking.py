"""Ranker training beside a released FuxiCTR, and answers by torch beside those of an exported ranker.

    python benchmarks/ranking.py --theirs PYTHON [--out benchmarks/results/ranking.json]
    python benchmarks/ranking.py --theirs PYTHON --smoke      tiny sizes: does it all still run?
    python benchmarks/ranking.py --only export                writes benchmarks/results/ranking_export.json
    python benchmarks/ranking.py --only modes                 writes benchmarks/results/ranking_modes.json and a picture

Training: DIN on the same samples, features, sizes and batches.

PYTHON is the interpreter of an environment of its own with FuxiCTR in it (`python -m pip install fuxictr`); left out,
we are measured alone. Their released package has the layers of DIN and the training loop; the model is put together of
them as it is published (`ranking_fuxictr.py`).

The log is planted: each user likes a few categories, which his history shows, and takes what is of them. Both sides
read item, category, user, hour, weekday, and the items and categories of the latest choices, a vector of 16 numbers
each; ours also when and how each was chosen. Attention and MLP have the same layers. Ours learns vectors by the rows of
a batch (row-wise Adagrad), theirs all of them in every step (Adam), each as it comes. AUC is that of the validation
part. Beside the figures stands whether what is claimed holds, of medians: at least twice their samples/s, AUC within
0.001.

Export: one request scores 500 candidates, others in every call, for a user with a long history; by torch and by ONNX
Runtime, with one thread and with two. Torch works content out anew in each call, as `Ranker` does; the graph is given
it. ``gather`` is what looking features up takes before either; the largest difference of two scores stands beside the
times. Weights are as drawn: they cost the same.

Modes: memory and speed of EM3's modes against the length of histories, beside what was expected (`ranking_modes.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import ranking_modes as modes
import torch
from machine import machine
from numpy.typing import NDArray

from triptych.data import catalogue as catalogues
from triptych.data import splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.events import KIND_CODES
from triptych.data.schema import EventsConfig, ItemsConfig, Part
from triptych.data.splits import Split, SplitBy, SplitConfig
from triptych.data.tables import read_events, read_items
from triptych.foundation.artifact import produce
from triptych.metrics.classification import auc
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.export import export_ranker
from triptych.ranker.exported import ExportedRanker
from triptych.ranker.features import Asking, Past
from triptych.ranker.inputs import Candidates
from triptych.ranker.samples import Samples, read_samples
from triptych.ranker.scorer import KIND, Ranker, score_samples
from triptych.ranker.task import Given, RankTask
from triptych.training.loop import fit

START_US = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp() * 1e6)
MINUTE_US = 60_000_000


@dataclass(frozen=True)
class Size:
    """The log and the model."""

    users: int = 10_000
    items: int = 50_000
    categories: int = 500
    liked: int = 3
    before: int = 30
    """Choices of each user before the first page."""
    pages: int = 8
    shown: int = 5
    dim: int = 16
    history: int = 50
    attention: tuple[int, ...] = (64, 16)
    hidden: tuple[int, ...] = (256, 128)
    batch: int = 1_024
    epochs: int = 1
    candidates: int = 500
    steps: int = 500
    """Choices before the request; each model reads its latest ones."""
    calls: int = 400
    """Timed answers of each ranker, after a tenth as many that are not."""


TRAINING, EXPORT, MODES = "training", "export", "modes"
ANSWERING: dict[str, dict[str, Any]] = {
    "din": {"model": {"kind": "din"}},
    "din, frozen": {"model": {"kind": "din"}, "content": {"kind": "frozen"}},
    "din, simtier": {"model": {"kind": "din"}, "content": {"kind": "simtier"}},
    "din, em3": {"model": {"kind": "din"}, "content": {"kind": "em3"}},
    "sim": {"model": {"kind": "sim"}},
    "bst": {"model": {"kind": "bst", "history_items": 50}},
    "dcnv2": {"model": {"kind": "dcnv2"}},
    "mlp": {"model": {"kind": "mlp"}},
}
"""Rankers that answer, their sizes as they are by default."""
LEAST_RATIO, MOST_APART = 2.0, 0.001
"""What is claimed of training: samples/s over theirs, and AUC's difference either way."""
MODALITY_DIMS = {"photo": 128, "title": 128}

SMALL = Size(
    users=300, items=500, categories=20, pages=4, before=10, history=10, batch=256, candidates=50, steps=60, calls=5
)


OF_MODES = Size(users=1_000, items=20_000, liked=10, before=520, batch=256)
"""Histories as long as the longest curve's, of many items."""
SMALL_OF_MODES = replace(SMALL, users=60, before=20, batch=64)


def log_of(size: Size, folder: Path, *, seed: int) -> tuple[Catalogue, Split]:
    """Draw the log, and make a catalogue and a split of it."""
    rng = np.random.default_rng(seed)
    category = np.arange(size.items) % size.categories
    by_category = np.argsort(category, kind="stable").reshape(size.categories, -1)
    liked = rng.integers(size.categories, size=(size.users, size.liked))
    user = np.arange(size.users)
    begins = rng.integers(7 * 24 * 60, size=size.users)[:, None]

    def of_liked(count: int) -> NDArray[np.int64]:
        kinds = liked[user[:, None], rng.integers(size.liked, size=(size.users, count))]
        return by_category[kinds, rng.integers(by_category.shape[1], size=kinds.shape)]

    shown = size.pages * size.shown
    drawn = np.where(
        rng.random((size.users, shown)) < 0.5, of_liked(shown), rng.integers(size.items, size=(size.users, shown))
    )
    fits = (category[drawn][:, :, None] == liked[:, None, :]).any(axis=2)
    takes = rng.random(drawn.shape) < np.where(fits, 0.5, 0.08)
    page = np.arange(size.users * size.pages).reshape(size.users, size.pages).repeat(size.shown, axis=1)
    at = begins + max(60, size.before) + 30 * (np.arange(shown) // size.shown)[None, :]
    table = pl.concat(
        [
            _events(user, of_liked(size.before), begins + np.arange(size.before), "click"),
            _events(user, drawn, np.broadcast_to(at, drawn.shape), "impression", page),
            _events(user, drawn, at + 1 + 0 * drawn, "click", page).filter(pl.Series(takes.ravel())),
        ]
    )
    items = {"item_id": [f"i{row}" for row in range(size.items)], "category": [f"c{one}" for one in category]}
    pl.DataFrame(items).with_columns(title=pl.col("item_id")).write_parquet(folder / "items.parquet")
    table.write_parquet(folder / "events.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet"), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        None,
    )
    made = catalogues.build(CatalogueConfig(photo_px=16), tables=checked, inputs={}, out=folder / "catalogue")
    opened = Catalogue.open(made)
    cut = SplitConfig(by=SplitBy.FRACTION)
    return opened, Split.open(splits.build(cut, catalogue=opened, out=folder / "split"))


def _events(
    user: NDArray[Any], item: NDArray[Any], minute: NDArray[Any], kind: str, page: NDArray[Any] | None = None
) -> pl.DataFrame:
    """Write events ``[users, each]`` as rows."""
    users = np.broadcast_to(user[:, None], item.shape).ravel()
    return pl.DataFrame(
        {
            "user": pl.Series(users).cast(pl.String),
            "item_id": "i" + pl.Series(item.ravel()).cast(pl.String),
            "time": pl.Series(START_US + minute.ravel() * MINUTE_US).cast(pl.Datetime("us", "UTC")),
            "kind": pl.Series([kind]).new_from_index(0, item.size),
            "page": pl.Series([None] * item.size if page is None else page.ravel()).cast(pl.String),
        }
    )


def config_of(size: Size) -> RankTrainConfig:
    """Return our side's config."""
    return RankTrainConfig.parse(
        {
            "model": {
                "kind": "din",
                "dim": size.dim,
                "history_items": size.history,
                "attention_dims": list(size.attention),
                "hidden_dims": list(size.hidden),
                "activation": "relu",
            },
            "batch_samples": size.batch,
            "epochs": size.epochs,
            "id_dropout_rate": 0.0,
            "validations": 1,
            "validation_samples": 1_000_000,
            "headline": "auc",
            "precision": "fp32",
            "device": "cpu",
        }
    )


def ours(size: Size, given: Given, *, folder: Path) -> dict[str, Any]:
    """Train with our loop."""
    config = config_of(size)
    task = RankTask(config, given)
    folder.mkdir()
    result = fit(task, config=config.loop(batches_per_epoch=task.batches_per_epoch), out=folder, seed=given.seed)
    samples = read_samples(given.catalogue, places=given.split.part(Part.VALIDATION))
    scores = score_samples(task.module, task.features, samples)
    return {"samples_per_s": round(result.samples_per_s), "auc": round(float(auc(samples.label, scores)), 4)}


def exported(size: Size, given: Given, *, folder: Path) -> dict[str, int]:
    """Write what our side reads of training and validation, in rows of tables; returns rows of each table."""
    task = RankTask(config_of(size), given)
    validation = read_samples(given.catalogue, places=given.split.part(Part.VALIDATION))
    for name, samples in (("train", task.train), ("validation", validation)):
        np.savez(folder / f"{name}.npz", **_columns(task, samples, longest=size.history))
    sizes = task.features.sizes
    return {**sizes.item_fields, **sizes.request_fields}


def _columns(task: RankTask, samples: Samples, *, longest: int) -> dict[str, NDArray[Any]]:
    """Gather samples in blocks: a column, or ``[samples, longest]``, for each feature."""
    found: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, len(samples.label), 65_536):
        some = slice(start, start + 65_536)
        places, request = np.unique(samples.request[some], return_inverse=True)
        asking = task.features.of_log(samples.requests.at(places))
        given = task.features.candidates(asking, request=request, item_rows=samples.item_row[some])
        fields, steps = given.items.fields.numpy(), given.requests.steps.numpy()[given.request.numpy()]
        steps = np.pad(steps, ((0, 0), (0, longest - steps.shape[1])), constant_values=-1)
        columns = dict(zip(task.features.sizes.item_fields, fields[given.target.numpy()].T, strict=True))
        for place, name in enumerate(task.features.sizes.item_fields):
            columns[f"{name}_history"] = np.where(steps >= 0, 1 + fields[steps, place], 0)  # 0 is their padding
        asked = given.requests.fields.numpy()[given.request.numpy()]
        columns |= dict(zip(task.features.sizes.request_fields, asked.T, strict=True))
        columns["label"] = samples.label[some].astype(np.int64)
        for name, values in columns.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def theirs(size: Size, rows: dict[str, int], *, python: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Train with FuxiCTR in its environment."""
    asked = {"size": asdict(size), "rows": rows, "folder": str(folder), "threads": threads}
    script = Path(__file__).with_name("ranking_fuxictr.py")
    done = subprocess.run([str(python), str(script), json.dumps(asked)], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"their side ended with exit status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def answers(size: Size, given: Given, *, folder: Path) -> dict[str, Any]:
    """Time torch and ONNX Runtime on the same candidates."""
    rng = np.random.default_rng(1)
    count = given.catalogue.num_items
    vectors = {name: rng.normal(size=(count, dim)).astype(np.float32) for name, dim in MODALITY_DIMS.items()}
    minutes = np.arange(size.steps, dtype=np.int64) * MINUTE_US
    click = np.full(size.steps, KIND_CODES["click"])
    past = Past(rng.integers(count, size=size.steps), START_US + minutes, click)
    drawn = [rng.choice(count, size.candidates, replace=False) for _ in range(size.calls + size.calls // 10)]
    found: dict[str, Any] = {}
    for name, tree in ANSWERING.items():
        config = RankTrainConfig.parse(tree)
        modalities = vectors if config.content.reads_modalities else None
        task = RankTask(config, replace(given, modalities=modalities))
        artifact = produce(
            folder / KIND, kind=KIND, config=tree, inputs={}, build=lambda place, task=task: task.save(place) or {}
        )
        ranker = Ranker.load(artifact, catalogue=given.catalogue, modalities=modalities)
        started = time.perf_counter()
        exported = export_ranker(ranker, artifact=artifact, catalogue=given.catalogue, out=folder / "exported")
        found[name] = {"export_s": round(time.perf_counter() - started, 1)}
        asking = ranker.features.of_words(user="0", query=None, cell=None, time_us=int(past.time_us[-1]) + 1, past=past)

        gather = partial(_gathered, ranker, asking)
        asked = [gather(rows) for rows in drawn]
        found[name]["gather"] = _percentiles(gather, drawn)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            graph = ExportedRanker.load(exported, catalogue=given.catalogue, threads=threads)
            by_torch: Callable[[Candidates], NDArray[np.float32]] = torch.no_grad()(
                lambda one, model=ranker.model: model(one).logits.numpy()
            )
            found[name][f"{threads} threads"] = {
                "torch": _percentiles(by_torch, asked),
                "onnxruntime": _percentiles(graph.score_candidates, asked),
                "largest_difference": max(
                    float(np.abs(by_torch(one) - graph.score_candidates(one)).max()) for one in asked[:20]
                ),
            }
        print(json.dumps({name: found[name]}), flush=True)
    return found


def _gathered(ranker: Ranker, asking: Asking, rows: NDArray[Any]) -> Candidates:
    return ranker.features.candidates(asking, request=np.zeros(len(rows), dtype=np.int64), item_rows=rows)


def _percentiles(answer: Callable[[Any], Any], asked: Sequence[Any]) -> dict[str, float]:
    """Time one call after another; the first of them are not counted."""
    took = []
    for one in asked:
        started = time.perf_counter()
        answer(one)
        took.append(1000 * (time.perf_counter() - started))
    counted = took[len(took) // 11 :]
    return {f"p{q}_ms": round(float(np.percentile(counted, q)), 3) for q in (50, 99)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, help="interpreter of an environment with FuxiCTR")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=(TRAINING, EXPORT, MODES), help="one part alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ranking.json")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.only != MODES:
        _beside_others(chosen)
    if chosen.only in (None, MODES):
        _modes(chosen)


def _beside_others(chosen: argparse.Namespace) -> None:
    """Train beside FuxiCTR, and answer beside ONNX Runtime, over one log."""
    size = SMALL if chosen.smoke else Size()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        catalogue, split = log_of(size, place, seed=0)
        given = Given(catalogue, split, seed=0)
        about = {"machine": machine(), "smoke": chosen.smoke, "size": asdict(size)}
        if chosen.only != EXPORT:
            content = about | trained(size, given, chosen=chosen, folder=place)
            _write(content, chosen.out, smoke=chosen.smoke)
        if chosen.only != TRAINING:
            content = about | {"answers": answers(size, given, folder=place)}
            _write(content, chosen.out.with_stem(f"{chosen.out.stem}_export"), smoke=chosen.smoke)


def _modes(chosen: argparse.Namespace) -> None:
    """Measure modes over a log of their own."""
    size = SMALL_OF_MODES if chosen.smoke else OF_MODES
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        catalogue, split = log_of(size, place, seed=0)
        cells = []
        for one in modes.measured(
            catalogue,
            split,
            batch=size.batch,
            histories=(10,) if chosen.smoke else modes.HISTORIES,
            folder=place,
            smoke=chosen.smoke,
        ):
            print(json.dumps(one), flush=True)
            cells.append(one)
        modes.draw(cells, place / "modes.svg" if chosen.smoke else modes.PICTURE)
    content = {"machine": machine(), "smoke": chosen.smoke, "size": asdict(size), "cells": cells}
    _write(content, chosen.out.with_stem(f"{chosen.out.stem}_modes"), smoke=chosen.smoke)


def trained(size: Size, given: Given, *, chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train with both, in turn."""
    rows = exported(size, given, folder=folder)
    rounds: dict[str, list[dict[str, Any]]] = {}
    for number in range(1 if chosen.smoke else chosen.rounds):
        rounds.setdefault("triptych", []).append(ours(size, given, folder=folder / f"round {number}"))
        if chosen.theirs is not None:
            found = theirs(size, rows, python=chosen.theirs, folder=folder, threads=chosen.threads)
            rounds.setdefault("fuxictr", []).append(found)
        print(json.dumps({name: one[-1] for name, one in rounds.items()}), flush=True)
    rates = {name: median(one["samples_per_s"] for one in own) for name, own in rounds.items()}
    content: dict[str, Any] = {"tables": rows, "rounds": rounds}
    if "fuxictr" in rates:
        ratio = rates["triptych"] / rates["fuxictr"]
        aucs = {name: median(one["auc"] for one in own) for name, own in rounds.items()}
        apart = abs(aucs["triptych"] - aucs["fuxictr"])
        content["to_fuxictr"] = round(ratio, 2)
        content["auc_difference"] = round(apart, 4)
        content["claims"] = {
            f"at least {LEAST_RATIO:g} times their samples/s": _yes(ratio >= LEAST_RATIO),
            f"AUC within {MOST_APART:g}": _yes(apart <= MOST_APART + 1e-9),  # both are rounded
        }
    return content


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _write(content: dict[str, Any], out: Path, *, smoke: bool) -> None:
    print(json.dumps(content, indent=1))
    if not smoke:
        out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
