"""A trained recall model in use: it turns requests into vectors, an index finds the nearest items.

Personal models are told who asks in one of two ways. ``Request.history``: items, oldest first, taken as clicks of just
now. ``Request.user``: his choices and queries in the log that the retriever was opened with, those ``before`` a place
of it where the request says so. A request with neither is a stranger's: its history is empty, and the model answers the
query alone. The search task of the evaluation asks so, one answer per query.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNK
from triptych.data.text import folded
from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.nn.bags import TableBags
from triptych.recall.base import BoolArray, FloatArray, Request, VectorIndex, group_by_keep
from triptych.recall.behaviour import Choices, choices_of, either, history_of, moments_of
from triptych.recall.features import Features, requests_of, strangers
from triptych.recall.ids import Ids
from triptych.recall.learned import ItemFeatures, Needs, RecallModel, RequestFeatures, load_model


class QueryEncoder(Protocol):
    """What gives a query's content: `encoders.embed.Embedder`."""

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode query texts ``[n, dim]``."""
        ...


class LearnedRetriever:
    """Answers searches by words, or recommends by histories. Model, index and encoder must belong together."""

    def __init__(
        self,
        model: RecallModel,
        index: VectorIndex,
        *,
        ids: Ids,
        encoder: QueryEncoder | None,
        name: str = "recall",
        features: Features | None = None,
    ) -> None:
        """Put a model before an index of its item vectors.

        Args:
            model: trained.
            index: of `recall.train`'s ``vectors.npy``.
            ids: of the model's tables.
            encoder: the pretrained one whose vectors the model reads; None where it reads none.
            name: in tables and logs.
            features: of the catalogue whose items and users histories speak of, made with the model's ``needs``; None:
                no request has a history.
        """
        self._model, self._index, self._ids, self._encoder, self._name = model.eval(), index, ids, encoder, name
        self._features, self._needs = features, model.config.needs

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        index: VectorIndex,
        encoder: QueryEncoder | None,
        name: str = "recall",
        catalogue: Catalogue | None = None,
        item_content: NDArray[Any] | None = None,
    ) -> LearnedRetriever:
        """Read what `save` wrote, or the artefact of `recall.train`.

        Args:
            folder: where.
            index: of the model's item vectors.
            encoder: as of `__init__`.
            name: likewise.
            catalogue: whose items and users histories speak of; without effect on a model that knows no users and reads
                no histories. None: no request has a history.
            item_content: ``[items, dim]``, of the catalogue's items; read where histories are read with their content.

        Raises:
            EngineError: histories are read with their content, and there is none.
        """
        model, ids = load_model(folder), Ids.load(folder)
        needs, features = model.config.needs, None
        if catalogue is not None and (needs.history or needs.user):
            if needs.history_content and item_content is None:
                raise EngineError(f"{name} reads the content of items in histories. Give item_content.")
            content = item_content if needs.history_content else None
            features = Features(catalogue, ids=ids, item_content=content, needs=needs)
        return cls(model, index, ids=ids, encoder=encoder, name=name, features=features)

    def save(self, folder: Path) -> None:
        """Write the model and its ids; index and encoder have artefacts of their own."""
        self._model.save(folder)
        self._ids.save(folder)

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def index(self) -> VectorIndex:
        """The item vectors."""
        return self._index

    @property
    def needs(self) -> Needs:
        """What it reads beside IDs and content."""
        return self._needs

    @property
    def reads_words(self) -> bool:
        """Whether it answers searches by words; else it recommends."""
        return self._needs.query

    @property
    def reads_histories(self) -> bool:
        """Whether it reads what was chosen before."""
        return self._needs.history

    @property
    def reads_content(self) -> bool:
        """Whether it reads the vectors of a pretrained encoder, so that items nobody chose differ."""
        return self._model.config.reads_content

    @property
    def reads_ids(self) -> bool:
        """Whether queries and items have vectors by ID, so that it has learned of single items."""
        return self._model.config.reads_ids

    def knows_user(self, user: str) -> bool:
        """Say whether a user has a vector of his own in a model that has such."""
        return self._needs.user and bool(self._ids.users([user])[0] != UNK)

    def met(self, item_ids: Sequence[str]) -> BoolArray:
        """Say which items ``[n]`` have a vector of their own."""
        known: BoolArray = self._ids.items.rows(item_ids) != UNK
        return known

    def knows(self, query: str) -> bool:
        """Say whether anything is known of a query: by its content or its words, or else by having been asked."""
        if self._model.config.reads_content or self._needs.query_units:
            return True
        return bool(self._ids.queries.rows(folded([query]))[0] != UNK)

    def over(
        self, index: VectorIndex, *, new_ids: Sequence[str] = (), content: NDArray[np.float32] | None = None
    ) -> LearnedRetriever:
        """Return the same over another index of the model's vectors.

        Args:
            index: may have more items, behind the others.
            new_ids: of these; histories may then name them by their rows.
            content: ``[new, dim]``, from the pretrained encoder; left unread by a model that reads none.
        """
        features = self._features
        # A model that reads attributes answers words: its histories are those of the log, whose items are older.
        if features is not None and self._needs.history and not self._needs.history_attributes and len(new_ids):
            features = features.with_items(self._ids.items.rows(new_ids), content=content)
        return LearnedRetriever(
            self._model, index, ids=self._ids, encoder=self._encoder, name=self._name, features=features
        )

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k items of highest score for each request; of a recommendation the history is left out.

        Raises:
            EngineError: a request has no words where the model reads them, words where it does not, or a history that
                nobody can look up.
        """
        hits = Hits.empty(len(requests), k)
        vectors = self.request_vectors(requests)
        catalogue = None if self._features is None else self._features.catalogue
        left_out = [
            np.empty(0, np.int64) if self._needs.query else np.unique(history_of(request, catalogue=catalogue))
            for request in requests
        ]
        for places, keep in group_by_keep(requests):
            extra = max(len(left_out[place]) for place in places)
            found = self._index.search(vectors[places], k=k + extra, keep=keep)
            for place, item_rows, scores in zip(places, *found, strict=True):
                own = ~np.isin(item_rows, left_out[place])
                hits.item_rows[place], hits.scores[place] = item_rows[own][:k], scores[own][:k]
        return hits

    @torch.no_grad()
    def request_vectors(self, requests: Sequence[Request]) -> FloatArray:
        """Encode requests ``[n, vector_dim]``.

        Raises:
            EngineError: as `retrieve`.
        """
        asked = self._asked(requests)
        if self._needs.history:
            asked = self._with_history(asked, requests)
        vectors: FloatArray = self._model.encode_requests(asked).numpy()
        return vectors

    @torch.no_grad()
    def item_vectors(
        self,
        item_ids: Sequence[str | None],
        *,
        content: NDArray[np.float32] | None,
        titles: Sequence[str] | None = None,
        title_content: NDArray[np.float32] | None = None,
        codes: NDArray[Any] | None = None,
    ) -> FloatArray:
        """Encode items that the index has not met, for instance new ones, by what is known of them.

        Args:
            item_ids: ``[n]``; of an item that training has not met, or None, content and title alone count.
            content: ``[n, dim]``, from the pretrained encoder; left unread by a model that reads none.
            titles: ``[n]``, "" for none; left unread by a model that reads none.
            title_content: ``[n, dim]``, what the encoder makes of titles alone, NaN for none; likewise.
            codes: ``[n, levels of all sets]``, semantic IDs that the frozen quantisers assign; likewise.

        Raises:
            EngineError: the model reads titles, or semantic IDs, and there are none.
        """
        rows = torch.from_numpy(self._ids.items.rows(item_ids))
        known = None if content is None or not self._model.config.reads_content else torch.from_numpy(content)
        words = None
        if self._needs.title_words:
            if titles is None:
                raise EngineError(f"{self._name} reads the titles of items. Give those of the new ones, '' for none.")
            words = TableBags.of(self._ids.units(titles, name="words", most=self._needs.title_words))
        items = ItemFeatures(rows, known, words)
        if self._needs.title_content:
            if title_content is None:
                raise EngineError(f"{self._name} reads what the encoder makes of titles alone. Give title_content.")
            items = items._replace(title_content=torch.from_numpy(title_content.astype(np.float32)))
        if self._needs.codes is not None:
            if codes is None:
                raise EngineError(f"{self._name} reads semantic IDs. Give the codes that the quantiser assigns.")
            items = items._replace(codes=torch.from_numpy(codes.astype(np.int64)))
        vectors: FloatArray = self._model.encode_items(items).numpy()
        return vectors

    def _asked(self, requests: Sequence[Request]) -> RequestFeatures:
        """Gather what is known of the queries."""
        texts = [request.query for request in requests if request.query is not None]
        if not self._needs.query:
            if texts:
                raise EngineError(f"{self._name} was trained without words: it answers users. Ask without words.")
            asked = RequestFeatures(torch.zeros(len(requests), dtype=torch.int64), None)
            if not self._needs.user:
                return asked
            if not self._needs.history and any(request.user is None for request in requests):
                raise EngineError(f"{self._name} knows users by who they are, not by what they chose. Give user.")
            known = self._ids.users([request.user for request in requests])
            return asked._replace(user_ids=torch.from_numpy(known))
        if len(texts) < len(requests):
            raise EngineError(f"{self._name} was trained on searches: it answers words. Search by words.")
        content = None
        if self._encoder is not None:
            distinct, places = np.unique(np.array(texts, dtype=object), return_inverse=True)  # of many who ask alike
            content = self._encoder.queries(distinct.tolist())[places]
        return requests_of(texts, ids=self._ids, content=content, needs=self._needs)

    def _with_history(self, asked: RequestFeatures, requests: Sequence[Request]) -> RequestFeatures:
        """Add what is known of those who ask."""
        needs, features = self._needs, self._features
        given = choices_of([request.history for request in requests], needs=needs)
        if features is None:
            if any(request.history is not None or request.user is not None for request in requests):
                raise EngineError(f"{self._name} was opened without a catalogue, so it cannot look up a history.")
            return strangers(asked, needs=needs, sizes=self._model.sizes)
        itself = np.array([request.history is not None for request in requests], dtype=np.bool_)
        return features.with_history(asked, either(itself, given, self._logged(features, requests)))

    def _logged(self, features: Features, requests: Sequence[Request]) -> Choices:
        """Read the histories of users in the log."""
        return features.before(moments_of(requests, catalogue=features.catalogue))
