"""Generative retrieval: semantic IDs are said code by code, and the items that have them are the answer.

What is asked is a query, by the vector that a pretrained encoder makes of it, or a user's history, by the semantic IDs
of what he has chosen.

`recall.generative_train` trains it, `recall.generative_retriever` answers with it.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.nn.code_decoder import CodeDecoder
from triptych.nn.code_reader import CodeReader
from triptych.nn.model_folder import load_weights, read_described, write_model
from triptych.recall.base import RetrieverConfig

WHAT = "Generative model"


class Asks(StrEnum):
    """What a request is."""

    QUERY = "query"
    """A query, whoever asks."""
    HISTORY = "history"
    """What a user has chosen before: for recommendation."""


class GenerativeConfig(RetrieverConfig):
    """A decoder over the levels of semantic IDs, and what it reads of a request."""

    kind: Literal["generative"] = "generative"
    """Name of the file that defines it."""
    asks: Asks = Asks.QUERY
    """What a request is: query or history."""
    dim: int = Field(256, ge=8)
    """Width; a multiple of heads."""
    layers: int = Field(2, ge=1)
    """Blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads of a block."""
    memory_tokens: int = Field(4, ge=1)
    """Tokens that a query's vector is spread over, for the decoder to read; with asks = 'query' only."""
    history_items: int = Field(20, ge=1)
    """The user's latest choices that are read; with asks = 'history' only."""
    reader_layers: int = Field(2, ge=1)
    """Blocks that read them, before the decoder does; with asks = 'history' only."""
    dropout_rate: float = Field(0.1, ge=0, lt=1)
    """Of what is read of them, in training; with asks = 'history' only."""
    beams: int = Field(50, ge=1)
    """Prefixes that are kept at each level; at least as many IDs as are wanted."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads}).")
        of_histories = ("history_items", "reader_layers", "dropout_rate")
        for name in of_histories if self.asks is Asks.QUERY else ("memory_tokens",):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with asks = '{self.asks}'. Remove it.")
        return self

    def build(self, sizes: GenerativeSizes, *, seed: int) -> Generative:
        """Make the model with new weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Generative(self, sizes)


class GenerativeSizes(NamedTuple):
    """What the model's shape depends on beside its config."""

    content_dim: int
    """Length of a query's vector; 0 where histories ask."""
    levels: int
    """Codes of an ID."""
    num_codes: int
    """Codes of each level."""


class Ask(NamedTuple):
    """What is read of some requests: one of both, as the config has it."""

    content: Tensor | None = None
    """float32 ``[n, content_dim]``, vectors of queries."""
    history: Tensor | None = None
    """int64 ``[n, items, levels]``, the IDs of what was chosen, oldest first, -1 in the place of an item where there is
    none; at most `history_items`."""

    def some(self, places: slice | NDArray[np.int64]) -> Ask:
        """Return some of the requests."""
        return Ask(*(None if part is None else part[places] for part in self))


class Read(NamedTuple):
    """What the decoder reads."""

    tokens: Tensor
    """``[n, tokens, dim]``."""
    keep: Tensor | None
    """bool ``[n, tokens]``, False at padding; None: there is none."""


class Generative(nn.Module):
    """Query vectors or histories in, logits of codes out.

    Source: TIGER (Rajput et al., "Recommender systems with generative retrieval", 2023), which reads histories; for
    queries the same decoder, as the SMGR reconstruction trains it (section 6.2, L_GQ). Ours reads the frozen vector of
    a pretrained encoder, so that a query of any words is answered, and says nothing that does not exist.
    """

    def __init__(self, config: GenerativeConfig, sizes: GenerativeSizes) -> None:
        """Make the layers."""
        super().__init__()
        self.config, self.sizes = config, sizes
        shape = {"levels": sizes.levels, "num_codes": sizes.num_codes, "heads": config.heads}
        if config.asks is Asks.QUERY:
            self.spread = nn.Linear(sizes.content_dim, config.memory_tokens * config.dim)
            self.norm = nn.LayerNorm(config.dim)
        else:
            self.reader = CodeReader(
                config.dim,
                history_items=config.history_items,
                layers=config.reader_layers,
                dropout_rate=config.dropout_rate,
                **shape,
            )
        self.decoder = CodeDecoder(config.dim, layers=config.layers, **shape)

    def read(self, ask: Ask) -> Read:
        """Spread queries' vectors over tokens, or read histories."""
        if self.config.asks is Asks.QUERY:
            assert ask.content is not None, "it reads queries"
            tokens = self.spread(ask.content).view(len(ask.content), self.config.memory_tokens, self.config.dim)
            return Read(self.norm(tokens), None)
        assert ask.history is not None, "it reads histories"
        return Read(*self.reader(ask.history))

    def forward(self, ask: Ask, codes: Tensor) -> Tensor:
        """Score every code of each level, given the true ones before: logits ``[n, levels, num_codes]``.

        Args:
            ask: ``[n]`` requests.
            codes: int64 ``[n, levels]``, of what answers them.
        """
        read = self.read(ask)
        logits: Tensor = self.decoder(read.tokens, codes=codes, keep=read.keep)
        return logits

    def save(self, folder: Path) -> None:
        """Write weights, config and sizes."""
        write_model(folder, self, config=self.config.dump(), sizes=self.sizes._asdict())

    @classmethod
    def load(cls, folder: Path) -> Generative:
        """Open what `save` wrote.

        Raises:
            ArtifactError: files are absent or do not belong together.
        """
        tree, sizes = read_described(folder, what=WHAT)
        return load_weights(GenerativeConfig.parse(tree).build(GenerativeSizes(**sizes), seed=0), folder, what=WHAT)


CONFIG = GenerativeConfig
