"""Attention and transformer against torch's own modules, and masks by changing what they hide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triptych.nn import attention as attention_module
from triptych.nn.attention import SelfAttention, key_bias
from triptych.nn.transformer import Transformer

BATCH, TOKENS, DIM, HEADS = 5, 7, 16, 4


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(BATCH, TOKENS, DIM, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def keep() -> torch.Tensor:
    lengths = torch.tensor([7, 1, 4, 6, 3])
    return torch.arange(TOKENS) < lengths[:, None]


@pytest.fixture(params=["explicit", "fused"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of computing attention, on the CPU."""
    if request.param == "fused":
        monkeypatch.setattr(attention_module, "LONGEST_EXPLICIT_TOKENS", 0)
    return request.param


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


def test_self_attention_is_torch_multihead_attention(states, keep, path):
    ours = seeded(lambda: SelfAttention(DIM, heads=HEADS))
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.query_key_value.weight,
            "in_proj_bias": ours.query_key_value.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    expected, _ = theirs(states, states, states, key_padding_mask=~keep, need_weights=False)
    found = ours(states, bias=key_bias(keep))
    assert torch.allclose(found, expected, atol=1e-6)
    without = ours(states)
    expected_without, _ = theirs(states, states, states, need_weights=False)
    assert torch.allclose(without, expected_without, atol=1e-6)
    assert not torch.allclose(found, without, atol=1e-3)


def test_transformer_is_torch_encoder(states, keep):
    ours = seeded(lambda: Transformer(DIM, layers=2, heads=HEADS, hidden_dim=24))
    layer = nn.TransformerEncoderLayer(
        DIM, HEADS, dim_feedforward=24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    theirs = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(DIM), enable_nested_tensor=False)
    names = {
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "attention.query_key_value.": "self_attn.in_proj_",
        "attention.out": "self_attn.out_proj",
        "mlp.up": "linear1",
        "mlp.down": "linear2",
        "blocks": "layers",
    }
    state = {}
    for name, value in ours.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    theirs.load_state_dict(state)
    expected = theirs(states, src_key_padding_mask=~keep)
    found = ours(states, keep=keep)
    assert torch.allclose(found[keep], expected[keep], atol=1e-5)


@pytest.mark.parametrize("read", [1, 3])
def test_reading_the_first_tokens_changes_no_value(states, keep, path, read):
    model = seeded(lambda: Transformer(DIM, layers=3, heads=HEADS))
    everything = model(states, keep=keep)
    first = model(states, keep=keep, read=read)
    assert first.shape == (BATCH, read, DIM)
    assert torch.allclose(first, everything[:, :read], atol=1e-6)


@pytest.mark.parametrize("hides", [True, False])
def test_the_first_token_alone_has_the_gradients_it_has_among_all(states, keep, hides):
    model = seeded(lambda: SelfAttention(DIM, heads=HEADS)).double()
    bias = key_bias(keep).double() if hides else None
    gradients = []
    for read in (None, 1):
        inputs = states.double().requires_grad_()
        first = model(inputs, bias=bias, read=read)[:, :1]
        gradients.append(torch.autograd.grad(first.square().sum(), [inputs, *model.parameters()]))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_hidden_tokens_change_nothing_bit_for_bit(states, keep, path):
    model = seeded(lambda: Transformer(DIM, layers=2, heads=HEADS))
    changed = torch.where(keep[:, :, None], states, 1e4)
    before, after = model(states, keep=keep), model(changed, keep=keep)
    assert torch.equal(before[keep], after[keep])
    visible = states.clone()
    visible[:, 0, 0] += 1.0
    assert not torch.allclose(before[keep], model(visible, keep=keep)[keep], atol=1e-3)


def test_gradients_agree_between_the_two_paths(states, keep, monkeypatch):
    model = seeded(lambda: SelfAttention(DIM, heads=HEADS)).double()
    gradients = []
    for longest in (512, 0):
        monkeypatch.setattr(attention_module, "LONGEST_EXPLICIT_TOKENS", longest)
        inputs = states.double().requires_grad_()
        model(inputs, bias=key_bias(keep), read=2).square().sum().backward()
        gradients.append(inputs.grad)
    assert torch.allclose(*gradients, atol=1e-10)


def test_dim_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="dim 10 is not a multiple of heads 4"):
        SelfAttention(10, heads=4)
