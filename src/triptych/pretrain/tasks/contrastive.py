"""Query–item contrast: the encoder learns that what was clicked under a query belongs to it.

A batch is a set of distinct items and, for each, queries it was clicked under in training; the other items of the
batch are negatives unless they too were clicked (`losses.infonce`). Now and then an item's title or photo is hidden, so
that a title alone is an item and a photo alone is a query. Judged queries are learned the same way: a pair judged
relevant stands for a click (`Split.train_pairs`).

A second, lighter loss asks some photos of the batch, without their titles and varied as a shopper's photo would be
(`data.augment`), for the item they show. Without it a photo lands where the *queries* for it are, among all items of
its kind and colour, and does not find its own (`docs/experiments.md`).

This is the default, and a short way to write down one stage of `multitask`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from triptych.pretrain.base import Given, LearnsFrom, OneTaskConfig, Phase
from triptych.pretrain.objectives.base import ObjectiveConfig
from triptych.pretrain.objectives.contrast import ContrastConfig
from triptych.pretrain.objectives.photo_view import PhotoViewConfig
from triptych.pretrain.stages import StageConfig
from triptych.pretrain.tasks.multitask import MultitaskConfig


class ContrastiveConfig(OneTaskConfig):
    """Query–item contrastive training of the encoder."""

    kind: Literal["contrastive"] = "contrastive"
    """Learn from queries and what was chosen under them."""
    batch_items: int = Field(256, ge=2)
    """Distinct items in a batch."""
    queries_per_item: int = Field(2, ge=1)
    """Queries drawn for each item of a batch, by clicks."""
    item_power: float = Field(0.5, ge=0, le=1)
    """Items are drawn by their training clicks to this power: 0 all alike, 1 by clicks."""
    validation_queries: int = Field(1_000, ge=1)
    """Queries of the validation part that choose the best weights; fewer where it has fewer."""

    @property
    def learns_from(self) -> LearnsFrom:
        """Queries."""
        return LearnsFrom.QUERIES

    def as_multitask(self) -> MultitaskConfig:
        """Write the same training down in full."""
        tasks: list[ObjectiveConfig] = [ContrastConfig(temperature=self.temperature)]
        if self.photo_view_weight > 0 and self.encoder.modalities.reads_photo:
            tasks.append(PhotoViewConfig(temperature=self.temperature, weight=self.photo_view_weight))
        own = {name: getattr(self, name) for name in type(self).model_fields if name in MultitaskConfig.model_fields}
        stage = StageConfig(name="contrastive", tasks=tuple(tasks))
        return MultitaskConfig(**{**own, "kind": "multitask", "stages": (stage,), "diagnose": False})

    def phases(self, given: Given) -> Iterator[Phase]:
        """Yield the one phase."""
        yield from self.as_multitask().phases(given)


CONFIG = ContrastiveConfig
