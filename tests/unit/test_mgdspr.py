"""MGDSPR: each block against a plain loop, that padding changes nothing, what learns, what comes back from disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.nn.attention import at_least_one, key_bias
from triptych.nn.bags import TableBags, bags_of
from triptych.nn.fusion import Fusion
from triptych.nn.id_table import IdTable
from triptych.nn.recent_choices import RecentChoices
from triptych.nn.zero_attention import zero_attention
from triptych.recall.learned import Behaviour, ItemFeatures, PastQueries, QueryUnits, RequestFeatures, Sizes, load_model
from triptych.recall.models.mgdspr import Mgdspr, MgdsprConfig
from triptych.training.distributed import ALONE

DIM, CONTENT = 8, 5
SMALL = {"dim": DIM, "heads": 2, "id_init_std": 0.5}
SIZES = Sizes(11, 13, CONTENT, CONTENT, unit_rows=(9, 12, 15), attribute_rows=(4, 6))
REQUESTS = 4
"""The last one has neither words nor a history, two ask the same, and the second of four queries is asked by none."""
LENGTHS = {"real_time": [3, 1, 5, 0], "short_term": [2, 0, 4, 0], "past": [2, 1, 0, 0], "words": [2, 4, 1, 0]}
LONG_TERM = [[[0, 3], [], [2]], [[], [], []], [[1, 1, 4], [5], [0, 2]], [[], [], []]]


def model(**settings) -> Mgdspr:
    found = MgdsprConfig.parse({**SMALL, **settings}).build(SIZES, seed=0)
    with torch.no_grad():
        for name, weight in found.named_parameters():  # biases begin at 0 in attention, and would hide a fault
            if name.endswith("bias"):
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    return found.eval()


def padded(lengths: list[int], *, below: int, seed: int, wider: int = 0) -> torch.Tensor:
    drawn = torch.randint(0, below, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    drawn = drawn.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], -1)
    return functional.pad(drawn, (0, wider), value=-1)


def table_bags(lengths: list[int], *, below: int, seed: int) -> TableBags:
    return TableBags.of(padded(lengths, below=below, seed=seed).numpy())


def requests(*, wider: int = 0) -> RequestFeatures:
    generator = torch.Generator().manual_seed(4)
    units = QueryUnits(
        table_bags([5, 3, 4, 0], below=9, seed=0),
        table_bags([4, 2, 3, 0], below=12, seed=1),
        padded(LENGTHS["words"], below=15, seed=2, wider=wider),
        torch.tensor([2, 0, 2, 3]),
    )
    past = PastQueries(table_bags([2, 3], below=15, seed=3), padded(LENGTHS["past"], below=2, seed=5, wider=wider))
    attributes = torch.tensor([[1, 2], [3, -1], [-1, -1], [0, 5], [1, 2], [2, 4]])
    flat = [kind for user in LONG_TERM for kind in user]
    behaviour = Behaviour(
        ItemFeatures(torch.tensor([2, 0, 5, 12, 7, 9]), None, attributes=attributes),
        padded(LENGTHS["real_time"], below=6, seed=6, wider=wider),
        padded(LENGTHS["short_term"], below=6, seed=7, wider=wider),
        bags_of(np.concatenate(flat).astype(int), sizes=[len(kind) for kind in flat]),
    )
    content = torch.randn(REQUESTS, CONTENT, generator=generator)
    return RequestFeatures(torch.tensor([1, 4, 0, 0]), content, units, past, behaviour)


def items() -> ItemFeatures:
    content = torch.randn(3, CONTENT, generator=torch.Generator().manual_seed(8))
    return ItemFeatures(torch.tensor([4, 0, 4]), content, table_bags([2, 0, 3], below=15, seed=9))


def query_rows(mgdspr: Mgdspr, given: RequestFeatures) -> torch.Tensor:
    return mgdspr._query(given)


def in_bag(bags: TableBags, row: int) -> list[int]:
    ends = [*bags.bags.starts.tolist()[1:], len(bags.bags.places)]
    return bags.rows[bags.bags.places[bags.bags.starts[row] : ends[row]]].tolist()


def mean(table: IdTable, rows: list[int]) -> torch.Tensor:
    return table.weight[rows].mean(dim=0) if rows else torch.zeros(DIM)


def attended(query: torch.Tensor, rows: list[torch.Tensor]) -> torch.Tensor:
    """softmax(Q Rᵀ) R, a query row at a time, with a first row of zeros."""
    rows = [torch.zeros(DIM), *rows]
    found = []
    for one in query:
        weights = torch.softmax(torch.stack([one @ row for row in rows]), dim=0)
        found.append(sum(weight * row for weight, row in zip(weights, rows, strict=True)))
    return torch.stack(found)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_the_grains_of_a_query_are_those_of_a_loop():
    mgdspr, given = model(), requests()
    grains = mgdspr.grains
    found = query_rows(mgdspr, given)
    assert found.shape == (REQUESTS, 6, DIM)
    for row in range(REQUESTS):
        query = int(given.units.of[row])
        words = [word for word in given.units.words[query].tolist() if word >= 0]
        q1 = mean(grains.characters, in_bag(given.units.characters, query))
        q2 = mean(grains.pairs, in_bag(given.units.pairs, query))
        qs = mean(grains.words, words)
        qss = grains.context(grains.words.weight[words][None])[0].mean(dim=0) if words else torch.zeros(DIM)
        past = [mean(grains.words, in_bag(given.past.words, place)) for place in given.past.asked[row] if place >= 0]
        qh = torch.zeros(DIM)
        if past:
            weights = torch.softmax(torch.stack([qs @ one for one in past]), dim=0)
            qh = sum(weight * one for weight, one in zip(weights, past, strict=True))
        expected = torch.stack([q1, q2, qs, qss, qh, q1 + q2 + qs + qss + qh])
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def step(mgdspr: Mgdspr, given: RequestFeatures, place: int) -> torch.Tensor:
    held = given.behaviour.items
    sides = [
        table.weight[row] if row >= 0 else torch.zeros(DIM)
        for table, row in zip(mgdspr.attributes, held.attributes[place].tolist(), strict=True)
    ]
    return mgdspr.step(torch.cat([mgdspr.items.ids.weight[held.item_ids[place]], *sides]))


@pytest.mark.parametrize("term", ["real_time", "short_term"])
def test_recent_choices_are_those_of_a_loop(term):
    """One request at a time without padding; two LSTMs with a residual before real-time, none before short-term."""
    mgdspr, given = model(), requests()
    query = query_rows(mgdspr, given)
    block, places = getattr(mgdspr, term), getattr(given.behaviour, term)
    found = mgdspr._history(query, given.behaviour)[["real_time", "short_term"].index(term)]
    assert len(block.lstms) == (2 if term == "real_time" else 0)
    for row in range(REQUESTS):
        own = [step(mgdspr, given, place) for place in places[row].tolist() if place >= 0]
        if not own:
            assert torch.equal(found[row], torch.zeros(6, DIM))
            continue
        states = torch.stack(own)[None]
        if block.lstms:
            first = block.lstms[0](states)[0]
            states = first + block.lstms[1](first)[0]
        states = block.context(states)[0]
        torch.testing.assert_close(found[row], attended(query[row], list(states)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[3, 0, 5, 0, 1], [2, 5, 1, 1, 4], [0, 0, 0, 0, 0]])
def test_leaving_out_who_has_no_choices_changes_neither_values_nor_gradients_nor_what_is_drawn(lengths):
    """Against all of them padded, in training, where the LSTMs drop out by the same luck."""
    block = RecentChoices(DIM, heads=2, lstm_layers=2, dropout=0.5).train()
    generator = torch.Generator().manual_seed(3)
    queries, choices = torch.randn(5, 3, DIM, generator=generator), torch.randn(6, DIM, generator=generator)
    places = functional.pad(padded(lengths, below=6, seed=6), (0, 6 - max(lengths)), value=-1)

    def in_full(queries: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
        keep, steps = places >= 0, choices[places.clamp(min=0)]
        steps = block.lstms[0](steps)[0]
        steps = steps + block.lstms[1](block.dropout(steps))[0]
        return zero_attention(queries, block.context(steps, bias=key_bias(at_least_one(keep))), keep=keep)

    found = []
    for way in (in_full, lambda queries, choices: block(queries, choices, places=places)):
        torch.manual_seed(1)
        with torch.enable_grad():
            asked, chosen = queries.clone().requires_grad_(), choices.clone().requires_grad_()
            taken = way(asked, chosen)
            weights = list(block.parameters())
            gradients = torch.autograd.grad(taken.square().sum(), [asked, chosen, *weights])
        found.append([taken, *gradients])
    for expected, other in zip(*found, strict=True):
        torch.testing.assert_close(other, expected, atol=1e-6, rtol=1e-5)
    assert (found[0][0].abs().sum(dim=(1, 2)) > 0).tolist() == [length > 0 for length in lengths]


def test_the_long_term_is_that_of_a_loop():
    mgdspr, given = model(), requests()
    query, held = query_rows(mgdspr, given), given.behaviour.items
    found = mgdspr._history(query, given.behaviour)[2]
    tables = [mgdspr.items.ids, *mgdspr.attributes]
    columns = [held.item_ids, *held.attributes.T]
    for row in range(REQUESTS):
        expected = torch.zeros(6, DIM)
        for table, column in zip(tables, columns, strict=True):
            means = []
            for kind in LONG_TERM[row]:
                known = [int(column[place]) for place in kind if column[place] >= 0]
                if known:
                    means.append(mean(table, known))
            expected = expected + attended(query[row], means)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_a_history_of_padding_is_rows_of_zeros():
    """Check 7 of the Taobao reconstruction, section 9."""
    mgdspr, given = model(), requests()
    blocks = mgdspr._history(query_rows(mgdspr, given), given.behaviour)
    assert len(blocks) == 3
    for block in blocks:
        assert torch.equal(block[-1], torch.zeros(6, DIM))
        assert block[0].abs().sum() > 0


@pytest.mark.parametrize("settings", [{}, {"fusion": "mm+idfc", "score": "cosine", "temperature": 0.05}])
def test_vectors_are_their_formulas(settings):
    """Self-attention over [CLS; Q; H; H; H] and, with content, a row of it that is added to the outcome as well."""
    mgdspr, given = model(**settings), requests()
    query = query_rows(mgdspr, given)
    rows = [mgdspr.cls.expand(REQUESTS, 1, DIM), query, *mgdspr._history(query, given.behaviour)]
    added, scored = torch.zeros(REQUESTS, DIM), functional.normalize if settings else (lambda same, dim: same)
    if settings:
        added = mgdspr.content.unnormalized(given.query_ids, given.query_content)
        rows.append(added[:, None])
    expected = scored(mgdspr.fuse(torch.cat(rows, dim=1))[:, 0] + added, dim=1)
    torch.testing.assert_close(mgdspr.encode_requests(given), expected)
    for row in range(3):
        words = mgdspr.title(mean(mgdspr.grains.words, in_bag(items().title_words, row))).tanh()
        own = mgdspr.items.ids.weight[items().item_ids[row]]
        if settings:
            own = mgdspr.items.reduce(items().content[row]) + mgdspr.items.bend(own)
        torch.testing.assert_close(mgdspr.encode_items(items())[row], scored(own + words, dim=0))


@pytest.mark.parametrize("fusion", [None, Fusion.IDFC])
def test_padding_changes_nothing(fusion):
    mgdspr = model(fusion=fusion)
    together = mgdspr.encode_requests(requests())
    assert together.isfinite().all()
    torch.testing.assert_close(mgdspr.encode_requests(requests(wider=6)), together)


@pytest.mark.parametrize("fusion", [None, Fusion.IDFC])
def test_a_step_of_training_reaches_every_table_and_every_weight(fusion):
    mgdspr = model(fusion=fusion).train()
    with torch.enable_grad():
        users, goods = mgdspr.encode_requests(requests()), mgdspr.encode_items(items())
        functional.cross_entropy(users @ goods.T, torch.tensor([0, 1, 2, 0])).backward()
    for name, part in mgdspr.named_modules():
        if isinstance(part, IdTable):
            assert part.sum_row_gradients(ALONE) > 0, name
    tables = {f"{name}.weight" for name, part in mgdspr.named_modules() if isinstance(part, IdTable)}
    idle = {
        name
        for name, weight in mgdspr.named_parameters()
        if name not in tables and (weight.grad is None or not weight.grad.abs().sum() > 0)
    }
    assert not idle


def test_blocks_can_be_left_out():
    given = requests()
    alone = model(past_queries=0, real_time=0, short_term=0, long_term=0, query_layers=0)
    assert not alone.config.needs.history
    assert query_rows(alone, given).shape == (REQUESTS, 4, DIM)
    found = alone.encode_requests(given._replace(past=None, behaviour=None))
    assert found.shape == (REQUESTS, DIM)
    assert len(model(short_term=0)._history(query_rows(model(), given), given.behaviour)) == 2


@pytest.mark.parametrize("settings", [{}, {"fusion": "mm+idfc"}, {"real_time": 0, "past_queries": 0}])
def test_comes_back_from_disk_the_same(tmp_path, settings):
    mgdspr, given = model(**settings), requests()
    mgdspr.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == mgdspr.config
    assert torch.equal(loaded.encode_requests(given), mgdspr.encode_requests(given))
    assert torch.equal(loaded.encode_items(items()), mgdspr.encode_items(items()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 20}, r"dim 20 must be a multiple of heads \(8\)"),
        ({"fusion": "mm"}, "fusion must be one of mm.id_sum, mm.idfc, mm.idfc_cat, or none, not 'mm'"),
        ({"score": "cosine"}, "temperature 2 is too high for cosines: set temperature = 0.05"),
        ({"real_time": 0, "lstm_dropout": 0.1}, "lstm_dropout has no effect with real_time = 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MgdsprConfig.parse(settings)
