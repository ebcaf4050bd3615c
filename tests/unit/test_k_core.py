"""The k-core of a log and MMRec's division of it, against loops and the published counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych.data.datasets.k_core import KCoreConfig, core_of, cut_at_random, first_choices
from triptych.data.schema import Part
from triptych.foundation.errors import DataError


def test_each_user_is_divided_as_mmrec_does():
    sizes = np.arange(5, 40)
    user = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    codes = cut_at_random(user, rng=np.random.default_rng(1))
    for row, size in enumerate(sizes.tolist()):
        held_out = 2 if size < 10 else int(0.2 * size)
        validation = 1 if size < 10 else held_out // 2
        expected = {0: size - held_out, 1: validation, 2: held_out - validation}
        assert Counter(codes[user == row].tolist()) == expected
    again, other = (cut_at_random(user, rng=np.random.default_rng(seed)) for seed in (1, 2))
    assert np.array_equal(again, codes) and not np.array_equal(other, codes)
    late = np.repeat(np.arange(200), 5)  # of five in the order of time, each is as likely to be held out
    held = (cut_at_random(late, rng=np.random.default_rng(3)) > 0).reshape(200, 5).sum(axis=0)
    assert (held > 50).all()


def test_a_core_is_what_is_left_when_leaving_out_has_an_end():
    rng = np.random.default_rng(0)
    pairs = {
        (int(user), int(item)) for user, item in zip(rng.zipf(1.4, 900) % 60, rng.zipf(1.3, 900) % 50, strict=True)
    }
    left = set(pairs)
    while True:
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        few = {(user, item) for user, item in left if users[user] < 5 or items[item] < 5}
        if not few:
            break
        left -= few
    frame = pl.DataFrame(sorted(pairs), schema=["user", "item_id"], orient="row")
    assert 0 < len(left) < len(pairs)
    assert set(core_of(frame, core=5).iter_rows()) == left


def test_a_choice_is_an_item_once_when_it_was_first_chosen():
    rows = [(3, "a", "x", "click"), (1, "a", "x", "order"), (2, "a", "y", "impression"), (0, None, "y", "click")]
    events = pl.DataFrame(rows, schema=["time", "user", "item_id", "kind"], orient="row")
    assert first_choices(events).rows() == [(1, "a", "x")]


@pytest.mark.real_data
def test_baby_has_the_published_parts(tmp_path: Path):
    KCoreConfig.parse({"of": "amazon_baby"}).prepare(tmp_path)
    events, items = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("events", "items"))
    assert (items.height, events["user"].n_unique()) == (7_050, 19_445)
    counts = dict(events["part"].value_counts().iter_rows())
    assert counts == {Part.TRAIN: 118_551, Part.VALIDATION: 20_559, Part.TEST: 21_682}
    with pytest.raises(DataError, match="nothing is left of 'amazon_baby' when .* 900 choices"):
        KCoreConfig.parse({"of": "amazon_baby", "core": 900}).prepare(tmp_path)
