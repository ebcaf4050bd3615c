"""What has to be said of an answer: that nothing in the query is known here, and what was done about it.

An encoder gives every text a vector. Where it knows no character of a query (emoji, a script that no title has), that
vector is the same for all such queries and its neighbours mean nothing; an answer by it would be a guess that looks
like a result. So there is none: what is popular is shown, or the photo decides alone, and a note says so.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from triptych.data.text import SPECIAL_TOKENS, UNK, WORD_START, AnyTokenizer

SHOWN_CHARS = 40
"""Longest part of a query that a note repeats."""

_CONTENT = ("L", "N", "S")
"""Unicode's letters, numbers and symbols. What is only punctuation, accents or spaces asks for nothing."""


def is_known(query: str, *, tokenizer: AnyTokenizer) -> bool:
    """Say whether the encoder knows a letter, digit or symbol of a query."""
    pieces = (piece.removeprefix(WORD_START) for piece in tokenizer.pieces(query) if piece != SPECIAL_TOKENS[UNK])
    return any(unicodedata.category(character).startswith(_CONTENT) for piece in pieces for character in piece)


def nothing_known(query: str, *, so: str | None = None) -> str:
    """Say that nothing in a query is known.

    Args:
        query: the query; its beginning is repeated, without what cannot be seen.
        so: what follows from it, e.g. ``"these are the most popular items"``; None where nothing does.
    """
    return f"Nothing in {_shown(query) or 'the query'} is known here{f', so {so}' if so else ''}; try other words."


def no_shared_word(query: str) -> str:
    """Say that no title has a word of the query."""
    return f"No title has a word of {_shown(query) or 'the query'}; channel 'dense' also finds other wordings."


def left_out(channels: Sequence[str]) -> str:
    """Say which channels of a hybrid do not read what was asked."""
    return f"Channel {' and '.join(channels)} cannot read this search, so the others answer it without."


def no_history(user: str) -> str:
    """Say that a recommendation is not personal."""
    return f"Nothing is known of user {_shown(user)}, so these are the most popular items."


def empty_history() -> str:
    """Say that a recommendation by a history was not personal."""
    return "Nothing was chosen before, so these are the most popular items."


def by_content(user: str | None, *, channel: str, reads_histories: bool) -> str:
    """Say that a channel could not answer, and the encoder did.

    Args:
        channel: the one that was asked.
        user: who asks; None: a history was given.
        reads_histories: whether it goes by what was chosen.
    """
    if reads_histories:
        why = f"Channel {channel} knows nothing that was chosen"
    elif user is None:
        why = f"Channel {channel} goes by who asks, not by what was chosen"
    else:
        why = f"Channel {channel} has not met user {_shown(user)}"
    return f"{why}, so these are near what was chosen before by content (channel dense)."


def _shown(text: str) -> str:
    """Quote what a visitor typed, shortened and without what cannot be seen; empty where nothing can."""
    seen = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return "" if not seen else f"'{seen}'" if len(seen) <= SHOWN_CHARS else f"'{seen[:SHOWN_CHARS]}…'"
