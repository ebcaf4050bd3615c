"""A shop whose channels are fused: its report, what answers when, why, and what becomes of new items."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Part, Split
from triptych.engine import Channel, Engine, Filters
from triptych.engine.bundle import open_bundle
from triptych.evaluate.report import read_records
from triptych.foundation.errors import ArtifactError, ConfigError, EngineError
from triptych.metrics.ranking import TargetSets, match, recall_at_k
from triptych.recipes import resolve
from triptych.recipes.run_folder import RunFolder


@pytest.fixture(scope="module")
def engine(hybrid_run: Path) -> Engine:
    return Engine.open(hybrid_run)


@pytest.fixture
def query(engine: Engine) -> str:
    return engine.example_queries(1)[0]


def rows(hits) -> list[int]:
    return [hit.item_row for hit in hits]


def preferred(run: Path, out: Path) -> Engine:
    """The same shop, had validation preferred the hybrid."""
    shutil.copytree(run, out)
    folder = open_bundle(out)[1].hybrid.path
    rule = json.loads((folder / "rule.json").read_text())
    (folder / "rule.json").write_text(json.dumps({**rule, "is_preferred": True}))
    return Engine.open(out)


def test_the_report_compares_it_with_its_channels(hybrid_run: Path):
    records = [one for one in read_records(RunFolder.existing(hybrid_run).stage("report")) if one["task"] == "search"]
    assert "hybrid" in {one["model"] for one in records}
    against = {
        one["baseline"]
        for one in records
        if one["model"] == "hybrid" and one.get("kind") == "difference" and one["metric"] == "recall"
    }
    assert against == {"recall", "bm25", "title+photo"}


def test_the_rule_is_chosen_by_validation_alone(hybrid_run: Path):
    """The summary's numbers are made again from the validation part's clicks."""
    parts = open_bundle(hybrid_run)[1]
    folder = RunFolder.existing(hybrid_run)
    catalogue, split = Catalogue.open(folder.stage("catalogue")), Split.open(folder.stage("split"))
    targets = split.targets(Part.VALIDATION)
    summary = parts.hybrid.summary
    assert summary["queries"] == len(targets.query_row) <= 1000
    shop = Engine.open(hybrid_run)
    found = np.full((len(targets.query_row), 20), -1)
    for place, row in enumerate(targets.query_row):
        own = rows(shop.search(catalogue.queries[row], k=20, channel="bm25"))
        found[place, : len(own)] = own
    wanted = TargetSets(targets.offsets, targets.item_rows)
    assert summary["bm25"] == pytest.approx(recall_at_k(match(found, targets=wanted), k=20).mean())


def test_it_answers_where_it_is_asked_for(engine: Engine, query: str):
    answer = engine.search(query, k=20, channel="hybrid", explain=True)
    assert answer.channel is Channel.HYBRID
    assert answer.note is None
    assert len(answer) == 20
    orders = {one: rows(engine.search(query, k=200, channel=one)) for one in ("recall", "dense", "bm25")}
    for hit in answer:
        told = dict(hit.why.found_by)
        told.pop("new", None)
        assert told == {one: order.index(hit.item_row) + 1 for one, order in orders.items() if hit.item_row in order}
        assert engine.why(hit.item_id, query=query, channel="hybrid") == hit.why
    assert sum("new" in hit.why.found_by for hit in answer[:10]) >= 2
    assert engine.search("☃☃", k=3, channel="hybrid").channel is Channel.POPULARITY


def test_new_items_are_those_that_nobody_chose(engine: Engine, hybrid_run: Path, query: str):
    folder = RunFolder.existing(hybrid_run)
    catalogue, split = Catalogue.open(folder.stage("catalogue")), Split.open(folder.stage("split"))
    is_new = split.items_new(catalogue)
    for hit in engine.search(query, k=100, channel="hybrid", explain=True):
        assert ("new" in hit.why.found_by) <= bool(is_new[hit.item_row])


def test_filters_hold(engine: Engine, query: str):
    category = engine.item(engine.search(query, k=1)[0].item_id)["category"]
    answer = engine.search(query, k=30, channel="hybrid", filters=Filters(category=category))
    assert answer
    assert {engine.item(hit.item_id)["category"] for hit in answer} == {category}


def test_a_photo_is_answered_by_those_who_read_it_and_the_note_names_the_others(engine: Engine, query: str):
    photo = engine.photo_jpeg(engine.search(query, k=1)[0].item_id)
    answer = engine.search(photo=photo, k=5, channel="hybrid", explain=True)
    assert answer.channel is Channel.HYBRID
    assert "recall and bm25" in answer.note
    assert all(set(hit.why.found_by) <= {"dense", "new"} for hit in answer)
    assert engine.search(photo=photo, k=5).channel is Channel.DENSE


def test_it_is_the_default_only_where_validation_prefers_it(engine, hybrid_run: Path, query: str, tmp_path: Path):
    usual = Channel.HYBRID if open_bundle(hybrid_run)[1].hybrid.summary["gain"][0] > 0 else Channel.RECALL
    assert engine.search(query, k=1).channel is usual
    assert engine.info()["search_channel"] == usual
    shop = preferred(hybrid_run, tmp_path / "run")
    assert shop.search(query, k=1).channel is Channel.HYBRID
    assert shop.info()["search_channel"] == "hybrid"
    assert shop.search(photo=shop.photo_jpeg(shop.search(query, k=1)[0].item_id), k=1).channel is Channel.DENSE


def test_added_items_are_found_by_every_channel(hybrid_run: Path):
    shop = Engine.open(hybrid_run)
    title = shop.item(shop.search(shop.example_queries(1)[0], k=1)[0].item_id)["title"]
    shop.add_items([{"item_id": "brand new", "title": title}])
    found = {hit.item_id: hit.why.found_by for hit in shop.search(title, k=100, channel="hybrid", explain=True)}
    assert {"dense", "bm25", "new"} <= set(found["brand new"])


def test_without_a_hybrid_it_is_refused(demo_run: Path):
    with pytest.raises(EngineError, match="no hybrid"):
        Engine.open(demo_run).search("teapot", channel="hybrid")


def test_why_of_what_no_channel_found_is_refused(engine: Engine, query: str):
    found = {hit.item_id for hit in engine.search(query, k=engine.num_items, channel="hybrid")}
    other = next(one for one in engine._catalogue.items["item_id"] if one not in found)
    with pytest.raises(EngineError, match="No channel of the hybrid"):
        engine.why(other, query=query, channel="hybrid")


def test_a_hybrid_of_another_encoder_is_refused(hybrid_run: Path, tmp_path: Path):
    shutil.copytree(hybrid_run, tmp_path / "run")
    hybrid = open_bundle(tmp_path / "run")[1].hybrid
    manifest = json.loads((hybrid.path / "artifact.json").read_text())
    manifest["inputs"]["encoder"] = "0" * 16
    (hybrid.path / "artifact.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="encoder"):
        Engine.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("feed", ["hybrid={}"], "fuses answers to queries"),
        ("judged", ['hybrid.channels=["dense","new"]'], "names new"),
        ("judged", ['hybrid.channels=["dense","recall"]'], "no recall model"),
        ("judged", ['hybrid.channels=["dense","words"]'], "there is no 'words'"),
        ("judged", ['hybrid.quotas={"recall":1}'], "quotas names recall"),
        ("judged", ['hybrid={"fusion":"rrf","weights":{"dense":1.0}}'], "give each channel"),
    ],
)
def test_settings_that_do_not_go_with_the_run(recipe: str, settings: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        resolve(recipe, settings=settings)
