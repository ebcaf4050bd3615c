"""The index sweep: its figures against their definitions, the target's answer, and config lines that can be pasted."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from triptych.foundation.errors import ConfigError, DataError
from triptych.index.backends.exact import ExactConfig
from triptych.index.backends.hnsw import HnswConfig
from triptych.index.backends.ivf import IvfConfig
from triptych.index.sweep import Extent, Kept, Measured, Target, sweep
from triptych.recipes.config import RunConfig
from triptych.recipes.index_figure import draw
from triptych.recipes.index_sweep import shop_filters

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
    first = Kept("half space", vectors[:, 0] > 0)
    return sweep(vectors, queries, kinds=["exact", "ivf", "hnsw"], extent=EXTENT, filters=[first])


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
    flat = [one.recall for one in found if one.label == "ivf flat" and one.searched_by]
    assert flat == sorted(flat)  # more probes find more, and all lists all
    assert flat[0] < 0.95
    assert flat[-1] == 1


def test_exact_misses_nothing_with_and_without_filters(found):
    exact = found[0]
    assert (exact.kind, exact.recall, [one.recall for one in exact.filtered]) == ("exact", 1.0, [1.0, 1.0, 1.0])
    assert all(one.recall_unaided is None for one in exact.filtered)


def test_filters_are_measured_as_set_and_by_the_structure_alone(found, vectors, queries):
    fewest = next(one for one in found if one.label == "ivf sq8" and one.searched_by)
    wide, narrow, given = fewest.filtered
    assert (wide.of, wide.rate, narrow.rate) == ("random", 0.5, 0.05)
    assert wide.recall == wide.recall_unaided < 1  # too wide for exact search
    assert narrow.recall == 1
    mask = vectors[:, 0] > 0
    assert (given.of, given.rate) == ("half space", pytest.approx(mask.mean(), abs=1e-6))
    truth = ExactConfig().build(vectors).search(queries[:10], k=10, keep=mask).item_rows
    index = IvfConfig.parse({"kind": "ivf", **fewest.settings, "exact_below_rate": 0}).build(vectors)
    rows = index.search(queries[:10], k=10, keep=mask).item_rows
    expected = np.mean([len(set(mine) & set(true)) / 10 for mine, true in zip(rows, truth, strict=True)])
    assert given.recall == given.recall_unaided == pytest.approx(expected, abs=1e-4)


def test_every_kind_is_measured_by_its_defaults_first(found):
    for kind, config in (("exact", ExactConfig()), ("ivf", IvfConfig()), ("hnsw", HnswConfig())):
        own = [one for one in found if one.kind == kind]
        assert [one.is_default for one in own] == [True] + [False] * (len(own) - 1)
        default = {name: value for name, value in own[0].settings.items() if name != "storage"}
        assert not default
        assert own[0].settings.get("storage") == config.dump().get("storage")
    settings = [(one.kind, tuple(sorted(one.settings.items()))) for one in found]
    assert len(set(settings)) == len(settings)


def test_one_build_of_each_kind(vectors, queries):
    extent = replace(EXTENT, builds=1, rates=(), single_queries=2)
    found = sweep(vectors, queries, kinds=["ivf", "hnsw"], extent=extent)
    assert {one.label for one in found} == {"ivf sq8", "hnsw"}


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
    return Measured("exact", {}, recall, 1.0, p99_ms, 100, 1.0, 1.0, int(gib * 2**30))


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


def test_a_shops_filters_are_its_categories_cells_and_prices(other_shop):
    def described(items: pl.DataFrame) -> pl.DataFrame:
        rows = range(len(items))
        cells = [None if row == 1 else ["far", "near"] if row % 4 == 0 else ["far"] for row in rows]
        prices = [None if row == 2 else float(row) for row in rows]
        return items.with_columns(price=pl.Series(prices), cells=pl.Series(cells))

    catalogue = other_shop(items=described).catalogue
    items, rows = catalogue.items, np.arange(catalogue.num_items)
    filters = list(shop_filters(catalogue, num_items=len(items) + 3, seed=0))
    assert [one.of for one in filters] == ["category", "category", "category", "cell", "price", "price"]
    assert not any(one.mask[len(items) :].any() for one in filters)  # added since: the catalogue knows nothing of them
    category = items["category"].to_numpy()
    for one in filters[:3]:
        kept = one.mask[: len(items)]
        assert set(category[kept]).isdisjoint(category[~kept])
    half, quarter = (one.mask.sum() / len(items) for one in filters[1:3])
    assert half >= 0.5 and quarter >= 0.25
    np.testing.assert_array_equal(filters[3].mask[: len(items)], rows % 4 == 0)
    for one in filters[4:]:
        assert not one.mask[2]  # no price
        prices = np.flatnonzero(one.mask)
        assert np.isin(np.arange(prices[0], prices[-1] + 1), [*prices, 2]).all()


def test_a_shop_without_columns_has_no_filters(other_shop):
    bare = other_shop(items=lambda items: items.drop("category")).catalogue
    assert list(shop_filters(bare, num_items=bare.num_items, seed=0)) == []


def test_refusals(vectors, queries):
    with pytest.raises(DataError, match="there are 4000 and 0"):
        sweep(vectors, queries[:0], kinds=["exact"])
    with pytest.raises(ConfigError, match="unknown kind 'hnws'.*'hnsw'"):
        sweep(vectors, queries, kinds=["hnws"])
