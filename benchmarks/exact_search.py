"""Exact search: ours against faiss's flat index and against the machine's bare float32 matrix product, in one run.

    python benchmarks/exact_search.py [--items 1000000] [--dim 128] [--k 100] [--batches 1,16,64,256,1000] [--out FILE]
    python benchmarks/exact_search.py --kept 0.99999,0.9,0.7,0.5,0.3,0.1     only: what filters and removals cost

For every batch size, in turn and several times over, the best round of each being kept (other work on the machine only
ever takes time):

- ours: `ExactIndex.search` on memory-mapped float16 vectors, in the arithmetic it chooses, and in float32. The vectors
  are turned into what is multiplied inside the timed part.
- faiss: `IndexFlatIP` on float32 vectors in memory, with its own settings, and with the threshold above which it
  multiplies matrices lowered to 20 (its default reaches that path only from about 1000 queries on).
- matmul: the products alone, float32, no top-k: torch 'highest', torch 'medium', numpy, in several block shapes each,
  and faiss with k = 1 (its matrix product with next to nothing after it).

`ours_over_best_matmul` is the share of the fastest of these products that the whole search reaches; above 1 it is
because ours multiplies in bfloat16 where the processor can, and computes true scores for what is left. Vectors: a
mixture of 5000 clusters, half of the items in few of them; queries: items with noise.

With `--kept`, ours alone, where a share of the rows is kept that is drawn at random: the kept rows gathered, all rows
multiplied and the others masked, and as it chooses (`top_k.WHOLE_FROM_RATE`). This is CPU time, so that other work on
the machine blurs it less.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from machine import machine

from triptych.index import top_k
from triptych.index.backends.exact import ExactConfig, ExactIndex
from triptych.index.top_k import Arithmetic, has_fast_bfloat16

FAISS_THRESHOLD = 20
BLOCK_ROWS = (8192, 32_768)


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact search against faiss flat and the bare matrix product.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--batches", default="1,16,64,256,1000", help="queries per search, separated by commas")
    parser.add_argument("--kept", help="shares of the rows that are kept, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the best of each is kept")
    parser.add_argument("--threads", type=int, default=None, help="threads of every library; default: theirs")
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        faiss.omp_set_num_threads(arguments.threads)
    about = machine()
    batches = [int(batch) for batch in arguments.batches.split(",")]
    sizes = {"items": arguments.items, "dim": arguments.dim, "k": arguments.k, "rounds": arguments.rounds}
    if arguments.kept:
        rates = [float(rate) for rate in arguments.kept.split(",")]
        result = {"settings": sizes, "kept": measure_kept(**sizes, batches=batches, rates=rates)}
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(**sizes, batches=batches, folder=Path(folder))
    text = json.dumps({"benchmark": "exact_search", **result, "machine": about}, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def measure(*, items: int, dim: int, k: int, batches: list[int], rounds: int, folder: Path) -> dict[str, Any]:
    """Time every way at every batch size."""
    rng = np.random.default_rng(0)
    vectors = draw_vectors(items, dim, rng=rng)
    queries = vectors[rng.integers(0, items, max(batches))].astype(np.float32)
    queries = unit(queries + 0.05 * rng.standard_normal(queries.shape, dtype=np.float32))
    ExactIndex.build(vectors).save(folder)
    del vectors
    ours = ExactIndex.load(folder)
    with multiprocessing.get_context("spawn").Pool(1) as fresh:  # a process whose peak memory is that of the search
        working_mib = fresh.apply(peak_of_search, (folder, queries, k))
    float32 = np.array(np.load(folder / "vectors.npy", mmap_mode="r"), dtype=np.float32)
    flat = faiss.IndexFlatIP(dim)
    flat.add(float32)
    return {
        "settings": {
            "items": items,
            "dim": dim,
            "k": k,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "bfloat16_in_hardware": has_fast_bfloat16(),
            "index_bytes_per_item": round(ours.memory_bytes / items, 1),
            "peak_memory_of_search_mib": round(working_mib, 1),
        },
        "batches": [measure_batch(ours, flat, float32, queries[:batch], k=k, rounds=rounds) for batch in batches],
    }


def measure_kept(
    *, items: int, dim: int, k: int, rounds: int, batches: list[int], rates: list[float]
) -> list[dict[str, Any]]:
    """Time ours under filters, by both ways and by the one it chooses, and compare the answers."""
    rng = np.random.default_rng(0)
    vectors = draw_vectors(items, dim, rng=rng)
    every = unit(vectors[rng.integers(0, items, max(batches))].astype(np.float32))
    index = ExactIndex.build(vectors)
    ways = {"gathered": 2.0, "masked": 0.0, "chosen": top_k.WHOLE_FROM_RATE}
    found = []
    for queries in (every[:batch] for batch in batches):
        no_filter, by_rate = float("inf"), []
        for rate in rates:
            keep = np.ones(items, np.bool_)
            keep[rng.choice(items, max(1, round((1 - rate) * items)), replace=False)] = False
            seconds, answers = dict.fromkeys(ways, float("inf")), {}
            for _ in range(rounds):
                for name, top_k.WHOLE_FROM_RATE in ways.items():
                    started = time.process_time()
                    answers[name] = index.search(queries, k=k, keep=keep)
                    seconds[name] = min(seconds[name], time.process_time() - started)
                started = time.process_time()
                index.search(queries, k=k)
                no_filter = min(no_filter, time.process_time() - started)
            same = all(np.array_equal(a, b) for a, b in zip(answers["gathered"], answers["masked"], strict=True))
            cpu_ms = {name: round(value * 1e3, 2) for name, value in seconds.items()}
            by_rate.append({"kept": rate, "cpu_ms": cpu_ms, "same_hits": same})
        found.append({"queries": len(queries), "no_filter_cpu_ms": round(no_filter * 1e3, 2), "rates": by_rate})
    return found


def measure_batch(
    ours: ExactIndex, flat: Any, vectors: np.ndarray, queries: np.ndarray, *, k: int, rounds: int
) -> dict[str, Any]:
    """Time every way for one batch, in turn, and compare the answers."""
    in_float32 = ours.copy()
    in_float32._config = ExactConfig(arithmetic=Arithmetic.FLOAT32)  # the stored index is the same
    search: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours.search(queries, k=k),
        "ours_float32": lambda: in_float32.search(queries, k=k),
        "faiss_default": lambda: flat.search(queries, k),
        f"faiss_threshold_{FAISS_THRESHOLD}": lambda: faiss_with_threshold(flat, queries, k),
    }
    matmul: dict[str, Callable[[], Any]] = {"faiss_k1": lambda: faiss_with_threshold(flat, queries, 1)}
    for rows in BLOCK_ROWS:
        matmul[f"numpy_{rows}"] = numpy_products(vectors, queries, rows)
        for precision in ("highest", "medium"):
            matmul[f"torch_{precision}_{rows}"] = torch_products(vectors, queries, rows, precision)
            matmul[f"torch_{precision}_items_first_{rows}"] = torch_products(vectors, queries, rows, precision, True)
    seconds = dict.fromkeys([*search, *matmul], float("inf"))
    for _ in range(rounds):
        for name, function in {**search, **matmul}.items():
            started = time.perf_counter()
            function()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    products = {name: seconds[name] for name in matmul}
    best = min(products, key=lambda name: products[name])
    hits, (theirs, their_rows) = ours.search(queries, k=k), faiss_with_threshold(flat, queries, k)
    return {
        "queries": len(queries),
        "ms": {name: round(value * 1e3, 2) for name, value in seconds.items()},
        "queries_per_s": {name: round(len(queries) / seconds[name], 1) for name in search},
        "best_matmul": best,
        "best_matmul_gflops": round(2 * len(queries) * vectors.size / products[best] / 1e9, 1),
        "ours_over_best_matmul": round(products[best] / seconds["ours"], 3),
        "ours_float32_over_best_matmul": round(products[best] / seconds["ours_float32"], 3),
        "ours_over_best_faiss": round(
            min(seconds["faiss_default"], seconds[f"faiss_threshold_{FAISS_THRESHOLD}"]) / seconds["ours"], 3
        ),
        "same_rows_as_faiss": round(float((hits.item_rows == their_rows).mean()), 5),
        "largest_score_difference": float(np.abs(hits.scores - theirs).max()),
    }


def faiss_with_threshold(flat: Any, queries: np.ndarray, k: int) -> Any:
    """Search with faiss's matrix product from a few queries on; its global setting is put back."""
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = FAISS_THRESHOLD
    try:
        return flat.search(queries, k)
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def torch_products(
    vectors: np.ndarray, queries: np.ndarray, rows: int, precision: str, items_first: bool = False
) -> Callable[[], None]:
    """Make a function that multiplies all items with the queries in blocks, into memory that is used again."""
    items, asked = torch.from_numpy(vectors), torch.from_numpy(queries)
    shape = (rows, len(queries)) if items_first else (len(queries), rows)
    out = torch.empty(shape)

    def run() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            for start in range(0, len(items), rows):
                block = items[start : start + rows]
                if items_first:
                    torch.mm(block, asked.T, out=out[: len(block)])
                elif len(block) == rows:
                    torch.mm(asked, block.T, out=out)
                else:
                    torch.mm(asked, block.T)
        finally:
            torch.set_float32_matmul_precision(before)

    return run


def numpy_products(vectors: np.ndarray, queries: np.ndarray, rows: int) -> Callable[[], None]:
    """Make a function that does the same in numpy."""
    out = np.empty((len(queries), rows), np.float32)

    def run() -> None:
        for start in range(0, len(vectors), rows):
            block = vectors[start : start + rows]
            if len(block) == rows:
                np.matmul(queries, block.T, out=out)
            else:
                np.matmul(queries, block.T)

    return run


def draw_vectors(items: int, dim: int, *, rng: np.random.Generator) -> np.ndarray:
    """Draw float16 unit vectors around cluster centres, half of them around centres drawn by Zipf's law."""
    centres = rng.standard_normal((5000, dim), dtype=np.float32)
    zipf = 1 / np.arange(1, 5001)
    chosen = np.where(
        rng.random(items) < 0.5, rng.choice(5000, items, p=zipf / zipf.sum()), rng.integers(0, 5000, items)
    )
    out = np.empty((items, dim), np.float16)
    for start in range(0, items, 65_536):
        part = chosen[start : start + 65_536]
        out[start : start + len(part)] = unit(centres[part] + 0.5 * rng.standard_normal((len(part), dim), np.float32))
    return out


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def peak_of_search(folder: Path, queries: np.ndarray, k: int) -> float:
    """Search once and return by how many MiB the process grew at its peak, the mapped vectors left out."""
    index = ExactIndex.load(folder)
    index.search(queries[:1], k=1, keep=np.arange(index.num_rows) < 64)  # what only the first search of all needs
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    index.search(queries, k=k)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return after - before - index.memory_bytes / 2**20


if __name__ == "__main__":
    main()
