"""Matrix factorisation: a vector for each user and each item, and a bias for each item.

With ``loss = 'bpr'``, ``single_choices`` and ``against = 'full'`` it is BPR-MF: Rendle et al., "BPR: Bayesian
personalized ranking from implicit feedback", UAI 2009. With the loss of all others it tells what that one is worth.
A user or an item that training has not met has the vector of row 0.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from triptych.nn.id_table import IdTable, TableConfig
from triptych.recall.learned import (
    ItemFeatures,
    Needs,
    PenalisedModel,
    RecallModelConfig,
    RequestFeatures,
    Score,
    Sizes,
)


class MatrixFactorizationConfig(RecallModelConfig):
    """Size, and how it is scored."""

    kind: Literal["matrix_factorization"] = "matrix_factorization"
    """Name of the file that defines it."""
    dim: int = Field(64, ge=1)
    """Length of a user's and an item's vector."""
    score: Score = Score.INNER
    """What scores user and item: inner, with the item's bias added; or cosine, then set temperature = 0.05."""
    temperature: float = Field(1.0, gt=0)
    """Divides scores in training."""
    id_rate_factor: float = Field(100.0, gt=0)
    """Learning rate of the vectors (row-wise Adagrad) as a multiple of the loop's."""
    id_init_std: float = Field(0.1, ge=0)
    """Standard deviation of the first vectors."""
    tables: TableConfig = TableConfig()
    """How the vectors by ID are trained and kept, row by row: optimizer and stored_as."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.score.check(self.temperature)
        return self

    @property
    def reads_content(self) -> bool:
        """It does not."""
        return False

    @property
    def needs(self) -> Needs:
        """Users."""
        return Needs(query=False, user=True)

    @property
    def is_penalised(self) -> bool:
        """They are."""
        return True

    def build(self, sizes: Sizes, *, seed: int) -> MatrixFactorization:
        """Make the model with new weights."""
        return MatrixFactorization(self, sizes, seed=seed)


CONFIG = MatrixFactorizationConfig


class MatrixFactorization(PenalisedModel):
    """Two tables."""

    config: MatrixFactorizationConfig

    def __init__(self, config: MatrixFactorizationConfig, sizes: Sizes, *, seed: int) -> None:
        """Draw the vectors; use `MatrixFactorizationConfig.build`."""
        super().__init__()
        self.config, self.sizes = config, sizes
        self._has_bias = config.score is Score.INNER
        drawn = torch.Generator().manual_seed(seed)

        def table(rows: int, dim: int) -> IdTable:
            return config.tables.build(
                rows, dim, rate_factor=config.id_rate_factor, init_std=config.id_init_std, generator=drawn
            )

        self.users = table(sizes.num_users, config.dim)
        self.items = table(sizes.num_items, self.vector_dim)

    @property
    def vector_dim(self) -> int:
        """Length of a vector: an item's bias is its last entry, and a user's is 1 there."""
        return self.config.dim + self._has_bias

    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return vectors of users ``[n, vector_dim]``."""
        assert requests.user_ids is not None
        own = self.users(requests.user_ids)
        return self.config.score.of(with_one(own) if self._has_bias else own)

    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return vectors of items ``[n, vector_dim]``."""
        return self.config.score.of(self.items(items.item_ids))

    def squared_lengths(self, requests: RequestFeatures, items: ItemFeatures) -> tuple[Tensor, Tensor]:
        """Return those of both tables' rows; see `PenalisedModel`."""
        assert requests.user_ids is not None
        return squares(self.users(requests.user_ids)), squares(self.items(items.item_ids))


def squares(vectors: Tensor) -> Tensor:
    """Return the squared lengths ``[n]`` of vectors ``[n, dim]``."""
    return vectors.square().sum(dim=1)


def with_one(vectors: Tensor) -> Tensor:
    """Append a 1 to vectors ``[n, dim]``, by which an item's bias is taken."""
    return torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)
