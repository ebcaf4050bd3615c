"""Tokens to states: word and position vectors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triptych.data.text import CLS, PAD, SEP

WORD_INIT_STD = 0.02
"""Standard deviation of new word, position and type vectors, as BERT's."""

LEAST_SAVING = 0.1
"""Share of a batch's tokens, padding included, that a cut must save: each part is a pass of its own."""
CUT_ROWS = 32
"""A cut falls on a multiple of this many rows, so that few shapes occur: oneDNN compiles its kernels for each new one,
which cost 6 % of a CPU's training time."""


class TokenStates(NamedTuple):
    """What a text slot gives."""

    states: Tensor
    """``[batch, tokens, dim]``; the first is that of ``[CLS]``, whatever else the texts hold."""
    keep: Tensor
    """bool ``[batch, tokens]``, False where there is nothing to attend to."""
    words: Tensor
    """bool ``[batch, tokens]``, what is kept but for ``[CLS]`` and ``[SEP]``."""


class TextEmbedding(nn.Module):
    """Learned word vectors plus learned positions, shared by queries and titles: the text slot's own filling."""

    def __init__(self, dim: int, *, vocab_size: int, max_tokens: int) -> None:
        """Make the tables.

        Args:
            dim: width of a token state.
            vocab_size: number of token ids.
            max_tokens: the longest text, ``[CLS]`` and ``[SEP]`` included.
        """
        super().__init__()
        self.words = nn.Embedding(vocab_size, dim)
        self.positions = nn.Embedding(max_tokens, dim)
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=WORD_INIT_STD)

    def forward(self, tokens: Tensor) -> TokenStates:
        """Embed token ids, int ``[batch, tokens]``, `PAD` after the end."""
        keep = tokens != PAD
        words = keep & (tokens != CLS) & (tokens != SEP)
        return TokenStates(self.words(tokens) + self.positions.weight[: tokens.shape[1]], keep, words)

    def cls(self) -> Tensor:
        """Return the state of ``[CLS]`` at position 0, ``[dim]``."""
        return self.words.weight[CLS] + self.positions.weight[0]


def trim(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """Cut columns that are padding in every row; at least ``[CLS]`` stays."""
    used = (tokens != PAD).any(axis=0)
    longest = int(used.nonzero()[0].max(initial=0)) + 1
    return tokens[:, :longest]


def text_tensor(tokens: NDArray[np.int32]) -> Tensor:
    """Trim token ids ``[batch, tokens]`` and hand them to torch."""
    return torch.from_numpy(np.ascontiguousarray(trim(tokens)))


def cut_by_length(lengths: NDArray[np.integer], *, parts: int) -> list[NDArray[np.int64]]:
    """Sort rows by length and cut them where padding each part to its own longest row costs least.

    A few long texts would otherwise stretch all: in a log of shop queries every second token of a batch was padding.

    Args:
        lengths: ``[rows]``, tokens of each row.
        parts: how many parts at most, 1 or 2; more save little and each costs a pass of its own.

    Returns:
        The rows of each part, shortest first; one part where a cut would save less than `LEAST_SAVING`.
    """
    order = np.argsort(lengths, kind="stable")
    if parts == 1 or len(order) <= CUT_ROWS:
        return [order]
    sorted_lengths = lengths[order]
    before = np.arange(CUT_ROWS, len(order), CUT_ROWS)
    padded = before * sorted_lengths[before - 1] + (len(order) - before) * sorted_lengths[-1]
    if padded.min() > (1 - LEAST_SAVING) * len(order) * sorted_lengths[-1]:
        return [order]
    cut = int(before[padded.argmin()])
    return [order[:cut], order[cut:]]
