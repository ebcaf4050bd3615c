"""How far the semantic IDs of different seeds agree: the encoders that they are of differ, and the codebooks with them.

The adjusted Rand index of the first level, the mean of all pairs of seeds: 1 where the same items share a first code, 0
where they do so by chance (`semantic_ids.quality.seed_agreement`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from triptych.foundation.artifact import Artifact
from triptych.semantic_ids.quality import seed_agreement
from triptych.semantic_ids.stored import KIND, PARTS, SemanticIds


class Agreement(NamedTuple):
    """The IDs that some rows share, over the seeds."""

    rows: Sequence[str]
    """Whose."""
    of: str
    """What they are of: item, title or photo."""
    value: float
    seeds: int


def agreements(models: Mapping[str, Sequence[Artifact]], *, out: Path) -> list[Agreement]:
    """Compare the seeds of each set of IDs, once for all rows that share it.

    Args:
        models: row → what was trained with each seed.
        out: folder of the run, where semantic IDs are.

    Returns:
        None of one seed, or where no model was trained on IDs.
    """
    rows: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, by_seed in models.items():
        for of, part in PARTS.items():
            ids = tuple(one.inputs[part] for one in by_seed if part in one.inputs)
            if len(ids) == len(by_seed) > 1:
                rows.setdefault((of.value, ids), []).append(name)
    found = []
    for (of_name, ids), names in rows.items():
        opened = [SemanticIds.open(Artifact.open(out / KIND / one)) for one in ids]
        there = opened[0].there
        codes = [np.asarray(one.codes) if there is None else np.asarray(one.codes)[there] for one in opened]
        found.append(Agreement(names, of_name, seed_agreement(codes), len(ids)))
    return found
