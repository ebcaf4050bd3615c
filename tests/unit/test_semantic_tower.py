"""Semantic IDs as tokens, and the tasks that teach them, against loops and closed forms."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.losses.next_code import next_code
from triptych.nn.code_tokens import CodeSet, CodeTokens
from triptych.recall.code_tasks import CodeTasks, CodeTasksConfig
from triptych.recall.config import RecallTrainConfig
from triptych.recall.item_codes import ItemCodes
from triptych.recall.learned import CodeTargets, ItemFeatures, RequestFeatures, Sizes, Step
from triptych.recall.models.semantic_tower import SemanticTowerConfig
from triptych.recall.task import Given, RecallTask
from triptych.recipes.recall import RecallConfig

DIM, CONTENT, PAGES, HARD = 8, 6, 5, 3
SETS = ((2, 4), (3, 5))
TOTAL = 5


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_codes(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(num_codes, size=(*shape, levels)) for levels, num_codes in SETS]
    return torch.from_numpy(np.concatenate(parts, axis=-1))


def codebooks(code_dim: int = CONTENT) -> list[torch.Tensor]:
    return [3 * drawn(levels, num_codes, code_dim, seed=levels) for levels, num_codes in SETS]


def tower(seed: int = 0, **settings):
    config = SemanticTowerConfig.parse({"dim": DIM, "heads": 2, **settings})
    sizes = Sizes(1, 1, CONTENT, CONTENT, title_content_dim=CONTENT, code_sets=SETS if config.needs.codes else ())
    model = config.build(sizes, seed=seed)
    if config.needs.codes is not None:
        model.begin_with(codebooks())
    return model


def items(codes: torch.Tensor | None = None, *, seed: int = 1) -> ItemFeatures:
    codes = some_codes(PAGES) if codes is None else codes
    title, dense = drawn(len(codes), CONTENT, seed=seed), drawn(len(codes), CONTENT, seed=seed + 1)
    return ItemFeatures(torch.zeros(len(codes), dtype=torch.int64), dense, title_content=title, codes=codes)


def targets(**changes) -> CodeTargets:
    nothing = torch.zeros(PAGES, PAGES, dtype=torch.bool)
    found = CodeTargets(
        items=items(),
        code_set=torch.tensor([0, 1, 0, 1, 1]),
        own=torch.arange(PAGES),
        negatives=some_codes(PAGES, HARD, seed=3),
        same=torch.eye(PAGES, dtype=torch.bool),
        chosen=nothing,
        same_negatives=nothing[:, :HARD],
        chosen_negatives=nothing[:, :HARD],
    )
    return found._replace(**changes)


def step(model_targets: CodeTargets, *, epoch: int = 1) -> Step:
    asked = RequestFeatures(torch.zeros(PAGES, dtype=torch.int64), drawn(PAGES, CONTENT, seed=9))
    return Step(asked, items(seed=5), torch.zeros(0), epoch=epoch, targets=model_targets)


def test_tokens_begin_as_what_codes_stand_for_by_one_factor_a_set():
    tokens = CodeTokens(DIM, sets=[CodeSet(*one) for one in SETS])
    projection = drawn(DIM, CONTENT)
    tokens.begin_with(codebooks(), projections=[projection] * 2)
    codes = some_codes(7)
    codes[2, :2] = -1
    found, keep = tokens(codes)
    assert found.shape == (7, 2 + TOTAL, DIM)
    assert keep[2].tolist() == [False, True, False, False, True, True, True] and keep[[0, 1, 3]].all()
    start = 2
    for book, (levels, _), column in zip(codebooks(), SETS, (0, 2), strict=True):
        scale = (book @ projection.T).flatten(0, 1).norm(dim=1).mean()
        for row in (0, 1, 3, 4):
            for level in range(levels):
                expected = projection @ book[level, codes[row, column + level]] / scale
                torch.testing.assert_close(found[row, start + level], expected)
        start += levels
    with pytest.raises(ValueError, match="a codebook is"):
        tokens.begin_with(codebooks()[::-1], projections=[projection] * 2)


@pytest.mark.parametrize("content", ["sid", "dense", "both", "none"])
def test_an_item_begins_as_the_sum_of_what_it_is_read_from(content):
    model, given = tower(content=content), items()
    parts = model.title(given.title_content)
    if content in ("dense", "both"):
        parts = parts + model.dense(given.content)
    if content in ("sid", "both"):
        parts = parts + model.codes(given.codes)[0].sum(dim=1)
    expected = functional.normalize(functional.layer_norm(parts, (DIM,)), dim=-1)
    torch.testing.assert_close(model.encode_items(given), expected, atol=1e-5, rtol=1e-4)
    asked = given.title_content
    torch.testing.assert_close(model.title(asked), model.query(asked), msg="all maps begin as one")


def test_codebooks_of_another_length_keep_their_angles():
    """RQ-VAE's codes stand for what its encoder makes of vectors, not for these."""
    model = tower()
    model.begin_with(codebooks(4))
    (levels, num_codes), book = SETS[1], codebooks(4)[1].flatten(0, 1)
    tokens = model.codes.tokens.weight[-levels * num_codes :]
    torch.testing.assert_close(tokens @ tokens.T, book @ book.T / book.norm(dim=1).mean() ** 2, atol=1e-5, rtol=1e-4)
    random = tower(tokens_begin="random").codes.tokens.weight.detach()
    assert not random.equal(tower().codes.tokens.weight)
    torch.testing.assert_close(random, tower(tokens_begin="random").codes.tokens.weight.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("content", ["sid", "dense", "both", "none"])
def test_nothing_else_is_read(content):
    model = tower(content=content)
    for name, weight in model.named_parameters():  # past its beginning, as training leaves it
        weight.data += 0.3 * drawn(*weight.shape, seed=len(name))
    given = items()
    before = model.encode_items(given)
    reads = {"title_content": True, "codes": content in ("sid", "both"), "content": content in ("dense", "both")}
    other = items(some_codes(PAGES, seed=8), seed=20)
    for name, is_read in reads.items():
        after = model.encode_items(given._replace(**{name: getattr(other, name)}))
        assert (after != before).any(dim=1).all() == is_read
        assert (after == before).all() != is_read


def test_a_hidden_set_leaves_no_trace():
    model = tower()
    for name, weight in model.named_parameters():
        weight.data += 0.3 * drawn(*weight.shape, seed=len(name))
    given = items()
    hidden = given.codes.clone()
    hidden[:, 2:] = -1
    found = model.encode_items(given._replace(codes=hidden))
    # The tokens of the first set by hand, without those of the second.
    tokens, _ = model.codes(given.codes)
    states = torch.cat([model.title(given.title_content)[:, None], tokens[:, [0, 2, 3]]], dim=1)
    states = torch.cat([states.sum(dim=1, keepdim=True), states], dim=1)
    torch.testing.assert_close(found, functional.normalize(model.tower(states)[:, 0], dim=-1), atol=1e-5, rtol=1e-4)
    untitled = given.title_content.clone()
    untitled[1] = torch.nan
    assert model.encode_items(given._replace(title_content=untitled)).isfinite().all()


def test_saying_an_id_is_a_softmax_at_each_level():
    logits, codes = drawn(4, 3, 5), torch.tensor([[0, 1, 2], [4, 4, 4], [1, 0, 3], [2, 2, 2]])
    rows = range(4)
    expected = -sum(
        torch.log(logits[row, level].exp() / logits[row, level].exp().sum())[codes[row, level]]
        for row in rows
        for level in range(3)
    )
    found = next_code(logits, codes=codes)
    torch.testing.assert_close(found.total, expected / 4)
    torch.testing.assert_close(sum(found.parts.values()), expected / 4)
    halves = [next_code(logits[half], codes=codes[half], total=4).total for half in (slice(1), slice(1, 4))]
    torch.testing.assert_close(sum(halves), expected / 4)


def test_each_target_is_said_by_the_decoder_of_its_set():
    tasks = CodeTasks(CodeTasksConfig(), dim=DIM, heads=2, sets=[CodeSet(*one) for one in SETS])
    asked, given = drawn(PAGES, DIM), targets()
    expected = 0.0
    for page in range(PAGES):
        number = int(given.code_set[page])
        codes = given.items.codes[page, slice(2) if number == 0 else slice(2, 5)][None]
        logits = tasks.decoders[number](tasks.memory(asked[page][None]), codes=codes)
        expected = expected + next_code(logits, codes=codes).total / PAGES
    torch.testing.assert_close(tasks.say(asked, given).total, expected)
    halves = [
        tasks.say(asked[own], given._replace(own=own)).total for own in (torch.tensor([0, 1]), torch.tensor([2, 3, 4]))
    ]
    torch.testing.assert_close(sum(halves), expected)


@pytest.mark.parametrize("form", ["contrast", "bce"])
def test_telling_ids_apart_is_what_a_loop_says(form):
    tasks = CodeTasks(CodeTasksConfig(form=form), dim=DIM, heads=2, sets=[CodeSet(*one) for one in SETS])
    asked, ids = (functional.normalize(drawn(PAGES, DIM, seed=seed), dim=-1) for seed in (1, 2))
    negatives = functional.normalize(drawn(PAGES, HARD, DIM, seed=3), dim=-1)
    masked = torch.eye(PAGES, dtype=torch.bool)
    masked[0, 1] = masked[2, 4] = True
    masked_negatives = torch.zeros(PAGES, HARD, dtype=torch.bool)
    masked_negatives[3, 1] = True
    expected = 0.0
    for page in range(PAGES):
        hard = [negatives[page, place] for place in range(HARD) if not masked_negatives[page, place]]
        if form == "contrast":
            against = [ids[other] for other in range(PAGES) if other != page and not masked[page, other]] + hard
            scores = torch.stack([asked[page] @ one for one in [ids[page], *against]]) / 0.1
            expected = expected - functional.log_softmax(scores, dim=0)[0] / PAGES
            continue
        following = (page + 1) % PAGES
        pairs = [ids[page], *([] if masked[page, following] else [ids[following]]), *hard]
        for place, one in enumerate(pairs):
            no, yes = tasks.match(torch.cat([asked[page], one, asked[page] * one]))
            chance = torch.sigmoid(yes - no)
            expected = expected - torch.log(chance if place == 0 else 1 - chance) / (PAGES * (2 + HARD))
    settings = {"masked": masked, "masked_negatives": masked_negatives, "temperature": 0.1}
    found = tasks.tell(asked, targets(), ids=ids, negatives=negatives, **settings).total
    torch.testing.assert_close(found, expected)
    halves = 0.0
    for own in (torch.tensor([0, 3]), torch.tensor([1, 2, 4])):  # as two processes share the pages
        settings |= {"masked": masked[own], "masked_negatives": masked_negatives[own]}
        halves = halves + tasks.tell(asked[own], targets(own=own), ids=ids, negatives=negatives[own], **settings).total
    torch.testing.assert_close(halves, expected)


def test_what_says_an_id_never_reads_one_of_its_codes():
    """Other codes of the targets change what is to be said, and nothing of what is read to say it."""
    model = tower(tasks={"discriminative_query": 0, "discriminative_features": 0})
    given = targets()
    other = given._replace(items=given.items._replace(codes=some_codes(PAGES, seed=11)))
    seen: list[torch.Tensor] = []
    model.tasks.norm.register_forward_hook(lambda _, __, memory: seen.append(memory))
    terms = [model.encode(step(one)).terms for one in (given, other)]
    assert len(seen) == 4
    torch.testing.assert_close(seen[:2], seen[2:], rtol=0, atol=0)
    assert all((a.loss.total != b.loss.total) for a, b in zip(*terms, strict=True))
    sum(term.loss.total for term in terms[0]).backward()
    assert model.codes.tokens.weight.grad is None, "no token has a share in it"
    assert model.query.weight.grad.abs().sum() > 0 and model.title.weight.grad.abs().sum() > 0


def test_ids_that_a_query_has_chosen_are_no_negatives_for_it_and_are_for_a_title():
    model = tower(tasks={"generative_query": 0, "generative_features": 0}, temperature=0.5)
    chosen = torch.zeros(PAGES, PAGES, dtype=torch.bool)
    chosen[0, 3] = True

    def losses(given: CodeTargets) -> tuple[float, ...]:
        return tuple(term.loss.total.item() for term in model.encode(step(given)).terms)

    plain, known, same = losses(targets()), losses(targets(chosen=chosen)), losses(targets(same=chosen))
    assert known[0] < plain[0] and known[1] == plain[1]
    assert same[0] < plain[0] and same[1] < plain[1]


def test_the_first_epochs_train_tokens_tower_and_heads_alone():
    """Weights without a gradient are left as they are by the optimiser, bit for bit."""
    model = tower(content="both", tasks={})
    encoded = model.encode(step(targets(), epoch=0))
    assert not encoded.contrasted
    names = {name for term in encoded.terms for name in term.loss.parts}
    assert names == {"generative_features", "discriminative_features", "discriminative_features_accuracy"}
    sum(term.weight * term.loss.total for term in encoded.terms).backward()
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {"codes", "tower", "tasks"}
    later = model.encode(step(targets(), epoch=1))
    assert later.contrasted and len(later.terms) == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"content": "dense", "tasks": {}}, "tasks has no effect with content = 'dense'"),
        ({"content": "none", "group_dropout_rate": 0.1}, "group_dropout_rate has no effect with content = 'none'"),
        ({"content": "tokens"}, "content"),
        ({"dim": 10}, r"dim \(10\) must be a multiple of heads"),
        (
            {"tasks": {"generative_query": 0, "generative_features": 0, "decoder_layers": 3}},
            "decoder_layers has no effect with these weights",
        ),
        (
            {"tasks": {"discriminative_query": 0, "discriminative_features": 0, "form": "bce"}},
            "form has no effect with these weights",
        ),
        ({"tasks": {"generative_features": 0, "discriminative_features": 0}}, "first_epochs are of tasks"),
        ({"tasks": {"first_epochs": 2}}, "epochs is 2, and the first 2 are of the model's own tasks"),
    ],
)
def test_what_does_not_go_together_is_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        RecallTrainConfig.parse({"model": {"kind": "semantic_tower", **model}})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"recall": {"model": {"kind": "semantic_tower"}}}, "reads semantic IDs: set semantic_ids"),
        (
            {"recall": {"model": {"kind": "semantic_tower", "content": "dense"}}, "semantic_ids": {}},
            "semantic_ids have no effect with this recall.model.content",
        ),
    ],
)
def test_a_row_has_the_ids_that_its_model_reads(tree, message):
    with pytest.raises(ConfigError, match=message):
        RecallConfig.parse({"pretrain": {"kind": "contrastive"}, **tree})


def test_further_sets_are_said_half_of_the_time():
    from triptych.recall.code_targets import CodeTargetSource

    source = SimpleNamespace(
        _num_sets=3, _codes=np.zeros((9, 3), np.int64), _first_of_set=np.arange(3)
    )  # all that the draw reads
    rows = np.zeros(4000, np.int64)
    drawn_sets = CodeTargetSource._sets_to_say(source, rows, rng=np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn_sets) / 4000, [0.5, 0.25, 0.25], atol=0.03)
    source._codes[:, 2] = -1
    assert CodeTargetSource._sets_to_say(source, rows, rng=np.random.default_rng(0)).max() == 1


def test_what_training_does_not_know_is_never_set_against_a_choice(small_shop):
    """Some items came later; their IDs and vectors are nearest to those of items that training knows."""
    catalogue, split = small_shop
    known, row = split.items_known(catalogue), np.arange(catalogue.num_items)
    assert 0 < known.sum() < len(row)
    content = np.eye(10, dtype=np.float32)[row // 4]
    queries = np.random.default_rng(0).standard_normal((catalogue.num_queries, 10)).astype(np.float32)
    codes = ItemCodes(np.stack([row // 4, row % 4], axis=1), np.ones((2, 10, 10), np.float32))
    given = Given(catalogue, split, queries, content, 0, title_content=content, item_codes=(codes,))
    model = {"kind": "semantic_tower", "dim": 16, "heads": 2, "tasks": {}}
    tree = {"batch_pages": 15, "num_negatives": 40, "mined_negatives": 4, "mined_from": 1, "mined_to": 40}
    task = RecallTask(RecallTrainConfig.parse({**tree, "device": "cpu", "model": model}), given)
    for index in range(5):
        relatives = task.batch(index).targets.negatives[:, :2].numpy()
        assert known[relatives[:, :, 0] * 4 + relatives[:, :, 1]].all()
    mined, there = task._mined.draw(task._pages.query_row, number=50, rng=np.random.default_rng(0))
    assert known[mined[there]].all()
