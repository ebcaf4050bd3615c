"""A market of dishes and goods drawn by code: photos, stuffed titles, and simulated shoppers. Needs no files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from triptych.data.datasets.base import Card, DatasetConfig, Tables
from triptych.data.drawing.dishes import DISHES
from triptych.data.drawing.photo import TYPES, Look
from triptych.data.drawing.textures import COLOURS, PATTERNS, SETTINGS
from triptych.data.drawing.worker import draw_photos
from triptych.data.schema import Role
from triptych.data.simulate import Attribute, ShoppersConfig, simulate
from triptych.data.simulate.market_names import brand_names, merchant_names
from triptych.data.simulate.shop_lexicon import shop_attributes
from triptych.data.simulate.tables import write_simulation

PHOTOS = "photos"

_GROUPS: dict[str, tuple[str, ...]] = {
    "Meals": ("soup", "ramen", "pizza", "salad", "curry", "sushi", "dumplings", "burger", "taco"),
    "Bakery & sweets": ("pie", "donut", "cookies", "cake", "cupcake", "macarons", "ice cream", "pancakes"),
    "Drinks": ("bubble tea", "juice"),
    "Kitchen & table": ("mug", "teapot", "vase", "candle"),
    "Home": ("lamp", "plant pot", "armchair", "cushion", "rug", "clock"),
    "Clothing": ("t-shirt", "dress", "scarf", "socks", "cap", "sneaker"),
    "Bags & accessories": ("tote bag", "backpack", "umbrella", "watch"),
}
_CATEGORY = {name: group for group, names in _GROUPS.items() for name in names}

_SWEET = "red orange yellow green teal blue purple pink brown beige black white"
_FOOD_COLOURS: dict[str, str] = {
    "soup": "red orange yellow green brown white purple pink",
    "ramen": "brown red yellow white black green orange",
    "pizza": "red white green yellow orange purple",
    "salad": "red orange yellow purple white pink",
    "curry": "yellow orange red green brown white black",
    "sushi": "orange pink red white yellow green black",
    "dumplings": "white beige green pink yellow purple orange black",
    "pie": "red purple orange yellow green blue pink brown",
    "burger": "brown beige black red green yellow orange",
    "taco": "yellow beige blue red green brown orange purple",
    "bubble tea": "brown beige green pink purple orange yellow white blue red",
    "juice": "orange red yellow green purple pink brown white blue",
    "pancakes": "brown red purple pink yellow orange white blue",
}
_PRICES = {"Meals": 12.0, "Bakery & sweets": 7.0, "Drinks": 5.0, "Kitchen & table": 18.0, "Home": 45.0,
           "Clothing": 28.0, "Bags & accessories": 39.0}  # fmt: skip
_DEAR = {"armchair": 5.0, "rug": 2.5, "watch": 2.5, "socks": 0.3, "candle": 0.6, "sneaker": 2.0, "cake": 3.0}

_TRAITS_FOOD = ("vegan", "spicy", "organic", "gluten free", "family size")
_TRAITS_GOODS = ("handmade", "eco friendly", "kids", "luxury", "vintage")

_STUFFING_FOOD = ("2026 NEW", "Chef's Choice", "Bestseller", "Top Rated", "Fresh Daily", "30 Min Delivery", "5 Stars",
                  "Must Try", "Limited Offer", "Combo Deal", "Free Delivery", "Award Winning")  # fmt: skip
_STUFFING_GOODS = ("2026 NEW", "Hot Sale", "Free Shipping", "Factory Direct", "Gift Idea", "Premium Quality",
                   "Trending", "Top Seller", "Limited Offer", "Wholesale", "High Quality",
                   "Best Price", "Instagram")  # fmt: skip


class GeneratedShopConfig(DatasetConfig):
    """The generated shop: the default data of the demo and the tests."""

    kind: Literal["generated_shop"] = "generated_shop"
    """Name of the dataset."""
    num_items: int = Field(5_000, gt=0)
    """Items in the shop."""
    photo_px: int = Field(256, ge=32, le=400)
    """Side of the drawn photos."""
    seed: int = 0
    """Seed of everything."""
    shoppers: ShoppersConfig = ShoppersConfig(
        num_pages=40_000,
        num_intents=800,
        num_users=5_000,
        min_matches=5,
        clicks_per_page=1.7,
        grade_appeal=(0.004, 0.016, 0.05, 1.0),
    )
    """The simulated shoppers. A cell has only a thousand items here, so a page holds fewer that match: it gets fewer
    clicks, and what does not match appeals less, for about the same share of good clicks as on larger data."""

    def prepare(self, out: Path) -> Tables:
        """Draw the photos and write the tables."""
        items = generate_items(self.num_items, seed=self.seed)
        simulation = simulate(items, attributes=shop_attributes(), config=self.shoppers, seed=self.seed)
        shutil.rmtree(out / PHOTOS, ignore_errors=True)
        (out / PHOTOS).mkdir()
        looks = item_looks(items, seed=self.seed)
        draw_photos(looks, paths=[out / PHOTOS / name for name in items["photo"].to_list()], px=self.photo_px)
        return write_simulation(
            simulation,
            out=out,
            hidden=("colour", "pattern", "setting"),
            features={"type": Role.CATEGORICAL, "trait": Role.CATEGORICAL},
            photo_root=PHOTOS,
        )

    def card(self) -> Card:
        """Return the dataset's origin and licence."""
        return Card(
            name="generated shop",
            source="drawn and written by triptych itself",
            licence="Apache-2.0, as triptych",
            note="Everything is generated: photos, titles, merchants, and behaviour.",
            simulated=True,
        )


def generate_items(num_items: int, *, seed: int) -> pl.DataFrame:
    """Make up the items, with full titles and all attributes, visual ones included."""
    rng = np.random.default_rng([seed, 301])
    types = list(TYPES)
    type_share = 1.0 / (rng.permutation(len(types)) + 8.0)
    market = _Market(
        lexicon={attribute.column: attribute for attribute in shop_attributes()},
        food_brands=brand_names(30, rng=rng),
        goods_brands=brand_names(30, rng=rng, avoid_first=30),
        merchants=merchant_names(80, rng=rng),
    )
    chosen = rng.choice(len(types), num_items, p=type_share / type_share.sum())
    rows = [_item(number, types[place], market, rng=rng) for number, place in enumerate(chosen.tolist())]
    types_of = {name: pl.Float64 if name == "price" else pl.String for name in _Item._fields}
    return pl.DataFrame(rows, schema=types_of, orient="row")


def item_looks(items: pl.DataFrame, *, seed: int) -> list[Look]:
    """Return what to draw for each item."""
    columns = items.select("type", "colour", "pattern", "setting").iter_rows()
    return [
        Look(kind, colour, pattern, setting, (seed, 302, number))
        for number, (kind, colour, pattern, setting) in enumerate(columns)
    ]


class _Market(NamedTuple):
    lexicon: dict[str, Attribute]
    food_brands: list[str]
    goods_brands: list[str]
    merchants: list[str]


class _Item(NamedTuple):
    item_id: str
    title: str
    photo: str
    category: str
    brand: str
    merchant: str
    price: float
    type: str
    trait: str | None
    colour: str
    pattern: str
    setting: str


def _item(number: int, kind: str, market: _Market, *, rng: np.random.Generator) -> _Item:
    food = kind in DISHES
    colours = _FOOD_COLOURS.get(kind, _SWEET).split() if food else list(COLOURS)
    # The first colours of a palette are commoner, plain is the commonest pattern.
    colour = colours[min(int(rng.exponential(len(colours) / 2.2)), len(colours) - 1)]
    pattern = PATTERNS[int(rng.choice(len(PATTERNS), p=[0.28, 0.16, 0.14, 0.13, 0.09, 0.11, 0.09]))]
    setting = SETTINGS[int(rng.integers(len(SETTINGS)))]
    traits = _TRAITS_FOOD if food else _TRAITS_GOODS
    trait = traits[int(rng.integers(len(traits)))] if rng.random() < 0.7 else None
    brands = market.food_brands if food else market.goods_brands
    brand = brands[min(int(rng.exponential(9.0)), len(brands) - 1)]
    values = {"type": kind, "colour": colour, "pattern": pattern, "setting": setting, "trait": trait}
    price = _PRICES[_CATEGORY[kind]] * _DEAR.get(kind, 1.0) * float(rng.lognormal(0.0, 0.3))
    return _Item(
        item_id=f"i{number:05d}",
        title=_title(values, brand, market.lexicon, food=food, rng=rng),
        photo=f"i{number:05d}.jpg",
        category=_CATEGORY[kind],
        brand=brand,
        merchant=market.merchants[int(rng.integers(len(market.merchants)))],
        price=max(round(price), 1) - 0.01,
        type=kind,
        trait=trait,
        colour=colour,
        pattern=pattern,
        setting=setting,
    )


def _title(
    values: dict[str, str | None], brand: str, lexicon: dict[str, Attribute], *, food: bool, rng: np.random.Generator
) -> str:
    """Write a title the way marketplaces do: the facts in some order, stuffed with what is thought to sell."""

    def say(column: str) -> str:
        value = values[column]
        own = lexicon[column].of(value).own if value is not None else ("",)
        return own[int(rng.integers(len(own)))].title().replace("'S", "'s")

    facts = [say("colour"), say("pattern"), say("trait")]
    facts = [facts[place] for place in rng.permutation(3).tolist()]
    stuffing = _STUFFING_FOOD if food else _STUFFING_GOODS
    picked = [stuffing[place] for place in rng.choice(len(stuffing), int(rng.integers(1, 4)), replace=False).tolist()]
    parts = [brand, *facts, say("type"), say("setting"), *picked[1:]]
    parts.insert(0 if rng.random() < 0.5 else len(parts), picked[0])
    return " ".join(part for part in parts if part)


CONFIG = GeneratedShopConfig
