"""Where nobody typed a query: histories teach what belongs together, and items alone teach photos and titles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from triptych.data import catalogue as catalogues
from triptych.data import splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig, Role
from triptych.data.splits import Split, SplitBy, SplitConfig
from triptych.data.tables import read_events, read_items
from triptych.data.text import TextTokenizer, TokenizerConfig, item_texts, training_texts
from triptych.encoders.embed import Embedder
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError, DataError
from triptych.foundation.registry import config_class, kinds
from triptych.index.backends.exact import ExactIndex
from triptych.pretrain import base
from triptych.pretrain.base import TASKS, Given, PretrainConfig
from triptych.pretrain.tasks.history_contrast import HistoryContrastConfig, HistoryContrastTask
from triptych.pretrain.tasks.item_contrast import ItemContrastConfig
from triptych.recall.base import Request
from triptych.recall.models.dense import Dense

ENCODER = {"dim": 48, "layers": 2, "heads": 4, "vector_dim": 32, "photo_px": 32, "max_title_tokens": 12}
LOOP = {"steps": 150, "warmup_steps": 10, "learning_rate": 3e-3, "device": "cpu", "precision": "fp32"}
GENRES = ("crime", "space", "music", "war")
PER_GENRE, PER_GENRE_CHOSEN = 12, 8
"""Films of a genre, and how many of them anybody ever chose."""


class Films(NamedTuple):
    """Titles that say nothing; a plot that names the genre; users who like one genre each."""

    catalogue: Catalogue
    split: Split


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    rows = [
        (f"{genre}{n}", f"film {letters(rng)}", f"a story of {genre}") for genre in GENRES for n in range(PER_GENRE)
    ]
    items = pl.DataFrame(rows, schema=["item_id", "title", "plot"], orient="row")
    items.write_parquet(folder / "items.parquet")
    start = datetime(2024, 5, 1, tzinfo=UTC)
    events = [
        {
            "time": start + timedelta(hours=int(n), seconds=user),
            "user": f"u{user}",
            "item_id": f"{GENRES[user % 4]}{item}",
            "kind": "click",
        }
        for user in range(80)
        for n, item in enumerate(rng.permutation(PER_GENRE_CHOSEN))
    ]
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet", features={"plot": Role.TEXT}), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        None,
    )
    config = CatalogueConfig(photo_px=32)
    catalogue = Catalogue.open(catalogues.build(config, tables=checked, inputs={}, out=folder / "catalogue"))
    within = SplitConfig(by=SplitBy.USER, validation_fraction=0.2, test_fraction=0.2)
    return Films(catalogue, Split.open(splits.build(within, catalogue=catalogue, out=folder / "split")))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what is trained lies: who asks for the same again is given the same."""
    return tmp_path_factory.mktemp("encoders")


def letters(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("abcdefghij"), size=6))


def train(config: PretrainConfig, shop, *, out: Path, seed: int = 0, split: Split | None = None) -> Artifact:
    features = config.encoder.title_features
    texts = [*item_texts(shop.catalogue, features=features), *shop.catalogue.queries]
    return base.run(
        config,
        Given(
            catalogue=shop.catalogue,
            split=split,
            tokenizer=TextTokenizer.fit(texts, config=TokenizerConfig(min_count=1)),
            seed=seed,
        ),
        inputs={"catalogue": shop.catalogue.artifact},
        out=out,
    )


def history_config(**encoder) -> HistoryContrastConfig:
    return HistoryContrastConfig.parse(
        {
            "encoder": {**ENCODER, "modalities": "title", **encoder},
            "loop": {**LOOP, "validate_every": 75},
            "batch_pairs": 64,
            "validation_k": 5,
        }
    )


def same_genre_rate(embedder: Embedder, shop: Films, *, new: bool) -> float:
    """Of the five chosen items nearest to each chosen (or each new) one, the share of its genre; a quarter by luck."""
    catalogue = shop.catalogue
    vectors = embedder.embed_catalogue(catalogue).astype(np.float32)
    genre = np.array([item.rstrip("0123456789") for item in catalogue.item_ids])
    is_new = shop.split.items_new(catalogue)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    scores[:, is_new] = -1
    asked = np.flatnonzero(is_new == new)
    nearest = np.argsort(-scores[asked], axis=1)[:, :5]
    return float((genre[nearest] == genre[asked][:, None]).mean())


def test_every_training_task_is_a_kind():
    assert kinds(TASKS) == ["contrastive", "history_contrast", "item_contrast", "multitask"]
    for kind in kinds(TASKS):
        assert config_class(TASKS, kind)().kind == kind


def test_histories_teach_what_belongs_together(films: Films, encoders: Path):
    trained = train(history_config(), films, out=encoders, split=films.split)
    embedder = Embedder.open(trained)
    assert same_genre_rate(embedder, films, new=False) > 0.95
    assert trained.summary["headline"] == "recall@5"
    # A user's history leads to the rest of his genre.
    dense = Dense(embedder, ExactIndex.build(embedder.embed_catalogue(films.catalogue)))
    found = films.split.user_targets(films.catalogue, splits.Part.TEST)
    requests = [Request(history=found.histories.of(place)) for place in range(len(found.user_row))]
    hits = dense.retrieve(requests, 6).item_rows
    recall = [np.isin(found.targets.of(place), hits[place]).mean() for place in range(len(requests))]
    assert np.mean(recall) > 0.9


def test_a_title_as_a_query_finds_its_item_and_without_that_loss_it_does_not(films: Films, tmp_path: Path):
    def title_hits(config: HistoryContrastConfig) -> float:
        embedder = Embedder.open(train(config, films, out=tmp_path, split=films.split))
        vectors = embedder.embed_catalogue(films.catalogue).astype(np.float32)
        found = (embedder.queries(films.catalogue.titles) @ vectors.T).argmax(axis=1)
        return float((found == np.arange(films.catalogue.num_items)).mean())

    config = history_config(export="projected")  # of the mean they find them before anything is learned
    hits = [title_hits(config.model_copy(update={"title_query_weight": weight})) for weight in (0.2, 0.0)]
    assert hits[0] > 0.6
    assert hits[1] < 0.4


def test_a_plot_behind_the_title_is_read_where_it_is_asked_for(films: Films, encoders: Path):
    """Nothing was ever chosen together with a new film: only its plot says where it belongs."""
    features = {"title_features": ["plot"], "max_title_tokens": 24}
    plain, with_plot = history_config(), history_config(**features)
    texts = item_texts(films.catalogue, features=("plot",))
    assert texts[0] == f"{films.catalogue.titles[0]}. a story of crime"
    assert item_texts(films.catalogue) == films.catalogue.titles
    titles, queries = training_texts(films.catalogue, split=films.split, title_features=("plot",))
    assert (titles, queries) == (texts, [])
    rates = [
        same_genre_rate(Embedder.open(train(config, films, out=encoders, split=films.split)), films, new=True)
        for config in (plain, with_plot)
    ]
    assert rates[0] < 0.5
    assert rates[1] > 0.95
    with pytest.raises(ConfigError, match=r"no text feature 'plots'\. Did you mean 'plot'\? Text features: plot\."):
        item_texts(films.catalogue, features=("plots",))


def test_what_the_user_chose_is_no_negative(films: Films):
    """The loss must not change when the score of a masked pair does."""
    tokenizer = TextTokenizer.fit(films.catalogue.titles, config=TokenizerConfig(min_count=1))
    config = history_config()
    task = HistoryContrastTask(config, Given(catalogue=films.catalogue, split=films.split, tokenizer=tokenizer, seed=0))
    batch = task.batch(0)
    liked = films.split.train_histories(films.catalogue)
    genre = np.array([item.rstrip("0123456789") for item in films.catalogue.item_ids])
    assert batch.known.any()
    assert batch.known[torch.arange(64), batch.anchor].all()
    assert batch.known[torch.arange(64), batch.positive].all()
    assert len(genre) == films.catalogue.num_items
    assert int(batch.known.sum(dim=1).max()) <= max(np.diff(liked.offsets))


def test_the_same_seed_gives_the_same_weights(films: Films, tmp_path: Path):
    quick = history_config().merged({"loop": {**LOOP, "steps": 3, "validate_every": 3}})
    one, again = (train(quick, films, out=tmp_path / name, split=films.split) for name in ("a", "b"))
    assert one.file("model.safetensors").read_bytes() == again.file("model.safetensors").read_bytes()
    other = train(quick, films, out=tmp_path / "a", split=films.split, seed=1)
    assert other.id != one.id


def test_items_alone_teach_photos_and_titles(planted_shop, tmp_path: Path):
    config = ItemContrastConfig.parse(
        {
            "encoder": ENCODER,
            "loop": {**LOOP, "validate_every": 75},
            "photo_view_items": 30,
            "photo_view_weight": 1.0,
            "validation_k": 1,
            "augment": {"mirror_rate": 0, "min_side_rate": 1, "brightness": 0.1, "tint": 0.05},
        }
    )
    trained = train(config, planted_shop, out=tmp_path)
    catalogue = planted_shop.catalogue
    embedder = Embedder.open(trained)
    vectors = embedder.embed_catalogue(catalogue).astype(np.float32)
    photos = catalogue.photos.pixels(np.arange(catalogue.num_items))
    alone = embedder.items([None] * catalogue.num_items, pixels=photos)
    assert ((alone @ vectors.T).argmax(axis=1) == np.arange(catalogue.num_items)).mean() > 0.9
    found = (embedder.queries(catalogue.titles) @ vectors.T).argmax(axis=1)  # six items share each title
    assert np.mean([catalogue.titles[row] == title for row, title in zip(found, catalogue.titles, strict=True)]) > 0.9
    assert set(trained.summary["metrics"]) == {"recall@1", "photo_recall@1", "title_recall@1"}


def test_what_cannot_be_learned_is_told(films: Films, planted_shop, tmp_path: Path):
    photos = ItemContrastConfig.parse({"encoder": {**ENCODER, "modalities": "photo"}})
    with pytest.raises(DataError, match=r"items: 0 of them have what an encoder of modalities 'photo' can learn from"):
        train(photos, films, out=tmp_path)
    with pytest.raises(DataError, match="histories are learned from what users chose"):
        train(history_config(), films, out=tmp_path)
    lonely = history_config().merged({"encoder": {"photo_px": 64, "modalities": "title+photo"}})
    with pytest.raises(ConfigError, match=r"encoder.photo_px is 64, but the catalogue's photos are 32 px wide"):
        train(lonely, planted_shop, out=tmp_path, split=planted_shop.split)


def test_an_item_without_a_title_is_never_asked_for_by_one(tmp_path: Path):
    """It has a plot to be read by, but nobody could type its name."""
    rows = [(f"f{n}", "" if n % 2 else f"film {n}", f"a story of {n}") for n in range(24)]
    pl.DataFrame(rows, schema=["item_id", "title", "plot"], orient="row").write_csv(tmp_path / "items.csv")
    read = read_items(ItemsConfig(path="items.csv", features={"plot": Role.TEXT}), base=tmp_path)
    made = catalogues.build(
        CatalogueConfig(photo_px=32), tables=check_tables(read, None, None), inputs={}, out=tmp_path / "c"
    )
    shop = Catalogue.open(made)
    tokenizer = TextTokenizer.fit(item_texts(shop, features=("plot",)), config=TokenizerConfig(min_count=1))
    config = ItemContrastConfig.parse(
        {"encoder": {**ENCODER, "modalities": "title", "title_features": ["plot"]}, "batch_items": 24}
    )
    task = next(config.phases(Given(catalogue=shop, split=None, tokenizer=tokenizer, seed=0))).task
    asked = task.batch(0).title_queries
    assert len(asked.tokens) == asked.total == 12
    assert len({tuple(row) for row in asked.tokens.tolist()}) == 12
