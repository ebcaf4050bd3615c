"""The recipe for judged queries: product titles, and how relevant people found them."""

from __future__ import annotations

from triptych.recipes.config import RunConfig
from triptych.recipes.judged import judged


def homedepot() -> RunConfig:
    """Real queries and graded titles (TRIPTYCH_DATA), split by query; text only."""
    tree = {
        "recipe": "homedepot",
        "dataset": {"kind": "homedepot"},
        "split": {"relevant_grade": 1.33},  # a mean relevance of 2.33 on the raters' scale
        "pretrain": {"encoder": {"modalities": "title"}},
        "compare": [],
        "hybrid": {},
        "evaluation": {"model": "title", "examples": 0},
    }
    return judged().merged(tree)
