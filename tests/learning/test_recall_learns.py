"""Recall models on a shop whose answer is known: every query has one right item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_content import Encoder, content_of

from triptych.data.catalogue import Catalogue
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, ConfigError, EngineError
from triptych.index.backends.exact import ExactIndex
from triptych.nn.fusion import Fusion
from triptych.recall import train
from triptych.recall.base import Request
from triptych.recall.config import RecallTrainConfig
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given, RecallTask

MODEL = {"dim": 16}


def given(shop, *, seed: int = 0) -> Given:
    catalogue: Catalogue = shop.catalogue
    items = content_of([item_id.replace("-", " ") for item_id in catalogue.item_ids])
    return Given(catalogue, shop.split, content_of(catalogue.queries), items, seed)


def config(**settings) -> RecallTrainConfig:
    tree = {"batch_pages": 15, "num_negatives": 40, "epochs": 80, "validation_k": 1, "learning_rate": 3e-3}
    model = {**MODEL, **settings.pop("model", {})}
    return RecallTrainConfig.parse({**tree, "device": "cpu", **settings, "model": model})


def trained(shop, folder: Path, **settings) -> Artifact:
    return train.run(config(**settings), given(shop), inputs={"shop": "planted"}, out=folder)


def vectors(artifact: Artifact) -> np.ndarray:
    return np.load(artifact.file(train.VECTORS))


@pytest.mark.parametrize("fusion", Fusion)
def test_every_fusion_learns_what_is_chosen(planted_shop, tmp_path, fusion):
    assert trained(planted_shop, tmp_path, model={"fusion": fusion}).summary["metrics"]["recall@1"] > 0.9


@pytest.mark.parametrize(
    "settings",
    [
        {"against": "full"},
        {"against": "in_batch"},
        {"against": "mixed"},
        {"log_q": "tf"},
        {"log_q": "none"},
        {"hard_mixes": 5},
        {"mined_negatives": 2, "mined_from": 1, "mined_to": 6},
        {"query_buckets": 200, "item_buckets": 200},
    ],
)
def test_so_does_every_way_of_training(planted_shop, tmp_path, settings):
    settings = dict(settings)
    if settings.get("against") in ("full", "in_batch"):
        settings["num_negatives"] = RecallTrainConfig.model_fields["num_negatives"].default
    assert trained(planted_shop, tmp_path, **settings).summary["metrics"]["recall@1"] > 0.9


def test_what_was_mined_is_for_its_page_alone(planted_shop):
    """And what is drawn beside it is what would have been drawn without."""
    mining = RecallTask(config(mined_negatives=3, mined_from=2, mined_to=9), given(planted_shop))
    plain = RecallTask(config(), given(planted_shop))
    for index in range(3):
        batch, without = mining.batch(index), plain.batch(index)
        count = without.masked.shape[1]
        assert torch.equal(batch.masked[:, :count], without.masked)
        assert torch.equal(batch.negative_bias[:count], without.negative_bias)
        seen = ~batch.masked[:, count:]
        assert torch.equal(seen.sum(dim=1), torch.full((len(seen),), 3))
        assert seen.sum(dim=0).max() == 1


def test_mining_needs_the_vectors_of_an_encoder(planted_shop):
    lacking = replace(given(planted_shop), query_content=None, item_content=None)
    with pytest.raises(ConfigError, match="mined_negatives: they are mined by"):
        RecallTask(config(mined_negatives=2, model={"fusion": "id"}), lacking)


def test_a_retriever_answers_known_queries_new_ones_and_finds_new_items(planted_shop, tmp_path):
    artifact = trained(planted_shop, tmp_path, id_dropout_rate=0.3)
    stored = vectors(artifact)
    retriever = LearnedRetriever.load(artifact.path, index=ExactIndex.build(stored), encoder=Encoder())
    ids = planted_shop.catalogue.item_ids

    def first(query: str) -> str:
        return ids[retriever.retrieve([Request(query=query)], 3).item_rows[0, 0]]

    assert first("red shirt") == first("  RED   Shirt ") == "shirt-red"
    assert first("crimson lamp") == "lamp-red", "nobody has asked so, and content knows"
    assert retriever.knows("crimson lamp")
    asked = retriever.request_vectors([Request(query="blue bowl")])
    hits = retriever.retrieve([Request(query="blue bowl")], 30)
    scores = stored.astype(np.float32) @ asked[0]
    np.testing.assert_allclose(hits.scores[0], np.sort(scores)[::-1], atol=1e-3)
    again = retriever.item_vectors(ids, content=given(planted_shop).item_content)
    np.testing.assert_allclose(again, stored, atol=2e-3)
    new = retriever.item_vectors(["never-seen"], content=content_of(["green chair"]))
    scores = new @ retriever.request_vectors([Request(query=query) for query in planted_shop.catalogue.queries]).T
    assert planted_shop.catalogue.queries[int(scores.argmax())] == "green chair"
    with pytest.raises(EngineError, match="trained on searches"):
        retriever.retrieve([Request(item_row=0)], 3)


def test_ids_alone_do_not_tell_one_new_query_from_another(planted_shop, tmp_path):
    """With IDs alone, all new queries are one."""
    artifact = trained(planted_shop, tmp_path, model={"fusion": "id"})
    retriever = LearnedRetriever.load(artifact.path, index=ExactIndex.build(vectors(artifact)), encoder=None)
    assert retriever.knows("red  Lamp")
    assert not retriever.knows("crimson lamp")
    unknown = retriever.request_vectors([Request(query="crimson lamp"), Request(query="never asked")])
    np.testing.assert_array_equal(unknown[0], unknown[1])


def test_the_same_seed_gives_the_same_model_and_another_another(planted_shop, tmp_path):
    first, again = (vectors(trained(planted_shop, tmp_path / name, epochs=3)) for name in ("a", "b"))
    np.testing.assert_array_equal(first, again)
    other = train.run(config(epochs=3), given(planted_shop, seed=1), inputs={}, out=tmp_path / "c")
    assert not np.array_equal(first, vectors(other))


def test_batches_hold_what_was_chosen_and_mask_it_among_the_negatives(planted_shop):
    task = RecallTask(config(id_dropout_rate=0.5), given(planted_shop))
    hidden = 0
    for index in range(20):
        batch = task.batch(index)
        rows = batch.items.item_ids
        assert batch.num_items == len(rows) and batch.num_pages == batch.masked.shape[0] == 15
        for page in range(15):
            own = set(batch.positive[batch.page == page].tolist())
            masked = set(batch.negative[batch.masked[page]].tolist())
            assert masked == own & set(batch.negative.tolist())
        hidden += int((rows == 0).sum()) / len(rows) / 20
    assert hidden == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"against": "full"}, r"num_negatives has no effect with against = 'full'"),
        ({"mix_low": 0.2}, r"mix_low has no effect with hard_mixes = 0"),
        ({"hard_mixes": 3, "mix_low": 0.7}, r"mix_low is 0.7 and mix_high 0.6: set them in order"),
        ({"against": "mixed", "log_q": "tf"}, r"log_q = 'tf' corrects for draws alone"),
        ({"model": {"kind": "popularity", "dim": 3}}, "dim"),
        ({"model": {"hidden_dims": [3]}}, "hidden_dims has no effect with this fusion"),
        ({"model": {"fusion": "mm", "id_rate_factor": 7}}, "id_rate_factor has no effect with fusion = 'mm'"),
        ({"model": {"fusion": "mm_trainable", "id_init_std": 1}}, "id_init_std has no effect with fusion = 'mm_trai"),
        ({"query_buckets": 5, "item_buckets": 5, "id_min_count": 2}, "id_min_count has no effect where all ids"),
        ({"model": {"fusion": "id", "bends_ids": True}}, "bends_ids has no effect with this fusion"),
        *(
            ({"model": {"fusion": "mm"}, name: value}, f"{name} has no effect with model.fusion = 'mm'")
            for name, value in (
                ("id_min_count", 2),
                ("query_buckets", 5),
                ("item_buckets", 5),
                ("id_dropout_rate", 0.5),
            )
        ),
        ({"model": {"asks": "history"}, "query_buckets": 5}, "query_buckets has no effect with model.kind = 'two_tow"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_a_model_that_is_not_trained_is_refused():
    with pytest.raises(ConfigError, match="'bm25' is not trained. Choose a model that is"):
        RecallTrainConfig.parse({"model": {"kind": "bm25"}})


def test_content_that_is_not_there_is_told(planted_shop, tmp_path):
    nothing = Given(planted_shop.catalogue, planted_shop.split, None, None, 0)
    with pytest.raises(ConfigError, match="reads the vectors of a pretrained encoder, and there are none"):
        train.run(config(), nothing, inputs={}, out=tmp_path)


def test_damaged_files_are_told(planted_shop, tmp_path):
    artifact = trained(planted_shop, tmp_path, epochs=1)
    index = ExactIndex.build(vectors(artifact))
    sizes = artifact.path / "sizes.json"
    sizes.write_text(sizes.read_text().replace('"num_items": 31', '"num_items": 30'))
    with pytest.raises(ArtifactError, match="the weights are not of this config"):
        LearnedRetriever.load(artifact.path, index=index, encoder=Encoder())
    sizes.unlink()
    with pytest.raises(ArtifactError, match=r"has no sizes\.json"):
        LearnedRetriever.load(artifact.path, index=index, encoder=Encoder())
