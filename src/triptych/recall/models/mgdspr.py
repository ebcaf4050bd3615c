"""MGDSPR: a query in several grains, which attends to what the user has chosen before.

The query is six rows: the means of its characters, of its pairs of characters, of its words, of its words behind a
Transformer, what its words recall of the user's past queries, and the sum of these. Each row attends to the user's
latest choices, to those before them and to attributes of those of a month, where taking a row of zeros is to take
nothing. A self-attention makes one vector of all. An item is its ID's vector and its title's words.

Source: Li et al., "Embedding-based product retrieval in Taobao search", 2021 (arXiv 2106.09297), section 3. Changed:
attributes that a catalogue lacks are left out, sums and concatenations without them; whoever has asked nothing before
recalls 0; a kind with nothing in the month has no row (its mean would be another row of zeros). A self-attention scales
by 1/√head_dim as usual, attention by the query does not, as published. With `fusion` it is the Taobao article's last
model: content joins both sides (its reconstruction, section 4.4).
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.nn.attention import SelfAttention
from triptych.nn.bags import Bags, bag_means
from triptych.nn.fusion import FusedVectors, Fusion
from triptych.nn.id_table import IdTable, TableConfig
from triptych.nn.query_grains import QueryGrains, table_means
from triptych.nn.recent_choices import RecentChoices
from triptych.nn.zero_attention import zero_attention
from triptych.recall.behaviour import NUM_KINDS
from triptych.recall.learned import (
    Behaviour,
    ItemFeatures,
    Needs,
    RecallModel,
    RecallModelConfig,
    RequestFeatures,
    Score,
    Sizes,
)

FUSIONS = (Fusion.SUM, Fusion.IDFC, Fusion.IDFC_CAT)
"""Those that have a vector per ID of the model's own length, for histories."""
LSTM_LAYERS = 2


class MgdsprConfig(RecallModelConfig):
    """Sizes, what is read, and how it is scored."""

    kind: Literal["mgdspr"] = "mgdspr"
    """Name of the file that defines it."""
    score: Score = Score.INNER
    """What scores request and item: inner, as published, or cosine; with the latter set temperature = 0.05."""
    temperature: float = Field(2.0, gt=0)
    """Divides scores in training."""
    fusion: Fusion | None = None
    """How content joins in: mm+idfc, mm+id_sum or mm+idfc_cat; none: not at all, as published."""
    dim: int = Field(128, ge=1)
    """Length of every vector."""
    heads: int = Field(8, ge=1)
    """Heads of every self-attention."""
    query_units: int = Field(48, ge=1)
    """Characters, pairs and words of a query that are read."""
    query_layers: int = Field(1, ge=0)
    """Layers of the Transformer over its words; 0: without."""
    title_words: int = Field(32, ge=1)
    """Words of a title that are read."""
    past_queries: int = Field(20, ge=0)
    """The user's latest queries that are read; 0: without."""
    real_time: int = Field(50, ge=0)
    """The user's latest choices that are read; 0: without."""
    short_term: int = Field(100, ge=0)
    """Choices before those, of ten days; 0: without."""
    long_term: int = Field(100, ge=0)
    """Latest choices of a month, by kind; 0: without."""
    lstm_dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout between the LSTMs over the latest choices; with real_time above 0 only."""
    id_rate_factor: float = Field(100.0, gt=0)
    """Learning rate of the tables (row-wise Adagrad) as a multiple of the loop's."""
    id_init_std: float = Field(0.02, ge=0)
    """Standard deviation of the first vectors of the tables."""
    tables: TableConfig = TableConfig()
    """How the tables of units, attributes and IDs are trained and kept, row by row: optimizer and stored_as."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads ({self.heads}).")
        if self.fusion is not None and self.fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, or none, not '{self.fusion}'.")
        self.score.check(self.temperature)
        if not self.real_time and self.lstm_dropout != type(self).model_fields["lstm_dropout"].default:
            raise ValueError("lstm_dropout has no effect with real_time = 0. Remove it.")
        return self

    @property
    def reads_content(self) -> bool:
        """Whether it joins in."""
        return self.fusion is not None

    @property
    def needs(self) -> Needs:
        """Words, titles and histories."""
        return Needs(
            query_units=self.query_units,
            title_words=self.title_words,
            past_queries=self.past_queries,
            real_time=self.real_time,
            short_term=self.short_term,
            long_term=self.long_term,
            history_attributes=max(self.real_time, self.short_term, self.long_term) > 0,
        )

    def build(self, sizes: Sizes, *, seed: int) -> Mgdspr:
        """Make the model with new weights."""
        return Mgdspr(self, sizes, seed=seed)


CONFIG = MgdsprConfig


class Mgdspr(RecallModel):
    """The published model, and with content the article's last one."""

    config: MgdsprConfig

    def __init__(self, config: MgdsprConfig, sizes: Sizes, *, seed: int) -> None:
        """Make the towers; use `MgdsprConfig.build`."""
        super().__init__()
        self.config, self.sizes = config, sizes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._make(config, sizes)

    def _make(self, config: MgdsprConfig, sizes: Sizes) -> None:
        dim, heads = config.dim, config.heads
        characters, pairs, words = (self._table(rows) for rows in sizes.unit_rows)
        self.grains = QueryGrains(
            words,
            characters=characters,
            pairs=pairs,
            layers=config.query_layers,
            heads=heads,
            reads_past=config.past_queries > 0,
        )
        self.items = self._fused(config.fusion or Fusion.ID, sizes.num_items, sizes.item_content_dim)
        self.title = nn.Linear(dim, dim)
        self.attributes = nn.ModuleList(self._table(rows) for rows in sizes.attribute_rows)
        steps_read = config.real_time or config.short_term
        self.step = nn.Linear((1 + len(self.attributes)) * dim, dim) if steps_read else None
        self.real_time = self._recent(lstm_layers=LSTM_LAYERS) if config.real_time else None
        self.short_term = self._recent(lstm_layers=0) if config.short_term else None
        self.cls = nn.Parameter(torch.randn(dim) * config.id_init_std)
        self.fuse = SelfAttention(dim, heads=heads)
        self.content = None
        if config.fusion is not None:
            self.content = self._fused(config.fusion, sizes.num_queries, sizes.query_content_dim)
            self.items.begin_like(self.content)

    def _table(self, num_rows: int) -> IdTable:
        config = self.config
        return config.tables.build(num_rows, config.dim, rate_factor=config.id_rate_factor, init_std=config.id_init_std)

    def _recent(self, *, lstm_layers: int) -> RecentChoices:
        config = self.config
        return RecentChoices(config.dim, heads=config.heads, lstm_layers=lstm_layers, dropout=config.lstm_dropout)

    def _fused(self, fusion: Fusion, num_ids: int, content_dim: int) -> FusedVectors:
        config = self.config
        return FusedVectors(
            fusion,
            num_ids=num_ids,
            content_dim=content_dim,
            dim=config.dim,
            id_rate_factor=config.id_rate_factor,
            id_init_std=config.id_init_std,
            tables=config.tables,
        )

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self.config.dim

    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return vectors of requests ``[n, vector_dim]``."""
        query = self._query(requests)
        rows = [self.cls.expand(len(query), 1, -1), query]
        if requests.behaviour is not None:
            rows += self._history(query, requests.behaviour)
        content = None
        if self.content is not None:
            content = self.content.unnormalized(requests.query_ids, requests.query_content).float()
            rows.append(content[:, None])
        found = self.fuse(torch.cat(rows, dim=1), read=1)[:, 0].float()
        return self.config.score.of(found if content is None else found + content)

    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return vectors ``[n, vector_dim]``."""
        assert items.title_words is not None
        own = self.items.unnormalized(items.item_ids, items.content).float()
        return self.config.score.of(own + self.title(table_means(self.grains.words, items.title_words)).float().tanh())

    def _query(self, requests: RequestFeatures) -> Tensor:
        assert requests.units is not None
        past_words, asked = requests.past or (None, None)
        characters, pairs, words, of = requests.units
        return self.grains(characters, pairs, words, of=of, past_words=past_words, asked=asked)

    def _history(self, query: Tensor, behaviour: Behaviour) -> list[Tensor]:
        """Return what each row of the query takes of each part of the history, ``[n, rows, dim]`` each."""
        assert self.items.ids is not None
        own = self.items.ids(behaviour.items.item_ids)
        attributes = behaviour.items.attributes
        assert attributes is not None
        sides = [table(rows.clamp(min=0)) for table, rows in zip(self.attributes, attributes.T, strict=True)]
        there = [None, *(attributes.T >= 0)]
        blocks = []
        if self.step is not None:
            known = [side * where[:, None] for side, where in zip(sides, there[1:], strict=True)]
            steps = self.step(torch.cat([own, *known], dim=1))
            recent = ((self.real_time, behaviour.real_time), (self.short_term, behaviour.short_term))
            blocks += [block(query, steps, places=places) for block, places in recent if block is not None]
        if self.config.long_term:
            found = [
                _by_kind(query, vectors, behaviour.long_term, there=where)
                for vectors, where in zip([own, *sides], there, strict=True)
            ]
            blocks.append(torch.stack(found).sum(dim=0))
        return blocks


def _by_kind(query: Tensor, vectors: Tensor, bags: Bags, *, there: Tensor | None) -> Tensor:
    """Attend to the means of an attribute over the clicks, the carts and the orders."""
    means = bag_means(vectors, bags, there=there)
    rows = means.vectors.view(len(query), NUM_KINDS, vectors.shape[1])
    return zero_attention(query, rows, keep=means.filled.view(len(query), NUM_KINDS))
