"""Semantic IDs as content: a trained vector for each code of each level, and what an item's codes make together.

Items that are alike begin with the same codes, so that what is learned of one is known of the other, and of an item
that nobody has chosen. The codes stay as they are; the ranking loss reaches what they say and not how they were made,
which is the cheap answer to the question that EM3 answers end to end.

Source: QARM (Luo et al., "Quantitative alignment multi-modal recommendation at Kuaishou", arXiv 2411.11739), its
residual codes as trained ids. Changed: IDs are of this project's quantisers over the encoder's vectors, which nothing
has aligned with choices beforehand but the encoder's own training; no nearest-neighbour codes beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from triptych.foundation.errors import ConfigError, DataError
from triptych.nn.id_table import IdTable
from triptych.nn.query_former import ModalityTokens
from triptych.nn.target_attention import Steps
from triptych.ranker.content.base import Asked, ContentConfig, ContentModule, Described, ItemSide

SEMANTIC_ID = "semantic_id"
"""The modality: one token an item, its codes as numbers (`code_tokens`)."""


class Pooling(StrEnum):
    """How the vectors of an item's codes become one."""

    SUM = "sum"
    """Added up, as residual codes are."""
    JOINED = "joined"
    """Side by side."""


class SemanticIdsContentConfig(ContentConfig):
    """The table and the map."""

    kind: Literal["semantic_ids"] = "semantic_ids"
    """Name of the file that defines it."""
    codes: int = Field(256, ge=2, le=65_536)
    """Codes to choose from at each level: the quantiser's (semantic_ids.quantizer.codes)."""
    code_dim: int = Field(32, ge=1)
    """Length of a code's vector."""
    pooling: Pooling = Pooling.SUM
    """How those of an item become one: sum or joined."""
    dim: int = Field(64, ge=1)
    """Length of an item's vector."""
    hidden_dims: tuple[int, ...] = ()
    """Layers of an MLP with GELU in the place of the one map."""
    code_rate_factor: float = Field(20.0, gt=0)
    """Learning rate of the codes' vectors (row-wise Adagrad) as a multiple of the loop's."""
    code_init_std: float = Field(0.05, ge=0)
    """Standard deviation of the first ones."""

    @property
    def reads_codes(self) -> bool:
        """It does."""
        return True

    def build(self, modalities: Mapping[str, int], *, id_dim: int, catalogue_items: int) -> SemanticIdsContent:
        """Make it."""
        if tuple(modalities) != (SEMANTIC_ID,):
            given = ", ".join(modalities) or "nothing"
            raise ConfigError(
                f"content: 'semantic_ids' reads the modality '{SEMANTIC_ID}' (code_tokens) and no other, and is given "
                f"{given}."
            )
        return SemanticIdsContent(self, levels=modalities[SEMANTIC_ID])


CONFIG = SemanticIdsContentConfig


def code_tokens(codes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return codes ``[items, levels]`` as a modality of the items; NaN for those below 0, which an item lacks."""
    found: NDArray[Any] = np.asarray(codes).astype(np.float32)  # exact: there are at most 65,536
    return np.where(found < 0, np.float32(np.nan), found)


class SemanticIdsContent(ContentModule):
    """One vector of an item by its codes, for both sides."""

    pair_dim = 0

    def __init__(self, config: SemanticIdsContentConfig, *, levels: int) -> None:
        """Make table and map; use `SemanticIdsContentConfig.build`."""
        super().__init__()
        self.dim = config.dim
        pooled = config.code_dim * (levels if config.pooling is Pooling.JOINED else 1)
        widths = [pooled + 1, *config.hidden_dims, config.dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.side = SemanticIdsItemSide(
            IdTable(
                levels * config.codes,
                config.code_dim,
                rate_factor=config.code_rate_factor,
                init_std=config.code_init_std,
            ),
            nn.Sequential(*layers[:-1]),
            codes=config.codes,
            pooling=config.pooling,
        )

    def forward(self, asked: Asked) -> Described:
        """Describe every distinct item once."""
        return self.describe(self.side(asked.content), target=asked.target, steps=asked.steps)

    def item_side(self) -> SemanticIdsItemSide:
        """One vector of each item, for both sides."""
        return self.side

    def describe(self, items: Sequence[Tensor], *, target: Tensor, steps: Tensor) -> Described:
        """Look the vectors up."""
        (vectors,) = items
        nothing = vectors.new_zeros(target.shape[0], 0)
        return Described(functional.embedding(target, vectors), Steps(vectors, steps), nothing)


class SemanticIdsItemSide(ItemSide):
    """What an item's codes say."""

    names = ("item",)

    def __init__(self, table: IdTable, reduce: nn.Module, *, codes: int, pooling: Pooling) -> None:
        """Take the codes' vectors, level after level, and the map."""
        super().__init__()
        self.table, self.reduce, self._codes, self._pooling = table, reduce, codes, pooling

    def forward(self, content: Sequence[ModalityTokens]) -> tuple[Tensor, ...]:
        """Return float32 ``[items, dim]``.

        Raises:
            DataError: a code is none of the table's.
        """
        (given,) = content
        codes = given.tokens[:, 0].long()
        if not torch.compiler.is_exporting() and codes.numel() and not 0 <= codes.min() <= codes.max() < self._codes:
            raise DataError(
                f"semantic IDs: a code is outside 0..{self._codes - 1}. Set content.codes to the codes of the "
                "quantiser that they are of."
            )
        levels = codes.shape[1]
        found = self.table(codes + self._codes * torch.arange(levels, device=codes.device))
        pooled = found.sum(dim=1) if self._pooling is Pooling.SUM else found.flatten(1)
        there = torch.ones_like(pooled[:, :1]) if given.keep is None else given.keep.to(pooled.dtype)
        return (self.reduce(torch.cat([pooled * there, there], dim=1)).float(),)
