"""Graphs that vectors are passed along: who chose what, and which items are alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

COMPARED_ROWS = 1024
"""Items compared with all others at a time: what lies in memory is so many rows of their similarities."""


class Neighbours(NamedTuple):
    """What each item is made of, by a graph without both directions."""

    rows: Tensor
    """int64 ``[items, neighbours]``."""
    weights: Tensor
    """float32 ``[items, neighbours]``; 0 where there is none."""


class Edges(NamedTuple):
    """A sparse matrix, row by row."""

    columns: Tensor
    """int64 ``[edges]``, those of the first row, of the second, …"""
    starts: Tensor
    """int64 ``[rows]``, where each row begins; it ends where the next one does."""
    weights: Tensor
    """float32 ``[edges]``."""

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, weights: Tensor, *, num_rows: int) -> Edges:
        """Sort edges ``[edges]`` by row; within a row they stay in their order."""
        ascending, order = torch.sort(rows, stable=True)
        counts = torch.bincount(ascending, minlength=num_rows)
        return cls(columns[order], counts.cumsum(0) - counts, weights[order])


class Graph(NamedTuple):
    """A square sparse matrix that stays as it is, and its transpose, along which gradients go back."""

    edges: Edges
    transposed: Edges


def along(graph: Graph, vectors: Tensor) -> Tensor:
    """Sum vectors ``[n, dim]`` over each row's columns, as often as they are weighed: ``[n, dim]``."""
    found: Tensor = _Along.apply(vectors, *graph.edges, *graph.transposed)
    return found


class _Along(torch.autograd.Function):
    """A sparse product by rows, both ways: a CPU takes a sixth of the time of `torch.sparse.mm` and its gradient."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, *edges: Tensor) -> Tensor:
        """Multiply; `edges` are a `Graph`, its fields end to end."""
        ctx.save_for_backward(*edges[3:])
        return _multiplied(Edges(*edges[:3]), vectors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the gradient by the transpose."""
        return _multiplied(Edges(*ctx.saved_tensors), grad.contiguous()), *(None,) * 6


def _multiplied(edges: Edges, vectors: Tensor) -> Tensor:
    weights = edges.weights.to(vectors.dtype)
    return functional.embedding_bag(edges.columns, vectors, edges.starts, per_sample_weights=weights, mode="sum")


def bipartite(users: Tensor, items: Tensor, *, num_users: int, num_items: int) -> Graph:
    r"""Return the matrix by which vectors are summed over neighbours, weighed by both degrees.

    .. math:: \hat A_{ui} = \hat A_{iu} = 1 / \sqrt{|N_u| |N_i|}

    Source: He et al., "LightGCN", SIGIR 2020, equation (3).

    Args:
        users: int64 ``[edges]``.
        items: int64 ``[edges]``, who chose what, each pair once.
        num_users: rows of users, which come first.
        num_items: rows of items, behind them.

    Returns:
        ``[users + items, users + items]``, symmetric.
    """
    count, device = num_users + num_items, users.device
    items = items + num_users
    source, target = torch.cat([items, users]), torch.cat([users, items])
    degree = torch.zeros(count, device=device).index_add_(0, target, torch.ones(len(target), device=device))
    weight = (degree[source] * degree[target]).rsqrt()
    edges = Edges.of(target, source, weight, num_rows=count)
    return Graph(edges, edges)


def averaged(graph: Graph, first: Tensor, *, layers: int) -> Tensor:
    """Pass vectors ``[n, dim]`` along a graph and average all layers, the first among them (LightGCN)."""
    layer, total = first, first
    for _ in range(layers):
        layer = along(graph, layer)
        total = total + layer
    return total / (layers + 1)


def kept_edges(
    users: Tensor, items: Tensor, *, num_users: int, num_items: int, keep: int, generator: torch.Generator
) -> Tensor:
    r"""Draw edges without replacement, each next one with probability :math:`\propto 1 / \sqrt{|N_u| |N_i|}`.

    So edges between the popular, which say least, are the first to go.

    Source: Zhou and Shen, "A tale of two graphs: Freezing and denoising graph structures for multimodal recommendation"
    (FREEDOM), ACM Multimedia 2023, section 3.2.

    Args:
        users: int64 ``[edges]``.
        items: int64 ``[edges]``.
        num_users: rows of users.
        num_items: rows of items.
        keep: edges to draw.
        generator: on the CPU, so that every device draws the same.

    Returns:
        int64 ``[keep]``, places among the edges, ascending.
    """
    degrees = [
        torch.bincount(ends, minlength=count)[ends].double()
        for ends, count in ((users.cpu(), num_users), (items.cpu(), num_items))
    ]
    # The smallest of waiting times with these rates are such a draw (Efraimidis and Spirakis, 2006); unlike
    # torch.multinomial they know no longest list.
    waits = (
        torch.empty(len(users), dtype=torch.float64).exponential_(generator=generator)
        * (degrees[0] * degrees[1]).sqrt()
    )
    return waits.topk(keep, largest=False).indices.sort().values.to(users.device)


@torch.no_grad()
def nearest(vectors: Tensor, *, neighbours: int, described: Tensor) -> Neighbours:
    """Find for each item the nearest by cosine, itself among them.

    Args:
        vectors: ``[items, dim]``.
        neighbours: most that are found; of fewer described items all are.
        described: bool ``[items]``, False where an item has no vector: it is nobody's neighbour and has none.

    Returns:
        ``[items, neighbours]``, the cosines as weights.
    """
    number = min(neighbours, len(vectors))
    unit = functional.normalize(vectors.float().masked_fill(~described[:, None], 0.0), dim=1)
    found = [
        (block @ unit.T).masked_fill_(~described[None], float("-inf")).topk(number, dim=1)
        for block in unit.split(COMPARED_ROWS)
    ]
    rows, cosines = torch.cat([block.indices for block in found]), torch.cat([block.values for block in found])
    there = (cosines > float("-inf")) & described[:, None]
    return Neighbours(rows.where(there, 0), cosines.where(there, 0.0))


def normalized(neighbours: Neighbours) -> Neighbours:
    r"""Weigh by both degrees: :math:`D^{-1/2} A D^{-1/2}` with row sums D; without edges, and without weights, 0."""
    degree = neighbours.weights.sum(dim=1)
    scale = torch.where(degree > 0, degree.clamp(min=torch.finfo(degree.dtype).tiny).rsqrt(), 0.0)
    return neighbours._replace(weights=neighbours.weights * scale[:, None] * scale[neighbours.rows])


def fixed(neighbours: Neighbours) -> Graph:
    """Lay out neighbours whose weights are not learned, for `along`."""
    rows, columns = torch.arange(len(neighbours.rows), device=neighbours.rows.device), neighbours.rows.flatten()
    rows, weights = rows.repeat_interleave(neighbours.rows.shape[1]), neighbours.weights.flatten()
    there = weights != 0
    rows, columns, weights = rows[there], columns[there], weights[there]
    count = len(neighbours.rows)
    return Graph(Edges.of(rows, columns, weights, num_rows=count), Edges.of(columns, rows, weights, num_rows=count))


def gathered(neighbours: Neighbours, vectors: Tensor) -> Tensor:
    """Sum vectors ``[items, dim]`` over each item's neighbours, as often as they are weighed; weights may be learned.

    Of weights that stay as they are, `fixed` and `along` make the same in less time.
    """
    return functional.embedding_bag(
        neighbours.rows, vectors, per_sample_weights=neighbours.weights.to(vectors.dtype), mode="sum"
    )
