"""Query tower and item tower over IDs and frozen pretrained vectors: Taobao's vector recall.

Queries and items each have a vector by ID and one by content, which a pretrained encoder has made of their words and
photos. How the two are made one is `nn.fusion.Fusion`; the score is the cosine over a temperature. What has no ID of
its own, a query nobody has asked or an item that is new, has the vector of row 0 in its place, which is trained by
hiding IDs at random (`recall.train`), and its own content.

A request may be more than its query: with `asks` the user's latest choices, as the item tower sees them, are attended
to by the query, or by a learned vector where there is no query.

Source: the Taobao article (part 5), reconstructed: its sizes are not public. It has queries alone; the histories are
ours, read as MGDSPR reads them (`nn.zero_attention`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.bags import looked_up
from triptych.nn.fusion import FusedVectors, Fusion
from triptych.nn.id_table import TableConfig
from triptych.nn.zero_attention import zero_attention
from triptych.recall.learned import (
    Behaviour,
    ItemFeatures,
    Needs,
    RecallModel,
    RecallModelConfig,
    RequestFeatures,
    Sizes,
)


class Asks(StrEnum):
    """What a request is."""

    QUERY = "query"
    """A query, whoever asks."""
    BOTH = "query+history"
    """A query, and what the user has chosen before."""
    HISTORY = "history"
    """What the user has chosen before: for logs without queries, and recommendation."""


class TwoTowerConfig(RecallModelConfig):
    """What vectors are made of, and their size."""

    kind: Literal["two_tower"] = "two_tower"
    """Name of the file that defines it."""
    fusion: Fusion = Fusion.IDFC
    """How ID and content are made one."""
    asks: Asks = Asks.QUERY
    """What a request is made of: query, query+history or history."""
    history_items: int = Field(50, ge=1)
    """The user's latest choices that are read; with asks = 'query+history' and 'history' only."""
    dim: int = Field(128, ge=1)
    """Length of an ID's vector, and of a reduced content vector."""
    hidden_dims: tuple[int, ...] = ()
    """Layers of an MLP in the place of the one map of content; with fusion = 'mm' only."""
    bends_ids: bool = False
    """Whether the map of ID vectors ends in tanh; with fusion = 'mm+idfc' and 'mm+idfc_cat' only."""
    id_rate_factor: float = Field(100.0, gt=0)
    """Learning rate of the ID vectors (row-wise Adagrad) as a multiple of the loop's."""
    id_init_std: float = Field(0.01, ge=0)
    """Standard deviation of the first ID vectors; small, so that a vector begins as that of its content."""
    tables: TableConfig = TableConfig()
    """How the ID vectors are trained and kept, row by row: optimizer and stored_as."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        for name, idle in (
            ("id_rate_factor", self.fusion is Fusion.MM),
            ("tables", self.fusion is Fusion.MM),
            ("id_init_std", self.fusion in (Fusion.MM, Fusion.TRAINABLE)),
        ):
            if idle and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with fusion = '{self.fusion}'. Remove it.")
        if self.hidden_dims and self.fusion is not Fusion.MM:
            raise ValueError("hidden_dims has no effect with this fusion. Remove it, or set fusion = 'mm'.")
        if self.bends_ids and self.fusion not in (Fusion.IDFC, Fusion.IDFC_CAT):
            raise ValueError("bends_ids has no effect with this fusion. Remove it, or set fusion = 'mm+idfc'.")
        if self.asks is Asks.QUERY and self.history_items != type(self).model_fields["history_items"].default:
            raise ValueError(
                "history_items has no effect with asks = 'query'. Remove it, or set asks = 'query+history'."
            )
        return self

    @property
    def reads_content(self) -> bool:
        """As the fusion."""
        return self.fusion.reads_content

    @property
    def reads_ids(self) -> bool:
        """As the fusion."""
        return self.fusion.reads_id

    @property
    def needs(self) -> Needs:
        """Histories, where they ask."""
        if self.asks is Asks.QUERY:
            return Needs()
        return Needs(
            query=self.asks is Asks.BOTH, real_time=self.history_items, history_content=self.fusion.reads_content
        )

    def build(self, sizes: Sizes, *, seed: int) -> TwoTower:
        """Make the model with new weights."""
        return TwoTower(self, sizes, seed=seed)


CONFIG = TwoTowerConfig


class TwoTower(RecallModel):
    """Two towers of the same build, each with weights of its own."""

    def __init__(self, config: TwoTowerConfig, sizes: Sizes, *, seed: int) -> None:
        """Make the towers; use `TwoTowerConfig.build`."""
        super().__init__()
        self.config, self.sizes = config, sizes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.queries, self.stranger, self.recalled = None, None, None
            if config.needs.query:
                self.queries = _tower(config, num_ids=sizes.num_queries, content_dim=sizes.query_content_dim)
            self.items = _tower(config, num_ids=sizes.num_items, content_dim=sizes.item_content_dim)
            if self.queries is not None:
                self.items.begin_like(self.queries)
            dim = self.items.out_dim
            if not config.needs.query:
                self.stranger = nn.Parameter(torch.randn(dim) * dim**-0.5)
            if config.needs.history:
                self.recalled = nn.Linear(dim, dim, bias=False)

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self.items.out_dim

    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return unit vectors of requests ``[n, vector_dim]``."""
        if self.queries is None:
            assert self.stranger is not None
            asked = self.stranger.expand(len(requests.query_ids), -1)
        else:
            asked = self.queries.unnormalized(requests.query_ids, requests.query_content)
        asked = asked.float()
        if self.recalled is not None:
            assert requests.behaviour is not None
            asked = asked + self.recalled(self._history(asked, requests.behaviour))
        return functional.normalize(asked.float(), dim=-1)

    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return unit vectors ``[n, vector_dim]``."""
        return self.items(items.item_ids, items.content)

    def _history(self, asked: Tensor, behaviour: Behaviour) -> Tensor:
        """Attend to the latest choices ``[n, vector_dim]``; 0 where there are none."""
        vectors = self.items.unnormalized(behaviour.items.item_ids, behaviour.items.content)
        steps = looked_up(vectors, behaviour.real_time)
        return zero_attention(asked[:, None], steps, keep=behaviour.real_time >= 0)[:, 0]


def _tower(config: TwoTowerConfig, *, num_ids: int, content_dim: int) -> FusedVectors:
    return FusedVectors(
        config.fusion,
        num_ids=num_ids,
        content_dim=content_dim,
        dim=config.dim,
        hidden_dims=config.hidden_dims,
        id_rate_factor=config.id_rate_factor,
        id_init_std=config.id_init_std,
        tables=config.tables,
        bends_ids=config.bends_ids,
    )
