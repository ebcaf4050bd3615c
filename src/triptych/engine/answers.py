"""What the engine answers with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple


class Channel(StrEnum):
    """How candidates are found and ordered."""

    RECALL = "recall"
    """By what was chosen under such queries, and by meaning: the recall model's vectors, of IDs and content."""
    DENSE = "dense"
    """By meaning: the encoder's vectors of query and item, title and photo."""
    GENERATIVE = "generative"
    """By what a decoder says under such words: semantic IDs of items, code by code."""
    BM25 = "bm25"
    """By shared words of query and title."""
    POPULARITY = "popularity"
    """By past choices, whatever the query."""
    ITEM_KNN = "item_knn"
    """By what the same users chose; of users and histories, not of searches."""
    HYBRID = "hybrid"
    """By several of these, fused into one list."""


class Placed(NamedTuple):
    """What a ranker made of a hit."""

    place: int
    """Where the channel had it, from 1 up."""
    probability: float
    """That it is chosen where it is shown, as the ranker sees it: what the answer is ordered by."""


class Required(NamedTuple):
    """What each item of an answer has one of: relevance control."""

    attribute: str
    """category, brand or merchant."""
    values: list[str]
    """What was chosen under this query in training, in alphabetical order."""


class Why(NamedTuple):
    """Why an item stands where it does.

    What a side adds is ``unmasked - without_title`` or ``unmasked - without_photo``: these three come from one encoding
    of the item, in float32. `score` is not among them: its vector was encoded before, in bulk (in bfloat16 where the
    hardware gains by it), and is stored in float16, so the two differ by that rounding.
    """

    score: float
    """The score the item was ranked by, from its stored vector."""
    unmasked: float
    """The same score with the item encoded anew and nothing hidden. In a channel without encoder it is `score`."""
    without_title: float | None
    """As `unmasked`, with the title hidden; None where the item has none or the channel reads none."""
    without_photo: float | None
    """As `unmasked`, with the photo hidden; None where the item has none or the channel reads none."""
    without_clicks: float | None
    """As `unmasked`, with what training learned of this very item hidden: the same where that is nothing. None where
    the channel learns nothing of single items."""
    shared_words: list[str]
    """Words of the query that stand in the title, in the query's order."""
    found_by: dict[str, int] | None = None
    """Channel → the item's place there, from 1 up, in channel hybrid; None in any other."""
    ranked: Placed | None = None
    """Where it was before the ranker, and why that moved it; None where none did."""
    required: Required | None = None
    """In channel recall, what the query asks for, so that nothing else is among its hits; None where that is nothing,
    as it is without relevance control."""


class CodePath(NamedTuple):
    """An item's semantic ID, and the items that are near it by prefix: a walk from its own shelf to the whole hall."""

    codes: list[int]
    """One code a level, the coarsest first."""
    steps: list[CodeStep]
    """From all codes in common down to one."""
    of: str = "item"
    """What it is the ID of: item (title and photo together), title or photo. An item without that side has no codes."""
    sets: Sequence[str] = ("item",)
    """What the shop has semantic IDs of."""


class CodeStep(NamedTuple):
    """The items that share so many codes with an item, and not one more."""

    codes_shared: int
    num_items: int
    """How many they are, the item itself not counted."""
    hits: list[Hit]
    """Those of them that are nearest by content, best first."""


class CodeTree(NamedTuple):
    """What is below a prefix of semantic IDs: a step into the tree of codes."""

    prefix: list[int]
    """The codes that all IDs below begin with, the coarsest first; none: the whole tree."""
    levels: int
    """Codes of a whole ID."""
    num_codes: int
    """Codes to choose from at each level."""
    num_items: int
    """Items below the prefix."""
    num_branches: int
    """Different codes that follow it; 0 behind a whole ID."""
    branches: list[CodeBranch]
    """Some of them, those with the most items first."""
    hits: list[Hit]
    """Behind a whole ID, some of the items that share it, the nearest to their centre first; else none."""


class CodeBranch(NamedTuple):
    """One code that follows a prefix."""

    code: int
    num_items: int
    """Items whose ID goes on with it."""
    hits: list[Hit]
    """Those of them that stand for the others: the nearest to their centre, best first."""


class Hit(NamedTuple):
    """One item of an answer."""

    item_row: int
    """Its row; rows of added items follow those of the catalogue."""
    item_id: str
    """Its outside id."""
    score: float
    """The channel's, unbounded; comparable within one answer only. Where a ranker has ordered the answer, it does not
    fall from hit to hit."""
    why: Why | None = None
    """The explanation, where it was asked for."""
    channel: Channel = Channel.DENSE
    """What found it: see `Answer.channel`."""
    ranked: Placed | None = None
    """What a ranker made of it; None: none has looked at it."""


class Answer(list[Hit]):
    """The hits of one request, best first, and what has to be said of them.

    A list, because the hits are what nearly everybody wants of it; a slice or a copy of it is a plain list.
    """

    def __init__(self, hits: Iterable[Hit] = (), *, channel: Channel = Channel.DENSE, note: str | None = None) -> None:
        """Put hits together with what found them.

        Args:
            hits: best first.
            channel: what found them. By `popularity` where that was asked for, or where there was nothing else to go
                by: a query in which nothing is known, a user without history.
            note: a sentence for whoever asked, where the answer is not quite what was asked for; else None.
        """
        super().__init__(hits)
        self.channel = channel
        self.note = note

    @property
    def is_ranked(self) -> bool:
        """Whether a ranker has put the first of them into its order."""
        return any(hit.ranked is not None for hit in self)


class Facets(NamedTuple):
    """What can be filtered by."""

    categories: dict[str, int]
    """Category → number of items, most first."""
    cells: dict[str, int]
    """Delivery cell → number of items, most first."""
    price: tuple[float, float] | None
    """Lowest and highest price; None where no item has one."""
