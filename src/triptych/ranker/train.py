"""Trains a ranker on what was shown: what was chosen against what was not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from triptych.foundation.artifact import Artifact, produce
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.estimate import estimate
from triptych.ranker.scorer import KIND
from triptych.ranker.task import Given, RankTask
from triptych.training.epochs import described
from triptych.training.loop import fit

log = logging.getLogger(__name__)


def run(config: RankTrainConfig, given: Given, *, inputs: Mapping[str, Artifact | str], out: Path) -> Artifact:
    """Train a ranker, go on where an attempt was interrupted, or open it where it has been trained.

    Args:
        config: of model and training.
        given: what it is trained from.
        inputs: what `given` was made from: artefacts, whose ids enter the artefact's id, or words.
        out: folder of the stage.

    Returns:
        Artefact ``ranker``: the model's files, ``features`` (rows of tables, quantiles of numbers), ``train.jsonl``;
        of one that trains its encoder also that, and its vectors of the items (`own_encoder`). `scorer.Ranker` opens
        it. The summary has what was expected (`estimate.Estimate`), of a training that is not short, beside what
        happened.

    Raises:
        DataError: there is nothing to tell apart in the training or the validation part.
        ConfigError: the plug-in for content reads, or trains, what nobody gave.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        task = RankTask(config, given)
        loop = config.loop(batches_per_epoch=task.batches_per_epoch)
        expected = estimate(task, config=loop, seed=given.seed)
        if expected is not None:
            log.info("%s: %s", task.name, expected)
        result = fit(task, config=loop, out=folder, seed=given.seed)
        task.save(folder)
        parameters = sum(weight.numel() for weight in task.module.parameters())
        return {
            **result._asdict(),
            "parameters": parameters,
            "samples": len(task.train.label),
            "positives": int(task.train.label.sum()),
            **({} if expected is None else {"estimate": expected._asdict()}),
            **_on_gpu(task),
        }

    return produce(out, kind=KIND, config=described(KIND, config, seed=given.seed), inputs=inputs, build=build)


def _on_gpu(task: RankTask) -> dict[str, int]:
    device = next(task.module.parameters()).device
    return {"peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
