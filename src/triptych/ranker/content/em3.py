"""EM3: a Fusion-Q-Former that the ranking loss trains, in full on candidates, by low rank on behaviours.

Each distinct item of a batch goes through the Q-Former once for each side. Candidates are one a sample, so their branch
may train all weights; behaviours are a hundred times as many, and their branch follows those weights and learns a few
factors of its own (`nn.low_rank`). The tokens come from encoders that stay as they are.

An item's vector and its vector by ID find each other by a contrast (`losses.content_id`), among the candidates of a
batch that have an ID.

Source: EM3 (Deng et al., "End-to-end training of multimodal model and ranking model", arXiv 2404.06078), of which the
ranking form is not public: the reconstruction's proposals, sections 2.3, 3.2 and 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from triptych.data.ids import UNK
from triptych.foundation.errors import ConfigError
from triptych.losses.content_id import Direction, Sides, Stop, content_id, draw_others
from triptych.nn.low_rank import LowRankBranch
from triptych.nn.query_former import ModalityTokens, QueryFormer
from triptych.nn.target_attention import Steps
from triptych.ranker.content.base import Asked, ContentConfig, ContentModule, Described, Term


class Train(StrEnum):
    """What one side teaches the Q-Former."""

    FROZEN = "frozen"
    """Nothing."""
    LORA = "lora"
    """Low-rank factors of its own, over the shared weights."""
    ADAPTER = "adapter"
    """The shared weights."""


class Form(StrEnum):
    """How the Q-Former is built."""

    AS_PUBLISHED = "as_published"
    """Attention alone, post-norm: for one token a modality."""
    FULL = "full"
    """With feed-forward layers, pre-norm, tokens for what is absent: for patches and words."""


class Em3ContentConfig(ContentConfig):
    """The Q-Former, what trains it, and the contrast."""

    kind: Literal["em3"] = "em3"
    """Name of the file that defines it."""
    train: Train = Train.ADAPTER
    """What candidates train: frozen, lora or adapter."""
    train_behaviours: Train = Train.LORA
    """What behaviours train: frozen, lora or adapter."""
    form: Form = Form.AS_PUBLISHED
    """How the Q-Former is built: as_published or full."""
    dim: int = Field(64, ge=1)
    """Length of an item's vector."""
    width: int = Field(64, ge=1)
    """Width of the Q-Former; with form = full only, as published it is dim."""
    queries: int = Field(1, ge=1)
    """Trained queries."""
    layers: int = Field(1, ge=1)
    """Blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads of a block."""
    dropout_rate: float = Field(0.0, ge=0, lt=1)
    """Within blocks."""
    modality_dropout_rate: float = Field(0.1, ge=0, lt=1)
    """Share of an item's modalities that training takes for absent; with form = full only."""
    rank: int = Field(8, ge=1)
    """Of low-rank factors."""
    alpha: float = Field(16.0, gt=0)
    """Factors' product is multiplied by alpha / rank."""
    fusion_rate_factor: float = Field(0.3, gt=0)
    """Learning rate of the Q-Former's own weights as a share of the loop's; factors have the loop's."""
    chunk_items: int = Field(4096, ge=1)
    """Items encoded at a time."""
    recompute: bool = False
    """Whether chunks are encoded again in the backward pass instead of kept, for long histories and many tokens."""
    contrast_weight: float = Field(1e-3, ge=0)
    """Weight of the content-ID contrast; 0: there is none."""
    contrast_dim: int = Field(64, ge=1)
    """Length of what both sides are mapped to for it."""
    contrast_temperature: float = Field(0.1, gt=0)
    """Divides its cosines."""
    contrast_negatives: int = Field(16, ge=0)
    """Negatives of an item, drawn among the batch's candidates; 0: all others."""
    contrast_direction: Direction = Direction.BOTH
    """Which side looks for the other: both, content_to_id or id_to_content."""
    contrast_stop: Stop = Stop.NONE
    """Which side is given no gradient: none, id or content."""
    contrast_warmup_steps: int = Field(0, ge=0)
    """Steps over which its weight rises to the full."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        full, lora = self.form is Form.FULL, Train.LORA in (self.train, self.train_behaviours)
        if (self.width if full else self.dim) % self.heads:
            name = "width" if full else "dim"
            raise ValueError(f"{name} {self.width if full else self.dim} must be a multiple of heads ({self.heads}).")
        idle = {
            "width": (not full, "form = 'as_published'"),
            "modality_dropout_rate": (not full, "form = 'as_published'"),
            "rank": (not lora, "neither train nor train_behaviours = 'lora'"),
            "alpha": (not lora, "neither train nor train_behaviours = 'lora'"),
            "fusion_rate_factor": (not self.trains_weights, "neither train nor train_behaviours = 'adapter'"),
            **{
                name: (not self.contrast_weight, "contrast_weight = 0")
                for name in type(self).model_fields
                if name.startswith("contrast_") and name != "contrast_weight"
            },
        }
        for name, (without_effect, why) in idle.items():
            if without_effect and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with {why}. Remove it.")
        return self

    @property
    def fuses_modalities(self) -> bool:
        """It does."""
        return True

    @property
    def trains_weights(self) -> bool:
        """Whether either side trains the shared weights."""
        return Train.ADAPTER in (self.train, self.train_behaviours)

    def build(self, modalities: Mapping[str, int], *, id_dim: int, catalogue_items: int) -> Em3Content:
        """Make it."""
        if not modalities:
            raise ConfigError("content: 'em3' reads what items are made of, and there is nothing. Give modalities.")
        return Em3Content(self, list(modalities.values()), id_dim=id_dim)


CONFIG = Em3ContentConfig


class Em3Content(ContentModule):
    """The Q-Former, and a branch of it for each side."""

    pair_dim = 0

    def __init__(self, config: Em3ContentConfig, token_dims: Sequence[int], *, id_dim: int) -> None:
        """Make the layers; use `Em3ContentConfig.build`."""
        super().__init__()
        self.config, self.dim = config, config.dim
        shape = {"queries": config.queries, "layers": config.layers, "heads": config.heads}
        if config.form is Form.FULL:
            self.fusion = QueryFormer.full(
                token_dims,
                dim=config.width,
                out_dim=config.dim,
                dropout_rate=config.dropout_rate,
                modality_dropout_rate=config.modality_dropout_rate,
                **shape,
            )
        else:
            self.fusion = QueryFormer.as_published(
                token_dims, dim=config.dim, dropout_rate=config.dropout_rate, **shape
            )
        # Before the factors are drawn, so that every mode begins with the same contrast.
        sides = {"content": config.dim, "id": id_dim} if config.contrast_weight else {}
        self.contrast_heads = nn.ModuleDict({name: nn.Linear(dim, config.contrast_dim) for name, dim in sides.items()})
        self.fusion.requires_grad_(config.trains_weights)
        self.target_factors = self._factors(config.train)
        self.behaviour_factors = self._factors(config.train_behaviours)
        self.register_buffer("contrasted", torch.zeros((), dtype=torch.int64))

    def rate_factors(self) -> Mapping[str, float]:
        """The Q-Former's weights have a rate of their own."""
        return {"fusion": self.config.fusion_rate_factor}

    def forward(self, asked: Asked) -> Described:
        """Describe every distinct candidate, and every distinct item of a history, once."""
        config = self.config
        target, of = torch.unique(asked.target, return_inverse=True)
        described = self._encode(asked, target, train=config.train, factors=self.target_factors)
        keep = asked.steps >= 0
        chosen, places = torch.unique(asked.steps[keep], return_inverse=True)
        steps = self._encode(asked, chosen, train=config.train_behaviours, factors=self.behaviour_factors)
        places = torch.full_like(asked.steps, -1).masked_scatter(keep, places)
        nothing = described.new_zeros(len(of), 0)
        return Described(functional.embedding(of, described), Steps(steps, places), nothing)

    def terms(self, asked: Asked, described: Described) -> Sequence[Term]:
        """Contrast the candidates' two sides; those without an ID have one."""
        config = self.config
        if not config.contrast_weight:
            return ()
        self.get_buffer("contrasted").add_(1)
        places, of = torch.unique(asked.target, return_inverse=True)
        order = torch.arange(len(of), device=of.device)
        first = torch.full_like(places, len(of)).scatter_reduce_(0, of, order, "amin")
        known = asked.id_rows[places] != UNK
        places, first = places[known], first[known]
        rows = Sides(
            self.contrast_heads["content"](described.target[first]),
            self.contrast_heads["id"](asked.id_vectors[places]),
            asked.item_rows[places],
        )
        drawn = None
        if config.contrast_negatives:
            own = torch.arange(len(places), device=places.device)
            drawn = draw_others(own, num_rows=len(places), negatives=config.contrast_negatives)
        loss = content_id(
            rows,
            drawn=drawn,
            temperature=config.contrast_temperature,
            direction=config.contrast_direction,
            stop=config.contrast_stop,
        )
        warm = min(1.0, int(self.get_buffer("contrasted")) / (config.contrast_warmup_steps + 1))
        return (Term(warm * config.contrast_weight, loss),)

    def _factors(self, train: Train) -> LowRankBranch | None:
        config = self.config
        return LowRankBranch(self.fusion, rank=config.rank, alpha=config.alpha) if train is Train.LORA else None

    def _encode(self, asked: Asked, places: Tensor, *, train: Train, factors: LowRankBranch | None) -> Tensor:
        """Encode distinct items, float32 ``[places, dim]``."""
        branch: Callable[..., Tensor] = self.fusion if factors is None else factors
        learns = train is not Train.FROZEN and torch.is_grad_enabled()
        found = []
        with torch.set_grad_enabled(learns):
            for some in places.split(self.config.chunk_items) if len(places) else ():
                given = [ModalityTokens(*(None if p is None else p[some] for p in one)) for one in asked.content]
                if learns and self.config.recompute:
                    found.append(checkpoint(branch, given, use_reentrant=False))
                else:
                    found.append(branch(given))
        return torch.cat(found).float() if found else asked.id_vectors.new_zeros(0, self.dim)
