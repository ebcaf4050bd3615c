r"""EM3 on FREEDOM: beside the vectors by ID, vectors that a Fusion-Q-Former makes of what items are made of.

.. math:: x_u = [u ; u^c], \qquad x_i = [i + h ; i^c + h^c], \qquad h = S^L E, \quad h^c = S^L c

(u, i) and h are FREEDOM's; c is the Q-Former's vector of each item, and (u^c, i^c) LightGCN's averages of [0; c] along
the same graph: by content a user is what he chose. A contrast brings the halves of an item together.

Source: EM3 (Deng et al., "End-to-end training of multimodal model and ranking model", arXiv 2404.06078), in the form
that its authors published for Amazon's data, as reconstructed from their code and logs: FREEDOM's losses by modality
are gone, the contrast is there. To be trained as theirs: ``loss = 'bpr'``, ``single_choices``, ``against = 'full'``,
``id_dropout_rate = 0``. Changed, and as published with ``paper_compat``: the contrast is over the items that a batch
chose instead of the whole catalogue; an item is not its own negative; `item_layers` holds for content too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from triptych.losses.base import LossOutput
from triptych.losses.content_id import Direction, Sides, Stop, content_id, draw_others, drawn_log_q
from triptych.nn.query_former import ModalityTokens, QueryFormer
from triptych.recall.graph_vectors import GraphVectorsConfig, Propagated, described, of_items, of_users
from triptych.recall.learned import Encoded, Sizes, Step, Term
from triptych.recall.models.freedom import FrozenItemGraph

LATER = ("contrast_log_q", "contrast_min_count")
"""Settings that came when there were models already."""


class Em3Config(GraphVectorsConfig):
    """FREEDOM's graphs, the Q-Former and the contrast."""

    kind: Literal["em3"] = "em3"
    """Name of the file that defines it."""
    modality_weights: dict[str, float] = Field({"image": 0.1, "text": 0.9})
    """What each modality's graph of items weighs; the names are those that the items have."""
    dropped_edge_rate: float = Field(0.8, ge=0, lt=1)
    """Share of the edges between users and items that each epoch of training leaves out."""
    queries: int = Field(1, ge=1)
    """Trained queries of the Q-Former."""
    fusion_layers: int = Field(1, ge=1)
    """Its blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads of a block."""
    dropout_rate: float = Field(0.5, ge=0, lt=1)
    """Within its blocks."""
    contrast_weight: float = Field(1e-3, ge=0)
    """Weight of the content-ID contrast; 0: there is none."""
    contrast_temperature: float = Field(0.5, gt=0)
    """Divides its cosines."""
    contrast_negatives: int = Field(16, ge=1)
    """Negatives of an item, drawn anew in each step."""
    contrast_direction: Direction = Direction.BOTH
    """Which side looks for the other: both, content_to_id or id_to_content."""
    contrast_stop: Stop = Stop.NONE
    """Which side is given no gradient: none, id or content."""
    contrast_warmup_steps: int = Field(0, ge=0)
    """Steps over which its weight rises to the full."""
    contrast_log_q: bool = False
    """Whether its scores are corrected for how likely an item is to be among those that a batch chose, by how many
    users chose it."""
    contrast_min_count: int = Field(0, ge=0)
    """Users who must have chosen an item in training for its ID to be contrasted; its content is a negative all the
    same. 0: none."""
    paper_compat: bool = False
    """Contrasts the whole catalogue in every step, an item now and then with itself, and passes content along the graph
    of items once, whatever item_layers is: as the authors' code does."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads ({self.heads}).")
        for name, field in type(self).model_fields.items():
            of_contrast = name.startswith("contrast_") and name != "contrast_weight"
            if of_contrast and not self.contrast_weight and getattr(self, name) != field.default:
                raise ValueError(f"{name} has no effect with contrast_weight = 0. Remove it.")
        if self.paper_compat and self.contrast_log_q:
            raise ValueError("contrast_log_q has no effect with paper_compat, which draws all items alike. Remove it.")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later where it is not set: models trained before keep their ids."""
        tree: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {name: value for name, value in tree.items() if name not in LATER or value != fields[name].default}

    def build(self, sizes: Sizes, *, seed: int) -> Em3:
        """Make the model with new weights."""
        return Em3(self, sizes, seed=seed)


CONFIG = Em3Config


class Em3(FrozenItemGraph):
    """FREEDOM's vectors, and beside them those of content."""

    config: Em3Config

    def __init__(self, config: Em3Config, sizes: Sizes, *, seed: int) -> None:
        """Draw the weights; use `Em3Config.build`."""
        super().__init__(config, sizes, seed=seed, weights=config.modality_weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fusion = QueryFormer.as_published(
                [dim for _, dim in sizes.modalities],
                dim=config.dim,
                queries=config.queries,
                layers=config.fusion_layers,
                heads=config.heads,
                dropout_rate=config.dropout_rate,
            )
            heads = ("content", "id") if config.contrast_weight else ()
            self.contrast_heads = nn.ModuleDict({side: nn.Linear(config.dim, config.dim) for side in heads})
        for name, dim in sizes.modalities:
            self.register_buffer(f"vectors_{name}", torch.zeros(sizes.num_items, dim))
            self.register_buffer(f"described_{name}", torch.zeros(sizes.num_items, dtype=torch.bool))

    @property
    def vector_dim(self) -> int:
        """Length of a vector: by ID, then by content."""
        return 2 * self.config.dim

    @property
    def dropped_edge_rate(self) -> float:
        """As configured."""
        return self.config.dropped_edge_rate

    def describe(self, modalities: Mapping[str, Tensor]) -> None:
        """Keep what items are made of, and build the graph; arguments as of `ModalityModel.describe`."""
        super().describe(modalities)
        for name, vectors in modalities.items():
            self.get_buffer(f"vectors_{name}").copy_(vectors.nan_to_num(nan=0.0))
            self.get_buffer(f"described_{name}").copy_(described(vectors))

    def content(self) -> Tensor:
        """Return the Q-Former's vector of each item, float32 ``[num_items, dim]``."""
        given = [
            ModalityTokens(self.get_buffer(f"vectors_{name}")[:, None], self.get_buffer(f"described_{name}")[:, None])
            for name, _ in self.sizes.modalities
        ]
        return self.fusion(given).float()

    def propagated(self, step: Step | None) -> Propagated:
        """Return all vectors by one pass."""
        content = self.content()
        with torch.autocast(self.users.device.type, enabled=False):
            by_id = self.by_id(step)
            passed = self.along_choices(torch.zeros_like(self.users), content, step)
            layers = 1 if self.config.paper_compat else self.config.item_layers
            by_content = passed.items + self.along_items(content, layers=layers)
            return Propagated(
                torch.cat([by_id.users, passed.users], dim=1), torch.cat([by_id.items, by_content], dim=1)
            )

    def encode(self, step: Step) -> Encoded:
        """Return vectors of users and items, and the contrast of content with IDs."""
        found = self.propagated(step)
        terms = []
        if self.config.contrast_weight:
            warm = min(1.0, (step.batch_index + 1) / (self.config.contrast_warmup_steps + 1))
            terms = [Term(warm * self.config.contrast_weight, self._contrast(found.items, step))]
        return Encoded(of_users(found, step.requests), of_items(found, step.items), terms=tuple(terms))

    def _contrast(self, items: Tensor, step: Step) -> LossOutput:
        """Contrast both halves of the items that the batch chose, or of all."""
        config, (place, of) = self.config, step.shard
        drawn_by = self.drawn_by(step.batch_index)
        rows = torch.arange(1, len(items), device=items.device) if config.paper_compat else step.chosen
        if config.paper_compat:
            drawn = torch.randint(len(rows), (len(rows), config.contrast_negatives), generator=drawn_by)
        else:
            own = torch.arange(len(rows))
            drawn = draw_others(own, num_rows=len(rows), negatives=config.contrast_negatives, generator=drawn_by)
        by_id, by_content = items[rows].split(config.dim, dim=1)
        log_q, trusted = self._counted(rows)
        pool = Sides(self.contrast_heads["content"](by_content), self.contrast_heads["id"](by_id), rows, log_q, trusted)
        return content_id(
            Sides(*(None if part is None else part[place::of] for part in pool)),
            pool=pool,
            drawn=drawn[place::of].to(items.device),
            temperature=config.contrast_temperature,
            direction=config.contrast_direction,
            stop=config.contrast_stop,
            masks_equal=not config.paper_compat,
            total=len(rows) if trusted is None else int(trusted.sum()),
        )

    def _counted(self, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return ``log_q`` and ``trusted`` of the items of a batch, as of `Sides`."""
        config = self.config
        if not config.contrast_log_q and not config.contrast_min_count:
            return None, None
        every = torch.bincount(self.get_buffer("edges")[1], minlength=self.sizes.num_items)
        log_q = drawn_log_q(every[rows], total=every.sum(), draws=len(rows)) if config.contrast_log_q else None
        return log_q, every[rows] >= config.contrast_min_count if config.contrast_min_count else None
