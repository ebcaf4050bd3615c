"""EM3 and SimTier as plug-ins: who trains what, and what the first step owes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_rankers import EM3, candidates, model_of, warmed
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.foundation.registry import config_class
from triptych.nn.attention import SelfAttention
from triptych.nn.query_former import QueryFormer
from triptych.ranker.base import CONTENTS, load_model
from triptych.ranker.content.base import Asked
from triptych.ranker.content.em3 import Em3ContentConfig
from triptych.ranker.content.simtier import SimTierConfig
from triptych.ranker.estimate import kept_bytes


def asked(given=None):
    given = candidates() if given is None else given
    return Asked(
        content=given.items.content,
        item_rows=given.items.item_rows,
        id_rows=given.items.fields[:, 0],
        id_vectors=torch.randn(7, 4, generator=torch.Generator().manual_seed(3)),
        target=given.target,
        steps=given.requests.steps[given.request],
    )


def em3(**settings):
    torch.manual_seed(0)
    base = {name: value for name, value in EM3.items() if name != "contrast_dim" or settings.get("contrast_weight", 1)}
    config = Em3ContentConfig.parse({**base, **settings})
    return config.build({"image": 6, "text": 3}, id_dim=4, catalogue_items=40)


FORMS = [{}, {"form": "full", "width": 8, "modality_dropout_rate": 0.0}]


@pytest.mark.parametrize("form", FORMS, ids=["as_published", "full"])
@pytest.mark.parametrize("train", ["adapter", "lora", "frozen"])
def test_at_the_first_step_every_mode_says_the_same(form, train):
    """Low rank begins as the weights themselves, to the last bit; without gradient torch may add in another order."""
    exact = {"rtol": 0, "atol": 0} if train != "frozen" else {"rtol": 1e-5, "atol": 1e-6}
    full = em3(train="adapter", train_behaviours="adapter", **form)(asked())
    found = em3(train=train, train_behaviours=train, **form)(asked())
    mixed = em3(train="adapter", train_behaviours=train, **form)(asked())
    for one in (found, mixed):
        torch.testing.assert_close(one.target, full.target, **exact)
        torch.testing.assert_close(one.steps.vectors, full.steps.vectors, **exact)
        assert torch.equal(one.steps.places, full.steps.places)


def gradients(module, given, *, target=1.0, steps=1.0):
    module.zero_grad()
    said = module(given)
    # Weighed, since the sum of a normalised vector is always the same.
    weights = torch.randn(module.dim, generator=torch.Generator().manual_seed(5))
    total = (target * said.target @ weights).square().sum() + (steps * said.steps.vectors @ weights).square().sum()
    if total.requires_grad:
        total.backward()
    return {name: None if w.grad is None else w.grad.clone() for name, w in module.named_parameters()}


def test_behaviours_by_low_rank_leave_the_weights_to_candidates():
    module = em3(contrast_weight=0.0)
    both, alone = gradients(module, asked()), gradients(module, asked(), steps=0.0)
    assert any(grad is not None and grad.any() for name, grad in both.items() if name.startswith("fusion"))
    for name, grad in both.items():
        if name.startswith("fusion"):
            assert torch.equal(grad, alone[name]), name
        else:
            assert name.startswith("behaviour_factors")
            assert bool(grad.any()) == (".up" in name)  # B is 0, so that A has no gradient yet
            assert alone[name] is None or not alone[name].any()
    shared = em3(train_behaviours="adapter", contrast_weight=0.0)
    assert not torch.equal(
        gradients(shared, asked())["fusion.queries"], gradients(shared, asked(), steps=0.0)["fusion.queries"]
    )


CACHED = {"train_behaviours": "lora_cache"}


def trained_on(module, given, *, passes=1):
    """Passes of training in which the Q-Former changes."""
    module.train()
    for _ in range(passes):
        module(given)
        with torch.no_grad():
            module.fusion.queries.add_(0.3)
    return module


def as_candidates(given):
    """Every item a candidate, so that all of what is kept is refreshed."""
    return given._replace(target=torch.arange(len(given.item_rows)), steps=given.steps[[0] * len(given.item_rows)])


@pytest.mark.parametrize("train", ["adapter", "lora", "frozen"])
@pytest.mark.parametrize("behaviours", ["cache", "lora_cache"])
def test_kept_vectors_are_those_of_their_last_time_as_candidates(train, behaviours):
    """Items 1, 3 and 5 are candidates and in histories, 0 and 6 in histories alone: those are encoded once and kept."""
    module = em3(train=train, train_behaviours=behaviours, contrast_weight=0.0)
    given = asked()
    old = module.eval()(given).steps.vectors
    trained_on(module, given)
    new = module.eval()(given).steps.vectors
    vectors = module.train()(given).steps.vectors
    chosen = given.steps[given.steps >= 0].unique().tolist()
    assert chosen == [0, 1, 3, 5, 6] and sorted(set(given.target.tolist())) == [1, 2, 3, 4, 5]
    candidates_too = [place for place, item in enumerate(chosen) if item in given.target.tolist()]
    others = [place for place in range(len(chosen)) if place not in candidates_too]
    torch.testing.assert_close(vectors[candidates_too], new[candidates_too], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(vectors[others], old[others], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(old[others], new[others], atol=1e-3)
    assert module.cache.passes == 2
    rows = given.item_rows
    assert module.cache.written[rows].tolist() == [1, 2, 2, 2, 2, 2, 1]
    assert int((module.cache.written > 0).sum()) == len(rows)


def test_after_a_refresh_what_is_kept_is_what_is_computed():
    module = trained_on(em3(train_behaviours="cache", contrast_weight=0.0), asked(), passes=3)
    found = {**module.report(lambda rows: asked().shown.at(places_of(rows)))}
    assert found["cache_cosine"] < 0.999 and found["cache_age"] > 0
    module(as_candidates(asked()))
    kept = module.cache.vectors[asked().item_rows]
    fresh = module.eval()(as_candidates(asked())).target
    torch.testing.assert_close(kept, fresh, rtol=0, atol=1e-6)
    found = module.report(lambda rows: asked().shown.at(places_of(rows)))
    assert found == {"cache_found": 1.0, "cache_cosine": pytest.approx(1.0, abs=1e-6), "cache_age": 0.0}


def places_of(rows):
    return torch.tensor([asked().item_rows.tolist().index(row) for row in rows.tolist()], dtype=torch.int64)


def test_the_report_counts_what_was_looked_for_since_the_last_one():
    module = em3(train_behaviours="cache", contrast_weight=0.0)
    assert module.report(lambda rows: asked().shown) == {}
    given = asked()
    slots = [place for place in given.steps.flatten().tolist() if place >= 0]
    module.train()(given)
    found = module.report(lambda rows: asked().shown.at(places_of(rows)))
    assert found["cache_found"] == pytest.approx(np.mean([place in given.target.tolist() for place in slots]))
    module(given)
    assert module.report(lambda rows: asked().shown.at(places_of(rows)))["cache_found"] == 1.0
    assert "cache_found" not in module.report(lambda rows: asked().shown.at(places_of(rows)))
    assert em3().report(lambda rows: asked().shown) == {}


def test_low_rank_over_kept_vectors_begins_as_they_are_and_sends_gradient_to_factors_alone():
    plain, mapped = em3(train_behaviours="cache"), em3(**CACHED)
    first = [module.train()(asked()).steps.vectors for module in (plain, mapped)]
    assert torch.equal(*first)
    with torch.no_grad():
        mapped.cache_map.up.normal_(generator=torch.Generator().manual_seed(1))
    kept = first[0]
    expected = kept + 2.0 * kept @ mapped.cache_map.down.T @ mapped.cache_map.up.T
    torch.testing.assert_close(mapped(asked()).steps.vectors, expected)
    found = gradients(mapped, asked(), target=0.0)
    trained = {name for name, grad in found.items() if grad is not None and grad.any()}
    assert trained == {"cache_map.down", "cache_map.up"}


def test_in_evaluation_the_table_is_neither_read_nor_written():
    module = trained_on(em3(**CACHED, contrast_weight=0.0), asked())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fresh = em3(**CACHED, contrast_weight=0.0).eval()
    fresh.load_state_dict({name: value for name, value in before.items() if not name.startswith("cache.")})
    assert not fresh.cache.written.any()
    said = module.eval()(asked())
    assert torch.equal(fresh(asked()).steps.vectors, said.steps.vectors)
    beyond = asked()._replace(item_rows=asked().item_rows + 10**6)  # added when serving
    assert torch.equal(module(beyond).steps.vectors, said.steps.vectors)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_saved_ranker_holds_no_table(tmp_path):
    model = warmed(model_of("din", {**EM3, **CACHED}))
    model.train()(candidates())
    model.eval().save(tmp_path)
    loaded = load_model(tmp_path)
    assert not any(name.startswith("content.cache.") for name in load_file(tmp_path / "model.safetensors"))
    assert torch.equal(loaded(candidates()).logits, model(candidates()).logits)
    assert model.content.cache.written.any() and not loaded.content.cache.written.any()


def test_frozen_trains_nothing_and_low_rank_on_both_sides_leaves_the_weights():
    frozen = em3(train="frozen", train_behaviours="frozen", contrast_weight=0.0)
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert not frozen(asked()).target.requires_grad
    lora = em3(train="lora", train_behaviours="lora", contrast_weight=0.0)
    trained = {name.split(".")[0] for name, weight in lora.named_parameters() if weight.requires_grad}
    assert trained == {"target_factors", "behaviour_factors"}
    assert {name for name, grad in gradients(lora, asked()).items() if grad is not None} <= {
        name for name, _ in lora.named_parameters() if "factors" in name
    }


@pytest.mark.parametrize("form", FORMS, ids=["as_published", "full"])
def test_chunks_encoded_again_have_the_same_vectors_and_gradients(form):
    plain, chunked = em3(**form), em3(chunk_items=2, recompute=True, **form)
    with torch.no_grad():
        for module in (plain, chunked):
            for up in module.behaviour_factors.up:
                up.fill_(0.1)
    for one, other in zip(plain(asked())[:2], chunked(asked())[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    found = gradients(chunked, asked())
    for name, grad in gradients(plain, asked()).items():
        if grad is not None:
            torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5)


def test_an_item_is_encoded_once_however_often_it_stands_in_histories():
    module, seen = em3(contrast_weight=0.0), []
    module.fusion.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    given = asked()
    module(given._replace(steps=given.steps.repeat(1, 50), target=given.target.repeat(9)))
    assert seen[0] == len(given.target.unique())
    assert len(module(given).steps.vectors) == len(given.steps[given.steps >= 0].unique())


@pytest.mark.parametrize("form", FORMS, ids=["as_published", "full"])
def test_memory_follows_distinct_items_and_not_how_often_they_were_chosen(form):
    given = asked()
    longer = given._replace(steps=given.steps.repeat(1, 50))
    fewer = given._replace(steps=given.steps.clamp(max=0))

    def kept(module, asked_of):
        there = [*module.parameters(), *(part for one in asked_of.content for part in one), asked_of.id_vectors]
        return kept_bytes(lambda: module(asked_of), apart_from=there)

    plain, again = (em3(train_behaviours="adapter", **form, **more) for more in ({}, {"recompute": True}))
    assert kept(plain, fewer) < kept(plain, given) == kept(plain, longer)
    assert kept(again, longer) == kept(again, given) < 0.5 * kept(plain, given)


def test_the_contrast_is_of_candidates_that_have_an_id():
    """Of the five candidates one has no ID; its content finds nothing, and its ID gets no gradient."""
    module = em3(contrast_negatives=0, contrast_temperature=0.5)
    given = asked()
    given.id_vectors.requires_grad_()
    (term,) = module.terms(given, module(given))
    assert term.weight == 1e-3
    places = [place for place in sorted(set(given.target.tolist())) if given.id_rows[place] != 0]
    assert len(places) == 4
    said = module(given)
    first = [given.target.tolist().index(place) for place in places]
    content = functional.normalize(module.contrast_heads["content"](said.target[first]), dim=1)
    ids = functional.normalize(module.contrast_heads["id"](given.id_vectors[places]), dim=1)
    scores = content @ ids.T / 0.5
    expected = (
        functional.cross_entropy(scores, torch.arange(4)) + functional.cross_entropy(scores.T, torch.arange(4))
    ) / 2
    torch.testing.assert_close(term.loss.total, expected)
    term.loss.total.backward()
    has_gradient = given.id_vectors.grad.any(dim=1).nonzero()[:, 0].tolist()
    assert has_gradient == places


COUNTS = torch.tensor([0, 3, 40, 1, 7.0]).repeat(8)


def test_the_contrast_is_corrected_for_how_often_an_item_is_a_candidate():
    """Each score of a batch of five samples, less the log probability that the item is among those."""
    module = em3(contrast_negatives=0, contrast_temperature=0.5, contrast_log_q=True)
    module.count_candidates(COUNTS)
    given = asked()
    said = module(given)
    (term,) = module.terms(given, said)
    places = [place for place in sorted(set(given.target.tolist())) if given.id_rows[place] != 0]
    first = [given.target.tolist().index(place) for place in places]
    content = functional.normalize(module.contrast_heads["content"](said.target[first]), dim=1)
    ids = functional.normalize(module.contrast_heads["id"](given.id_vectors[places]), dim=1)
    chance = [1 - (1 - float(COUNTS[row] / COUNTS.sum())) ** 5 for row in given.item_rows[places].tolist()]
    scores = content @ ids.T / 0.5 - torch.tensor(chance).log()
    turned = ids @ content.T / 0.5 - torch.tensor(chance).log()
    truth = torch.arange(len(places))
    expected = (functional.cross_entropy(scores, truth) + functional.cross_entropy(turned, truth)) / 2
    torch.testing.assert_close(term.loss.total, expected)
    plain = em3(contrast_negatives=0, contrast_temperature=0.5)
    assert not torch.allclose(plain.terms(given, said)[0].loss.total, expected)


def test_an_id_that_has_hardly_been_trained_is_not_contrasted():
    module = em3(contrast_negatives=0, contrast_min_count=3)
    module.count_candidates(COUNTS)
    given = asked()
    given.id_vectors.requires_grad_()
    (term,) = module.terms(given, module(given))
    term.loss.total.backward()
    has_gradient = given.id_vectors.grad.any(dim=1).nonzero()[:, 0].tolist()
    shown = [place for place in sorted(set(given.target.tolist())) if given.id_rows[place] != 0]
    assert has_gradient == [place for place in shown if COUNTS[given.item_rows[place]] >= 3] != shown


def test_counts_are_read_where_they_are_asked_for_and_not_saved(tmp_path):
    module = em3(contrast_log_q=True)
    with pytest.raises(ConfigError, match="nobody has counted"):
        module.terms(asked(), module(asked()))
    assert "counts" not in module.state_dict() and em3().counts is None
    named = {"contrast_log_q", "contrast_min_count"}
    assert not named & set(Em3ContentConfig().dump())  # rankers trained before keep their ids
    assert named <= set(Em3ContentConfig(contrast_log_q=True, contrast_min_count=2).dump())


def test_the_contrast_warms_up_in_training_alone():
    model = model_of("din", {**EM3, "contrast_warmup_steps": 3})
    given = candidates()
    assert model.eval()(given).terms == ()
    weights = [model.train()(given).terms[0].weight for _ in range(5)]
    assert weights == pytest.approx([1e-3 * share for share in (0.25, 0.5, 0.75, 1, 1)])
    unset = model_of("din", EM3)
    unset.content.learns_for(30)
    assert [unset.train()(given).terms[0].weight for _ in range(5)] == pytest.approx(weights)


def test_the_forms_are_those_of_the_q_former():
    """The reconstruction's proposal (sections 2.3 and 9), and what was published."""
    for form, dim in (("full", 256), ("as_published", 64)):
        config = Em3ContentConfig.parse({"kind": "em3", "form": form})
        module = config.build({"image": 6, "text": 3}, id_dim=4, catalogue_items=40)
        usual = getattr(QueryFormer, form)((6, 3))
        shapes = {name: weight.shape for name, weight in usual.state_dict().items()}
        assert {name: weight.shape for name, weight in module.fusion.state_dict().items()} == shapes
        assert module.fusion.dim == dim
        heads = [part.heads for part in module.fusion.modules() if isinstance(part, SelfAttention)]
        assert heads == [part.heads for part in usual.modules() if isinstance(part, SelfAttention)]
    small = Em3ContentConfig().merged({"form": "full", "layers": 1})
    assert small.shape == (256, 4, 1, 8), "sizes of one form are not carried into the other"
    before = Em3ContentConfig().dump() | {"width": 64, "queries": 1, "layers": 1, "heads": 4}
    assert Em3ContentConfig.parse(before).shape == Em3ContentConfig().shape


def test_the_q_former_has_a_rate_of_its_own():
    model = model_of("din", {**EM3, "fusion_rate_factor": 0.5})
    factors = model.rate_factors()
    slow = {name for name, _ in model.named_parameters() if name.startswith(tuple(factors))}
    assert slow and all(name.startswith("content.fusion.") for name in slow)
    assert set(factors.values()) == {0.5}
    assert model_of("din").rate_factors() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_behaviours": "adapter", "rank": 4}, "rank has no effect"),
        ({"contrast_weight": 0, "contrast_negatives": 3}, "contrast_negatives has no effect with contrast_weight = 0"),
        ({"contrast_weight": 0, "contrast_log_q": True}, "contrast_log_q has no effect with contrast_weight = 0"),
        ({"width": 32}, "width has no effect with form = 'as_published'"),
        ({"train": "lora", "fusion_rate_factor": 1.0}, "fusion_rate_factor has no effect"),
        ({"train_behaviours": "cache", "rank": 4}, "rank has no effect"),
        ({"train": "cache"}, "train = 'cache' is for train_behaviours"),
        ({"heads": 3}, "dim 8 must be a multiple of heads"),
    ],
)
def test_options_without_effect_are_errors(settings, message):
    base = {key: value for key, value in EM3.items() if key != "contrast_dim" or "contrast_weight" not in settings}
    with pytest.raises(ConfigError, match=message):
        Em3ContentConfig.parse({**base, **settings})


@pytest.mark.parametrize("kind", ["frozen", "simtier", "em3"])
def test_what_reads_content_wants_some(kind):
    with pytest.raises(ConfigError, match=f"'{kind}' reads"):
        config_class(CONTENTS, kind)().build({}, id_dim=4, catalogue_items=1)


def test_simtier_counts_what_a_loop_counts():
    given = asked()
    module = SimTierConfig(tiers=5).build({"image": 6, "text": 3}, id_dim=4, catalogue_items=40)
    expected = np.zeros((5, 5))
    for row in range(5):
        for place in given.steps[row][given.steps[row] >= 0].tolist():
            cosines = []
            for tokens, keep in given.content:
                pair = [tokens[item][keep[item]].sum(dim=0) for item in (int(given.target[row]), place)]
                if all(keep[item].any() for item in (int(given.target[row]), place)):
                    cosines.append(float(functional.cosine_similarity(*pair, dim=0)))
            if cosines:
                expected[row, min(int((np.mean(cosines) + 1) / 2 * 5), 4)] += 1
    counts = module.counts(module.item_side()(given.content), target=given.target, steps=given.steps)
    np.testing.assert_array_equal(counts.numpy(), expected)
    torch.testing.assert_close(module(given).pair, torch.log1p(torch.from_numpy(expected).float()))
    assert expected.sum() > 5
