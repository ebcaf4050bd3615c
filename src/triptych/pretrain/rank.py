"""Rank@K: how often matching puts the item that was chosen among the first K of a made-up list. A diagnostic only.

The Taobao article tried it and rejected it: a better Rank@K could mean worse recall of what the towers retrieve. So it
stands beside the recalls and never chooses weights.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Part
from triptych.encoders.cross import crossed, rows_of
from triptych.encoders.inputs import ItemInputs
from triptych.encoders.models.two_tower import TwoTowerEncoder
from triptych.encoders.text import text_tensor, trim
from triptych.nn.precision import autocast
from triptych.pretrain.base import VALIDATION_SEED, Given
from triptych.pretrain.model import PretrainModel
from triptych.pretrain.objectives.matching import QUERY_ITEM, Matching
from triptych.pretrain.probe import some_targets
from triptych.pretrain.reader import ItemReader
from triptych.training.loop import on_device

if TYPE_CHECKING:
    from triptych.pretrain.tasks.multitask import MultitaskConfig

NUM_NEGATIVES = 100
"""Of each list, beside the item that was chosen."""
CUT_OFFS = (1, 5, 10)


class RankProbe:
    """Lists to rank: for some queries of the validation part, an item that was chosen and others of its category.

    Source: the evaluation of Gao et al., "FashionBERT", 2020, section 4.2, with queries in the place of titles.
    """

    def __init__(self, config: MultitaskConfig, given: Given, *, reader: ItemReader) -> None:
        """Draw the lists, the same for every model and seed.

        What is known to be right for a query, from training or validation, is no negative of it. Where a category has
        too few others, or the item none, the rest is from everywhere.

        Raises:
            DataError: the validation part has no query with a positive event.
        """
        catalogue = given.catalogue
        split = given.require_split("ranks are of what was chosen under queries")
        targets = some_targets(split.targets(Part.VALIDATION), most=config.rank_queries)
        pairs = split.train_pairs(catalogue)
        queries = [catalogue.queries[row] for row in targets.query_row]
        self._tokens = given.tokenizer.encode(queries, max_tokens=config.encoder.max_query_tokens)
        self._reader = reader
        self._precision = config.loop.precision
        rng, categories = np.random.default_rng([VALIDATION_SEED, 1]), _categories(catalogue)
        self.query_rows = targets.query_row
        """int32 ``[lists]``."""
        self.lists: list[NDArray[np.int64]] = []
        """Item rows for each, the chosen one first."""
        for place, query in enumerate(targets.query_row):
            chosen = targets.item_rows[targets.offsets[place] : targets.offsets[place + 1]]
            start, end = np.searchsorted(pairs.query_row, [query, query + 1])
            right = np.union1d(chosen, pairs.item_row[start:end])
            self.lists.append(_drawn(int(rng.choice(chosen)), right, categories=categories, rng=rng))

    def measure(self, model: PretrainModel) -> dict[str, float]:
        """Rank every list by the odds that matching gives query and item.

        Args:
            model: in evaluation mode; it has been taught to match queries and items.

        Returns:
            ``rank@1/query-item sampled`` and so on: the share of lists whose chosen item is among the first.
        """
        head = model.objectives[QUERY_ITEM]
        assert isinstance(head, Matching)
        device = next(model.parameters()).device
        ranks = []
        for tokens, rows in zip(self._tokens, self.lists, strict=True):
            query = text_tensor(trim(tokens[None])).to(device)
            items = on_device(device, self._reader.plain(rows))
            with torch.no_grad(), autocast(self._precision, device=device):
                scores = head.score(_pair_states(model, query, items)).float().cpu().numpy()
            ranks.append(_place_of_first(scores, rows))
        return {f"rank@{k}/query-item sampled": float((np.array(ranks) < k).mean()) for k in CUT_OFFS}


def _categories(catalogue: Catalogue) -> NDArray[np.int64]:
    """Number the items' categories ``[items]``; -1 for none."""
    named = catalogue.items["category"]
    numbers = np.unique(named.fill_null("").to_numpy().astype(str), return_inverse=True)[1].astype(np.int64)
    return np.where(named.is_null().to_numpy(), -1, numbers)


def _drawn(
    item: int, right: NDArray[np.integer], *, categories: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a list of distinct item rows, `item` first and nothing else that is right in it."""
    is_free = np.ones(len(categories), dtype=bool)
    is_free[right] = False
    is_near = is_free & (categories == categories[item]) & (categories[item] >= 0)
    near = rng.permutation(np.flatnonzero(is_near))[:NUM_NEGATIVES]
    far = rng.permutation(np.flatnonzero(is_free & ~is_near))[: NUM_NEGATIVES - len(near)]
    return np.concatenate([[item], near, far]).astype(np.int64)


def _place_of_first(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> int:
    """Return how many are before the first one of a list; of equal scores the smaller row is."""
    return int(((scores > scores[0]) | ((scores == scores[0]) & (rows < rows[0]))).sum())


def _pair_states(model: PretrainModel, query: Tensor, items: ItemInputs) -> Tensor:
    """Return the first state of one query ``[1, tokens]`` with each of some items: ``[items, dim]``."""
    encoder = model.encoder
    if model.cross is None:
        assert isinstance(encoder, TwoTowerEncoder), "checked with the config"
        one, (others, _) = encoder.embed_queries(query), encoder.embed_items(items)
        meet = partial(crossed, encoder.transformer)
    else:
        one, others = encoder.read_queries(query).tokens, encoder.read_items(items).tokens
        meet = model.cross
    every = torch.zeros(len(items.has_title), dtype=torch.long, device=query.device)
    return meet(rows_of(one, every), others).states[:, 0]
