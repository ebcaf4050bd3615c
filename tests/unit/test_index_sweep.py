"""The index sweep: its figures against their definitions, the target's answer, and config lines that can be pasted."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from triptych.foundation.errors import ConfigError, DataError
from triptych.index.backends.exact import ExactConfig
from triptych.index.backends.ivf import IvfConfig
from triptych.index.sweep import Extent, Measured, Target, sweep
from triptych.recipes.config import RunConfig
from triptych.recipes.index_figure import draw

EXTENT = Extent(k=10, single_queries=20, filtered_queries=10, rates=(0.5, 0.05), seconds=5.0, repeats=1)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, 16))
    vectors = centres[rng.integers(0, 50, 4000)] + 0.9 * rng.standard_normal((4000, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def queries(vectors):
    return vectors[:60].astype(np.float32)


@pytest.fixture(scope="module")
def found(vectors, queries):
    return sweep(vectors, queries, kinds=["exact", "ivf", "hnsw"], extent=EXTENT)


def test_recall_is_the_share_of_what_exact_search_finds(found, vectors, queries):
    exact = ExactConfig().build(vectors)
    truth = exact.search(queries, k=10).item_rows
    for one in found:
        if one.kind != "ivf":
            continue
        index = IvfConfig.parse({"kind": "ivf", **one.settings}).build(vectors)
        rows = index.search(queries, k=10).item_rows
        expected = np.mean([len(set(mine) & set(true)) / 10 for mine, true in zip(rows, truth, strict=True)])
        assert one.recall == pytest.approx(expected, abs=1e-4)
        assert one.bytes == index.memory_bytes
    flat = [one.recall for one in found if one.label == "ivf flat"]
    assert flat == sorted(flat)  # more probes find more, and all lists all
    assert flat[0] < 0.95
    assert flat[-1] == 1


def test_exact_misses_nothing_with_and_without_filters(found):
    exact = found[0]
    assert (exact.kind, exact.recall, [one.recall for one in exact.filtered]) == ("exact", 1.0, [1.0, 1.0])
    assert all(one.recall_unaided is None for one in exact.filtered)


def test_filters_are_measured_as_set_and_by_the_structure_alone(found):
    fewest = next(one for one in found if one.label == "ivf sq8")
    wide, narrow = fewest.filtered
    assert (wide.rate, narrow.rate) == (0.5, 0.05)
    assert wide.recall == wide.recall_unaided < 1  # too wide for exact search
    assert narrow.recall == 1
    assert narrow.recall_unaided is not None


def test_nothing_on_the_front_is_beaten(found):
    front = [one for one in found if one.on_front]
    assert front
    for one in found:
        beaten = any(
            other.recall >= one.recall
            and other.p99_ms <= one.p99_ms
            and (other.recall, other.p99_ms) != (one.recall, one.p99_ms)
            for other in found
        )
        assert beaten != one.on_front


def measured(recall, p99_ms, gib):
    return Measured("exact", {}, recall, 1.0, p99_ms, 1.0, 1.0, int(gib * 2**30))


def test_the_target_takes_the_fastest_that_meets_all_of_it():
    slow, fast, large, poor = measured(1, 9, 1), measured(0.99, 4, 1), measured(0.99, 2, 5), measured(0.9, 1, 1)
    found = [slow, fast, large, poor]
    assert Target(0.98, 10, 2).choose(found) is fast
    assert Target(0.995, 10, 2).choose(found) is slow
    assert Target(0.98, None, None).choose(found) is large
    assert Target(0.995, 5, None).choose(found) is None


def test_lines_are_a_run_config(found):
    for one in found:
        tree = tomllib.loads("\n".join(one.lines))
        config = RunConfig.parse(tree).index
        assert config.kind == one.kind
        assert one.settings.items() <= config.dump().items()


def test_figure_with_one_setting_and_with_many(found, tmp_path):
    for name, some in (("one", found[:1]), ("all", found)):
        draw(some, chosen=some[0], target=Target(0.98, 10.0), k=10, num_items=4000, out=tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(vectors, queries):
    with pytest.raises(DataError, match="there are 4000 and 0"):
        sweep(vectors, queries[:0], kinds=["exact"])
    with pytest.raises(ConfigError, match="unknown kind 'hnws'.*'hnsw'"):
        sweep(vectors, queries, kinds=["hnws"])
