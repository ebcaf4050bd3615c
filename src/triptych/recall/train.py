"""Trains a recall model on clicked pages, against negatives from the whole catalogue.

A sample is a page: its query, and up to three of the items that were chosen on it. All pages of a batch share some ten
thousand negatives, drawn by how often items were chosen, so that the loss estimates the softmax over the whole
catalogue (`losses.sampled_softmax`); what is drawn twice is encoded once.

Source: the Taobao article (part 4), reconstructed in its section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import ConfigError
from triptych.recall.config import RecallTrainConfig
from triptych.recall.task import Given, RecallTask
from triptych.training.distributed import Processes
from triptych.training.epochs import described
from triptych.training.loop import fit
from triptych.training.loop import follow as follow_steps

KIND = "recall"
VECTORS = "vectors.npy"


def run(config: RecallTrainConfig, given: Given, *, inputs: Mapping[str, Artifact | str], out: Path) -> Artifact:
    """Train a recall model, go on where an attempt was interrupted, or open it where it has been trained.

    Args:
        config: of model and training.
        given: what it is trained from; of its group this is the first process.
        inputs: what `given` was made from: artefacts, whose ids enter the artefact's id, or words.
        out: folder of the stage.

    Returns:
        Artefact ``recall``: the model's files, ``query_ids`` and ``item_ids``, ``vectors.npy`` (float16 ``[items,
        vector_dim]``, by item row), ``train.jsonl``.

    Raises:
        DataError: there is nothing to train or validate on.
        ConfigError: the model reads content, modalities or semantic IDs, and there are none.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        check_content(config, given)
        task = RecallTask(config, given)
        loop = config.loop(batches_per_epoch=task.batches_per_epoch)
        result = fit(task, config=loop, out=folder, seed=given.seed, group=given.group)
        task.module.eval()
        np.save(folder / VECTORS, task.item_vectors().cpu().numpy().astype(np.float16))
        task.module.save(folder)
        task.ids.save(folder)
        parameters = sum(weight.numel() for weight in task.module.parameters())
        return {**result._asdict(), "parameters": parameters, "vector_dim": task.module.vector_dim}

    return produce(out, kind=KIND, config=described(KIND, config, seed=given.seed), inputs=inputs, build=build)


def follow(config: RecallTrainConfig, given: Given) -> None:
    """Do this process's share of the training that the first one of its group keeps with `run`."""
    assert isinstance(given.group, Processes)
    task = RecallTask(config, given)
    loop = config.loop(batches_per_epoch=task.batches_per_epoch)
    follow_steps(task, config=loop, seed=given.seed, group=given.group)


def check_content(config: RecallTrainConfig, given: Given) -> None:
    """Refuse a model that reads content, or semantic IDs, where there are none.

    Raises:
        ConfigError: so it is.
    """
    model = config.recall_model
    absent = given.item_content is None or (model.needs.query and given.query_content is None)
    if model.reads_content and absent:
        raise ConfigError(
            f"model: '{config.model.kind}' reads the vectors of a pretrained encoder, and there are none. Train one, "
            "or set model.fusion = 'id'."
        )
    if model.needs.modalities and not given.item_modalities:
        raise ConfigError(
            f"model: '{config.model.kind}' reads what items are made of by modality, and nobody gave it: set "
            "Given.item_modalities, from Python."
        )
    if model.needs.title_content and given.title_content is None:
        raise ConfigError(
            f"model: '{config.model.kind}' reads what the encoder makes of titles alone, and nobody gave it: set "
            "Given.title_content, from Python."
        )
    if model.needs.codes and not given.item_codes:
        raise ConfigError(
            f"model: '{config.model.kind}' reads semantic IDs, and there are none: give semantic_ids beside recall, or "
            "from Python set Given.item_codes."
        )
    for name, vectors in (given.item_modalities or {}).items():
        if vectors.ndim != 2 or len(vectors) != given.catalogue.num_items:
            raise ConfigError(
                f"Given.item_modalities: '{name}' has the shape {vectors.shape}; it must have one row for each of the "
                f"{given.catalogue.num_items:,} items of the catalogue."
            )
