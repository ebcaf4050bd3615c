"""A shop with a decoder of semantic IDs: its channel, its row, why, and what becomes of items that come and go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_demo import DEMO_SETTINGS, begun

from triptych.engine import Channel, Engine, Filters
from triptych.engine.bundle import check_lineage, open_bundle
from triptych.evaluate.report import read_records
from triptych.foundation.errors import ArtifactError, ConfigError, EngineError
from triptych.recall.models.generative import Ask, Generative
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder
from triptych.semantic_ids.stored import SemanticIds


@pytest.fixture
def engine(hybrid_run: Path) -> Engine:
    return Engine.open(hybrid_run)


@pytest.fixture
def query(engine: Engine) -> str:
    return engine.example_queries(1)[0]


def test_the_report_has_its_row(hybrid_run: Path) -> None:
    records = [one for one in read_records(RunFolder.existing(hybrid_run).stage("report")) if one["task"] == "search"]
    found = {
        one["model"]: one["value"]
        for one in records
        if one.get("metric") == "recall" and one.get("k") == 20 and one["slice"] == "all" and "value" in one
    }
    assert found["generative"] > 1.5 * found["popularity"]  # it has learned what the words ask for


def likely(engine: Engine, run: Path, query: str, codes: np.ndarray) -> list[float]:
    """Log probabilities of IDs ``[n, levels]``, code by code, by the model alone: no tree, no beams."""
    import torch

    parts = open_bundle(run)[1]
    assert parts.generative is not None
    model, own = Generative.load(parts.generative.path).eval(), torch.from_numpy(codes.astype(np.int64))
    vector = torch.from_numpy(engine._embedder.queries([query])).expand(len(own), -1)
    with torch.no_grad():
        logits = model(Ask(content=vector), own)
    return torch.log_softmax(logits, dim=2).gather(2, own[:, :, None]).sum(dim=(1, 2)).tolist()


def test_scores_are_the_probabilities_of_the_ids(engine: Engine, hybrid_run: Path, query: str) -> None:
    parts = open_bundle(hybrid_run)[1]
    assert parts.semantic_ids is not None
    codes = np.asarray(SemanticIds.open(parts.semantic_ids).codes)
    answer = engine.search(query, k=10, channel="generative", explain=True)
    assert answer.channel is Channel.GENERATIVE and len(answer) == 10
    assert [hit.score for hit in answer] == sorted((hit.score for hit in answer), reverse=True)
    expected = likely(engine, hybrid_run, query, codes[[hit.item_row for hit in answer]])
    for hit, probability in zip(answer, expected, strict=True):
        assert hit.score == pytest.approx(probability, abs=1e-4)
        assert hit.why is not None and hit.why.score == hit.score
        alone = engine.why(hit.item_id, query=query, channel="generative")
        assert alone.score == pytest.approx(probability, abs=1e-4)


def test_only_what_a_filter_keeps_is_said(engine: Engine, query: str) -> None:
    for category in list(engine.facets().categories)[:2]:
        answer = engine.search(query, k=5, channel="generative", filters=Filters(category=category))
        assert answer and {engine.item(hit.item_id)["category"] for hit in answer} == {category}


def test_items_come_and_go_while_it_answers(engine: Engine, hybrid_run: Path, query: str) -> None:
    first = engine.search(query, k=1, channel="generative")[0].item_id
    photo, title = engine.photo_jpeg(first), engine.item(first)["title"]
    engine.remove_items([first])
    assert first not in [hit.item_id for hit in engine.search(query, k=50, channel="generative")]
    engine.add_items([{"item_id": "twin", "title": title, "photo": photo}])
    codes = engine.code_path("twin").codes
    score = engine.why("twin", query=query, channel="generative").score
    assert score == pytest.approx(likely(engine, hybrid_run, query, np.array([codes]))[0], abs=1e-4)
    others = engine.search(query, k=engine.num_items, channel="generative")
    alike = [hit for hit in others if engine.code_path(hit.item_id).codes == codes]
    assert "twin" in [hit.item_id for hit in alike]
    assert all(hit.score == pytest.approx(score, abs=1e-4) for hit in alike)
    engine.replace_items([{"item_id": "twin", "title": "nothing like it"}])
    changed = engine.code_path("twin").codes
    assert changed != codes  # it has the ID of what it is now
    after = engine.why("twin", query=query, channel="generative").score
    assert after == pytest.approx(likely(engine, hybrid_run, query, np.array([changed]))[0], abs=1e-4)


def test_what_it_cannot_answer(engine: Engine, demo_run: Path, query: str) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(EngineError, match="reads no photos"):
        engine.search(photo=pixels, channel="generative")
    with pytest.raises(EngineError, match=r"no decoder of semantic IDs.*\[generative\]"):
        Engine.open(demo_run).search(query, channel="generative")
    unknown = engine.search("🦄", channel="generative")
    assert unknown.channel is Channel.POPULARITY and unknown.note


def test_a_decoder_goes_with_the_ids_that_it_says(hybrid_run: Path) -> None:
    from dataclasses import replace

    parts = open_bundle(hybrid_run)[1]
    with pytest.raises(ArtifactError, match="says semantic IDs, and there are none"):
        check_lineage(replace(parts, semantic_ids=None))
    assert parts.index is not None
    with pytest.raises(ArtifactError, match="semantic_ids"):
        check_lineage(replace(parts, generative=parts.hybrid))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("generative={}", "semantic_ids=null"), "generative says semantic IDs, and there are none"),
        (('generative={"model":{"asks":"history"}}',), "asks = 'history', and this recipe is asked by words"),
        (('hybrid={"channels":["dense","generative"]}',), "names generative, and there is no decoder"),
    ],
)
def test_settings_that_do_not_go_together(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("demo", settings=settings)


def test_a_feed_has_no_searches_to_learn_from() -> None:
    with pytest.raises(ConfigError, match="generative learns from searches"):
        resolve("feed", settings=("generative={}", "semantic_ids={}"))


def test_more_codes_than_known_items_are_told_before_anything_is_trained(demo_run: Path, tmp_path: Path) -> None:
    """The shop has 600 items, of which some came with validation or test."""
    config = resolve("demo", settings=(*DEMO_SETTINGS, "semantic_ids.quantizer.codes=600")).config
    with pytest.raises(ConfigError, match=r"semantic_ids\.quantizer\.codes is 600, and there are 5\d\d vectors"):
        run_pipeline(config, base=tmp_path, out=begun(tmp_path / "run", like=demo_run))
    assert not (tmp_path / "run" / "encoder").exists()
