"""Contrast: each query finds its item among the batch, or its title, or its photo; each title its photo."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from triptych.encoders.base import Encoder
from triptych.encoders.inputs import Modalities
from triptych.losses.am_softmax import am_softmax
from triptych.losses.base import LossOutput
from triptych.losses.infonce import infonce
from triptych.losses.sigmoid_contrast import sigmoid_contrast
from triptych.pretrain.objectives.base import Needs, Objective, ObjectiveConfig
from triptych.pretrain.passes import Passes

DEFAULT_MARGIN = 0.1
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.01, 0.5
"""Bounds of a learned temperature (SMGR reconstruction, section 3)."""


class Between(StrEnum):
    """What is contrasted with what."""

    QUERY_ITEM = "query-item"
    """Queries with items: Taobao's QIC, SMGR's L_QI."""
    QUERY_TITLE = "query-title"
    """Queries with titles alone: SMGR's L_QT."""
    QUERY_PHOTO = "query-photo"
    """Queries with photos alone: SMGR's L_QV."""
    TITLE_PHOTO = "title-photo"
    """Titles with photos, without any log: SMGR's L_IT."""

    @property
    def asks(self) -> bool:
        """Whether queries ask."""
        return self is not Between.TITLE_PHOTO

    @property
    def takes_title(self) -> bool:
        """Whether titles alone are looked at."""
        return self in (Between.QUERY_TITLE, Between.TITLE_PHOTO)

    @property
    def takes_photo(self) -> bool:
        """Whether photos alone are looked at."""
        return self in (Between.QUERY_PHOTO, Between.TITLE_PHOTO)

    def can_be_asked(self, modalities: Modalities) -> bool:
        """Say whether an encoder reads what is looked at."""
        title, photo = modalities.reads_title, modalities.reads_photo
        return (title or not self.takes_title) and (photo or not self.takes_photo)


class ContrastLoss(StrEnum):
    """The three forms that the Taobao article compares."""

    SOFTMAX = "softmax"
    AM_SOFTMAX = "am-softmax"
    SIGMOID = "sigmoid"


class ContrastConfig(ObjectiveConfig):
    """Contrast within the batch."""

    kind: Literal["contrast"] = "contrast"
    """Find what belongs together among the batch."""
    between: Between = Between.QUERY_ITEM
    """What is contrasted: query-item, query-title, query-photo, title-photo."""
    loss: ContrastLoss = ContrastLoss.SOFTMAX
    """softmax (InfoNCE), am-softmax (with a margin), sigmoid (every pair by itself)."""
    temperature: float = Field(0.05, gt=0)
    """Divides scores; where it is learned, what it starts from."""
    learn_temperature: bool = False
    """Whether the temperature is learned, between 0.01 and 0.5; a sigmoid's always is, with a bias."""
    bias: float | None = None
    """Added to scores before the sigmoid, what it starts from; only with loss = sigmoid, -log of the batch's items when
    not given."""
    balanced: bool = False
    """Whether a sigmoid's positives and negatives are averaged apart, as the Taobao reconstruction proposes; false:
    every pair has the same weight (SigLIP), which learns where the other hardly does."""
    scalar_rate: float = Field(1.0, gt=0)
    """Learning rate of temperature and bias as a share of the rate, where they are learned."""
    margin: float | None = Field(None, ge=0)
    """Taken off the positive's score before it is divided, only with loss = am-softmax; 0.1 when not given."""
    symmetric: bool = False
    """Whether the other side asks as well, and the two losses are averaged."""
    same_title: bool = False
    """Whether items with the positive's title are no negatives, even where their photos differ. SMGR's reconstruction
    has it so, where merchants sell the same dish; in a shop whose titles leave out what the photo shows, it takes away
    the very pairs that teach to look. Titles alone, and identical photos alone, are never negatives of their like."""
    log_q_weight: float = Field(0.0, ge=0)
    """Share of an item's log probability to be in a batch that is taken off its score; only where queries ask."""
    query_log_q_weight: float = Field(0.0, ge=0)
    """Share of the log of how often a query is expected in a batch that is taken off its score, where items ask for
    queries: with symmetric only."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.margin is not None and self.loss is not ContrastLoss.AM_SOFTMAX:
            raise ValueError(f"margin has no effect with loss = '{self.loss}'. Remove it, or set loss = 'am-softmax'.")
        if self.bias is not None and self.loss is not ContrastLoss.SIGMOID:
            raise ValueError(f"bias has no effect with loss = '{self.loss}'. Remove it, or set loss = 'sigmoid'.")
        if self.balanced and self.loss is not ContrastLoss.SIGMOID:
            raise ValueError(f"balanced has no effect with loss = '{self.loss}'. Remove it, or set loss = 'sigmoid'.")
        if self.scalar_rate != 1 and not (self.learn_temperature or self.loss is ContrastLoss.SIGMOID):
            raise ValueError("scalar_rate has no effect where no temperature is learned. Remove it.")
        if self.learn_temperature and self.loss is not ContrastLoss.SOFTMAX:
            raise ValueError("learn_temperature has an effect with loss = 'softmax' only. Remove it.")
        if self.learn_temperature and not LEAST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            raise ValueError(
                f"temperature {self.temperature} cannot be learned from: it stays between {LEAST_TEMPERATURE} and "
                f"{MOST_TEMPERATURE}."
            )
        if self.loss is ContrastLoss.SIGMOID and (self.symmetric or self.log_q_weight):
            raise ValueError("symmetric and log_q_weight have no effect with loss = 'sigmoid'. Remove them.")
        if self.between is Between.TITLE_PHOTO and (self.log_q_weight or self.query_log_q_weight):
            raise ValueError(
                "log_q_weight and query_log_q_weight have no effect between title and photo, which are drawn alike. "
                "Remove them."
            )
        if self.query_log_q_weight and not self.symmetric:
            raise ValueError("query_log_q_weight has no effect where items do not ask. Remove it, or set symmetric.")
        return self

    @property
    def label(self) -> str:
        """``query_item`` and so on."""
        return self.between.replace("-", "_")

    @property
    def needs(self) -> Needs:
        """Queries, except between title and photo."""
        between = self.between
        return Needs(queries=between.asks, photo=between.takes_photo, title=between.takes_title)

    def build(self, encoder: Encoder, *, batch_items: int) -> Contrast:
        """Make the objective."""
        del encoder
        return Contrast(self, batch_items=batch_items)


CONFIG = ContrastConfig


class _Side(NamedTuple):
    """One direction of a contrast, for all processes; each asks its own rows."""

    asking: Tensor
    """``[own, dim]``."""
    candidates: Tensor
    """``[all, dim]``."""
    own: Tensor
    """int64 ``[own]``, which of the rows below these are."""
    positive: Tensor
    """int64 ``[rows]``, places among the candidates."""
    known: Tensor
    """bool ``[rows, all]``, no negatives."""
    usable: Tensor
    """bool ``[rows]``, those that have both sides."""
    log_q: Tensor | None = None


class Contrast(Objective):
    """Contrast as an objective."""

    def __init__(self, config: ContrastConfig, *, batch_items: int) -> None:
        """Make what is learned beside the encoder: a log scale, and a sigmoid's bias."""
        super().__init__()
        self._config = config
        self.log_scale: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if config.learn_temperature or config.loss is ContrastLoss.SIGMOID:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        if config.loss is ContrastLoss.SIGMOID:
            self.bias = nn.Parameter(torch.tensor(-math.log(batch_items) if config.bias is None else config.bias))

    @property
    def between(self) -> Between:
        """What is contrasted."""
        return self._config.between

    @property
    def temperature(self) -> float:
        """What scores are divided by now."""
        if self.log_scale is None:
            return self._config.temperature
        scale = self.log_scale.detach().exp()
        return 1 / float(_bounded(scale) if self._config.learn_temperature else scale)

    def rate_factors(self) -> dict[str, float]:
        """Return the rate of temperature and bias."""
        rate = self._config.scalar_rate
        return {} if rate == 1 else {"log_scale": rate, "bias": rate}

    def forward(self, passes: Passes) -> LossOutput | None:
        """Contrast what the batch has of both sides."""
        titles_ask = self._config.between is Between.TITLE_PHOTO
        forth = _titles(passes) if titles_ask else self._queries(passes)
        if not forth.usable.any():
            return None
        first = self._loss(forth)
        if not self._config.symmetric:
            return first
        weight = self._config.query_log_q_weight
        second = self._loss(_photos(passes, forth) if titles_ask else _answers(passes, forth, log_q_weight=weight))
        both = {f"{name}_back": value for name, value in second.parts.items()}
        return LossOutput((first.total + second.total) / 2, {**first.parts, **both})

    def _queries(self, passes: Passes) -> _Side:
        batch, between = passes.batch, self._config.between
        known = batch.known
        if self._config.same_title or between is Between.QUERY_TITLE:
            known = known | _same(batch.title_groups, batch.positive)
        match between:
            case Between.QUERY_TITLE:
                candidates, there = passes.title_vectors, batch.has_title
            case Between.QUERY_PHOTO:
                candidates, there = passes.photo_vectors, batch.has_photo
                known = known | _same(batch.photo_groups, batch.positive)
            case _:
                candidates, there = passes.item_vectors, torch.ones_like(batch.has_title)
        weight = self._config.log_q_weight
        return _Side(
            asking=passes.own_query_vectors,
            candidates=candidates,
            own=batch.own_queries,
            positive=batch.positive,
            known=known | ~there,
            usable=there[batch.positive],
            log_q=weight * batch.log_q if weight else None,
        )

    def _loss(self, side: _Side) -> LossOutput:
        config = self._config
        usable = side.usable[side.own]
        own = side.own[usable]
        asking, positive, known = side.asking[usable], side.positive[own], side.known[own]
        total = int(side.usable.sum())
        scale = None if self.log_scale is None else self.log_scale.exp()
        if config.loss is ContrastLoss.SIGMOID:
            assert scale is not None and self.bias is not None
            positives = functional.one_hot(side.positive, num_classes=side.known.shape[1]).bool()
            negatives = int((~(side.known | positives))[side.usable].sum())
            return sigmoid_contrast(
                asking,
                items=side.candidates,
                positive=positive,
                known=known,
                scale=scale,
                bias=self.bias,
                total=total,
                total_negatives=negatives,
                balanced=config.balanced,
            )
        temperature = config.temperature
        if scale is not None:
            asking, temperature = asking * _bounded(scale), 1.0
        if config.loss is ContrastLoss.AM_SOFTMAX:
            margin = DEFAULT_MARGIN if config.margin is None else config.margin
            return am_softmax(
                asking,
                items=side.candidates,
                positive=positive,
                known=known,
                scale=1 / temperature,
                margin=margin,
                log_q=side.log_q,
                total=total,
            )
        return infonce(
            asking,
            items=side.candidates,
            positive=positive,
            known=known,
            temperature=temperature,
            log_q=side.log_q,
            total=total,
        )


def _answers(passes: Passes, forth: _Side, *, log_q_weight: float) -> _Side:
    """Turn the roles round: each query's item asks for that query among those of the batch.

    No negatives are the queries under which the item was clicked too.
    """
    batch = passes.batch
    everyone = torch.arange(batch.num_queries, device=batch.positive.device)
    asked = forth.known[:, batch.positive].T | _same(batch.positive, everyone)
    return _Side(
        asking=forth.candidates[batch.own_positive],
        candidates=passes.query_vectors,
        own=batch.own_queries,
        positive=everyone,
        known=asked,
        usable=forth.usable,
        log_q=log_q_weight * batch.query_log_q if log_q_weight else None,
    )


def _titles(passes: Passes) -> _Side:
    """Let titles ask for photos; items with an equal title or an identical photo are no negatives."""
    batch = passes.batch
    both = batch.has_title & batch.has_photo
    everyone = torch.arange(batch.num_items, device=both.device)
    alike = _same(batch.title_groups, everyone) | _same(batch.photo_groups, everyone)
    return _Side(
        asking=passes.own_title_vectors,
        candidates=passes.photo_vectors,
        own=batch.own_items,
        positive=everyone,
        known=alike | ~batch.has_photo,
        usable=both,
    )


def _photos(passes: Passes, forth: _Side) -> _Side:
    """Let photos ask for titles."""
    batch = passes.batch
    everyone = torch.arange(batch.num_items, device=batch.has_title.device)
    alike = _same(batch.title_groups, everyone) | _same(batch.photo_groups, everyone)
    return forth._replace(
        asking=passes.own_photo_vectors, candidates=passes.title_vectors, known=alike | ~batch.has_title
    )


def _bounded(scale: Tensor) -> Tensor:
    """Keep a learned scale within its bounds; its gradient is that of the free one, so that it can come back."""
    bounded = scale.detach().clamp(1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE)
    return bounded + (scale - scale.detach())


def _same(groups: Tensor, positive: Tensor) -> Tensor:
    """Say which items are of the same group as each row's own: bool ``[rows, items]``."""
    return groups[positive][:, None] == groups[None, :]
