"""The late-fusion encoder: what it begins with. What every encoder promises: `tests/contracts/test_encoders.py`."""

from __future__ import annotations

import pytest
import torch

from triptych.encoders.models.late_fusion import LateFusionConfig


@pytest.mark.parametrize(("fusion", "num_heads"), [("transformer", 4), ("gated", 3), ("concat", 3)])
def test_all_heads_begin_as_one_and_are_several(fusion, num_heads):
    config = LateFusionConfig(dim=16, heads=2, vector_dim=8, photo_px=32, text_layers=1, photo_layers=1, fusion=fusion)
    made = config.build(vocab_size=50)
    heads = [made.query_head, made.title_head, made.photo_head, *made.fusion.heads()]
    assert len(heads) == num_heads
    first = heads[0].state_dict()
    assert all(torch.equal(value, first[name]) for head in heads for name, value in head.state_dict().items())
    assert len({weight.data_ptr() for head in heads for weight in head.parameters()}) == num_heads * len(first)
