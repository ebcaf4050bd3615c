"""What every encoder is: two towers, slots for text and photos, files.

One encoder per file in `encoders.models`, and the file's name is its kind: `two_tower` reads title and patches in one
stream, `late_fusion` reads each by itself and joins their vectors.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from triptych.encoders.image import PATCH_PX, PatchEmbedding, Stem
from triptych.encoders.inputs import ItemInputs, ItemReading, Modalities, QueryReading, View
from triptych.encoders.model_files import open_copy, reference, small_files
from triptych.encoders.patches import open_vision
from triptych.encoders.pretrained import Output, PretrainedConfig, PretrainedText, VisionModelConfig
from triptych.encoders.slots import Models, PhotoSlot, TextSlot
from triptych.encoders.text import TextEmbedding
from triptych.foundation.artifact import write_json
from triptych.foundation.config import Config
from triptych.foundation.errors import ArtifactError
from triptych.foundation.registry import config_class

MODELS = "triptych.encoders.models"
"""The registry folder."""
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
SLOTS = ("text_model", "vision_model")
"""Fields of the config that name a pretrained model, and folders of the artefact with the files of a trained one."""


class Export(StrEnum):
    """Which vector stands for a query or an item."""

    PROJECTED = "projected"
    """The state of [CLS] through a linear map to `vector_dim`."""
    CLS = "cls"
    """The state of [CLS] itself."""
    PROJECTED_MEAN = "projected-mean"
    """The mean state of words and patches, as of `MEAN`, through a linear map to `vector_dim`."""
    MEAN = "mean"
    """The mean state of words and patches, without [CLS], [SEP] and padding."""
    MEAN_WITH_PADDING = "mean-with-padding"
    """The mean of all states, padding up to the longest text included: a baseline, and a mistake."""


class EncoderConfig(Config):
    """Size and inputs of an encoder: what all kinds share."""

    PARTS: ClassVar[Mapping[str, tuple[str, ...]]]
    """The parts that can be trained or frozen apart: part → beginnings of its weights' names. Every weight belongs to
    one part."""

    kind: str
    """Name of the encoder's file."""
    modalities: Modalities = Modalities.TITLE_PHOTO
    """What the item tower reads: title, photo, or title+photo."""
    dim: int = Field(128, ge=8, le=4096)
    """Width of a token state; a multiple of 4 and of `heads`."""
    heads: int = Field(4, ge=1, le=64)
    """Attention heads per block."""
    vector_dim: int = Field(128, ge=2, le=4096)
    """Length of the vectors that are stored and compared."""
    stem: Stem = Stem.CONV
    """How pixels become patch tokens: conv (three small convolutions) or linear (one, as in ViT)."""
    photo_px: int = Field(64, ge=16, le=1024)
    """Side of the square photo in pixels; a multiple of 16 (of vision_model.patch_grid), and that of the catalogue."""
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

    @abstractmethod
    def build(self, *, vocab_size: int, models: Models) -> Encoder:
        """Make the encoder, drawing weights from torch's global generator.

        Args:
            vocab_size: number of token ids of the tokenizer it is trained with.
            models: what the config names for the slots, opened (`open_models`).
        """

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
        grid = None if self.vision_model is None else self.vision_model.patch_grid
        if grid is not None and (self.photo_px % grid or self.photo_px < grid * PATCH_PX):
            raise ValueError(
                f"photo_px {self.photo_px} cannot be cut into {grid} x {grid} patches of at least {PATCH_PX} px: set "
                f"it, and that of the catalogue, to a multiple of vision_model.patch_grid ({grid}) from "
                f"{grid * PATCH_PX} on."
            )
        if self.vision_model is not None and self.stem is not Stem.CONV:
            raise ValueError(f"stem = '{self.stem}' has no effect with a vision_model. Remove one of them.")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_slots(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave empty slots out: encoders trained before there were any keep their ids."""
        tree: dict[str, Any] = handler(self)
        return {name: value for name, value in tree.items() if name not in SLOTS or value is not None}


class Encoder(nn.Module, ABC):
    """Encode queries and items into one space; the dot product of two vectors is their score."""

    GIVES_VIEWS: ClassVar[bool] = False
    """Whether `read_items` makes vectors of title and photo alone on the way; else each takes a pass of its own."""
    text: TextEmbedding | TextSlot
    """Gives the states of words."""
    patches: PatchEmbedding | PhotoSlot | None
    """Gives the states of patches; None where no photos are read."""

    def __init__(self, config: EncoderConfig, *, vocab_size: int, models: Models) -> None:
        """Make the slots.

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
        if config.text_model is not None and models.text is not None:
            self.text = TextSlot(config.dim, model=models.text, config=config.text_model)
        else:
            longest = max(config.max_query_tokens, config.max_title_tokens)
            self.text = TextEmbedding(config.dim, vocab_size=vocab_size, max_tokens=longest)
        self.patches = None
        if config.vision_model is not None and models.vision is not None:
            self.patches = PhotoSlot(config.dim, model=models.vision, config=config.vision_model)
        elif config.modalities.reads_photo:
            self.patches = PatchEmbedding(config.dim, stem=config.stem, px=config.photo_px)

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self.config.vector_dim

    @abstractmethod
    def encode_queries(self, tokens: Tensor) -> Tensor:
        """Encode query texts.

        Args:
            tokens: int ``[batch, tokens]``, `PAD` after the end.

        Returns:
            float32 ``[batch, vector_dim]``, L2-normalised.
        """

    @abstractmethod
    def encode_items(self, items: ItemInputs, *, view: View = View.ITEM) -> Tensor:
        """Encode items from their titles and photos, as far as the config reads them and the items have them.

        Args:
            items: the batch.
            view: of title and photo together, or the vector of one alone.

        Returns:
            float32 ``[batch, vector_dim]``, L2-normalised.
        """

    def encode_views(self, items: ItemInputs, *, views: Collection[View]) -> dict[View, Tensor]:
        """Encode several vectors of each item; arguments as `encode_items`."""
        return {view: self.encode_items(items, view=view) for view in views}

    @abstractmethod
    def read_queries(self, tokens: Tensor) -> QueryReading:
        """Encode query texts, keeping the states of all tokens; arguments as `encode_queries`."""

    @abstractmethod
    def read_items(self, items: ItemInputs) -> ItemReading:
        """Encode items, keeping the states of all tokens; arguments as `encode_items`."""

    def num_states(self, *, title_tokens: int) -> dict[View, int]:
        """Say how many token states of its title and of its photo an item has at most (`ItemReading.sides`).

        Args:
            title_tokens: of the longest title, [CLS] included.
        """
        found = {}
        if self.config.modalities.reads_title:
            text = self.config.text_model
            pooled = text is not None and text.output is Output.POOLED
            found[View.TITLE] = 1 if pooled else max(1, title_tokens - 1)
        if self.patches is not None:
            found[View.PHOTO] = self.patches.num_patches
        return found

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Return the parts; see `EncoderConfig.PARTS`."""
        return self.config.PARTS

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


def load_encoder(folder: Path) -> Encoder:
    """Read what `Encoder.save` wrote; the encoder is in evaluation mode.

    Raises:
        ArtifactError: a file is absent, damaged, or they do not belong together; or a frozen model that it reads by
            has gone, or is another one.
        MissingExtra: it reads by a pretrained model, and `transformers` is not installed.
    """
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise ArtifactError(f"{str(folder)!r} holds no encoder: '{name}' is absent.")
    saved = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    tree = saved["encoder"]
    if "kind" not in tree:
        raise ArtifactError(f"The encoder in {str(folder)!r} was trained by an earlier version. Train it again.")
    config = cast("EncoderConfig", config_class(MODELS, tree["kind"]).parse(tree))
    places = {
        name: open_copy(folder / found["place"], wanted=found, reader=folder).path
        for name, found in saved.get("frozen", {}).items()
    }
    models = open_models(config, places={name: places.get(name, folder / name) for name in SLOTS}, trained=True)
    with torch.device("meta"):  # no weights are drawn only to be overwritten
        encoder = config.build(vocab_size=saved["vocab_size"], models=models)
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
        place = places["vision_model"]
        vision = open_vision(place, output=one.output, cut=one.cut, with_weights=not drawn, name=one.name)
    return Models(text, vision)


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors to length 1, in float32."""
    return functional.normalize(vectors.float(), dim=-1)
