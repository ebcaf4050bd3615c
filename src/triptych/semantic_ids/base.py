"""The quantiser protocol: vectors in, a code of each level out, and back.

A quantiser is fitted once and then frozen: new items are assigned with the codebooks that the others have. Its codes
are residual: each level says what the levels before it have left unsaid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, DataError
from triptych.foundation.registry import config_class
from triptych.losses.base import LossOutput
from triptych.semantic_ids.codebooks import Codebook, add_up, assign
from triptych.semantic_ids.vectors import blocks, check_shape

QUANTIZERS = "triptych.semantic_ids.quantizers"
WEIGHTS_FILE = "quantizer.safetensors"


class QuantizerConfig(Config):
    """Base of every quantiser's config; opens what was fitted. A kind is a `ClosedFormConfig` or a `TrainedConfig`."""

    kind: str
    """Which quantiser: a file of `triptych.semantic_ids.quantizers`."""
    levels: int = Field(3, ge=1)
    """Codes of an item."""
    codes: int = Field(256, ge=2, le=65_536)
    """Codes to choose from at each level."""
    seed: int = Field(0, ge=0)
    """Of all that is drawn."""

    @abstractmethod
    def open_saved(self, folder: Path) -> Quantizer:
        """Open what `Quantizer.save` wrote."""

    def require_enough(self, num_vectors: int) -> None:
        """Refuse to choose among more codes than there are vectors.

        Raises:
            ConfigError: so it is.
        """
        if num_vectors < self.codes:
            raise ConfigError(
                f"quantizer.codes is {self.codes}, and there are {num_vectors} vectors to learn them from; lower it."
            )


class ClosedFormConfig(QuantizerConfig):
    """Base of the kinds that are fitted without gradients."""

    @abstractmethod
    def fit(self, vectors: NDArray[Any], *, rows: NDArray[np.int64] | None = None) -> Quantizer:
        """Fit to vectors; needs memory for a sample of them only.

        Args:
            vectors: ``[n, dim]``; may be memory-mapped.
            rows: of those that may be learned from, ascending; None: all.

        Raises:
            ConfigError: there are fewer of these than codes.
            DataError: a vector holds NaN, infinity or a number too large.
        """


class TrainedConfig(QuantizerConfig):
    """Base of the kinds that are trained by the project's loop (`training.loop`)."""

    @abstractmethod
    def start(self, vectors: NDArray[Any], *, rows: NDArray[np.int64] | None = None) -> Trainable:
        """Make the module, its statistics and its first codebooks; see `ClosedFormConfig.fit`."""


class Trainable(Protocol):
    """What training changes."""

    @property
    def module(self) -> nn.Module:
        """Holds the weights."""
        ...

    def losses(self, vectors: Tensor) -> LossOutput:
        """Return what is to be minimised, for vectors float32 ``[batch, dim]``."""
        ...

    def frozen(self) -> Quantizer:
        """Return the quantiser by the weights of this moment; later changes do not reach it."""
        ...


class Quantizer(ABC):
    """A fitted quantiser. A kind says how a vector is encoded before its codes are chosen, and decoded after."""

    def __init__(self, codebooks: NDArray[np.float32], *, dim: int) -> None:
        """Take the codebooks.

        Args:
            codebooks: ``[levels, codes, code_dim]``.
            dim: length of the vectors that are quantised.
        """
        self.codebooks = codebooks
        self.dim = dim

    @property
    def levels(self) -> int:
        """Codes of a vector."""
        return len(self.codebooks)

    @property
    def num_codes(self) -> int:
        """Codes of each level."""
        return int(self.codebooks.shape[1])

    @cached_property
    def prepared(self) -> list[Codebook]:
        """The codebooks as assignment reads them."""
        return [Codebook.of(level) for level in self.codebooks]

    @property
    @abstractmethod
    def widest(self) -> int:
        """Numbers per vector of the widest array that encoding, assignment and decoding make."""

    @abstractmethod
    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the codes are chosen for: ``[n, code_dim]``, each row by its vector alone."""

    @abstractmethod
    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the vectors ``[n, dim]`` that sums of codes ``[n, code_dim]`` stand for."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write it into a folder."""

    def assign(self, vectors: NDArray[Any]) -> NDArray[np.uint16]:
        """Choose the codes of vectors, block by block.

        Args:
            vectors: ``[n, dim]``; may be memory-mapped.

        Returns:
            ``[n, levels]``; those of a vector are the same, whatever it is assigned together with.

        Raises:
            DataError: wrong shape, NaN, infinity or a number too large.
        """
        check_shape(vectors, dim=self.dim)
        codes = np.empty((len(vectors), self.levels), np.uint16)
        for block in blocks(vectors, widest=self.widest):
            codes[block.rows] = assign(self.encode(block.vectors), codebooks=self.prepared).codes
        return codes

    def reconstruct(self, codes: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the vectors ``[n, dim]`` that codes stand for.

        Args:
            codes: ``[n, some]``, of the first levels, in order; fewer levels give coarser vectors.

        Raises:
            DataError: more levels than there are, or a code that there is not.
        """
        if codes.ndim != 2 or codes.shape[1] > self.levels:
            raise DataError(f"semantic ids: codes are {list(codes.shape)}, expected [n, at most {self.levels} levels].")
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < self.num_codes:
            raise DataError(f"semantic ids: a code is outside 0..{self.num_codes - 1}.")
        found = np.empty((len(codes), self.dim), np.float32)
        for rows in self._row_blocks(len(codes)):
            found[rows] = self.decode(add_up(codes[rows], codebooks=self.codebooks))
        return found

    def _row_blocks(self, num_rows: int) -> Iterator[slice]:
        size = max(1, (1 << 22) // self.widest)
        for start in range(0, num_rows, size):
            yield slice(start, start + size)


def open_quantizer(config: dict[str, Any], folder: Path) -> Quantizer:
    """Open the quantiser that `Quantizer.save` wrote into a folder.

    Args:
        config: the dumped config of the quantiser.
        folder: where it lies.

    Raises:
        ArtifactError: its file is absent or damaged.
        ConfigError: this installation has no such kind.
    """
    parsed = config_class(QUANTIZERS, config["kind"]).parse(config)
    assert isinstance(parsed, QuantizerConfig)
    return parsed.open_saved(folder)
