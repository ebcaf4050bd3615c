"""Pretrained text and vision models from a local folder or the model hub, behind two small modules.

Any model that `transformers` opens as a plain encoder or as a pair of them serves: BERT and its kin, ViT, ResNet, CLIP,
SigLIP. Weights are read from safetensors only. What a model expects (side of the photo, mean and deviation of the
pixels, its tokenizer) comes from the files beside its weights, never from a flag.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from triptych.foundation.artifact import sha256
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator

WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Files of a hub repository that are fetched: configs, weights, vocabularies."""
IMAGE_FILE, MODEL_FILE = "preprocessor_config.json", "config.json"


class Output(StrEnum):
    """What is taken from a model."""

    POOLED = "pooled"
    """One vector: the model's own projection where it has one (CLIP, SigLIP), else the mean over tokens or places
    (BERT, ResNet) or the class token (ViT)."""
    TOKENS = "tokens"
    """The last layer's states, one per token, patch or place; a class token is left out."""


class PretrainedConfig(Config):
    """A pretrained model and what is taken from it."""

    name: str
    """A folder with config.json and *.safetensors, or a name on the model hub such as `google/vit-base-patch16-224`."""
    revision: str | None = None
    """Commit, branch or tag on the hub; none: its main branch. Without effect on a folder."""
    output: Output = Output.POOLED
    """One vector (pooled) or the states of all tokens or patches (tokens)."""
    max_tokens: int = Field(64, ge=2)
    """Longest text in tokens; longer ones lose their end."""


class Provenance(NamedTuple):
    """Which weights these are."""

    name: str
    """As the config gives it."""
    revision: str | None
    """The hub's commit; None for a folder."""
    checksum: str
    """Hash over the weight files: equal weights, equal checksum, wherever they lie."""
    architecture: str
    """The model's type: bert, vit, resnet, clip, siglip, …"""


class PretrainedVision(nn.Module):
    """Photos to vectors by a pretrained vision model."""

    def __init__(self, config: PretrainedConfig) -> None:
        """Load the model.

        Raises:
            ConfigError: no such model, no network to fetch it, no safetensors, or no vision part.
            MissingExtra: `transformers` is not installed.
        """
        super().__init__()
        folder, self.provenance = find_model(config)
        self.output = config.output
        image = _read_json(folder, IMAGE_FILE)
        self.px = _side(image)
        """Side of the square photo the model takes."""
        self._scale = float(image.get("rescale_factor", 1 / 255)) if image.get("do_rescale", True) else 1.0
        normalise = image.get("do_normalize", True)
        for name, key, neutral in (("mean", "image_mean", 0.0), ("deviation", "image_std", 1.0)):
            values = image.get(key, [neutral] * 3) if normalise else [neutral] * 3
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.model = _load(folder, provenance=self.provenance, part="vision")
        with torch.no_grad():
            self.num_tokens, self.dim = self(torch.zeros(1, self.px, self.px, 3, dtype=torch.uint8)).shape[1:]

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode photos.

        Args:
            pixels: uint8 RGB ``[batch, px, px, 3]``, square, of any side.

        Returns:
            ``[batch, tokens, dim]``; one token where `output` is pooled.
        """
        photos = pixels.permute(0, 3, 1, 2).to(torch.float32)
        if photos.shape[-1] != self.px:
            size = (self.px, self.px)
            photos = functional.interpolate(photos, size=size, mode="bicubic", antialias=True).clamp_(0, 255)
        photos = (photos * self._scale - self.mean) / self.deviation
        if self.output is Output.POOLED and hasattr(self.model, "get_image_features"):
            return _pooled(self.model.get_image_features(pixel_values=photos))[:, None]
        states = getattr(self.model, "vision_model", self.model)(pixel_values=photos).last_hidden_state
        if states.ndim == 4:  # a convolutional network's map, [batch, dim, height, width]
            states = states.flatten(2).transpose(1, 2)
            return states.mean(dim=1, keepdim=True) if self.output is Output.POOLED else states
        has_class_token = states.shape[1] == _num_patches(self.model, self.px) + 1
        if self.output is Output.TOKENS:
            return states[:, 1:] if has_class_token else states
        return states[:, :1] if has_class_token else states.mean(dim=1, keepdim=True)


class PretrainedText(nn.Module):
    """Texts to vectors by a pretrained text model and its own tokenizer."""

    def __init__(self, config: PretrainedConfig) -> None:
        """Load the model; raises as `PretrainedVision` does."""
        super().__init__()
        folder, self.provenance = find_model(config)
        self.output = config.output
        self.model = _load(folder, provenance=self.provenance, part="text")
        longest = getattr(_text_config(self.model), "max_position_embeddings", config.max_tokens)
        self.max_tokens = min(config.max_tokens, int(longest))
        with _told(self.provenance.name):
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(str(folder))
        with torch.no_grad():
            self.dim = self(["a"]).shape[-1]

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Encode texts.

        Returns:
            ``[batch, tokens, dim]``: one token where `output` is pooled, else as many as the longest text has, with
            zeros after the end of shorter ones.
        """
        device = next(self.model.parameters()).device
        # Pairs of towers (CLIP, SigLIP) were trained on texts padded to one length, and some read the padding.
        padding = "max_length" if hasattr(self.model, "get_text_features") else True
        inputs = self._tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(device)
        if self.output is Output.POOLED and hasattr(self.model, "get_text_features"):
            return _pooled(self.model.get_text_features(**inputs))[:, None]
        states = getattr(self.model, "text_model", self.model)(**inputs).last_hidden_state
        mask = inputs.get("attention_mask", torch.ones(states.shape[:2], device=device))[..., None].to(states.dtype)
        if self.output is Output.TOKENS:
            return states * mask
        return (states * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)


def find_model(config: PretrainedConfig) -> tuple[Path, Provenance]:
    """Find a model without opening it.

    Returns:
        The folder with its files, fetched from the hub where `name` is no folder, and which weights they are.

    Raises:
        ConfigError: no such model, no network to fetch it, or no safetensors.
        MissingExtra: it must be fetched, and the hub's client is not installed.
    """
    folder, revision = Path(config.name).expanduser(), None
    if folder.is_dir():
        if config.revision is not None:
            raise ConfigError(f"revision = '{config.revision}' has no effect on a folder ({config.name}). Remove it.")
    elif config.name.startswith((".", "/", "~")):
        raise ConfigError(f"name: there is no folder '{config.name}', and it is no name on the model hub either.")
    else:
        folder = _fetch(config)
        revision = folder.name  # the hub's cache names a snapshot after its commit
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ConfigError(
            f"'{config.name}' holds no *.safetensors file. Weights in other formats can run code when they are opened "
            "and are not read; choose a revision that has safetensors, or save the model again with save_pretrained."
        )
    digest = hashlib.sha256("".join(sha256(file) for file in weights).encode()).hexdigest()[:16]
    architecture = str(_read_json(folder, MODEL_FILE).get("model_type", "unknown"))
    return folder, Provenance(config.name, revision, digest, architecture)


def _fetch(config: PretrainedConfig) -> Path:
    """Bring a model from the hub, or from the hub's cache on this disk."""
    with _told(config.name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

        try:
            return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=list(WANTED)))
        except RevisionNotFoundError:
            raise ConfigError(f"'{config.name}' has no revision '{config.revision}' on the model hub.") from None
        except RepositoryNotFoundError:
            raise ConfigError(
                f"There is neither a folder nor a public model on the hub called '{config.name}'. Check the name."
            ) from None
        except (LocalEntryNotFoundError, OSError):
            raise ConfigError(
                f"'{config.name}' is no folder here, is not in the hub's cache, and the hub cannot be reached. Copy "
                "the model's folder to this machine and give its path, or run once with a network."
            ) from None
        except ValueError as error:  # a name that the hub would not accept
            raise ConfigError(f"'{config.name}' is no folder, and no name on the model hub ({error}).") from None


def _load(folder: Path, *, provenance: Provenance, part: str) -> nn.Module:
    """Load the weights, all of them."""
    with _told(provenance.name):
        from transformers import AutoModel

        try:
            model, found = AutoModel.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except (ValueError, OSError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"'{provenance.name}' cannot be opened as a model ({reason}).") from None
    # A pooler that the checkpoint never had is initialised at random; it is not used (see `Output`).
    missing = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise ConfigError(
            f"'{provenance.name}': its weights lack {len(missing)} that the architecture '{provenance.architecture}' "
            f"needs (first: {missing[0]}). It is damaged, or config.json is another model's."
        )
    is_pair = hasattr(model.config, "vision_config") and hasattr(model.config, "text_config")
    takes = "vision" if model.main_input_name == "pixel_values" else "text"
    if not is_pair and takes != part:
        raise ConfigError(f"'{provenance.name}' ({provenance.architecture}) is a {takes} model, not a {part} model.")
    return model.eval()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say which extra brings `transformers` and its hub client, where they are absent."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "huggingface_hub"):
            raise
        raise MissingExtra(f"A pretrained model ('{name}')", extra="hf") from None


def _read_json(folder: Path, file: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"'{folder}' has no {file}, so it is not known what the model takes.") from None
    except json.JSONDecodeError:
        raise ConfigError(f"'{folder / file}' is not JSON.") from None
    return found


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


def _text_config(model: nn.Module) -> Any:
    return getattr(model.config, "text_config", model.config)
