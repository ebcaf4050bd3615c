"""A stage of a training with many objectives, as the loop sees it: batches, losses, validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.masking import choose_patches, mask_words
from triptych.data.sampling import FromCells, ItemQueryBatch, ItemQuerySampler, KnownPairs
from triptych.data.targets import TrainPairs
from triptych.encoders.base import Encoder
from triptych.encoders.text import trim
from triptych.foundation.errors import ConfigError, DataError
from triptych.losses.base import LossOutput
from triptych.pretrain.balance import OgmGe
from triptych.pretrain.base import Given
from triptych.pretrain.model import PretrainModel
from triptych.pretrain.objectives.base import Objective, ObjectiveConfig
from triptych.pretrain.objectives.contrast import Between, Contrast
from triptych.pretrain.objectives.matching import QUERY_ITEM
from triptych.pretrain.passes import HiddenPatches, Masked, MultitaskBatch, Passes
from triptych.pretrain.probe import Probe
from triptych.pretrain.rank import RankProbe
from triptych.pretrain.reader import ItemReader
from triptych.pretrain.rows import length_parts
from triptych.pretrain.stages import Balance, Data, Pairs, StageConfig
from triptych.training.task import Validation

if TYPE_CHECKING:
    from triptych.pretrain.tasks.multitask import MultitaskConfig


PAIRS_SEED = 0
"""Draws the pairs of a shorter log."""
EPOCH = "epoch"
"""Name in validation's record of how often the stage has been through its pairs."""


TEMPERATURE = 0.05
"""Divides scores where the modalities' confidence is compared, in a stage without a contrast to take it from."""


class Feed:
    """What all stages draw from: items, their texts and photos, queries and what was clicked under them."""

    def __init__(self, config: MultitaskConfig, given: Given, *, stages: Sequence[StageConfig]) -> None:
        """Tokenise all texts once.

        Args:
            config: of the whole training.
            given: what it is trained from.
            stages: those that the encoder can learn.

        Raises:
            ConfigError: the catalogue's photos have another size than the encoder takes, or it has no cells to draw
                from.
            DataError: there is no log, and a stage draws or is chosen by clicks; or no two items have title and photo,
                and a stage draws or is chosen by them.
        """
        of_clicks = [stage.name for stage in stages if stage.data is Data.CLICKS or stage.validate_on.asks]
        of_both = [stage.name for stage in stages if stage.data is Data.ITEMS or not stage.validate_on.asks]
        catalogue = given.catalogue
        self.reader = ItemReader(config, given)
        known = np.ones(catalogue.num_items, dtype=bool) if given.split is None else given.split.items_known(catalogue)
        self.with_both = np.flatnonzero(self.reader.has_title & self.reader.has_photo & known)
        if of_both and len(self.with_both) < 2:
            raise DataError(
                f"items: {len(self.with_both)} that training may know have both title and photo, and contrasting them "
                f"(stage '{of_both[0]}') takes two."
            )
        if of_clicks:
            split = given.require_split(
                f"stage '{of_clicks[0]}' learns from them or is chosen by them; one that does without has "
                "data = 'items' and validate_on = 'title-photo'"
            )
        self._batch_items = config.batch_items
        self._queries_per_item = config.queries_per_item
        self._seed = given.seed
        self.pairs: TrainPairs | None = None
        if not of_clicks:
            self.probe = Probe(config, given, reader=self.reader, pairs=None)
            return
        self.query_tokens = given.tokenizer.encode(catalogue.queries, max_tokens=config.encoder.max_query_tokens)
        clicked = split.train_pairs(catalogue)
        if config.pairs_rate < 1:
            clicked = clicked.some(config.pairs_rate, rng=np.random.default_rng(PAIRS_SEED))
        self.pairs = clicked.most_clicked() if config.pairs is Pairs.MOST_CLICKED else clicked
        self.probe = Probe(config, given, reader=self.reader, pairs=self.pairs)
        self._sampler = ItemQuerySampler(
            query_row=self.pairs.query_row,
            item_row=self.pairs.item_row,
            clicks=self.pairs.clicks,
            batch_items=config.batch_items,
            queries_per_item=config.queries_per_item,
            item_power=config.item_power,
            from_cells=_from_cells(config, given),
            known=KnownPairs(clicked.query_row, clicked.item_row),  # a query's other clicks are no negatives either
            seed=given.seed,
        )

    def batches_per_epoch(self, data: Data) -> float:
        """Return the batches in which as many pairs, or items, are drawn as there are."""
        if data is Data.ITEMS:
            return max(1.0, len(self.with_both) / self._batch_items)
        assert self.pairs is not None, "it draws by clicks"
        return len(self.pairs.item_row) / (self._sampler.batch_items * self._queries_per_item)

    def draw(self, index: int, *, data: Data) -> ItemQueryBatch:
        """Draw what batch `index` is made of."""
        if data is Data.CLICKS:
            return self._sampler.batch(index)
        rng = np.random.default_rng([self._seed, index, 2])
        size = min(self._batch_items, len(self.with_both))
        item_rows = np.sort(rng.choice(self.with_both, size=size, replace=False))
        nothing = np.zeros(0, dtype=np.int64)
        unknown = np.zeros((0, size), dtype=np.bool_)
        even, none = (np.zeros(count, dtype=np.float32) for count in (size, 0))
        return ItemQueryBatch(item_rows, nothing, nothing, unknown, even, none)

    def with_more(self, drawn: ItemQueryBatch, more: NDArray[np.int64]) -> ItemQueryBatch:
        """Add items to a batch; what was clicked under its queries is known of them too."""
        item_rows = np.union1d(drawn.item_rows, more)
        place = np.searchsorted(item_rows, drawn.item_rows)
        known = self._sampler.known(drawn.query_rows, item_rows=item_rows)
        log_q = self._sampler.log_q(item_rows)
        return ItemQueryBatch(item_rows, drawn.query_rows, place[drawn.positive], known, log_q, drawn.query_log_q)


class StageTask:
    """One stage as a `training.task.Task`."""

    def __init__(
        self,
        config: MultitaskConfig,
        given: Given,
        *,
        stage: StageConfig,
        tasks: Sequence[ObjectiveConfig],
        model: PretrainModel,
        feed: Feed,
        first_batch: int,
    ) -> None:
        """Begin a stage with the model as the stage before has left it.

        Args:
            config: of the whole training.
            given: what it is trained from.
            stage: which one.
            tasks: those of its objectives that the encoder can learn.
            model: whose weights to be trained have been chosen.
            feed: what batches are drawn from.
            first_batch: batches that the stages before have drawn: these go on behind them.

        Raises:
            ConfigError: the tokenizer cannot mask words, and an objective asks for them.
        """
        self.name = "training encoder" if len(config.stages) == 1 else f"training encoder, {stage.name}"
        self.module = model
        self._config = config
        self._stage = stage
        self._tasks = list(tasks)
        self._feed = feed
        self._group = given.group
        self._seed = given.seed
        self._tokenizer = given.tokenizer
        self._first_batch = first_batch * config.loop.accumulate
        self._masks_queries = any(task.needs.masked_queries for task in tasks)
        self._masks_titles = any(task.needs.masked_titles for task in tasks)
        self._hides_patches = any(task.needs.hidden_patches for task in tasks)
        self._shows_views = any(task.needs.photo_views for task in tasks)
        self._crosses = any(task.needs.cross for task in tasks)
        if (self._masks_queries or self._masks_titles) and given.tokenizer.mask_id is None:
            raise ConfigError("masked_words: the pretrained text model's vocabulary has no mask. Remove that task.")
        self._seen_batches = 0
        self._ids = model.ids if stage.with_ids else None
        asks = any(task.needs.queries for task in tasks)
        self._balance = None
        if config.balance is Balance.OGM_GE and asks:
            self._balance = OgmGe(model, parts=model.parts(), alpha=config.balance_alpha)
        ranks = config.rank_queries > 0 and any(task.label == QUERY_ITEM for task in tasks)
        self._ranks = RankProbe(config, given, reader=feed.reader) if ranks else None
        self._hard = feed.probe.mine(model.encoder, pairs=feed.pairs) if stage.hard_negatives else None

    @property
    def encoder(self) -> Encoder:
        """The encoder in the model."""
        return self.module.encoder

    def batch(self, index: int) -> MultitaskBatch:
        """Draw batch `index` of the stage and gather its tokens and pixels."""
        at = self._first_batch + index
        rng = np.random.default_rng([self._seed, at, 1])  # apart from the samplers' streams
        drawn = self._feed.draw(at, data=self._stage.data)
        if self._hard is not None:
            drawn = self._feed.with_more(drawn, self._hard.draw(drawn, count=self._stage.hard_negatives, rng=rng))
        reader, rows, group = self._feed.reader, drawn.item_rows, self._group
        items = reader.whole(rows, rng=rng)
        own_queries = np.arange(len(drawn.query_rows))[group.share(len(drawn.query_rows))]
        own_items = np.arange(len(rows))[group.share(len(rows))]
        asks = len(drawn.query_rows) > 0
        tokens = trim(self._feed.query_tokens[drawn.query_rows]) if asks else np.zeros((0, 1), dtype=np.int32)
        titles = None
        if self._masks_titles:
            titles = self._masked(reader.title_tokens(rows), own_items, rng=rng)
        return MultitaskBatch(
            number=at,
            step=at // self._config.loop.accumulate,
            item_rows=torch.from_numpy(rows),
            query_rows=torch.from_numpy(drawn.query_rows),
            items=items,
            own_items=torch.from_numpy(own_items),
            title_groups=torch.from_numpy(reader.title_groups(rows)),
            photo_groups=torch.from_numpy(reader.photo_groups(rows)),
            has_title=torch.from_numpy(reader.has_title[rows]),
            has_photo=torch.from_numpy(reader.has_photo[rows]),
            log_q=torch.from_numpy(drawn.log_q),
            query_log_q=torch.from_numpy(drawn.query_log_q),
            query_tokens=torch.from_numpy(np.ascontiguousarray(tokens[own_queries])),
            own_queries=torch.from_numpy(own_queries),
            positive=torch.from_numpy(drawn.positive),
            known=torch.from_numpy(drawn.known),
            masked_queries=self._masked(tokens, own_queries, rng=rng) if self._masks_queries and asks else None,
            masked_titles=titles,
            hidden_patches=self._hidden(rows, own_items, rng=rng) if self._hides_patches else None,
            photo_views=reader.photo_views(rows, rng=rng) if self._shows_views else None,
            query_parts=length_parts(tokens[own_queries]),
            title_parts=None if items.title_tokens is None else length_parts(items.title_tokens.numpy()),
        )

    def num_samples(self, batch: MultitaskBatch) -> int:
        """Count items."""
        return batch.num_items

    def losses(self, batch: MultitaskBatch) -> LossOutput:
        """Add up the objectives.

        Raises:
            ConfigError: nothing of what the stage trains is learned by.
        """
        passes = Passes(
            batch,
            encoder=self.module.encoder,
            cross=self.module.cross,
            group=self._group,
            ids=self._ids,
            keeps_states=self._crosses,
            cheap=self._config.cheap_pass,
            rows_at_once=self._config.rows_at_once,
        )
        self._seen_batches = batch.number + 1 - self._first_batch
        total = torch.zeros((), device=batch.has_title.device)
        parts: dict[str, Tensor] = {}
        if self._balance is not None:
            parts |= self._balance.look(passes, temperature=self._temperature())
        learns = False
        for task in self._tasks:
            objective = self.module.objectives[task.label]
            assert isinstance(objective, Objective)
            output = objective(passes)
            if output is not None:
                learns = True
                total = total + task.weight * output.total
                parts |= {f"{task.label}/{name}": value for name, value in output.parts.items()}
        if total.requires_grad or not torch.is_grad_enabled():
            return LossOutput(total, parts)
        if learns:
            trained = ", ".join(self._stage.train or ())
            raise ConfigError(
                f"stage '{self._stage.name}': none of what it trains ({trained}) has a share in what it learns."
            )
        # The batch has nothing for any objective; the loop asks for a gradient all the same.
        return LossOutput(total.requires_grad_(), parts)

    def validate(self) -> Validation:
        """Measure recall by what the stage is to be chosen by, and of all else if it is to be diagnosed."""
        found = self._feed.probe.measure(
            self.encoder, headline=self._stage.validate_on, everything=self._config.diagnose, ids=self._ids
        )
        ranks = {} if self._ranks is None else self._ranks.measure(self.module)
        epoch = self._seen_batches / self._feed.batches_per_epoch(self._stage.data)
        return found._replace(metrics={**found.metrics, **ranks, EPOCH: epoch})

    def close(self) -> None:
        """End the stage."""
        if self._balance is not None:
            self._balance.remove()

    def _temperature(self) -> float:
        """Return that of the contrast by which the modalities are compared: of queries and items, or the first."""
        made = [self.module.objectives[task.label] for task in self._tasks if task.needs.queries]
        contrasts = [one for one in made if isinstance(one, Contrast)]
        chosen = min(contrasts, key=lambda one: one.between is not Between.QUERY_ITEM, default=None)
        return TEMPERATURE if chosen is None else chosen.temperature

    def _masked(self, tokens: NDArray[np.int32], own: NDArray[np.int64], *, rng: np.random.Generator) -> Masked:
        """Mask words of texts ``[texts, tokens]`` of all processes, and keep this one's."""
        mask_id = self._tokenizer.mask_id
        assert mask_id is not None
        found = mask_words(
            tokens,
            rate=self._config.word_mask_rate,
            mask_id=mask_id,
            special_ids=self._tokenizer.special_ids,
            vocab_size=self._tokenizer.vocab_size,
            rng=rng,
        )
        shown, chosen, truth = (torch.from_numpy(np.ascontiguousarray(one[own])) for one in (*found, tokens))
        return Masked(shown, chosen, truth, int(found.chosen.sum()))

    def _hidden(
        self, rows: NDArray[np.int64], own: NDArray[np.int64], *, rng: np.random.Generator
    ) -> HiddenPatches | None:
        patches = self.encoder.patches
        if patches is None:
            return None
        chosen = choose_patches(
            self._feed.reader.has_photo[rows],
            num_patches=patches.num_patches,
            rate=self._config.patch_mask_rate,
            rng=rng,
        )
        return HiddenPatches(torch.from_numpy(chosen[own]), int(chosen.sum()))


def _from_cells(config: MultitaskConfig, given: Given) -> FromCells | None:
    if config.cell_rate == 0:
        return None
    cells = given.catalogue.item_cells
    if cells.shape[1] == 0:
        raise ConfigError("cell_rate: the items have no cells to draw from. Set it to 0, or give the items cells.")
    return FromCells(cells, rate=config.cell_rate, cells=min(config.cells_per_batch, cells.shape[1]))
