"""Search by delivery cell against plain loops over a shop with three cells, and retrievers that must be refused."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from triptych.data.events import KIND_CODES
from triptych.data.schema import Part
from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Ordering, judge_ordering
from triptych.evaluate.records import PairedRecord, select, to_rows
from triptych.evaluate.tasks import base, cells, search
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import DataError
from triptych.index.backends.exact import ExactIndex
from triptych.metrics.significance import bootstrap_interval
from triptych.recall.base import rank
from triptych.recall.code_trie import CodeTrie
from triptych.recall.fusion import Fusion
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.dense import Dense
from triptych.recall.models.generative import GenerativeConfig, GenerativeSizes
from triptych.recall.models.hybrid import AskedBy, Hybrid, HybridChannel, Rule
from triptych.recall.models.oracle import Oracle
from triptych.recall.models.popularity import Popularity

CONFIG = EvaluationConfig(ks=(1, 2, 5), headline_k=2, bootstrap_repeats=200)
CELLS = ("north", "south", "west")
DIM = 8


def item_cells(row: int) -> list[str]:
    """Every third item is delivered to two cells; none to "west" alone."""
    return [CELLS[row % 2], "west"] if row % 3 == 0 else [CELLS[row % 2]]


class Filtering:
    """Random scores that heed `keep`."""

    def __init__(self, catalogue, *, seed: int) -> None:
        self.name = "filtering"
        self.catalogue = catalogue
        self.scores = np.random.default_rng(seed).random((catalogue.num_queries, catalogue.num_items), dtype=np.float32)

    def retrieve(self, requests, k):
        rows = [self.scores[self.catalogue.query_row(request.query)] for request in requests]
        return rank(np.stack([np.where(one.keep, row, -np.inf) for one, row in zip(requests, rows, strict=True)]), k=k)


@pytest.fixture
def shop(other_shop):
    """Events happen in a cell that their item is delivered to; two are elsewhere, and one cell is not known."""

    def with_cells(events: pl.DataFrame) -> pl.DataFrame:
        rng = np.random.default_rng(3)
        rows = [int(item_id[1:]) for item_id in events["item_id"]]
        chosen = [str(rng.choice(item_cells(row))) for row in rows]
        last = [place for place, row in enumerate(rows) if row % 3 and row % 2 == 0][-2:]
        for place in last:
            chosen[place] = "south"  # by the items table these are delivered to "north" alone
        events = events.with_columns(cell=pl.Series([*chosen[:-1], None], dtype=pl.String))
        # What is delivered to two cells is chosen in both.
        both = pl.Series([row % 3 == 0 for row in rows])
        other = (
            pl.when(pl.col("cell") == "west")
            .then(pl.Series([CELLS[row % 2] for row in rows]))
            .otherwise(pl.lit("west"))
        )
        again = events.with_columns(pl.col("time") + pl.duration(seconds=1), cell=other).filter(both)
        return pl.concat([events, again])

    return other_shop(
        items=lambda items: items.with_columns(cells=pl.Series([item_cells(row) for row in range(len(items))])),
        events=with_cells,
    )


def naive_units(shop) -> dict[tuple[str, int], set[int]]:
    """(cell, query row) → targets, by walking through the events."""
    catalogue, split = shop
    rows = list(catalogue.events.select("query_row", "item_row", "kind", "cell").iter_rows())
    units = defaultdict(set)
    for query, item, kind, cell in rows[split.test]:
        if kind != KIND_CODES["impression"] and cell is not None and cell in item_cells(item):
            units[cell, query].add(item)
    return units


def value(result, **fields):
    found = [row for row in select(to_rows(result.records), **fields) if "baseline" not in row]
    assert len(found) == 1, fields
    return found[0]["value"]


def test_recall_and_ndcg_equal_a_loop_over_units(shop):
    retriever = Filtering(shop.catalogue, seed=0)
    found = cells.evaluate({"title": retriever}, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
    units = naive_units(shop)
    assert len({query for _, query in units}) < len(units)  # some queries are asked in several cells
    shown = found.per_query.filter(slice="all")
    assert set(shown.select("cell", "query_row").iter_rows()) == set(units)
    for k in CONFIG.ks:
        recalls, ndcgs = [], []
        for (cell, query), targets in units.items():
            candidates = [row for row in range(shop.catalogue.num_items) if cell in item_cells(row)]
            order = sorted(candidates, key=lambda row: -retriever.scores[query, row])[:k]
            recalls.append(len(targets & set(order)) / len(targets))
            gain = sum(1 / math.log2(place + 2) for place, row in enumerate(order) if row in targets)
            ndcgs.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(targets)))))
        assert value(found, slice="all", metric="recall", k=k) == pytest.approx(np.mean(recalls))
        assert value(found, slice="all", metric="ndcg", k=k) == pytest.approx(np.mean(ndcgs))


def test_slices_of_pairs_equal_a_loop(shop):
    retriever = Filtering(shop.catalogue, seed=1)
    found = cells.evaluate({"title": retriever}, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
    hidden = {(query, item): only for query, item, _, only in shop.catalogue.judgements.iter_rows()}
    new = shop.split.items_new(shop.catalogue)
    inside = {
        "photo_only": lambda query, item: hidden[query, item],
        "new_items": lambda query, item: new[item],
        "unseen_queries": lambda query, item: not shop.split.query_seen_in_train(shop.catalogue)[query],
    }
    for name, test in inside.items():
        recalls = []
        for (cell, query), targets in naive_units(shop).items():
            own = {item for item in targets if test(query, item)}
            candidates = [row for row in range(shop.catalogue.num_items) if cell in item_cells(row)]
            order = sorted(candidates, key=lambda row: -retriever.scores[query, row])[:2]
            recalls += [len(own & set(order)) / len(own)] if own else []
        assert recalls
        assert value(found, slice=name, metric="recall", k=2) == pytest.approx(np.mean(recalls))


def test_an_item_of_several_cells_counts_in_each(shop):
    targets = shop.split.cell_targets(shop.catalogue, Part.TEST)
    names = shop.catalogue.events["cell"].dtype.categories.to_list()
    sets = {
        (names[cell], int(query)): set(targets.item_rows[targets.offsets[unit] : targets.offsets[unit + 1]].tolist())
        for unit, (cell, query) in enumerate(zip(targets.cell, targets.query_row, strict=True))
    }
    assert all(sets[unit] >= own for unit, own in naive_units(shop).items())
    where = defaultdict(set)
    for (cell, _), own in sets.items():
        for item in own:
            where[item].add(cell)
    assert any(len(found) == 2 for found in where.values())


def test_choices_of_what_is_not_delivered_there_are_left_out_and_told(shop):
    found = cells.evaluate(
        {"title": Filtering(shop.catalogue, seed=0)}, catalogue=shop.catalogue, split=shop.split, config=CONFIG
    )
    assert "2 choices of items that are not delivered to the cell" in found.definitions["all"]
    perfect = value(found, slice="all", metric="recall", k=5)
    oracle = Oracle.fit(shop.catalogue, counts=np.zeros(shop.catalogue.num_items))
    everything = cells.evaluate(
        {"oracle": oracle}, catalogue=shop.catalogue, split=shop.split, config=CONFIG.override("ks=[5]", "headline_k=5")
    )
    assert value(everything, slice="all", metric="recall", k=5) == 1.0 > perfect


def test_graded_ndcg_is_that_of_the_judged_items_of_the_cell(shop):
    retriever = Filtering(shop.catalogue, seed=2)
    found = cells.evaluate({"title": retriever}, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
    grades = {(query, item): grade for query, item, grade, _ in shop.catalogue.judgements.iter_rows()}
    expected = []
    for cell, query in naive_units(shop):
        candidates = [row for row in range(shop.catalogue.num_items) if cell in item_cells(row)]
        order = sorted(candidates, key=lambda row: -retriever.scores[query, row])[:10]
        best = sorted((grades.get((query, row), 0) for row in candidates), reverse=True)[:10]
        gains = [sum((2**g - 1) / math.log2(place + 2) for place, g in enumerate(ranked)) for ranked in (
            [grades.get((query, row), 0) for row in order], best)]  # fmt: skip
        expected.append(gains[0] / gains[1])
    assert value(found, slice="all", metric="ndcg_graded", k=10) == pytest.approx(np.mean(expected))


class Encoder:
    """A vector for each query, drawn once."""

    vector_dim = DIM

    def __init__(self, catalogue) -> None:
        vectors = np.random.default_rng(6).standard_normal((catalogue.num_queries, DIM)).astype(np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.row_of = catalogue.query_row

    def queries(self, texts):
        return self.vectors[[self.row_of(text) for text in texts]]


def by_vectors(catalogue):
    """An encoder over items' vectors, and a decoder that has learned nothing over IDs of their own."""
    rng, encoder = np.random.default_rng(7), Encoder(catalogue)
    vectors = rng.standard_normal((catalogue.num_items, DIM)).astype(np.float16)
    model = GenerativeConfig(dim=16, heads=2, layers=1, beams=8).build(GenerativeSizes(DIM, 2, 4), seed=0)
    trie = CodeTrie.build(rng.integers(4, size=(catalogue.num_items, 2)))
    dense = Dense(encoder, ExactIndex.build(vectors))
    return dense, GenerativeRetriever(model, trie, encoder=encoder, vectors=vectors.astype(np.float32))


def test_our_retrievers_never_leave_the_cell_whatever_the_batch(shop, monkeypatch):
    popularity = Popularity.fit(shop.catalogue, train=shop.split.train)
    dense, decoder = by_vectors(shop.catalogue)
    words = frozenset({AskedBy.WORDS})
    channels = {"dense": HybridChannel(dense, words), "generative": HybridChannel(decoder, words)}
    models = {
        "popularity": popularity,
        "bm25": Bm25.fit(shop.catalogue.titles),
        "dense": dense,
        "generative": decoder,
        "hybrid": Hybrid(channels, rule=Rule(Fusion.RRF, (0.5, 0.5))),
    }
    found = cells.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
    monkeypatch.setattr(base, "BATCH", 3)
    again = cells.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
    assert to_rows(again.records) == to_rows(found.records)


def test_a_retriever_that_cannot_filter_is_refused(shop, scripted):
    with pytest.raises(DataError, match=r"'scripted' returned item 'i\d+' for cell '\w+', where it is not delivered"):
        cells.evaluate({"m": scripted("scripted")}, catalogue=shop.catalogue, split=shop.split, config=CONFIG)


def test_intervals_draw_queries_with_all_their_cells(shop):
    retriever = Filtering(shop.catalogue, seed=4)
    found = cells.evaluate({"title": retriever}, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
    own = found.per_query.filter(slice="all")
    record = next(r for r in found.records if r.slice == "all" and r.metric == "recall" and r.k == 2)
    rng = np.random.default_rng(CONFIG.seed)
    queries = own["query_row"].unique().sort().to_list()
    values = [own.filter(query_row=query)["recall@2"].to_numpy() for query in queries]
    drawn = [
        np.concatenate([values[i] for i in draw]).mean()
        for draw in rng.integers(len(queries), size=(200, len(queries)))
    ]
    assert (record.low, record.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    alone = bootstrap_interval(own["recall@2"].to_numpy(), rng=np.random.default_rng(CONFIG.seed), repeats=200)
    assert (record.low, record.high) != (alone.low, alone.high)
    assert found.drawn_by == "query_row"


def test_one_cell_with_everything_is_search(other_shop):
    everywhere = other_shop(
        items=lambda items: items.with_columns(cells=pl.Series([["all"]] * len(items))),
        events=lambda events: events.with_columns(cell=pl.lit("all")),
    )
    retriever = Filtering(everywhere.catalogue, seed=5)

    class Unfiltered(Filtering):
        def retrieve(self, requests, k):
            return rank(np.stack([self.scores[self.catalogue.query_row(one.query)] for one in requests]), k=k)

    by_cell = cells.evaluate(
        {"title": retriever}, catalogue=everywhere.catalogue, split=everywhere.split, config=CONFIG
    )
    plain = search.evaluate(
        {"title": Unfiltered(everywhere.catalogue, seed=5)},
        catalogue=everywhere.catalogue,
        split=everywhere.split,
        config=CONFIG,
    )
    strip = {"task": "", "split": ""}
    assert [{**row, **strip} for row in to_rows(by_cell.records)] == [
        {**row, **strip} for row in to_rows(plain.records)
    ]


def test_data_without_cells_is_refused(small_shop, other_shop):
    def evaluate(shop):
        return cells.evaluate(
            {"m": Bm25.fit(shop.catalogue.titles)}, catalogue=shop.catalogue, split=shop.split, config=CONFIG
        )

    with pytest.raises(DataError, match="items: no item has delivery cells"):
        evaluate(small_shop)
    only_items = other_shop(items=lambda items: items.with_columns(cells=pl.Series([["all"]] * len(items))))
    with pytest.raises(DataError, match="no choice of the test period has a query and a delivery cell"):
        evaluate(only_items)


def test_chance_draws_from_the_cell(shop):
    found = cells.evaluate(
        {"title": Filtering(shop.catalogue, seed=0)},
        catalogue=shop.catalogue,
        split=shop.split,
        config=CONFIG,
        with_chance=True,
    )
    sizes = {cell: sum(cell in item_cells(row) for row in range(shop.catalogue.num_items)) for cell in CELLS}
    expected = np.mean([2 / sizes[cell] for cell, _ in naive_units(shop)])
    assert value(found, slice="all", metric="recall", k=2, model="chance") == pytest.approx(expected)


def test_an_ordering_draws_queries_with_all_their_cells_too(shop):
    models = {"title+photo": Filtering(shop.catalogue, seed=0), "title": Filtering(shop.catalogue, seed=1)}
    found = cells.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
    for name in ("all", "photo_only"):
        (record,) = [
            one
            for one in found.records
            if isinstance(one, PairedRecord)
            and (one.slice, one.metric, one.k, one.kind) == (name, "recall", 2, "difference")
        ]
        ordering = Ordering("c", "title+photo", "title", slice=name)
        judged = judge_ordering(
            ordering, found.per_query, headline=Column("recall", 2), config=CONFIG, drawn_by=found.drawn_by
        )
        assert (judged.difference, judged.low, judged.high) == (record.value, record.low, record.high)
        assert judged.num_queries == record.num_queries
