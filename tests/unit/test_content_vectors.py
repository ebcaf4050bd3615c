"""Content worked out when an item appears: the same scores, and no pass through the plug-in's layers in a request."""

from __future__ import annotations

import logging

import numpy as np
import polars as pl
import pytest
import torch
from planted_ranking import planted_log
from tiny_rankers import CODES, EM3, drawn, warmed

from triptych.data.schema import Part
from triptych.engine.ranking import Ranking
from triptych.foundation.types import Hits
from triptych.nn.query_former import QueryFormer
from triptych.ranker import content_vectors
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.content.base import ContentModule
from triptych.ranker.content.semantic_ids import code_tokens
from triptych.ranker.samples import read_samples
from triptych.ranker.scorer import Ranker
from triptych.ranker.task import Given, RankTask
from triptych.recall.base import Request

CONTENTS = {
    "frozen": {"kind": "frozen"},
    "simtier": {"kind": "simtier"},
    "semantic ids": {**CODES, "pooling": "joined"},
    "em3": EM3,
    "em3 shared": {**EM3, "train_behaviours": "adapter"},
    "em3 kept": {**EM3, "train_behaviours": "lora_cache"},
    "em3 full form": {**EM3, "form": "full", "width": 8, "train": "lora", "queries": 2},
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return planted_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def modalities(log):
    count = log.catalogue.num_items
    photo, title = (torch.randn(count, dim, generator=drawn(3)).numpy() for dim in (5, 3))
    photo[2] = np.nan
    return {"photo": photo, "title": title}


def read_by(content, modalities):
    """What a plug-in reads: of semantic IDs there are as many as a title has numbers."""
    if content["kind"] != "semantic_ids":
        return modalities
    return {"semantic_id": code_tokens((np.abs(modalities["title"]) * 10).astype(np.int64) % CODES["codes"])}


def ranker_of(log, modalities, content, *, model="din"):
    modalities = None if modalities is None else read_by(content, modalities)
    tree = {"model": {"kind": model, "dim": 4, "hidden_dims": [8]}, "content": content}
    task = RankTask(RankTrainConfig.parse(tree), Given(log.catalogue, log.split, seed=0, modalities=modalities))
    return Ranker(warmed(task.module), task.features)


@pytest.fixture
def passes(monkeypatch):
    """How many items each pass through a Q-Former had."""
    seen, forward = [], QueryFormer.forward

    def counted(self, given):
        seen.append(len(given[0].tokens))
        return forward(self, given)

    monkeypatch.setattr(QueryFormer, "forward", counted)
    return seen


def validation(log):
    return read_samples(log.catalogue, places=log.split.part(Part.VALIDATION))


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_scores_are_those_of_a_pass_through_the_whole_model(log, modalities, content):
    ranker = ranker_of(log, modalities, content)
    expected = ranker.score_samples(validation(log))
    found = ranker.answering()
    np.testing.assert_allclose(found.score_samples(validation(log)), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01
    assert found.answering() is found


def test_a_search_by_content_in_long_histories_reads_them_too(log, modalities):
    ranker = ranker_of(log, modalities, EM3, model="sim")
    expected = ranker.score_samples(validation(log))
    np.testing.assert_allclose(ranker.answering().score_samples(validation(log)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("content", [EM3, CONTENTS["em3 shared"]], ids=["two vectors", "one"])
def test_the_q_former_has_passed_each_item_once_when_it_is_asked(log, modalities, content, passes):
    """A pass for each side; in a request none, of a new item one for each side, when it comes."""
    ranker, sides = ranker_of(log, modalities, content), 1 if "train_behaviours" in content else 2
    asked = validation(log)
    ranker.score_samples(asked)
    assert passes
    passes.clear()
    found = ranker.answering()
    count = log.catalogue.num_items
    assert passes == [count] * sides
    passes.clear()
    ranking = Ranking(found, candidates=20, catalogue=log.catalogue)
    hits = Hits(np.arange(20)[None], np.zeros((1, 20), np.float32))
    user = log.catalogue.users[0]
    ordered = ranking.order([Request(query="cups", user=user)], hits)
    found.score_samples(asked)
    assert passes == []
    assert len({one.probability for one in ordered.placed[0].values()}) > 1
    more = found.with_items(log.catalogue.items[[4]], modalities={name: one[[4]] for name, one in modalities.items()})
    assert passes == [1] * sides
    passes.clear()
    more.score_samples(asked)
    assert passes == []


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_new_item_is_scored_by_its_content(log, modalities, content):
    """As by the model that works it out in the request, as a candidate and in a history."""
    ranker = ranker_of(log, modalities, content)
    items = log.catalogue.items[[4, 2]].with_columns(item_id=pl.Series(["new-1", "new-2"]))
    own = read_by(content, {"title": 2 * modalities["title"][[4, 2]], "photo": modalities["photo"][[4, 2]]})
    end = log.catalogue.num_items
    rows, steps = np.array([0, end, end + 1]), np.array([[end + 1, 3, end]])
    told = []
    for one in (ranker.with_items(items, modalities=own), ranker.answering().with_items(items, modalities=own)):
        asking = one.features.of_words(user=None, query=None, cell=None, time_us=2**51, past=None)
        asking = asking._replace(steps=steps, step_time_us=steps + 2**50, step_kind=0 * steps)
        told.append(one.score(asking, item_rows=rows))
    np.testing.assert_allclose(told[1], told[0], rtol=1e-5, atol=1e-5)
    assert len(np.unique(told[0])) == 3


def test_what_is_kept_is_as_large_as_it_says(log, modalities):
    ranker = ranker_of(log, modalities, EM3).answering()
    assert ranker.content.memory_bytes == 2 * log.catalogue.num_items * EM3["dim"] * 4
    assert Ranking(ranker, candidates=5, catalogue=log.catalogue).content_bytes == ranker.content.memory_bytes
    assert ranker.features.sizes.modalities == {}  # what items are made of is let go
    plain = ranker_of(log, None, {"kind": "none"})
    assert plain.answering() is plain
    assert Ranking(plain, candidates=5, catalogue=log.catalogue).content_bytes == 0


def test_long_work_is_done_in_parts_and_shown(log, modalities, monkeypatch, capsys):
    whole = ranker_of(log, modalities, EM3).answering().content.vectors
    monkeypatch.setattr(content_vectors, "ENCODED_AT_ONCE", 5)
    monkeypatch.setattr(content_vectors, "LONG", 10)
    capsys.readouterr()
    parts = ranker_of(log, modalities, EM3).answering().content.vectors
    assert f"content of items: {log.catalogue.num_items} items" in capsys.readouterr().err
    for name, vectors in whole.items():
        torch.testing.assert_close(parts[name], vectors, rtol=1e-5, atol=1e-6)


def test_a_plug_in_of_one_piece_works_content_out_in_the_request_and_says_so(log, modalities, caplog):
    ranker = ranker_of(log, modalities, {"kind": "frozen"})
    expected, own = ranker.score_samples(validation(log)), ranker.model.content

    class OfOnePiece(ContentModule):
        dim, pair_dim = own.dim, 0

        def forward(self, asked):
            return own(asked)

    ranker.model.content = OfOnePiece()
    with caplog.at_level(logging.WARNING):
        found = ranker.answering()
    assert found is ranker and "OfOnePiece has no item_side" in caplog.text
    assert np.array_equal(found.score_samples(validation(log)), expected)
