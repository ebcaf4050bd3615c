"""A ranker that trains the run's encoder on: in a run and its engine, and as a row of a table."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_demo import DEMO_SETTINGS, SMALL_RANKER

from triptych.data.splits import Split
from triptych.engine import Engine
from triptych.evaluate.tasks import ranking
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.scorer import Ranker
from triptych.recipes import resolve
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.ranker import RankerConfig, RankerPlan, train_rankers
from triptych.recipes.run_folder import RunFolder
from triptych.recipes.stages import Stages

END_TO_END = {
    **SMALL_RANKER,
    "content": {"kind": "em3", "dim": 8, "heads": 2, "train": "full", "train_behaviours": "lora_cache"},
    "batch_samples": 128,
    "epochs": 0.03,
    "validation_samples": 200,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    less = ("recall=null", "compare=[]", "photo_queries=0", "evaluation.examples=0", "evaluation.bootstrap_repeats=100")
    found = resolve("demo", settings=(*DEMO_SETTINGS, *less))
    return found.config.merged({"ranker": RankTrainConfig.parse(END_TO_END).dump(), "rank_candidates": 20})


@pytest.fixture(scope="module")
def run(demo_run: Path, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("end to end") / "run"
    shutil.copytree(demo_run, out)
    run_pipeline(config, base=out, out=out)
    return out


def test_a_run_has_a_ranker_with_an_encoder_of_its_own(run: Path):
    folder = RunFolder.existing(run)
    ranker, encoder = folder.stage("ranker seed 0"), folder.stage("encoder title+photo seed 0")
    assert ranker.inputs["encoder"] == encoder.id
    assert not {"embeddings", "item_views"} & set(ranker.inputs)
    own, first = ranker.file("encoder/model.safetensors"), encoder.file("model.safetensors")
    assert own.stat().st_size == pytest.approx(first.stat().st_size, rel=1e-3)
    assert own.read_bytes() != first.read_bytes()


def test_its_engine_ranks_items_that_came_since_by_that_encoder(run: Path):
    shop = Engine.open(run)
    query = shop.example_queries(1)[0]
    first = shop.search(query, k=1, rank=False)[0].item_id
    known = shop.item(first)
    row = {name: known[name] for name in ("title", "category", "price", "cells")} | {"photo": shop.photo_jpeg(first)}
    shop.add_items([{**row, "item_id": "brand new"}, {"item_id": "bare", "title": known["title"]}])
    found = {hit.item_id: hit.ranked for hit in shop.search(query, k=20, rank=True)}
    assert len({found[one].probability for one in ("brand new", "bare", first)}) == 3


def test_it_is_a_row_of_a_table_and_has_its_control(run: Path, config: RunConfig):
    stages = Stages(config, base=run, out=run, command="test")
    folder = RunFolder.existing(run)
    catalogue, split = stages.catalogue, Split.open(folder.stage("split"))
    tree = {"pretrain": config.pretrain.dump(), "modalities": ["title", "item"], "ranker": END_TO_END}
    row = RankerConfig.parse(tree)
    plans = [RankerPlan("end to end", row), RankerPlan("permuted", row, control=Control.CONTENT)]
    encoders = len(list((run / "encoder").iterdir()))
    tokenizer = stages.tokenizer(split)
    made = train_rankers(plans, stages=stages, seeds=[0], split=split, tokenizer=tokenizer)
    assert len(list((run / "encoder").iterdir())) == encoders
    again = train_rankers(plans, stages=stages, seeds=[0], split=split, tokenizer=tokenizer)
    assert [one.model.id for one in again.values()] == [one.model.id for one in made.values()]
    rankers: dict[str, Ranker] = {name: one.open() for (name, _), one in made.items()}
    found = ranking.evaluate(rankers, catalogue=catalogue, split=split, config=EvaluationConfig(bootstrap_repeats=100))
    values = {one.model for one in found.records}
    assert {"end to end", "permuted"} <= values
    rows, drawn = np.arange(20), Control.CONTENT.content_rows(catalogue.num_items, seed=0)
    for name, shown in (("end to end", rows), ("permuted", drawn[rows])):
        own = rankers[name].encoder
        assert own is not None and set(own.vectors) == {"item", "title"}
        expected = own.encode(
            [catalogue.titles[row] for row in shown],
            pixels=catalogue.photos.pixels(shown),
            has_photo=np.asarray(catalogue.photos.has)[shown],
        )
        np.testing.assert_allclose(own.vectors["item"][rows], expected["item"], atol=2e-3)
