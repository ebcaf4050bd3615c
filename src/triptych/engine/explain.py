"""Why an item was found: its score with the title or the photo hidden, and the words it shares with the query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from triptych.data.text import words
from triptych.encoders.embed import Embedder
from triptych.engine.answers import Channel, Why
from triptych.engine.shelf import Shelf


def explain_dense(
    query: str | None,
    vector: NDArray[np.float32],
    *,
    rows: Sequence[int],
    scores: Sequence[float],
    shelf: Shelf,
    embedder: Embedder,
) -> list[Why]:
    """Explain hits of the dense channel: encode each item twice more, once without title and once without photo.

    Args:
        query: words of the request, if it had any.
        vector: ``[dim]``, what was searched with.
        rows: the items.
        scores: their scores.
        shelf: titles and photos.
        embedder: the encoder that made the index.
    """
    if len(rows) == 0:
        return []
    titles = [shelf.title(row) for row in rows]
    _, has_photo = shelf.pixels(rows)
    reads = embedder.modalities
    nothing: list[str | None] = [None] * len(rows)
    without_title = shelf.encode(rows, titles=nothing, embedder=embedder) @ vector
    without_photo = embedder.items(titles) @ vector
    return [
        Why(
            score=score,
            without_title=float(without_title[place]) if reads.reads_title and titles[place] else None,
            without_photo=float(without_photo[place]) if reads.reads_photo and has_photo[place] else None,
            shared_words=shared_words(query, titles[place]),
        )
        for place, score in enumerate(scores)
    ]


def explain_plain(
    query: str | None, *, rows: Sequence[int], scores: Sequence[float], shelf: Shelf, channel: Channel
) -> list[Why]:
    """Explain hits of a channel without encoder: BM25 reads only titles (0 without), popularity nothing."""
    without_title = 0.0 if channel is Channel.BM25 else None
    return [
        Why(score, without_title, None, shared_words(query, shelf.title(row)))
        for row, score in zip(rows, scores, strict=True)
    ]


def shared_words(query: str | None, title: str | None) -> list[str]:
    """Return the query's words that stand in the title, once each, in the query's order."""
    in_title = set(words(title or ""))
    return [word for word in dict.fromkeys(words(query or "")) if word in in_title]
