"""BM25 over titles, by bm25s, on our own words: the baseline that a learned search has to beat, and its companion.

    score(query, title) = sum over the query's words w:  idf(w) · tf / (tf + k1 · (1 - b + b · length / mean length))

with tf the word's count in the title and lengths in words; a word twice in the query counts twice. Lucene:
idf = ln(1 + (N - n + 0.5) / (n + 0.5)), always positive. Robertson: idf = ln((N - n + 0.5) / (n + 0.5)), and 0 where
that is negative. Source: Kamphuis et al. 2020, "Which BM25 do you mean?"; like Lucene since version 8, both leave
out the constant factor k1 + 1.

Words are those of `data.text.words`: lower case, NFKC, pairs of characters for scripts without spaces.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import bm25s
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.data.text import words
from triptych.foundation.artifact import write_json
from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import FloatArray, Request, RetrieverConfig, rank

CONFIG_FILE, VOCABULARY, TOKENS, OFFSETS, INDEX = "config.json", "vocabulary.json", "tokens.npy", "offsets.npy", "bm25s"


class Variant(StrEnum):
    """Which inverse document frequency."""

    LUCENE = "lucene"
    ROBERTSON = "robertson"


class Bm25Config(RetrieverConfig):
    """BM25's constants; the defaults are Lucene's."""

    kind: Literal["bm25"] = "bm25"
    """Name of the file that defines it."""
    variant: Variant = Variant.LUCENE
    """Inverse document frequency: lucene (always positive) or robertson (0 for words of more than half the titles)."""
    k1: float = Field(1.2, ge=0)
    """How slowly a repeated word stops counting; 0 counts presence only."""
    b: float = Field(0.75, ge=0, le=1)
    """How much a long title is held against its words."""


CONFIG = Bm25Config


class _Titles(NamedTuple):
    """All titles as numbers of words, end to end."""

    vocabulary: dict[str, int]
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def extended(self, titles: Sequence[str]) -> _Titles:
        """Return these titles and the new ones; new words are numbered in order of appearance."""
        vocabulary = dict(self.vocabulary)
        split = [words(title) for title in titles]
        new = [vocabulary.setdefault(word, len(vocabulary)) for title in split for word in title]
        ends = self.offsets[-1] + np.cumsum([len(title) for title in split], dtype=np.int64)
        tokens = np.concatenate([self.tokens, np.asarray(new, dtype=np.int32)])
        return _Titles(vocabulary, tokens, np.concatenate([self.offsets, ends]))

    def emptied(self, rows: Sequence[int]) -> _Titles:
        """Return these titles with some of them empty; the words keep their numbers."""
        lengths = np.diff(self.offsets)
        kept = np.ones(len(lengths), np.bool_)
        kept[list(rows)] = False
        offsets = np.concatenate([[0], np.cumsum(lengths * kept)]).astype(np.int64)
        return self._replace(tokens=self.tokens[np.repeat(kept, lengths)], offsets=offsets)

    def scored(self, config: Bm25Config) -> bm25s.BM25 | None:
        """Compute every word's score in every title; None where there is no word at all."""
        if not len(self.tokens):
            return None
        index = bm25s.BM25(method=config.variant.value, k1=config.k1, b=config.b)
        flat = self.tokens.tolist()
        titles = [flat[start:end] for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True)]
        # By numbers: given words, bm25s would number them in the order of a hash table, other bytes in every process.
        index.index((titles, self.vocabulary), create_empty_token=False, show_progress=False)
        return index


class Bm25:
    """BM25 over the titles. An item that shares no word with the query is no hit."""

    name = "bm25"

    def __init__(self, titles: _Titles, index: bm25s.BM25 | None, *, config: Bm25Config) -> None:
        """Wrap numbered titles and their index; use `fit` or `load`."""
        self._titles, self._index, self._config = titles, index, config

    @classmethod
    def fit(cls, titles: Sequence[str], *, config: Bm25Config | None = None) -> Self:
        """Index titles.

        Args:
            titles: ``[items]``, by item row; "" for an item without title.
            config: BM25's constants.
        """
        config = config or Bm25Config()
        numbered = _Titles({}, np.empty(0, np.int32), np.zeros(1, np.int64)).extended(titles)
        return cls(numbered, numbered.scored(config), config=config)

    @property
    def num_items(self) -> int:
        """Number of titles, empty ones included."""
        return len(self._titles.offsets) - 1

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k best titles for each query; fewer where fewer share a word with it.

        Raises:
            EngineError: a request has no query text.
        """
        hits = Hits.empty(len(requests), k)
        for place, request in enumerate(requests):
            if request.query is None:
                raise EngineError("bm25 compares words: give a query text, or use channel 'dense'.")
            scores = self.scores(request.query)
            wanted = scores > 0 if request.keep is None else (scores > 0) & request.keep
            own = rank(np.where(wanted, scores, np.float32(-np.inf))[None], k=k)
            hits.item_rows[place], hits.scores[place] = own.item_rows[0], own.scores[0]
        return hits

    def scores(self, query: str) -> FloatArray:
        """Return the score of every title, float32 ``[items]``; 0 where no word is shared."""
        known = [self._titles.vocabulary[word] for word in words(query) if word in self._titles.vocabulary]
        if self._index is None or not known:
            return np.zeros(self.num_items, np.float32)
        scores: FloatArray = self._index.get_scores_from_ids(known)
        return scores

    def with_items(self, titles: Sequence[str], *, without: Sequence[int] = ()) -> Self:
        """Return the same with titles appended.

        Every word's frequency changes, so all titles are indexed again: about 0.1 ms each, a second for 10,000. Add
        many at a time.

        Args:
            titles: of the new items; "" for one without title.
            without: rows of items that are no more; their titles become empty.
        """
        changed = self._titles.emptied(without) if len(without) else self._titles
        changed = changed.extended(titles)
        return type(self)(changed, changed.scored(self._config), config=self._config)

    def save(self, folder: Path) -> None:
        """Write the numbered titles, and bm25s' own files in a folder of theirs; npy and JSON only."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, self._config.dump())
        write_json(folder / VOCABULARY, list(self._titles.vocabulary))
        np.save(folder / TOKENS, self._titles.tokens)
        np.save(folder / OFFSETS, self._titles.offsets)
        if self._index is not None:
            self._index.save(folder / INDEX, show_progress=False, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the scores are memory-mapped."""
        config = Bm25Config.load(folder / CONFIG_FILE)
        vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        arrays: list[NDArray[Any]] = [np.load(folder / name, allow_pickle=False) for name in (TOKENS, OFFSETS)]
        titles = _Titles({word: number for number, word in enumerate(vocabulary)}, *arrays)
        index = None
        if len(titles.tokens):
            options = {"mmap": True, "load_vocab": False, "allow_pickle": False, "show_progress": False}
            index = bm25s.BM25.load(folder / INDEX, **options)
        return cls(titles, index, config=config)
