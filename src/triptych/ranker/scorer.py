"""A trained ranker that scores candidates; it reaches no training code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

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
from triptych.ranker.feature_ids import MATCH, FeatureIds
from triptych.ranker.features import Asking, Features, Modalities
from triptych.ranker.inputs import Candidates, Shown
from triptych.ranker.match import Match
from triptych.ranker.own_encoder import OwnEncoder
from triptych.ranker.samples import Samples

Given = TypeVar("Given", Candidates, Shown)

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

    def __init__(self, model: RankModel, features: Features, *, encoder: OwnEncoder | None = None) -> None:
        """Put both together; use `load`."""
        self.model, self.features = model, features
        self.encoder = encoder
        """The encoder that it has trained as its own, for items that are not of the catalogue; None: it has none."""

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
        ids = FeatureIds.load(artifact.path / FEATURES)
        features = Features(
            catalogue, ids=ids, history_items=model.config.history_items, modalities=modalities, match=match
        )
        model.check(features.sizes)
        return cls(model, features, encoder=encoder)

    def score_samples(self, samples: Samples) -> NDArray[np.float32]:
        """Return log odds of samples of the catalogue's log ``[samples]``."""
        return score_samples(self.model, self.features, samples)

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
        return _scored(self.model, self.features.candidates(asking, request=of, item_rows=item_rows))

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
        return Ranker(self.model, features, encoder=self.encoder)


def score_samples(model: RankModel, features: Features, samples: Samples) -> NDArray[np.float32]:
    """Return log odds of samples of a log ``[samples]``; the model is in evaluation mode."""
    return score_in_parts(samples, features=features, score=lambda given: _scored(model, given))


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
def _scored(model: RankModel, given: Candidates) -> NDArray[np.float32]:
    device = next(model.parameters()).device
    logits: NDArray[np.float32] = model(on_device(given, device)).logits.cpu().numpy()
    return logits


def on_device(given: Given, device: torch.device) -> Given:
    """Move candidates, or what items are made of, to a device."""

    def moved(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return part.to(device)
        if isinstance(part, tuple):
            parts = [moved(one) for one in part]
            return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
        return part

    found: Given = moved(given)
    return found
