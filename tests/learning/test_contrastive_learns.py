"""On a shop where only the photo shows the colour, a model that reads photos finds it and one that does not cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triptych.encoders.embed import Embedder
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.pretrain import base
from triptych.pretrain.base import Given
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.training.log import read_log

NUM_ITEMS, NUM_COLOURS = 30, 6


def config(modalities: str, **settings) -> ContrastiveConfig:
    return ContrastiveConfig.parse(
        {
            "encoder": {
                "modalities": modalities,
                "dim": 48,
                "layers": 2,
                "heads": 4,
                "vector_dim": 32,
                "photo_px": 32,
                "max_title_tokens": 8,
            },
            "loop": {
                "steps": 90,
                "warmup_steps": 10,
                "learning_rate": 3e-3,
                "device": "cpu",
                "precision": "fp32",
                "validate_every": 30,
            },
            "batch_items": NUM_ITEMS,
            "validation_k": 1,
            "title_dropout_rate": 0.3,
            "photo_view_items": NUM_ITEMS,
            "photo_view_weight": 0.5,
            # which half is grey tells things apart, so neither mirror nor crop
            "augment": {"mirror_rate": 0, "min_side_rate": 1, "brightness": 0.1, "tint": 0.05},
            **settings,
        }
    )


@pytest.fixture(scope="module")
def train(planted_shop, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("encoders")

    def trained(modalities: str, *, out: Path = folder, **settings) -> Artifact:
        photo_rows = settings.pop("photo_rows", None)
        return base.run(
            config(modalities, **settings),
            Given(
                catalogue=planted_shop.catalogue,
                split=planted_shop.split,
                tokenizer=planted_shop.tokenizer,
                seed=0,
                photo_rows=photo_rows,
            ),
            inputs={"catalogue": planted_shop.catalogue.artifact, "split": planted_shop.split.artifact},
            out=out,
        )

    return trained


def hits_at_1(embedder: Embedder, shop, **settings) -> np.ndarray:
    """Whether each query "colour thing" finds its one item first."""
    catalogue = shop.catalogue
    vectors = embedder.embed_catalogue(catalogue, **settings).astype(np.float32)
    queries = [f"{colour} {thing}" for thing, colour in (item.split("-") for item in catalogue.item_ids)]
    return (embedder.queries(queries) @ vectors.T).argmax(axis=1) == np.arange(catalogue.num_items)


def test_title_and_photo_find_what_the_title_alone_cannot(planted_shop, train):
    both = Embedder.open(train("title+photo"))
    title = Embedder.open(train("title"))
    assert hits_at_1(both, planted_shop).mean() > 0.9
    # knows the thing, guesses among six colours: 1/6, plus four standard deviations
    assert hits_at_1(title, planted_shop).mean() <= 1 / NUM_COLOURS + 4 * np.sqrt(5 / 36 / NUM_ITEMS)


def test_the_gain_is_gone_when_photos_are_permuted(planted_shop, train):
    permuted = np.roll(np.arange(NUM_ITEMS), 7)
    both = Embedder.open(train("title+photo"))
    assert hits_at_1(both, planted_shop, photo_rows=permuted).mean() < 0.2
    # trained on other photos, it can learn by heart which photo goes with which query, and so needs those
    learned = Embedder.open(train("title+photo", photo_rows=permuted))
    assert hits_at_1(learned, planted_shop, photo_rows=permuted).mean() > 0.9
    assert hits_at_1(learned, planted_shop).mean() < 0.2


def test_a_photo_alone_is_a_query_and_a_title_alone_is_an_item(planted_shop, train):
    embedder, shop = Embedder.open(train("title+photo")), planted_shop
    catalogue = shop.catalogue
    vectors = embedder.embed_catalogue(catalogue).astype(np.float32)
    photos = catalogue.photos.pixels(np.arange(NUM_ITEMS))
    alone = embedder.items([None] * NUM_ITEMS, pixels=photos)
    assert ((alone @ vectors.T).argmax(axis=1) == np.arange(NUM_ITEMS)).mean() > 0.9
    titles = embedder.items(catalogue.titles)
    queries = embedder.queries(["red lamp", "blue lamp", "white bowl", "black chair"])
    found = [catalogue.titles[row] for row in (queries @ titles.T).argmax(axis=1)]
    assert found == ["nice lamp", "nice lamp", "nice bowl", "nice chair"]


def test_an_encoder_that_reads_only_photos_learns_too(planted_shop, train):
    assert hits_at_1(Embedder.open(train("photo")), planted_shop).mean() > 0.9


def test_the_artefact(planted_shop, train, tmp_path):
    artifact = train("title+photo")
    assert set(artifact.manifest["files"]) == {"model.safetensors", "config.json", "tokenizer.json", "train.jsonl"}
    assert artifact.summary["headline"] == "recall@1/query-item"
    assert artifact.summary["metrics"]["recall@1/query-item"] > 0.9
    curve = [r for r in read_log(artifact.file("train.jsonl")) if r["event"] == "validation"]
    assert [r["step"] for r in curve] == [30, 60, 90]
    assert max(r["recall@1/query-item"] for r in curve) == artifact.summary["metrics"]["recall@1/query-item"]
    permuted = train("title+photo", photo_rows=np.roll(np.arange(NUM_ITEMS), 7))
    assert permuted.id != artifact.id
    assert train("title+photo").id == artifact.id
    quick = {"loop": {"steps": 2, "validate_every": 2, "device": "cpu"}}
    first, again = (train("title+photo", out=tmp_path / name, **quick) for name in ("a", "b"))
    assert first.file("model.safetensors").read_bytes() == again.file("model.safetensors").read_bytes()


def test_photos_of_another_size_are_refused(train):
    encoder = {"modalities": "title+photo", "photo_px": 64}
    with pytest.raises(ConfigError, match=r"encoder.photo_px is 64, but the catalogue's photos are 32 px wide"):
        train("title+photo", encoder=encoder)
