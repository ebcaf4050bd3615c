"""A shop in which only the history tells what is meant: queries name a thing, and everybody is true to one brand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from triptych.data import catalogue, splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig, Part
from triptych.data.splits import Split, SplitConfig
from triptych.data.tables import read_events, read_items
from triptych.foundation.errors import ConfigError, EngineError
from triptych.index.backends.exact import ExactConfig, ExactIndex
from triptych.recall import train
from triptych.recall.base import Request
from triptych.recall.config import RecallTrainConfig
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given

THINGS = "shirt lamp bowl chair scarf hat vase rug stool bag".split()
BRANDS = ["Acme", "Blum", "Corvo", "Dune"]
USERS, DAYS, SEARCHES = 40, 6, 5
LEFT = len(THINGS) - DAYS + 1
"""Things that a user without searches has not taken before the last day; he takes one of them on it."""
QUICK = {"device": "cpu", "precision": "fp32", "against": "full", "batch_pages": 64, "validations": 1}
SMALL = {"dim": 16, "id_init_std": 0.1}


class Shop(NamedTuple):
    catalogue: Catalogue
    split: Split


def personal_shop(folder: Path, *, searched: bool, num_chosen: int = len(THINGS)) -> Shop:
    """Every user searches for some things a day and takes those of his brand; or takes a new one without a search.

    Of the things the first so many are chosen, all others nobody ever chose.
    """
    folder.mkdir()
    goods = [(thing, brand) for thing in THINGS for brand in BRANDS]
    pl.DataFrame(
        {
            "item_id": [f"{thing}-{brand}" for thing, brand in goods],
            "title": [f"nice {thing}" for thing, _ in goods],
            "brand": [brand for _, brand in goods],
        }
    ).write_parquet(folder / "items.parquet")
    rng, start, events = np.random.default_rng(0), datetime(2024, 5, 1, 8, tzinfo=UTC), []
    plans = [rng.permutation(THINGS[:num_chosen]).tolist() for _ in range(USERS)]
    for day in range(DAYS):
        for user in rng.permutation(USERS).tolist():
            wanted = rng.choice(THINGS, size=SEARCHES, replace=False).tolist() if searched else [plans[user][day]]
            for search, thing in enumerate(wanted):
                event = {
                    "time": start + timedelta(days=day, minutes=10 * user + search),
                    "user": f"u{user}",
                    "item_id": f"{thing}-{BRANDS[user % len(BRANDS)]}",
                    "kind": "click",
                }
                events.append(event | ({"query": thing} if searched else {}))
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet"), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        None,
    )
    opened = Catalogue.open(
        catalogue.build(CatalogueConfig(photo_px=16), tables=checked, inputs={}, out=folder / "catalogue")
    )
    return Shop(opened, Split.open(splits.build(SplitConfig(), catalogue=opened, out=folder / "split")))


def trained(shop: Shop, model: dict[str, Any], *, out: Path, **settings: Any) -> LearnedRetriever:
    config = RecallTrainConfig.parse({"model": {**SMALL, **model}, **QUICK, **settings})
    return opened(shop, config, out=out)


def opened(shop: Shop, config: RecallTrainConfig, *, out: Path, **given: Any) -> LearnedRetriever:
    artifact = train.run(config, Given(*shop, None, None, 0, **given), inputs={}, out=out)
    vectors = np.load(artifact.file(train.VECTORS)).astype(np.float32)
    index = ExactIndex.build(vectors, config=ExactConfig(stored_as="float32"))
    return LearnedRetriever.load(artifact.path, index=index, encoder=None, catalogue=shop.catalogue)


def hit_rate(retriever: LearnedRetriever, shop: Shop, *, personal: bool) -> float:
    """Share of the test part's searches whose first answer is what was chosen."""
    found = shop.catalogue
    places = np.arange(len(found.events))[shop.split.part(Part.TEST)]
    query, user, item = (found.event_array(name)[places] for name in ("query_row", "user_row", "item_row"))
    requests = [
        Request(query=found.queries[q], user=found.users[u] if personal else None, before=place)
        for q, u, place in zip(query.tolist(), user.tolist(), places.tolist(), strict=True)
    ]
    return float((retriever.retrieve(requests, 1).item_rows[:, 0] == item).mean())


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return personal_shop(tmp_path_factory.mktemp("personal") / "shop", searched=True)


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "mgdspr", "heads": 2, "score": "cosine", "temperature": 0.1},
        {"kind": "two_tower", "fusion": "id", "asks": "query+history"},
    ],
    ids=["mgdspr", "two_tower"],
)
def test_a_history_tells_what_a_query_means(tmp_path, shop, model):
    retriever = trained(shop, model, out=tmp_path, epochs=8, learning_rate=5e-3)
    assert hit_rate(retriever, shop, personal=True) > 0.9
    assert hit_rate(retriever, shop, personal=False) < 0.5  # one brand in four is right by chance


def test_a_query_alone_cannot_know(tmp_path, shop):
    retriever = trained(shop, {"kind": "two_tower", "fusion": "id"}, out=tmp_path, epochs=8, learning_rate=5e-3)
    assert hit_rate(retriever, shop, personal=True) < 0.5


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ({"kind": "two_tower", "fusion": "id", "asks": "history"}, {"epochs": 40}),
        ({"kind": "two_tower", "fusion": "id", "asks": "history"}, {"epochs": 40, "single_choices": True}),
        ({"kind": "sasrec", "dropout_rate": 0.0}, {"epochs": 60}),
        (
            {"kind": "matrix_factorization", "id_rate_factor": 10},
            {"epochs": 40, "single_choices": True, "loss": "bpr"},
        ),
        (
            {"kind": "matrix_factorization", "score": "cosine", "temperature": 0.1},
            {"epochs": 80, "single_choices": True},
        ),
        ({"kind": "lightgcn"}, {"epochs": 40, "single_choices": True, "loss": "bpr"}),
    ],
    ids=["pages", "choices", "sasrec", "bpr-mf", "mf by softmax", "lightgcn"],
)
def test_users_without_queries_are_learned_from_what_they_chose(tmp_path, model, settings):
    shop = personal_shop(tmp_path / "shop", searched=False)
    retriever = trained(shop, model, out=tmp_path / "model", learning_rate=5e-3, **settings)
    assert_finds_the_rest(retriever, shop)


def assert_finds_the_rest(retriever: LearnedRetriever, shop: Shop) -> None:
    """What users chose last is found, by history given or looked up, and what they had before is not."""
    targets = shop.split.user_targets(shop.catalogue, Part.TEST)
    histories = [targets.histories.of(place) for place in range(len(targets.user_row))]
    users = [shop.catalogue.users[row] for row in targets.user_row.tolist()]
    requests = [Request(user=user, history=history) for user, history in zip(users, histories, strict=True)]
    found = retriever.retrieve(requests, LEFT).item_rows
    rows, right = np.repeat(np.arange(len(found)), np.diff(targets.targets.offsets)), targets.targets.item_rows
    hits = [item in found[row] for row, item in zip(rows.tolist(), right.tolist(), strict=True)]
    assert len(hits) == USERS
    assert np.mean(hits) > 0.6  # 0.14 by chance
    start = int(np.arange(len(shop.catalogue.events))[shop.split.part(Part.TEST)][0])
    by_name = retriever.retrieve([Request(user=user, before=start) for user in users], LEFT).item_rows
    for answers in (found, by_name):
        assert not any(np.isin(answer, history).any() for answer, history in zip(answers, histories, strict=True))


def things_and_brands(catalogue: Catalogue) -> dict[str, NDArray[np.float32]]:
    """A text that names the thing and an image that shows the brand, both blurred."""
    rng, found = np.random.default_rng(1), {}
    for name, names, place in (("text", THINGS, 0), ("image", BRANDS, 1)):
        own = [names.index(item.split("-")[place]) for item in catalogue.item_ids]
        blurred = np.eye(len(names))[own] + rng.normal(scale=0.1, size=(len(own), len(names)))
        found[name] = blurred.astype(np.float32)
    return found


@pytest.mark.parametrize("kind", ["lattice", "freedom", "em3"])
def test_what_items_are_made_of_tells_who_will_like_what_nobody_chose(tmp_path, kind):
    """The brand is seen in the image alone, and of two things in ten only that is known."""
    shop = personal_shop(tmp_path / "shop", searched=False, num_chosen=8)
    weights = {} if kind == "lattice" else {"modality_weights": {"image": 0.9, "text": 0.1}}
    config = RecallTrainConfig.parse(
        {
            "model": {"kind": kind, "dim": 16, "neighbours": 8, "id_rate_factor": 10, **weights},
            **QUICK,
            "epochs": 40,
            "single_choices": True,
            "loss": "bpr",
            "learning_rate": 5e-3,
        }
    )
    retriever = opened(shop, config, out=tmp_path / "model", item_modalities=things_and_brands(shop.catalogue))
    assert_finds_the_rest(retriever, shop)
    items = [item.split("-") for item in shop.catalogue.item_ids]
    keep = np.array([thing in THINGS[8:] for thing, _ in items])
    found = retriever.retrieve([Request(user=f"u{user}", keep=keep) for user in range(USERS)], 2).item_rows
    right = [[items[row][1] == BRANDS[user % len(BRANDS)] for row in rows] for user, rows in enumerate(found.tolist())]
    assert np.mean(right) > 0.8  # 0.25 by chance


def test_what_items_are_made_of_must_be_given(tmp_path):
    shop = personal_shop(tmp_path / "shop", searched=False)
    with pytest.raises(ConfigError, match="'freedom' reads what items are made of by modality, and nobody gave it"):
        opened(shop, RecallTrainConfig.parse({"model": {"kind": "freedom"}, **QUICK}), out=tmp_path / "model")
    short = {name: vectors[:7] for name, vectors in things_and_brands(shop.catalogue).items()}
    with pytest.raises(ConfigError, match=r"'text' has the shape \(7, 10\); .* each of the 40 items"):
        opened(
            shop,
            RecallTrainConfig.parse({"model": {"kind": "freedom"}, **QUICK}),
            out=tmp_path / "model",
            item_modalities=short,
        )


def test_who_is_not_known_is_told_from_who_is_not_named(tmp_path):
    shop = personal_shop(tmp_path / "shop", searched=False)
    model = {"kind": "matrix_factorization"}
    retriever = trained(shop, model, out=tmp_path / "model", epochs=1, single_choices=True, loss="bpr")
    assert (retriever.retrieve([Request(user="a stranger")], 3).item_rows >= 0).all()
    with pytest.raises(EngineError, match="knows users by who they are, not by what they chose. Give user"):
        retriever.retrieve([Request(history=np.array([1]))], 3)
