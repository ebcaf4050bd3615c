"""What an answer is made from: items, vectors, words and counts of one moment, and the retrievers over them.

A snapshot never changes: what is added or taken away makes another one, which shares all that stays.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import Modality
from triptych.engine.answers import (
    Answer,
    Channel,
    CodeBranch,
    CodePath,
    CodeStep,
    CodeTree,
    Hit,
    Placed,
    Required,
    Why,
)
from triptych.engine.bundle import Parts
from triptych.engine.code_paths import LOOKED_AT, CodePaths, nearest_to_centre
from triptych.engine.code_sets import CodeSets
from triptych.engine.explain import explain_dense, explain_hybrid, explain_plain
from triptych.engine.generation import Generation
from triptych.engine.new_items import NewItem, shown_items
from triptych.engine.ranking import Ranking, RankRule
from triptych.engine.recall_items import RecallItems
from triptych.engine.shelf import Shelf
from triptych.foundation.errors import EngineError
from triptych.index.base import Index, open_index
from triptych.recall.base import Request, Retriever
from triptych.recall.hybrid_channels import search_channels
from triptych.recall.learned import read_needs
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.dense import Dense, DenseConfig
from triptych.recall.models.hybrid import Hybrid, HybridChannel, LogCounts, saved_channels, saved_counts
from triptych.recall.models.item_knn import ItemKnn
from triptych.recall.models.popularity import Popularity
from triptych.recall.recommender import Recommender
from triptych.recall.relevance_control import Attribute, RelevanceControl
from triptych.recall.retriever import LearnedRetriever
from triptych.semantic_ids.stored import PARTS

BY_VECTORS = (Channel.RECALL, Channel.DENSE)
"""Channels of one model's vectors."""


@dataclass(frozen=True)
class Snapshot:
    """All that answers depend on."""

    shelf: Shelf
    index: Index
    """Of the encoder's item vectors."""
    dense: Dense
    bm25: Bm25
    popularity: Popularity
    recall: LearnedRetriever | None
    """None: the shop has no recall model."""
    recall_index: Index | None
    """Of its item vectors."""
    recall_items: RecallItems | None
    """What makes of an item what the recall model reads; None: there is no model."""
    control: RelevanceControl | None
    """What the recall model's answers must have; None: nothing."""
    recommender: Recommender | None
    """The recall model where it answers users, with the encoder behind it; None: it answers words, or there is none."""
    item_knn: ItemKnn | None
    """None: the shop has no such channel."""
    recommends: Channel | None
    """The channel that the run chose to recommend; None: it left that open."""
    hybrid: Hybrid | None
    """None: the shop fuses nothing."""
    code_paths: Mapping[Modality, CodePaths]
    """What they are of → semantic IDs; none: the shop has no such."""
    code_sets: CodeSets
    """What gives new items theirs."""
    generation: Generation | None
    """None: nothing says them."""
    ranking: Ranking | None
    """None: the shop has no ranker."""
    rank_rule: RankRule | None
    """What validation said of it."""
    embedder: Embedder
    dense_config: DenseConfig

    @classmethod
    def open(
        cls,
        parts: Parts,
        *,
        catalogue: Catalogue,
        embedder: Embedder,
        dense: DenseConfig,
        recommends: Channel | None = None,
    ) -> Snapshot:
        """Open what a bundle names, before anything is changed."""
        index = open_index(parts.index)
        recall, recall_index = _open_recall(parts, catalogue=catalogue, embedder=embedder, contents=index)
        recall_items = None if recall is None else RecallItems.open(parts, embedder=embedder, needs=recall.needs)
        by_content = Dense(embedder, index, config=dense)
        recommender = None
        if recall is not None and not recall.reads_words:
            recommender = Recommender.of(recall, dense=by_content, item_ids=catalogue.item_ids)
        first = cls(
            shelf=Shelf.of(catalogue),
            index=index,
            dense=by_content,
            bm25=Bm25.load(parts.bm25.path),
            popularity=Popularity.load(parts.popularity.path),
            recall=recall,
            recall_index=recall_index,
            recall_items=recall_items,
            control=_open_control(parts, catalogue=catalogue),
            recommender=recommender,
            item_knn=None if parts.item_knn is None else ItemKnn.load(parts.item_knn.path),
            recommends=recommends,
            hybrid=None,
            code_paths={of: CodePaths.open(ids) for of, name in PARTS.items() if (ids := getattr(parts, name))},
            code_sets=CodeSets.open(parts, embedder=embedder, names=PARTS.values()),
            generation=Generation.open(parts, embedder=embedder, index=index),
            ranking=Ranking.open(parts, catalogue=catalogue, index=index, embedder=embedder),
            rank_rule=None if parts.ranking is None else RankRule.load(parts.ranking.path),
            embedder=embedder,
            dense_config=dense,
        )
        if parts.hybrid is None:
            return first
        folder = parts.hybrid.path
        channels = first._channels(saved_channels(folder), counts=saved_counts(folder))
        return replace(first, hybrid=Hybrid.load(folder, channels=channels))

    def changed(
        self,
        *,
        new: Sequence[NewItem] = (),
        vectors: NDArray[np.float32] | None = None,
        gone: Sequence[int] = (),
    ) -> Snapshot:
        """Return a snapshot with rows taken away and items appended; it shares all that stays.

        Rows that are gone keep their places in the indexes: the shelf's mask, which every search passes on, hides them.

        Args:
            new: checked items.
            vectors: theirs, ``[n, dim]``.
            gone: rows of items that are removed or replaced.
        """
        if not new and not len(gone):
            return self
        titles, ids = [item.title or "" for item in new], [item.item_id for item in new]
        index, recall, recall_index, item_knn = self.index, self.recall, self.recall_index, self.item_knn
        code_paths, ranking = self.code_paths, self.ranking
        if vectors is not None and len(new):
            index = index.copy()
            index.add(vectors)
            with_photos = Modality.PHOTO in self.code_sets.quantizers
            shown = shown_items(new, vectors=vectors, embedder=self.embedder, with_photos=with_photos)
            codes = self.code_sets.codes(shown)
            code_paths = {of: paths.with_items(codes[of]) for of, paths in code_paths.items()}
            if ranking is not None:
                ranking = ranking.with_items(new, vectors=vectors, embedder=self.embedder)
            if recall is not None and recall_index is not None and self.recall_items is not None:
                recall_index = recall_index.copy()
                recall_index.add(self.recall_items.vectors(recall, shown, codes=codes))
                recall = recall.over(recall_index, new_ids=ids, content=vectors)
        own = [self.shelf.own_row(item_id) for item_id in ids]
        if item_knn is not None and own:
            item_knn = item_knn.with_items(own)
        control, generation = self.control, self.generation
        if control is not None:
            control = control.with_items([{one: getattr(item, one) for one in Attribute} for item in new])
        if generation is not None:
            generation = generation.changed(vectors=vectors, gone=gone, index=index)
        dense, recommender = Dense(self.embedder, index, config=self.dense_config), self.recommender
        if recommender is not None and recall is not None:
            recommender = recommender.changed(recall, dense=dense, new_ids=ids)
        after = replace(
            self,
            shelf=self.shelf.changed(new, without=gone),
            index=index,
            dense=dense,
            bm25=self.bm25.with_items(titles, without=gone),
            popularity=self.popularity.with_items([0 if row is None else self.popularity.counts[row] for row in own]),
            recall=recall,
            recall_index=recall_index,
            control=control,
            recommender=recommender,
            item_knn=item_knn,
            code_paths=code_paths,
            generation=generation,
            ranking=ranking,
        )
        if self.hybrid is None:
            return after
        channels = after._channels(list(self.hybrid.channels), counts=self.hybrid.counts)
        return replace(after, hybrid=self.hybrid.over(channels))

    @property
    def usual_channel(self) -> Channel:
        """The channel that answers words: the best there is."""
        if self.hybrid is not None and self.hybrid.rule.is_preferred:
            return Channel.HYBRID
        return Channel.DENSE if self.recall is None or not self.recall.reads_words else Channel.RECALL

    @property
    def recommending_channel(self) -> Channel:
        """The channel that answers users: the run's choice, else the recall model, where there is one for them."""
        if self.recommends is not None:
            return self.recommends
        return Channel.DENSE if self.recommender is None else Channel.RECALL

    def ranks(self, channel: Channel) -> bool:
        """Say whether the ranker orders what a channel finds, where nobody says: where validation found that better."""
        rule = self.rank_rule
        return rule is not None and rule.is_preferred and rule.channel is channel

    def answer(
        self, request: Request, *, k: int, channel: Channel, ranked: bool = False, cell: str | None = None
    ) -> Answer:
        """Ask a channel that there is, and name what it found.

        Args:
            request: what is asked.
            k: most hits wanted.
            channel: who is asked.
            ranked: whether the ranker orders the first of them.
            cell: where is asked, for the ranker, if that is known.

        Raises:
            EngineError: k is no whole number from 1 up, or the channel cannot read the request.
        """
        try:
            wanted = operator.index(k)
        except TypeError:
            raise EngineError(f"k is {k!r}, it must be a whole number from 1 up.") from None
        if wanted < 1:
            raise EngineError(f"k is {wanted}, it must be at least 1.")
        ranking = self.ranking if ranked else None
        most = wanted if ranking is None else max(wanted, ranking.candidates)
        found = self._retriever(channel).retrieve([request], max(1, min(most, self.shelf.num_items)))
        placed: Mapping[int, Placed] = {}
        if ranking is not None:
            found, (placed,) = ranking.order([request], found, cell=cell)
        hits = (
            Hit(int(row), self.shelf.item_id(int(row)), float(score), channel=channel, ranked=placed.get(int(row)))
            for row, score in zip(found.item_rows[0, :wanted], found.scores[0, :wanted], strict=True)
            if row >= 0
        )
        return Answer(hits, channel=channel)

    def placed(self, row: int, request: Request, channel: Channel) -> Placed | None:
        """Return what the ranker makes of an item in a channel's answer; None: it is not among the first there."""
        ranking = self.ranking
        assert ranking is not None, "the part was checked"
        found = self._retriever(channel).retrieve([request], min(ranking.candidates, self.shelf.num_items))
        return ranking.order([request], found).placed[0].get(row)

    def scores(self, rows: Sequence[int], vector: NDArray[np.float32]) -> list[float]:
        """Return the scores that a search by the encoder's `vector` would give some rows, to the last bit."""
        return _scores(self.index, rows, vector)

    def score(self, row: int, request: Request, channel: Channel) -> float | None:
        """Return the score that a search without filters would give a row, in a channel whose encoder reads the words.

        None: it is of no channel of the hybrid.
        """
        if channel is Channel.HYBRID and self.hybrid is not None:
            found = self.hybrid.retrieve([request], self.shelf.num_items)
            scores = found.scores[0][found.item_rows[0] == row]
            return float(scores[0]) if len(scores) else None
        if channel is Channel.GENERATIVE:  # where nothing else may be said, it is the probability of that item's ID
            alone = replace(request, keep=np.arange(self.index.num_rows) == row)
            return float(self._retriever(channel).retrieve([alone], 1).scores[0, 0])
        if channel is Channel.RECALL and self.recall is not None and self.recall_index is not None:
            return _scores(self.recall_index, [row], self.recall.request_vectors([request])[0])[0]
        return _scores(self.index, [row], self.dense.request_vectors([request])[0])[0]

    def code_path(self, row: int, *, k: int, of: Modality) -> CodePath:
        """Return an item's semantic ID and, for each number of codes in common, the nearest `k` items."""
        paths = self.code_paths[of]
        codes, shared = paths.of(row), paths.shared(row)
        there = self.shelf.columns.live.copy()
        there[row] = False
        steps = []
        for depth in range(len(codes), 0, -1):
            keep = there & (shared == depth)
            nearest = self.answer(Request(item_row=row, keep=keep), k=k, channel=Channel.DENSE)
            steps.append(CodeStep(depth, int(np.count_nonzero(keep)), list(nearest)))
        return CodePath(codes, steps, of.value, [one.value for one in self.code_paths])

    def code_tree(self, prefix: Sequence[int], *, k: int, limit: int, offset: int) -> CodeTree:
        """Return what follows a prefix of semantic IDs; see `Engine.code_tree`."""
        paths = self.code_paths[Modality.ITEM]
        rows = paths.below(prefix, live=self.shelf.columns.live)
        part, below, hits = slice(offset, offset + limit), [], list[Hit]()
        if len(prefix) < paths.levels:
            below = paths.branches(rows, depth=len(prefix))
        else:
            hits = self._nearest_to_centre(rows)[part]
        branches = [
            CodeBranch(one.code, len(one.item_rows), self._nearest_to_centre(one.item_rows, most=LOOKED_AT)[:k])
            for one in below[part]
        ]
        return CodeTree(list(prefix), paths.levels, paths.num_codes, len(rows), len(below), branches, hits)

    def _nearest_to_centre(self, rows: NDArray[np.int64], *, most: int | None = None) -> list[Hit]:
        found, cosines = nearest_to_centre(rows, index=self.index, most=most)
        return [
            Hit(row, self.shelf.item_id(row), cosine)
            for row, cosine in zip(found.tolist(), cosines.tolist(), strict=True)
        ]

    def explained(self, hits: Sequence[Hit], request: Request, channel: Channel) -> list[Hit]:
        """Give each hit its `Why`."""
        whys = self.whys(hits, request, channel)
        return [hit._replace(why=why._replace(ranked=hit.ranked)) for hit, why in zip(hits, whys, strict=True)]

    def whys(self, hits: Sequence[Hit], request: Request, channel: Channel) -> list[Why]:
        """Explain hits of a request."""
        rows, scores = [hit.item_row for hit in hits], [hit.score for hit in hits]
        if channel is Channel.HYBRID and self.hybrid is not None:
            places = self.hybrid.places(request, rows)
            return explain_hybrid(request.query, rows=rows, scores=scores, places=places, shelf=self.shelf)
        if channel not in BY_VECTORS:
            return explain_plain(request.query, rows=rows, scores=scores, shelf=self.shelf, channel=channel)
        explain = partial(explain_dense, rows=rows, scores=scores, shelf=self.shelf, embedder=self.embedder)
        recall, described = self.recall, self.recall_items
        if channel is Channel.DENSE or recall is None or described is None:
            return explain(request.query, self.dense.request_vectors([request])[0])

        fuse = partial(described.vectors, recall)
        whys = explain(request.query, recall.request_vectors([request])[0], fuse=fuse, reads_ids=recall.reads_ids)
        required = self._required(request)
        return [why._replace(required=required) for why in whys]

    def _required(self, request: Request) -> Required | None:
        """Return what an answer of the recall model was cut down to; None: to nothing."""
        if self.control is None or self.recall is None:
            return None
        values = self.control.over(self.recall).required(request)
        return Required(self.control.config.attribute.value, values) if values else None

    def _retriever(self, channel: Channel) -> Retriever:
        retrievers: dict[Channel, Retriever | None] = {
            Channel.RECALL: self.recommender or self._controlled,
            Channel.DENSE: self.dense,
            Channel.GENERATIVE: None if self.generation is None else self.generation.retriever,
            Channel.BM25: self.bm25,
            Channel.POPULARITY: self.popularity,
            Channel.ITEM_KNN: self.item_knn,
            Channel.HYBRID: self.hybrid,
        }
        found = retrievers[channel]
        assert found is not None, "the channel was checked"
        return found

    @property
    def _controlled(self) -> Retriever | None:
        """The recall model, its answers cut down to what they must have."""
        return self.recall if self.recall is None or self.control is None else self.control.over(self.recall)

    def _channels(self, names: Sequence[str], *, counts: LogCounts | None) -> dict[str, HybridChannel]:
        """Return the channels of a hybrid."""
        return search_channels(
            names,
            dense=self.dense,
            bm25=self.bm25,
            popularity=self.popularity,
            recall=self.recall,
            generative=None if self.generation is None else self.generation.retriever,
            counts=counts,
            control=self.control,
        )


def _open_control(parts: Parts, *, catalogue: Catalogue) -> RelevanceControl | None:
    """Open what the recall model's answers must have, if anything."""
    part = parts.relevance_control
    return None if part is None else RelevanceControl.load(part.path, catalogue=catalogue)


def _open_recall(
    parts: Parts, *, catalogue: Catalogue, embedder: Embedder, contents: Index
) -> tuple[LearnedRetriever | None, Index | None]:
    """Open the recall model and its index, if the shop has one.

    Args:
        parts: of the bundle.
        catalogue: in whose log histories are looked up.
        embedder: of queries.
        contents: the encoder's vectors of the items, for a model that reads histories with their content.
    """
    model, vectors = parts.recall, parts.recall_index
    if model is None or vectors is None:
        return None, None
    index = open_index(vectors)
    reads = read_needs(model.path).history_content
    recall = LearnedRetriever.load(
        model.path,
        index=index,
        encoder=embedder if "encoder" in model.inputs else None,
        catalogue=catalogue,
        item_content=contents.vectors(np.arange(catalogue.num_items)) if reads else None,
    )
    return recall, index


def _scores(index: Index, rows: Sequence[int], vector: NDArray[np.float32]) -> list[float]:
    keep = np.zeros(index.num_rows, np.bool_)
    keep[list(rows)] = True
    if not keep.any():
        return []
    found = index.search(vector[None], k=int(keep.sum()), keep=keep)
    score_of = dict(zip(found.item_rows[0].tolist(), found.scores[0].tolist(), strict=True))
    return [score_of[row] for row in rows]
