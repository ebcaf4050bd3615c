"""Sizes are rounded up to few, and nothing but padding is added."""

from __future__ import annotations

import torch

from triptych.nn.few_shapes import LEAST, in_few_shapes


def test_a_training_meets_few_sizes():
    found = set()
    for count in range(LEAST, 8 * LEAST):
        places = torch.arange(count) + 5
        with torch.autocast("cpu", dtype=torch.bfloat16):
            padded = in_few_shapes(places)
        assert torch.equal(padded[:count], places) and (padded[count:] == 5).all()
        assert len(padded) <= count * 9 / 8
        found.add(len(padded))
    assert len(found) <= 3 * 8 + 1


def test_what_would_save_nothing_is_left():
    few, many = torch.arange(LEAST - 1), torch.arange(4 * LEAST + 1)
    assert in_few_shapes(many) is many  # float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert in_few_shapes(few) is few
