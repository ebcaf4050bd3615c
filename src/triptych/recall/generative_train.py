"""Trains generative retrieval: the ID of what was chosen, code by code, given the page's query, or the user's history.

Where queries ask, a sample is a page and one of the items chosen on it, drawn anew each time: a query has many right
items, and their IDs are learned as a distribution (the SMGR reconstruction, section 6.2, L_GQ). Changed: the item is
drawn evenly, so that a query's items count in proportion to their clicks, everywhere together; the proposal draws them
by the square root of the clicks in the cell. Where histories ask, it is one choice, given all that its user had chosen
before it (TIGER); of a user's first choice that is nothing, and from those a stranger's answer is learned. What is read
never holds the target's codes, but as those of an item that was chosen before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from triptych.data.catalogue import Catalogue
from triptych.data.pages import Pages, PagesOf, read_pages
from triptych.data.splits import Split
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import ConfigError, DataError
from triptych.losses.base import LossOutput
from triptych.losses.next_code import next_code
from triptych.metrics.ranking import macro, match, recall_at_k
from triptych.recall.behaviour import BehaviourLog, Moments, latest_of
from triptych.recall.code_trie import Codes, CodeTrie
from triptych.recall.features import taken
from triptych.recall.generative_retriever import Requested, codes_in, say_items
from triptych.recall.learned import Needs
from triptych.recall.models.generative import Ask, Asks, Generative, GenerativeConfig, GenerativeSizes
from triptych.recall.validation import some_queries, some_users
from triptych.training.epochs import EpochsConfig, described
from triptych.training.loop import fit
from triptych.training.task import Validation

KIND = "generative"


class GenerativeTrainConfig(EpochsConfig):
    """The decoder, and how it is trained."""

    model: GenerativeConfig = GenerativeConfig()
    """The decoder."""
    batch_pages: int = Field(512, ge=1)
    """Pages of a batch, choices where histories ask; fewer where the log has fewer."""
    validation_queries: int = Field(1_000, ge=1)
    """Queries, or users, of the validation part that choose the best weights; fewer where it has fewer."""
    validation_k: int = Field(20, ge=1)
    """Cut-off of the recall that chooses them; at most what the beams find."""
    label_smoothing_rate: float = Field(0.0, ge=0, lt=1)
    """Share of the target's probability that is spread over all codes of its level."""
    epochs: float = Field(4.0, gt=0)
    """Times through the clicked pages."""

    @property
    def pages_of(self) -> PagesOf:
        """Whose pages are learned from."""
        return PagesOf.CHOICES if self.model.asks is Asks.HISTORY else PagesOf.QUERIES


@dataclass(frozen=True)
class Given:
    """What generative retrieval is trained from, beside its config."""

    catalogue: Catalogue
    """Queries, items, events."""
    split: Split
    """Its training part is learned, its validation part chooses the weights."""
    query_content: NDArray[Any] | None
    """``[queries, dim]``, what the pretrained encoder makes of the catalogue's queries; None: histories ask."""
    codes: Codes
    """``[items, levels]``, the semantic ID of each item."""
    num_codes: int
    """Codes of each level, those of the widest; a token against collisions is a level, and may be the widest."""
    seed: int
    """Of initial weights and batches."""


class _Batch(NamedTuple):
    ask: Ask
    """Of ``[pages]``."""
    codes: Tensor
    """int64 ``[pages, levels]``, of what was chosen."""


class GenerativeTask:
    """Generative retrieval as a `training.task.Task`."""

    name = "training generative retrieval"

    def __init__(self, config: GenerativeTrainConfig, given: Given) -> None:
        """Gather the pages and make the model.

        Raises:
            DataError: nothing was chosen under a query, or by a known user, in training or validation; or an item has
                no ID, or a code that the decoder cannot say.
            ConfigError: queries ask, and have no vectors.
        """
        if len(given.codes) != given.catalogue.num_items:
            raise DataError(
                f"semantic IDs: there are {len(given.codes):,} for {given.catalogue.num_items:,} items. Assign them to "
                "the items of this catalogue."
            )
        if (largest := int(given.codes.max(initial=0))) >= given.num_codes:
            raise DataError(
                f"semantic IDs: a code is {largest}, and the decoder would say 0 to {given.num_codes - 1}. Give the "
                "number of codes of the widest level, tokens against collisions among them."
            )
        self.pages: Pages = read_pages(given.catalogue, places=given.split.train, of=config.pages_of)
        self._config, self._given, content_dim, most = config, given, 0, config.validation_queries
        self._log: BehaviourLog | None = None
        if config.model.asks is Asks.HISTORY:
            if not len(self.pages.user_row):
                raise DataError("events: no known user chose anything in the training part: there is nothing to learn.")
            needs = Needs(query=False, real_time=config.model.history_items)
            self._log = BehaviourLog(given.catalogue, needs=needs)
            self._validation = some_users(given.catalogue, split=given.split, most=most)
        else:
            if given.query_content is None:
                raise ConfigError("model.asks = 'query' reads the vectors of queries, and there are none. Give them.")
            if not len(self.pages.query_row):
                raise DataError(
                    "events: nothing was chosen under a query in the training part: there is nothing to learn."
                )
            content_dim = given.query_content.shape[1]
            self._validation = some_queries(given.split, most=most)
        self._batch_pages = min(config.batch_pages, len(self.pages.query_row))
        self._trie = CodeTrie.build(given.codes)
        sizes = GenerativeSizes(content_dim, given.codes.shape[1], given.num_codes)
        self.module: Generative = config.model.build(sizes, seed=given.seed)

    @property
    def batches_per_epoch(self) -> float:
        """Batches in which every page is seen once."""
        return len(self.pages.query_row) / self._batch_pages

    def batch(self, index: int) -> _Batch:
        """Draw batch `index`: a pure function of it."""
        num_pages = len(self.pages.query_row)
        epoch, first = divmod(index * self._batch_pages, num_pages)
        order = np.random.default_rng([self._given.seed, epoch, 5]).permutation(num_pages)
        chosen = order[(first + np.arange(self._batch_pages)) % num_pages]
        offsets = self.pages.offsets
        rng = np.random.default_rng([self._given.seed, index, 6])
        drawn = offsets[chosen] + rng.integers(np.diff(offsets)[chosen])
        codes = self._given.codes[self.pages.item_rows[drawn]].astype(np.int64)
        if self._log is None:
            ask = self._queries(self.pages.query_row[chosen])
        else:
            before = self._log.before(Moments(self.pages.user_row[chosen], self.pages.place[chosen]))
            ask = Ask(history=codes_in(before.real_time, codes=self._given.codes))
        return _Batch(ask, torch.from_numpy(codes))

    def num_samples(self, batch: _Batch) -> int:
        """Count pages."""
        return len(batch.codes)

    def losses(self, batch: _Batch) -> LossOutput:
        """Score the true code of every level; the loss is their sum, as an ID's log probability is."""
        logits = self.module(batch.ask, batch.codes)
        return next_code(logits, codes=batch.codes, smoothing_rate=self._config.label_smoothing_rate)

    def validate(self) -> Validation:
        """Answer a fixed sample of validation queries, or users but for what they had chosen, and measure recall."""
        k = min(self._config.validation_k, self._given.catalogue.num_items)
        search = self.module.decoder.for_search()
        found = say_items(self.module, self._requested(), search=search, trie=self._trie, k=k)
        name = f"recall@{k}"
        recall = macro(recall_at_k(match(found.item_rows, targets=self._validation.wanted), k=k))
        return Validation({name: recall}, headline=name)

    def _requested(self) -> Requested:
        """Gather what is asked in validation."""
        query_rows, _, histories, _ = self._validation
        if histories is None:
            return Requested(self._queries(query_rows))
        chosen = [histories.of(place) for place in range(len(query_rows))]
        rows = latest_of(chosen, self._config.model.history_items)
        return Requested(Ask(history=codes_in(rows, codes=self._given.codes)), left_out=chosen)

    def _queries(self, rows: NDArray[np.integer]) -> Ask:
        assert self._given.query_content is not None
        return Ask(content=taken(self._given.query_content, rows))


def run(config: GenerativeTrainConfig, given: Given, *, inputs: Mapping[str, Artifact | str], out: Path) -> Artifact:
    """Train, go on where an attempt was interrupted, or open what has been trained.

    Args:
        config: of model and training.
        given: what it is trained from.
        inputs: what `given` was made from: artefacts, whose ids enter the artefact's id, or words.
        out: folder of the stage.

    Returns:
        Artefact ``generative``: the model's files, those of the tree of IDs, ``train.jsonl``.

    Raises:
        DataError: there is nothing to train or validate on, or an item has no ID.
        ConfigError: queries ask, and have no vectors.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        task = GenerativeTask(config, given)
        result = fit(task, config=config.loop(batches_per_epoch=task.batches_per_epoch), out=folder, seed=given.seed)
        task.module.save(folder)
        CodeTrie.build(given.codes).save(folder)
        parameters = sum(weight.numel() for weight in task.module.parameters())
        return {**result._asdict(), "parameters": parameters}

    return produce(out, kind=KIND, config=described(KIND, config, seed=given.seed), inputs=inputs, build=build)
