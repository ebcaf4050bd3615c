"""Rank@K against pairs read one by one, and the lists it is measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from triptych.data.splits import Part
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders.inputs import ItemInputs
from triptych.encoders.text import text_tensor
from triptych.foundation.errors import ConfigError
from triptych.pretrain import rank
from triptych.pretrain.base import Given
from triptych.pretrain.passes import MultitaskBatch, Passes
from triptych.pretrain.rank import CUT_OFFS, RankProbe
from triptych.pretrain.reader import ItemReader
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.training.distributed import ALONE

TREE: dict[str, Any] = {
    "kind": "multitask",
    "stages": [{"name": "one", "tasks": [{"kind": "matching"}]}],
    "encoder": {"dim": 16, "heads": 2, "layers": 1, "vector_dim": 8, "modalities": "title"},
    "batch_items": 8,
    "rank_queries": 12,
    "loop": {"precision": "fp32", "device": "cpu"},
}


@pytest.fixture
def given(other_shop) -> Given:
    """The small shop, no two titles alike."""
    shop = other_shop(items=lambda table: table.with_columns(title=pl.col("title") + " no " + pl.col("item_id")))
    catalogue = shop.catalogue
    tokenizer = TextTokenizer.fit([*catalogue.titles, *catalogue.queries], config=TokenizerConfig(min_count=1))
    return Given(catalogue=catalogue, split=shop.split, tokenizer=tokenizer, seed=0)


def config(**settings: Any) -> MultitaskConfig:
    return MultitaskConfig.parse({**TREE, **settings})


def alone(model: Any, given: Given, reader: ItemReader, query_row: int, item_row: int) -> float:
    """The odds of one query with one item, read by what training reads pairs by."""
    encoder = model.encoder
    row = np.array([item_row])
    tokens = given.tokenizer.encode([given.catalogue.queries[query_row]], max_tokens=encoder.config.max_query_tokens)
    has_title = torch.from_numpy(reader.has_title[row])
    items = ItemInputs(torch.from_numpy(reader.title_tokens(row)), None, has_title, torch.zeros(1, dtype=torch.bool))
    read = {"query_tokens": text_tensor(tokens), "items": items, "has_title": has_title}
    batch = MultitaskBatch(**{**dict.fromkeys(MultitaskBatch._fields), **read})
    none = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        passes = Passes(batch, encoder=encoder, cross=model.cross, group=ALONE)
        no, yes = model.objectives["matching_query_item"].head(passes.cross_pairs(none, none).states[0, 0])
    return float(yes - no)


@pytest.mark.parametrize("crossing", ["on-top", "single-stream"])
def test_ranks_are_those_of_pairs_read_one_by_one(crossing, given):
    settings = config(crossing=crossing)
    task = next(settings.phases(given)).task
    model = task.module.eval()
    found = task.validate()
    assert found.headline == "recall@40/query-item"
    reader = ItemReader(settings, given)
    probe = RankProbe(settings, given, reader=reader)
    assert len(probe.lists) == 12
    places = []
    for query, rows in zip(probe.query_rows, probe.lists, strict=True):
        scores = {int(row): alone(model, given, reader, int(query), int(row)) for row in rows}
        places.append(sorted(scores, key=lambda row: (-scores[row], row)).index(int(rows[0])))
    assert len(set(places)) > 3
    for k in CUT_OFFS:
        assert found.metrics[f"rank@{k}/query-item sampled"] == sum(place < k for place in places) / 12
    named = {name for name in found.metrics if name.startswith("rank@")}
    assert len(named) == len(CUT_OFFS)


def test_a_list_holds_one_item_that_was_chosen_and_others_of_its_category(given, monkeypatch):
    monkeypatch.setattr(rank, "NUM_NEGATIVES", 5)
    settings, catalogue = config(rank_queries=1000), given.catalogue
    probe = RankProbe(settings, given, reader=ItemReader(settings, given))
    targets, pairs = given.split.targets(Part.VALIDATION), given.split.train_pairs(catalogue)
    assert probe.query_rows.tolist() == targets.query_row.tolist()
    categories = catalogue.items["category"].to_list()
    for place, (query, rows) in enumerate(zip(probe.query_rows, probe.lists, strict=True)):
        chosen = set(targets.item_rows[targets.offsets[place] : targets.offsets[place + 1]].tolist())
        right = chosen | set(pairs.item_row[pairs.query_row == query].tolist())
        assert rows[0] in chosen and not right & set(rows[1:].tolist()) and len(set(rows.tolist())) == 6
        assert {categories[row] for row in rows} == {categories[rows[0]]}  # eight of each, two of them right


def test_what_a_category_lacks_is_from_everywhere():
    categories = np.array([0, 0, 0, 1, 1, -1, -1, 1])
    rng = np.random.default_rng(0)
    drawn = rank._drawn(0, np.array([0, 1]), categories=categories, rng=rng)
    assert drawn[:2].tolist() == [0, 2] and sorted(drawn[2:].tolist()) == [3, 4, 5, 6, 7]
    many = np.repeat([0, 1], 300)
    assert (many[rank._drawn(7, np.array([7]), categories=many, rng=rng)] == 0).all()
    without = np.full(400, -1)
    drawn = [rank._drawn(7, np.array([7, 8]), categories=without, rng=rng) for _ in range(50)]
    assert {len(one) for one in drawn} == {101} and 8 not in np.concatenate(drawn)
    assert len(np.unique(np.concatenate(drawn))) == 399


def test_equal_scores_go_by_item_row():
    rows = np.array([5, 3, 9, 1])
    assert rank._place_of_first(np.array([1.0, 1.0, 1.0, 0.5]), rows) == 1
    assert rank._place_of_first(np.array([0.0, 1.0, -1.0, 0.0]), rows) == 2


def test_without_matching_there_is_nothing_to_rank_by():
    with pytest.raises(ConfigError, match="rank_queries has no effect without a task that matches queries and items"):
        config(stages=[{"name": "one", "tasks": [{"kind": "contrast"}, {"kind": "masked_words"}]}])


def test_a_stage_that_does_not_match_ranks_nothing(given):
    contrast = {"kind": "contrast"}
    stages = [
        {"name": "first", "tasks": [contrast], "steps_rate": 0.5},
        {"name": "second", "tasks": [contrast, {"kind": "matching"}], "steps_rate": 0.5},
    ]
    phases = config(stages=stages).phases(given)
    first, second = (next(phases).task for _ in range(2))
    for task, ranks in ((first, False), (second, True)):
        task.module.eval()
        assert any(name.startswith("rank@") for name in task.validate().metrics) == ranks
