"""A shop with a recall model: what answers when, why, and what becomes of new items."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from triptych.encoders.embed import Embedder
from triptych.engine import Channel, Engine, Filters
from triptych.engine.bundle import open_bundle
from triptych.foundation.artifact import MANIFEST
from triptych.foundation.errors import ArtifactError, EngineError
from triptych.index.base import open_index
from triptych.recall.base import Request
from triptych.recall.retriever import LearnedRetriever


@pytest.fixture(scope="module")
def engine(demo_run: Path) -> Engine:
    return Engine.open(demo_run)


@pytest.fixture(scope="module")
def retriever(demo_run: Path) -> LearnedRetriever:
    parts = open_bundle(demo_run)[1]
    assert parts.recall is not None and parts.recall_index is not None
    index = open_index(parts.recall_index)
    return LearnedRetriever.load(parts.recall.path, index=index, encoder=Embedder.open(parts.encoder))


def rows(hits) -> list[int]:
    return [hit.item_row for hit in hits]


def test_words_are_answered_by_recall_and_photos_by_the_encoder(engine, retriever):
    query = engine.example_queries(1)[0]
    answer = engine.search(query, k=20)
    assert answer.channel is Channel.RECALL
    assert rows(answer) == retriever.retrieve([Request(query=query)], 20).item_rows[0].tolist()
    assert rows(answer) == rows(engine.search(query, k=20, channel="recall"))
    assert rows(answer) != rows(engine.search(query, k=20, channel="dense"))
    by_photo = engine.search(photo=engine.photo_jpeg(answer[0].item_id), k=5)
    assert by_photo.channel is Channel.DENSE
    assert engine.search("☃☃", k=3).channel is Channel.POPULARITY  # no word of it is known


def test_filters_hold(engine):
    query = engine.example_queries(1)[0]
    everything = engine.search(query, k=engine.num_items)
    category = engine.item(everything[0].item_id)["category"]
    kept = [hit.item_row for hit in everything if engine.item(hit.item_id)["category"] == category]
    assert rows(engine.search(query, k=engine.num_items, filters=Filters(category=category))) == kept


def test_why_takes_title_photo_and_past_choices_away_one_by_one(engine, retriever):
    query = engine.example_queries(1)[0]
    hit = engine.search(query, k=1, explain=True)[0]
    assert hit.why.unmasked == pytest.approx(hit.why.score, abs=0.03)  # of the stored, rounded vector
    asked = retriever.request_vectors([Request(query=query)])[0]
    content = engine._embedder.items(
        [engine._snapshot.shelf.title(hit.item_row)], pixels=engine._snapshot.shelf.pixels([hit.item_row])[0]
    )
    known, unknown = (retriever.item_vectors([one], content=content)[0] @ asked for one in (hit.item_id, None))
    assert hit.why.unmasked == pytest.approx(known, abs=1e-4)
    assert hit.why.without_clicks == pytest.approx(unknown, abs=1e-4)
    assert engine.why(hit.item_id, query=query) == hit.why
    dense = engine.why(hit.item_id, query=query, channel="dense")
    assert dense.without_clicks is None
    assert dense.score != hit.why.score


def test_why_refuses_what_its_channel_does_not_read(engine):
    query = engine.example_queries(1)[0]
    hit = engine.search(query, k=1)[0]
    photo = engine.photo_jpeg(hit.item_id)
    with pytest.raises(EngineError, match="Channel 'recall' reads no photos"):
        engine.why(hit.item_id, query=query, photo=photo, channel="recall")
    for channel in ("bm25", "popularity"):
        with pytest.raises(EngineError, match=f"Channel '{channel}' explains what it finds alone"):
            engine.why(hit.item_id, query=query, channel=channel)
    both = engine.why(hit.item_id, query=query, photo=photo)
    assert both == engine.why(hit.item_id, query=query, photo=photo, channel="dense")


def test_a_new_item_is_found_by_what_it_is(demo_run, retriever):
    engine = Engine.open(demo_run)
    query = engine.example_queries(1)[0]
    first = engine.search(query, k=1)[0]
    twin = {"item_id": "twin", "title": engine.item(first.item_id)["title"], "photo": engine.photo_jpeg(first.item_id)}
    engine.add_items([twin])
    hits = engine.search(query, k=engine.num_items, explain=True)
    assert len(hits) == engine.num_items
    (new,) = [hit for hit in hits if hit.item_id == "twin"]
    assert new.why.without_clicks == pytest.approx(new.why.unmasked, abs=1e-6), "nobody has chosen it yet"
    old = next(hit for hit in hits if hit.item_id == first.item_id)
    assert new.why.unmasked == pytest.approx(old.why.without_clicks, abs=0.02)  # a photo that was a JPEG once more
    assert retriever.index.num_rows == engine.num_items - 1


def test_a_replaced_item_keeps_what_clicks_taught_of_it_and_a_removed_one_is_gone(demo_run, tmp_path):
    engine = Engine.open(demo_run, journal=tmp_path / "journal")
    query = engine.example_queries(1)[0]
    before = engine.search(query, k=20)
    kept, gone = before[0], before[1]
    row = {"item_id": kept.item_id, "title": engine.item(kept.item_id)["title"]}
    engine.replace_items([{**row, "photo": engine.photo_jpeg(kept.item_id)}])
    engine.remove_items([gone.item_id])
    for is_opened_again in (False, True):
        if is_opened_again:
            engine.close()
            engine = Engine.open(demo_run, journal=tmp_path / "journal")
        after = engine.search(query, k=20, explain=True)
        assert after.channel is Channel.RECALL
        found = {hit.item_id: hit for hit in after}
        assert len(found) == 20 and gone.item_id not in found
        again = found[kept.item_id]
        assert again.item_row != kept.item_row
        assert again.score == pytest.approx(kept.score, abs=0.05)  # its photo was a JPEG once more
        assert again.why.without_clicks != pytest.approx(again.why.unmasked, abs=1e-3)
    engine.close()


def test_a_model_of_another_encoder_is_refused(demo_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(demo_run, copy)
    _, parts = open_bundle(copy)
    manifest = parts.recall.path / MANIFEST
    tree = json.loads(manifest.read_text())
    tree["inputs"]["encoder"] = "0" * 16
    manifest.write_text(json.dumps(tree))
    with pytest.raises(ArtifactError, match="encoder"):
        Engine.open(copy)


def test_info_names_the_parts(engine, demo_run):
    parts = engine.info()["parts"]
    assert parts["recall"] == open_bundle(demo_run)[1].recall.id
    assert set(parts) >= {"recall", "recall_index", "encoder", "index"}


def test_recall_stands_in_the_report(demo_run):
    report = next((demo_run / "report").glob("*/records.json"))
    records = json.loads(report.read_text())
    assert {row["model"] for row in records} >= {"recall", "title+photo", "bm25"}
    pairs = [(row["model"], row["baseline"]) for row in records if row.get("baseline") and row["task"] == "search"]
    assert ("recall", "title+photo") in pairs
    assert ("title+photo", "recall") not in pairs
    assert np.isfinite([row["value"] for row in records if row["model"] == "recall"]).all()
