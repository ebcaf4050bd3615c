"""Rows beside a recall model: random vectors for its content, and answers cut down to what the query asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.encoders.embeddings import load_vectors
from triptych.engine.bundle import open_bundle
from triptych.foundation.artifact import Artifact
from triptych.recall.base import Request
from triptych.recall.relevance_control import RelevanceControl
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.recall import PUBLISHED, Content, RecallConfig, RecallPlan, RecallWork, TrainedRecall
from triptych.recipes.run_folder import RunFolder


def test_items_have_random_vectors_in_the_place_of_their_content(demo_run: Path, tmp_path: Path):
    parts, folder = open_bundle(demo_run)[1], RunFolder.existing(demo_run)

    def of_served_encoder(stage: str) -> Artifact:
        found = (
            path.parent for path in (demo_run / stage).glob("*/artifact.json") if parts.encoder.id in path.read_text()
        )
        return Artifact.open(next(found), kind=stage)

    content = Content(parts.encoder, of_served_encoder("embeddings"), of_served_encoder("query_embeddings"))
    training = {"num_negatives": 100, "epochs": 1, "validations": 1, "device": "cpu"}
    tree = {"pretrain": RunConfig().pretrain.dump(), "recall": {"model": {"fusion": "mm", "dim": 16}, **training}}
    config, split = RecallConfig.parse(tree), folder.stage("split")

    def work(seed: int, drawn: Control) -> RecallWork:
        plan = RecallPlan("5", config, drawn)
        return RecallWork(plan, seed, parts.catalogue, split, content, num_pages=1, out=tmp_path)

    plain = work(0, Control.NONE)
    control, other = (work(seed, Control.RANDOM) for seed in (0, 1))
    vectors, drawn = load_vectors(content.embeddings), control.item_content
    np.testing.assert_array_equal(plain.item_content, vectors)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-5)
    assert np.abs((drawn * vectors).sum(axis=1)).mean() < 0.2, "they are near nothing"
    assert np.abs(drawn - other.item_content).max() > 0.1
    made = [one.train() for one in (plain, control)]
    assert made[0].id != made[1].id
    assert made[1].summary["metrics"]["recall@100"] < made[0].summary["metrics"]["recall@100"]


def test_answers_are_of_the_categories_that_a_query_was_answered_with(demo_run: Path):
    parts, folder = open_bundle(demo_run)[1], RunFolder.existing(demo_run)
    catalogue, split = Catalogue.open(parts.catalogue), Split.open(folder.stage("split"))
    control = RelevanceControl.fit(PUBLISHED, catalogue=catalogue, split=split)
    one = TrainedRecall(parts.recall, parts.recall_index, parts.encoder, None, catalogue, None)
    requests = [Request(query=query) for query in catalogue.queries[:20]]
    free = one.retriever(name="6", config=RunConfig()).retrieve(requests, 20)
    kept = replace(one, control=control).retriever(name="6", config=RunConfig()).retrieve(requests, 20)
    assert (kept.item_rows < 0).any(), "some were not of the kind"
    for row, request in enumerate(requests):
        found = free.item_rows[row]
        expected = found[~control.required.dropped(request.query, found)]
        np.testing.assert_array_equal(kept.item_rows[row][: len(expected)], expected)
        assert (kept.item_rows[row][len(expected) :] == -1).all()
