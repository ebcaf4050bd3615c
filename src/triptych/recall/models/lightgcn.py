r"""LightGCN: vectors of users and items, averaged along who chose what.

.. math:: e^{(k+1)}_u = \sum_{i \in N_u} \frac{e^{(k)}_i}{\sqrt{|N_u| |N_i|}}, \qquad
          e = \frac{1}{K + 1} \sum_{k=0}^{K} e^{(k)}

and likewise for items. The first vectors alone are trained; the graph is that of the training part.

Source: He et al., "LightGCN: Simplifying and powering graph convolution network for recommendation", SIGIR 2020,
equations (3), (4) and (8). To be trained as theirs: ``loss = 'bpr'``, ``single_choices``, ``against = 'full'``. Every
step passes over the whole graph, so it is for logs of some million choices.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.graphs import Graph, averaged, bipartite
from triptych.recall.learned import (
    Encoded,
    GraphModel,
    ItemFeatures,
    Needs,
    PenalisedModel,
    RecallModelConfig,
    RequestFeatures,
    Score,
    Sizes,
    Step,
)
from triptych.recall.models.matrix_factorization import squares


class LightgcnConfig(RecallModelConfig):
    """Size, depth, and how it is scored."""

    kind: Literal["lightgcn"] = "lightgcn"
    """Name of the file that defines it."""
    dim: int = Field(64, ge=1)
    """Length of a vector."""
    layers: int = Field(3, ge=0)
    """Steps along the graph, K."""
    score: Score = Score.INNER
    """What scores user and item: inner, or cosine, then set temperature = 0.05."""
    temperature: float = Field(1.0, gt=0)
    """Divides scores in training."""
    id_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the vectors as a multiple of the loop's: they are all that is trained."""
    id_init_std: float = Field(0.1, ge=0)
    """Standard deviation of the first vectors."""

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
        """Users, and who chose what."""
        return Needs(query=False, user=True, graph=True)

    @property
    def is_penalised(self) -> bool:
        """They are."""
        return True

    def build(self, sizes: Sizes, *, seed: int) -> Lightgcn:
        """Make the model with new weights."""
        return Lightgcn(self, sizes, seed=seed)


CONFIG = LightgcnConfig


class Lightgcn(GraphModel, PenalisedModel):
    """Two tables and the graph between them; row 0 of each, of whoever is unknown, has no edge."""

    config: LightgcnConfig

    def __init__(self, config: LightgcnConfig, sizes: Sizes, *, seed: int) -> None:
        """Draw the vectors; use `LightgcnConfig.build`."""
        super().__init__()
        self.config, self.sizes = config, sizes
        drawn = torch.Generator().manual_seed(seed)
        rows = sizes.num_users + sizes.num_items
        first = torch.empty(rows, config.dim).normal_(std=config.id_init_std, generator=drawn)
        # Neighbours give every row a gradient in every step: a table by rows would save nothing.
        self.first = nn.Parameter(first)
        self.register_buffer("edges", torch.zeros(2, sizes.num_edges, dtype=torch.int64))
        self._graph: Graph | None = None
        self._at_rest: Tensor | None = None

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self.config.dim

    def rate_factors(self) -> dict[str, float]:
        """Return the vectors' share of the learning rate; see `training.task.RateFactors`."""
        return {"first": self.config.id_rate_factor}

    def undecayed(self) -> tuple[str, ...]:
        """Leave the vectors out of weight decay, as those of all tables by ID are; see `training.task.Undecayed`."""
        return ("first",)

    def connect(self, user_ids: Tensor, item_ids: Tensor) -> None:
        """Keep the graph; arguments as of `GraphModel.connect`."""
        assert isinstance(self.edges, Tensor)
        self.edges.copy_(torch.stack([user_ids, item_ids]))
        self._graph = None

    def train(self, mode: bool = True) -> Self:
        """Begin to train, or to answer: what is answered with is then worked out once."""
        self._at_rest, self._graph = None, None
        return super().train(mode)

    def encode(self, step: Step) -> Encoded:
        """Return vectors of users and items, by one pass along the graph."""
        vectors = self.vectors()
        return Encoded(self._of_users(vectors, step.requests), self._of_items(vectors, step.items))

    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return vectors of users ``[n, vector_dim]``."""
        return self._of_users(self.vectors(), requests)

    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return vectors of items ``[n, vector_dim]``."""
        return self._of_items(self.vectors(), items)

    def squared_lengths(self, requests: RequestFeatures, items: ItemFeatures) -> tuple[Tensor, Tensor]:
        """Return those of the first vectors, as published; see `PenalisedModel`."""
        assert requests.user_ids is not None
        users = functional.embedding(requests.user_ids, self.first)
        return squares(users), squares(functional.embedding(items.item_ids + self.sizes.num_users, self.first))

    def vectors(self) -> Tensor:
        """Return the vectors of all users, then of all items, ``[users + items, dim]``."""
        if self.training or torch.is_grad_enabled():
            return self._averaged()
        if self._at_rest is None:
            self._at_rest = self._averaged()
        return self._at_rest

    def _averaged(self) -> Tensor:
        if self._graph is None:
            users, items = self.edges
            self._graph = bipartite(users, items, num_users=self.sizes.num_users, num_items=self.sizes.num_items)
        with torch.autocast(self.first.device.type, enabled=False):
            return averaged(self._graph, self.first, layers=self.config.layers)

    def _of_users(self, vectors: Tensor, requests: RequestFeatures) -> Tensor:
        assert requests.user_ids is not None
        return self.config.score.of(functional.embedding(requests.user_ids, vectors))

    def _of_items(self, vectors: Tensor, items: ItemFeatures) -> Tensor:
        return self.config.score.of(functional.embedding(items.item_ids + self.sizes.num_users, vectors))
