"""One process of several that compute a batch's gradients together: ``gradients_together.py OUT``, under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from triptych.data import text
from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import TextTokenizer
from triptych.foundation.artifact import Artifact
from triptych.foundation.registry import config_class
from triptych.pretrain.base import TASKS, Given
from triptych.recipes.run_folder import RunFolder
from triptych.training.distributed import Group, join

SMALL = {"dim": 16, "heads": 2, "layers": 2, "vector_dim": 8, "photo_px": 64}
CASES: dict[str, dict[str, Any]] = {
    # 100 items and 200 queries are cut by length; 3 processes share neither evenly
    "contrastive": {"kind": "contrastive", "batch_items": 100, "photo_view_items": 10},
    "fewer than processes": {"kind": "contrastive", "batch_items": 2, "queries_per_item": 1, "photo_view_items": 1},
    "titles only": {"kind": "contrastive", "batch_items": 40, "encoder": {**SMALL, "modalities": "title"}},
    "items": {"kind": "item_contrast", "batch_items": 37, "photo_view_items": 7, "title_query_items": 11},
    "photos only": {"kind": "item_contrast", "batch_items": 10, "encoder": {**SMALL, "modalities": "photo"}},
    "histories": {"kind": "history_contrast", "batch_pairs": 41, "photo_view_items": 5, "title_query_items": 5},
}


class Found(NamedTuple):
    gradients: dict[str, torch.Tensor]
    figures: dict[str, float]


def compute(case: str, *, catalogue: Artifact, split: Artifact, tokenizer: Artifact, group: Group) -> Found:
    """Do what the loop does up to the optimiser, in float32."""
    tree = {"encoder": SMALL, **CASES[case]}
    config = config_class(TASKS, tree["kind"]).parse(tree)
    task = config.task(
        Given(
            catalogue=Catalogue.open(catalogue),
            split=Split.open(split),
            tokenizer=TextTokenizer.load(tokenizer.file(text.FILE)),
            seed=0,
            group=group,
        )
    )
    batch = task.batch(3)
    output = task.losses(batch)
    output.total.backward()
    weights = dict(task.module.named_parameters())
    figures = torch.stack([output.total.detach(), *output.parts.values()])
    group.sum_gradients(list(weights.values()), beside=figures)
    names = ["total", *output.parts]
    return Found(
        {name: weight.grad for name, weight in weights.items() if weight.grad is not None},
        {**dict(zip(names, figures.tolist(), strict=True)), "samples": float(task.num_samples(batch))},
    )


def inputs_of(run: Path) -> dict[str, Artifact]:
    folder = RunFolder.existing(run)
    return {name: folder.stage(name) for name in ("catalogue", "split", "tokenizer")}


def main() -> None:
    run, out = (Path(word) for word in sys.argv[1:])
    group = join()
    for case in CASES:
        found = compute(case, **inputs_of(run), group=group)
        if group.rank == 0:
            save_file(found.gradients, out / f"{case}.safetensors")
            (out / f"{case}.json").write_text(json.dumps(found.figures))
    group.close()


if __name__ == "__main__":
    main()
