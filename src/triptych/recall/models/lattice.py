r"""LATTICE: LightGCN, and graphs of items that are alike, which are learned.

.. math:: x_u = \bar e_u, \qquad x_i = \bar e_i + h_i / \|h_i\|, \qquad h = A^L E, \qquad
          A = \sum_m \alpha_m \left( \lambda \tilde S_m + (1 - \lambda) \hat S_m \right)

E are the items' vectors by ID, :math:`\bar e` LightGCN's averages. :math:`\tilde S_m` weighs the k nearest items of
modality m by their cosine, :math:`\hat S_m` those after a learned map, both normalised as :math:`D^{-1/2} S D^{-1/2}`,
negative cosines 0; :math:`\alpha` is a learned softmax.

Source: Zhang et al., "Mining latent structures for multimedia recommendation", ACM Multimedia 2021 (arXiv 2104.09036),
section 2; sizes are those of the authors' code. Changed: which items are nearest after the map is found once an epoch,
as there, but their cosines are new at every step, so that the map learns from all of them. What items are made of stays
as it is. To be trained as theirs: ``loss = 'bpr'``, ``single_choices``, ``against = 'full'``, ``id_dropout_rate = 0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.graphs import Graph, Neighbours, along, averaged, fixed, gathered, nearest, normalized
from triptych.recall.graph_vectors import GraphVectors, GraphVectorsConfig, Propagated, alike, described
from triptych.recall.learned import Sizes, Step

NO_EPOCH = -1


class LatticeConfig(GraphVectorsConfig):
    """The graphs."""

    kind: Literal["lattice"] = "lattice"
    """Name of the file that defines it."""
    mapped_dim: int = Field(64, ge=1)
    """Length of a modality's vector after its map."""
    frozen_rate: float = Field(0.9, ge=0, le=1)
    """Share of the graph of unmapped vectors in that of both, lambda."""

    def build(self, sizes: Sizes, *, seed: int) -> Lattice:
        """Make the model with new weights."""
        return Lattice(self, sizes, seed=seed)


CONFIG = LatticeConfig


class Lattice(GraphVectors):
    """Two tables, a map of each modality, and their shares."""

    config: LatticeConfig

    def __init__(self, config: LatticeConfig, sizes: Sizes, *, seed: int) -> None:
        """Draw the weights; use `LatticeConfig.build`."""
        super().__init__(config, sizes, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.maps = nn.ModuleList(nn.Linear(dim, config.mapped_dim) for _, dim in sizes.modalities)
        self.shares = nn.Parameter(torch.zeros(len(sizes.modalities)))
        shape = sizes.num_items, min(config.neighbours, sizes.num_items)
        for name, dim in sizes.modalities:
            self.register_buffer(f"vectors_{name}", torch.zeros(sizes.num_items, dim))
            self.register_buffer(f"described_{name}", torch.zeros(sizes.num_items, dtype=torch.bool))
            self.register_buffer(f"rows_{name}", torch.zeros(shape, dtype=torch.int64))
            self.register_buffer(f"weights_{name}", torch.zeros(shape))
            # Those after the map, and the epoch that they are of: a training that is resumed goes on with them.
            self.register_buffer(f"mapped_rows_{name}", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("mapped_epoch", torch.tensor(NO_EPOCH))
        self._unmapped: list[Graph] = []

    def describe(self, modalities: Mapping[str, Tensor]) -> None:
        """Keep what items are made of, and build the graphs of it; arguments as of `ModalityModel.describe`."""
        for name, graph in alike(modalities, neighbours=self.config.neighbours, by_similarity=True).items():
            self.get_buffer(f"vectors_{name}").copy_(modalities[name].nan_to_num(nan=0.0))
            self.get_buffer(f"described_{name}").copy_(described(modalities[name]))
            self.get_buffer(f"rows_{name}").copy_(graph.rows)
            self.get_buffer(f"weights_{name}").copy_(graph.weights)
        self._unmapped = []

    def train(self, mode: bool = True) -> Self:
        """Begin to train, or to answer; the graphs may have been moved or loaded since."""
        self._unmapped = []
        return super().train(mode)

    def propagated(self, step: Step | None) -> Propagated:
        """Return all vectors by one pass."""
        with torch.autocast(self.users.device.type, enabled=False):
            passed = averaged(self.graph(step), torch.cat([self.users, self.items]), layers=self.config.layers)
            alike_items, graphs = self.items, self._item_graphs(step)
            for _ in range(self.config.item_layers):
                alike_items = torch.stack([share * _passed(graph, alike_items) for share, graph in graphs]).sum(dim=0)
            count = len(self.users)
            return Propagated(passed[:count], passed[count:] + functional.normalize(alike_items, dim=1))

    def _item_graphs(self, step: Step | None) -> list[tuple[Tensor, Graph | Neighbours]]:
        """Return the graphs whose sum is A, and what each counts in it."""
        is_new = step is not None and step.epoch != int(self.mapped_epoch)
        names = [name for name, _ in self.sizes.modalities]
        if not self._unmapped:
            tables = [(self.get_buffer(f"rows_{name}"), self.get_buffer(f"weights_{name}")) for name in names]
            self._unmapped = [fixed(Neighbours(*table)) for table in tables]
        frozen, shares = self.config.frozen_rate, torch.softmax(self.shares, dim=0)
        found: list[tuple[Tensor, Graph | Neighbours]] = []
        for share, name, project, unmapped in zip(shares, names, self.maps, self._unmapped, strict=True):
            found.append((share * frozen, unmapped))
            if frozen < 1:
                mapped = self._mapped_graph(name, project=project, at_rest=step is None, is_new=is_new)
                found.append((share * (1 - frozen), mapped))
        if step is not None and is_new:
            self.mapped_epoch.fill_(step.epoch)
        return found

    def _mapped_graph(self, name: str, *, project: nn.Module, at_rest: bool, is_new: bool) -> Neighbours:
        """Return the graph of one modality after its map, with a gradient."""
        known, kept = self.get_buffer(f"described_{name}"), self.get_buffer(f"mapped_rows_{name}")
        vectors = functional.normalize(project(self.get_buffer(f"vectors_{name}")), dim=1)
        rows = kept
        if at_rest or is_new:
            rows = nearest(vectors, neighbours=self.config.neighbours, described=known).rows
            if not at_rest:
                kept.copy_(rows)
        cosines = (vectors[:, None] * functional.embedding(rows, vectors)).sum(dim=2).clamp(min=0)
        there = torch.arange(rows.shape[1], device=rows.device) < known.sum()
        return normalized(Neighbours(rows, cosines * (known[:, None] & there)))


def _passed(graph: Graph | Neighbours, vectors: Tensor) -> Tensor:
    return along(graph, vectors) if isinstance(graph, Graph) else gathered(graph, vectors)
