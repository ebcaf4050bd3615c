"""Rows of a batch taken apart and put together again: in chunks, and in parts of like length.

Texts are padded to the longest that is read with them. Cut into short and long ones, each part is padded to its own;
attention gives padding a weight of exactly 0, so that what is put together is, but for rounding, what reading all at
once would have given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.text import PAD
from triptych.encoders.inputs import ItemInputs, ItemReading, QueryReading, Tokens
from triptych.encoders.text import cut_by_length

Inputs = TypeVar("Inputs", Tensor, ItemInputs)
Reading = TypeVar("Reading", Tensor, QueryReading, ItemReading)

LEAST_TOKENS = 2
"""[CLS] and a place for a word: fewer are laid out as no text at all."""


class LengthParts(NamedTuple):
    """How texts are cut."""

    rows: tuple[Tensor, ...]
    """int64 ``[rows of the part]``, short texts first."""
    widths: tuple[int, ...]
    """Tokens of each part; the last's are those of all."""
    place: Tensor
    """int64 ``[rows]``, where each row is in the parts, one behind the other."""


def length_parts(tokens: NDArray[np.int32]) -> LengthParts | None:
    """Cut texts by their length, where that saves enough (`cut_by_length`).

    Args:
        tokens: ``[rows, tokens]``, `PAD` after the end.

    Returns:
        None where they are best read at once.
    """
    lengths = (tokens != PAD).sum(axis=1)
    cut = cut_by_length(lengths, parts=2)
    if len(cut) == 1:
        return None
    widths = [max(int(lengths[rows].max()), LEAST_TOKENS) for rows in cut[:-1]]
    return LengthParts(
        rows=tuple(torch.from_numpy(rows) for rows in cut),
        widths=(*widths, tokens.shape[1]),
        place=torch.from_numpy(np.argsort(np.concatenate(cut))),
    )


def parts_of(inputs: Inputs, parts: LengthParts) -> list[Inputs]:
    """Cut token ids ``[rows, tokens]``, or items with their titles."""
    return [_trimmed(take_rows(inputs, rows), width) for rows, width in zip(parts.rows, parts.widths, strict=True)]


def whole_of(readings: Sequence[Reading], parts: LengthParts) -> Reading:
    """Make of what the parts gave what the whole would have; where it differs, it is padding."""
    last = readings[-1]
    found: Reading = take_rows(join_rows([_widened(one, like=last) for one in readings]), parts.place)
    return found


def num_rows(inputs: Any) -> int:
    """Count the rows of a tensor, of items, or of a tuple of tensors."""
    if isinstance(inputs, ItemInputs):
        return len(inputs.has_title)
    return len(inputs) if isinstance(inputs, Tensor) else len(inputs[0])


def take_rows(inputs: Any, rows: Tensor | slice) -> Any:
    """Take rows of every tensor of a tuple or NamedTuple of tensors, or of such tuples."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    if isinstance(inputs, tuple):
        parts = [take_rows(one, rows) for one in inputs]
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else tuple(parts)
    return inputs


def join_rows(parts: Sequence[Any]) -> Any:
    """Join the rows of every tensor again; what is no tensor is alike in all parts."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, tuple):
        joined = [join_rows(each) for each in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else tuple(joined)
    return first


def _trimmed(inputs: Inputs, width: int) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs[:, :width]
    tokens = inputs.title_tokens
    return inputs if tokens is None else inputs._replace(title_tokens=tokens[:, :width])


def _widened(reading: Reading, *, like: Reading) -> Reading:
    """Put padding behind the text, so that all else is where the reading of the longest texts has it."""
    if isinstance(reading, QueryReading) and isinstance(like, QueryReading):
        end = reading.tokens.states.shape[1]
        lacking = like.tokens.states.shape[1] - end
        return reading._replace(tokens=_with_padding(reading.tokens, at=end, count=lacking))
    if isinstance(reading, ItemReading) and isinstance(like, ItemReading):
        own, longest = reading.places.title, like.places.title
        if own is not None and longest is not None:
            lacking = like.tokens.states.shape[1] - reading.tokens.states.shape[1]
            tokens = _with_padding(reading.tokens, at=own.stop, count=lacking)
            return reading._replace(tokens=tokens, places=like.places)
    return reading


def _with_padding(tokens: Tokens, *, at: int, count: int) -> Tokens:
    if count == 0:
        return tokens
    states, keep = tokens
    empty = states.new_zeros(len(states), count, states.shape[2])
    return Tokens(
        torch.cat([states[:, :at], empty, states[:, at:]], dim=1),
        torch.cat([keep[:, :at], keep.new_zeros(len(keep), count), keep[:, at:]], dim=1),
    )
