"""Frozen codebooks against faiss, a loop in float64, and vector-quantize-pytorch."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from vector_quantize_pytorch import ResidualVQ

from triptych.semantic_ids.codebooks import Codebook, nearest
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeans, ResidualKmeansConfig

LEVELS, BITS, DIM = 3, 4, 12
CODES = 2**BITS


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, DIM))
    return (centres[rng.integers(0, 30, 1500)] + 0.4 * rng.standard_normal((1500, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer(vectors):
    return ResidualKmeansConfig(levels=LEVELS, codes=CODES, iterations=8).fit(vectors)


def nearest_by_loop(vector, codebook):
    distances = [float(np.square(vector.astype(np.float64) - code).sum()) for code in codebook]
    return distances.index(min(distances))


def test_same_codes_as_faiss(vectors, quantizer):
    theirs = faiss.ResidualQuantizer(DIM, LEVELS, BITS)
    theirs.max_beam_size = 1
    faiss.copy_array_to_vector(quantizer.codebooks.ravel(), theirs.codebooks)
    theirs.is_trained = True
    bits = np.unpackbits(theirs.compute_codes(vectors), axis=1, bitorder="little")[:, : LEVELS * BITS]
    expected = bits.reshape(-1, LEVELS, BITS) @ (1 << np.arange(BITS))
    found = quantizer.assign(vectors)
    differ = np.flatnonzero((found != expected).any(axis=1))
    # faiss compares in float32: it may take the other of two codes that are equally near to its precision.
    gaps = [
        np.square(vectors[row] - quantizer.reconstruct(codes[[row]])[0]).sum()
        for row in differ
        for codes in (found, expected)
    ]
    np.testing.assert_allclose(gaps[::2], gaps[1::2], rtol=1e-3)
    assert len(differ) <= 2


def test_error_is_no_worse_than_faiss_training(vectors, quantizer):
    theirs = faiss.ResidualQuantizer(DIM, LEVELS, BITS)
    theirs.max_beam_size = 1
    theirs.train(vectors)
    expected = np.square(vectors - theirs.decode(theirs.compute_codes(vectors))).mean()
    assert np.square(vectors - quantizer.reconstruct(quantizer.assign(vectors))).mean() < 1.1 * expected


def test_same_codes_as_vector_quantize_pytorch(vectors, quantizer):
    theirs = ResidualVQ(
        dim=DIM, num_quantizers=LEVELS, codebook_size=CODES, kmeans_init=False, rotation_trick=False
    ).eval()
    for layer, codebook in zip(theirs.layers, quantizer.codebooks, strict=True):
        layer._codebook.embed.data.copy_(torch.from_numpy(codebook)[None])
    with torch.no_grad():
        rebuilt, codes, _ = theirs(torch.from_numpy(vectors)[None])
    found = quantizer.assign(vectors)
    same = (codes[0].numpy() == found).all(axis=1)
    assert same.mean() > 0.998
    np.testing.assert_allclose(rebuilt[0].numpy()[same], quantizer.reconstruct(found)[same], atol=1e-5)


def test_nearest_is_the_one_of_a_float64_loop_even_where_float32_cannot_tell():
    rng = np.random.default_rng(2)
    codebook = (100 + rng.standard_normal((9, 6))).astype(np.float32)  # far from 0: inner products cancel
    codebook[5] = codebook[2]
    middles = (codebook[rng.integers(0, 9, 400)] + codebook[rng.integers(0, 9, 400)]) / 2
    vectors = np.concatenate([codebook, middles, np.nextafter(middles, np.float32(np.inf))])
    found = nearest(vectors, codebook=Codebook.of(codebook))
    assert found.tolist() == [nearest_by_loop(vector, codebook) for vector in vectors]
    assert 5 not in found


def test_codes_of_a_vector_do_not_depend_on_the_others(vectors, quantizer):
    close = (vectors[:200] + vectors[200:400]) / 2
    whole = quantizer.assign(close)
    for size in (1, 3, 64):
        parts = [quantizer.assign(close[start : start + size]) for start in range(0, len(close), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_vectors_are_the_sum_of_their_codes_and_what_is_left(vectors, quantizer):
    from triptych.semantic_ids.codebooks import assign

    codes, residuals = assign(vectors, codebooks=quantizer.prepared)
    np.testing.assert_allclose(quantizer.reconstruct(codes) + residuals, vectors, atol=1e-5)
    assert isinstance(quantizer, ResidualKmeans)
