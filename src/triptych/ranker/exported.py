"""An exported ranker in use: the same scores as `scorer.Ranker`, from ONNX Runtime.

It is also how the graphs of `ranker.export` are meant to be asked: what of it is look-ups in arrays, whoever serves it
does in his own language.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import safe_open

from triptych.data.catalogue import Catalogue
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, ConfigError, MissingExtra
from triptych.nn.bags import PaddedRows, TableBags
from triptych.ranker.export import (
    CONTENT,
    CONTENT_GRAPH,
    FORMAT,
    IS_THERE,
    ITEM_LIST,
    KIND,
    LOG_ODDS,
    MADE_BY,
    RANKER_GRAPH,
    REQUEST_LIST,
    SIGNATURE_FILE,
    TOKENS,
    VECTORS_FILE,
)
from triptych.ranker.feature_ids import FeatureIds
from triptych.ranker.features import Asking, Features, Modalities, tokens_of
from triptych.ranker.inputs import Candidates
from triptych.ranker.match import Match
from triptych.ranker.samples import Samples
from triptych.ranker.scorer import FEATURES, score_in_parts


class ExportedRanker:
    """A graph with what it reads."""

    def __init__(
        self, artifact: Artifact, features: Features, *, vectors: Mapping[str, NDArray[np.float32]], threads: int
    ) -> None:
        """Open the graph; use `load`."""
        self.features = features
        self.signature = json.loads(artifact.file(SIGNATURE_FILE).read_text(encoding="utf-8"))
        """Inputs and outputs, and what it was made from."""
        self._artifact, self._vectors, self._threads = artifact, dict(vectors), threads
        self._session = _open(artifact, RANKER_GRAPH, threads=threads)
        self._reads = {one.name for one in self._session.get_inputs()}

    @classmethod
    def load(
        cls,
        artifact: Artifact,
        *,
        catalogue: Catalogue,
        match: Match | None = None,
        beside: Mapping[str, Artifact] | None = None,
        threads: int = 1,
    ) -> Self:
        """Open what `export.export_ranker` wrote.

        Args:
            artifact: the export.
            catalogue: whose items are scored.
            match: the encoder whose match of query and item it reads, as of `Ranker.load`.
            beside: what else it is used with, by the names of the export's inputs: the encoder that makes vectors of
                new items, say, or the embeddings. None: nothing that is known of.
            threads: of one call; 0: one for each core.

        Raises:
            ArtifactError: it is no such export, or of another layout; the catalogue or something beside it is not what
                it was made from; a graph or the vectors in it are of another ranker.
            ConfigError: a match is read and not given, or given and not read.
            MissingExtra: the ``export`` extra is not installed.
        """
        Artifact.open(artifact.path, kind=KIND)
        for name, other in {"catalogue": catalogue.artifact, **(beside or {})}.items():
            artifact.require_input(name, other)
        signature = json.loads(artifact.file(SIGNATURE_FILE).read_text(encoding="utf-8"))
        if signature["format"] != FORMAT:
            raise ArtifactError(
                f"The exported ranker {artifact.id} has format {signature['format']}, and this version of triptych "
                f"reads {FORMAT}. Export the ranker again."
            )
        if signature["made_from"] != artifact.inputs:
            raise ArtifactError(_mixed(artifact, SIGNATURE_FILE, made_by=signature["made_from"].get(MADE_BY)))
        vectors = _read_vectors(artifact) if signature["content_vectors"] else {}
        features = Features(
            catalogue,
            ids=FeatureIds.load(artifact.path / FEATURES),
            history_items=signature["history_items"],
            match=match,
        )
        return cls(artifact, features, vectors=vectors, threads=threads)

    def score_samples(self, samples: Samples) -> NDArray[np.float32]:
        """Return log odds of samples of the catalogue's log ``[samples]``."""
        return score_in_parts(samples, features=self.features, score=self.score_candidates)

    def score(
        self, asking: Asking, *, item_rows: NDArray[np.integer], request: NDArray[np.integer] | None = None
    ) -> NDArray[np.float32]:
        """Return log odds of candidates ``[candidates]``; arguments as of `Ranker.score`."""
        of = np.zeros(len(item_rows), dtype=np.int64) if request is None else request
        return self.score_candidates(self.features.candidates(asking, request=of, item_rows=item_rows))

    def score_candidates(self, given: Candidates) -> NDArray[np.float32]:
        """Return log odds ``[n]`` of what has been gathered; its content is not read, but that of its item rows."""
        odds: NDArray[np.float32] = self._session.run([LOG_ODDS], self.inputs(given))[0]
        return odds

    def inputs(self, given: Candidates) -> dict[str, NDArray[Any]]:
        """Return candidates as the graph reads them, by name."""
        rows, ids = given.items.item_rows.numpy(), self.features.ids
        vectors = {name: found[rows] for name, found in self._vectors.items()}
        every = graph_inputs(given, item_lists=ids.item_lists, request_lists=ids.request_lists, vectors=vectors)
        return {name: every[name] for name in self._reads}

    def content_vectors(self, modalities: Modalities) -> dict[str, NDArray[np.float32]]:
        """Work out what a ranker with content keeps of each item, when items appear.

        Args:
            modalities: what they are made of, ``[n, dim]`` or ``[n, tokens, dim]`` of each that the ranker was trained
                with, of the same encoder.

        Returns:
            Name → float32 ``[n, dim]``; nothing of a ranker without content.

        Raises:
            ConfigError: they are not those that it was trained with.
        """
        graph = self.signature["graphs"].get(CONTENT_GRAPH)
        if graph is None:
            return {}
        wanted = {
            one["name"].removeprefix(TOKENS): tuple(one["shape"][1:])
            for one in graph["inputs"]
            if one["name"].startswith(TOKENS)
        }
        tokens = {name: tokens_of(vectors, np.arange(len(vectors))) for name, vectors in modalities.items()}
        given = {name: tuple(one.tokens.shape[1:]) for name, one in tokens.items()}
        for name, shape in wanted.items():  # an axis by name is as long as the call has it
            if name in given and isinstance(shape[0], str):
                given[name] = (shape[0], *given[name][1:])
        if given != wanted:
            trained, told = (
                ", ".join(f"{name} {list(shape)}" for name, shape in sorted(one.items())) or "none"
                for one in (wanted, given)
            )
            raise ConfigError(f"modalities: the ranker was exported with {trained}, and is given {told}.")
        inputs: dict[str, NDArray[Any]] = {}
        for name, one in tokens.items():
            assert one.keep is not None
            inputs |= {TOKENS + name: one.tokens.numpy(), IS_THERE + name: one.keep.numpy()}
        session = _open(self._artifact, CONTENT_GRAPH, threads=self._threads)
        reads = {one.name for one in session.get_inputs()}
        names = [one.name for one in session.get_outputs()]
        found = session.run(names, {name: value for name, value in inputs.items() if name in reads})
        return {name.removeprefix(CONTENT): vectors for name, vectors in zip(names, found, strict=True)}

    def with_items(
        self, items: pl.DataFrame, *, modalities: Modalities, match_vectors: NDArray[Any] | None = None
    ) -> ExportedRanker:
        """Return the same with more items behind the others; arguments as of `Ranker.with_items`."""
        more = copy.copy(self)
        more.features = self.features.with_items(items, modalities={}, match_vectors=match_vectors)
        if self._vectors:
            found = self.content_vectors(modalities)
            more._vectors = {name: np.concatenate([old, found[name]]) for name, old in self._vectors.items()}
        return more


def graph_inputs(
    given: Candidates, *, item_lists: Iterable[str], request_lists: Iterable[str], vectors: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return all that a ranker's graph may read, by name.

    Args:
        given: candidates.
        item_lists: names of the multi-valued features of items.
        request_lists: likewise of requests.
        vectors: content vectors of the items of the call, by name.
    """
    items, requests = given.items, given.requests
    return {
        "item_fields": items.fields.numpy(),
        "item_numbers": items.numbers.numpy(),
        "request_fields": requests.fields.numpy(),
        "steps": requests.steps.numpy(),
        "gaps": requests.gaps.numpy(),
        "kinds": requests.kinds.numpy(),
        "request": given.request.numpy(),
        "target": given.target.numpy(),
        "candidate_numbers": given.numbers.numpy(),
        **{CONTENT + name: found for name, found in vectors.items()},
        **{ITEM_LIST + name: _padded(one) for name, one in zip(item_lists, items.lists, strict=True)},
        **{REQUEST_LIST + name: _padded(one) for name, one in zip(request_lists, requests.lists, strict=True)},
    }


def _open(artifact: Artifact, name: str, *, threads: int) -> Any:
    """Open a graph, and see that it is the artefact's own."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingExtra("An exported ranker", extra="export") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(artifact.file(name), options, providers=["CPUExecutionProvider"])
    made_by = session.get_modelmeta().custom_metadata_map.get(MADE_BY)
    if made_by != artifact.inputs[MADE_BY]:
        raise ArtifactError(_mixed(artifact, name, made_by=made_by))
    return session


def _read_vectors(artifact: Artifact) -> dict[str, NDArray[np.float32]]:
    """Read content vectors, and see that they are the artefact's own."""
    with safe_open(artifact.file(VECTORS_FILE), framework="numpy") as file:
        made_by = (file.metadata() or {}).get(MADE_BY)
        if made_by != artifact.inputs[MADE_BY]:
            raise ArtifactError(_mixed(artifact, VECTORS_FILE, made_by=made_by))
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping


def _mixed(artifact: Artifact, name: str, *, made_by: str | None) -> str:
    return (
        f"The exported ranker {artifact.id} was made from ranker {artifact.inputs[MADE_BY]}, and its file '{name}' "
        f"from ranker {made_by}. Export the ranker again, and take all files of one export."
    )


def _padded(rows: TableBags | PaddedRows) -> NDArray[np.int64]:
    found: NDArray[np.int64] = (rows if isinstance(rows, PaddedRows) else rows.padded()).rows.numpy()
    return found
