"""Product k-means against faiss's product quantizer."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from triptych.foundation.errors import ConfigError
from triptych.semantic_ids.quantizers.product_kmeans import ProductKmeansConfig
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeans

LEVELS, BITS, DIM = 3, 4, 12
CODES, WIDTH = 2**BITS, DIM // LEVELS


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, DIM))
    return (centres[rng.integers(0, 30, 1500)] + 0.4 * rng.standard_normal((1500, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def theirs(vectors):
    found = faiss.ProductQuantizer(DIM, LEVELS, BITS)
    found.train(vectors)
    return found


def codes_of(theirs, vectors):
    bits = np.unpackbits(theirs.compute_codes(vectors), axis=1, bitorder="little")[:, : LEVELS * BITS]
    return bits.reshape(-1, LEVELS, BITS) @ (1 << np.arange(BITS))


def test_same_codes_and_vectors_as_faiss_with_its_codebooks(vectors, theirs):
    parts = faiss.vector_to_array(theirs.centroids).reshape(LEVELS, CODES, WIDTH)
    codebooks = np.zeros((LEVELS, CODES, DIM), np.float32)
    for level in range(LEVELS):
        codebooks[level, :, level * WIDTH : (level + 1) * WIDTH] = parts[level]
    ours = ResidualKmeans(codebooks)
    codes = ours.assign(vectors)
    expected = codes_of(theirs, vectors)
    assert (codes != expected).any(axis=1).sum() <= 2  # two codes may be equally near in float32
    same = (codes == expected).all(axis=1)
    found = theirs.decode(theirs.compute_codes(vectors))
    np.testing.assert_allclose(ours.reconstruct(codes)[same], found[same], rtol=1e-6, atol=1e-6)


def test_error_is_no_worse_than_faiss_training(vectors, theirs):
    ours = ProductKmeansConfig(levels=LEVELS, codes=CODES).fit(vectors)
    error = np.square(vectors - ours.reconstruct(ours.assign(vectors))).mean()
    assert error < 1.05 * np.square(vectors - theirs.decode(theirs.compute_codes(vectors))).mean()


def test_a_part_is_said_by_its_own_code_alone(vectors):
    """Parts of 5, 4 and 4 numbers: a change in one changes that code and nothing of the others."""
    wider = np.concatenate([vectors, vectors[:, :1]], axis=1)
    ours = ProductKmeansConfig(levels=3, codes=8).fit(wider)
    changed = wider.copy()
    changed[:, 5:9] = -3 * changed[:, 5:9]
    before, after = ours.assign(wider), ours.assign(changed)
    np.testing.assert_array_equal(before[:, [0, 2]], after[:, [0, 2]])
    assert (before[:, 1] != after[:, 1]).any()


def test_more_parts_than_numbers():
    with pytest.raises(ConfigError, match="levels is 5, and vectors of 4 numbers"):
        ProductKmeansConfig(levels=5, codes=2).fit(np.eye(4, dtype=np.float32))
