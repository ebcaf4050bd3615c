"""The ``features`` artefact: what a frozen pretrained model sees in every title or photo, computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.catalogue import Catalogue
from triptych.encoders.pretrained import Output, PretrainedConfig, PretrainedText, PretrainedVision, find_model
from triptych.foundation.artifact import RESUME, Artifact, produce, write_json
from triptych.foundation.errors import ConfigError
from triptych.foundation.progress import Progress
from triptych.nn.precision import Precision, autocast, find_device

KIND = "features"
FEATURES = "features.npy"
_NOTE = "done.json"
_SAVE_EVERY = 16


class Modality(StrEnum):
    """What is encoded."""

    TITLE = "title"
    PHOTO = "photo"


def run(
    config: PretrainedConfig,
    *,
    modality: Modality,
    catalogue: Catalogue,
    out: Path,
    batch_size: int = 64,
    precision: Precision = Precision.AUTO,
    device: str = "auto",
) -> Artifact:
    """Encode every item's title, or every distinct photo, with a frozen pretrained model; open what was done before.

    An interrupted attempt is resumed behind the last batches it has written.

    Args:
        config: the model; titles are pooled, since their tokens differ in number.
        modality: title or photo.
        catalogue: items and photos.
        out: the stage's folder.
        batch_size: titles or photos at a time; it changes nothing but speed and memory.
        precision: of the products.
        device: where it runs.

    Returns:
        Artefact ``features``: ``features.npy``, float16 ``[rows, tokens, dim]``. Rows are item rows for titles (zeros
        where there is none) and distinct photos for photos (`PhotoStore.photo_rows` leads from items to them). The
        summary names the model, its revision and the checksum of its weights, which also enter the id.

    Raises:
        ConfigError: the model cannot be found or opened, or titles were to be encoded token by token.
    """
    if modality is Modality.TITLE and config.output is Output.TOKENS:
        raise ConfigError("output = 'tokens' is for photos: titles differ in their number of tokens. Use 'pooled'.")
    _, provenance = find_model(config)

    def build(folder: Path) -> Mapping[str, Any]:
        encode = _Encode(config, modality=modality, catalogue=catalogue, precision=precision, device=device)
        num_rows = catalogue.num_items if modality is Modality.TITLE else catalogue.photos.num_photos
        shape = encode(slice(0, 1)).shape[1:]
        _fill(folder, encode, shape=(num_rows, *shape), batch_size=batch_size, label=f"encoding {modality}s")
        return {**provenance._asdict(), "rows": num_rows, "tokens": shape[0], "dim": shape[1]}

    # The weights count, not where they lie or what they are called.
    tree = {
        "modality": modality.value,
        "output": config.output.value,
        "max_tokens": config.max_tokens if modality is Modality.TITLE else None,
        "precision": precision.value,
    }
    inputs: dict[str, Artifact | str] = {"catalogue": catalogue.artifact, "weights": provenance.checksum}
    return produce(out, kind=KIND, config=tree, inputs=inputs, build=build)


def load_features(features: Artifact) -> NDArray[np.float16]:
    """Map the features ``[rows, tokens, dim]`` of an artefact."""
    mapped: NDArray[np.float16] = np.load(features.file(FEATURES), mmap_mode="r", allow_pickle=False)
    return mapped


class _Encode:
    """Rows of a catalogue to features, by a model that is opened when there is something to do."""

    def __init__(
        self, config: PretrainedConfig, *, modality: Modality, catalogue: Catalogue, precision: Precision, device: str
    ) -> None:
        self._modality, self._catalogue, self._precision = modality, catalogue, precision
        self._device = find_device(device)
        model = PretrainedText(config) if modality is Modality.TITLE else PretrainedVision(config)
        self._model = model.to(self._device)

    def __call__(self, rows: slice) -> NDArray[np.float16]:
        with torch.inference_mode(), autocast(self._precision, device=self._device):
            features: Tensor = self._model(self._inputs(rows))
        found = features.float().cpu().numpy().astype(np.float16)
        if self._modality is Modality.TITLE:
            found[[not title for title in self._catalogue.titles[rows]]] = 0
        return found

    def _inputs(self, rows: slice) -> Any:
        if self._modality is Modality.TITLE:
            return self._catalogue.titles[rows]
        return torch.from_numpy(self._catalogue.photos.distinct(rows)).to(self._device)


def _fill(
    folder: Path,
    encode: Callable[[slice], NDArray[np.float16]],
    *,
    shape: tuple[int, ...],
    batch_size: int,
    label: str,
) -> None:
    """Write ``features.npy`` batch by batch, noting now and then how much of it is on disk."""
    path, note = folder / FEATURES, folder / RESUME / _NOTE
    note.parent.mkdir(exist_ok=True)
    done = int(json.loads(note.read_text())["rows"]) if note.is_file() else 0
    file = open_memmap(path, mode="r+" if done else "w+", dtype=np.float16, shape=shape)
    with Progress(label, total=len(file), unit="row", start=done) as bar:
        for number, rows in enumerate(_batches(done, len(file), size=batch_size), start=1):
            file[rows] = encode(rows)
            bar.advance(rows.stop - rows.start)
            if number % _SAVE_EVERY == 0:
                file.flush()
                write_json(note, {"rows": rows.stop})
    file.flush()


def _batches(start: int, stop: int, *, size: int) -> Iterator[slice]:
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))
