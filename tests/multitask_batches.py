"""Small encoders and a batch of everything, for tests of what is learned from a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.data.masking import choose_patches, mask_words
from triptych.data.text import CLS, MASK, PAD, SEP
from triptych.encoders.base import MODELS, Encoder
from triptych.encoders.inputs import ItemInputs
from triptych.encoders.slots import NO_MODELS
from triptych.foundation.registry import config_class
from triptych.pretrain.model import PretrainModel
from triptych.pretrain.objectives.base import OBJECTIVES, ObjectiveConfig
from triptych.pretrain.passes import HiddenPatches, Masked, MultitaskBatch, Passes
from triptych.pretrain.reader import PhotoViews
from triptych.training.distributed import ALONE

PX, VOCAB = 32, 50
SPECIAL = np.arange(5, dtype=np.int32)
TITLE_GROUPS = [0, 0, 1, 2, 3, 4, 5, 6]
"""Items 0 and 1 have one title."""
PHOTO_GROUPS = [0, 1, 2, 2, 3, -1, 4, -1]
"""Items 2 and 3 have one photo."""
HAS_TITLE = [True, True, True, True, False, True, True, False]
HAS_PHOTO = [group >= 0 for group in PHOTO_GROUPS]
POSITIVE = [0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 6]
QUERY_LENGTHS = [4, 3, 6, 3, 5, 4, 3, 6, 5, 4, 2]
"""In tokens; the last has no word."""


def small_encoder(kind: str, **settings: Any) -> Encoder:
    """Draw an encoder whose every weight counts."""
    tree = {"kind": kind, "dim": 16, "heads": 2, "vector_dim": 8, "photo_px": PX, "max_query_tokens": 10}
    config = config_class(MODELS, kind).parse({**tree, "max_title_tokens": 12, **settings})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        encoder = config.build(vocab_size=VOCAB, models=NO_MODELS).eval()
        for weight in encoder.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return encoder


def texts(lengths: list[int], *, seed: int) -> Tensor:
    """Draw texts of so many tokens; 0 is no text at all."""
    tokens = torch.randint(5, VOCAB, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    place, length = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
    tokens = tokens.masked_fill(place == length - 1, SEP).masked_fill(place >= length, PAD)
    tokens[:, 0] = torch.where(length[:, 0] > 0, CLS, PAD)
    return tokens.int()


def photos(count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, PX, PX, 3), generator=generator, dtype=torch.uint8)


def masked(tokens: Tensor, *, seed: int) -> Masked:
    rng = np.random.default_rng(seed)
    found = mask_words(tokens.numpy(), rate=0.3, mask_id=MASK, special_ids=SPECIAL, vocab_size=VOCAB, rng=rng)
    chosen = torch.from_numpy(found.chosen)
    return Masked(torch.from_numpy(found.tokens), chosen, tokens, int(chosen.sum()))


def everything(**changes: Any) -> MultitaskBatch:
    """Eight items, of which some lack a title or a photo and some are alike, and eleven queries."""
    titles = texts([5, 5, 4, 6, 0, 3, 8, 0], seed=1)
    titles[1] = titles[0]
    pixels = photos(8, seed=2)
    pixels[3] = pixels[2]
    queries = texts(QUERY_LENGTHS, seed=3)
    has_title, has_photo = torch.tensor(HAS_TITLE), torch.tensor(HAS_PHOTO)
    positive = torch.tensor(POSITIVE)
    known = torch.rand(len(POSITIVE), 8, generator=torch.Generator().manual_seed(4)) < 0.15
    known[torch.arange(len(POSITIVE)), positive] = True
    hidden = torch.from_numpy(
        choose_patches(np.array(HAS_PHOTO), num_patches=4, rate=0.5, rng=np.random.default_rng(5))
    )
    asked = torch.tensor([6, 0, 2])
    views = PhotoViews(
        items=ItemInputs(None, photos(3, seed=6), torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)),
        positive=asked,
        known=torch.tensor(PHOTO_GROUPS)[asked][:, None] == torch.tensor(PHOTO_GROUPS),
        total=3,
    )
    batch = MultitaskBatch(
        number=10**6,
        step=10**6,  # long after any warm-up
        item_rows=torch.arange(8) * 3,
        query_rows=torch.arange(len(POSITIVE)) % 7,
        items=ItemInputs(titles, pixels, has_title, has_photo),
        own_items=torch.arange(8),
        title_groups=torch.tensor(TITLE_GROUPS),
        photo_groups=torch.tensor(PHOTO_GROUPS),
        has_title=has_title,
        has_photo=has_photo,
        log_q=-torch.rand(8, generator=torch.Generator().manual_seed(7)) * 3,
        query_log_q=-torch.rand(len(POSITIVE), generator=torch.Generator().manual_seed(8)) * 3,
        query_tokens=queries,
        own_queries=torch.arange(len(POSITIVE)),
        positive=positive,
        known=known,
        masked_queries=masked(queries, seed=8),
        masked_titles=masked(titles, seed=9),
        hidden_patches=HiddenPatches(hidden, int(hidden.sum())),
        photo_views=views,
    )
    return batch._replace(**changes)


def objective(kind: str, **settings: Any) -> ObjectiveConfig:
    config = config_class(OBJECTIVES, kind).parse({"kind": kind, **settings})
    assert isinstance(config, ObjectiveConfig)
    return config


def model_of(encoder: Encoder, *tasks: ObjectiveConfig, single_stream: bool = False) -> PretrainModel:
    """Make heads and blocks whose every weight counts."""
    model = PretrainModel(
        encoder, cross_layers=None if single_stream else 1, objectives=tasks, batch_items=8, seed=0
    ).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if not name.startswith("encoder."):
                weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


def passes_of(model: PretrainModel, batch: MultitaskBatch, **settings: Any) -> Passes:
    return Passes(batch, encoder=model.encoder, cross=model.cross, group=ALONE, **settings)
