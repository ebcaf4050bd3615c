"""A pretrained text encoder as it is: nothing of it is trained, and texts are near each other where it puts them.

What others share for search and paraphrases serves a shop without training. A run shows such a model beside its own, so
that one sees what training is worth. Its vector of a text is the mean of the states of its tokens, as of the MiniLM,
MPNet and E5 families, or its own projection where it has one (CLIP, SigLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional

from triptych.encoders.inputs import Modalities
from triptych.encoders.pretrained import Output, PretrainedConfig, PretrainedText, PretrainedTokenizer, model_input
from triptych.encoders.text import text_tensor
from triptych.foundation.config import Config
from triptych.foundation.errors import EngineError
from triptych.nn.precision import Precision, autocast, find_device

AT_ONCE = 64
"""Texts in one call of the model."""


class UntunedConfig(Config):
    """A pretrained text model that is used as it is."""

    name: str
    """A folder with config.json, *.safetensors and the tokenizer's files, or a name on the model hub such as
    `sentence-transformers/all-MiniLM-L6-v2`. A relative folder starts from the config file."""
    revision: str | None = None
    """Commit, branch or tag on the hub; none: its main branch. Not for a folder."""
    query_prefix: str = ""
    """What stands before each query, where the model was trained so, such as "query: "."""
    title_prefix: str = ""
    """And before each title, such as "passage: "."""
    max_tokens: int = Field(64, ge=2)
    """Longest text in the model's own tokens; longer ones lose their end."""

    @property
    def model(self) -> PretrainedConfig:
        """Where its files are found."""
        return PretrainedConfig(name=self.name, revision=self.revision)


class UntunedText:
    """Queries as vectors by such a model: pooled, of length 1. Titles are `features.run`'s, normalised likewise."""

    def __init__(self, folder: Path, *, prefix: str = "", max_tokens: int = 64) -> None:
        """Open the model.

        Args:
            folder: with its files.
            prefix: before each query.
            max_tokens: longest query in the model's tokens.

        Raises:
            ConfigError: it cannot be opened, or is no text model.
            MissingExtra: `transformers` is not installed.
        """
        self._device = find_device("auto")
        self._model = PretrainedText(folder, output=Output.POOLED).to(self._device)
        self._tokenizer, self._prefix = PretrainedTokenizer(folder), prefix
        self._max_tokens = min(max_tokens, self._model.max_tokens)

    @property
    def modalities(self) -> Modalities:
        """What it reads of an item."""
        return Modalities.TITLE

    @property
    def vector_dim(self) -> int:
        """Numbers of a vector."""
        return self._model.dim

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode query texts ``[n, dim]``."""
        found = [np.zeros((0, self.vector_dim), np.float32)]
        for start in range(0, len(texts), AT_ONCE):
            own = [self._prefix + text for text in texts[start : start + AT_ONCE]]
            tokens = text_tensor(self._tokenizer.encode(own, max_tokens=1 + self._max_tokens)).to(self._device)
            with torch.inference_mode(), autocast(Precision.AUTO, device=self._device):
                vectors = self._model(model_input(tokens))[:, 0]
            found.append(functional.normalize(vectors.float(), dim=-1).cpu().numpy())
        return np.concatenate(found)

    def items(self, titles: Sequence[str | None], *, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refuse photos, which it does not read.

        Raises:
            EngineError: always.
        """
        raise EngineError("A text model reads no photos. Search by words.")
