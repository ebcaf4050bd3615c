"""A trained recall model in use: it turns requests into vectors, an index finds the nearest items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import FloatArray, Request, VectorIndex, group_by_keep
from triptych.recall.features import Ids, requests_of
from triptych.recall.learned import ItemFeatures, RecallModel, load_model


class QueryEncoder(Protocol):
    """What gives a query's content: `encoders.embed.Embedder`."""

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode query texts ``[n, dim]``."""
        ...


class LearnedRetriever:
    """Answers searches by words. Model, index and encoder must belong together."""

    def __init__(
        self, model: RecallModel, index: VectorIndex, *, ids: Ids, encoder: QueryEncoder | None, name: str = "recall"
    ) -> None:
        """Put a model before an index of its item vectors.

        Args:
            model: trained.
            index: of `recall.train`'s ``vectors.npy``.
            ids: of the model's tables.
            encoder: the pretrained one whose vectors the model reads; None where it reads none.
            name: in tables and logs.
        """
        self._model, self._index, self._ids, self._encoder, self._name = model.eval(), index, ids, encoder, name

    @classmethod
    def open(
        cls, artifact: Artifact, *, index: VectorIndex, encoder: QueryEncoder | None, name: str = "recall"
    ) -> LearnedRetriever:
        """Open a ``recall`` artefact."""
        return cls(load_model(artifact.path), index, ids=Ids.load(artifact.path), encoder=encoder, name=name)

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def index(self) -> VectorIndex:
        """The item vectors."""
        return self._index

    def over(self, index: VectorIndex) -> LearnedRetriever:
        """Return the same over another index of the model's vectors, for instance with more items."""
        return LearnedRetriever(self._model, index, ids=self._ids, encoder=self._encoder, name=self._name)

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k items of highest score for each request.

        Raises:
            EngineError: a request has no words.
        """
        hits = Hits(np.full((len(requests), k), -1, np.int64), np.full((len(requests), k), -np.inf, np.float32))
        vectors = self.request_vectors(requests)
        for places, keep in group_by_keep(requests):
            found = self._index.search(vectors[places], k=k, keep=keep)
            hits.item_rows[places], hits.scores[places] = found
        return hits

    @torch.no_grad()
    def request_vectors(self, requests: Sequence[Request]) -> FloatArray:
        """Encode requests ``[n, vector_dim]``.

        Raises:
            EngineError: as `retrieve`.
        """
        texts = [request.query for request in requests if request.query is not None]
        if len(texts) < len(requests):
            raise EngineError(f"{self._name} was trained on searches: it answers words. Search by words.")
        content = None if self._encoder is None else self._encoder.queries(texts)
        vectors: FloatArray = self._model.encode_requests(requests_of(texts, ids=self._ids, content=content)).numpy()
        return vectors

    @torch.no_grad()
    def item_vectors(self, item_ids: Sequence[str | None], *, content: NDArray[np.float32] | None) -> FloatArray:
        """Encode items that the index has not met, for instance new ones, by what is known of them.

        Args:
            item_ids: ``[n]``; of an item that training has not met, or None, the content alone counts.
            content: ``[n, dim]``, from the pretrained encoder; left unread by a model that reads none.
        """
        rows = torch.from_numpy(self._ids.items.rows(item_ids))
        known = None if content is None or self._encoder is None else torch.from_numpy(content)
        vectors: FloatArray = self._model.encode_items(ItemFeatures(rows, known)).numpy()
        return vectors
