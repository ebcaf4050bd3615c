"""Item–item contrast: the encoder learns that what one user chose soon after each other belongs together.

For logs of users without queries. A batch is a set of pairs of items from users' histories, at most `window` choices
apart; one asks for the other among all items of the batch, and what the same user chose as well is no negative
(`losses.infonce`). Both go through the item tower, since that is how the vectors are used: a history is the mean of its
items' vectors, and similar items are near each other.

Two lighter losses keep what no history teaches: a photo alone finds its item, and a title, read by the query tower,
finds its item, so that the catalogue can be searched by photo and by words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from triptych.data.sampling import ItemPairSampler
from triptych.data.splits import Part
from triptych.data.targets import UserTargets
from triptych.encoders.base import Encoder
from triptych.encoders.inputs import ItemInputs
from triptych.foundation.errors import DataError
from triptych.losses.base import LossOutput
from triptych.losses.infonce import infonce
from triptych.metrics.ranking import TargetSets, macro, match, recall_at_k
from triptych.pretrain.base import VALIDATION_SEED, Given, LearnsFrom, OneTaskConfig, Phase
from triptych.pretrain.reader import ItemReader, PhotoViews, TitleQueries, Weighted, combined, encoded, view_loss
from triptych.training.task import Validation


class HistoryContrastConfig(OneTaskConfig):
    """Item–item contrastive training within users' histories."""

    kind: Literal["history_contrast"] = "history_contrast"
    """Learn from what users chose one after another."""
    batch_pairs: int = Field(256, ge=2)
    """Pairs of items in a batch; up to twice as many items are encoded."""
    window: int = Field(10, ge=1)
    """Furthest apart that the two items of a pair stand in a history, in choices."""
    item_power: float = Field(1.0, ge=0, le=1)
    """Items are asked for by their number of users to this power: 0 all alike, 1 by choices."""
    log_q_weight: float = Field(1.0, ge=0, le=1)
    """How much of the log probability to be in a batch is taken off an item's score in training: 1 lets the vectors
    learn how often an item is chosen, popularity included, 0 how much more often than usual."""
    title_query_items: int = Field(64, ge=1)
    """Items of a batch whose title, as a query, must also find its item among the batch."""
    title_query_weight: float = Field(0.2, ge=0)
    """Weight of that loss; 0 leaves it out, and nothing then learns to be searched by words."""
    validation_users: int = Field(1_000, ge=1)
    """Users of the validation part that choose the best weights; fewer where it has fewer."""
    history_events: int = Field(50, ge=1)
    """Latest choices that make up a user's vector in validation; as `dense.history_events`."""

    @property
    def learns_from(self) -> LearnsFrom:
        """Histories."""
        return LearnsFrom.HISTORIES

    def phases(self, given: Given) -> Iterator[Phase]:
        """Yield the one phase."""
        yield Phase("", HistoryContrastTask(self, given), self.loop)


CONFIG = HistoryContrastConfig


class HistoryBatch(NamedTuple):
    """One batch in host memory, items sorted by length and cut in parts that are padded apart.

    Of several processes each has its share of items and pairs; places and `known` are among the items of all.
    """

    items: tuple[ItemInputs, ...]
    anchor: Tensor
    """int64 ``[pairs]``, the place of the item that asks."""
    positive: Tensor
    """int64 ``[pairs]``, the place of the item it should find."""
    known: Tensor
    """bool ``[pairs, items]``, items that the pair's user chose: no negatives."""
    log_q: Tensor
    """float32 ``[items]``, log probability of each item to be in a batch."""
    num_pairs: int
    """Pairs of all processes."""
    photo_views: PhotoViews | None
    """None where the encoder reads no photos, or that loss is off."""
    title_queries: TitleQueries | None
    """None where the encoder reads no titles, or that loss is off."""


class HistoryContrastTask:
    """Item–item contrast as a `training.task.Task`."""

    name = "training encoder"

    def __init__(self, config: HistoryContrastConfig, given: Given) -> None:
        """Tokenise all texts once and make the model.

        Raises:
            DataError: there is no log.
        """
        split = given.require_split("histories are learned from what users chose")
        self._config = config
        self._catalogue = catalogue = given.catalogue
        self._seed = given.seed
        self._group = given.group
        self._reader = ItemReader(config, given)
        self._sampler = ItemPairSampler(
            split.train_histories(catalogue),
            batch_pairs=config.batch_pairs,
            window=config.window,
            item_power=config.item_power,
            seed=given.seed,
        )
        found = split.user_targets(catalogue, Part.VALIDATION)
        self._validation = _some_users(found, most=config.validation_users)
        self._found = found
        self.module = given.encoder(config.encoder)

    @property
    def encoder(self) -> Encoder:
        """The module."""
        return self.module

    def batch(self, index: int) -> HistoryBatch:
        """Draw batch `index` and gather its tokens and pixels."""
        drawn = self._sampler.batch(index)
        rng = np.random.default_rng([self._seed, index, 1])  # apart from the sampler's stream
        items = self._reader.parts(drawn.item_rows, rng=rng)
        item_rows = drawn.item_rows[items.order]
        config = self._config
        asks = config.encoder.modalities.reads_title and config.title_query_weight > 0
        most = config.title_query_items if asks else 0
        share = self._group.share(len(drawn.positive))
        return HistoryBatch(
            items=items.inputs,
            anchor=torch.from_numpy(items.place[drawn.anchor[share]]),
            positive=torch.from_numpy(items.place[drawn.positive[share]]),
            known=torch.from_numpy(drawn.known[share][:, items.order]),
            log_q=torch.from_numpy(drawn.log_q[items.order]),
            num_pairs=len(drawn.positive),
            photo_views=self._reader.photo_views(item_rows, rng=rng),
            title_queries=self._reader.title_queries(item_rows, most=most, rng=rng),
        )

    def num_samples(self, batch: HistoryBatch) -> int:
        """Count items."""
        return int(batch.known.shape[1])

    def losses(self, batch: HistoryBatch) -> LossOutput:
        """Contrast each pair's items, then photos alone and titles alone with their items."""
        config, module = self._config, self.module
        temperature = config.temperature
        items = self._group.gather(encoded(batch.items, module=module), total=batch.known.shape[1])
        anchors = items[batch.anchor]
        chosen = infonce(
            anchors,
            items=items,
            positive=batch.positive,
            known=batch.known,
            temperature=temperature,
            log_q=config.log_q_weight * batch.log_q,
            total=batch.num_pairs,
        )
        seen = view_loss(batch.photo_views, module=module, items=items, temperature=temperature)
        named = view_loss(batch.title_queries, module=module, items=items, temperature=temperature)
        return combined(
            chosen,
            photo=Weighted(seen, config.photo_view_weight),
            title=Weighted(named, config.title_query_weight),
        )

    def validate(self) -> Validation:
        """Rank all items for a fixed sample of validation users, their histories left out, and measure recall."""
        k = min(self._config.validation_k, self._catalogue.num_items)
        items = self._reader.vectors(self.module)
        histories, targets = self._found.histories, self._found.targets
        rows = np.empty((len(self._validation), k), dtype=np.int64)
        for place, user in enumerate(self._validation):
            history = histories.of(user)
            scores = items @ items[history[-self._config.history_events :]].mean(axis=0)
            scores[history] = -np.inf
            rows[place] = torch.topk(torch.from_numpy(scores), k).indices.numpy()
        wanted = [targets.of(user) for user in self._validation]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in wanted])])
        recall = macro(recall_at_k(match(rows, targets=TargetSets(offsets, np.concatenate(wanted))), k=k))
        name = f"recall@{k}"
        return Validation({name: recall}, headline=name)


def _some_users(found: UserTargets, *, most: int) -> NDArray[np.int64]:
    """Draw the places of a fixed random sample of the users.

    Raises:
        DataError: there are none.
    """
    if len(found.user_row) == 0:
        raise DataError(
            "events: nobody chose something in training and something new in validation, so the best weights cannot be "
            "chosen. Choose another split."
        )
    rng = np.random.default_rng(VALIDATION_SEED)
    return np.sort(rng.permutation(len(found.user_row))[:most])
