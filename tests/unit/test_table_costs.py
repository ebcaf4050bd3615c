"""What rows of a table cost: IDs that there are not are found, times are of each row, seeds agree as far as they do."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from triptych.foundation.artifact import produce
from triptych.foundation.errors import ConfigError
from triptych.foundation.types import Hits
from triptych.recall.base import Request
from triptych.recall.code_trie import CodeTrie
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recall.models.generative import GenerativeConfig, GenerativeSizes
from triptych.recipes.config import RunConfig
from triptych.recipes.reproduce.agreement import agreements
from triptych.recipes.reproduce.base import Form, Table
from triptych.recipes.reproduce.costs import latencies, said
from triptych.recipes.reproduce.result import agreement_cells, cost_cells
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.fit import run

CODES = np.random.default_rng(0).integers(0, 5, (40, 3)).astype(np.uint16)


@pytest.fixture(scope="module")
def decoder() -> GenerativeRetriever:
    sizes = GenerativeSizes(content_dim=6, levels=3, num_codes=5)
    model = GenerativeConfig(dim=16, heads=2, layers=1, beams=8).build(sizes, seed=0)
    encoder = SimpleNamespace(queries=lambda texts: np.array([[len(text)] * 6 for text in texts], np.float32))
    return GenerativeRetriever(model, CodeTrie.build(CODES), encoder=encoder)


def test_what_is_said_is_what_is_answered(decoder):
    requests = [Request(query="red"), Request(query="green", keep=np.arange(40) % 3 == 0)]
    found = decoder.said(requests)
    hits = decoder.retrieve(requests, 40)
    for ids, rows in zip(found, hits.item_rows, strict=True):
        assert len({tuple(one) for one in ids.tolist()}) == len(ids) == 8
        in_answer = [tuple(CODES[row].tolist()) for row in rows if row >= 0]
        assert list(dict.fromkeys(in_answer)) == [tuple(one) for one in ids.tolist()]


def test_ids_that_no_item_has_are_counted(decoder):
    """Kept to another tree than that of the items, as by a defect, it says IDs that there are not."""
    requests = [Request(query="red"), Request(query="green", keep=np.arange(40) < 20)]
    assert said(decoder, requests, codes=CODES) == (16, 0)
    others = CODES.copy()
    others[20:] = CODES[:20]  # what only the second half has is nobody's now
    gone = {tuple(one) for one in CODES[20:].tolist()} - {tuple(one) for one in CODES[:20].tolist()}
    ids = [tuple(one) for own in decoder.said(requests) for one in own.tolist()]
    assert said(decoder, requests, codes=others) == (16, sum(one in gone for one in ids))
    assert any(one in gone for one in ids)


def test_each_row_is_timed_by_itself():
    class Slow:
        def __init__(self, seconds: float) -> None:
            self.seconds, self.asked = seconds, []
            self.name = "slow"

        def retrieve(self, requests, k):
            self.asked += [(request.query, k) for request in requests]
            time.sleep(self.seconds)
            return Hits(np.zeros((1, k), np.int64), np.zeros((1, k), np.float32))

    rows = {"fast": Slow(0.0), "slow": Slow(0.02)}
    found = latencies(rows, [Request(query="a"), Request(query="b")], k=7)
    assert found["slow"].min() >= 20 and len(found["slow"]) == 2
    assert rows["fast"].asked == [("a", 7), ("b", 7)] * 2, "once before it is measured"


def test_seeds_agree_once_for_all_rows_that_share_ids(tmp_path):
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((6, 8))[rng.integers(0, 6, 300)] + 0.01 * rng.standard_normal((300, 8))).astype("f4")
    np.save(tmp_path / "one.npy", vectors)
    np.save(tmp_path / "turned.npy", vectors @ np.linalg.qr(rng.standard_normal((8, 8)))[0].astype("f4"))
    np.save(tmp_path / "other.npy", rng.standard_normal((300, 8)).astype("f4"))
    config = SemanticIdsConfig.parse({"quantizer": {"codes": 6, "levels": 1}})
    ids = [
        run(config, embeddings=tmp_path / f"{name}.npy", out=tmp_path / "semantic_ids")
        for name in ("one", "turned", "other")
    ]

    def model(number: int, **inputs):
        return produce(tmp_path / "recall", kind="recall", config={"n": number}, inputs=inputs, build=lambda _: {})

    first = [model(seed, semantic_ids=ids[seed]) for seed in (0, 1)]
    both = [model(seed + 2, semantic_ids=ids[seed], semantic_ids_photo=ids[2 - 2 * seed]) for seed in (0, 1)]
    none = [model(seed + 4, encoder="x") for seed in (0, 1)]
    found = agreements({"a": first, "b": both, "c": none}, out=tmp_path)
    assert [(one.rows, one.of, one.seeds) for one in found] == [(["a", "b"], "item", 2), (["b"], "photo", 2)]
    assert found[0].value > 0.9 and abs(found[1].value) < 0.1
    assert agreements({"a": first[:1]}, out=tmp_path) == []
    assert agreement_cells(found[0]._asdict())["of"] == "a, b"


def test_a_table_without_cells_has_no_costs():
    form = Form(run=RunConfig(), hours=1.0)
    with pytest.raises(ConfigError, match="table 't': costs are measured of searches by cell"):
        Table("t", "T", (), (), form, form, costs=True)


def test_costs_are_written_with_their_parts():
    one = {"name": "generative", "p50_ms": 3.24, "p95_ms": 9.0, "item_bytes": {"tree of IDs": 25.2, "vectors": 256.0}}
    told = cost_cells({**one, "said": {"ids": 5000, "illegal": 0, "illegal_rate": 0.0}})
    assert told["bytes an item"] == "281 (tree of IDs 25, vectors 256)"
    assert told["illegal IDs"] == "0.0 % of 5,000"
    assert cost_cells({**one, "said": None})["illegal IDs"] == ""
