"""Approximate indexes: ours beside hnswlib, usearch and ScaNN, on vectors that lie as a trained model's do.

    python benchmarks/index.py [--items 1000000] [--vectors runs/shop/embeddings/<id>/vectors.npy] [--out FILE]
    python benchmarks/index.py --smoke          the same in a few seconds, whose figures mean nothing
    python benchmarks/index.py --draw FILE      judge and draw a result again

Vectors: those given, spread to as many as wanted. A new vector lies between a given one and one of its ten nearest
neighbours, at a random place on the line and off it by a tenth of its length, so that dense and empty regions stay
where the model has put them (the interpolation of SMOTE, Chawla et al., 2002). Without a file: a planted mixture, half
of it in few of its clusters. Queries are drawn in the same way and are not in the index.

Ours is `triptych.index.sweep`: the grid of each kind, its defaults first, each setting against exact search, with
filters at random. The others are built once each and searched with more and more effort, by the threads ours have
(``--threads``); one that is not installed is left out and named. Their size is that of their saved file, ours that of
vectors and structure. None of them is asked through a filter.

The verdict: the front of recall, queries per second in a batch and seconds to build, over ours and theirs together, and
for each of our kinds whether its defaults are on it, or what beats them in all three. ``--picture`` draws the rate
against recall, with the seconds to build in the legend.

The others go into an environment of their own (`python -m pip install hnswlib usearch scann` beside triptych); scann
wants another numpy than ours in some versions, and hnswlib a C++ compiler.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from machine import machine

from triptych.index.backends.auto import AutoConfig
from triptych.index.backends.exact import ExactConfig
from triptych.index.sweep import Extent, sweep

NEIGHBOURS, OFF_LINE = 10, 0.1
GRAPH_ROWS = 50_000
"""Given vectors whose neighbours are looked up, at most."""
BLOCK = 65_536
EFFORTS = (100, 200, 400, 800)


class Peer(NamedTuple):
    """Another library's index, built."""

    search: Callable[[np.ndarray, int, int], np.ndarray]
    """(queries, k, effort) -> rows ``[n, k]``."""
    save: Callable[[Path], None]
    efforts: Sequence[int]


def main() -> None:
    parser = argparse.ArgumentParser(description="Approximate indexes beside hnswlib, usearch and ScaNN.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128, help="of the planted vectors")
    parser.add_argument("--vectors", type=Path, help="vectors of a trained model, .npy [n, dim]")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--kinds", default="exact,ivf,hnsw", help="ours, separated by commas")
    parser.add_argument("--peers", default="hnswlib,usearch,scann", help="others, separated by commas")
    parser.add_argument("--seconds", type=float, default=3.0, help="bound on each measurement of ours")
    parser.add_argument("--threads", type=int, default=1, help="of every library")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it all still run?")
    parser.add_argument("--quick", action="store_true", help="one build of each of our kinds")
    parser.add_argument("--out", type=Path, help="also write the result here")
    parser.add_argument("--picture", type=Path, help="draw it here (SVG)")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="a result, to be judged and drawn and not measured")
    options = parser.parse_args()
    result = json.loads(options.draw.read_text()) if options.draw else measure(options)
    result["verdict"] = judge(result)
    text = json.dumps(result, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    if options.picture:
        draw(result, options.picture)
    print(text)
    print("\n".join(result["verdict"]["lines"]))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure ours and theirs on the same vectors."""
    if options.smoke:
        options.items, options.dim, options.queries, options.seconds, options.k = 3000, 32, 50, 0.05, 10
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    about = machine()
    rng = np.random.default_rng(0)
    given = np.load(options.vectors, mmap_mode="r") if options.vectors else planted(options.dim, rng=rng)
    drawn = spread(given, options.items + options.queries, rng=rng)
    vectors, queries = drawn[: options.items], drawn[options.items :].astype(np.float32)
    extent = Extent(k=options.k, seconds=options.seconds, builds=1 if options.quick else None)
    truth = ExactConfig().build(vectors).search(queries, k=options.k).item_rows
    peers = [
        row
        for name in options.peers.split(",")
        for row in measure_peer(name, vectors, queries, truth=truth, extent=extent, threads=options.threads)
    ]
    return {
        "benchmark": "index",
        "settings": {
            **{
                name: getattr(options, name)
                for name in ("items", "k", "queries", "seconds", "threads", "quick", "smoke")
            },
            "dim": vectors.shape[1],
            "vectors": "given" if options.vectors else "planted",
        },
        "ours": [one.dump() for one in sweep(vectors, queries, kinds=options.kinds.split(","), extent=extent)],
        "peers": peers,
        "machine": about,
    }


def name_of(one: dict[str, Any]) -> str:
    """Name a setting of ours, or of theirs."""
    if "library" in one:
        return f"{one['library']} effort={one['effort']}"
    settings = [str(value) if name == "storage" else f"{name}={value}" for name, value in one["settings"].items()]
    return " ".join([one["kind"], *settings, *(["(default)"] if one["is_default"] else [])])


def judge(result: dict[str, Any]) -> dict[str, Any]:
    """Say what no other beats in recall, rate and build time together, and whether our defaults are among it."""
    every = [*result["ours"], *(one for one in result["peers"] if "recall" in one)]

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        pairs = [(one[name], other[name]) for name in ("recall", "queries_per_s")] + [
            (-one["build_s"], -other["build_s"])
        ]
        return all(mine >= its for mine, its in pairs) and any(mine > its for mine, its in pairs)

    def figures(one: dict[str, Any]) -> str:
        return f"recall {one['recall']:.4f}, {one['queries_per_s']:,.0f} queries/s, built in {one['build_s']:,.1f} s"

    served = AutoConfig().chosen(result["settings"]["items"]).kind
    defaults, lines = [], []
    for one in result["ours"]:
        if not one["is_default"]:
            continue
        beaten_by = [other for other in every if beats(other, one)]
        fastest = max((other for other in every if other["recall"] >= one["recall"]), key=lambda o: o["queries_per_s"])
        line = f"{name_of(one)}{', what auto takes here' if one['kind'] == served else ''}: {figures(one)}: "
        if beaten_by:
            worst = max(beaten_by, key=lambda other: other["queries_per_s"])
            line += f"beaten in all three by {len(beaten_by)}, first {name_of(worst)} ({figures(worst)})"
        elif fastest is one:
            line += "on the front, and nothing that finds as much is faster"
        else:
            line += f"on the front; what finds as much and is faster took longer to build: {name_of(fastest)} "
            line += f"({figures(fastest)})"
        lines.append(line)
        defaults.append(
            {
                "name": name_of(one),
                "is_served": one["kind"] == served,
                "on_front": not beaten_by,
                "beaten_by": [name_of(other) for other in beaten_by],
                "fastest_with_its_recall": name_of(fastest),
            }
        )
    absent = [one["library"] for one in result["peers"] if "recall" not in one]
    if absent:
        lines.append(f"Not installed, and so not on the front: {', '.join(absent)}.")
    front = [name_of(one) for one in every if not any(beats(other, one) for other in every)]
    return {"of": ["recall", "queries_per_s", "build_s"], "front": front, "defaults": defaults, "lines": lines}


def draw(result: dict[str, Any], place: Path) -> None:
    """Draw the rate against recall: a line for each build of ours and theirs, diamonds for our defaults."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lines: dict[str, list[dict[str, Any]]] = {}
    for one in [*result["ours"], *(one for one in result["peers"] if "recall" in one)]:
        of = one.get("library") or " ".join(
            [one["kind"]]
            + [
                str(value) if name == "storage" else f"{name}={value}"
                for name, value in one["settings"].items()
                if name not in one["searched_by"]
            ]
        )
        lines.setdefault(f"{of}, {one['build_s']:,.3g} s", []).append(one)
    colours = {"exact": "#201d1a", "ivf": "#0f766e", "hnsw": "#c2410c"}
    theirs = {"hnswlib": "#7a7a7a", "usearch": "#7d5a9c", "scann": "#2f6690"}
    seen: dict[str, int] = {}
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "index"}):
        figure = Figure(figsize=(7.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for label, own in lines.items():
            kind = own[0].get("library") or own[0]["kind"]
            dashes = ("-", "--", ":", "-.")[seen.setdefault(kind, 0) % 4]
            seen[kind] += 1
            colour = theirs.get(kind) or colours.get(kind)
            own = sorted(own, key=lambda one: (one["recall"], -one["queries_per_s"]))
            at = [100 * one["recall"] for one in own]
            rates = [one["queries_per_s"] for one in own]
            mark = "s" if kind in theirs else "o"
            axes.plot(at, rates, mark, linestyle=dashes, color=colour, markersize=3.5, linewidth=1.1, label=label)
            default = [(x, y) for x, y, one in zip(at, rates, own, strict=True) if one.get("is_default")]
            if default:
                axes.plot(*zip(*default, strict=True), "D", color=colour, markersize=9, fillstyle="none")
        axes.set_yscale("log")
        axes.set_xlabel(f"recall@{result['settings']['k']} against exact search, % (diamonds: our defaults)")
        axes.set_ylabel("queries per second, in a batch")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="and seconds to build")
        place.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(place, metadata={"Date": None})


def planted(dim: int, *, rng: np.random.Generator) -> np.ndarray:
    """Draw 20,000 unit vectors around 2,000 centres, half of them around centres drawn by Zipf's law."""
    num, num_centres = 20_000, 2000
    centres = rng.standard_normal((num_centres, dim), dtype=np.float32)
    zipf = 1 / np.arange(1, num_centres + 1)
    often = rng.choice(num_centres, num, p=zipf / zipf.sum())
    chosen = np.where(rng.random(num) < 0.5, often, rng.integers(0, num_centres, num))
    return unit(centres[chosen] + 0.6 * rng.standard_normal((num, dim), dtype=np.float32))


def spread(given: np.ndarray, num: int, *, rng: np.random.Generator) -> np.ndarray:
    """Draw float16 unit vectors ``[num, dim]`` that lie as the given ones do."""
    sample = rng.choice(len(given), min(len(given), GRAPH_ROWS), replace=False)
    known = unit(np.asarray(given[np.sort(sample)], dtype=np.float32))
    near = ExactConfig().build(known).search(known, k=NEIGHBOURS + 1).item_rows[:, 1:]
    out = np.empty((num, known.shape[1]), np.float16)
    for start in range(0, num, BLOCK):
        size = min(BLOCK, num - start)
        of = rng.integers(0, len(known), size)
        line = known[near[of, rng.integers(0, near.shape[1], size)]] - known[of]
        off = rng.standard_normal(line.shape, dtype=np.float32) / np.sqrt(line.shape[1])
        length = np.linalg.norm(line, axis=1, keepdims=True)
        place = rng.random((size, 1), dtype=np.float32)
        out[start : start + size] = unit(known[of] + place * line + OFF_LINE * length * off)
    return out


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure_peer(
    name: str, vectors: np.ndarray, queries: np.ndarray, *, truth: np.ndarray, extent: Extent, threads: int
) -> Iterator[dict[str, Any]]:
    """Build a library's index and measure it at every effort; a library that is absent gives one row that says so."""
    try:
        importlib.import_module(name)
    except ImportError:
        yield {"library": name, "note": "not installed"}
        return
    started = time.perf_counter()
    peer = BUILDERS[name](vectors.astype(np.float32), extent.k, threads)
    build_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        peer.save(Path(folder) / "index")
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    for effort in peer.efforts:
        rows = peer.search(queries, extent.k, effort)
        times: list[float] = []
        until = time.perf_counter() + extent.seconds
        for query in queries[: extent.single_queries]:
            times.append(timed(peer.search, query[None], extent.k, effort))
            if time.perf_counter() > until:
                break
        batch = min(timed(peer.search, queries, extent.k, effort) for _ in range(extent.repeats))
        shared = sum(len(np.intersect1d(mine, true)) for mine, true in zip(rows, truth, strict=True))
        yield {
            "library": name,
            "effort": effort,
            "recall": round(shared / truth.size, 4),
            "p50_ms": round(float(np.percentile(times, 50)) * 1e3, 3),
            "p99_ms": round(float(np.percentile(times, 99)) * 1e3, 3),
            "timed_queries": len(times),
            "queries_per_s": round(len(queries) / batch, 1),
            "build_s": round(build_s, 2),
            "bytes": size,
        }


def timed(search: Callable[[np.ndarray, int, int], np.ndarray], queries: np.ndarray, k: int, effort: int) -> float:
    """Return the seconds that a search takes."""
    started = time.perf_counter()
    search(queries, k, effort)
    return time.perf_counter() - started


def hnswlib_index(vectors: np.ndarray, k: int, threads: int) -> Peer:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), M=16, ef_construction=100, random_seed=0)
    index.set_num_threads(threads)
    index.add_items(vectors)

    def search(queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        index.set_ef(effort)
        return index.knn_query(queries, k)[0].astype(np.int64)

    return Peer(search, lambda path: index.save_index(str(path)), [max(effort, k) for effort in EFFORTS])


def usearch_index(vectors: np.ndarray, k: int, threads: int) -> Peer:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=16, expansion_add=100)
    index.add(np.arange(len(vectors)), vectors, threads=threads)

    def search(queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        index.expansion_search = effort
        keys = np.asarray(index.search(queries, k, threads=threads).keys)
        return keys.reshape(len(queries), -1).astype(np.int64)

    return Peer(search, lambda path: index.save(str(path)), [max(effort, k) for effort in EFFORTS])


def scann_index(vectors: np.ndarray, k: int, threads: int) -> Peer:
    from scann import scann_ops_pybind

    leaves = max(1, round(2 * np.sqrt(len(vectors))))
    builder = scann_ops_pybind.builder(vectors, k, "dot_product").set_n_training_threads(threads)
    builder = builder.tree(leaves, max(1, leaves // 20), training_sample_size=min(len(vectors), 250_000))
    index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(4 * k).build()

    def search(queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        ask = index.search_batched_parallel if threads > 1 and len(queries) > 1 else index.search_batched
        found = ask(queries, final_num_neighbors=k, leaves_to_search=effort, pre_reorder_num_neighbors=4 * k)[0]
        return np.asarray(found).astype(np.int64)

    def save(path: Path) -> None:
        path.mkdir()
        index.serialize(str(path))

    return Peer(search, save, sorted({max(1, leaves // share) for share in (40, 20, 10, 5)}))


BUILDERS = {"hnswlib": hnswlib_index, "usearch": usearch_index, "scann": scann_index}


if __name__ == "__main__":
    main()
