"""What the rows of a table cost where they answer: time of a query, bytes of an item, and IDs said that there are not.

Times are those of the machine that made the table, while it did: they stand beside the results and no claim rests on
them. All rows are asked the same queries one by one, in turn, so that what slows the machine for a while slows all.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.foundation.machine import num_cores
from triptych.foundation.progress import Progress
from triptych.recall.base import Request, Retriever
from triptych.recall.code_trie import CodeTrie
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recipes.controls import Control
from triptych.recipes.generation import TrainedGeneration
from triptych.recipes.recall import TrainedRecall
from triptych.recipes.semantic_ids import codes_of
from triptych.recipes.stages import Trained
from triptych.semantic_ids.stored import KIND as SEMANTIC_IDS

QUERIES = 100
"""Queries that are timed."""
VECTORS, TREE, FILES = "vectors", "tree of IDs", "files"
"""What an index is made of."""


class Said(NamedTuple):
    """The semantic IDs that a decoder says."""

    ids: int
    """How many, over all queries."""
    illegal: int
    """Of these, those that no item has which may be answered."""


class Cost(NamedTuple):
    """What a row costs, first seed."""

    name: str
    p50_ms: float
    """Of one query, from its words to the items."""
    p95_ms: float
    item_bytes: Mapping[str, float]
    """What is kept of an item to find it, by what it is part of; models are not counted."""
    said: Said | None
    """None: it says no IDs."""


def latencies(retrievers: Mapping[str, Retriever], requests: Sequence[Request], *, k: int) -> dict[str, NDArray[Any]]:
    """Ask every retriever every request, one by one and in turn: name → milliseconds ``[requests]``.

    Each is asked all of them once before, unmeasured: trees of cells and the like are made once.
    """
    found = {name: np.empty(len(requests)) for name in retrievers}
    with Progress("timing queries", total=2 * len(requests), unit="query") as bar:
        for measured in (False, True):
            for place, request in enumerate(requests):
                for name, retriever in retrievers.items():
                    begun = time.perf_counter()
                    retriever.retrieve([request], k)
                    if measured:
                        found[name][place] = 1000 * (time.perf_counter() - begun)
                bar.advance(1)
    return found


def item_bytes(trained: object) -> dict[str, float]:
    """Say what is kept of an item of the catalogue so that a trained row finds it.

    A decoder has the tree of the IDs, and the encoder's vectors, by which items under one ID are ordered.
    """
    if isinstance(trained, TrainedGeneration):
        tree = CodeTrie.load(trained.model.path)
        return {TREE: tree.memory_bytes / tree.num_items, **_vectors(trained.index)}
    assert isinstance(trained, Trained | TrainedRecall)
    return _vectors(trained.index)


def file_bytes(artifact: Artifact, *, num_items: int) -> dict[str, float]:
    """Say the same of a row without training, by the files that it is read from."""
    return {FILES: sum(artifact.file(name).stat().st_size for name in artifact.manifest["files"]) / num_items}


def said(retriever: GenerativeRetriever, requests: Sequence[Request], *, codes: NDArray[np.integer]) -> Said:
    """Count the IDs that a decoder says, and those of them that no item has which may be answered.

    Args:
        retriever: the decoder's.
        requests: what is asked.
        codes: ``[items, levels]``, the items' IDs, from what made them: not from the tree that it is kept to.
    """
    of_items = [tuple(one) for one in codes.tolist()]
    count = illegal = 0
    for request, own in zip(requests, retriever.said(requests), strict=True):
        rows = range(len(of_items)) if request.keep is None else np.flatnonzero(request.keep).tolist()
        there = {of_items[row] for row in rows}
        count += len(own)
        illegal += sum(tuple(one) not in there for one in own.tolist())
    return Said(count, illegal)


def said_by(trained: object, requests: Sequence[Request], *, out: Path, control: Control, seed: int) -> Said | None:
    """Count what a trained row says; None: it says no IDs.

    Args:
        trained: the row.
        requests: what is asked.
        out: folder of the run, where its semantic IDs are.
        control: of the row.
        seed: of its training.
    """
    if not isinstance(trained, TrainedGeneration):
        return None
    ids = Artifact.open(out / SEMANTIC_IDS / trained.model.inputs[SEMANTIC_IDS])
    return said(trained.alone(name="said"), requests, codes=codes_of(ids, control=control, seed=seed))


def machine() -> dict[str, Any]:
    """Describe the machine that times are of."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _vectors(index: Artifact) -> dict[str, float]:
    return {VECTORS: index.summary["bytes"] / index.summary["items"]}
