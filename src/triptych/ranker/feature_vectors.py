"""From features to vectors: a table for each field and list, a map for numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.bags import PaddedRows, TableBags, bag_means
from triptych.nn.id_table import IdTable
from triptych.nn.target_attention import Steps
from triptych.ranker.inputs import Candidates, ItemFeatures, Sizes

BESIDE_DIM = 8
"""Length of what tells when and how a step was chosen."""


class FeatureVectors(nn.Module):
    """Vectors of items, of requests, and of when and how something was chosen.

    Every field and list has a table of its own, which training changes by the rows of a batch (`nn.id_table`); all
    numbers of one side share a linear map. What is said of an item is the same in a history and as a candidate.
    """

    def __init__(self, sizes: Sizes, *, dim: int, rate_factor: float, init_std: float) -> None:
        """Make tables and maps.

        Args:
            sizes: rows of tables.
            dim: length of a feature's vector.
            rate_factor: learning rate of the tables as a multiple of the loop's.
            init_std: of their first vectors.
        """
        super().__init__()

        def tables(rows: Mapping[str, int]) -> nn.ModuleList:
            return nn.ModuleList(
                IdTable(count, dim, rate_factor=rate_factor, init_std=init_std) for count in rows.values()
            )

        self.item_fields, self.item_lists = tables(sizes.item_fields), tables(sizes.item_lists)
        self.request_fields, self.request_lists = tables(sizes.request_fields), tables(sizes.request_lists)
        self.item_numbers = nn.Linear(2 * len(sizes.item_numbers), dim) if sizes.item_numbers else None
        self.sample_numbers = nn.Linear(2 * len(sizes.sample_numbers), dim) if sizes.sample_numbers else None
        self.gaps = nn.Parameter(torch.randn(sizes.gap_rows, BESIDE_DIM) * 0.1)
        self.kinds = nn.Parameter(torch.randn(sizes.kind_rows, BESIDE_DIM) * 0.1)
        self.beside_dim = BESIDE_DIM
        self.item_dim = dim * (len(self.item_fields) + len(self.item_lists) + bool(sizes.item_numbers))
        self.context_dim = dim * (len(self.request_fields) + len(self.request_lists) + bool(sizes.sample_numbers))

    def items(self, given: ItemFeatures) -> Tensor:
        """Return vectors of items ``[items, item_dim]``, that of the item itself first."""
        found = [table(given.fields[:, place]) for place, table in enumerate(self.item_fields)]
        found += [_mean(table, rows) for table, rows in zip(self.item_lists, given.lists, strict=True)]
        if self.item_numbers is not None:
            found.append(self.item_numbers(given.numbers).float())
        return torch.cat(found, dim=1)

    def context(self, given: Candidates) -> Tensor:
        """Return vectors of candidates' requests and moments ``[n, context_dim]``."""
        requests = given.requests
        found = [table(requests.fields[:, place]) for place, table in enumerate(self.request_fields)]
        found += [_mean(table, rows) for table, rows in zip(self.request_lists, requests.lists, strict=True)]
        context = functional.embedding(given.request, torch.cat(found, dim=1))
        if self.sample_numbers is None:
            return context
        return torch.cat([context, self.sample_numbers(given.numbers).float()], dim=1)

    def beside(self, given: Candidates) -> Steps:
        """Return when and how each step of candidates' histories was chosen; nothing stands where no step does."""
        vectors = (self.gaps[:, None] + self.kinds[None]).flatten(0, 1)
        rows = given.requests.gaps * len(self.kinds) + given.requests.kinds
        return Steps(vectors, torch.where(given.requests.steps >= 0, rows, -1)[given.request])


def _mean(table: nn.Module, rows: TableBags | PaddedRows) -> Tensor:
    if isinstance(rows, PaddedRows):
        return rows.mean(table)
    return bag_means(table(rows.rows), rows.bags).vectors
