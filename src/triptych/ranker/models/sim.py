"""Search-based interest model: of a long history, only what has to do with the candidate is looked at closely.

A first search keeps of all choices those of the candidate's category (hard), or those nearest to it by features or by
content (soft). Target attention, as DIN's, then reads the latest choices and those that were found, with weights of
its own for each.

Source: Pi et al., "Search-based user interest modeling with lifelong sequential behavior data", CIKM 2020; by content
as MUSE does (arXiv 2512.07216). Changed: the soft search by features goes by the vectors that the model has just then,
without an auxiliary loss and without gradient.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from triptych.data.ids import UNK
from triptych.foundation.errors import ConfigError
from triptych.nn.target_attention import Steps
from triptych.ranker.base import Seen
from triptych.ranker.content.base import ContentConfig
from triptych.ranker.inputs import Sizes
from triptych.ranker.models.din import Din, DinConfig

SEARCHED_BY = "category"


class Search(StrEnum):
    """How the first search finds."""

    CATEGORY = "category"
    """The latest choices of the candidate's category."""
    FEATURES = "features"
    """Those whose vectors by features have the largest inner product with the candidate's."""
    CONTENT = "content"
    """Those whose vectors by content have the largest cosine."""


class SimConfig(DinConfig):
    """DIN's settings, and those of the search."""

    kind: Literal["sim"] = "sim"  # type: ignore[assignment]
    """Name of the file that defines it."""
    history_items: int = Field(500, ge=1)
    """The user's latest choices that are searched."""
    search: Search = Search.CATEGORY
    """How: category, features or content."""
    found_items: int = Field(50, ge=1)
    """Choices that the search keeps, at most."""
    recent_items: int = Field(20, ge=1)
    """The latest choices, which are always looked at."""

    def build(self, sizes: Sizes, *, content: ContentConfig, seed: int) -> Sim:
        """Make the model with new weights.

        Raises:
            ConfigError: there is nothing to search by.
        """
        return Sim(self, sizes, content=content, seed=seed)

    def check_fields(self, item_fields: Collection[str]) -> None:
        """A search by category wants categories."""
        if self.search is Search.CATEGORY and SEARCHED_BY not in item_fields:
            raise ConfigError("model.search: items have no category to search by. Set search = features or content.")


CONFIG = SimConfig


class Sim(Din):
    """DIN over what a search has found, beside DIN over what was last."""

    config: SimConfig

    def make(self) -> None:
        """Make the layers."""
        search, names = self.config.search, list(self.sizes.item_fields)
        self.config.check_fields(names)
        if search is Search.CONTENT and not self.dims.content:
            raise ConfigError(
                f"model.search: content.kind = '{self.content_config.kind}' gives no vectors to search by. Choose "
                "another kind, or search = category or features."
            )
        super().make()
        self.of_found = self.attention(self.dims.item)
        self._field = names.index(SEARCHED_BY) if search is Search.CATEGORY else -1

    @property
    def seen_dim(self) -> int:
        """Length of what the MLP reads: what was found, beside all that DIN reads."""
        return super().seen_dim + self.dims.item

    def joined(self, seen: Seen) -> list[Tensor]:
        """Return what the MLP reads, part by part."""
        found, recent = self.find(seen), self.recent(seen)
        content = seen.content._replace(steps=_only(seen.content.steps, found | recent))
        parts = super().joined(seen._replace(steps=_only(seen.steps, recent), content=content))
        return [*parts, self.of_found(seen.target, _only(seen.steps, found), beside=seen.beside)]

    def recent(self, seen: Seen) -> Tensor:
        """Say which steps are the latest, bool ``[n, longest]``."""
        keep = seen.steps.keep
        behind = keep.flip(1).cumsum(1).flip(1)  # steps from each one on to the end
        return keep & (behind <= self.config.recent_items)

    @torch.no_grad()
    def find(self, seen: Seen) -> Tensor:
        """Say which steps the search keeps, bool ``[n, longest]``."""
        places, keep = seen.steps.places, seen.steps.keep
        if self.config.search is Search.CATEGORY:
            wanted = seen.target_fields[:, self._field, None]
            keep = keep & (seen.step_fields[places.clamp(min=0), self._field] == wanted) & (wanted != UNK)
            scores = torch.arange(places.shape[1], device=places.device, dtype=torch.float32).expand(places.shape)
        else:
            target, steps = seen.target, seen.steps
            if self.config.search is Search.CONTENT:
                steps = seen.content.steps
                target = functional.normalize(seen.content.target, dim=1)
                steps = Steps(functional.normalize(steps.vectors, dim=1), steps.places)
            if not len(steps.vectors):
                return keep
            scores = (target.float() @ steps.vectors.float().T).gather(1, steps.places.clamp(min=0))
        scores = scores.masked_fill(~keep, float("-inf"))
        best = scores.topk(torch.sym_min(self.config.found_items, places.shape[1]), dim=1).indices
        return torch.zeros_like(keep).scatter_(1, best, True) & keep


def _only(steps: Steps, keep: Tensor) -> Steps:
    return Steps(steps.vectors, steps.places.masked_fill(~keep, -1))
