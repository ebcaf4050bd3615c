"""A ranker in a run: what it is trained of, what the report says of it, and what the engine does with it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient
from small_demo import preferring_the_ranker
from typer.testing import CliRunner

from triptych.cli import app
from triptych.data.askers import draw_askers
from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNK
from triptych.data.splits import Part, Split
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import Modality, encode_views, load_vectors, load_views
from triptych.encoders.inputs import View
from triptych.engine import Channel, Engine, Filters
from triptych.engine.bundle import open_bundle
from triptych.engine.ranking import RankedRetriever, Ranking
from triptych.evaluate.askers import as_request
from triptych.evaluate.report import read_records
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, EngineError
from triptych.foundation.types import Hits
from triptych.index.base import open_index
from triptych.metrics.classification import auc, group_aucs
from triptych.metrics.ranking import TargetSets, match, ndcg_at_k
from triptych.ranker.exported import ExportedRanker
from triptych.ranker.features import Past
from triptych.ranker.samples import read_samples
from triptych.ranker.scorer import Ranker
from triptych.recall.base import Request
from triptych.recall.retriever import LearnedRetriever
from triptych.recipes.ranked_line import LEAST_QUERIES
from triptych.recipes.run_folder import RunFolder
from triptych.recipes.views import of_modalities
from triptych.serve import create_app

CANDIDATES = 50
"""As the fixture's run has it."""


@pytest.fixture(scope="module")
def engine(ranked_run: Path) -> Engine:
    return Engine.open(ranked_run)


@pytest.fixture(scope="module")
def query(engine: Engine) -> str:
    return engine.example_queries(1)[0]


def modalities_in(folder: RunFolder) -> dict[str, np.ndarray]:
    vectors, views = (folder.stage(one) for one in ("embeddings title+photo seed 0", "item views ranker seed 0"))
    return of_modalities(list(Modality), item_vectors=vectors, views=views)


@pytest.fixture(scope="module")
def ranker(folder: RunFolder) -> Ranker:
    modalities = modalities_in(folder)
    catalogue = Catalogue.open(folder.stage("catalogue"))
    return Ranker.load(folder.stage("ranker seed 0"), catalogue=catalogue, modalities=modalities)


def rows(hits) -> list[int]:
    return [hit.item_row for hit in hits]


@pytest.fixture(scope="module")
def preferred_run(ranked_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preferring_the_ranker(ranked_run, tmp_path_factory.mktemp("preferred") / "run")


@pytest.fixture(scope="module")
def folder(ranked_run: Path) -> RunFolder:
    return RunFolder.existing(ranked_run)


def test_it_is_trained_of_the_served_encoders_vectors(folder: RunFolder):
    ranker = folder.stage("ranker seed 0")
    read = {
        "encoder": "encoder title+photo seed 0",
        "embeddings": "embeddings title+photo seed 0",
        "item_views": "item views ranker seed 0",
    }
    assert {name: ranker.inputs[name] for name in read} == {name: folder.stage(one).id for name, one in read.items()}
    assert ranker.summary["positives"] < ranker.summary["samples"]


def test_title_and_photo_are_encoded_alone_and_absent_sides_said_to_be(folder: RunFolder):
    catalogue = Catalogue.open(folder.stage("catalogue"))
    stored = load_views(folder.stage("item views ranker seed 0"))
    rows = np.flatnonzero(np.asarray(catalogue.photos.has))[:8]
    embedder = Embedder.open(folder.stage("encoder title+photo seed 0"))
    titles, pixels = [catalogue.titles[row] for row in rows], catalogue.photos.pixels(rows)
    whole = embedder.item_views(titles, views=[View.ITEM], pixels=pixels)[View.ITEM]
    items = load_vectors(folder.stage("embeddings title+photo seed 0"))[rows]
    np.testing.assert_allclose(whole, items, atol=0.02)
    has = np.arange(8) != 1
    found = encode_views([None, *titles[1:]], pixels=pixels, has_photo=has, embedder=embedder)
    for side, is_there in (("title", np.arange(8) != 0), ("photo", has)):
        assert np.array_equal(~np.isnan(found[side]).any(axis=1), is_there)
        np.testing.assert_allclose(found[side][is_there], stored[side][rows][is_there], atol=0.02)


def test_the_report_measures_what_was_shown_and_the_whole_line(folder: RunFolder, ranker: Ranker):
    records = [one for one in read_records(folder.stage("report")) if "baseline" not in one and one["slice"] == "all"]
    shown = {one["model"]: one for one in records if one["task"] == "ranking by user" and one["metric"] == "auc"}
    assert set(shown) == {"constant", "popularity", "title+photo", "recall", "ranker"}
    split = Split.open(folder.stage("split"))
    samples = read_samples(Catalogue.open(folder.stage("catalogue")), places=split.test)
    assert shown["ranker"]["num_queries"] == len(samples.label)
    assert shown["ranker"]["value"] == pytest.approx(auc(samples.label, ranker.score_samples(samples)))
    found = {one["model"] for one in records if one["task"] == "search" and one["metric"] == "ndcg"}
    assert {"recall", "ranked"} <= found
    pairs = [one for one in read_records(folder.stage("report")) if one["model"] == "ranked" and "baseline" in one]
    assert {one["baseline"] for one in pairs} == {"recall", "title+photo"}


def test_encoders_and_recall_are_asked_of_what_was_shown_by_the_same_words(folder: RunFolder, engine: Engine):
    """The cosine of a sample's row is the score that the engine's channel gives that item."""
    per_group = pl.read_parquet(folder.stage("report").file("per_query.parquet"))
    catalogue, split = Catalogue.open(folder.stage("catalogue")), Split.open(folder.stage("split"))
    samples = read_samples(catalogue, places=split.test)
    groups = group_aucs(samples.label, np.zeros(len(samples.label)), groups=samples.user_row)
    user_row = int(groups.groups[groups.is_defined & (groups.sizes > 15) & (groups.sizes < 40)][0])
    own = samples.of_requests(np.flatnonzero(samples.requests.user_row == user_row))
    scores = [
        engine.score(catalogue.queries[own.requests.query_row[request]], [catalogue.item_ids[row]])[0]
        for request, row in zip(own.request, own.item_row, strict=True)
    ]
    asked = {"task": "ranking by user", "slice": "all", "model": "title+photo", "group": catalogue.users[user_row]}
    stored = per_group.filter(**asked)
    assert stored["gauc"].to_list() == pytest.approx([auc(own.label, np.array(scores))], abs=0.01)
    assert stored["samples"].to_list() == [len(own.label)]


def test_it_orders_the_first_by_its_own_scores(engine: Engine, ranker: Ranker, folder: RunFolder, query: str):
    before = rows(engine.search(query, k=80, rank=False))
    answer = engine.search(query, k=80, rank=True, explain=True)
    assert answer.channel is Channel.RECALL and answer.is_ranked
    assert rows(answer)[CANDIDATES:] == before[CANDIDATES:]
    assert sorted(rows(answer)[:CANDIDATES]) == sorted(before[:CANDIDATES]) and rows(answer) != before
    catalogue = Catalogue.open(folder.stage("catalogue"))
    end = int(catalogue.event_array("time")[-1]) + 1
    asking = ranker.features.of_words(user=None, query=query, cell=None, time_us=end, past=None)
    logits = ranker.score(asking, item_rows=np.array(rows(answer)[:CANDIDATES]))
    assert (np.diff(logits) <= 0).all()
    for place, hit in enumerate(answer[:CANDIDATES]):
        assert hit.why.ranked == hit.ranked
        assert before[hit.ranked.place - 1] == hit.item_row
        assert hit.ranked.probability == pytest.approx(1 / (1 + np.exp(-logits[place])), rel=1e-4)
        assert hit.score == hit.why.score
    assert answer[-1].ranked is None
    assert rows(engine.search(query, k=5, rank=True)) == rows(answer)[:5]
    told = engine.why(answer[3].item_id, query=query, rank=True)
    assert told.ranked.place == answer[3].ranked.place
    assert told.ranked.probability == pytest.approx(answer[3].ranked.probability, rel=1e-4)
    assert engine.why(answer[-1].item_id, query=query, rank=True).ranked is None
    assert engine.why(answer[3].item_id, query=query, rank=False).ranked is None


@pytest.fixture(scope="module")
def regular(folder: RunFolder) -> str:
    """The user with the longest history."""
    catalogue = Catalogue.open(folder.stage("catalogue"))
    return catalogue.users[int(np.argmax(np.diff(catalogue.histories.offsets)))]


def test_who_asks_and_where_changes_the_order(
    engine: Engine, ranker: Ranker, folder: RunFolder, query: str, regular: str
):
    catalogue, user = Catalogue.open(folder.stage("catalogue")), regular
    places = catalogue.histories.of(catalogue.user_row(user))
    cell = str(catalogue.events["cell"].drop_nulls()[0])
    answer = engine.search(query, k=CANDIDATES, rank=True, user=user, filters=Filters(cell=cell))
    past = Past(*(catalogue.event_array(name)[places] for name in ("item_row", "time", "kind")))
    end = int(catalogue.event_array("time")[-1]) + 1
    asking = ranker.features.of_words(user=user, query=query, cell=cell, time_us=end, past=past)
    logits = ranker.score(asking, item_rows=np.array(rows(answer)))
    assert (np.diff(logits) <= 0).all()
    alone = [hit.ranked.probability for hit in engine.search(query, k=CANDIDATES, rank=True)]
    assert [hit.ranked.probability for hit in answer] != pytest.approx(alone, rel=1e-3)


def test_many_requests_are_ordered_as_one_by_one(engine: Engine, ranker: Ranker, folder: RunFolder):
    """Users with long histories, short ones and none in one batch."""
    catalogue, parts = Catalogue.open(folder.stage("catalogue")), open_bundle(folder.path)[1]
    encoder, index = Embedder.open(parts.encoder), open_index(parts.recall_index)
    recall = LearnedRetriever.load(parts.recall.path, index=index, encoder=encoder)
    by_length = np.argsort(np.diff(catalogue.histories.offsets), kind="stable")
    users = [None, *(catalogue.users[row] for row in by_length[[0, len(by_length) // 2, -1]])]
    requests = [Request(query=one, user=user) for one in engine.example_queries(3) for user in users]
    found = recall.retrieve(requests, 60)
    hits, placed = Ranking(ranker, candidates=CANDIDATES, catalogue=catalogue).order(requests, found)
    for place, request in enumerate(requests):
        answer = engine.search(request.query, k=CANDIDATES, rank=True, user=request.user)
        alone = {one.item_row: one.ranked for one in answer}
        assert set(placed[place]) == set(alone)
        for row, made in placed[place].items():
            assert made.place == alone[row].place
            assert made.probability == pytest.approx(alone[row].probability, rel=1e-4)
        assert np.array_equal(hits.item_rows[place, CANDIDATES:], found.item_rows[place, CANDIDATES:])
        score_of = dict(zip(found.item_rows[place], found.scores[place], strict=True))
        assert [score_of[row] for row in hits.item_rows[place]] == hits.scores[place].tolist()


def test_nothing_after_the_moment_is_looked_up(ranker: Ranker, folder: RunFolder, query: str):
    catalogue = Catalogue.open(folder.stage("catalogue"))
    times = catalogue.event_array("time")
    user_row = int(np.argmax(np.diff(catalogue.histories.offsets)))
    user, places = catalogue.users[user_row], catalogue.histories.of(user_row)
    middle = int(times[places[len(places) // 2]])
    found = Hits(np.arange(20)[None], np.zeros((1, 20), np.float32))
    late, then = (Ranking(ranker, candidates=20, catalogue=catalogue, moment_us=one) for one in (None, middle))
    asked = late.order([Request(query=query, user=user, before=int(places[len(places) // 2]))], found).placed[0]
    assert asked == then.order([Request(query=query, user=user)], found).placed[0]
    by_nobody = [then.order([Request(query=query, before=one)], found).placed[0] for one in (None, 0)]
    assert by_nobody[0] == by_nobody[1] != asked, "nobody has no moment of his own"
    past = [catalogue.event_array(name)[places] for name in ("item_row", "time", "kind")]
    known = past[1] < middle
    asking = ranker.features.of_words(
        user=user, query=query, cell=None, time_us=middle, past=Past(*(one[known] for one in past))
    )
    logits = ranker.score(asking, item_rows=np.arange(20))
    assert [asked[row].probability for row in range(20)] == pytest.approx(
        (1 / (1 + np.exp(-logits))).tolist(), rel=1e-4
    )


def test_the_rule_is_what_validation_says(folder: RunFolder, ranker: Ranker):
    """Its summary is made again from the validation part's clicks, each query asked for one of those who clicked."""
    parts = open_bundle(folder.path)[1]
    ranking = parts.ranking
    catalogue, split = Catalogue.open(folder.stage("catalogue")), Split.open(folder.stage("split"))
    targets = split.targets(Part.VALIDATION)
    assert ranking.summary["queries"] == len(targets.query_row)
    encoder, index = Embedder.open(parts.encoder), open_index(parts.recall_index)
    recall = LearnedRetriever.load(parts.recall.path, index=index, encoder=encoder, catalogue=catalogue)
    places = split.part(Part.VALIDATION)
    of = {"places": places, "query_rows": targets.query_row.astype(np.int64), "most": 1, "seed": 0}
    askers, queries = draw_askers(catalogue, **of), [catalogue.queries[row] for row in targets.query_row]
    assert (askers.user_row >= 0).all() and (askers.before >= places.start).all()
    asked = [as_request(askers, place, queries=queries, users=catalogue.users) for place in range(len(queries))]
    wanted = TargetSets(targets.offsets, targets.item_rows)
    line = Ranking(ranker, candidates=CANDIDATES, catalogue=catalogue)
    ranked = RankedRetriever(recall, line, name="ranked")
    for name, retriever in (("recall", recall), ("ranked", ranked)):
        value = ndcg_at_k(match(retriever.retrieve(asked, 10).item_rows, targets=wanted), k=10).mean()
        assert ranking.summary[f"ndcg@10 {name}"] == pytest.approx(value), name
    personal = ranked.retrieve(asked, 10).item_rows
    assert not np.array_equal(personal, ranked.retrieve([Request(query=one) for one in queries], 10).item_rows)
    enough = ranking.summary["queries"] >= LEAST_QUERIES
    assert ranking.summary["is_preferred"] == (enough and ranking.summary["gain"][0] > 0)


def test_it_is_the_default_only_where_validation_prefers_it(engine, preferred_run: Path, query: str):
    is_preferred = open_bundle(preferred_run)[1].ranking.summary["is_preferred"]
    assert engine.search(query, k=3).is_ranked == is_preferred == engine.info()["search_is_ranked"]
    shop = Engine.open(preferred_run)
    assert shop.info()["search_is_ranked"]
    assert rows(shop.search(query, k=9)) == rows(engine.search(query, k=9, rank=True))
    assert not shop.search(query, k=3, rank=False).is_ranked
    title = shop.item(shop.search(query, k=1)[0].item_id)["title"]
    assert not shop.search(title, k=3, channel="bm25").is_ranked
    assert shop.search(title, k=3, channel="bm25", rank=True).is_ranked
    photo = shop.photo_jpeg(shop.search(query, k=1)[0].item_id)
    assert not shop.search(photo=photo, k=3).is_ranked
    assert not shop.search("☃☃", k=3).is_ranked
    assert not shop.similar(shop.search(query, k=1)[0].item_id).is_ranked


def test_what_it_cannot_order_is_refused(engine: Engine, demo_run: Path, query: str):
    photo = engine.photo_jpeg(engine.search(query, k=1)[0].item_id)
    for asked in ({"photo": photo}, {"query": query, "photo": photo}, {"channel": "popularity"}):
        with pytest.raises(EngineError, match="by words alone"):
            engine.search(**asked, rank=True)
    with pytest.raises(EngineError, match="no ranker"):
        Engine.open(demo_run).search(query, rank=True)


def test_an_added_item_is_found_and_scored_by_its_content(ranked_run: Path, query: str):
    shop = Engine.open(ranked_run)
    first = shop.search(query, k=1, rank=False)[0].item_id
    known = shop.item(first)
    row = {name: known[name] for name in ("title", "category", "price", "cells")} | {"photo": shop.photo_jpeg(first)}
    shop.add_items([{**row, "item_id": "brand new"}, {"item_id": "bare", "title": known["title"]}])
    found = {hit.item_id: hit.ranked for hit in shop.search(query, k=CANDIDATES, rank=True)}
    assert len({found[one].probability for one in ("brand new", "bare", first)}) == 3
    shop.replace_items([{**row, "item_id": first}])
    shop.remove_items(["bare"])
    found = {hit.item_id: hit.ranked for hit in shop.search(query, k=CANDIDATES, rank=True)}
    assert found[first] is not None and "bare" not in found


def test_items_behind_the_catalogue_are_read_as_those_in_it(ranker: Ranker, folder: RunFolder, query: str):
    """The same rows once more have the same scores; under other ids those of items whose ids are hidden."""
    catalogue = Catalogue.open(folder.stage("catalogue"))
    modalities = modalities_in(folder)
    rows_, end = np.arange(0, 600, 40), catalogue.num_items
    items, own = catalogue.items[rows_.tolist()], {name: one[rows_] for name, one in modalities.items()}
    renamed = items.with_columns(item_id=pl.lit("new ") + pl.col("item_id"))
    more = ranker.with_items(items, modalities=own).with_items(renamed, modalities=own)
    asking = more.features.of_words(user=None, query=query, cell=None, time_us=2**51, past=None)
    behind = np.arange(end, end + len(rows_))
    old, same, new = (more.score(asking, item_rows=some) for some in (rows_, behind, behind + len(rows_)))
    np.testing.assert_array_equal(same, old)
    given = ranker.features.candidates(asking, request=np.zeros(len(rows_), np.int64), item_rows=rows_)
    given.items.fields[:, 0] = UNK
    with torch.no_grad():
        hidden = ranker.model(given).logits.numpy()
    np.testing.assert_allclose(new, hidden, rtol=1e-5)
    assert not np.allclose(new, old)


@pytest.mark.parametrize("part", ["encoder", "catalogue", "item_views"])
def test_a_ranker_of_something_else_is_refused(ranked_run: Path, tmp_path: Path, part: str):
    shutil.copytree(ranked_run, tmp_path / "run")
    ranker = open_bundle(tmp_path / "run")[1].ranker
    manifest = json.loads((ranker.path / "artifact.json").read_text())
    manifest["inputs"][part] = "0" * 16
    (ranker.path / "artifact.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=part):
        Engine.open(tmp_path / "run")


def test_over_http_it_is_asked_for_and_explained(preferred_run: Path, query: str, regular: str):
    with TestClient(create_app(Engine.open(preferred_run), allowed_hosts=["testserver"])) as client:
        while client.get("/ready").status_code == 503:
            time.sleep(0.05)
        ranked = client.get("/api/search", params={"q": query, "k": 5, "explain": True}).json()
        plain = client.get("/api/search", params={"q": query, "k": 5, "rank": False}).json()
        assert ranked["ranked"] and not plain["ranked"]
        why = ranked["hits"][0]["why"]["ranked"]
        assert why["place"] >= 1 and 0 < why["probability"] < 1
        item = ranked["hits"][0]["item"]["item_id"]
        assert client.get("/api/why", params={"q": query, "item_id": item}).json()["ranked"] == pytest.approx(why)
        asked = {"q": query, "item_id": item, "rank": False}
        assert client.get("/api/why", params=asked).json()["ranked"] is None
        assert client.get("/api/search", params={"channel": "popularity", "rank": True}).status_code == 422

        def chances(**user: str) -> list[float]:
            asked = {"q": query, "k": 5, "explain": True, **user}
            return [
                hit["why"]["ranked"]["probability"] for hit in client.get("/api/search", params=asked).json()["hits"]
            ]

        own = chances(user=regular)
        assert own != pytest.approx(chances(), rel=1e-3)
        assert chances(user="nobody's name") == chances()
        found = client.get("/api/search", params={"q": query, "k": 5, "user": regular}).json()["hits"]
        why = client.get(
            "/api/why", params={"q": query, "item_id": found[0]["item"]["item_id"], "user": regular}
        ).json()
        assert why["ranked"]["probability"] == pytest.approx(own[0], rel=1e-4)


def test_on_the_command_line(ranked_run: Path, engine: Engine, query: str, regular: str):
    runner = CliRunner()
    ranked = runner.invoke(app, ["search", str(ranked_run), query, "--rank", "--json", "--why", "--k", "3"])
    assert ranked.exit_code == 0, ranked.output
    hits = json.loads(ranked.stdout)
    assert hits[0]["why"]["ranked"] == hits[0]["ranked"] and hits[0]["ranked"]["place"] >= 1
    plain = runner.invoke(app, ["search", str(ranked_run), query, "--no-rank", "--json", "--k", "3"])
    assert {hit["ranked"] for hit in json.loads(plain.stdout)} == {None}
    own = runner.invoke(app, ["search", str(ranked_run), query, "--rank", "--json", "--k", "3", "--user", regular])
    wanted = [hit.item_id for hit in engine.search(query, k=3, rank=True, user=regular)]
    assert [hit["item_id"] for hit in json.loads(own.stdout)] == wanted


def test_the_ranker_of_a_run_is_exported(preferred_run: Path, ranker: Ranker, folder: RunFolder, tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="exports need the 'export' extra")
    pytest.importorskip("onnxscript", reason="exports need the 'export' extra")
    result = CliRunner().invoke(app, ["export", str(preferred_run), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert set(told["graphs"]) == {"ranker.onnx", "content.onnx"}
    exported = Artifact.open(told["path"])
    run = RunFolder.existing(preferred_run)
    assert exported.path not in [path for path, _ in run.prune(delete=False)]
    catalogue = Catalogue.open(run.stage("catalogue"))
    found = ExportedRanker.load(exported, catalogue=catalogue, beside={"ranker": open_bundle(preferred_run)[1].ranker})
    samples = read_samples(catalogue, places=Split.open(folder.stage("split")).part(Part.VALIDATION))
    np.testing.assert_allclose(found.score_samples(samples), ranker.score_samples(samples), rtol=1e-5, atol=1e-5)
