"""Masked words: guess words of queries or titles from what is left of them, and of titles from the photo as well."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.encoders.base import Encoder, EncoderConfig
from triptych.encoders.pretrained import Output
from triptych.encoders.text import TextEmbedding
from triptych.losses.base import LossOutput
from triptych.losses.masked_tokens import masked_tokens
from triptych.pretrain.objectives.base import Needs, Objective, ObjectiveConfig
from triptych.pretrain.passes import Masked, Passes


class Side(StrEnum):
    """Whose words."""

    QUERY = "query"
    TITLE = "title"


class At(StrEnum):
    """Where the states are read from which something masked is guessed."""

    TOWER = "tower"
    """The tower of its own side."""
    CROSS = "cross"
    """Behind the meeting of query and item: the other side helps."""


class MaskedWordsConfig(ObjectiveConfig):
    """Masked language modelling."""

    kind: Literal["masked_words"] = "masked_words"
    """Guess masked words."""
    of: Side = Side.TITLE
    """Whose words: query or title."""
    at: At = At.TOWER
    """Where from: tower (its own side alone), cross (query and item together)."""

    @property
    def label(self) -> str:
        """``masked_title_words`` or ``masked_query_words``."""
        return f"masked_{self.of.value}_words"

    @property
    def needs(self) -> Needs:
        """Masked texts."""
        query, cross = self.of is Side.QUERY, self.at is At.CROSS
        return Needs(
            queries=query or cross, masked_queries=query, masked_titles=not query, cross=cross, title=not query
        )

    def check(self, encoder: EncoderConfig) -> None:
        """Refuse a text model that gives no states of words."""
        if encoder.text_model is not None and encoder.text_model.output is Output.POOLED:
            raise ValueError(
                f"{self.label} guesses each word from the state in its place, and text_model.output = 'pooled' keeps "
                "one vector of a text. Set output = 'tokens', or remove the task."
            )

    def build(self, encoder: Encoder, *, batch_items: int) -> MaskedWords:
        """Make the objective."""
        del batch_items
        return MaskedWords(self, encoder)


CONFIG = MaskedWordsConfig


class MaskedWords(Objective):
    """Masked language modelling as an objective.

    Source: Devlin et al., "BERT", 2019, section 3.1 and its released head: a layer with GELU and norm, then the word
    vectors themselves with a bias of their own. With a pretrained text model, whose vectors are of another width, the
    last layer is new.
    """

    def __init__(self, config: MaskedWordsConfig, encoder: Encoder) -> None:
        """Make the head."""
        super().__init__()
        self._config = config
        dim = encoder.config.dim
        self.transform = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(encoder.vocab_size))
        is_tied = isinstance(encoder.text, TextEmbedding)
        self.words = None if is_tied else nn.Linear(dim, encoder.vocab_size, bias=False)

    def forward(self, passes: Passes) -> LossOutput | None:
        """Guess the chosen words of this process's texts."""
        is_query = self._config.of is Side.QUERY
        masked = passes.batch.masked_queries if is_query else passes.batch.masked_titles
        if masked is None or masked.total == 0:
            return None
        if self._config.at is At.CROSS:
            states, masked = self._crossed(passes, masked)
        elif is_query:
            states = passes.masked_queries.tokens.states
        else:
            states = _title_states(passes, masked)
        chosen = states[masked.chosen]
        return masked_tokens(
            self._logits(chosen, passes.encoder), targets=masked.truth[masked.chosen].long(), total=masked.total
        )

    def _logits(self, states: Tensor, encoder: Encoder) -> Tensor:
        found = self.transform(states)
        if self.words is not None:
            return self.words(found) + self.bias
        assert isinstance(encoder.text, TextEmbedding)
        return functional.linear(found, encoder.text.words.weight, self.bias)

    def _crossed(self, passes: Passes, masked: Masked) -> tuple[Tensor, Masked]:
        """Return states behind the meeting, in the places of the masked texts, and the texts of its rows."""
        tokens, start, places = passes.masked_pairs
        if self._config.of is Side.QUERY:
            return tokens.states[:, :start], masked
        assert places.title is not None
        inside = slice(start + places.title.start, start + places.title.stop)
        batch = passes.batch
        every = passes.titles_of_all(masked)
        mine = batch.own_positive  # one row for each own query: an item with two is read, and counted, twice
        states = _behind_cls(tokens.states[:, inside])
        total = int(every.chosen[batch.positive].sum())
        return states, Masked(every.tokens[mine], every.chosen[mine], every.truth[mine], total)


def _title_states(passes: Passes, masked: Masked) -> Tensor:
    """Return the item tower's states in the places of the titles' tokens."""
    reading = passes.masked_items
    states, place = reading.tokens.states, reading.places.title
    if place is None:
        return states.new_zeros(*masked.chosen.shape, states.shape[2])
    return _behind_cls(states[:, place])


def _behind_cls(states: Tensor) -> Tensor:
    """Put a place for [CLS], which is never chosen, before the words' states."""
    return torch.cat([states.new_zeros(len(states), 1, states.shape[2]), states], dim=1)
