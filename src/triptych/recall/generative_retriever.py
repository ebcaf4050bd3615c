"""Answers by semantic IDs: a trained decoder says those that exist, and the items that have them are found."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.recall.base import BoolArray, FloatArray, IntArray, Request, group_by_keep
from triptych.recall.beam_search import beam_search
from triptych.recall.code_trie import CodeTrie
from triptych.recall.models.generative import Generative

CACHED_TREES = 32
"""Trees of parts of the catalogue, such as delivery cells, that a retriever keeps at hand."""
ASKED_AT_ONCE = 256
"""Requests whose beams are in memory at a time."""


class QueryEncoder(Protocol):
    """What gives a query's vector: `encoders.embed.Embedder`."""

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode query texts ``[n, dim]``."""
        ...


class GenerativeRetriever:
    """Answers queries with the items whose IDs a trained decoder says. Model, IDs and encoder must belong together.

    Items that share an ID are ordered by the inner product of their vector with the query's, where vectors are given.
    A score is the log probability of the item's ID, taken down to the next smaller number for each step of that order,
    so that the order of scores is the order of the answer.
    """

    def __init__(
        self,
        model: Generative,
        trie: CodeTrie,
        *,
        encoder: QueryEncoder,
        vectors: FloatArray | None = None,
        name: str = "generative",
    ) -> None:
        """Put a model before a tree of the IDs that exist.

        Args:
            model: trained.
            trie: of the items that may be answered.
            encoder: whose query vectors the model was trained on.
            vectors: ``[item rows, dim]``, of the same encoder; None: items under one ID are ordered by row.
            name: in tables and logs.
        """
        self._model, self._trie, self._encoder, self._vectors, self._name = model.eval(), trie, encoder, vectors, name
        self._parts: OrderedDict[bytes, CodeTrie] = OrderedDict()

    @classmethod
    def load(
        cls, folder: Path, *, encoder: QueryEncoder, vectors: FloatArray | None = None, name: str = "generative"
    ) -> GenerativeRetriever:
        """Read what `save` wrote, or `recall.generative_train`."""
        return cls(Generative.load(folder), CodeTrie.load(folder), encoder=encoder, vectors=vectors, name=name)

    def save(self, folder: Path) -> None:
        """Write model and IDs; the encoder has an artefact of its own."""
        self._model.save(folder)
        self._trie.save(folder)

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def trie(self) -> CodeTrie:
        """The IDs that exist."""
        return self._trie

    def over(self, trie: CodeTrie, *, vectors: FloatArray | None) -> GenerativeRetriever:
        """Return the same over another tree, for instance with items added or taken out; arguments as at first."""
        return GenerativeRetriever(self._model, trie, encoder=self._encoder, vectors=vectors, name=self._name)

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k items whose IDs are likeliest for each query; fewer where the beams hold fewer.

        With ``keep`` only the IDs of items that are kept can be said.

        Raises:
            EngineError: a request has no words.
        """
        hits = Hits(np.full((len(requests), k), -1, np.int64), np.full((len(requests), k), -np.inf, np.float32))
        texts = [request.query for request in requests if request.query is not None]
        if len(texts) < len(requests):
            raise EngineError(f"{self._name} was trained on searches: it answers words. Search by words.")
        if not texts:
            return hits
        content = self._encoder.queries(texts)
        for places, keep in group_by_keep(requests):
            trie = self._trie if keep is None else self._only(keep)
            found = say_items(self._model, content[places], trie=trie, k=k, vectors=self._vectors)
            hits.item_rows[places], hits.scores[places] = found
        return hits

    def _only(self, keep: BoolArray) -> CodeTrie:
        """Return the tree of some items, kept for the next time that they are asked for."""
        key = hashlib.blake2b(np.packbits(keep).tobytes(), digest_size=16).digest()
        if key not in self._parts:
            self._parts[key] = self._trie.only(keep)
            if len(self._parts) > CACHED_TREES:
                self._parts.popitem(last=False)
        self._parts.move_to_end(key)
        return self._parts[key]


@torch.inference_mode()
def say_items(
    model: Generative, content: FloatArray, *, trie: CodeTrie, k: int, vectors: FloatArray | None = None
) -> Hits:
    """Find the k items whose IDs are likeliest, on the device of the model.

    Args:
        model: trained.
        content: ``[n, dim]``, of what is asked.
        trie: of the items that may be answered.
        k: places per request.
        vectors: ``[item rows, dim]``, of the encoder whose content it is; None: items under one ID are ordered by row.

    Returns:
        ``[n, k]``, fewer where the beams hold fewer; scores as of `GenerativeRetriever`.
    """
    hits = Hits(np.full((len(content), k), -1, np.int64), np.full((len(content), k), -np.inf, np.float32))
    device = next(model.parameters()).device
    for first in range(0, len(content), ASKED_AT_ONCE):
        block = np.ascontiguousarray(content[first : first + ASKED_AT_ONCE], dtype=np.float32)
        asked = model.asked(torch.from_numpy(block).to(device))
        found = beam_search(model.decoder, asked, trie=trie, beams=model.config.beams)
        for row, query in enumerate(block):
            item_rows, scores = _items(found.leaves[row], found.log_probabilities[row], trie=trie, k=k)
            if vectors is not None:
                scores = _stepped(scores, like=query, vectors=vectors[item_rows])
            best = np.lexsort((item_rows, -scores))[:k]
            place = first + row
            hits.item_rows[place, : len(best)], hits.scores[place, : len(best)] = item_rows[best], scores[best]
    return hits


def _items(leaves: IntArray, scores: FloatArray, *, trie: CodeTrie, k: int) -> tuple[IntArray, FloatArray]:
    """Gather the items under the likeliest leaves, until there are k and no further leaf is as likely."""
    rows: list[IntArray] = []
    own: list[FloatArray] = []
    count = 0
    for leaf, score in zip(leaves.tolist(), scores, strict=True):
        if leaf < 0 or (count >= k and score < own[-1][0]):
            break
        rows.append(trie.items(leaf))
        own.append(np.full(len(rows[-1]), score, dtype=np.float32))
        count += len(rows[-1])
    if not rows:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    return np.concatenate(rows), np.concatenate(own)


def _stepped(scores: FloatArray, *, like: FloatArray, vectors: FloatArray) -> FloatArray:
    """Take the scores of items that share one down, by the order of their vectors ``[items, dim]``."""
    # Row by row, not as a matrix product, whose rounding depends on how many rows there are: equals stay equal.
    dense = (np.asarray(vectors, dtype=np.float32) * like).sum(axis=1)
    stepped = scores.copy()
    for score in np.unique(scores):
        shared = np.flatnonzero(scores == score)
        steps = np.unique(-dense[shared], return_inverse=True)[1]
        lowered = score
        for step in range(1, int(steps.max()) + 1):
            lowered = np.nextafter(lowered, np.float32(-np.inf))
            stepped[shared[steps == step]] = lowered
    return stepped
