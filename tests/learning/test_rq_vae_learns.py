"""RQ-VAE, trained by the project's loop: it learns what a linear code cannot, resumes, and is frozen as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, ConfigError, DataError
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.fit import run
from triptych.semantic_ids.quantizers.rq_vae import RqVaeConfig
from triptych.semantic_ids.stored import SemanticIds

SMALL = RqVaeConfig(levels=2, codes=8, hidden=(32,), latent_dim=6)


def curved(num=1500) -> np.ndarray:
    """Vectors on a curved sheet in 16 dimensions, with a mean of their own."""
    rng = np.random.default_rng(0)
    sheet = rng.uniform(-2, 2, (num, 2))
    return (3 + 0.1 * np.sin(sheet @ rng.standard_normal((2, 16)))).astype(np.float32)


def config(steps, **quantizer) -> SemanticIdsConfig:
    loop = {"steps": steps, "warmup_steps": 10, "learning_rate": 3e-3, "validate_every": 50, "device": "cpu"}
    tree = {
        "quantizer": {**SMALL.dump(), **quantizer},
        "training": {"loop": loop, "batch_vectors": 256, "validation_vectors": 500},
    }
    return SemanticIdsConfig.parse(tree)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "vectors.npy"
    np.save(path, curved())
    return path


def made(config, file, out) -> Artifact:
    return run(config, embeddings=file, out=out)


@pytest.mark.parametrize("quantizer", [{}, {"update": "ema"}, {"gradient_path": "rotation"}], ids=str)
def test_training_brings_the_vectors_nearer(quantizer, file, tmp_path):
    start = config(1, **quantizer)
    before = SemanticIds.open(made(start, file, tmp_path)).quality
    after = SemanticIds.open(made(config(200, **quantizer), file, tmp_path)).quality
    assert after.mse < 0.5 * before.mse
    assert after.mse < 0.5 * np.var(curved() - curved().mean(axis=0))
    assert after.levels[1].mse < after.levels[0].mse
    assert after.levels[0].utilisation_rate > 0.7


def test_the_stored_quantiser_is_the_trained_one(file, tmp_path):
    artifact = made(config(20), file, tmp_path)
    ids = SemanticIds.open(artifact)
    np.testing.assert_array_equal(ids.assign(curved()), ids.codes)
    parts = [ids.assign(curved()[start : start + 7]) for start in range(0, 70, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), ids.codes[:70])
    assert artifact.summary["training"]["steps"] == 20
    again = SemanticIds.open(made(config(20), file, tmp_path / "again"))
    np.testing.assert_array_equal(again.codes, ids.codes)
    (artifact.path / "quantizer.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtifactError, match="cannot be read"):
        SemanticIds.open(artifact)


def test_the_second_level_alone_teaches_the_encoder():
    training = SMALL.start(curved())
    found = training.module.quantizer(training.module.encoder(training.module.scaled(torch.from_numpy(curved()[:64]))))
    found.commitment[1].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in training.module.encoder.parameters())


def test_vectors_that_cannot_be_learned_from():
    with pytest.raises(DataError, match="all 20 vectors are the same"):
        SMALL.start(np.full((20, 3), 0.1, np.float32))
    with pytest.raises(ConfigError, match="codes is 8, and there are 5 vectors"):
        SMALL.start(curved(5))
    with pytest.raises(ConfigError, match="ema_decay has no effect"):
        RqVaeConfig.parse({"ema_decay": 0.9})
