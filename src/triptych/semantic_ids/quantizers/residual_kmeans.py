"""Residual k-means: k-means of the vectors, then of what is left of them, level by level.

No encoder, and nothing to train by gradients. OneRec reports it ahead of RQ-VAE in reconstruction, use and balance of
the codes. Start with it.

Source: residual vector quantisation: Chen et al., "Approximate Nearest Neighbor Search by Residual Vector Quantization"
(2010); as semantic IDs, with balanced clusters: OneRec (Deng et al., 2025). Differences: see `semantic_ids.kmeans`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from triptych.foundation.errors import ArtifactError
from triptych.semantic_ids.base import WEIGHTS_FILE, ClosedFormConfig, Quantizer
from triptych.semantic_ids.codebooks import Codebook, nearest
from triptych.semantic_ids.kmeans import Assignment, cluster
from triptych.semantic_ids.vectors import BLOCK_NUMBERS, check_shape, draw

CODEBOOKS = "codebooks"


class ResidualKmeansConfig(ClosedFormConfig):
    """Residual k-means."""

    kind: Literal["residual_kmeans"] = "residual_kmeans"
    """Name of the file that defines it."""
    assignment: Assignment = Assignment.PLAIN
    """Which cluster a vector belongs to while the codebooks are learned: plain (the nearest), or balanced (the nearest
    with room, each taking its share of the sample). Codes are those of the nearest in either case."""
    iterations: int = Field(25, ge=1)
    """Rounds of assignment and averaging, of each level."""
    sample_per_code: int = Field(256, ge=1)
    """Vectors for each code of a level that the codebooks are learned from, drawn of those given; decides memory."""

    def fit(self, vectors: NDArray[Any], *, rows: NDArray[np.int64] | None = None) -> ResidualKmeans:
        """Learn the codebooks from a sample of the vectors, level by level."""
        check_shape(vectors)
        self.require_enough(len(vectors) if rows is None else len(rows))
        rng = np.random.default_rng(self.seed)
        sample = draw(vectors, of=rows, size=self.sample_per_code * self.codes, rng=rng)
        return ResidualKmeans(self.learn(sample, rng=rng))

    def learn(self, residuals: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
        """Learn codebooks ``[levels, codes, dim]`` from vectors ``[n, dim]``, which are overwritten by what is left."""
        codebooks = np.empty((self.levels, self.codes, residuals.shape[1]), np.float32)
        size = max(1, BLOCK_NUMBERS // max(codebooks.shape[1:]))
        for level in range(self.levels):
            codebooks[level] = cluster(
                residuals, codes=self.codes, iterations=self.iterations, assignment=self.assignment, rng=rng
            )
            codebook = Codebook.of(codebooks[level])
            for start in range(0, len(residuals), size):
                block = residuals[start : start + size]
                block -= codebook.vectors[nearest(block, codebook=codebook)]
        return codebooks

    def open_saved(self, folder: Path) -> ResidualKmeans:
        """Read the codebooks."""
        return ResidualKmeans(read_codebooks(folder))


CONFIG = ResidualKmeansConfig


def read_codebooks(folder: Path) -> NDArray[np.float32]:
    """Read the codebooks ``[levels, codes, dim]`` that `ResidualKmeans.save` wrote.

    Raises:
        ArtifactError: the file is absent or damaged.
    """
    path = folder / WEIGHTS_FILE
    try:
        found: NDArray[np.float32] = load_file(path)[CODEBOOKS]
    except (FileNotFoundError, SafetensorError, KeyError) as error:
        raise ArtifactError(f"{str(path)!r} cannot be read ({error}). Make the semantic IDs again.") from None
    return found


class ResidualKmeans(Quantizer):
    """Codebooks that stand for the vectors themselves."""

    def __init__(self, codebooks: NDArray[np.float32]) -> None:
        """Take codebooks ``[levels, codes, dim]``."""
        super().__init__(codebooks, dim=codebooks.shape[2])

    @property
    def widest(self) -> int:
        """The scores of all codes, or the vector."""
        return max(self.num_codes, self.dim)

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the vectors."""
        return vectors

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sums."""
        return latents

    def save(self, folder: Path) -> None:
        """Write ``quantizer.safetensors``."""
        save_file({CODEBOOKS: self.codebooks}, folder / WEIGHTS_FILE)
