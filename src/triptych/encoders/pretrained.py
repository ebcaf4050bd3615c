"""Pretrained text and vision models behind two small modules, opened from a folder of files.

Any model that `transformers` opens as a plain encoder or as a pair of them serves: BERT and its kin, ViT, ResNet, CLIP,
SigLIP. Weights are read from safetensors only. What a model expects (side of the photo, mean and deviation of the
pixels, its tokenizer) comes from the files beside its weights, never from a flag. `encoders.model_files` finds the
folder, `encoders.slots` puts a model into the place of our own word vectors or stem.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn
from torch.nn import functional

from triptych.data.text import CLS, PAD, SPECIAL_TOKENS, UNK
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, MissingExtra

IMAGE_FILE, MODEL_FILE = "preprocessor_config.json", "config.json"
OWN_IDS = len(SPECIAL_TOKENS)
"""A pretrained model's token ids stand behind our own special ones, so that `PAD` and `CLS` are the same everywhere."""
DEFAULT_RATE_FACTOR = 0.05
_OTHER_TOWER = {"text": ("vision", "visual"), "vision": ("text",)}


class Output(StrEnum):
    """What is taken from a model."""

    POOLED = "pooled"
    """One vector: the model's own projection where it has one (CLIP, SigLIP), else the mean over tokens or places
    (BERT, ResNet) or the class token (ViT)."""
    TOKENS = "tokens"
    """The last layer's states, one per token, patch or place; a photo's class token is left out."""


class Weights(StrEnum):
    """What training does with a model's weights."""

    FROZEN = "frozen"
    """Nothing: it is used as it is."""
    TRAINED = "trained"
    """They are trained with the rest."""


class PretrainedConfig(Config):
    """A pretrained model in a slot of the encoder."""

    name: str
    """A folder with config.json and *.safetensors, or a name on the model hub such as `google/vit-base-patch16-224`. A
    relative folder starts from the config file, or without one from where the command runs."""
    revision: str | None = None
    """Commit, branch or tag on the hub; none: its main branch. Not for a folder."""
    output: Output = Output.TOKENS
    """The states of all tokens or patches (tokens), or one vector (pooled): less to learn from, far less to keep."""
    weights: Weights = Weights.FROZEN
    """frozen, or trained with the rest."""
    rate_factor: float | None = Field(None, gt=0, le=1)
    """Its learning rate as a share of the loop's, only with weights = trained; 0.05 when not given."""

    @model_validator(mode="after")
    def _rate_has_effect(self) -> Self:
        if self.rate_factor is not None and self.weights is Weights.FROZEN:
            raise ValueError(
                "rate_factor has no effect with weights = 'frozen'. Remove it, or set weights = 'trained'."
            )
        return self

    @property
    def is_frozen(self) -> bool:
        """Whether training leaves it as it is."""
        return self.weights is Weights.FROZEN

    @property
    def learning_rate_factor(self) -> float:
        """Its learning rate as a share of the loop's."""
        return DEFAULT_RATE_FACTOR if self.rate_factor is None else self.rate_factor


class PatchCut(NamedTuple):
    """How photos are cut, so that a model sees each patch by itself."""

    grid: int
    """Patches along each side."""
    px: int | None = None
    """Side that each is scaled to; None: that of the photos the model takes."""


class VisionModelConfig(PretrainedConfig):
    """A pretrained vision model in the photo slot."""

    patch_grid: int | None = Field(None, ge=2, le=32)
    """Cut the photo into so many patches a side, and show the model each by itself: its pooled vector is one token, as
    in FashionBERT (8). Only with output = pooled; none: the model sees the whole photo."""
    patch_px: int | None = Field(None, ge=16, le=1024)
    """Side that patches are scaled to, only with patch_grid; less than the model's own takes less time, and is for
    convolutional networks alone. None: the model's own."""
    views: int | None = Field(None, ge=0, le=16)
    """Variations of each photo whose features are extracted beside its own, for the loss that asks by photo alone; 0
    asks with the photo as it is. Only with weights = frozen; 1 when not given."""

    @model_validator(mode="after")
    def _views_have_effect(self) -> Self:
        if self.views is not None and not self.is_frozen:
            raise ValueError("views has no effect with weights = 'trained': each photo is varied anew. Remove it.")
        return self

    @model_validator(mode="after")
    def _patches_go_together(self) -> Self:
        if self.patch_grid is not None and self.output is not Output.POOLED:
            raise ValueError("patch_grid makes one token of each patch. Set output = 'pooled' with it.")
        if self.patch_grid is None and self.patch_px is not None:
            raise ValueError("patch_px has no effect without patch_grid. Remove it, or set patch_grid = 8.")
        return self

    @model_serializer(mode="wrap")
    def _whole_photo_unsaid(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say nothing of patches where there are none: encoders trained before there were any keep their ids."""
        tree: dict[str, Any] = handler(self)
        return {name: value for name, value in tree.items() if value is not None or not name.startswith("patch_")}

    @property
    def cut(self) -> PatchCut | None:
        """How photos are cut; None: they are not."""
        return None if self.patch_grid is None else PatchCut(self.patch_grid, self.patch_px)

    @property
    def num_views(self) -> int:
        """Variations extracted of each photo."""
        return 1 if self.views is None else self.views


class PretrainedTokenizer:
    """A pretrained model's tokenizer, with the layout of `data.text.TextTokenizer`.

    It neither pads nor cuts inside the library, which would keep those settings in the tokenizer: requests from several
    threads would trip over each other.
    """

    def __init__(self, folder: Path) -> None:
        """Open the tokenizer that lies beside a model.

        Raises:
            ConfigError: there is none.
            MissingExtra: `transformers` is not installed.
        """
        with needs_extra(str(folder)):
            from transformers import AutoTokenizer

            try:
                tokenizer: Any = AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
            except (ValueError, OSError, KeyError, TypeError) as error:
                raise ConfigError(f"'{folder}' holds no tokenizer that can be opened ({_first_line(error)}).") from None
        # "[MASK]" in a query is six characters somebody typed, never the special token.
        self._ids = partial(tokenizer, add_special_tokens=False, split_special_tokens=True, verbose=False)
        self._tokenizer = tokenizer
        self.vocab_size = OWN_IDS + len(tokenizer)
        self.max_tokens = int(min(tokenizer.model_max_length, 2**31 - 1))
        """Longest text in the model's own tokens, its special ones included."""
        self.pad_id = int(tokenizer.pad_token_id or 0)
        """What the model calls padding."""
        self.has_mask = "attention_mask" in tokenizer.model_input_names
        """Whether the model is told where the padding is; some (SigLIP) read it."""
        mask = tokenizer.mask_token_id
        self.mask_id = None if mask is None else OWN_IDS + int(mask)
        """What stands in the place of a masked word; None: the model has nothing for that."""
        special = [PAD, CLS, *(OWN_IDS + int(one) for one in tokenizer.all_special_ids)]
        self.special_ids = np.unique(np.array(special, dtype=np.int32))
        """Ids that are no words."""
        whole = tokenizer(["a"])["input_ids"][0]
        bare = self._ids(["a"])["input_ids"][0]  # last: it leaves the library's settings as every later call wants them
        start = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), len(whole))
        self._before, self._behind = whole[:start], whole[start + len(bare) :]

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.int32]:
        """Turn texts into token ids: int32 ``[n, max_tokens]``.

        Column 0 is our `CLS`; then, `OWN_IDS` added, the model's ids with its own special tokens around the text;
        then `PAD`. Longer texts lose their end, never their special tokens.
        """
        out = np.full((len(texts), max_tokens), PAD, dtype=np.int32)
        out[:, 0] = CLS
        room = max_tokens - 1 - len(self._before) - len(self._behind)
        found = self._ids(list(texts))["input_ids"] if len(texts) else []
        for row, bare in zip(out, found, strict=True):
            ids = [*self._before, *bare[: max(room, 0)], *self._behind][: max_tokens - 1]
            row[1 : len(ids) + 1] = np.asarray(ids, dtype=np.int32) + OWN_IDS
        return out

    def pieces(self, text: str) -> list[str]:
        """Return a text's tokens as they are written in the vocabulary; one the model does not know is ``[UNK]``."""
        tokens = self._tokenizer.tokenize(text, split_special_tokens=True)
        return [SPECIAL_TOKENS[UNK] if token == self._tokenizer.unk_token else token for token in tokens]


class ModelInput(NamedTuple):
    """Texts as a pretrained model takes them."""

    ids: Tensor
    """int64 ``[batch, tokens]``; where nothing is kept, anything."""
    keep: Tensor
    """bool ``[batch, tokens]``, False at padding."""


def model_input(tokens: Tensor) -> ModelInput:
    """Undo `PretrainedTokenizer.encode`'s layout: int ``[batch, 1 + tokens]``."""
    own = tokens[:, 1:]
    return ModelInput((own.long() - OWN_IDS).clamp_(min=0), own != PAD)


class PretrainedText(nn.Module):
    """Token ids to states by a pretrained text model."""

    def __init__(self, folder: Path, *, output: Output, with_weights: bool = True, name: str | None = None) -> None:
        """Open the model.

        Args:
            folder: with its files.
            output: what is taken from it.
            with_weights: False leaves them drawn at random: they are loaded later.
            name: what messages call it; none: the folder.

        Raises:
            ConfigError: it cannot be opened, or is no text model.
            MissingExtra: `transformers` is not installed.
        """
        super().__init__()
        self.folder, self.output = folder, output
        self.model = _load(folder, part="text", name=name or str(folder), with_weights=with_weights)
        tokenizer = PretrainedTokenizer(folder)
        self.max_tokens = min(tokenizer.max_tokens, _num_positions(self.model))
        """Longest text in the model's own tokens, its special ones included."""
        self._pad_id, self._has_mask = tokenizer.pad_id, tokenizer.has_mask
        # SigLIP was trained on texts of one length: its vector is the state of the last place, padding or not.
        architecture = str(getattr(self.model.config, "model_type", ""))
        self._width = self.max_tokens if architecture.startswith("siglip") else None
        with torch.no_grad():
            ids = torch.zeros(1, 2, dtype=torch.long)
            self.dim = int(self(ModelInput(ids, torch.ones_like(ids, dtype=torch.bool))).shape[-1])

    def forward(self, texts: ModelInput) -> Tensor:
        """Encode texts.

        Returns:
            ``[batch, tokens, dim]``, of no meaning at padding; one token where `output` is pooled.
        """
        places = texts.keep.shape[1]
        keep = texts.keep.clone()
        keep[:, 0] = True  # where a row has no text at all, a softmax must still have something to attend to
        ids = texts.ids.masked_fill(~keep, self._pad_id)
        if self._width is not None:
            ids = functional.pad(ids, (0, self._width - places), value=self._pad_id)
            keep = functional.pad(keep, (0, self._width - places))
        inputs = {"input_ids": ids, "attention_mask": keep.long()} if self._has_mask else {"input_ids": ids}
        if self.output is Output.POOLED and hasattr(self.model, "get_text_features"):
            return _pooled(self.model.get_text_features(**inputs))[:, None]
        states = getattr(self.model, "text_model", self.model)(**inputs).last_hidden_state
        if self.output is Output.TOKENS:
            return states[:, :places]
        weight = keep[..., None].to(states.dtype)
        return (states * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)


class PretrainedVision(nn.Module):
    """Photos to states by a pretrained vision model."""

    def __init__(
        self,
        folder: Path,
        *,
        output: Output,
        px: int | None = None,
        with_weights: bool = True,
        name: str | None = None,
    ) -> None:
        """Open the model; arguments and errors as of `PretrainedText`.

        Args:
            folder: as there.
            output: as there.
            px: side that photos are scaled to, of a convolutional network; None: what its files say.
            with_weights: as there.
            name: as there.

        Raises:
            ConfigError: also, the model takes photos of no other side.
        """
        super().__init__()
        self.folder, self.output = folder, output
        self.model = _load(folder, part="vision", name=name or str(folder), with_weights=with_weights)
        image = _read_json(folder, IMAGE_FILE)
        self.px = _side(image)
        """Side of the square photo the model takes."""
        self._scale = float(image.get("rescale_factor", 1 / 255)) if image.get("do_rescale", True) else 1.0
        normalise = image.get("do_normalize", True)
        for buffer, key, neutral in (("mean", "image_mean", 0.0), ("deviation", "image_std", 1.0)):
            values = image.get(key, [neutral] * 3) if normalise else [neutral] * 3
            self.register_buffer(buffer, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        with torch.no_grad():
            black = torch.zeros(1, self.px, self.px, 3, dtype=torch.uint8)
            self.takes_any_px = self._last_states(self._normalised(black)).ndim == 4
            """Whether photos may be scaled to another side: a convolutional network's may."""
            if px is not None and px != self.px and not self.takes_any_px:
                raise ConfigError(other_px(name or str(folder), px=self.px, asked=px))
            self.px = self.px if px is None else px
            self.num_tokens, self.dim = self(black).shape[1:]
            self.has_positions = self.num_tokens == 1 or not self.takes_any_px
            """Whether its states know where in the photo they are from; a convolutional network's do not."""

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except of batch norms: items without a photo would enter their running means as black ones."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode photos.

        Args:
            pixels: uint8 RGB ``[batch, px, px, 3]``, square, of any side.

        Returns:
            ``[batch, tokens, dim]``, row by row from the top left; one token where `output` is pooled.
        """
        if len(pixels) == 0:  # some models cannot look at no photos
            return self.mean.new_zeros(0, self.num_tokens, self.dim)
        photos = self._normalised(pixels)
        if self.output is Output.POOLED and hasattr(self.model, "get_image_features"):
            return _pooled(self.model.get_image_features(pixel_values=photos))[:, None]
        states = self._last_states(photos)
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
            return states.mean(dim=1, keepdim=True) if self.output is Output.POOLED else states
        has_class_token = states.shape[1] == _num_patches(self.model, self.px) + 1
        if self.output is Output.TOKENS:
            return states[:, 1:] if has_class_token else states
        return states[:, :1] if has_class_token else states.mean(dim=1, keepdim=True)

    def _normalised(self, pixels: Tensor) -> Tensor:
        photos = pixels.permute(0, 3, 1, 2).to(torch.float32)
        if photos.shape[-1] != self.px:
            size = (self.px, self.px)
            photos = functional.interpolate(photos, size=size, mode="bicubic", antialias=True).clamp_(0, 255)
        return (photos * self._scale - self.mean) / self.deviation

    def _last_states(self, photos: Tensor) -> Tensor:
        """Return ``[batch, tokens, dim]``, or a convolutional network's map ``[batch, dim, height, width]``."""
        return getattr(self.model, "vision_model", self.model)(pixel_values=photos).last_hidden_state


def other_px(what: str, *, px: int, asked: int) -> str:
    """Say that a model takes photos of no other side."""
    return f"patch_px is {asked}, and {what} takes photos of {px} px and of no other side. Leave patch_px out."


def _load(folder: Path, *, part: str, name: str, with_weights: bool) -> nn.Module:
    """Open a model; of a pair of towers, the one of this part."""
    with needs_extra(name), _quietly():
        from transformers import AutoConfig, AutoModel

        auto: Any = AutoModel
        try:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            if with_weights:
                model, found = auto.from_pretrained(
                    str(folder),
                    config=config,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
            else:
                with torch.random.fork_rng(devices=[]):
                    model, found = (
                        auto.from_config(config, dtype=torch.float32, trust_remote_code=False),
                        {"missing_keys": ()},
                    )
        except MissingExtra:
            raise
        except Exception as error:  # damaged files end in errors of a dozen kinds, of several libraries
            raise ConfigError(_damaged(name, error)) from None
    architecture = str(getattr(config, "model_type", "unknown"))
    # A pooler that the checkpoint never had is initialised at random; it is not used (see `Output`).
    missing = [key for key in found["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise ConfigError(
            f"'{name}': its weights lack {len(missing)} that the architecture '{architecture}' needs (first: "
            f"{missing[0]}). It is damaged, or config.json is another model's."
        )
    takes = _parts_of(model)
    if part not in takes:
        raise ConfigError(f"'{name}' ({architecture}) is a {takes[0]} model, not a {part} model.")
    if len(takes) > 1:
        for child in [child for child, _ in model.named_children() if child.startswith(_OTHER_TOWER[part])]:
            setattr(model, child, None)
    return model.eval()


def _damaged(name: str, error: Exception) -> str:
    return (
        f"'{name}' cannot be opened as a model ({type(error).__name__}: {_first_line(error)}). It is damaged, only "
        "half copied, or its config.json is another model's."
    )


def parts_in(folder: Path, *, name: str) -> tuple[str, ...]:
    """Say what a model reads, text, vision, or both by a tower each, without reading its weights.

    Raises:
        ConfigError: its config.json is none that `transformers` knows.
        MissingExtra: `transformers` is not installed.
    """
    with needs_extra(name):
        from transformers import AutoConfig, AutoModel

        auto: Any = AutoModel
        try:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                return _parts_of(auto.from_config(config, trust_remote_code=False))
        except MissingExtra:
            raise
        except Exception as error:  # damaged files end in errors of a dozen kinds, of several libraries
            raise ConfigError(_damaged(name, error)) from None


def _parts_of(model: nn.Module) -> tuple[str, ...]:
    if hasattr(model.config, "vision_config") and hasattr(model.config, "text_config"):
        return ("text", "vision")
    return ("vision",) if model.main_input_name == "pixel_values" else ("text",)


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Say which extra brings `transformers` and its hub client, where they are absent."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "huggingface_hub"):
            raise
        raise MissingExtra(f"A pretrained model ('{name}')", extra="hf") from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep `transformers` from showing bars of its own between ours."""
    from transformers.utils import logging as module

    logging: Any = module
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read_json(folder: Path, file: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"'{folder}' has no {file}, so it is not known what the model takes.") from None
    except json.JSONDecodeError:
        raise ConfigError(f"'{folder / file}' is not JSON.") from None
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _side(image: Mapping[str, Any]) -> int:
    """Return the side of the square that a model looks at, whichever way its preprocessor says it."""
    size = image.get("crop_size") if image.get("do_center_crop") else None
    size = size or image.get("size", 224)
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge", 224))
    return int(size)


def _pooled(output: Any) -> Tensor:
    """Unwrap a tower's vector: a tensor in some versions of transformers, a record in others."""
    vector: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vector


def _num_patches(model: nn.Module, px: int) -> int:
    config = getattr(model.config, "vision_config", model.config)
    return (px // int(getattr(config, "patch_size", px))) ** 2


def _num_positions(model: nn.Module) -> int:
    """Return the most tokens a text may have; RoBERTa and its kin number them from behind the padding's id."""
    config = getattr(model.config, "text_config", model.config)
    positions = int(getattr(config, "max_position_embeddings", 2**31 - 1))
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    first = max((getattr(table, "padding_idx", None) or 0 for table in tables), default=0)
    return positions - first - 1 if first else positions
