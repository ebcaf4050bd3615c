"""Item-kNN: what was chosen by the same users. The baseline of every recommendation table; it reads no content.

The similarity of two items is the cosine of their columns in the binary user × item matrix of the training part, that
is |users of both| / √(|users of one| · |users of the other|), and a request's score for an item is the sum over the
distinct items of its history. An item that shares no user with any of them is no hit.

Source: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001; of each item's row only
its most similar items are kept, as in Deshpande and Karypis, TOIS 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from triptych.data.targets import UserItems
from triptych.foundation.artifact import write_json
from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import Request, RetrieverConfig, rank

CONFIG_FILE = "config.json"
_ARRAYS = ("indptr", "indices", "data")
_BLOCK = 1024
"""Items whose similarities are in memory at a time."""


class ItemKnnConfig(RetrieverConfig):
    """How many neighbours count, and how much they need."""

    kind: Literal["item_knn"] = "item_knn"
    """Name of the file that defines it."""
    neighbours: int | None = Field(100, ge=1)
    """Most similar items kept for each item; none keeps all."""
    shrinkage: float = Field(0.0, ge=0)
    """Added to the denominator of the cosine: how many users it takes to be believed."""


CONFIG = ItemKnnConfig


class ItemKnn:
    """Ranks items by their summed similarity to a history, or to one item."""

    name = "item-knn"

    def __init__(self, similar: sparse.csr_array, *, config: ItemKnnConfig) -> None:
        """Wrap similarities ``[items, items]``, float32; use `fit` or `load`."""
        self._similar = similar
        self._config = config

    @classmethod
    def fit(cls, histories: UserItems, *, num_items: int, config: ItemKnnConfig | None = None) -> Self:
        """Compare all items by who chose them.

        Args:
            histories: what each user chose in training (`Split.train_histories`); repeats count once.
            num_items: items in the catalogue.
            config: how many neighbours count.
        """
        config = config or ItemKnnConfig()
        users = len(histories.offsets) - 1
        ones = np.ones(len(histories.item_rows), dtype=np.float32)
        triple = (ones, histories.item_rows, histories.offsets)
        chosen = sparse.csr_array(triple, shape=(users, num_items), copy=True)
        chosen.sum_duplicates()  # in place, hence the copy
        chosen.data[:] = 1.0
        length = np.sqrt(chosen.sum(axis=0, dtype=np.float64))
        by_item = chosen.T.tocsr()
        blocks = [
            _block(by_item, chosen, first=start, length=length, config=config) for start in range(0, num_items, _BLOCK)
        ]
        return cls(sparse.csr_array(sparse.vstack(blocks)), config=config)

    @property
    def num_items(self) -> int:
        """Number of items, those that nobody chose included."""
        return int(self._similar.shape[0])

    def knows(self, item_rows: NDArray[Any]) -> bool:
        """Say whether any of some items has a neighbour."""
        return bool(self._similar[np.unique(item_rows)].nnz)

    def with_items(self, like: Sequence[int | None]) -> Self:
        """Return the same with items appended.

        Args:
            like: for each the row of the item that it takes the place of, whose neighbours it has; None: it is new.
        """
        count, own = self.num_items, [(place, row) for place, row in enumerate(like) if row is not None]
        rows = np.concatenate([np.arange(count), [count + place for place, _ in own]]).astype(np.int64)
        columns = np.concatenate([np.arange(count), [row for _, row in own]]).astype(np.int64)
        ones = np.ones(len(rows), dtype=np.float32)
        spread = sparse.csr_array((ones, (rows, columns)), shape=(count + len(like), count))
        return type(self)(sparse.csr_array(spread @ self._similar @ spread.T), config=self._config)

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k items most similar to each history or item, which are left out.

        Raises:
            EngineError: a request has neither a history nor an item.
        """
        hits = Hits.empty(len(requests), k)
        for place, request in enumerate(requests):
            own = _asked(request)
            scores = np.asarray(self._similar[own].sum(axis=0), dtype=np.float32)
            wanted = scores > 0 if request.keep is None else (scores > 0) & request.keep
            wanted[own] = False
            found = rank(np.where(wanted, scores, np.float32(-np.inf))[None], k=k)
            hits.item_rows[place], hits.scores[place] = found.item_rows[0], found.scores[0]
        return hits

    def save(self, folder: Path) -> None:
        """Write the similarities as npy files, and ``config.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, self._config.dump())
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self._similar, name))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        indptr, indices, data = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS)
        num_items = len(indptr) - 1
        similar = sparse.csr_array((data, indices, indptr), shape=(num_items, num_items))
        return cls(similar, config=ItemKnnConfig.load(folder / CONFIG_FILE))


def _asked(request: Request) -> NDArray[Any]:
    """Return the distinct items a request starts from."""
    if request.history is not None and len(request.history) > 0:
        return np.unique(request.history)
    if request.item_row is not None:
        return np.array([request.item_row])
    raise EngineError("item-knn goes by what was chosen before: give a history or an item.")


def _block(
    by_item: sparse.csr_array,
    chosen: sparse.csr_array,
    *,
    first: int,
    length: NDArray[np.float64],
    config: ItemKnnConfig,
) -> sparse.csr_array:
    """Return the similarities of some items to all.

    Args:
        by_item: binary ``[items, users]``.
        chosen: the same as ``[users, items]``.
        first: of `_BLOCK` items.
        length: ``[items]``, square root of the number of users.
        config: how many neighbours count.
    """
    shared = sparse.csr_array(by_item[first : first + _BLOCK] @ chosen)
    shared.sort_indices()
    row = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
    cosine = shared.data / (length[first + row] * length[shared.indices] + config.shrinkage)
    other = shared.indices != first + row
    row, column, cosine = row[other], shared.indices[other], cosine[other].astype(np.float32)
    if config.neighbours is not None:
        order = np.lexsort((column, -cosine, row))  # equal ones by item row
        starts = np.searchsorted(row, np.arange(shared.shape[0]))
        place = np.arange(len(row)) - starts[row]
        kept = np.sort(order[place < config.neighbours])
        row, column, cosine = row[kept], column[kept], cosine[kept]
    return sparse.csr_array((cosine, (row, column)), shape=shared.shape)
