"""Which semantic IDs exist, by prefix, and the items under each: what generation may say next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from triptych.recall.base import BoolArray, IntArray

CODES_FILE, ROWS_FILE = "codes.npy", "item_rows.npy"
Codes = NDArray[np.uint16]
"""``[items, levels]``, the semantic ID of each item."""


class Children(NamedTuple):
    """The nodes below some nodes, in the order of these and of their codes."""

    parent: IntArray
    """``[children]``, the place of its parent among those asked for."""
    code: IntArray
    """``[children]``, its code at its level."""
    node: IntArray
    """``[children]``, its number among the nodes of its depth."""


class CodeTrie:
    """A tree of semantic IDs that never changes; what is added to or taken out of one makes another.

    A node of depth d is a prefix of d codes that some item has; nodes of one depth are numbered in the order of their
    codes. Several items may share an ID: they are under one leaf, smaller rows first.
    """

    def __init__(self, codes: Codes, *, item_rows: IntArray) -> None:
        """Number the prefixes of IDs that are sorted; see `build`."""
        self._codes, self._item_rows = codes, item_rows
        self.levels = codes.shape[1]
        # Where, among the sorted items, the prefixes of 0, 1, … codes begin.
        begins = [np.zeros(1, dtype=np.int64)]
        differs = np.zeros(max(0, len(codes) - 1), dtype=bool)
        for level in range(self.levels):
            differs = differs | (codes[1:, level] != codes[:-1, level])
            begins.append(np.flatnonzero(np.concatenate([np.ones(min(len(codes), 1), dtype=bool), differs])))
        self._code = [codes[begin, level] for level, begin in enumerate(begins[1:])]
        self._first = [
            np.append(np.searchsorted(below, above), len(below)).astype(np.int64) for above, below in pairwise(begins)
        ]
        self._first_item = np.append(begins[-1], len(codes)).astype(np.int64)

    @classmethod
    def build(cls, codes: NDArray[Any], *, item_rows: NDArray[Any] | None = None) -> Self:
        """Sort items by their IDs.

        Args:
            codes: ``[items, levels]``, whole numbers from 0 to 65,535.
            item_rows: ``[items]``, distinct; None: 0, 1, ….
        """
        rows = np.arange(len(codes)) if item_rows is None else np.asarray(item_rows, dtype=np.int64)
        own = np.ascontiguousarray(codes, dtype=np.uint16)
        order = np.lexsort(np.vstack([rows, own.T[::-1]]))  # by the first code, then the second, …, then the row
        return cls(own[order], item_rows=rows[order])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        codes, rows = (np.load(folder / name, allow_pickle=False) for name in (CODES_FILE, ROWS_FILE))
        return cls.build(codes, item_rows=rows)

    def save(self, folder: Path) -> None:
        """Write the IDs and whose they are; npy only."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / CODES_FILE, self._codes)
        np.save(folder / ROWS_FILE, self._item_rows)

    @property
    def num_items(self) -> int:
        """Items under it."""
        return len(self._item_rows)

    @property
    def num_leaves(self) -> int:
        """Different IDs."""
        return len(self._first_item) - 1

    @cached_property
    def largest_code(self) -> int:
        """Of any level; -1 where there is no item."""
        return max(int(code.max(initial=0)) for code in self._code) if self.num_items else -1

    @property
    def memory_bytes(self) -> int:
        """What it takes."""
        arrays = (self._codes, self._item_rows, self._first_item, *self._code, *self._first)
        return sum(one.nbytes for one in arrays)

    def children(self, nodes: IntArray, *, depth: int) -> Children:
        """Return what may follow some prefixes of ``depth`` codes, each given by its node's number ``[n]``."""
        first, code = self._first[depth], self._code[depth]
        begin, number = first[nodes], first[nodes + 1] - first[nodes]
        parent = np.repeat(np.arange(len(nodes)), number)
        within = np.arange(len(parent)) - np.repeat(np.cumsum(number) - number, number)
        node = begin[parent] + within
        return Children(parent, code[node].astype(np.int64), node)

    def num_nodes(self, depth: int) -> int:
        """Count the prefixes of ``depth`` codes; 0 codes: one, of all items."""
        return 1 if depth == 0 else len(self._code[depth - 1])

    def emptied(self, left_out: Sequence[NDArray[Any]]) -> tuple[IntArray, ...]:
        """Find the nodes below which nothing is left, for each of several requests that some items are no answer to.

        Args:
            left_out: ``[n]`` lists of item rows; of rows that the tree does not have, and of repeats, no notice is
                taken.

        Returns:
            For each depth, from 0, ascending: request · nodes of that depth + node.
        """
        request = np.repeat(np.arange(len(left_out)), [len(rows) for rows in left_out])
        rows = np.concatenate(left_out).astype(np.int64) if len(left_out) else np.empty(0, np.int64)
        place = np.searchsorted(self._item_rows, rows, sorter=self._by_row)
        there = place < self.num_items
        there[there] = self._item_rows[self._by_row[place[there]]] == rows[there]
        found = np.unique(request[there] * self.num_items + self._by_row[place[there]])
        by_depth = []
        for first in (self._first_item, *self._first[::-1]):
            number, nodes = max(1, int(first[-1])), len(first) - 1
            request, below = np.divmod(found, number)
            node = np.searchsorted(first, below, side="right") - 1
            key, gone = np.unique(request * nodes + node, return_counts=True)
            found = key[gone == np.diff(first)[key % nodes]] if nodes else key
            by_depth.append(found)
        return tuple(by_depth[::-1])

    def leaves(self, item_rows: NDArray[Any]) -> IntArray:
        """Return the leaves that items are under ``[n]``; it has all of these rows."""
        place = self._by_row[np.searchsorted(self._item_rows, item_rows, sorter=self._by_row)]
        return np.searchsorted(self._first_item, place, side="right") - 1

    def relatives(self) -> tuple[IntArray, IntArray]:
        """Return of each leaf those that share its longest prefix that any other leaf has.

        Returns:
            ``[leaves]`` each: the first of them, and the one behind the last; the leaf itself is among them.
        """
        leaf = np.arange(self.num_leaves)
        first, last = np.zeros(self.num_leaves, np.int64), np.full(self.num_leaves, self.num_leaves)
        for depth in range(1, self.levels):
            bounds = np.arange(self.num_nodes(depth) + 1)
            for below in self._first[depth:]:
                bounds = below[bounds]
            node = np.searchsorted(bounds, leaf, side="right") - 1
            shared = bounds[node + 1] - bounds[node] > 1
            first, last = np.where(shared, bounds[node], first), np.where(shared, bounds[node + 1], last)
        return first, last

    @cached_property
    def _by_row(self) -> IntArray:
        """``[items]``, places of the items in the order of their rows."""
        return np.argsort(self._item_rows)

    def codes_by_row(self, *, beside: IntArray | None = None) -> IntArray:
        """Return the ID of each item row, int64 ``[rows, levels]``, -1 for a row that has none.

        Args:
            beside: the same of rows that the tree does not have, such as those taken out of it; None: they have none.
        """
        known = 0 if beside is None else len(beside)
        found = np.full((max(known, int(self._item_rows.max(initial=-1)) + 1), self.levels), -1, dtype=np.int64)
        if beside is not None:
            found[:known] = beside
        found[self._item_rows] = self._codes
        return found

    def items(self, leaf: int) -> IntArray:
        """Return the items that share the ID of a leaf, by row."""
        return self._item_rows[self._first_item[leaf] : self._first_item[leaf + 1]]

    def code_path(self, leaf: int) -> Codes:
        """Return the ID of a leaf ``[levels]``."""
        return self._codes[self._first_item[leaf]]

    def only(self, keep: BoolArray) -> CodeTrie:
        """Return the tree of those items whose row is True in ``keep``, such as those of a delivery cell."""
        chosen = keep[self._item_rows]
        return CodeTrie(self._codes[chosen], item_rows=self._item_rows[chosen])

    def without(self, item_rows: NDArray[Any]) -> CodeTrie:
        """Return the tree of all other items; rows that it does not have change nothing."""
        chosen = ~np.isin(self._item_rows, item_rows)
        return CodeTrie(self._codes[chosen], item_rows=self._item_rows[chosen])

    def with_items(self, codes: NDArray[Any], *, item_rows: NDArray[Any]) -> CodeTrie:
        """Return the tree with further items ``[n, levels]``; rows that it has already get these IDs instead.

        What is there is in order already, and is not sorted again.
        """
        rest, new = self.without(item_rows), CodeTrie.build(codes, item_rows=item_rows)
        place = rest._places(new._codes, item_rows=new._item_rows)
        return CodeTrie(
            np.insert(rest._codes, place, new._codes, axis=0),
            item_rows=np.insert(rest._item_rows, place, new._item_rows),
        )

    def _places(self, codes: Codes, *, item_rows: IntArray) -> IntArray:
        """Return before which of the items in order each of some others ``[n, levels]`` would stand."""
        own, asked = _bytes_of(self._codes[self._first_item[:-1]]), _bytes_of(codes)
        leaf = np.searchsorted(own, asked)
        place = self._first_item[leaf]
        shares = leaf < self.num_leaves
        shares[shares] = own[leaf[shares]] == asked[shares]
        for one in np.flatnonzero(shares).tolist():  # among the items of its ID it stands by its row
            place[one] += np.searchsorted(self.items(int(leaf[one])), item_rows[one])
        return place


def _bytes_of(codes: Codes) -> NDArray[np.bytes_]:
    """Return each ID ``[n, levels]`` as a string of bytes, whose order is that of the codes."""
    told: NDArray[np.bytes_] = np.ascontiguousarray(codes, dtype=">u2").view(f"S{2 * codes.shape[1]}")[:, 0]
    return told
