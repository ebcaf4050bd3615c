"""Relevance control as a setting of a run: in the report, the engine, the service, and of items that come later."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from small_demo import DEMO_SETTINGS

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.engine import Engine, Filters
from triptych.engine.bundle import check_lineage, open_bundle
from triptych.evaluate.report import read_records
from triptych.evaluate.tasks import search
from triptych.foundation.errors import ArtifactError
from triptych.recall.relevance_control import RequiredValues
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder
from triptych.serve import create_app

SETTINGS = (
    "relevance_control={}",
    'recall_beside.free={"num_negatives":500}',
    'hybrid={"channels":["recall","dense"],"fusion":"rrf","weights":{"recall":1,"dense":0}}',
    *("compare=[]", "photo_queries=0", "evaluation.examples=0", "evaluation.bootstrap_repeats=100"),
)
"""The model beside is the served one, so that nothing is trained; so is the hybrid, but for its channel's name."""


@pytest.fixture(scope="module")
def run(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("controlled") / "run"
    shutil.copytree(demo_run, out)
    made = resolve("demo", settings=(*DEMO_SETTINGS, *SETTINGS))
    run_pipeline(made.config, base=made.base, out=out)
    return out


@pytest.fixture(scope="module")
def engine(run: Path) -> Engine:
    return Engine.open(run)


@pytest.fixture(scope="module")
def required(run: Path) -> RequiredValues:
    folder = RunFolder.existing(run)
    return RequiredValues.fit(Catalogue.open(folder.stage("catalogue")), split=Split.open(folder.stage("split")))


@pytest.fixture(scope="module")
def query(run: Path, demo_run: Path, required: RequiredValues) -> str:
    """One whose answer without control has items of other categories among its first."""
    free = Engine.open(demo_run)
    for one in free.example_queries(50):
        found = np.array([hit.item_row for hit in free.search(one, k=20, channel="recall")])
        if required.dropped(one, found)[:5].any():
            return one
    raise AssertionError("control would change nothing of this shop")


def rows(hits) -> list[int]:
    return [hit.item_row for hit in hits]


def test_answers_are_the_best_of_the_categories_that_are_asked_for(engine, demo_run, required, query):
    everything = np.array(rows(Engine.open(demo_run).search(query, k=600, channel="recall")))
    kept = everything[~required.dropped(query, everything)][:30].tolist()
    assert rows(engine.search(query, k=30, channel="recall")) == kept
    assert kept != everything[: len(kept)].tolist()
    assert rows(engine.search(query, k=len(kept), channel="hybrid")) == kept


def test_nothing_was_trained_for_it(run, demo_run):
    folders = [{path.name for path in (one / "recall").iterdir()} for one in (run, demo_run)]
    assert folders[0] == folders[1]


def test_the_explanation_says_what_was_asked_for(engine, query, required):
    hit = engine.search(query, k=1, channel="recall", explain=True)[0]
    assert hit.why.required.attribute == "category"
    assert hit.why.required.values == required.named(required.of_query(query))
    assert engine.item(hit.item_id)["category"] in hit.why.required.values
    assert engine.why(hit.item_id, query=query, channel="recall").required == hit.why.required
    assert engine.why(hit.item_id, query=query, channel="dense").required is None
    unmet = engine.search("some words that nobody has asked", k=1, channel="recall", explain=True)[0]
    assert unmet.why.required is None


def test_a_filter_by_another_category_comes_first(engine, query, required):
    asked_for = set(required.named(required.of_query(query)))
    other = next(name for name in engine.facets().categories if name not in asked_for)
    answer = engine.search(query, k=5, channel="recall", filters=Filters(category=other), explain=True)
    assert len(answer) == 5
    assert {engine.item(hit.item_id)["category"] for hit in answer} == {other}
    assert all(hit.why.required is None for hit in answer)


def test_the_service_answers_and_explains_alike(engine, run, query):
    with TestClient(create_app(engine), base_url="http://127.0.0.1") as client:
        while client.get("/ready").status_code == 503:
            time.sleep(0.05)
        asked = {"q": query, "k": 10, "channel": "recall", "explain": True}
        told = client.get("/api/search", params=asked).json()
        assert [hit["item"]["item_id"] for hit in told["hits"]] == [
            hit.item_id for hit in engine.search(query, k=10, channel="recall")
        ]
        required = told["hits"][0]["why"]["required"]
        assert required["attribute"] == "category"
        assert {hit["item"]["category"] for hit in told["hits"]} <= set(required["values"])
        why = client.get("/api/why", params={"q": query, "item_id": told["hits"][0]["item"]["item_id"]}).json()
        assert why["required"] == required


def test_a_new_item_is_found_where_it_is_of_the_kind(run, query, required):
    engine = Engine.open(run)
    (wanted, *_) = required.named(required.of_query(query))
    best = engine.search(query, k=1, channel="recall")[0]
    like = {"title": engine.item(best.item_id)["title"], "photo": engine.photo_jpeg(best.item_id)}
    for name, category in (("of the kind", wanted), ("of another", "something new"), ("of none", None)):
        engine.add_items([{"item_id": name, "category": category, **like}])
    found = {hit.item_id for hit in engine.search(query, k=600, channel="recall")}
    assert found & {"of the kind", "of another", "of none"} == {"of the kind"}
    engine.remove_items(["of the kind"])
    assert "of the kind" not in {hit.item_id for hit in engine.search(query, k=600, channel="recall")}


def test_the_report_measures_what_is_served(run):
    recall, free = (
        {
            (row["metric"], row["k"]): row["value"]
            for row in read_records(RunFolder.existing(run).stage("report"))
            if row["task"] == search.TASK and row["model"] == name and row["slice"] == "all" and "kind" not in row
        }
        for name in ("recall", "free")
    )
    assert recall["category", 20] == 1 > free["category", 20]
    assert recall["recall", 20] != free["recall", 20]


def test_a_control_without_a_model_is_no_bundle(run):
    parts = open_bundle(run)[1]
    with pytest.raises(ArtifactError, match="what the answers of its recall model must have, and there is none"):
        check_lineage(replace(parts, recall=None, recall_index=None, hybrid=None))
