"""Masked patches: say of blanked patches of a photo what they look like, from the others and from the title."""

from __future__ import annotations

from math import isqrt
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.encoders.base import Encoder, EncoderConfig
from triptych.encoders.slots import PhotoSlot
from triptych.foundation.errors import ConfigError
from triptych.losses.base import LossOutput
from triptych.losses.masked_patches import masked_patches
from triptych.nn.patch_histograms import PATCH_BINS, patch_histograms
from triptych.pretrain.objectives.base import Needs, Objective, ObjectiveConfig
from triptych.pretrain.objectives.masked_words import At
from triptych.pretrain.passes import Passes


class MaskedPatchesConfig(ObjectiveConfig):
    """Masked patch modelling."""

    kind: Literal["masked_patches"] = "masked_patches"
    """Guess what blanked patches look like."""
    at: At = At.TOWER
    """Where from: tower (title and photo), cross (the query as well)."""
    temperature: float | None = Field(None, gt=0)
    """Divides a frozen vision model's features before their softmax, 1 when not given. A ResNet's are small: as they
    are, the target is nearly flat and the loss tiny (see target_entropy in the log); less than 1 sharpens it."""

    @property
    def label(self) -> str:
        """``masked_patches``."""
        return "masked_patches"

    @property
    def needs(self) -> Needs:
        """Photos with blanked patches."""
        cross = self.at is At.CROSS
        return Needs(queries=cross, hidden_patches=True, cross=cross, photo=True)

    def check(self, encoder: EncoderConfig) -> None:
        """Refuse a vision model whose states of one patch tell of the others."""
        model = encoder.vision_model
        if model is not None and model.patch_grid is None:
            raise ValueError(
                "masked_patches needs patches that are seen one by one, and a vision_model without patch_grid sees the "
                "whole photo: its states of the other patches give a blanked one away. Set vision_model.patch_grid = 8 "
                "and output = 'pooled', or remove the task."
            )
        if self.temperature is not None and (model is None or not model.is_frozen):
            raise ValueError(
                "masked_patches: temperature has no effect without a frozen vision_model, whose features it divides. "
                "Remove it."
            )

    def build(self, encoder: Encoder, *, batch_items: int) -> MaskedPatches:
        """Make the objective."""
        del batch_items
        if encoder.patches is not None and encoder.patches.num_patches < 2:
            raise ConfigError(
                "masked_patches: the encoder reads a photo as one patch, so none is left to guess it from. Remove that "
                "task."
            )
        return MaskedPatches(self, encoder)


CONFIG = MaskedPatchesConfig


class MaskedPatches(Objective):
    """Masked patch modelling as an objective.

    The target is a distribution. Where a frozen model gives a feature of each patch, it is their softmax in float32
    (FashionBERT's released code, and the Taobao article); from pixels it is a histogram of the patch's edges and
    colours, which needs no weights (`nn.patch_histograms`). So it is, too, where the model of the patches is trained:
    told to guess its own features, it would make them all alike, and be right.
    """

    def __init__(self, config: MaskedPatchesConfig, encoder: Encoder) -> None:
        """Make the head: one linear map without bias."""
        super().__init__()
        self._config = config
        slot = encoder.patches
        self._asks_features = isinstance(slot, PhotoSlot) and slot.is_frozen
        bins = slot.pretrained.dim if isinstance(slot, PhotoSlot) and slot.is_frozen else PATCH_BINS
        self.head = nn.Linear(encoder.config.dim, bins, bias=False)

    def forward(self, passes: Passes) -> LossOutput | None:
        """Guess the blanked patches of this process's photos.

        Returns:
            The loss; parts ``masked_patches`` and ``target_entropy``, the mean entropy of the targets in nats: that of
            a flat one is the logarithm of their length.
        """
        hidden, items = passes.batch.hidden_patches, passes.batch.items
        if hidden is None or hidden.total == 0 or items.pixels is None:
            return None
        looks, chosen, total = self._looks(items.pixels, encoder=passes.encoder), hidden.chosen, hidden.total
        if self._config.at is At.CROSS:
            tokens, start, places = passes.masked_pairs
            assert places.patches is not None
            states = tokens.states[:, start + places.patches.start : start + places.patches.stop]
            item_of = passes.batch.own_positive  # of each pair
            every = passes.of_all(chosen.float()) > 0
            chosen = every[item_of]
            looks = passes.of_all(looks)
            total = int(every[passes.batch.positive].sum())
        else:
            reading = passes.masked_items
            states = reading.tokens.states[:, reading.places.patches]
            item_of = torch.arange(len(chosen), device=chosen.device)
        row, place = chosen.nonzero(as_tuple=True)
        targets = looks[item_of[row], place]
        if self._asks_features:
            targets = (targets.float() / (self._config.temperature or 1.0)).softmax(dim=-1)
        output = masked_patches(self.head(states[chosen]), targets=targets, total=total)
        entropy = torch.special.entr(targets).sum() / max(total, 1)
        return LossOutput(output.total, {**output.parts, "target_entropy": entropy})

    def _looks(self, photos: Tensor, *, encoder: Encoder) -> Tensor:
        """Return what each patch looks like, ``[items, patches, bins]``: features as they are, or a histogram."""
        slot = encoder.patches
        assert slot is not None
        if photos.dtype != torch.uint8:
            return photos
        if isinstance(slot, PhotoSlot) and self._asks_features:
            return slot.see(photos)
        return patch_histograms(photos, patch_px=photos.shape[1] // isqrt(slot.num_patches))
