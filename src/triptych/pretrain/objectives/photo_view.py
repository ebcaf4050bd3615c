"""Photos, varied and alone, find their items: what lets a shopper search by a photo."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triptych.encoders.base import Encoder
from triptych.losses.base import LossOutput
from triptych.pretrain.objectives.base import Needs, Objective, ObjectiveConfig
from triptych.pretrain.passes import Passes
from triptych.pretrain.reader import view_loss


class PhotoViewConfig(ObjectiveConfig):
    """Contrast of varied photos with the items they show."""

    kind: Literal["photo_view"] = "photo_view"
    """Find the item that a varied photo shows."""
    weight: float = Field(0.2, gt=0)
    """Weight of the loss in the sum."""
    temperature: float = Field(0.05, gt=0)
    """Divides scores."""

    @property
    def label(self) -> str:
        """``photo_view``."""
        return "photo_view"

    @property
    def needs(self) -> Needs:
        """Varied photos."""
        return Needs(photo_views=True, photo=True)

    def build(self, encoder: Encoder, *, batch_items: int) -> PhotoView:
        """Make the objective."""
        del encoder, batch_items
        return PhotoView(self)


CONFIG = PhotoViewConfig


class PhotoView(Objective):
    """The contrast as an objective; see `pretrain.reader.ItemReader.photo_views`."""

    def __init__(self, config: PhotoViewConfig) -> None:
        """Keep the temperature."""
        super().__init__()
        self._temperature = config.temperature

    def forward(self, passes: Passes) -> LossOutput | None:
        """Ask the batch's varied photos for their items."""
        return view_loss(
            passes.batch.photo_views, module=passes.encoder, items=passes.item_vectors, temperature=self._temperature
        )
