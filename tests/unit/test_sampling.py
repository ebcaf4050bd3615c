"""Batches of items and queries: drawn from the pairs, reproducibly, with the right weights."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from triptych.data.sampling import FromCells, ItemPairSampler, ItemQuerySampler, KnownPairs, inclusion_chances
from triptych.data.targets import TrainPairs, UserItems
from triptych.foundation.errors import DataError


def random_pairs(*, seed: int = 0, num_queries: int = 60, num_items: int = 90, num_pairs: int = 700):
    rng = np.random.default_rng(seed)
    keys = np.sort(rng.choice(num_queries * num_items, size=num_pairs, replace=False))
    return {
        "query_row": (keys // num_items).astype(np.int32),
        "item_row": (keys % num_items * 3).astype(np.int32),  # gaps: not every item has a pair
        "clicks": rng.integers(1, 9, size=num_pairs).astype(np.int32),
    }


def test_a_batch_holds_pairs_of_training():
    pairs = random_pairs()
    clicked = set(zip(pairs["query_row"].tolist(), pairs["item_row"].tolist(), strict=True))
    sampler = ItemQuerySampler(**pairs, batch_items=32, queries_per_item=3, seed=5)
    for index in range(20):
        batch = sampler.batch(index)
        assert len(set(batch.item_rows.tolist())) == 32
        assert (np.diff(batch.item_rows) > 0).all()
        assert batch.positive.tolist() == [place for place in range(32) for _ in range(3)]
        for query, place in zip(batch.query_rows.tolist(), batch.positive.tolist(), strict=True):
            assert (query, int(batch.item_rows[place])) in clicked


def test_known_equals_brute_force():
    pairs = random_pairs()
    clicked = set(zip(pairs["query_row"].tolist(), pairs["item_row"].tolist(), strict=True))
    sampler = ItemQuerySampler(**pairs, batch_items=40, seed=1)
    batch = sampler.batch(0)
    expected = [[(q, i) in clicked for i in batch.item_rows.tolist()] for q in batch.query_rows.tolist()]
    assert batch.known.tolist() == expected
    assert batch.known.sum() > len(batch.query_rows), "the case must have accidental positives"


def test_known_of_a_query_without_clicks_is_empty():
    pairs = random_pairs()
    pairs = KnownPairs(pairs["query_row"], pairs["item_row"])
    known = pairs.among(np.array([0, 59, 60, 10_000]), item_rows=np.array([0, 3, 6, 267]))
    assert not known[2:].any()


def test_a_batch_depends_on_seed_and_index_only():
    pairs = random_pairs()
    first = ItemQuerySampler(**pairs, batch_items=16, seed=7)
    second = ItemQuerySampler(**pairs, batch_items=16, seed=7)
    for index in (9, 0, 4):
        second.batch(index)
    for index in (0, 1, 9):
        for ours, theirs in zip(first.batch(index), second.batch(index), strict=True):
            assert (ours == theirs).all()
    other_index, other_seed = first.batch(2), ItemQuerySampler(**pairs, batch_items=16, seed=8).batch(1)
    assert (first.batch(1).item_rows != other_index.item_rows).any()
    assert (first.batch(1).item_rows != other_seed.item_rows).any()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_items_are_drawn_by_a_power_of_their_clicks(power):
    clicks = np.array([1, 4, 16, 64])
    sampler = ItemQuerySampler(
        query_row=np.arange(4), item_row=np.arange(4), clicks=clicks, batch_items=1, item_power=power, seed=0
    )
    draws = 4000
    counts = np.bincount([int(sampler.batch(i).item_rows[0]) for i in range(draws)], minlength=4)
    expected = clicks**power / (clicks**power).sum()
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) < 4 * deviation).all()


def test_queries_are_drawn_by_clicks():
    sampler = ItemQuerySampler(
        query_row=np.array([3, 5, 8]),
        item_row=np.zeros(3, dtype=np.int64),
        clicks=np.array([1, 2, 5]),
        batch_items=4,
        queries_per_item=100,
        seed=0,
    )
    drawn = np.concatenate([sampler.batch(i).query_rows for i in range(50)])
    shares = np.array([(drawn == query).mean() for query in (3, 5, 8)])
    expected = np.array([1, 2, 5]) / 8
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / len(drawn))).all()


def test_a_batch_takes_all_items_where_there_are_fewer():
    sampler = ItemQuerySampler(**random_pairs(), batch_items=10_000, seed=0)
    assert sampler.batch_items == len(sampler.batch(0).item_rows) == len(np.unique(random_pairs()["item_row"]))


NUM_CELLS = 9


def random_cells(*, seed: int = 0) -> np.ndarray:
    """Items of `random_pairs` in about one of nine cells each; many in none."""
    return np.random.default_rng(seed).random((270, NUM_CELLS)) < 0.1


def most_in_cells(item_rows: np.ndarray, cells: np.ndarray, *, count: int) -> int:
    """How many items of a batch are in some choice of so many cells, tried one by one."""
    choices = itertools.combinations(range(NUM_CELLS), count)
    return max(sum(bool(cells[item, list(choice)].any()) for item in item_rows) for choice in choices)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_share_of_a_batch_is_drawn_from_few_cells(rate: float):
    pairs, cells = random_pairs(), random_cells()
    local = FromCells(cells, rate=rate, cells=2)
    sampler = ItemQuerySampler(**pairs, batch_items=20, from_cells=local, seed=3)
    everywhere = ItemQuerySampler(**pairs, batch_items=20, seed=3)
    batches = [sampler.batch(index) for index in range(60)]
    found = [most_in_cells(batch.item_rows, cells, count=2) for batch in batches]
    without = [most_in_cells(everywhere.batch(index).item_rows, cells, count=2) for index in range(60)]
    assert all(len(batch.item_rows) == 20 and (np.diff(batch.item_rows) > 0).all() for batch in batches)
    items = np.unique(pairs["item_row"])
    fewest = min(
        int(cells[items][:, list(two)].any(axis=1).sum()) for two in itertools.combinations(range(NUM_CELLS), 2)
    )
    assert min(found) >= min(rate * 20, fewest)
    assert np.mean(found) > np.mean(without) + 2, "the case must tell the two apart"
    assert all((one.item_rows == sampler.batch(index).item_rows).all() for index, one in enumerate(batches))


def test_the_cells_are_others_in_every_batch_and_the_rest_is_from_everywhere():
    cells = np.zeros((270, NUM_CELLS), dtype=bool)
    items = np.unique(random_pairs()["item_row"])
    cells[items[:80], np.arange(80) % 8] = True  # ten in each of eight; the other items are in none
    local = FromCells(cells, rate=0.5, cells=1)
    sampler = ItemQuerySampler(**random_pairs(), batch_items=16, item_power=0.0, from_cells=local, seed=0)
    seen: Counter[int] = Counter()
    nowhere = 0
    for index in range(200):
        inside = cells[sampler.batch(index).item_rows]
        assert inside.sum(axis=0).max() >= 8 or inside.sum() <= 16
        seen[int(inside.sum(axis=0).argmax())] += int(inside.sum(axis=0).max() >= 8)
        nowhere += int((~inside.any(axis=1)).sum())
    # one of nine cells is drawn, and one of those is empty: then all come from everywhere
    assert set(seen) == set(range(8))
    assert sum(seen.values()) == pytest.approx(200 * 8 / 9, abs=25)
    assert nowhere > 0


def test_items_of_a_cell_are_drawn_by_their_clicks_too():
    cells = np.array([[True], [True], [False], [False]])
    clicks = np.array([1, 9, 5, 5])
    given = {"query_row": np.arange(4), "item_row": np.arange(4), "clicks": clicks, "item_power": 1.0, "batch_items": 2}
    sampler = ItemQuerySampler(**given, from_cells=FromCells(cells, rate=0.5, cells=1), seed=0)
    batches = [sampler.batch(index).item_rows.tolist() for index in range(4_000)]
    # the first by clicks among items 0 and 1, the second by clicks among the other three
    chance = {(0, 1): 0.1 * 9 / 19 + 0.9 * 1 / 11, (0, 2): 0.1 * 5 / 19, (1, 2): 0.9 * 5 / 11}
    for pair, expected in chance.items():
        share = np.mean([tuple(batch) == pair for batch in batches])
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 4_000)
    assert not any(batch == [2, 3] for batch in batches)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_log_q_of_items_is_how_often_they_are_in_a_batch(power: float):
    rng = np.random.default_rng(1)
    given = {"query_row": np.arange(60), "item_row": np.arange(60), "clicks": rng.integers(1, 60, 60)}
    sampler = ItemQuerySampler(**given, batch_items=25, item_power=power, seed=0)
    batches = [sampler.batch(index) for index in range(8_000)]
    told = {i: float(q) for batch in batches for i, q in zip(batch.item_rows.tolist(), batch.log_q, strict=True)}
    probability = np.exp([told[item] for item in range(60)])
    frequency = np.bincount(np.concatenate([b.item_rows for b in batches]), minlength=60) / len(batches)
    noise = 4.5 * np.sqrt(probability * (1 - probability) / len(batches))
    # exact for the time at which so many are expected, not for the count: off by an order of 1 / 25 of the variance
    assert (np.abs(frequency - probability) < noise + probability * (1 - probability) / 25).all()
    assert probability.sum() == pytest.approx(25, rel=1e-6)
    if power:
        assert probability.max() / probability.min() > 2, "the case must have rare and frequent items"


def test_log_q_of_queries_is_how_often_they_are_expected_in_a_batch():
    pairs = random_pairs(num_pairs=300)
    sampler = ItemQuerySampler(**pairs, batch_items=12, queries_per_item=3, item_power=0.5, seed=0)
    batches = [sampler.batch(index) for index in range(4_000)]
    told = {q: float(e) for b in batches for q, e in zip(b.query_rows.tolist(), b.query_log_q, strict=True)}
    met = np.bincount(np.concatenate([batch.query_rows for batch in batches])) / len(batches)
    expected = np.array([np.exp(told[query]) for query in sorted(told)])
    assert expected.sum() == pytest.approx(36, rel=0.01)
    assert expected.max() / expected.min() > 4
    # A query's draws come in the threes of an item, so counts vary more than those of single draws.
    assert (np.abs(met[sorted(told)] - expected) < 4.5 * np.sqrt(3 * expected / len(batches)) + expected / 12).all()


def test_an_item_that_is_never_drawn_counts_as_the_rarest():
    given = {"query_row": np.arange(4), "item_row": np.array([2, 5, 7, 9]), "clicks": np.array([1, 8, 3, 2])}
    sampler = ItemQuerySampler(**given, batch_items=2, item_power=1.0, seed=0)
    batches = [sampler.batch(index) for index in range(50)]
    told = {i: q for batch in batches for i, q in zip(batch.item_rows.tolist(), batch.log_q.tolist(), strict=True)}
    assert sampler.log_q(np.array([0, 2, 5, 6, 9, 11])).tolist() == [told[row] for row in (2, 2, 5, 2, 9, 2)]


def test_chances_where_all_are_drawn_and_where_one_is():
    weights = np.array([1.0, 2.0, 3.0, 994.0])
    assert inclusion_chances(np.log(weights), size=4).tolist() == [1.0] * 4
    assert inclusion_chances(np.log(weights), size=9).tolist() == [1.0] * 4
    some = inclusion_chances(np.log(weights), size=2)
    assert some.sum() == pytest.approx(2)
    assert (np.diff(some) > 0).all()


def test_the_most_clicked_item_of_each_query_against_a_loop():
    pairs = TrainPairs(**random_pairs(num_pairs=900))
    kept = pairs.most_clicked()
    expected: dict[int, tuple[int, int]] = {}
    for query, item, clicks in zip(*(column.tolist() for column in pairs), strict=True):
        best = expected.get(query)
        if best is None or clicks > best[1] or (clicks == best[1] and item < best[0]):
            expected[query] = (item, clicks)
    found = zip(*(column.tolist() for column in kept), strict=True)
    assert {query: (item, clicks) for query, item, clicks in found} == expected
    assert (np.diff(kept.query_row) > 0).all()


def test_what_is_known_of_other_items_than_the_batch():
    pairs = random_pairs()
    clicked = set(zip(pairs["query_row"].tolist(), pairs["item_row"].tolist(), strict=True))
    sampler = ItemQuerySampler(**pairs, batch_items=10, seed=1)
    batch, others = sampler.batch(0), np.arange(0, 270, 7)
    expected = [[(q, i) in clicked for i in others.tolist()] for q in batch.query_rows.tolist()]
    assert sampler.known(batch.query_rows, item_rows=others).tolist() == expected
    assert np.any(expected)


def test_nothing_to_train_on():
    empty = np.array([], dtype=np.int32)
    with pytest.raises(DataError, match="no positive event of the training part has a query"):
        ItemQuerySampler(query_row=empty, item_row=empty, clicks=empty, seed=0)


def random_histories(*, seed: int = 0, num_users: int = 30) -> UserItems:
    """Histories of 0 to 40 choices among 60 items, with repeats."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 40, num_users)
    rows = rng.zipf(1.5, size=int(sizes.sum())) % 60 * 2  # gaps: not every item is chosen
    return UserItems(np.concatenate([[0], np.cumsum(sizes)]), rows.astype(np.int32))


def test_pairs_stand_near_each_other_in_one_history_and_what_the_user_chose_is_known():
    histories = random_histories()
    firsts = [list(dict.fromkeys(histories.of(user).tolist())) for user in range(30)]
    sampler = ItemPairSampler(histories, batch_pairs=64, window=3, seed=5)
    for index in range(20):
        batch = sampler.batch(index)
        assert (np.diff(batch.item_rows) > 0).all()
        assert (batch.anchor != batch.positive).all()
        assert set(batch.anchor.tolist()) | set(batch.positive.tolist()) == set(range(len(batch.item_rows)))
        for anchor, positive, known in zip(batch.anchor, batch.positive, batch.known, strict=True):
            pair = int(batch.item_rows[anchor]), int(batch.item_rows[positive])
            chosen = set(batch.item_rows[known].tolist())
            whose = [
                own
                for own in firsts
                if set(pair) <= set(own)
                and abs(own.index(pair[0]) - own.index(pair[1])) <= 3
                and chosen == set(own) & set(batch.item_rows.tolist())
            ]
            assert whose  # a user who chose both, at most three choices apart, and exactly what is known


def test_pair_batches_are_functions_of_seed_and_index():
    first, again = (ItemPairSampler(random_histories(), seed=1).batch(7) for _ in range(2))
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    other = ItemPairSampler(random_histories(), seed=2).batch(7)
    assert other.known.shape != first.known.shape or (other.item_rows != first.item_rows).any()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_items_are_asked_for_by_a_power_of_their_users(power: float):
    histories = random_histories(seed=3)
    firsts = [list(dict.fromkeys(histories.of(user).tolist())) for user in range(30)]
    users = Counter(item for own in firsts if len(own) > 1 for item in own)
    total = Counter(item for own in firsts for item in own)
    sampler = ItemPairSampler(histories, batch_pairs=2000, item_power=power, seed=0)
    drawn: Counter[int] = Counter()
    for index in range(20):
        batch = sampler.batch(index)
        drawn.update(batch.item_rows[batch.positive].tolist())
    weights = {item: users[item] * total[item] ** (power - 1) for item in users}
    for item, weight in weights.items():
        share = weight / sum(weights.values())
        assert drawn[item] / 40_000 == pytest.approx(share, abs=5 * np.sqrt(share / 40_000))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_log_q_is_how_often_an_item_is_in_a_batch(power: float):
    sampler = ItemPairSampler(random_histories(), batch_pairs=4, window=3, item_power=power, seed=3)
    batches = [sampler.batch(index) for index in range(6000)]
    seen = Counter(item for batch in batches for item in batch.item_rows.tolist())
    told = {item: log_q for batch in batches for item, log_q in zip(batch.item_rows.tolist(), batch.log_q, strict=True)}
    frequency = np.array([seen[item] / len(batches) for item in sorted(told)])
    probability = np.exp([told[item] for item in sorted(told)])
    noise = np.sqrt(probability * (1 - probability) / len(batches))
    assert (np.abs(frequency - probability) < 4.5 * noise).all()
    assert probability.max() / probability.min() > 1.2, "the case must have rare and frequent items"


def test_without_two_choices_of_anybody_there_is_nothing_to_learn():
    lonely = UserItems(np.array([0, 1, 3]), np.array([4, 5, 5], dtype=np.int32))
    with pytest.raises(DataError, match="no user chose two items in the training part"):
        ItemPairSampler(lonely, seed=0)
