"""A query in several grains: MGDSPR's multi-granular semantic unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triptych.nn.attention import at_least_one
from triptych.nn.bags import TableBags, bag_means, looked_up
from triptych.nn.id_table import IdTable
from triptych.nn.transformer import Transformer

PLAIN = 2
"""Place of the row of words, by which what was asked before is recalled."""


class QueryGrains(nn.Module):
    r"""Rows that say a query: characters, pairs, words, words in context, what was asked before, and their sum.

    .. math:: q_1 = \bar c,\; q_2 = \bar p,\; q_s = \bar w,\; q_{ss} = \overline{Trm(w)},\;
              q_h = softmax(q_s H^T) H,\; q_{mix} = q_1 + q_2 + q_s + q_{ss} + q_h

    Source: MGDSPR (arXiv 2106.09297), section 3.1. As there, the attention is not scaled. The Transformer sees no
    positions: none are written, and a mean follows it.
    """

    def __init__(
        self, words: IdTable, *, characters: IdTable, pairs: IdTable, layers: int, heads: int, reads_past: bool
    ) -> None:
        """Put the tables before a Transformer.

        Args:
            words: vectors of words, of queries asked before too.
            characters: vectors of characters.
            pairs: vectors of pairs of characters.
            layers: of the Transformer; 0: there is none, and no row of it.
            heads: of its attention.
            reads_past: whether there is a row of what was asked before.
        """
        super().__init__()
        self.words, self.characters, self.pairs = words, characters, pairs
        self.context = Transformer(words.dim, layers=layers, heads=heads) if layers else None
        self.reads_past = reads_past

    def forward(
        self,
        characters: TableBags,
        pairs: TableBags,
        words: Tensor,
        *,
        of: Tensor,
        past_words: TableBags | None,
        asked: Tensor | None,
    ) -> Tensor:
        """Return the rows of each query ``[n, rows, dim]``, the sum last.

        Args:
            characters: bags of the queries, each once, ``[distinct]``.
            pairs: likewise.
            words: int64 ``[distinct, longest]``, -1 behind the end.
            of: int64 ``[n]``, which of them each is.
            past_words: bags of distinct queries; None where what was asked before is not read.
            asked: int64 ``[n, longest]``, places among those, -1 behind the end; None likewise.
        """
        inside = words >= 0
        states = self.words(words.clamp(min=0))
        units = (table_means(self.characters, characters), table_means(self.pairs, pairs))
        rows = [*units, _means(states, inside)]
        if self.context is not None:
            rows.append(_means(self.context(states, keep=at_least_one(inside)), inside))
        said = looked_up(torch.cat(rows, dim=1), of).unflatten(1, (len(rows), -1))
        if self.reads_past:
            assert past_words is not None and asked is not None
            past = recalled(said[:, PLAIN], table_means(self.words, past_words), asked=asked)
            said = torch.cat([said, past[:, None]], dim=1)
        return torch.cat([said, said.sum(dim=1, keepdim=True)], dim=1)


def recalled(query: Tensor, past: Tensor, *, asked: Tensor) -> Tensor:
    """Attend to what was asked before; 0 where nothing was.

    Args:
        query: ``[n, dim]``.
        past: ``[distinct, dim]``, queries asked before.
        asked: int64 ``[n, longest]``, places among them, -1 behind the end.
    """
    keep = asked >= 0
    with torch.autocast(query.device.type, enabled=False):
        rows = looked_up(past.float(), asked)
        scores = (rows @ query.float()[:, :, None])[:, :, 0].masked_fill(~at_least_one(keep), float("-inf"))
        weights = torch.softmax(scores, dim=1) * keep
        return (weights[:, None] @ rows)[:, 0]


def table_means(table: IdTable, of: TableBags) -> Tensor:
    """Average rows of a table, ``[bags, dim]``; 0 for none."""
    return bag_means(table(of.rows), of.bags).vectors


def _means(states: Tensor, inside: Tensor) -> Tensor:
    """Average what is inside ``[n, words]``; 0 where nothing is."""
    counted = inside[:, :, None].float()
    return (states.float() * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
