"""The recipe for products without any log: titles, descriptions and studio photos, asked for by photos of shelves."""

from __future__ import annotations

from triptych.recipes.catalogue import catalogue
from triptych.recipes.config import RunConfig


def grocery() -> RunConfig:
    """Eighty-one groceries with studio photos (TRIPTYCH_DATA); photos taken at the shelf must find their product.

    Trained on the products' own titles, descriptions and photos, since nobody searched or clicked. It is a small and
    hard test of sight: `benchmarks/shelf_photos.py` asks an encoder that was trained on other goods.
    """
    tree = {
        "recipe": "grocery",
        "dataset": {"kind": "grocery"},
        "pretrain": {"validation_k": 1, "encoder": {"title_features": ["description"]}},
        "seeds": [0, 1, 2],
        "photo_queries": 0,
    }
    return catalogue().merged(tree)
