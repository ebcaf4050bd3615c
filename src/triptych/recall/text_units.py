"""Texts in three grains: characters, pairs of characters, words; and the rows of tables that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from triptych.data.ids import UNK, IdVocabulary
from triptych.data.text import folded, words

Cut = Callable[[str], list[str]]
"""Cuts a text that is written in one way (`data.text.folded`)."""


def characters(text: str) -> list[str]:
    """Return all but the blanks."""
    return [one for one in text if not one.isspace()]


def pairs(text: str) -> list[str]:
    """Return characters that stand side by side, blanks between none: red tie → re ed ti ie."""
    return [first + second for run in text.split() for first, second in pairwise(run)]


UNITS: Mapping[str, Cut] = {"characters": characters, "pairs": pairs, "words": words}
"""Name → how it is cut. Scripts without spaces have no words here but their pairs of characters (`data.text.words`)."""


def fit_units(texts: Iterable[str], *, name: str) -> IdVocabulary:
    """Give a row to each unit that occurs in some texts."""
    cut = UNITS[name]
    return IdVocabulary.fit([unit for text in folded(list(texts)) for unit in cut(text)])


def unit_rows(texts: Sequence[str], *, name: str, ids: IdVocabulary, most: int) -> NDArray[np.int32]:
    """Look up the units of texts.

    Args:
        texts: ``[n]``.
        name: which units.
        ids: their rows.
        most: units of a text, the first ones; the rest is not looked at.

    Returns:
        int32 ``[n, most]`` in their order, -1 behind the end; units without a row are passed over, since their
        vectors would have learned nothing.
    """
    cut = UNITS[name]
    units = [cut(text) for text in folded(texts)]
    rows = ids.rows([unit for one in units for unit in one])
    text = np.repeat(np.arange(len(units)), [len(one) for one in units])
    text, rows = text[rows != UNK], rows[rows != UNK]
    starts = np.searchsorted(text, np.arange(len(units)))
    inside = np.arange(len(text)) - starts[text]
    found = np.full((len(units), most), -1, dtype=np.int32)
    kept = inside < most
    found[text[kept], inside[kept]] = rows[kept]
    return found
