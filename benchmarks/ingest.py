"""How fast, and in how much memory, an event log becomes a catalogue with histories and a split.

    python benchmarks/ingest.py [--out benchmarks/results/ingest.json] [--events 20000000] [--items 1000000]

A generated log without photos: user, query, item, time, kind, page and position as people export them (text ids, text
queries), items and users drawn by a power law, written as Parquet. A child process then checks the tables, writes the
catalogue (numbered events, histories) and the split; it is measured from its first line to its last, imports left out.

Beside it stands the floor: polars reading the same columns of the same file, and nothing else, in the same run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
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


def write_tables(folder: Path, *, num_events: int, num_items: int) -> None:
    """Draw items and a log, the log sorted by time as logs are, and written in pieces."""
    rng = np.random.default_rng(0)
    words = np.array(WORDS)
    titles = [" ".join(row) for row in words[rng.integers(0, len(words), size=(num_items, 5))]]
    items = pl.DataFrame({"item_id": [f"item-{row:08d}" for row in range(num_items)], "title": titles})
    items.with_columns(category=pl.Series(words[rng.integers(0, len(words), num_items)])).write_parquet(
        folder / "items.parquet"
    )
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
        pl.DataFrame(
            {"user": drawn(num_users), "item": drawn(num_items), "query": queries.gather(drawn(num_queries))}
        ).select(
            user=pl.format("u{}", pl.col("user")),
            query="query",
            item_id=pl.format("item-{}", pl.col("item").cast(pl.String).str.zfill(8)),
            time=(pl.lit(START) + pl.duration(milliseconds=(row * (DAYS * 86_400_000 / num_events)).cast(pl.Int64))),
            kind=pl.Series(np.where(rng.random(count) < 0.2, "click", "impression")),
            page=pl.format("p{}", row // 10),
            position=(row % 10).cast(pl.Int32),
        ).write_parquet(parts / f"part-{number:03d}.parquet")


def ingest(folder: Path) -> dict[str, Any]:
    """Check, write the catalogue and the split; return seconds and peak memory."""
    from triptych.data import catalogue, splits
    from triptych.data.catalogue import Catalogue, CatalogueConfig
    from triptych.data.splits import SplitConfig
    from triptych.recipes.config import RunConfig
    from triptych.recipes.tables import read_and_check

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = RunConfig.parse({"items": {"path": "items.parquet"}, "events": {"path": "events"}})
    marks = [time.perf_counter()]
    tables = read_and_check(config, base=folder)
    marks.append(time.perf_counter())
    made = catalogue.build(CatalogueConfig(), tables=tables, inputs={}, out=folder / "catalogue")
    marks.append(time.perf_counter())
    del tables
    split = splits.build(SplitConfig(), catalogue=Catalogue.open(made), out=folder / "split")
    marks.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": dict(zip(("check", "catalogue", "split"), np.round(np.diff(marks), 2).tolist(), strict=True)),
        "peak_gib": round(peak / 2**20, 2),
        "imports_gib": round(before / 2**20, 2),
        "summary": {**made.summary, **split.summary},
    }


def floor(folder: Path) -> float:
    """Return the seconds polars takes to read the log's columns into memory, piece by piece."""
    started = time.perf_counter()
    for part in sorted((folder / "events").glob("*.parquet")):
        pl.read_parquet(part)
    return time.perf_counter() - started


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
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        command, folder = options.child
        print(json.dumps({"ingest": ingest, "floor": floor}[command](Path(folder))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, num_events=options.events, num_items=options.items)
        floor_s = child("floor", folder)
        found = child("ingest", folder)
    seconds = sum(found["seconds"].values())
    result = {
        "benchmark": "ingest",
        "machine": machine(),
        "events": options.events,
        "items": options.items,
        **found,
        "events_per_s": round(options.events / seconds),
        "floor_s": round(floor_s, 2),
        "to_floor": round(seconds / floor_s, 2),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{options.events:,} events, {options.items:,} items: {seconds:.1f} s ({result['events_per_s']:,} events/s, "
        f"{result['to_floor']:.1f} x the time of reading alone), peak {found['peak_gib']:.2f} GiB"
    )


if __name__ == "__main__":
    main()
