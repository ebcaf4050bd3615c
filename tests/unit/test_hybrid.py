"""Hybrid retrieval: who is asked, what is chosen on validation, and what is written down."""

from __future__ import annotations

import json

import numpy as np
import pytest

from triptych.foundation.errors import ArtifactError, ConfigError, DataError, EngineError
from triptych.metrics.ranking import TargetSets, graded_ndcg_at_k, match, recall_at_k
from triptych.recall.base import Request, rank
from triptych.recall.fusion import Fusion, feature_names
from triptych.recall.fusion_choice import choose, given_rule, shares
from triptych.recall.models.hybrid import (
    AskedBy,
    Hybrid,
    HybridChannel,
    HybridConfig,
    LogCounts,
    Rule,
    saved_channels,
)

NUM_ITEMS, NUM_QUERIES = 60, 200
WORDS = frozenset({AskedBy.WORDS})
EVEN = Rule(Fusion.RRF, (0.5, 0.5))


class Scored:
    """Ranks all items by a table of scores: query (a number as text) → ``[items]``."""

    def __init__(self, scores, name="scored"):
        self.scores, self.name, self.requests = scores, name, []

    def retrieve(self, requests, k):
        self.requests += list(requests)
        rows = [int(request.query or 0) for request in requests]
        scores = np.stack([self.scores[row] for row in rows])
        for place, request in enumerate(requests):
            if request.keep is not None:
                scores[place, ~request.keep] = -np.inf
        return rank(scores, k=k)


def channel(scores, reads=WORDS, knows=None):
    return HybridChannel(Scored(scores.astype(np.float32)), reads, knows)


@pytest.fixture(scope="module")
def generated():
    """What is wanted follows a hidden score; two channels see it through noise, one sees something else."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(NUM_QUERIES, NUM_ITEMS))
    seen = {
        "sharp": hidden + 0.6 * rng.normal(size=hidden.shape),
        "noise": rng.normal(size=hidden.shape),
        "dull": hidden + 1.2 * rng.normal(size=hidden.shape),
    }
    rows = np.argsort(-hidden, axis=1)[:, :4]
    wanted = TargetSets(np.arange(0, 4 * NUM_QUERIES + 1, 4), rows.ravel())
    requests = [Request(query=str(row)) for row in range(NUM_QUERIES)]
    counts = LogCounts({}, np.zeros(NUM_ITEMS, np.int64))
    return {name: channel(scores) for name, scores in seen.items()}, requests, wanted, counts


def value(hits, wanted, k=5):
    return recall_at_k(match(hits.item_rows, targets=wanted), k=k).mean()


def test_every_formula_finds_the_channel_that_is_noise(generated):
    channels, requests, wanted, counts = generated
    alone = max(value(one.retriever.retrieve(requests, 5), wanted) for one in channels.values())
    for fusion in Fusion:
        config = HybridConfig(fusion=fusion, candidates=30, validation_k=5)
        rule = choose(channels, requests=requests, wanted=wanted, config=config, counts=counts).rule
        fused = Hybrid(channels, rule=rule, config=config, counts=counts).retrieve(requests, 5)
        assert value(fused, wanted) >= alone
        if fusion is Fusion.LEARNED:
            weight = dict(zip(feature_names(list(channels), with_context=True), rule.weights, strict=True))
            size = {
                name: sum(abs(one) for feature, one in weight.items() if feature.startswith(name)) for name in channels
            }
            assert size["sharp"] > size["dull"] > 3 * size["noise"]
            assert weight["sharp: minmax"] > weight["dull: minmax"] > 3 * abs(weight["noise: minmax"])
        else:
            sharp, noise, dull = rule.weights
            assert sharp >= dull > noise == 0


def test_the_formula_is_chosen_on_the_other_half(generated):
    """The values in the summary, made again by hand; the choice is the best of them."""
    channels, requests, wanted, counts = generated
    config = HybridConfig(candidates=30, validation_k=5)
    choice = choose(channels, requests=requests, wanted=wanted, config=config, counts=counts)
    halves = [np.arange(0, NUM_QUERIES, 2), np.arange(1, NUM_QUERIES, 2)]
    trials = []
    for weights in shares(3).tolist():
        hybrid = Hybrid(channels, rule=Rule(Fusion.MINMAX, tuple(weights)), config=config)
        trials.append(recall_at_k(match(hybrid.retrieve(requests, 5).item_rows, targets=wanted), k=5))
    values = np.stack(trials)
    elsewhere = [values[np.argmax(values[:, one].mean(axis=1)), other] for one, other in (halves, halves[::-1])]
    assert choice.summary["fused by minmax"] == pytest.approx(np.concatenate(elsewhere).mean())
    assert choice.summary["sharp"] == pytest.approx(value(channels["sharp"].retriever.retrieve(requests, 5), wanted))
    fused = {name: one for name, one in choice.summary.items() if name.startswith("fused by ")}
    assert set(fused) == {f"fused by {one}" for one in Fusion}
    assert f"fused by {choice.rule.fusion}" == max(fused, key=fused.__getitem__)
    low, gain, high = choice.summary["gain"]
    assert low < gain < high
    assert gain == pytest.approx(max(fused.values()) - choice.summary["sharp"])
    assert choice.rule.is_preferred is (low > 0)


def test_a_fusion_with_noise_is_not_preferred(generated):
    channels, requests, wanted, counts = generated
    pair = {name: channels[name] for name in ("sharp", "noise")}
    config = HybridConfig(candidates=30, validation_k=5)
    choice = choose(pair, requests=requests, wanted=wanted, config=config, counts=counts)
    assert choice.summary["gain"][1] < 0.01
    assert not choice.rule.is_preferred


def test_grades_choose_by_graded_ndcg(generated):
    channels, requests, wanted, _ = generated
    graded = wanted._replace(grades=np.tile([3.0, 2.0, 1.0, 0.0], NUM_QUERIES))
    config = HybridConfig(fusion=Fusion.RRF, candidates=30)
    choice = choose(channels, requests=requests, wanted=graded, config=config, counts=None)
    assert choice.summary["metric"] == "ndcg@10"
    hits = channels["dull"].retriever.retrieve(requests, 10)
    expected = graded_ndcg_at_k(match(hits.item_rows, targets=graded), k=10, gain="linear").mean()
    assert choice.summary["dull"] == pytest.approx(expected)


def test_nothing_found_is_told(generated):
    channels, requests, _, counts = generated
    nowhere = TargetSets(np.arange(NUM_QUERIES + 1), np.full(NUM_QUERIES, NUM_ITEMS + 5))
    for fusion in (Fusion.RRF, Fusion.LEARNED):
        with pytest.raises(DataError, match="hybrid"):
            choose(channels, requests=requests, wanted=nowhere, config=HybridConfig(fusion=fusion), counts=counts)


def test_the_query_and_the_item_count_in_learned_fusion():
    """For queries that training knows one channel is right, for the others the other; new items are never chosen."""
    rng = np.random.default_rng(1)
    right, wrong = rng.normal(size=(2, NUM_QUERIES, NUM_ITEMS))
    known = np.arange(NUM_QUERIES) % 4 < 2
    seen = {
        "taught": np.where(known[:, None], right, wrong),
        "plain": np.where(known[:, None], wrong, right),
    }
    of_item = np.arange(NUM_ITEMS) % 2  # every other item was chosen by somebody
    rows = np.argsort(-np.where(of_item > 0, right, -np.inf), axis=1)[:, :3]
    wanted = TargetSets(np.arange(0, 3 * NUM_QUERIES + 1, 3), rows.ravel())
    requests = [Request(query=str(row)) for row in range(NUM_QUERIES)]
    counts = LogCounts({str(row): 50 for row in np.flatnonzero(known)}, of_item)
    channels = {name: channel(scores) for name, scores in seen.items()}
    config = HybridConfig(candidates=40, validation_k=3)
    choice = choose(channels, requests=requests, wanted=wanted, config=config, counts=counts)
    assert choice.rule.fusion is Fusion.LEARNED
    assert choice.rule.is_preferred
    assert choice.summary["fused by learned"] > 0.8 > choice.summary["fused by minmax"]
    assert choice.rule.weights[-1] < -1


def test_who_cannot_read_a_request_is_not_asked():
    scores = np.random.default_rng(0).normal(size=(2, NUM_ITEMS))
    everything = WORDS | {AskedBy.PHOTO}
    words, eyes = channel(scores), channel(-scores, everything)
    hybrid = Hybrid({"words": words, "eyes": eyes}, rule=EVEN)
    pixels = np.zeros((4, 4, 3), np.uint8)
    both, photo, plain = Request(query="1", photo=pixels), Request(photo=pixels), Request(query="1")
    assert hybrid.asked(plain) == ["words", "eyes"]
    assert hybrid.asked(both) == hybrid.asked(photo) == ["eyes"]
    hits = hybrid.retrieve([both, plain, photo], 10)
    assert words.retriever.requests == [plain]
    np.testing.assert_array_equal(hits.item_rows[0], eyes.retriever.retrieve([both], 10).item_rows[0])
    np.testing.assert_array_equal(hits.item_rows[1], hybrid.retrieve([plain], 10).item_rows[0])
    with pytest.raises(EngineError, match=r"words, eyes.*an item"):
        hybrid.retrieve([plain, Request(item_row=3)], 10)
    with pytest.raises(EngineError, match="nothing"):
        hybrid.retrieve([Request()], 10)
    with pytest.raises(EngineError, match="a history"):
        hybrid.retrieve([Request(user="u1")], 10)


def test_who_knows_nothing_of_the_words_is_not_asked():
    scores = np.random.default_rng(0).normal(size=(2, NUM_ITEMS))
    channels = {"ids": channel(scores, knows=lambda query: query == "0"), "words": channel(-scores)}
    hybrid = Hybrid(channels, rule=EVEN)
    assert hybrid.asked(Request(query="0")) == ["ids", "words"]
    assert hybrid.asked(Request(query="1")) == ["words"]


def test_places_say_who_found_an_item():
    scores = np.random.default_rng(0).normal(size=(1, NUM_ITEMS))
    hybrid = Hybrid({"one": channel(scores), "two": channel(-scores)}, rule=EVEN, config=HybridConfig(candidates=40))
    order = np.argsort(-scores[0]).tolist()
    found = hybrid.places(Request(query="0"), [order[0], order[25], order[59]])
    assert found == [{"one": 1}, {"one": 26, "two": 35}, {"two": 1}]


def test_a_filter_is_fused_anew():
    """With a filter the answer is that of channels which had only these items, not what is left of the other."""
    scores = np.random.default_rng(0).normal(size=(2, NUM_ITEMS))
    keep = np.random.default_rng(1).random(NUM_ITEMS) < 0.3
    config = HybridConfig(candidates=10)
    hybrid = Hybrid({"one": channel(scores), "two": channel(scores[::-1])}, rule=EVEN, config=config)
    hits = hybrid.retrieve([Request(query="0", keep=keep)], 10)
    kept = {"one": channel(scores[:, keep]), "two": channel(scores[::-1][:, keep])}
    alone = Hybrid(kept, rule=EVEN, config=config).retrieve([Request(query="0")], 10)
    np.testing.assert_array_equal(hits.item_rows, np.flatnonzero(keep)[alone.item_rows])
    np.testing.assert_array_equal(hits.scores, alone.scores)


def test_quotas_reach_the_answer():
    scores = np.random.default_rng(0).normal(size=(3, NUM_ITEMS))
    rule = Rule(Fusion.RRF, (1.0, 0.0))
    channels = {"main": channel(scores), "few": channel(-scores)}
    plain = Hybrid(channels, rule=rule, config=HybridConfig(candidates=20))
    quota = HybridConfig(candidates=20, quotas={"few": 3}, quota_places=8)
    hybrid = Hybrid(channels, rule=rule, config=quota)
    requests = [Request(query=str(row)) for row in range(3)]
    before, hits = plain.retrieve(requests, 40), hybrid.retrieve(requests, 40)
    few = channels["few"].retriever.retrieve(requests, 20).item_rows
    for row in range(3):
        assert np.isin(hits.item_rows[row, :8], few[row]).sum() == 3
        np.testing.assert_array_equal(hits.item_rows[row, :5], before.item_rows[row, :5])
    for k in (1, 7, 8, 13):  # shorter answers are the head of longer ones
        np.testing.assert_array_equal(hybrid.retrieve(requests, k).item_rows, hits.item_rows[:, :k])


def test_what_is_saved_answers_alike(generated, tmp_path):
    channels, requests, wanted, _ = generated
    counts = LogCounts({"3": 7, "no. 5": 1}, np.arange(NUM_ITEMS) % 3)
    config = HybridConfig(fusion=Fusion.LEARNED, candidates=25, quotas={"noise": 2})
    rule = choose(channels, requests=requests, wanted=wanted, config=config, counts=counts).rule
    hybrid = Hybrid(channels, rule=rule, config=config, counts=counts)
    hybrid.save(tmp_path / "hybrid")
    assert saved_channels(tmp_path / "hybrid") == list(channels)
    loaded = Hybrid.load(tmp_path / "hybrid", channels=channels)
    assert loaded.rule == rule
    for one, other in zip(loaded.retrieve(requests, 30), hybrid.retrieve(requests, 30), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(EngineError, match="sharp, noise, dull"):
        Hybrid.load(tmp_path / "hybrid", channels=dict(reversed(channels.items())))
    stored = json.loads((tmp_path / "hybrid" / "rule.json").read_text())
    stored["weights"]["something else"] = stored["weights"].pop("item is new")
    (tmp_path / "hybrid" / "rule.json").write_text(json.dumps(stored))
    with pytest.raises(ArtifactError, match="another version"):
        Hybrid.load(tmp_path / "hybrid", channels=channels)


def test_items_added_later_are_new():
    counts = LogCounts({}, np.array([1, 0, 2]))
    scores = np.array([[4.0, 3.0, 2.0, 1.0, 0.5]])
    rule = Rule(Fusion.LEARNED, (*[0.0] * 5, -1.0))
    hits = Hybrid({"one": channel(scores)}, rule=rule, counts=counts).retrieve([Request(query="0")], 5)
    assert hits.item_rows.tolist() == [[0, 2, 1, 3, 4]]


def test_a_rule_of_other_channels_is_refused():
    one = {"one": channel(np.zeros((1, 3)))}
    with pytest.raises(EngineError, match="2 weights for 1"):
        Hybrid(one, rule=EVEN)
    with pytest.raises(EngineError, match="6 weights for 4"):  # without a log
        Hybrid(one, rule=Rule(Fusion.LEARNED, (0.0,) * 6))
    with pytest.raises(EngineError, match="quota of new"):
        Hybrid(one, rule=Rule(Fusion.RRF, (1.0,)), config=HybridConfig(quotas={"new": 1}))
    with pytest.raises(EngineError, match="not of"):
        Hybrid(one, rule=Rule(Fusion.RRF, (1.0,))).over({"two": one["one"]})


def test_given_weights_are_taken_by_name():
    config = HybridConfig(channels=("dense", "bm25"), fusion=Fusion.RRF, weights={"bm25": 0.2, "dense": 2.0})
    assert given_rule(["dense", "bm25"], config=config) == Rule(Fusion.RRF, (2.0, 0.2))
    assert given_rule(["dense", "bm25"], config=HybridConfig()) is None


def test_the_trials_are_all_shares():
    found = {tuple(row) for row in shares(3).tolist()}
    assert len(found) == 15
    assert {sum(row) for row in found} == {1.0}
    assert {(1.0, 0.0, 0.0), (0.5, 0.25, 0.25)} <= found


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"weights": {"bm25": 1.0}}, "set fusion"),
        ({"fusion": "learned", "weights": {"bm25": 1.0}}, "set fusion"),
        ({"channels": ["dense", "bm25"], "fusion": "rrf", "weights": {"bm25": 1.0}}, "each of channels"),
        ({"fusion": "rrf", "weights": {"bm25": 0.0}}, "not all 0"),
        ({"channels": ["dense", "dense"]}, "twice"),
        ({"channels": ["dense", "bm25"], "quotas": {"new": 1}}, "quotas names new"),
        ({"quotas": {"bm25": 6, "dense": 5}}, "11 places"),
        ({"quotas": {"bm25": 0}}, "at least 1"),
        ({"quota_places": 3}, "quota_places has no effect"),
        ({"fusion": "minmax", "rrf_constant": 10.0}, "rrf_constant has no effect"),
        ({"fusion": "rrf", "l2": 1.0}, "l2 has no effect"),
        ({"fusion": "rrf", "weights": {"bm25": 1.0}, "validation_k": 5}, "validation_k has no effect"),
    ],
)
def test_settings_that_do_not_go_together(tree, message):
    with pytest.raises(ConfigError, match=message):
        HybridConfig.parse(tree)
