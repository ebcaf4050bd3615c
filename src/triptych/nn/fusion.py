"""Vectors by ID and vectors of content, made one: the fusions that the Taobao article compares, and what they beat."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.id_table import TableConfig


class Fusion(StrEnum):
    """What a vector is made of: e is the ID's, trained by rows; p the content's, frozen; a = FC(p), its reduction."""

    MM = "mm"
    """a, or an MLP of p where `hidden_dims` says so."""
    ID = "id"
    """e."""
    SUM = "mm+id_sum"
    """a + e."""
    CAT = "mm+id_cat"
    """[a; e]: the score is the sum of two inner products, without cross terms."""
    IDFC = "mm+idfc"
    """a + FC(e): the article's choice."""
    IDFC_CAT = "mm+idfc_cat"
    """FC([a; FC(e)])."""
    TRAINABLE = "mm_trainable"
    """FC(p + r), r trained by rows from 0: as if the content's own vectors were trained."""

    @property
    def reads_content(self) -> bool:
        """Whether p is read."""
        return self is not Fusion.ID

    @property
    def reads_id(self) -> bool:
        """Whether there is a vector for each ID."""
        return self is not Fusion.MM


class FusedVectors(nn.Module):
    """Vectors of queries or of items: unit vectors of the ID, of the content, or of both.

    Source: the Taobao article (part 5, its recall model); the mapping of its unnamed alternatives is the
    reconstruction's (section 4.2). There both sides have a map each for content and IDs, as here.
    """

    def __init__(
        self,
        fusion: Fusion,
        *,
        num_ids: int,
        content_dim: int,
        dim: int,
        hidden_dims: tuple[int, ...] = (),
        id_rate_factor: float = 100.0,
        id_init_std: float = 0.01,
        tables: TableConfig | None = None,
        bends_ids: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the maps and the table.

        Args:
            fusion: what is made of what.
            num_ids: rows of the table, row 0 that of whatever has no vector of its own.
            content_dim: length of p.
            dim: length of a and e; of the vectors too, but for `CAT`, whose are twice as long.
            hidden_dims: of the MLP with ReLU that stands in the place of `MM`'s map.
            id_rate_factor: learning rate of the table as a multiple of the loop's.
            id_init_std: of a new e; small, so that a vector begins as that of its content.
            tables: how the table is trained and kept; None: by default.
            bends_ids: whether FC(e) ends in tanh.
            generator: draws the table; None: torch's own.
        """
        super().__init__()
        self._fusion = fusion
        self._bends_ids = bends_ids
        self.out_dim = 2 * dim if fusion is Fusion.CAT else dim
        self.ids = None
        if fusion.reads_id:
            residual = fusion is Fusion.TRAINABLE
            self.ids = (tables or TableConfig()).build(
                num_ids,
                content_dim if residual else dim,
                rate_factor=id_rate_factor,
                init_std=0.0 if residual else id_init_std,
                generator=generator,
            )
        self.reduce = _maps([content_dim, *hidden_dims, dim]) if fusion.reads_content else None
        self.bend = nn.Linear(dim, dim) if fusion in (Fusion.IDFC, Fusion.IDFC_CAT) else None
        self.join = nn.Linear(2 * dim, dim) if fusion is Fusion.IDFC_CAT else None

    def begin_like(self, other: FusedVectors) -> None:
        """Reduce content as another side does, until training tells them apart.

        Two maps drawn apart send what the encoder had brought together to unrelated places, and training has to bring
        it together again (docs/decisions/0016). One orthogonal map keeps inner products, exactly where it does not
        shorten vectors.
        """
        if self.reduce is None or other.reduce is None:
            return
        for layer in other.reduce:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.reduce.load_state_dict(other.reduce.state_dict())

    def forward(self, ids: Tensor, content: Tensor | None) -> Tensor:
        """Return unit vectors ``[n, out_dim]``.

        Args:
            ids: int64 ``[n]``, rows of the table.
            content: float ``[n, content_dim]``; None where none is read.
        """
        return functional.normalize(self.unnormalized(ids, content).float(), dim=-1)

    def unnormalized(self, ids: Tensor, content: Tensor | None) -> Tensor:
        """Return the same before they are made unit vectors, for what adds to them."""
        own = None if self.ids is None else self.ids(ids)
        if self._fusion is Fusion.ID:
            assert own is not None
            return own
        assert content is not None and self.reduce is not None, f"{self._fusion} reads content"
        if self._fusion is Fusion.TRAINABLE:
            return self.reduce(content + own)
        reduced = self.reduce(content)
        if own is None:
            return reduced
        if self.bend is not None:
            own = self.bend(own)
            own = own.tanh() if self._bends_ids else own
        if self._fusion in (Fusion.SUM, Fusion.IDFC):
            return reduced + own
        both = torch.cat([reduced, own.to(reduced.dtype)], dim=-1)
        return both if self.join is None else self.join(both)


def _maps(dims: list[int]) -> nn.Sequential:
    """Return linear maps with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(dims):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
