"""Residual k-means: fitting and assigning, beside faiss's ResidualQuantizer and vector-quantize-pytorch.

    python benchmarks/semantic_ids.py [--items 1000000] [--dim 768] [--vectors FILE.npy] [--out FILE]
    python benchmarks/semantic_ids.py --smoke          the same in a few seconds, whose figures mean nothing

Two tables. *assign*: every library assigns the same vectors with the same codebooks, ours; how many vectors get the
same codes is said beside the rate. *fit*: every library learns codebooks from the same sample; the error over all
vectors, by our assignment, is said beside the time, since a rate without its error says nothing. faiss searches
greedily (``max_beam_size = 1``), as ours does. vector-quantize-pytorch fits while it trains, so it is in the first
table only. A library that is not installed is left out and named.

Peak memory is the largest growth of the process's resident memory during a measurement, read every 10 ms; the vectors
lie in a memory-mapped file, whose pages count as soon as they are read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from machine import machine

from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.kmeans import Assignment
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeansConfig
from triptych.semantic_ids.vectors import sample_rows, take

BLOCK = 65_536
ERROR_ROWS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Residual k-means beside faiss and vector-quantize-pytorch.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768, help="of the planted vectors")
    parser.add_argument("--vectors", type=Path, help="vectors of a trained model, .npy [n, dim]; all of them are used")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--bits", type=int, default=8, help="codes of each level: 2 to this power")
    parser.add_argument("--balanced", action="store_true", help="fit with balanced clusters as well")
    parser.add_argument("--threads", type=int, default=1, help="of every library; set OMP_NUM_THREADS to the same")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it all still run?")
    parser.add_argument("--out", type=Path, help="also write the result here")
    options = parser.parse_args()
    if options.smoke:
        options.items, options.dim, options.bits, options.balanced = 2000, 16, 4, True
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        path = options.vectors or planted(Path(folder) / "vectors.npy", items=options.items, dim=options.dim)
        vectors = np.load(path, mmap_mode="r")
        config = ResidualKmeansConfig(levels=options.levels, codes=2**options.bits)
        fits, quantizer = measure_fits(vectors, config=config, balanced=options.balanced)
        result = {
            "benchmark": "semantic_ids",
            "settings": {
                **{name: getattr(options, name) for name in ("levels", "bits", "threads", "smoke")},
                "items": len(vectors),
                "dim": vectors.shape[1],
                "vectors": "given" if options.vectors else "planted",
            },
            "fit": fits,
            "assign": list(measure_assignments(vectors, quantizer=quantizer, bits=options.bits)),
            "machine": about,
        }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def planted(path: Path, *, items: int, dim: int) -> Path:
    """Write float16 unit vectors around centres that themselves lie around fewer centres."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((200, dim), dtype=np.float32)
    fine = coarse[rng.integers(0, 200, 5000)] + 0.6 * rng.standard_normal((5000, dim), dtype=np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(items, dim))
    for start in range(0, items, BLOCK):
        size = min(BLOCK, items - start)
        block = fine[rng.integers(0, 5000, size)] + 0.4 * rng.standard_normal((size, dim), dtype=np.float32)
        out[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    out.flush()
    return path


def measure_fits(
    vectors: np.ndarray, *, config: ResidualKmeansConfig, balanced: bool
) -> tuple[list[dict[str, Any]], Quantizer]:
    """Learn codebooks from one sample by each library; also returns ours, plain."""
    rows = sample_rows(len(vectors), size=config.sample_per_code * config.codes, rng=np.random.default_rng(config.seed))
    checked = take(vectors, sample_rows(len(vectors), size=ERROR_ROWS, rng=np.random.default_rng(1)))
    found = []

    def add(library: str, fit: Callable[[], Quantizer]) -> Quantizer:
        with measured() as figures:
            quantizer = fit()
        error = float(np.square(checked - quantizer.reconstruct(quantizer.assign(checked))).mean())
        rate = round(len(rows) / figures["seconds"], 1)
        found.append({"library": library, "sample": len(rows), "mse": error, "vectors_per_s": rate, **figures})
        return quantizer

    ours = add("triptych", lambda: config.fit(vectors))
    if balanced:
        add("triptych, balanced", lambda: config.model_copy(update={"assignment": Assignment.BALANCED}).fit(vectors))
    add("faiss.ResidualQuantizer", lambda: type(ours)(faiss_codebooks(take(vectors, rows), config=config)))
    return found, ours


def faiss_codebooks(sample: np.ndarray, *, config: ResidualKmeansConfig) -> np.ndarray:
    """Learn codebooks ``[levels, codes, dim]`` by faiss, with as many iterations as ours."""
    quantizer = faiss.ResidualQuantizer(sample.shape[1], config.levels, config.codes.bit_length() - 1)
    quantizer.max_beam_size = 1
    quantizer.cp.niter = config.iterations
    quantizer.train(sample)
    return faiss.vector_to_array(quantizer.codebooks).reshape(config.levels, config.codes, sample.shape[1])


def measure_assignments(vectors: np.ndarray, *, quantizer: Quantizer, bits: int) -> Iterator[dict[str, Any]]:
    """Assign all vectors with the same codebooks by each library."""
    with measured() as figures:
        codes = quantizer.assign(vectors)
    yield {"library": "triptych", "vectors_per_s": round(len(vectors) / figures["seconds"], 1), **figures}
    for library, make in (("faiss.ResidualQuantizer", faiss_assigner), ("vector-quantize-pytorch", torch_assigner)):
        assign = make(quantizer, bits)
        if assign is None:
            yield {"library": library, "note": "not installed"}
            continue
        same = 0
        with measured() as figures:
            for start in range(0, len(vectors), BLOCK):
                found = assign(np.array(vectors[start : start + BLOCK], dtype=np.float32))
                same += int((found == codes[start : start + BLOCK]).all(axis=1).sum())
        rate = round(len(vectors) / figures["seconds"], 1)
        yield {"library": library, "vectors_per_s": rate, "same_codes_rate": round(same / len(vectors), 5), **figures}


def faiss_assigner(quantizer: Quantizer, bits: int) -> Callable[[np.ndarray], np.ndarray]:
    theirs = faiss.ResidualQuantizer(quantizer.dim, quantizer.levels, bits)
    theirs.max_beam_size = 1
    faiss.copy_array_to_vector(quantizer.codebooks.ravel(), theirs.codebooks)
    theirs.is_trained = True

    def assign(vectors: np.ndarray) -> np.ndarray:
        packed = np.unpackbits(theirs.compute_codes(vectors), axis=1, bitorder="little")
        return packed[:, : quantizer.levels * bits].reshape(-1, quantizer.levels, bits) @ (1 << np.arange(bits))

    return assign


def torch_assigner(quantizer: Quantizer, bits: int) -> Callable[[np.ndarray], np.ndarray] | None:
    del bits
    try:
        from vector_quantize_pytorch import ResidualVQ
    except ImportError:
        return None
    theirs = ResidualVQ(
        dim=quantizer.dim, num_quantizers=quantizer.levels, codebook_size=quantizer.num_codes, kmeans_init=False
    ).eval()
    for layer, codebook in zip(theirs.layers, quantizer.codebooks, strict=True):
        layer._codebook.embed.data.copy_(torch.from_numpy(codebook)[None])

    @torch.no_grad()
    def assign(vectors: np.ndarray) -> np.ndarray:
        return theirs(torch.from_numpy(vectors)[None])[1][0].numpy()

    return assign


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Yield a table that holds, afterwards, the seconds taken and the MiB by which resident memory grew at most."""
    figures: dict[str, float] = {}
    before, peak, done = resident_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident_mib())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    yield figures
    figures["seconds"] = round(max(time.perf_counter() - started, 1e-6), 6)
    done.set()
    watcher.join()
    figures["peak_growth_mib"] = round(max(peak[0], resident_mib()) - before, 1)


def resident_mib() -> float:
    """Return the resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
