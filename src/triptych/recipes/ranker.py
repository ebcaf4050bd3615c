"""The ranker in a run: trained on what searches showed, over the served encoder's vectors where it reads content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders import embeddings
from triptych.encoders.embeddings import load_vectors, load_views
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import DataError
from triptych.ranker import train
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.measure import GroupBy
from triptych.ranker.scorer import ITEM_VECTORS, Ranker
from triptych.ranker.task import Given
from triptych.recipes.config import RANKER, RunConfig
from triptych.recipes.encoders import Plan
from triptych.recipes.stages import AllTrained, Stages, Trained


@dataclass(frozen=True)
class TrainedRanker:
    """The ranker of one seed, and what it reads."""

    artifact: Artifact
    """Kind ``ranker``."""
    embeddings: Artifact | None
    """Item vectors of the encoder; None: it reads no content."""
    views: Artifact | None
    """Those of title and photo; None: it fuses none."""

    def open(self, catalogue: Catalogue) -> Ranker:
        """Open it over its catalogue."""
        modalities = modalities_of(self.embeddings, self.views)
        return Ranker.load(self.artifact, catalogue=catalogue, modalities=modalities)


def modalities_of(item_vectors: Artifact | None, views: Artifact | None) -> dict[str, NDArray[Any]] | None:
    """Return what items are made of, for a ranker: name → ``[items, dim]``; None where it reads no content.

    Args:
        item_vectors: an ``embeddings`` artefact; None: nothing is read.
        views: an ``item_views`` artefact, for a ranker that fuses title and photo itself.
    """
    if item_vectors is None:
        return None
    return {ITEM_VECTORS: load_vectors(item_vectors), **({} if views is None else load_views(views))}


def require_shown(config: RunConfig, *, catalogue: Catalogue, split: Split) -> None:
    """Check, before anything is trained, that a log tells a ranker what was shown and not chosen; nothing without one.

    Raises:
        DataError: a part has nothing of the kind, or nobody is known by whom samples could be grouped.
    """
    if config.ranker is None:
        return
    kind = catalogue.event_array("kind")
    for part, name in ((Part.TRAIN, "training"), (Part.VALIDATION, "validation")):
        chosen = is_positive(kind[split.part(part)])
        if chosen.all() or not chosen.any():
            lacks = "impressions: items that were shown and not chosen" if chosen.all() else "choices"
            raise DataError(
                f"events: the {name} part has no {lacks}, and a ranker learns to tell one from the other. Keep "
                "impressions in the log, or leave [ranker] out."
            )
    if config.ranker.grouped_by is GroupBy.USER and not catalogue.num_users:
        raise DataError(
            "events: no event has a user, and ranker.grouped_by = 'user' judges what each was shown. Set "
            "ranker.grouped_by = 'request'."
        )


def ranker_of_run(trained: AllTrained, *, stages: Stages, split: Split, served: Plan) -> list[TrainedRanker]:
    """Train the run's ranker with each seed, or open it; none where the run has none.

    Args:
        trained: the encoders.
        stages: of the run.
        split: its training part is learned, its validation part chooses the weights.
        served: whose encoder's vectors are read.
    """
    config = stages.config.ranker
    if config is None:
        return []
    return [
        _train(config, own=trained[served.name, seed], seed=seed, stages=stages, split=split, served=served)
        for seed in stages.config.seeds
    ]


def ranker_inputs(rankers: Sequence[TrainedRanker], *, stages: Stages) -> dict[str, Artifact]:
    """Name what a report of a run's rankers is made of."""
    return {f"{RANKER} seed {seed}": one.artifact for seed, one in zip(stages.config.seeds, rankers, strict=False)}


def _train(
    config: RankTrainConfig, *, own: Trained, seed: int, stages: Stages, split: Split, served: Plan
) -> TrainedRanker:
    catalogue, content = stages.catalogue, config.content
    inputs: dict[str, Artifact | str] = {"catalogue": catalogue.artifact, "split": split.artifact}
    vectors, views = own.embeddings if content.reads_modalities else None, None
    if vectors is not None:
        inputs |= {"encoder": own.encoder, "embeddings": vectors}
        modalities = served.config.encoder.modalities
        if content.fuses_modalities and modalities.reads_title and modalities.reads_photo:
            views = _views(own, seed=seed, stages=stages, served=served)
            inputs["item_views"] = views
    given = Given(catalogue, split, seed, modalities_of(vectors, views))
    artifact = stages.stage(
        RANKER, lambda out: train.run(config, given, inputs=inputs, out=out), record=f"{RANKER} seed {seed}"
    )
    return TrainedRanker(artifact, vectors, views)


def _views(own: Trained, *, seed: int, stages: Stages, served: Plan) -> Artifact:
    """Encode title and photo of each item by themselves."""
    features = stages.models_for(served.config).features
    return stages.stage(
        "item_views",
        lambda out: embeddings.run_views(encoder=own.encoder, catalogue=stages.catalogue, features=features, out=out),
        record=f"item views {served.name} seed {seed}",
    )
