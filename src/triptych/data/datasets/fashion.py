"""Fashion: real photos and titles of 9,583 products, with simulated shoppers.

Brands are guessed from how titles begin. Merchants, prices, cells, arrival times and all behaviour are simulated.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from triptych.data.datasets.base import Card, DatasetConfig, Tables, dataset_folder
from triptych.data.schema import Role
from triptych.data.simulate import ShoppersConfig, simulate
from triptych.data.simulate.fashion_lexicon import fashion_attributes
from triptych.data.simulate.market_names import merchant_names
from triptych.data.simulate.tables import ITEMS_FILE, write_simulation

FOLDER = "fashion_products"

_GENDER_WORD = re.compile(r"\b(?:men|women|unisex|boys?|girls?|kids?|mens|womens|man|woman)\b", re.IGNORECASE)
_FEWEST_OF_A_BRAND = 8
_NOT_A_BRANDS_END = ("check", "solid", "stripes", "printed", "casual")
_NUM_MERCHANTS = 60

_PRICES = {"Apparel": 32.0, "Footwear": 58.0, "Accessories": 36.0, "Personal Care": 18.0}
"""Middle of the simulated prices by master category."""
_DEAR = {"Watches": 3.2, "Jackets": 2.2, "Handbags": 1.8, "Formal Shoes": 1.6, "Sweaters": 1.4, "Jeans": 1.5}
_CHEAP = {"Socks": 0.22, "Briefs": 0.35, "Innerwear Vests": 0.35, "Caps": 0.5, "Flip Flops": 0.4, "Ties": 0.6}


class FashionConfig(DatasetConfig):
    """Real photos and titles, simulated behaviour."""

    kind: Literal["fashion"] = "fashion"
    """Name of the dataset."""
    data_root: str | None = None
    """Folder that holds `fashion_products`; left out, the environment variable TRIPTYCH_DATA, else ../shared/data."""
    seed: int = 0
    """Seed of all that is simulated."""
    shoppers: ShoppersConfig = ShoppersConfig()
    """The simulated shoppers."""

    def prepare(self, out: Path) -> Tables:
        """Write the tables; photos stay where they are."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        items = read_fashion_items(folder, seed=self.seed)
        simulation = simulate(items, attributes=fashion_attributes(), config=self.shoppers, seed=self.seed)
        return write_simulation(
            simulation,
            out=out,
            hidden=("colour",),
            features=dict.fromkeys(("gender", "type", "usage", "season"), Role.CATEGORICAL),
            photo_root=str(self.photo_folder()),
        )

    def source_files(self) -> Sequence[Path]:
        """Return the products' table."""
        return (dataset_folder(FOLDER, data_root=self.data_root) / ITEMS_FILE,)

    def photo_folder(self) -> Path:
        """Return the folder of the photos."""
        return dataset_folder(FOLDER, data_root=self.data_root) / "images"

    def card(self) -> Card:
        """Return the dataset's origin and licence."""
        return Card(
            name="fashion",
            source="Myntra product photos, titles and attributes (Kaggle: Fashion Product Images), 9,583 products",
            licence="unverified (the Kaggle page states MIT); research and test use only",
            note="Simulated behaviour. Merchants, prices, cells and arrival times are simulated too.",
            simulated=True,
        )


def read_fashion_items(folder: Path, *, seed: int) -> pl.DataFrame:
    """Read the products with canonical column names; brand guessed, merchant and price simulated."""
    source = pl.read_parquet(folder / ITEMS_FILE).sort("id")
    titles = [re.sub(r"\s+", " ", title).strip() for title in source["productDisplayName"].to_list()]
    rng = np.random.default_rng([seed, 201])
    names = merchant_names(_NUM_MERCHANTS, rng=rng)
    return source.select(
        item_id=pl.col("id").cast(pl.String),
        title=pl.Series(titles),
        photo=pl.col("id").cast(pl.String) + ".jpg",
        category=pl.col("subCategory"),
        brand=pl.Series(guess_brands(titles), dtype=pl.String),
        merchant=pl.Series(names).gather(rng.integers(0, _NUM_MERCHANTS, source.height)),
        price=pl.Series(_prices(source, rng=rng)),
        gender=pl.col("gender"),
        type=pl.col("articleType"),
        usage=pl.col("usage"),
        season=pl.col("season"),
        colour=pl.col("baseColour"),
    )


def guess_brands(titles: Sequence[str]) -> list[str | None]:
    """Guess each title's brand: the longest beginning that often stands before a gender word.

    Titles read "Brand Gender Model Colour Type"; beginnings shared by eight titles or more count as brands, and are
    then recognised where the gender word is missing or a model name comes first.
    """
    beginnings: Counter[str] = Counter()
    spelling: dict[str, Counter[str]] = {}
    for title in titles:
        found = _GENDER_WORD.search(title)
        if found and found.start() > 0:
            brand = title[: found.start()].strip()
            if brand.lower().endswith(_NOT_A_BRANDS_END):
                continue
            beginnings[brand.lower()] += 1
            spelling.setdefault(brand.lower(), Counter())[brand] += 1
    known = {brand: spelling[brand].most_common(1)[0][0] for brand, n in beginnings.items() if n >= _FEWEST_OF_A_BRAND}
    guessed: list[str | None] = []
    for title in titles:
        words = title.lower().split(" ")
        prefixes = (" ".join(words[:count]) for count in range(min(5, len(words)), 0, -1))
        guessed.append(next((known[prefix] for prefix in prefixes if prefix in known), None))
    return guessed


def _prices(source: pl.DataFrame, *, rng: np.random.Generator) -> np.ndarray:
    middle = np.array(
        [
            _PRICES.get(master, 25.0) * _DEAR.get(kind, 1.0) * _CHEAP.get(kind, 1.0)
            for master, kind in source.select("masterCategory", "articleType").iter_rows()
        ]
    )
    price: np.ndarray = np.round(middle * rng.lognormal(0.0, 0.35, source.height)) - 0.01
    return price


CONFIG = FashionConfig
