"""The sweep of a run: the item vectors that answer, asked by its own validation queries, or users.

They are the recall model's where the run has one, else the encoder's. Filters are such as a shop has: categories,
delivery cells and price bands of its catalogue, beside those drawn at random.

Writes ``sweep.json`` and ``sweep.png`` into ``runs/<name>/index-sweep/``. They are measurements of one machine at one
time and no artefact: the next sweep replaces them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.embed import Embedder
from triptych.engine.bundle import Parts, open_bundle
from triptych.foundation.artifact import write_json
from triptych.index.base import Index, open_index
from triptych.index.sweep import Extent, Kept, Measured, Target, sweep
from triptych.recall.base import Request
from triptych.recall.learned import read_needs
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.validation import Asked, some_users
from triptych.recipes.index_figure import draw
from triptych.recipes.run_folder import RunFolder

FOLDER, RESULT, FIGURE = "index-sweep", "sweep.json", "sweep.png"
BLOCK_ROWS = 65_536
WIDE_RATES = (0.5, 0.25)
"""Shares of the items that a shop's filters are put together to keep: too wide to be searched exactly."""
VALIDATION, USERS = "queries of the validation part", "users of the validation part"
ITEMS = "items (the run has no validation queries)"


class Swept(NamedTuple):
    """What a sweep found, and where it stands."""

    found: list[Measured]
    chosen: Measured | None
    """The setting that meets the target; None: none does, or nothing was asked."""
    folder: Path
    about: dict[str, Any]
    """Whose vectors, sizes, and what was asked with."""


def sweep_run(
    run: Path, *, kinds: Sequence[str], target: Target | None = None, extent: Extent | None = None, queries: int = 1000
) -> Swept:
    """Measure index settings on a finished run.

    Args:
        run: its folder.
        kinds: which indexes, files of `triptych.index.backends`.
        target: what is asked of the index; None: nothing.
        extent: how much is measured.
        queries: validation queries asked, at most; drawn with the extent's seed where there are more.

    Raises:
        ArtifactError: there is no finished run.
        ConfigError: there is no such kind of index.
    """
    extent, target = extent or Extent(), target or Target()
    parts = open_bundle(run)[1]
    index = open_index(parts.recall_index or parts.index)
    vectors = _item_vectors(index)
    asked, of = _query_vectors(run, parts=parts, index=index, vectors=vectors, most=queries, seed=extent.seed)
    started = time.perf_counter()
    filters = list(shop_filters(Catalogue.open(parts.catalogue), num_items=len(vectors), seed=extent.seed))
    found = sweep(vectors, asked, kinds=kinds, extent=extent, filters=filters)
    chosen = target.choose(found) if any(value is not None for value in target) else None
    about = {
        "vectors_of": "encoder" if parts.recall_index is None else "recall",
        "items": len(vectors),
        "dim": vectors.shape[1],
        "queries": len(asked),
        "queries_are": of,
        "seconds": round(time.perf_counter() - started, 1),
    }
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    result = {
        **about,
        "extent": asdict(extent),
        "target": target._asdict(),
        "chosen": None if chosen is None else chosen.dump(),
        "found": [one.dump() for one in found],
    }
    write_json(folder / RESULT, result)
    draw(found, chosen=chosen, target=target, k=extent.k, num_items=len(vectors), out=folder / FIGURE)
    return Swept(found, chosen, folder, about)


def shop_filters(catalogue: Catalogue, *, num_items: int, seed: int) -> Iterator[Kept]:
    """Yield filters by what the catalogue says of its items; a column that is empty gives none.

    By the largest category; by several, in random order, as many as keep half and a quarter; by the delivery cells that
    keep nearest to as much; by price, from some way below the median to as far above it.

    Args:
        catalogue: whose items are indexed.
        num_items: rows of the index; those behind the catalogue's are kept by none.
        seed: of the order of categories.
    """

    def over_all(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        out = np.zeros(num_items, np.bool_)
        out[: len(mask)] = mask[:num_items]
        return out

    category = catalogue.items["category"]
    counts = category.drop_nulls().value_counts().sort(["count", "category"], descending=[True, False])
    names, sizes = counts["category"].to_list(), counts["count"].to_numpy()
    if len(names) > 1:
        yield Kept("category", over_all((category == names[0]).fill_null(value=False).to_numpy()))
    if len(names) > 2:
        order = np.random.default_rng(seed).permutation(len(names))
        for rate in WIDE_RATES:
            some = order[: 1 + int(np.searchsorted(sizes[order].cumsum(), rate * len(category)))]
            own = category.is_in([names[place] for place in some.tolist()]).fill_null(value=False)
            yield Kept("category", over_all(own.to_numpy()))
    cells = catalogue.item_cells
    rates = cells.mean(axis=0) if len(cells) else np.empty(0)
    nearest = [int(np.abs(rates - rate).argmin()) for rate in WIDE_RATES] if len(rates) else []
    for cell in dict.fromkeys(nearest):
        yield Kept("cell", over_all(cells[:, cell]))
    price = catalogue.items["price"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    known = price[~np.isnan(price)]
    for rate in WIDE_RATES if len(np.unique(known)) > 1 else ():
        low, high = np.quantile(known, [0.5 - rate / 2, 0.5 + rate / 2])
        yield Kept("price", over_all((price >= low) & (price <= high)))


def _item_vectors(index: Index) -> NDArray[np.float16]:
    """Read the vectors of a served index, as they are stored."""
    vectors = np.empty((index.num_rows, index.dim), np.float16)
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(vectors)))
        vectors[rows] = index.vectors(rows)
    return vectors


def _query_vectors(
    run: Path, *, parts: Parts, index: Index, vectors: NDArray[np.float16], most: int, seed: int
) -> tuple[NDArray[np.float32], str]:
    """Encode queries of the validation part, or take items themselves where there are none; and say which."""
    rng, folder = np.random.default_rng(seed), RunFolder.existing(run)
    rows = np.empty(0, np.int64)
    if "split" in folder.stages():
        catalogue, split = Catalogue.open(parts.catalogue), Split.open(folder.stage("split"))
        if parts.recall is not None and not read_needs(parts.recall.path).query:
            return _users(parts, index=index, catalogue=catalogue, asked=some_users(catalogue, split=split, most=most))
        rows = split.query_rows(Part.VALIDATION, catalogue=catalogue)
    if not len(rows):
        return vectors[_some(len(vectors), most=most, rng=rng)].astype(np.float32), ITEMS
    texts = [catalogue.queries[row] for row in rows[_some(len(rows), most=most, rng=rng)]]
    return _encoded(texts, parts=parts, index=index), VALIDATION


def _encoded(texts: Sequence[str], *, parts: Parts, index: Index) -> NDArray[np.float32]:
    """Encode queries as a search by words does, for nobody known."""
    embedder = Embedder.open(parts.encoder)
    if parts.recall is None or parts.recall_index is None:
        return embedder.queries(texts)
    encoder = embedder if "encoder" in parts.recall.inputs else None
    retriever = LearnedRetriever.load(parts.recall.path, index=index, encoder=encoder)
    vectors: NDArray[np.float32] = retriever.request_vectors([Request(query=text) for text in texts])
    return vectors


def _users(parts: Parts, *, index: Index, catalogue: Catalogue, asked: Asked) -> tuple[NDArray[np.float32], str]:
    """Encode users, each with what he chose before the validation part."""
    assert parts.recall is not None and asked.user_rows is not None and asked.histories is not None
    content = (
        open_index(parts.index).vectors(np.arange(catalogue.num_items)) if "encoder" in parts.recall.inputs else None
    )
    retriever = LearnedRetriever.load(
        parts.recall.path, index=index, encoder=None, catalogue=catalogue, item_content=content
    )
    requests = [
        Request(user=catalogue.users[row], history=asked.histories.of(place))
        for place, row in enumerate(asked.user_rows.tolist())
    ]
    return retriever.request_vectors(requests), USERS


def _some(num: int, *, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.choice(num, min(num, most), replace=False))
