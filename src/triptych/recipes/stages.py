"""The stages every line shares; each makes one artefact and notes it in the run folder.

A stage finds its artefact again where its work is unchanged; so a second run skips what is finished, and a killed one
goes on where it stopped. The order of the stages is the business of the lines (`recipes.lines`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.data import catalogue as catalogues
from triptych.data import splits, text
from triptych.data.catalogue import Catalogue
from triptych.data.check import Checked
from triptych.data.splits import Split
from triptych.encoders import embeddings, features, model_files
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import Modality
from triptych.encoders.pretrained import PretrainedConfig
from triptych.encoders.slots import ModelArtifacts
from triptych.encoders.untuned import UntunedConfig, UntunedText
from triptych.engine.bundle import write_bundle, write_index, write_retriever
from triptych.evaluate import report
from triptych.evaluate.report import About
from triptych.evaluate.tasks import photo
from triptych.evaluate.tasks.base import TaskResult
from triptych.evaluate.tasks.photo import crop_and_relight
from triptych.foundation.artifact import MANIFEST, Artifact
from triptych.foundation.errors import ConfigError
from triptych.index.backends.exact import ExactIndex
from triptych.pretrain.base import PretrainConfig
from triptych.recall.base import Retriever
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.dense import Dense
from triptych.recall.models.item_knn import ItemKnn, ItemKnnConfig
from triptych.recall.models.popularity import Popularity
from triptych.recipes.config import Arm, RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.encoders import EncoderWork, Plan
from triptych.recipes.models import check_models
from triptych.recipes.run_folder import RunFolder
from triptych.recipes.semantic_ids import SetsConfig
from triptych.recipes.side_by_side import train_new
from triptych.recipes.tables import find_source, spoken
from triptych.semantic_ids import fit as semantic_ids
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.stored import KIND as SEMANTIC_IDS
from triptych.semantic_ids.stored import PARTS as ID_PARTS
from triptych.training.distributed import ALONE, Group

log = logging.getLogger(__name__)

IN_TABLES = (Arm.TITLE, Arm.PHOTO, Arm.TITLE_PHOTO, Arm.PERMUTED_PHOTO)
"""The order in which encoders stand in a table."""


PRETRAINED = "pretrained"
"""First word of the rows of models that are used as they are (`evaluate.records.role_of`)."""
WARM_START_SEED = 0
"""One warm start for all seeds: what differs between them is what comes after it."""


@dataclass(frozen=True)
class Trained:
    """One encoder and its vectors of the catalogue."""

    encoder: Artifact
    embeddings: Artifact
    index: Artifact

    @property
    def model(self) -> Artifact:
        """What was trained."""
        return self.encoder

    def retriever(self, *, name: str, config: RunConfig) -> Dense:
        """Put the encoder before its vectors, all of which are compared: a report says what the model can do.

        What the served index misses of that, `triptych index sweep` says.
        """
        index = ExactIndex.build(embeddings.load_vectors(self.embeddings))
        return Dense(Embedder.open(self.encoder), index=index, config=config.dense, name=name)


class BehindEncoder(Protocol):
    """A plan for what stands behind an encoder, such as a recall model."""

    @property
    def name(self) -> str:
        """What tables and messages call it."""
        ...

    @property
    def pretrain(self) -> PretrainConfig | None:
        """How the encoder is trained; None: there is none."""
        ...

    @property
    def start(self) -> PretrainConfig | None:
        """What the encoder's training goes on from; None: new weights."""
        ...

    @property
    def control(self) -> Control:
        """What items have in the place of their own, photos among it."""
        ...


def _of_encoder(plan: BehindEncoder) -> tuple[str, str, Control]:
    """Return what decides the encoder: plans with the same share one."""
    trained, start = ("" if one is None else one.to_json() for one in (plan.pretrain, plan.start))
    return trained, start, plan.control.of_encoder


def _of_start(plan: Plan) -> tuple[str, Control]:
    """Return what decides a warm start: plans with the same share one."""
    return "" if plan.start is None else plan.start.to_json(), plan.control


AllTrained = Mapping[tuple[str, int], Trained]
"""Name of a plan (of an arm: its value) and seed → what was trained."""


class Stages:
    """The stages of one run."""

    def __init__(
        self, config: RunConfig, *, base: Path, out: Path, command: str, jobs: int = 1, group: Group = ALONE
    ) -> None:
        """Begin a run; arguments as in `pipeline.run_pipeline`."""
        self.config = config
        self.out = out
        self._command = command
        self.jobs = jobs
        self._group = group
        self._base = base
        self._features: dict[Hashable, Artifact] = {}
        self._made: dict[str, str] = {}  # id of what this run has made → what it called that first
        self._folder = RunFolder(out)
        self._folder.start(config.dump())

    def stage(
        self, name: str, make: Callable[[Path], Artifact], *, record: str | None = None, is_new: bool = False
    ) -> Artifact:
        """Make a stage's artefact under its folder, note it, and say what happened.

        Args:
            name: the folder.
            make: is given it.
            record: what the run calls the artefact; None: as the folder.
            is_new: that this run has made it even if `make` finds it finished.
        """
        label = record or name
        found = {path.name for path in (self.out / name).glob("*") if (path / MANIFEST).is_file()}
        artifact = make(self.out / name)
        self._folder.record(label, artifact)
        first, told = self._made.get(artifact.id), _brief(artifact.summary)
        if first is not None:  # plans share whatever they do not differ in
            what = "made above"
            told = told if first == label else f"as {first}"
        elif is_new or artifact.id not in found:
            what = f"{artifact.manifest['seconds']:.1f} s"
            self._made[artifact.id] = label
        else:
            what = "finished before"
        log.info("%-30s %16s   %s", label, what, told)
        return artifact

    @cached_property
    def catalogue(self) -> Catalogue:
        """Tables read and checked, photos decoded."""
        return Catalogue.open(self.stage("catalogue", self._catalogue))

    def split(self) -> Split:
        """Cut the log, or the judged queries."""
        return Split.open(
            self.stage("split", lambda out: splits.build(self.config.split, catalogue=self.catalogue, out=out))
        )

    @cached_property
    def models(self) -> ModelArtifacts:
        """Pretrained models found, copied into the run folder and checked against the config; none where none is named.

        Raises:
            ConfigError: one cannot be found or opened, or does not go with the config.
        """
        found: dict[str, Artifact] = {}
        for name, config in self.config.pretrain.encoder.model_configs.items():
            found[name] = self.stage(
                "pretrained", partial(self._model, config), record=f"pretrained {name.replace('_', ' ')}"
            )
        check_models(self.config, found)
        return ModelArtifacts(found.get("text_model"), found.get("vision_model"))

    @cached_property
    def untuned(self) -> dict[str, Artifact]:
        """Pretrained text encoders that are shown as they are, found and copied likewise: name → artefact.

        Raises:
            ConfigError: one cannot be found or opened, or reads no texts.
        """
        found: dict[str, Artifact] = {}
        for name, config in self.config.untuned.items():
            made = self.stage("pretrained", partial(self._model, config.model), record=f"pretrained {name}")
            if made.summary["max_tokens"] is None:
                raise ConfigError(
                    f"untuned.{name}: '{config.name}' reads no texts, or came without its tokenizer's files."
                )
            found[name] = made
        return found

    def untuned_rows(self) -> dict[str, Dense]:
        """Open them over the catalogue's titles: row of the tables → retriever."""
        return {f"{PRETRAINED} {name}": self._untuned_row(name, config) for name, config in self.config.untuned.items()}

    def _untuned_row(self, name: str, config: UntunedConfig) -> Dense:
        model = self.untuned[name]
        titles = self.stage(
            "features",
            lambda out: features.run(
                model,
                modality=features.Modality.TITLE,
                catalogue=self.catalogue,
                out=out,
                max_tokens=config.max_tokens,
                prefix=config.title_prefix,
            ),
            record=f"title features {name}",
        )
        vectors = features.load_features(titles)[:, 0].astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        index = ExactIndex.build(vectors / np.where(lengths, lengths, 1))  # zeros where there is no title
        encoder = UntunedText(model.path, prefix=config.query_prefix, max_tokens=config.max_tokens)
        return Dense(encoder, index, config=self.config.dense, name=f"{PRETRAINED} {name}")

    @property
    def untuned_inputs(self) -> dict[str, Artifact | str]:
        """What a report with such rows is made of."""
        prefixes = {name: one.model_dump(exclude={"name", "revision"}) for name, one in self.config.untuned.items()}
        return {
            f"{PRETRAINED} {name}{what}": one
            for name, model in self.untuned.items()
            for what, one in (("", model), (" reads", str(prefixes[name])))
        }

    def models_for(self, config: PretrainConfig) -> ModelArtifacts:
        """Return the run's models that an encoder's config names, and what a frozen one sees in the photos."""
        seen_by = config.encoder.vision_model
        text = None if config.encoder.text_model is None else self.models.text
        vision = None if seen_by is None else self.models.vision
        if vision is None or seen_by is None or not seen_by.is_frozen:
            return ModelArtifacts(text, vision)
        num_views = seen_by.num_views if config.varies_photos else 0
        wanted = (seen_by, num_views, config.augment, config.loop.precision, config.loop.device)
        if wanted not in self._features:  # asked for by every encoder of a run, and told once
            self._features[wanted] = self.stage(
                "features",
                lambda out: features.run(
                    vision,
                    modality=features.Modality.PHOTO,
                    catalogue=self.catalogue,
                    out=out,
                    output=seen_by.output,
                    cut=seen_by.cut,
                    views=num_views,
                    augment=config.augment,
                    precision=config.loop.precision,
                    device=config.loop.device,
                ),
                record="photo features",
            )
        return ModelArtifacts(text, vision, self._features[wanted])

    def tokenizer(self, split: Split | None) -> Artifact:
        """Train the tokenizer on what training may know (None: on all titles); a pretrained text model has its own."""
        config = self.config
        if self.models.text is not None:
            return self.models.text
        return self.stage(
            "tokenizer",
            lambda out: text.build(
                config.tokenizer,
                catalogue=self.catalogue,
                split=split,
                out=out,
                title_features=config.pretrain.encoder.title_features,
            ),
        )

    def popularity(self, split: Split | None) -> Artifact:
        """Count what was chosen in training; None: nothing was."""
        config = self.config.popularity
        inputs = {"catalogue": self.catalogue.artifact}
        return self.stage(
            "popularity",
            lambda out: write_retriever(
                out,
                kind="popularity",
                config=config,
                fit=lambda: Popularity.fit(
                    self.catalogue, train=slice(0, 0) if split is None else split.train, config=config
                ),
                inputs=inputs if split is None else {**inputs, "split": split.artifact},
            ),
        )

    def bm25(self) -> Artifact:
        """Index the titles."""
        config = self.config.bm25
        return self.stage(
            "bm25",
            lambda out: write_retriever(
                out,
                kind="bm25",
                config=config,
                fit=lambda: Bm25.fit(self.catalogue.titles, config=config),
                inputs={"catalogue": self.catalogue.artifact},
            ),
        )

    def item_knn(self, split: Split, config: ItemKnnConfig | None = None) -> Artifact:
        """Compare all items by who chose them in training; None: as the run's config says."""
        config = config or self.config.item_knn
        return self.stage(
            "item-knn",
            lambda out: write_retriever(
                out,
                kind="item_knn",
                config=config,
                fit=lambda: ItemKnn.fit(
                    split.train_histories(self.catalogue), num_items=self.catalogue.num_items, config=config
                ),
                inputs={"catalogue": self.catalogue.artifact, "split": split.artifact},
            ),
        )

    @property
    def own_plan(self) -> Plan:
        """The training of `pretrain`."""
        return Plan(self.config.arms[0].value, self.config.pretrain)

    @property
    def beside_plans(self) -> list[Plan]:
        """The trainings beside it."""
        return [Plan(name, config) for name, config in self.config.beside.items()]

    def train(self, split: Split | None, tokenizer: Artifact) -> AllTrained:
        """Train the encoder of every arm and seed, embed the catalogue with each and index the vectors.

        Raises:
            ConfigError: the run's semantic IDs have more codes than items that they may be learned from.
        """
        self._require_enough_for_ids(split)
        controls = {Arm.PERMUTED_PHOTO: Control.PHOTO}
        plans = [
            Plan(arm.value, arm.config(self.config.pretrain), controls.get(arm, Control.NONE))
            for arm in self.config.arms
        ]
        plans += self.beside_plans
        for plan in self.beside_plans:
            own, other = (_items_seen(config) for config in (self.config.pretrain, plan.config))
            if None not in (own, other) and own != other:
                log.warning(
                    "beside: %s learns from %s items in all (loop.steps x batch_items), pretrain from %s: the report "
                    "compares unequal budgets",
                    plan.name,
                    f"{other:,}",
                    f"{own:,}",
                )
        served = self.config.pretrain
        if served.encoder.modalities.reads_photo and not served.varies_photos and self.config.photo_queries:
            log.warning(
                "note: nothing teaches the served encoder to search by a photo alone; the task photo_view, added to a "
                "stage of pretrain, does"
            )
        return self.train_plans(plans, seeds=self.config.seeds, split=split, tokenizer=tokenizer)

    def _require_enough_for_ids(self, split: Split | None) -> None:
        """Tell what would be refused after hours of training."""
        ids = self.config.semantic_ids
        if ids is None:
            return
        known = np.ones(self.catalogue.num_items, np.bool_) if split is None else split.items_known(self.catalogue)
        there = embeddings.items_with(self.catalogue, title_features=self.config.pretrain.encoder.title_features)
        for one in ids.in_order:
            try:
                ids.quantizer.require_enough(int((known & there[one]).sum()))
            except ConfigError as error:
                of = "" if one is Modality.ITEM else f"sets, {one}: "
                raise ConfigError(f"semantic_ids.{of}{error}") from None

    def train_plans(
        self, plans: Sequence[Plan], *, seeds: Sequence[int], split: Split | None, tokenizer: Artifact
    ) -> dict[tuple[str, int], Trained]:
        """Train every plan with every seed, embed the catalogue with each encoder and index the vectors.

        Args:
            plans: names are distinct. Pretrained models are those of the run's own config.
            seeds: of initial weights and batches.
            split: its training part is learned; None where there is no log.
            tokenizer: from `tokenizer`.
        """
        work = partial(
            EncoderWork,
            catalogue=self.catalogue.artifact,
            split=None if split is None else split.artifact,
            tokenizer=tokenizer,
            out=self.out / "encoder",
        )
        starts = self._starts(plans, work)
        models = {plan.name: self.models_for(plan.config) for plan in plans}
        works = [
            work(plan=plan, seed=seed, models=models[plan.name], start=starts[plan.name])
            for seed in seeds
            for plan in plans
        ]
        new = train_new(works, jobs=self.jobs)
        return {(work.plan.name, work.seed): self._finish(work, is_new=work.name in new) for work in works}

    def train_behind(
        self, plans: Sequence[BehindEncoder], *, seeds: Sequence[int], split: Split, tokenizer: Artifact
    ) -> dict[tuple[str, int], Trained | None]:
        """Train the encoders that plans stand behind, each with every seed; those that plans share are trained once.

        Args:
            plans: names are distinct.
            seeds: of initial weights and batches.
            split: its training part is learned.
            tokenizer: from `tokenizer`.

        Returns:
            Name of a plan and seed → its encoder; None where it stands behind none.
        """
        encoders: dict[tuple[str, str, Control], Plan] = {}
        for plan in plans:
            if plan.pretrain is not None and _of_encoder(plan) not in encoders:
                name = f"pretraining {len(encoders) + 1}"
                encoders[_of_encoder(plan)] = Plan(name, plan.pretrain, plan.control.of_encoder, plan.start)
        trained = self.train_plans(list(encoders.values()), seeds=seeds, split=split, tokenizer=tokenizer)
        return {
            (plan.name, seed): None if plan.pretrain is None else trained[encoders[_of_encoder(plan)].name, seed]
            for plan in plans
            for seed in seeds
        }

    def _starts(self, plans: Sequence[Plan], work: Callable[..., EncoderWork]) -> dict[str, Artifact | None]:
        """Train the warm starts that plans name, each once: plan → the encoder it starts from."""
        works: dict[tuple[str, Control], EncoderWork] = {}
        for plan in plans:
            if plan.start is not None and _of_start(plan) not in works:
                models = self.models_for(plan.start)
                works[_of_start(plan)] = work(plan=plan.start_plan, seed=WARM_START_SEED, models=models)
        new = train_new(list(works.values()), jobs=self.jobs, what="warm start")
        made = {key: self._warm(work, is_new=work.name in new) for key, work in works.items()}
        return {plan.name: None if plan.start is None else made[_of_start(plan)] for plan in plans}

    def _warm(self, work: EncoderWork, *, is_new: bool) -> Artifact:
        return self.stage(
            "encoder", lambda _: work.train(self._group), record=f"encoder {work.plan.name}", is_new=is_new
        )

    def item_views(
        self, own: Trained, *, pretrain: PretrainConfig, name: str, photo_rows: NDArray[np.int64] | None = None
    ) -> Artifact:
        """Encode title and photo of each item by themselves, or open what was encoded before.

        Args:
            own: the encoder.
            pretrain: how it was trained.
            name: of the row and seed, for the record.
            photo_rows: whose photo each item is shown ``[items]``; None: its own.

        Raises:
            ConfigError: the encoder reads one of both alone.
        """
        read = pretrain.encoder.modalities
        if not (read.reads_title and read.reads_photo):
            raise ConfigError(f"{name}: an encoder of {read} has no vectors of title and photo each.")
        seen = self.models_for(pretrain).features
        return self.stage(
            "item_views",
            lambda out: embeddings.run_views(
                encoder=own.encoder, catalogue=self.catalogue, features=seen, photo_rows=photo_rows, out=out
            ),
            record=f"item views {name}",
        )

    def code_sets(
        self, own: Trained, *, config: SetsConfig, name: str, split: Split | None, views: Artifact | None
    ) -> dict[Modality, Artifact]:
        """Make each set of an encoder's semantic IDs, in the order in which models read them.

        Args:
            own: the encoder.
            config: which sets, and how each is made.
            name: as of `semantic_ids`.
            split: likewise.
            views: from `item_views`; None where no set is of a side.
        """
        found = {}
        for one in config.in_order:
            vectors = own.embeddings if one is Modality.ITEM else views
            assert vectors is not None, "a set of a side has its vectors"
            found[one] = self._ids(vectors, of=one, config=config.of_one, name=name, split=split)
        return found

    def semantic_ids(self, own: Trained, *, config: SemanticIdsConfig, name: str, split: Split | None) -> Artifact:
        """Make the semantic IDs of an encoder's vectors of the items, or open them; equal settings share them.

        Args:
            own: the encoder.
            config: of the quantiser.
            name: of the row and seed, for the record.
            split: codebooks are learned of the items that training may know, as the encoder is; None: of all.
        """
        return self._ids(own.embeddings, of=Modality.ITEM, config=config, name=name, split=split)

    def _ids(
        self, vectors: Artifact, *, of: Modality, config: SemanticIdsConfig, name: str, split: Split | None
    ) -> Artifact:
        what = "semantic ids" if of is Modality.ITEM else f"semantic ids ({of})"
        return self.stage(
            SEMANTIC_IDS,
            lambda out: semantic_ids.run(
                config, embeddings=vectors, out=out, catalogue=self.catalogue, split=split, of=of
            ),
            record=f"{what} {name}",
        )

    def bundle(
        self,
        trained: AllTrained,
        *,
        split: Split | None,
        popularity: Artifact,
        bm25: Artifact,
        served: Plan | None = None,
        recall: Artifact | None = None,
        recall_index: Artifact | None = None,
        relevance_control: Artifact | None = None,
        hybrid: Artifact | None = None,
        item_knn: Artifact | None = None,
        generative: Artifact | None = None,
        ranker: Artifact | None = None,
        ranking: Artifact | None = None,
        item_views: Artifact | None = None,
    ) -> Artifact:
        """Name what the engine opens: the served encoder (None: `pretrain`'s), first seed, and what is over it.

        The semantic IDs are those of `split`, with which models that read or say them were trained.
        """
        seed = self.config.seeds[0]
        plan = served or self.own_plan
        own, ids = trained[plan.name, seed], self.config.semantic_ids
        name = f"{plan.name} seed {seed}"
        codes: dict[Modality, Artifact] = {}
        if ids is not None:
            views = self.item_views(own, pretrain=plan.config, name=name) if ids.reads_sides else None
            codes = self.code_sets(own, config=ids, name=name, split=split, views=views)
        return self.stage(
            "bundle",
            lambda out: write_bundle(
                out,
                catalogue=self.catalogue.artifact,
                encoder=own.encoder,
                index=own.index,
                popularity=popularity,
                bm25=bm25,
                dense=self.config.dense,
                recall=recall,
                recall_index=recall_index,
                relevance_control=relevance_control,
                hybrid=hybrid,
                item_knn=item_knn,
                **{ID_PARTS[of]: one for of, one in codes.items()},
                generative=generative,
                ranker=ranker,
                ranking=ranking,
                item_views=item_views,
                recommend=self.config.recommend,
            ),
        )

    def report(
        self,
        tasks: Sequence[Callable[[], TaskResult]],
        *,
        split: Split | None,
        trained: AllTrained,
        bundle: Artifact,
        inputs: Mapping[str, Artifact | str],
        chosen: str = "",
    ) -> Artifact:
        """Run the evaluation tasks and write the report.

        Args:
            tasks: the first is shown first.
            split: what was held out.
            trained: every encoder that a task asks.
            bundle: what is served; the report says how good its semantic IDs are.
            inputs: whatever else the numbers depend on, apart from catalogue, split and encoders.
            chosen: what validation chose to be served, in words; empty: nothing was chosen.
        """
        found: dict[str, Artifact | str] = {"catalogue": self.catalogue.artifact}
        if split is not None:
            found["split"] = split.artifact
        found |= inputs
        for (name, seed), one in trained.items():
            found[f"{name} seed {seed}"] = one.encoder
            found[f"index {name} seed {seed}"] = one.index
        for part in ID_PARTS.values():
            if (ids := bundle.inputs.get(part)) is not None:
                found[part.replace("_", " ")] = Artifact.open(self.out / SEMANTIC_IDS / ids)
        return self.stage(
            "report",
            lambda out: report.run(
                self.config.evaluation,
                catalogue=self.catalogue,
                split=split,
                tasks=tasks,
                inputs=found,
                out=out,
                about=self.about(chosen=chosen),
            ),
        )

    def encoders(self, trained: AllTrained, *, reading_photos: bool = False) -> dict[str, Sequence[Retriever]]:
        """Open the trained encoders as retrievers: arms in the order of the tables, then what was trained beside.

        Args:
            trained: from `train`.
            reading_photos: leave out those that read none, and the control, which was shown other items' photos.
        """
        arms = [arm for arm in IN_TABLES if arm in self.config.arms]
        beside = dict(self.config.beside)
        if reading_photos:
            arms = [arm for arm in arms if arm.modalities.reads_photo and arm is not Arm.PERMUTED_PHOTO]
            beside = {name: one for name, one in beside.items() if one.encoder.modalities.reads_photo}
        return {
            name: [trained[name, seed].retriever(name=name, config=self.config) for seed in self.config.seeds]
            for name in (*(arm.value for arm in arms), *beside)
        }

    def relit_photos(
        self, split: Split | None, trained: AllTrained, *, served: Plan | None = None
    ) -> list[Callable[[], TaskResult]]:
        """Return the task that crops and re-lights photos of the catalogue and looks for their items, if it can."""
        modalities = (served or self.own_plan).config.encoder.modalities
        with_photo = np.flatnonzero(np.asarray(self.catalogue.photos.has))
        if not modalities.reads_photo or self.config.photo_queries == 0 or len(with_photo) == 0:
            return []
        return [partial(self._relit, split, trained, with_photo)]

    def _relit(self, split: Split | None, trained: AllTrained, with_photo: np.ndarray) -> TaskResult:
        rng = np.random.default_rng([self.config.evaluation.seed, 11])
        rows = np.sort(rng.permutation(with_photo)[: self.config.photo_queries])
        photos = crop_and_relight(self.catalogue.photos.pixels(rows), rng=rng)
        return photo.evaluate(
            self.encoders(trained, reading_photos=True),
            catalogue=self.catalogue,
            photos=photos,
            item_rows=rows,
            config=self.config.evaluation,
            split=split,
            task="photo",
            title="Cropped and re-lit photo → its own item",
        )

    def _catalogue(self, out: Path) -> Artifact:
        source = find_source(self.config, base=self._base, out=self.out / "tables")
        if source.artifact is not None:
            self._folder.record("tables", source.artifact)

        def read() -> Checked:
            checked = source.read()
            for line in spoken(checked):
                log.info("%s", line)
            return checked

        return catalogues.build(self.config.catalogue, tables=read, inputs=source.inputs, out=out)

    def _model(self, config: PretrainedConfig, out: Path) -> Artifact:
        return model_files.run(config, base=self._base, out=out)

    def _finish(self, work: EncoderWork, *, is_new: bool) -> Trained:
        """Train an encoder unless that is done, embed the catalogue with it and index the vectors."""
        name, photo_rows = work.name, work.photo_rows
        encoder = self.stage("encoder", lambda _: work.train(self._group), record=f"encoder {name}", is_new=is_new)
        vectors = self.stage(
            "embeddings",
            lambda out: embeddings.run(
                encoder=encoder,
                catalogue=self.catalogue,
                photo_rows=photo_rows,
                features=work.models.features,
                out=out,
            ),
            record=f"embeddings {name}",
        )
        index = self.stage(
            "index",
            lambda out: write_index(
                out,
                vectors=partial(embeddings.load_vectors, vectors),
                catalogue=self.catalogue.artifact,
                encoder=encoder,
                config=self.config.index,
            ),
            record=f"index {name}",
        )
        return Trained(encoder, vectors, index)

    def about(self, *, chosen: str = "") -> About:
        """Gather the words the report needs beside its numbers; `chosen`: what validation chose to be served."""
        dataset = self.config.dataset
        card = dataset.card() if dataset is not None else None
        checks = self.catalogue.checks
        return About(
            name=self.out.name,
            dataset=card.name if card else "your own tables",
            source=card.source if card else "",
            licence=card.licence if card else "",
            simulated=card is not None and card.simulated,
            run_command=self._command,
            report_command=f"triptych report {self.out}",
            chosen=chosen,
            faults=checks["faults"] if checks else (),
        )


def _items_seen(config: PretrainConfig) -> int | None:
    """Return how many items a training learns from in all; None where it does not count them."""
    batch = getattr(config, "batch_items", None)
    return None if batch is None else batch * config.loop.steps


def _brief(summary: Mapping[str, Any]) -> str:
    """Show the figures of a summary that fit on a line."""
    plain = {key: value for key, value in summary.items() if isinstance(value, int | float | str) and value != ""}
    shown = [f"{key} {_figure(value)}" for key, value in plain.items()]
    counted = [f"{name} {rows:,}" for name, rows in summary.get("rejected", {}).items()]
    return ", ".join(shown[:5] + ([f"rejected: {' '.join(counted)}"] if counted else []))


def _figure(value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
