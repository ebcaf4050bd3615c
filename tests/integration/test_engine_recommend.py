"""A shop whose recall model answers users: who is answered by what, what is measured is served, and live changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import anyio
import httpx
import numpy as np
import pytest
from tiny_shop import ITEMS, NUM_ITEMS, photo, write_run

from triptych.data import splits
from triptych.data.splits import Split, SplitConfig
from triptych.encoders.embed import Embedder
from triptych.engine import Channel, Engine, Filters
from triptych.engine.bundle import write_bundle, write_index, write_retriever
from triptych.foundation.errors import EngineError
from triptych.index.backends.exact import ExactIndex
from triptych.recall import train
from triptych.recall.base import Request
from triptych.recall.config import RecallTrainConfig
from triptych.recall.models.dense import Dense
from triptych.recall.models.item_knn import ItemKnn, ItemKnnConfig
from triptych.recall.recommender import Recommender
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given
from triptych.serve import create_app

TRAINING = {"against": "full", "batch_pages": 16, "epochs": 1, "validations": 1, "device": "cpu", "precision": "fp32"}
MODELS = {
    "mf": {"kind": "matrix_factorization", "dim": 8},
    "vbpr": {"kind": "vbpr", "dim": 8, "content_dim": 8},
    "lightgcn": {"kind": "lightgcn", "dim": 8},
    "sasrec": {"kind": "sasrec", "dim": 8, "layers": 1},
    "sasrec idfc": {"kind": "sasrec", "dim": 8, "layers": 1, "fusion": "mm+idfc"},
    "history": {"kind": "two_tower", "dim": 8, "asks": "history"},
}
OF_USERS, OF_HISTORIES = ("mf", "vbpr", "lightgcn"), ("sasrec", "sasrec idfc", "history")
READ_CONTENT = ("vbpr", "sasrec idfc", "history")
LATE = "came late"
LAST_DAY = datetime(2024, 5, 5, 23, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    """A tiny shop for each model, over one catalogue; one user has come on the last day, which is not learned from."""
    late = [
        {"time": LAST_DAY + timedelta(minutes=row), "user": LATE, "query": None, "item_id": f"i{row}", "kind": "click"}
        for row in (3, 9, 14)
    ]
    folder = tmp_path_factory.mktemp("runs") / "shop"
    made = write_run(folder, more_events=late)
    split = Split.open(splits.build(SplitConfig(), catalogue=made.catalogue, out=folder / "split"))
    return {name: with_recall(made, folder, name=name, split=split) for name in MODELS}


def with_recall(made, folder, *, name, split):
    """Train a model over the shop's encoder, and write a bundle with it."""
    config = RecallTrainConfig.parse({"model": MODELS[name], **TRAINING})
    reads = config.recall_model.reads_content
    content = np.load(made.parts["index"].path / "vectors.npy") if reads else None
    inputs = {"catalogue": made.parts["catalogue"], "split": split.artifact}
    inputs |= {"encoder": made.parts["encoder"]} if reads else {}
    given = Given(made.catalogue, split, None, content, 0)
    model = train.run(config, given, inputs=inputs, out=folder / "recall")
    vectors = np.load(model.file(train.VECTORS))
    index = write_index(folder / "index", vectors=lambda: vectors, catalogue=made.parts["catalogue"], encoder=model)
    neighbours = write_retriever(
        folder / "item-knn",
        fit=lambda: ItemKnn.fit(split.train_histories(made.catalogue), num_items=NUM_ITEMS),
        kind="item_knn",
        config=ItemKnnConfig(),
        inputs={"catalogue": made.parts["catalogue"], "split": split.artifact},
    )
    parts = {**made.parts, "recall": model, "recall_index": index, "item_knn": neighbours}
    bundle = write_bundle(folder / "bundle", **parts)
    by_neighbours = write_bundle(folder / "bundle", **parts, recommend="item_knn")
    retriever = LearnedRetriever.load(
        model.path, index=ExactIndex.build(vectors), encoder=None, catalogue=made.catalogue, item_content=content
    )
    met = split.train_counts(made.catalogue) > 0
    return SimpleNamespace(
        path=bundle.path,
        by_neighbours=by_neighbours.path,
        knn=ItemKnn.load(neighbours.path),
        catalogue=made.catalogue,
        retriever=retriever,
        vectors=vectors,
        met=met,
        parts=made.parts,
    )


@pytest.fixture(params=sorted(MODELS))
def name(request):
    return request.param


@pytest.fixture
def shop(shops, name):
    return shops[name]


@pytest.fixture
def engine(shop):
    return Engine.open(shop.path)


def rows(hits):
    return [hit.item_row for hit in hits]


def ids(hits):
    return [hit.item_id for hit in hits]


def log_of(shop, user):
    return shop.catalogue.history(shop.catalogue.user_row(user)).astype(np.int64)


def test_users_get_the_models_full_ranking_without_what_they_chose(shop, engine, name):
    """By a plain sort of inner products; of a model without content, among the items that training has met."""
    for user in ("u0", "u3", "u6"):
        history = log_of(shop, user)
        (asked,) = shop.retriever.request_vectors([Request(user=user, history=history)])
        scores = (shop.vectors.astype(np.float64) @ asked).astype(np.float32)
        wanted = np.ones(NUM_ITEMS, bool) if name in READ_CONTENT else shop.met.copy()
        wanted[history] = False
        expected = [row for row in np.argsort(-scores, kind="stable").tolist() if wanted[row]]
        answer = engine.recommend(user=user, k=NUM_ITEMS)
        assert answer.channel is Channel.RECALL and answer.note is None
        assert rows(answer) == expected
        assert rows(engine.recommend(user=user, k=4)) == expected[:4]
        assert rows(engine.recommend(user=user, channel="dense")) != expected[:20]
    assert not shop.met.all()


def test_what_is_served_is_what_the_report_measures(shop, engine):
    """Known users, and one whom training has not met, as `recipes.lines.histories` asks for them."""
    dense = Dense(
        Embedder.open(shop.parts["encoder"]), ExactIndex.build(np.load(shop.parts["index"].path / "vectors.npy"))
    )
    measured = Recommender.of(shop.retriever, dense=dense, item_ids=shop.catalogue.item_ids)
    users = [f"u{number}" for number in range(7)] + [LATE]
    requests = []
    for user in users:
        keep = np.ones(NUM_ITEMS, bool)
        keep[log_of(shop, user)] = False
        requests.append(Request(user=user, history=log_of(shop, user), keep=keep))
    found = measured.retrieve(requests, 10).item_rows
    for user, expected in zip(users, found.tolist(), strict=True):
        assert rows(engine.recommend(user=user, k=10)) == expected


def test_a_user_whom_training_has_not_met_is_answered_by_the_encoder_where_the_model_needs_him(engine, name):
    answer = engine.recommend(user=LATE, k=10)
    by_content = engine.recommend(user=LATE, k=10, channel="dense")
    assert by_content.note is None
    if name in OF_USERS:
        assert answer.channel is Channel.DENSE and {hit.channel for hit in answer} == {Channel.DENSE}
        assert answer.note.startswith(f"Channel recall has not met user '{LATE}', so these are near")
        assert rows(answer) == rows(by_content)
    else:
        assert answer.channel is Channel.RECALL and answer.note is None
    nobody = engine.recommend(user="nobody", k=5)
    assert nobody.channel is Channel.POPULARITY and "Nothing is known of user 'nobody'" in nobody.note


def test_a_history_that_is_given_is_answered_as_that_of_the_log(shop, engine, name):
    history = [f"i{row}" for row in log_of(shop, "u3")]
    answer, logged = engine.recommend(history=history, k=10), engine.recommend(user="u3", k=10)
    if name in OF_HISTORIES:
        assert answer.channel is Channel.RECALL and answer.note is None
        assert rows(answer) == rows(logged)
    else:
        assert answer.channel is Channel.DENSE
        assert answer.note.startswith("Channel recall goes by who asks, not by what was chosen, so these are near")
        assert rows(answer) == rows(engine.recommend(user="u3", k=10, channel="dense"))
    empty = engine.recommend(history=[], k=3)
    assert empty.channel is Channel.POPULARITY and empty.note.startswith("Nothing was chosen before")


@pytest.mark.parametrize("name", ["sasrec"], indirect=True)
def test_a_history_in_which_nothing_is_known_to_the_model_is_the_encoders(shop, engine):
    new = [f"i{row}" for row in np.flatnonzero(~shop.met)[:3]]
    answer = engine.recommend(history=new, k=5)
    assert answer.channel is Channel.DENSE and "knows nothing that was chosen" in answer.note
    assert engine.recommend(history=[*new, f"i{np.flatnonzero(shop.met)[0]}"], k=5).channel is Channel.RECALL


@pytest.mark.parametrize("name", ["mf"], indirect=True)
def test_item_knn_recommends_where_the_run_says_so(shop, engine):
    """Also after its items were replaced, added and removed; what has no neighbours is the encoder's."""
    assert engine.recommend(user="u3", k=3).channel is Channel.RECALL
    engine = Engine.open(shop.by_neighbours)
    assert engine.info()["recommend_channel"] == "item_knn"
    history = log_of(shop, "u3")
    keep = np.ones(NUM_ITEMS, bool)
    keep[history] = False
    full = shop.knn.retrieve([Request(history=history, keep=keep)], NUM_ITEMS).item_rows[0]
    expected = [f"i{row}" for row in full.tolist() if row >= 0]
    assert len(expected) > 5
    for asked in ({"user": "u3"}, {"history": [f"i{row}" for row in history]}):
        answer = engine.recommend(**asked, k=NUM_ITEMS)
        assert answer.channel is Channel.ITEM_KNN and answer.note is None
        assert ids(answer) == expected
    assert engine.recommend(user="u3", k=3, channel="recall").channel is Channel.RECALL
    bought, found = f"i{history[0]}", expected[2]
    scores = {hit.item_id: hit.score for hit in engine.recommend(user="u3", k=NUM_ITEMS)}
    engine.replace_items([{"item_id": one, "title": "velvet sofa"} for one in (bought, found)])
    engine.remove_items([expected[0]])
    engine.add_items([{"item_id": "new", "title": "oak"}])
    after = {hit.item_id: hit.score for hit in engine.recommend(user="u3", k=NUM_ITEMS)}
    assert after == pytest.approx({item: score for item, score in scores.items() if item != expected[0]})
    unmet = engine.recommend(history=["new"], k=3)
    assert unmet.channel is Channel.DENSE and unmet.note.startswith("Channel item_knn knows nothing that was chosen")
    with pytest.raises(EngineError, match="'item_knn' answers users, not searches"):
        engine.search("red shirt", channel="item_knn")


def test_filters_hold_and_popularity_leaves_the_history_out(shop, engine):
    full = engine.recommend(user="u3", k=NUM_ITEMS)
    clothes = [hit.item_row for hit in full if ITEMS[hit.item_row]["category"] == "clothes"]
    assert rows(engine.recommend(user="u3", k=NUM_ITEMS, filters=Filters(category="clothes"))) == clothes
    popular = engine.recommend(user="u3", k=NUM_ITEMS, channel="popularity")
    assert popular.channel is Channel.POPULARITY and popular.note is None
    assert set(rows(popular)) == set(range(NUM_ITEMS)) - set(log_of(shop, "u3").tolist())


def test_searches_are_the_encoders(engine):
    assert engine.search("red shirt", k=3).channel is Channel.DENSE
    info = engine.info()
    assert (info["search_channel"], info["recommend_channel"]) == ("dense", "recall")
    for ask in (engine.search, lambda query, channel: engine.why("i1", query=query, channel=channel)):
        with pytest.raises(EngineError, match="recall model answers users, not searches"):
            ask("red shirt", channel="recall")


def test_a_replaced_item_of_a_history_and_a_removed_one_go_on_to_count(shop, engine, name, tmp_path):
    """Every answer, also after the journal was read again, is of items that are there and not of the history."""
    engine = Engine.open(shop.path, journal=tmp_path / "journal")
    before = engine.recommend(user="u3", k=NUM_ITEMS)
    bought = list(dict.fromkeys(f"i{row}" for row in log_of(shop, "u3").tolist()))
    same, gone = bought[0], bought[1]
    row = {"item_id": same, "title": ITEMS[int(same[1:])]["title"], "photo": photo(int(same[1:]))}
    engine.replace_items([row])
    engine.remove_items([gone, before[0].item_id])
    after = []
    for _ in range(2):
        found = engine.recommend(user="u3", k=NUM_ITEMS)
        assert found.channel is Channel.RECALL and found.note is None
        assert ids(found) == ids(before)[1:]  # the item that was bought is what it was
        given = engine.recommend(history=bought, k=NUM_ITEMS)
        assert (given.channel is Channel.RECALL) == (name in OF_HISTORIES)
        assert not set(ids(given)) & {*bought, before[0].item_id}
        after.append([(hit.item_id, hit.score) for hit in found])
        engine.close()
        engine = Engine.open(shop.path, journal=tmp_path / "journal")
    engine.close()
    assert after[0] == after[1]


@pytest.mark.parametrize("name", ["sasrec idfc", "history"], indirect=True)
def test_a_history_is_read_with_the_content_that_its_items_have_now(shop, engine, name):
    """A replaced item counts by its new title and photo: as in a model that was given them from the start."""
    history = log_of(shop, "u3")
    other = int(np.flatnonzero(~np.isin(np.arange(NUM_ITEMS), history))[-1])
    latest = int(history[-1])
    engine.replace_items([{"item_id": f"i{latest}", "title": ITEMS[other]["title"], "photo": photo(other)}])
    content = np.load(shop.parts["index"].path / "vectors.npy").astype(np.float32)
    shown = engine._snapshot.index.vectors(np.array([NUM_ITEMS]))[0]
    assert np.abs(content[latest] - shown).max() > 1e-3
    content[latest] = shown
    features = type(shop.retriever._features)(
        shop.catalogue, ids=shop.retriever._ids, item_content=content, needs=shop.retriever._needs
    )
    told = LearnedRetriever(
        shop.retriever._model, shop.retriever.index, ids=shop.retriever._ids, encoder=None, features=features
    )
    now = engine._snapshot.shelf.current(history)
    assert NUM_ITEMS in now
    for as_of_old, as_of_now in ((history, now), (history[-1:], now[-1:])):
        (expected,) = told.request_vectors([Request(history=as_of_old)])
        (found,) = engine._snapshot.recall.request_vectors([Request(history=as_of_now)])
        (old,) = shop.retriever.request_vectors([Request(history=as_of_old)])
        assert np.abs(found - old).max() > 1e-4
        # what a history reads of a new item is not rounded to float16, what is stored of it is
        assert np.abs(found - expected).max() < 0.05 * np.abs(found - old).max()


def test_an_added_item_is_recommended_by_content_alone(shop, engine, name):
    """A model that reads content ranks it among all; one that does not leaves it to channel dense."""
    best = engine.recommend(user="u3", k=1)[0]
    twin = {"item_id": "twin", "title": ITEMS[best.item_row]["title"], "photo": photo(best.item_row)}
    engine.add_items([twin])
    assert "twin" in ids(engine.recommend(user="u3", k=NUM_ITEMS + 1, channel="dense"))
    assert ("twin" in ids(engine.recommend(user="u3", k=NUM_ITEMS + 1))) == (name in READ_CONTENT)
    given = engine.recommend(history=["twin"], k=3)
    assert (given.channel is Channel.RECALL) == (name in OF_HISTORIES and name in READ_CONTENT)
    assert "twin" not in ids(given)
    engine.remove_items(["twin"])
    assert "twin" not in ids(engine.recommend(user="u3", k=NUM_ITEMS + 1, channel="dense"))


@pytest.mark.parametrize("name", ["sasrec"], indirect=True)
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "for a user, or by a history of items: give one of the two"),
        ({"user": "u1", "history": ["i1"]}, "for a user, or by a history of items: give one of the two"),
        ({"history": "i1"}, r"put this one into a list: \['i1'\]"),
        ({"history": ["i_13"]}, "There is no item 'i_13' in the catalogue. Did you mean 'i13'"),
        ({"history": [3]}, "named by its item_id, a text, not by 3"),
        (
            {"user": "u1", "channel": "bm25"},
            "'bm25' answers searches. Recommend by recall, dense, item_knn, popularity",
        ),
        ({"user": "u1", "channel": "hybrid"}, "Channel 'hybrid' answers searches"),
        ({"user": "u1", "channel": "knn"}, "There is no channel 'knn'"),
    ],
)
def test_refusals(engine, asked, message):
    with pytest.raises(EngineError, match=message):
        engine.recommend(**asked)


def test_a_shop_without_such_a_model_says_so(shops, tmp_path):
    engine = Engine.open(write_run(tmp_path / "plain").path)
    with pytest.raises(EngineError, match="has no recall model that answers users"):
        engine.recommend(user="u1", channel="recall")
    with pytest.raises(EngineError, match="has no item-kNN"):
        engine.recommend(user="u1", channel="item_knn")
    assert engine.info()["recommend_channel"] == "dense"


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["mf"], indirect=True)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_over_http_it_is_said_who_answered(engine, anyio_backend):
    app = create_app(engine, allowed_hosts=["shop"])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        with anyio.fail_after(120):
            while (await client.get("/ready")).status_code != 200:
                await anyio.sleep(0.02)
        known = (await client.get("/api/recommend/u3", params={"k": 5})).json()
        assert (known["channel"], known["personal"], known["note"]) == ("recall", True, None)
        assert [hit["item"]["item_id"] for hit in known["hits"]] == ids(engine.recommend(user="u3", k=5))
        given = (await client.get("/api/recommend", params={"history": ["i1", "i2"], "k": 5})).json()
        assert (given["channel"], given["personal"]) == ("dense", True) and "goes by who asks" in given["note"]
        for address, told in (("/api/recommend", "history"), ("/api/recommend/u3?channel=bm25", "answers searches")):
            refused = await client.get(address)
            assert refused.status_code == 422 and told in refused.json()["detail"]
