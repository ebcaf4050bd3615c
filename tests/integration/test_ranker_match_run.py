"""A ranker that reads how query and item go together: in a run and its engine, and as a row of a table."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from small_demo import DEMO_SETTINGS, SMALL_RANKER

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import load_vectors
from triptych.engine import Engine
from triptych.engine.bundle import open_bundle
from triptych.engine.ranking import Ranking
from triptych.foundation.types import Hits
from triptych.index.base import open_index
from triptych.ranker.match import Match
from triptych.ranker.samples import read_samples
from triptych.ranker.scorer import Ranker
from triptych.recall.base import Request
from triptych.recipes import resolve
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.ranker import RankerConfig, RankerPlan, train_rankers
from triptych.recipes.run_folder import RunFolder
from triptych.recipes.stages import Stages

MATCHED = {**SMALL_RANKER, "content": {"kind": "none"}, "reads_match": True, "validation_samples": 500}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    less = ("recall=null", "compare=[]", "photo_queries=0", "evaluation.examples=0", "evaluation.bootstrap_repeats=100")
    found = resolve("demo", settings=(*DEMO_SETTINGS, *less))
    return found.config.merged({"ranker": MATCHED, "rank_candidates": 20})


@pytest.fixture(scope="module")
def run(demo_run: Path, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("match") / "run"
    shutil.copytree(demo_run, out)
    run_pipeline(config, base=out, out=out)
    return out


@pytest.fixture(scope="module")
def folder(run: Path) -> RunFolder:
    return RunFolder.existing(run)


@pytest.fixture(scope="module")
def catalogue(folder: RunFolder) -> Catalogue:
    return Catalogue.open(folder.stage("catalogue"))


@pytest.fixture(scope="module")
def ranker(folder: RunFolder, catalogue: Catalogue) -> Ranker:
    encoder, embeddings, queries = (
        folder.stage(f"{what} seed 0")
        for what in ("encoder title+photo", "embeddings title+photo", "query embeddings ranker")
    )
    ranker = folder.stage("ranker seed 0")
    read = {"encoder": encoder, "embeddings": embeddings, "query_embeddings": queries}
    assert {name: ranker.inputs[name] for name in read} == {name: one.id for name, one in read.items()}
    return Ranker.load(ranker, catalogue=catalogue, match=Match.open(**read))


def test_the_engine_asks_in_words_what_the_log_asked(
    run: Path, folder: RunFolder, catalogue: Catalogue, ranker: Ranker
):
    """A searcher of the test part, asked for again at his moment and place, has the scores of the log's samples."""
    parts = open_bundle(run)[1]
    ranking = Ranking.open(
        parts, catalogue=catalogue, index=open_index(parts.index), embedder=Embedder.open(parts.encoder)
    )
    assert ranking is not None
    samples = read_samples(catalogue, places=Split.open(folder.stage("split")).test)
    asked = samples.requests
    times, cells = catalogue.event_array("time"), catalogue.events["cell"].dtype.categories.to_list()
    for place in np.flatnonzero((asked.query_row >= 0) & (asked.user_row >= 0))[:5].tolist():
        own = samples.of_requests(np.array([place]))
        before = int(np.searchsorted(times, asked.time_us[place], side="left"))
        assert times[before] == asked.time_us[place]
        query, user = catalogue.queries[asked.query_row[place]], catalogue.users[asked.user_row[place]]
        shown = own.item_row[:20].astype(np.int64)
        found = Hits(shown[None], np.zeros((1, len(shown)), np.float32))
        cell = cells[asked.cell[place]] if asked.cell[place] >= 0 else None
        placed = ranking.order([Request(query=query, user=user, before=before)], found, cell=cell).placed[0]
        expected = expit(ranker.score_samples(own)[: len(shown)])
        np.testing.assert_allclose([placed[row].probability for row in shown], expected, rtol=1e-3)


def test_a_search_is_ordered_by_it_and_so_is_what_came_since(run: Path, catalogue: Catalogue, ranker: Ranker):
    shop = Engine.open(run)
    query = shop.example_queries(1)[0]
    answer = shop.search(query, k=20, rank=True)
    end = int(catalogue.event_array("time")[-1]) + 1
    asking = ranker.features.of_words(user=None, query=query, cell=None, time_us=end, past=None)
    rows = np.array([hit.item_row for hit in answer])
    expected = expit(ranker.score(asking, item_rows=rows))
    np.testing.assert_allclose([hit.ranked.probability for hit in answer], expected, rtol=1e-4)
    known = shop.item(answer[0].item_id)
    row = {name: known[name] for name in ("title", "category", "price", "cells")}
    photo = shop.photo_jpeg(answer[0].item_id)
    shop.add_items([{**row, "item_id": "brand new", "photo": photo}, {**row, "item_id": "bare"}])
    found = {hit.item_id: hit.ranked for hit in shop.search(query, k=20, rank=True)}
    assert found["brand new"].probability != found["bare"].probability  # features alike, vectors not


def test_it_is_a_row_of_a_table_and_has_its_control(run: Path, config: RunConfig, folder: RunFolder):
    """Both are trained side by side, each in a process that is told no more than its work."""
    stages = Stages(config, base=run, out=run, command="test", jobs=2)
    catalogue, split = stages.catalogue, Split.open(folder.stage("split"))
    plain = RankerConfig.parse({"pretrain": config.pretrain.dump(), "ranker": {**MATCHED, "epochs": 0.1}})
    frozen = plain.merged({"ranker": {"content": {"kind": "frozen"}}, "modalities": ["item"]})
    plans = [RankerPlan("plain", plain), RankerPlan("permuted", frozen, control=Control.CONTENT)]
    tokenizer = stages.tokenizer(split)
    made = train_rankers(plans, stages=stages, seeds=[0], split=split, tokenizer=tokenizer)
    again = train_rankers(plans, stages=stages, seeds=[0], split=split, tokenizer=tokenizer)
    assert [one.model.id for one in again.values()] == [one.model.id for one in made.values()]
    items = np.asarray(load_vectors(folder.stage("embeddings title+photo seed 0")))
    drawn = items[Control.CONTENT.content_rows(catalogue.num_items, seed=0)]
    for name, expected in (("plain", items), ("permuted", drawn)):
        one = made[name, 0]
        assert one.work.num_steps == one.model.summary["steps"]
        match = one.work.match
        assert match is not None
        np.testing.assert_array_equal(match.item_vectors, expected)
        assert one.open().model.sizes.sample_numbers[-1] == "match"
    permuted = made["permuted", 0].work.modalities
    assert made["plain", 0].work.modalities is None and permuted is not None
    np.testing.assert_array_equal(permuted["item"], drawn)
