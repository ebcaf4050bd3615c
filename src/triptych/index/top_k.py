"""Exact top-k by inner product, blockwise: a fast pass that misses nothing, then true scores for what it leaves.

The fast pass multiplies a block of items with all queries in the CPU's fastest arithmetic, and drops every item whose
product is further below the k-th best than *twice the largest possible error* of that arithmetic (the bound is
proved in `_Bound`, not estimated). What is left, a little more than k items for a query, gets its score in float64,
rounded to float32. So the answer does not depend on the arithmetic, the size of a block, the size of a batch or the
number of threads: it equals a loop over all items, equal scores included.

Source: filter and refine, as in approximate indexes with a refine step (faiss ``IndexRefineFlat``), with a bound in
place of a factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.foundation.types import Hits

QUERY_BLOCK = 1024
"""Queries searched together."""
BLOCK_SCORES = 8 << 20
"""Scores computed at a time, items times queries: 16 or 32 MiB, about a last-level cache."""
MAX_BLOCK_ROWS = 32_768
CONVERTED_ROWS = 8192
"""Items converted at a time: few enough to stay in the cache until they are multiplied."""
GROUP = 16
"""Items whose largest score is looked at before their own scores are."""
RESCORE_PAIRS = 2_048
"""(query, item) pairs whose true score is computed at a time."""

WHOLE_FROM_RATE = 0.8
"""Share of a piece's rows from which it is multiplied whole and the rest masked: gathering so many costs more, for one
query from 0.7 on, for a hundred from 0.9 (`benchmarks/exact_search.py --kept`)."""

BFLOAT16_ROUNDING = 2.0**-8
"""Largest relative error of rounding to bfloat16, which has 8 significant bits."""


class Arithmetic(StrEnum):
    """What the fast pass multiplies in. The result is the same; the speed is not."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@cache
def has_fast_bfloat16() -> bool:
    """Say whether this CPU multiplies bfloat16 in hardware; without, torch emulates it slowly."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Block(NamedTuple):
    """Some items and their vectors."""

    item_rows: NDArray[np.int64]
    """``[rows]``, ascending."""
    vectors: torch.Tensor
    """float16 or float32 ``[rows, dim]``."""
    gone: NDArray[np.int64] | None = None
    """Places of rows among them that are not kept, where it was cheaper to leave them in; None: all are kept."""


class Store(NamedTuple):
    """The vectors of an index, in pieces that follow each other."""

    pieces: Sequence[torch.Tensor]
    """float16 or float32 ``[rows, dim]``, mapped or in memory."""
    largest_norm: float
    """At least the L2 norm of every vector."""

    @property
    def num_rows(self) -> int:
        """Rows of all pieces."""
        return sum(len(piece) for piece in self.pieces)

    def blocks(self, kept: NDArray[np.int64] | None, *, size: int) -> Iterator[Block]:
        """Yield the kept rows (None: all) in ascending order, at most `size` rows at a time.

        Where most rows of a piece are kept, the others stand among them as `Block.gone`.
        """
        first = 0
        for piece in self.pieces:
            rows = None if kept is None else kept[slice(*np.searchsorted(kept, [first, first + len(piece)]))]
            gone = None
            if rows is not None and len(rows) >= WHOLE_FROM_RATE * len(piece):
                is_gone = np.ones(len(piece), np.bool_)
                is_gone[rows - first] = False
                rows, gone = None, np.flatnonzero(is_gone)
            for start in range(0, len(piece) if rows is None else len(rows), size):
                if rows is None:
                    part = piece[start : start + size]
                    some = None if gone is None else gone[slice(*np.searchsorted(gone, [start, start + len(part)]))]
                    own = None if some is None or not len(some) else some - start
                    yield Block(np.arange(first + start, first + start + len(part)), part, own)
                else:
                    chosen = rows[start : start + size]
                    yield Block(chosen, piece.index_select(0, torch.from_numpy(chosen - first)))
            first += len(piece)

    def take(self, item_rows: NDArray[np.int64]) -> torch.Tensor:
        """Gather rows in any order, as float32 ``[n, dim]``."""
        out = torch.empty(len(item_rows), self.pieces[0].shape[1])
        first = 0
        for piece in self.pieces:
            own = np.flatnonzero((item_rows >= first) & (item_rows < first + len(piece)))
            if len(own) == len(item_rows):
                return piece[torch.from_numpy(item_rows - first)].float()
            if len(own):
                out[torch.from_numpy(own)] = piece[torch.from_numpy(item_rows[own] - first)].float()
            first += len(piece)
        return out


def exact_top_k(
    store: Store,
    queries: NDArray[np.float32],
    *,
    k: int,
    kept: NDArray[np.int64] | None = None,
    arithmetic: Arithmetic = Arithmetic.AUTO,
    block_scores: int = BLOCK_SCORES,
    query_block: int = QUERY_BLOCK,
) -> Hits:
    """Return the k rows of largest inner product for each query.

    Args:
        store: the vectors.
        queries: ``[n, dim]``, finite.
        k: places per query; may exceed the number of rows.
        kept: rows that may be returned, ascending; None for all.
        arithmetic: of the fast pass.
        block_scores: bound of the working memory, in scores.
        query_block: queries that share one pass over the items.

    Returns:
        ``[n, k]``: the float64 inner product of query and stored vector, rounded to float32; equal scores by row;
        padded with -1 and -inf.
    """
    hits = Hits.empty(len(queries), k)
    wanted = min(k, store.num_rows if kept is None else len(kept))
    if wanted == 0:
        return hits
    # many places wanted: fewer queries at a time, so that what is kept in memory stays bounded
    step = max(1, min(query_block, block_scores // (4 * wanted)))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        own = Hits(hits.item_rows[part], hits.scores[part])
        _search_block(store, queries[part], kept, wanted, arithmetic, block_scores, own)
    return hits


def _search_block(
    store: Store,
    queries: NDArray[np.float32],
    kept: NDArray[np.int64] | None,
    k: int,
    arithmetic: Arithmetic,
    block_scores: int,
    out: Hits,
) -> None:
    """Search queries that fit in memory together; writes the first k columns of `out`."""
    fast = _FastPass(queries, largest_norm=store.largest_norm, arithmetic=arithmetic)
    pool = _Pool(store, queries, k=k, limit=max(4 * k * len(queries), block_scores))
    num_rows = store.num_rows if kept is None or len(kept) >= WHOLE_FROM_RATE * store.num_rows else len(kept)
    size = max(GROUP, min(MAX_BLOCK_ROWS, num_rows + GROUP - 1, block_scores // len(queries)) // GROUP * GROUP)
    group = GROUP
    while group > 1 and size // group < 2 * k:  # enough groups that their maxima bound the k-th best well
        group //= 2
    scores = torch.empty(size, len(queries), dtype=fast.queries.dtype)
    for block in store.blocks(kept, size=size):
        fast.multiply(block.vectors, out=scores[: len(block.item_rows)])
        scores[len(block.item_rows) :] = -torch.inf
        if block.gone is not None:
            scores.index_fill_(0, torch.from_numpy(block.gone), -torch.inf)
        pool.offer(block.item_rows, scores.view(group, size // group, len(queries)), fast.bound)
    pool.settle()
    for row, (item_rows, true_scores) in enumerate(pool.ranked()):
        out.item_rows[row, :k] = item_rows
        out.scores[row, :k] = true_scores


def rescored_top_k(store: Store, queries: NDArray[np.float32], *, candidates: NDArray[np.int64], k: int) -> Hits:
    """Return the k best of each query's own candidates: the refine step behind an approximate search.

    Args:
        store: the vectors.
        queries: ``[n, dim]``, finite.
        candidates: ``[n, places]`` rows, those of one query distinct; -1 for none.
        k: places per query.

    Returns:
        ``[n, k]``, scores and order as `exact_top_k` gives them.
    """
    hits = Hits.empty(len(queries), k)
    query, place = np.nonzero(candidates >= 0)
    if len(query) == 0:
        return hits
    pairs = _Pairs(query, candidates[query, place], np.empty(len(query), np.float32))
    best = _true_best(store, queries, pairs, k=k)
    starts, ends = best.runs(len(queries))
    column = np.arange(len(best.query)) - np.repeat(starts, ends - starts)
    hits.item_rows[best.query, column] = best.item_rows
    hits.scores[best.query, column] = best.scores
    return hits


def _true_best(store: Store, queries: NDArray[np.float32], pairs: _Pairs, *, k: int) -> _Pairs:
    """Give pairs their true scores, and keep the best k of each query in order."""
    exact = queries.astype(np.float64)
    scores = np.empty(len(pairs.query), np.float32)
    for start in range(0, len(scores), RESCORE_PAIRS):
        part = slice(start, start + RESCORE_PAIRS)
        vectors = store.take(pairs.item_rows[part]).double().numpy()
        scores[part] = np.einsum("pd,pd->p", vectors, exact[pairs.query[part]])
    pairs = pairs._replace(scores=scores).by_score()
    starts, ends = pairs.runs(len(queries))
    place = np.arange(len(scores)) - np.repeat(starts, ends - starts)
    return pairs.where(place < k)


class _Bound(NamedTuple):
    """How far below the k-th best product an item can lie and still belong to the answer.

    With query q, item v and their rounded forms q', v', the error of a product p before p itself is rounded is at most

        |q - q'| |v| + |q'| |v - v'| + dim · 2^-22 · |q| |v|  =:  absolute

    by the Cauchy-Schwarz inequality; the last term covers a float32 sum in any order. For bfloat16, |v - v'| ≤ u |v|
    with u = 2^-8, and p is rounded to relative error u, which keeps order. If t is the k-th best product, k items have
    a true score of at least t - u|t| - absolute. So an item that is as good has a product of at least that, less
    absolute, less u times itself: t - 2 absolute - 2u (|t| + absolute), up to terms in u². 2% more covers those.
    """

    absolute: NDArray[np.float32]
    """``[queries]``."""
    relative: float

    def lowest(self, kth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the product from which on an item may still be among the best k ``[queries]``."""
        return kth - 2 * self.absolute - self.relative * (np.abs(kth) + self.absolute)


class _FastPass:
    """Products of all queries with a block of items, and the bound on their error."""

    def __init__(self, queries: NDArray[np.float32], *, largest_norm: float, arithmetic: Arithmetic) -> None:
        use_bfloat16 = arithmetic is Arithmetic.BFLOAT16 or (
            # one query is bound by memory: turning the items into bfloat16 costs more than it saves
            arithmetic is Arithmetic.AUTO and has_fast_bfloat16() and len(queries) > 1
        )
        exact = torch.from_numpy(queries)
        self.queries = exact.bfloat16() if use_bfloat16 else exact
        # torch may be told, outside, to round the factors of float32 products as well ("medium")
        rounds = use_bfloat16 or torch.get_float32_matmul_precision() != "highest"
        rounded = exact.bfloat16() if rounds else exact
        norms = torch.linalg.vector_norm(exact.double(), dim=1) * largest_norm
        lost = torch.linalg.vector_norm(exact.double() - rounded.double(), dim=1) * largest_norm
        absolute = lost + norms * (queries.shape[1] * 2.0**-22 + (BFLOAT16_ROUNDING if rounds else 0.0)) * 1.02
        relative = 2 * BFLOAT16_ROUNDING * 1.02 if use_bfloat16 else 2.0**-21  # the latter for true scores in float32
        self.bound = _Bound(absolute.numpy().astype(np.float32), relative)
        self._as_float32 = torch.empty(CONVERTED_ROWS, queries.shape[1])
        self._as_bfloat16 = torch.empty(CONVERTED_ROWS, queries.shape[1], dtype=torch.bfloat16)

    def multiply(self, vectors: torch.Tensor, *, out: torch.Tensor) -> None:
        """Write products ``[rows, queries]``; that way round, the matrix product is faster than ``[queries, rows]``."""
        for start in range(0, len(vectors), CONVERTED_ROWS):
            part = self._converted(vectors[start : start + CONVERTED_ROWS])
            own = out[start : start + len(part)]
            if len(self.queries) == 1:  # several times as fast as the product of matrices, which MKL takes badly
                torch.mv(part, self.queries[0], out=own[:, 0])
            else:
                torch.mm(part, self.queries.T, out=own)

    def _converted(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return vectors in the arithmetic's type, in memory that is used again: fresh pages would cost more."""
        if vectors.dtype is self.queries.dtype:
            return vectors
        if vectors.dtype is not torch.float32:
            # float16 to bfloat16 in one step is ten times slower in torch than by way of float32
            vectors = self._as_float32[: len(vectors)].copy_(vectors)
        if self.queries.dtype is torch.float32:
            return vectors
        return self._as_bfloat16[: len(vectors)].copy_(vectors)


class _Pool:
    """The (query, item) pairs that may still be among the best k."""

    def __init__(self, store: Store, queries: NDArray[np.float32], *, k: int, limit: int) -> None:
        self._store, self._queries, self._k, self._limit = store, queries, k, limit
        self._kth = np.full(len(queries), -np.inf, np.float32)
        self._parts: list[_Pairs] = []
        self._size = self._settled_size = 0

    def offer(self, item_rows: NDArray[np.int64], grouped: torch.Tensor, bound: _Bound) -> None:
        """Take what reaches the lowest product of its query.

        Args:
            item_rows: ``[rows]``; item ``j * groups + g`` of the block stands at ``grouped[j, g]``.
            grouped: products ``[group, groups, queries]``, -inf past the last row.
            bound: of their error.
        """
        group, num_groups, num_queries = grouped.shape
        maxima = grouped.amax(0).float().numpy()
        hit = maxima >= bound.lowest(self._kth)
        if num_groups >= self._k and np.count_nonzero(hit) > 2 * self._k * num_queries:
            # the first block, or items in ascending order of score: the block's own k-th group bounds the k-th item
            kth = np.partition(maxima, num_groups - self._k, axis=0)[num_groups - self._k]
            np.maximum(self._kth, kth, out=self._kth)
            hit = maxima >= bound.lowest(self._kth)
        places = np.flatnonzero(hit)
        flat = _flat(grouped)
        # [group, hits]: the products of every item in the groups that were hit
        index = places + (np.arange(group) * (num_groups * num_queries))[:, None]
        products = _float32(flat[index])
        lowest = bound.lowest(self._kth)
        member, which = np.nonzero(products >= lowest[places % num_queries])
        found = places[which]
        query = found % num_queries
        block_row = member * num_groups + found // num_queries
        products = products[member, which]
        real = products > -np.inf
        self._parts.append(_Pairs(query[real], item_rows[block_row[real]], products[real]))
        self._size += int(np.count_nonzero(real))
        if self._size > 2 * max(self._settled_size, self._k * num_queries):
            self._shrink(bound)

    def _shrink(self, bound: _Bound) -> None:
        """Drop what the products seen so far rule out; where that is not enough, compute true scores."""
        pairs = self._all().by_score()
        starts, ends = pairs.runs(len(self._queries))
        full = ends - starts >= self._k
        kth = pairs.scores[starts[full] + self._k - 1]
        self._kth[full] = np.maximum(self._kth[full], kth)
        self._keep(pairs.where(pairs.scores >= bound.lowest(self._kth)[pairs.query]))
        if self._size > self._limit:  # many equal scores, which no bound can tell apart
            self.settle()
        self._settled_size = self._size

    def settle(self) -> None:
        """Replace products by true scores and keep the best k of each query."""
        self._keep(_true_best(self._store, self._queries, self._all(), k=self._k))

    def ranked(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield the k best of each query; call `settle` first."""
        pairs = self._all()
        for start, end in zip(*pairs.runs(len(self._queries)), strict=True):
            yield pairs.item_rows[start:end], pairs.scores[start:end]

    def _all(self) -> _Pairs:
        return _Pairs(*(np.concatenate(column) for column in zip(*self._parts, strict=True)))

    def _keep(self, pairs: _Pairs) -> None:
        self._parts, self._size = [pairs], len(pairs.query)


class _Pairs(NamedTuple):
    """(query, item) pairs, column by column."""

    query: NDArray[np.int64]
    item_rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    def by_score(self) -> _Pairs:
        """Sort by query, then score descending, then item row."""
        order = torch.from_numpy(self.item_rows).argsort()
        # one integer that sorts as (query, score descending); torch sorts integers thirty times as fast as np.lexsort
        bits = (self.scores + 0.0).view(np.int32)  # + 0.0: -0.0 and 0.0 are equal scores
        ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
        key = torch.from_numpy((self.query << 32) - ascending)
        return self.where(order[key[order].argsort(stable=True)].numpy())

    def where(self, choice: NDArray[Any]) -> _Pairs:
        """Select by mask or order."""
        return _Pairs(*(column[choice] for column in self))

    def runs(self, num_queries: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where each query's pairs start and end; they must be sorted by query."""
        ends = np.cumsum(np.bincount(self.query, minlength=num_queries))
        return np.concatenate([[0], ends[:-1]]), ends


def _flat(products: torch.Tensor) -> NDArray[Any]:
    """View products as a flat numpy array; bfloat16, which numpy lacks, as its bits."""
    bits = products.view(torch.int16) if products.dtype is torch.bfloat16 else products
    flat: NDArray[Any] = bits.numpy().reshape(-1)
    return flat


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Undo `_flat`: bfloat16 is the upper half of a float32."""
    if values.dtype == np.float32:
        return values
    return (values.astype(np.uint16).astype(np.uint32) << 16).view(np.float32)
