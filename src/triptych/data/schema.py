"""The three tables: canonical columns, feature roles, event kinds, and the configs that map a user's own tables.

Everything after `data/check.py` sees only the names and types written here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

import polars as pl
from pydantic import Field, model_validator

from triptych.foundation.config import Config


class Table(StrEnum):
    """The three tables a user brings."""

    ITEMS = "items"
    EVENTS = "events"
    JUDGEMENTS = "judgements"


class Role(StrEnum):
    """What a feature column means, and with it the type it is kept in."""

    CATEGORICAL = "categorical"
    NUMERIC = "numeric"
    TEXT = "text"
    MULTI = "multi"


class EventKind(StrEnum):
    """What happened to an item, from weak to strong; the place in this list is the code the catalogue stores."""

    IMPRESSION = "impression"
    CLICK = "click"
    CART = "cart"
    ORDER = "order"


CLICK_KINDS = (EventKind.CLICK, EventKind.CART, EventKind.ORDER)
"""The positives: kinds in which the user chose the item."""


class Part(StrEnum):
    """The three parts of a split, in the order in which they are looked at."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


TIME = pl.Datetime("us", "UTC")
"""Type of every canonical time column."""

ITEMS_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "title": pl.String(),
    "photo": pl.String(),  # a path below the photo root; Binary instead where the table holds the bytes
    "more_photos": pl.List(pl.String()),  # the item's further ones, without nulls
    "category": pl.String(),
    "brand": pl.String(),
    "merchant": pl.String(),
    "price": pl.Float64(),
    "cells": pl.List(pl.String()),
    "first_seen": TIME,
}
"""Columns of the items table in order; features follow under their own names. All but `item_id` may be null."""

EVENTS_SCHEMA: dict[str, pl.DataType] = {
    "time": TIME,
    "user": pl.String(),
    "query": pl.String(),
    "item_id": pl.String(),
    "kind": pl.String(),
    "page": pl.String(),
    "position": pl.Int32(),  # from 0
    "cell": pl.String(),
}
"""Columns of the events table in order. `time`, `item_id`, `kind` are never null, nor `user` and `query` both. `part`
(String, a value of `Part`, or null) follows where the table has it."""

PART = "part"
"""Optional events column: the part of a split that the table itself brings (`SplitBy.GIVEN`)."""

RATING = "rating"
"""Optional column of a user's events table; `check` makes a kind of it, so no clean table has it."""

JUDGEMENTS_SCHEMA: dict[str, pl.DataType] = {
    "query": pl.String(),
    "item_id": pl.String(),
    "grade": pl.Float64(),  # 0 is irrelevant
}
"""Columns of the judgements table, in order; `photo_only` (Boolean) follows where the table has it."""

PHOTO_ONLY = "photo_only"
"""Optional judgements column: the query names a visual attribute that the item's title lacks."""

SCHEMAS = {Table.ITEMS: ITEMS_SCHEMA, Table.EVENTS: EVENTS_SCHEMA, Table.JUDGEMENTS: JUDGEMENTS_SCHEMA}
"""Canonical columns and types by table."""

TEXT_COLUMNS = {
    Table.ITEMS: {"item_id", "title", "category", "brand", "merchant"},
    Table.EVENTS: {"user", "query", "item_id", "kind", "page", "cell", "part"},
    Table.JUDGEMENTS: {"query", "item_id"},
}
"""Columns that are read as text whatever they look like, by table."""

FEATURE_TYPES: dict[Role, pl.DataType] = {
    Role.CATEGORICAL: pl.String(),
    Role.NUMERIC: pl.Float64(),
    Role.TEXT: pl.String(),
    Role.MULTI: pl.List(pl.String()),
}
"""The type a feature column is kept in, by role."""

KIND_WORDS: dict[str, EventKind] = {
    "impression": EventKind.IMPRESSION,
    "impressions": EventKind.IMPRESSION,
    "imp": EventKind.IMPRESSION,
    "view": EventKind.IMPRESSION,
    "viewed": EventKind.IMPRESSION,
    "show": EventKind.IMPRESSION,
    "shown": EventKind.IMPRESSION,
    "display": EventKind.IMPRESSION,
    "expose": EventKind.IMPRESSION,
    "exposure": EventKind.IMPRESSION,
    "view_item_list": EventKind.IMPRESSION,
    "click": EventKind.CLICK,
    "clicked": EventKind.CLICK,
    "clicks": EventKind.CLICK,
    "tap": EventKind.CLICK,
    "open": EventKind.CLICK,
    "select_item": EventKind.CLICK,
    "view_item": EventKind.CLICK,  # GA4: its page was opened
    "product_clicked": EventKind.CLICK,
    "product_viewed": EventKind.CLICK,
    "pv": EventKind.CLICK,  # Taobao's logs: its page was viewed
    "fav": EventKind.CLICK,
    "favourite": EventKind.CLICK,
    "favorite": EventKind.CLICK,
    "add_to_wishlist": EventKind.CLICK,
    "cart": EventKind.CART,
    "add": EventKind.CART,
    "addtocart": EventKind.CART,
    "add_to_cart": EventKind.CART,
    "add_to_basket": EventKind.CART,
    "basket": EventKind.CART,
    "order": EventKind.ORDER,
    "ordered": EventKind.ORDER,
    "orders": EventKind.ORDER,
    "purchase": EventKind.ORDER,
    "purchased": EventKind.ORDER,
    "buy": EventKind.ORDER,
    "bought": EventKind.ORDER,
    "transaction": EventKind.ORDER,
    "conversion": EventKind.ORDER,
}
"""Words known in a kind column, lower-case, `_` for spaces and hyphens. `EventsConfig.kinds` overrides them."""


PART_WORDS: dict[str, Part] = {
    "train": Part.TRAIN,
    "training": Part.TRAIN,
    "trn": Part.TRAIN,
    "0": Part.TRAIN,
    "valid": Part.VALIDATION,
    "validation": Part.VALIDATION,
    "val": Part.VALIDATION,
    "dev": Part.VALIDATION,
    "1": Part.VALIDATION,
    "test": Part.TEST,
    "testing": Part.TEST,
    "tst": Part.TEST,
    "2": Part.TEST,
}
"""Words known in a part column, lower-case; the numbers are MMRec's ``x_label``."""


class ItemsConfig(Config):
    """The items table: where it is, and which of its columns mean what.

    A column name left out is guessed from names and types, and the guess is printed; an empty string says that the
    table has no such column. Columns that map to nothing are kept as features.
    """

    path: str
    """File, glob or folder (Parquet, CSV, TSV, JSONL; text also as .gz), relative to the config file."""
    id: str | None = None
    """Column of the item's id; unique."""
    title: str | None = None
    """Column of the title."""
    photo: str | None = None
    """Column of the photo's path or bytes, or a folder of photos named by item id. Several photos are a list, or paths
    with `|`, `,` or `;` between them; in a folder `<id>.jpg`, `<id>_1.jpg`, `<id>-2.jpg`. The first stands for the
    item, further ones are kept where catalogue.max_photos allows."""
    photo_root: str | None = None
    """Folder that photo paths start from, relative to the config file; without a photo column, the folder whose
    files are named by item id. Left out: the folder of the items file, else that of the config file."""
    category: str | None = None
    """Column of the category."""
    brand: str | None = None
    """Column of the brand."""
    merchant: str | None = None
    """Column of the merchant, shop or restaurant."""
    price: str | None = None
    """Column of the price, in the currency of the shop."""
    cells: str | None = None
    """Column of the delivery cells that the item can be had in: a list, or words separated by `|`."""
    first_seen: str | None = None
    """Column of the time at which the item entered the catalogue."""
    features: dict[str, Role] = Field({})
    """What further columns hold: categorical, numeric, text or multi (a list, or words separated by `|`)."""


class EventsConfig(Config):
    """The events table: where it is, and which of its columns mean what.

    A column name left out is guessed from names and types, and the guess is printed; an empty string says that the
    table has no such column.
    """

    path: str
    """File, glob or folder (Parquet, CSV, TSV, JSONL; text also as .gz), relative to the config file."""
    user: str | None = None
    """Column of the user's id; may be empty where there is a query."""
    query: str | None = None
    """Column of the query text; empty for events outside search."""
    item: str | None = None
    """Column of the item's id."""
    time: str | None = None
    """Column of the time: ISO text (UTC where it has no zone), a date, or epoch seconds to nanoseconds."""
    kind: str | None = None
    """Column of what happened. Without one, and without a rating, every event is a click."""
    rating: str | None = None
    """Column of what the user thought of the item, a number such as stars; in place of kind, and never guessed."""
    positive_rating: float | None = None
    """Rating from which an event is a click; a lower one is an impression. Only and always with rating."""
    page: str | None = None
    """Column of the page (one list of results as it was shown)."""
    position: str | None = None
    """Column of the item's position on the page, from 0."""
    cell: str | None = None
    """Column of the delivery cell the user was in."""
    part: str | None = None
    """Column that says train, validation or test (or 0, 1, 2); read by split.by = given."""
    kinds: dict[str, EventKind] = Field({})
    """The table's own words for what happened, each with impression, click, cart or order."""

    @model_validator(mode="after")
    def _rating_says_what_happened(self) -> Self:
        if bool(self.rating) != (self.positive_rating is not None):
            raise ValueError(
                'rating and positive_rating go together: rating = "stars" with positive_rating = 4 makes four stars or '
                "more a click, and fewer an impression."
            )
        if self.rating and self.kind:
            raise ValueError(f"kind = '{self.kind}' and rating = '{self.rating}' both say what happened. Give one.")
        return self


class JudgementsConfig(Config):
    """The judgements table (optional): how relevant an item is to a query.

    A column name left out is guessed from names and types, and the guess is printed.
    """

    path: str
    """File, glob or folder (Parquet, CSV, TSV, JSONL; text also as .gz), relative to the config file."""
    query: str | None = None
    """Column of the query text."""
    item: str | None = None
    """Column of the item's id."""
    grade: str | None = None
    """Column of the grade: 0 is irrelevant, more is better."""
    photo_only: str | None = None
    """Column that is true where the query names a visual attribute that the item's title lacks."""
