"""Words and patches as tokens: what is stored of items, and rankers that read it frozen or make it themselves."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted_ranking import PHOTO_PX, Log, planted_photo_log
from tiny_encoders import tiny_embedder, tiny_encoder

from triptych.encoders import embeddings, item_states
from triptych.encoders.embed import Embedder
from triptych.encoders.inputs import ItemInputs, View
from triptych.encoders.item_states import encode_states, load_states
from triptych.encoders.models.two_tower import TwoTowerEncoder
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.ranker import estimate as estimates
from triptych.ranker import train
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.content.em3 import Em3ContentConfig
from triptych.ranker.estimate import estimate
from triptych.ranker.measure import GroupBy, figures
from triptych.ranker.own_encoder import EncoderStart
from triptych.ranker.samples import read_samples
from triptych.ranker.scorer import Ranker
from triptych.ranker.task import Given, RankTask

SIDES, VIEWS = (View.TITLE, View.PHOTO), (View.ITEM, View.PHOTO, View.TITLE)
PATCHES = (PHOTO_PX // 16) ** 2
TITLES = ["one of many", None, "a blue hat and rugs and toys", "", "toys"]
HAS_PHOTO = np.array([True, True, False, False, True])
STATES = {
    "kind": "em3",
    "form": "full",
    "tokens": "states",
    "dim": 8,
    "width": 8,
    "queries": 2,
    "layers": 1,
    "heads": 2,
    "modality_dropout_rate": 0.0,
}
QUICK: dict[str, Any] = {
    "model": {"kind": "din", "dim": 8, "hidden_dims": [16]},
    "device": "cpu",
    "precision": "fp32",
    "batch_samples": 64,
    "epochs": 1,
    "validations": 1,
    "grouped_by": "request",
}


def config_of(**content: Any) -> RankTrainConfig:
    return RankTrainConfig.parse({**QUICK, "content": {**STATES, **content}})


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return planted_photo_log(tmp_path_factory.mktemp("photos"), users=60)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def stored(log: Log, encoder: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return item_states.run(
        encoder=encoder, catalogue=log.catalogue, views=SIDES, out=tmp_path_factory.mktemp("item states")
    )


@pytest.fixture(scope="module")
def modalities(log: Log, encoder: Artifact, stored: Artifact, tmp_path_factory: pytest.TempPathFactory):
    vectors = embeddings.run(encoder=encoder, catalogue=log.catalogue, out=tmp_path_factory.mktemp("vectors"))
    return {"item": embeddings.load_vectors(vectors), **load_states(stored)}


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(count, PHOTO_PX, PHOTO_PX, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["two_tower", "late_fusion"])
def test_an_items_states_are_those_that_it_has_alone(kind):
    embedder, pixels = tiny_embedder(kind), photos(len(TITLES))
    found = encode_states(TITLES, pixels=pixels, has_photo=HAS_PHOTO, embedder=embedder, views=VIEWS)
    longest = found["title"].shape[1]
    for place, title in enumerate(TITLES):
        tokens = embedder.tokenizer.encode([title or ""], max_tokens=8)[0]
        ids = torch.from_numpy(tokens[tokens != 0])[None]
        has = bool(HAS_PHOTO[place])
        alone = ItemInputs(
            title_tokens=ids if title else None,
            pixels=torch.from_numpy(pixels[place : place + 1]) if has else None,
            has_title=torch.tensor([bool(title)]),
            has_photo=torch.tensor([has]),
        )
        with torch.no_grad():
            reading = embedder.encoder.read_items(alone)
        words = reading.tokens.states[0, reading.places.title].numpy() if title else np.zeros((0, 16))
        assert len(words) == (ids.shape[1] - 1 if title else 0)
        np.testing.assert_allclose(found["title"][place, : len(words)], words, atol=1e-5)
        assert np.isnan(found["title"][place, len(words) : longest]).all()
        if has:
            expected = reading.tokens.states[0, reading.places.patches].numpy()
            assert expected.shape == (PATCHES, 16)
            np.testing.assert_allclose(found["photo"][place], expected, atol=1e-5)
        else:
            assert np.isnan(found["photo"][place]).all()
        np.testing.assert_allclose(found["item"][place], reading.vectors[0].numpy(), atol=1e-5)


def test_of_nothing_there_is_one_state_that_is_not_there():
    found = encode_states([None], pixels=photos(1), has_photo=np.array([False]), embedder=tiny_embedder(), views=VIEWS)
    assert {name: one.shape for name, one in found.items()} == {
        "item": (1, 8),
        "photo": (1, 1, 16),
        "title": (1, 1, 16),
    }
    assert np.isnan(found["photo"]).all() and np.isnan(found["title"]).all()


def test_a_catalogues_are_stored_and_their_size_is_said_before(log, encoder, stored, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="triptych")
    catalogue, embedder = log.catalogue, Embedder.open(encoder, device="cpu")
    again = item_states.run(encoder=encoder, catalogue=catalogue, views=SIDES, out=tmp_path)
    longest = load_states(stored)["title"].shape[1]
    count, size = catalogue.num_items, stored.summary["bytes"]
    assert size == 2 * count * 16 * (longest + PATCHES) == sum(one.nbytes for one in load_states(again).values())
    told = f"token states of {count} items, {longest} of the title, {PATCHES} of the photo each: 0.00 GB"
    assert told in caplog.text and caplog.text.index(told) < len(caplog.text)
    rows = np.array([0, 1, 5, 40])  # without photo, without title, and two with both
    has_photo = np.asarray(catalogue.photos.has)[rows]
    expected = encode_states(
        [catalogue.titles[row] for row in rows],
        pixels=catalogue.photos.pixels(rows),
        has_photo=has_photo,
        embedder=embedder,
        views=SIDES,
    )
    for name, states in load_states(stored).items():
        np.testing.assert_allclose(states[rows], expected[name], atol=0.05)  # bulk encoding may be in bf16
    assert np.isnan(load_states(stored)["photo"][0]).all() and not np.isnan(load_states(stored)["photo"][1:]).any()


def test_another_items_photo_is_shown_where_photos_are_permuted(log, encoder, stored, tmp_path):
    rows = np.arange(log.catalogue.num_items)
    rows[[5, 40]] = [40, 5]
    found = item_states.run(encoder=encoder, catalogue=log.catalogue, views=SIDES, photo_rows=rows, out=tmp_path)
    own, other = (load_states(one)["photo"] for one in (stored, found))
    np.testing.assert_array_equal(other[6:40], own[6:40])
    assert np.abs(other[5] - own[40]).max() < np.abs(other[5] - own[5]).max()


def test_what_does_not_fit_is_said_before_it_begins(log, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(item_states.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"token states take .* GB \(\d+ of the title, 4 of the photo\), and 0.0 GB"):
        item_states.run(encoder=encoder, catalogue=log.catalogue, views=SIDES, out=tmp_path)


def test_an_encoder_has_states_of_what_it_reads(log, tmp_path):
    titles = tiny_encoder(tmp_path / "encoder", modalities="title")
    with pytest.raises(ConfigError, match="an encoder of title reads no photo"):
        item_states.run(encoder=titles, catalogue=log.catalogue, views=SIDES, out=tmp_path / "states")
    found = item_states.run(encoder=titles, catalogue=log.catalogue, views=[View.TITLE], out=tmp_path / "states")
    assert set(load_states(found)) == {"title"}


def test_many_tokens_are_for_the_form_that_takes_them():
    with pytest.raises(ConfigError, match="Set form = 'full' with it"):
        Em3ContentConfig.parse({"tokens": "states"})
    assert "tokens" not in Em3ContentConfig().dump()
    assert Em3ContentConfig.parse(STATES).reads_states and not Em3ContentConfig().reads_states


MODES = [
    {"train": "frozen", "train_behaviours": "frozen"},
    {"train": "adapter", "train_behaviours": "lora_cache"},
]


@pytest.mark.parametrize("modes", MODES, ids=["frozen", "lora_cache"])
def test_a_ranker_reads_them_stored(log, modalities, tmp_path, modes):
    """Masks: what lies behind a title's end, or stands for an absent photo, is nothing to the score."""
    given = Given(*log, seed=0, modalities=modalities)
    artifact = train.run(config_of(**modes), given, inputs={}, out=tmp_path)
    ranker = Ranker.load(artifact, catalogue=log.catalogue, modalities=modalities)
    assert ranker.model.sizes.modalities == {"item": 8, "photo": 16, "title": 16}
    samples = read_samples(log.catalogue, places=log.split.validation)
    logits = ranker.score_samples(samples)
    np.testing.assert_allclose(ranker.answering().score_samples(samples), logits, rtol=1e-4, atol=1e-5)
    longer = dict(modalities)
    longer["title"] = np.pad(modalities["title"], ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    padded = Ranker.load(artifact, catalogue=log.catalogue, modalities=longer)
    np.testing.assert_allclose(padded.score_samples(samples), logits, rtol=1e-4, atol=1e-5)
    one_each = {name: vectors if name == "item" else vectors[:, 0] for name, vectors in modalities.items()}
    with pytest.raises(ConfigError, match="reads words and patches, and these are one vector of each"):
        Ranker.load(artifact, catalogue=log.catalogue, modalities=one_each)


def test_each_token_says_something(log, modalities, tmp_path):
    given = Given(*log, seed=0, modalities=modalities)
    artifact = train.run(config_of(), given, inputs={}, out=tmp_path)
    ranker = Ranker.load(artifact, catalogue=log.catalogue, modalities=modalities)
    asking = ranker.features.of_words(user="u1", query=None, cell=None, time_us=0, past=None)
    own = ranker.score(asking, item_rows=np.array([5]))
    for name, token in (("photo", PATCHES - 1), ("title", 0), ("title", 2)):
        other = {key: np.array(one) for key, one in modalities.items()}
        other[name][5, token] += 1
        changed = Ranker.load(artifact, catalogue=log.catalogue, modalities=other)
        assert abs(changed.score(asking, item_rows=np.array([5])) - own) > 1e-5, (name, token)


def test_an_item_that_comes_later_may_have_a_longer_title(log, modalities, encoder, tmp_path):
    given = Given(*log, seed=0, modalities=modalities)
    ranker = Ranker.load(
        train.run(config_of(), given, inputs={}, out=tmp_path), catalogue=log.catalogue, modalities=modalities
    )
    embedder = Embedder.open(encoder, device="cpu")
    rows = np.array([5, 40])
    pixels = log.catalogue.photos.pixels(rows)
    titles = ["one of many red cups and toys", None]
    new = encode_states(titles, pixels=pixels, has_photo=np.array([True, False]), embedder=embedder, views=VIEWS)
    assert new["title"].shape[1] > modalities["title"].shape[1]
    items = log.catalogue.items[rows.tolist()].with_columns(item_id=pl.lit("nobody has met it"))
    plain, ahead = (one.with_items(items, modalities=new) for one in (ranker, ranker.answering()))
    asking = ranker.features.of_words(user="u1", query=None, cell=None, time_us=0, past=None)
    every = np.arange(log.catalogue.num_items + 2)
    found = plain.score(asking, item_rows=every)
    np.testing.assert_allclose(ahead.score(asking, item_rows=every), found, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[:-2], ranker.score(asking, item_rows=every[:-2]), rtol=1e-4, atol=1e-5)
    shorter = {name: one if name == "item" else one[:, :4] for name, one in new.items()}
    assert not np.allclose(ranker.with_items(items, modalities=shorter).score(asking, item_rows=every[-2:]), found[-2:])


def test_the_estimate_counts_them(log, modalities, monkeypatch):
    """What a pass keeps grows with the tokens, and so do the files in which they lie."""
    monkeypatch.setattr(estimates, "SHORT_S", 0.0)

    def of(**given: Any):
        task = RankTask(config_of(), Given(*log, seed=0, **given))
        found = estimate(task, config=config_of().loop(batches_per_epoch=task.batches_per_epoch), seed=0)
        assert found is not None
        return found

    many = of(modalities=modalities)
    first = {name: one if name == "item" else one[:, :1] for name, one in modalities.items()}
    few = of(modalities=first)
    more = sum(one.shape[1] - 1 for name, one in modalities.items() if name != "item")
    assert many.activation_bytes - few.activation_bytes > 2 * 4 * 16 * more * many.items_per_batch * 0.8  # two sides
    assert many.mapped_bytes == sum(one.nbytes for one in modalities.values())
    assert "content of all items 0 MiB)" in str(many)


@pytest.fixture(scope="module")
def own(log: Log, encoder: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    given = Given(*log, seed=0, encoder=EncoderStart(encoder, VIEWS))
    inputs = {"catalogue": log.catalogue.artifact}
    return train.run(config_of(train="full"), given, inputs=inputs, out=tmp_path_factory.mktemp("own"))


def test_end_to_end_they_are_of_the_encoder_as_it_is(log, encoder, own, monkeypatch):
    """It is measured by what it stores, and answers without a pass through its encoder."""
    monkeypatch.setattr(TwoTowerEncoder, "read_items", None)
    ranker = Ranker.load(own, catalogue=log.catalogue)
    samples = read_samples(log.catalogue, places=log.split.validation)
    logits = ranker.score_samples(samples)
    found = figures(samples, logits, by=GroupBy.REQUEST)
    assert own.summary["metrics"]["log_loss"] == pytest.approx(found.log_loss, rel=1e-3)
    assert ranker.encoder.vectors["photo"].shape == (log.catalogue.num_items, PATCHES, 16)
    first = Embedder.open(encoder, device="cpu").encoder.state_dict()
    changed = {name for name, one in ranker.encoder.embedder.encoder.state_dict().items() if (one != first[name]).any()}
    assert {"patches.positions", "text.words.weight", "item_projection.weight"} <= changed


def test_an_item_read_on_the_fly_is_the_one_of_the_catalogue(log, own):
    ranker, rows = Ranker.load(own, catalogue=log.catalogue), np.array([0, 1, 5, 40])
    found = ranker.encoder.encode(
        [log.catalogue.titles[row] for row in rows],
        pixels=log.catalogue.photos.pixels(rows),
        has_photo=np.asarray(log.catalogue.photos.has)[rows],
    )
    for name, states in found.items():
        np.testing.assert_allclose(states, ranker.encoder.vectors[name][rows], atol=5e-3)


@pytest.mark.parametrize("kind", ["two_tower", "late_fusion"])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_ranking_loss_reaches_what_makes_them(log, tmp_path, kind, recompute):
    """One pass a side through the encoder, for vector and states together."""
    encoder = tiny_encoder(tmp_path / "encoder", kind=kind)
    config = config_of(train="full", recompute=recompute)
    task = RankTask(config, Given(*log, seed=0, encoder=EncoderStart(encoder, SIDES)))
    module, seen = task.module.train(), []
    module.content.encoder.patches.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    task.losses(task.batch(0)).total.backward()
    reached = {name for name, one in module.named_parameters() if one.grad is not None and one.grad.any()}
    for part in ("patches.positions", "text.words.weight"):
        assert f"content.encoder.{part}" in reached
    assert len(seen) == (4 if recompute else 2)
