"""Encoders trained side by side: the same weights, killed or not, and a failure that is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_demo import DEMO_SETTINGS, ENCODER_ALONE

from triptych.data.catalogue import Catalogue
from triptych.foundation.errors import TriptychError
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.recipes import resolve
from triptych.recipes.encoders import EncoderWork, Plan
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder
from triptych.recipes.side_by_side import train_new, train_side_by_side

SETTINGS = (
    *DEMO_SETTINGS,
    *ENCODER_ALONE,
    "seeds=[0,1]",
    "dataset.num_items=200",
    "dataset.shoppers.num_pages=2500",
    "pretrain.loop.steps=12",
    "pretrain.loop.checkpoint_every_s=0",
    "pretrain.loop.validate_every=6",
)


def command(out: Path, *more: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return [sys.executable, "-P", "-m", "triptych.cli", "run", "demo", "--out", str(out), *settings, *more]


def encoders(run: Path) -> dict[str, bytes]:
    folder = RunFolder.existing(run)
    names = [name for name in folder.stages() if name.startswith("encoder ")]
    return {name: folder.stage(name).file("model.safetensors").read_bytes() for name in names}


def test_two_at_a_time_and_killed_gives_the_weights_of_one_after_the_other(tmp_path: Path):
    # One thread per process either way: another number of threads adds in another order.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resolved = resolve("demo", settings=SETTINGS)
        run_pipeline(resolved.config, base=resolved.base, out=tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    two = command(tmp_path / "two", "--jobs", "2")
    process = subprocess.Popen(two, stderr=subprocess.DEVNULL, env=one_thread)
    while not list((tmp_path / "two" / "encoder").glob("*.partial/resume/*")):
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # At once: a child that outlived its parent would still hold the locks.
    done = subprocess.run(two, check=True, capture_output=True, text=True, env=one_thread)
    assert "training 4 encoders" in done.stderr
    assert len(encoders(tmp_path / "one")) == 4
    assert encoders(tmp_path / "one") == encoders(tmp_path / "two")


def work(demo_run: Path, out: Path, *settings: str, seed: int = 0) -> EncoderWork:
    stage = RunFolder.existing(demo_run).stage
    catalogue = stage("catalogue")
    photo_px = Catalogue.open(catalogue).photos.px
    config = ContrastiveConfig.parse({"encoder": {"photo_px": photo_px}, "loop": {"warmup_steps": 0}})
    return EncoderWork(
        plan=Plan("title", config.override(*settings)),
        seed=seed,
        catalogue=catalogue,
        split=stage("split"),
        tokenizer=stage("tokenizer"),
        out=out,
    )


def test_the_last_one_left_has_its_share_of_the_cores_too(demo_run: Path, tmp_path: Path):
    """Or a run that was interrupted would end with other weights than one that was not."""
    last = work(demo_run, tmp_path, "loop.steps=2", "batch_items=8")
    assert train_new([last], jobs=2) == {"title seed 0"}
    assert last.find() is not None


def test_a_failure_is_told_and_the_others_are_stopped(demo_run: Path, tmp_path: Path):
    works = [
        work(demo_run, tmp_path, "loop.steps=10000"),
        work(demo_run, tmp_path, "loop.steps=10000", "loop.learning_rate=1e30", seed=1),
    ]
    with pytest.raises(TriptychError, match="learning_rate"):
        train_side_by_side(works, jobs=2)
    assert not any(tmp_path.glob("*/artifact.json"))
