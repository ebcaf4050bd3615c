"""An encoder in training: with the blocks where its towers meet, and a head for each objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from triptych.encoders.base import Encoder
from triptych.encoders.cross import CrossEncoder
from triptych.pretrain.ids import IdTables
from triptych.pretrain.objectives.base import Objective, ObjectiveConfig

CROSS = "cross"
"""The part that is trained beside the encoder's own."""


class PretrainModel(nn.Module):
    """Encoder, cross-encoder and objectives; the encoder alone is what is shipped.

    One set of weights goes through all stages: what a stage does not train stays as it is, bit for bit.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        cross_layers: int | None,
        objectives: Sequence[ObjectiveConfig],
        batch_items: int,
        ids: tuple[int, int] | None = None,
        seed: int,
    ) -> None:
        """Make the blocks and heads.

        Args:
            encoder: what is trained.
            cross_layers: blocks over both towers; None: none are needed.
            objectives: those of all stages; of several with one label the first decides.
            batch_items: items of a batch.
            ids: numbers of queries and items that are given vectors of their own; None: none are.
            seed: of the new weights.
        """
        super().__init__()
        self.encoder = encoder
        config = encoder.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cross = None
            if cross_layers is not None:
                self.cross = CrossEncoder(config.dim, layers=cross_layers, heads=config.heads)
            made: dict[str, Objective] = {}
            for one in objectives:
                if one.label not in made:
                    made[one.label] = one.build(encoder, batch_items=batch_items)
            self.ids = None if ids is None else IdTables(num_queries=ids[0], num_items=ids[1], dim=encoder.vector_dim)
        self.objectives = nn.ModuleDict(made)
        self._rates: dict[str, float] = {}

    def train_only(
        self, parts: Mapping[str, float] | None, *, labels: Sequence[str], id_rate: float | None = None
    ) -> None:
        """Freeze everything but some parts of the encoder and the heads of some objectives.

        Args:
            parts: part of the encoder, or `CROSS` → its share of the learning rate; None: all of them at the full one.
            labels: of the objectives whose heads are trained.
            id_rate: learning rate of the vectors by id as a multiple of the rate; None: they are not trained.
        """
        rates = dict.fromkeys([*self.encoder.parts(), CROSS], 1.0) if parts is None else dict(parts)
        named = self.parts()
        # What a pretrained model is trained at by itself comes first: the first beginning that fits decides.
        slots = {f"encoder.{name}": factor for name, factor in self.encoder.rate_factors().items()}
        found: dict[str, float] = {}
        for beginning, factor in slots.items():
            part = next(part for part, starts in named.items() if beginning.startswith(starts))
            found[beginning] = factor * rates.get(part, 0.0)
        for part, rate in rates.items():
            found |= {start: rate for start in named[part] if start not in found}
        for label in labels:
            head = self.objectives[label]
            assert isinstance(head, Objective)
            found |= {f"objectives.{label}.{name}": rate for name, rate in head.rate_factors().items()}
            found.setdefault(f"objectives.{label}.", 1.0)
        if id_rate is not None:
            found["ids."] = id_rate
        self._rates = found
        for name, weight in self.named_parameters():
            weight.requires_grad_(self._rate_of(name) > 0)

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Return part → beginnings of its weights' names, as `training.task.Parts`."""
        own = {part: tuple(f"encoder.{start}" for start in starts) for part, starts in self.encoder.parts().items()}
        return {**own, CROSS: ("cross.",)}

    def rate_factors(self) -> dict[str, float]:
        """Return the beginning of the weights' names → their share of the learning rate."""
        return self._rates

    def _rate_of(self, name: str) -> float:
        return next((rate for start, rate in self._rates.items() if name.startswith(start)), 0.0)
