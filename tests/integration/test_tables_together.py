"""ID tables by several processes, really started: they reach what one reaches, whole or in shards."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.nn.id_table import IdTable, Shard
from triptych.training.distributed import ALONE, Group
from triptych.training.row_tables import RowTables

SCRIPT = Path(__file__).with_name("tables_together.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
KINDS = ("adagrad", "adam", "sixteen")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("tables_together", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    return script


@pytest.fixture(scope="module")
def out(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process has written, then two that went on from it, then three."""
    out = tmp_path_factory.mktemp("tables")
    for kind in KINDS:
        script.go_on(kind, out=out, group=ALONE)
    for processes in (2, 3):
        command = [*TORCHRUN, "--nproc-per-node", str(processes), str(SCRIPT), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_whole_tables_as_one_does(script: ModuleType, out: Path, tmp_path: Path, kind: str):
    first, second = (load_file(out / f"{kind} of {rank}.safetensors") for rank in (0, 1))
    alone = script.train(kind, out=tmp_path, group=ALONE)
    for name, value in alone.items():
        if name != "weight" or kind == "sixteen":
            continue
        assert torch.allclose(first[name], value, atol=1e-5)
        assert not torch.equal(value, script.Products(kind, group=ALONE).module["table"].weight)
    for name, value in first.items():  # to the bit, rounding by chance included
        assert torch.equal(second[name], value), name
    if kind == "sixteen":  # nearly: what differs in the last digit may be rounded to another side
        assert (first["weight"].float() - alone["weight"].float()).abs().max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_shards_hold_what_was_saved_whatever_the_number_of_processes(script: ModuleType, out: Path, kind: str):
    for processes in (1, 2):
        saved, again = (script.sharded(kind, group=ALONE) for _ in range(2))
        saved.load(out / f"{kind} by {processes}")
        again.load(out / f"{kind} by {processes} again")  # by one process more
        assert torch.equal(saved.weight, again.weight)
        for name, value in saved.row_state().items():
            assert torch.equal(value, again.row_state()[name]), name
            assert value.any()


@pytest.mark.parametrize("kind", ["adagrad", "adam"])
def test_one_then_two_then_three_processes_train_as_one_does(script: ModuleType, out: Path, kind: str):
    generator = torch.Generator().manual_seed(1)
    settings = {"init_std": 0.3, "eps": script.EPS, "generator": generator, **script.KINDS[kind]}
    alone, together = IdTable(script.NUM_ROWS, script.DIM, **settings), script.sharded(kind, group=ALONE)
    assert torch.equal(alone.weight, together.weight)
    for processes in (1, 2, 3):
        norms = script.steps_by_hand(alone, start=script.STEPS * (processes - 1), group=ALONE)
        together.load(out / f"{kind} by {processes}")
        assert torch.allclose(together.weight, alone.weight, atol=1e-5)
        for rank in range(processes):
            told = json.loads((out / f"{kind} norms {processes} {rank}.json").read_text())
            assert told == pytest.approx(norms, rel=1e-4)


def test_a_table_that_is_not_whole_is_refused(script: ModuleType, out: Path, tmp_path: Path):
    table = script.sharded("adam", group=ALONE)
    with pytest.raises(ArtifactError, match="holds no whole table, but 0 shards"):
        table.load(tmp_path)
    (tmp_path / "shard_00001_of_00002.safetensors").symlink_to(out / "adam by 2" / "shard_00001_of_00002.safetensors")
    with pytest.raises(ArtifactError, match="holds no whole table, but 1 shards"):
        table.load(tmp_path)
    with pytest.raises(ArtifactError, match="'weight' was saved of a table of another size or number format"):
        table.load(out / "sixteen by 2")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_together_begin_as_the_whole(script: ModuleType, size: int):
    whole = script.sharded("adam", group=ALONE).weight
    for rank in range(size):
        group = Group()
        group.rank, group.size = rank, size
        table = script.sharded("adam", group=group)
        assert table.shard == Shard(rank, size)
        assert torch.equal(table.weight, whole[rank::size])
        if size > 1:
            with pytest.raises(ConfigError, match="The rows of '0' lie with several processes"):
                RowTables(torch.nn.ModuleList([table]))
