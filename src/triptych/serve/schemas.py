"""What travels over HTTP: parameters, bodies and answers, with their limits."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Literal, Self

from fastapi import UploadFile
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from triptych.engine import Channel, Filters

MAX_K = 200
MAX_QUERY_CHARS = 400
MAX_NEW_ITEMS = 1000
MAX_NAME_CHARS = 200
MAX_TEXT_CHARS = 2000
MAX_NAMES = 1000
MAX_HISTORY = 200
MAX_PREFIX_CHARS = 200
MAX_BRANCH_ITEMS = 6


def _decode_photo(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise ValueError("this is not base64; send the bytes of the photo in base64") from None


Photo = Annotated[
    bytes, BeforeValidator(_decode_photo), WithJsonSchema({"type": "string", "contentEncoding": "base64"})
]
Feature = str | int | float | list[str]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
ItemId = Annotated[str, Field(min_length=1, max_length=500)]
UserId = Annotated[str, Field(min_length=1, max_length=500)]


def _check_feature(value: Any) -> Any:
    """Limit what the engine will hold and show; whether the value fits its column is the engine's to say."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARS:
            raise ValueError(f"a text may have at most {MAX_TEXT_CHARS} characters")
    elif isinstance(value, list):
        if len(value) > MAX_NAMES or not all(isinstance(one, str) and len(one) <= MAX_NAME_CHARS for one in value):
            raise ValueError(f"a list may have at most {MAX_NAMES} texts of at most {MAX_NAME_CHARS} characters")
    elif value is not None and not isinstance(value, int | float):
        raise ValueError("this is no text, number or list of texts")
    return value


NewFeature = Annotated[
    Any,
    BeforeValidator(_check_feature),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Message(BaseModel):
    """Base of everything that travels: the line under a field is its description in the OpenAPI document."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Parameters(Message):
    """What a request may say; an unknown name is refused, because it would have no effect."""

    model_config = ConfigDict(extra="forbid")


class FilterParameters(Parameters):
    """Which items may be in the answer, and how many."""

    k: int = Field(24, ge=1, le=MAX_K)
    """Number of items wanted."""
    category: Name | None = None
    """Only items of this category."""
    cell: Name | None = None
    """Only items delivered to this cell."""
    min_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Lowest price, in the catalogue's currency."""
    max_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Highest price, in the catalogue's currency."""

    @model_validator(mode="after")
    def _prices_in_order(self) -> Self:
        if self.min_price is not None and self.max_price is not None and self.min_price > self.max_price:
            raise ValueError(
                f"The lowest price ({self.min_price:g}) is above the highest ({self.max_price:g}); exchange the two"
            )
        return self

    @property
    def filters(self) -> Filters:
        """The engine's form of these filters."""
        return Filters(category=self.category, cell=self.cell, min_price=self.min_price, max_price=self.max_price)


class SearchParameters(FilterParameters):
    """One search: words, how to rank, and filters."""

    q: str | None = Field(None, max_length=MAX_QUERY_CHARS)
    """The query. May be left out with a photo, or with ``channel=popularity`` (browsing)."""
    user: UserId | None = None
    """Who asks: a personal recall model and the ranker read their history in the log. Whom the log does not know, and
    nobody, are answered alike."""
    channel: Channel | None = None
    """``recall``: by meaning and by what was chosen under such queries; ``dense``: by meaning, title and photo;
    ``generative``: by a decoder that says semantic IDs, where the shop has one; ``bm25``: by shared words;
    ``popularity``: by past clicks; ``hybrid``: by several of these, where the shop fuses them. Left out: the best
    for words, ``search_channel`` of ``/api/info``, and ``dense`` where there is a photo."""
    rank: bool | None = None
    """Whether the ranker puts the first of what was found by words into its own order; left out: where validation found
    that better (``search_is_ranked`` of ``/api/info``)."""
    explain: bool = False
    """Give each hit its ``why`` (each is encoded up to three times for it)."""


class RecommendParameters(FilterParameters):
    """One recommendation: how to rank, and filters."""

    channel: Channel | None = None
    """``recall``: by a recall model of users or histories; ``item_knn``: by what the same users chose; ``dense``: near
    the history, by title and photo; ``popularity``. Left out: ``recommend_channel`` of ``/api/info``."""


class HistoryParameters(RecommendParameters):
    """The same for somebody whom the log need not know."""

    history: list[ItemId] = Field(min_length=1, max_length=MAX_HISTORY)
    """The items chosen before, oldest first: the name is repeated for each."""


class PhotoSearchForm(SearchParameters):
    """The same search as a form, with a photo."""

    photo: UploadFile | None = None
    """The photo to search with: JPEG, PNG, WebP or GIF; ``limits`` of ``/api/info`` tells how large it may be."""


class WhyParameters(Parameters):
    """Which item is to be explained, and for which query."""

    q: str | None = Field(None, max_length=MAX_QUERY_CHARS)
    """The query. May be left out with a photo."""
    item_id: ItemId
    """The item."""
    user: UserId | None = None
    """Who asked."""
    channel: Channel | None = None
    """``recall``, ``dense``, ``generative`` or ``hybrid``; left out: as a search chooses."""
    rank: bool | None = None
    """Whether the ranker says what it made of the item; left out: as a search chooses."""


class PhotoWhyForm(WhyParameters):
    """The same question for a search that had a photo."""

    photo: UploadFile | None = None
    """The photo that was searched with."""


class CodesParameters(Parameters):
    """How much of an item's neighbourhood is wanted."""

    k: int = Field(6, ge=1, le=MAX_K)
    """Most items named for each number of codes in common."""
    of: Literal["item", "title", "photo"] = "item"
    """What the ID is of: title and photo together, the title or the photo; one of those that the shop has."""


class CodeTreeParameters(Parameters):
    """Where in the tree of codes one looks, and how much of it is wanted."""

    prefix: str = Field("", max_length=MAX_PREFIX_CHARS, examples=["12.7"])
    """Codes with a full stop between them, the coarsest first: ``12.7``. Left out: the first codes of all IDs."""
    k: int = Field(MAX_BRANCH_ITEMS, ge=1, le=MAX_BRANCH_ITEMS)
    """Most items named for each code."""
    limit: int = Field(60, ge=1, le=MAX_K)
    """Most codes named; behind a whole ID, most items."""
    offset: int = Field(0, ge=0)
    """So many of the first are left out."""

    @field_validator("prefix")
    @classmethod
    def _prefix_is_codes(cls, prefix: str) -> str:
        if not re.fullmatch(r"([0-9]+(\.[0-9]+)*)?", prefix):
            raise ValueError("codes with full stops between them are wanted, such as 12.7")
        return prefix

    @property
    def codes(self) -> list[int]:
        """The prefix, code by code."""
        return [int(code) for code in self.prefix.split(".") if code]


class Item(Message):
    """An item as it is shown."""

    item_id: str
    title: str | None
    category: str | None
    brand: str | None
    merchant: str | None
    price: float | None
    cells: list[str]
    photo_url: str | None
    """Address of the photo, relative to the service; none where the item has no photo."""
    features: dict[str, Feature]
    """The catalogue's further columns, those with a value."""


class Placed(Message):
    """What a ranker made of an item."""

    place: int = Field(ge=1)
    """Where the channel had it; of ``/api/why`` without filters."""
    probability: float
    """That it is chosen where it is shown, as the ranker sees it."""


class Required(Message):
    """What each item of an answer has one of."""

    attribute: str
    """``category``, ``brand`` or ``merchant``."""
    values: list[str]
    """What was chosen under this query before."""


class Why(Message):
    """Why an item is where it is: what a side adds is ``unmasked`` less the score without it."""

    score: float
    """The score it was ranked by, from its stored vector."""
    unmasked: float
    """The same with the item encoded anew and nothing masked; it differs from ``score`` by rounding only."""
    without_title: float | None
    """As ``unmasked``, with the title masked; none where the item has none or the model reads no titles."""
    without_photo: float | None
    """As ``unmasked``, with the photo masked; none where the item has none or the model sees no photos."""
    without_clicks: float | None
    """As ``unmasked``, with what past choices have taught of this very item left out; none where the channel learns no
    such thing."""
    shared_words: list[str]
    """Words that the query and the title have in common."""
    found_by: dict[str, int] | None
    """Channel to the item's place there, where the channel is ``hybrid``; ``/api/why`` has places without filters."""
    ranked: Placed | None
    """None where no ranker looked at it."""
    required: Required | None
    """In channel ``recall``, what the answer was cut down to; none where that is nothing."""


class Hit(Message):
    """One item of an answer."""

    rank: int = Field(ge=1)
    item: Item
    score: float
    """Unbounded; comparable within one answer only."""
    why: Why | None = None


class CodeStep(Message):
    """The items that share so many codes with an item, and not one more."""

    codes_shared: int = Field(ge=1)
    num_items: int
    """How many they are."""
    hits: list[Hit]
    """The nearest of them, best first."""


class CodePath(Message):
    """An item's semantic ID, and the items near it by prefix."""

    codes: list[int]
    """One code a level, the coarsest first; none where the item has no such side."""
    steps: list[CodeStep]
    """From all codes in common down to one."""
    of: str
    """What it is the ID of: ``item`` (title and photo together), ``title`` or ``photo``."""
    sets: list[str]
    """What the shop has semantic IDs of."""


class CodeBranch(Message):
    """One code that follows a prefix."""

    code: int
    num_items: int
    """How many items go on with it."""
    hits: list[Hit]
    """Those that stand for them: the nearest to the mean of their vectors, best first; ``score`` is the cosine."""


class CodeTree(Message):
    """What follows a prefix of semantic IDs."""

    prefix: list[int]
    levels: int
    """Codes of a whole ID."""
    num_codes: int
    """Codes to choose from at each level."""
    num_items: int
    """How many items begin with the prefix."""
    num_branches: int
    """How many different codes follow it; 0 behind a whole ID."""
    branches: list[CodeBranch]
    """Those asked for, most items first."""
    hits: list[Hit]
    """Behind a whole ID, the items that share it, the nearest to the mean of their vectors first; else none."""


class SearchAnswer(Message):
    """The hits of a search, best first."""

    hits: list[Hit]
    num_items: int
    """Number of items in the catalogue."""
    channel: Channel
    """What found the hits: as asked, or ``popularity`` where nothing in the words is known."""
    ranked: bool
    """Whether a ranker put the first of them into its order."""
    note: str | None
    """A sentence for the visitor, where the answer is not quite what was asked for."""


class RecommendAnswer(Message):
    """The hits for a user, best first."""

    hits: list[Hit]
    num_items: int
    channel: Channel
    """What found the hits: as asked, or another where that one cannot answer this user or history."""
    personal: bool
    """False where the hits are what is popular, for instance of a user who is unknown or has no history."""
    note: str | None
    """A sentence for the visitor, where another channel answered than was asked."""


class NewItem(Message):
    """An item to be added; further columns of the catalogue may be given by their names."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, NewFeature] = Field(init=False)

    item_id: ItemId
    title: str | None = Field(None, max_length=MAX_TEXT_CHARS)
    photo: Photo | None = None
    """JPEG, PNG, WebP or GIF bytes in base64; ``limits`` of ``/api/info`` tells how large it may be."""
    category: Name | None = None
    brand: Name | None = None
    merchant: Name | None = None
    price: float | None = Field(None, allow_inf_nan=False)
    cells: list[Name] | None = Field(None, max_length=MAX_NAMES)

    @model_validator(mode="after")
    def _column_names_are_short(self) -> Self:
        if any(len(name) > MAX_NAME_CHARS for name in self.model_extra or ()):
            raise ValueError(f"the name of a column may have at most {MAX_NAME_CHARS} characters")
        return self

    def to_row(self) -> dict[str, Any]:
        """The engine's row, with only what was given."""
        return self.model_dump(exclude_none=True)


class NewItems(Parameters):
    """Items to be added, or to take the place of others, together."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"item_id": "new-1", "title": "red teapot"}]}]}
    )

    items: list[NewItem] = Field(min_length=1, max_length=MAX_NEW_ITEMS)


class ItemIds(Parameters):
    """Items to be removed together."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_ids": ["new-1"]}]})

    item_ids: list[ItemId] = Field(min_length=1, max_length=MAX_NEW_ITEMS)


class ChangedItems(Message):
    """What was changed."""

    item_ids: list[str]
    num_items: int
    """Number of items in the catalogue now."""


class Count(Message):
    """A value that a filter can take."""

    name: str
    count: int
    """Number of items that have it."""


class PriceRange(Message):
    """Lowest and highest price of the catalogue."""

    low: float
    high: float


class Facets(Message):
    """What can be filtered by."""

    categories: list[Count]
    cells: list[Count]
    price: PriceRange | None


class Limits(Message):
    """How much the service takes in."""

    photo_bytes: int
    """Largest photo, as a file."""
    photo_pixels: int
    """Largest photo, decoded."""
    items_bytes: int
    """Largest body of a request that adds items."""


class Serving(Message):
    """Which run answers."""

    run: str
    """Fingerprint of the run, as in the addresses of photos."""
    generation: int
    """How many runs this process has served, this one included: it grows by one when another takes over."""


class Info(Message):
    """What is being served."""

    version: str
    """Of the package."""
    serving: Serving
    num_items: int
    example_queries: list[str]
    """Frequent queries of the log, to try."""
    limits: Limits
    details: dict[str, Any]
    """Artefact ids, encoder and counts, as the engine tells them."""


class Status(Message):
    """The state of the service."""

    status: str


class Ready(Status):
    """The state of a service that can answer."""

    serving: Serving
