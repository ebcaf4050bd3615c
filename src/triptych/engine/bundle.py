"""Bundles: the parts an engine is opened from, checked to belong together.

A bundle artefact holds ``bundle.json``, part → path relative to the bundle's own folder, and nothing else: the parts
stay where their stages wrote them. So a run folder can be copied, but a bundle cannot be moved out of it alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from triptych.foundation.artifact import MANIFEST, Artifact, produce, write_json
from triptych.foundation.config import Config
from triptych.foundation.errors import ArtifactError, did_you_mean
from triptych.index.backends.auto import AutoConfig
from triptych.index.base import IndexConfig
from triptych.recall.models.dense import DenseConfig
from triptych.semantic_ids.stored import KIND as IDS_KIND
from triptych.semantic_ids.stored import PARTS as ID_PARTS

KIND, INDEX_KIND = "bundle", "index"
KINDS = {"recall_index": INDEX_KIND, **dict.fromkeys(ID_PARTS.values(), IDS_KIND)}
"""Part → the kind of its artefact, where that is not the part's name."""
BUNDLE, RUN = "bundle.json", "run.json"


@dataclass(frozen=True)
class Parts:
    """The artefacts behind an engine, by the names they have in the bundle."""

    catalogue: Artifact
    encoder: Artifact
    index: Artifact
    """Item vectors of `encoder` over `catalogue`."""
    popularity: Artifact
    bm25: Artifact
    recall: Artifact | None = None
    """A recall model; None: the shop has none."""
    recall_index: Artifact | None = None
    """Item vectors of `recall`."""
    relevance_control: Artifact | None = None
    """What the answers of `recall` must have; None: nothing."""
    hybrid: Artifact | None = None
    """How the others are fused; None: the shop has no such channel."""
    item_knn: Artifact | None = None
    """Which items the same users chose; None: the shop has no such channel."""
    semantic_ids: Artifact | None = None
    """Codes of `encoder`'s item vectors; None: the shop has none."""
    semantic_ids_title: Artifact | None = None
    """Codes of its vectors of titles by themselves; None: the shop has none."""
    semantic_ids_photo: Artifact | None = None
    """Codes of its vectors of photos by themselves, likewise."""
    generative: Artifact | None = None
    """A decoder that says `semantic_ids`; None: the shop has none."""
    ranker: Artifact | None = None
    """Puts the first of what was found into another order; None: the shop has none."""
    ranking: Artifact | None = None
    """What validation said of `ranker`: of which channel, and whether its order was better."""
    item_views: Artifact | None = None
    """Vectors of title and photo alone, which `ranker` fuses; None: it reads none."""

    def named(self) -> dict[str, Artifact]:
        """Return part → artefact, of those that there are."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in every.items() if part is not None}


class Savable(Protocol):
    """A retriever that writes itself into a folder."""

    def save(self, folder: Path) -> None:
        """Write its files."""
        ...


def write_index(
    parent: Path,
    *,
    vectors: Callable[[], NDArray[Any]],
    catalogue: Artifact,
    encoder: Artifact,
    config: IndexConfig | None = None,
) -> Artifact:
    """Write the index of a catalogue's item vectors.

    Args:
        parent: the stage's folder, ``runs/<name>/index``.
        vectors: gives ``[items, dim]``; called only if the index is not there yet.
        catalogue: whose items.
        encoder: what encoded them; the engine refuses the index beside another one.
        config: of the index; None: exact or inverted lists, by the number of items. The summary says which it became.
    """
    config = config or AutoConfig()

    def build(folder: Path) -> dict[str, Any]:
        index = config.build(vectors())
        index.save(folder)
        return {"kind": index.config.kind, "items": index.num_rows, "dim": index.dim, "bytes": index.memory_bytes}

    inputs = {"catalogue": catalogue, "encoder": encoder}
    return produce(parent, kind=INDEX_KIND, config=config, inputs=inputs, build=build)


def write_retriever(
    parent: Path,
    *,
    fit: Callable[[], Savable],
    kind: str,
    config: Config,
    inputs: Mapping[str, Artifact],
) -> Artifact:
    """Write a retriever that is fitted in closed form.

    Args:
        parent: the stage's folder, ``runs/<name>/<kind>``.
        fit: makes it; called only if it is not there yet.
        kind: of the artefact; the engine opens ``popularity`` and ``bm25``.
        config: the one that `fit` uses.
        inputs: what it is made from: ``catalogue``, and for popularity ``split``.
    """

    def build(folder: Path) -> dict[str, Any]:
        fit().save(folder)
        return {}

    return produce(parent, kind=kind, config=config, inputs=inputs, build=build)


def write_bundle(
    parent: Path,
    *,
    catalogue: Artifact,
    encoder: Artifact,
    index: Artifact,
    popularity: Artifact,
    bm25: Artifact,
    dense: DenseConfig | None = None,
    recall: Artifact | None = None,
    recall_index: Artifact | None = None,
    relevance_control: Artifact | None = None,
    hybrid: Artifact | None = None,
    item_knn: Artifact | None = None,
    semantic_ids: Artifact | None = None,
    semantic_ids_title: Artifact | None = None,
    semantic_ids_photo: Artifact | None = None,
    generative: Artifact | None = None,
    ranker: Artifact | None = None,
    ranking: Artifact | None = None,
    item_views: Artifact | None = None,
    recommend: str | None = None,
) -> Artifact:
    """Write the bundle of a run.

    Args:
        parent: the stage's folder, ``runs/<name>/bundle``, beside the folders of the parts.
        catalogue: the items.
        encoder: of queries and items.
        index: from `write_index`.
        popularity: from `write_retriever`.
        bm25: from `write_retriever`.
        dense: how the engine turns requests into vectors.
        recall: a recall model, over this encoder if it reads content, and over these semantic IDs if it reads such;
            None: there is none.
        recall_index: of its item vectors.
        relevance_control: what its answers must have, from `write_retriever`; None: nothing.
        hybrid: how these are fused; None: they are not.
        item_knn: from `write_retriever`; None: the shop has no such channel.
        semantic_ids: of the encoder's item vectors; None: there are none.
        semantic_ids_title: of its vectors of titles by themselves, likewise.
        semantic_ids_photo: of photos by themselves.
        generative: a decoder that says them; None: there is none.
        ranker: over this catalogue, and this encoder if it reads content; None: there is none.
        ranking: what validation said of it.
        item_views: of the encoder, for a ranker that reads them.
        recommend: the channel that recommends; None: the recall model where it answers users, else the encoder.

    Raises:
        ArtifactError: the parts do not belong together.
    """
    parts = Parts(
        catalogue=catalogue,
        encoder=encoder,
        index=index,
        popularity=popularity,
        bm25=bm25,
        recall=recall,
        recall_index=recall_index,
        relevance_control=relevance_control,
        hybrid=hybrid,
        item_knn=item_knn,
        semantic_ids=semantic_ids,
        semantic_ids_title=semantic_ids_title,
        semantic_ids_photo=semantic_ids_photo,
        generative=generative,
        ranker=ranker,
        ranking=ranking,
        item_views=item_views,
    )
    check_lineage(parts)
    places = {name: os.path.relpath(part.path, parent / "id") for name, part in parts.named().items()}

    def build(folder: Path) -> dict[str, Any]:
        write_json(folder / BUNDLE, places)
        return {}

    return produce(
        parent,
        kind=KIND,
        config={"parts": places, "dense": (dense or DenseConfig()).dump(), "recommend": recommend},
        inputs=parts.named(),
        build=build,
    )


def open_bundle(path: str | Path) -> tuple[Artifact, Parts]:
    """Open the bundle of a run folder, or a bundle artefact, and check that its parts belong together.

    Raises:
        ArtifactError: there is no finished run, a part is absent, or one was made from something else.
    """
    found = _find(Path(path))
    # The path itself, not a link on the way to it: tables are opened when they are first asked for, and a link such as
    # runs/current may point to another run by then.
    bundle = Artifact(found.path.resolve(), found.manifest)
    places = json.loads(bundle.file(BUNDLE).read_text(encoding="utf-8"))
    parts = Parts(
        **{name: Artifact.open(bundle.path / place, kind=KINDS.get(name, name)) for name, place in places.items()}
    )
    for name, part in parts.named().items():
        bundle.require_input(name, part)
    check_lineage(parts)
    return bundle, parts


def check_lineage(parts: Parts) -> None:
    """Check that an index holds its model's vectors, and that all parts number the same items.

    Raises:
        ArtifactError: they do not; both ids are named.
    """
    parts.index.require_input("encoder", parts.encoder)
    ids = [getattr(parts, name) for name in ID_PARTS.values()]
    for part in (parts.index, parts.popularity, parts.bm25, parts.item_knn, parts.relevance_control, *ids):
        if part is not None:
            part.require_input("catalogue", parts.catalogue)
    if (parts.recall is None) != (parts.recall_index is None):
        raise ArtifactError(
            "A bundle has a recall model and the index of its vectors, or neither. Run it again: triptych run."
        )
    if parts.relevance_control is not None and parts.recall is None:
        raise ArtifactError(
            "A bundle says what the answers of its recall model must have, and there is none. Run it again: "
            "triptych run."
        )
    if parts.recall is not None and parts.recall_index is not None:
        parts.recall.require_input("catalogue", parts.catalogue)
        if "encoder" in parts.recall.inputs:
            parts.recall.require_input("encoder", parts.encoder)
        _check_sets(parts, recall=parts.recall)
        parts.recall_index.require_input("encoder", parts.recall)
    if parts.generative is not None:
        if parts.semantic_ids is None:
            raise ArtifactError("A bundle's decoder says semantic IDs, and there are none. Run it again: triptych run.")
        parts.generative.require_input("semantic_ids", parts.semantic_ids)
    if parts.hybrid is not None:
        for name in ("catalogue", "encoder", "popularity", "bm25", "recall", "relevance_control", "generative"):
            part = getattr(parts, name)
            if part is not None:
                parts.hybrid.require_input(name, part)
    _check_ranker(parts)


def _check_sets(parts: Parts, *, recall: Artifact) -> None:
    """Check that the bundle has the semantic IDs that a recall model reads."""
    for of, name in ID_PARTS.items():
        if name not in recall.inputs:
            continue
        own = getattr(parts, name)
        if own is None:
            raise ArtifactError(
                f"A bundle's recall model reads semantic IDs, and there are none of the {of}. Run it again: "
                "triptych run."
            )
        recall.require_input(name, own)


def _check_ranker(parts: Parts) -> None:
    """Check that a ranker is of these items and vectors, and that what validation said is said of it."""
    if (parts.ranker is None) != (parts.ranking is None):
        raise ArtifactError(
            "A bundle has a ranker and what validation said of it, or neither. Run it again: triptych run."
        )
    if parts.ranker is None or parts.ranking is None:
        return
    parts.ranker.require_input("catalogue", parts.catalogue)
    parts.ranking.require_input("ranker", parts.ranker)
    if "encoder" in parts.ranker.inputs:
        parts.ranker.require_input("encoder", parts.encoder)
    if "semantic_ids" in parts.ranker.inputs:
        if parts.semantic_ids is None:
            raise ArtifactError("A bundle's ranker reads semantic IDs, and there are none. Run it again: triptych run.")
        parts.ranker.require_input("semantic_ids", parts.semantic_ids)
    if parts.item_views is not None:
        parts.ranker.require_input("item_views", parts.item_views)
        parts.item_views.require_input("encoder", parts.encoder)
    elif "item_views" in parts.ranker.inputs:
        raise ArtifactError("The bundle's ranker reads vectors of title and photo, and there are none. Run it again.")


def _find(path: Path) -> Artifact:
    """Open a bundle given itself or its run folder."""
    if (path / MANIFEST).is_file():
        return Artifact.open(path, kind=KIND)
    if path.is_file():
        raise ArtifactError(f"{str(path)!r} is a file; give the folder of a run, the --out of `triptych run`.")
    if not (path / RUN).is_file():
        runs = [found.parent.name for found in path.parent.glob(f"*/{RUN}")] if path.parent.is_dir() else []
        raise ArtifactError(
            f"There is no run in {str(path)!r}.{did_you_mean(path.name, runs)} "
            f"Make one with: triptych run RECIPE --out {path}"
        )
    stages = json.loads((path / RUN).read_text(encoding="utf-8")).get("stages", {})
    if KIND not in stages:
        finished = ", ".join(stages) or "none"
        raise ArtifactError(
            f"The run in {str(path)!r} is not finished: it has no '{KIND}' yet (finished: {finished}). "
            "If it is still running, wait for it; if not, the same `triptych run` resumes it."
        )
    return Artifact.open(path / stages[KIND], kind=KIND)
