"""How rows are shared among processes, without any: what processes do together is in test_training_together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.foundation.errors import ConfigError
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.training import distributed
from triptych.training.distributed import ALONE, TORCHRUN, Group, join


def member(rank: int, size: int) -> Group:
    group = Group()
    group.rank, group.size = rank, size
    return group


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 5))
def test_shares_of_parts_are_the_rows_that_gathering_expects(lengths, size):
    rng = np.random.default_rng(0)
    parts = np.split(rng.permutation(sum(lengths)), np.cumsum(lengths)[:-1])
    joined = np.concatenate(parts)
    for rank in range(size):
        group = member(rank, size)
        own = group.shares(parts)
        assert all(len(rows) for rows in own)
        assert np.concatenate([*own, joined[:0]]).tolist() == joined[rank::size].tolist()
        assert joined[group.share(len(joined))].tolist() == joined[rank::size].tolist()


def test_alone_everything_is_ones_own():
    parts = [np.arange(3), np.arange(3, 10)]
    assert [rows.tolist() for rows in ALONE.shares(parts)] == [rows.tolist() for rows in parts]
    vectors = torch.ones(3, 2)
    assert ALONE.gather(vectors, total=3) is vectors


@given(st.lists(st.integers(0, 12), max_size=12))
def test_buckets_keep_every_tensor_in_order(sizes):
    tensors = [torch.zeros(size, dtype=torch.float32 if size % 5 else torch.float64) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "BUCKET", 10)
        buckets = list(distributed._buckets(tensors))
    assert [id(tensor) for bucket in buckets for tensor in bucket] == [id(tensor) for tensor in tensors]
    for bucket in buckets:
        assert len({tensor.dtype for tensor in bucket}) == 1
        assert len(bucket) == 1 or sum(tensor.numel() for tensor in bucket) <= 10


def test_a_process_of_its_own_joins_nobody():
    assert join({}) is ALONE
    assert join({"WORLD_SIZE": "4", "RANK": "1"}) is ALONE  # of something else than torchrun
    assert join({**dict.fromkeys(TORCHRUN, "0"), "WORLD_SIZE": "1"}) is ALONE


def test_several_encoders_at_a_time_by_several_processes_each_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="2 processes already train each encoder together, so 3 encoders"):
        run_pipeline(resolve("demo", settings=()).config, base=tmp_path, out=tmp_path, jobs=3, group=member(0, 2))
    assert not any(tmp_path.iterdir())
