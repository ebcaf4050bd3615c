"""Where does staged pretraining win, tie or lose against joint? A map over regimes, on the validation day.

    python benchmarks/staging_map.py --out runs/staging [--regimes cold warm …] [--seeds 0 1 2] [--jobs 2]

Fashion photos and titles, simulated shoppers. Every regime has the same arms: the fused loss alone, all losses at
once, the stages of SMGR's reconstruction, and those with nothing frozen; same data, batches, steps, rates and encoder
within a regime. Encoders are artefacts: an interrupted map goes on where it stopped, and more seeds add to what is
there. The test day is never read. Results: `results/staging_map.json`, and a picture beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine

from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.embed import Embedder
from triptych.evaluate.records import select, single, to_rows
from triptych.evaluate.tasks import cells
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.artifact import Artifact
from triptych.index.base import open_index
from triptych.pretrain.base import PretrainConfig
from triptych.pretrain.loss_probe import blend_weights
from triptych.pretrain.stages import PRESETS, QUERY_ITEM, QUERY_PHOTO, QUERY_TITLE, TITLE_PHOTO, Tree
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.recall.models.dense import Dense
from triptych.recipes import resolve
from triptych.recipes.encoders import Plan
from triptych.recipes.stages import Stages, Trained
from triptych.training.log import LOG_FILE, read_log

RESULTS = Path(__file__).parent / "results" / "staging_map.json"
STEPS = 500


def training(stages: str | list[Tree], *, steps: int = STEPS, **settings: Any) -> MultitaskConfig:
    """The encoder and loop that all regimes share."""
    tree = {
        "stages": stages,
        "encoder": {"kind": "late_fusion"},
        "batch_items": 128,
        "cell_rate": 0.5,
        "validation_k": 10,
        "loop": {"steps": steps, "warmup_steps": 30, "validate_every": 50},
        **settings,
    }
    return MultitaskConfig.parse(tree)


def warm() -> MultitaskConfig:
    """Both modalities warm, without labels."""
    tasks = [TITLE_PHOTO, {"kind": "masked_words", "of": "title"}, {"kind": "masked_patches"}]
    stage = {"name": "warm", "tasks": tasks, "data": "items", "validate_on": "title-photo"}
    return training([stage])


def warm_text() -> MultitaskConfig:
    """Text warm, by clicks on titles; the photo's part new. Encoders that start unequal."""
    parts = {"text": 1.0, "query_head": 1.0, "title_head": 1.0}
    stage = {"name": "text", "tasks": [QUERY_TITLE], "train": parts, "validate_on": "query-title"}
    return training([stage])


def with_ids(stages: list[Tree], *, last: float | None) -> list[Tree]:
    """Give queries and items vectors of their own: in all stages, or in a last part of the last one."""
    if last is None:
        return [{**stage, "with_ids": True} for stage in stages]
    *before, final = stages
    rate = final.get("steps_rate", 1.0)
    ending = {**final, "name": f"{final['name']}-ids", "steps_rate": last, "with_ids": True}
    return [*before, {**final, "steps_rate": rate - last}, ending]


@dataclass(frozen=True)
class Regime:
    """One column of the map."""

    what: str
    data: tuple[str, ...] = ()
    """Settings of the run, such as the simulator's."""
    settings: dict[str, Any] | None = None
    """Settings of every arm's training."""
    start: Callable[[], PretrainConfig] | None = warm
    steps: int = STEPS
    more: tuple[tuple[str, str | list[Tree], dict[str, Any]], ...] = ()
    """Further arms: name, stages, settings."""
    blends: bool = False
    """Whether joint training is also weighted by gradient blending, from short trainings of each loss alone."""


ARMS = ("fused", "joint", "o1", "o1-open")
IDS = {"pairs_rate": 0.2}
REGIMES = {
    "cold": Regime("from scratch", start=None),
    "warm": Regime(
        "both modalities warm",
        blends=True,
        more=(
            ("o1-one-schedule", "o1", {"schedules": "one"}),
            ("joint-ogm-ge", "joint", {"balance": "ogm-ge"}),
            ("o3", "o3", {}),
            ("o4", "o4", {}),
            ("o5", "o5", {}),
        ),
    ),
    "long": Regime("both warm, three times the steps", steps=3 * STEPS),
    "full-titles": Regime("titles keep what the photo shows", data=("dataset.shoppers.title_keep=0.9",)),
    "bare-titles": Regime("titles keep hardly any of it", data=("dataset.shoppers.title_keep=0.1",)),
    "unequal": Regime("text warm, photo new", start=warm_text),
    "unequal-full-titles": Regime(
        "text warm, photo new, titles keep what the photo shows",
        data=("dataset.shoppers.title_keep=0.9",),
        start=warm_text,
    ),
    "few-pairs": Regime("5 % of the pairs: many epochs", settings={"pairs_rate": 0.05}),
    "ids": Regime(
        "20 % of the pairs, fast tables of ids",
        settings=IDS,
        more=(
            ("joint-ids", with_ids(PRESETS["joint"], last=None), IDS),
            ("joint-late-ids", with_ids(PRESETS["joint"], last=0.12), IDS),
            ("o1-ids", with_ids(PRESETS["o1"], last=None), IDS),
            ("o1-late-ids", with_ids(PRESETS["o1"], last=0.12), IDS),
        ),
    ),
}


def plans_of(regime: Regime) -> list[Plan]:
    """Write the arms of a regime down."""
    settings = regime.settings or {}
    arms: list[tuple[str, str | list[Tree], dict[str, Any]]] = [(name, name, settings) for name in ARMS]
    start = None if regime.start is None else regime.start()
    return [
        Plan(name, training(stages, steps=regime.steps, **own), start=start)
        for name, stages, own in (*arms, *regime.more)
    ]


ALONE = {"query-title": QUERY_TITLE, "query-photo": QUERY_PHOTO, "query-item": QUERY_ITEM}
"""What gradient blending weights: one modality, the other, both."""


def blended(stages: Stages, regime: Regime, *, split: Split, tokenizer: Artifact) -> Plan:
    """Weight joint training by how each of its losses, alone, has generalised over a fifth of the steps."""
    start = None if regime.start is None else regime.start()
    plans = []
    for name, task in ALONE.items():
        stage = {"name": name, "tasks": [task], "validate_on": name}
        config = training([stage], steps=regime.steps // 5, **(regime.settings or {})).override(
            "loop.validate_every=10"
        )
        plans.append(Plan(f"alone {name}", config, start=start))
    trained = stages.train_plans(plans, seeds=(0,), split=split, tokenizer=tokenizer)
    first, last = {}, {}
    for name in ALONE:
        log = trained[f"alone {name}", 0].encoder.file(LOG_FILE)
        curve = [line for line in read_log(log) if line["event"] == "validation"]
        for found, line in ((first, curve[0]), (last, curve[-1])):
            found[name] = {where: line[f"loss of {where}/{name}"] for where in ("training", "validation")}
    weights = blend_weights(first, last)
    tasks = [TITLE_PHOTO, *({**task, "weight": weights[name]} for name, task in ALONE.items() if weights[name] > 0)]
    stage = {"name": "joint", "tasks": tasks}
    return Plan("joint-blended", training([stage], steps=regime.steps, **(regime.settings or {})), start=start)


def measure(
    stages: Stages, trained: dict[tuple[str, int], Trained], *, names: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Rank the items of each validation query's cell; returns rows of plain numbers."""
    split = stages.split()
    config = EvaluationConfig(part=Part.VALIDATION, ks=cells.KS, headline_k=5, bootstrap_repeats=1000)
    models = {
        name: [
            Dense(Embedder.open(one.encoder), index=open_index(one.index), name=name)
            for one in (trained[name, seed] for seed in seeds)
        ]
        for name in names
    }
    found = cells.evaluate(models, catalogue=stages.catalogue, split=split, config=config)
    rows = single(to_rows(found.records))
    out = []
    for name in names:
        line: dict[str, Any] = {"arm": name, "seeds": list(seeds)}
        for metric, k, where in (("recall", 5, "all"), ("ndcg", 5, "all"), ("recall", 20, "photo_only")):
            for row in select(rows, model=name, metric=metric, k=k, slice=where):
                line[f"{metric}@{k} {where}"] = [row["value"], row["low"], row["high"], row["seed_values"]]
        summaries = [trained[name, seed].encoder.summary for seed in seeds]
        line["train_seconds"] = [round(one["seconds"], 1) for one in summaries]
        line["validation"] = [one["metrics"] for one in summaries]
        out.append(line)
    return out


def run(name: str, *, out: Path, seeds: Sequence[int], jobs: int) -> dict[str, Any]:
    """Train and measure one regime."""
    regime = REGIMES[name]
    config = resolve("fashion", settings=("compare=[]", "photo_queries=0", *regime.data)).config
    folder = out / ("-".join(setting.replace("=", "-") for setting in regime.data) or "default")
    stages = Stages(config, base=Path(), out=folder, command="", jobs=jobs)
    plans = plans_of(regime)
    split = stages.split()
    tokenizer = stages.tokenizer(split)
    if regime.blends:
        plans.append(blended(stages, regime, split=split, tokenizer=tokenizer))
    trained = stages.train_plans(plans, seeds=seeds, split=split, tokenizer=tokenizer)
    rows = measure(stages, trained, names=[plan.name for plan in plans], seeds=seeds)
    return {"regime": name, "what": regime.what, "steps": regime.steps, "rows": rows}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--regimes", nargs="*", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    known = json.loads(chosen.result.read_text())["regimes"] if chosen.result.is_file() else {}
    for name in chosen.regimes:
        known[name] = run(name, out=chosen.out, seeds=chosen.seeds, jobs=chosen.jobs)
        content = {"machine": machine(), "simulated": True, "part": "validation", "regimes": known}
        chosen.result.write_text(json.dumps(content, indent=1) + "\n")
        for row in known[name]["rows"]:
            print(name, row["arm"], {key: round(value[0], 4) for key, value in row.items() if "@" in key}, flush=True)


if __name__ == "__main__":
    main()
