"""Ranker training as the loop sees it: samples in, loss and validation out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.catalogue import Catalogue
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.embed import Embedder
from triptych.foundation.errors import ConfigError, DataError
from triptych.losses.base import LossOutput
from triptych.losses.choices import chosen_or_not, chosen_over_others
from triptych.ranker.base import RankModel
from triptych.ranker.config import Headline, Order, RankTrainConfig
from triptych.ranker.content_vectors import ContentVectors
from triptych.ranker.feature_ids import FeatureIds
from triptych.ranker.features import Features, Looks, require_tokens
from triptych.ranker.inputs import Candidates, Shown, on_device
from triptych.ranker.match import Match
from triptych.ranker.measure import figures, groups_of
from triptych.ranker.own_encoder import EncoderStart, write_encoder
from triptych.ranker.samples import Samples, read_samples
from triptych.ranker.scorer import FEATURES, score_samples
from triptych.training.task import Validation

VALIDATION_SEED = 0
"""Draws the groups of a large validation part."""


@dataclass(frozen=True)
class Given:
    """What a ranker is trained from, beside its config."""

    catalogue: Catalogue
    """Items, log."""
    split: Split
    """Its training part is learned, its validation part chooses the weights."""
    seed: int
    """Of initial weights and batches."""
    modalities: Mapping[str, NDArray[Any]] | None = None
    """What items are made of, for a plug-in that reads it: name → ``[items, dim]`` (such as the vectors of an
    ``embeddings`` artefact) or ``[items, tokens, dim]``, NaN where there is none."""
    encoder: EncoderStart | None = None
    """An encoder in the place of `modalities`, for a plug-in that trains it (`ContentConfig.trains_encoder`)."""
    match: Match | None = None
    """An encoder's vectors of queries and items, with those of the log's queries, where `reads_match`."""


class RankBatch(NamedTuple):
    """Some samples."""

    candidates: Candidates
    labels: Tensor
    """bool ``[samples]``."""


class RankTask:
    """A ranker as a `training.task.Task`."""

    name = "training ranker"

    def __init__(self, config: RankTrainConfig, given: Given) -> None:
        """Read the samples and make the model.

        Raises:
            DataError: there is nothing to tell apart in training, or in validation.
            ConfigError: the plug-in reads what nobody gave, or reads nothing of what is given; it trains an encoder
                and there is none, or trains none; the match of query and item is read and there is none, or not read.
        """
        self._config, self._seed = config, given.seed
        _check_encoder(config, given)
        if config.content.reads_states and given.modalities is not None:
            require_tokens(given.modalities)
        _check_match(config, given)
        if given.modalities and not config.content.reads_modalities:
            raise ConfigError(
                f"content.kind = '{config.content.kind}' reads none of the modalities that are given. Leave them out, "
                "or choose another kind, such as 'frozen'."
            )
        self.train = read_samples(given.catalogue, places=given.split.train)
        self.validation = self._chosen(read_samples(given.catalogue, places=given.split.part(Part.VALIDATION)))
        for part, samples in (("training", self.train), ("validation", self.validation)):
            _check_labels(samples, part=part)
        self.ids = FeatureIds.fit(
            given.catalogue,
            samples=self.train,
            min_count=config.id_min_count,
            matches=None if given.match is None else given.match.of_samples(self.train),
        )
        if config.reads_match and self.ids.match is None:
            raise ConfigError(
                "reads_match: no request of the training part has words, so there is no match of query and item. Leave "
                "it out."
            )
        states = config.content.reads_states
        self._encoder = None if given.encoder is None else given.encoder.open(states=states)
        self._looks: Looks | None = None
        if given.encoder is not None and self._encoder is not None:
            views = tuple(sorted(set(given.encoder.views)))
            self._looks = Looks(given.encoder.inputs(given.catalogue, embedder=self._encoder), views, states)
        self.features = Features(
            given.catalogue,
            ids=self.ids,
            history_items=config.model.history_items,
            modalities=given.modalities if config.content.reads_modalities else None,
            looks=self._looks,
            match=given.match,
        )
        self.module: RankModel = config.model.build(self.features.sizes, content=config.content, seed=given.seed)
        if self._encoder is not None:
            self.module.content.encode_by(self._encoder.encoder, seed=given.seed)
        self.module.begin_at(float(self.train.label.mean()))
        self._negatives = np.flatnonzero(~self.train.label)
        self._kept_negatives = max(1, round(config.negative_rate * len(self._negatives)))
        self._drawn: tuple[int, NDArray[np.int64]] | None = None
        self.module.content.learns_for(config.loop(batches_per_epoch=self.batches_per_epoch).steps)
        learned = np.bincount(
            self.train.item_row,
            weights=np.where(self.train.label, 1.0, self.negative_rate),
            minlength=given.catalogue.num_items,
        )
        self.module.content.count_candidates(torch.from_numpy(learned.astype(np.float32)))

    @property
    def negative_rate(self) -> float:
        """Share of the negatives that each epoch learns from, exactly."""
        return self._kept_negatives / len(self._negatives)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every sample that is kept is seen once; the last one may be smaller."""
        kept = len(self.train.label) - len(self._negatives) + self._kept_negatives
        return -(-kept // self._config.batch_samples)

    def batch(self, index: int) -> RankBatch:
        """Gather batch `index`."""
        epoch, place = divmod(index, self.batches_per_epoch)
        chosen = self._epoch(epoch)[place * self._config.batch_samples :][: self._config.batch_samples]
        requests, request = np.unique(self.train.request[chosen], return_inverse=True)
        asking = self.features.of_log(self.train.requests.at(requests))
        candidates = self.features.candidates(
            asking,
            request=request,
            item_rows=self.train.item_row[chosen],
            hide=np.random.default_rng([self._seed, index, 2]),
            hide_rate=self._config.id_dropout_rate,
        )
        return RankBatch(candidates, torch.from_numpy(self.train.label[chosen]))

    def num_samples(self, batch: RankBatch) -> int:
        """Count samples."""
        return len(batch.labels)

    def losses(self, batch: RankBatch) -> LossOutput:
        """Compare scores with what was chosen."""
        ranked = self.module(batch.candidates)
        first = chosen_or_not(ranked.logits, labels=batch.labels, negative_rate=self.negative_rate)
        total, parts = first.total, dict(first.parts)
        weighed = [(term.weight, term.loss) for term in ranked.terms]
        if self._config.pairwise_weight:
            pairs = chosen_over_others(ranked.logits, labels=batch.labels, groups=batch.candidates.request)
            weighed.append((self._config.pairwise_weight, pairs))
        for weight, loss in weighed:
            total = total + weight * loss.total
            parts.update(loss.parts)
        return LossOutput(total, parts)

    def validate(self) -> Validation:
        """Score the validation samples and measure them."""
        features, content = self._as_answering(self.validation)
        logits = score_samples(self.module, features, self.validation, content=content)
        found = figures(self.validation, logits, by=self._config.grouped_by)
        headline = self._config.headline
        if headline is Headline.GAUC and np.isnan(found.gauc):
            raise DataError(
                f"events: of the validation part no {self._config.grouped_by} has both something chosen and something "
                "not, so there is no GAUC. Set headline = auc, or another grouped_by."
            )
        names = ("gauc", "auc", "log_loss", "predicted_over_observed")
        values = {name: float(getattr(found, name)) for name in names} | self._report()
        return Validation({name: value for name, value in values.items() if not np.isnan(value)}, headline=headline)

    def save(self, folder: Path) -> None:
        """Write the ranker as `scorer.Ranker` opens it; with an encoder of its own, that and its vectors of all items.

        Everything of the catalogue is encoded for it.
        """
        self.module.save(folder)
        self.ids.save(folder / FEATURES)
        if self._looks is not None:
            items = self.features.sizes.catalogue_items
            write_encoder(folder, embedder=self._embedder(), looks=self._looks, items=items)

    def _embedder(self) -> Embedder:
        """Put the encoder to use as it is now."""
        assert self._encoder is not None
        device = str(next(self.module.parameters()).device)
        found = self._encoder
        return Embedder(found.encoder, tokenizer=found.tokenizer, precision=self._config.precision, device=device)

    def _as_answering(self, samples: Samples) -> tuple[Features, ContentVectors | None]:
        """Return features as what answers has them: with vectors of the items in the place of how they look.

        Each item of the samples and of their histories is encoded once, and not once for every batch of samples. Of
        words and patches, which nobody could hold of all of them, the content vectors that they make are kept.
        """
        if self._looks is None:
            return self.features, None
        steps = self.features.of_log(samples.requests).steps
        rows = np.unique(np.concatenate([samples.item_row, steps[steps >= 0]]))
        if self._looks.states:
            return self.features.with_modalities({}), self._content_vectors(rows, looks=self._looks)
        found = self._looks.inputs.embed(self._embedder(), views=self._looks.views, item_rows=rows)
        modalities = {}
        for name, vectors in found.items():
            modalities[name] = np.full(
                (self.features.sizes.catalogue_items, vectors.shape[1]), np.nan, dtype=vectors.dtype
            )
            modalities[name][rows] = vectors
        return self.features.with_modalities(modalities), None

    def _content_vectors(self, item_rows: NDArray[np.int64], *, looks: Looks) -> ContentVectors:
        """Work out what the plug-in says of some items by themselves; of the others it says zeros."""
        side, device = self.module.content.item_side(), next(self.module.parameters()).device
        assert side is not None, "it reads what items are made of"
        items, kept = self.features.sizes.catalogue_items, dict[str, torch.Tensor]()
        blocks = looks.inputs.state_blocks(self._embedder(), views=looks.views, item_rows=item_rows)
        for places, states in blocks:
            said = ContentVectors.of_new(side, {view.value: one for view, one in states.items()}, device=device)
            for name, vectors in said.vectors.items():
                kept.setdefault(name, torch.zeros(items, *vectors.shape[1:]))[item_rows[places]] = vectors
        return ContentVectors(kept)

    def _report(self) -> dict[str, float]:
        """Ask the plug-in what it has to tell of itself."""
        device = next(self.module.parameters()).device

        def shown(rows: Tensor) -> Shown:
            return on_device(self.features.shown(rows.cpu().numpy()), device)

        return dict(self.module.content.report(shown))

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the samples of an epoch in their order; kept, as the next batch is mostly of the same one."""
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch, 1])
            kept = self.train.label.copy()
            kept[rng.permutation(self._negatives)[: self._kept_negatives]] = True
            samples = np.flatnonzero(kept)
            if self._config.order is Order.SHUFFLED:
                rank = rng.permutation(len(self.train.requests.time_us))
                samples = samples[np.argsort(rank[self.train.request[samples]], kind="stable")]
            self._drawn = (epoch, samples)
        return self._drawn[1]

    def _chosen(self, samples: Samples) -> Samples:
        """Keep whole groups until there are samples enough, always the same ones."""
        most = self._config.validation_samples
        if len(samples.label) <= most:
            return samples
        groups, of = np.unique(groups_of(samples, by=self._config.grouped_by), return_inverse=True)
        rank = np.random.default_rng(VALIDATION_SEED).permutation(len(groups))
        before = np.cumsum(np.bincount(rank[of], minlength=len(groups)))
        enough = 1 + int(np.searchsorted(before, most))
        return samples.of_requests(np.unique(samples.request[rank[of] < enough]))


def _check_encoder(config: RankTrainConfig, given: Given) -> None:
    """See that there is an encoder exactly where one is trained, and that it is the only source of vectors."""
    trains = config.content.trains_encoder
    if trains and given.encoder is None:
        raise ConfigError(
            "content: its settings train the encoder of titles and photos (full, encoder_blocks), and none is given. "
            "Give the pretrained one, or choose other modes."
        )
    if given.encoder is not None and not trains:
        raise ConfigError(
            "content: an encoder is given, and no setting trains it. Give its vectors as modalities, or set train = "
            "'full' of content.kind = 'em3'."
        )
    if given.encoder is not None and given.modalities:
        raise ConfigError("modalities: the encoder that is trained makes them. Leave them out.")


def _check_match(config: RankTrainConfig, given: Given) -> None:
    """See that there is a match of query and item exactly where one is read."""
    if config.reads_match and given.match is None:
        raise ConfigError(
            "reads_match: a ranker reads the cosine of query and item, and is given no encoder's vectors of them. Give "
            "match, or leave it out."
        )
    if given.match is not None:
        if not config.reads_match:
            raise ConfigError("match: it is given, and not read. Leave it out, or set reads_match = true.")
        given.match.check(given.catalogue)


def _check_labels(samples: Samples, *, part: str) -> None:
    positives = int(samples.label.sum())
    if positives in (0, len(samples.label)):
        what = "was not chosen" if not positives else "was chosen, and nothing only shown"
        raise DataError(
            f"events: everything in the {part} part ({len(samples.label):,} samples) {what}. A ranker learns to tell "
            "what was chosen from what was shown and left: keep impressions, or ratings below positive_rating, in the "
            "log."
        )
