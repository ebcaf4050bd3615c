"""Recall models that are trained: requests and items become vectors, and an index finds the nearest.

One model per file in `recall.models`. A model knows nothing of logs or files: `recall.features` gathers what it reads,
`recall.train` trains it, `recall.retriever` answers with it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.foundation.registry import config_class
from triptych.recall.base import RetrieverConfig

MODELS = "triptych.recall.models"
"""The registry folder; models that are not trained are in it too."""
WEIGHTS_FILE, CONFIG_FILE, SIZES_FILE = "model.safetensors", "config.json", "sizes.json"


class Sizes(NamedTuple):
    """What a model's shape depends on beside its config."""

    num_queries: int
    """Rows of the table of queries; row 0 is that of every query without one of its own."""
    num_items: int
    """Rows of the table of items, likewise."""
    query_content_dim: int
    """Length of a query's content vector; 0 where there are none."""
    item_content_dim: int
    """Length of an item's."""


class RequestFeatures(NamedTuple):
    """What is known of some requests."""

    query_ids: Tensor
    """int64 ``[n]``, rows of the table of queries; 0 for a query without one."""
    query_content: Tensor | None
    """float32 ``[n, query_content_dim]``, what the pretrained encoder makes of the words; None: nobody reads it."""


class ItemFeatures(NamedTuple):
    """What is known of some items."""

    item_ids: Tensor
    """int64 ``[n]``, rows of the table of items; 0 for an item without one."""
    content: Tensor | None
    """float32 ``[n, item_content_dim]``, what the pretrained encoder makes of title and photo; None where nobody reads
    it."""


class RecallModelConfig(RetrieverConfig):
    """Base of every trained model's config."""

    temperature: float = Field(0.05, gt=0)
    """Divides scores in training. An index leaves it out: it changes no order."""

    @property
    @abstractmethod
    def reads_content(self) -> bool:
        """Whether it reads the vectors of a pretrained encoder."""

    @abstractmethod
    def build(self, sizes: Sizes, *, seed: int) -> RecallModel:
        """Make the model with new weights."""


class RecallModel(nn.Module, ABC):
    """Requests and items as vectors whose inner product is the score."""

    config: RecallModelConfig
    sizes: Sizes

    @property
    @abstractmethod
    def vector_dim(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return a vector for each request, float32 ``[n, vector_dim]``."""

    @abstractmethod
    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return a vector for each item, float32 ``[n, vector_dim]``."""

    def save(self, folder: Path) -> None:
        """Write weights, config and sizes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous().cpu() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)
        write_json(folder / CONFIG_FILE, self.config.dump())
        write_json(folder / SIZES_FILE, self.sizes._asdict())


def load_model(folder: Path) -> RecallModel:
    """Open what `RecallModel.save` wrote.

    Raises:
        ArtifactError: files are absent or do not belong together.
    """
    absent = [name for name in (WEIGHTS_FILE, CONFIG_FILE, SIZES_FILE) if not (folder / name).is_file()]
    if absent:
        raise ArtifactError(f"Recall model {str(folder)!r} has no {absent[0]}. Train it again: triptych run.")
    tree, sizes = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (CONFIG_FILE, SIZES_FILE))
    model = model_config(config_class(MODELS, tree["kind"]).parse(tree)).build(Sizes(**sizes), seed=0)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ArtifactError(f"Recall model {str(folder)!r}: the weights are not of this config ({reason}).") from None
    return model.eval()


def model_config(config: object) -> RecallModelConfig:
    """Return a retriever's config as that of a trained model.

    Raises:
        ConfigError: it is of one that is not trained.
    """
    if not isinstance(config, RecallModelConfig):
        kind = getattr(config, "kind", config)
        raise ConfigError(f"model.kind: '{kind}' is not trained. Choose a model that is, such as 'two_tower'.")
    return config
