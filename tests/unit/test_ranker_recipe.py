"""The ranker's part of a run's config, and what a log must hold for it."""

from __future__ import annotations

import polars as pl
import pytest

from triptych.foundation.errors import ConfigError, DataError
from triptych.ranker.config import RankTrainConfig
from triptych.recipes import resolve
from triptych.recipes.config import RunConfig
from triptych.recipes.ranker import require_shown


def config_of(**settings) -> RunConfig:
    return RunConfig(ranker=RankTrainConfig.parse(settings))


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("feed", ["ranker={}"], "no log of searches"),
        ("judged", ["ranker={}"], "no log of searches"),
        ("catalogue", ["ranker={}"], "no log of searches"),
        ("shop", ["rank_candidates=50"], "no ranker"),
        ("shop", ['beside={"ranked":{"kind":"contrastive"}}'], "row of that name"),
    ],
)
def test_settings_that_do_not_go_with_the_run(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve(recipe, settings=settings)


def test_a_log_with_impressions_is_taken(small_shop):
    require_shown(config_of(), catalogue=small_shop.catalogue, split=small_shop.split)


@pytest.mark.parametrize(("kind", "message"), [("click", "no impressions"), ("impression", "no choices")])
def test_a_log_of_one_kind_is_refused(other_shop, kind, message):
    if kind == "click":
        shop = other_shop(events=lambda table: table.filter(pl.col("kind") == kind))
    else:  # the last day's clicks stay: a split needs some
        early = pl.col("time") < pl.col("time").max() - pl.duration(hours=12)
        shop = other_shop(
            events=lambda table: table.with_columns(kind=pl.when(early).then(pl.lit(kind)).otherwise("kind"))
        )
    with pytest.raises(DataError, match=f"the training part has {message}.*leave \\[ranker\\] out"):
        require_shown(config_of(), catalogue=shop.catalogue, split=shop.split)
    require_shown(RunConfig(), catalogue=shop.catalogue, split=shop.split)


def test_without_users_it_is_told_whom_to_group_by(other_shop):
    shop = other_shop(events=lambda table: table.drop("user"))
    with pytest.raises(DataError, match="grouped_by = 'request'"):
        require_shown(config_of(), catalogue=shop.catalogue, split=shop.split)
    require_shown(config_of(grouped_by="request"), catalogue=shop.catalogue, split=shop.split)
