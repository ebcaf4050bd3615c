"""Makes a table: trials on validation, the chosen settings with every seed, one reading of the test part, verdicts.

Every piece is an artefact in the out folder, so that an interrupted run goes on row by row and a finished encoder is
never trained again. The test part is read by the last stage alone, after every choice has been made.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Judged, judge_ordering
from triptych.evaluate.records import select, single, to_rows
from triptych.evaluate.tasks.base import TaskResult
from triptych.foundation.artifact import Artifact, produce, write_json
from triptych.foundation.errors import ConfigError
from triptych.pretrain.base import PretrainConfig
from triptych.recall.base import Retriever
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.oracle import Oracle
from triptych.recall.models.popularity import Popularity
from triptych.recipes.config import RunConfig
from triptych.recipes.encoders import Plan
from triptych.recipes.reproduce.base import STANDING, Form, Row, Size, Table
from triptych.recipes.reproduce.page import write_page
from triptych.recipes.reproduce.result import Made, RowMade, Trial, describe
from triptych.recipes.stages import AllTrained, Stages, Trained
from triptych.training.log import LOG_FILE, read_log

log = logging.getLogger(__name__)

KIND, TRIAL = "reproduction", "trial"
RESULT, RECORDS, PER_QUERY, HTML = "result.json", "records.json", "per_query.parquet", "report.html"
PRETRAIN = "pretrain."
"""In front of a setting of every row's training; all others are of data, split and evaluation."""
_TRIAL_REPEATS = 100
"""Resamples behind a trial's records; its interval decides nothing."""


class _Standing(NamedTuple):
    """The artefacts of the rows without training."""

    popularity: Artifact
    bm25: Artifact


def reproduce(
    table: Table,
    *,
    out: Path,
    base: Path,
    size: Size = Size.FULL,
    part: Part = Part.TEST,
    settings: Sequence[str] = (),
    jobs: int = 1,
    command: str = "",
) -> Artifact:
    """Make a table, or go on where making it was interrupted.

    Args:
        table: what is made.
        out: the run folder; `result.json` and `report.html` are in it at the end.
        base: folder that relative paths start from.
        size: which form.
        part: the part that the table is of; with validation, the test part is not read.
        settings: overrides ``a.b=value`` of the form's run config, with ``pretrain.`` in front of every row's training.
        jobs: encoders trained at a time.
        command: what the page names as the way to make it again.

    Returns:
        Artefact ``reproduction``: `result.json`, `records.json`, `per_query.parquet`, `report.html`.

    Raises:
        ConfigError: settings that do not go together.
        DataError: nothing can be measured.
    """
    making = _Making(table, size=size, part=part, settings=settings)
    stages = Stages(making.run, base=base, out=out, command=command, jobs=jobs)
    _ = stages.models  # a model that is not there is told before hours of other work
    split = stages.split()
    tokenizer = stages.tokenizer(split)
    standing = _Standing(stages.popularity(split), stages.bm25())
    train = partial(stages.train_plans, split=split, tokenizer=tokenizer)
    trials = making.trials(stages, train(making.trial_plans, seeds=making.run.seeds[:1]), split=split)
    chosen = making.chosen(trials)
    trained = train([plan for plan, _ in chosen.values()], seeds=making.run.seeds)
    rows = [
        RowMade(row, trials[row.name], chosen[row.name][1], chosen[row.name][0].config, _logs(row, trained))
        for row in making.rows
    ]
    made = stages.stage(
        "table",
        lambda folder: making.write(folder, stages=stages, split=split, standing=standing, trained=trained, rows=rows),
        record=f"table, {part}",
    )
    for name in (RESULT, HTML):
        _publish(made.file(name), out / name)
    return made


class _Making:
    """One table in one form."""

    def __init__(self, table: Table, *, size: Size, part: Part, settings: Sequence[str]) -> None:
        """Resolve every config.

        Raises:
            ConfigError: rows that cannot be made together.
        """
        training = [one.removeprefix(PRETRAIN) for one in settings if one.startswith(PRETRAIN)]
        form = table.form(size)
        form = replace(form, settings=(*form.settings, *training))
        self.table = table
        self.size = size
        self.part = part
        self.rows = table.rows_of(form)
        self._plans = {row.name: trial_plans(row, form) for row in self.rows}
        others = [one for one in settings if not one.startswith(PRETRAIN)]
        self.run = _run_config(table, form.run, plans=self.trial_plans, settings=others)
        self.evaluation = self.run.evaluation.override(f"part={part.value}")
        self.headline = table.headline or Column("recall", self.evaluation.headline_k)

    @property
    def trial_plans(self) -> list[Plan]:
        """Every trial of every row."""
        return [plan for plans in self._plans.values() for plan in plans]

    def trials(self, stages: Stages, trained: AllTrained, *, split: Split) -> dict[str, list[Trial]]:
        """Measure every trial on the validation part: row → its trials."""
        seed = self.run.seeds[0]
        return {
            row.name: [
                Trial(settings, self._validated(stages, plan, trained[plan.name, seed], split=split))
                for settings, plan in zip(row.trials, self._plans[row.name], strict=False)  # the form's, the first ones
            ]
            for row in self.rows
        }

    def chosen(self, trials: Mapping[str, Sequence[Trial]]) -> dict[str, tuple[Plan, int]]:
        """Return the plan and the place of each row's best trial; of equal ones the first."""
        found: dict[str, tuple[Plan, int]] = {}
        for row in self.rows:
            values = [trial.value for trial in trials[row.name]]
            best = values.index(max(values))
            found[row.name] = self._plans[row.name][best]._replace(name=row.name), best
        return found

    def write(
        self,
        out: Path,
        *,
        stages: Stages,
        split: Split,
        standing: _Standing,
        trained: AllTrained,
        rows: Sequence[RowMade],
    ) -> Artifact:
        """Measure the part, judge the claims, and write all of it; or open what was written."""
        inputs: dict[str, Artifact | str] = {
            "catalogue": stages.catalogue.artifact,
            "split": split.artifact,
            **standing._asdict(),
        }
        for (name, seed), one in trained.items():
            inputs |= {f"encoder {name} seed {seed}": one.encoder, f"index {name} seed {seed}": one.index}

        def build(folder: Path) -> Mapping[str, Any]:
            result = self._measured(stages, split=split, standing=standing, trained=trained)
            return self._written(folder, result=result, rows=rows, stages=stages, split=split, inputs=inputs)

        return produce(out, kind=KIND, config=self._described(rows), inputs=inputs, build=build)

    def _validated(self, stages: Stages, plan: Plan, trained: Trained, *, split: Split) -> float:
        config = self.run.evaluation.override("part=validation", f"bootstrap_repeats={_TRIAL_REPEATS}")

        def build(folder: Path) -> Mapping[str, Any]:
            found = self.table.protocol.evaluate(
                {plan.name: trained.retriever(name=plan.name, config=self.run)},
                catalogue=stages.catalogue,
                split=split,
                config=config,
            )
            rows = to_rows(found.records)
            write_json(folder / RECORDS, rows)
            (row,) = select(single(rows), slice="all", metric=self.headline.metric, k=self.headline.k)
            return {"metric": str(self.headline), "value": row["value"]}

        described = {"protocol": self.table.protocol.value, "headline": str(self.headline), "evaluation": config.dump()}
        inputs = {"split": split.artifact, "encoder": trained.encoder, "index": trained.index}
        made = stages.stage(
            TRIAL,
            partial(produce, kind=TRIAL, config=described, inputs=inputs, build=build),
            record=f"measured {plan.name}",
        )
        return float(made.summary["value"])

    def _measured(self, stages: Stages, *, split: Split, standing: _Standing, trained: AllTrained) -> TaskResult:
        counts = Popularity.load(standing.popularity.path)
        models: dict[str, Retriever | list[Retriever]] = {"popularity": counts, "bm25": Bm25.load(standing.bm25.path)}
        for row in self.rows:
            own = [trained[row.name, seed] for seed in self.run.seeds]
            models[row.name] = [one.retriever(name=row.name, config=self.run) for one in own]
        if stages.catalogue.judgements is not None:
            models["oracle"] = Oracle.fit(stages.catalogue, counts=counts.counts)
        return self.table.protocol.evaluate(
            models, catalogue=stages.catalogue, split=split, config=self.evaluation, with_chance=True
        )

    def _written(
        self,
        folder: Path,
        *,
        result: TaskResult,
        rows: Sequence[RowMade],
        stages: Stages,
        split: Split,
        inputs: Mapping[str, Artifact | str],
    ) -> Mapping[str, Any]:
        about = stages.about()
        records = single(to_rows(result.records, simulated=about.simulated, caution=split.caution))
        write_json(folder / RECORDS, records)
        result.per_query.write_parquet(folder / PER_QUERY)
        judged, unjudged = self._judged(result)
        made = Made(
            table=self.table,
            size=self.size,
            headline=self.headline,
            evaluation=self.evaluation,
            run=self.run,
            rows=rows,
            result=result,
            records=records,
            judged=judged,
            unjudged=unjudged,
            catalogue=stages.catalogue,
            split=split,
            about=about,
            inputs=inputs,
        )
        write_json(folder / RESULT, describe(made))
        (folder / HTML).write_text(write_page(made), encoding="utf-8")
        return {
            "part": self.part.value,
            "seeds": len(self.run.seeds),
            **{verdict: sum(one.verdict == verdict for one in judged) for verdict in ("holds", "fails", "undecided")},
        }

    def _judged(self, result: TaskResult) -> tuple[list[Judged], dict[str, str]]:
        """Judge the claims; those that this form cannot speak of come second, each with the reason."""
        present = {row.name for row in self.rows} | set(STANDING)
        judged: list[Judged] = []
        unjudged: dict[str, str] = {}
        for claim in self.table.claims:
            absent = [row for row in claim.rows if row not in present]
            if absent:
                unjudged[claim.claim] = f"not in this form: {', '.join(absent)}"
                continue
            found = judge_ordering(
                claim, result.per_query, headline=self.headline, config=self.evaluation, drawn_by=result.drawn_by
            )
            if found is None:
                unjudged[claim.claim] = f"the slice {claim.slice} is empty"
            else:
                judged.append(found)
        return judged, unjudged

    def _described(self, rows: Sequence[RowMade]) -> dict[str, Any]:
        """Return all that decides the table, beside its inputs."""
        return {
            "table": self.table.name,
            "title": self.table.title,
            "size": self.size.value,
            "protocol": self.table.protocol.value,
            "headline": str(self.headline),
            "evaluation": self.evaluation.dump(),
            "rows": [[made.row.name, made.row.what, [trial._asdict() for trial in made.trials]] for made in rows],
            "claims": [[str(one), one.claim, str(one.column or self.headline), one.slice] for one in self.table.claims],
        }


def trial_plans(row: Row, form: Form) -> list[Plan]:
    """Return what is trained in each trial of a row that a form makes."""
    config = row.config().override(*form.settings)
    return [
        Plan(f"{row.name} trial {number}", config.override(*settings), permutes_photos=row.permutes_photos)
        for number, settings in enumerate(row.trials[: form.num_trials], start=1)
    ]


def _run_config(table: Table, run: RunConfig, *, plans: Sequence[Plan], settings: Sequence[str]) -> RunConfig:
    """Return the config of the stages that all rows share.

    Its training config is that of the row with the most pretrained models; the other rows use of them what they name.

    Args:
        table: for its name.
        run: of the form.
        plans: every trial of every row.
        settings: overrides of the run.

    Raises:
        ConfigError: a row does not go with the data, or rows read the items in ways that one tokenizer cannot serve.
    """
    shared = {"recipe": f"reproduce {table.name}", "compare": (), "photo_queries": 0}
    first = max((plan.config for plan in plans), key=lambda config: len(config.encoder.model_configs))
    for plan in plans:
        try:
            run.model_copy(update={**shared, "pretrain": plan.config}).override(*settings)
        except ConfigError as error:
            raise ConfigError(f"row '{plan.name}': {error}") from None
        _check_shared(plan, first)
    return run.model_copy(update={**shared, "pretrain": first}).override(*settings)


def _check_shared(plan: Plan, first: PretrainConfig) -> None:
    own, shared = plan.config.encoder, first.encoder
    models = {slot: (model.name, model.revision) for slot, model in shared.model_configs.items()}
    others = {slot: (model.name, model.revision) for slot, model in own.model_configs.items()}
    if own.title_features != shared.title_features or others.get("text_model") != models.get("text_model"):
        raise ConfigError(f"row '{plan.name}': title_features and text_model must be the same in every row of a table.")
    if others.get("vision_model", models.get("vision_model")) != models.get("vision_model"):
        raise ConfigError(f"row '{plan.name}': vision_model must be the same in every row that has one.")


def _logs(row: Row, trained: AllTrained) -> dict[int, list[dict[str, Any]]]:
    """Read the training logs of a row: seed → lines."""
    return {
        seed: list(read_log(one.encoder.file(LOG_FILE))) for (name, seed), one in trained.items() if name == row.name
    }


def _publish(file: Path, place: Path) -> None:
    """Copy a file so that a reader sees the old one or the new one."""
    temporary = place.with_name(place.name + ".tmp")
    shutil.copyfile(file, temporary)
    os.replace(temporary, place)


def read_per_query(made: Artifact) -> pl.DataFrame:
    """Read the values of each request, from which every number of the table can be computed again."""
    return pl.read_parquet(made.file(PER_QUERY))
