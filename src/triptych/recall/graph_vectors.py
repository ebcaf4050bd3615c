"""What the models of users, items and what items are made of have in common: two tables, and the graph between them.

All of them begin from a vector for each user and each item, pass them along who chose what as LightGCN does, and add
what comes along graphs of items that are alike (`nn.graphs`). Every step passes over everything, so they are for logs
of some million choices and catalogues of some ten thousand items.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.nn.graphs import Graph, Neighbours, bipartite, kept_edges, nearest, normalized
from triptych.recall.learned import (
    Encoded,
    ItemFeatures,
    ModalityModel,
    Needs,
    RecallModelConfig,
    RequestFeatures,
    Sizes,
    Step,
)

SEEDS_APART = 1_000_003
"""Keeps what one seed draws apart from what the next one does."""


class GraphVectorsConfig(RecallModelConfig):
    """Size, depth and the graphs."""

    dim: int = Field(64, ge=1)
    """Length of a user's and an item's vector by ID."""
    layers: int = Field(2, ge=0)
    """Steps along who chose what."""
    item_layers: int = Field(1, ge=1)
    """Steps along items that are alike."""
    neighbours: int = Field(10, ge=1)
    """Items that are most like one, itself among them, by modality."""
    temperature: float = Field(1.0, gt=0)
    """Divides scores in training."""
    id_rate_factor: float = Field(1.0, gt=0)
    """Learning rate of the vectors by ID as a multiple of the loop's."""

    @property
    def reads_content(self) -> bool:
        """It reads none of the pretrained encoder: items are described by modality."""
        return False

    @property
    def needs(self) -> Needs:
        """Users, who chose what, and what items are made of."""
        return Needs(query=False, user=True, graph=True, modalities=True)


class Propagated(NamedTuple):
    """All vectors of a pass."""

    users: Tensor
    """float32 ``[num_users, vector_dim]``."""
    items: Tensor
    """float32 ``[num_items, vector_dim]``."""


class GraphVectors(ModalityModel):
    """The tables, the graph, and what they are answered with; a model says how vectors are passed along.

    Row 0 of each table, of whoever is unknown, has no edge and nobody is like it.
    """

    config: GraphVectorsConfig

    def __init__(self, config: GraphVectorsConfig, sizes: Sizes, *, seed: int) -> None:
        """Draw the vectors; `seed` also draws what training draws anew for each epoch or step."""
        super().__init__()
        self.config, self.sizes, self._seed = config, sizes, seed
        if not sizes.modalities:
            raise ConfigError(f"model: '{config.kind}' reads what items are made of, and there is no modality.")
        for name, _ in sizes.modalities:
            if not name.isidentifier():
                raise ConfigError(f"modality '{name}' cannot be a name in files: use letters, digits and _ alone.")
        drawn = torch.Generator().manual_seed(seed)

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, config.dim), generator=drawn))

        # Neighbours give every row a gradient in every step: a table by rows would save nothing.
        self.users, self.items = table(sizes.num_users), table(sizes.num_items)
        self.register_buffer("edges", torch.zeros(2, sizes.num_edges, dtype=torch.int64))
        self._graph: tuple[int | None, Graph] | None = None
        self._at_rest: Propagated | None = None

    @abstractmethod
    def propagated(self, step: Step | None) -> Propagated:
        """Return all vectors by one pass; of a step of training, or at rest (None)."""

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self.config.dim

    @property
    def dropped_edge_rate(self) -> float:
        """Share of the edges between users and items that each epoch leaves out."""
        return 0.0

    def rate_factors(self) -> dict[str, float]:
        """Return the tables' share of the learning rate; see `training.task.RateFactors`."""
        return {"users": self.config.id_rate_factor, "items": self.config.id_rate_factor}

    def undecayed(self) -> tuple[str, ...]:
        """Leave the tables out of weight decay, as all by ID are; see `training.task.Undecayed`."""
        return "users", "items"

    def connect(self, user_ids: Tensor, item_ids: Tensor) -> None:
        """Keep the graph; arguments as of `GraphModel.connect`."""
        assert isinstance(self.edges, Tensor)
        self.edges.copy_(torch.stack([user_ids, item_ids]))

    def train(self, mode: bool = True) -> Self:
        """Begin to train, or to answer: what is answered with is then worked out once."""
        self._at_rest, self._graph = None, None
        return super().train(mode)

    def encode(self, step: Step) -> Encoded:
        """Return vectors of users and items, by one pass along the graphs."""
        found = self.propagated(step)
        return Encoded(of_users(found, step.requests), of_items(found, step.items))

    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return vectors of users ``[n, vector_dim]``."""
        return of_users(self.vectors(), requests)

    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return vectors of items ``[n, vector_dim]``."""
        return of_items(self.vectors(), items)

    def vectors(self) -> Propagated:
        """Return all vectors as they are answered with: by the whole graph."""
        if self.training or torch.is_grad_enabled():
            return self.propagated(None)
        if self._at_rest is None:
            self._at_rest = self.propagated(None)
        return self._at_rest

    def graph(self, step: Step | None) -> Graph:
        """Return the graph along which a pass goes: of a step's epoch, or whole."""
        rate = self.dropped_edge_rate
        epoch = None if step is None or rate == 0 else step.epoch
        if self._graph is None or self._graph[0] != epoch:
            users, items = self.edges
            counts = {"num_users": self.sizes.num_users, "num_items": self.sizes.num_items}
            if epoch is not None:
                keep, generator = int(len(users) * (1 - rate)), self.drawn_by(epoch)
                kept = kept_edges(users, items, **counts, keep=keep, generator=generator)
                users, items = users[kept], items[kept]
            self._graph = epoch, bipartite(users, items, **counts)
        return self._graph[1]

    def drawn_by(self, number: int) -> torch.Generator:
        """Return what draws for the epoch, or the step, of that number: the same on every device and when resumed."""
        return torch.Generator().manual_seed(self._seed * SEEDS_APART + number)


def of_users(found: Propagated, requests: RequestFeatures) -> Tensor:
    """Take the vectors of those who ask."""
    assert requests.user_ids is not None
    return functional.embedding(requests.user_ids, found.users)


def of_items(found: Propagated, items: ItemFeatures) -> Tensor:
    """Take the vectors of some items."""
    return functional.embedding(items.item_ids, found.items)


def modality_weights(weights: Mapping[str, float], sizes: Sizes) -> dict[str, float]:
    """Return the weights of the modalities that items have, in their order.

    Raises:
        ConfigError: the config names others.
    """
    names = [name for name, _ in sizes.modalities]
    if sorted(weights) != sorted(names):
        raise ConfigError(
            f"model.modality_weights names {', '.join(sorted(weights)) or 'nothing'}, and items have "
            f"{', '.join(sorted(names))}. Give each of these a weight."
        )
    return {name: weights[name] for name in names}


def described(vectors: Tensor) -> Tensor:
    """Return bool ``[items]``, which of them have a modality."""
    return ~vectors.isnan().any(dim=1)


def alike(modalities: Mapping[str, Tensor], *, neighbours: int, by_similarity: bool) -> dict[str, Neighbours]:
    r"""Build the graph of items that are alike in each modality, :math:`D^{-1/2} A D^{-1/2}` of the nearest.

    Args:
        modalities: as of `ModalityModel.describe`.
        neighbours: of an item, itself among them.
        by_similarity: whether an edge has its cosine as value, negative ones 0 (LATTICE); else 1 (FREEDOM).
    """
    found = {}
    for name, vectors in modalities.items():
        own = described(vectors)
        near = nearest(vectors, neighbours=neighbours, described=own)
        values = near.weights.clamp(min=0)
        if not by_similarity:
            there = torch.arange(near.rows.shape[1], device=vectors.device) < own.sum()
            values = (own[:, None] & there).float()
        found[name] = normalized(near._replace(weights=values))
    return found
