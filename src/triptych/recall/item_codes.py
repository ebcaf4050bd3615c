"""Semantic IDs of a catalogue's items as models read them, and IDs that are almost theirs, to be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.errors import DataError
from triptych.nn.code_tokens import CodeSet
from triptych.recall.base import BoolArray, IntArray
from triptych.recall.code_trie import CodeTrie


@dataclass(frozen=True, eq=False)
class ItemCodes:
    """The semantic IDs of items by one quantiser."""

    codes: NDArray[Any]
    """``[items, levels]``, whole numbers; -1 at every level of an item that has none."""
    codebooks: NDArray[np.float32]
    """``[levels, num_codes, code_dim]``, what the codes stand for."""

    @property
    def shape(self) -> CodeSet:
        """Levels and codes."""
        return CodeSet(*self.codebooks.shape[:2])

    def check(self, *, num_items: int, name: str, all_have: bool) -> None:
        """Refuse IDs that are of other items, or that the codebooks do not know.

        Args:
            num_items: of the catalogue.
            name: of the set, for the message.
            all_have: whether every item must have one.

        Raises:
            DataError: so they are.
        """
        told = f"semantic IDs ({name})"
        if self.codebooks.ndim != 3 or not np.isfinite(self.codebooks).all():
            raise DataError(f"{told}: codebooks must be finite numbers [levels, codes, dim]. Make the IDs again.")
        levels, num_codes = self.shape
        if self.codes.shape != (num_items, levels) or self.codes.dtype.kind not in "iu":
            raise DataError(
                f"{told}: codes are {list(self.codes.shape)} of {self.codes.dtype}, and the {num_items:,} items of the "
                f"catalogue take whole numbers [{num_items}, {levels}]. Assign them to the items of this catalogue."
            )
        codes = self.codes.astype(np.int64)
        has = codes >= 0
        if int(codes.max(initial=0)) >= num_codes or int(codes.min(initial=0)) < -1:
            raise DataError(f"{told}: a code is outside 0..{num_codes - 1}. Give the codebooks that the codes are of.")
        if (has.any(axis=1) != has.all(axis=1)).any():
            raise DataError(f"{told}: an item has codes of some levels only. Give all of them, or -1 at each.")
        if all_have and not has.all():
            row = int(np.flatnonzero(~has[:, 0])[0])
            raise DataError(f"{told}: item row {row} has none. Every item must have an ID of the first set.")


def check_item_codes(sets: Sequence[ItemCodes], *, num_items: int) -> None:
    """Check the sets of a model; the first is that of the fused items, which all have one.

    Raises:
        DataError: as `ItemCodes.check`.
    """
    for number, one in enumerate(sets):
        one.check(num_items=num_items, name=f"set {number + 1}", all_have=number == 0)


def joined(sets: Sequence[ItemCodes]) -> IntArray:
    """Return the codes of all sets side by side, int64 ``[items, levels of all sets]``."""
    return np.concatenate([one.codes.astype(np.int64) for one in sets], axis=1)


class CodeNegatives:
    """Draws IDs that are almost an item's: those of its nearest relatives, and its own with one code replaced.

    Source: the SMGR reconstruction, section 6.2. Its relatives share all codes but the last; where there is none,
    ours share the longest prefix that any other item's ID has. Relatives are items that training knows: the IDs of
    those that come later must not be learned as wrong answers. A replaced code is drawn of all, whoever may have that
    ID.
    """

    def __init__(self, sets: Sequence[ItemCodes], *, known: BoolArray | None = None) -> None:
        """Sort the IDs of the first set, which says who is whose relative.

        Args:
            sets: of IDs.
            known: ``[items]``, who may be drawn, and be asked for; None: all.
        """
        first = sets[0]
        self._codes, self._levels, self._num_codes = joined(sets), *first.shape
        rows = np.arange(len(first.codes)) if known is None else np.flatnonzero(known)
        trie = CodeTrie.build(first.codes[rows], item_rows=rows)
        self._leaves = np.full(len(first.codes), -1, dtype=np.int64)
        self._leaves[rows] = trie.leaves(rows)
        self._one_of = rows[np.unique(self._leaves[rows], return_index=True)[1]]  # any item of an ID stands for it
        self._first, self._last = trie.relatives()

    @property
    def leaves(self) -> IntArray:
        """``[items]``, a number for the ID in the first set: known items that share it have the same, others -1."""
        return self._leaves

    def relatives(self, item_rows: NDArray[Any], *, count: int, rng: np.random.Generator) -> IntArray:
        """Draw items whose IDs begin as those of some items, and are others.

        Args:
            item_rows: ``[n]``, of known ones.
            count: for each, with replacement.
            rng: draws.

        Returns:
            ``[n, count]``, item rows; of an item whose ID all others share, itself.
        """
        own = self._leaves[item_rows][:, None]
        first, last = self._first[own], self._last[own]
        drawn = first + np.floor(rng.random((len(own), count)) * np.maximum(last - first - 1, 1)).astype(np.int64)
        drawn = np.where(last - first > 1, drawn + (drawn >= own), own)
        return self._one_of[drawn]

    def corrupted(self, item_rows: NDArray[Any], *, count: int, rng: np.random.Generator) -> IntArray:
        """Return IDs of some items with one code of the first set replaced, ``[n, count, levels of all sets]``."""
        shape = (len(item_rows), count)
        found = np.repeat(self._codes[item_rows][:, None], count, axis=1)
        level = rng.integers(self._levels, size=shape)[..., None]
        shift = rng.integers(1, self._num_codes, size=shape)[..., None]
        changed = (np.take_along_axis(found, level, axis=2) + shift) % self._num_codes
        np.put_along_axis(found, level, changed, axis=2)
        return found
