"""From tables to report: the kind of log decides which line is run.

Each line (`recipes.lines`) is the order of stages for one kind of log; the stages themselves are shared
(`recipes.stages`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from triptych.data.splits import SplitBy
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.pretrain.base import LearnsFrom
from triptych.recipes.config import RunConfig
from triptych.recipes.lines import histories, items, judgements, searches
from triptych.recipes.stages import Stages
from triptych.recipes.tables import require_tables
from triptych.training.distributed import ALONE, Group


def run_pipeline(
    config: RunConfig, *, base: Path, out: Path, command: str = "", jobs: int = 1, group: Group = ALONE
) -> Artifact:
    """Run every stage of a recipe and return the report.

    Args:
        config: the resolved config.
        base: folder that relative paths of the user's tables start from.
        out: the run folder.
        command: what the report names as the way to make it again.
        jobs: encoders trained at a time.
        group: processes that train each encoder together, of which this is the first; the others
            `encoders.follow_all`. None of the other stages needs them.

    Raises:
        ConfigError: settings that do not go together, or a pretrained model that cannot be used.
        Parted: another process of the group has gone.
        DataError: tables that cannot be used.
    """
    if jobs > 1 and group.size > 1:
        raise ConfigError(
            f"jobs: {group.size} processes already train each encoder together, so {jobs} encoders at a time would "
            "have no processes of their own. Leave out --jobs, or torchrun."
        )
    require_tables(config)
    stages = Stages(config, base=base, out=out, command=command, jobs=jobs, group=group)
    _ = stages.models, stages.untuned  # one that is not there, or does not fit, is told before hours of other work
    return line_of(config)(stages)


def line_of(config: RunConfig) -> Callable[[Stages], Artifact]:
    """Choose the line: by what the encoder learns from, and for queries by whether they are divided or the log is."""
    match config.pretrain.learns_from:
        case LearnsFrom.HISTORIES:
            return histories.run
        case LearnsFrom.ITEMS:
            return items.run
        case _:
            return judgements.run if config.split.by is SplitBy.QUERY else searches.run
