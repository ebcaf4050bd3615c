"""Answers by semantic IDs: a trained decoder says those that exist, and the items that have them are found."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.catalogue import Catalogue
from triptych.foundation.errors import EngineError
from triptych.foundation.types import Hits
from triptych.nn.code_decoder import SearchDecoder
from triptych.recall.base import BoolArray, FloatArray, IntArray, Request, group_by_keep
from triptych.recall.beam_search import beam_search
from triptych.recall.behaviour import history_of, latest_of
from triptych.recall.code_trie import CodeTrie
from triptych.recall.features import cut
from triptych.recall.models.generative import Ask, Asks, Generative

CACHED_TREES = 32
"""Trees of parts of the catalogue, such as delivery cells, that a retriever keeps at hand: those asked for last. With
three levels a tree takes about 25 bytes for each item of its part, so that 32 of a million items' are below a
gigabyte."""
ASKED_AT_ONCE = 256
"""Requests whose beams are in memory at a time."""
FEW_LEFT_OUT = 1_000
"""Items that a filter may take out of a user's answer without making a tree of its own."""


class QueryEncoder(Protocol):
    """What gives a query's vector: `encoders.embed.Embedder`."""

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode query texts ``[n, dim]``."""
        ...


class VectorsByRow(Protocol):
    """Vectors of items, looked up by their rows: an array ``[item rows, dim]``, or an index that holds them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(item rows, dim)``."""
        ...

    def __getitem__(self, item_rows: IntArray, /) -> Any:
        """Return those of some rows ``[n, dim]``."""
        ...


class Requested(NamedTuple):
    """Some requests, as far as their answers go by them."""

    ask: Ask
    """What the model reads."""
    like: FloatArray | None = None
    """``[n, dim]``, of what items that share an ID should be like; None: they are ordered by row."""
    left_out: Sequence[NDArray[Any]] | None = None
    """``[n]`` lists of item rows that are no answer; None: all may be."""

    def some(self, places: IntArray) -> Requested:
        """Return some of the requests."""
        like = None if self.like is None else self.like[places]
        left_out = None if self.left_out is None else [self.left_out[place] for place in places.tolist()]
        return Requested(self.ask.some(places), like, left_out)


class GenerativeRetriever:
    """Answers queries, or users, with the items whose IDs a trained decoder says. What it is given belongs together.

    A user is told in one of two ways, as to `LearnedRetriever`: ``Request.history``, item rows; or ``Request.user``,
    whose choices are looked up in the log, those ``before`` a place of it where the request says so. Who has chosen
    nothing, or is not known, is a stranger, and is answered what first choices were. No answer is in the history.

    Items that share an ID are ordered by the inner product of their vector with the query's, or with the mean of those
    that are read of the history, where vectors are given. A score is the log probability of the item's ID, taken down
    to the next smaller number for each step of that order, so that the order of scores is the order of the answer.
    """

    def __init__(
        self,
        model: Generative,
        trie: CodeTrie,
        *,
        encoder: QueryEncoder | None = None,
        vectors: VectorsByRow | None = None,
        catalogue: Catalogue | None = None,
        name: str = "generative",
    ) -> None:
        """Put a model before a tree of the IDs that exist.

        Args:
            model: trained; it answers with the weights that it has now.
            trie: of the items that may be answered.
            encoder: whose query vectors the model was trained on; None where it reads histories.
            vectors: ``[item rows, dim]``, of the same encoder, or of that whose IDs are said; None: items under one ID
                are ordered by row.
            catalogue: in whose log users are looked up by a model that reads histories; None: no request names a user.
            name: in tables and logs.

        Raises:
            EngineError: the model reads queries, and there is no encoder.
        """
        self._model, self._trie, self._encoder, self._vectors, self._name = model.eval(), trie, encoder, vectors, name
        self._search = model.decoder.for_search()
        self._catalogue = catalogue
        self._parts: OrderedDict[bytes, CodeTrie] = OrderedDict()
        self._parts_lock = Lock()  # requests come from several threads
        if encoder is None and not self.reads_histories:
            raise EngineError(f"{name} reads the vectors of queries. Give the encoder that they are of.")

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        encoder: QueryEncoder | None = None,
        vectors: VectorsByRow | None = None,
        catalogue: Catalogue | None = None,
        name: str = "generative",
    ) -> GenerativeRetriever:
        """Read what `save` wrote, or `recall.generative_train`; arguments as at first."""
        model, trie = Generative.load(folder), CodeTrie.load(folder)
        return cls(model, trie, encoder=encoder, vectors=vectors, catalogue=catalogue, name=name)

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

    @property
    def reads_histories(self) -> bool:
        """Whether it recommends by what was chosen before; else it answers words."""
        return self._model.config.asks is Asks.HISTORY

    def over(self, trie: CodeTrie, *, vectors: VectorsByRow | None) -> GenerativeRetriever:
        """Return the same over another tree, for instance with items added or taken out.

        Args:
            trie: as at first. What has been taken out is still read in histories, by the ID that it had.
            vectors: as at first.
        """
        found = GenerativeRetriever(
            self._model, trie, encoder=self._encoder, vectors=vectors, catalogue=self._catalogue, name=self._name
        )
        if self.reads_histories:
            found._codes = trie.codes_by_row(beside=self._codes)
        return found

    @cached_property
    def _codes(self) -> IntArray:
        """The ID of each item row ``[rows, levels]``, -1 for none: for reading histories."""
        return self._trie.codes_by_row()

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        """Return the k items whose IDs are likeliest for each request; fewer where the beams hold fewer.

        With ``keep`` only the IDs of items that are kept can be said.

        Raises:
            EngineError: a request has no words where the model reads them; anything else than a user or a history where
                it reads these; a user that nobody can look up; or an item that has no ID.
        """
        hits = Hits.empty(len(requests), k)
        if not requests:
            return hits
        requests, asked = self._asked(requests)
        for places, keep in group_by_keep(requests):
            trie = self._trie if keep is None else self._only(keep)
            found = say_items(
                self._model, asked.some(places), search=self._search, trie=trie, k=k, vectors=self._vectors
            )
            hits.item_rows[places], hits.scores[places] = found
        return hits

    @torch.inference_mode()
    def said(self, requests: Sequence[Request]) -> list[NDArray[Any]]:
        """Return the IDs that the beams of each request end with, the likeliest first: ``[ids, levels]`` each.

        Raises:
            EngineError: as `retrieve`.
        """
        found: list[NDArray[Any]] = [np.empty((0, self._trie.levels), np.uint16)] * len(requests)
        if not requests:
            return found
        requests, asked = self._asked(requests)
        for places, keep in group_by_keep(requests):
            trie, own = self._trie if keep is None else self._only(keep), asked.some(places)
            read = self._model.read(own.ask)
            beams = beam_search(
                self._search,
                read.tokens,
                keep=read.keep,
                trie=trie,
                beams=self._model.config.beams,
                left_out=own.left_out,
            )
            for place, leaves in zip(places.tolist(), beams.leaves, strict=True):
                paths = [trie.code_path(leaf) for leaf in leaves.tolist() if leaf >= 0]
                found[place] = np.stack(paths) if paths else found[place]
        return found

    def _asked(self, requests: Sequence[Request]) -> tuple[Sequence[Request], Requested]:
        """Return requests, without filters that keep all but a few, and what the model reads of them."""
        if not self.reads_histories:
            return requests, self._queries(requests)
        eased, few = _eased(requests)
        return eased, self._histories(eased, left_out=few)

    def _queries(self, requests: Sequence[Request]) -> Requested:
        assert self._encoder is not None
        texts = [request.query for request in requests if request.query is not None]
        if len(texts) < len(requests):
            raise EngineError(f"{self._name} was trained on searches: it answers words. Search by words.")
        content = np.ascontiguousarray(self._encoder.queries(texts), dtype=np.float32)
        return Requested(Ask(content=torch.from_numpy(content)), like=content)

    def _histories(self, requests: Sequence[Request], *, left_out: Sequence[IntArray]) -> Requested:
        for request in requests:
            if request.query is not None or request.photo is not None or request.item_row is not None:
                raise EngineError(f"{self._name} was trained without words: it answers users. Give user or history.")
            if request.history is None and request.user is not None and self._catalogue is None:
                raise EngineError(f"{self._name} was opened without a catalogue, so it cannot look up a history.")
        histories = [np.asarray(history_of(request, catalogue=self._catalogue)) for request in requests]
        rows = latest_of(histories, self._model.config.history_items)
        unknown = np.setdiff1d(rows[rows >= 0], np.flatnonzero(self._codes[:, 0] >= 0))
        if len(unknown):
            raise EngineError(
                f"{self._name}: item row {unknown[0]} in a history has no semantic ID. Add the item to the tree first."
            )
        like = None if self._vectors is None else _means(rows, vectors=self._vectors)
        both = [np.concatenate(pair) for pair in zip(histories, left_out, strict=True)]
        return Requested(Ask(history=codes_in(rows, codes=self._codes)), like, both)

    def _only(self, keep: BoolArray) -> CodeTrie:
        """Return the tree of some items, kept for the next time that they are asked for.

        That of a single item, by which a hit is explained, takes no other's place.
        """
        if np.count_nonzero(keep) <= 1:
            return self._trie.only(keep)
        key = hashlib.blake2b(np.packbits(keep).tobytes(), digest_size=16).digest()
        with self._parts_lock:
            if (found := self._parts.get(key)) is not None:
                self._parts.move_to_end(key)
                return found
        found = self._trie.only(keep)  # others go on meanwhile; if one makes the same tree, either will do
        with self._parts_lock:
            self._parts[key] = found
            self._parts.move_to_end(key)
            while len(self._parts) > CACHED_TREES:
                self._parts.popitem(last=False)
        return found


def _eased(requests: Sequence[Request]) -> tuple[list[Request], list[IntArray]]:
    """Take away filters that keep all items but a few, and return these for each request.

    Such a filter is a user's own, for instance of what he has: requests that have one each share a tree and a batch so.
    """
    found, left_out = [], []
    for request in requests:
        out = np.empty(0, np.int64) if request.keep is None else np.flatnonzero(~request.keep)
        few = len(out) <= FEW_LEFT_OUT
        found.append(replace(request, keep=None) if few else request)
        left_out.append(out if few else out[:0])
    return found, left_out


def codes_in(rows: NDArray[Any], *, codes: NDArray[Any]) -> Tensor:
    """Return the IDs of the items in histories, as the model reads them.

    Args:
        rows: ``[n, most]``, item rows, -1 behind the end.
        codes: ``[item rows, levels]``.

    Returns:
        int64 ``[n, longest, levels]``, -1 behind the end.
    """
    rows = cut(rows.astype(np.int64))
    found = np.full((*rows.shape, codes.shape[1]), -1, dtype=np.int64)
    found[rows >= 0] = codes[rows[rows >= 0]]
    return torch.from_numpy(found)


@torch.inference_mode()
def say_items(
    model: Generative,
    asked: Requested,
    *,
    search: SearchDecoder,
    trie: CodeTrie,
    k: int,
    vectors: VectorsByRow | None = None,
) -> Hits:
    """Find the k items whose IDs are likeliest, on the device of the model.

    Args:
        model: trained.
        asked: ``[n]`` requests.
        search: its decoder, by `CodeDecoder.for_search`.
        trie: of the items that may be answered.
        k: places per request.
        vectors: ``[item rows, dim]``, to which ``asked.like`` belongs.

    Returns:
        ``[n, k]``, fewer where the beams hold fewer; scores as of `GenerativeRetriever`.
    """
    count = len(next(part for part in asked.ask if part is not None))
    hits = Hits.empty(count, k)
    device = next(model.parameters()).device
    for places in np.split(np.arange(count), range(ASKED_AT_ONCE, count, ASKED_AT_ONCE)):
        block = asked.some(places)
        read = model.read(Ask(*(None if part is None else part.to(device) for part in block.ask)))
        found = beam_search(
            search, read.tokens, keep=read.keep, trie=trie, beams=model.config.beams, left_out=block.left_out
        )
        for row, place in enumerate(places.tolist()):
            left_out = None if block.left_out is None else block.left_out[row]
            leaves, likely = found.leaves[row], found.log_probabilities[row]
            item_rows, scores = _items(leaves, likely, trie=trie, k=k, left_out=left_out)
            if vectors is not None and block.like is not None:
                scores = _stepped(scores, like=block.like[row], vectors=vectors[item_rows])
            best = np.lexsort((item_rows, -scores))[:k]
            hits.item_rows[place, : len(best)], hits.scores[place, : len(best)] = item_rows[best], scores[best]
    return hits


def _means(rows: NDArray[Any], *, vectors: VectorsByRow) -> FloatArray:
    """Return the mean of the vectors in each list ``[n, most]``, -1 behind the end; 0 where it is empty."""
    found = np.zeros((len(rows), vectors.shape[1]), dtype=np.float32)
    for place, own in enumerate(rows):
        if own[0] >= 0:
            found[place] = np.asarray(vectors[own[own >= 0]], dtype=np.float32).mean(axis=0)
    return found


def _items(
    leaves: IntArray, scores: FloatArray, *, trie: CodeTrie, k: int, left_out: NDArray[Any] | None
) -> tuple[IntArray, FloatArray]:
    """Gather the items under the likeliest leaves, until there are k and no further leaf is as likely."""
    rows: list[IntArray] = []
    own: list[FloatArray] = []
    count = 0
    for leaf, score in zip(leaves.tolist(), scores, strict=True):
        if leaf < 0 or (count >= k and score < own[-1][0]):
            break
        items = trie.items(leaf)
        rows.append(items if left_out is None else items[~np.isin(items, left_out)])
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
