"""Tiny pretrained models, drawn at random and saved as people share them, with preprocessor and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

PX, PATCH_PX = 24, 8
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += "a red green blue black white nice shirt shoe bag hat plate cup teapot lamp bowl of with and".split()
MAX_TOKENS = 12
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**TOWER, "vocab_size": len(WORDS), "max_position_embeddings": MAX_TOKENS, "pad_token_id": 0}
IDS = {"bos_token_id": 2, "eos_token_id": 3}
VISION = {**TOWER, "image_size": PX, "patch_size": PATCH_PX}


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**TEXT))


def vit() -> Any:
    return transformers.ViTModel(transformers.ViTConfig(**VISION))


def resnet() -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return transformers.ResNetModel(transformers.ResNetConfig(**sizes))


def clip() -> Any:
    config = transformers.CLIPConfig(text_config={**TEXT, **IDS}, vision_config=VISION, projection_dim=8)
    return transformers.CLIPModel(config)


def siglip() -> Any:
    return transformers.SiglipModel(transformers.SiglipConfig(text_config={**TEXT, **IDS}, vision_config=VISION))


def save(make: Callable[[], Any], folder: Path, *, seed: int = 0) -> Path:
    """Draw a model and save it; SigLIP's tokenizer, as the real one, says nothing of where the padding is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make().save_pretrained(folder)
    config = make.__name__
    if config != "bert":
        size = {"size": {"height": PX, "width": PX}, "image_mean": MEAN, "image_std": DEVIATION}
        (folder / "preprocessor_config.json").write_text(json.dumps(size))
    if config in ("bert", "clip", "siglip"):
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        names = {"model_input_names": ["input_ids"]} if config == "siglip" else {}
        transformers.BertTokenizer(str(folder / "vocab.txt"), **names).save_pretrained(folder)
    return folder
