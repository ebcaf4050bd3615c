"""Rankers against loops over samples and steps, and what must change no score."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_rankers import CODES, EM3, ITEMS, SIZES, candidates, drawn, model_of, padded, warmed
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.foundation.registry import config_class, kinds
from triptych.nn.cross_layers import CrossLayers
from triptych.nn.dense_layers import Activation, Dice
from triptych.nn.target_attention import Steps, TargetAttention, Weights
from triptych.ranker.base import CONTENTS, MODELS, load_model


@pytest.mark.parametrize("weights", list(Weights))
@pytest.mark.parametrize("activation", [Activation.PRELU, Activation.DICE])
def test_target_attention_is_a_loop_over_pairs(weights, activation):
    attention = TargetAttention(4, hidden_dims=(5, 3), beside_dim=2, activation=activation, weights=weights)
    attention = warmed(attention)
    generator = drawn()
    vectors, targets = torch.randn(6, 4, generator=generator), torch.randn(3, 4, generator=generator)
    places = torch.tensor([[0, 5, 0, -1], [-1, 2, -1, -1], [-1, -1, -1, -1]])
    beside = Steps(torch.randn(7, 2, generator=generator), torch.tensor([[1, 2, 6, 0], [0, 3, 0, 0], [0, 0, 0, 0]]))
    found = attention(targets, Steps(vectors, places), beside=beside)
    whole = torch.cat([attention.of_target, attention.of_step, attention.of_product, attention.of_beside], dim=1)
    for row in range(3):
        scores, steps = [], []
        for column in range(4):
            if places[row, column] >= 0:
                step = vectors[places[row, column]]
                parts = [targets[row], step, targets[row] * step, beside.vectors[beside.places[row, column]]]
                hidden = whole @ torch.cat(parts) + attention.bias
                scores.append(attention.layers(hidden[None])[0, 0])
                steps.append(step)
        expected = torch.zeros(4)
        if scores:
            weighed = torch.stack(scores)
            weighed = weighed if weights is Weights.RAW else torch.softmax(weighed, dim=0)
            expected = weighed @ torch.stack(steps)
        torch.testing.assert_close(found[row], expected)


@torch.no_grad()
def test_dice_is_its_equation_and_remembers_what_it_has_seen():
    dice = Dice(3)
    with torch.no_grad():
        dice.slope.copy_(torch.tensor([0.1, -0.5, 2.0]))
    states = torch.randn(50, 3, generator=drawn()) * 3 + 1
    found = dice.train()(states)
    for row in range(50):
        for channel in range(3):
            column = states[:, channel]
            s = float(states[row, channel])
            p = 1 / (1 + math.exp(-(s - float(column.mean())) / math.sqrt(float(column.var(unbiased=False)) + 1e-6)))
            expected = p * s + (1 - p) * float(dice.slope[channel]) * s
            assert float(found[row, channel]) == pytest.approx(expected, abs=1e-5)
    for _ in range(200):
        dice(states)
    torch.testing.assert_close(dice.eval()(states[:1]), found[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 2])
def test_cross_layers_are_their_equation(rank):
    cross = warmed(CrossLayers(4, layers=2, rank=rank))
    first = torch.randn(3, 4, generator=drawn())
    expected = first
    for layer in cross.layers:
        matrix = layer[1].weight @ layer[0].weight if rank else layer.weight
        bias = layer[1].bias if rank else layer.bias
        expected = torch.stack([first[r] * (matrix @ expected[r] + bias) + expected[r] for r in range(3)])
    torch.testing.assert_close(cross(first), expected)


KEPT = {**EM3, "train_behaviours": "lora_cache"}
CONTENT = {
    "none": "none",
    "frozen": "frozen",
    "simtier": "simtier",
    "semantic ids": CODES,
    "em3": EM3,
    "em3 kept": KEPT,
}
SIM = [("sim", {"search": search, "found_items": 2, "recent_items": 1}) for search in ("category", "features")]
EVERY = [*((kind, {}) for kind in kinds(MODELS) if kind != "sim"), *SIM, ("mlp", {"history_items": 0})]


@pytest.mark.parametrize(
    ("kind", "settings", "content"),
    [(*model, content) for model in EVERY for content in CONTENT if content in ("none", "em3") or model[0] == "din"],
    ids=str,
)
def test_every_model_runs_with_every_plug_in(tmp_path, kind, settings, content):
    """Scores do not change by padding, by what else is scored, or by saving; and all that is trained has gradient."""
    model = warmed(model_of(kind, CONTENT[content], **settings))
    given = candidates(content=content != "none", codes=content == "semantic ids")
    logits = model(given).logits
    assert logits.shape == (5,)
    torch.testing.assert_close(model(padded(given)).logits, logits, rtol=1e-5, atol=1e-6)
    for place in range(5):
        alone = given._replace(
            request=given.request[[place]], target=given.target[[place]], numbers=given.numbers[[place]]
        )
        torch.testing.assert_close(model(alone).logits, logits[[place]], rtol=1e-4, atol=1e-5)
    model.save(tmp_path)
    assert torch.equal(load_model(tmp_path)(given).logits, logits)
    model.train()
    ranked = model(given)
    (ranked.logits.square().sum() + sum(term.weight * term.loss.total for term in ranked.terms)).backward()
    tables = {f"{name}.weight" for name, part in model.named_modules() if hasattr(part, "update_rows")}
    silent = {
        name
        for name, weight in model.named_parameters()
        if name not in tables and weight.requires_grad and (weight.grad is None or not weight.grad.any())
    }
    unread = {"features.gaps", "features.kinds"} if kind in ("mlp", "dcnv2") else set()
    if settings.get("history_items") == 0:
        unread |= {name for name, _ in model.named_parameters() if name.startswith("content.behaviour_factors")}
    # B is 0 no longer in `warmed`, so both factors of a branch learn.
    assert silent == unread


@pytest.mark.parametrize("kind", ["din", "mlp", "dcnv2", "bst", "sim"])
def test_a_history_is_read(kind):
    model = warmed(model_of(kind))
    given = candidates(content=False)
    others = given._replace(requests=given.requests._replace(steps=given.requests.steps.clamp(max=2)))
    changed = (model(others).logits != model(given).logits).tolist()
    assert changed == [True, True, True, False, False]


def test_din_is_its_parts_side_by_side():
    model = warmed(model_of("din", weights="raw"))
    given = candidates(content=False)
    items, context = model.features.items(given.items), model.features.context(given)
    assert items.shape == (ITEMS, 4 * 4) and context.shape == (5, 4 * 4)
    steps = Steps(items, given.requests.steps[given.request])
    interest = model.by_features(items[given.target], steps, beside=model.features.beside(given))
    expected = model.head(torch.cat([context, items[given.target], interest], dim=1))[:, 0]
    torch.testing.assert_close(model(given).logits, expected)
    tags = model.features.item_lists[0].weight
    torch.testing.assert_close(items[0, 8:12], (tags[1] + tags[2]) / 2)
    torch.testing.assert_close(items[2, 8:12], torch.zeros(4))


def test_begin_at_is_what_a_score_begins_with():
    for kind in kinds(MODELS):
        model = model_of(kind).eval()
        with torch.no_grad():
            model.last.weight.zero_()
        model.begin_at(0.2)
        torch.testing.assert_close(torch.sigmoid(model(candidates(content=False)).logits), torch.full((5,), 0.2))


@torch.no_grad()
def test_sim_finds_what_a_loop_finds():
    given = candidates()
    for search in ("category", "features", "content"):
        model = warmed(model_of("sim", "frozen", search=search, found_items=2, recent_items=1))
        captured = {}
        model.joined = lambda seen, model=model, captured=captured: (
            captured.update(seen=seen, found=model.find(seen), recent=model.recent(seen)),
            type(model).joined(model, seen),
        )[1]
        model(given)
        seen = captured["seen"]
        for row in range(5):
            places = [place for place in seen.steps.places[row].tolist() if place >= 0]
            if search == "category":
                fits = [given.items.fields[p, 1] == given.items.fields[given.target[row], 1] != 0 for p in places]
                best = [column for column, fit in enumerate(fits) if fit][-2:]
            else:
                target, vectors = seen.target[row], seen.steps.vectors
                if search == "content":
                    target, vectors = seen.content.target[row], seen.content.steps.vectors
                    vectors, target = functional.normalize(vectors, dim=1), functional.normalize(target, dim=0)
                scores = [float(vectors[place] @ target) for place in places]
                best = sorted(sorted(range(len(places)), key=lambda column: -scores[column])[:2])
            found = captured["found"][row].nonzero()[:, 0].tolist()
            if search == "category" or len(set(places)) == len(places):
                assert found == best, search
            assert captured["recent"][row].nonzero()[:, 0].tolist() == ([len(places) - 1] if places else [])


def test_sim_says_what_it_cannot_search_by():
    with pytest.raises(ConfigError, match="gives no vectors to search by"):
        model_of("sim", search="content")
    sizes = SIZES._replace(item_fields={"item": 3}, modalities={})
    config = config_class(MODELS, "sim").parse({"kind": "sim"})
    with pytest.raises(ConfigError, match="no category to search by"):
        config.build(sizes, content=config_class(CONTENTS, "none")(), seed=0)
