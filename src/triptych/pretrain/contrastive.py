"""Query–item contrast: the encoder learns that what was clicked under a query belongs to it.

A batch is a set of distinct items and, for each, queries it was clicked under in training; the other items of the
batch are negatives unless they too were clicked (`losses.infonce`). Now and then an item's title or photo is hidden, so
that a title alone is an item and a photo alone is a query.

A second, lighter loss asks some photos of the batch, without their titles and varied as a shopper's photo would be
(`data.augment`), for the item they show. Without it a photo lands where the *queries* for it are, among all items of
its kind and colour, and does not find its own (`docs/experiments.md`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from triptych.data.augment import AugmentConfig, augment
from triptych.data.catalogue import Catalogue
from triptych.data.sampling import ItemQuerySampler
from triptych.data.splits import Part, Split, Targets
from triptych.data.text import PAD, TextTokenizer
from triptych.encoders.embed import KIND, TOKENIZER_FILE, Embedder
from triptych.encoders.text import cut_by_length, text_tensor
from triptych.encoders.two_tower import EncoderConfig, ItemInputs, TwoTowerEncoder
from triptych.foundation.artifact import Artifact, find, produce
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, DataError
from triptych.losses.base import LossOutput
from triptych.losses.infonce import infonce
from triptych.metrics.ranking import TargetSets, macro, match, recall_at_k
from triptych.training.loop import LoopConfig, fit
from triptych.training.task import Validation

VALIDATION_SEED = 0
"""Draws the validation queries: the same ones for every model and training seed."""


class ContrastiveConfig(Config):
    """Query–item contrastive training of the two-tower encoder."""

    encoder: EncoderConfig = EncoderConfig()
    """The model."""
    loop: LoopConfig = LoopConfig()
    """Steps, rates, validation."""
    batch_items: int = Field(256, ge=2)
    """Distinct items in a batch."""
    queries_per_item: int = Field(2, ge=1)
    """Queries drawn for each item of a batch, by clicks."""
    item_power: float = Field(0.5, ge=0, le=1)
    """Items are drawn by their training clicks to this power: 0 all alike, 1 by clicks."""
    temperature: float = Field(0.05, gt=0)
    """Divides cosines in the softmax."""
    title_dropout_rate: float = Field(0.15, ge=0, lt=1)
    """Share of items with both title and photo whose title is hidden in training; teaches search by photo."""
    photo_dropout_rate: float = Field(0.1, ge=0, lt=1)
    """Share of items with both title and photo whose photo is hidden in training; teaches items without photo."""
    photo_view_items: int = Field(64, ge=1)
    """Items of a batch whose photo alone, varied, must also find its item among the batch."""
    photo_view_weight: float = Field(0.2, ge=0)
    """Weight of that second loss, the first one's is 1; 0 leaves it out."""
    augment: AugmentConfig = AugmentConfig()
    """How the photos of the second loss are varied; items themselves are shown their photos as they are."""
    validation_queries: int = Field(1_000, ge=1)
    """Queries of the validation part that choose the best weights; fewer where it has fewer."""
    validation_k: int = Field(100, ge=1)
    """Cut-off of the recall that chooses the best weights."""

    @model_validator(mode="after")
    def _dropout_leaves_something(self) -> Self:
        if self.title_dropout_rate + self.photo_dropout_rate > 1:
            raise ValueError("title_dropout_rate and photo_dropout_rate must add up to at most 1.")
        return self


class PhotoViews(NamedTuple):
    """Photos of some items of a batch, varied anew and without their titles, as a shopper's own photo would be."""

    items: ItemInputs
    positive: Tensor
    """int64 ``[views]``, the place in the batch of the item each photo shows."""
    known: Tensor
    """bool ``[views, items]``, items with the same photo: no negatives."""


class ContrastiveBatch(NamedTuple):
    """One batch in host memory, items and queries each sorted by length and cut in parts that are padded apart."""

    items: tuple[ItemInputs, ...]
    query_tokens: tuple[Tensor, ...]
    """int32 ``[queries of the part, tokens]``."""
    positive: Tensor
    """int64 ``[queries]``, the place of each query's item."""
    known: Tensor
    """bool ``[queries, items]``, pairs that are no negatives."""
    photo_views: PhotoViews | None
    """None where the encoder reads no photos, or the second loss is off."""


class ContrastiveTask:
    """Query–item contrast as a `training.task.Task`."""

    name = "training encoder"

    def __init__(
        self,
        config: ContrastiveConfig,
        *,
        catalogue: Catalogue,
        split: Split,
        tokenizer: TextTokenizer,
        seed: int,
        photo_rows: NDArray[np.integer] | None = None,
    ) -> None:
        """Tokenise all texts once and make the model.

        Args:
            config: of the task.
            catalogue: items and photos.
            split: its training pairs are learned, its validation targets choose the weights.
            tokenizer: of titles and queries.
            seed: of initial weights and batches.
            photo_rows: ``[items]``; item i is shown the photo of item ``photo_rows[i]``. None shows its own.

        Raises:
            ConfigError: the catalogue's photos have another size than the encoder takes.
            DataError: there is nothing to train or validate on.
        """
        encoder = config.encoder
        if encoder.modalities.reads_photo and catalogue.photos.px != encoder.photo_px:
            raise ConfigError(
                f"encoder.photo_px is {encoder.photo_px}, but the catalogue's photos are {catalogue.photos.px} px "
                "wide. Set both to the same."
            )
        self._config = config
        self._catalogue = catalogue
        self._tokenizer = tokenizer
        self._seed = seed
        self._photo_rows = np.arange(catalogue.num_items) if photo_rows is None else photo_rows
        self._own_photos = photo_rows is None
        self._has_photo = np.asarray(catalogue.photos.has)[self._photo_rows]
        self._has_title = np.array([bool(title) for title in catalogue.titles], dtype=bool)
        self._title_tokens = tokenizer.encode(catalogue.titles, max_tokens=encoder.max_title_tokens)
        self._query_tokens = tokenizer.encode(catalogue.queries, max_tokens=encoder.max_query_tokens)
        pairs = split.train_pairs(catalogue)
        self._sampler = ItemQuerySampler(
            query_row=pairs.query_row,
            item_row=pairs.item_row,
            clicks=pairs.clicks,
            batch_items=config.batch_items,
            queries_per_item=config.queries_per_item,
            item_power=config.item_power,
            seed=seed,
        )
        self._validation = _some_targets(split.targets(Part.VALIDATION), most=config.validation_queries)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = TwoTowerEncoder(encoder, vocab_size=tokenizer.vocab_size)

    def batch(self, index: int) -> ContrastiveBatch:
        """Draw batch `index` and gather its tokens and pixels."""
        drawn = self._sampler.batch(index)
        rng = np.random.default_rng([self._seed, index, 1])  # apart from the sampler's stream
        item_parts = self._item_parts(drawn.item_rows, rng=rng)
        query_tokens = self._query_tokens[drawn.query_rows]
        query_parts = cut_by_length((query_tokens != PAD).sum(axis=1), parts=2)
        item_order = np.concatenate([rows for rows, _ in item_parts])
        query_order = np.concatenate(query_parts)
        place = np.empty_like(item_order)
        place[item_order] = np.arange(len(item_order))
        return ContrastiveBatch(
            items=tuple(inputs for _, inputs in item_parts),
            query_tokens=tuple(text_tensor(query_tokens[rows]) for rows in query_parts),
            positive=torch.from_numpy(place[drawn.positive[query_order]]),
            known=torch.from_numpy(drawn.known[query_order][:, item_order]),
            photo_views=self._photo_views(drawn.item_rows[item_order], rng=rng),
        )

    def _photo_views(self, item_rows: NDArray[np.int64], *, rng: np.random.Generator) -> PhotoViews | None:
        """Draw items of the batch that have a photo, and vary each photo apart from how the batch shows it."""
        config = self._config
        if not config.encoder.modalities.reads_photo or config.photo_view_weight == 0:
            return None
        place = rng.permutation(np.flatnonzero(self._has_photo[item_rows]))[: config.photo_view_items]
        if len(place) == 0:
            return None
        photo_rows = self._photo_rows[item_rows]
        photos = augment(self._catalogue.photos.pixels(photo_rows[place]), config=config.augment, rng=rng)
        picture = self._catalogue.photos.photo_rows[photo_rows]  # identical photos share a number
        has_photo = torch.ones(len(place), dtype=torch.bool)
        return PhotoViews(
            items=ItemInputs(None, torch.from_numpy(photos), has_title=~has_photo, has_photo=has_photo),
            positive=torch.from_numpy(place),
            known=torch.from_numpy(picture[place][:, None] == picture[None, :]),
        )

    def num_samples(self, batch: ContrastiveBatch) -> int:
        """Count items."""
        return int(batch.known.shape[1])

    def losses(self, batch: ContrastiveBatch) -> LossOutput:
        """Contrast the batch's queries with its items, and photos alone with the items they show."""
        items = torch.cat([self.module.encode_items(part) for part in batch.items])
        clicked = infonce(
            torch.cat([self.module.encode_queries(part) for part in batch.query_tokens]),
            items=items,
            positive=batch.positive,
            known=batch.known,
            temperature=self._config.temperature,
        )
        if batch.photo_views is None:
            return clicked
        seen = infonce(
            self.module.encode_items(batch.photo_views.items),
            items=items,
            positive=batch.photo_views.positive,
            known=batch.photo_views.known,
            temperature=self._config.temperature,
        )
        parts = {**clicked.parts, **{f"photo_{name}": part for name, part in seen.parts.items()}}
        return LossOutput(clicked.total + self._config.photo_view_weight * seen.total, parts)

    def validate(self) -> Validation:
        """Rank all items for a fixed sample of validation queries and measure recall."""
        k = min(self._config.validation_k, self._catalogue.num_items)
        embedder = Embedder(
            self.module,
            tokenizer=self._tokenizer,
            precision=self._config.loop.precision,
            device=str(next(self.module.parameters()).device),
        )
        photo_rows = None if self._own_photos else self._photo_rows
        items = embedder.embed_catalogue(self._catalogue, photo_rows=photo_rows, label=None).astype(np.float32)
        queries = embedder.queries([self._catalogue.queries[row] for row in self._validation.query_row])
        targets = TargetSets(self._validation.offsets, self._validation.item_rows)
        recall = macro(recall_at_k(match(_top(queries, items, k=k), targets=targets), k=k))
        name = f"recall@{k}"
        return Validation({name: recall}, headline=name)

    def _item_parts(
        self, item_rows: NDArray[np.int64], *, rng: np.random.Generator
    ) -> list[tuple[NDArray[np.int64], ItemInputs]]:
        """Gather a batch's items in parts of like title length; each comes with its places in `item_rows`."""
        has_title, has_photo = self._hide(self._has_title[item_rows], self._has_photo[item_rows], rng=rng)
        reads = self._config.encoder.modalities
        pixels = None
        if reads.reads_photo:
            pixels = self._catalogue.photos.pixels(self._photo_rows[item_rows])
        tokens = np.where(has_title[:, None], self._title_tokens[item_rows], PAD)
        parts = cut_by_length((tokens != PAD).sum(axis=1), parts=2 if reads.reads_title else 1)
        return [
            (
                rows,
                ItemInputs(
                    title_tokens=text_tensor(tokens[rows]) if reads.reads_title else None,
                    pixels=None if pixels is None else torch.from_numpy(pixels[rows]),
                    has_title=torch.from_numpy(has_title[rows]),
                    has_photo=torch.from_numpy(has_photo[rows]),
                ),
            )
            for rows in parts
        ]

    def _hide(
        self, has_title: NDArray[np.bool_], has_photo: NDArray[np.bool_], *, rng: np.random.Generator
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Hide the title or the photo of some items that have both, never both at once."""
        luck = rng.uniform(size=len(has_title))
        both = has_title & has_photo
        title_hidden = both & (luck < self._config.title_dropout_rate)
        photo_hidden = both & (luck >= 1 - self._config.photo_dropout_rate)
        return has_title & ~title_hidden, has_photo & ~photo_hidden


def run(
    config: ContrastiveConfig,
    *,
    catalogue: Catalogue,
    split: Split,
    tokenizer: TextTokenizer,
    inputs: Mapping[str, Artifact],
    out: Path,
    seed: int,
    photo_rows: NDArray[np.integer] | None = None,
) -> Artifact:
    """Train an encoder, or open it where it has been trained.

    Args:
        config: of model and training.
        catalogue: items and photos.
        split: training pairs and validation targets.
        tokenizer: of titles and queries; a copy goes into the artefact.
        inputs: the artefacts the three were opened from; their ids enter the artefact's id.
        out: folder of the stage.
        seed: of initial weights and batches.
        photo_rows: ``[items]``, for the permuted-photo control: item i is shown the photo of item ``photo_rows[i]``.

    Returns:
        Artefact ``encoder``: ``model.safetensors``, ``config.json``, ``tokenizer.json``, ``train.jsonl``.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        task = ContrastiveTask(
            config, catalogue=catalogue, split=split, tokenizer=tokenizer, seed=seed, photo_rows=photo_rows
        )
        result = fit(task, config=config.loop, out=folder, seed=seed)
        task.module.cpu().save(folder)
        tokenizer.save(folder / TOKENIZER_FILE)
        parameters = sum(p.numel() for p in task.module.parameters())
        return {**result._asdict(), "parameters": parameters, "modalities": str(config.encoder.modalities)}

    return produce(out, kind=KIND, config=_described(config, seed, photo_rows), inputs=inputs, build=build)


def find_trained(
    config: ContrastiveConfig,
    *,
    inputs: Mapping[str, Artifact],
    out: Path,
    seed: int,
    photo_rows: NDArray[np.integer] | None = None,
) -> Artifact | None:
    """Return the encoder that `run` would open, or None where it would have to train; arguments as there."""
    return find(out, kind=KIND, config=_described(config, seed, photo_rows), inputs=inputs)


def _described(config: ContrastiveConfig, seed: int, photo_rows: NDArray[np.integer] | None) -> dict[str, Any]:
    """Return all settings that decide an encoder's weights, beside its inputs."""
    shown = None if photo_rows is None else hashlib.sha256(photo_rows.astype("<i8").tobytes()).hexdigest()
    return {"contrastive": config.dump(), "seed": seed, "photo_rows": shown}


def _some_targets(targets: Targets, *, most: int) -> Targets:
    """Keep a fixed random sample of the queries.

    Raises:
        DataError: there are none.
    """
    if len(targets.query_row) == 0:
        raise DataError(
            "events: no positive event of the validation part has a query, so the best weights cannot be chosen. "
            "Choose another split."
        )
    rng = np.random.default_rng(VALIDATION_SEED)
    chosen = np.sort(rng.permutation(len(targets.query_row))[:most])
    sets = [targets.item_rows[targets.offsets[i] : targets.offsets[i + 1]] for i in chosen]
    offsets = np.concatenate(([0], np.cumsum([len(rows) for rows in sets])))
    return Targets(targets.query_row[chosen], offsets, np.concatenate(sets))


def _top(queries: NDArray[np.float32], items: NDArray[np.float32], *, k: int, block: int = 256) -> NDArray[np.int64]:
    """Return the rows of the k items with the highest dot product for each query, ``[queries, k]``."""
    rows = [
        torch.topk(torch.from_numpy(queries[start : start + block] @ items.T), k).indices.numpy()
        for start in range(0, len(queries), block)
    ]
    return np.concatenate(rows)
