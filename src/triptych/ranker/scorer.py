"""A trained ranker that scores candidates; it reaches no training code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.nn.model_folder import read_described
from triptych.nn.precision import find_device
from triptych.ranker.base import WHAT, RankModel, load_model
from triptych.ranker.content_vectors import ContentVectors
from triptych.ranker.feature_ids import MATCH, FeatureIds
from triptych.ranker.features import Asking, Features, Modalities, require_tokens
from triptych.ranker.inputs import Candidates, on_device
from triptych.ranker.match import Match
from triptych.ranker.own_encoder import OwnEncoder
from triptych.ranker.samples import Samples

log = logging.getLogger(__name__)

KIND = "ranker"
ITEM_VECTORS = "item"
"""The modality that a run gives a ranker with content: the served encoder's vector of each item."""
FEATURES = "features"
"""Folder of the artefact."""
SCORED_AT_ONCE = 8_192


class Needs(NamedTuple):
    """What `Ranker.load` must be given, beside the catalogue."""

    modalities: tuple[str, ...]
    """Names of what items are made of; none of a ranker that reads no content, or has vectors of its own."""
    match: bool
    """Whether it reads how query and item go together."""


def read_needs(folder: Path) -> Needs:
    """Say what a saved ranker reads, without opening it.

    Raises:
        ArtifactError: a file is absent.
    """
    sizes = read_described(folder, what=WHAT).sizes
    names = () if OwnEncoder.is_in(folder) else tuple(name for name, _ in sizes["modalities"])
    return Needs(names, match=MATCH in sizes["sample_numbers"])


class Ranker:
    """A model with what it reads."""

    def __init__(
        self,
        model: RankModel,
        features: Features,
        *,
        encoder: OwnEncoder | None = None,
        content: ContentVectors | None = None,
    ) -> None:
        """Put both together; use `load`."""
        self.model, self.features = model, features
        self.encoder = encoder
        """The encoder that it has trained as its own, for items that are not of the catalogue; None: it has none."""
        self.content = content
        """What it has worked out of items beforehand (`answering`); None: content is worked out with every score."""

    @classmethod
    def load(
        cls,
        artifact: Artifact,
        *,
        catalogue: Catalogue,
        modalities: Modalities | None = None,
        match: Match | None = None,
        beside: Mapping[str, Artifact] | None = None,
        device: str = "cpu",
    ) -> Self:
        """Open a trained ranker over a catalogue.

        Args:
            artifact: what `train.run` returned.
            catalogue: whose items are scored.
            modalities: what they are made of, as given in training; None where the ranker reads none, or has trained
                an encoder of its own and so has vectors of its own.
            match: the encoder whose match of query and item it reads, the same as in training; None where it reads
                none.
            beside: what modalities and match are of, by the names of the ranker's inputs: the encoder, say, or the
                embeddings. Arrays do not tell whose they are, and another encoder's of the same length score at
                random. None: nothing that is known of.
            device: cpu, cuda, or auto.

        Raises:
            ArtifactError: it is no ranker, or files do not belong together; it has vectors of another catalogue;
                something beside it is not what it was trained from.
            ConfigError: modalities are not of these items, or are not those that it was trained with; a match is read
                and not given, or given and not read.
        """
        Artifact.open(artifact.path, kind=KIND)
        for name, other in (beside or {}).items():
            artifact.require_input(name, other)
        model = load_model(artifact.path).to(find_device(device))
        encoder = None
        if model.content_config.trains_encoder:
            if modalities is not None:
                raise ConfigError(
                    "modalities: this ranker has trained its encoder and has vectors of its own, which go with its "
                    "weights and no others. Leave them out."
                )
            if "catalogue" in artifact.inputs:
                artifact.require_input("catalogue", catalogue.artifact)
            encoder = OwnEncoder(artifact.path, device=device)
            modalities = encoder.vectors
        elif model.content_config.reads_states:
            require_tokens(modalities or {})
        ids = FeatureIds.load(artifact.path / FEATURES)
        features = Features(
            catalogue, ids=ids, history_items=model.config.history_items, modalities=modalities, match=match
        )
        model.check(features.sizes)
        return cls(model, features, encoder=encoder)

    def score_samples(self, samples: Samples) -> NDArray[np.float32]:
        """Return log odds of samples of the catalogue's log ``[samples]``."""
        return score_in_parts(samples, features=self.features, score=self._scored)

    def answering(self) -> Ranker:
        """Return the same with the content of every item worked out, so that a request looks it up.

        What items are made of is let go; `with_items` works out what is new. Scores are the same. Nothing changes
        where no content is read, or where the plug-in cannot be taken apart (`ContentModule.item_side`), which is
        logged.
        """
        module, device = self.model.content, next(self.model.parameters()).device
        if self.content is not None or not self.model.content_config.reads_modalities:
            return self
        if not module.has_item_side:
            log.warning(
                "ranker: content is worked out in every request, since %s has no item_side", type(module).__name__
            )
            return self
        side = module.item_side()
        assert side is not None, "it reads what items are made of"
        found = ContentVectors.of_catalogue(side, self.features, device=device)
        log.info("ranker: content vectors of %d items, %.1f MiB", self.features.num_items, found.memory_bytes / 2**20)
        return Ranker(self.model, self.features.with_modalities({}), encoder=self.encoder, content=found)

    def score(
        self, asking: Asking, *, item_rows: NDArray[np.integer], request: NDArray[np.integer] | None = None
    ) -> NDArray[np.float32]:
        """Return log odds of candidates ``[candidates]``.

        Args:
            asking: requests, as of `Features.of_words` or `Features.of_spoken`.
            item_rows: the candidates.
            request: ``[candidates]``, the place of each one's request; None: there is one request.
        """
        of = np.zeros(len(item_rows), dtype=np.int64) if request is None else request
        return self._scored(self.features.candidates(asking, request=of, item_rows=item_rows))

    def _scored(self, given: Candidates) -> NDArray[np.float32]:
        return _scored(self.model, given, content=self.content)

    def with_items(
        self, items: pl.DataFrame, *, modalities: Modalities, match_vectors: NDArray[Any] | None = None
    ) -> Ranker:
        """Return the same with more items behind the others.

        Args:
            items: as of `Features.with_items`.
            modalities: likewise; of a ranker with an encoder of its own from `OwnEncoder.encode`.
            match_vectors: likewise; never of an encoder of its own.
        """
        features = self.features.with_items(items, modalities=modalities, match_vectors=match_vectors)
        if self.content is None:
            return Ranker(self.model, features, encoder=self.encoder)
        side = self.model.content.item_side()
        assert side is not None, "it has worked something out"
        own = {name: modalities[name] for name in self.model.sizes.modalities}
        more = ContentVectors.of_new(side, own, device=next(self.model.parameters()).device)
        return Ranker(self.model, features, encoder=self.encoder, content=self.content.followed_by(more))


def score_samples(
    model: RankModel, features: Features, samples: Samples, *, content: ContentVectors | None = None
) -> NDArray[np.float32]:
    """Return log odds of samples of a log ``[samples]``; the model is in evaluation mode.

    Args:
        model: what scores.
        features: gather what it reads.
        samples: of their log.
        content: what it has worked out of items beforehand; None: it works that out with every score.
    """
    return score_in_parts(samples, features=features, score=lambda given: _scored(model, given, content=content))


def score_in_parts(
    samples: Samples, *, features: Features, score: Callable[[Candidates], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Gather samples of a log a part at a time, and score each: ``[samples]``."""
    found = []
    for start in range(0, len(samples.label), SCORED_AT_ONCE):
        some = slice(start, start + SCORED_AT_ONCE)
        places, request = np.unique(samples.request[some], return_inverse=True)
        asking = features.of_log(samples.requests.at(places))
        given = features.candidates(asking, request=request, item_rows=samples.item_row[some])
        found.append(score(given))
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)


@torch.no_grad()
def _scored(model: RankModel, given: Candidates, *, content: ContentVectors | None = None) -> NDArray[np.float32]:
    device = next(model.parameters()).device
    moved = on_device(given, device)
    if content is None:
        logits = model(moved).logits
    else:
        logits = model.answer(moved, [one.to(device) for one in content.at(given.items.item_rows)])
    found: NDArray[np.float32] = logits.cpu().numpy()
    return found
