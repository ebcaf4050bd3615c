"""Your own tables: a run's tables under a stranger's names, as `items.csv`, `clicks.jsonl` and a folder of photos.

It plays the shop that meets Triptych for the first time: other column names, other words for what happened, renamed
photos, and a `shop.toml` that maps them. A run of it gives the metrics of the run it was exported from.

    python examples/own_tables.py runs/fashion ../my-shop
    cd ../my-shop && triptych check shop.toml && triptych run shop.toml --out runs/shop
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import polars as pl

CONFIG = """\
recipe = "shop"
{extra}
[items]
path = "items.csv"
id = "sku"
title = "name"
photo = "img_file"
photo_root = "pictures"
category = "dept"
[events]
path = "clicks.jsonl"
item = "sku"
query = "q"
kind = "action"
[judgements]
path = "grades.csv"
"""
ITEM_NAMES = {"item_id": "sku", "title": "name", "photo": "img_file", "category": "dept", "price": "cost"}
EVENT_NAMES = {"user": "uid", "query": "q", "item_id": "sku", "time": "ts", "kind": "action", "page": "page_id"}
ACTIONS = {"impression": "view", "click": "click", "cart": "add_to_cart", "order": "purchase"}


def export(run: Path, out: Path, *, extra: str = "") -> None:
    """Write a run's tables under foreign names.

    Args:
        run: a run folder whose dataset wrote its tables (demo, fashion).
        out: the folder to write; it must not exist.
        extra: further lines of the config, after its first.
    """
    tables = run / json.loads((run / "run.json").read_text())["stages"]["tables"]
    photo_root = tables / json.loads((tables / "tables.json").read_text())["items"]["photo_root"]
    (out / "pictures").mkdir(parents=True)
    items = pl.read_parquet(tables / "items.parquet")
    renamed = [f"{row:05d}-{name}" if name else None for row, name in enumerate(items["photo"].to_list())]
    for old, new in zip(items["photo"].to_list(), renamed, strict=True):
        if old:
            shutil.copyfile(photo_root / old, out / "pictures" / new)
    items = items.with_columns(pl.Series("photo", renamed), pl.col("cells").list.join("|"))
    items.rename(ITEM_NAMES).write_csv(out / "items.csv")
    events = pl.read_parquet(tables / "events.parquet")
    events = events.with_columns(
        pl.col("kind").cast(pl.String).replace_strict(ACTIONS), pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    )
    events.rename(EVENT_NAMES).write_ndjson(out / "clicks.jsonl")
    pl.read_parquet(tables / "judgements.parquet").rename({"item_id": "sku"}).write_csv(out / "grades.csv")
    (out / "shop.toml").write_text(CONFIG.format(extra=extra))


if __name__ == "__main__":
    if len(sys.argv) != 3 or Path(sys.argv[2]).exists():
        sys.exit(
            "usage: python examples/own_tables.py RUN OUT    (RUN: a finished demo or fashion run; OUT: a new folder)"
        )
    export(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"wrote {sys.argv[2]}; next: triptych check {sys.argv[2]}/shop.toml")
