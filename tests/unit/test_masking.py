"""Masked words and blanked patches: how many, which, and what stands in their place."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.data.masking import MASKED_RATE, REPLACED_RATE, choose_patches, mask_words
from triptych.data.text import CLS, MASK, PAD, SEP, UNK

SPECIAL = np.array([PAD, CLS, SEP, MASK, UNK, 40], dtype=np.int32)
"""The last of them amid the words, as in a pretrained model's vocabulary."""
VOCAB = 60


def texts(lengths: list[int], *, width: int, seed: int = 0) -> np.ndarray:
    """Texts of so many words: ``[CLS] words [SEP]``, then padding."""
    rng = np.random.default_rng(seed)
    words = np.setdiff1d(np.arange(VOCAB), SPECIAL)
    tokens = np.full((len(lengths), width), PAD, dtype=np.int32)
    tokens[:, 0] = CLS
    for row, length in zip(tokens, lengths, strict=True):
        row[1 : 1 + length] = rng.choice(words, size=length)
        row[1 + length] = SEP
    return tokens


def mask(tokens: np.ndarray, *, rate: float = 0.15, seed: int = 0, **settings):
    given = {"special_ids": SPECIAL, "vocab_size": VOCAB, **settings}
    return mask_words(tokens, rate=rate, mask_id=MASK, rng=np.random.default_rng(seed), **given)


def near(share: float, expected: float, *, draws: int) -> bool:
    return abs(share - expected) < 4.5 * np.sqrt(expected * (1 - expected) / draws)


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_words_are_chosen_at_the_rate_and_shown_as_bert_does(rate: float):
    tokens = texts([80] * 1_000, width=82)  # so long that there is nearly always one by chance
    found = mask(tokens, rate=rate)
    is_word = ~np.isin(tokens, SPECIAL)
    assert not found.chosen[~is_word].any()
    assert near(found.chosen[is_word].mean(), rate, draws=int(is_word.sum()))
    truth, shown = tokens[found.chosen], found.tokens[found.chosen]
    draws, num_words = len(truth), VOCAB - len(SPECIAL)
    assert near((shown == MASK).mean(), MASKED_RATE, draws=draws)
    assert near(((shown != MASK) & (shown != truth)).mean(), REPLACED_RATE * (1 - 1 / num_words), draws=draws)
    replaced = shown[(shown != MASK) & (shown != truth)]
    assert set(replaced.tolist()) == set(range(VOCAB)) - set(SPECIAL.tolist())  # by any word, by nothing else
    assert (found.tokens[~found.chosen] == tokens[~found.chosen]).all()


def test_every_text_with_a_word_has_one_chosen():
    lengths = [0, 1, 2, 3, 1, 0, 5] * 100
    tokens = texts(lengths, width=8)
    found = mask(tokens, rate=0.01)
    assert (found.chosen.any(axis=1) == (np.array(lengths) > 0)).all()
    assert (found.tokens[np.array(lengths) == 0] == tokens[np.array(lengths) == 0]).all()
    # any place of a text is as likely as any other
    three = found.chosen[np.array(lengths) == 3][:, 1:4]
    five = mask(texts([5] * 6_000, width=7), rate=0.01, seed=3).chosen[:, 1:6].mean(axis=0)
    assert len(three) == 100
    assert all(near(share, five.mean(), draws=6_000) for share in five)


def test_texts_of_nothing_but_marks_are_left_alone():
    tokens = np.array([[CLS, UNK, UNK, SEP, PAD], [CLS, SEP, PAD, PAD, PAD], [PAD] * 5], dtype=np.int32)
    found = mask(tokens, rate=0.9)
    assert not found.chosen.any()
    assert (found.tokens == tokens).all()
    nothing = mask(tokens[:0])
    assert nothing.tokens.shape == nothing.chosen.shape == (0, 5)


def test_masking_depends_on_the_generator_only_and_changes_nothing_in_place():
    tokens = texts([6] * 50, width=8)
    before = tokens.copy()
    first, again, other = mask(tokens, seed=1), mask(tokens, seed=1), mask(tokens, seed=2)
    assert (tokens == before).all()
    assert (first.tokens == again.tokens).all()
    assert (first.chosen == again.chosen).all()
    assert (first.chosen != other.chosen).any()
    assert first.tokens.dtype == np.int32


def test_a_vocabulary_without_words_replaces_none():
    tokens = np.array([[CLS, 7, 7, 7, SEP]] * 50, dtype=np.int32)
    found = mask(tokens, rate=0.9, special_ids=np.array([0, 1, 2, 3, 4], dtype=np.int32), vocab_size=5)
    assert set(found.tokens[found.chosen].tolist()) == {MASK, 7}


@pytest.mark.parametrize(("num_patches", "rate", "count"), [(16, 0.25, 4), (64, 0.25, 16), (4, 0.01, 1), (4, 0.99, 3)])
def test_so_many_patches_of_every_photo(num_patches: int, rate: float, count: int):
    has_photo = np.arange(4_000) % 4 != 0
    rng = np.random.default_rng(0)
    chosen = choose_patches(has_photo, num_patches=num_patches, rate=rate, rng=rng)
    assert chosen.shape == (4_000, num_patches)
    assert (chosen.sum(axis=1) == np.where(has_photo, count, 0)).all()
    assert all(near(share, count / num_patches, draws=3_000) for share in chosen[has_photo].mean(axis=0))
    again = choose_patches(has_photo, num_patches=num_patches, rate=rate, rng=np.random.default_rng(0))
    assert (chosen == again).all()
    assert (chosen != choose_patches(has_photo, num_patches=num_patches, rate=rate, rng=rng)).any()


def test_pairs_of_patches_are_chosen_apart():
    """Every pair of four is as likely as any other."""
    chosen = choose_patches(np.ones(6_000, bool), num_patches=4, rate=0.5, rng=np.random.default_rng(0))
    pairs = np.unique(chosen, axis=0, return_counts=True)[1]
    assert len(pairs) == 6
    assert all(near(count / 6_000, 1 / 6, draws=6_000) for count in pairs)
