"""A trained model's folder: its weights, the config it is built by, and the sizes it was built for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError

WEIGHTS_FILE, CONFIG_FILE, SIZES_FILE = "model.safetensors", "config.json", "sizes.json"

Model = TypeVar("Model", bound=nn.Module)


class Described(NamedTuple):
    """What a model is built by, as JSON has it."""

    config: dict[str, Any]
    sizes: dict[str, Any]


def write_model(
    folder: Path,
    model: nn.Module,
    *,
    config: Mapping[str, Any],
    sizes: Mapping[str, Any],
    without: tuple[str, ...] = (),
) -> None:
    """Write a model's weights, and what it is built by; the folder is made where it is absent.

    Args:
        folder: where.
        model: whose state dict is written.
        config: what it is built by.
        sizes: what it was built for.
        without: how the names begin of what training alone needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(without)}
    save_file({name: value.contiguous().cpu() for name, value in kept.items()}, folder / WEIGHTS_FILE)
    write_json(folder / CONFIG_FILE, config)
    write_json(folder / SIZES_FILE, sizes)


def read_described(folder: Path, *, what: str) -> Described:
    """Read what the model in a folder is built by.

    Args:
        folder: that `write_model` wrote.
        what: the model is, for the message, such as ``Ranker``.

    Raises:
        ArtifactError: a file is absent.
    """
    absent = [name for name in (WEIGHTS_FILE, CONFIG_FILE, SIZES_FILE) if not (folder / name).is_file()]
    if absent:
        raise ArtifactError(f"{what} {str(folder)!r} has no {absent[0]}. Train it again.")
    return Described(*(json.loads((folder / name).read_text(encoding="utf-8")) for name in (CONFIG_FILE, SIZES_FILE)))


def load_weights(model: Model, folder: Path, *, what: str) -> Model:
    """Give a model that was built anew its weights, and set it to evaluation.

    Raises:
        ArtifactError: they are not of such a model.
    """
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ArtifactError(f"{what} {str(folder)!r}: the weights are not of this config ({reason}).") from None
    return model.eval()
