"""What is left of a run's search when item vectors are kept as codes: residual and product codes of as many bytes.

    python benchmarks/code_compression.py runs/fashion [--result benchmarks/results/code_compression.json]

The served encoder's vectors of the items are quantised, rebuilt, and searched by its own vectors of the validation
day's queries: recall of what was chosen that day, and of each query's twenty nearest items by the whole vectors. Beside
our quantisers stand faiss's product quantizer, and the same behind a learned rotation (OPQ). Where the parts do not
divide the vector, as nine do not, zeros are put behind it: the rotation has the more room, and nothing is lost. The
test day is not read. One encoder: what codes lose of it, not what encoders differ in.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from machine import machine
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.embed import Embedder
from triptych.engine.bundle import open_bundle
from triptych.index.base import open_index
from triptych.metrics.ranking import TargetSets, match, recall_at_k
from triptych.recipes.run_folder import RunFolder
from triptych.semantic_ids.base import ClosedFormConfig
from triptych.semantic_ids.quantizers.product_kmeans import ProductKmeansConfig
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeansConfig

RESULT = Path(__file__).parent / "results" / "code_compression.json"
LEVELS = (2, 3, 4, 6, 8, 9, 16)
K = 20

Vectors = NDArray[np.float32]


class Asked(NamedTuple):
    """The validation day's queries."""

    vectors: Vectors
    targets: TargetSets


def read(run: Path) -> tuple[Vectors, Asked]:
    """Return the item vectors of a run, and its queries."""
    _, parts = open_bundle(run)
    index = open_index(parts.index)
    folder = RunFolder.existing(run)
    catalogue, split = Catalogue.open(folder.stage("catalogue")), Split.open(folder.stage("split"))
    targets = split.targets(Part.VALIDATION)
    queries = Embedder.open(parts.encoder).queries([catalogue.queries[row] for row in targets.query_row])
    items = np.asarray(index.vectors(np.arange(catalogue.num_items)), dtype=np.float32)
    return items, Asked(queries, TargetSets(targets.offsets, targets.item_rows))


def top(queries: Vectors, items: Vectors) -> NDArray[np.int64]:
    """Return the K nearest items of each query, of equal ones the lowest row."""
    found = []
    for start in range(0, len(queries), 256):
        scores = queries[start : start + 256] @ items.T
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :K])
    return np.concatenate(found)


def padded(items: Vectors, *, parts: int) -> Vectors:
    """Put zeros behind vectors until the parts divide their length."""
    return np.pad(items, ((0, 0), (0, -items.shape[1] % parts)))


def pq(items: Vectors, *, parts: int) -> Vectors:
    """Rebuild vectors from faiss's product codes."""
    wide = padded(items, parts=parts)
    quantizer = faiss.ProductQuantizer(wide.shape[1], parts, 8)
    quantizer.train(wide)
    return np.asarray(quantizer.decode(quantizer.compute_codes(wide)), dtype=np.float32)[:, : items.shape[1]]


def opq(items: Vectors, *, parts: int) -> Vectors:
    """Rebuild vectors from faiss's product codes behind a learned rotation."""
    wide = padded(items, parts=parts)
    rotation = faiss.OPQMatrix(wide.shape[1], parts)
    rotation.train(wide)
    turned = pq(rotation.apply(wide), parts=parts)
    return np.asarray(rotation.reverse_transform(turned), dtype=np.float32)[:, : items.shape[1]]


def coded(items: Vectors, *, config: ClosedFormConfig) -> Vectors:
    """Rebuild vectors from codes of ours."""
    fitted = config.fit(items)
    return fitted.reconstruct(fitted.assign(items))


def kinds() -> Iterator[tuple[str, int, Callable[[Vectors], Vectors]]]:
    """Yield name, bytes of an item and how its vector is rebuilt."""
    for levels in LEVELS:
        configs = (ResidualKmeansConfig(levels=levels), ProductKmeansConfig(levels=levels))
        for config in configs:
            yield config.kind, levels, partial(coded, config=config)
        yield "faiss PQ", levels, partial(pq, parts=levels)
        yield "faiss OPQ + PQ", levels, partial(opq, parts=levels)


def measure(items: Vectors, asked: Asked) -> list[dict[str, Any]]:
    """Search by the whole vectors, then by each kind of codes."""
    whole = top(asked.vectors, items)
    near = TargetSets(np.arange(0, whole.size + 1, K), np.sort(whole, axis=1).ravel())

    def row(name: str, num_bytes: int, rebuilt: Vectors, seconds: float) -> dict[str, Any]:
        found = top(asked.vectors, rebuilt)
        recall = recall_at_k(match(found, targets=asked.targets), k=K)
        return {
            "kind": name,
            "bytes": num_bytes,
            f"recall@{K}": float(recall.mean()),
            f"neighbours@{K}": float(recall_at_k(match(found, targets=near), k=K).mean()),
            "mse": float(np.square(items - rebuilt).mean()),
            "seconds": round(seconds, 2),
        }

    rows = [row("float16", 2 * items.shape[1], items, 0.0)]
    for name, num_bytes, rebuild in kinds():
        begun = time.perf_counter()
        rebuilt = rebuild(items)
        rows.append(row(name, num_bytes, rebuilt, time.perf_counter() - begun))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    items, asked = read(chosen.run)
    rows = measure(items, asked)
    about = {"machine": machine(), "simulated": True, "items": len(items), "queries": len(asked.vectors)}
    chosen.result.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    print(f"| {' | '.join(rows[0])} |")
    for one in rows:
        print(
            "| "
            + " | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in one.values())
            + " |"
        )


if __name__ == "__main__":
    main()
