"""Ranker training beside a released FuxiCTR: DIN on the same samples, features, sizes and batches.

    python benchmarks/ranking.py --theirs PYTHON [--out benchmarks/results/ranking.json]
    python benchmarks/ranking.py --theirs PYTHON --smoke      tiny sizes: does it all still run?

PYTHON is the interpreter of an environment of its own with FuxiCTR in it (`python -m pip install fuxictr`); left out,
we are measured alone. Their released package has the layers of DIN and the training loop; the model is put together of
them as it is published (`ranking_fuxictr.py`).

The log is planted: each user likes a few categories, which his history shows, and takes what is of them. Both sides
read item, category, user, hour, weekday, and the items and categories of the latest choices, a vector of 16 numbers
each; ours also when and how each was chosen. Attention and MLP have the same layers. Ours learns vectors by the rows of
a batch (row-wise Adagrad), theirs all of them in every step (Adam), each as it comes. AUC is that of the validation
part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import torch
from machine import machine
from numpy.typing import NDArray

from triptych.data import catalogue as catalogues
from triptych.data import splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig, Part
from triptych.data.splits import Split, SplitBy, SplitConfig
from triptych.data.tables import read_events, read_items
from triptych.metrics.classification import auc
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.samples import Samples, read_samples
from triptych.ranker.scorer import score_samples
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


SMALL = Size(users=300, items=500, categories=20, pages=4, before=10, history=10, batch=256)


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
    at = begins + 60 + 30 * (np.arange(shown) // size.shown)[None, :]
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


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, help="interpreter of an environment with FuxiCTR")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ranking.json")
    chosen = parser.parse_args()
    size = SMALL if chosen.smoke else Size()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        catalogue, split = log_of(size, place, seed=0)
        given = Given(catalogue, split, seed=0)
        rows = exported(size, given, folder=place)
        rounds: dict[str, list[dict[str, Any]]] = {}
        for number in range(1 if chosen.smoke else chosen.rounds):
            rounds.setdefault("triptych", []).append(ours(size, given, folder=place / f"round {number}"))
            if chosen.theirs is not None:
                found = theirs(size, rows, python=chosen.theirs, folder=place, threads=chosen.threads)
                rounds.setdefault("fuxictr", []).append(found)
            print(json.dumps({name: one[-1] for name, one in rounds.items()}), flush=True)
    rates = {name: median(one["samples_per_s"] for one in own) for name, own in rounds.items()}
    content = {"machine": machine(), "smoke": chosen.smoke, "size": asdict(size), "tables": rows, "rounds": rounds}
    if "fuxictr" in rates:
        content["to_fuxictr"] = round(rates["triptych"] / rates["fuxictr"], 2)
    print(json.dumps(content, indent=1))
    if not chosen.smoke:
        chosen.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
