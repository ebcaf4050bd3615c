"""Makes a table: trials on validation, the chosen settings with every seed, one reading of the test part, verdicts.

Every piece is an artefact in the out folder, so that an interrupted run goes on row by row and a finished encoder is
never trained again. The test part is read by the last stage alone, after every choice has been made.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.evaluate.examples import Example
from triptych.evaluate.increment import Increment, increments, photo_examples
from triptych.evaluate.item_spaces import ItemSpaces, item_spaces
from triptych.evaluate.orderings import Judged, judge_ordering
from triptych.evaluate.paces import JudgedPace, judge_pace
from triptych.evaluate.records import select, single, to_rows
from triptych.evaluate.tasks import cells
from triptych.evaluate.tasks.base import TaskResult
from triptych.evaluate.tasks.ranking import Ranks
from triptych.foundation.artifact import Artifact, produce, write_json
from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.metrics.significance import Verdict
from triptych.recall.base import Retriever
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.item_knn import ItemKnn, ItemKnnConfig
from triptych.recall.models.oracle import Oracle
from triptych.recall.models.popularity import Popularity
from triptych.recipes.encoders import Plan
from triptych.recipes.generation import GenerationPlan, TrainedGeneration, train_generation
from triptych.recipes.ranker import RankerPlan, TrainedRanker, train_rankers
from triptych.recipes.recall import RecallPlan, TrainedRecall, train_recall
from triptych.recipes.reproduce.agreement import Agreement, agreements
from triptych.recipes.reproduce.base import BM25, ITEM_KNN, ORACLE, POPULARITY, Row, Size, Table
from triptych.recipes.reproduce.choices import FILE as CHOICES
from triptych.recipes.reproduce.choices import (
    Choices,
    Trial,
    first_best,
    new_choices,
    read_choices,
    trials_of,
    write_choices,
)
from triptych.recipes.reproduce.costs import QUERIES, Cost, file_bytes, item_bytes, latencies, said_by
from triptych.recipes.reproduce.page import write_page
from triptych.recipes.reproduce.plans import RECIPE, AnyPlan, Planned, answered_through, resolve
from triptych.recipes.reproduce.result import Made, RowMade, describe
from triptych.recipes.run_folder import RunFolder
from triptych.recipes.stages import Stages, Trained
from triptych.training.log import LOG_FILE, read_log

log = logging.getLogger(__name__)

AnyTrained = Trained | TrainedRecall | TrainedGeneration | TrainedRanker
AllMade = Mapping[tuple[str, int], AnyTrained]
"""Name of a plan and seed → what was trained."""

KIND, TRIAL = "reproduction", "trial"
TABLE_STAGE = "table, "
RESULT, RECORDS, PER_QUERY, HTML = "result.json", "records.json", "per_query.parquet", "report.html"
_TRIAL_REPEATS = 100
"""Resamples behind a trial's records; its interval decides nothing."""


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
    choices: Path | None = None,
    trials_only: bool = False,
) -> Artifact:
    """Make a table, or go on where making it was interrupted.

    Args:
        table: what is made.
        out: the run folder; `result.json` and `report.html` are in it at the end.
        base: folder that relative paths start from.
        size: which form.
        part: the part that the table is of; with validation, the test part is not read.
        settings: overrides ``a.b=value`` of the form's run config, with ``pretrain.`` or ``recall.`` in front of every
            row's training.
        jobs: encoders trained at a time.
        command: what the page names as the way to make it again.
        choices: what an earlier making chose (`choices.json`, `result.json`), so that only rows that it does not have
            are tried; None: all are.
        trials_only: whether to stop when all rows have been tried: on the validation part, whatever `part` is.

    Returns:
        Artefact ``reproduction``: `result.json`, `records.json`, `per_query.parquet`, `report.html`; with `trials_only`
        artefact ``choices``: `choices.json`.

    Raises:
        ConfigError: settings that do not go together.
        DataError: nothing can be measured.
    """
    planned = resolve(table, size=size, part=part, settings=settings)
    tried = None if choices is None else read_choices(choices, planned=planned)
    untried = [row for row in planned.rows if tried is None or row.name not in tried.rows]
    if trials_only and not untried:
        raise ConfigError("--choices says what was chosen, so that there is nothing to try. Leave out --trials-only.")
    _check_folder(out, recipe=planned.run.recipe)
    hours = f"{table.form(size).hours:g} hours on two cores"
    log.info("%s, %s form: about %s%s", table.name, size, hours, "" if size is Size.QUICK else "; --quick is shorter")
    stages = Stages(planned.run, base=base, out=out, command=command, jobs=jobs)
    _ = stages.models  # a model that is not there is told before hours of other work
    split = stages.split()
    tokenizer = stages.tokenizer(split)
    making = _Making(planned, stages=stages, split=split)
    train = partial(_train, stages=stages, split=split, tokenizer=tokenizer)
    if tried is None:
        tried = new_choices({}, planned=planned)
    elif untried:
        log.info("%s has no trials of %s: they are made", choices, ", ".join(row.name for row in untried))
    fresh = making.try_rows(untried, train(planned.trial_plans_of(untried), seeds=planned.run.seeds[:1]))
    tried = tried._replace(rows={**tried.rows, **fresh})
    made = stages.stage("choices", partial(making.choose, choices=tried))
    _publish(made.file(CHOICES), out / CHOICES)
    if trials_only:
        return made
    trials = tried.rows
    chosen = {row.name: planned.chosen(row, best=first_best(trials[row.name])) for row in planned.rows}
    trained = train(list(chosen.values()), seeds=planned.run.seeds)
    rows = [RowMade(row, trials[row.name], chosen[row.name].config, _logs(row, trained)) for row in planned.rows]
    writes = partial(making.write, trained=trained, rows=rows, tried=tried.made)
    made = stages.stage("table", writes, record=f"{TABLE_STAGE}{part}")
    for name in (RESULT, HTML):
        _publish(made.file(name), out / name)
    return made


def _check_folder(out: Path, *, recipe: str) -> None:
    """Refuse the folder of another run, whose report would go.

    Raises:
        ConfigError: it is one.
    """
    found = RunFolder(out).recipe
    if found not in (None, recipe):
        raise ConfigError(f"--out '{out}' holds a run of '{found}', not of '{recipe}'. Choose another folder.")


class _Making:
    """One table in one form, with the stages that all its rows share."""

    def __init__(self, planned: Planned, *, stages: Stages, split: Split) -> None:
        self._planned = planned
        self._stages = stages
        self._split = split
        self._standing = {POPULARITY: stages.popularity(split)}
        if BM25 in planned.table.protocol.standing:
            self._standing[BM25] = stages.bm25()
        if ITEM_KNN in planned.table.protocol.standing:
            self._standing[ITEM_KNN] = self._best_neighbours(planned.table.item_knn[: planned.form.num_trials])

    def try_rows(self, rows: Sequence[Row], trained: AllMade) -> dict[str, list[Trial]]:
        """Measure every trial of some rows on the validation part."""
        seed = self._planned.run.seeds[0]
        return {
            row.name: [
                Trial(settings, self._validated_plan(plan, trained[plan.name, seed]))
                for settings, plan in zip(row.trials, self._planned.plans[row.name], strict=False)  # a form's are fewer
            ]
            for row in rows
        }

    def choose(self, out: Path, *, choices: Choices) -> Artifact:
        """Keep what was tried and chosen."""

        def build(folder: Path) -> Mapping[str, Any]:
            write_choices(folder / CHOICES, planned=self._planned, choices=choices)
            return {"rows": len(choices.rows), "trials": sum(map(len, choices.rows.values()))}

        described = {
            "table": self._planned.table.name,
            "tried": {name: value for name, value in choices.made.items() if name != "git"},
            "rows": {row: trials_of(own) for row, own in choices.rows.items()},
        }
        return produce(out, kind="choices", config=described, inputs={"split": self._split.artifact}, build=build)

    def write(self, out: Path, *, trained: AllMade, rows: Sequence[RowMade], tried: Mapping[str, Any]) -> Artifact:
        """Measure the part, judge the claims, and write all of it; or open what was written."""
        inputs: dict[str, Artifact | str] = {
            "catalogue": self._stages.catalogue.artifact,
            "split": self._split.artifact,
            **self._standing,
        }
        for (name, seed), one in trained.items():
            inputs |= {f"{part}{name} seed {seed}": artifact for part, artifact in _made_of(one).items()}

        def build(folder: Path) -> Mapping[str, Any]:
            result, spaces, costs = self._measured(trained), self._spaces(trained), self._costs(trained)
            seeds = {row.name: [trained[row.name, seed].model for seed in self._planned.run.seeds] for row, *_ in rows}
            agreed = agreements(seeds, out=self._stages.out)
            return self._written(
                folder,
                result=result,
                spaces=spaces,
                costs=costs,
                agreed=agreed,
                rows=rows,
                inputs=inputs,
                tried=tried,
            )

        return produce(out, kind=KIND, config=self._described(rows), inputs=inputs, build=build)

    def _best_neighbours(self, tried: Sequence[ItemKnnConfig]) -> Artifact:
        """Fit item-kNN in each way and return the best on the validation part, the first of equal ones."""
        made = [self._stages.item_knn(self._split, config) for config in tried]
        found = [
            self._validated(f"item-knn trial {number}", partial(ItemKnn.load, one.path), inputs={"model": one})
            for number, one in enumerate(made, start=1)
        ]
        return made[found.index(max(found))]

    def _validated_plan(self, plan: AnyPlan, trained: AnyTrained) -> float:
        inputs = {part.strip() or "model": artifact for part, artifact in _made_of(trained).items()}
        opened = partial(self._open, trained, name=plan.name)
        return self._validated(plan.name, opened, inputs=inputs, through=answered_through(plan))

    def _open(self, trained: AnyTrained, *, name: str) -> Retriever | Ranks:
        if isinstance(trained, TrainedRanker):
            return trained.open().answering()  # the same scores; content is worked out once
        return trained.retriever(name=name, config=self._planned.run)

    def _validated(
        self,
        name: str,
        opened: Callable[[], Retriever | Ranks],
        *,
        inputs: Mapping[str, Artifact],
        through: Mapping[str, Any] | None = None,
    ) -> float:
        """Measure the headline on the validation part."""
        planned = self._planned
        config = planned.evaluation.override("part=validation", f"bootstrap_repeats={_TRIAL_REPEATS}")
        most = [one for one in (planned.form.trial_queries, config.max_queries) if one is not None]
        config = config.model_copy(update={"max_queries": min(most, default=None)})
        evaluate, headline = planned.table.protocol.evaluate, planned.headline

        def build(folder: Path) -> Mapping[str, Any]:
            found = evaluate({name: opened()}, catalogue=self._stages.catalogue, split=self._split, config=config)
            rows = to_rows(found.records)
            write_json(folder / RECORDS, rows)
            (row,) = select(single(rows), model=name, slice="all", metric=headline.metric, k=headline.k)
            return {"metric": str(headline), "value": row["value"]}

        described = {
            "protocol": planned.table.protocol.value,
            "headline": str(headline),
            "evaluation": config.dump(),
            **(through or {}),
        }
        inputs = {"split": self._split.artifact, **inputs}
        made = self._stages.stage(
            TRIAL,
            partial(produce, kind=TRIAL, config=described, inputs=inputs, build=build),
            record=f"measured {name}",
        )
        return float(made.summary["value"])

    def _measured(self, trained: AllMade) -> TaskResult:
        """Ask every row, those without training included."""
        planned, catalogue = self._planned, self._stages.catalogue
        counts = Popularity.load(self._standing[POPULARITY].path)
        models: dict[str, Retriever | Ranks | list[Retriever | Ranks]] = {POPULARITY: counts}
        if BM25 in self._standing:
            models[BM25] = Bm25.load(self._standing[BM25].path)
        if ITEM_KNN in self._standing:
            models[ITEM_KNN] = ItemKnn.load(self._standing[ITEM_KNN].path)
        for row in planned.rows:
            own = [trained[row.name, seed] for seed in planned.run.seeds]
            models[row.name] = [self._open(one, name=row.name) for one in own]
        if ORACLE in planned.table.protocol.standing and catalogue.judgements is not None:
            models[ORACLE] = Oracle.fit(catalogue, counts=counts.counts)
        return planned.table.protocol.evaluate(
            models, catalogue=catalogue, split=self._split, config=planned.evaluation, with_chance=True
        )

    def _spaces(self, trained: AllMade) -> dict[str, ItemSpaces]:
        """Look at items by ID and by content, of the rows that the table names and this form has; first seed."""
        found: dict[str, ItemSpaces] = {}
        seed = self._planned.run.seeds[0]
        for name in self._planned.table.spaces:
            one = trained.get((name, seed))
            if isinstance(one, TrainedRanker):
                seen = item_spaces(one.open(), catalogue=self._stages.catalogue)
                if seen is not None:
                    found[name] = seen
        return found

    def _costs(self, trained: AllMade) -> list[Cost]:
        """Measure what rows cost where they answer, first seed; nothing where the table does not ask."""
        planned, catalogue = self._planned, self._stages.catalogue
        if not planned.table.costs:
            return []
        seed, evaluation = planned.run.seeds[0], planned.evaluation
        requests = cells.some(catalogue, split=self._split, config=evaluation, count=QUERIES)
        opened: dict[str, Retriever] = {POPULARITY: Popularity.load(self._standing[POPULARITY].path)}
        if BM25 in self._standing:
            opened[BM25] = Bm25.load(self._standing[BM25].path)
        sizes = {name: file_bytes(self._standing[name], num_items=catalogue.num_items) for name in opened}
        said = dict.fromkeys(opened, None) | {
            row.name: said_by(trained[row.name, seed], requests, out=self._stages.out, control=row.control, seed=seed)
            for row in planned.rows
        }
        for row in planned.rows:
            one = self._open(trained[row.name, seed], name=row.name)
            assert not isinstance(one, Ranks), "a ranker answers nothing by itself"
            opened[row.name], sizes[row.name] = one, item_bytes(trained[row.name, seed])
        times = latencies(opened, requests, k=max(evaluation.ks))
        return [
            Cost(name, float(np.median(own)), float(np.percentile(own, 95)), sizes[name], said[name])
            for name, own in times.items()
        ]

    def _written(
        self,
        folder: Path,
        *,
        result: TaskResult,
        spaces: Mapping[str, ItemSpaces],
        costs: Sequence[Cost],
        agreed: Sequence[Agreement],
        rows: Sequence[RowMade],
        inputs: Mapping[str, Artifact | str],
        tried: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        about = self._stages.about()
        records = single(to_rows(result.records, simulated=about.simulated, caution=self._split.caution))
        write_json(folder / RECORDS, records)
        result.per_query.write_parquet(folder / PER_QUERY)
        judged, unjudged = self._judged(result)
        paced, unpaced = self._paced(rows)
        rankings, added, pictures = result.rankings, list[Increment](), list[Example]()
        there = [name for name in self._planned.table.there if rankings is not None and name in rankings.item_rows]
        if there and rankings is not None:
            catalogue, config = self._stages.catalogue, self._planned.evaluation
            added = increments(rankings, there=there, catalogue=catalogue, config=config)
            shown = [name for name in self._planned.table.shown if name in rankings.item_rows]
            if shown:
                pictures = photo_examples(rankings, there=there, model=shown[0], catalogue=catalogue, config=config)
        made = Made(
            planned=self._planned,
            rows=rows,
            result=result,
            records=records,
            increments=added,
            spaces=spaces,
            costs=costs,
            agreements=agreed,
            pictures=pictures,
            there=there,
            judged=judged,
            paces=paced,
            unjudged={**unjudged, **unpaced},
            catalogue=self._stages.catalogue,
            split=self._split,
            about=about,
            inputs=inputs,
            tried=tried,
        )
        write_json(folder / RESULT, describe(made))
        (folder / HTML).write_text(write_page(made), encoding="utf-8")
        return {
            "part": self._planned.evaluation.part.value,
            "seeds": len(self._planned.run.seeds),
            **{verdict: sum(one.verdict == verdict for one in judged) for verdict in Verdict},
        }

    def _judged(self, result: TaskResult) -> tuple[list[Judged], dict[str, str]]:
        """Judge the claims; those that this form cannot speak of come second, each with the reason."""
        planned = self._planned
        present = {row.name for row in planned.rows} | set(planned.table.protocol.standing)
        judged: list[Judged] = []
        unjudged: dict[str, str] = {}
        for claim in planned.table.claims:
            absent = [row for row in claim.rows if row not in present]
            if absent:
                unjudged[claim.claim] = f"not in this form: {', '.join(absent)}"
                continue
            found = judge_ordering(
                claim,
                result.per_query,
                headline=planned.headline,
                config=planned.evaluation,
                drawn_by=result.drawn_by,
                weighed_by=result.weighed_by,
            )
            if found is None:
                unjudged[claim.claim] = f"the slice {claim.slice} is empty"
            else:
                judged.append(found)
        return judged, unjudged

    def _paced(self, rows: Sequence[RowMade]) -> tuple[list[JudgedPace], dict[str, str]]:
        """Judge the claims about learning, likewise."""
        logs = {made.row.name: made.logs for made in rows}
        metric = str(self._planned.headline)
        judged: list[JudgedPace] = []
        unjudged: dict[str, str] = {}
        for pace in self._planned.table.paces:
            absent = [row for row in pace.rows if row not in logs]
            found = None if absent else judge_pace(pace, logs, metric=metric)
            if found is not None:
                judged.append(found)
            elif absent:
                unjudged[pace.claim] = f"not in this form: {', '.join(absent)}"
            else:
                unjudged[pace.claim] = f"{metric} was not measured when {100 * pace.by:g} % of the steps were done"
        return judged, unjudged

    def _described(self, rows: Sequence[RowMade]) -> dict[str, Any]:
        """Return all that decides the table, beside its inputs."""
        planned, table = self._planned, self._planned.table
        return {
            "table": table.name,
            "title": table.title,
            "size": planned.size.value,
            "protocol": table.protocol.value,
            "headline": str(planned.headline),
            "evaluation": planned.evaluation.dump(),
            "rows": [self._described_row(made) for made in rows],
            "there": list(table.there),
            **({"paces": [[str(one), one.claim, one.by] for one in table.paces]} if table.paces else {}),
            **({"spaces": list(table.spaces)} if table.spaces else {}),
            **({"costs": QUERIES} if table.costs else {}),
            "claims": [[str(one), one.claim, str(one.column or planned.headline), one.slice] for one in table.claims],
        }

    def _described_row(self, made: RowMade) -> list[Any]:
        through = answered_through(self._planned.chosen(made.row, best=first_best(made.trials)))
        described = [made.row.name, made.row.what, [trial._asdict() for trial in made.trials]]
        return [*described, through] if through else described


def _train(
    plans: Sequence[AnyPlan], *, seeds: Sequence[int], stages: Stages, split: Split, tokenizer: Artifact
) -> AllMade:
    """Train every plan with every seed, each sort in its way; encoders that several stand behind are trained once."""
    found: dict[tuple[str, int], AnyTrained] = {}
    encoders = [plan for plan in plans if isinstance(plan, Plan)]
    recalls = [plan for plan in plans if isinstance(plan, RecallPlan)]
    decoders = [plan for plan in plans if isinstance(plan, GenerationPlan)]
    rankers = [plan for plan in plans if isinstance(plan, RankerPlan)]
    if encoders:
        found |= stages.train_plans(encoders, seeds=seeds, split=split, tokenizer=tokenizer)
    if recalls:
        found |= train_recall(recalls, stages=stages, seeds=seeds, split=split, tokenizer=tokenizer)
    if decoders:
        found |= train_generation(decoders, stages=stages, seeds=seeds, split=split, tokenizer=tokenizer)
    if rankers:
        found |= train_rankers(rankers, stages=stages, seeds=seeds, split=split, tokenizer=tokenizer)
    return found


def _made_of(trained: AnyTrained) -> dict[str, Artifact]:
    """Return what stands for a trained row among inputs: what goes before its name there → artefact."""
    if isinstance(trained, TrainedRanker):
        return {"": trained.model}
    return {"": trained.model, "index ": trained.index}


def _logs(row: Row, trained: AllMade) -> dict[int, list[dict[str, Any]]]:
    """Read the training logs of a row: seed → lines."""
    return {seed: list(read_log(one.model.file(LOG_FILE))) for (name, seed), one in trained.items() if name == row.name}


def finished_table(folder: RunFolder) -> Artifact | None:
    """Return the table that was made last in a run folder; None: the folder is of a run of another kind.

    Raises:
        ArtifactError: the table is not finished.
    """
    if not (folder.recipe or "").startswith(RECIPE):
        return None
    made = [name for name in folder.stages() if name.startswith(TABLE_STAGE)]
    if not made:
        raise ArtifactError(
            f"The table in {str(folder.path)!r} is not finished. Run the same `triptych reproduce` again: it resumes."
        )
    return folder.stage(made[-1])


def _publish(file: Path, place: Path) -> None:
    """Copy a file so that a reader sees the old one or the new one."""
    temporary = place.with_name(place.name + ".tmp")
    shutil.copyfile(file, temporary)
    os.replace(temporary, place)


def read_per_query(made: Artifact) -> pl.DataFrame:
    """Read the values of each request, from which every number of the table can be computed again."""
    return pl.read_parquet(made.file(PER_QUERY))
