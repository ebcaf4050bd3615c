"""The line from tables to report, stage by stage.

Every stage leaves an artefact, and finds it again where its work is unchanged; so a second run skips what is finished,
and a killed one goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from triptych.data import catalogue as catalogues
from triptych.data import splits, text
from triptych.data.catalogue import Catalogue
from triptych.data.check import Checked
from triptych.data.splits import Split
from triptych.encoders import embeddings
from triptych.encoders.embed import Embedder
from triptych.engine.bundle import write_bundle, write_index, write_retriever
from triptych.evaluate import report
from triptych.evaluate.report import About
from triptych.evaluate.tasks import photo as photo_task
from triptych.evaluate.tasks.base import TaskResult
from triptych.evaluate.tasks.photo import crop_and_relight
from triptych.foundation.artifact import MANIFEST, Artifact
from triptych.index.base import open_index
from triptych.recall.base import Retriever
from triptych.recall.models.dense import Dense
from triptych.recall.models.lexical import Lexical
from triptych.recall.models.oracle import Oracle
from triptych.recall.models.popularity import Popularity
from triptych.recipes.config import Arm, RunConfig
from triptych.recipes.encoders import EncoderWork, train_side_by_side
from triptych.recipes.run_folder import RunFolder
from triptych.recipes.tables import find_source, require_tables, spoken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Trained:
    """One encoder and what it sees."""

    encoder: Artifact
    index: Artifact


def run_pipeline(config: RunConfig, *, base: Path, out: Path, command: str = "", jobs: int = 1) -> Artifact:
    """Run every stage of a recipe and return the report.

    Args:
        config: the resolved config.
        base: folder that relative paths of the user's tables start from.
        out: the run folder.
        command: what the report names as the way to make it again.
        jobs: encoders trained at a time.

    Raises:
        ConfigError: settings that do not go together.
        DataError: tables that cannot be used.
    """
    return _Pipeline(config, base=base, out=out, command=command, jobs=jobs).run()


class _Pipeline:
    """The stages in order; each method makes one artefact and notes it in the run folder."""

    def __init__(self, config: RunConfig, *, base: Path, out: Path, command: str, jobs: int) -> None:
        self.config = config
        self.command = command
        self.jobs = jobs
        self.base = base
        self.out = out
        self.folder = RunFolder(out)

    def run(self) -> Artifact:
        require_tables(self.config)
        self.folder.start(self.config.dump())
        catalogue = Catalogue.open(self._stage("catalogue", self._catalogue))
        split = Split.open(
            self._stage("split", lambda out: splits.build(self.config.split, catalogue=catalogue, out=out))
        )
        tokenizer = self._stage(
            "tokenizer", lambda out: text.build(self.config.tokenizer, catalogue=catalogue, split=split, out=out)
        )
        popularity = self._stage("popularity", partial(self._popularity, catalogue, split))
        bm25 = self._stage("bm25", partial(self._bm25, catalogue))
        trained = self._train(catalogue, split, tokenizer)
        served = trained[self.config.arms[0], self.config.seeds[0]]
        self._stage(
            "bundle",
            lambda out: write_bundle(
                out,
                catalogue=catalogue.artifact,
                encoder=served.encoder,
                index=served.index,
                popularity=popularity,
                bm25=bm25,
                dense=self.config.dense,
            ),
        )
        return self._stage(
            "report",
            lambda out: self._report(catalogue, split, popularity=popularity, bm25=bm25, trained=trained, out=out),
        )

    def _stage(
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
        self.folder.record(label, artifact)
        made_now = is_new or artifact.id not in found
        what = f"{artifact.manifest['seconds']:.1f} s" if made_now else "finished before"
        log.info("%-30s %16s   %s", label, what, _brief(artifact.summary))
        return artifact

    def _catalogue(self, out: Path) -> Artifact:
        source = find_source(self.config, base=self.base, out=self.out / "tables")
        if source.artifact is not None:
            self.folder.record("tables", source.artifact)

        def read() -> Checked:
            checked = source.read()
            for line in spoken(checked):
                log.info("%s", line)
            return checked

        return catalogues.build(self.config.catalogue, tables=read, inputs=source.inputs, out=out)

    def _popularity(self, catalogue: Catalogue, split: Split, out: Path) -> Artifact:
        config = self.config.popularity
        return write_retriever(
            out,
            kind="popularity",
            config=config,
            fit=lambda: Popularity.fit(catalogue, train=split.train, config=config),
            inputs={"catalogue": catalogue.artifact, "split": split.artifact},
        )

    def _bm25(self, catalogue: Catalogue, out: Path) -> Artifact:
        config = self.config.bm25
        return write_retriever(
            out,
            kind="bm25",
            config=config,
            fit=lambda: Lexical.fit(catalogue.titles, config=config),
            inputs={"catalogue": catalogue.artifact},
        )

    def _train(self, catalogue: Catalogue, split: Split, tokenizer: Artifact) -> dict[tuple[Arm, int], _Trained]:
        """Train the encoder of every arm and seed, embed the catalogue with each and index the vectors."""
        works = [
            EncoderWork(
                arm=arm,
                seed=seed,
                config=self.config.pretrain,
                catalogue=catalogue.artifact,
                split=split.artifact,
                tokenizer=tokenizer,
                out=self.out / "encoder",
            )
            for seed in self.config.seeds
            for arm in self.config.arms
        ]
        new = {work.name for work in works if work.find() is None}
        if self.jobs > 1 and len(new) > 1:
            train_side_by_side(works, jobs=self.jobs)
        return {(work.arm, work.seed): self._finish(work, catalogue, is_new=work.name in new) for work in works}

    def _finish(self, work: EncoderWork, catalogue: Catalogue, *, is_new: bool) -> _Trained:
        """Train an encoder unless that is done, embed the catalogue with it and index the vectors."""
        name, photo_rows = work.name, work.photo_rows
        encoder = self._stage("encoder", lambda _: work.train(), record=f"encoder {name}", is_new=is_new)
        vectors = self._stage(
            "embeddings",
            lambda out: embeddings.run(encoder=encoder, catalogue=catalogue, photo_rows=photo_rows, out=out),
            record=f"embeddings {name}",
        )
        index = self._stage(
            "index",
            lambda out: write_index(
                out,
                vectors=partial(embeddings.load_vectors, vectors),
                catalogue=catalogue.artifact,
                encoder=encoder,
                config=self.config.index,
            ),
            record=f"index {name}",
        )
        return _Trained(encoder, index)

    def _report(
        self,
        catalogue: Catalogue,
        split: Split,
        *,
        popularity: Artifact,
        bm25: Artifact,
        trained: Mapping[tuple[Arm, int], _Trained],
        out: Path,
    ) -> Artifact:
        def retrievers() -> dict[str, Sequence[Retriever]]:
            counts = Popularity.load(popularity.path)
            models: dict[str, Sequence[Retriever]] = {"popularity": [counts], "bm25": [Lexical.load(bm25.path)]}
            for arm in (Arm.TITLE, Arm.PHOTO, Arm.TITLE_PHOTO, Arm.PERMUTED_PHOTO):
                if arm in self.config.arms:
                    models[arm.value] = [_dense(trained[arm, seed], name=arm.value) for seed in self.config.seeds]
            if catalogue.judgements is not None:
                models["oracle"] = [Oracle.fit(catalogue, counts=counts.counts)]
            return models

        inputs: dict[str, Artifact | str] = {
            "catalogue": catalogue.artifact,
            "split": split.artifact,
            "popularity": popularity,
            "bm25": bm25,
        }
        for (arm, seed), one in trained.items():
            inputs[f"{arm.value} seed {seed}"] = one.encoder
            inputs[f"index {arm.value} seed {seed}"] = one.index
        inputs["photo queries"] = str(self.config.photo_queries)
        return report.run(
            self.config.evaluation,
            catalogue=catalogue,
            split=split,
            retrievers=retrievers,
            inputs=inputs,
            out=out,
            about=self._about(catalogue),
            more=[partial(self._relit, catalogue, split, trained)] if self._searches_by_photo(catalogue) else [],
        )

    def _searches_by_photo(self, catalogue: Catalogue) -> bool:
        served = self.config.pretrain.encoder.modalities
        return served.reads_photo and self.config.photo_queries > 0 and bool(np.any(catalogue.photos.has))

    def _relit(self, catalogue: Catalogue, split: Split, trained: Mapping[tuple[Arm, int], _Trained]) -> TaskResult:
        """Crop and re-light photos of the catalogue and look for their items."""
        rng = np.random.default_rng([self.config.evaluation.seed, 11])
        with_photo = np.flatnonzero(np.asarray(catalogue.photos.has))
        rows = np.sort(rng.permutation(with_photo)[: self.config.photo_queries])
        photos = crop_and_relight(catalogue.photos.pixels(rows), rng=rng)
        models = {
            arm.value: [_dense(trained[arm, seed], name=arm.value) for seed in self.config.seeds]
            for arm in self.config.arms
            if arm in (Arm.TITLE_PHOTO, Arm.PHOTO)
        }
        return photo_task.evaluate(
            models,
            catalogue=catalogue,
            photos=photos,
            item_rows=rows,
            config=self.config.evaluation,
            split=split,
            task="photo",
            title="Cropped and re-lit photo → its own item",
        )

    def _about(self, catalogue: Catalogue) -> About:
        """Gather the words the report needs beside its numbers."""
        dataset = self.config.dataset
        card = dataset.card() if dataset is not None else None
        checks = catalogue.checks
        return About(
            name=self.out.name,
            dataset=card.name if card else "your own tables",
            source=card.source if card else "",
            licence=card.licence if card else "",
            simulated=card is not None and card.simulated,
            run_command=self.command,
            report_command=f"triptych report {self.out}",
            faults=checks["faults"] if checks else (),
        )


def _dense(trained: _Trained, *, name: str) -> Dense:
    return Dense(Embedder.open(trained.encoder), index=open_index(trained.index), name=name)


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
