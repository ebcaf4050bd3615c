"""Attributes of items, the words that stand for their values, and those words in titles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from pydantic import Field

from triptych.foundation.config import Config


class Words(Config):
    """The words for one value of an attribute, lower-case."""

    own: tuple[str, ...] = ()
    """How titles say it, the plainest first; they are what a title loses."""
    synonyms: tuple[str, ...] = ()
    """How else people say it; titles seldom do."""


class Attribute(Config):
    """One column of the items table that shoppers name in queries."""

    column: str
    """Name of the column; its values are text, null where unknown."""
    visual: bool = False
    """A photo shows it: titles keep its words only with probability `title_keep`."""
    head: bool = False
    """It says what kind of thing an item is: every query names it. Exactly one attribute does."""
    weight: float = Field(1.0, ge=0)
    """How often a query names it beside the head, relative to the other attributes."""
    words: dict[str, Words] = Field({})
    """The lexicon: value → words. A value left out is said as it is written."""

    def of(self, value: str) -> Words:
        """Return the words for a value; `own` is never empty."""
        found = self.words.get(value, Words())
        return found if found.own else Words(own=(value.lower(),), synonyms=found.synonyms)

    def hints(self, value: str) -> list[str]:
        """Return every phrase that gives the value away: own words, their parts, and synonyms."""
        words = self.of(value)
        parts = [part for phrase in words.own for part in phrase.split() if len(part) > 2]
        return [*words.own, *parts, *words.synonyms]


def phrase_pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern that finds any of the phrases as whole words, longest first, spaces or hyphens inside."""
    ordered = sorted({phrase.lower() for phrase in phrases}, key=lambda phrase: (-len(phrase), phrase))
    bodies = (r"[\s-]+".join(re.escape(part) for part in phrase.split()) for phrase in ordered)
    return re.compile(rf"(?<!\w)(?:{'|'.join(bodies)})(?!\w)", re.IGNORECASE)


class TitleWords:
    """Finds and removes an attribute's words in titles."""

    def __init__(self, attribute: Attribute, values: Sequence[str]) -> None:
        """Compile the patterns of the values that occur."""
        self._attribute = attribute
        self._values = values
        self._own = {value: phrase_pattern(attribute.of(value).own) for value in values}
        self._hint = {value: phrase_pattern(attribute.hints(value)) for value in values}

    @cached_property
    def _removal(self) -> re.Pattern[str]:
        every = phrase_pattern(phrase for value in self._values for phrase in self._attribute.of(value).own).pattern
        # "grey and black", "red/white", "black & blue": the joining word goes with the words it joins
        return re.compile(rf"{every}(?:\s*(?:and|&|/|,|\+|-)\s*{every})*", re.IGNORECASE)

    def says(self, title: str, value: str) -> bool:
        """Whether the title has one of the value's own words."""
        return self._own[value].search(title) is not None

    def hints(self, title: str, value: str) -> bool:
        """Whether the title has any word that gives the value away."""
        return self._hint[value].search(title) is not None

    def said(self, titles: Iterable[str], value: str) -> dict[str, int]:
        """Count in how many titles each of the value's own words stands; words not found count 0."""
        lowered = [title.lower() for title in titles]
        own = self._attribute.of(value).own
        patterns = {phrase: phrase_pattern([phrase]) for phrase in own}
        return {phrase: sum(1 for t in lowered if pattern.search(t)) for phrase, pattern in patterns.items()}

    def without(self, title: str, *, keep: int) -> str:
        """Return the title without the own words of *any* value of the attribute.

        Args:
            title: the title.
            keep: number of leading characters left alone (brand and model names: "Red Tape", "Nautica Blue").
        """
        rest = self._removal.sub(" ", title[keep:])
        return re.sub(r"\s{2,}", " ", title[:keep] + rest).strip(" -/&,+")


def read_lexicon(text: str) -> dict[str, Words]:
    """Parse lines ``value: own, words | synonyms, and more`` into a lexicon."""
    lexicon = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        value, words = line.split(": ", 1)
        own, _, synonyms = words.partition("|")
        lexicon[value] = Words(own=_phrases(own), synonyms=_phrases(synonyms))
    return lexicon


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split(",") if phrase.strip())
