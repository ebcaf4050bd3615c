"""A log in which only the match of query and item tells what is taken: every user, item id and query says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planted_ranking import DAYS, Log, event, make_log

from triptych.data.schema import Part
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.ranker import train
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.feature_ids import FeatureIds
from triptych.ranker.features import Features, Past
from triptych.ranker.match import Match
from triptych.ranker.measure import GroupBy, figures
from triptych.ranker.samples import Samples, read_samples
from triptych.ranker.scorer import Ranker, read_needs
from triptych.ranker.task import Given, RankTask
from triptych.recipes.config import RunConfig
from triptych.recipes.ranker import RankerConfig

ITEMS, USERS, DIM = 40, 240, 6
QUICK: dict[str, Any] = {
    "model": {"kind": "mlp", "dim": 8, "hidden_dims": [16], "history_items": 2},
    "reads_match": True,
    "device": "cpu",
    "precision": "fp32",
    "batch_samples": 64,
    "learning_rate": 1e-2,
    "epochs": 6,
    "validations": 2,
    "grouped_by": "request",
}


def config_of(**settings: Any) -> RankTrainConfig:
    return RankTrainConfig.parse({**QUICK, **settings})


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


ITEM_VECTORS = unit(np.random.default_rng(1).normal(size=(ITEMS, DIM)))


def encode(texts) -> np.ndarray:
    """A text's vector is near that of the item whose number stands last in it."""
    near = [ITEM_VECTORS[int(text.rsplit("z", 1)[1])] for text in texts]
    noise = [np.random.default_rng(list(text.encode())).normal(size=DIM) for text in texts]
    return unit(np.stack(near) + 0.2 * np.stack(noise)) if len(texts) else np.zeros((0, DIM), np.float32)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Each user asks once, in words of his own, is shown four items and takes the one that is meant.

    One in eight asks nothing, and takes any of them.
    """
    rng, events = np.random.default_rng(0), []
    for user in range(USERS):
        start = 24 * 60 * (user * DAYS // USERS) + int(rng.integers(0, 600))
        items = rng.choice(ITEMS, size=4, replace=False).tolist()
        query = None if user % 8 == 0 else f"q{user * 7919 % 9973}z{items[0]}"
        for position, place in enumerate(rng.permutation(4).tolist()):
            shown = event(start, user, f"i{items[place]}", "impression")
            shown |= {"page": f"p{user}", "position": position, "query": query}
            events.append(shown)
            if place == 0:
                events.append(shown | {"time": start + 1, "kind": "click"})
    names = [f"i{place}" for place in range(ITEMS)]
    return make_log(tmp_path_factory.mktemp("match"), items={"item_id": names, "title": names}, events=events)


@pytest.fixture(scope="module")
def match(log: Log) -> Match:
    order = [int(one[1:]) for one in log.catalogue.item_ids]
    items = ITEM_VECTORS[order].astype(np.float16)
    return Match(items, encode, encode(log.catalogue.queries).astype(np.float16))


@pytest.fixture(scope="module")
def artifact(log: Log, match: Match, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    given = Given(*log, seed=0, match=match)
    return train.run(config_of(), given, inputs={}, out=tmp_path_factory.mktemp("ranker"))


@pytest.fixture(scope="module")
def ranker(log: Log, match: Match, artifact: Artifact) -> Ranker:
    return Ranker.load(artifact, catalogue=log.catalogue, match=match)


@pytest.fixture(scope="module")
def test_samples(log: Log) -> Samples:
    return read_samples(log.catalogue, places=log.split.part(Part.TEST))


def gauc_of_searches(ranker: Ranker, samples: Samples) -> float:
    asked = samples.of_requests(np.flatnonzero(samples.requests.query_row >= 0))
    return figures(asked, ranker.score_samples(asked), by=GroupBy.REQUEST).gauc


def test_it_learns_from_the_match_what_nothing_else_tells(log, ranker, test_samples, tmp_path):
    without = train.run(config_of(reads_match=False), Given(*log, seed=0), inputs={}, out=tmp_path)
    blind = Ranker.load(without, catalogue=log.catalogue)
    found = gauc_of_searches(ranker, test_samples), gauc_of_searches(blind, test_samples)
    assert found[0] > 0.95 and found[1] < 0.75, found


@pytest.mark.parametrize(
    "model", [{"kind": "din"}, {"kind": "sim", "search": "features"}, {"kind": "bst"}, {"kind": "dcnv2"}]
)
def test_every_model_reads_it(log, match, model):
    """What is said of a candidate changes with its match alone, and has a gradient."""
    settings = {**model, "dim": 8, "hidden_dims": [16], "history_items": 2}
    task = RankTask(config_of(model=settings), Given(*log, seed=0, match=match))
    batch = task.batch(0)
    assert task.module.sizes.sample_numbers[-1] == "match"
    numbers = batch.candidates.numbers.clone().requires_grad_()
    task.module(batch.candidates._replace(numbers=numbers)).logits.sum().backward()
    there = batch.candidates.numbers[:, -1] == 1
    assert (numbers.grad[there][:, len(task.module.sizes.sample_numbers) - 1] != 0).all()


def test_the_number_is_the_cosine_among_those_of_training(log, match, ranker, test_samples):
    train_samples = read_samples(log.catalogue, places=log.split.train)
    vectors = {
        text: vector.astype(np.float16)
        for text, vector in zip(log.catalogue.queries, encode(log.catalogue.queries), strict=True)
    }

    def by_hand(samples: Samples) -> list[float]:
        found = []
        for request, row in zip(samples.request, samples.item_row, strict=True):
            query = samples.requests.query_row[request]
            if query < 0:
                found.append(np.nan)
                continue
            item = ITEM_VECTORS[int(log.catalogue.item_ids[row][1:])].astype(np.float16)
            words = vectors[log.catalogue.queries[query]]
            found.append(sum(float(one) * float(other) for one, other in zip(words, item, strict=True)))
        return found

    np.testing.assert_allclose(match.of_samples(train_samples), by_hand(train_samples), atol=1e-6)
    edges = np.nanquantile(by_hand(train_samples), np.linspace(0, 1, 33))
    asking = ranker.features.of_log(test_samples.requests)
    given = ranker.features.candidates(asking, request=test_samples.request, item_rows=test_samples.item_row)
    cosines = np.array(by_hand(test_samples))
    there = ~np.isnan(cosines)
    assert 0 < there.sum() < len(there)
    places = np.interp(cosines, edges, np.linspace(-1, 1, 33))
    number, is_there = given.numbers[:, 1].numpy(), given.numbers[:, 3].numpy()  # beside the age
    np.testing.assert_allclose(number, np.where(there, places, 0.0), atol=1e-4)
    np.testing.assert_array_equal(is_there, there)


def test_a_spoken_request_has_the_scores_of_the_same_in_the_log(log, ranker, test_samples):
    logits, requests = ranker.score_samples(test_samples), test_samples.requests
    spoken = np.flatnonzero(requests.query_row >= 0)[:6].tolist() + np.flatnonzero(requests.query_row < 0)[:2].tolist()
    for place in spoken:
        words = None if requests.query_row[place] < 0 else log.catalogue.queries[requests.query_row[place]]
        user = log.catalogue.users[requests.user_row[place]]
        nothing = np.zeros(0, np.int64)
        asking = ranker.features.of_words(
            user=user, query=words, cell=None, time_us=int(requests.time_us[place]), past=Past(*[nothing] * 3)
        )
        own = test_samples.request == place
        found = ranker.score(asking, item_rows=test_samples.item_row[own])
        np.testing.assert_allclose(found, logits[own], rtol=1e-5, atol=1e-6)
    blank, none = (
        ranker.features.of_words(user=None, query=words, cell=None, time_us=0, past=None) for words in (" ", None)
    )
    assert blank.queries is not None and np.isnan(blank.queries).all() and np.isnan(none.queries).all()


def test_an_item_that_came_since_is_matched_by_its_vector(log, match, ranker):
    """The same items once more have the same scores; with another's vector they have another's match."""
    rows = np.arange(6)
    items = log.catalogue.items[rows.tolist()]
    grown = ranker.with_items(items, modalities={}, match_vectors=match.item_vectors[rows])
    other = ranker.with_items(items, modalities={}, match_vectors=np.roll(match.item_vectors[rows], 1, axis=0))
    asking = grown.features.of_words(user=None, query="q1z3", cell=None, time_us=2**51, past=None)
    expected = ranker.score(asking, item_rows=rows)
    np.testing.assert_array_equal(grown.score(asking, item_rows=ITEMS + rows), expected)
    assert not np.allclose(other.score(asking, item_rows=ITEMS + rows), expected)
    with pytest.raises(ConfigError, match="new items have no vectors of that encoder"):
        ranker.with_items(items, modalities={})


def test_it_is_given_where_it_is_read_and_nowhere_else(log, match, artifact, tmp_path):
    assert read_needs(artifact.path) == ((), True)
    with pytest.raises(ConfigError, match="given no encoder's vectors of them"):
        Ranker.load(artifact, catalogue=log.catalogue)
    plain = FeatureIds.fit(log.catalogue, samples=read_samples(log.catalogue, places=log.split.train))
    with pytest.raises(ConfigError, match="reads none"):
        Features(log.catalogue, ids=plain, history_items=2, match=match)
    for config, one, message in (
        (config_of(), None, "is given no encoder's vectors"),
        (config_of(reads_match=False), match, "is given, and not read"),
        (config_of(), Match(match.item_vectors[1:], encode, match.query_vectors), r"of items have the shape \(39, 6\)"),
        (config_of(), Match(match.item_vectors, encode, match.query_vectors[:, :4]), "of queries have the shape"),
        (config_of(), Match(match.item_vectors, encode), "no vectors of its queries"),
    ):
        with pytest.raises(ConfigError, match=message):
            RankTask(config, Given(*log, seed=0, match=one))
    requests = [
        event(day * 24 * 60 + step, step, f"i{step % 3}", kind)
        for day in range(6)
        for step, kind in enumerate(["impression", "impression", "click"])
    ]
    silent = make_log(tmp_path / "silent", items={"item_id": ["i0", "i1", "i2"], "title": ["a"] * 3}, events=requests)
    nothing = Match(np.zeros((3, DIM), np.float16), encode, np.zeros((0, DIM), np.float16))
    with pytest.raises(ConfigError, match="no request of the training part has words"):
        RankTask(config_of(), Given(*silent, seed=0, match=nothing))


def test_rankers_without_it_keep_their_ids():
    assert "reads_match" not in RankTrainConfig().dump()
    assert "reads_match" not in RunConfig(ranker=RankTrainConfig()).dump()["ranker"]
    again = RunConfig.parse(RunConfig(ranker=config_of()).dump())
    assert again.ranker is not None and again.ranker.reads_match


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"ranker": {"reads_match": True}}, "reads_match reads an encoder's vectors"),
        (
            {"ranker": {"reads_match": True}, "pretrain": {"kind": "contrastive"}, "modalities": ["item"]},
            "remove modalities",
        ),
        ({"pretrain": {"kind": "contrastive"}}, "remove pretrain and modalities"),
    ],
)
def test_a_row_of_a_table_names_no_more_than_it_reads(tree, message):
    with pytest.raises(ConfigError, match=message):
        RankerConfig.parse(tree)


@pytest.mark.parametrize(
    ("content", "encoder", "reads"),
    [
        ("none", {}, ()),
        ("frozen", {}, ("item",)),
        ("em3", {}, ("item", "title", "photo")),
        ("em3", {"modalities": "title"}, ("item",)),
    ],
)
def test_what_a_ranker_reads_where_nothing_is_said(content, encoder, reads):
    ranker = {"reads_match": True, "content": {"kind": content}}
    tree = {"ranker": ranker, "pretrain": {"kind": "contrastive", "encoder": encoder}}
    assert RankerConfig.parse(tree).reads == reads
