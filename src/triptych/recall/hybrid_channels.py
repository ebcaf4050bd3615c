"""The channels of a shop's search by their names: what a run fuses, and the engine after it.

``recall`` is the recall model, ``dense`` the served encoder, ``generative`` the decoder of semantic IDs, ``bm25`` and
``popularity`` what they say, and ``new`` the served encoder among the items that nobody chose in training, so that a
quota can give them places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import BoolArray, Request, Retriever
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recall.models.dense import Dense
from triptych.recall.models.hybrid import AskedBy, HybridChannel, LogCounts
from triptych.recall.relevance_control import RelevanceControl
from triptych.recall.retriever import LearnedRetriever

RECALL, DENSE, GENERATIVE, BM25, POPULARITY, NEW = "recall", "dense", "generative", "bm25", "popularity", "new"
CHANNELS = (RECALL, DENSE, GENERATIVE, BM25, POPULARITY, NEW)


def channel_names(chosen: Sequence[str] | None, *, has_recall: bool) -> list[str]:
    """Return the channels that are fused: those chosen, else the recall model where there is one, dense and bm25."""
    if chosen is not None:
        return list(chosen)
    return [RECALL, DENSE, BM25] if has_recall else [DENSE, BM25]


def search_channels(
    names: Sequence[str],
    *,
    dense: Dense,
    bm25: Retriever,
    popularity: Retriever,
    recall: LearnedRetriever | None,
    generative: GenerativeRetriever | None,
    counts: LogCounts | None,
    control: RelevanceControl | None = None,
) -> dict[str, HybridChannel]:
    """Name the channels of a shop.

    Args:
        names: of `CHANNELS`, in order.
        dense: the served encoder.
        bm25: over the titles.
        popularity: of the training part.
        recall: the recall model; None: there is none.
        generative: the decoder of semantic IDs; None: there is none.
        counts: what training has seen of a log, which tells new items; None: there is no log, and no channel new.
        control: what the answers of the recall model must have; None: nothing.

    Raises:
        EngineError: there is no such channel.
    """
    seen = frozenset({AskedBy.WORDS, AskedBy.PHOTO} if dense.reads_photos else {AskedBy.WORDS})
    there = {
        DENSE: HybridChannel(dense, seen),
        BM25: HybridChannel(bm25, frozenset({AskedBy.WORDS})),
        POPULARITY: HybridChannel(popularity, frozenset(AskedBy)),  # it looks at nothing, whatever there is
    }
    if counts is not None:
        among_new = Restricted(dense, keep=_new_items(counts, num_items=dense.index.num_rows))
        there[NEW] = HybridChannel(among_new, seen)
    if recall is not None:
        kept = recall if control is None else control.over(recall)
        there[RECALL] = HybridChannel(kept, frozenset({AskedBy.WORDS}), knows=recall.knows)
    if generative is not None:
        there[GENERATIVE] = HybridChannel(generative, frozenset({AskedBy.WORDS}))
    unknown = [name for name in names if name not in there]
    if unknown:
        raise EngineError(
            f"There is no channel {', '.join(unknown)} here that could be fused. There are: {list(there)}."
        )
    return {name: there[name] for name in names}


class Restricted:
    """A retriever among some of the items."""

    def __init__(self, retriever: Retriever, *, keep: BoolArray) -> None:
        """Wrap a retriever; `keep` ``[items]`` are those that it may return."""
        self._retriever, self._keep = retriever, keep

    @property
    def name(self) -> str:
        """The retriever's."""
        return self._retriever.name

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k best of these items that a request keeps."""
        both: dict[int, BoolArray] = {}
        for request in requests:
            if id(request.keep) not in both:
                both[id(request.keep)] = self._keep if request.keep is None else self._keep & request.keep
        return self._retriever.retrieve([replace(one, keep=both[id(one.keep)]) for one in requests], k)


def _new_items(counts: LogCounts, *, num_items: int) -> BoolArray:
    """Return which items nobody chose in training; those that were added since are new."""
    is_new = np.ones(num_items, np.bool_)
    is_new[: len(counts.of_item)] = counts.of_item == 0
    return is_new
