"""The ``semantic_ids`` artefact, opened: the codes of all items, and the frozen quantiser for new ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from triptych.encoders.embeddings import Modality
from triptych.foundation.artifact import Artifact
from triptych.semantic_ids.base import Quantizer, open_quantizer
from triptych.semantic_ids.quality import Quality

KIND = "semantic_ids"
CODES, QUALITY = "codes.npy", "quality.json"
THERE = "there.npy"
"""Which items have an ID, where some have none."""
EMBEDDINGS = "embeddings"
"""Name of the input that the codes are of."""
PARTS = {Modality.ITEM: KIND, Modality.TITLE: f"{KIND}_title", Modality.PHOTO: f"{KIND}_photo"}
"""What the IDs of a run are called by what they are of, in the order in which models read them."""


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """What a run has made."""

    artifact: Artifact
    codes: NDArray[np.uint16]
    """``[items, levels]`` by item row, memory-mapped; with collisions.policy = extra_token one column more. Of an item
    that has no ID, zeros."""
    quantizer: Quantizer
    """Frozen: `assign` gives new vectors codes, without a policy against collisions; `reconstruct` leads back."""
    quality: Quality
    """As measured when they were made."""
    there: NDArray[np.bool_] | None = None
    """``[items]``, which have an ID; None: all. Those without have nothing that it could be of, such as a photo."""

    @classmethod
    def open(cls, artifact: Artifact, *, embeddings: Artifact | None = None) -> Self:
        """Open the artefact.

        Args:
            artifact: of kind ``semantic_ids``.
            embeddings: what it must have been made from; None: that is not asked.

        Raises:
            ArtifactError: it was made from other embeddings (both ids are named), or a file is absent or damaged.
        """
        artifact = Artifact.open(artifact.path, kind=KIND)
        if embeddings is not None:
            artifact.require_input(EMBEDDINGS, embeddings)
        codes = np.load(artifact.file(CODES), mmap_mode="r", allow_pickle=False)
        quantizer = open_quantizer(artifact.config["quantizer"], artifact.path)
        there = None
        if (artifact.path / THERE).is_file():
            there = np.load(artifact.file(THERE), allow_pickle=False)
        return cls(artifact, codes, quantizer, read_quality(artifact), there)

    @property
    def num_codes(self) -> int:
        """Codes of the widest column of `codes`: as many as a level has, or as tokens against collisions if more."""
        return max(self.quantizer.num_codes, int(self.codes.max(initial=0)) + 1)

    def assign(self, vectors: NDArray[Any]) -> NDArray[np.uint16]:
        """Choose codes ``[n, levels]`` for vectors ``[n, dim]`` of the same encoder; see `Quantizer.assign`."""
        return self.quantizer.assign(vectors)

    def reconstruct(self, codes: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the vectors ``[n, dim]`` that codes stand for; a token against collisions stands for nothing."""
        return self.quantizer.reconstruct(codes[:, : self.quantizer.levels])


def read_quality(artifact: Artifact) -> Quality:
    """Read how good the IDs of an artefact are, as measured when they were made."""
    return Quality.load(json.loads(artifact.file(QUALITY).read_text(encoding="utf-8")))
