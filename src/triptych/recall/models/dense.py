"""Dense retrieval: an encoder turns the request into a vector, an index finds the items nearest to it.

What a request's vector is:

- words: the query tower's vector.
- a photo: the item tower's vector of an item with that photo and no title. Training has lone photos find their own item
  (`pretrain.tasks.contrastive`).
- words and a photo: the normalised weighted sum of the two. So an item's score is, up to a constant, the weighted sum
  of what it scores for the words and for the photo, and the words go through the tower that was trained on queries. The
  alternative, one pass of the item tower with the words as title, would read a query as a title, which it never saw.
- an item: its own vector, as stored. A history: the mean of its items' vectors, normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.encoders.inputs import Modalities
from triptych.foundation.artifact import write_json
from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import FloatArray, Request, RetrieverConfig, VectorIndex, group_by_keep

CONFIG_FILE = "config.json"


class DenseConfig(RetrieverConfig):
    """How requests become vectors."""

    kind: Literal["dense"] = "dense"
    """Name of the file that defines it."""
    photo_weight: float = Field(0.5, ge=0, le=1)
    """Weight of the photo in a search by words and photo; the words have the rest."""
    history_events: int = Field(50, ge=1)
    """Latest events of a history that enter its vector. All of its items are left out of the answer."""


CONFIG = DenseConfig


class RequestEncoder(Protocol):
    """What turns words and photos into vectors: `encoders.embed.Embedder`, `encoders.untuned.UntunedText`."""

    @property
    def modalities(self) -> Modalities:
        """What it reads of an item."""
        ...

    @property
    def vector_dim(self) -> int:
        """Numbers of a vector."""
        ...

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode query texts ``[n, dim]``, of length 1."""
        ...

    def items(self, titles: Sequence[str | None], *, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode items ``[n, dim]``, of length 1, where it reads photos."""
        ...


class Dense:
    """Encoder and index, which must belong together; the engine checks that by their artefacts."""

    def __init__(
        self, embedder: RequestEncoder, index: VectorIndex, *, config: DenseConfig | None = None, name: str = "dense"
    ) -> None:
        """Put an encoder before an index of its item vectors."""
        self._embedder, self._index = embedder, index
        self._config = config or DenseConfig()
        self._name = name

    @property
    def name(self) -> str:
        """As given; tables call it by what the encoder reads, e.g. ``title+photo``."""
        return self._name

    @property
    def index(self) -> VectorIndex:
        """The item vectors."""
        return self._index

    @property
    def reads_photos(self) -> bool:
        """Whether it can be asked by photo."""
        return self._embedder.modalities.reads_photo

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k nearest items of each request; the item asked about, or the history, left out.

        Raises:
            EngineError: a request asks for nothing, for two things at once, or by photo of an encoder that reads none.
        """
        hits = Hits.empty(len(requests), k)
        vectors = self.request_vectors(requests)
        left_out = [_left_out(request) for request in requests]
        for places, keep in group_by_keep(requests):
            extra = max(len(left_out[place]) for place in places)
            found = self._index.search(vectors[places], k=k + extra, keep=keep)
            for place, item_rows, scores in zip(places, *found, strict=True):
                own = ~np.isin(item_rows, left_out[place])
                hits.item_rows[place], hits.scores[place] = item_rows[own][:k], scores[own][:k]
        return hits

    def request_vectors(self, requests: Sequence[Request]) -> FloatArray:
        """Encode requests, all words in one pass and all photos in another.

        Returns:
            float32 ``[n, dim]``; of length 1, except that of an item, which is as stored.

        Raises:
            EngineError: as `retrieve`.
        """
        for request in requests:
            self._check(request)
        vectors = np.zeros((len(requests), self._embedder.vector_dim), np.float32)
        by_words = [place for place, request in enumerate(requests) if request.query is not None]
        by_photo = [place for place, request in enumerate(requests) if request.photo is not None]
        if by_words:
            texts = [request.query for request in requests if request.query is not None]
            weights = [1.0 if requests[place].photo is None else 1 - self._config.photo_weight for place in by_words]
            vectors[by_words] += self._embedder.queries(texts) * np.array(weights, np.float32)[:, None]
        if by_photo:
            photos = np.stack([request.photo for request in requests if request.photo is not None])
            weights = [1.0 if requests[place].query is None else self._config.photo_weight for place in by_photo]
            encoded = self._embedder.items([None] * len(photos), pixels=photos)
            vectors[by_photo] += encoded * np.array(weights, np.float32)[:, None]
        for place, request in enumerate(requests):
            if request.item_row is not None:
                vectors[place] = self._index.vectors(np.array([request.item_row]))[0]
            elif request.history is not None:
                latest = self._index.vectors(request.history[-self._config.history_events :])
                vectors[place] = _normalised(latest.mean(axis=0))
            elif request.query is not None and request.photo is not None:
                vectors[place] = _normalised(vectors[place])
        return vectors

    def save(self, folder: Path) -> None:
        """Write the config; encoder and index have artefacts of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, self._config.dump())

    @classmethod
    def load(cls, folder: Path, *, embedder: RequestEncoder, index: VectorIndex, name: str = "dense") -> Self:
        """Read what `save` wrote and put it before an encoder and its index."""
        return cls(embedder, index, config=DenseConfig.load(folder / CONFIG_FILE), name=name)

    def _check(self, request: Request) -> None:
        search = request.query is not None or request.photo is not None
        has_history = request.history is not None and len(request.history) > 0
        asked = [search, request.item_row is not None, has_history]
        if sum(asked) != 1:
            raise EngineError(
                "A dense request needs exactly one of: words and/or a photo, an item, a history that is not empty; "
                f"this one has {sum(asked)} of them."
            )
        if request.photo is not None and not self._embedder.modalities.reads_photo:
            raise EngineError(
                "This encoder was trained on titles alone and reads no photos. Search by words, or train with "
                "modalities 'title+photo'."
            )


def _left_out(request: Request) -> NDArray[Any]:
    """Return the items that are no answer to this request."""
    if request.item_row is not None:
        return np.array([request.item_row])
    return np.empty(0, np.int64) if request.history is None else np.unique(request.history)


def _normalised(vector: FloatArray) -> FloatArray:
    length = np.linalg.norm(vector)
    unit: FloatArray = vector / length if length > 0 else vector
    return unit
