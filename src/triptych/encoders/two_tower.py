"""Two towers with shared weights: query text on one side, title and photo in one stream on the other.

::

    query   [CLS] q1 q2 … [SEP]                          ──► transformer ─► state of [CLS] ─► W_query ─► L2 ─► vector
    item    [CLS] t1 t2 … [SEP] | patch 1 … patch 16     ──► (the same)  ─► state of [CLS] ─► W_item  ─► L2 ─► vector

Title and patches attend to each other from the first layer. A type vector tells query, title and patch apart. Where an
item has no title or no photo, one learned token stands in that modality's place, so a photo alone is a query and a
title alone is an item. With `photos` above 1, four tokens pooled from an item's further photos follow the patches of
its own. Word vectors and stem are slots: a pretrained text or vision model may stand there (`encoders.slots`).

Source: the Taobao pre-training model (query tower, single-stream item tower, shared encoder).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from triptych.encoders.image import PATCH_PX, PatchEmbedding, PhotoPool, Stem
from triptych.encoders.model_files import open_copy, reference, small_files
from triptych.encoders.pretrained import PretrainedConfig, PretrainedText, PretrainedVision, VisionModelConfig
from triptych.encoders.slots import NO_MODELS, Models, PhotoSlot, TextSlot
from triptych.encoders.text import WORD_INIT_STD, TextEmbedding
from triptych.foundation.artifact import write_json
from triptych.foundation.config import Config
from triptych.foundation.errors import ArtifactError
from triptych.nn.transformer import Transformer

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


SLOTS = ("text_model", "vision_model")
"""Fields of the config that name a pretrained model, and folders of the artefact with the files of a trained one."""


class Modalities(StrEnum):
    """What the item tower reads."""

    TITLE = "title"
    PHOTO = "photo"
    TITLE_PHOTO = "title+photo"

    @property
    def reads_title(self) -> bool:
        """Whether titles are read."""
        return self is not Modalities.PHOTO

    @property
    def reads_photo(self) -> bool:
        """Whether photos are read."""
        return self is not Modalities.TITLE


class EncoderConfig(Config):
    """Size and inputs of the two-tower encoder."""

    modalities: Modalities = Modalities.TITLE_PHOTO
    """What the item tower reads: title, photo, or title+photo."""
    dim: int = Field(128, ge=8, le=4096)
    """Width of a token state; a multiple of 4 and of `heads`."""
    layers: int = Field(3, ge=1, le=48)
    """Transformer blocks, shared by both towers."""
    heads: int = Field(4, ge=1, le=64)
    """Attention heads per block."""
    vector_dim: int = Field(128, ge=2, le=4096)
    """Length of the vectors that are stored and compared."""
    stem: Stem = Stem.CONV
    """How pixels become patch tokens: conv (three small convolutions) or linear (one, as in ViT)."""
    photo_px: int = Field(64, ge=16, le=1024)
    """Side of the square photo in pixels; a multiple of 16, and that of the catalogue."""
    photos: int = Field(1, ge=1, le=5)
    """Photos of an item that are read, as far as it has them: its own, and further ones pooled into four tokens; at
    most the catalogue's max_photos."""
    max_query_tokens: int = Field(16, ge=3, le=512)
    """Longest query in tokens, [CLS] and [SEP] included; longer ones lose their end."""
    max_title_tokens: int = Field(32, ge=3, le=512)
    """Longest title in tokens, [CLS] and [SEP] included; longer ones lose their end."""
    title_features: tuple[str, ...] = ()
    """Text features of the items that are read behind the title, e.g. a description; raise max_title_tokens with it."""
    text_model: PretrainedConfig | None = None
    """A pretrained model that reads queries and titles, with its own tokenizer; none: word vectors learned anew."""
    vision_model: VisionModelConfig | None = None
    """A pretrained model that sees the photos; none: the stem, learned anew."""

    @property
    def model_configs(self) -> dict[str, PretrainedConfig]:
        """Field → the pretrained model in that slot."""
        found = {"text_model": self.text_model, "vision_model": self.vision_model}
        return {name: config for name, config in found.items() if config is not None}

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of 4 and of heads ({self.heads}).")
        if self.vision_model is None and self.modalities.reads_photo and self.photo_px % PATCH_PX:
            raise ValueError(f"photo_px {self.photo_px} must be a multiple of {PATCH_PX}.")
        if self.vision_model is not None and self.stem is not Stem.CONV:
            raise ValueError(f"stem = '{self.stem}' has no effect with a vision_model. Remove one of them.")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_slots(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave empty slots out: encoders trained before there were any keep their ids."""
        tree: dict[str, Any] = handler(self)
        return {name: value for name, value in tree.items() if name not in SLOTS or value is not None}


class _Type(IntEnum):
    QUERY = 0
    TITLE = 1
    PATCH = 2


class OtherPhotos(NamedTuple):
    """Further photos of a batch of items, in any order."""

    pixels: Tensor
    """uint8 RGB ``[batch, photos, px, px, 3]``, or features ``[batch, photos, tokens, model dim]``; of a photo that is
    not there, anything."""
    present: Tensor
    """bool ``[batch, photos]``."""


class ItemInputs(NamedTuple):
    """A batch of items. What an item lacks may hold anything: it is never looked at."""

    title_tokens: Tensor | None
    """int ``[batch, tokens]``, `PAD` after the end; None where no item of the batch has a title."""
    pixels: Tensor | None
    """uint8 RGB ``[batch, px, px, 3]``, or what a frozen vision model made of it, float ``[batch, tokens, model dim]``
    (`PhotoSlot.see`, `PhotoFeatures`); None where no item of the batch has a photo."""
    has_title: Tensor
    """bool ``[batch]``."""
    has_photo: Tensor
    """bool ``[batch]``."""
    others: OtherPhotos | None = None
    """Further photos, read only by an encoder of several `photos`, and only of items that have one at all."""


class TwoTowerEncoder(nn.Module):
    """Encode queries and items into one space; the dot product of two vectors is their cosine."""

    def __init__(self, config: EncoderConfig, *, vocab_size: int, models: Models = NO_MODELS) -> None:
        """Make the layers, drawing weights from torch's global generator.

        Args:
            config: size and inputs.
            vocab_size: number of token ids of the tokenizer it is trained with.
            models: what the config names for the slots, opened (`open_models`).

        Raises:
            ValueError: the config names a model that was not given, or one was given that it does not name.
        """
        super().__init__()
        vision = config.vision_model if config.modalities.reads_photo else None
        if (config.text_model is None) != (models.text is None) or (vision is None) != (models.vision is None):
            raise ValueError("the pretrained models given are not those that the encoder's config names")
        self.config = config
        self.vocab_size = vocab_size
        dim = config.dim
        longest = max(config.max_query_tokens, config.max_title_tokens)
        self.text: TextEmbedding | TextSlot
        if config.text_model is not None and models.text is not None:
            self.text = TextSlot(dim, model=models.text, config=config.text_model)
        else:
            self.text = TextEmbedding(dim, vocab_size=vocab_size, max_tokens=longest)
        self.types = nn.Parameter(torch.empty(len(_Type), dim))
        self.missing_title = nn.Parameter(torch.empty(dim)) if config.modalities.reads_title else None
        self.missing_photo = nn.Parameter(torch.empty(dim)) if config.modalities.reads_photo else None
        self.patches: PatchEmbedding | PhotoSlot | None = None
        if vision is not None and models.vision is not None:
            self.patches = PhotoSlot(dim, model=models.vision, config=vision)
        elif config.modalities.reads_photo:
            self.patches = PatchEmbedding(dim, stem=config.stem, px=config.photo_px)
        for vectors in (self.types, self.missing_title, self.missing_photo):
            if vectors is not None:
                nn.init.normal_(vectors, std=WORD_INIT_STD)
        self.input_norm = nn.LayerNorm(dim)
        self.transformer = Transformer(dim, layers=config.layers, heads=config.heads)
        self.query_projection = nn.Linear(dim, config.vector_dim, bias=False)
        self.item_projection = nn.Linear(dim, config.vector_dim, bias=False)
        several = config.photos > 1 and config.modalities.reads_photo
        self.pool = PhotoPool(dim) if several else None  # last: what is drawn before it is as without

    def encode_queries(self, tokens: Tensor) -> Tensor:
        """Encode query texts.

        Args:
            tokens: int ``[batch, tokens]``, `PAD` after the end.

        Returns:
            float32 ``[batch, vector_dim]``, L2-normalised.
        """
        states, keep = self.text(tokens)
        states = self.input_norm(states + self.types[_Type.QUERY])
        cls = self.transformer(states, keep=keep, read=1)[:, 0]
        return _unit(self.query_projection(cls))

    def encode_items(self, items: ItemInputs) -> Tensor:
        """Encode items from their titles and photos, as far as the config reads them and the items have them.

        Returns:
            float32 ``[batch, vector_dim]``, L2-normalised.
        """
        states, keep = self._item_sequence(items)
        cls = self.transformer(self.input_norm(states), keep=keep, read=1)[:, 0]
        return _unit(self.item_projection(cls))

    def _item_sequence(self, items: ItemInputs) -> tuple[Tensor, Tensor]:
        """Lay out ``[CLS] title | patches``: states ``[batch, tokens, dim]`` and what may be attended to."""
        batch = items.has_title.shape[0]
        cls = (self.text.cls() + self.types[_Type.TITLE]).expand(batch, 1, -1)
        states, keeps = [cls], [items.has_title.new_ones(batch, 1)]
        if self.missing_title is not None:
            title = in_title = None
            if items.title_tokens is not None and items.title_tokens.shape[1] > 1:
                read, keep = self.text(items.title_tokens)
                title, in_title = (read + self.types[_Type.TITLE])[:, 1:], keep[:, 1:]
            _append(states, keeps, present=items.has_title, tokens=title, inside=in_title, missing=self.missing_title)
        if self.missing_photo is not None and self.patches is not None:
            patch = in_photo = None
            if items.pixels is not None:
                patch = self.patches(items.pixels) + self.types[_Type.PATCH]
                in_photo = items.has_photo.new_ones(batch, self.patches.num_patches)
            _append(states, keeps, present=items.has_photo, tokens=patch, inside=in_photo, missing=self.missing_photo)
            if self.pool is not None and items.others is not None:
                pixels, present = items.others.pixels, items.others.present & items.has_photo[:, None]
                other = self.patches(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
                pooled = self.pool(other, present=present)
                states.append(pooled)
                keeps.append(present.any(dim=1, keepdim=True).expand(-1, pooled.shape[1]))
        return torch.cat(states, dim=1), torch.cat(keeps, dim=1)

    @property
    def slots(self) -> dict[str, TextSlot | PhotoSlot]:
        """The pretrained models, by the name of their config's field."""
        both = zip(SLOTS, (self.text, self.patches), strict=True)
        return {name: slot for name, slot in both if isinstance(slot, TextSlot | PhotoSlot)}

    def rate_factors(self) -> dict[str, float]:
        """Return what is trained at a rate of its own: the beginning of the weights' names → share of the rate."""
        places = {"text_model": "text.model.", "vision_model": "patches.model."}
        return {places[name]: slot.rate_factor for name, slot in self.slots.items() if not slot.is_frozen}

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``config.json``.

        The files it takes to build and feed a pretrained model that was trained are written beside; to a frozen one,
        whose weights are not, a reference is.
        """
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)
        tree: dict[str, Any] = {"vocab_size": self.vocab_size, "encoder": self.config.dump()}
        for name, slot in self.slots.items():
            source: Path = slot.pretrained.folder
            if slot.is_frozen:
                tree.setdefault("frozen", {})[name] = reference(source, reader=folder)
            else:
                (folder / name).mkdir(exist_ok=True)
                for file in small_files(source):
                    shutil.copyfile(file, folder / name / file.name)
        write_json(folder / CONFIG_FILE, tree)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the encoder is in evaluation mode.

        Raises:
            ArtifactError: a file is absent, damaged, or they do not belong together; or a frozen model that it reads by
                has gone, or is another one.
            MissingExtra: it reads by a pretrained model, and `transformers` is not installed.
        """
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            if not (folder / name).is_file():
                raise ArtifactError(f"{str(folder)!r} holds no encoder: '{name}' is absent.")
        saved = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        config = EncoderConfig.parse(saved["encoder"])
        places = {
            name: open_copy(folder / found["place"], wanted=found, reader=folder).path
            for name, found in saved.get("frozen", {}).items()
        }
        models = open_models(config, places={name: places.get(name, folder / name) for name in SLOTS}, trained=True)
        with torch.device("meta"):  # no weights are drawn only to be overwritten
            encoder = cls(config, vocab_size=saved["vocab_size"], models=models)
        try:
            encoder.load_state_dict(load_file(folder / WEIGHTS_FILE), assign=True)
        except Exception as error:  # safetensors and torch raise several kinds
            reason = str(error).splitlines()[0]
            raise ArtifactError(f"The weights in {str(folder)!r} do not fit its config ({reason}).") from None
        return encoder.eval()


def open_models(config: EncoderConfig, *, places: Mapping[str, Path], trained: bool = False) -> Models:
    """Open the pretrained models of an encoder.

    Args:
        config: of the encoder; a vision model is opened where it reads photos.
        places: field of the config → the model's folder.
        trained: leave the weights of those that are trained to be loaded from the encoder's own.

    Raises:
        ConfigError: one cannot be opened.
        MissingExtra: `transformers` is not installed.
    """
    text = vision = None
    if config.text_model is not None:
        one = config.text_model
        drawn = trained and not one.is_frozen
        text = PretrainedText(places["text_model"], output=one.output, with_weights=not drawn, name=one.name)
    if config.vision_model is not None and config.modalities.reads_photo:
        one = config.vision_model
        drawn = trained and not one.is_frozen
        vision = PretrainedVision(places["vision_model"], output=one.output, with_weights=not drawn, name=one.name)
    return Models(text, vision)


def _append(
    states: list[Tensor],
    keeps: list[Tensor],
    *,
    present: Tensor,
    tokens: Tensor | None,
    inside: Tensor | None,
    missing: Tensor,
) -> None:
    """Append one modality's tokens; where an item lacks it, the `missing` token in the first place and nothing else.

    Args:
        states: list of ``[batch, tokens, dim]`` to append to.
        keeps: list of bool ``[batch, tokens]`` to append to.
        present: bool ``[batch]``, which items have the modality.
        tokens: ``[batch, tokens, dim]``; None where no item has it.
        inside: bool ``[batch, tokens]``, False at padding; None with `tokens`.
        missing: ``[dim]``, the learned token.
    """
    if tokens is None or inside is None:
        states.append(missing.expand(present.shape[0], 1, -1))
        keeps.append(torch.ones_like(present)[:, None])
        return
    first = torch.arange(tokens.shape[1], device=tokens.device) == 0
    states.append(torch.where(present[:, None, None], tokens, missing))
    keeps.append(torch.where(present[:, None], inside, first))


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)
