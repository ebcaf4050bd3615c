"""The graded task against plain loops; chance against every order; planted retrievers and their verdicts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych.data import catalogue as catalogues
from triptych.data import splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import ItemsConfig, JudgementsConfig
from triptych.data.splits import Part, Split, SplitBy, SplitConfig
from triptych.data.tables import read_items, read_judgements
from triptych.evaluate import report
from triptych.evaluate.records import select, to_rows
from triptych.evaluate.report import read_records, text_tables
from triptych.evaluate.tasks import graded
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import DataError
from triptych.foundation.types import Hits
from triptych.metrics.ranking import Gain, TargetSets, graded_ndcg_at_k, match
from triptych.recall.base import Request, rank

CONFIG = EvaluationConfig(bootstrap_repeats=200, model="title", examples=0)
NUM_ITEMS = 60


class ByQuery:
    """Ranks by scores written down for each query; an item without one (NaN) is not returned, as BM25 does."""

    def __init__(self, name: str, catalogue: Catalogue, scores: np.ndarray) -> None:
        self.name, self.catalogue, self.scores = name, catalogue, scores

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        rows = [self.catalogue.query_row(request.query or "") for request in requests]
        kept = np.stack([np.ones(NUM_ITEMS, bool) if one.keep is None else one.keep for one in requests])
        known = np.nan_to_num(self.scores[rows], nan=-np.inf)
        return rank(np.where(kept, known, -np.inf).astype(np.float32), k=k)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalogue, Split]:
    folder = tmp_path_factory.mktemp("judged")
    rng = np.random.default_rng(0)
    rows = [
        (" ".join(f"w{query}" for _ in range(1 + query % 6)), f"i{item:02}", float(rng.choice([0, 0.33, 1.0, 1.67, 2])))
        for query in range(120)
        for item in rng.choice(NUM_ITEMS, size=1 + query % 14, replace=False).tolist()
    ]
    judged = pl.DataFrame(rows, schema=["query", "item_id", "grade"], orient="row")
    judged = judged.with_columns(grade=pl.when(pl.col("query") == "w0").then(0.0).otherwise("grade"))
    judged.write_parquet(folder / "judgements.parquet")
    ids = [f"i{item:02}" for item in range(NUM_ITEMS)]
    pl.DataFrame({"item_id": ids, "title": ids}).write_parquet(folder / "items.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet"), base=folder),
        None,
        read_judgements(JudgementsConfig(path="judgements.parquet"), base=folder),
    )
    catalogue = Catalogue.open(catalogues.build(CatalogueConfig(), tables=checked, inputs={}, out=folder / "catalogue"))
    config = SplitConfig(by=SplitBy.QUERY, validation_fraction=0.2, test_fraction=0.5, relevant_grade=1.0)
    return catalogue, Split.open(splits.build(config, catalogue=catalogue, out=folder / "split"))


@pytest.fixture(scope="module")
def models(shop) -> dict[str, ByQuery]:
    catalogue, _ = shop
    rng = np.random.default_rng(1)
    truth = np.zeros((catalogue.num_queries, NUM_ITEMS))
    judged = catalogue.judgements
    truth[judged["query_row"].to_numpy(), judged["item_row"].to_numpy()] = judged["grade"].to_numpy() + 1
    some = np.where(rng.random(truth.shape) < 0.4, np.nan, rng.normal(size=truth.shape))
    return {
        "bm25": ByQuery("bm25", catalogue, some),
        "worst": ByQuery("worst", catalogue, -truth),
        "title": ByQuery("title", catalogue, truth),
    }


@pytest.fixture(scope="module")
def result(models, shop):
    catalogue, split = shop
    return graded.evaluate(models, catalogue=catalogue, split=split, config=CONFIG)


def grades_of(shop, part: Part = Part.TEST) -> dict[int, dict[int, float]]:
    """Query row → item row → grade."""
    catalogue, split = shop
    wanted = set(split.query_rows(part, catalogue=catalogue).tolist())
    found: dict[int, dict[int, float]] = {}
    for query, item, grade in catalogue.judgements.sort("query_row").iter_rows():
        if query in wanted:
            found.setdefault(query, {})[item] = grade
    return found


def dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:10]))


def value(result, model: str, metric: str, name: str = "all") -> float:
    (row,) = select(to_rows(result.records), slice=name, model=model, metric=metric, baseline=None)
    return row["value"]


def test_both_readings_equal_plain_loops(models, result, shop):
    for model, retriever in models.items():
        among, everywhere, unjudged = [], [], []
        for query, grades in grades_of(shop).items():
            scores = retriever.scores[query]
            order = sorted(grades, key=lambda item: (-np.nan_to_num(scores[item], nan=-np.inf), item))
            ideal = dcg(sorted(grades.values(), reverse=True))
            ranked = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:10].tolist()
            first = [item for item in ranked if not np.isnan(scores[item])]
            unjudged.append(np.mean([item not in grades for item in first]))
            if ideal > 0:
                among.append(dcg([grades[item] for item in order]) / ideal)
                everywhere.append(dcg([grades.get(item, 0.0) for item in first]) / ideal)
        assert len(among) < len(unjudged)  # one query has no grade above 0
        assert value(result, model, "ndcg_judged") == pytest.approx(np.mean(among))
        assert value(result, model, "ndcg_catalogue") == pytest.approx(np.mean(everywhere))
        assert value(result, model, "unjudged") == pytest.approx(np.mean(unjudged))
    assert value(result, "title", "ndcg_judged") == 1.0


def test_chance_is_the_mean_over_every_order():
    sets = [[2.0, 0.0, 1.0], [1.33], [0.0, 0.0], [2.0, 2.0, 0.5, 0.0]]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in sets])])
    judged = TargetSets(offsets, np.concatenate([np.arange(len(one)) for one in sets]), np.concatenate(sets))
    for k in (2, 10):
        found = graded.chance_ndcg(judged, k=k)
        for grades, reached in zip(sets, found, strict=True):
            best = sum(g / math.log2(r + 2) for r, g in enumerate(sorted(grades, reverse=True)[:k]))
            orders = [
                sum(g / math.log2(r + 2) for r, g in enumerate(order[:k])) for order in itertools.permutations(grades)
            ]
            assert reached == pytest.approx(np.mean(orders) / best if best else math.nan, nan_ok=True)


def test_gain_is_the_grade_or_its_power():
    judged = TargetSets(np.array([0, 3]), np.array([0, 1, 2]), np.array([0.33, 2.0, 1.0]))
    found = match(np.array([[2, 5, 0]]), targets=judged)
    linear = (1.0 + 0.33 / 2) / (2.0 + 1 / math.log2(3) + 0.33 / 2)
    powers = (1.0 + (2**0.33 - 1) / 2) / (3.0 + 1 / math.log2(3) + (2**0.33 - 1) / 2)
    assert graded_ndcg_at_k(found, k=10, gain=Gain.LINEAR)[0] == pytest.approx(linear)
    assert graded_ndcg_at_k(found, k=10)[0] == pytest.approx(powers)


def test_planted_models_get_their_verdicts(result, models, shop):
    rows = select(to_rows(result.records), slice="all", kind="difference", metric="ndcg_judged", model="title")
    assert {row["baseline"]: row["verdict"] for row in rows} == {"bm25": "holds", "worst": "holds", "chance": "holds"}
    catalogue, split = shop
    config = CONFIG.model_copy(update={"model": "worst"})
    other = graded.evaluate(models, catalogue=catalogue, split=split, config=config)
    rows = select(to_rows(other.records), slice="all", kind="difference", metric="ndcg_judged", model="worst")
    assert {row["baseline"]: row["verdict"] for row in rows} == {"bm25": "fails", "title": "fails", "chance": "fails"}


def test_slices_are_by_the_number_of_words(result, shop):
    catalogue, _ = shop
    lengths = [
        len(catalogue.queries[query].split()) for query, grades in grades_of(shop).items() if any(grades.values())
    ]
    for name, (low, high) in {"short_queries": (1, 2), "middle_queries": (3, 4), "long_queries": (5, 99)}.items():
        (row,) = select(to_rows(result.records), slice=name, model="title", metric="ndcg_judged", baseline=None)
        assert row["num_queries"] == sum(low <= length <= high for length in lengths)


def test_a_part_without_judgements_is_one_sentence(small_shop, shop, models):
    catalogue, split = shop
    bare = Catalogue.open(catalogue.artifact)
    bare.__dict__["judgements"] = None
    with pytest.raises(DataError, match="no query of the test part was judged, so nothing graded can be measured"):
        graded.evaluate(models, catalogue=bare, split=split, config=CONFIG)


def test_the_report_shows_grades_first(models, shop, tmp_path: Path):
    catalogue, split = shop
    made = report.run(
        CONFIG,
        catalogue=catalogue,
        split=split,
        tasks=[lambda: graded.evaluate(models, catalogue=catalogue, split=split, config=CONFIG)],
        inputs={"catalogue": catalogue.artifact, "split": split.artifact},
        out=tmp_path,
    )
    tables = text_tables(read_records(made), headline_k=20)
    number = sum(any(grades.values()) for grades in grades_of(shop).values())
    assert tables[0].title.startswith(f"graded, test: {number} queries")
    assert list(tables[0].rows[0]) == ["model", "NDCG judged@10", "NDCG all@10", "unjudged@10"]
    chance = next(row for row in tables[0].rows if row["model"] == "chance")
    assert chance["NDCG all@10"] == "–"
    assert tables[1].title == "graded, test: NDCG judged@10 by slice, in %"
    assert {row["verdict"] for row in tables[2].rows} == {"holds"}
    assert made.summary["ndcg_judged@10"]["title"] == 1.0
    page = made.file("report.html").read_text(encoding="utf-8")
    for words in ("Split by query", "NDCG, judged items", "Unjudged", "of the ideal one", "judged queries"):
        assert words in page, words
