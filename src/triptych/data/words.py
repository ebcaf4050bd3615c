"""Text columns as codes: a log repeats its words, so what is done to text is done once to each distinct word.

Twenty million events name a million items, half a million users and some hundred thousand queries. As text a column
takes 16 bytes an event and more; as an Enum it takes 4, and cleaning, looking up and comparing touch each word once.

Words are told apart by a hash of 64 bits while a table is read piece by piece, since comparing text costs several times
as much as everything else that is done to it. That no two words shared one is checked, not hoped for (`WordColumn`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

Clean = Callable[[pl.Series], pl.Series]
"""From distinct words to what each stands for (String, null for none)."""
Hash = Callable[[pl.Series, int], pl.Series]
"""From words and a seed to UInt64, the same for equal words, null included."""

_SLICE = 1 << 18
"""Rows looked up at a time: what this takes stays in the processor's cache."""


class SameHash(Exception):
    """Two words of a column have one hash: read it again with another seed."""


class WordColumn:
    """Numbers the words of a column that comes piece by piece, and keeps each once.

    A piece leaves behind one hash per row and the words not met before; its text is let go.
    """

    def __init__(self, name: str, *, seed: int = 0, hashed: Hash = pl.Series.hash) -> None:
        """Start with no rows.

        Args:
            name: of the column.
            seed: of the hash.
            hashed: the hash.
        """
        self.name = name
        self._seeds = (2 * seed, 2 * seed + 1)
        self._hashed = hashed
        self._rows: list[pl.Series] = []
        self._known = pl.Series(dtype=pl.UInt64)
        self._words: list[pl.Series] = []
        self._checksum = 0

    def add(self, words: pl.Series) -> None:
        """Take the next rows: text or integers, null for none."""
        hashes = self._hashed(words, self._seeds[0])
        first = hashes.arg_unique()
        fresh = first.filter(~hashes.gather(first).is_in(self._known.implode()))
        self._rows.append(hashes)
        self._known.append(hashes.gather(fresh))
        self._words.append(words.gather(fresh))
        self._checksum += _total(self._hashed(words, self._seeds[1]).to_numpy())

    def enumerated(self, *, clean: Clean) -> pl.Series:
        """Return the column as an Enum of what its words stand for, and let go of the rows.

        Args:
            clean: what each distinct word stands for; several may stand for the same.

        Returns:
            Enum ``[rows]``; its categories are in the order of their first appearance, and each appears.

        Raises:
            SameHash: two words have one hash. Told by a second hash: its sum over the rows is not that over the words
                that the rows are taken for.
        """
        if not self._words:
            return pl.Series(self.name, [], dtype=pl.Enum([]))
        words = pl.concat(self._words)
        codes = _places(self._rows, among=self._known.to_numpy())
        self._rows = []
        seconds = self._hashed(words, self._seeds[1]).to_numpy()
        if sum(_total(seconds.take(some)) for some in _slices(codes)) % 2**64 != self._checksum % 2**64:
            raise SameHash(self.name)
        return _meant(codes, words, clean=clean).alias(self.name)


def _total(hashes: NDArray[np.uint64]) -> int:
    return int(hashes.sum())  # modulo 2^64


def _slices(rows: NDArray[T]) -> Iterator[NDArray[T]]:
    return (rows[first : first + _SLICE] for first in range(0, len(rows), _SLICE))


def _places(rows: list[pl.Series], *, among: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Return the place of each hash among the distinct ones; each is there.

    Hashes are spread evenly, so that in sorted order the leading bits tell nearly where one stands.
    """
    order = np.argsort(among)
    ascending = among[order]
    num_bits = len(among).bit_length() + 1
    shift = np.uint64(64 - num_bits)
    starts = np.searchsorted(ascending >> shift, np.arange(1 << num_bits, dtype=np.uint64))
    hashes = pl.concat(rows).to_numpy()
    found = np.empty(len(hashes), dtype=np.uint32)
    for wanted, codes in zip(_slices(hashes), _slices(found), strict=True):
        place = starts.take((wanted >> shift).view(np.int64))
        behind = np.flatnonzero(ascending.take(place) != wanted)
        while len(behind) > 0:
            place[behind] += 1
            behind = behind[ascending.take(place.take(behind)) != wanted.take(behind)]
        codes[:] = order.take(place)
    return found


def _meant(codes: NDArray[np.uint32], words: pl.Series, *, clean: Clean) -> pl.Series:
    """Turn codes of words into an Enum of what each word stands for."""
    rows, meant = pl.Series(codes), clean(words)
    if meant.null_count() == 0 and meant.hash().n_unique() == len(meant):  # no two stand for the same
        return rows.cat.to(pl.Enum(meant))
    names = pl.Enum(meant.drop_nulls().unique(maintain_order=True))
    return meant.cast(names).gather(rows)


def each(words: pl.Series, *, of: Clean) -> pl.Series:
    """Apply a function of text to a column, once per distinct word where the column is an Enum.

    Args:
        words: Enum, or String.
        of: from words (String) to anything, null to null.

    Returns:
        What `of` gives, ``[rows]``; null where the word is.
    """
    if not isinstance(words.dtype, pl.Enum):
        return of(words)
    return of(words.dtype.categories).gather(words.to_physical())


def rows_among(words: pl.Series, names: pl.Series) -> pl.Series:
    """Return the place of each word among some names.

    Args:
        words: Enum, or String.
        names: String, distinct.

    Returns:
        Int32 ``[rows]``; -1 where the word is null or not among them.
    """
    if isinstance(words.dtype, pl.Enum) and words.dtype.categories.equals(names):
        return words.to_physical().cast(pl.Int32).fill_null(-1)
    numbered = pl.Enum(names)
    return each(words, of=lambda text: text.cast(numbered, strict=False).to_physical().cast(pl.Int32)).fill_null(-1)


def numbered(words: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Number the words of a column by their first appearance.

    Args:
        words: Enum.

    Returns:
        Int32 ``[rows]``, -1 where the word is null, and the names by number (String, those that appear).
    """
    assert isinstance(words.dtype, pl.Enum)
    codes = words.to_physical()
    appear = codes.drop_nulls().unique(maintain_order=True)
    place = np.full(len(words.dtype.categories), -1, dtype=np.int32)
    place[appear.to_numpy()] = np.arange(len(appear))
    return pl.Series(place).gather(codes).fill_null(-1), words.dtype.categories.gather(appear)
