"""How fast, and in how much memory, an event log becomes a catalogue with histories and a split.

    python benchmarks/ingest.py [--out benchmarks/results/ingest.json] [--events 20000000] [--items 1000000]

A generated log without photos: user, query, item, time, kind, page and position as people export them, items and users
drawn by a power law; as Parquet with text ids, as Parquet with integers for ids, and as CSV. A child process then
estimates the memory, checks the tables, writes the catalogue (numbered events, histories) and the split; it is measured
from its first line to its last, imports left out.

Beside it stands the floor: polars reading the same columns of the same files into memory, and nothing else. Both run
`--rounds` times in turn, and medians kept. `cpu_seconds` is processor time, which other work on the machine disturbs
less.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from machine import machine

DAYS = 30
START = datetime(2024, 5, 1, tzinfo=UTC)
WORDS = "red green blue black white long short cotton steel wooden small large dress shirt lamp bowl chair bag".split()
CHUNK = 2_000_000
CASES = [("parquet", "text"), ("parquet", "integer"), ("csv", "text")]
READ = {".parquet": pl.read_parquet, ".csv": pl.read_csv}
WRITE = {"parquet": pl.DataFrame.write_parquet, "csv": pl.DataFrame.write_csv}


def write_tables(folder: Path, *, num_events: int, num_items: int, form: str = "parquet", ids: str = "text") -> None:
    """Draw items and a log, the log sorted by time as logs are, and written in pieces."""
    rng = np.random.default_rng(0)
    words = np.array(WORDS)
    titles = [" ".join(row) for row in words[rng.integers(0, len(words), size=(num_items, 5))]]
    items = pl.DataFrame({"row": range(num_items), "title": titles}).select(
        _item_id(pl.col("row"), ids=ids).alias("item_id"), "title"
    )
    items = items.with_columns(category=pl.Series(words[rng.integers(0, len(words), num_items)]))
    WRITE[form](items, folder / f"items.{form}")
    num_users, num_queries = max(10, num_events // 40), max(10, num_events // 100)
    queries = [" ".join(row) for row in words[rng.integers(0, len(words), size=(num_queries, 3))]]
    queries = pl.Series([f"{query} {row % 997}" for row, query in enumerate(queries)])
    parts = folder / "events"
    parts.mkdir()
    for number, first in enumerate(range(0, num_events, CHUNK)):
        count = min(CHUNK, num_events - first)

        def drawn(size: int, *, count: int = count) -> pl.Series:
            return pl.Series((size * rng.random(count) ** 2.5).astype(np.int64))

        row = pl.Series(np.arange(first, first + count))
        log = pl.DataFrame(
            {"user": drawn(num_users), "item": drawn(num_items), "query": queries.gather(drawn(num_queries))}
        ).select(
            user=pl.format("u{}", pl.col("user")) if ids == "text" else pl.col("user"),
            query="query",
            item_id=_item_id(pl.col("item"), ids=ids),
            time=(pl.lit(START) + pl.duration(milliseconds=(row * (DAYS * 86_400_000 / num_events)).cast(pl.Int64))),
            kind=pl.Series(np.where(rng.random(count) < 0.2, "click", "impression")),
            page=pl.format("p{}", row // 10) if ids == "text" else row // 10,
            position=(row % 10).cast(pl.Int32),
        )
        WRITE[form](log, parts / f"part-{number:03d}.{form}")


def _item_id(number: pl.Expr, *, ids: str) -> pl.Expr:
    return pl.format("item-{}", number.cast(pl.String).str.zfill(8)) if ids == "text" else number


def ingest(folder: Path) -> dict[str, Any]:
    """Estimate the memory, check, write the catalogue and the split; return seconds and peak memory."""
    from triptych.data import catalogue, splits
    from triptych.data.catalogue import Catalogue, CatalogueConfig
    from triptych.data.memory import estimate_peak
    from triptych.data.schema import Table
    from triptych.data.splits import SplitConfig
    from triptych.foundation.machine import most_held_bytes
    from triptych.recipes.config import RunConfig
    from triptych.recipes.tables import read_and_check

    before = most_held_bytes() / 2**30
    items = next(folder.glob("items.*"))
    config = RunConfig.parse({"items": {"path": items.name}, "events": {"path": "events"}})
    told, _ = estimate_peak({Table.ITEMS: config.items, Table.EVENTS: config.events}, base=folder)
    cpu_started = time.process_time()
    marks = [time.perf_counter()]
    tables = read_and_check(config, base=folder)
    marks.append(time.perf_counter())
    made = catalogue.build(CatalogueConfig(), tables=tables, inputs={}, out=folder / "catalogue")
    marks.append(time.perf_counter())
    del tables
    split = splits.build(SplitConfig(), catalogue=Catalogue.open(made), out=folder / "split")
    marks.append(time.perf_counter())
    return {
        "seconds": dict(zip(("check", "catalogue", "split"), np.round(np.diff(marks), 2).tolist(), strict=True)),
        "cpu_seconds": round(time.process_time() - cpu_started, 2),
        "peak_gib": round(most_held_bytes() / 2**30, 2),
        "estimated_gib": round(told / 2**30, 2),
        "imports_gib": round(before, 2),
        "summary": {**made.summary, **split.summary},
    }


def floor(folder: Path) -> dict[str, float]:
    """Return the seconds polars takes to read the log's columns into memory, file by file."""
    started, cpu_started = time.perf_counter(), time.process_time()
    for part in sorted((folder / "events").iterdir()):
        READ[part.suffix](part)
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}


def child(command: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, __file__, "--child", command, str(folder)], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ingest.json")
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        command, folder = options.child
        print(json.dumps({"ingest": ingest, "floor": floor}[command](Path(folder))))
        return
    result = {
        "benchmark": "ingest",
        "machine": machine(),
        "events": options.events,
        "items": options.items,
        "rounds": options.rounds,
        "cases": [measure(form, ids, options=options) for form, ids in CASES],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(form: str, ids: str, *, options: argparse.Namespace) -> dict[str, Any]:
    """Write the tables of one case, and ingest them as often as wanted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, num_events=options.events, num_items=options.items, form=form, ids=ids)
        floors, runs = [], []
        for _ in range(options.rounds):
            floors.append(child("floor", folder))
            runs.append(child("ingest", folder))
            for made in ("catalogue", "split"):
                shutil.rmtree(folder / made)
    stages = {stage: median(run["seconds"][stage] for run in runs) for stage in runs[0]["seconds"]}
    seconds, floor_s = median(sum(run["seconds"].values()) for run in runs), median(one["seconds"] for one in floors)
    cpu_s, floor_cpu_s = median(run["cpu_seconds"] for run in runs), median(one["cpu_seconds"] for one in floors)
    found = {
        "form": form,
        "ids": ids,
        "seconds": seconds,
        "stages_s": stages,
        "events_per_s": round(options.events / seconds),
        "floor_s": floor_s,
        "to_floor": round(seconds / floor_s, 2),
        "cpu_seconds": cpu_s,
        "floor_cpu_seconds": floor_cpu_s,
        "cpu_to_floor": round(cpu_s / floor_cpu_s, 2),
        "peak_gib": max(run["peak_gib"] for run in runs),
        "estimated_gib": runs[0]["estimated_gib"],
        "imports_gib": runs[0]["imports_gib"],
        "summary": runs[0]["summary"],
    }
    print(
        f"{form}, {ids} ids: {options.events:,} events, {options.items:,} items: {seconds:.1f} s "
        f"({found['events_per_s']:,} events/s, {found['to_floor']:.1f} x the time of reading alone), "
        f"peak {found['peak_gib']:.2f} GiB (estimated {found['estimated_gib']:.2f})",
        flush=True,
    )
    return found


def median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


if __name__ == "__main__":
    main()
