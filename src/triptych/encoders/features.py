"""The ``features`` artefact: what a frozen pretrained model sees in every title or photo, computed once."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from triptych.data.augment import AugmentConfig
from triptych.data.augment import augment as vary
from triptych.data.catalogue import Catalogue
from triptych.data.photo_store import PhotoStore
from triptych.encoders.model_files import provenance_of
from triptych.encoders.patches import VisionModel, open_vision
from triptych.encoders.pretrained import ModelInput, Output, PatchCut, PretrainedText, PretrainedTokenizer, model_input
from triptych.encoders.text import text_tensor
from triptych.foundation.artifact import RESUME, Artifact, produce, write_json
from triptych.foundation.errors import ConfigError, DataError
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
    model: Artifact,
    *,
    modality: Modality,
    catalogue: Catalogue,
    out: Path,
    output: Output = Output.POOLED,
    cut: PatchCut | None = None,
    views: int = 0,
    augment: AugmentConfig | None = None,
    max_tokens: int = 64,
    prefix: str = "",
    batch_size: int = 64,
    precision: Precision = Precision.AUTO,
    device: str = "auto",
) -> Artifact:
    """Encode every item's title, or every distinct photo, with a frozen pretrained model; open what was done before.

    An interrupted attempt is resumed behind the last batches it has written.

    Args:
        model: artefact ``pretrained``.
        modality: title or photo.
        catalogue: items and photos.
        out: the stage's folder.
        output: what is taken from the model; titles are pooled, since their tokens differ in number.
        cut: show the model each patch of a photo by itself; None: the whole photo. Only of photos.
        views: so many variations of each photo are encoded as well.
        augment: how they vary; only with `views`.
        max_tokens: longest title in the model's tokens; longer ones lose their end.
        prefix: what stands before each title, where the model was trained so.
        batch_size: titles or photos at a time; it changes nothing but speed and memory.
        precision: of the products.
        device: where it runs.

    Returns:
        Artefact ``features``: ``features.npy``, float16 ``[rows, tokens, dim]``. Rows are item rows for titles (zeros
        where there is none), and for photos the distinct photos (`PhotoStore.photo_rows` leads from items to them),
        then, once for each of the `views`, the distinct photos varied. The summary names the model, its revision and
        the checksum of its weights.

    Raises:
        ConfigError: the model reads no titles or photos, or titles were to be encoded token by token.
        DataError: there are none.
    """
    if modality is Modality.TITLE and output is Output.TOKENS:
        raise ConfigError("output = 'tokens' is for photos: titles differ in their number of tokens. Use 'pooled'.")

    def build(folder: Path) -> Mapping[str, Any]:
        encode: _Titles | _Photos
        if modality is Modality.TITLE:
            text = PretrainedText(model.path, output=output)
            encode = _Titles(text, catalogue=catalogue, max_tokens=max_tokens, prefix=prefix)
        else:
            encode = _Photos(open_vision(model.path, output=output, cut=cut), catalogue=catalogue, augment=augment)
        encode.use(precision=precision, device=device)
        if encode.num_rows == 0:
            raise DataError(f"items: none has a {modality} that could be read, and a pretrained model was to see them.")
        num_rows = encode.num_rows * (1 + views)
        shape = encode(slice(0, 1)).shape[1:]
        num_bytes = 2 * num_rows * shape[0] * shape[1]
        _require_room(folder, num_bytes=num_bytes, tokens=shape[0], cut=cut, views=views)
        _fill(folder, encode, shape=(num_rows, *shape), batch_size=batch_size, label=f"encoding {modality}s")
        of = {"rows": num_rows, "tokens": shape[0], "dim": shape[1], "bytes": num_bytes}
        return {**of, **provenance_of(model), "views": views}

    is_title = modality is Modality.TITLE
    tree = {
        "modality": modality.value,
        "output": output.value,
        "max_tokens": max_tokens if is_title else None,
        "precision": precision.value,
        "views": views,
        "augment": augment.dump() if augment is not None and views else None,
        **({} if cut is None else {"cut": cut._asdict()}),
        **({"prefix": prefix} if prefix else {}),
    }
    inputs = {"catalogue": catalogue.artifact, "model": model}
    return produce(out, kind=KIND, config=tree, inputs=inputs, build=build)


def load_features(features: Artifact) -> NDArray[np.float16]:
    """Map the features ``[rows, tokens, dim]`` of an artefact."""
    mapped: NDArray[np.float16] = np.load(features.file(FEATURES), mmap_mode="r", allow_pickle=False)
    return mapped


class PhotoFeatures:
    """The features of a catalogue's photos, asked for by item as a `PhotoStore` is asked for pixels."""

    def __init__(self, artifact: Artifact, *, photos: PhotoStore) -> None:
        """Map the features.

        Args:
            artifact: features of the catalogue's photos.
            photos: of that catalogue.
        """
        self._photos = photos
        self._rows = load_features(artifact)
        self.num_views = int(artifact.summary["views"])
        """Variations of each photo."""

    def pixels(
        self, item_rows: NDArray[np.integer], *, views: NDArray[np.integer] | None = None
    ) -> NDArray[np.float16]:
        """Return the features of some items' photos.

        Args:
            item_rows: ``[n]``, repeats allowed.
            views: ``[n]``, which variation of each: 0 its own photo, and up to `num_views`. None: all their own.

        Returns:
            ``[n, tokens, dim]``, zeros for an item without photo.
        """
        if views is None:
            return self._photos.of_items(self._of_view(0), item_rows)
        found = np.zeros((len(item_rows), *self._rows.shape[1:]), dtype=self._rows.dtype)
        for view in np.unique(views):
            found[views == view] = self._photos.of_items(self._of_view(view), item_rows[views == view])
        return found

    def draw_views(self, number: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw variations ``[number]``; where there are none, all are 0, the photos themselves."""
        return rng.integers(1, self.num_views, size=number, endpoint=True) if self.num_views else np.zeros(number, int)

    def other_pixels(self, item_rows: ArrayLike, *, most: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Return those of further photos ``[n, photos, tokens, dim]``, else as `PhotoStore.other_pixels`."""
        return self._photos.of_others(self._of_view(0), item_rows, most=most)

    def _of_view(self, view: int) -> NDArray[np.float16]:
        start = view * self._photos.num_photos
        return self._rows[start : start + self._photos.num_photos]


class _Encode(ABC):
    """Rows to features by a frozen model."""

    num_rows: int

    def __init__(self, model: PretrainedText | VisionModel, *, catalogue: Catalogue) -> None:
        self._model = model
        self._catalogue = catalogue

    def use(self, *, precision: Precision, device: str) -> None:
        """Say where and in which numbers the model runs."""
        self._device, self._precision = find_device(device), precision
        self._model.to(self._device)

    def __call__(self, rows: slice) -> NDArray[np.float16]:
        with torch.inference_mode(), autocast(self._precision, device=self._device):
            features: Tensor = self._model(self._inputs(rows))
        found = features.float().cpu().numpy().astype(np.float16)
        if not np.isfinite(found).all():
            raise ConfigError(f"The model in '{self._model.folder}' gives states that no float16 holds; use another.")
        return found

    @abstractmethod
    def _inputs(self, rows: slice) -> Any: ...


class _Titles(_Encode):
    def __init__(self, model: PretrainedText, *, catalogue: Catalogue, max_tokens: int, prefix: str) -> None:
        super().__init__(model, catalogue=catalogue)
        self._prefix = prefix
        self.num_rows = catalogue.num_items
        self._tokenizer, self._max_tokens = PretrainedTokenizer(model.folder), min(max_tokens, model.max_tokens)

    def __call__(self, rows: slice) -> NDArray[np.float16]:
        found = super().__call__(rows)
        found[[not title for title in self._catalogue.titles[rows]]] = 0
        return found

    def _inputs(self, rows: slice) -> ModelInput:
        titles = [self._prefix + title for title in self._catalogue.titles[rows]]
        tokens = self._tokenizer.encode(titles, max_tokens=1 + self._max_tokens)
        return model_input(text_tensor(tokens).to(self._device))


class _Photos(_Encode):
    def __init__(self, model: VisionModel, *, catalogue: Catalogue, augment: AugmentConfig | None) -> None:
        super().__init__(model, catalogue=catalogue)
        self.num_rows = catalogue.photos.num_photos
        self._augment = augment or AugmentConfig()

    def _inputs(self, rows: slice) -> Tensor:
        views, places = np.divmod(np.arange(rows.start, rows.stop), self.num_rows)
        pixels = self._catalogue.photos.distinct(places)
        for row, view in enumerate(views):
            if view > 0:  # drawn by itself: what it is depends on no batch, and so on no interruption
                rng = np.random.default_rng([int(view), int(places[row])])
                pixels[row] = vary(pixels[row : row + 1], config=self._augment, rng=rng)[0]
        return torch.from_numpy(pixels).to(self._device)


def _require_room(folder: Path, *, num_bytes: int, tokens: int, cut: PatchCut | None, views: int) -> None:
    """See that the features fit on the disk: a mapped file that finds none left ends the process without a word."""
    file = folder / FEATURES
    written = file.stat().st_blocks * 512 if file.is_file() else 0
    free = shutil.disk_usage(folder).free
    if num_bytes - written > free:
        fewer = "output = 'pooled'" if cut is None else "a smaller patch_grid"
        cures = [fewer] * (tokens > 1) + ["views = 0"] * (views > 0) + ["a folder with more room"]
        raise ConfigError(
            f"The features take {num_bytes / 1e9:,.1f} GB ({tokens} tokens each), and {free / 1e9:,.1f} GB are free in "
            f"'{folder}'. Choose {', '.join(cures[:-1])}{' or ' if cures[:-1] else ''}{cures[-1]}."
        )


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
