"""Models of users and histories against their formulas, worked out another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from triptych.data.pages import Pages, RunSampler
from triptych.foundation.errors import ConfigError
from triptych.nn.bags import bags_of
from triptych.recall.behaviour import latest_of
from triptych.recall.config import RecallTrainConfig
from triptych.recall.features import cut
from triptych.recall.learned import Behaviour, ItemFeatures, RequestFeatures, Sizes, Step, load_model
from triptych.recall.models.lightgcn import LightgcnConfig
from triptych.recall.models.matrix_factorization import MatrixFactorizationConfig
from triptych.recall.models.sasrec import SasrecConfig
from triptych.recall.models.vbpr import VbprConfig
from triptych.recall.task import Given, RecallTask

SIZES = Sizes(1, 9, 0, 5, num_users=6, num_edges=7)
USERS, ITEMS = torch.tensor([3, 0, 5]), torch.tensor([1, 4, 0, 8])
CONTENT = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def users_of(ids=USERS):
    return RequestFeatures(torch.zeros(len(ids), dtype=torch.int64), None, user_ids=ids)


def histories_of(*rows: list[int], items=ITEMS, content=None):
    longest = max(map(len, rows))
    places = torch.tensor([row + [-1] * (longest - len(row)) for row in rows])
    none = bags_of(np.empty(0, int), sizes=[0] * 3 * len(rows))
    behaviour = Behaviour(ItemFeatures(items, content), places, places[:, :0], none)
    return RequestFeatures(torch.zeros(len(rows), dtype=torch.int64), None, behaviour=behaviour)


def test_matrix_factorisation_is_an_inner_product_and_a_bias():
    model = MatrixFactorizationConfig(dim=4).build(SIZES, seed=0).eval()
    found = model.encode_requests(users_of()) @ model.encode_items(ItemFeatures(ITEMS, None)).T
    users, items = model.users.weight.detach(), model.items.weight.detach()
    for row, user in enumerate(USERS.tolist()):
        for column, item in enumerate(ITEMS.tolist()):
            torch.testing.assert_close(found[row, column], users[user] @ items[item, :4] + items[item, 4])


def test_vbpr_is_its_equation():
    model = VbprConfig(dim=4, content_dim=3).build(SIZES, seed=0).eval()
    found = model.encode_requests(users_of()) @ model.encode_items(ItemFeatures(ITEMS, CONTENT)).T
    users, items = model.users.weight.detach(), model.items.weight.detach()
    unit = functional.normalize(CONTENT, dim=1)
    for row, user in enumerate(USERS.tolist()):
        for column, item in enumerate(ITEMS.tolist()):
            expected = items[item, 4] + users[user, :4] @ items[item, :4]
            expected = expected + users[user, 4:] @ (model.reduce.weight @ unit[column])
            expected = expected + model.bias.weight[0] @ unit[column]
            torch.testing.assert_close(found[row, column], expected)


def connected(**settings):
    model = LightgcnConfig(dim=4, **settings).build(SIZES, seed=0)
    model.connect(torch.tensor([1, 1, 2, 3, 3, 3, 5]), torch.tensor([1, 2, 2, 4, 5, 8, 8]))
    return model


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_lightgcn_is_the_mean_of_powers_of_the_normalised_graph(layers):
    model = connected(layers=layers).eval()
    dense = torch.zeros(15, 15)
    for user, item in model.edges.T.tolist():
        dense[user, 6 + item] = dense[6 + item, user] = 1
    degree = dense.sum(dim=1).clamp(min=1)
    normal = dense / (degree[:, None] * degree).sqrt()
    expected = sum(torch.linalg.matrix_power(normal, power) @ model.first.detach() for power in range(layers + 1))
    torch.testing.assert_close(model.vectors().detach(), expected / (layers + 1))


def test_lightgcn_answers_after_training_and_loading_with_what_it_has_learned(tmp_path):
    model = connected()
    model.eval()
    with torch.no_grad():
        before = model.encode_items(ItemFeatures(ITEMS, None)).clone()
        model.train()
        model.first.add_(1.0)
        model.eval()
        after = model.encode_items(ItemFeatures(ITEMS, None))
        assert not torch.allclose(before, after)
        model.save(tmp_path)
        torch.testing.assert_close(load_model(tmp_path).encode_items(ItemFeatures(ITEMS, None)), after)


@pytest.mark.parametrize("kind", ["matrix_factorization", "vbpr", "lightgcn"])
def test_the_penalty_is_of_the_rows_by_id(kind):
    """Of LightGCN of the first vectors, whose neighbours it does not touch; biases included; not of content."""
    config = {"matrix_factorization": MatrixFactorizationConfig, "vbpr": VbprConfig, "lightgcn": LightgcnConfig}[kind]
    model = config(dim=4).build(SIZES, seed=0).train()
    if kind == "lightgcn":
        model.connect(torch.tensor([1, 1, 2, 3, 3, 3, 5]), torch.tensor([1, 2, 2, 4, 5, 8, 8]))
        users, items = model.first[: SIZES.num_users], model.first[SIZES.num_users :]
    else:
        users, items = model.users.weight, model.items.weight
    found = model.squared_lengths(users_of(), ItemFeatures(ITEMS, CONTENT))
    for squares, table, rows in zip(found, (users, items), (USERS, ITEMS), strict=True):
        torch.testing.assert_close(squares, torch.stack([table[row] @ table[row] for row in rows]))
    if kind == "lightgcn":
        (found[0].sum() + found[1].sum()).backward()
        touched = torch.cat([USERS, SIZES.num_users + ITEMS]).unique()
        assert model.first.grad.any(dim=1).nonzero()[:, 0].tolist() == touched.tolist()
        torch.testing.assert_close(model.first.grad[touched], 2 * model.first.detach()[touched])


def test_bpr_with_a_penalty_by_hand(small_shop):
    """Two comparisons by hand, with an item's bias: the batch's penalty is λ/2 of the lengths of its own rows."""
    tree = {"model": {"kind": "matrix_factorization", "dim": 4}, "loss": "bpr", "single_choices": True}
    tree |= {"against": "full", "batch_pages": 2, "id_dropout_rate": 0.0, "device": "cpu", "precision": "fp32"}
    given = Given(small_shop.catalogue, small_shop.split, None, None, 0)
    plain, penalised = (RecallTask(RecallTrainConfig.parse({**tree, "l2": l2}), given) for l2 in (0.0, 0.1))
    batch = penalised.batch(0)
    found, without = penalised.losses(batch), plain.losses(batch)
    users = penalised.module.users.weight.detach()[batch.requests.user_ids].square().sum(dim=1)
    items = penalised.module.items.weight.detach()[batch.items.item_ids].square().sum(dim=1)
    expected = 0.0
    for row in range(2):
        others = items[batch.negative][~batch.masked[row]]
        expected += 0.1 / 2 * float(users[row] + items[batch.positive[row]] + others.mean()) / 2
    assert float(found.parts["l2"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(found.total.detach()) == pytest.approx(float(without.total.detach()) + expected, rel=1e-5)


def test_both_sides_of_lightgcn_share_a_pass():
    model = connected().train()
    users, items, *_ = model.encode(Step(users_of(), ItemFeatures(ITEMS, None), chosen=ITEMS[:1]))
    torch.testing.assert_close(users, model.encode_requests(users_of()))
    torch.testing.assert_close(items, model.encode_items(ItemFeatures(ITEMS, None)))
    (users @ items.T).sum().backward()
    assert (model.first.grad[3] != 0).any() and (model.first.grad[2] != 0).any()  # and whom nobody asked for


@pytest.mark.parametrize("fusion", ["id", "mm+idfc", "mm+id_cat"])
def test_sasrec_says_at_each_step_what_it_says_at_the_end_of_that_history(fusion):
    by = {} if fusion == "id" else {"content": CONTENT}
    config = SasrecConfig(dim=8, fusion=fusion, history_items=6, dropout_rate=0.0, score="cosine")
    model = config.build(SIZES, seed=0).eval()
    whole = histories_of([-1, 2, 0, 3, 1], **by)  # a run that begins with the user's first choice
    steps = model.encode_requests(whole._replace(step=torch.arange(5), query_ids=torch.zeros(5, dtype=torch.int64)))
    served = model.encode_requests(histories_of([], [2], [2, 0], [2, 0, 3], [2, 0, 3, 1], **by))
    torch.testing.assert_close(steps, served, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(served[1], served[2])


@pytest.mark.parametrize("chosen", [3, 49, 50, 51, 60])
def test_sasrec_answers_in_the_shape_that_it_was_trained_in(chosen):
    """Of each choice, as the sampler cuts the log, what is learned from is what is answered from just before it."""
    config = SasrecConfig(dim=8, history_items=50, dropout_rate=0.0, id_init_std=1.0)
    model = config.build(SIZES._replace(num_items=99), seed=0).eval()
    count = chosen + 1
    log, zeros = np.arange(1, count + 1, dtype=np.int32), np.zeros(count, dtype=np.int32)
    pages = Pages(zeros, zeros, np.arange(count), np.arange(count + 1), log)
    sampler = RunSampler(pages, batch_pages=1_000, longest=config.needs.real_time, seed=0)
    batch = sampler.batch(0)
    items = torch.arange(99)
    learned = histories_of(*batch.runs.before.tolist(), items=items)
    steps = torch.from_numpy(batch.runs.step)
    learned = model.encode_requests(learned._replace(step=steps, query_ids=torch.zeros(count, dtype=torch.int64)))
    read = latest_of([log[:chosen]], config.needs.real_time)
    served = model.encode_requests(histories_of(*cut(read.astype(np.int64)).tolist(), [5], items=items))
    last = int(np.flatnonzero(batch.item_rows == log[chosen])[0])
    torch.testing.assert_close(served[0], learned[last], atol=1e-5, rtol=1e-4)


def test_sasrec_reads_order():
    model = SasrecConfig(dim=8, history_items=6, dropout_rate=0.0, id_init_std=1.0).build(SIZES, seed=0).eval()
    found = model.encode_requests(histories_of([0, 1, 3], [1, 0, 3]))
    assert not torch.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": {"kind": "sasrec"}, "single_choices": True}, "single_choices has no effect"),
        ({"single_choices": True}, "reads queries"),
        ({"model": {"kind": "matrix_factorization"}, "l2": 0.1}, "l2 has no effect with loss = 'softmax'"),
        ({"loss": "bpr", "l2": 0.1}, "l2 has no effect with model.kind = 'two_tower'"),
        ({"model": {"kind": "sasrec"}, "most_positives": 5}, "most_positives has no effect"),
        ({"loss": "bpr", "hard_mixes": 5}, "no denominator"),
        ({"model": {"kind": "matrix_factorization", "score": "cosine"}}, "too high for cosines"),
        ({"model": {"kind": "sasrec", "dim": 9}}, "multiple of heads"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        RecallTrainConfig.parse(settings)
