"""One suite for every registered quantiser: what `triptych.semantic_ids.base.Quantizer` promises.

A trained kind is taken as it starts, before any training: what is promised does not depend on it.
"""

from __future__ import annotations

import numpy as np
import pytest

from triptych.foundation.errors import ArtifactError, ConfigError, DataError
from triptych.foundation.registry import config_class, kinds
from triptych.semantic_ids.base import QUANTIZERS, ClosedFormConfig, open_quantizer

SETTINGS = {"rq_vae": {"hidden": [16], "latent_dim": 5}}
"""Kind → what it needs to be small."""


@pytest.fixture(params=kinds(QUANTIZERS), scope="module")
def config(request):
    settings = {"kind": request.param, "levels": 3, "codes": 8, **SETTINGS.get(request.param, {})}
    return config_class(QUANTIZERS, request.param).parse(settings)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((12, 6))[rng.integers(0, 12, 300)] + 0.3 * rng.standard_normal((300, 6))).astype(
        np.float16
    )


def fitted(config, vectors, *, rows=None):
    if isinstance(config, ClosedFormConfig):
        return config.fit(vectors, rows=rows)
    return config.start(vectors, rows=rows).frozen()


@pytest.fixture(scope="module")
def quantizer(config, vectors):
    return fitted(config, vectors)


def test_shapes_and_types(quantizer, vectors):
    codes = quantizer.assign(vectors)
    assert (codes.dtype, codes.shape) == (np.uint16, (300, 3))
    assert codes.max() < quantizer.num_codes == 8
    rebuilt = quantizer.reconstruct(codes)
    assert (rebuilt.dtype, rebuilt.shape) == (np.float32, (300, 6))
    assert (quantizer.levels, quantizer.dim) == (3, 6)
    assert quantizer.codebooks.shape[:2] == (3, 8)


def test_the_same_from_the_same_seed(config, quantizer, vectors):
    np.testing.assert_array_equal(fitted(config, vectors).assign(vectors), quantizer.assign(vectors))


def test_other_rows_than_those_to_learn_from_have_no_share(config, vectors):
    rows = np.flatnonzero(np.arange(300) % 3 > 0)
    found, alone = fitted(config, vectors, rows=rows), fitted(config, vectors[rows])
    np.testing.assert_array_equal(found.codebooks, alone.codebooks)
    np.testing.assert_array_equal(found.assign(vectors), alone.assign(vectors))
    with pytest.raises(ConfigError, match="codes is 8, and there are 7 vectors"):
        fitted(config, vectors, rows=rows[:7])


def test_saved_and_opened(config, quantizer, vectors, tmp_path):
    quantizer.save(tmp_path)
    opened = open_quantizer(config.dump(), tmp_path)
    codes = quantizer.assign(vectors)
    np.testing.assert_array_equal(opened.assign(vectors), codes)
    np.testing.assert_array_equal(opened.reconstruct(codes), quantizer.reconstruct(codes))


def test_nothing_or_rubbish_to_open(config, tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_quantizer(config.dump(), tmp_path)
    (tmp_path / "quantizer.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_quantizer(config.dump(), tmp_path)


def test_codes_go_by_the_vector_alone(quantizer, vectors):
    whole = quantizer.assign(vectors)
    for size in (1, 7):
        parts = [quantizer.assign(vectors[start : start + size]) for start in range(0, 70, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[:70])
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_array_equal(quantizer.assign(vectors[order]), whole[order])


def test_residuals_add_up(quantizer, vectors):
    latents = quantizer.encode(vectors.astype(np.float32))
    codes = quantizer.assign(vectors)
    for level in range(3):
        distances = np.square(latents[:, None].astype(np.float64) - quantizer.codebooks[level]).sum(axis=2)
        chosen = distances[np.arange(300), codes[:, level]]
        np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-5, atol=1e-9)
        latents = latents - quantizer.codebooks[level][codes[:, level]]


def test_no_vectors(quantizer):
    assert quantizer.assign(np.empty((0, 6), np.float32)).shape == (0, 3)
    assert quantizer.reconstruct(np.empty((0, 3), np.uint16)).shape == (0, 6)


def test_too_few_vectors_and_broken_ones(config, quantizer, vectors):
    with pytest.raises(ConfigError, match="codes is 8, and there are 7 vectors"):
        fitted(config, vectors[:7])
    broken = vectors.copy()
    broken[4, 1] = np.inf
    for call in (quantizer.assign, lambda given: fitted(config, given)):
        with pytest.raises(DataError, match="vector 4 holds NaN, infinity"):
            call(broken)
    with pytest.raises(DataError, match="the quantiser was fitted on 6"):
        quantizer.assign(vectors[:, :5])
