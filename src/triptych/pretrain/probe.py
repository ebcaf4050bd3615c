"""How far an encoder in training has come: recall by each way of asking, on a fixed sample, and what it finds hard.

Titles and photos are those of items that training does not know, where enough of them came while validation lasted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.sampling import ItemQueryBatch
from triptych.data.splits import Part
from triptych.data.targets import Targets, TrainPairs
from triptych.encoders.base import Encoder
from triptych.encoders.inputs import Modalities, View
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import TargetSets, macro, match, recall_at_k
from triptych.pretrain.base import VALIDATION_SEED, Given
from triptych.pretrain.ids import IdTables
from triptych.pretrain.loss_probe import LossProbe
from triptych.pretrain.objectives.contrast import Between
from triptych.pretrain.reader import ItemReader, top_items
from triptych.training.task import Validation

if TYPE_CHECKING:
    from triptych.pretrain.tasks.multitask import MultitaskConfig

VIEWS = {Between.QUERY_ITEM: View.ITEM, Between.QUERY_TITLE: View.TITLE, Between.QUERY_PHOTO: View.PHOTO}
"""What queries are answered by."""
HIDDEN = (View.WITHOUT_PHOTO, View.WITHOUT_TITLE)
"""What they are answered by to tell what a modality is worth to the whole."""
EASIEST, HARDEST = 200, 20
"""Ranks between which an item nobody chose is hard and probably wrong: the first twenty are often right (SMGR
reconstruction, section 4.1)."""
LEAST_NEW = 50
"""Items that came while validation lasted, by whose photos and titles an encoder is judged; where fewer did, those that
training knows."""
LOOKED_AT = 1_000
"""Items of a query's ranking among which those of a cell are looked for."""


_Views = Mapping[View, NDArray[np.float32]]


class Probe:
    """Measures an encoder on queries of the validation part, and on titles and photos of the catalogue."""

    def __init__(self, config: MultitaskConfig, given: Given, *, reader: ItemReader, pairs: TrainPairs | None) -> None:
        """Draw what is asked, the same for every model and seed.

        Args:
            config: of the training.
            given: what it is trained from.
            reader: of the items.
            pairs: those that are learned from; None: no stage looks at the log, and nothing is asked by queries.

        Raises:
            DataError: the validation part has no query with a positive event, and there is a log.
        """
        self._catalogue: Catalogue = given.catalogue
        self._reader = reader
        self._k = min(config.validation_k, given.catalogue.num_items)
        self._modalities = config.encoder.modalities
        self._targets: Targets | None = None
        self._losses: LossProbe | None = None
        if pairs is not None:
            split = given.require_split("queries are learned from what was chosen under them")
            targets = split.targets(Part.VALIDATION)
            self._targets = some_targets(targets, most=config.validation_queries)
            self._losses = LossProbe(pairs=pairs, log=split.train_pairs(given.catalogue), targets=targets)
        rng = np.random.default_rng(VALIDATION_SEED)
        both = np.flatnonzero(reader.has_title & reader.has_photo)
        if given.split is not None:
            new = both[given.split.items_of_validation(given.catalogue)[both]]
            both = new if len(new) >= LEAST_NEW else both[given.split.items_known(given.catalogue)[both]]
        self._items = np.sort(rng.permutation(both)[: config.validation_queries])

    def measure(
        self, encoder: Encoder, *, headline: Between, everything: bool, ids: IdTables | None = None
    ) -> Validation:
        """Measure recall@k over the whole catalogue.

        Args:
            encoder: in evaluation mode.
            headline: what chooses the weights; what the encoder does not read cannot, and query-item does instead.
            everything: whether to measure more than that.
            ids: vectors that queries and items are given beside the towers'; None: none.

        Returns:
            ``recall@k/query-item`` and so on, ``… with ids`` where there are any; with `everything`, also
            ``recall@k/query-item without photo`` and ``… without title``, where that is hidden from an encoder whose
            vectors of one modality are others than those of an item that has but one, and
            ``loss of training/query-item`` and so on (`LossProbe`).
        """
        headline = headline if headline.can_be_asked(self._modalities) else Between.QUERY_ITEM
        wanted = [one for one in Between if self._can(one) and (everything or one is headline)]
        views = {view for one in wanted for view in ((VIEWS[one],) if one.asks else (View.TITLE, View.PHOTO))}
        hides = everything and self._targets is not None and encoder.GIVES_VIEWS
        if hides and self._modalities is Modalities.TITLE_PHOTO:
            views |= set(HIDDEN)
        if ids is not None:
            views.add(View.ITEM)
        items = self._reader.views(encoder, views=views)
        queries = self._query_vectors(encoder) if self._targets is not None else None
        found = {self._name(one): self._recall(one, queries=queries, items=items) for one in wanted}
        if ids is not None and queries is not None:
            found[f"{self._name(Between.QUERY_ITEM)} with ids"] = self._with_ids(ids, queries, items[View.ITEM])
        if everything and queries is not None:
            for view in (one for one in HIDDEN if one in items):
                found[f"{self._name(Between.QUERY_ITEM)} {view.value.removeprefix('item ')}"] = self._of_queries(
                    queries, items[view]
                )
            found |= self._losses_of(encoder, [one for one in wanted if one.asks], items=items)
        return Validation(found, headline=self._name(headline))

    def mine(self, encoder: Encoder, *, pairs: TrainPairs | None) -> HardItems:
        """Rank the catalogue for every training query, to draw hard negatives from."""
        assert pairs is not None, "hard negatives are of queries"
        query_rows = np.unique(pairs.query_row)
        asked = [self._catalogue.queries[row] for row in query_rows]
        vectors = self._reader.embedder(encoder).queries(asked)
        most = min(LOOKED_AT, self._catalogue.num_items)
        ranked = top_items(vectors, self._reader.vectors(encoder), k=most).astype(np.int32)
        return HardItems(query_rows, ranked, item_cells=self._catalogue.item_cells)

    def _can(self, one: Between) -> bool:
        there = self._targets is not None if one.asks else len(self._items) > 0
        return there and one.can_be_asked(self._modalities)

    def _name(self, one: Between) -> str:
        return f"recall@{self._k}/{one.value}"

    def _query_vectors(self, encoder: Encoder) -> NDArray[np.float32]:
        assert self._targets is not None
        return self._encoded(encoder, self._targets.query_row)

    def _encoded(self, encoder: Encoder, query_rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return self._reader.embedder(encoder).queries([self._catalogue.queries[row] for row in query_rows])

    def _recall(self, one: Between, *, queries: NDArray[np.float32] | None, items: _Views) -> float:
        if one is Between.TITLE_PHOTO:
            return self._photos_to_titles(items)
        assert queries is not None
        return self._of_queries(queries, items[VIEWS[one]])

    def _losses_of(self, encoder: Encoder, ways: list[Between], *, items: _Views) -> dict[str, float]:
        if self._losses is None:
            return {}
        queries = self._encoded(encoder, self._losses.query_rows)
        return {
            f"loss of {where}/{one.value}": loss
            for one in ways
            for where, loss in self._losses.measure(queries, items[VIEWS[one]]).items()
        }

    def _of_queries(self, queries: NDArray[np.float32], items: NDArray[np.float32]) -> float:
        assert self._targets is not None
        targets = TargetSets(self._targets.offsets, self._targets.item_rows)
        return macro(recall_at_k(match(top_items(queries, items, k=self._k), targets=targets), k=self._k))

    def _with_ids(self, ids: IdTables, queries: NDArray[np.float32], items: NDArray[np.float32]) -> float:
        assert self._targets is not None
        device = ids.items.weight.device
        asked, rows = torch.from_numpy(self._targets.query_row).long(), torch.arange(len(items))
        with torch.no_grad():
            by_id = ids.with_queries(torch.from_numpy(queries).to(device), asked.to(device))
            found = ids.with_items(torch.from_numpy(items).to(device), rows.to(device))
        return self._of_queries(by_id.cpu().numpy(), found.cpu().numpy())

    def _photos_to_titles(self, items: _Views) -> float:
        """Share of photos that find their title; an equal title of another item is right too."""
        photos, titles = items[View.PHOTO][self._items], items[View.TITLE]
        groups = self._reader.title_groups(np.arange(len(titles)))
        found = groups[top_items(photos, titles, k=self._k)]
        return float((found == groups[self._items][:, None]).any(axis=1).mean())


class HardItems:
    """What an encoder ranks high for a query, to draw negatives from."""

    def __init__(
        self,
        query_rows: NDArray[np.int32],
        ranked: NDArray[np.int32],
        *,
        item_cells: NDArray[np.bool_],
    ) -> None:
        """Keep the rankings.

        Args:
            query_rows: ``[queries]``, ascending.
            ranked: ``[queries, k]``, items by descending score.
            item_cells: bool ``[items, cells]``; without cells all items are near each other.
        """
        self._query_rows, self._ranked = query_rows, ranked
        self._cells = item_cells if item_cells.shape[1] else np.ones((len(item_cells), 1), dtype=bool)

    def draw(self, drawn: ItemQueryBatch, *, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw up to `count` items for every item of a batch, of rank 20 to 200 for a query of it in its cells.

        Returns:
            Distinct item rows. Some may be in the batch already; what is known to be right is no negative there.
        """
        _, first = np.unique(drawn.positive, return_index=True)  # one query of each item
        queries, items = drawn.query_rows[first], drawn.item_rows[drawn.positive[first]]
        ranked = self._ranked[np.searchsorted(self._query_rows, queries)].astype(np.int64)
        near = (self._cells[ranked] & self._cells[items][:, None, :]).any(axis=2)
        rank = near.cumsum(axis=1)  # in the item's cells, from 1
        fit = near & (rank > HARDEST) & (rank <= EASIEST)
        luck = np.where(fit, rng.random(fit.shape), -1.0)
        places = np.argsort(-luck, axis=1)[:, :count]
        rows = np.arange(len(ranked))[:, None]
        taken = ranked[rows, places][luck[rows, places] >= 0]
        return np.unique(taken)


def some_targets(targets: Targets, *, most: int) -> Targets:
    """Keep a fixed random sample of the queries.

    Raises:
        DataError: there are none.
    """
    if len(targets.query_row) == 0:
        raise DataError(
            "events: no positive event of the validation part has a query, so the best weights cannot be chosen. "
            "Choose another split."
        )
    rng = np.random.default_rng(VALIDATION_SEED)
    chosen = np.sort(rng.permutation(len(targets.query_row))[:most])
    sets = [targets.item_rows[targets.offsets[i] : targets.offsets[i + 1]] for i in chosen]
    offsets = np.concatenate(([0], np.cumsum([len(rows) for rows in sets])))
    return Targets(targets.query_row[chosen], offsets, np.concatenate(sets))
