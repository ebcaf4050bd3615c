"""The recipe for real users without queries: films with posters."""

from __future__ import annotations

from triptych.data.splits import SplitBy
from triptych.recipes.config import Arm, RunConfig
from triptych.recipes.feed import feed


def movielens() -> RunConfig:
    """Real ratings of films with posters (TRIPTYCH_DATA); recommendation, split within each user.

    The encoder reads the plot behind the title. The stricter protocol, in which nothing after the cut is learned from,
    is the same recipe with ``--set split.by=fraction``; it leaves few users to ask.
    """
    tree = {
        "recipe": "movielens",
        "dataset": {"kind": "movielens"},
        "split": {"by": SplitBy.USER},
        "pretrain": {
            "encoder": {"title_features": ["plot"], "max_title_tokens": 64},
            "loop": {"steps": 600},  # validation stands still after five hundred
        },
        "compare": [Arm.TITLE, Arm.PHOTO, Arm.PERMUTED_PHOTO],
    }
    return feed().merged(tree)
