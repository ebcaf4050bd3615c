"""Matching: does this item go with this query, read side by side? And does this title go with this photo?"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.encoders.base import Encoder
from triptych.losses.base import LossOutput
from triptych.losses.matching import matching
from triptych.pretrain.objectives.base import Needs, Objective, ObjectiveConfig
from triptych.pretrain.passes import Passes

WARMUP_STEPS, TEMPERATURE = 100, 0.05


class Pair(StrEnum):
    """What is matched."""

    QUERY_ITEM = "query-item"
    """Taobao's QIM."""
    QUERY_PHOTO = "query-photo"
    """QIM2: the item is read without its title."""
    TITLE_PHOTO = "title-photo"
    """A title and a photo in the item tower: what the Taobao article tried and rejected."""


class Negative(StrEnum):
    """Which item of the batch a query is told from."""

    HARDEST = "hardest"
    """The one with the highest score."""
    SAMPLED = "sampled"
    """One drawn by the softmax of scores, as in ALBEF."""
    RANDOM = "random"
    """Any."""


class MatchingConfig(ObjectiveConfig):
    """Matching of pairs, one negative for each positive."""

    kind: Literal["matching"] = "matching"
    """Tell pairs that go together from pairs that do not."""
    pair: Pair = Pair.QUERY_ITEM
    """What is matched: query-item (QIM), query-photo (QIM2), title-photo."""
    negative: Negative = Negative.HARDEST
    """Which item of the batch a query is told from: hardest, sampled, random."""
    warmup_steps: int = Field(WARMUP_STEPS, ge=0)
    """Steps in which negatives are random, while scores mean nothing yet."""
    temperature: float = Field(TEMPERATURE, gt=0)
    """Divides scores where negatives are sampled."""
    max_queries: int | None = Field(None, ge=1)
    """Queries of a batch that are matched, for its cost; none: all."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.pair is Pair.TITLE_PHOTO and (self.negative is not Negative.HARDEST or self.max_queries is not None):
            raise ValueError("negative and max_queries have no effect between title and photo. Remove them.")
        warms_up = self.pair is not Pair.TITLE_PHOTO and self.negative is not Negative.RANDOM
        if not warms_up and self.warmup_steps != WARMUP_STEPS:
            raise ValueError("warmup_steps has no effect where negatives are not chosen by score. Remove it.")
        if self.negative is not Negative.SAMPLED and self.temperature != TEMPERATURE:
            raise ValueError("temperature has no effect without negative = 'sampled'. Remove it.")
        return self

    @property
    def label(self) -> str:
        """``matching_query_item`` and so on."""
        return label_of(self.pair)

    @property
    def needs(self) -> Needs:
        """Queries, but for titles and photos."""
        asks = self.pair is not Pair.TITLE_PHOTO
        return Needs(queries=asks, cross=asks, photo=self.pair is not Pair.QUERY_ITEM, title=not asks)

    def build(self, encoder: Encoder, *, batch_items: int) -> Matching:
        """Make the objective."""
        del batch_items
        return Matching(self, encoder)


CONFIG = MatchingConfig


def label_of(pair: Pair) -> str:
    """Return the name of the objective that matches such pairs."""
    return f"matching_{pair.replace('-', '_')}"


QUERY_ITEM = label_of(Pair.QUERY_ITEM)
"""The objective by which a list of items can be ranked for a query."""


class Matching(Objective):
    """Matching as an objective: a two-way linear head on the first state of the pair."""

    def __init__(self, config: MatchingConfig, encoder: Encoder) -> None:
        """Make the head."""
        super().__init__()
        self._config = config
        self.head = nn.Linear(encoder.config.dim, 2)

    def score(self, states: Tensor) -> Tensor:
        """Return the log odds that pairs go together ``[pairs]``, by their first states ``[pairs, dim]``."""
        no, yes = self.head(states).unbind(dim=1)
        return yes - no

    def forward(self, passes: Passes) -> LossOutput | None:
        """Match this process's queries with their own items, and with others."""
        if self._config.pair is Pair.TITLE_PHOTO:
            return self._title_photo(passes)
        batch, untitled = passes.batch, self._config.pair is Pair.QUERY_PHOTO
        candidate = ~batch.known
        candidate.scatter_(1, batch.positive[:, None], False)
        is_asked = self._asked(batch.num_queries, device=candidate.device)
        if untitled:
            # A photo that is the own item's too cannot be told from it.
            candidate &= batch.has_photo & (batch.photo_groups != batch.photo_groups[batch.positive][:, None])
            is_asked = is_asked & batch.has_photo[batch.positive]
        has_negative = is_asked & candidate.any(dim=1)
        total = int(is_asked.sum() + has_negative.sum())  # of all processes
        own = batch.own_queries
        with_positive, with_negative = (torch.nonzero(one[own])[:, 0] for one in (is_asked, has_negative))
        negative = self._negatives(passes, with_negative, candidate[own][with_negative])
        queries = torch.cat([with_positive, with_negative])
        answers = torch.cat([batch.own_positive[with_positive], negative])
        labels = torch.arange(len(queries), device=queries.device) < len(with_positive)
        if total == 0:
            return None
        states = passes.cross_pairs(queries, answers, untitled=untitled, read=1).states[:, 0]
        return matching(self.head(states), labels=labels, total=total)

    def _asked(self, num_queries: int, *, device: torch.device) -> Tensor:
        """Say which queries are matched, spread over the batch, whose items are in order: bool ``[queries]``."""
        count = min(self._config.max_queries or num_queries, num_queries)
        asked = torch.zeros(num_queries, dtype=torch.bool, device=device)
        asked[torch.arange(count, device=device) * num_queries // max(count, 1)] = True
        return asked

    def _negatives(self, passes: Passes, rows: Tensor, candidate: Tensor) -> Tensor:
        """Choose an item for each of these own queries among its candidates: int64 ``[rows]``."""
        config = self._config
        if config.negative is Negative.RANDOM or passes.batch.step < config.warmup_steps:
            luck = torch.rand(candidate.shape, device=candidate.device)
            return luck.masked_fill(~candidate, -1).argmax(dim=1)
        scores = passes.scores[rows].float().masked_fill(~candidate, float("-inf"))
        if config.negative is Negative.HARDEST:
            return scores.argmax(dim=1)
        luck = -(-torch.rand_like(scores).log()).log()  # Gumbel noise: the largest sum is a draw by softmax
        return (scores / config.temperature + luck).argmax(dim=1)

    def _title_photo(self, passes: Passes) -> LossOutput | None:
        """Match titles with their own photos, and with that of the next item unless it has the same title or photo."""
        batch, items = passes.batch, passes.batch.items
        both = torch.nonzero(batch.has_title & batch.has_photo)[:, 0]
        if items.pixels is None or len(both) < 2:
            return None
        shown = torch.arange(batch.num_items, device=both.device)
        shown[both] = both.roll(1)
        differs = batch.photo_groups[shown] != batch.photo_groups
        differs &= batch.title_groups[shown] != batch.title_groups
        total = len(both) + int(differs.sum())
        photos = passes.of_all(items.pixels)
        whole = items._replace(others=None, drop_title=None, drop_photo=None)
        swapped = whole._replace(pixels=photos[shown[batch.own_items]])
        right, wrong = items.has_title & items.has_photo, differs[batch.own_items]
        states = [passes.read(whole).tokens.states[right, 0], passes.read(swapped).tokens.states[wrong, 0]]
        labels = torch.arange(len(states[0]) + len(states[1]), device=both.device) < len(states[0])
        return matching(self.head(torch.cat(states)), labels=labels, total=total)
