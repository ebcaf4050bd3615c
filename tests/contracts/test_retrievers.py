"""One suite for every registered retriever: what `triptych.recall.base.Retriever` promises, on a real catalogue."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from triptych.data import catalogue as catalogues
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.pages import PagesOf, read_pages
from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig
from triptych.data.tables import read_events, read_items, read_judgements
from triptych.data.targets import UserItems
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders.embed import Embedder
from triptych.encoders.models.two_tower import TwoTowerConfig, TwoTowerEncoder
from triptych.foundation.registry import config_class, kinds
from triptych.index.backends.exact import ExactIndex
from triptych.recall.base import Request, RetrieverConfig
from triptych.recall.code_trie import CodeTrie
from triptych.recall.features import Features
from triptych.recall.fusion import Fusion
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recall.ids import Ids
from triptych.recall.item_codes import ItemCodes
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.dense import Dense
from triptych.recall.models.generative import GenerativeConfig, GenerativeSizes
from triptych.recall.models.hybrid import AskedBy, Hybrid, HybridChannel, HybridConfig, Rule
from triptych.recall.models.item_knn import ItemKnn
from triptych.recall.models.oracle import Oracle
from triptych.recall.models.popularity import Popularity
from triptych.recall.retriever import LearnedRetriever

MODELS = "triptych.recall.models"
NUM_ITEMS = 30
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
THINGS = ("shirt", "shoe", "bag", "hat", "cup")
QUERIES = ("red shirt", "blue shoe", "a green hat for her", "cup", "asked by nobody")


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Thirty items, each twice (same title, same photo), so that every retriever meets equal scores."""
    folder = tmp_path_factory.mktemp("shop")
    looks = [(colour, thing) for thing in THINGS for colour in COLOURS]
    pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(NUM_ITEMS)],
            "title": [f"{colour} {thing}" for colour, thing in looks + looks],
            "photo": [png(COLOURS[colour]) for colour, _ in looks + looks],
        }
    ).write_parquet(folder / "items.parquet")
    rng = np.random.default_rng(0)
    pl.DataFrame(
        {
            "time": [datetime(2024, 5, 1, tzinfo=UTC) + timedelta(minutes=place) for place in range(120)],
            "user": [f"u{place % 9}" for place in range(120)],
            "query": [QUERIES[place % 4] for place in range(120)],
            "item_id": [f"i{row}" for row in rng.integers(0, 12, 120)],
            "kind": rng.choice(["impression", "click", "order"], 120).tolist(),
        }
    ).write_parquet(folder / "events.parquet")
    judged = [
        (query, row, float(rng.integers(0, 4))) for query in QUERIES[:4] for row in rng.permutation(NUM_ITEMS)[:9]
    ]
    pl.DataFrame(
        {
            "query": [query for query, _, _ in judged],
            "item_id": [f"i{row}" for _, row, _ in judged],
            "grade": [grade for _, _, grade in judged],
        }
    ).write_parquet(folder / "judgements.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet"), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        read_judgements(JudgementsConfig(path="judgements.parquet"), base=folder),
    )
    config = CatalogueConfig(photo_px=16, display_px=32)
    catalogue = Catalogue.open(
        catalogues.build(config, tables=checked, inputs={"tables": "t"}, out=folder / "catalogue")
    )
    torch.manual_seed(0)
    encoder = TwoTowerEncoder(TwoTowerConfig(dim=16, layers=1, heads=2, vector_dim=12, photo_px=16), vocab_size=200)
    tokenizer = TextTokenizer.fit(catalogue.titles + list(QUERIES), config=TokenizerConfig(vocab_size=200))
    embedder = Embedder(encoder, tokenizer=tokenizer, device="cpu")
    vectors = embedder.embed_catalogue(catalogue, label=None)
    vectors[NUM_ITEMS // 2 :] = vectors[: NUM_ITEMS // 2]  # equal to the last bit
    return SimpleNamespace(catalogue=catalogue, embedder=embedder, index=ExactIndex.build(vectors), learned={})


def popularity(shop):
    return Popularity.fit(shop.catalogue, train=slice(0, 100))


def item_knn(shop):
    """Nine users; whoever chose an item chose its twin, so that every similarity is met twice."""
    rng = np.random.default_rng(2)
    chosen = [rng.choice(NUM_ITEMS // 2, size=5, replace=False) for _ in range(9)]
    rows = np.concatenate([[row, row + NUM_ITEMS // 2] for rows in chosen for row in rows])
    return ItemKnn.fit(UserItems(np.arange(0, 91, 10), rows.astype(np.int32)), num_items=NUM_ITEMS)


def learned(shop, kind, **settings):
    """A model as it begins; what a query's model reads of a history is a stranger's."""
    config = config_class(MODELS, kind).parse({"dim": 16, **settings})
    needs = config.needs
    of = PagesOf.QUERIES if needs.query else PagesOf.CHOICES
    pages = read_pages(shop.catalogue, places=slice(0, 100), of=of)
    ids = Ids.fit(shop.catalogue, pages=pages, needs=needs, titles=shop.catalogue.titles)
    content = shop.index.vectors(np.arange(NUM_ITEMS)) if config.reads_content else None
    rng = np.random.default_rng(3)
    modalities = {name: rng.normal(size=(NUM_ITEMS, 6)).astype(np.float32) for name in ("image", "text")}
    codes = [ItemCodes(rng.integers(4, size=(NUM_ITEMS, 2)), np.ones((2, 4, 12), np.float32))]
    features = Features(
        shop.catalogue,
        ids=ids,
        needs=needs,
        query_content=content,
        item_content=content,
        title_content=content if needs.title_content else None,
        item_codes=codes if needs.codes else (),
        item_modalities=modalities if needs.modalities else None,
    )
    sizes = features.sizes._replace(num_edges=len(pages.item_rows) if needs.graph else 0)
    model = config.build(sizes, seed=0).eval()
    if needs.graph:
        users, items = features.user_ids(pages.user_row), features.item_ids(pages.item_rows)
        model.connect(torch.from_numpy(users), torch.from_numpy(items))
    if needs.modalities:
        model.describe(features.modalities())
    with torch.no_grad():
        vectors = model.encode_items(features.items(np.arange(NUM_ITEMS))).numpy()
    vectors[NUM_ITEMS // 2 :] = vectors[: NUM_ITEMS // 2]
    shop.learned[kind] = ExactIndex.build(vectors)
    return LearnedRetriever(
        model,
        shop.learned[kind],
        ids=ids,
        encoder=shop.embedder if config.reads_content and needs.query else None,
        features=None if needs.query else features,
    )


def learned_again(shop, folder, *, kind):
    catalogue = None if kind in BY_QUERY else shop.catalogue
    encoder = shop.embedder if kind == "semantic_tower" else None
    return LearnedRetriever.load(folder, index=shop.learned[kind], encoder=encoder, catalogue=catalogue)


def hybrid_channels(shop):
    found = {"dense": Dense(shop.embedder, shop.index), "bm25": Bm25.fit(shop.catalogue.titles)}
    return {name: HybridChannel(one, frozenset({AskedBy.WORDS})) for name, one in found.items()}


def hybrid(shop):
    """With a quota, so that its answers keep what every other's do."""
    config = HybridConfig(candidates=12, quotas={"bm25": 3}, quota_places=5)
    return Hybrid(hybrid_channels(shop), rule=Rule(Fusion.MINMAX, (0.9, 0.1)), config=config)


def generative(shop):
    """As it begins; twins share their ID and their vector."""
    codes = np.tile(np.random.default_rng(3).integers(4, size=(NUM_ITEMS // 2, 2)), (2, 1))
    config = GenerativeConfig(dim=16, heads=2, layers=1, beams=16)
    model = config.build(GenerativeSizes(shop.embedder.vector_dim, 2, 4), seed=0)
    vectors = shop.index.vectors(np.arange(NUM_ITEMS))
    return GenerativeRetriever(model, CodeTrie.build(codes), encoder=shop.embedder, vectors=vectors)


def generative_again(shop, folder):
    return GenerativeRetriever.load(folder, encoder=shop.embedder, vectors=shop.index.vectors(np.arange(NUM_ITEMS)))


def generative_of_histories(shop):
    """The same, asked by histories."""
    codes = np.tile(np.random.default_rng(3).integers(4, size=(NUM_ITEMS // 2, 2)), (2, 1))
    config = GenerativeConfig(asks="history", dim=16, heads=2, layers=1, reader_layers=1, history_items=3, beams=16)
    model = config.build(GenerativeSizes(0, 2, 4), seed=0)
    return GenerativeRetriever(model, CodeTrie.build(codes), vectors=shop.index.vectors(np.arange(NUM_ITEMS)))


def generative_of_histories_again(shop, folder):
    return GenerativeRetriever.load(folder, vectors=shop.index.vectors(np.arange(NUM_ITEMS)))


BY_GRAPHS = ("lattice", "freedom", "em3")
# One line per kind: how it is made, and how it is read back.
SUITE = {
    "popularity": (popularity, lambda shop, folder: Popularity.load(folder)),
    "bm25": (lambda shop: Bm25.fit(shop.catalogue.titles), lambda shop, folder: Bm25.load(folder)),
    "dense": (
        lambda shop: Dense(shop.embedder, shop.index),
        lambda shop, folder: Dense.load(folder, embedder=shop.embedder, index=shop.index),
    ),
    "generative": (generative, generative_again),
    "hybrid": (hybrid, lambda shop, folder: Hybrid.load(folder, channels=hybrid_channels(shop))),
    "item_knn": (item_knn, lambda shop, folder: ItemKnn.load(folder)),
    "oracle": (
        lambda shop: Oracle.fit(shop.catalogue, counts=popularity(shop).counts),
        lambda shop, folder: Oracle.load(folder),
    ),
    "two_tower": (
        lambda shop: learned(shop, "two_tower", fusion="id"),
        lambda shop, folder: learned_again(shop, folder, kind="two_tower"),
    ),
    "semantic_tower": (
        lambda shop: learned(shop, "semantic_tower"),
        lambda shop, folder: learned_again(shop, folder, kind="semantic_tower"),
    ),
    "mgdspr": (
        lambda shop: learned(shop, "mgdspr", heads=2, id_init_std=0.5),
        lambda shop, folder: learned_again(shop, folder, kind="mgdspr"),
    ),
    **{
        kind: (
            lambda shop, kind=kind: learned(shop, kind, id_init_std=0.5),
            lambda shop, folder, kind=kind: learned_again(shop, folder, kind=kind),
        )
        for kind in ("matrix_factorization", "vbpr", "lightgcn", "sasrec")
    },
    **{
        kind: (
            lambda shop, kind=kind: learned(shop, kind),
            lambda shop, folder, kind=kind: learned_again(shop, folder, kind=kind),
        )
        for kind in BY_GRAPHS
    },
}
OTHER_FORMS = {"generative of histories": (generative_of_histories, generative_of_histories_again)}
"""Of kinds that are in the suite already, asked in another way."""
MADE = SUITE | OTHER_FORMS
BY_HISTORY, BY_USER = ("item_knn", "sasrec", *OTHER_FORMS), ("matrix_factorization", "vbpr", "lightgcn", *BY_GRAPHS)
BY_QUERY = sorted(set(MADE) - {*BY_HISTORY, *BY_USER})


def test_every_registered_kind_is_in_the_suite():
    assert sorted(SUITE) == kinds(MODELS)
    for kind in SUITE:
        config = config_class(MODELS, kind)()
        assert isinstance(config, RetrieverConfig)
        assert config.kind == kind


@pytest.fixture(params=sorted(MADE))
def kind(request):
    return request.param


@pytest.fixture
def retriever(kind, shop):
    return MADE[kind][0](shop)


@pytest.fixture
def ask(kind):
    """Make five requests of the sort that the retriever reads: queries, histories or users."""
    histories = [[0, 1, 1], [2], [14, 3, 29], [7, 22], [5, 6, 8, 9]]

    def requests(keeps=(None,) * 5):
        if kind in BY_USER:
            users = ("u0", "u3", "u5", "u8", "a stranger")
            return [Request(user=user, keep=keep) for user, keep in zip(users, keeps, strict=True)]
        if kind in BY_HISTORY:
            return [Request(history=np.array(rows), keep=keep) for rows, keep in zip(histories, keeps, strict=True)]
        return [Request(query=query, keep=keep) for query, keep in zip(QUERIES, keeps, strict=True)]

    return requests


def assert_same(first, second):
    np.testing.assert_array_equal(first.item_rows, second.item_rows)
    np.testing.assert_array_equal(first.scores, second.scores)


def test_shapes_types_and_name(retriever, ask):
    hits = retriever.retrieve(ask(), 7)
    assert hits.item_rows.shape == hits.scores.shape == (5, 7)
    assert hits.item_rows.dtype == np.int64
    assert hits.scores.dtype == np.float32
    assert retriever.name


def test_deterministic(retriever, shop, kind, ask):
    hits = retriever.retrieve(ask(), 10)
    assert_same(hits, retriever.retrieve(ask(), 10))
    assert_same(hits, MADE[kind][0](shop).retrieve(ask(), 10))


def test_no_number_depends_on_the_batch(kind, retriever, ask):
    rtol = 1e-5 if kind == "hybrid" else 1e-6  # normalised scores have the encoder's rounding, over their spread
    together = retriever.retrieve(ask(), 10)
    for place, request in enumerate(ask()):
        alone = retriever.retrieve([request], 10)
        np.testing.assert_array_equal(alone.item_rows[0], together.item_rows[place])
        np.testing.assert_allclose(alone.scores[0], together.scores[place], rtol=rtol, atol=1e-6)


def test_no_requests(retriever):
    hits = retriever.retrieve([], 4)
    assert hits.item_rows.shape == hits.scores.shape == (0, 4)


def test_descending_ties_by_item_row_nothing_twice(retriever, ask):
    hits = retriever.retrieve(ask(), NUM_ITEMS)
    ties = 0
    for rows, scores in zip(*hits, strict=True):
        rows, scores = rows[rows >= 0], scores[rows >= 0]
        assert len(set(rows.tolist())) == len(rows)
        order = np.lexsort((rows, -scores))
        np.testing.assert_array_equal(order, np.arange(len(rows)))
        ties += int((np.diff(scores) == 0).sum())
    assert ties > 10


def test_shorter_answers_are_the_head_of_longer_ones(retriever, ask):
    """Ties are cut at the k-th place by item row as well."""
    full = retriever.retrieve(ask(), NUM_ITEMS)
    for k in range(1, NUM_ITEMS):
        hits = retriever.retrieve(ask(), k)
        np.testing.assert_array_equal(hits.item_rows, full.item_rows[:, :k])


def test_more_places_than_items_are_padding(retriever, ask):
    full = retriever.retrieve(ask(), NUM_ITEMS)
    hits = retriever.retrieve(ask(), NUM_ITEMS + 12)
    np.testing.assert_array_equal(hits.item_rows[:, :NUM_ITEMS], full.item_rows)
    assert (hits.item_rows[:, NUM_ITEMS:] == -1).all()
    np.testing.assert_array_equal(np.isneginf(hits.scores), hits.item_rows == -1)


# A hybrid's places are those among the items kept: tests/unit/test_hybrid.py, test_a_filter_is_fused_anew.
@pytest.mark.parametrize("kind", sorted(set(MADE) - {"hybrid"}), indirect=True)
def test_keep_gives_the_full_ranking_without_what_is_not_kept(retriever, ask):
    full = retriever.retrieve(ask(), NUM_ITEMS)
    rng = np.random.default_rng(1)
    masks = [rng.random(NUM_ITEMS) < share for share in (0.0, 0.2, 0.7)]
    # in one batch: two requests share a mask, others have their own, one has none
    keeps = [masks[0], masks[1], masks[1], masks[2], None]
    hits = retriever.retrieve(ask(keeps), 8)
    for place, keep in enumerate(keeps):
        rows = full.item_rows[place]
        expected = rows[rows >= 0] if keep is None else [row for row in rows if row >= 0 and keep[row]]
        padded = np.full(8, -1)
        padded[: len(expected[:8])] = expected[:8]
        np.testing.assert_array_equal(hits.item_rows[place], padded)


def test_save_and_load(kind, retriever, shop, tmp_path, ask):
    hits = retriever.retrieve(ask(), 12)
    retriever.save(tmp_path / "retriever")
    loaded = MADE[kind][1](shop, tmp_path / "retriever")
    assert_same(loaded.retrieve(ask(), 12), hits)
    files = [file for file in (tmp_path / "retriever").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".npy", ".json", ".parquet", ".safetensors"}
    for file in files:
        if file.suffix == ".npy":
            np.load(file, allow_pickle=False)
