"""Recall training as the loop sees it: pages and their negatives in, loss and validation out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from triptych.data.askers import Askers
from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNK
from triptych.data.pages import PageBatch, Pages, PageSampler, PagesOf, Runs, RunSampler, Sampler, read_pages
from triptych.data.sampling import KnownPairs
from triptych.data.splits import Split
from triptych.foundation.errors import ConfigError, DataError
from triptych.losses.base import LossOutput
from triptych.losses.bpr import Penalty, bpr
from triptych.losses.sampled_softmax import HardMixes, sampled_softmax
from triptych.metrics.ranking import macro, match, recall_at_k
from triptych.nn.id_table import Shard
from triptych.recall.base import BoolArray
from triptych.recall.behaviour import Moments, choices_of
from triptych.recall.code_targets import CodeTargetSource
from triptych.recall.config import Loss, RecallTrainConfig
from triptych.recall.features import Features
from triptych.recall.ids import Ids
from triptych.recall.item_codes import ItemCodes, check_item_codes
from triptych.recall.learned import (
    CodeModel,
    CodeTargets,
    GraphModel,
    ItemFeatures,
    ModalityModel,
    PenalisedModel,
    RecallModel,
    RequestFeatures,
    Step,
)
from triptych.recall.mining import MinedNegatives
from triptych.recall.negatives import NegativeSource
from triptych.recall.validation import for_users, nearest, some_queries, some_users
from triptych.training.distributed import ALONE, Group
from triptych.training.loop import on_device
from triptych.training.task import Validation

PAGES_SEED = 0
"""Draws the pages of a shorter log."""
ENCODED_ITEMS = 16_384
"""Items encoded at a time where all are."""


@dataclass(frozen=True)
class Given:
    """What a recall model is trained from, beside its config."""

    catalogue: Catalogue
    """Queries, items, events."""
    split: Split
    """Its training part is learned, its validation part chooses the weights."""
    query_content: NDArray[Any] | None
    """``[queries, dim]``, what the pretrained encoder makes of the catalogue's queries; None: the model reads none."""
    item_content: NDArray[Any] | None
    """``[items, dim]``, what it makes of the items."""
    seed: int
    """Of initial weights and batches."""
    group: Group = ALONE
    """The processes that train together."""
    item_modalities: Mapping[str, NDArray[Any]] | None = None
    """What items are made of by modality, for models that read it: name → ``[items, dim]`` by item row, such as
    `data.datasets.mmrec.MmrecConfig.vectors`; NaN in the row of an item that lacks the modality."""
    title_content: NDArray[Any] | None = None
    """``[items, dim]``, what the encoder makes of titles alone, NaN for none, for models that read it."""
    item_codes: Sequence[ItemCodes] = ()
    """Sets of semantic IDs of the items, for models that read them; the first is that of what `item_content` is of."""


class RecallBatch(NamedTuple):
    """Pages, their choices and their negatives. Of several processes each has its share of pages and of items."""

    requests: RequestFeatures
    items: ItemFeatures
    """Those of this process; places below are among the items of all."""
    page: Tensor
    """int64 ``[pairs]``, the place of each choice's page among this process's."""
    positive: Tensor
    """int64 ``[pairs]``, the place of its item."""
    negative: Tensor
    """int64 ``[negatives]``, the places of the negatives."""
    masked: Tensor
    """bool ``[pages, negatives]``, True where a negative was chosen on the page, or was mined for another one."""
    negative_bias: Tensor
    """float32 ``[negatives]``."""
    positive_bias: Tensor | None
    """float32 ``[pairs]``."""
    mix_share: Tensor | None
    """float32 ``[pages]``, the choice's share of hard mixtures; None: there are none."""
    chosen: Tensor
    """int64 ``[distinct]``, rows of the table of items that all processes' pages chose, each once."""
    batch_index: int
    """Its place in the training."""
    epoch: int
    """Times that all pages have been seen before."""
    num_pages: int
    """Pages of all processes."""
    num_items: int
    """Items of all processes."""
    num_pairs: int
    """Choices of all processes."""
    targets: CodeTargets | None = None
    """What tasks of semantic IDs are asked; None: the model has none."""


class RecallTask:
    """A recall model as a `training.task.Task`."""

    name = "training recall"

    def __init__(self, config: RecallTrainConfig, given: Given) -> None:
        """Gather the pages and make the model.

        Raises:
            DataError: nothing was chosen under a query in training, or in validation; or the semantic IDs are not of
                these items.
        """
        self._config = config
        self._group = given.group
        self._seed = given.seed
        needs = config.recall_model.needs
        pages = read_pages(given.catalogue, places=given.split.train, of=config.pages_of)
        if not needs.query and not len(pages.user_row):
            raise DataError("events: no known user chose anything in the training part, so there is nothing to learn.")
        if config.pages_rate < 1:
            pages = pages.some(config.pages_rate, rng=np.random.default_rng(PAGES_SEED))
        self._pages = pages
        self._sampler: Sampler = (
            RunSampler(pages, batch_pages=config.batch_pages, longest=needs.real_time, seed=given.seed)
            if needs.runs
            else PageSampler(
                pages, batch_pages=config.batch_pages, most_positives=config.most_positives, seed=given.seed
            )
        )
        self.ids = Ids.fit(
            given.catalogue,
            pages=pages,
            min_count=config.id_min_count,
            query_buckets=config.query_buckets,
            item_buckets=config.item_buckets,
            needs=needs,
            titles=_titles(given) if needs.title_words else (),
        )
        reads_content = config.recall_model.reads_content
        self.features = Features(
            given.catalogue,
            ids=self.ids,
            query_content=given.query_content if reads_content else None,
            item_content=given.item_content if reads_content else None,
            item_modalities=given.item_modalities if needs.modalities else None,
            title_content=given.title_content if needs.title_content else None,
            item_codes=given.item_codes if needs.codes else (),
            needs=needs,
        )
        self._targets = None
        if needs.codes is not None:
            check_item_codes(given.item_codes, num_items=given.catalogue.num_items)
        if needs.codes is not None and needs.codes.targets:
            self._targets = CodeTargetSource(
                pages,
                sets=given.item_codes,
                known=_known_items(given, pages=pages),
                needs=needs.codes,
                features=self.features,
                seed=given.seed,
            )
        self._num_items = given.catalogue.num_items
        self._negatives = NegativeSource(
            pages,
            known=_known_items(given, pages=pages),
            batch_pages=self._sampler.batch_pages,
            most_positives=config.most_positives,
            against=config.against,
            log_q=config.log_q,
            num_negatives=config.num_negatives,
            power=config.negative_power,
            smoothing=config.negative_smoothing,
        )
        # Of choices by themselves, whatever the user chose is no negative; of pages, what he chose on that one.
        own_page = np.arange(len(pages.query_row))
        self._asker = pages.user_row if config.pages_of is PagesOf.CHOICES else own_page
        self._known = KnownPairs(np.repeat(self._asker, np.diff(pages.offsets)), pages.item_rows)
        self._mined = _mined(config, given, pages=pages)
        most = config.validation_queries
        self._validation = (
            some_queries(given.split, most=most)
            if needs.query
            else some_users(given.catalogue, split=given.split, most=most)
        )
        self._askers: Askers | None = None
        if config.validation_users is not None:
            self._validation, self._askers = for_users(
                self._validation, catalogue=given.catalogue, split=given.split, most=config.validation_users
            )
        sizes, edges = self.features.sizes, None
        if needs.graph:
            edges = np.unique(np.stack([np.repeat(pages.user_row, np.diff(pages.offsets)), pages.item_rows]), axis=1)
            sizes = sizes._replace(num_edges=edges.shape[1])
        self.module: RecallModel = config.recall_model.build(sizes, seed=given.seed)
        if edges is not None:
            assert isinstance(self.module, GraphModel), "it needs the graph"
            users, items = self.features.user_ids(edges[0]), self.features.item_ids(edges[1])
            self.module.connect(torch.from_numpy(users), torch.from_numpy(items))
        if needs.modalities:
            assert isinstance(self.module, ModalityModel), "it needs the modalities"
            self.module.describe(self.features.modalities())
        if needs.codes is not None:
            assert isinstance(self.module, CodeModel), "it needs the semantic IDs"
            self.module.begin_with([torch.from_numpy(one.codebooks.astype(np.float32)) for one in given.item_codes])

    @property
    def batches_per_epoch(self) -> float:
        """Batches in which every page is seen once."""
        return self._sampler.batches_per_epoch

    def batch(self, index: int) -> RecallBatch:
        """Draw batch `index`, and gather what is known of its queries and items."""
        config, group = self._config, self._group
        rng = np.random.default_rng([self._seed, index, 2])  # apart from the sampler's streams
        drawn = self._sampler.batch(index)
        negatives, negative_bias = self._negatives.draw(drawn, rng=rng)
        query_rows = self._pages.query_row[drawn.pages]
        masked = self._known.among(self._asker[drawn.pages], item_rows=negatives)
        if self._mined is not None:
            more, there = self._mined.draw(
                query_rows, number=config.mined_negatives, rng=np.random.default_rng([self._seed, index, 3])
            )
            negatives = np.concatenate([negatives, more.ravel()])
            negative_bias = np.concatenate([negative_bias, np.zeros(more.size, dtype=np.float32)])
            masked = np.concatenate([masked, _of_others(there)], axis=1)
        item_rows, place = np.unique(np.concatenate([drawn.item_rows, negatives]), return_inverse=True)
        positive, negative = np.split(place, [len(drawn.item_rows)])
        hidden = [rng.random(len(rows)) < config.id_dropout_rate for rows in (query_rows, item_rows)]
        mix_share = rng.uniform(config.mix_low, config.mix_high, size=len(query_rows)).astype(np.float32)
        unknown = rng.random(len(query_rows)) < (config.history_dropout_rate if self.features.needs.query else 0.0)
        user_row = np.where(unknown, -1, self._pages.user_row[drawn.pages])
        moments = Moments(user_row, self._pages.place[drawn.pages])
        own_items = group.share(len(item_rows))
        mine = _own_pages(drawn, group=group)
        kept = np.isin(drawn.page, mine)
        positive_bias = self._negatives.positive_bias(drawn.item_rows)
        codes = self.features.needs.codes
        hidden_codes = None
        if codes is not None:
            hidden_codes = rng.random((len(item_rows), len(self.features.sizes.code_sets))) < codes.dropout_rate
            hidden_codes = hidden_codes[own_items]
        return RecallBatch(
            requests=(
                self.features.requests(
                    query_rows[mine], hidden=hidden[0][mine], moments=Moments(*(part[mine] for part in moments))
                )
                if drawn.runs is None
                else self.features.in_runs(_own_runs(drawn.runs, mine))
            ),
            items=self.features.items(item_rows[own_items], hidden=hidden[1][own_items], hidden_codes=hidden_codes),
            page=torch.from_numpy(np.searchsorted(mine, drawn.page[kept])),
            positive=torch.from_numpy(positive[kept]),
            negative=torch.from_numpy(negative),
            masked=torch.from_numpy(masked[mine]),
            negative_bias=torch.from_numpy(negative_bias),
            positive_bias=None if positive_bias is None else torch.from_numpy(positive_bias[kept]),
            mix_share=torch.from_numpy(mix_share[mine]) if config.hard_mixes else None,
            chosen=torch.from_numpy(_known(self.features.item_ids(np.unique(drawn.item_rows)))),
            batch_index=index,
            epoch=int(index / self._sampler.batches_per_epoch),
            num_pages=len(query_rows),
            num_items=len(item_rows),
            num_pairs=len(drawn.item_rows),
            targets=None if self._targets is None else self._targets.draw(drawn, own=mine, index=index),
        )

    def num_samples(self, batch: RecallBatch) -> int:
        """Count choices."""
        return batch.num_pairs

    def losses(self, batch: RecallBatch) -> LossOutput:
        """Contrast the choices of each page with the batch's negatives."""
        shard = Shard(self._group.rank, self._group.size)
        step = Step(batch.requests, batch.items, batch.chosen, batch.batch_index, batch.epoch, shard, batch.targets)
        encoded = self.module.encode(step)
        whole = LossOutput(torch.zeros((), device=encoded.items.device))
        if encoded.contrasted:
            penalty = self._penalty(batch) if self._config.l2 else None
            whole = self._contrast(batch, requests=encoded.requests, own_items=encoded.items, penalty=penalty)
        total, parts = whole.total, dict(whole.parts)
        for view in encoded.views:
            loss = self._contrast(batch, requests=view.requests, own_items=view.items).total
            total, parts[view.name] = total + view.weight * loss, loss
        for term in encoded.terms:
            total = total + term.weight * term.loss.total
            parts.update(term.loss.parts)
        return LossOutput(total, parts)

    def _contrast(
        self, batch: RecallBatch, *, requests: Tensor, own_items: Tensor, penalty: Penalty | None = None
    ) -> LossOutput:
        """Contrast the choices of some vectors of the batch's requests and of this process's items."""
        items = self._group.gather(own_items, total=batch.num_items)
        return self._loss(batch, penalty=penalty)(
            requests,
            positives=functional.embedding(batch.positive, items),  # as indexing, whose gradient takes much longer
            request=batch.page,
            negatives=functional.embedding(batch.negative, items),
            masked=batch.masked,
            temperature=self.module.config.temperature,
            negative_bias=batch.negative_bias,
            total=batch.num_pages,
        )

    def _penalty(self, batch: RecallBatch) -> Penalty:
        """Return what the loss penalises of a model of vectors by ID."""
        assert isinstance(self.module, PenalisedModel), "it has vectors that can be penalised"
        requests, own_items = self.module.squared_lengths(batch.requests, batch.items)
        items = self._group.gather(own_items[:, None], total=batch.num_items)[:, 0]
        return Penalty(self._config.l2, requests, items[batch.positive], items[batch.negative])

    def _loss(self, batch: RecallBatch, *, penalty: Penalty | None) -> Callable[..., LossOutput]:
        """Return the loss, with what it alone takes of a batch."""
        if self._config.loss is Loss.BPR:
            return partial(bpr, penalty=penalty)
        mixes = None if batch.mix_share is None else HardMixes(self._config.hard_mixes, batch.mix_share)
        return partial(sampled_softmax, positive_bias=batch.positive_bias, mixes=mixes)

    def validate(self) -> Validation:
        """Rank all items for a fixed sample of validation queries, and measure recall.

        A model that reads histories beside queries is asked by the query alone, or for some who asked it with what they
        had chosen before (`validation_users`), as the search task asks it. One that goes by histories is asked by those
        of a sample of users, whose items it may not return.
        """
        k = min(self._config.validation_k, self._num_items)
        items = self.item_vectors()
        query_rows, user_rows, histories, wanted = self._validation
        moments = None if user_rows is None else _at_the_end(user_rows)
        if self._askers is not None:
            moments = Moments(self._askers.user_row, self._askers.before)
        asked = self.features.requests(query_rows, moments=moments)
        if histories is not None and self.features.needs.history:
            chosen = [histories.of(place) for place in range(len(query_rows))]
            asked = self.features.with_history(asked, choices_of(chosen, needs=self.features.needs))
        ranked = nearest(self.module.encode_requests(on_device(self._device, asked)), items, k=k, left_out=histories)
        name = f"recall@{k}"
        found = recall_at_k(match(ranked.numpy(), targets=wanted), k=k)
        recall = macro(found if self._askers is None else self._askers.means(found))
        return Validation({name: recall}, headline=name)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Encode every item of the catalogue, float32 ``[items, vector_dim]``."""
        blocks = np.split(np.arange(self._num_items), range(ENCODED_ITEMS, self._num_items, ENCODED_ITEMS))
        return torch.cat(
            [self.module.encode_items(on_device(self._device, self.features.items(rows))) for rows in blocks]
        )

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device


def _known(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return distinct rows of a table without that of the unknown."""
    distinct = np.unique(ids)
    return distinct[distinct != UNK]


def _mined(config: RecallTrainConfig, given: Given, *, pages: Pages) -> MinedNegatives | None:
    """Rank the encoder's neighbours of the queries that are learned from, where some are wanted."""
    if not config.mined_negatives:
        return None
    if given.query_content is None or given.item_content is None:
        raise ConfigError(
            "mined_negatives: they are mined by the vectors of a pretrained encoder, and there are none. Train one, or "
            "set mined_negatives = 0."
        )
    asked = np.repeat(pages.query_row, np.diff(pages.offsets))
    return MinedNegatives.fit(
        pages.query_row,
        query_content=given.query_content,
        item_content=given.item_content,
        chosen=KnownPairs(asked, pages.item_rows),
        first=config.mined_from,
        last=config.mined_to,
        known=_known_items(given, pages=pages),
    )


def _known_items(given: Given, *, pages: Pages) -> BoolArray:
    """Say which items ``[items]`` training may set against a choice: those that were there, or were chosen, in it."""
    known = given.split.items_known(given.catalogue)
    known[pages.item_rows] = True
    return known


def _of_others(there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask what was mined for other pages ``[pages, pages * number]``, and where nothing was."""
    pages, number = there.shape
    masked = np.ones((pages, pages, number), dtype=bool)
    masked[np.arange(pages), np.arange(pages)] = ~there
    return masked.reshape(pages, -1)


def _own_pages(drawn: PageBatch, *, group: Group) -> NDArray[np.int64]:
    """Return the places of this process's pages; those of a run stay together."""
    if drawn.runs is None:
        return np.arange(len(drawn.pages))[group.share(len(drawn.pages))]
    count, longest = drawn.runs.before.shape
    return np.flatnonzero(np.isin(drawn.runs.step // longest, np.arange(count)[group.share(count)]))


def _own_runs(runs: Runs, mine: NDArray[np.int64]) -> Runs:
    """Return the runs of some pages, which have all pages of each run or none."""
    longest = runs.before.shape[1]
    rows, steps = np.unique(runs.step[mine] // longest, return_inverse=True), runs.step[mine] % longest
    return Runs(runs.before[rows[0]], rows[1] * longest + steps)


def _at_the_end(user_rows: NDArray[np.int64]) -> Moments:
    """Return the moments of users by whom no log is read: their histories, if any, are given."""
    return Moments(user_rows, np.zeros(len(user_rows), dtype=np.int64))


def _titles(given: Given) -> list[str]:
    """Return the titles of items that were there before validation."""
    known = given.split.items_known(given.catalogue)
    return [title for title, is_known in zip(given.catalogue.titles, known, strict=True) if is_known and title]
