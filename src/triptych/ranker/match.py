"""How query and item go together, as a number of a sample: the cosine of an encoder's vectors of both.

Whoever showed a page had matched it to the query, so what was shown teaches little of the match itself; an encoder
trained on searches knows it. Where a request has no words there is no such number.

Vectors are rounded to float16, as artefacts have them, so that a spoken request has the number of the same in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import load_vectors
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.ranker.samples import Samples

AT_ONCE = 16_384
"""Samples whose vectors are gathered at a time."""


@dataclass(frozen=True)
class Match:
    """An encoder's unit vectors of queries and items, for rankers that read their product."""

    item_vectors: NDArray[Any]
    """``[items, dim]`` by item row."""
    encode: Callable[[Sequence[str]], NDArray[np.float32]]
    """Texts of queries → ``[texts, dim]``, of the same encoder (`Embedder.queries`)."""
    query_vectors: NDArray[Any] | None = None
    """``[queries, dim]`` by query row of the log; None: it is asked in words alone, as where it answers."""

    @classmethod
    def open(
        cls,
        *,
        encoder: Artifact,
        embeddings: Artifact,
        query_embeddings: Artifact,
        content_rows: NDArray[np.integer] | None = None,
    ) -> Self:
        """Open an encoder's vectors; the encoder itself is opened when a spoken request is first encoded.

        Args:
            encoder: the encoder.
            embeddings: its vectors of the items.
            query_embeddings: its vectors of the queries.
            content_rows: ``[items]``, whose vector each item has, for the permuted-content control; None: its own.

        Raises:
            ArtifactError: vectors are of another encoder.
        """
        embeddings.require_input("encoder", encoder)
        query_embeddings.require_input("encoder", encoder)
        opened = cache(lambda: Embedder.open(encoder))
        items = load_vectors(embeddings)
        items = items if content_rows is None else np.asarray(items)[content_rows]
        return cls(items, lambda texts: opened().queries(texts), load_vectors(query_embeddings))

    def check(self, catalogue: Catalogue) -> None:
        """Refuse vectors of something else.

        Raises:
            ConfigError: they are not of this catalogue's items and queries, or not of one length.
        """
        wanted = [("items", self.item_vectors, catalogue.num_items)]
        if self.query_vectors is not None:
            wanted.append(("queries", self.query_vectors, len(catalogue.queries)))
        dim = self.item_vectors.shape[-1]
        for name, vectors, count in wanted:
            if vectors.shape != (count, dim):
                raise ConfigError(
                    f"match: vectors of {name} have the shape {vectors.shape}, and must have {(count, dim)}: one for "
                    f"each of the catalogue's {count:,} {name}."
                )

    def of_log(self, query_row: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return vectors of the log's queries ``[n, dim]``, NaN where a row is -1.

        Raises:
            ConfigError: there are none.
        """
        if self.query_vectors is None:
            raise ConfigError(
                "match: requests of the log are asked, and there are no vectors of its queries. Give them."
            )
        there = query_row >= 0
        found = np.full((len(query_row), self.query_vectors.shape[1]), np.nan, dtype=np.float32)
        found[there] = self.query_vectors[query_row[there]].astype(np.float16)
        return found

    def of_words(self, texts: Sequence[str | None]) -> NDArray[np.float32]:
        """Encode spoken queries ``[n, dim]``, NaN where there are no words."""
        spoken = [(place, text) for place, text in enumerate(texts) if text is not None and text.strip()]
        found = np.full((len(texts), self.item_vectors.shape[1]), np.nan, dtype=np.float32)
        if spoken:
            found[[place for place, _ in spoken]] = self.encode([text for _, text in spoken]).astype(np.float16)
        return found

    def cosines(
        self, queries: NDArray[np.float32], *, request: NDArray[np.integer], item_rows: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Return the cosine of each candidate's item with its request ``[n]``, NaN where either has no vector.

        Args:
            queries: ``[requests, dim]``, of `of_log` or `of_words`.
            request: ``[n]``, the place of each candidate's request.
            item_rows: ``[n]``.
        """
        items = np.asarray(self.item_vectors[item_rows]).astype(np.float16).astype(np.float32)
        products: NDArray[np.float64] = np.einsum("nd,nd->n", queries[request], items).astype(np.float64)
        return products

    def of_samples(self, samples: Samples) -> NDArray[np.float64]:
        """Return the cosines of samples of the log ``[samples]``, NaN where a request has no words."""
        found = np.empty(len(samples.label), dtype=np.float64)
        for start in range(0, len(found), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            places, request = np.unique(samples.request[some], return_inverse=True)
            queries = self.of_log(samples.requests.query_row[places])
            found[some] = self.cosines(queries, request=request, item_rows=samples.item_row[some])
        return found

    def with_items(self, vectors: NDArray[Any]) -> Match:
        """Return the same with more items behind the others, of vectors ``[n, dim]``."""
        more = np.asarray(vectors).astype(self.item_vectors.dtype)
        return replace(self, item_vectors=np.concatenate([self.item_vectors, more]))
