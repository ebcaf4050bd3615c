"""A ranker that reads a run's semantic IDs: trained of them, and in the engine, where new items have codes too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_demo import DEMO_SETTINGS, SMALL_RANKER

from triptych.data.catalogue import Catalogue
from triptych.engine import Engine
from triptych.engine.bundle import open_bundle
from triptych.engine.ranking import open_ranker
from triptych.foundation.errors import ArtifactError
from triptych.ranker.content.semantic_ids import SEMANTIC_ID
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder
from triptych.semantic_ids.stored import SemanticIds

LESS = ("compare=[]", "photo_queries=0", "evaluation.examples=0", "evaluation.bootstrap_repeats=100")


@pytest.fixture(scope="module")
def run(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small demo with a ranker over its IDs of 64 codes."""
    out = tmp_path_factory.mktemp("coded") / "run"
    shutil.copytree(demo_run, out)
    ranker = {**SMALL_RANKER, "content": {"kind": "semantic_ids", "codes": 64, "code_dim": 8, "dim": 16}}
    settings = (*DEMO_SETTINGS, f"ranker={json.dumps(ranker)}", "rank_candidates=50", *LESS)
    resolved = resolve("demo", settings=settings)
    run_pipeline(resolved.config, base=resolved.base, out=out)
    return out


def test_it_is_trained_of_the_runs_ids(run: Path):
    folder, parts = RunFolder.existing(run), open_bundle(run)[1]
    ranker = folder.stage("ranker seed 0")
    assert ranker.inputs["semantic_ids"] == parts.semantic_ids.id
    shop = Engine.open(run)
    ids, items = SemanticIds.open(parts.semantic_ids), Catalogue.open(parts.catalogue)
    opened = open_ranker(parts, catalogue=items, index=shop._snapshot.index, embedder=shop._embedder)
    tokens = opened.features.shown(np.arange(items.num_items)).content[0].tokens[:, 0]
    assert opened.model.sizes.modalities == {SEMANTIC_ID: ids.quantizer.levels}
    np.testing.assert_array_equal(tokens.numpy(), ids.codes[:, : ids.quantizer.levels])


def test_a_new_item_has_codes_and_a_place(run: Path):
    shop = Engine.open(run)
    query = shop.example_queries(1)[0]
    first = shop.search(query, k=1, rank=False)[0].item_id
    known = shop.item(first)
    row = {name: known[name] for name in ("title", "category", "price", "cells")} | {"photo": shop.photo_jpeg(first)}
    before = shop._snapshot.ranking._ranker.content.vectors["item"]
    shop.add_items([{**row, "item_id": "brand new"}])
    after = shop._snapshot.ranking._ranker.content.vectors["item"]
    assert len(after) == len(before) + 1
    # The same title and nearly the same photo: its codes begin as the item's, if they are not the same.
    codes = shop._snapshot.ranking._quantizer.assign(shop._snapshot.index.vectors(np.array([len(before)])))
    expected = before[[tuple(one) == tuple(codes[0]) for one in _codes(run).tolist()]]
    if len(expected):
        np.testing.assert_allclose(after[-1], expected[0], rtol=1e-5, atol=1e-6)
    found = {hit.item_id: hit.ranked for hit in shop.search(query, k=50, rank=True)}
    assert found["brand new"] is not None


def _codes(run: Path) -> np.ndarray:
    ids = SemanticIds.open(open_bundle(run)[1].semantic_ids)
    return np.asarray(ids.codes)[:, : ids.quantizer.levels]


def test_other_ids_are_refused(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    ranker = open_bundle(tmp_path / "run")[1].ranker
    manifest = json.loads((ranker.path / "artifact.json").read_text())
    manifest["inputs"]["semantic_ids"] = "0" * 16
    (ranker.path / "artifact.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="semantic_ids"):
        Engine.open(tmp_path / "run")
