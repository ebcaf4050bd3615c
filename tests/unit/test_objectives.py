"""What each objective makes of a batch, against plain loops; what it says where the batch has nothing for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from multitask_batches import (
    HAS_PHOTO,
    HAS_TITLE,
    PHOTO_GROUPS,
    POSITIVE,
    TITLE_GROUPS,
    VOCAB,
    everything,
    masked,
    model_of,
    objective,
    passes_of,
    photos,
    small_encoder,
)
from torch import Tensor
from torch.nn import functional

from triptych.data.masking import choose_patches
from triptych.encoders.base import MODELS, Encoder, open_models
from triptych.encoders.inputs import Tokens, View
from triptych.encoders.models.two_tower import TwoTowerConfig
from triptych.foundation.errors import ConfigError
from triptych.foundation.registry import kinds
from triptych.losses.base import LossOutput
from triptych.nn.patch_histograms import patch_histograms
from triptych.pretrain.objectives.base import OBJECTIVES
from triptych.pretrain.passes import HiddenPatches, MultitaskBatch, Passes
from triptych.training.distributed import ALONE

KINDS = kinds(MODELS)
NUM_ITEMS, NUM_QUERIES = len(HAS_TITLE), len(POSITIVE)
DEFAULTS: dict[str, dict[str, Any]] = {
    "masked_words of queries": {"kind": "masked_words", "of": "query"},
    **{kind: {"kind": kind} for kind in kinds(OBJECTIVES) if kind != "base"},
}


def run(kind: str, tree: dict[str, Any], batch: MultitaskBatch, **settings: Any) -> LossOutput | None:
    task = objective(**tree)
    model = model_of(small_encoder(kind), task)
    return model.objectives[task.label](passes_of(model, batch, **settings))


def vectors(kind: str, batch: MultitaskBatch) -> dict[str, list[list[float]]]:
    """Each sort of vector of a batch by the encoder alone, in plain numbers."""
    encoder = small_encoder(kind)
    with torch.no_grad():
        found = {view.value: encoder.encode_items(batch.items, view=view).double().tolist() for view in View}
        found["query"] = encoder.encode_queries(batch.query_tokens).double().tolist()
    return found


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def mean_of_softmax(rows: list[tuple[float, list[float]]]) -> float:
    """Mean over rows of -log softmax of (own logit, other logits)."""
    losses = [-own + math.log(math.exp(own) + sum(math.exp(other) for other in others)) for own, others in rows]
    return sum(losses) / len(losses)


def answers_to_queries(batch: MultitaskBatch, *, there: list[bool], alike) -> list[tuple[int, list[int]]]:
    """Return (query, negatives) of every query whose item has what is looked at."""
    found = []
    for query, own in enumerate(POSITIVE):
        if there[own]:
            negatives = [
                item
                for item in range(NUM_ITEMS)
                if item != own and there[item] and not batch.known[query, item] and not alike(own, item)
            ]
            found.append((query, negatives))
    return found


def asked_by_items(batch: MultitaskBatch, *, there: list[bool], alike) -> list[tuple[int, list[int]]]:
    """Return (query, other queries) of every query whose item asks for it."""
    found = []
    for query, own in enumerate(POSITIVE):
        if there[own]:
            others = [
                other
                for other, others_own in enumerate(POSITIVE)
                if others_own != own and not batch.known[other, own] and not alike(others_own, own)
            ]
            found.append((query, others))
    return found


def same_title(a: int, b: int) -> bool:
    return TITLE_GROUPS[a] == TITLE_GROUPS[b]


def same_photo(a: int, b: int) -> bool:
    return PHOTO_GROUPS[a] == PHOTO_GROUPS[b]


def never(a: int, b: int) -> bool:
    return False


OF_QUERIES = {
    "query-item": (View.ITEM, [True] * NUM_ITEMS, never),
    "query-title": (View.TITLE, HAS_TITLE, same_title),
    "query-photo": (View.PHOTO, HAS_PHOTO, same_photo),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("between", OF_QUERIES)
@pytest.mark.parametrize(
    "settings", [{}, {"symmetric": True}, {"log_q_weight": 0.7, "query_log_q_weight": 0.4, "symmetric": True}]
)
def test_queries_find_what_is_theirs_as_a_loop_has_it(kind: str, between: str, settings: dict[str, Any]):
    batch, temperature = everything(), 0.3
    view, there, alike = OF_QUERIES[between]
    found = vectors(kind, batch)
    queries, items = found["query"], found[view.value]
    weight = settings.get("log_q_weight", 0.0)

    def logit(query: int, item: int) -> float:
        return dot(queries[query], items[item]) / temperature - weight * float(batch.log_q[item])

    def logit_back(query: int, asking: int) -> float:
        found = dot(queries[query], items[POSITIVE[asking]]) / temperature
        return found - settings.get("query_log_q_weight", 0.0) * float(batch.query_log_q[query])

    forth = [
        (logit(query, POSITIVE[query]), [logit(query, item) for item in negatives])
        for query, negatives in answers_to_queries(batch, there=there, alike=alike)
    ]
    expected = mean_of_softmax(forth)
    if settings.get("symmetric"):
        back = [
            (
                logit_back(query, query),
                [logit_back(other, query) for other in others],
            )
            for query, others in asked_by_items(batch, there=there, alike=alike)
        ]
        expected = (expected + mean_of_softmax(back)) / 2
    tree = {"kind": "contrast", "between": between, "temperature": temperature, **settings}
    output = run(kind, tree, batch)
    assert output is not None
    assert output.total.item() == pytest.approx(expected, rel=1e-5)
    right = [own > max(others, default=-math.inf) for own, others in forth]
    assert output.parts["accuracy"].item() == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("between", OF_QUERIES)
def test_equal_titles_are_no_negatives_where_that_is_asked_for(kind: str, between: str):
    batch, temperature = everything(), 0.3
    view, there, alike = OF_QUERIES[between]
    found = vectors(kind, batch)
    rows = answers_to_queries(batch, there=there, alike=lambda a, b: alike(a, b) or same_title(a, b))
    logits = [
        (
            dot(found["query"][query], found[view.value][POSITIVE[query]]) / temperature,
            [dot(found["query"][query], found[view.value][item]) / temperature for item in negatives],
        )
        for query, negatives in rows
    ]
    tree = {"kind": "contrast", "between": between, "temperature": temperature, "same_title": True}
    output = run(kind, tree, batch)
    assert output is not None
    assert output.total.item() == pytest.approx(mean_of_softmax(logits), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_titles_find_their_photos_as_a_loop_has_it(kind: str, symmetric: bool):
    batch, temperature = everything(), 0.3
    found = vectors(kind, batch)
    titles, images = found["title"], found["photo"]
    both = [item for item in range(NUM_ITEMS) if HAS_TITLE[item] and HAS_PHOTO[item]]
    assert 0 < len(both) < NUM_ITEMS

    def rows(there: list[bool], logit) -> list[tuple[float, list[float]]]:
        others = {
            one: [j for j in range(NUM_ITEMS) if there[j] and not same_title(one, j) and not same_photo(one, j)]
            for one in both
        }
        return [(logit(one, one), [logit(one, other) for other in others[one]]) for one in both]

    expected = mean_of_softmax(rows(HAS_PHOTO, lambda i, j: dot(titles[i], images[j]) / temperature))
    if symmetric:
        back = mean_of_softmax(rows(HAS_TITLE, lambda i, j: dot(images[i], titles[j]) / temperature))
        expected = (expected + back) / 2
    tree = {"kind": "contrast", "between": "title-photo", "temperature": temperature, "symmetric": symmetric}
    output = run(kind, tree, batch)
    assert output is not None
    assert output.total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("between", OF_QUERIES)
def test_the_other_two_forms_of_contrast_as_a_loop_has_them(between: str):
    batch = everything()
    view, there, alike = OF_QUERIES[between]
    found = vectors("two_tower", batch)
    queries, items = found["query"], found[view.value]
    rows = answers_to_queries(batch, there=there, alike=alike)
    margin, scale = 0.2, 1 / 0.3
    logits = [
        (
            scale * (dot(queries[query], items[POSITIVE[query]]) - margin) - float(batch.log_q[POSITIVE[query]]),
            [scale * dot(queries[query], items[item]) - float(batch.log_q[item]) for item in negatives],
        )
        for query, negatives in rows
    ]
    tree = {"kind": "contrast", "between": between, "loss": "am-softmax", "temperature": 0.3, "log_q_weight": 1.0}
    output = run("two_tower", {**tree, "margin": margin}, batch)
    assert output is not None
    assert output.total.item() == pytest.approx(mean_of_softmax(logits), rel=1e-5)

    task = objective("contrast", between=between, loss="sigmoid", temperature=0.3, bias=-1.5, balanced=True)
    model = model_of(small_encoder("two_tower"), task)
    learned = model.objectives[task.label]
    pairs = [(dot(queries[query], items[POSITIVE[query]]), True) for query, _ in rows]
    pairs += [(dot(queries[query], items[item]), False) for query, negatives in rows for item in negatives]
    scale, bias = learned.log_scale.exp().item(), learned.bias.item()
    assert (scale, bias) != (1 / 0.3, -1.5), "the case must show that they are read"
    half = [
        [math.log1p(math.exp(-sign * (scale * score + bias))) for score, right in pairs if right is wanted]
        for wanted, sign in ((True, 1), (False, -1))
    ]
    expected = sum(sum(losses) / len(losses) for losses in half) / 2
    assert learned(passes_of(model, batch)).total.item() == pytest.approx(expected, rel=1e-5)
    every = model_of(small_encoder("two_tower"), task.model_copy(update={"balanced": False})).objectives[task.label]
    alike = sum(sum(losses) for losses in half) / len(half[0])  # every pair alike, over the queries
    assert every(passes_of(model, batch)).total.item() == pytest.approx(alike, rel=1e-5)


def test_a_learned_temperature_divides_and_stays_in_its_bounds():
    task = objective("contrast", learn_temperature=True, temperature=0.2)
    fixed = objective("contrast", temperature=0.2)
    model = model_of(small_encoder("two_tower"), task)
    learned = model.objectives[task.label]
    for log_scale, temperature in ((math.log(1 / 0.2), 0.2), (20.0, 0.01), (-20.0, 0.5)):
        with torch.no_grad():
            learned.log_scale.fill_(log_scale)
        plain = model_of(small_encoder("two_tower"), fixed.model_copy(update={"temperature": temperature}))
        expected = plain.objectives[fixed.label](passes_of(plain, everything())).total
        assert learned(passes_of(model, everything())).total.item() == pytest.approx(expected.item(), rel=1e-5)
    learned.log_scale.data.fill_(math.log(1 / 0.009))  # beyond its bound it feels the pull back
    learned(passes_of(model, everything())).total.backward()
    assert learned.log_scale.grad.abs().item() > 0
    with pytest.raises(ConfigError, match=r"temperature 0.7 cannot be learned from: it stays between 0.01 and 0.5"):
        objective("contrast", learn_temperature=True, temperature=0.7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["query", "title"])
def test_masked_words_are_guessed_from_their_own_states(kind: str, of: str):
    """At the tower, written out word by word."""
    batch = everything()
    task = objective("masked_words", of=of)
    model = model_of(small_encoder(kind), task)
    head, encoder = model.objectives[task.label], model.encoder
    output = head(passes_of(model, batch))
    words = batch.masked_queries if of == "query" else batch.masked_titles
    reading = (
        encoder.read_queries(words.tokens)
        if of == "query"
        else encoder.read_items(batch.items._replace(title_tokens=words.tokens, hidden=batch.hidden_patches.chosen))
    )
    first = 0 if of == "query" else reading.places.title.start - 1
    losses, right = [], []
    for text, place in words.chosen.nonzero().tolist():
        state = head.transform(reading.tokens.states[text, first + place])
        logits = encoder.text.words.weight @ state + head.bias
        truth = int(words.truth[text, place])
        losses.append(-logits.log_softmax(dim=0)[truth].item())
        right.append(int(logits.argmax()) == truth)
    assert len(losses) == words.total > 3
    assert output.total.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert output.parts["accuracy"].item() == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_patches_are_guessed_from_their_own_states(kind: str):
    batch = everything()
    task = objective("masked_patches")
    model = model_of(small_encoder(kind), task)
    head = model.objectives[task.label]
    shown = batch.items._replace(title_tokens=batch.masked_titles.tokens, hidden=batch.hidden_patches.chosen)
    reading = model.encoder.read_items(shown)
    targets = patch_histograms(batch.items.pixels)
    losses = []
    for item, patch in batch.hidden_patches.chosen.nonzero().tolist():
        guess = head.head(reading.tokens.states[item, reading.places.patches.start + patch]).log_softmax(dim=0)
        pairs = zip(targets[item, patch].tolist(), guess.tolist(), strict=True)
        losses.append(sum(wanted * (math.log(wanted) - guessed) for wanted, guessed in pairs if wanted > 0))
    assert len(losses) == 2 * sum(HAS_PHOTO)
    output = head(passes_of(model, batch))
    assert output.total.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize(("kind", "single_stream"), [*((kind, False) for kind in KINDS), ("two_tower", True)])
@pytest.mark.parametrize("what", ["query", "title", "patches"])
def test_what_is_masked_may_be_guessed_beside_the_other_side(kind: str, single_stream: bool, what: str):
    """One query with its item at a time; an item with two queries counts twice."""
    batch = everything()
    task = (
        objective("masked_patches", at="cross") if what == "patches" else objective("masked_words", of=what, at="cross")
    )
    model = model_of(small_encoder(kind), task, single_stream=single_stream)
    head, encoder = model.objectives[task.label], model.encoder
    shown = batch.items._replace(title_tokens=batch.masked_titles.tokens, hidden=batch.hidden_patches.chosen)
    words = batch.masked_queries
    if single_stream:
        query, (item, places) = encoder.embed_queries(words.tokens), encoder.embed_items(shown)
    else:
        query, reading = encoder.read_queries(words.tokens).tokens, encoder.read_items(shown)
        item, places = reading.tokens, reading.places
    targets = patch_histograms(batch.items.pixels)
    losses = []
    for row, own in enumerate(POSITIVE):
        sides = [query.states[row : row + 1], item.states[own : own + 1]]
        if not single_stream:
            sides = [
                model.cross.norm(side) + kind_vector for side, kind_vector in zip(sides, model.cross.kinds, strict=True)
            ]
        keep = torch.cat([query.keep[row], item.keep[own]])[None]
        transformer = encoder.transformer if single_stream else model.cross.transformer
        states = transformer(torch.cat(sides, dim=1), keep=keep)[0]
        start = query.states.shape[1]
        if what == "patches":
            for patch in batch.hidden_patches.chosen[own].nonzero()[:, 0].tolist():
                guess = head.head(states[start + places.patches.start + patch]).log_softmax(dim=0)
                losses.append(functional.kl_div(guess, targets[own, patch], reduction="sum").item())
            continue
        chosen, truth, first = (
            (words.chosen[row], words.truth[row], 0)
            if what == "query"
            else (batch.masked_titles.chosen[own], batch.masked_titles.truth[own], start + places.title.start - 1)
        )
        for place in chosen.nonzero()[:, 0].tolist():
            logits = encoder.text.words.weight @ head.transform(states[first + place]) + head.bias
            losses.append(-logits.log_softmax(dim=0)[int(truth[place])].item())
    output = head(passes_of(model, batch))
    assert output.total.item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


class WatchedPasses(Passes):
    """Passes that remember which pairs were read side by side."""

    pairs: tuple[list[int], list[int], bool]

    def cross_pairs(self, queries: Tensor, items: Tensor, *, untitled: bool = False, read: int | None = None) -> Tokens:
        self.pairs = queries.tolist(), items.tolist(), untitled
        return super().cross_pairs(queries, items, untitled=untitled, read=read)


def pairs_told(tree: dict[str, Any], batch: MultitaskBatch, *, kind: str = "two_tower") -> list[tuple[int, int, bool]]:
    """Which pairs an objective has the model read side by side: (query, item, whether it is told that they match)."""
    task = objective(**tree)
    model = model_of(small_encoder(kind), task)
    passes = WatchedPasses(batch, encoder=model.encoder, cross=model.cross, group=ALONE)
    output = model.objectives[task.label](passes)
    queries, items, untitled = passes.pairs
    assert untitled == (tree["pair"] == "query-photo")
    told = [item == POSITIVE[query] for query, item in zip(queries, items, strict=True)]
    states = passes.cross_pairs(torch.tensor(queries), torch.tensor(items), untitled=untitled).states[:, 0]
    logits = model.objectives[task.label].head(states)
    expected = functional.cross_entropy(logits, torch.tensor(told).long())
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-5)
    return list(zip(queries, items, told, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", ["query-item", "query-photo"])
def test_the_negative_is_the_item_with_the_highest_score(kind: str, pair: str):
    batch = everything()
    found = vectors(kind, batch)
    told = pairs_told({"kind": "matching", "pair": pair}, batch, kind=kind)
    expected = set()
    for query, own in enumerate(POSITIVE):
        candidates = [item for item in range(NUM_ITEMS) if item != own and not batch.known[query, item]]
        if pair == "query-photo":
            if not HAS_PHOTO[own]:
                continue
            candidates = [item for item in candidates if HAS_PHOTO[item] and not same_photo(own, item)]
        best = max(candidates, key=lambda item: dot(found["query"][query], found["item"][item]), default=None)
        expected |= {(query, own, True)} | ({(query, best, False)} if best is not None else set())
    assert set(told) == expected
    assert len(told) == len(expected)


@pytest.mark.parametrize("settings", [{"negative": "random"}, {"negative": "hardest"}, {"negative": "sampled"}])
def test_negatives_are_random_while_warming_up(settings: dict[str, Any]):
    warming = everything(step=99)
    for row in (1, 5):
        warming.known[row] = True  # nothing to be told from
    seen: set[tuple[int, int]] = set()
    allowed = {
        (query, item)
        for query in range(NUM_QUERIES)
        for item in range(NUM_ITEMS)
        if not warming.known[query, item] and item != POSITIVE[query]
    }
    for seed in range(60):
        torch.manual_seed(seed)
        told = pairs_told({"kind": "matching", "pair": "query-item", **settings}, warming)
        assert len(told) == 2 * NUM_QUERIES - 2
        negatives = {(query, item) for query, item, right in told if not right}
        assert negatives <= allowed
        seen |= negatives
    assert seen == allowed  # each of them now and then


def test_sampled_negatives_are_drawn_by_the_softmax_of_scores():
    batch = everything()
    found = vectors("two_tower", batch)
    tree = {"kind": "matching", "pair": "query-item", "negative": "sampled", "temperature": 0.5}
    counts = torch.zeros(NUM_QUERIES, NUM_ITEMS)
    draws = 400
    for seed in range(draws):
        torch.manual_seed(seed)
        for query, item, right in pairs_told(tree, batch):
            counts[query, item] += not right
    for query, own in enumerate(POSITIVE):
        weights = [
            0.0
            if item == own or batch.known[query, item]
            else math.exp(dot(found["query"][query], found["item"][item]) / 0.5)
            for item in range(NUM_ITEMS)
        ]
        for item, weight in enumerate(weights):
            share = weight / sum(weights)
            noise = 4.5 * math.sqrt(share * (1 - share) / draws)
            assert abs(float(counts[query, item]) / draws - share) <= noise


def test_few_queries_of_a_batch_are_matched_from_all_over_it():
    """The items of a batch are in order, so that the first queries are those of the first items."""
    told = pairs_told({"kind": "matching", "pair": "query-item", "max_queries": 4}, everything())
    asked = sorted(query for query, _, right in told if right)
    assert asked == [0, 2, 5, 8]
    assert sorted(query for query, _, right in told if not right) == asked
    more = pairs_told({"kind": "matching", "pair": "query-item", "max_queries": 99}, everything())
    assert sorted(query for query, _, right in more if right) == list(range(NUM_QUERIES))


@pytest.mark.parametrize("kind", KINDS)
def test_titles_are_matched_with_photos_of_other_titles(kind: str):
    """The next item's, unless its photo or its title is the same: then it is right as well."""
    batch = everything()
    task = objective("matching", pair="title-photo")
    model = model_of(small_encoder(kind), task)
    both = [item for item in range(NUM_ITEMS) if HAS_TITLE[item] and HAS_PHOTO[item]]
    pairs = [(item, item) for item in both]
    pairs += [
        (item, other)
        for item, other in zip(both, [both[-1], *both[:-1]], strict=True)
        if not same_title(item, other) and not same_photo(item, other)
    ]
    assert len(both) < len(pairs) < 2 * len(both), "the case must have some that are right as well"
    titles, images = (torch.tensor(side) for side in zip(*pairs, strict=True))
    there = torch.ones(len(pairs), dtype=torch.bool)
    items = batch.items._replace(
        title_tokens=batch.items.title_tokens[titles],
        pixels=batch.items.pixels[images],
        has_title=there,
        has_photo=there,
    )
    logits = model.objectives[task.label].head(model.encoder.read_items(items).tokens.states[:, 0])
    expected = functional.cross_entropy(logits, (titles == images).long())
    output = model.objectives[task.label](passes_of(model, batch))
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_photo_views_find_the_items_they_show():
    batch, temperature = everything(), 0.4
    views = batch.photo_views
    encoder = small_encoder("two_tower")
    asked = encoder.encode_items(views.items).tolist()
    items = encoder.encode_items(batch.items).tolist()
    rows = [
        (
            dot(asked[row], items[own]) / temperature,
            [dot(asked[row], items[j]) / temperature for j in range(NUM_ITEMS) if not same_photo(own, j)],
        )
        for row, own in enumerate(views.positive.tolist())
    ]
    output = run("two_tower", {"kind": "photo_view", "temperature": temperature}, batch)
    assert output.total.item() == pytest.approx(mean_of_softmax(rows), rel=1e-5)


NO_TITLES = {"has_title": torch.zeros(NUM_ITEMS, dtype=torch.bool)}
NO_PHOTOS = {"has_photo": torch.zeros(NUM_ITEMS, dtype=torch.bool)}


def without(side: dict[str, Tensor]) -> MultitaskBatch:
    """A batch in which nobody has a title, or nobody a photo."""
    batch = everything(**side)
    items = batch.items._replace(**side)
    if side is NO_TITLES:
        tokens = torch.zeros(NUM_ITEMS, 1, dtype=torch.int32)
        return batch._replace(items=items._replace(title_tokens=tokens), masked_titles=masked(tokens, seed=0))
    nothing = HiddenPatches(torch.zeros(NUM_ITEMS, 4, dtype=torch.bool), 0)
    return batch._replace(items=items, hidden_patches=nothing, photo_views=None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tree", "side"),
    [
        ({"kind": "contrast", "between": "query-title"}, NO_TITLES),
        ({"kind": "contrast", "between": "title-photo", "symmetric": True}, NO_TITLES),
        ({"kind": "masked_words", "of": "title"}, NO_TITLES),
        ({"kind": "masked_words", "of": "title", "at": "cross"}, NO_TITLES),
        ({"kind": "matching", "pair": "title-photo"}, NO_TITLES),
        ({"kind": "contrast", "between": "query-photo", "symmetric": True}, NO_PHOTOS),
        ({"kind": "contrast", "between": "title-photo"}, NO_PHOTOS),
        ({"kind": "masked_patches"}, NO_PHOTOS),
        ({"kind": "masked_patches", "at": "cross"}, NO_PHOTOS),
        ({"kind": "matching", "pair": "query-photo"}, NO_PHOTOS),
        ({"kind": "matching", "pair": "title-photo"}, NO_PHOTOS),
        ({"kind": "photo_view"}, NO_PHOTOS),
    ],
)
def test_nothing_is_learned_from_nothing(kind: str, tree: dict[str, Any], side: dict[str, Tensor]):
    assert run(kind, tree, without(side)) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [NO_TITLES, NO_PHOTOS], ids=["no titles", "no photos"])
def test_what_is_left_is_learned_where_one_side_is_missing(kind: str, side: dict[str, Tensor]):
    for tree in ({"kind": "contrast"}, {"kind": "masked_words", "of": "query"}, {"kind": "matching"}):
        output = run(kind, tree, without(side))
        assert output is not None
        output.total.backward()
        assert torch.isfinite(output.total)


def test_one_item_alone_has_nothing_to_be_told_from():
    """A loss of 0 where nothing is negative, and no number that is none."""
    alone = everything(known=torch.ones(NUM_QUERIES, NUM_ITEMS, dtype=torch.bool))
    contrast = run("two_tower", {"kind": "contrast", "symmetric": True}, alone)
    assert contrast is not None
    told = run("two_tower", {"kind": "matching"}, alone)
    assert told is not None
    assert torch.isfinite(told.total)
    assert contrast.total.item() == pytest.approx(0.0, abs=1e-6)


NAMES = {
    "contrast": {"infonce", "accuracy"},
    "masked_words": {"masked_tokens", "accuracy"},
    "masked_words of queries": {"masked_tokens", "accuracy"},
    "masked_patches": {"masked_patches", "target_entropy"},
    "matching": {"matching", "accuracy"},
    "photo_view": {"infonce", "accuracy"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEFAULTS)
def test_every_objective_names_its_figures(kind: str, name: str):
    output = run(kind, DEFAULTS[name], everything())
    assert output is not None
    assert set(output.parts) == NAMES[name]
    assert all(part.ndim == 0 and not part.requires_grad for part in output.parts.values())
    assert output.total.requires_grad


def test_the_way_back_has_figures_of_its_own():
    output = run("two_tower", {"kind": "contrast", "symmetric": True}, everything())
    assert set(output.parts) == {"infonce", "accuracy", "infonce_back", "accuracy_back"}
    mean = (output.parts["infonce"] + output.parts["infonce_back"]) / 2
    assert output.total.item() == pytest.approx(mean.item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 0.1}, "margin has no effect with loss = 'softmax'"),
        ({"bias": -1.0}, "bias has no effect with loss = 'softmax'"),
        ({"scalar_rate": 0.1}, "scalar_rate has no effect where no temperature is learned"),
        (
            {"loss": "am-softmax", "learn_temperature": True},
            "learn_temperature has an effect with loss = 'softmax' only",
        ),
        ({"loss": "sigmoid", "symmetric": True}, "symmetric and log_q_weight have no effect with loss = 'sigmoid'"),
        ({"between": "title-photo", "log_q_weight": 1.0}, "query_log_q_weight have no effect between title and photo"),
        ({"query_log_q_weight": 1.0}, "query_log_q_weight has no effect where items do not ask"),
    ],
)
def test_options_of_contrast_without_effect_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        objective("contrast", **settings)


def test_options_of_matching_without_effect_are_refused():
    for settings in ({"negative": "random"}, {"max_queries": 3}):
        with pytest.raises(ConfigError, match="negative and max_queries have no effect between title and photo"):
            objective("matching", pair="title-photo", **settings)
    for settings in ({"pair": "title-photo"}, {"negative": "random"}):
        with pytest.raises(ConfigError, match="warmup_steps has no effect where negatives are not chosen by score"):
            objective("matching", warmup_steps=3, **settings)
    for settings in ({"pair": "title-photo"}, {"negative": "random"}, {"negative": "hardest"}):
        with pytest.raises(ConfigError, match="temperature has no effect without negative = 'sampled'"):
            objective("matching", temperature=0.5, **settings)


def test_a_photo_of_one_patch_leaves_nothing_to_guess_from():
    with pytest.raises(ConfigError, match="masked_patches: the encoder reads a photo as one patch"):
        model_of(small_encoder("two_tower", photo_px=16), objective("masked_patches"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny text and a tiny vision model."""
    pytest.importorskip("transformers")
    from tiny_models import bert, save, vit

    folder = tmp_path_factory.mktemp("models")
    return {"text_model": save(bert, folder / "bert"), "vision_model": save(vit, folder / "vit")}


def encoder_by(models: dict[str, Path], slot: str, *, modalities: str = "title+photo", **settings: Any) -> Encoder:
    tree = {
        "kind": "two_tower",
        "dim": 16,
        "heads": 2,
        "layers": 1,
        "vector_dim": 8,
        "photo_px": 24,
        "max_title_tokens": 12,
    }
    config = TwoTowerConfig.parse({**tree, "modalities": modalities, slot: {"name": str(models[slot]), **settings}})
    return config.build(vocab_size=VOCAB, models=open_models(config, places={slot: models[slot]}))


def test_a_model_of_whole_texts_has_no_words_to_guess(models: dict[str, Path]):
    pooled = encoder_by(models, "text_model", modalities="title", output="pooled").config
    with pytest.raises(
        ValueError, match=r"masked_title_words guesses each word .* 'pooled' keeps one vector of a text"
    ):
        objective("masked_words").check(pooled)
    told = model_of(encoder_by(models, "text_model", modalities="title"), objective("masked_words"))
    assert told.objectives["masked_title_words"].words.weight.shape == (VOCAB, 16)  # word vectors of its own


def test_one_patch_leaves_nothing_to_guess_from(models: dict[str, Path]):
    with pytest.raises(ConfigError, match="masked_patches: the encoder reads a photo as one patch"):
        model_of(encoder_by(models, "vision_model", output="pooled"), objective("masked_patches"))


def test_what_a_frozen_model_sees_is_the_target_live_or_kept(models: dict[str, Path]):
    encoder = encoder_by(models, "vision_model").eval()
    task = objective("masked_patches")
    model = model_of(encoder, task)
    pixels = photos(8, seed=2)[:, :24, :24].contiguous()
    seen = encoder.patches.see(pixels)
    hidden = choose_patches(np.array(HAS_PHOTO), num_patches=9, rate=0.25, rng=np.random.default_rng(0))
    chosen = torch.from_numpy(hidden)
    batch = everything(hidden_patches=HiddenPatches(chosen, int(chosen.sum())), photo_views=None)
    found = [
        model.objectives[task.label](passes_of(model, batch._replace(items=batch.items._replace(pixels=one)))).total
        for one in (pixels, seen)
    ]
    assert found[0].item() == pytest.approx(found[1].item(), rel=1e-5)
    shown = batch.items._replace(title_tokens=batch.masked_titles.tokens, pixels=seen, hidden=chosen)
    reading = encoder.read_items(shown)
    guesses = model.objectives[task.label].head(reading.tokens.states[:, reading.places.patches][chosen]).log_softmax(1)
    targets = seen.softmax(dim=-1)[chosen]
    expected = (targets * (targets.log() - guesses)).sum(dim=1).mean()
    assert found[1].item() == pytest.approx(expected.item(), rel=1e-4)


def test_hard_is_decided_by_whole_items_and_not_learned():
    batch = everything()
    model = model_of(small_encoder("two_tower"))
    passes = passes_of(model, batch)
    assert not passes.scores.requires_grad
    expected = model.encoder.encode_queries(batch.query_tokens) @ model.encoder.encode_items(batch.items).T
    assert torch.allclose(passes.scores, expected, atol=1e-5)
