r"""FREEDOM: LightGCN on a graph that loses edges each epoch, and a frozen graph of items that are alike.

.. math:: x_u = \bar e_u, \qquad x_i = \bar e_i + h_i, \qquad h = S^L E, \qquad
          S = \sum_m w_m D_m^{-1/2} A_m D_m^{-1/2}

E are the items' vectors by ID, :math:`\bar e` LightGCN's averages of users and items; A has a 1 for the k nearest items
by cosine in modality m. Each epoch keeps a share of the edges between users and items, drawn so that those between the
popular are the first to go. A user should also score what he chose by each modality's projection alone.

Source: Zhou and Shen, "A tale of two graphs: Freezing and denoising graph structures for multimodal recommendation",
ACM Multimedia 2023 (arXiv 2211.06924). To be trained as theirs: ``loss = 'bpr'``, ``single_choices``, ``against =
'full'``, ``id_dropout_rate = 0``. Changed: what items are made of stays as it is; here as there, items nobody chose in
training have vectors of their own and are compared with the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.nn.graphs import Graph, Neighbours, along, averaged, fixed
from triptych.recall.graph_vectors import (
    GraphVectors,
    GraphVectorsConfig,
    Propagated,
    alike,
    modality_weights,
    of_items,
    of_users,
)
from triptych.recall.learned import Encoded, Sizes, Step, View


class FreedomConfig(GraphVectorsConfig):
    """The graphs, and what modalities weigh."""

    kind: Literal["freedom"] = "freedom"
    """Name of the file that defines it."""
    modality_weights: dict[str, float] = Field({"image": 0.1, "text": 0.9})
    """What each modality's graph of items weighs; the names are those that the items have."""
    dropped_edge_rate: float = Field(0.8, ge=0, lt=1)
    """Share of the edges between users and items that each epoch of training leaves out."""
    modality_loss_weight: float = Field(1e-3, ge=0)
    """Weight of the loss by each modality's projection alone."""

    def build(self, sizes: Sizes, *, seed: int) -> Freedom:
        """Make the model with new weights."""
        return Freedom(self, sizes, seed=seed)


CONFIG = FreedomConfig


class FrozenItemGraph(GraphVectors):
    """Vectors along a graph of items that is built once, before training."""

    def __init__(self, config: GraphVectorsConfig, sizes: Sizes, *, seed: int, weights: Mapping[str, float]) -> None:
        """Make room for the graph, whose modalities weigh as they do."""
        super().__init__(config, sizes, seed=seed)
        self._weights = modality_weights(weights, sizes)
        shape = sizes.num_items, len(sizes.modalities) * min(config.neighbours, sizes.num_items)
        self.register_buffer("neighbour_rows", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("neighbour_weights", torch.zeros(shape))
        self._item_graph: Graph | None = None

    def describe(self, modalities: Mapping[str, Tensor]) -> None:
        """Build the graph; arguments as of `ModalityModel.describe`."""
        found = alike(modalities, neighbours=self.config.neighbours, by_similarity=False)
        self.neighbour_rows.copy_(torch.cat([found[name].rows for name in self._weights], dim=1))
        weighed = [weight * found[name].weights for name, weight in self._weights.items()]
        self.neighbour_weights.copy_(torch.cat(weighed, dim=1))
        self._item_graph = None

    def train(self, mode: bool = True) -> Self:
        """Begin to train, or to answer; the graph may have been moved or loaded since."""
        self._item_graph = None
        return super().train(mode)

    def along_items(self, vectors: Tensor, *, layers: int) -> Tensor:
        """Pass vectors of items along the graph so many times."""
        if self._item_graph is None:
            self._item_graph = fixed(Neighbours(self.neighbour_rows, self.neighbour_weights))
        for _ in range(layers):
            vectors = along(self._item_graph, vectors)
        return vectors

    def along_choices(self, users: Tensor, items: Tensor, step: Step | None) -> Propagated:
        """Average vectors of users and items along who chose what."""
        passed = averaged(self.graph(step), torch.cat([users, items]), layers=self.config.layers)
        return Propagated(passed[: len(users)], passed[len(users) :])

    def by_id(self, step: Step | None) -> Propagated:
        """Return FREEDOM's vectors: averages, and what comes from items that are alike."""
        found = self.along_choices(self.users, self.items, step)
        return found._replace(items=found.items + self.along_items(self.items, layers=self.config.item_layers))


class Freedom(FrozenItemGraph):
    """Two tables, both graphs, and a projection of each modality that training alone reads."""

    config: FreedomConfig

    def __init__(self, config: FreedomConfig, sizes: Sizes, *, seed: int) -> None:
        """Draw the weights; use `FreedomConfig.build`."""
        super().__init__(config, sizes, seed=seed, weights=config.modality_weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projections = nn.ModuleList(nn.Linear(dim, config.dim) for _, dim in sizes.modalities)
        for name, dim in sizes.modalities:  # nobody asks for them when answering, so they are not saved
            self.register_buffer(f"vectors_{name}", torch.zeros(sizes.num_items, dim), persistent=False)

    @property
    def dropped_edge_rate(self) -> float:
        """As configured."""
        return self.config.dropped_edge_rate

    def describe(self, modalities: Mapping[str, Tensor]) -> None:
        """Keep what items are made of, and build the graph; an item without a modality is projected from zeros."""
        super().describe(modalities)
        for name, vectors in modalities.items():
            self.get_buffer(f"vectors_{name}").copy_(vectors.nan_to_num(nan=0.0))

    def propagated(self, step: Step | None) -> Propagated:
        """Return all vectors by one pass."""
        with torch.autocast(self.users.device.type, enabled=False):
            return self.by_id(step)

    def encode(self, step: Step) -> Encoded:
        """Return vectors of users and items, and views of the items by each modality alone."""
        found, weight = self.propagated(step), self.config.modality_loss_weight
        users, items = of_users(found, step.requests), of_items(found, step.items)
        if not weight:
            return Encoded(users, items)
        views = [
            View(name, weight, users, project(self.get_buffer(f"vectors_{name}")[step.items.item_ids]).float())
            for (name, _), project in zip(self.sizes.modalities, self.projections, strict=True)
        ]
        return Encoded(users, items, tuple(views))
