"""Semantic IDs as a ranker's content: what codes say together, and where they come from in a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_rankers import CODES, LEVELS, candidates, model_of, warmed

from triptych.foundation.errors import ConfigError, DataError
from triptych.nn.query_former import ModalityTokens
from triptych.ranker.content.semantic_ids import SemanticIdsContentConfig, code_tokens
from triptych.ranker.features import tokens_of
from triptych.recipes import resolve
from triptych.recipes.ranker import RankerConfig

IDS = np.array([[0, 4, 1], [4, 4, 4], [-1, -1, -1], [0, 4, 2]])


def plug_in(**settings):
    torch.manual_seed(0)
    return warmed(
        SemanticIdsContentConfig.parse({**CODES, **settings}).build(
            {"semantic_id": LEVELS}, id_dim=4, catalogue_items=9
        )
    )


@pytest.mark.parametrize("pooling", ["sum", "joined"])
def test_an_items_vector_is_made_of_those_of_its_codes(pooling):
    module = plug_in(pooling=pooling)
    (found,) = module.item_side()([tokens_of(code_tokens(IDS), np.arange(4))])
    table, layer = module.side.table.weight, module.side.reduce[0]
    for row, codes in enumerate(IDS.tolist()):
        own = [table[CODES["codes"] * level + code] for level, code in enumerate(codes)]
        pooled = torch.cat(own) if pooling == "joined" else sum(own)
        given = torch.cat([pooled, torch.ones(1)]) if codes[0] >= 0 else torch.zeros(len(pooled) + 1)
        torch.testing.assert_close(found[row], layer.weight @ given + layer.bias)


def test_only_the_codes_of_a_batch_learn():
    model = model_of("din", CODES).train()
    given, table = candidates(codes=True), model.content.side.table
    before = table.weight.detach().clone()
    model(given).logits.square().sum().backward()
    assert table.sum_row_gradients(_Alone()) > 0
    table.update_rows(learning_rate=0.01, seed=0)
    changed = set((table.weight != before).any(dim=1).nonzero()[:, 0].tolist())
    items = {*given.target.tolist(), *given.requests.steps[given.requests.steps >= 0].tolist()}
    (content,) = given.items.content
    codes = content.tokens[:, 0].long() + CODES["codes"] * torch.arange(LEVELS)
    assert changed == {row for item in items if content.keep[item].all() for row in codes[item].tolist()}


class _Alone:
    rank, size = 0, 1


def test_codes_that_the_table_does_not_know_are_refused():
    tokens = ModalityTokens(torch.tensor([[[0.0, 5.0, 1.0]]]), None)
    with pytest.raises(DataError, match=r"a code is outside 0\.\.4"):
        plug_in().item_side()([tokens])


@pytest.mark.parametrize("modalities", [{}, {"item": 8}, {"semantic_id": 3, "title": 8}])
def test_it_reads_codes_and_nothing_else(modalities):
    with pytest.raises(ConfigError, match="reads the modality 'semantic_id'"):
        SemanticIdsContentConfig().build(modalities, id_dim=4, catalogue_items=1)


CODES_64 = {"quantizer": {"kind": "residual_kmeans", "codes": 64}}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"pretrain": {"kind": "contrastive"}}, "reads semantic IDs: set semantic_ids"),
        ({"semantic_ids": {}}, "set pretrain"),
        ({"pretrain": {"kind": "contrastive"}, "semantic_ids": {}, "modalities": ["title"]}, "remove modalities"),
        (
            {"pretrain": {"kind": "contrastive"}, "semantic_ids": CODES_64},
            r"content\.codes is 256 and semantic_ids\.quantizer\.codes is 64",
        ),
        (
            {"pretrain": {"kind": "contrastive"}, "semantic_ids": {}, "ranker": {"content": {"kind": "frozen"}}},
            "reads no semantic IDs: remove semantic_ids",
        ),
    ],
)
def test_a_row_of_a_table_says_what_it_reads(tree, message):
    with pytest.raises(ConfigError, match=message):
        RankerConfig.parse({"ranker": {"content": {"kind": "semantic_ids"}}, **tree})


@pytest.mark.parametrize(
    ("settings", "message"),
    [([], "set semantic_ids"), (['semantic_ids={"quantizer":{"codes":64}}'], "semantic_ids.quantizer.codes is 64")],
)
def test_a_run_without_such_codes_is_refused_before_it_begins(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve("shop", settings=['ranker={"content":{"kind":"semantic_ids"}}', *settings])
