"""The index by the number of items: exact while that is fast, inverted lists above.

A rule and no third kind of search: what is built is an exact or an ivf index, which its artefact names
(``summary.kind``) as does ``config.kind`` in its ``index.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import Field

from triptych.foundation.registry import config_class
from triptych.index.backends.exact import ExactConfig
from triptych.index.backends.ivf import IvfConfig
from triptych.index.base import BACKENDS, Index, IndexConfig
from triptych.index.stored import read_meta


class AutoConfig(IndexConfig):
    """Exact up to a number of items, inverted lists above."""

    kind: Literal["auto"] = "auto"
    """Name of the file that defines it."""
    exact_up_to: int = Field(200_000, ge=0)
    """Items up to which the search is exact; `triptych index sweep` shows what either costs on a run's vectors."""
    exact: ExactConfig = ExactConfig()
    """The index of a catalogue of at most that many items."""
    ivf: IvfConfig = IvfConfig()
    """The index of a larger one."""

    def chosen(self, num_items: int) -> IndexConfig:
        """Return the config that is built for so many items."""
        return self.exact if num_items <= self.exact_up_to else self.ivf

    def build(self, vectors: NDArray[Any]) -> Index:
        """Index vectors ``[items, dim]`` held in memory, by the index for that many."""
        return self.chosen(len(vectors)).build(vectors)

    def open_saved(self, folder: Path) -> Index:
        """Open the index that was chosen when it was built."""
        config = config_class(BACKENDS, read_meta(folder)["config"]["kind"]).parse(read_meta(folder)["config"])
        assert isinstance(config, IndexConfig)
        return config.open_saved(folder)


CONFIG = AutoConfig
