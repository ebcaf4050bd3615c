"""A recall model's tables are trained and kept as its config says: in training, in the file, and read again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from triptych.foundation.errors import ConfigError
from triptych.nn.id_table import IdTable
from triptych.nn.row_optimizer import RowOptimizer
from triptych.recall import train
from triptych.recall.config import RecallTrainConfig
from triptych.recall.learned import load_model
from triptych.recall.task import Given, RecallTask
from triptych.training.loop import fit

USERS = {"against": "full"}
MODELS = {
    "two_tower": {"model": {"fusion": "mm+idfc", "dim": 8}},
    "mgdspr": {"model": {"kind": "mgdspr", "dim": 8, "heads": 2}},
    "sasrec": {"model": {"kind": "sasrec", "fusion": "id", "dim": 8}, **USERS},
    "matrix_factorization": {"model": {"kind": "matrix_factorization", "dim": 8}, **USERS},
    "vbpr": {"model": {"kind": "vbpr", "dim": 8, "content_dim": 4}, **USERS},
}
TABLES = {"optimizer": "adam", "stored_as": "bfloat16"}


def config(kind: str, **tables: str) -> RecallTrainConfig:
    tree = {"validations": 1, "batch_pages": 16, "device": "cpu", "precision": "fp32", **MODELS[kind]}
    if "against" not in tree:
        tree["num_negatives"] = 10
    return RecallTrainConfig.parse({**tree, "model": {**tree["model"], "id_rate_factor": 1.0, "tables": tables}})


def given(shop) -> Given:
    rng = np.random.default_rng(0)
    queries, items = (rng.standard_normal((n, 6)).astype(np.float32) for n in (len(shop.catalogue.queries), 16))
    return Given(shop.catalogue, shop.split, queries, np.resize(items, (shop.catalogue.num_items, 6)), 0)


@pytest.mark.parametrize("kind", MODELS)
def test_every_table_is_trained_as_the_config_says(small_shop, tmp_path, kind):
    told = config(kind, **TABLES)
    task = RecallTask(told, given(small_shop))
    tables = [part for part in task.module.modules() if isinstance(part, IdTable)]
    before = [table.weight.detach().clone() for table in tables]
    fit(task, config=told.loop(batches_per_epoch=task.batches_per_epoch), out=tmp_path, seed=0)
    assert tables
    for table in tables:
        assert (table.optimizer, table.weight.dtype) == (RowOptimizer.ADAM, torch.bfloat16)
    changed = [bool((table.weight != old).any()) for table, old in zip(tables, before, strict=True)]
    counted = [bool(table.row_state()["updates"].any()) for table in tables]
    assert changed == counted
    assert any(changed)


def test_a_saved_model_has_the_format_and_is_opened_with_it(small_shop, tmp_path):
    told = config("two_tower", **TABLES)
    artifact = train.run(told, given(small_shop), inputs={"shop": "small"}, out=tmp_path)
    (file,) = artifact.path.glob("*.safetensors")
    kept = {name: tensor.dtype for name, tensor in load_file(file).items() if name.endswith("ids.weight")}
    assert kept == {"queries.ids.weight": torch.bfloat16, "items.ids.weight": torch.bfloat16}
    model = load_model(artifact.path)
    assert model.config == told.model
    assert model.items.ids.weight.dtype == torch.bfloat16


def test_by_default_as_before():
    tables = RecallTrainConfig().model.tables
    assert (tables.optimizer, tables.stored_as) == ("adagrad", "float32")


@pytest.mark.parametrize("kind", ["two_tower", "sasrec"])
def test_without_tables_the_setting_is_refused(kind):
    model = {"kind": kind, "fusion": "mm", "tables": {"stored_as": "float16"}}
    with pytest.raises(ConfigError, match="tables has no effect with fusion = 'mm'"):
        RecallTrainConfig.parse({"model": model})
