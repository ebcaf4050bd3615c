"""What is expected of a ranker's training before it begins: it changes nothing, and is near what happens."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_ranking import Log, planted_log, planted_photo_log
from tiny_encoders import tiny_encoder

from triptych.encoders.inputs import View
from triptych.losses.base import LossOutput
from triptych.ranker import estimate as estimates
from triptych.ranker import train
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.estimate import Estimate, estimate
from triptych.ranker.own_encoder import EncoderStart
from triptych.ranker.task import Given, RankBatch, RankTask
from triptych.training.loop import FitResult, LoopConfig, fit

QUICK: dict[str, Any] = {
    "model": {"kind": "din", "dim": 8, "hidden_dims": [32, 16], "dropout_rate": 0.2},
    "device": "cpu",
    "precision": "fp32",
    "batch_samples": 128,
    "epochs": 2,
    "validations": 2,
    "grouped_by": "request",
}
EM3 = {"kind": "em3", "dim": 8, "heads": 2}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return planted_log(tmp_path_factory.mktemp("ranking"))


def config_of(**settings: Any) -> RankTrainConfig:
    return RankTrainConfig.parse({**QUICK, **settings})


def modalities() -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)}


@pytest.fixture(params=["none", "cache", "end to end"])
def setting(request: pytest.FixtureRequest, log: Log, tmp_path: Path) -> tuple[RankTrainConfig, Given]:
    """With dropout, and with what a pass writes down: kept behaviours, a contrast that warms up."""
    if request.param == "none":
        return config_of(negative_rate=0.5), Given(*log, seed=0)
    if request.param == "cache":
        content = {**EM3, "train_behaviours": "lora_cache", "contrast_warmup_steps": 5}
        return config_of(content=content), Given(*log, seed=0, modalities=modalities())
    photos = planted_photo_log(tmp_path / "log", users=60)
    encoder = EncoderStart(tiny_encoder(tmp_path / "encoder", vector_dim=4), [View.PHOTO, View.ITEM])
    return config_of(content={**EM3, "train": "full"}, epochs=6), Given(*photos, seed=0, encoder=encoder)


class Interrupted(RankTask):
    """Ends in the middle of a training, once it is told to."""

    left = -1

    def losses(self, batch: RankBatch) -> LossOutput:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().losses(batch)


def loop_of(config: RankTrainConfig, task: RankTask) -> LoopConfig:
    return config.loop(batches_per_epoch=task.batches_per_epoch)


def test_a_training_ends_with_the_same_weights_whether_or_not_it_was_estimated(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(estimates, "SHORT_S", 0.0)
    config, given = setting
    plain = RankTask(config, given)
    loop = loop_of(config, plain)
    assert loop.steps >= 5
    fit(plain, config=loop, out=tmp_path / "plain", seed=0)
    for out, left in (("whole", -1), ("resumed", 4)):
        if left > 0:
            stopped = Interrupted(config, given)
            assert estimate(stopped, config=loop, seed=0) is not None
            stopped.left = left
            with pytest.raises(KeyboardInterrupt):
                fit(stopped, config=loop.merged({"checkpoint_every_s": 0}), out=tmp_path / out, seed=0)
        task = RankTask(config, given)
        before = torch.get_rng_state()
        assert estimate(task, config=loop, seed=0) is not None
        assert torch.equal(torch.get_rng_state(), before)
        fit(task, config=loop, out=tmp_path / out, seed=0)
        for (name, expected), found in zip(
            plain.module.state_dict().items(), task.module.state_dict().values(), strict=True
        ):
            assert torch.equal(found, expected), name


def test_it_stands_beside_what_happens(log, tmp_path, monkeypatch, caplog):
    """How near the times are depends on who else uses the machine, and is for no test to say."""
    monkeypatch.setattr(estimates, "SHORT_S", 0.0)
    caplog.set_level(logging.INFO, logger="triptych")
    given = Given(*log, seed=0, modalities=modalities())
    config = config_of(content=EM3, epochs=2)
    artifact = train.run(config, given, inputs={}, out=tmp_path)
    expected, happened = artifact.summary["estimate"], artifact.summary
    assert {"seconds", "samples_per_s", "peak_memory_bytes"} <= set(FitResult._fields) & set(expected)
    assert expected["steps"] == happened["steps"]
    assert expected["peak_memory_bytes"] / happened["peak_memory_bytes"] == pytest.approx(1, abs=0.3)
    task = RankTask(config, given)
    items = [len(task.batch(index).candidates.items.item_rows) for index in range(task.batches_per_epoch)]
    assert expected["items_per_batch"] == pytest.approx(np.mean(items), rel=0.2)
    assert 0 < expected["content_rate"] < 1
    assert "distinct items a batch, whose content takes" in caplog.text


def test_of_a_short_training_nothing_is_said(log, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="triptych")
    artifact = train.run(config_of(), Given(*log, seed=0), inputs={}, out=tmp_path)
    assert "estimate" not in artifact.summary and "memory" not in caplog.text


def test_memory_is_that_of_weights_their_state_and_what_a_pass_keeps(log, monkeypatch):
    monkeypatch.setattr(estimates, "SHORT_S", 0.0)

    def of(**settings: Any) -> tuple[Estimate, RankTask]:
        config = config_of(content=EM3, **settings)
        task = RankTask(config, Given(*log, seed=0, modalities=modalities()))
        found = estimate(task, config=loop_of(config, task), seed=0)
        assert found is not None
        return found, task

    found, task = of()
    parameters = dict(task.module.named_parameters())
    tables = [name for name in parameters if name.startswith("features.") and ("_fields." in name or "_lists." in name)]
    dense = sum(one.numel() for name, one in parameters.items() if name not in tables and one.requires_grad)
    assert found.optimizer_bytes == 3 * 4 * dense
    buffers = sum(one.numel() * one.element_size() for one in task.module.buffers())
    assert found.model_bytes == buffers + sum(4 * one.numel() for one in parameters.values())
    assert of(batch_samples=32)[0].activation_bytes < 0.5 * found.activation_bytes
    frozen = config_of(content={"kind": "frozen"})
    task = RankTask(frozen, Given(*log, seed=0, modalities=modalities()))
    less = estimate(task, config=loop_of(frozen, task), seed=0)
    assert less is not None and less.activation_bytes < found.activation_bytes


def test_it_is_said_in_a_line():
    told = str(Estimate(7200, 3600.0, 2048.4, 3 * 2**30, 2**30, 2**29, 2**28, 1234.5, 0.42))
    assert told == (
        "2,048 samples/s, 7,200 steps in 1.0 hours without validations; memory at most 3.0 GiB (model 1.0 GiB, "
        "gradients and optimiser 512 MiB, activations 256 MiB); 1,234 distinct items a batch, whose content takes "
        "42% of the time"
    )
