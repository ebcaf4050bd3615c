"""What the page is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.examples import Example
from triptych.evaluate.tasks.base import EvaluationConfig, TaskResult
from triptych.foundation.artifact import Artifact


@dataclass(frozen=True)
class Page:
    """A finished evaluation and what it was made of."""

    config: EvaluationConfig
    rows: Sequence[Mapping[str, Any]]
    """Records, as in `records.json`."""
    results: Sequence[TaskResult]
    catalogue: Catalogue
    split: Split | None
    """None where photos alone were asked with."""
    inputs: Mapping[str, Artifact | str]
    about: Mapping[str, Any]
    """The fields of `report.About`."""
    examples: Sequence[Example]

    @property
    def caution(self) -> str:
        """What has to be said of the split beside every number."""
        return self.split.caution if self.split is not None else ""
