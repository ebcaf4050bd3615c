"""A log in which only the history tells what is taken: users come once, and take what is like what they clicked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted_ranking import CATEGORIES, Log, event, make_log, planted_log, planted_photo_log
from safetensors.torch import load_file
from tiny_encoders import tiny_encoder

from triptych.data.schema import Part, Role
from triptych.encoders import embeddings
from triptych.encoders.inputs import View
from triptych.encoders.models.two_tower import TwoTowerEncoder
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, ConfigError, DataError
from triptych.ranker import train
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.feature_ids import CATEGORY, ITEM, USER, WEEKDAY, FeatureIds, Quantiles
from triptych.ranker.features import Features, Past
from triptych.ranker.measure import GroupBy, by_group, figures, slices
from triptych.ranker.own_encoder import EncoderStart, OwnEncoder
from triptych.ranker.samples import read_samples
from triptych.ranker.scorer import KIND, Ranker
from triptych.ranker.task import Given, RankTask
from triptych.training.epochs import find_trained
from triptych.training.log import LOG_FILE, read_log
from triptych.training.loop import fit

QUICK: dict[str, Any] = {
    "device": "cpu",
    "precision": "fp32",
    "batch_samples": 128,
    "learning_rate": 5e-3,
    "epochs": 4,
    "validations": 2,
    "grouped_by": "request",
}
SMALL = {"dim": 8, "hidden_dims": (32, 16)}


def config_of(model: dict[str, Any], **settings: Any) -> RankTrainConfig:
    return RankTrainConfig.parse({**QUICK, "model": {**SMALL, **model}, **settings})


def trained(log: Log, model: dict[str, Any], *, out: Path, modalities: Any = None, **settings: Any) -> Ranker:
    given = Given(*log, seed=0, modalities=modalities)
    artifact = train.run(config_of(model, **settings), given, inputs={}, out=out)
    return Ranker.load(artifact, catalogue=log.catalogue, modalities=modalities)


def artifact_in(folder: Path) -> Artifact:
    (manifest,) = folder.glob("*/artifact.json")
    return Artifact.open(manifest.parent)


def figures_of(ranker: Ranker, log: Log, part: Part = Part.TEST):
    samples = read_samples(log.catalogue, places=log.split.part(part))
    return figures(samples, ranker.score_samples(samples), by=GroupBy.REQUEST)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return planted_log(tmp_path_factory.mktemp("ranking"))


@pytest.fixture(scope="module")
def din_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("din")


@pytest.fixture(scope="module")
def din(log: Log, din_folder: Path) -> Ranker:
    return trained(log, {"kind": "din"}, out=din_folder)


def test_din_learns_that_what_is_like_the_history_is_taken(din, log):
    assert figures_of(din, log).gauc > 0.95


@pytest.mark.parametrize("kind", ["bst", "sim", "dcnv2"])
def test_so_do_the_others_that_read_histories(log, tmp_path, kind):
    assert figures_of(trained(log, {"kind": kind}, out=tmp_path, epochs=6), log).gauc > 0.85


def test_without_history_it_cannot_be_known_and_scores_are_calibrated_though_negatives_are_thinned(log, tmp_path):
    ranker = trained(log, {"kind": "mlp", "history_items": 0}, out=tmp_path, negative_rate=0.4, epochs=6)
    found = figures_of(ranker, log)
    assert 0.3 < found.gauc < 0.7
    assert 0.85 < found.predicted_over_observed < 1.15


def test_content_tells_what_ids_do_not(tmp_path):
    """Nine ids in ten are hidden, and the category is in what items are made of alone, which is trained by the loss."""
    log = planted_log(tmp_path / "log", tells_category=False)
    kind = [CATEGORIES.index(item.split("-")[0]) for item in log.catalogue.item_ids]
    rng = np.random.default_rng(0)
    shown = 2 * np.eye(4)[kind] + 0.1 * rng.normal(size=(32, 4))
    modalities = {"image": shown.astype(np.float16)}
    settings = {"id_dropout_rate": 0.9, "pairwise_weight": 1.0, "learning_rate": 1e-2}
    em3 = {"kind": "em3", "dim": 16, "heads": 2, "fusion_rate_factor": 1.0}
    ranker = trained(log, {"kind": "din"}, out=tmp_path / "em3", modalities=modalities, content=em3, **settings)
    without = trained(log, {"kind": "din"}, out=tmp_path / "none", **settings)
    assert (figures_of(ranker, log).gauc > 0.9, figures_of(without, log).gauc < 0.75) == (True, True)
    with pytest.raises(ConfigError, match=r"trained with image \[4\], and is given none"):
        Ranker.load(artifact_in(tmp_path / "em3"), catalogue=log.catalogue)


class Interrupted(RankTask):
    """Ends in the middle of a training."""

    at = 7

    def losses(self, batch):
        if self.at == 0:
            raise KeyboardInterrupt
        self.at -= 1
        return super().losses(batch)


def broken_and_unbroken(config: RankTrainConfig, given: Given, out: Path) -> tuple[dict[str, Any], list[dict]]:
    """Train twice, once interrupted; both end with the same weights and the same log, which are returned."""
    ends = []
    for name in ("unbroken", "broken"):
        (out / name).mkdir()
        task = RankTask(config, given)
        loop = config.loop(batches_per_epoch=task.batches_per_epoch).merged({"log_every": 1})
        if name == "broken":
            saving = loop.merged({"checkpoint_every_s": 0})
            with pytest.raises(KeyboardInterrupt):
                fit(Interrupted(config, given), config=saving, out=out / name, seed=0)
        fit(task, config=loop, out=out / name, seed=0)
        ends.append((task.module.state_dict(), list(read_log(out / name / LOG_FILE))))
    (weights, written), (other_weights, other_written) = ends
    for key, value in weights.items():
        assert torch.equal(value, other_weights[key]), key
    told = [
        {name: value for name, value in record.items() if not re.search("second|per_s|memory", name)}
        for record in (*written, *other_written)
    ]
    assert told[: len(written)] == told[len(written) :]
    return weights, written


def test_an_interrupted_training_with_kept_behaviours_ends_as_an_unbroken_one(log, tmp_path):
    """What is kept, and what the log says of it, goes with the checkpoint."""
    modalities = {"image": np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)}
    content = {"kind": "em3", "dim": 8, "heads": 2, "train_behaviours": "lora_cache"}
    config = config_of({"kind": "din"}, content=content, epochs=1.5, validations=3)
    weights, written = broken_and_unbroken(config, Given(*log, seed=0, modalities=modalities), tmp_path)
    assert weights["content.cache.written"].any()
    validations = [record for record in written if record["event"] == "validation"]
    assert all(0 < one["cache_found"] <= 1 and 0.5 < one["cache_cosine"] <= 1 for one in validations)
    assert validations[-1]["cache_found"] > 0.9 and validations[-1]["cache_age"] < max(one["step"] for one in written)


@pytest.fixture(scope="module")
def photo_log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return planted_photo_log(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An encoder as drawn, whose four numbers tell the ground of a photo and nothing of what is on it."""
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), vector_dim=4)


SEES: dict[str, Any] = {
    "epochs": 8,
    "learning_rate": 1e-2,
    "id_dropout_rate": 0.9,
    "pairwise_weight": 1.0,
    "content": {
        "kind": "em3",
        "dim": 16,
        "heads": 2,
        "fusion_rate_factor": 1.0,
        "contrast_weight": 0.0,
        "train": "full",
        "encoder_rate_factor": 1.0,
    },
}
"""Trains its eyes."""


@pytest.fixture(scope="module")
def seeing(photo_log: Log, blind: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    given = Given(*photo_log, seed=0, encoder=EncoderStart(blind, [View.PHOTO, View.ITEM]))
    inputs = {"catalogue": photo_log.catalogue.artifact}
    return train.run(config_of({"kind": "din"}, **SEES), given, inputs=inputs, out=tmp_path_factory.mktemp("seeing"))


def test_end_to_end_it_learns_to_see_what_the_encoder_did_not(photo_log, blind, seeing, tmp_path):
    """Items of the test part are new, so that nothing can be learned by heart."""
    vectors = embeddings.run(encoder=blind, catalogue=photo_log.catalogue, out=tmp_path / "items")
    views = embeddings.run_views(encoder=blind, catalogue=photo_log.catalogue, out=tmp_path / "views")
    modalities = {"item": embeddings.load_vectors(vectors), "photo": embeddings.load_views(views)["photo"]}
    content = {**SEES["content"], "train": "adapter", "train_behaviours": "adapter"}
    del content["encoder_rate_factor"]
    settings = {**SEES, "content": content}
    adapter = trained(photo_log, {"kind": "din"}, out=tmp_path / "ranker", modalities=modalities, **settings)
    full = Ranker.load(seeing, catalogue=photo_log.catalogue)
    assert (figures_of(full, photo_log).gauc > 0.95, figures_of(adapter, photo_log).gauc < 0.75) == (True, True)


def test_a_ranker_that_trained_its_encoder_answers_without_it(photo_log, blind, seeing, monkeypatch):
    """It was measured by vectors of the encoder as it was then, and has them; none is encoded where it answers."""
    monkeypatch.setattr(TwoTowerEncoder, "encode_views", None)
    monkeypatch.setattr(TwoTowerEncoder, "encode_items", None)
    samples = read_samples(photo_log.catalogue, places=photo_log.split.validation)
    rankers = [Ranker.load(seeing, catalogue=photo_log.catalogue) for _ in range(2)]
    logits = [ranker.score_samples(samples) for ranker in rankers]
    np.testing.assert_array_equal(*logits)
    found = figures(samples, logits[0], by=GroupBy.REQUEST)
    for name in ("gauc", "auc", "log_loss"):
        assert seeing.summary["metrics"][name] == pytest.approx(getattr(found, name), rel=1e-3)
    with pytest.raises(ConfigError, match="has trained its encoder and has vectors of its own"):
        Ranker.load(seeing, catalogue=photo_log.catalogue, modalities={"item": np.zeros((96, 4)), "photo": None})
    assert not any(name.startswith("content.encoder") for name in load_file(seeing.file("model.safetensors")))


def test_its_vectors_are_of_one_catalogue(seeing, log, tmp_path):
    with pytest.raises(ArtifactError, match="has trained an encoder, and lacks it"):
        OwnEncoder(tmp_path)
    with pytest.raises(ArtifactError, match="catalogue"):
        Ranker.load(seeing, catalogue=log.catalogue)


def test_an_item_encoded_on_the_fly_is_the_one_of_the_catalogue(photo_log, seeing):
    catalogue, ranker = photo_log.catalogue, Ranker.load(seeing, catalogue=photo_log.catalogue)
    rows = np.array([0, 1, 5, 40])  # without photo, without title, and two with both
    pixels, has_photo = catalogue.photos.pixels(rows), np.asarray(catalogue.photos.has)[rows]
    assert has_photo.tolist() == [False, True, True, True]
    modalities = ranker.encoder.encode([catalogue.titles[row] for row in rows], pixels=pixels, has_photo=has_photo)
    for name, vectors in modalities.items():
        np.testing.assert_allclose(vectors, ranker.encoder.vectors[name][rows], atol=1e-3)
    assert np.isnan(modalities["photo"][0]).all() and not np.isnan(modalities["item"]).any()
    columns = catalogue.items[rows.tolist()].with_columns(item_id=pl.lit("nobody has met it"))
    grown = ranker.with_items(columns, modalities=modalities)
    known = catalogue.items.with_columns(item_id=pl.lit("nobody has met it"))
    unknown = Ranker(
        ranker.model, Features(catalogue, ids=ranker.features.ids, history_items=50, modalities=ranker.encoder.vectors)
    ).with_items(known, modalities=ranker.encoder.vectors)
    asking = ranker.features.of_words(user="u1", query=None, cell=None, time_us=0, past=None)
    scores = grown.score(asking, item_rows=catalogue.num_items + np.arange(4))
    expected = unknown.score(asking, item_rows=catalogue.num_items + rows)
    np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=2e-3)
    assert np.ptp(scores) > 1


@pytest.mark.parametrize(
    "modes",
    [
        {"train": "adapter", "encoder_blocks": 1, "train_behaviours": "lora"},
        {"train": "full", "train_behaviours": "lora_cache", "recompute": True},
    ],
    ids=["blocks", "cache"],
)
def test_an_interrupted_training_of_its_encoder_ends_as_an_unbroken_one(photo_log, blind, tmp_path, modes):
    content = {"kind": "em3", "dim": 8, "heads": 2, **modes}
    config = config_of({"kind": "din"}, content=content, epochs=1, validations=2)
    given = Given(*photo_log, seed=0, encoder=EncoderStart(blind, [View.ITEM, View.TITLE, View.PHOTO]))
    before = load_file(blind.file("model.safetensors"))
    weights, _ = broken_and_unbroken(config, given, tmp_path)
    changed = {
        name for name, value in before.items() if not torch.equal(weights.get(f"content.encoder.{name}", value), value)
    }
    assert bool(changed) == (modes["train"] == "full")
    task = RankTask(config, given)
    task.module.load_state_dict(weights)
    (tmp_path / "saved").mkdir()
    task.save(tmp_path / "saved")
    merged = load_file(tmp_path / "saved" / "encoder" / "model.safetensors")
    assert merged.keys() == before.keys()
    assert any(not torch.equal(value, before[name]) for name, value in merged.items())


def test_an_encoder_is_given_where_one_is_trained_and_nowhere_else(photo_log, blind):
    start = EncoderStart(blind, [View.ITEM])
    vectors = {"item": np.zeros((96, 4), np.float32)}
    full, adapter = {"kind": "em3", "dim": 8, "heads": 2, "train": "full"}, {"kind": "em3"}
    for content, given, message in (
        (full, {"modalities": vectors}, "train the encoder .* none is given"),
        (full, {"encoder": start, "modalities": vectors}, "Leave them out"),
        (adapter, {"encoder": start}, "no setting trains it"),
        (full, {"encoder": EncoderStart(blind, [])}, "told which of its vectors"),
    ):
        with pytest.raises(ConfigError, match=message):
            RankTask(config_of({}, content=content), Given(*photo_log, seed=0, **given))


def test_what_is_loaded_has_the_scores_that_chose_it(din, log, din_folder):
    """The saved metrics are those of the model in memory; the loaded one has them to the last digit, and twice."""
    artifact = artifact_in(din_folder)
    samples = read_samples(log.catalogue, places=log.split.validation)
    logits = Ranker.load(artifact, catalogue=log.catalogue).score_samples(samples)
    np.testing.assert_array_equal(logits, din.score_samples(samples))
    found = figures(samples, logits, by=GroupBy.REQUEST)
    for name in ("gauc", "auc", "log_loss", "predicted_over_observed"):
        assert artifact.summary["metrics"][name] == pytest.approx(getattr(found, name), rel=1e-12)
    again = find_trained(KIND, config_of({"kind": "din"}), seed=0, inputs={}, out=din_folder)
    assert again is not None and again.id == artifact.id
    assert find_trained(KIND, config_of({"kind": "din"}), seed=1, inputs={}, out=din_folder) is None


def test_a_request_in_words_has_the_scores_of_the_same_in_the_log(din, log):
    samples = read_samples(log.catalogue, places=log.split.test)
    logits, requests = din.score_samples(samples), samples.requests
    arrays = [log.catalogue.event_array(name) for name in ("item_row", "time", "kind")]
    for place in np.flatnonzero(requests.query_row >= 0)[:5].tolist():
        before = log.catalogue.histories.positions[requests.history_start[place] : requests.history_stop[place]]
        asking = din.features.of_words(
            user=log.catalogue.users[requests.user_row[place]],
            query="  Something NICE",
            cell=None,
            time_us=int(requests.time_us[place]),
            past=Past(*(array[before] for array in arrays)),
        )
        own = samples.request == place
        found = din.score(asking, item_rows=samples.item_row[own])
        np.testing.assert_allclose(found, logits[own], rtol=1e-4, atol=1e-5)
    stranger = din.features.of_words(user=None, query=None, cell="nowhere", time_us=0, past=None)
    assert np.isfinite(din.score(stranger, item_rows=np.arange(32))).all()


def test_slices_are_of_items_by_how_often_and_how_long_they_were_there(din, log):
    samples, seen = (read_samples(log.catalogue, places=log.split.part(part)) for part in (Part.TEST, Part.TRAIN))
    logits = din.score_samples(samples)
    kept = dict(slices(samples, train=seen, catalogue=log.catalogue))
    shown = np.bincount(seen.item_row, minlength=32)
    np.testing.assert_array_equal(kept["shown more times"], [shown[item] > 20 for item in samples.item_row])
    for names in (list(kept)[:4], list(kept)[4:]):
        np.testing.assert_array_equal(sum(kept[name].astype(int) for name in names), np.ones(len(logits)))
    part = figures(samples, logits, by=GroupBy.USER, keep=kept["shown more times"])
    assert part.samples == kept["shown more times"].sum()
    whole = by_group(samples, logits, by=GroupBy.REQUEST)
    assert whole.gauc() == figures(samples, logits, by=GroupBy.REQUEST).gauc


def test_every_kept_sample_is_seen_once_an_epoch_and_a_batch_is_its_index(log):
    settings = {"batch_samples": 100, "id_dropout_rate": 0.0}
    task = RankTask(config_of({"kind": "mlp"}, negative_rate=0.5, **settings), Given(*log, seed=3))
    positives = int(task.train.label.sum())
    negatives = len(task.train.label) - positives
    seen = []
    for epoch in range(2):
        batches = [task.batch(epoch * task.batches_per_epoch + place) for place in range(task.batches_per_epoch)]
        labels = torch.cat([batch.labels for batch in batches])
        assert int(labels.sum()) == positives and len(labels) == positives + round(negatives / 2)
        assert [task.num_samples(batch) for batch in batches[:-1]] == [100] * (len(batches) - 1)
        seen.append(batches)
    again = task.batch(0)
    for one, other in zip(again.candidates.items[:2], seen[0][0].candidates.items[:2], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(again.candidates.target, seen[1][0].candidates.target)
    in_time = RankTask(config_of({"kind": "mlp"}, order="time", id_dropout_rate=0.0), Given(*log, seed=3))
    first = in_time.features.of_log(in_time.train.requests.at(np.arange(5)))
    assert torch.equal(in_time.batch(0).candidates.requests.fields[:5, -2:], torch.from_numpy(first.fields[:, -2:]))


def test_the_contrast_is_told_in_how_many_samples_of_an_epoch_an_item_is_a_candidate(log):
    """In expectation, where negatives are thinned; over many epochs that is what is seen."""
    vectors = np.random.default_rng(0).normal(size=(log.catalogue.num_items, 4))
    content = {"kind": "em3", "dim": 8, "contrast_min_count": 2}
    config = config_of({"kind": "mlp"}, content=content, negative_rate=0.5, batch_samples=500)
    task = RankTask(config, Given(*log, seed=3, modalities={"item": vectors}))
    seen, epochs = np.zeros(log.catalogue.num_items), 20
    for index in range(epochs * task.batches_per_epoch):
        given = task.batch(index).candidates
        np.add.at(seen, given.items.item_rows[given.target].numpy(), 1 / epochs)
    counts = task.module.content.counts.numpy()
    assert counts.sum() == pytest.approx(seen.sum())
    np.testing.assert_allclose(seen, counts, atol=0.25 * counts.max())
    assert np.corrcoef(seen, counts)[0, 1] > 0.95


def test_features_are_of_training_and_the_rest_is_unknown(log, tmp_path):
    samples = read_samples(log.catalogue, places=log.split.train)
    ids = FeatureIds.fit(log.catalogue, samples=samples)
    ids.save(tmp_path)
    loaded = FeatureIds.load(tmp_path)
    features, again = (Features(log.catalogue, ids=one, history_items=2) for one in (ids, loaded))
    assert features.sizes == again.sizes
    assert list(features.sizes.item_fields) == [ITEM, CATEGORY]
    test = read_samples(log.catalogue, places=log.split.test)
    asking = features.of_log(test.requests)
    assert (asking.fields[:, list(features.sizes.request_fields).index(USER)] == 0).all()  # all of them are new
    for place in range(0, len(test.requests.time_us), 7):
        start, stop = test.requests.history_start[place], test.requests.history_stop[place]
        latest = log.catalogue.histories.positions[start:stop][-2:]
        expected = [*log.catalogue.event_array("item_row")[latest].tolist(), -1, -1][:2]
        assert asking.steps[place].tolist() == expected
    gathered = features.candidates(asking, request=test.request, item_rows=test.item_row)
    rows = gathered.items.item_rows[gathered.target]
    assert rows.tolist() == test.item_row.tolist()
    fifth = test.request == 5
    one = features.candidates(
        again.of_log(test.requests.at(np.array([5]))),
        request=np.zeros(fifth.sum(), int),
        item_rows=test.item_row[fifth],
    )
    assert torch.equal(one.items.fields[one.target], gathered.items.fields[gathered.target[torch.from_numpy(fifth)]])
    hidden = features.candidates(
        asking, request=test.request, item_rows=test.item_row, hide=np.random.default_rng(0), hide_rate=1.0
    )
    assert not hidden.items.fields[:, 0].any() and hidden.items.fields[:, 1].all()


def test_a_weekday_that_training_has_not_met_is_unknown_and_what_is_unknown_has_learned(log, tmp_path):
    """Training has four days from a Wednesday on, and validation is the Sunday after them."""
    task = RankTask(config_of({}), Given(*log, seed=0))
    weekday = list(task.features.sizes.request_fields).index(WEEKDAY)
    train, later = (task.features.of_log(one.requests).fields[:, weekday] for one in (task.train, task.validation))
    assert set(train.tolist()) == {3, 4, 5, 6} and set(later.tolist()) == {0}
    hidden = torch.cat([task.batch(place).candidates.requests.fields[:, weekday] for place in range(20)]) == 0
    assert 0.02 < float(hidden.float().mean()) < 0.1
    assert not (task.features.of_log(task.train.requests).fields[:, weekday] == 0).any()
    task.ids.save(tmp_path)
    times = 24 * 3_600_000_000 * np.arange(4, 11)  # from Monday, 5 January 1970 on
    assert FeatureIds.load(tmp_path).calendar.rows(times)[1].tolist() == [0, 0, 3, 4, 5, 6, 0]
    about = json.loads((tmp_path / "features.json").read_text())
    del about["calendar"]  # as rankers have it that were trained before
    (tmp_path / "features.json").write_text(json.dumps(about))
    assert FeatureIds.load(tmp_path).calendar.rows(times)[1].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert FeatureIds.load(tmp_path).calendar.rows(times + 23 * 3_600_000_000)[0].tolist() == [24] * 7


def test_numbers_are_places_among_those_of_training():
    rng = np.random.default_rng(0)
    quantiles = Quantiles.fit(rng.lognormal(size=10_000))
    place, there = quantiles(np.array([0.0, 1.0, np.exp(0.6745), 1e9, np.nan]))
    np.testing.assert_allclose(place, [-1, 0, 0.5, 1, 0], atol=0.05)
    np.testing.assert_array_equal(there, [1, 1, 1, 1, 0])
    constant = Quantiles.fit(np.full(5, 7.0))
    np.testing.assert_array_equal(constant(np.array([7.0]))[0], [0.0])
    assert Quantiles.fit(np.array([np.nan])) is None


def test_columns_of_the_user_are_features_by_their_roles(tmp_path):
    items = {
        "item_id": ["a", "b", "c"],
        "title": ["a", "b", "c"],
        "genres": [["x", "y"], ["y"], None],
        "year": [1990.0, None, 2001.0],
        "colour": ["red", None, "red"],
    }
    events = [event(day * 24 * 60 + step, 1, item, "click") for day in range(3) for step, item in enumerate("ab")]
    features = {"genres": Role.MULTI, "year": Role.NUMERIC, "colour": Role.CATEGORICAL}
    log = make_log(tmp_path, items=items, events=events, features=features)
    ids = FeatureIds.fit(log.catalogue, samples=read_samples(log.catalogue, places=log.split.train))
    found = Features(log.catalogue, ids=ids, history_items=3)
    assert list(found.sizes.item_fields) == [ITEM, "colour"]
    assert list(found.sizes.item_lists) == ["genres"] and found.sizes.item_numbers == ("year",)
    asking = found.of_words(user="u1", query=None, cell=None, time_us=0, past=None)
    given = found.candidates(asking, request=np.zeros(3, int), item_rows=np.array([2, 0, 1])).items
    assert given.fields.tolist() == [[1, 1], [2, 0], [0, 1]]
    rows, (places, starts) = given.lists[0]
    assert [len(one) for one in torch.tensor_split(rows[places], starts[1:])] == [2, 1, 0]
    assert given.numbers.tolist() == [[0, 1], [0, 0], [1, 1]]  # one year was met, and a later one is above it


def test_a_log_without_impressions_teaches_no_ranker(tmp_path):
    events = [event(day * 24 * 60, 1, "a", "click") for day in range(3)]
    log = make_log(tmp_path, items={"item_id": ["a"], "title": ["a"]}, events=events)
    with pytest.raises(DataError, match=r"training part \(1 samples\) was chosen, and nothing only shown"):
        RankTask(config_of({}), Given(*log, seed=0))


def test_modalities_are_of_the_items_and_are_read(log):
    wrong = {"image": np.zeros((5, 3), np.float32)}
    with pytest.raises(ConfigError, match=r"'image' has the shape \(5, 3\)"):
        RankTask(config_of({}, content={"kind": "frozen"}), Given(*log, seed=0, modalities=wrong))
    with pytest.raises(ConfigError, match=r"'none' reads none of the modalities"):
        RankTask(config_of({}), Given(*log, seed=0, modalities=wrong))
    with pytest.raises(ConfigError, match="'frozen' reads vectors"):
        RankTask(config_of({}, content={"kind": "frozen"}), Given(*log, seed=0))


def test_what_an_item_is_made_of_has_places_without_anything(log):
    tokens = np.arange(32 * 2 * 3, dtype=np.float16).reshape(32, 2, 3)
    tokens[4, 1] = tokens[7] = np.nan
    ids = FeatureIds.fit(log.catalogue, samples=read_samples(log.catalogue, places=log.split.train))
    modalities = {"words": tokens, "image": np.ones((32, 5), np.float32)}
    features = Features(log.catalogue, ids=ids, history_items=3, modalities=modalities)
    assert list(features.sizes.modalities.items()) == [("image", 5), ("words", 3)]
    asking = features.of_words(user=None, query=None, cell=None, time_us=0, past=None)
    image, words = features.candidates(asking, request=np.zeros(3, int), item_rows=np.array([9, 7, 4])).items.content
    assert image.tokens.shape == (3, 1, 5) and image.keep.all()
    assert words.keep.tolist() == [[True, False], [False, False], [True, True]]
    np.testing.assert_array_equal(words.tokens.numpy(), np.nan_to_num(tokens[[4, 7, 9]].astype(np.float32), nan=0.0))


def test_gauc_by_users_wants_users_with_both(log):
    samples = read_samples(log.catalogue, places=log.split.train)
    nobody = samples._replace(requests=samples.requests._replace(user_row=samples.requests.user_row * 0 - 1))
    with pytest.raises(DataError, match="grouped_by = request"):
        figures(nobody, np.zeros(len(samples.label)), by=GroupBy.USER)
