"""Stages as data: what is learned, by which part of the model, for how long, from what; and the papers' orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from triptych.encoders.base import MODELS, EncoderConfig
from triptych.foundation.config import Config
from triptych.foundation.errors import did_you_mean
from triptych.foundation.registry import config_class, kinds, one_of
from triptych.pretrain.objectives.base import OBJECTIVES, ObjectiveConfig
from triptych.pretrain.objectives.contrast import Between


class Data(StrEnum):
    """What the batches of a stage are drawn from."""

    CLICKS = "clicks"
    """Items by their clicks, with queries they were clicked under."""
    ITEMS = "items"
    """Items with title and photo, all alike; no log is looked at."""


class Pairs(StrEnum):
    """Which pairs of query and item are positive."""

    CLICKED = "clicked"
    """All that were clicked, drawn by clicks."""
    MOST_CLICKED = "most-clicked"
    """Of each query the item that was clicked most (the Taobao article)."""


class Balance(StrEnum):
    """Whether modalities are kept in balance."""

    NONE = "none"
    OGM_GE = "ogm-ge"
    """Gradients of the modality that is ahead are made smaller (Peng et al., 2022)."""


class StageConfig(Config):
    """One stage of a training."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Its name in logs: lower-case letters, digits, hyphens."""
    tasks: tuple[Annotated[ObjectiveConfig, one_of(OBJECTIVES)], ...] = Field(min_length=1)
    """What is learned, each with a kind, a weight and its settings."""
    steps_rate: float = Field(1.0, gt=0, le=1)
    """Share of loop.steps; those of all stages add up to 1."""
    train: dict[str, float] | None = None
    """Parts of the encoder that are trained → their share of the learning rate; what is not named is frozen. None: all.
    The heads of the stage's tasks are trained in any case."""
    data: Data = Data.CLICKS
    """What batches are drawn from: clicks, or items (no log)."""
    validate_on: Between = Between.QUERY_ITEM
    """Whose recall chooses the weights that are handed on: query-item, query-title, query-photo, title-photo."""
    patience: int | None = Field(None, ge=1)
    """Validations without a new best after which the stage ends; none: that of the loop."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; none: that of the loop."""
    hard_negatives: int = Field(0, ge=0, le=4)
    """Items added to a batch for each of its items, mined by the encoder that the stage begins with: of rank 20 to 200
    for a query of that item, in a cell of its own."""

    with_ids: bool = False
    """Whether queries and items are given vectors of their own beside the towers', which the exported encoder lacks: an
    apparatus to show what they do to it."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.train == {}:
            raise ValueError(f"stage '{self.name}' trains no part of the encoder. Name some, or leave `train` out.")
        labels = [task.label for task in self.tasks]
        if len(set(labels)) != len(labels):
            raise ValueError(f"stage '{self.name}' has a task twice: {', '.join(labels)}.")
        if self.data is Data.ITEMS:
            with_queries = [task.label for task in self.tasks if task.needs.queries]
            if with_queries:
                raise ValueError(
                    f"stage '{self.name}' draws items without a log, and {', '.join(with_queries)} learn from queries."
                )
            if self.hard_negatives:
                raise ValueError(f"stage '{self.name}': hard_negatives has no effect with data = 'items'. Remove it.")
        return self


Tree = dict[str, Any]


def _contrast(between: Between, weight: float = 1.0) -> Tree:
    """Write a contrast down as SMGR's losses are: both sides ask, the temperature is learned, clicks are corrected for.

    Titles and photos are drawn alike, so that between them there is nothing to correct.
    """
    tree: Tree = {"kind": "contrast", "between": between.value, "weight": weight, "symmetric": True}
    tree |= {"temperature": 0.07, "learn_temperature": True}
    return tree if between is Between.TITLE_PHOTO else {**tree, "log_q_weight": 1.0, "query_log_q_weight": 1.0}


TITLE_PHOTO, QUERY_TITLE = _contrast(Between.TITLE_PHOTO), _contrast(Between.QUERY_TITLE)
QUERY_PHOTO, QUERY_ITEM = _contrast(Between.QUERY_PHOTO), _contrast(Between.QUERY_ITEM)
ANCHORS = [_contrast(Between.QUERY_PHOTO, 0.1), _contrast(Between.QUERY_TITLE, 0.1)]
"""Beside the fused contrast they keep title and photo able to answer alone."""

_TITLE_PHOTO_STAGE: Tree = {
    "name": "title-photo",
    "tasks": [TITLE_PHOTO],
    "train": {"photo": 1.0, "photo_head": 1.0, "title_head": 1.0, "text": 0.5},
    "data": "items",
    "validate_on": "title-photo",
}
_QUERY_PHOTO_STAGE: Tree = {
    "name": "query-photo",
    "tasks": [QUERY_PHOTO],
    "train": {"query_head": 1.0, "photo": 1.0, "photo_head": 1.0},
    "validate_on": "query-photo",
}
_QUERY_TITLE_STAGE: Tree = {
    "name": "query-title",
    "tasks": [QUERY_TITLE],
    "train": {"text": 1.0, "query_head": 1.0, "title_head": 1.0},
    "validate_on": "query-title",
}
_QUERY_ITEM_STAGE: Tree = {
    "name": "query-item",
    "tasks": [QUERY_ITEM, *ANCHORS],
    "train": {"fusion": 1.0, "query_head": 1.0, "text": 0.1, "photo": 0.1},
    "validate_on": "query-item",
}
_BOTH_STAGE: Tree = {
    "name": "query-modality",
    "tasks": [QUERY_PHOTO, QUERY_TITLE],
    "train": {"text": 1.0, "photo": 1.0, "query_head": 1.0, "title_head": 1.0, "photo_head": 1.0},
    "validate_on": "query-title",
}


def _ordered(*stages: tuple[Tree, float]) -> list[Tree]:
    return [{**stage, "steps_rate": rate} for stage, rate in stages]


def _open(stages: list[Tree]) -> list[Tree]:
    """Take the same tasks in the same order, with nothing frozen."""
    return [{**stage, "train": None} for stage in stages]


def _cumulative(stages: list[Tree]) -> list[Tree]:
    """Let each stage go on with all tasks of those before it, with nothing frozen: at the end it is joint training."""
    found: list[Tree] = []
    tasks: list[Tree] = []
    for stage in stages:
        tasks = [stage["tasks"][0], *tasks]
        found.append({**stage, "tasks": tasks, "train": None})
    return found


O1 = _ordered(
    (_TITLE_PHOTO_STAGE, 0.16), (_QUERY_PHOTO_STAGE, 0.24), (_QUERY_TITLE_STAGE, 0.24), (_QUERY_ITEM_STAGE, 0.36)
)

PRESETS: Mapping[str, list[Tree]] = {
    "contrastive": [{"name": "contrastive", "tasks": [{"kind": "contrast"}, {"kind": "photo_view"}]}],
    "taobao": [
        {
            "name": "taobao",
            "tasks": [
                {"kind": "contrast", "between": "query-item", "loss": "am-softmax"},
                {"kind": "masked_words", "of": "query"},
                {"kind": "masked_words", "of": "title"},
                {"kind": "masked_patches"},
                {"kind": "matching", "pair": "query-item"},
                {"kind": "matching", "pair": "query-photo"},
            ],
        }
    ],
    "fashionbert": [
        {
            "name": "fashionbert",
            "tasks": [
                {"kind": "masked_words", "of": "query", "at": "cross"},
                {"kind": "masked_words", "of": "title", "at": "cross"},
                {"kind": "masked_patches", "at": "cross"},
                {"kind": "matching", "pair": "query-item"},
                {"kind": "matching", "pair": "query-photo"},
            ],
        }
    ],
    "joint": [{"name": "joint", "tasks": [TITLE_PHOTO, QUERY_PHOTO, QUERY_TITLE, QUERY_ITEM]}],
    "fused": [{"name": "fused", "tasks": [QUERY_ITEM]}],
    "o1": O1,
    "o1-open": _open(O1),
    "o1-own-stops": [{**stage, "patience": 2} for stage in O1],
    "o1-anchored": [
        {**stage, "tasks": [QUERY_TITLE, ANCHORS[0]]} if stage["name"] == "query-title" else stage for stage in O1
    ],
    "o1-cumulative": _cumulative(O1),
    "o2": _ordered(
        (_TITLE_PHOTO_STAGE, 0.16), (_QUERY_TITLE_STAGE, 0.24), (_QUERY_PHOTO_STAGE, 0.24), (_QUERY_ITEM_STAGE, 0.36)
    ),
    "o3": _ordered(
        (_QUERY_TITLE_STAGE, 0.24), (_QUERY_PHOTO_STAGE, 0.24), (_TITLE_PHOTO_STAGE, 0.16), (_QUERY_ITEM_STAGE, 0.36)
    ),
    "o4": _ordered(
        ({**_QUERY_ITEM_STAGE, "train": None}, 0.36),
        (_TITLE_PHOTO_STAGE, 0.16),
        (_QUERY_PHOTO_STAGE, 0.24),
        (_QUERY_TITLE_STAGE, 0.24),
    ),
    "o5": _ordered((_QUERY_PHOTO_STAGE, 0.28), (_QUERY_TITLE_STAGE, 0.28), (_QUERY_ITEM_STAGE, 0.44)),
    "three": _ordered((_TITLE_PHOTO_STAGE, 0.2), (_BOTH_STAGE, 0.4), (_QUERY_ITEM_STAGE, 0.4)),
}
"""Name → stages. `taobao` and `fashionbert`: the article's tasks at once, for encoders of kind two_tower. `joint`,
`fused` and the orders `o1` to `o5` and `three` (SMGR reconstruction, section 4): for late_fusion. Variants of `o1`:
with nothing frozen (`o1-open`); each stage ends after two validations without a best (`o1-own-stops`); queries learn
titles beside a tenth of photos, so as not to forget them (`o1-anchored`, section 4.2's remedy); every stage goes on
with what those before it have taught (`o1-cumulative`, ours)."""


def preset_stages(value: Any) -> Any:
    """Put a preset's stages in the place of its name, so that a saved config holds what was run.

    Raises:
        ValueError: there is no such preset.
    """
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f"there are no stages '{value}'.{did_you_mean(value, PRESETS)} Known: {', '.join(PRESETS)}.")
    return PRESETS[value]


def check_stages(stages: Sequence[StageConfig], *, parts: Sequence[str], kind: str) -> None:
    """Check what the stages of a training owe each other and the encoder.

    Args:
        stages: in their order.
        parts: of the model.
        kind: of the encoder, for the message.

    Raises:
        ValueError: two have one name, their shares do not add up to 1, one trains a part that is not there, or two
            learn the same with other settings.
    """
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise ValueError(f"stages: two have one name: {', '.join(names)}.")
    whole = sum(stage.steps_rate for stage in stages)
    if abs(whole - 1) > 1e-6:
        raise ValueError(f"stages: their steps_rate add up to {whole:.3g}; as shares of loop.steps they must make 1.")
    _check_heads(stages)
    for stage in stages:
        for part, rate in (stage.train or {}).items():
            if part not in parts:
                raise ValueError(
                    f"stage '{stage.name}' trains '{part}', and with these tasks an encoder of kind '{kind}' has no "
                    f"such part.{_hint(part, parts=parts)} Its parts: {', '.join(parts)}."
                )
            if not 0 < rate <= 1:
                raise ValueError(f"stage '{stage.name}' trains '{part}' at {rate} of the rate; it must be in (0, 1].")


def _hint(part: str, *, parts: Sequence[str]) -> str:
    """Name the kind of encoder that has a part, as the presets are made for one each, or the nearest part."""
    made = {one: config_class(MODELS, one) for one in kinds(MODELS)}
    having = [one for one, config in made.items() if issubclass(config, EncoderConfig) and part in config.PARTS]
    return f" One of kind '{having[0]}' has: set encoder.kind." if having else did_you_mean(part, parts)


def _check_heads(stages: Sequence[StageConfig]) -> None:
    """Check that what several stages learn is the same thing: it has one head, which is made once."""
    first: dict[str, tuple[StageConfig, ObjectiveConfig]] = {}
    for stage in stages:
        for task in stage.tasks:
            there, other = first.setdefault(task.label, (stage, task))
            if task.model_copy(update={"weight": other.weight}) != other:
                raise ValueError(
                    f"stages '{there.name}' and '{stage.name}' learn {task.label} with other settings; but for the "
                    "weight they must be the same."
                )
