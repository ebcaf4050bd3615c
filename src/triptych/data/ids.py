"""From outside strings to the rows of a table: query texts, item ids, users.

Either the strings of the training data have a row each, those seen too seldom to learn from left out
(`IdVocabulary.fit`), or a hash gives each string one of so many rows, which it shares with others
(`IdVocabulary.hashed`; Weinberger et al., 2009, "Feature Hashing for Large Scale Multitask Learning"). A vocabulary
takes some hundred bytes of memory a string; from tens of millions on, or where strings keep coming, hash.

Row 0 stands for what is not known. It learns from strings that training has left out, and from ids that a task hides at
random: without that no training example has it, and whoever comes new is answered by a random vector.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError

UNK = 0
"""The row of everything unknown."""
FILE, STRINGS_FILE = "ids.json", "ids.parquet"

Strings = Sequence[str | None] | pl.Series
"""Outside strings, written in one way (the caller folds case and spaces); None: there is none."""


class IdVocabulary(ABC):
    """Which row of a table a string has."""

    num_rows: int
    """Rows of the table, `UNK` included."""

    @staticmethod
    def fit(strings: Strings, *, min_count: int = 1, max_strings: int | None = None) -> IdVocabulary:
        """Give a row to each string: the more frequent, the lower, and equally frequent ones by their letters.

        Args:
            strings: of the training data, as often as they occur there.
            min_count: occurrences below which a string is unknown.
            max_strings: at most so many, the most frequent; None: all.
        """
        counts = pl.Series("string", strings, dtype=pl.String).drop_nulls().value_counts()
        kept = counts.filter(pl.col("count") >= min_count).sort(["count", "string"], descending=[True, False])
        return _Listed(kept["string"].head(len(kept) if max_strings is None else max_strings))

    @staticmethod
    def hashed(buckets: int, *, seed: int) -> IdVocabulary:
        """Give each string one of `buckets` rows; the same on every machine, another one for another seed."""
        return _Hashed(buckets, seed=seed)

    @staticmethod
    def load(folder: Path) -> IdVocabulary:
        """Read what `save` wrote.

        Raises:
            ArtifactError: the folder holds none.
        """
        if not (folder / FILE).is_file():
            raise ArtifactError(
                f"'{folder}' holds no ids ('{FILE}'). Run the stage that makes them again: triptych run."
            )
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if about["kind"] == "hashed":
            return _Hashed(about["buckets"], seed=about["seed"])
        return _Listed(pl.read_parquet(folder / STRINGS_FILE)["string"])

    @abstractmethod
    def rows(self, strings: Strings) -> NDArray[np.int64]:
        """Return int64 ``[n]``: each string's row, `UNK` for those not known."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write ``ids.json`` and, of a vocabulary, ``ids.parquet``: column ``string``, from row 1 on."""


class _Listed(IdVocabulary):
    """Strings with a row each."""

    def __init__(self, strings: pl.Series) -> None:
        self._strings = strings
        self._rows: dict[str | None, int] = dict(zip(strings.to_list(), range(1, len(strings) + 1), strict=True))
        self.num_rows = 1 + len(strings)

    def rows(self, strings: Strings) -> NDArray[np.int64]:
        return _looked_up(strings, self._rows)

    def save(self, folder: Path) -> None:
        self._strings.rename("string").to_frame().write_parquet(folder / STRINGS_FILE)
        write_json(folder / FILE, {"kind": "listed", "strings": len(self._strings)})


class _Hashed(IdVocabulary):
    """Rows by a keyed hash; Python's own differs from process to process."""

    def __init__(self, buckets: int, *, seed: int) -> None:
        self._about: dict[str, Any] = {"kind": "hashed", "buckets": buckets, "seed": seed}
        self._keyed = blake2b(digest_size=8, key=seed.to_bytes(8, "little", signed=True))
        self.num_rows = 1 + buckets

    def rows(self, strings: Strings) -> NDArray[np.int64]:
        distinct = [string for string in dict.fromkeys(strings) if string is not None]
        digests = b"".join([self._digest(string) for string in distinct])
        rows = 1 + np.frombuffer(digests, dtype="<u8") % np.uint64(self._about["buckets"])
        return _looked_up(strings, dict(zip(distinct, rows.tolist(), strict=True)))

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, self._about)

    def _digest(self, string: str) -> bytes:
        state = self._keyed.copy()  # takes less time than making one
        state.update(string.encode())
        return state.digest()


def _looked_up(strings: Strings, rows: dict[str | None, int]) -> NDArray[np.int64]:
    words = strings.to_list() if isinstance(strings, pl.Series) else strings
    return np.fromiter((rows.get(word, UNK) for word in words), dtype=np.int64, count=len(words))
