"""A shop whose recall model reads titles beside semantic IDs: its row, its channel, and what becomes of new items."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_demo import DEMO_SETTINGS

from triptych.data.catalogue import Catalogue
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import Modality, load_views
from triptych.encoders.inputs import View
from triptych.engine import Channel, Engine
from triptych.engine.bundle import Parts, check_lineage, open_bundle
from triptych.evaluate.report import read_records
from triptych.foundation.artifact import MANIFEST, Artifact
from triptych.foundation.errors import ArtifactError, EngineError
from triptych.index.base import open_index
from triptych.recall.base import Request
from triptych.recall.models.dense import DenseConfig
from triptych.recall.retriever import LearnedRetriever
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.recall import TrainedRecall
from triptych.recipes.run_folder import RunFolder
from triptych.semantic_ids.stored import PARTS, SemanticIds

BESIDE = {"model": {"kind": "semantic_tower", "content": "none"}, "epochs": 0.2, "num_negatives": 200}
SETTINGS = (
    *DEMO_SETTINGS,
    "recall.model.kind=semantic_tower",
    "recall.model.content=both",
    "recall.model.dim=32",
    "recall.epochs=1",
    'semantic_ids.sets=["photo","item","title"]',
    f"recall_beside={json.dumps({'titles': BESIDE})}",
    "compare=[]",
    "photo_queries=0",
    "evaluation.examples=0",
    "evaluation.max_queries=50",
    "evaluation.bootstrap_repeats=100",
)


@pytest.fixture(scope="module")
def tower_run(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small demo with this model; all before it is found finished."""
    out = tmp_path_factory.mktemp("tower") / "run"
    shutil.copytree(demo_run, out)
    resolved = resolve("demo", settings=SETTINGS)
    run_pipeline(resolved.config, base=resolved.base, out=out)
    return out


@pytest.fixture(scope="module")
def parts(tower_run: Path) -> Parts:
    return open_bundle(tower_run)[1]


@pytest.fixture
def engine(tower_run: Path) -> Engine:
    return Engine.open(tower_run)


def stage(run: Path, name: str, *, record: str) -> Artifact:
    """Open what the run has recorded."""
    recorded = json.loads((run / "run.json").read_text())["stages"]
    return Artifact.open(run / recorded[record], kind=name)


def recall_vectors(engine: Engine, item_ids: list[str]) -> np.ndarray:
    now = engine._snapshot
    return now.recall_index.vectors(np.array([now.shelf.row(one) for one in item_ids]))


def twins_of(engine: Engine, items: list[str]) -> list[dict]:
    """Rows of new items with title and photo of others, as the encoder saw them: not a JPEG once more."""
    found = []
    for item in items:
        pixels, has = engine._snapshot.shelf.pixels([engine._snapshot.shelf.row(item)])
        assert has[0]
        file = BytesIO()
        Image.fromarray(pixels[0]).save(file, format="PNG")
        found.append({"item_id": f"twin of {item}", "title": engine.item(item)["title"], "photo": file.getvalue()})
    return found


def test_what_is_served_is_what_was_measured(engine: Engine, parts: Parts, tower_run: Path) -> None:
    assert parts.recall is not None and parts.recall_index is not None
    catalogue = Catalogue.open(parts.catalogue)
    trained = TrainedRecall(parts.recall, parts.recall_index, parts.encoder, None, catalogue, None)
    measured = trained.retriever(name="recall", config=resolve("demo", settings=SETTINGS).config)
    queries = engine.example_queries(20)
    expected = measured.retrieve([Request(query=query) for query in queries], 20)
    for query, item_rows, scores in zip(queries, *expected, strict=True):
        answer = engine.search(query, k=20)
        assert answer.channel is Channel.RECALL
        assert [hit.item_row for hit in answer] == item_rows.tolist()
        np.testing.assert_allclose([hit.score for hit in answer], scores, atol=1e-5)
    records = [one for one in read_records(RunFolder.existing(tower_run).stage("report")) if one["task"] == "search"]
    assert {one["model"] for one in records} >= {"recall", "titles", "title+photo"}
    values = {
        one["model"]: one["value"]
        for one in records
        if one.get("metric") == "recall" and one.get("k") == 20 and one["slice"] == "all" and not one.get("baseline")
    }
    assert values["recall"] > 1.5 * values["popularity"]  # it has learned what the words ask for


def test_its_tokens_are_of_the_runs_own_ids(parts: Parts, tower_run: Path) -> None:
    assert parts.recall is not None
    for name in PARTS.values():
        assert parts.recall.inputs[name] == getattr(parts, name).id
    beside = stage(tower_run, "recall", record="recall titles seed 0")
    assert "semantic_ids" not in beside.inputs and "item_views" in beside.inputs
    assert len(list((tower_run / "semantic_ids").glob(f"*/{MANIFEST}"))) == 3  # they are made once
    for of, name in PARTS.items():
        with pytest.raises(ArtifactError, match=f"recall model reads semantic IDs, and there are none of the {of}"):
            check_lineage(replace(parts, **{name: None}))
        with pytest.raises(ArtifactError, match=name):
            check_lineage(replace(parts, **{name: parts.index}))  # an artefact of another id


def test_each_set_has_codebooks_of_its_own_and_the_report_shows_it(parts: Parts, tower_run: Path) -> None:
    catalogue = Catalogue.open(parts.catalogue)
    views = load_views(stage(tower_run, "item_views", record="item views titles seed 0"))
    has = {Modality.TITLE: ~np.isnan(views["title"][:, 0]), Modality.PHOTO: np.asarray(catalogue.photos.has)}
    for of, there in has.items():
        ids = SemanticIds.open(getattr(parts, PARTS[of]))
        found = np.ones(len(there), np.bool_) if ids.there is None else ids.there
        np.testing.assert_array_equal(found, there)
        np.testing.assert_array_equal(ids.codes[there], ids.quantizer.assign(views[of.value][there]))
        assert ids.quality.items == there.sum()
    page = RunFolder.existing(tower_run).stage("report").file("report.html").read_text(encoding="utf-8")
    assert all(f"semantic ids {of}: " in page for of in has)


def test_the_path_of_each_set_is_shown(engine: Engine, parts: Parts) -> None:
    items = [engine._snapshot.shelf.item_id(row) for row in range(0, 600, 50)]
    for of, name in PARTS.items():
        ids = SemanticIds.open(getattr(parts, name))
        for item in items:
            row = engine._snapshot.shelf.row(item)
            found = engine.code_path(item, k=2, of=of.value)
            own = ids.codes[row].tolist() if ids.there is None or ids.there[row] else []
            assert (found.codes, found.of, found.sets) == (own, of.value, ["item", "title", "photo"])
            alike = (np.asarray(ids.codes) == ids.codes[row]).all(axis=1)
            alike &= True if ids.there is None else ids.there
            if own:
                assert found.steps[0].num_items == alike.sum() - 1
    with pytest.raises(EngineError, match="semantic IDs of item, title, photo, and none of 'colour'"):
        engine.code_path(items[0], of="colour")


def test_a_side_that_an_item_lacks_has_no_id(engine: Engine) -> None:
    known = next(one for one in map(engine._snapshot.shelf.item_id, range(600)) if engine.item(one)["has_photo"])
    (row,) = twins_of(engine, [known])
    engine.add_items([{"item_id": "unseen", "title": "red shirt"}, {"item_id": "untitled", "photo": row["photo"]}])
    codes = {one: [len(engine.code_path(one, of=of.value).codes) for of in PARTS] for one in ("unseen", "untitled")}
    assert codes == {"unseen": [3, 3, 0], "untitled": [3, 0, 3]}
    assert engine.code_path("untitled", of="title").steps == []
    assert engine.code_path("untitled", of="photo").codes == engine.code_path(known, of="photo").codes


def test_a_new_item_is_read_as_its_like_was_in_training(engine: Engine) -> None:
    known = [engine._snapshot.shelf.item_id(row) for row in range(0, 600, 20)]
    known = [item for item in known if engine.item(item)["title"] and engine.item(item)["has_photo"]]
    assert len(known) > 10
    twins = engine.add_items(twins_of(engine, known))
    own, new = recall_vectors(engine, known), recall_vectors(engine, twins)
    codes = [
        [[engine.code_path(item, of=of.value).codes for of in PARTS] for item in items] for items in (known, twins)
    ]
    alike = [one == other for one, other in zip(*codes, strict=True)]
    assert np.mean(alike) > 0.8  # IDs are made of vectors in half precision, and a code may be as near as another
    assert (own * new).sum(axis=1)[alike].min() > 0.999
    query = engine.example_queries(1)[0]
    scores = {hit.item_id: hit.score for hit in engine.search(query, k=engine.num_items)}
    assert len(scores) == engine.num_items
    for item, twin, is_alike in zip(known, twins, alike, strict=True):
        if is_alike:
            assert scores[twin] == pytest.approx(scores[item], abs=0.02)


def test_a_new_item_is_its_title_its_vector_and_its_code(engine: Engine, parts: Parts) -> None:
    assert parts.recall is not None and parts.recall_index is not None and parts.semantic_ids is not None
    embedder = Embedder.open(parts.encoder)
    retriever = LearnedRetriever.load(parts.recall.path, index=open_index(parts.recall_index), encoder=embedder)
    first, second = (hit.item_id for hit in engine.search(engine.example_queries(1)[0], k=2))
    title = engine.item(first)["title"]
    photo = twins_of(engine, [second])[0]["photo"]
    new = [
        {"item_id": "mixed", "title": title, "photo": photo},
        {"item_id": "untitled", "photo": photo},
        {"item_id": "unseen", "title": title},
    ]
    engine.add_items(new)
    pixels, has_photo = engine._snapshot.shelf.pixels([engine._snapshot.shelf.row(one["item_id"]) for one in new])
    content = embedder.items([title, None, title], pixels=pixels, has_photo=has_photo)
    titles = embedder.item_views([title, None, title], views=(View.TITLE,), pixels=pixels, has_photo=has_photo)
    title_content = titles[View.TITLE]
    title_content[1] = np.nan
    photos = embedder.item_views([None] * 3, views=(View.PHOTO,), pixels=pixels, has_photo=has_photo)[View.PHOTO]
    photos[2] = np.nan
    sets = []
    for of, vectors in {Modality.ITEM: content, Modality.TITLE: title_content, Modality.PHOTO: photos}.items():
        there = ~np.isnan(vectors[:, 0])
        own = np.full((3, 3), -1)
        own[there] = SemanticIds.open(getattr(parts, PARTS[of])).assign(vectors[there])
        sets.append(own)
    codes = np.concatenate(sets, axis=1)
    expected = retriever.item_vectors([None] * 3, content=content, title_content=title_content, codes=codes)
    found = recall_vectors(engine, [one["item_id"] for one in new])
    np.testing.assert_allclose(found, expected, atol=2e-3)  # an index may keep vectors in half precision
    assert (found[0] * found[1:]).sum(axis=1).max() < 0.999  # title and photo are both of some effect


def test_replaced_and_removed_items_and_the_journal(tower_run: Path, tmp_path: Path) -> None:
    engine = Engine.open(tower_run, journal=tmp_path / "journal")
    query = engine.example_queries(1)[0]
    kept, gone = engine.search(query, k=2)
    (row,) = twins_of(engine, [kept.item_id])
    engine.replace_items([{**row, "item_id": kept.item_id}])
    engine.remove_items([gone.item_id])
    after = engine.search(query, k=20, explain=True)
    found = {hit.item_id: hit for hit in after}
    assert gone.item_id not in found and len(found) == 20
    again = found[kept.item_id]
    assert again.item_row != kept.item_row
    assert again.score == pytest.approx(kept.score, abs=0.05)
    assert again.why is not None and again.why.unmasked == pytest.approx(again.score, abs=0.01)
    assert again.why.without_title is not None
    assert again.why.without_title != pytest.approx(again.why.unmasked, abs=1e-3)
    engine.replace_items([{"item_id": kept.item_id, "title": "nothing like it"}])
    changed = engine.search(query, k=engine.num_items)
    assert next(hit.score for hit in changed if hit.item_id == kept.item_id) < kept.score
    engine.close()
    opened = Engine.open(tower_run, journal=tmp_path / "journal")
    replayed = opened.search(query, k=opened.num_items)
    assert [hit.item_id for hit in replayed] == [hit.item_id for hit in changed]
    opened.close()


def test_titles_alone_take_no_ids(tower_run: Path, parts: Parts) -> None:
    """The row beside, served: a shop without semantic IDs."""
    alone = replace(
        parts,
        recall=stage(tower_run, "recall", record="recall titles seed 0"),
        recall_index=stage(tower_run, "index", record="index titles seed 0"),
        **dict.fromkeys(PARTS.values()),
    )
    check_lineage(alone)
    engine = Engine(alone, bundle_id="0" * 16, dense=DenseConfig())
    known = engine.search(engine.example_queries(1)[0], k=1)[0].item_id
    engine.add_items([{"item_id": "twin", "title": engine.item(known)["title"]}])  # its photo says nothing
    own, new = recall_vectors(engine, [known, "twin"])
    assert own @ new > 0.9999
    views = stage(tower_run, "item_views", record="item views titles seed 0")
    assert np.isfinite(load_views(views)["title"][engine._snapshot.shelf.row(known)]).all()
