"""The files of a pretrained model: found in a folder or on the hub, and kept as the ``pretrained`` artefact.

The artefact is a copy: a run folder holds all that its encoders need, wherever the original goes, and one copy serves
every encoder of the run. Equal files have the same id, whatever the folder they came from is called.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from triptych.encoders.pretrained import (
    MODEL_FILE,
    Output,
    PretrainedConfig,
    PretrainedText,
    PretrainedVision,
    needs_extra,
    parts_in,
)
from triptych.foundation.artifact import Artifact, produce, sha256
from triptych.foundation.errors import ArtifactError, ConfigError

KIND = "pretrained"
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Files of a model that are taken: configs, weights, vocabularies."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
WEIGHTS_FILE, SHARDS_FILE = "model.safetensors", "model.safetensors.index.json"


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


def run(config: PretrainedConfig, *, out: Path, base: Path = Path()) -> Artifact:
    """Find a model, copy its files, and see that it can be opened; open the copy where there is one.

    Args:
        config: names it.
        out: the stage's folder.
        base: where a relative folder starts.

    Returns:
        Artefact ``pretrained``: config.json, the weights, preprocessor and tokenizer files. The summary has the
        `Provenance`, and ``photo_px`` and ``max_tokens``, the side of the photos and the longest text it takes (None
        where it reads no photos, or no texts), and ``takes_any_px``, whether photos may have another side.

    Raises:
        ConfigError: no such model, no network to fetch it, no safetensors, or it cannot be opened.
        MissingExtra: `transformers` is not installed.
    """
    folder, provenance = find_model(config, base=base)
    files = _files(folder)
    digest = hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()[:16]

    def build(copy: Path) -> Mapping[str, Any]:
        for file in files:
            shutil.copyfile(file, copy / file.name)
        return {**provenance._asdict(), **_takes(copy, name=config.name)}

    return produce(out, kind=KIND, config={}, inputs={"files": digest}, build=build)


def provenance_of(model: Artifact) -> dict[str, Any]:
    """Return what an artefact of ours says about the model it was made with."""
    return {name: model.summary[name] for name in Provenance._fields}


def small_files(folder: Path) -> list[Path]:
    """List a model's files without its weights: what it takes to build it and to feed it."""
    return [file for file in _files(folder) if file.suffix != ".safetensors"]


def reference(copy: Path, *, reader: Path) -> dict[str, Any]:
    """Return what `open_copy` asks for: the artefact in the folder `copy`, as seen from the encoder's folder."""
    model = Artifact.open(copy, kind=KIND)
    place = os.path.relpath(copy.resolve(), reader.resolve())
    return {"artifact": model.id, "place": place, **provenance_of(model)}


def open_copy(path: Path, *, wanted: Mapping[str, Any], reader: Path) -> Artifact:
    """Open the copy of a frozen model that an encoder was trained with.

    Args:
        path: where it should be.
        wanted: its ``artifact`` (the id) and `Provenance`, as the encoder has noted them.
        reader: the encoder's folder, for the message.

    Raises:
        ArtifactError: it has gone, or is another one.
    """
    what = f"The encoder in {str(reader)!r} reads by the frozen model '{wanted['name']}'"
    try:
        found = Artifact.open(path, kind=KIND)
    except ArtifactError:
        raise ArtifactError(
            f"{what}, whose copy should be in {str(path)!r} and is not there. Copy the run folder as a whole, or run "
            "the same `triptych run` again."
        ) from None
    checksum = checksum_of(_weights(found.path, name=str(path)))
    if found.id != wanted["artifact"] or checksum != wanted["checksum"]:
        raise ArtifactError(
            f"{what} (weights {wanted['checksum']}), but the model in {str(path)!r} has the weights {checksum}. Put "
            "the model back, or delete its folder and run the same `triptych run` again."
        )
    return found


def find_model(config: PretrainedConfig, *, base: Path = Path()) -> tuple[Path, Provenance]:
    """Find a model without opening it.

    Args:
        config: names it.
        base: where a relative folder starts.

    Returns:
        The folder with its files, fetched from the hub where `name` is no folder, and which weights they are.

    Raises:
        ConfigError: no such model, no network to fetch it, or no safetensors.
        MissingExtra: it must be fetched, and the hub's client is not installed.
    """
    folder, revision = base / Path(config.name).expanduser(), None
    if folder.is_dir():
        if config.revision is not None:
            raise ConfigError(f"revision = '{config.revision}' has no effect on a folder ({config.name}). Remove it.")
    elif config.name.startswith((".", "/", "~")):
        raise ConfigError(f"name: there is no folder '{config.name}', and it is no name on the model hub either.")
    else:
        folder = _fetch(config)
        revision = folder.name  # the hub's cache names a snapshot after its commit
    checksum = checksum_of(_weights(folder, name=config.name))
    try:
        tree = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
        tree = None
    if not isinstance(tree, dict):
        raise ConfigError(f"'{config.name}' has no {MODEL_FILE} that can be read, so it is no model.")
    return folder, Provenance(config.name, revision, checksum, str(tree.get("model_type", "unknown")))


def checksum_of(weights: list[Path]) -> str:
    """Hash weight files."""
    return hashlib.sha256("".join(sha256(file) for file in weights).encode()).hexdigest()[:16]


def _weights(folder: Path, *, name: str) -> list[Path]:
    """List the weight files that are opened: one, or the shards of an index; other precisions beside them are not."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / SHARDS_FILE).is_file():
        shards = json.loads((folder / SHARDS_FILE).read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / shard for shard in sorted(set(shards))]
    raise ConfigError(
        f"'{name}' holds no {WEIGHTS_FILE}. Weights in other formats can run code when they are opened and are not "
        "read; choose a revision that has safetensors, or save the model again with save_pretrained."
    )


def _files(folder: Path) -> list[Path]:
    """List the files that are taken, in order."""
    small = {file for pattern in WANTED for file in folder.glob(pattern) if file.suffix != ".safetensors"}
    small = {file for file in small if file.name != "artifact.json"}
    with_weights = (folder / WEIGHTS_FILE).is_file() or (folder / SHARDS_FILE).is_file()
    return sorted([*small, *(_weights(folder, name=str(folder)) if with_weights else [])])


def _takes(folder: Path, *, name: str) -> dict[str, int | bool | None]:
    """Open a model by each of its sides; a pair that is used for photos may have come without a tokenizer."""
    parts = parts_in(folder, name=name)
    photo_px = max_tokens = takes_any_px = None
    if "vision" in parts:
        vision = PretrainedVision(folder, output=Output.TOKENS, name=name)
        photo_px, takes_any_px = vision.px, vision.takes_any_px
    if parts == ("text",) or ("text" in parts and any((folder / file).is_file() for file in TOKENIZER_FILES)):
        max_tokens = PretrainedText(folder, output=Output.TOKENS, name=name).max_tokens
    return {"photo_px": photo_px, "takes_any_px": takes_any_px, "max_tokens": max_tokens}


def _fetch(config: PretrainedConfig) -> Path:
    """Bring a model from the hub, or from the hub's cache on this disk."""
    with needs_extra(config.name):
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
