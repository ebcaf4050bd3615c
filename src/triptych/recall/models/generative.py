"""Generative retrieval: a query's semantic IDs are said code by code, and the items that have them are the answer."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError, EngineError
from triptych.foundation.types import Hits
from triptych.nn.code_decoder import CodeDecoder
from triptych.recall.base import BoolArray, FloatArray, Request, RetrieverConfig, group_by_keep
from triptych.recall.beam_search import beam_search
from triptych.recall.code_trie import CodeTrie

WEIGHTS_FILE, CONFIG_FILE, SIZES_FILE = "model.safetensors", "config.json", "sizes.json"
CACHED_TREES = 32
"""Trees of parts of the catalogue, such as delivery cells, that a retriever keeps at hand."""
ASKED_AT_ONCE = 256
"""Requests whose beams are in memory at a time."""


class GenerativeConfig(RetrieverConfig):
    """A decoder over the levels of semantic IDs, which reads a query's vector."""

    kind: Literal["generative"] = "generative"
    dim: int = Field(256, ge=8)
    """Width; a multiple of heads."""
    layers: int = Field(2, ge=1)
    """Blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads of a block."""
    memory_tokens: int = Field(4, ge=1)
    """Tokens that a query's vector is spread over, for the decoder to read."""
    beams: int = Field(50, ge=1)
    """Prefixes that are kept at each level; at least as many IDs as are wanted."""

    def build(self, sizes: GenerativeSizes, *, seed: int) -> Generative:
        """Make the model with new weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Generative(self, sizes)


class GenerativeSizes(NamedTuple):
    """What the model's shape depends on beside its config."""

    content_dim: int
    """Length of a query's vector."""
    levels: int
    """Codes of an ID."""
    num_codes: int
    """Codes of each level."""


class Generative(nn.Module):
    """Query vectors in, logits of codes out.

    Source: TIGER's decoder (Rajput et al., "Recommender systems with generative retrieval", 2023) for queries, as the
    SMGR reconstruction trains it (section 6.2, L_GQ). Ours reads the frozen vector of a pretrained encoder, so that a
    query of any words is answered, and says nothing that does not exist.
    """

    def __init__(self, config: GenerativeConfig, sizes: GenerativeSizes) -> None:
        """Make the layers."""
        super().__init__()
        self.config, self.sizes = config, sizes
        self.spread = nn.Linear(sizes.content_dim, config.memory_tokens * config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.decoder = CodeDecoder(
            config.dim, levels=sizes.levels, num_codes=sizes.num_codes, layers=config.layers, heads=config.heads
        )

    def asked(self, content: Tensor) -> Tensor:
        """Spread queries' vectors ``[n, content_dim]`` over tokens ``[n, memory_tokens, dim]``."""
        return self.norm(self.spread(content).view(len(content), self.config.memory_tokens, self.config.dim))

    def forward(self, content: Tensor, codes: Tensor) -> Tensor:
        """Score every code of each level, given the true ones before: logits ``[n, levels, num_codes]``.

        Args:
            content: ``[n, content_dim]``.
            codes: int64 ``[n, levels]``.
        """
        return self.decoder(self.asked(content), codes=codes)

    def save(self, folder: Path) -> None:
        """Write weights, config and sizes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous().cpu() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)
        write_json(folder / CONFIG_FILE, self.config.dump())
        write_json(folder / SIZES_FILE, self.sizes._asdict())

    @classmethod
    def load(cls, folder: Path) -> Generative:
        """Open what `save` wrote.

        Raises:
            ArtifactError: files are absent or do not belong together.
        """
        absent = [name for name in (WEIGHTS_FILE, CONFIG_FILE, SIZES_FILE) if not (folder / name).is_file()]
        if absent:
            raise ArtifactError(f"Generative model {str(folder)!r} has no {absent[0]}. Train it again.")
        sizes = GenerativeSizes(**json.loads((folder / SIZES_FILE).read_text(encoding="utf-8")))
        model = GenerativeConfig.load(folder / CONFIG_FILE).build(sizes, seed=0)
        try:
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ArtifactError(f"Generative model {str(folder)!r}: weights of another config ({reason}).") from None
        return model.eval()


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
            for block in np.split(places, range(ASKED_AT_ONCE, len(places), ASKED_AT_ONCE)):
                self._answer(content[block], places=block, trie=trie, k=k, into=hits)
        return hits

    @torch.inference_mode()
    def _answer(
        self, content: NDArray[np.float32], *, places: NDArray[np.int64], trie: CodeTrie, k: int, into: Hits
    ) -> None:
        device = next(self._model.parameters()).device  # a validation asks the model where it is trained
        asked = self._model.asked(torch.from_numpy(np.ascontiguousarray(content, dtype=np.float32)).to(device))
        found = beam_search(self._model.decoder, asked, trie=trie, beams=self._model.config.beams)
        for row, place in enumerate(places.tolist()):
            item_rows, scores = self._items(found.leaves[row], found.log_probabilities[row], trie=trie, k=k)
            scores = self._stepped(item_rows, scores, query=content[row])
            best = np.lexsort((item_rows, -scores))[:k]
            into.item_rows[place, : len(best)], into.scores[place, : len(best)] = item_rows[best], scores[best]

    def _items(
        self, leaves: NDArray[np.int64], scores: FloatArray, *, trie: CodeTrie, k: int
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """Gather the items under the likeliest leaves, until there are k and no further leaf is as likely."""
        rows: list[NDArray[np.int64]] = []
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

    def _stepped(self, item_rows: NDArray[np.int64], scores: FloatArray, *, query: NDArray[np.float32]) -> FloatArray:
        """Take the scores of items that share one down, by the order of their vectors."""
        if self._vectors is None or not len(scores):
            return scores
        # Row by row, not as a matrix product, whose rounding depends on how many rows there are: equals stay equal.
        dense = (np.asarray(self._vectors[item_rows], dtype=np.float32) * query).sum(axis=1)
        stepped = scores.copy()
        for score in np.unique(scores):
            shared = np.flatnonzero(scores == score)
            steps = np.unique(-dense[shared], return_inverse=True)[1]
            lowered = score
            for step in range(1, int(steps.max()) + 1):
                lowered = np.nextafter(lowered, np.float32(-np.inf))
                stepped[shared[steps == step]] = lowered
        return stepped

    def _only(self, keep: BoolArray) -> CodeTrie:
        """Return the tree of some items, kept for the next time that they are asked for."""
        key = hashlib.blake2b(np.packbits(keep).tobytes(), digest_size=16).digest()
        if key not in self._parts:
            self._parts[key] = self._trie.only(keep)
            if len(self._parts) > CACHED_TREES:
                self._parts.popitem(last=False)
        self._parts.move_to_end(key)
        return self._parts[key]


CONFIG = GenerativeConfig
