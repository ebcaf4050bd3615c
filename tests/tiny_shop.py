"""A tiny shop and a finished run over it, made in a second: the encoder has random weights.

What is tested with it is not how good an answer is, but that it is right for the vectors.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import numpy as np
import polars as pl
import torch
from PIL import Image

from triptych.data import catalogue as catalogues
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig, Role
from triptych.data.tables import read_events, read_items
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders.embed import KIND as ENCODER
from triptych.encoders.embed import TOKENIZER_FILE, Embedder
from triptych.encoders.models.two_tower import TwoTowerConfig, TwoTowerEncoder
from triptych.engine.bundle import write_bundle, write_index, write_retriever
from triptych.foundation.artifact import produce, write_json
from triptych.recall.models.bm25 import Bm25, Bm25Config
from triptych.recall.models.popularity import Popularity, PopularityConfig

PX = 32
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
THINGS = ("shirt", "shoe", "bag", "hat")
ITEMS = [
    {
        "item_id": f"i{row}",
        "title": f"{colour} {thing} no {row}" if row % 3 else f"nice {thing}",
        "category": "clothes" if thing in ("shirt", "hat") else "things" if row % 5 else None,
        "brand": None,
        "merchant": "Corner Shop",
        "price": None if row % 7 == 0 else 10.0 + row,
        "cells": [f"c{row % 3}", "c9"] if row % 4 else [],
        "colour": colour,
    }
    for row, (thing, colour) in enumerate((thing, colour) for thing in THINGS for colour in COLOURS for _ in range(3))
]
NUM_ITEMS = len(ITEMS)
NO_PHOTO, NO_TITLE = 4, 11
ITEMS[NO_TITLE]["title"] = None


def photo(row, *, shift=0):
    rng = np.random.default_rng(row)
    pixels = np.array(COLOURS[ITEMS[row]["colour"]]) + rng.integers(-60, 60, (4, 4, 3)) + shift
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize((40, 40), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_tables(folder, *, items=None, more_events=()):
    items = ITEMS if items is None else items
    photos = [None if row == NO_PHOTO else photo(row) for row in range(NUM_ITEMS)]
    photos += [None] * (len(items) - NUM_ITEMS)
    items = pl.DataFrame(items, schema_overrides={"brand": pl.String, "cells": pl.List(pl.String)})
    items.with_columns(photo=pl.Series(photos)).write_parquet(folder / "items.parquet")
    rng = np.random.default_rng(0)
    queries = ["red shirt", "blue shoe", "hat", "hat", None]
    pl.DataFrame(
        [
            {
                "time": datetime(2024, 5, 1, tzinfo=UTC) + timedelta(hours=place),
                "user": f"u{place % 8}",
                "query": queries[place % 5],
                "item_id": f"i{rng.integers(0, NUM_ITEMS)}",
                "kind": "impression" if place % 8 == 7 else "click",  # u7 has only looked
            }
            for place in range(120)
        ]
        + list(more_events)
    ).write_parquet(folder / "events.parquet")
    items = ItemsConfig(path="items.parquet", features={"colour": Role.CATEGORICAL})
    return check_tables(
        read_items(items, base=folder), read_events(EventsConfig(path="events.parquet"), base=folder), None
    )


def write_encoder(parent, catalogue, *, seed):
    def build(folder):
        torch.manual_seed(seed)
        config = TwoTowerConfig(dim=16, layers=1, heads=2, vector_dim=24, photo_px=PX)
        TwoTowerEncoder(config, vocab_size=300).save(folder)
        texts = [*catalogue.titles, *catalogue.queries, "velvet sofa"]
        TextTokenizer.fit(texts, config=TokenizerConfig(vocab_size=300, min_count=1)).save(folder / TOKENIZER_FILE)
        return {}

    return produce(parent, kind=ENCODER, config={"seed": seed}, inputs={"catalogue": catalogue.artifact}, build=build)


def write_run(run, *, seed=0, items=None, more_events=()):
    """Write a run as the recipes do, with an encoder that learned nothing.

    Args:
        run: its folder; a run that is there is made anew, beside the old one's artefacts.
        seed: of the encoder.
        items: rows of the items table: `ITEMS`, or those and more without photos.
        more_events: rows of the events table, behind those that are there.
    """
    run.mkdir(exist_ok=True)
    tables = f"{len(items or ())} {len(more_events)}"
    config = CatalogueConfig(photo_px=PX, display_px=40)
    artifact = catalogues.build(
        config,
        tables=partial(write_tables, run, items=items, more_events=more_events),
        inputs={"t": tables},
        out=run / "catalogue",
    )
    catalogue = Catalogue.open(artifact)
    encoder = write_encoder(run / "encoder", catalogue, seed=seed)
    parts = {
        "catalogue": artifact,
        "encoder": encoder,
        "index": write_index(
            run / "index",
            vectors=lambda: Embedder.open(encoder).embed_catalogue(catalogue, label=None),
            catalogue=artifact,
            encoder=encoder,
        ),
        "popularity": write_retriever(
            run / "popularity",
            fit=lambda: Popularity.fit(catalogue, train=slice(0, 100)),
            kind="popularity",
            config=PopularityConfig(),
            inputs={"catalogue": artifact},
        ),
        "bm25": write_retriever(
            run / "bm25",
            fit=lambda: Bm25.fit(catalogue.titles),
            kind="bm25",
            config=Bm25Config(),
            inputs={"catalogue": artifact},
        ),
    }
    bundle = write_bundle(run / "bundle", **parts)
    write_json(run / "run.json", {"stages": {"bundle": f"bundle/{bundle.id}"}})
    return SimpleNamespace(path=run, bundle=bundle, parts=parts, catalogue=catalogue)
