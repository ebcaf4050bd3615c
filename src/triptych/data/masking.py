"""Masking words of texts and patches of photos, so that a model can be asked for them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MASKED_RATE, REPLACED_RATE = 0.8, 0.1
"""Of the chosen words, the share shown as the mask and the share shown as another word; the rest is shown as it is, so
that the states of words in sight are worth something too (BERT)."""


class MaskedWords(NamedTuple):
    """Texts of which some words are to be guessed."""

    tokens: NDArray[np.int32]
    """``[texts, tokens]``, as they are shown."""
    chosen: NDArray[np.bool_]
    """``[texts, tokens]``, which words are to be guessed."""


def mask_words(
    tokens: NDArray[np.int32],
    *,
    rate: float,
    mask_id: int,
    special_ids: NDArray[np.int32],
    vocab_size: int,
    rng: np.random.Generator,
) -> MaskedWords:
    """Choose words to be guessed, at least one of every text that has a word, and hide most of them.

    Source: Devlin et al., "BERT", 2019, section 3.1; at least one of each text is ours, since most queries have fewer
    than six words (proposed in the Taobao reconstruction).

    Args:
        tokens: int32 ``[texts, tokens]``.
        rate: share of a text's words that is chosen, by chance.
        mask_id: what stands in the place of a hidden word.
        special_ids: ids that are never chosen.
        vocab_size: number of ids; other words are drawn from them.
        rng: source of the draws.
    """
    is_word = ~np.isin(tokens, special_ids)
    luck = rng.random(tokens.shape)
    luckiest = np.where(is_word, luck, np.inf).argmin(axis=1)
    chosen = is_word & (luck < rate)
    chosen[np.arange(len(tokens)), luckiest] |= is_word[np.arange(len(tokens)), luckiest]
    fate = rng.random(tokens.shape)
    words = np.setdiff1d(np.arange(vocab_size, dtype=np.int32), special_ids)
    shown = tokens.copy()
    shown[chosen & (fate < MASKED_RATE)] = mask_id
    replaced = chosen & (fate >= MASKED_RATE) & (fate < MASKED_RATE + REPLACED_RATE)
    if len(words):
        shown[replaced] = rng.choice(words, size=int(replaced.sum()))
    return MaskedWords(shown, chosen)


def choose_patches(
    has_photo: NDArray[np.bool_], *, num_patches: int, rate: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose the same number of patches of every photo, at least one and not all.

    Args:
        has_photo: bool ``[items]``; nothing is chosen where there is no photo.
        num_patches: of a photo.
        rate: share that is chosen.
        rng: source of the draws.

    Returns:
        bool ``[items, patches]``.
    """
    count = min(max(1, round(rate * num_patches)), max(num_patches - 1, 1))
    order = rng.random((len(has_photo), num_patches)).argsort(axis=1).argsort(axis=1)
    chosen: NDArray[np.bool_] = (order < count) & has_photo[:, None]
    return chosen
