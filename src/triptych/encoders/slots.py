"""Slots: a pretrained model in the place of our own word vectors (text) or stem (photos).

A slot gives token states ``[batch, tokens, dim]`` for the layers behind it, whoever makes them: the models' states pass
through a norm and a linear map to the encoder's width. A model that is trained is part of the module. A frozen one is
held beside it: it is moved along, but is no parameter, takes up no room in checkpoints, and never leaves evaluation
mode.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from triptych.encoders.patches import VisionModel
from triptych.encoders.pretrained import Output, PretrainedConfig, PretrainedText, model_input
from triptych.encoders.text import WORD_INIT_STD, TokenStates
from triptych.foundation.artifact import Artifact


class ModelArtifacts(NamedTuple):
    """The artefacts behind the slots of one encoder; None where our own layers are used."""

    text: Artifact | None = None
    """Kind ``pretrained``."""
    vision: Artifact | None = None
    """Kind ``pretrained``."""
    features: Artifact | None = None
    """Kind ``features``: what a frozen vision model sees in the catalogue's photos."""

    def named(self) -> dict[str, Artifact]:
        """Return the inputs of an encoder's artefact: name → artefact."""
        found = {"text_model": self.text, "vision_model": self.vision, "photo_features": self.features}
        return {name: artifact for name, artifact in found.items() if artifact is not None}


class Models(NamedTuple):
    """The opened models of one encoder; None where our own layers are used."""

    text: PretrainedText | None = None
    vision: VisionModel | None = None


NO_MODELS, NO_ARTIFACTS = Models(), ModelArtifacts()


class _Slot(nn.Module):
    """A model, trained or frozen, and the way from its states to the encoder's."""

    def __init__(self, dim: int, *, model: PretrainedText | VisionModel, config: PretrainedConfig) -> None:
        super().__init__()
        self.is_frozen = config.is_frozen
        self.rate_factor = config.learning_rate_factor
        self.norm = nn.LayerNorm(model.dim)  # the states of some models (CLIP) have a few enormous dimensions
        self.project = nn.Linear(model.dim, dim)
        if self.is_frozen:
            self._held = [model.requires_grad_(False).eval()]  # in a list torch does not register it
        else:
            self.model = model.requires_grad_(True)

    @property
    def pretrained(self) -> Any:
        """The model."""
        return self._held[0] if self.is_frozen else self.model

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except of a model none of whose weights is trained now: nothing of its states is dropped."""
        super().train(mode)
        if not self.is_frozen and not any(weight.requires_grad for weight in self.model.parameters()):
            self.model.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the held model along: to another device, or another type."""
        if self.is_frozen:
            self._held[0]._apply(fn)
        return super()._apply(fn, recurse)

    def _seen(self, *inputs: Any) -> Tensor:
        with torch.no_grad() if self.is_frozen else nullcontext():
            return self.pretrained(*inputs)

    def _projected(self, states: Tensor) -> Tensor:
        return self.project(self.norm(states.float()))


class TextSlot(_Slot):
    """Titles and queries by a pretrained text model, behind a learned ``[CLS]`` of our own."""

    def __init__(self, dim: int, *, model: PretrainedText, config: PretrainedConfig) -> None:
        """Make the map and the ``[CLS]``.

        Args:
            dim: width of a token state.
            model: gives the states.
            config: whether and how it is trained.
        """
        super().__init__(dim, model=model, config=config)
        self._pooled = config.output is Output.POOLED
        self.first = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.first, std=WORD_INIT_STD)

    def forward(self, tokens: Tensor) -> TokenStates:
        """Embed token ids, int ``[batch, tokens]``, as `PretrainedTokenizer.encode` lays them out."""
        first = self.first.expand(len(tokens), 1, -1)
        is_first = torch.ones_like(tokens[:, :1], dtype=torch.bool)
        if tokens.shape[1] == 1:
            return TokenStates(first, is_first, ~is_first)
        texts = model_input(tokens)
        states = self._projected(self._seen(texts))
        keep = texts.keep.any(dim=1, keepdim=True) if self._pooled else texts.keep
        keep = torch.cat([is_first, keep], dim=1)
        return TokenStates(
            torch.cat([first, states], dim=1), keep, keep & (torch.arange(keep.shape[1], device=keep.device) > 0)
        )

    def cls(self) -> Tensor:
        """Return the state of ``[CLS]``, ``[dim]``."""
        return self.first


class PhotoSlot(_Slot):
    """Photos by a pretrained vision model, from pixels or from features it has given before."""

    def __init__(self, dim: int, *, model: VisionModel, config: PretrainedConfig) -> None:
        """Make the map, and positions where the model's states have none.

        Args:
            dim: width of a token state.
            model: gives the states.
            config: whether and how it is trained.
        """
        super().__init__(dim, model=model, config=config)
        self.num_patches = int(model.num_tokens)
        self.positions = None if model.has_positions else nn.Parameter(torch.empty(self.num_patches, dim))
        if self.positions is not None:
            nn.init.normal_(self.positions, std=WORD_INIT_STD)

    def forward(self, photos: Tensor, *, hidden: Tensor | None = None) -> Tensor:
        """Embed photos.

        Args:
            photos: uint8 RGB ``[batch, px, px, 3]``, or what `see` made of them.
            hidden: bool ``[batch, tokens]``, patches that are blanked: their features are set to zero, as FashionBERT
                does. That hides them only where a patch's features come from that patch alone (`PatchVision`).

        Returns:
            ``[batch, tokens, dim]``, row by row from the top left.
        """
        seen = self._seen(photos) if photos.dtype == torch.uint8 else photos
        if hidden is not None:
            seen = seen.masked_fill(hidden[:, :, None], 0)
        states = self._projected(seen)
        return states if self.positions is None else states + self.positions

    def see(self, pixels: Tensor) -> Tensor:
        """Return the model's own states ``[batch, tokens, model dim]``, without gradient."""
        with torch.no_grad():
            return self.pretrained(pixels)
