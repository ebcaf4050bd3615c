"""An encoder of a few numbers that has learned nothing, as an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders.base import MODELS, EncoderConfig
from triptych.encoders.embed import Embedder
from triptych.encoders.slots import NO_MODELS
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.registry import config_class

WORDS = ["one of many red cups", "a blue hat", "rugs and toys"]
SIZES = {"dim": 16, "heads": 2, "vector_dim": 8, "photo_px": 32, "max_title_tokens": 8}


def tiny_embedder(kind: str = "two_tower", **settings: Any) -> Embedder:
    tokenizer = TextTokenizer.fit(WORDS, config=TokenizerConfig(vocab_size=64, min_count=1))
    layers = {"layers": 2} if kind == "two_tower" else {"text_layers": 1, "photo_layers": 2, "fusion_layers": 1}
    config = config_class(MODELS, kind).parse({"kind": kind, **SIZES, **layers, **settings})
    assert isinstance(config, EncoderConfig)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = config.build(vocab_size=tokenizer.vocab_size, models=NO_MODELS)
    return Embedder(encoder, tokenizer=tokenizer, device="cpu")


def tiny_encoder(out: Path, **settings: Any) -> Artifact:
    def write(folder: Path) -> dict[str, Any]:
        tiny_embedder(**settings).save(folder)
        return {}

    return produce(out, kind="encoder", config=settings, inputs={}, build=write)
