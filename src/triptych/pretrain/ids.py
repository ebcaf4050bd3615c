"""A vector of its own for every query and item, added to what the towers make: an apparatus, not a product.

Fast tables of ids are the known cause of the one-epoch phenomenon (Zhang et al., 2022): from the second time a pair is
seen they know it by heart, and what the towers learn is spoilt. A stage that adds them shows that; the exported encoder
has none of them.
"""

from __future__ import annotations

from torch import Tensor, nn

from triptych.encoders.base import unit

INIT_STD = 0.02


class IdTables(nn.Module):
    """Two tables of vectors."""

    def __init__(self, *, num_queries: int, num_items: int, dim: int) -> None:
        """Draw the vectors, small beside those of the towers."""
        super().__init__()
        self.queries = nn.Embedding(num_queries, dim)
        self.items = nn.Embedding(num_items, dim)
        for table in (self.queries, self.items):
            nn.init.normal_(table.weight, std=INIT_STD)

    def with_queries(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Add the queries' own vectors: ``[batch, dim]``, scaled to length 1 again."""
        return unit(vectors + self.queries(rows))

    def with_items(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Add the items' own vectors: ``[batch, dim]``, scaled to length 1 again."""
        return unit(vectors + self.items(rows))
