"""Query–item contrast: the encoder learns that what was clicked under a query belongs to it.

A batch is a set of distinct items and, for each, queries it was clicked under in training; the other items of the
batch are negatives unless they too were clicked (`losses.infonce`). Now and then an item's title or photo is hidden, so
that a title alone is an item and a photo alone is a query. Judged queries are learned the same way: a pair judged
relevant stands for a click (`Split.train_pairs`).

A second, lighter loss asks some photos of the batch, without their titles and varied as a shopper's photo would be
(`data.augment`), for the item they show. Without it a photo lands where the *queries* for it are, among all items of
its kind and colour, and does not find its own (`docs/experiments.md`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from triptych.data.sampling import ItemQuerySampler
from triptych.data.splits import Part
from triptych.data.text import PAD
from triptych.encoders.base import Encoder
from triptych.encoders.inputs import ItemInputs
from triptych.encoders.text import cut_by_length, text_tensor
from triptych.losses.base import LossOutput
from triptych.losses.infonce import infonce
from triptych.metrics.ranking import TargetSets, macro, match, recall_at_k
from triptych.pretrain.base import Given, OneTaskConfig
from triptych.pretrain.probe import some_targets
from triptych.pretrain.reader import ItemReader, PhotoViews, Weighted, combined, encoded, top_items, view_loss
from triptych.training.task import Validation


class ContrastiveConfig(OneTaskConfig):
    """Query–item contrastive training of the two-tower encoder."""

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

    def task(self, given: Given) -> ContrastiveTask:
        """Make the task; see `OneTaskConfig.task`."""
        return ContrastiveTask(self, given)


CONFIG = ContrastiveConfig


class ContrastiveBatch(NamedTuple):
    """One batch in host memory, items and queries each sorted by length and cut in parts that are padded apart.

    Of several processes each has its share of items and queries; places and `known` are among the items of all.
    """

    items: tuple[ItemInputs, ...]
    query_tokens: tuple[Tensor, ...]
    """int32 ``[queries of the part, tokens]``."""
    positive: Tensor
    """int64 ``[queries]``, the place of each query's item."""
    known: Tensor
    """bool ``[queries, items]``, pairs that are no negatives."""
    num_queries: int
    """Queries of all processes."""
    photo_views: PhotoViews | None
    """None where the encoder reads no photos, or the second loss is off."""


class ContrastiveTask:
    """Query–item contrast as a `training.task.Task`."""

    name = "training encoder"

    def __init__(self, config: ContrastiveConfig, given: Given) -> None:
        """Tokenise all texts once and make the model.

        Raises:
            DataError: there is no log.
        """
        split = given.require_split("queries are learned from what was chosen under them")
        self._config = config
        self._catalogue = catalogue = given.catalogue
        self._seed = given.seed
        self._group = given.group
        self._reader = ItemReader(config, given)
        self._query_tokens = given.tokenizer.encode(catalogue.queries, max_tokens=config.encoder.max_query_tokens)
        pairs = split.train_pairs(catalogue)
        self._sampler = ItemQuerySampler(
            query_row=pairs.query_row,
            item_row=pairs.item_row,
            clicks=pairs.clicks,
            batch_items=config.batch_items,
            queries_per_item=config.queries_per_item,
            item_power=config.item_power,
            seed=given.seed,
        )
        self._validation = some_targets(split.targets(Part.VALIDATION), most=config.validation_queries)
        self.module = given.encoder(config.encoder)

    @property
    def encoder(self) -> Encoder:
        """The module."""
        return self.module

    def batch(self, index: int) -> ContrastiveBatch:
        """Draw batch `index` and gather its tokens and pixels."""
        drawn = self._sampler.batch(index)
        rng = np.random.default_rng([self._seed, index, 1])  # apart from the sampler's stream
        items = self._reader.parts(drawn.item_rows, rng=rng)
        query_tokens = self._query_tokens[drawn.query_rows]
        query_parts = cut_by_length((query_tokens != PAD).sum(axis=1), parts=2)
        own_queries = self._group.shares(query_parts)
        own = np.concatenate(own_queries or [query_parts[0][:0]])
        return ContrastiveBatch(
            items=items.inputs,
            query_tokens=tuple(text_tensor(query_tokens[rows]) for rows in own_queries),
            positive=torch.from_numpy(items.place[drawn.positive[own]]),
            known=torch.from_numpy(drawn.known[own][:, items.order]),
            num_queries=len(query_tokens),
            photo_views=self._reader.photo_views(drawn.item_rows[items.order], rng=rng),
        )

    def num_samples(self, batch: ContrastiveBatch) -> int:
        """Count items."""
        return int(batch.known.shape[1])

    def losses(self, batch: ContrastiveBatch) -> LossOutput:
        """Contrast the batch's queries with its items, and photos alone with the items they show."""
        temperature = self._config.temperature
        items = self._group.gather(encoded(batch.items, module=self.module), total=batch.known.shape[1])
        clicked = infonce(
            encoded(batch.query_tokens, module=self.module),
            items=items,
            positive=batch.positive,
            known=batch.known,
            temperature=temperature,
            total=batch.num_queries,
        )
        seen = view_loss(batch.photo_views, module=self.module, items=items, temperature=temperature)
        return combined(clicked, photo=Weighted(seen, self._config.photo_view_weight))

    def validate(self) -> Validation:
        """Rank all items for a fixed sample of validation queries and measure recall."""
        k = min(self._config.validation_k, self._catalogue.num_items)
        items = self._reader.vectors(self.module)
        asked = [self._catalogue.queries[row] for row in self._validation.query_row]
        queries = self._reader.embedder(self.module).queries(asked)
        targets = TargetSets(self._validation.offsets, self._validation.item_rows)
        recall = macro(recall_at_k(match(top_items(queries, items, k=k), targets=targets), k=k))
        name = f"recall@{k}"
        return Validation({name: recall}, headline=name)
