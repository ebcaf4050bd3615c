"""Approximate indexes against the exact one, on vectors with planted clusters; and changed while others search."""

from __future__ import annotations

import sys
import threading

import faiss
import numpy as np
import pytest

from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.foundation.registry import config_class
from triptych.index.backends.auto import AutoConfig
from triptych.index.backends.exact import ExactConfig
from triptych.index.backends.hnsw import HnswConfig
from triptych.index.backends.ivf import IvfConfig
from triptych.index.base import BACKENDS

NUM_ITEMS, DIM, NUM_LISTS = 5000, 32, 64
GROUP = 60
STRUCTURE = "structure.faiss"
LISTS = {"kind": "ivf", "num_lists": NUM_LISTS, "num_probes": 20}
SETTINGS = {
    "flat": LISTS | {"storage": "flat"},
    "sq8": LISTS | {"storage": "sq8"},
    "pq": LISTS | {"storage": "pq"},
    "flat float32": LISTS | {"storage": "flat", "stored_as": "float32"},
    "hnsw": {"kind": "hnsw", "ef_search": 100},
    "hnsw float32": {"kind": "hnsw", "ef_search": 100, "stored_as": "float32"},
}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def planted(rng, num):
    """Items around 100 centres, loose enough that the neighbours of a query lie in several lists."""
    centres = np.random.default_rng(99).standard_normal((100, DIM))
    return unit(centres[rng.integers(0, 100, num)] + 1.0 * rng.standard_normal((num, DIM))).astype(np.float16)


@pytest.fixture(scope="module")
def vectors():
    vectors = planted(np.random.default_rng(0), NUM_ITEMS)
    vectors[4000:4050] = vectors[:50]  # equal scores
    return vectors


@pytest.fixture(scope="module")
def queries(vectors):
    rng = np.random.default_rng(1)
    near = vectors[rng.integers(0, NUM_ITEMS, 80)].astype(np.float32)
    return unit(near + 0.1 * rng.standard_normal(near.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def exact(vectors):
    return ExactConfig().build(vectors)


@pytest.fixture(scope="module")
def built(vectors):
    """Each index, built once; a test changes copies."""
    return {name: config_of(settings).build(vectors) for name, settings in SETTINGS.items()}


def config_of(settings):
    return config_class(BACKENDS, settings["kind"]).parse(settings)


def recall(hits, truth):
    pairs = zip(hits.item_rows, truth.item_rows, strict=True)
    return sum(len(np.intersect1d(found, true[true >= 0])) for found, true in pairs) / (truth.item_rows >= 0).sum()


def assert_same(first, second):
    np.testing.assert_array_equal(first.item_rows, second.item_rows)
    np.testing.assert_array_equal(first.scores, second.scores)


@pytest.mark.parametrize("name", SETTINGS)
def test_finds_nearly_all_and_scores_like_exact(name, built, exact, vectors, queries):
    truth, hits = exact.search(queries, k=20), built[name].search(queries, k=20)
    assert recall(hits, truth) > 0.97
    if "num_probes" in SETTINGS[name]:  # the bound is worth something: looking into little misses it
        assert recall(built[name].tuned(num_probes=2).search(queries, k=20), truth) < 0.9
    else:
        poor = HnswConfig(links=2, ef_construction=4, ef_search=1).build(vectors)
        assert recall(poor.search(queries, k=20), truth) < 0.9
    all_scores = exact.search(queries, k=NUM_ITEMS)
    for place in range(len(queries)):
        score_of = dict(zip(all_scores.item_rows[place].tolist(), all_scores.scores[place].tolist(), strict=True))
        pairs = list(zip(hits.item_rows[place].tolist(), hits.scores[place].tolist(), strict=True))
        assert all(score == score_of[row] for row, score in pairs)
        assert pairs == sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("name", ["flat", "sq8", "flat float32"])
def test_lists_are_the_nearest_and_all_in_them_is_seen(name, built, exact, vectors, queries):
    """The answer is the exact one over the items of the lists whose centres are nearest, no more and no less."""
    index = built[name].tuned(num_probes=3)
    lists = index._state.structure.index
    centres = lists.quantizer.reconstruct_n(0, NUM_LISTS)
    list_of = np.argmax(vectors.astype(np.float32) @ centres.T, axis=1)
    for place, query in enumerate(queries[:20]):
        probed = np.argsort(-(centres @ query))[:3]
        own = exact.search(query[None], k=15, keep=np.isin(list_of, probed))
        hits = index.search(query[None], k=15)
        np.testing.assert_array_equal(hits.item_rows, own.item_rows, err_msg=f"query {place}")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_batch_changes_nothing(name, built, queries):
    index = built[name]
    together = index.search(queries, k=15)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        assert_same(index.search(queries, k=15), together)
    finally:
        faiss.omp_set_num_threads(threads)
    for place in range(0, len(queries), 7):
        alone = index.search(queries[place : place + 1], k=15)
        np.testing.assert_array_equal(alone.item_rows[0], together.item_rows[place])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("rate", [0.5, 0.05])
def test_filters(name, rate, built, exact, queries):
    keep = np.random.default_rng(2).random(NUM_ITEMS) < rate
    truth = exact.search(queries, k=20, keep=keep)
    hits = built[name].search(queries, k=20, keep=keep)
    assert keep[hits.item_rows].all()
    if rate < 0.1:
        assert_same(hits, truth)  # exact where little is kept
    else:
        assert recall(hits, truth) > 0.97


@pytest.mark.parametrize("name", ["flat", "sq8", "pq"])
def test_a_filter_widens_the_search(name, built, exact, queries):
    """A sixteenth is kept, so sixteen times as many lists are looked into: all of them, and nothing is missed."""
    keep = np.arange(NUM_ITEMS) % 16 == 3
    index = built[name].tuned(num_probes=4, exact_below_rate=0.0)
    assert recall(index.search(queries, k=5, keep=keep), exact.search(queries, k=5, keep=keep)) == 1
    assert recall(index.search(queries, k=5), exact.search(queries, k=5)) < 0.97


def test_a_filter_widens_the_walk(built, exact, queries):
    keep = np.arange(NUM_ITEMS) % 16 == 3
    index = built["hnsw"].tuned(exact_below_rate=0.0, ef_search=40)
    assert recall(index.search(queries, k=10, keep=keep), exact.search(queries, k=10, keep=keep)) > 0.97


@pytest.fixture(scope="module")
def in_kinds():
    """4,000 items of twenty tight kinds, and sixty queries, three of each kind."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((20, DIM))

    def drawn(kinds):
        return unit(centres[kinds] + 0.5 * rng.standard_normal((len(kinds), DIM))).astype(np.float16)

    kind = rng.integers(0, 20, 4000)
    return kind, drawn(kind), drawn(np.arange(60) % 20).astype(np.float32)


@pytest.mark.parametrize("k", [10, 100])
def test_a_walk_finds_what_is_kept_far_from_its_query(in_kinds, k):
    """Half of the kinds may be returned: for a query of another one the walk meets nothing else near it."""
    kind, vectors, queries = in_kinds
    keep, exact, index = kind < 10, ExactConfig().build(vectors), HnswConfig(ef_search=100).build(vectors)
    inside = np.arange(60) % 20 < 10
    for own in (inside, ~inside):
        truth, hits = exact.search(queries[own], k=k, keep=keep), index.search(queries[own], k=k, keep=keep)
        assert keep[hits.item_rows].all()
        assert recall(hits, truth) > 0.97


def test_what_was_added_does_not_hide_that_a_walk_met_too_little(in_kinds):
    """The added items are enough for every place, and worse than what the graph has of the kinds that are kept."""
    kind, vectors, queries = in_kinds
    own = queries[np.arange(60) % 20 >= 10]
    kept = np.flatnonzero(kind < 10)
    far = vectors[kept[np.argsort((vectors[kept].astype(np.float32) @ own.T).max(axis=1))[:30]]]
    index = HnswConfig(ef_search=20).build(vectors)
    index.add(far)
    keep = np.concatenate([kind < 10, np.ones(len(far), np.bool_)])
    truth = ExactConfig().build(np.concatenate([vectors, far])).search(own, k=10, keep=keep)
    assert (truth.item_rows < len(vectors)).all()
    assert recall(index.search(own, k=10, keep=keep), truth) > 0.97


@pytest.mark.parametrize("name", SETTINGS)
def test_no_place_is_empty_while_items_are_left(name, built, exact, queries):
    """One list of 64 holds fewer items than are wanted here, and a walk meets fewer."""
    fewest = {"num_probes": 1} if "num_probes" in SETTINGS[name] else {"ef_search": 1}
    index = built[name].tuned(**fewest)
    hits = index.search(queries, k=400)
    assert (hits.item_rows >= 0).all()
    assert all(len(set(rows)) == 400 for rows in hits.item_rows.tolist())


@pytest.mark.parametrize("name", SETTINGS)
def test_added_rows_are_searched_exactly_and_removed_ones_never_found(name, built, exact, queries):
    index, reference = built[name].copy(), exact.copy()
    more = planted(np.random.default_rng(3), 300)
    gone = np.concatenate([np.arange(0, NUM_ITEMS, 10), [NUM_ITEMS + 7]])
    for one in (index, reference):
        one.add(more[:100])
        one.add(more[100:])
        one.remove(gone)
    assert (index.num_rows, index.num_tail_rows, built[name].num_tail_rows) == (NUM_ITEMS + 300, 300, 0)
    truth, hits = reference.search(queries, k=20), index.search(queries, k=20)
    assert not np.isin(hits.item_rows, gone).any()
    assert recall(hits, truth) > 0.97
    in_tail = truth.item_rows >= NUM_ITEMS
    assert in_tail.sum() > 30
    for place in range(len(queries)):
        assert np.isin(truth.item_rows[place][in_tail[place]], hits.item_rows[place]).all()
    assert index._state.structure is built[name]._state.structure


@pytest.mark.parametrize("name", SETTINGS)
def test_only_the_tail_is_left(name, built, queries):
    index = built[name].copy()
    index.add(planted(np.random.default_rng(4), 50))
    keep = np.arange(index.num_rows) >= NUM_ITEMS
    rows = index.tuned(exact_below_rate=0.0).search(queries, k=5, keep=keep).item_rows
    assert (rows >= NUM_ITEMS).all()
    index.remove(np.arange(NUM_ITEMS))
    np.testing.assert_array_equal(index.search(queries, k=5).item_rows, rows)


@pytest.mark.parametrize("name", SETTINGS)
def test_saved_with_tail_and_removed_rows(name, built, queries, tmp_path):
    index = built[name].copy()
    index.add(planted(np.random.default_rng(5), 40))
    index.remove(np.array([3, NUM_ITEMS + 2]))
    index.save(tmp_path)
    loaded = config_of(SETTINGS[name]).open_saved(tmp_path)
    assert (loaded.num_tail_rows, loaded.memory_bytes) == (40, index.memory_bytes)
    assert_same(loaded.search(queries, k=20), index.search(queries, k=20))
    loaded.save(tmp_path)  # over the files it is mapped from
    assert_same(config_of(SETTINGS[name]).open_saved(tmp_path).search(queries, k=20), index.search(queries, k=20))


def test_pq_needs_its_refinement(built, exact, queries):
    truth = exact.search(queries, k=50)
    every_list = built["pq"].tuned(num_probes=NUM_LISTS)
    coarse, fine = (recall(every_list.tuned(refine=refine).search(queries, k=50), truth) for refine in (1, 8))
    assert coarse < 0.95
    assert fine > 0.99


def test_memory_is_what_the_storage_says(built):
    vector, per_list = NUM_ITEMS * DIM, NUM_LISTS * DIM * 4
    taken = {name: built[name].memory_bytes - 2 * vector - 8 * NUM_ITEMS - per_list for name in ("flat", "sq8", "pq")}
    assert taken == {"flat": 2 * vector, "sq8": vector, "pq": vector // 4}
    assert built["hnsw"].memory_bytes > 4 * vector + NUM_ITEMS * 2 * 16 * 4


def test_seed_decides_the_lists(vectors, built):
    def centres(index):
        return index._state.structure.index.quantizer.reconstruct_n(0, NUM_LISTS)

    config = config_of(SETTINGS["sq8"])
    np.testing.assert_array_equal(centres(config.build(vectors)), centres(built["sq8"]))
    other = config.model_copy(update={"seed": 1}).build(vectors)
    assert not np.array_equal(centres(other), centres(built["sq8"]))


def test_lists_by_rule(vectors):
    """Four times the square root, as long as 39 items are left for each."""
    assert IvfConfig().build(vectors)._state.structure.num_lists == 5000 // 39
    assert IvfConfig().build(vectors[:15]).num_tail_rows == 15  # too few to learn anything from


def test_auto_takes_lists_above_its_limit(vectors):
    config = AutoConfig(exact_up_to=4999, ivf=IvfConfig(num_lists=8))
    assert config.build(vectors[:4999]).config == ExactConfig()
    assert config.build(vectors).config == IvfConfig(num_lists=8)


def wait_for(event):
    event.clear()
    assert event.wait(timeout=20)


@pytest.mark.parametrize("settings", [{"kind": "exact"}, SETTINGS["sq8"], SETTINGS["hnsw"]], ids=lambda s: s["kind"])
def test_every_answer_is_of_one_state(settings, vectors):
    """One thread adds and removes groups of equal rows, each better than all before; others search meanwhile.

    Whatever moment an answer is of, its hits are one whole group.
    """
    index = config_of(settings).build(vectors)
    query = np.zeros((1, DIM), np.float32)
    query[0, 0] = 1
    groups = [np.repeat(query * (2 + number), GROUP, axis=0) for number in range(8)]
    index.add(np.repeat(query, GROUP, axis=0) * 1.5)
    answers, failures, done, answered = [], [], threading.Event(), threading.Event()

    def look():
        try:
            while not done.is_set():
                answers.append(index.search(query, k=GROUP).item_rows[0])
                answered.set()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that they meet in the middle of what is not done in one step
    for reader in readers:
        reader.start()
    try:
        for _ in range(3):
            added = []
            for group in groups:
                added.append(index.add(group))
                wait_for(answered)
            for rows in reversed(added):
                index.remove(rows)
                wait_for(answered)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert not failures
    assert len({rows[0] for rows in answers}) > 8  # they did see it change
    assert all((rows == rows[0] + np.arange(GROUP)).all() and (rows[0] - NUM_ITEMS) % GROUP == 0 for rows in answers)


def test_refusals(built, vectors, tmp_path):
    with pytest.raises(ConfigError, match="num_lists is 500, and there are 60 items to learn"):
        IvfConfig(num_lists=500).build(vectors[:60])
    with pytest.raises(ConfigError, match="codes numbers in pairs, and vectors have 31"):
        IvfConfig(storage="pq").build(vectors[:, :31])
    with pytest.raises(ConfigError, match=r"index\.num_lists decides how the index is built"):
        built["sq8"].tuned(num_lists=4)
    with pytest.raises(ConfigError, match="num_prob"):
        built["sq8"].tuned(num_prob=4)
    HnswConfig().build(vectors[:50]).save(tmp_path / "small")
    HnswConfig().build(vectors[:60]).save(tmp_path / "large")
    (tmp_path / "small" / STRUCTURE).replace(tmp_path / "large" / STRUCTURE)
    with pytest.raises(ArtifactError, match=r"covers 50 rows, index\.json says 60"):
        HnswConfig().open_saved(tmp_path / "large")
    with pytest.raises(ArtifactError, match=r"has no structure\.faiss"):
        HnswConfig().open_saved(tmp_path / "small")
    (tmp_path / "small" / STRUCTURE).write_bytes(b"not what it should be")
    with pytest.raises(ArtifactError, match="cannot be read"):
        HnswConfig().open_saved(tmp_path / "small")
