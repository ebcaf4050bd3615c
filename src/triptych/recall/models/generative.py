"""Generative retrieval: a query's semantic IDs are said code by code, and the items that have them are the answer.

`recall.generative_train` trains it, `recall.generative_retriever` answers with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError
from triptych.nn.code_decoder import CodeDecoder
from triptych.recall.base import RetrieverConfig

WEIGHTS_FILE, CONFIG_FILE, SIZES_FILE = "model.safetensors", "config.json", "sizes.json"


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


CONFIG = GenerativeConfig
