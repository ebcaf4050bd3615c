"""Ranking models: candidates of requests in, log odds of being chosen out.

One model per file in `ranker.models`, one content plug-in per file in `ranker.content`. A model is made of three parts:
tables that turn features into vectors (`feature_vectors`), a plug-in that turns content into vectors, and what the
model's own file adds, which makes a score of both. It knows nothing of logs or files: `ranker.features` gathers what it
reads, `ranker.train` trains it, `ranker.scorer` answers with it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError
from triptych.foundation.registry import config_class
from triptych.nn.model_folder import load_weights, read_described, write_model
from triptych.nn.target_attention import Steps
from triptych.ranker.content.base import Asked, ContentConfig, ContentModule, Described, Term
from triptych.ranker.feature_vectors import FeatureVectors
from triptych.ranker.inputs import Candidates, Sizes

MODELS, CONTENTS = "triptych.ranker.models", "triptych.ranker.content"
"""The registry folders."""
WHAT = "Ranker"


class Seen(NamedTuple):
    """What a model's own file makes a score of."""

    target: Tensor
    """float32 ``[n, item_dim]``, by features."""
    context: Tensor
    """float32 ``[n, context_dim]``: the request, and numbers of the candidate at this moment."""
    steps: Steps
    """Histories, by features."""
    beside: Steps
    """When and how each step was chosen."""
    content: Described
    """Candidates and histories, by content."""
    target_fields: Tensor
    """int64 ``[n, fields]``, as of `ItemFeatures`."""
    step_fields: Tensor
    """int64 ``[items, fields]``, of what ``steps.vectors`` stands for."""


class Ranked(NamedTuple):
    """What a pass through a model gives."""

    logits: Tensor
    """float32 ``[n]``, log odds."""
    terms: Sequence[Term]
    """Losses of the plug-in, in training."""


class Dims(NamedTuple):
    """Lengths of the vectors in `Seen`."""

    item: int
    context: int
    beside: int
    content: int
    pair: int


class RankModelConfig(Config):
    """Base of every ranking model's config."""

    kind: str
    """Name of the file that defines it."""
    dim: int = Field(16, ge=1)
    """Length of a feature's vector."""
    history_items: int = Field(50, ge=0)
    """The user's latest choices that are read; 0: none, for models that can do without."""
    hidden_dims: tuple[int, ...] = Field((256, 128), min_length=1)
    """Layers of the network that makes the score."""
    dropout_rate: float = Field(0.0, ge=0, lt=1)
    """Within that network."""
    id_rate_factor: float = Field(20.0, gt=0)
    """Learning rate of the features' vectors (row-wise Adagrad) as a multiple of the loop's."""
    id_init_std: float = Field(0.05, ge=0)
    """Standard deviation of the first ones."""

    @abstractmethod
    def build(self, sizes: Sizes, *, content: ContentConfig, seed: int) -> RankModel:
        """Make the model with new weights."""

    def check_fields(self, item_fields: Collection[str]) -> None:
        """Refuse items that lack a feature which the model cannot do without; as it stands, it can without any.

        Args:
            item_fields: names of their features that are ids or categories.

        Raises:
            ConfigError: they lack one.
        """


class RankModel(nn.Module, ABC):
    """Scores candidates. A subclass makes its layers in `make`, and a score of what is seen in `logits`."""

    def __init__(self, config: RankModelConfig, sizes: Sizes, *, content: ContentConfig, seed: int) -> None:
        """Make tables, plug-in and layers; use `RankModelConfig.build`."""
        super().__init__()
        self.config, self.sizes, self.content_config = config, sizes, content
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = FeatureVectors(
                sizes,
                dim=config.dim,
                rate_factor=config.id_rate_factor,
                init_std=config.id_init_std,
            )
            self.content: ContentModule = content.build(
                sizes.modalities, id_dim=config.dim, catalogue_items=sizes.catalogue_items
            )
            self.dims = Dims(
                item=self.features.item_dim,
                context=self.features.context_dim,
                beside=self.features.beside_dim,
                content=self.content.dim,
                pair=self.content.pair_dim,
            )
            self.make()

    @abstractmethod
    def make(self) -> None:
        """Make the layers, of ``self.dims``."""

    @abstractmethod
    def logits(self, seen: Seen) -> Tensor:
        """Return log odds ``[n]``."""

    @property
    def pooled_dim(self) -> int:
        """Length of `pooled`, all parts together."""
        dims, sides = self.dims, 2 if self.config.history_items else 1
        return dims.context + sides * (dims.item + dims.content) + dims.pair

    def pooled(self, seen: Seen) -> list[Tensor]:
        """Return all that is seen with histories averaged, for models that do not look closer; part by part."""
        content = seen.content
        parts = [seen.context, seen.target, content.target, content.pair]
        return [*parts, seen.steps.mean(), content.steps.mean()] if self.config.history_items else parts

    @property
    @abstractmethod
    def last(self) -> nn.Linear:
        """The layer whose bias every score begins with."""

    def forward(self, given: Candidates) -> Ranked:
        """Score candidates."""
        items = self.features.items(given.items)
        asked = self.asked(given, items)
        described = self.content(asked)
        terms = self.content.terms(asked, described) if self.training else ()
        return Ranked(self.score(given, items, content=described), terms)

    def score(self, given: Candidates, items: Tensor, *, content: Described) -> Tensor:
        """Return log odds, float32 ``[n]``, of candidates that have been described.

        Args:
            given: to score.
            items: float32 ``[items, item_dim]``, by features.
            content: of candidates and histories.
        """
        seen = Seen(
            target=nn.functional.embedding(given.target, items),
            context=self.features.context(given),
            steps=Steps(items, given.requests.steps[given.request]),
            beside=self.features.beside(given),
            content=content,
            target_fields=given.items.fields[given.target],
            step_fields=given.items.fields,
        )
        return self.logits(seen).float()

    def answer(self, given: Candidates, content: Sequence[Tensor]) -> Tensor:
        """Return log odds, float32 ``[n]``, by what has been worked out of the items; `forward` says the same.

        Args:
            given: to score; what items are made of is not read.
            content: what `ContentModule.item_side` says of ``given.items``.
        """
        steps = given.requests.steps[given.request]
        described = self.content.describe(content, target=given.target, steps=steps)
        return self.score(given, self.features.items(given.items), content=described)

    def asked(self, given: Candidates, items: Tensor) -> Asked:
        """Return what the plug-in for content is given.

        Args:
            given: to score.
            items: float32 ``[items, item_dim]``, by features.
        """
        return Asked(
            content=given.items.content,
            item_rows=given.items.item_rows,
            id_rows=given.items.fields[:, 0],
            id_vectors=items[:, : self.config.dim],
            target=given.target,
            steps=given.requests.steps[given.request],
            looks=given.items.looks,
        )

    @torch.no_grad()
    def begin_at(self, positive_rate: float) -> None:
        """Begin with the log odds of what is chosen on the whole, which are not worth learning step by step."""
        self.last.bias.fill_(math.log(positive_rate) - math.log1p(-positive_rate))

    def rate_factors(self) -> Mapping[str, float]:
        """Return the beginning of weights' names → their share of the learning rate (`training.task.RateFactors`)."""
        return {f"content.{name}": factor for name, factor in self.content.rate_factors().items()}

    def check(self, sizes: Sizes) -> None:
        """Refuse inputs that it was not made for.

        Raises:
            ConfigError: modalities are others than in training, or none where it reads some.
        """
        if dict(sizes.modalities) != dict(self.sizes.modalities):
            trained, given = (
                ", ".join(f"{name} [{dim}]" for name, dim in one.modalities.items()) or "none"
                for one in (self.sizes, sizes)
            )
            raise ConfigError(f"modalities: the ranker was trained with {trained}, and is given {given}.")

    def save(self, folder: Path) -> None:
        """Write weights, configs and sizes."""
        # A list keeps the order of what a mapping names; JSON's writer may sort keys.
        sizes = {
            name: list(map(list, value.items())) if isinstance(value, Mapping) else value
            for name, value in self.sizes._asdict().items()
        }
        config = {"model": self.config.dump(), "content": self.content_config.dump()}
        without = tuple(f"content.{name}" for name in self.content.unsaved())
        write_model(folder, self, config=config, sizes=sizes, without=without)


def load_model(folder: Path) -> RankModel:
    """Open what `RankModel.save` wrote.

    Raises:
        ArtifactError: files are absent or do not belong together.
    """
    tree, sizes = read_described(folder, what=WHAT)
    mappings = ("item_fields", "item_lists", "request_fields", "request_lists", "modalities")
    shape: dict[str, Any] = {name: dict(value) if name in mappings else value for name, value in sizes.items()}
    config = config_class(MODELS, tree["model"]["kind"]).parse(tree["model"])
    content = config_class(CONTENTS, tree["content"]["kind"]).parse(tree["content"])
    assert isinstance(config, RankModelConfig) and isinstance(content, ContentConfig)
    return load_weights(config.build(Sizes(**shape), content=content, seed=0), folder, what=WHAT)
