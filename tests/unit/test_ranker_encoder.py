"""EM3 end to end: from where gradient reaches the encoder of titles and photos, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import tiny_embedder
from tiny_rankers import EM3
from torch import nn

from triptych.encoders.inputs import ItemInputs, View
from triptych.foundation.errors import ConfigError
from triptych.nn.low_rank import LowRankLinear, adapt, merged
from triptych.nn.precision import Precision, autocast
from triptych.ranker.content.base import Asked
from triptych.ranker.content.em3 import LATER, Em3ContentConfig
from triptych.ranker.inputs import Shown

ITEMS = 7
VIEWS = (View.ITEM, View.PHOTO, View.TITLE)
KINDS = ["two_tower", "late_fusion"]


def looks() -> ItemInputs:
    """Seven items; one has no title, another no photo, one neither."""
    generator = torch.Generator().manual_seed(0)
    return ItemInputs(
        title_tokens=torch.randint(5, 40, (ITEMS, 6), generator=generator, dtype=torch.int32),
        pixels=torch.randint(0, 256, (ITEMS, 32, 32, 3), generator=generator, dtype=torch.uint8),
        has_title=torch.tensor([1, 0, 1, 1, 1, 0, 1], dtype=torch.bool),
        has_photo=torch.tensor([1, 1, 0, 1, 1, 0, 1], dtype=torch.bool),
    )


def asked() -> Asked:
    generator = torch.Generator().manual_seed(3)
    return Asked(
        content=(),
        item_rows=torch.tensor([2, 3, 5, 8, 13, 21, 34]),
        id_rows=torch.arange(ITEMS),
        id_vectors=torch.randn(ITEMS, 4, generator=generator),
        target=torch.tensor([1, 3, 4, 2, 1]),
        steps=torch.tensor([[0, 3, 5, 3], [0, 3, 5, 3], [6, 1, -1, -1], [-1, -1, -1, -1], [2, 2, -1, -1]]),
        looks=looks(),
    )


def em3(kind: str = "two_tower", **settings):
    torch.manual_seed(0)
    base = {name: value for name, value in EM3.items() if name != "contrast_dim"}
    config = Em3ContentConfig.parse({**base, "contrast_weight": 0.0, **settings})
    module = config.build(dict.fromkeys(map(str, VIEWS), 8), id_dim=4, catalogue_items=40)
    module.encode_by(tiny_embedder(kind).encoder, seed=0)
    return module.train()


def gradients(module, *, target=1.0, steps=1.0, precision=Precision.FP32):
    module.zero_grad()
    weights = torch.randn(module.dim, generator=torch.Generator().manual_seed(5))
    with autocast(precision, device=torch.device("cpu")):
        said = module(asked())
    total = (target * said.target @ weights).square().sum() + (steps * said.steps.vectors @ weights).square().sum()
    total.backward()
    return {name: None if one.grad is None else one.grad.clone() for name, one in module.named_parameters()}


def reached(found, beginning):
    return {name for name, one in found.items() if name.startswith(beginning) and one is not None and one.any()}


FULL = {"train": "full", "train_behaviours": "full"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "modes",
    [
        {"train": "full", "train_behaviours": "lora"},
        {"train": "lora", "train_behaviours": "full"},
        {"train": "full", "train_behaviours": "adapter"},
        {"train": "adapter", "encoder_blocks": 1},
        {"train": "lora", "encoder_blocks": 2},
    ],
    ids=str,
)
def test_at_the_first_step_every_mode_says_the_same_bit_for_bit(kind, modes):
    """But where nothing of a late fusion's head has a gradient: there torch adds in another order."""
    exact = kind == "two_tower" or "encoder_blocks" not in modes
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-6}
    first = em3(kind, **FULL)(asked())
    found = em3(kind, **modes)(asked())
    torch.testing.assert_close(found.target, first.target, **tolerance)
    torch.testing.assert_close(found.steps.vectors, first.steps.vectors, **tolerance)


@pytest.mark.parametrize("recompute", [False, True])
def test_behaviours_by_low_rank_leave_encoder_and_q_former_to_candidates(recompute):
    module = em3(train="full", recompute=recompute)
    both, alone = gradients(module), gradients(module, steps=0.0)
    assert reached(both, "behaviour_factors")
    for name, grad in both.items():
        if not name.startswith("behaviour_factors"):
            assert (grad is None) == (alone[name] is None), name
            assert grad is None or torch.equal(grad, alone[name]), name
    for part in ("encoder.patches", "encoder.text", "encoder.transformer", "encoder.item_projection", "fusion"):
        assert reached(both, part), part
    assert not reached(both, "encoder.query_projection")


def test_behaviours_in_full_change_both():
    module = em3(**FULL)
    both, alone = gradients(module), gradients(module, steps=0.0)
    for name in ("encoder.item_projection.weight", "encoder.patches.positions", "fusion.queries"):
        assert alone[name].any() and not torch.allclose(both[name], alone[name], rtol=1e-3), name


def test_candidates_reach_the_encoder_in_full_and_not_by_adapter():
    by_adapter = em3(train="adapter", train_behaviours="full")
    alone = gradients(by_adapter, steps=0.0)
    assert reached(alone, "fusion") and not reached(alone, "encoder.")
    assert reached(gradients(by_adapter, target=0.0), "encoder.")
    frozen = em3(train="frozen", train_behaviours="full")
    assert not reached(gradients(frozen, steps=0.0), "")
    assert reached(gradients(frozen, target=0.0), "encoder.")
    without = Em3ContentConfig.parse({"train": "adapter", "train_behaviours": "adapter"})
    assert not without.trains_encoder


def test_it_does_so_in_half_precision_too():
    """Autocast keeps weights it has cast; those that were cast without gradient must not be what gradient flows to."""
    found = gradients(em3(train="lora", train_behaviours="full"), target=0.0, precision=Precision.BF16)
    assert reached(found, "encoder.transformer") and reached(found, "encoder.item_projection")


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_last_blocks_factors_alone_have_gradient_and_add_up_to_an_encoder(kind):
    module = em3(kind, train="adapter", encoder_blocks=1)
    for part in module.encoder.modules():
        if isinstance(part, LowRankLinear):
            nn.init.normal_(part.up, std=0.1, generator=torch.Generator().manual_seed(2))
    found = gradients(module)
    trained = {name for name, one in module.named_parameters() if one.requires_grad and name.startswith("encoder.")}
    places = {"two_tower": ("transformer.blocks.1",)}.get(
        kind, ("text_transformer.blocks.0", "photo_transformer.blocks.1", "fusion.transformer.blocks.0")
    )
    layers = ("attention.query_key_value", "attention.out", "mlp.up", "mlp.down")
    expected = {
        f"encoder.{place}.{layer}.{factor}" for place in places for layer in layers for factor in ("down", "up")
    }
    assert trained == expected == reached(found, "encoder.")
    plain = merged(module.encoder)
    assert plain.state_dict().keys() == tiny_embedder(kind).encoder.state_dict().keys()
    for view in VIEWS:
        adapted, own = (one.encode_items(looks(), view=view) for one in (module.encoder, plain))
        torch.testing.assert_close(own, adapted)
        assert not torch.allclose(own, tiny_embedder(kind).encoder.encode_items(looks(), view=view), atol=1e-3)
    assert any(isinstance(part, LowRankLinear) for part in module.encoder.modules())


def test_an_adapted_layer_is_its_formula():
    module = nn.Sequential(nn.Linear(5, 4))
    own = module[0]
    adapt(module, ["0"], rank=2, alpha=3.0)
    states = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(module(states), own(states))
    with torch.no_grad():
        module[0].up.normal_(generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(module(states), own(states) + 1.5 * (states @ module[0].down.T) @ module[0].up.T)


@pytest.mark.parametrize("recompute", [False, True])
def test_distinct_items_in_chunks_have_the_loss_and_gradient_of_every_slot_by_itself(recompute):
    """Each slot encoded alone, by the same weights; gradients of equal items add up."""
    module, given = em3(**FULL, chunk_items=2, recompute=recompute), asked()
    weights = torch.randn(module.dim, generator=torch.Generator().manual_seed(5))

    def alone(place):
        shown = Shown(looks=given.looks).at(torch.tensor([int(place)]))
        return module.fusion(module._tokens(shown, learns=True))[0]

    def loss(targets, steps):
        return sum((one @ weights).square() for one in targets) + sum((one @ weights).pow(3) for one in steps)

    said = module(given)
    kept = said.steps.places[said.steps.places >= 0]
    found = loss(said.target, said.steps.vectors[kept])
    found.backward()
    chunked = {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}
    module.zero_grad()
    slots = given.steps[given.steps >= 0].tolist()
    expected = loss([alone(place) for place in given.target], [alone(place) for place in slots])
    expected.backward()
    torch.testing.assert_close(found, expected)
    for name, one in module.named_parameters():
        if one.grad is not None:
            torch.testing.assert_close(chunked[name], one.grad, rtol=1e-4, atol=1e-5 * float(one.grad.abs().max() + 1))
    assert "encoder.patches.positions" in chunked


def passes(module, given):
    """How many items the encoder reads in each of its passes."""
    seen = []
    hook = module.encoder.input_norm.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    module(given)
    hook.remove()
    return seen


def test_kept_behaviours_take_no_pass_through_the_encoder():
    module = em3(train="full", train_behaviours="lora_cache")
    views, candidates = len(VIEWS), len(set(asked().target.tolist()))
    assert passes(module, asked()) == [candidates] * views + [3] * views  # 0, 5 and 6 are no candidates
    assert passes(module, asked()) == [candidates] * views
    trained = gradients(module)
    assert reached(trained, "encoder.") and reached(trained, "cache_map.")
    assert not reached(gradients(module, target=0.0), "encoder.")


def test_an_item_is_encoded_once_a_side():
    module, given = em3(train="full"), asked()
    more = given._replace(steps=given.steps.repeat(1, 50), target=given.target)
    once = [4] * len(VIEWS) + [6] * len(VIEWS)
    assert passes(module, more) == passes(module, given) == once


def test_what_an_item_lacks_has_no_token():
    tokens = em3(train="full")._tokens(Shown(looks=looks()), learns=False)
    assert [one.keep[:, 0].tolist() for one in tokens] == [
        [True] * ITEMS,
        looks().has_photo.tolist(),
        looks().has_title.tolist(),
    ]


def test_rates_of_the_encoder():
    full = em3(train="full", encoder_rate_factor=0.2)
    assert full.rate_factors() == {"encoder.": 0.2, "fusion": 0.3}
    assert em3(train="adapter", encoder_blocks=1).rate_factors() == {"fusion": 0.3}


def test_what_came_later_is_not_in_the_dumps_of_those_who_do_not_use_it():
    dumped = Em3ContentConfig().dump()
    assert set(dumped) == set(Em3ContentConfig.model_fields) - set(LATER)
    used = Em3ContentConfig.parse({"train": "adapter", "encoder_blocks": 2})
    assert used.dump() == {**dumped, "encoder_blocks": 2}
    assert Em3ContentConfig.parse(used.dump()) == used


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder_rate_factor": 0.3}, "encoder_rate_factor has no effect with neither .* = 'full'"),
        ({"train": "full", "encoder_blocks": 1}, "encoder_blocks goes with train = 'lora' or 'adapter'"),
        ({"train_behaviours": "full", "encoder_blocks": 1}, "encoder_blocks goes with"),
        ({"train": "frozen", "encoder_blocks": 1}, "encoder_blocks goes with"),
        ({"train_behaviours": "cache", "encoder_blocks": 1, "encoder_rate_factor": 0.3}, "encoder_rate_factor has no"),
    ],
)
def test_options_without_effect_are_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        Em3ContentConfig.parse(settings)


def test_an_encoder_without_blocks_of_its_own_has_none_to_adapt():
    config = Em3ContentConfig.parse({**EM3, "train": "adapter", "encoder_blocks": 1})
    module = config.build({"item": 8}, id_dim=4, catalogue_items=40)
    with pytest.raises(ConfigError, match="no transformer blocks of its own"):
        module.encode_by(tiny_embedder("late_fusion", text_layers=0, photo_layers=0, fusion="gated").encoder, seed=0)
