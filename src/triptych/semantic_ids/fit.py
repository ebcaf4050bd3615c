"""Makes semantic IDs: fits a quantiser to an embeddings artefact, assigns every item, and measures the result.

Semantic IDs of several things, such as the fused item, its image and its text, are as many quantisers over as many
embeddings (`run_each`), or over the sides of an item that an encoder has made vectors of (`run` with `of`).

Codebooks are learned as the encoders are: of items that were there before validation. Those that came later get the
codes that the frozen codebooks give them, as an item does that is added while the shop is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.encoders.embeddings import KIND as EMBEDDINGS_KIND
from triptych.encoders.embeddings import VIEWS_KIND, Modality, load_vectors, load_views
from triptych.foundation.artifact import Artifact, produce, sha256, write_json
from triptych.foundation.errors import DataError
from triptych.losses.base import LossOutput
from triptych.semantic_ids.base import ClosedFormConfig, Quantizer, Trainable, TrainedConfig
from triptych.semantic_ids.collisions import resolve
from triptych.semantic_ids.config import SemanticIdsConfig, TrainingConfig
from triptych.semantic_ids.quality import Grouping, measure, require
from triptych.semantic_ids.stored import CODES, EMBEDDINGS, KIND, QUALITY, THERE, SemanticIds
from triptych.semantic_ids.vectors import check_shape, draw, take
from triptych.training.loop import fit as train
from triptych.training.task import Validation

BATCHES, VALIDATION = 1, 2
"""Set apart what is drawn from the same seed."""


def run(
    config: SemanticIdsConfig,
    *,
    embeddings: Artifact | Path,
    out: Path,
    catalogue: Catalogue | None = None,
    split: Split | None = None,
    of: Modality = Modality.ITEM,
) -> Artifact:
    """Make semantic IDs, go on where training was interrupted, or open them where they have been made.

    Args:
        config: quantiser, policy, measure, gate. The gate does not enter the artefact's id: another gate judges what is
            there.
        embeddings: an ``embeddings`` artefact, or a file of vectors ``[items, dim]`` (``.npy``); of a title or a photo
            an ``item_views`` artefact.
        out: the stage's folder.
        catalogue: of the items, for the measures by category and by delivery cell; None leaves those out.
        split: of its log. Codebooks, and what a policy moves, are learned of the items that training may know
            (`Split.items_known`), and the others are assigned what the codebooks say. None: of all.
        of: which of an item's vectors. Of a title or a photo, items without one have no ID.

    Returns:
        Artefact ``semantic_ids``: ``codes.npy`` (uint16 ``[items, levels]``, by item row), ``quantizer.safetensors``,
        ``quality.json`` (of the items that have an ID); where some have none ``there.npy``; of a trained kind
        ``train.jsonl``. `stored.SemanticIds` opens it.

    Raises:
        ArtifactError: embeddings or split were made from another catalogue.
        ConfigError: there are fewer vectors to learn from than codes.
        DataError: a vector cannot be quantised, the policy cannot be kept, or the gate is not passed.
    """
    inputs: dict[str, Artifact | str] = {EMBEDDINGS: _fingerprint(embeddings, of=of)}
    if of is not Modality.ITEM:
        inputs["of"] = of.value
    known: NDArray[np.bool_] | None = None
    if catalogue is not None:
        if isinstance(embeddings, Artifact):
            embeddings.require_input("catalogue", catalogue.artifact)
        inputs["catalogue"] = catalogue.artifact
    if split is not None:
        if catalogue is None:
            raise ValueError("a split says which items are known of a catalogue: give both")
        known = split.items_known(catalogue)
        inputs["split"] = split.artifact

    def build(folder: Path) -> Mapping[str, Any]:
        vectors = _vectors(embeddings, of=of)
        if known is not None and len(known) != len(vectors):
            raise DataError(f"semantic ids: there are {len(vectors)} vectors of a catalogue of {len(known)} items.")
        grouping = (Grouping() if catalogue is None else _grouping(catalogue))._replace(known=known)
        there = None if of is Modality.ITEM else _there(vectors, of=of)
        if there is not None:
            vectors = vectors[there]
            grouping = grouping.some(there)
        learned = grouping.known
        rows = None if learned is None or learned.all() else np.flatnonzero(learned)
        quantizer, summary = _fitted(config, vectors, rows=rows, folder=folder)
        quantizer.save(folder)
        codes = quantizer.assign(vectors)
        codes = resolve(codes, quantizer=quantizer, vectors=vectors, config=config.collisions, rows=rows)
        np.save(folder / CODES, codes if there is None else _by_row(codes, there=there))
        if there is not None:
            np.save(folder / THERE, there)
        seed = config.quantizer.seed
        quality = measure(quantizer, vectors, codes, config=config.quality, seed=seed, grouping=grouping)
        write_json(folder / QUALITY, quality.dump())
        return {**summary, "dim": quantizer.dim, **quality.dump()}

    artifact = produce(out, kind=KIND, config=_described(config), inputs=inputs, build=build)
    require(SemanticIds.open(artifact).quality, gate=config.gate, of=f"{_path(embeddings)} ({artifact.path})")
    return artifact


def run_each(
    config: SemanticIdsConfig,
    *,
    embeddings: Mapping[str, Artifact | Path],
    out: Path,
    catalogue: Catalogue | None = None,
    split: Split | None = None,
) -> dict[str, Artifact]:
    """Make semantic IDs of several embeddings of the same items, each with codebooks of its own.

    Args:
        config: the same for each.
        embeddings: name, such as item, image, text → as in `run`.
        out: the stage's folder, of all.
        catalogue: as in `run`.
        split: as in `run`.

    Returns:
        Name → artefact.
    """
    return {
        name: run(config, embeddings=one, out=out, catalogue=catalogue, split=split) for name, one in embeddings.items()
    }


class Batch(NamedTuple):
    """What a step learns from."""

    vectors: Tensor
    """float32 ``[batch, dim]``."""


class QuantizerTask:
    """A quantiser with weights, as the training loop sees it."""

    def __init__(
        self,
        trainable: Trainable,
        vectors: NDArray[Any],
        *,
        config: TrainingConfig,
        seed: int,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        """Draw what it is validated on.

        Args:
            trainable: what is trained.
            vectors: ``[n, dim]``; may be memory-mapped.
            config: sizes.
            seed: of what is drawn.
            rows: of the vectors that may be learned from, ascending; None: all.
        """
        self.name = "semantic ids"
        self.module = trainable.module
        self._trainable = trainable
        self._vectors, self._rows = vectors, rows
        self._size = config.batch_vectors
        self._seed = seed
        rng = np.random.default_rng([seed, VALIDATION])
        self._validation = draw(vectors, of=rows, size=config.validation_vectors, rng=rng)

    def batch(self, index: int) -> Batch:
        """Draw vectors."""
        rng = np.random.default_rng([self._seed, BATCHES, index])
        among = self._rows
        drawn = np.sort(rng.integers(0, len(self._vectors if among is None else among), self._size))
        rows = drawn if among is None else among[drawn]  # ascending: a mapped file is read in order
        return Batch(torch.from_numpy(take(self._vectors, rows)))

    def num_samples(self, batch: Batch) -> int:
        """Count vectors."""
        return len(batch.vectors)

    def losses(self, batch: Batch) -> LossOutput:
        """Ask the quantiser."""
        return self._trainable.losses(batch.vectors)

    def validate(self) -> Validation:
        """Measure how much of the vectors' variance their codes explain, as they will be assigned."""
        quantizer = self._trainable.frozen()
        codes = quantizer.assign(self._validation)
        lost = np.square(self._validation - quantizer.reconstruct(codes), dtype=np.float64).sum()
        spread = np.square(self._validation - self._validation.mean(axis=0), dtype=np.float64).sum()
        used = len(np.unique(codes[:, 0])) / quantizer.num_codes
        metrics = {"explained_variance": 1 - float(lost / max(spread, 1e-30)), "first_level_used_rate": used}
        return Validation(metrics, headline="explained_variance")


def _fitted(
    config: SemanticIdsConfig, vectors: NDArray[Any], *, rows: NDArray[np.int64] | None, folder: Path
) -> tuple[Quantizer, Mapping[str, Any]]:
    """Fit to some rows, or train on them; also returns what the artefact's summary says of it."""
    quantizer = config.quantizer
    if isinstance(quantizer, ClosedFormConfig):
        return quantizer.fit(vectors, rows=rows), {}
    assert isinstance(quantizer, TrainedConfig)
    trainable = quantizer.start(vectors, rows=rows)
    task = QuantizerTask(trainable, vectors, config=config.training, seed=quantizer.seed, rows=rows)
    result = train(task, config=config.training.loop, out=folder, seed=quantizer.seed)
    return trainable.frozen(), {"training": result._asdict()}


def _described(config: SemanticIdsConfig) -> dict[str, Any]:
    """Return what decides the content."""
    tree = config.dump()
    del tree["gate"]
    if not isinstance(config.quantizer, TrainedConfig):
        del tree["training"]
    return tree


def _there(vectors: NDArray[Any], *, of: Modality) -> NDArray[np.bool_] | None:
    """Say which items have such a side; None: all."""
    there: NDArray[np.bool_] = ~np.isnan(vectors[:, 0])
    if not there.any():
        raise DataError(f"semantic ids of {of}: no item has one.")
    return None if there.all() else there


def _by_row(codes: NDArray[np.uint16], *, there: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return the codes of some items by the rows of all."""
    found = np.zeros((len(there), codes.shape[1]), np.uint16)
    found[there] = codes
    return found


def _vectors(embeddings: Artifact | Path, *, of: Modality = Modality.ITEM) -> NDArray[Any]:
    if isinstance(embeddings, Artifact):
        return load_vectors(embeddings) if of is Modality.ITEM else load_views(embeddings)[of.value]
    vectors: NDArray[Any] = np.load(embeddings, mmap_mode="r", allow_pickle=False)
    return vectors


def _fingerprint(embeddings: Artifact | Path, *, of: Modality) -> Artifact | str:
    """Return what stands for the vectors in the artefact's id; refuses what is none.

    Raises:
        ArtifactError: an artefact of another kind.
        DataError: no file of vectors.
    """
    if isinstance(embeddings, Artifact):
        return Artifact.open(embeddings.path, kind=EMBEDDINGS_KIND if of is Modality.ITEM else VIEWS_KIND)
    if of is not Modality.ITEM:
        raise ValueError(f"a file holds vectors of one kind: give the item_views that the {of} is of")
    try:
        check_shape(_vectors(embeddings))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(embeddings)!r} is no file of vectors (.npy): {error}") from None
    return sha256(embeddings)


def _path(embeddings: Artifact | Path) -> Path:
    return embeddings.path if isinstance(embeddings, Artifact) else embeddings


def _grouping(catalogue: Catalogue) -> Grouping:
    names = catalogue.items["category"]
    known = names.is_not_null().to_numpy()
    categories = np.full(len(names), -1)
    categories[known] = np.unique(names.drop_nulls().to_numpy(), return_inverse=True)[1]
    return Grouping(categories, catalogue.item_cells)
