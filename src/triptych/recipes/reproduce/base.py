"""What a paper's table is: rows, how each is tuned, what is claimed of them, and the two forms it is made in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Ordering
from triptych.evaluate.paces import Pace
from triptych.evaluate.records import is_trained
from triptych.evaluate.tasks import cells, ranking, recommend, search
from triptych.evaluate.tasks.base import TaskResult
from triptych.foundation.errors import ConfigError, did_you_mean
from triptych.pretrain.base import PretrainConfig
from triptych.recall.models.item_knn import ItemKnnConfig
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.generation import GenerationConfig
from triptych.recipes.ranker import RankerConfig
from triptych.recipes.recall import RecallConfig

Settings = tuple[str, ...]
"""Overrides ``a.b=value`` of a row's training config."""
LENGTHS = (".epochs", "loop.steps")
"""How settings end that say how long a training is."""
RowConfig = PretrainConfig | RecallConfig | GenerationConfig | RankerConfig


CHANCE, POPULARITY, BM25, ITEM_KNN, ORACLE = "chance", "popularity", "bm25", "item-knn", "oracle"
CONSTANT = "constant"
"""Names of rows without training."""


class Protocol(StrEnum):
    """What asks, and among what it is answered."""

    SEARCH = "search"
    """A query, among the whole catalogue: the Taobao article's next-day sets."""
    CELLS = "cells"
    """A query in a delivery cell, among the items delivered there: SMGR."""
    RECOMMEND = "recommend"
    """A user with what he has chosen before, among all other items."""
    RANK = "rank"
    """What somebody was shown, chosen or not, is to be told apart; nothing else is ranked."""

    @property
    def evaluate(self) -> Callable[..., TaskResult]:
        """The evaluation task."""
        if self is Protocol.RANK:
            return ranking.evaluate
        if self is Protocol.RECOMMEND:
            return recommend.evaluate
        return search.evaluate if self is Protocol.SEARCH else cells.evaluate

    @property
    def standing(self) -> tuple[str, ...]:
        """Rows that need no training and stand in every such table; the oracle where there are judgements."""
        if self is Protocol.RECOMMEND:
            return (CHANCE, POPULARITY, ITEM_KNN)
        if self is Protocol.RANK:
            return (CONSTANT, POPULARITY)
        return (CHANCE, POPULARITY, BM25, ORACLE)


class Size(StrEnum):
    """Which of its two forms a table is made in."""

    FULL = "full"
    QUICK = "quick"
    """Some rows, small models, one seed, the generated shop: shows that everything runs, and is no evidence."""


@dataclass(frozen=True)
class Row:
    """A trained row of a table: an encoder, a recall model or a ranker behind one, or a decoder of its semantic IDs.

    A control's name begins with its `Control.row_prefix`.
    """

    name: str
    what: str
    """What it is, in a few words."""
    config: Callable[[], RowConfig]
    """Model and training, as the full form has them."""
    trials: tuple[Settings, ...] = ((),)
    """The settings it is tried with; every row of a table has as many. The best on validation is taken."""
    control: Control = Control.NONE
    """What items have in the place of their own."""
    keeps_relevant: bool = False
    """Whether a recall model's answers keep only items of a category that the query asks for."""
    start: Callable[[], PretrainConfig] | None = None
    """A training that comes before its own, or before its encoder's, once for all rows and seeds that name it; its
    settings are the form's too."""
    steps_rate: float = 1.0
    """Its steps, as a share of what the form gives every row: to compare at equal seconds instead."""

    def check_control(self) -> None:
        """Check that the row has the control that it is called, and something to exchange.

        Raises:
            ConfigError: it has not.
        """
        named = next((one for one in Control if one and self.name.startswith(one.row_prefix)), Control.NONE)
        if named is not self.control:
            raise ConfigError(
                f"row '{self.name}' has the control '{self.control}', and its name says '{named}'. Rows of a control "
                f"begin with '{self.control.row_prefix}'."
            )
        if self.control not in _controls_of(self.config()):
            raise ConfigError(f"row '{self.name}' has nothing that the control '{self.control}' could exchange.")


def _controls_of(config: RowConfig) -> set[Control]:
    """Say which controls change anything of what a row is trained on."""
    found = {Control.NONE}
    if isinstance(config, PretrainConfig) or config.pretrain is not None:
        found.add(Control.PHOTO)
    if isinstance(config, RankerConfig | RecallConfig) and config.pretrain is not None:
        found.add(Control.CONTENT)
    if isinstance(config, RecallConfig) and config.pretrain is not None:
        found.add(Control.RANDOM)
    reads_ids = isinstance(config, RecallConfig | RankerConfig) and config.semantic_ids is not None
    if isinstance(config, GenerationConfig) or reads_ids:
        found.add(Control.IDS)
    return found


@dataclass(frozen=True)
class Form:
    """How large a table is made."""

    run: RunConfig
    """Data, split, seeds, baselines and evaluation. Rows bring their own `pretrain`; the one here has no effect."""
    hours: float
    """What it takes on two cores, about."""
    rows: tuple[str, ...] | None = None
    """The rows it has; None: all."""
    settings: Settings = ()
    """What it changes in the config of every row, such as the number of steps."""
    num_trials: int | None = None
    """The trials of each row that it makes, the first ones; None: all."""
    trial_steps_rate: float = 1.0
    """Share of a row's steps that its trials take; what is chosen is then trained in full."""
    trial_queries: int | None = None
    """Of the validation part, queries (users, requests) by which trials are judged, as `evaluation.max_queries` draws
    them; None: all that it asks."""


@dataclass(frozen=True)
class Table:
    """A table of a paper, to be made again."""

    name: str
    title: str
    """What it shows, in a line."""
    rows: tuple[Row, ...]
    claims: tuple[Ordering, ...]
    """Written down before anything is measured."""
    full: Form
    quick: Form
    protocol: Protocol = Protocol.SEARCH
    headline: Column | None = None
    """What rows are tuned by and claims speak of where they name nothing; None: recall at the evaluation's headline."""
    item_knn: tuple[ItemKnnConfig, ...] = (ItemKnnConfig(),)
    """What item-kNN is tried with where it stands; the best on validation is taken."""
    there: tuple[str, ...] = ()
    """Rows that a shop has already: what every other row adds to them is told beside the table (`evaluate.increment`).
    None: nothing is."""
    paces: tuple[Pace, ...] = ()
    """Claims about how soon rows have learned, judged from their logs by the headline on the validation part."""
    spaces: tuple[str, ...] = ()
    """Rankers whose items are shown by ID and by content beside the table (`evaluate.item_spaces`)."""
    shown: tuple[str, ...] = ()
    """Rows of which the first that a form has is shown with photos: what only these bring to those of `there`."""
    costs: bool = False
    """Whether time of a query, bytes of an item and IDs said that there are not stand beside the results; of searches
    by cell."""

    def __post_init__(self) -> None:
        """Check that the parts of the definition belong together.

        Raises:
            ConfigError: names a mistake.
        """
        names = [row.name for row in self.rows]
        twice = {name for name in names if names.count(name) > 1} | set(names) & set(self.protocol.standing)
        if twice:
            raise ConfigError(f"table '{self.name}': the name '{min(twice)}' stands for two rows.")
        if self.costs and self.protocol is not Protocol.CELLS:
            raise ConfigError(f"table '{self.name}': costs are measured of searches by cell. Leave them out.")
        uneven = {row.name: len(row.trials) for row in self.rows}
        if len(set(uneven.values())) != 1:
            told = ", ".join(f"{name} {number}" for name, number in uneven.items())
            raise ConfigError(f"table '{self.name}': every row must have the same number of trials, not {told}.")
        for form in (self.full, self.quick):
            fixed = {
                one.partition("=")[0] for row in self.rows for trial in row.trials[: form.num_trials] for one in trial
            }
            if form.trial_steps_rate < 1 and any(one.endswith(LENGTHS) for one in fixed):
                raise ConfigError(
                    f"table '{self.name}': trials that set how long they are would not be shortened by "
                    "trial_steps_rate. Set it to 1, or leave the lengths out."
                )
        for row in self.rows:
            if not is_trained(row.name):
                raise ConfigError(f"table '{self.name}': '{row.name}' is the name of a baseline; rename the row.")
            row.check_control()
        named = [
            *self.there,
            *self.spaces,
            *self.shown,
            *(row for claim in self.claims for row in claim.rows),
            *(row for pace in self.paces for row in pace.rows),
            *(self.quick.rows or ()),
            *(self.full.rows or ()),
        ]
        for name in named:
            if name not in names and name not in self.protocol.standing:
                raise ConfigError(f"table '{self.name}': there is no row '{name}'.{did_you_mean(name, names)}")

    @property
    def is_of_encoders(self) -> bool:
        """Whether all rows are encoders; else some are what stands behind one."""
        return all(isinstance(row.config(), PretrainConfig) for row in self.rows)

    def form(self, size: Size) -> Form:
        """Return one of the two forms."""
        return self.quick if size is Size.QUICK else self.full

    def rows_of(self, form: Form) -> list[Row]:
        """List the rows of a form, in the order of the table."""
        return [row for row in self.rows if form.rows is None or row.name in form.rows]
