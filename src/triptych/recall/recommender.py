"""Recommendation by a recall model, and by the encoder for whoever the model cannot answer.

A model of users (matrix factorisation and the like) has a vector for each that training has met, and for nobody else;
one of histories answers whoever has chosen something that it knows. All others are answered by the encoder: by what is
near the mean of what they chose. A run's report and the engine ask the same `Recommender`, so that what is measured is
what is served; `Recommender.answers` says who answers.

A model that reads no content gives all items that nobody chose in training one vector, by which they cannot be told
apart. It does not return them: they are the encoder's, or a model's that reads content.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from triptych.foundation.types import Hits
from triptych.recall.base import BoolArray, Request, Retriever
from triptych.recall.hybrid_channels import Restricted
from triptych.recall.retriever import LearnedRetriever


class Recommender:
    """A recall model for users or their histories, with the encoder behind it."""

    def __init__(self, recall: LearnedRetriever, *, dense: Retriever, met: BoolArray | None) -> None:
        """Put a model before an encoder; use `of` and `changed`.

        Args:
            recall: answers users or histories, not words.
            dense: answers histories by content.
            met: ``[items]``, which items have a vector of their own in the model; None where it reads content.
        """
        self._recall, self._dense, self._met = recall, dense, met
        self._own: Retriever = recall if met is None else Restricted(recall, keep=met)

    @classmethod
    def of(cls, recall: LearnedRetriever, *, dense: Retriever, item_ids: Sequence[str]) -> Recommender:
        """Put a model before an encoder.

        Args:
            recall: as of `__init__`.
            dense: likewise.
            item_ids: of every row of both indexes.
        """
        return cls(recall, dense=dense, met=None if recall.reads_content else recall.met(item_ids))

    def changed(self, recall: LearnedRetriever, *, dense: Retriever, new_ids: Sequence[str] = ()) -> Recommender:
        """Return the same with items appended.

        Args:
            recall: the model over its longer index.
            dense: the encoder over its.
            new_ids: of the items that were appended.
        """
        met = None if self._met is None else np.concatenate([self._met, recall.met(new_ids)])
        return Recommender(recall, dense=dense, met=met)

    @property
    def name(self) -> str:
        """The model's."""
        return self._recall.name

    @property
    def reads_histories(self) -> bool:
        """Whether the model goes by what was chosen; else it goes by who asks."""
        return self._recall.reads_histories

    def answers(self, request: Request) -> bool:
        """Say whether the model answers a request itself: else the encoder does, by the history."""
        if not self.reads_histories:
            return request.user is not None and self._recall.knows_user(request.user)
        if request.history is None or not len(request.history):
            return False
        return self._met is None or bool(self._met[request.history].any())

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k best items of each request, those of its history left out.

        Raises:
            EngineError: the model cannot answer a request, and it has no history by which the encoder could.
        """
        hits = Hits.empty(len(requests), k)
        own = np.array([self.answers(request) for request in requests], dtype=np.bool_)
        for retriever, places in ((self._own, np.flatnonzero(own)), (self._dense, np.flatnonzero(~own))):
            if len(places):
                found = retriever.retrieve([requests[place] for place in places.tolist()], k)
                hits.item_rows[places], hits.scores[places] = found
        return hits
