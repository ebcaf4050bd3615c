"""What every way of training the encoder shares: its settings, how items are gathered, and the artefact.

One task per file, and the file's name is its kind: `contrastive` learns from queries and what was clicked under them,
`history_contrast` from what users chose one after another, `item_contrast` from titles and photos alone.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from triptych.data.augment import AugmentConfig, Variations, vary
from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import PAD, AnyTokenizer, TextTokenizer, item_texts
from triptych.encoders.embed import KIND, TOKENIZER_FILE, Embedder, Pixels
from triptych.encoders.features import PhotoFeatures
from triptych.encoders.model_files import KIND as PRETRAINED
from triptych.encoders.model_files import provenance_of
from triptych.encoders.slots import NO_ARTIFACTS, ModelArtifacts
from triptych.encoders.text import cut_by_length, text_tensor
from triptych.encoders.two_tower import SLOTS, EncoderConfig, ItemInputs, OtherPhotos, TwoTowerEncoder, open_models
from triptych.foundation.artifact import Artifact, find, produce
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, DataError
from triptych.losses.base import LossOutput
from triptych.losses.infonce import infonce
from triptych.training.distributed import ALONE, Group, Processes
from triptych.training.loop import LoopConfig, fit
from triptych.training.loop import follow as follow_steps
from triptych.training.task import Validation

TASKS = "triptych.pretrain"
"""The registry folder."""
VALIDATION_SEED = 0
"""Draws what is validated on: the same for every model and training seed."""


class EncoderTask(Protocol):
    """A `training.task.Task` whose module is the two-tower encoder."""

    name: str
    module: TwoTowerEncoder

    def batch(self, index: int) -> Any:
        """As in `training.task.Task`."""
        ...

    def num_samples(self, batch: Any) -> int:
        """As in `training.task.Task`."""
        ...

    def losses(self, batch: Any) -> LossOutput:
        """As in `training.task.Task`."""
        ...

    def validate(self) -> Validation:
        """As in `training.task.Task`."""
        ...


class PretrainConfig(Config):
    """Base of every training task: the model, the loop, and how items are shown in training."""

    kind: str
    """Name of the task's file."""
    encoder: EncoderConfig = EncoderConfig()
    """The model."""
    loop: LoopConfig = LoopConfig()
    """Steps, rates, validation."""
    temperature: float = Field(0.05, gt=0)
    """Divides cosines in the softmax."""
    title_dropout_rate: float = Field(0.15, ge=0, lt=1)
    """Share of items with both title and photo whose title is hidden in training; teaches search by photo."""
    photo_dropout_rate: float = Field(0.1, ge=0, lt=1)
    """Share of items with both title and photo whose photo is hidden in training; teaches items without photo."""
    photo_view_items: int = Field(64, ge=1)
    """Items of a batch whose photo alone, varied, must also find its item among the batch."""
    photo_view_weight: float = Field(0.2, ge=0)
    """Weight of that loss; 0 leaves it out."""
    augment: AugmentConfig = AugmentConfig()
    """How the photos of that loss are varied; items themselves are shown their photos as they are."""
    validation_k: int = Field(100, ge=1)
    """Cut-off of the recall that chooses the best weights."""

    @model_validator(mode="after")
    def _dropout_leaves_something(self) -> Self:
        if self.title_dropout_rate + self.photo_dropout_rate > 1:
            raise ValueError("title_dropout_rate and photo_dropout_rate must add up to at most 1.")
        return self

    @abstractmethod
    def task(self, given: Given) -> EncoderTask:
        """Make the task and its model.

        Raises:
            ConfigError: the catalogue's photos have another size than the encoder takes.
            DataError: there is nothing to train or validate on.
        """


@dataclass(frozen=True)
class Given:
    """What an encoder is trained from, beside its config."""

    catalogue: Catalogue
    """Items and photos."""
    split: Split | None
    """Its training part is learned, its validation part chooses the weights; None where there is no log."""
    tokenizer: AnyTokenizer
    """Of titles and queries."""
    seed: int
    """Of initial weights and batches."""
    photo_rows: NDArray[np.integer] | None = None
    """``[items]``, for the permuted-photo control: item i is shown the photo of item ``photo_rows[i]``."""
    models: ModelArtifacts = NO_ARTIFACTS
    """The pretrained models that the encoder's config names, and what a frozen one sees in the photos."""
    group: Group = ALONE
    """The processes that train together: each gathers and encodes its share of a batch."""

    def require_split(self, why: str) -> Split:
        """Return the split, where a task cannot do without.

        Raises:
            DataError: there is none; `why` says what it is needed for.
        """
        if self.split is None:
            raise DataError(f"events: there are none, and {why}.")
        return self.split

    def encoder(self, config: EncoderConfig) -> TwoTowerEncoder:
        """Make the encoder, new but for pretrained models."""
        return make_encoder(config, tokenizer=self.tokenizer, seed=self.seed, models=self.models)


class ItemParts(NamedTuple):
    """A batch's items, sorted by length and cut in parts that are padded apart."""

    inputs: tuple[ItemInputs, ...]
    """This process's share."""
    order: NDArray[np.int64]
    """``[items]``, for each item of all processes, as encoded and gathered, its place among the rows asked for."""

    @property
    def place(self) -> NDArray[np.int64]:
        """``[items]``, for each row that was asked for its place among the encoded."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(self.order))
        return place


class PhotoViews(NamedTuple):
    """Photos of some items of a batch, varied anew and without their titles, as a shopper's own photo would be.

    Of several processes each has its share of the views, among the items of all.
    """

    items: ItemInputs
    positive: Tensor
    """int64 ``[views]``, the place in the batch of the item each photo shows."""
    known: Tensor
    """bool ``[views, items]``, items with the same photo: no negatives."""
    total: int
    """Views of all processes."""


class TitleQueries(NamedTuple):
    """Titles of some items of a batch, read by the query tower, as somebody would type them; shared as photo views."""

    tokens: Tensor
    """int32 ``[queries, tokens]``."""
    positive: Tensor
    """int64 ``[queries]``, the place in the batch of the item with that title."""
    known: Tensor
    """bool ``[queries, items]``, items with the same title: no negatives."""
    total: int
    """Queries of all processes."""


class ItemReader:
    """Gathers what the towers read of items. Every draw comes from the generator it is given.

    All that is drawn is drawn for the whole batch, so that it does not depend on the number of processes; titles and
    photos are gathered for this process's share.
    """

    def __init__(self, config: PretrainConfig, given: Given) -> None:
        """Tokenise all titles once.

        Raises:
            ConfigError: the catalogue's photos have another size than the encoder takes.
        """
        catalogue = given.catalogue
        encoder = config.encoder
        if encoder.modalities.reads_photo and catalogue.photos.px != encoder.photo_px:
            raise ConfigError(
                f"encoder.photo_px is {encoder.photo_px}, but the catalogue's photos are {catalogue.photos.px} px "
                "wide. Set both to the same."
            )
        self._config = config
        self._catalogue = catalogue
        self._tokenizer = given.tokenizer
        self._own_photos = given.photo_rows is None
        self._photo_rows = np.arange(len(catalogue.titles)) if given.photo_rows is None else given.photo_rows
        features = given.models.features
        self._features = None if features is None else PhotoFeatures(features, photos=catalogue.photos)
        self._group = given.group
        texts = item_texts(catalogue, features=encoder.title_features)
        self.has_photo = np.asarray(catalogue.photos.has)[self._photo_rows]
        """bool ``[items]``."""
        self.has_title = np.array([bool(text) for text in texts], dtype=bool)
        """bool ``[items]``, whether there is anything to read: a title, or one of the title features."""
        self.can_be_named = np.array([bool(title) for title in catalogue.titles], dtype=bool)
        """bool ``[items]``, whether there is a title that somebody could type."""
        self._tokens = self._tokenizer.encode(texts, max_tokens=encoder.max_title_tokens)

    def parts(self, item_rows: NDArray[np.int64], *, rng: np.random.Generator) -> ItemParts:
        """Gather items in parts of like title length, hiding the title or the photo of some."""
        has_title, has_photo = self._hide(self.has_title[item_rows], self.has_photo[item_rows], rng=rng)
        reads = self._config.encoder.modalities
        tokens = np.where(has_title[:, None], self._tokens[item_rows], PAD)
        parts = cut_by_length((tokens != PAD).sum(axis=1), parts=2 if reads.reads_title else 1)
        inputs = tuple(
            ItemInputs(
                title_tokens=text_tensor(tokens[rows]) if reads.reads_title else None,
                pixels=self._shown(item_rows[rows]) if reads.reads_photo else None,
                has_title=torch.from_numpy(has_title[rows]),
                has_photo=torch.from_numpy(has_photo[rows]),
                others=self._other_photos(item_rows[rows], among=item_rows),
            )
            for rows in self._group.shares(parts)
        )
        return ItemParts(inputs, np.concatenate(parts))

    def photo_views(self, item_rows: NDArray[np.int64], *, rng: np.random.Generator) -> PhotoViews | None:
        """Draw items of a batch that have a photo, and vary each photo apart from how the batch shows it.

        Args:
            item_rows: ``[items]`` in the order in which they are encoded.
            rng: source of the draws.

        Returns:
            None where the encoder reads no photos, no item has one, or the loss is off.
        """
        config = self._config
        if not config.encoder.modalities.reads_photo or config.photo_view_weight == 0:
            return None
        place = rng.permutation(np.flatnonzero(self.has_photo[item_rows]))[: config.photo_view_items]
        if len(place) == 0:
            return None
        photo_rows = self._photo_rows[item_rows]
        share = self._group.share(len(place))
        own = place[share]
        photos: Pixels
        if self._features is None:
            variations = Variations.draw(len(place), config=config.augment, rng=rng)
            photos = vary(self._catalogue.photos.pixels(photo_rows[own]), variations.of(share))
        else:
            views = self._features.draw_views(len(place), rng=rng)
            photos = self._features.pixels(photo_rows[own], views=views[share])
        picture = self._catalogue.photos.photo_rows[photo_rows]  # identical photos share a number
        has_photo = torch.ones(len(own), dtype=torch.bool)
        return PhotoViews(
            items=ItemInputs(None, torch.from_numpy(photos), has_title=~has_photo, has_photo=has_photo),
            positive=torch.from_numpy(own),
            known=torch.from_numpy(picture[own][:, None] == picture[None, :]),
            total=len(place),
        )

    def title_queries(
        self, item_rows: NDArray[np.int64], *, most: int, rng: np.random.Generator
    ) -> TitleQueries | None:
        """Draw items of a batch that have a title, to be asked for by it.

        Args:
            item_rows: ``[items]`` in the order in which they are encoded.
            most: how many at most.
            rng: source of the draws.

        Returns:
            None where no item has a title, or none are wanted.
        """
        place = rng.permutation(np.flatnonzero(self.can_be_named[item_rows]))[:most]
        if len(place) == 0:
            return None
        titles = np.array([self._catalogue.titles[row] for row in item_rows], dtype=object)
        longest = self._config.encoder.max_query_tokens
        own = place[self._group.share(len(place))]
        tokens = self._tokenizer.encode([str(title) for title in titles[own]], max_tokens=longest)
        return TitleQueries(
            tokens=text_tensor(tokens),
            positive=torch.from_numpy(own),
            known=torch.from_numpy((titles[own][:, None] == titles[None, :]).astype(bool)),
            total=len(place),
        )

    def pixels(self, item_rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the photos that items are shown in this run: uint8 ``[n, px, px, 3]``."""
        return self._catalogue.photos.pixels(self._photo_rows[item_rows])

    def embedder(self, module: TwoTowerEncoder) -> Embedder:
        """Put the encoder to use as it is now."""
        return Embedder(
            module,
            tokenizer=self._tokenizer,
            precision=self._config.loop.precision,
            device=str(next(module.parameters()).device),
        )

    def vectors(self, module: TwoTowerEncoder) -> NDArray[np.float32]:
        """Encode every item of the catalogue as it is shown in this run: ``[items, dim]``."""
        photo_rows = None if self._own_photos else self._photo_rows
        found = self.embedder(module).embed_catalogue(
            self._catalogue, photo_rows=photo_rows, features=self._features, label=None
        )
        return found.astype(np.float32)

    def _shown(self, item_rows: NDArray[np.int64]) -> Tensor:
        """Return what the encoder is given of items' photos: pixels, or what a frozen model saw in them."""
        return torch.from_numpy((self._features or self._catalogue.photos).pixels(self._photo_rows[item_rows]))

    def _other_photos(self, item_rows: NDArray[np.int64], *, among: NDArray[np.int64]) -> OtherPhotos | None:
        """Return further photos of some of a batch's items, as many as any of them has; None if none are read."""
        encoder = self._config.encoder
        if encoder.photos == 1 or not encoder.modalities.reads_photo:
            return None
        photos, most = self._catalogue.photos, encoder.photos - 1
        found = (self._features or photos).other_pixels(self._photo_rows[item_rows], most=most)
        pixels, present = (torch.from_numpy(one) for one in found)
        lacking = min(most, int(photos.other_counts[self._photo_rows[among]].max())) - present.shape[1]
        rows = len(item_rows)
        return OtherPhotos(
            torch.cat([pixels, pixels.new_zeros(rows, lacking, *pixels.shape[2:])], dim=1),
            torch.cat([present, present.new_zeros(rows, lacking)], dim=1),
        )

    def _hide(
        self, has_title: NDArray[np.bool_], has_photo: NDArray[np.bool_], *, rng: np.random.Generator
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Hide the title or the photo of some items that have both, never both at once."""
        luck = rng.uniform(size=len(has_title))
        both = has_title & has_photo
        title_hidden = both & (luck < self._config.title_dropout_rate)
        photo_hidden = both & (luck >= 1 - self._config.photo_dropout_rate)
        return has_title & ~title_hidden, has_photo & ~photo_hidden


def make_encoder(
    config: EncoderConfig, *, tokenizer: AnyTokenizer, seed: int, models: ModelArtifacts = NO_ARTIFACTS
) -> TwoTowerEncoder:
    """Draw a new encoder's weights, except those of pretrained models, from a seed of their own."""
    named = zip(SLOTS, (models.text, models.vision), strict=True)
    opened = open_models(config, places={name: artifact.path for name, artifact in named if artifact is not None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TwoTowerEncoder(config, vocab_size=tokenizer.vocab_size, models=opened)


def encoded(inputs: Sequence[ItemInputs | Tensor], *, module: TwoTowerEncoder) -> Tensor:
    """Encode items, or the token ids of queries, that come in parts.

    Returns:
        ``[rows, vector_dim]``, the parts one after the other; no rows where there is no part, as a process may have no
        share of a small batch.
    """
    parts = [module.encode_items(one) if isinstance(one, ItemInputs) else module.encode_queries(one) for one in inputs]
    if not parts:
        # With a gradient all the same: every process takes part when those of the gathered vectors are added up.
        device = next(module.parameters()).device
        return torch.zeros(0, module.config.vector_dim, device=device, requires_grad=True)
    return torch.cat(parts)


def view_loss(
    views: PhotoViews | TitleQueries | None, *, module: TwoTowerEncoder, items: Tensor, temperature: float
) -> LossOutput | None:
    """Ask photos alone, or titles alone, for their items among those of the batch ``[items, dim]``; None for none."""
    if views is None:
        return None
    inputs = views.items if isinstance(views, PhotoViews) else views.tokens
    asked = encoded([inputs] if len(views.positive) else [], module=module)
    return infonce(
        asked, items=items, positive=views.positive, known=views.known, temperature=temperature, total=views.total
    )


class Weighted(NamedTuple):
    """A loss beside the main one; None where the batch has nothing for it."""

    loss: LossOutput | None
    weight: float


def combined(main: LossOutput | None, **beside: Weighted) -> LossOutput:
    """Add losses up; the parts of those beside the main one get their names in front.

    Args:
        main: weight 1; None where there is none.
        beside: name → loss and weight.
    """
    total, parts = (torch.zeros(()), {}) if main is None else (main.total, dict(main.parts))
    for name, (loss, weight) in beside.items():
        if loss is not None:
            total = total + weight * loss.total
            parts |= {f"{name}_{part}": value for part, value in loss.parts.items()}
    return LossOutput(total, parts)


def top_items(
    queries: NDArray[np.float32], items: NDArray[np.float32], *, k: int, block: int = 256
) -> NDArray[np.int64]:
    """Return the rows of the k items with the highest dot product for each query, ``[queries, k]``."""
    rows = [
        torch.topk(torch.from_numpy(queries[start : start + block] @ items.T), k).indices.numpy()
        for start in range(0, len(queries), block)
    ]
    return np.concatenate(rows)


def run(
    config: PretrainConfig,
    given: Given,
    *,
    inputs: Mapping[str, Artifact],
    out: Path,
    when_training: Callable[[], None] = lambda: None,
) -> Artifact:
    """Train an encoder, or open it where it has been trained.

    Args:
        config: of model and training; its kind says what is learned.
        given: what it is trained from; of its group this is the first process.
        inputs: the artefacts that catalogue, split, tokenizer and models were opened from; their ids enter the
            artefact's id.
        out: folder of the stage.
        when_training: called before training begins, if it has to; then the others of the group must `follow`.

    Returns:
        Artefact ``encoder``: ``model.safetensors``, ``config.json``, ``tokenizer.json``, ``train.jsonl``. A pretrained
        text model brings its own tokenizer; see `TwoTowerEncoder.save` for where it and the weights are.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        task = config.task(given)
        when_training()
        result = fit(task, config=config.loop, out=folder, seed=given.seed, group=given.group)
        task.module.cpu().save(folder)
        if isinstance(given.tokenizer, TextTokenizer):
            given.tokenizer.save(folder / TOKENIZER_FILE)
        parameters = sum(p.numel() for p in task.module.parameters())
        models = given.models.named()
        by = {name: provenance_of(model) for name, model in models.items() if model.kind == PRETRAINED}
        return {**result._asdict(), "parameters": parameters, "modalities": str(config.encoder.modalities), **by}

    described = _described(config, given.seed, given.photo_rows)
    return produce(out, kind=KIND, config=described, inputs=inputs, build=build)


def follow(config: PretrainConfig, given: Given) -> None:
    """Do this process's share of the training that the first one of its group keeps with `run`."""
    assert isinstance(given.group, Processes)
    follow_steps(config.task(given), config=config.loop, seed=given.seed, group=given.group)


def find_trained(
    config: PretrainConfig,
    *,
    inputs: Mapping[str, Artifact],
    out: Path,
    seed: int,
    photo_rows: NDArray[np.integer] | None = None,
) -> Artifact | None:
    """Return the encoder that `run` would open, or None where it would have to train.

    Args:
        config: as of `run`.
        inputs: as of `run`.
        out: as of `run`.
        seed: of initial weights and batches.
        photo_rows: as `Given.photo_rows`.
    """
    return find(out, kind=KIND, config=_described(config, seed, photo_rows), inputs=inputs)


def _described(config: PretrainConfig, seed: int, photo_rows: NDArray[np.integer] | None) -> dict[str, Any]:
    """Return all settings that decide an encoder's weights, beside its inputs.

    What a pretrained model is called and where it lies are not among them: its files are an input.
    """
    tree = config.dump()
    for slot in config.encoder.model_configs:
        tree["encoder"][slot] = {k: v for k, v in tree["encoder"][slot].items() if k not in ("name", "revision")}
    shown = None if photo_rows is None else hashlib.sha256(photo_rows.astype("<i8").tobytes()).hexdigest()
    return {"pretrain": tree, "seed": seed, "photo_rows": shown}
