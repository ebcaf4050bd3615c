"""On a shop where only an item's second photo shows its colour, an encoder of two photos finds it."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.encoders.embed import Embedder
from triptych.foundation.errors import ConfigError
from triptych.pretrain import base
from triptych.pretrain.base import Given
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.recipes.config import RunConfig

NUM_ITEMS, NUM_COLOURS = 30, 6


@pytest.fixture(scope="module")
def shop(planted_shop_maker, tmp_path_factory: pytest.TempPathFactory):
    return planted_shop_maker(tmp_path_factory.mktemp("further"), colour_is_shown=1)


def hits_at_1(shop, folder, *, photos: int) -> float:
    """Train on the shop; the share of queries "colour thing" that find their one item first."""
    config = ContrastiveConfig.parse(
        {
            "encoder": {
                "dim": 48, "layers": 2, "heads": 4, "vector_dim": 32, "photo_px": 32, "max_title_tokens": 8,
                "photos": photos,
            },
            "loop": {
                "steps": 90, "warmup_steps": 10, "learning_rate": 3e-3, "device": "cpu", "precision": "fp32",
                "validate_every": 45,
            },
            "batch_items": NUM_ITEMS,
            "validation_k": 1,
            "photo_view_weight": 0,
        }
    )  # fmt: skip
    inputs = {"catalogue": shop.catalogue.artifact, "split": shop.split.artifact}
    given = Given(catalogue=shop.catalogue, split=shop.split, tokenizer=shop.tokenizer, seed=0)
    made = base.run(config, given, inputs=inputs, out=folder)
    embedder = Embedder.open(made)
    vectors = embedder.embed_catalogue(shop.catalogue).astype(np.float32)
    queries = [f"{colour} {thing}" for thing, colour in (item.split("-") for item in shop.catalogue.item_ids)]
    return float(((embedder.queries(queries) @ vectors.T).argmax(axis=1) == np.arange(NUM_ITEMS)).mean())


def test_what_only_the_second_photo_shows_is_found(shop, tmp_path):
    assert shop.catalogue.photos.other_counts.tolist() == [1] * NUM_ITEMS
    assert hits_at_1(shop, tmp_path, photos=2) > 0.9
    # knows the thing, guesses among six colours: 1/6, plus four standard deviations
    assert hits_at_1(shop, tmp_path, photos=1) <= 1 / NUM_COLOURS + 4 * np.sqrt(5 / 36 / NUM_ITEMS)


def test_an_encoder_of_more_photos_than_the_catalogue_keeps_is_refused():
    with pytest.raises(ConfigError, match=r"photos is 3, but the catalogue keeps 2 per item; raise catalogue\.max"):
        RunConfig().override("catalogue.max_photos=2", "pretrain.encoder.photos=3")
