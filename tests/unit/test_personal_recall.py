"""What personal models are given: text units, attributes, histories by request; and that each source says the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional

from triptych.data.ids import IdVocabulary
from triptych.data.pages import read_pages
from triptych.data.targets import UserItems
from triptych.foundation.errors import ConfigError, EngineError
from triptych.index.backends.exact import ExactConfig, ExactIndex
from triptych.nn.bags import bags_of
from triptych.nn.id_table import IdTable
from triptych.recall.base import Request
from triptych.recall.behaviour import Moments
from triptych.recall.config import RecallTrainConfig
from triptych.recall.features import Features
from triptych.recall.ids import Ids
from triptych.recall.learned import (
    Behaviour,
    ItemFeatures,
    Needs,
    RecallModel,
    RecallModelConfig,
    RequestFeatures,
    Sizes,
)
from triptych.recall.models.mgdspr import MgdsprConfig
from triptych.recall.models.two_tower import TwoTowerConfig
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given, RecallTask
from triptych.recall.text_units import characters, fit_units, pairs, unit_rows
from triptych.recall.validation import nearest
from triptych.training.distributed import ALONE

MGDSPR = MgdsprConfig(dim=8, heads=2, id_init_std=0.5, real_time=3, short_term=4, long_term=6, past_queries=2)


class Made(NamedTuple):
    model: RecallModel
    ids: Ids
    features: Features
    index: ExactIndex

    def retriever(self, *, with_catalogue: bool = True) -> LearnedRetriever:
        features = self.features if with_catalogue else None
        return LearnedRetriever(self.model, self.index, ids=self.ids, encoder=None, features=features)


def made(shop, config: RecallModelConfig) -> Made:
    catalogue, needs = shop.catalogue, config.needs
    ids = Ids.fit(catalogue, pages=read_pages(catalogue, places=shop.split.train), needs=needs, titles=catalogue.titles)
    features = Features(catalogue, ids=ids, needs=needs)
    model = config.build(features.sizes, seed=0).eval()
    with torch.no_grad():
        vectors = model.encode_items(features.items(np.arange(catalogue.num_items))).numpy()
    return Made(model, ids, features, ExactIndex.build(vectors, config=ExactConfig(stored_as="float32")))


@pytest.fixture(scope="module")
def mgdspr(small_shop) -> Made:
    return made(small_shop, MGDSPR)


def test_texts_in_three_grains():
    assert characters("red tie") == list("redtie")
    assert pairs("red tie x") == ["re", "ed", "ti", "ie"]
    ids = {name: fit_units(["Red tie", "红领带 red"], name=name) for name in ("characters", "pairs", "words")}
    rows = unit_rows(["a RED  tie", "领带", "???"], name="words", ids=ids["words"], most=3)
    assert rows.tolist()[0] == [*ids["words"].rows(["red", "tie"]), -1]  # 'a' is not known
    assert rows.tolist()[1:] == [[*ids["words"].rows(["领带"]), -1, -1], [-1, -1, -1]]
    cut = unit_rows(["tired"], name="pairs", ids=ids["pairs"], most=2)
    assert cut.tolist() == [ids["pairs"].rows(["ti", "re"]).tolist()]  # 'ir' is passed over, the third is cut off


def test_nothing_is_gathered_that_nobody_reads(small_shop, mgdspr):
    """Of four models, each with what it reads of requests, histories and items."""
    needs = {
        "two_tower": Needs(),
        "personal": TwoTowerConfig(fusion="id", asks="query+history").needs,
        "no history": MgdsprConfig(real_time=0, short_term=0, long_term=0, past_queries=0).needs,
        "mgdspr": MGDSPR.needs,
    }
    found = {}
    for name, one in needs.items():
        features = Features(small_shop.catalogue, ids=mgdspr.ids, needs=one)
        request = features.requests(np.array([0, 1]), moments=Moments(np.array([0, 1]), np.array([60, 70])))
        item, behaviour = features.items(np.array([3])), request.behaviour
        parts = (request.units, request.past, behaviour, item.title_words)
        beside = None if behaviour is None else behaviour.items.attributes
        found[name] = [part is not None for part in (*parts, beside)]
    assert found == {
        "two_tower": [False, False, False, False, False],
        "personal": [False, False, True, False, False],
        "no history": [True, False, False, True, False],
        "mgdspr": [True, True, True, True, True],
    }


def test_attributes_are_those_that_the_catalogue_has(tmp_path, mgdspr, small_shop):
    assert mgdspr.ids.attributes == ["category"]  # the shop has no brands and no merchants
    mgdspr.ids.save(tmp_path)
    again = Ids.load(tmp_path)
    assert again.attributes == ["category"]
    rows = {name: ids.num_rows for name, ids in again.others.items()}
    assert rows == {name: ids.num_rows for name, ids in mgdspr.ids.others.items()}
    moments = Moments(np.array([2]), np.array([small_shop.split.train.stop]))  # all items have rows of their own
    history = mgdspr.features.requests(np.array([0]), moments=moments).behaviour
    categories = dict(
        zip(mgdspr.ids.items.rows(small_shop.catalogue.item_ids), small_shop.catalogue.items["category"], strict=True)
    )
    held = [categories[item] for item in history.items.item_ids.tolist()]
    assert len(set(held)) > 1
    assert history.items.attributes[:, 0].tolist() == mgdspr.ids.others["category"].rows(held).tolist()


def test_a_user_in_the_log_is_asked_with_what_he_had_done(small_shop, mgdspr):
    catalogue, retriever = small_shop.catalogue, mgdspr.retriever()
    before, everything = 60, len(catalogue.events)
    requests = [
        Request(query=catalogue.queries[3], user=catalogue.users[2], before=before),
        Request(query=catalogue.queries[3], user=catalogue.users[2]),
        Request(query=catalogue.queries[3]),
    ]
    found = retriever.request_vectors(requests)
    moments = Moments(np.array([2, 2, -1]), np.array([before, everything, 0]))
    with torch.no_grad():
        expected = mgdspr.model.encode_requests(mgdspr.features.requests(np.array([3, 3, 3]), moments=moments))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3 < np.abs(found[1] - found[2]).max()


@torch.no_grad()
def test_requests_that_ask_the_same_share_its_words_and_are_answered_as_each_alone(small_shop, mgdspr):
    query_rows, user_rows = np.array([3, 0, 3, 1, 3]), np.array([2, 2, 4, -1, 2])
    places = np.array([60, 70, 80, 80, len(small_shop.catalogue.events)])

    def asked(some) -> RequestFeatures:
        return mgdspr.features.requests(query_rows[some], moments=Moments(user_rows[some], places[some]))

    together = asked(slice(None))
    assert len(together.units.words) == len(together.units.characters.bags.starts) == 3
    found = mgdspr.model.encode_requests(together)
    for one in range(len(query_rows)):
        torch.testing.assert_close(found[[one]], mgdspr.model.encode_requests(asked([one])), atol=1e-5, rtol=1e-5)


def test_strangers_are_alike_with_a_catalogue_and_without(mgdspr):
    stranger, unknown = Request(query="red bag"), Request(query="red bag", user="nobody we know")
    first, second = mgdspr.retriever().request_vectors([stranger, unknown])
    (alone,) = mgdspr.retriever(with_catalogue=False).request_vectors([stranger])
    np.testing.assert_allclose(second, first, rtol=1e-6)
    np.testing.assert_allclose(alone, first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "off", [("real_time", "short_term", "long_term"), ("past_queries",), ("real_time", "long_term")]
)
def test_so_they_are_where_parts_of_a_history_are_not_read(small_shop, off):
    model = made(small_shop, MGDSPR.model_copy(update=dict.fromkeys(off, 0)))
    stranger = [Request(query="red bag")]
    alone = model.retriever(with_catalogue=False).request_vectors(stranger)
    np.testing.assert_allclose(alone, model.retriever().request_vectors(stranger), rtol=1e-5, atol=1e-6)


def test_a_given_history_comes_before_that_of_the_log(small_shop, mgdspr):
    retriever, user = mgdspr.retriever(), small_shop.catalogue.users[2]
    items = np.array([4, 9, 4, 30, 2])
    given, both, logged = retriever.request_vectors(
        [
            Request(query="red bag", history=items),
            Request(query="red bag", user=user, history=items),
            Request(query="red bag", user=user),
        ]
    )
    np.testing.assert_array_equal(given, both)
    assert np.abs(given - logged).max() > 1e-3


def test_a_recommendation_leaves_the_history_out(small_shop):
    """Whether it was given or is in the log; the rest is the full ranking."""
    shop = made(small_shop, TwoTowerConfig(dim=8, fusion="id", asks="history", id_init_std=0.5))
    catalogue, retriever, k = small_shop.catalogue, shop.retriever(), 7
    user, before = 3, 80
    chosen = catalogue.history(user, before=before)
    requests = [Request(history=np.array([5, 1, 5])), Request(user=catalogue.users[user], before=before)]
    found = retriever.retrieve(requests, k)
    full = shop.index.search(retriever.request_vectors(requests), k=catalogue.num_items).item_rows
    for row, gone in enumerate(([1, 5], chosen.tolist())):
        assert gone
        assert found.item_rows[row].tolist() == [item for item in full[row].tolist() if item not in gone][:k]


def test_new_items_are_encoded_as_the_catalogues_are(small_shop, mgdspr):
    catalogue, retriever = small_shop.catalogue, mgdspr.retriever()
    vectors = retriever.item_vectors(catalogue.item_ids, content=None, titles=catalogue.titles)
    np.testing.assert_allclose(vectors, mgdspr.index.vectors(np.arange(catalogue.num_items)), rtol=1e-5, atol=1e-6)
    with pytest.raises(EngineError, match="reads the titles of items"):
        retriever.item_vectors(["new"], content=None)


@pytest.mark.parametrize("fusion", ["id", "mm", "mm+idfc", "mm+id_cat"])
@pytest.mark.parametrize("asks", ["query+history", "history"])
def test_a_request_of_two_towers_is_its_formula_and_all_of_it_learns(fusion, asks):
    """What asks, a query or the learned vector, takes of the latest choices as the item tower sees them."""
    sizes = Sizes(6, 9, 5, 5)
    by_id = {} if fusion == "mm" else {"id_init_std": 0.5}
    config = TwoTowerConfig(dim=8, fusion=fusion, asks=asks, **by_id)
    model = config.build(sizes, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    query, content = (torch.randn(count, 5, generator=generator) for count in (3, 4))
    held = ItemFeatures(torch.tensor([1, 4, 0, 8]), content)
    places = torch.tensor([[2, 0, 3], [1, -1, -1], [-1, -1, -1]])
    behaviour = Behaviour(held, places, places[:, :0], bags_of(np.empty(0, int), sizes=[0] * 9))
    given = RequestFeatures(torch.tensor([3, 0, 5]), query, behaviour=behaviour)
    found = model.encode_requests(given)
    goods = model.items.unnormalized(held.item_ids, content)
    asked = [model.stranger] * 3 if asks == "history" else model.queries.unnormalized(given.query_ids, query)
    for row, one in enumerate(asked):
        rows = torch.stack([torch.zeros(model.vector_dim), *(goods[place] for place in places[row] if place >= 0)])
        taken = torch.softmax(rows @ one, dim=0) @ rows
        expected = functional.normalize(one + taken @ model.recalled.weight.T, dim=0)
        torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=1e-5)
    found[:, 0].sum().backward()
    tables = {name for name, part in model.named_modules() if isinstance(part, IdTable)}
    assert all(model.get_submodule(name).sum_row_gradients(ALONE) > 0 for name in tables)
    weights = [weight for name, weight in model.named_parameters() if name.rpartition(".")[0] not in tables]
    assert weights and all(weight.grad.abs().sum() > 0 for weight in weights)


def batch_of(shop, **settings):
    tree = {"kind": "two_tower", "fusion": "id", "dim": 8, "asks": "query+history"}
    config = RecallTrainConfig.parse({"model": tree, "against": "full", "batch_pages": 40, **settings})
    task = RecallTask(config, Given(shop.catalogue, shop.split, None, None, 0))
    return task, task.batch(0), task._sampler.batch(0).pages


def test_a_page_is_learned_from_with_what_its_user_had_chosen_before_it(small_shop):
    catalogue = small_shop.catalogue
    task, batch, pages = batch_of(small_shop, history_dropout_rate=0.0)
    rows, lengths = task.ids.items.rows(catalogue.item_ids), []
    for row, page in enumerate(pages.tolist()):
        user, place = int(task._pages.user_row[page]), int(task._pages.place[page])
        expected = catalogue.history(user, before=place)[-50:]
        places = batch.requests.behaviour.real_time[row]
        found = batch.requests.behaviour.items.item_ids[places[places >= 0]]
        assert found.tolist() == rows[expected].tolist()
        lengths.append(len(expected))
    assert min(lengths) == 0 < max(lengths)


def test_a_share_of_the_pages_is_nobodys(small_shop):
    *_, pages = batch_of(small_shop, history_dropout_rate=0.0)
    empty = [
        float((batch.requests.behaviour.real_time < 0).all(dim=1).float().mean())
        for _, batch, _ in (batch_of(small_shop, history_dropout_rate=rate) for rate in (0.0, 0.5))
    ]
    assert len(pages) == 40
    assert empty[1] - empty[0] == pytest.approx(0.5 * (1 - empty[0]), abs=0.2)


def test_the_nearest_leave_out_what_was_chosen():
    generator = torch.Generator().manual_seed(0)
    requests, items = (torch.randn(count, 4, generator=generator) for count in (3, 9))
    gone = UserItems(np.array([0, 2, 2, 5]), np.array([8, 1, 0, 1, 2]))
    found = nearest(requests, items, k=4, left_out=gone)
    full = (requests @ items.T).argsort(dim=1, descending=True).tolist()
    for row, order in enumerate(full):
        assert found[row].tolist() == [item for item in order if item not in gone.of(row)][:4]
    assert nearest(requests, items, k=4).tolist() == [order[:4] for order in full]


def test_what_cannot_be_answered_is_said(tmp_path, small_shop, mgdspr):
    blind = mgdspr.retriever(with_catalogue=False)
    with pytest.raises(EngineError, match="opened without a catalogue, so it cannot look up a history"):
        blind.retrieve([Request(query="red bag", history=np.array([1]))], 3)
    with pytest.raises(EngineError, match="was trained on searches: it answers words"):
        blind.retrieve([Request(history=np.array([1]))], 3)
    users = made(small_shop, TwoTowerConfig(dim=8, fusion="id", asks="history")).retriever()
    with pytest.raises(EngineError, match="was trained without words: it answers users. Ask without words"):
        users.retrieve([Request(query="red bag", history=np.array([1]))], 3)
    config = TwoTowerConfig(dim=8, fusion="mm", asks="query+history")
    sizes = mgdspr.features.sizes._replace(query_content_dim=4, item_content_dim=4)
    reads = LearnedRetriever(config.build(sizes, seed=0), mgdspr.index, ids=mgdspr.ids, encoder=None)
    reads.save(tmp_path)
    with pytest.raises(EngineError, match="reads the content of items in histories. Give item_content"):
        LearnedRetriever.load(tmp_path, index=mgdspr.index, encoder=None, catalogue=small_shop.catalogue)


def test_settings_without_effect_are_refused():
    with pytest.raises(ConfigError, match="history_items has no effect with asks = 'query'"):
        TwoTowerConfig.parse({"history_items": 20})
    for model in ({"kind": "two_tower"}, {"kind": "two_tower", "asks": "history"}):
        with pytest.raises(ConfigError, match="history_dropout_rate has no effect with model.kind = 'two_tower'"):
            RecallTrainConfig.parse({"model": model, "history_dropout_rate": 0.3})
    assert RecallTrainConfig.parse({"model": "mgdspr", "history_dropout_rate": 0.3}).history_dropout_rate == 0.3


def test_ids_of_units_do_not_know_the_held_out_queries(small_shop, mgdspr):
    """Of the training queries and the given titles, nothing else."""
    asked = read_pages(small_shop.catalogue, places=small_shop.split.train).query_row
    texts = [small_shop.catalogue.queries[row] for row in np.unique(asked)]
    pages = read_pages(small_shop.catalogue, places=small_shop.split.train)
    alone = Ids.fit(small_shop.catalogue, pages=pages, needs=MGDSPR.needs).others["words"]
    assert alone.num_rows == IdVocabulary.fit([word for text in texts for word in text.split()]).num_rows
    assert mgdspr.ids.others["words"].num_rows > alone.num_rows  # 'nice' stands in titles only
