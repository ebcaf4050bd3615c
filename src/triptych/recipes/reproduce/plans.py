"""What making a table in one form comes to: a config for every trial of every row, and one for all that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from triptych.data.schema import Part
from triptych.evaluate.compare import Column
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import ConfigError
from triptych.pretrain.base import PretrainConfig
from triptych.recipes.config import RunConfig
from triptych.recipes.encoders import Plan
from triptych.recipes.generation import GenerationConfig, GenerationPlan
from triptych.recipes.ranker import RankerConfig, RankerPlan
from triptych.recipes.recall import RecallConfig, RecallPlan
from triptych.recipes.reproduce.base import Form, Row, RowConfig, Settings, Size, Table

RECIPE = "reproduce "
"""In front of a table's name where others have that of a recipe."""
PRETRAIN, RECALL, GENERATIVE, IDS, RANKER = "pretrain.", "recall.", "generative.", "semantic_ids.", "ranker."
"""In front of a setting of every row's training that has such a part; all others are of data, split and evaluation."""
PARTS = (PRETRAIN, RECALL, GENERATIVE, IDS, RANKER)
WHAT_A_ROW_IS = (
    *("pretrain.kind", "pretrain.stages", "recall.model", "generative.model.asks"),
    *("ranker.model.kind", "ranker.content.kind", "ranker.content.train"),
)

AnyPlan = Plan | RecallPlan | GenerationPlan | RankerPlan


@dataclass(frozen=True)
class Planned:
    """A table in one form, with every config resolved."""

    table: Table
    size: Size
    form: Form
    """With the settings that were given."""
    rows: Sequence[Row]
    """Those of the form."""
    plans: Mapping[str, Sequence[AnyPlan]]
    """Row → what is trained in each of its trials."""
    full: Mapping[str, Sequence[AnyPlan]]
    """Row → the same with all of the row's steps."""
    run: RunConfig
    """Of the stages that all rows share."""
    evaluation: EvaluationConfig
    """Of the part that the table is of."""
    headline: Column
    given: Sequence[str] = ()
    """The settings that were given beside the form's."""

    @property
    def trial_plans(self) -> list[AnyPlan]:
        """Every trial of every row."""
        return self.trial_plans_of(self.rows)

    def trial_plans_of(self, rows: Sequence[Row]) -> list[AnyPlan]:
        """Every trial of some rows."""
        return [plan for row in rows for plan in self.plans[row.name]]

    def start(self, row: Row) -> PretrainConfig | None:
        """Return the training that comes before a row's own, or its encoder's; None: there is none."""
        return self.full[row.name][0].start

    def chosen(self, row: Row, *, best: int) -> AnyPlan:
        """Return a row's trial as the row itself."""
        return self.full[row.name][best]._replace(name=row.name)


def resolve(table: Table, *, size: Size, part: Part, settings: Sequence[str]) -> Planned:
    """Resolve every config of a table.

    Args:
        table: what is to be made.
        size: in which form.
        part: of which part.
        settings: overrides ``a.b=value`` of the form's run config; with ``pretrain.``, ``recall.``, ``generative.``,
            ``semantic_ids.`` or ``ranker.`` in front, of that part of every row that has it.

    Raises:
        ConfigError: rows that cannot be made together, or a setting that is what a row is tried with.
    """
    training = [one for one in settings if one.startswith(PARTS)]
    others = [one for one in settings if one not in training]
    for one in training:
        if one.partition("=")[0].startswith(WHAT_A_ROW_IS):
            raise ConfigError(f"--set {one}: what a row learns is what the row is. Leave it out.")
    if table.is_of_encoders:
        training = [one.removeprefix(PRETRAIN) for one in training]
    form = table.form(size)
    form = replace(form, settings=(*form.settings, *training))
    rows = table.rows_of(form)
    _check_not_tried(rows, form=form, settings=training)
    _check_alike(rows, settings=training)
    plans = {row.name: trial_plans(row, form) for row in rows}
    full = {row.name: trial_plans(row, replace(form, trial_steps_rate=1.0)) for row in rows}
    run = _run_config(table, form.run, plans=[plan for own in plans.values() for plan in own], settings=others)
    evaluation = run.evaluation.override(f"part={part.value}")
    headline = table.headline or Column("recall", evaluation.headline_k)
    return Planned(table, size, form, rows, plans, full, run, evaluation, headline, tuple(settings))


def answered_through(plan: AnyPlan) -> dict[str, Any]:
    """Return what a plan's answers pass through behind what is trained: two rows of one training may differ in it."""
    if isinstance(plan, RecallPlan) and plan.keeps_relevant:
        return {"keeps_relevant": True}
    if isinstance(plan, GenerationPlan) and plan.config.hybrid is not None:
        return {"hybrid": plan.config.hybrid.dump()}
    return {}


def _check_not_tried(rows: Sequence[Row], *, form: Form, settings: Sequence[str]) -> None:
    """Refuse settings that the trials of a row would overrule."""
    for row in rows:
        tried = {one.partition("=")[0] for trial in row.trials[: form.num_trials] for one in trial}
        for setting in settings:
            if (name := setting.partition("=")[0]) in tried:
                raise ConfigError(
                    f"{setting} would have no effect: row '{row.name}' is tried with values of {name} of its "
                    "own. Leave it out."
                )


def _check_alike(rows: Sequence[Row], *, settings: Sequence[str]) -> None:
    """Refuse settings of recall in which rows differ: they would be made alike, and keep their names."""
    trees = [config.recall.dump() for row in rows if isinstance(config := row.config(), RecallConfig)]
    for one in settings:
        name = one.partition("=")[0]
        field = name.removeprefix(RECALL)
        if name.startswith(RECALL) and len({str(tree.get(field)) for tree in trees}) > 1:
            raise ConfigError(
                f"--set {one}: rows of this table differ in {name}, and would be made alike. Leave it out."
            )


def trial_plans(row: Row, form: Form) -> list[AnyPlan]:
    """Return what is trained in each trial of a row that a form makes."""
    config = row.config()
    config = config.override(*_of(config, form.settings))
    config = config.override(*_shorter(config, rate=row.steps_rate))
    shorter = _shorter(config, rate=form.trial_steps_rate)
    start = None
    if row.start is not None:
        start = row.start()
        start = start.override(*_of(start, form.settings))
    plans: list[AnyPlan] = []
    for number, trial in enumerate(row.trials[: form.num_trials], start=1):
        name, tried = f"{row.name} trial {number}", config.override(*shorter, *trial)
        if isinstance(tried, RecallConfig):
            plans.append(RecallPlan(name, tried, row.control, row.keeps_relevant, start))
        elif isinstance(tried, RankerConfig):
            plans.append(RankerPlan(name, tried, row.control, start=start))
        elif isinstance(tried, GenerationConfig):
            plans.append(GenerationPlan(name, tried, row.control, start=start))
        else:
            plans.append(Plan(name, tried, row.control, start))
    return plans


def _of(config: RowConfig, settings: Settings) -> Settings:
    """Return those settings of a form that a row has a place for, as the row's config calls them."""
    if isinstance(config, PretrainConfig):
        return tuple(one.removeprefix(PRETRAIN) for one in settings if not one.startswith(PARTS[1:]))
    absent = tuple(part for part in PARTS if not getattr(config, part[:-1], None))
    return tuple(one for one in settings if not one.startswith(absent))


def _shorter(config: RowConfig, *, rate: float) -> Settings:
    """Return what makes a training take that share of its steps; of what is behind an encoder, its own."""
    if rate == 1:
        return ()
    if isinstance(config, RecallConfig):
        return (f"recall.epochs={rate * config.recall.epochs}",)
    if isinstance(config, RankerConfig):
        return (f"ranker.epochs={rate * config.ranker.epochs}",)
    if isinstance(config, GenerationConfig):
        return (f"generative.epochs={rate * config.generative.epochs}",)
    return (f"loop.steps={max(1, round(rate * config.loop.steps))}",)


def _run_config(table: Table, run: RunConfig, *, plans: Sequence[AnyPlan], settings: Sequence[str]) -> RunConfig:
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
    shared = {"recipe": RECIPE + table.name, "compare": (), "photo_queries": 0}
    pretrained = {plan.name: plan.pretrain for plan in plans if plan.pretrain is not None}
    first = max(pretrained.values(), key=lambda config: len(config.encoder.model_configs), default=run.pretrain)
    for name, config in pretrained.items():
        try:
            run.model_copy(update={**shared, "pretrain": config}).override(*settings)
        except ConfigError as error:
            raise ConfigError(f"row '{name}': {error}") from None
        _check_shared(name, config, first)
    return run.model_copy(update={**shared, "pretrain": first}).override(*settings)


def _check_shared(name: str, config: PretrainConfig, first: PretrainConfig) -> None:
    own, shared = config.encoder, first.encoder
    models = {slot: (model.name, model.revision) for slot, model in shared.model_configs.items()}
    others = {slot: (model.name, model.revision) for slot, model in own.model_configs.items()}
    if own.title_features != shared.title_features or others.get("text_model") != models.get("text_model"):
        raise ConfigError(f"row '{name}': title_features and text_model must be the same in every row of a table.")
    if others.get("vision_model", models.get("vision_model")) != models.get("vision_model"):
        raise ConfigError(f"row '{name}': vision_model must be the same in every row that has one.")
