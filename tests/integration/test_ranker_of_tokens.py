"""A ranker that reads words and patches, in a run: stored once, in the bundle, and for items that come later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_demo import DEMO_SETTINGS, SMALL_RANKER

from triptych.data.catalogue import Catalogue
from triptych.encoders.embeddings import load_vectors
from triptych.encoders.item_states import load_states
from triptych.engine import Engine
from triptych.engine.bundle import open_bundle
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.scorer import Ranker
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder

STATES = {
    **SMALL_RANKER,
    "content": {"kind": "em3", "form": "full", "tokens": "states", "dim": 8, "width": 16, "layers": 1, "heads": 2},
    "batch_samples": 256,
    "epochs": 0.05,
    "validation_samples": 400,
}


@pytest.fixture(scope="module")
def run(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    less = ("recall=null", "compare=[]", "photo_queries=0", "evaluation.examples=0", "evaluation.bootstrap_repeats=100")
    found = resolve("demo", settings=(*DEMO_SETTINGS, *less))
    config = found.config.merged({"ranker": RankTrainConfig.parse(STATES).dump(), "rank_candidates": 20})
    out = tmp_path_factory.mktemp("tokens") / "run"
    shutil.copytree(demo_run, out)
    run_pipeline(config, base=out, out=out)
    return out


@pytest.fixture(scope="module")
def states(run: Path) -> Artifact:
    return RunFolder.existing(run).stage("item states ranker seed 0")


def test_it_is_trained_of_stored_words_and_patches(run: Path, states: Artifact):
    folder = RunFolder.existing(run)
    ranker = folder.stage("ranker seed 0")
    assert ranker.inputs["item_states"] == states.id and "item_views" not in ranker.inputs
    patches = (Catalogue.open(folder.stage("catalogue")).photos.px // 16) ** 2
    found = load_states(states)
    assert found["photo"].shape == (600, patches, 64)
    assert found["title"].shape == (600, states.summary["tokens"]["title"], 64)
    assert states.summary["bytes"] == sum(one.nbytes for one in found.values())
    titles = (~np.isnan(found["title"]).any(axis=2)).sum(axis=1)
    assert len(np.unique(titles)) > 1, "titles differ in length"
    assert open_bundle(run)[1].item_states.id == states.id


def test_its_engine_ranks_by_them_also_what_came_since(run: Path, states: Artifact):
    shop, folder = Engine.open(run), RunFolder.existing(run)
    query = shop.example_queries(1)[0]
    catalogue = Catalogue.open(folder.stage("catalogue"))
    vectors = load_vectors(folder.stage("embeddings title+photo seed 0"))
    modalities = {"item": vectors, **load_states(states)}
    ranker = Ranker.load(folder.stage("ranker seed 0"), catalogue=catalogue, modalities=modalities)
    answer = shop.search(query, k=20, rank=True)
    end = int(catalogue.event_array("time")[-1]) + 1
    asking = ranker.features.of_words(user=None, query=query, cell=None, time_us=end, past=None)
    logits = ranker.score(asking, item_rows=np.array([hit.item_row for hit in answer]))
    found = [hit.ranked.probability for hit in answer]
    assert found == pytest.approx(list(1 / (1 + np.exp(-logits))), rel=1e-3)
    first = shop.search(query, k=1, rank=False)[0].item_id
    known = shop.item(first)
    row = {name: known[name] for name in ("title", "category", "price", "cells")} | {"photo": shop.photo_jpeg(first)}
    shop.add_items([{**row, "item_id": "brand new"}, {"item_id": "bare", "title": known["title"]}])
    chances = {hit.item_id: hit.ranked for hit in shop.search(query, k=20, rank=True)}
    assert len({chances[one].probability for one in ("brand new", "bare", first)}) == 3


def test_states_of_something_else_are_refused(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    ranker = open_bundle(tmp_path / "run")[1].ranker
    manifest = json.loads((ranker.path / "artifact.json").read_text())
    manifest["inputs"]["item_states"] = "0" * 16
    (ranker.path / "artifact.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="item_states"):
        Engine.open(tmp_path / "run")
