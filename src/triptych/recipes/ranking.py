"""Rankers in a table: an encoder, what a ranker reads of it, the ranker, and its scores of what was shown.

`recipes.ranker` is the ranker of a run, behind recall; here rankers stand beside each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.encoders.embeddings import load_vectors
from triptych.encoders.inputs import View
from triptych.evaluate.measure import some_requests
from triptych.evaluate.tasks import ranking as ranking_task
from triptych.evaluate.tasks.base import EvaluationConfig, TaskResult
from triptych.evaluate.tasks.ranking import Scored
from triptych.foundation.artifact import Artifact
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError
from triptych.foundation.registry import one_of
from triptych.pretrain.base import TASKS, PretrainConfig
from triptych.ranker import train
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.match import Match
from triptych.ranker.measure import GroupBy
from triptych.ranker.own_encoder import EncoderStart
from triptych.ranker.samples import Samples, read_samples
from triptych.ranker.scorer import KIND, Ranker
from triptych.ranker.task import Given
from triptych.recall.models.popularity import Popularity
from triptych.recipes.encoders import permuted_photos
from triptych.recipes.recall import SIDES
from triptych.recipes.side_by_side import train_new
from triptych.recipes.stages import Stages
from triptych.recipes.views import Modality, item_views, of_modalities, permuted, permuted_rows, query_vectors

Ranks = Popularity | Ranker
"""What gives a score to what was shown."""


class RankingConfig(Config):
    """A ranker, and the pretraining whose vectors it reads."""

    pretrain: Annotated[PretrainConfig | None, one_of(TASKS)] = None
    """What the encoder is trained on; none for a ranker that reads no content."""
    modalities: tuple[Modality, ...] = ()
    """Which of its vectors the ranker reads of an item: item, title, photo."""
    ranker: RankTrainConfig = RankTrainConfig()
    """Model, what it makes of content, and training."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        reads, match, kind = self.ranker.content.reads_modalities, self.ranker.reads_match, self.ranker.content.kind
        if match and self.pretrain is None:
            raise ValueError("ranker.reads_match reads an encoder's vectors of queries and items: set pretrain.")
        if match and not reads and self.modalities:
            raise ValueError(f"ranker.content.kind = '{kind}' reads no vectors of items: remove modalities.")
        if (reads or match) != (self.pretrain is not None) or reads != bool(self.modalities):
            wanted = "reads vectors of items: set" if reads else "reads no vectors of items: remove"
            raise ValueError(f"ranker.content.kind = '{kind}' {wanted} pretrain and modalities.")
        return self


class RankingPlan(NamedTuple):
    """A ranker that a table wants, with each of its seeds."""

    name: str
    """What tables and messages call it."""
    config: RankingConfig
    """Encoder, ranker and training, complete."""
    permutes_photos: bool = False
    """Whether the encoder is shown another item's photo for each item: the permuted-photo control."""
    permuted_content: bool = False
    """Whether items have changed content among each other: the permuted-content control."""

    @property
    def pretrain(self) -> PretrainConfig | None:
        """How the encoder is trained; None: there is none."""
        return self.config.pretrain

    @property
    def trains_encoder(self) -> bool:
        """Whether the ranker goes on training it."""
        return self.config.ranker.content.trains_encoder


class Read(NamedTuple):
    """What a ranker reads of an encoder."""

    encoder: Artifact
    embeddings: Artifact | None
    """Its vectors of items; None: the ranker trains the encoder and makes its own, and reads no match."""
    item_views: Artifact | None
    """Title and photo each; None: neither is read, or likewise."""
    photo_features: Artifact | None = None
    """What its frozen vision model sees, for a ranker that trains the encoder; None: there is none."""
    query_embeddings: Artifact | None = None
    """Its vectors of queries; None: the ranker reads no match of query and item."""


@dataclass(frozen=True)
class RankingWork:
    """One ranker to train: what a process must be told, and no more."""

    plan: RankingPlan
    seed: int
    catalogue: Artifact
    split: Artifact
    read: Read | None
    """None: it reads no content."""
    num_samples: int
    """Of the training part, by which its steps are counted."""
    out: Path
    """Folder of the stage."""

    @property
    def name(self) -> str:
        """What the run calls it."""
        return f"{self.plan.name} seed {self.seed}"

    @property
    def key(self) -> Hashable:
        """No two that a table wants are one training."""
        return self.name

    @property
    def num_steps(self) -> int:
        """Steps that its training counts, about: all of what was chosen is kept."""
        config = self.plan.config.ranker
        return config.loop(batches_per_epoch=self.num_samples * config.negative_rate / config.batch_samples).steps

    def find(self) -> Artifact | None:
        """Return the finished ranker, or None."""
        return train.find_trained(self.plan.config.ranker, seed=self.seed, inputs=self._inputs, out=self.out)

    def train(self) -> Artifact:
        """Train it, go on where an attempt was interrupted, or open it."""
        catalogue = Catalogue.open(self.catalogue)
        encoder = self._encoder(catalogue) if self.plan.trains_encoder else None
        given = Given(catalogue, Split.open(self.split), self.seed, self.modalities, encoder, self.match)
        return train.run(self.plan.config.ranker, given, inputs=self._inputs, out=self.out)

    @property
    def modalities(self) -> dict[str, NDArray[Any]] | None:
        """What it reads of the items, name → ``[items, dim]``; None: nothing, or what it makes itself."""
        wanted = self.plan.config.modalities
        if self.read is None or self.read.embeddings is None or not wanted or self.plan.trains_encoder:
            return None
        views = self.read.item_views
        found = of_modalities(wanted, item_vectors=self.read.embeddings, views=views)
        return permuted(found, seed=self.seed) if self.plan.permuted_content else found

    @property
    def match(self) -> Match | None:
        """Of which encoder it reads how query and item go together; None: it reads no such thing."""
        read = self.read
        if read is None or read.embeddings is None or read.query_embeddings is None:
            return None
        rows = None
        if self.plan.permuted_content:
            rows = permuted_rows(len(load_vectors(read.embeddings)), seed=self.seed)
        return Match.open(
            encoder=read.encoder,
            embeddings=read.embeddings,
            query_embeddings=read.query_embeddings,
            content_rows=rows,
        )

    def _encoder(self, catalogue: Catalogue) -> EncoderStart:
        """Describe the encoder that it trains on, shown what the encoder was shown in its own training."""
        plan, read = self.plan, self.read
        assert read is not None, "what trains an encoder reads one"
        count = catalogue.num_items
        return EncoderStart(
            read.encoder,
            [View(name.value) for name in plan.config.modalities],
            features=read.photo_features,
            photo_rows=permuted_photos(catalogue, seed=self.seed) if plan.permutes_photos else None,
            content_rows=permuted_rows(count, seed=self.seed) if plan.permuted_content else None,
        )

    @property
    def _inputs(self) -> dict[str, Artifact | str]:
        inputs: dict[str, Artifact | str] = {"catalogue": self.catalogue, "split": self.split}
        if self.read is not None:
            inputs |= {name: one for name, one in self.read._asdict().items() if one is not None}
            if self.plan.config.modalities:
                inputs["modalities"] = ", ".join(self.plan.config.modalities)
        if self.plan.permuted_content:
            inputs["control"] = "permuted content"
        return inputs


@dataclass(frozen=True)
class TrainedRanking:
    """One ranker, and what it reads."""

    model: Artifact
    """Kind ``ranker``."""
    catalogue: Catalogue
    modalities: dict[str, NDArray[Any]] | None
    """What it reads of the items; None: nothing, or vectors of its own."""
    match: Match | None
    """Of which encoder it reads how query and item go together; None: it reads no such thing."""

    def open(self) -> Ranker:
        """Open it over its catalogue."""
        return Ranker.load(self.model, catalogue=self.catalogue, modalities=self.modalities, match=self.match)


AllRanking = Mapping[tuple[str, int], TrainedRanking]
"""Name of a plan and seed → what was trained."""


def train_ranking(
    plans: Sequence[RankingPlan], *, stages: Stages, seeds: Sequence[int], split: Split, tokenizer: Artifact
) -> AllRanking:
    """Train every plan with every seed, with an encoder of that seed; encoders that plans share are trained once.

    Args:
        plans: names are distinct.
        stages: of the run.
        seeds: of initial weights and batches.
        split: its training part is learned.
        tokenizer: from `Stages.tokenizer`.

    Raises:
        ConfigError: a ranker reads how query and item go together, and the log has no queries.
    """
    if not len(stages.catalogue.queries):
        for plan in plans:
            if plan.config.ranker.reads_match:
                raise ConfigError(
                    f"{plan.name}: ranker.reads_match reads how query and item go together, and the log has no "
                    "queries. Leave it out."
                )
    behind = stages.train_behind(plans, seeds=seeds, split=split, tokenizer=tokenizer)
    num_samples = len(read_samples(stages.catalogue, places=split.train).label)
    works = []
    for seed in seeds:
        for plan in plans:
            own, read = behind[plan.name, seed], None
            if own is not None:
                assert plan.pretrain is not None
                name, match = f"{plan.name} seed {seed}", plan.config.ranker.reads_match
                views = features = None
                vectors = None if plan.trains_encoder and not match else own.embeddings
                if plan.trains_encoder:
                    features = stages.models_for(plan.pretrain).features
                elif set(SIDES) & set(plan.config.modalities):
                    photos_of = seed if plan.permutes_photos else None
                    views = item_views(own, pretrain=plan.pretrain, stages=stages, name=name, photos_of=photos_of)
                queries = query_vectors(own, stages=stages, name=name) if match else None
                read = Read(own.encoder, vectors, views, features, queries)
            catalogue, out = stages.catalogue.artifact, stages.out / KIND
            works.append(RankingWork(plan, seed, catalogue, split.artifact, read, num_samples, out))
    new = train_new(works, jobs=stages.jobs, what="ranker")
    return {
        (work.plan.name, work.seed): TrainedRanking(
            _finish(work, is_new=work.name in new, stages=stages), stages.catalogue, work.modalities, work.match
        )
        for work in works
    }


def evaluate(
    models: Mapping[str, Ranks | Sequence[Ranks]],
    *,
    catalogue: Catalogue,
    split: Split,
    config: EvaluationConfig,
    with_chance: bool = False,
) -> TaskResult:
    """Compare rankers on all that a held-out part showed, by user.

    Args:
        models: name → what scores, or one for each seed.
        catalogue: whose log.
        split: the parts.
        config: which part, resamples; of more than `max_queries` requests so many are drawn.
        with_chance: without effect: the training part's rate for everything stands in every such table.

    Raises:
        DataError: nothing was shown in the part, or all of it chosen, or nothing.
    """
    del with_chance
    samples = read_samples(catalogue, places=split.part(config.part))
    samples = samples.of_requests(some_requests(len(samples.requests.time_us), config=config))
    listed = {name: list(one) if isinstance(one, Sequence) else [one] for name, one in models.items()}
    return ranking_task.evaluate(
        {name: _scored(by_seed, samples) for name, by_seed in listed.items()},
        samples=samples,
        train=read_samples(catalogue, places=split.train),
        catalogue=catalogue,
        by=GroupBy.USER,
        config=config,
    )


def _scored(by_seed: Sequence[Ranks], samples: Samples) -> Scored:
    scores = [
        one.counts[samples.item_row].astype(np.float64) if isinstance(one, Popularity) else one.score_samples(samples)
        for one in by_seed
    ]
    return Scored(scores, are_logits=not isinstance(by_seed[0], Popularity))


def _finish(work: RankingWork, *, is_new: bool, stages: Stages) -> Artifact:
    return stages.stage(KIND, lambda _: work.train(), record=f"ranker {work.name}", is_new=is_new)
