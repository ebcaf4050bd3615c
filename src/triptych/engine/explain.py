"""Why an item was found: its score with the title or the photo hidden, and the words it shares with the query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.text import words
from triptych.encoders.embed import SMALL_REQUEST, Embedder
from triptych.engine.answers import Channel, Why
from triptych.engine.code_sets import Shown
from triptych.engine.shelf import Shelf

AT_ONCE = SMALL_REQUEST // 3
"""Items explained in one call of the encoder: each is encoded up to three times, and the call stays in float32."""


Fuse = Callable[[Shown], NDArray[np.float32]]
"""Items as they are to be seen → what a recall model makes of them ``[n, dim]``."""


class MaskedScores(NamedTuple):
    """Scores of items encoded anew, float32 ``[n]`` each. Where masking hides nothing, they are equal to the bit."""

    unmasked: NDArray[np.float32]
    without_title: NDArray[np.float32]
    without_photo: NDArray[np.float32]
    without_clicks: NDArray[np.float32]


def explain_dense(
    query: str | None,
    vector: NDArray[np.float32],
    *,
    rows: Sequence[int],
    scores: Sequence[float],
    shelf: Shelf,
    embedder: Embedder,
    fuse: Fuse | None = None,
    reads_ids: bool = True,
) -> list[Why]:
    """Explain hits of a channel of vectors: encode each item anew, whole, without title and without photo.

    Args:
        query: words of the request, if it had any.
        vector: ``[dim]``, what was searched with.
        rows: the items.
        scores: their scores, from the index.
        shelf: titles and photos.
        embedder: the encoder that made the index, or whose vectors the recall model reads that did.
        fuse: that recall model; None: there is none between.
        reads_ids: whether it has learned of single items.
    """
    reads = embedder.modalities
    whys: list[Why] = []
    for start in range(0, len(rows), AT_ONCE):
        block = rows[start : start + AT_ONCE]
        masked = masked_scores(vector, rows=block, shelf=shelf, embedder=embedder, fuse=fuse, reads_ids=reads_ids)
        _, has_photo = shelf.pixels(block)
        for place, (row, score) in enumerate(zip(block, scores[start : start + AT_ONCE], strict=True)):
            title = shelf.title(row)
            whys.append(
                Why(
                    score=score,
                    unmasked=float(masked.unmasked[place]),
                    without_title=float(masked.without_title[place]) if reads.reads_title and title else None,
                    without_photo=float(masked.without_photo[place])
                    if reads.reads_photo and has_photo[place]
                    else None,
                    without_clicks=None if fuse is None or not reads_ids else float(masked.without_clicks[place]),
                    shared_words=shared_words(query, title),
                )
            )
    return whys


def masked_scores(
    vector: NDArray[np.float32],
    *,
    rows: Sequence[int],
    shelf: Shelf,
    embedder: Embedder,
    fuse: Fuse | None = None,
    reads_ids: bool = True,
) -> MaskedScores:
    """Score items whole, without title and without photo, all encoded in one call and so in one precision.

    Each distinct input is encoded once: an item without a title is the same input with its title hidden, and so has the
    same score, which two passes would only approximate.

    Args:
        vector: ``[dim]``, what was searched with.
        rows: the items ``[n]``; `AT_ONCE` of them at most are encoded in float32.
        shelf: titles and photos.
        embedder: the encoder.
        fuse: as of `explain_dense`.
        reads_ids: likewise; where it has not, nothing is hidden without clicks.
    """
    pixels, has_photo = shelf.pixels(rows)
    reads = embedder.modalities
    inputs: dict[tuple[int, str | None, bool], int] = {}
    places = np.empty((3, len(rows)), np.int64)
    for place, row in enumerate(rows):
        title = shelf.text(row, features=embedder.title_features) if reads.reads_title or fuse else None
        photo = bool(has_photo[place]) and reads.reads_photo
        for side, (seen_title, seen_photo) in enumerate(((title, photo), (None, photo), (title, False))):
            places[side, place] = inputs.setdefault((place, seen_title, seen_photo), len(inputs))
    whose = [place for place, _, _ in inputs]
    others = None
    if embedder.photos > 1 and reads.reads_photo:
        other_pixels, there = shelf.other_pixels(rows, most=embedder.photos - 1)
        others = other_pixels[whose], there[whose]
    vectors = embedder.items(
        [title if reads.reads_title else None for _, title, _ in inputs],
        pixels=pixels[whose] if reads.reads_photo else None,
        has_photo=[photo for _, _, photo in inputs],
        others=others,
    )
    if fuse is None:
        whole, untitled, unseen = (vectors @ vector)[places]
        return MaskedScores(whole, untitled, unseen, whole)
    shown = Shown(
        [shelf.item_id(rows[place]) for place in whose],
        ["" if text is None else shelf.title(rows[place]) or "" for place, text, _ in inputs],
        [text for _, text, _ in inputs],
        vectors,
        pixels[whose],
        np.array([photo for _, _, photo in inputs], dtype=np.bool_),
        others,
    )
    whole, untitled, unseen = (fuse(shown) @ vector)[places]
    if not reads_ids:
        return MaskedScores(whole, untitled, unseen, whole)
    unknown = shown._replace(item_ids=[None] * len(whose))
    return MaskedScores(whole, untitled, unseen, (fuse(unknown) @ vector)[places[0]])


def explain_plain(
    query: str | None, *, rows: Sequence[int], scores: Sequence[float], shelf: Shelf, channel: Channel
) -> list[Why]:
    """Explain hits of a channel that reads no item: BM25 has their titles (0 without), popularity and codes nothing."""
    without_title = 0.0 if channel is Channel.BM25 else None
    return [
        Why(score, score, without_title, None, None, shared_words(query, shelf.title(row)))
        for row, score in zip(rows, scores, strict=True)
    ]


def explain_hybrid(
    query: str | None,
    *,
    rows: Sequence[int],
    scores: Sequence[float],
    places: Sequence[dict[str, int]],
    shelf: Shelf,
) -> list[Why]:
    """Explain hits of fused channels: by where each channel has them."""
    return [
        Why(score, score, None, None, None, shared_words(query, shelf.title(row)), found_by)
        for row, score, found_by in zip(rows, scores, places, strict=True)
    ]


def shared_words(query: str | None, title: str | None) -> list[str]:
    """Return the query's words that stand in the title, once each, in the query's order."""
    in_title = set(words(title or ""))
    return [word for word in dict.fromkeys(words(query or "")) if word in in_title]
