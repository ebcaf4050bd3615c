"""Recall training on a log over a million items: ours, the loop one would write by hand, and torch-rechub's trainer.

    python benchmarks/recall.py [--theirs PYTHON] [--out benchmarks/results/recall.json]
    python benchmarks/recall.py --smoke        tiny sizes: does it all still run?

Every side trains the same model on the same pairs: a vector for each query and each item, cosine over a temperature,
the softmax over the batch's own items, Adagrad at one rate that falls along a cosine, float32. All are measured alike,
by recall@20 among all items on clicks that were held out. PYTHON is the interpreter of an environment of its own with
torch-rechub in it (`python -m pip install torch-rechub`); none: it is left out. Its optimiser is also measured as it
comes, Adam on all rows of its tables.

The demand, at equal model, batch and loss: ours takes at least twice the pairs per second of the public trainer, and
their recalls lie within 0.002, else the rates are not comparable. Both are checked and said, beside the loop by hand
too, which is held to no rate. Their optimiser as it comes has no recall to compare, as it never gets to an end.

Ours keeps one number of Adagrad's for each row, the others one for each weight; ours drops a negative that the page
chose. Then ten thousand drawn negatives a batch, ours against the loop by hand; and negatives drawn in a second.

The log is planted: each query asks for one of the topics, whose items are chosen by a Zipf law of their own. Queries
are asked alike, so that a batch seldom holds an item twice: the others take the second for a negative.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn
from torch.nn import functional

from triptych.data.events import KIND_CODES
from triptych.data.schema import EventKind
from triptych.data.splits import Part, Targets
from triptych.metrics.ranking import TargetSets, macro, match, recall_at_k
from triptych.nn.id_table import table_bytes
from triptych.nn.row_optimizer import RowOptimizer
from triptych.recall.config import RecallTrainConfig
from triptych.recall.negatives import Against, NegativeSampler
from triptych.recall.task import Given, RecallTask
from triptych.recall.validation import nearest
from triptych.training.loop import fit

K = 20
BY_HAND, THEIRS, THEIRS_AS_IT_COMES = "by hand", "torch-rechub", "torch-rechub, its own optimiser"
COMPARABLE = 0.002
"""Largest difference in recall at which rates are compared."""
DEMANDED = {THEIRS: 2.0}
"""Ours over theirs in pairs per second, at least."""


@dataclass(frozen=True)
class Size:
    """The log and the model."""

    items: int = 1_000_000
    queries: int = 200_000
    topics: int = 20_000
    pairs: int = 1_024_000
    held_out: int = 5_000
    dim: int = 64
    batch: int = 1_024
    negatives: int = 10_000
    rate: float = 0.1
    temperature: float = 0.05
    init_std: float = 0.01
    steps_as_it_comes: int = 60
    """Steps of their own optimiser: enough for a rate, as it never gets to an end."""

    @property
    def steps(self) -> int:
        """Steps in which every pair is seen once."""
        return self.pairs // self.batch


SMALL = Size(items=2_000, queries=400, topics=40, pairs=20_480, held_out=200, dim=16, batch=256, negatives=500)


class Log:
    """Pairs of a query and the item chosen under it, as rows."""

    def __init__(self, size: Size, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        topic_of_item = rng.permutation(size.items) % size.topics
        by_topic = np.argsort(topic_of_item, kind="stable").reshape(size.topics, -1)
        wanted = rng.integers(size.topics, size=size.queries)
        count = size.pairs + size.held_out
        self.query_row = rng.integers(size.queries, size=count)
        place = _zipf(by_topic.shape[1], count, rng=rng)
        self.item_row = by_topic[wanted[self.query_row], place]
        self.size = size

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Those that are learned, in their order."""
        return self.query_row[: self.size.pairs], self.item_row[: self.size.pairs]

    @property
    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Those that are not, of queries that were."""
        query, item = self.query_row[self.size.pairs :], self.item_row[self.size.pairs :]
        known = np.isin(query, self.train[0])
        return query[known], item[known]


def _zipf(number: int, count: int, *, rng: np.random.Generator) -> np.ndarray:
    """Draw places by Zipf's law."""
    cumulated = np.cumsum(1.0 / np.arange(1, number + 1))
    return np.searchsorted(cumulated / cumulated[-1], rng.random(count), side="right").clip(max=number - 1)


def given(log: Log, *, seed: int) -> Given:
    """What our training reads, each pair on a page of its own."""
    size = log.size
    query, item = log.train
    columns = {
        "query_row": query.astype(np.int32),
        "item_row": item.astype(np.int32),
        "user_row": np.full(size.pairs, -1, dtype=np.int32),
        "page": np.arange(size.pairs),
        "kind": np.full(size.pairs, KIND_CODES[EventKind.CLICK], dtype=np.int8),
        "time": np.arange(size.pairs),
    }
    catalogue: Any = SimpleNamespace(
        num_items=size.items,
        queries=[f"q{row}" for row in range(size.queries)],
        item_ids=[f"i{row}" for row in range(size.items)],
        events=query,
        event_array=columns.__getitem__,
    )
    asked, wanted = (rows[:1] for rows in log.held_out)

    def targets(_part: Part) -> Targets:
        return Targets(asked.astype(np.int32), np.arange(2), wanted.astype(np.int32))

    split: Any = SimpleNamespace(
        train=slice(0, size.pairs), targets=targets, items_known=lambda _catalogue: np.ones(size.items, dtype=bool)
    )
    return Given(catalogue=catalogue, split=split, query_content=None, item_content=None, seed=seed)


def ours(log: Log, *, against: Against, folder: Path) -> dict[str, Any]:
    """Train with our loop."""
    size = log.size
    config = RecallTrainConfig.parse(
        {
            "model": {
                "kind": "two_tower",
                "fusion": "id",
                "dim": size.dim,
                "id_rate_factor": 1.0,
                "id_init_std": size.init_std,
                "temperature": size.temperature,
            },
            "against": against,
            **({"num_negatives": size.negatives} if against is Against.SAMPLED else {"log_q": "none"}),
            "batch_pages": size.batch,
            "most_positives": 1,
            "id_dropout_rate": 0.0,
            "epochs": 1.0,
            "validations": 1,
            "learning_rate": size.rate,
            "warmup_rate": 0.0,
            "clip_norm": 1e9,
            "precision": "fp32",
            "device": "cpu",
        }
    )
    task = RecallTask(config, given(log, seed=0))
    folder.mkdir()
    result = fit(task, config=config.loop(batches_per_epoch=task.batches_per_epoch), out=folder, seed=0)
    task.module.eval()
    rows = np.unique(log.held_out[0])
    vectors = torch.empty(size.queries, size.dim)
    with torch.no_grad():
        vectors[rows] = task.module.encode_requests(task.features.requests(rows))
    return {"pairs_per_s": round(result.samples_per_s), "recall": recall(log, vectors, task.item_vectors())}


def recall(log: Log, queries: Tensor, items: Tensor) -> float:
    """Measure recall@20 among all items on the pairs that were held out."""
    asked, wanted = log.held_out
    found = nearest(queries[torch.from_numpy(asked)], items, k=K).numpy()
    targets = TargetSets(np.arange(len(asked) + 1), wanted)
    return round(float(macro(recall_at_k(match(found, targets=targets), k=K))), 4)


def batches(log: Log) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffle the pairs once and cut them."""
    query, item = (torch.from_numpy(rows) for rows in log.train)
    order = torch.randperm(len(query), generator=torch.Generator().manual_seed(0))
    yield from zip(query[order].split(log.size.batch), item[order].split(log.size.batch), strict=True)


def by_hand(log: Log, *, sampled: bool) -> dict[str, Any]:
    """Train with a dozen lines: sparse tables, torch's own Adagrad, batches in memory."""
    size = log.size
    torch.manual_seed(0)
    tables = [nn.Embedding(rows, size.dim, sparse=True) for rows in (size.queries, size.items)]
    for table in tables:
        nn.init.normal_(table.weight, std=size.init_std)
    optimizer = torch.optim.Adagrad([table.weight for table in tables], lr=size.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=size.steps)
    counts = np.bincount(log.train[1], minlength=size.items)
    chance = torch.from_numpy(counts / counts.sum())
    cumulated, log_q = chance.cumsum(0), (size.negatives * chance).log().float()
    started = time.perf_counter()
    for query, item in batches(log):
        asked, chosen = (
            functional.normalize(table(rows), dim=1) for table, rows in zip(tables, (query, item), strict=True)
        )
        if sampled:
            drawn = torch.searchsorted(cumulated, torch.rand(size.negatives, dtype=torch.float64)).clamp_(
                max=size.items - 1
            )
            against = functional.normalize(tables[1](drawn), dim=1)
            scores = asked @ against.T / size.temperature - log_q[drawn]
            scores = scores.masked_fill(drawn == item[:, None], float("-inf"))
            own = (asked * chosen).sum(1, keepdim=True) / size.temperature
            loss = functional.cross_entropy(torch.cat([own, scores], dim=1), torch.zeros(len(own), dtype=torch.int64))
        else:
            loss = functional.cross_entropy(asked @ chosen.T / size.temperature, torch.arange(len(query)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - started
    vectors = [functional.normalize(table.weight.detach(), dim=1) for table in tables]
    return {"pairs_per_s": round(size.pairs / seconds), "recall": recall(log, *vectors)}


def theirs(log: Log, *, python: Path, folder: Path, threads: int, as_it_comes: bool) -> dict[str, Any]:
    """Train with torch-rechub in its environment (`recall_torch_rechub.py`), on the batches of the loop by hand."""
    query, item = (torch.cat(rows).numpy() for rows in zip(*batches(log), strict=True))
    np.savez(folder / "batches.npz", query=query, item=item)
    size = log.size
    steps = min(size.steps, size.steps_as_it_comes) if as_it_comes else size.steps
    asked = {
        "size": asdict(size),
        "steps": steps,
        "folder": str(folder),
        "threads": threads,
        "as_it_comes": as_it_comes,
    }
    script = Path(__file__).with_name("recall_torch_rechub.py")
    done = subprocess.run([str(python), str(script), json.dumps(asked)], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"their side ended with exit status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not as_it_comes:
        with np.load(folder / "vectors.npz") as file:
            found["recall"] = recall(log, *(torch.from_numpy(file[name]) for name in ("query", "item")))
    return found


def draws_per_s(log: Log) -> int:
    """Count negatives drawn, made distinct and corrected in a second."""
    counts = np.bincount(log.train[1], minlength=log.size.items)
    sampler = NegativeSampler(counts, num_negatives=log.size.negatives)
    rng = np.random.default_rng(0)
    rounds, started = 200, time.perf_counter()
    for _ in range(rounds):
        sampler.negative_bias(sampler.draw(rng), log_q=RecallTrainConfig().log_q)
    return round(rounds * log.size.negatives / (time.perf_counter() - started))


def compare(ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Hold ours to what is demanded beside each of the others."""
    mine, found = ways["ours"], {}
    for name, other in ways.items():
        if name == "ours":
            continue
        ratio = round(mine["pairs_per_s"] / other["pairs_per_s"], 2)
        difference = round(abs(mine["recall"] - other["recall"]), 4) if "recall" in other else None
        comparable = None if difference is None else difference <= COMPARABLE
        demanded = DEMANDED.get(name)
        found[name] = {
            "ours_over_theirs": ratio,
            "recall_difference": difference,
            "comparable": comparable,
            "demanded": demanded,
            "met": None if demanded is None else bool(comparable) and ratio >= demanded,
        }
    return found


def lines(title: str, found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Write comparisons out."""
    for name, one in found.items():
        difference = one["recall_difference"]
        equal = "no recall to compare" if difference is None else f"recall differs by {difference:.4f}"
        comparable = {None: "", True: ", comparable: yes", False: f", comparable: NO (above {COMPARABLE})"}
        met = {None: "", True: "met", False: "NOT MET"}[one["met"]]
        demand = "" if one["demanded"] is None else f"; {one['demanded']:g} times is demanded: {met}"
        yield f"{title}, beside {name}: {one['ours_over_theirs']:.2f} times its rate; {equal}" + (
            comparable[one["comparable"]] + demand
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, metavar="PYTHON")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    size = SMALL if chosen.smoke else Size()
    log = Log(size, seed=0)
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            "ours": lambda: ours(log, against=Against.IN_BATCH, folder=folder / "in_batch"),
            BY_HAND: lambda: by_hand(log, sampled=False),
        }
        if chosen.theirs is not None:
            for key, raw in ((THEIRS, False), (THEIRS_AS_IT_COMES, True)):
                ways[key] = partial(
                    theirs, log, python=chosen.theirs, folder=folder, threads=chosen.threads, as_it_comes=raw
                )
        in_batch = {key: way() for key, way in ways.items()}
        sampled = {
            "ours": ours(log, against=Against.SAMPLED, folder=folder / "sampled"),
            BY_HAND: by_hand(log, sampled=True),
        }
    rows = size.items + size.queries
    result = {
        "machine": about,
        "threads": chosen.threads,
        "size": asdict(size),
        "steps": size.steps,
        "negatives of the batch": in_batch,
        "drawn negatives": sampled,
        "compared": {"negatives of the batch": compare(in_batch), "drawn negatives": compare(sampled)},
        "negatives drawn per second": draws_per_s(log),
        "MiB of tables with their optimiser": {
            "ours": round(table_bytes(rows, size.dim, optimizer=RowOptimizer.ADAGRAD) / 2**20),
            "Adagrad of each weight": round(2 * 4 * rows * size.dim / 2**20),
            "Adam": round(3 * 4 * rows * size.dim / 2**20),
        },
    }
    print(json.dumps(result, indent=1))
    for title, found in result["compared"].items():
        print("\n".join(lines(title, found)))
    if chosen.out:
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
