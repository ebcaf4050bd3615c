"""Masked patches: say of blanked patches of a photo what they look like, from the others and from the title."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from triptych.encoders.base import Encoder
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

    @property
    def label(self) -> str:
        """``masked_patches``."""
        return "masked_patches"

    @property
    def needs(self) -> Needs:
        """Photos with blanked patches."""
        cross = self.at is At.CROSS
        return Needs(queries=cross, hidden_patches=True, cross=cross, photo=True)

    def build(self, encoder: Encoder, *, batch_items: int) -> MaskedPatches:
        """Make the objective."""
        del batch_items
        slot = encoder.patches
        if isinstance(slot, PhotoSlot) and not slot.is_frozen:
            raise ConfigError(
                "masked_patches: the vision model is trained, so what it sees in a photo is no target: it changes. Set "
                "encoder.vision_model.weights = 'frozen', or remove that task."
            )
        if slot is not None and slot.num_patches < 2:
            raise ConfigError(
                "masked_patches: the encoder reads a photo as one patch, so none is left to guess it from. Remove that "
                "task."
            )
        return MaskedPatches(self, encoder)


CONFIG = MaskedPatchesConfig


class MaskedPatches(Objective):
    """Masked patch modelling as an objective.

    The target is a distribution. Where a frozen model gives features of each patch, it is their softmax (FashionBERT's
    released code, and the Taobao article); from pixels it is a histogram of the patch's edges and colours, which needs
    no weights (`nn.patch_histograms`).
    """

    def __init__(self, config: MaskedPatchesConfig, encoder: Encoder) -> None:
        """Make the head: one linear map without bias."""
        super().__init__()
        self._config = config
        slot = encoder.patches
        bins = slot.pretrained.dim if isinstance(slot, PhotoSlot) else PATCH_BINS
        self.head = nn.Linear(encoder.config.dim, bins, bias=False)

    def forward(self, passes: Passes) -> LossOutput | None:
        """Guess the blanked patches of this process's photos."""
        hidden, items = passes.batch.hidden_patches, passes.batch.items
        if hidden is None or hidden.total == 0 or items.pixels is None:
            return None
        targets, chosen, total = _targets(items.pixels, encoder=passes.encoder), hidden.chosen, hidden.total
        if self._config.at is At.CROSS:
            tokens, start, places = passes.masked_pairs
            assert places.patches is not None
            states = tokens.states[:, start + places.patches.start : start + places.patches.stop]
            rows, every = passes.batch.own_positive, passes.of_all(chosen.float()) > 0
            chosen, targets = every[rows], passes.of_all(targets)[rows]
            total = int(every[passes.batch.positive].sum())
        else:
            reading = passes.masked_items
            states = reading.tokens.states[:, reading.places.patches]
        return masked_patches(self.head(states[chosen]), targets=targets[chosen], total=total)


def _targets(photos: Tensor, *, encoder: Encoder) -> Tensor:
    """Return the distribution of each patch: ``[items, patches, bins]``."""
    slot = encoder.patches
    if not isinstance(slot, PhotoSlot):
        return patch_histograms(photos)
    seen = slot.see(photos) if photos.dtype == torch.uint8 else photos
    return seen.float().softmax(dim=-1)
