"""Where does staged pretraining win, tie or lose against joint? A map over regimes, on the validation day.

    python benchmarks/staging_map.py --out runs/staging [--regimes cold warm …] [--arms o1 …] [--seeds 0 1 2] [--jobs 2]
    python benchmarks/staging_map.py --draw        the picture and the table of what was measured, again

Fashion photos and titles, simulated shoppers. The arms: the fused loss alone, all losses at once, the stages of SMGR's
reconstruction, those with nothing frozen, and what a regime has of its own; the results say which have been trained.
Same data, batches, steps and encoder within a regime, and two learning rates, those that trials of `triptych reproduce
smgr --part pretraining` have chosen for warm starts (from scratch, joint training chose half of it there); no regime
was tried by itself. Encoders are artefacts: an interrupted map goes on where it stopped, and more seeds add to what is
there. The test day is never read. Results: `results/staging_map.json` and `docs/images/staging-map.svg`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine

from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.embed import Embedder
from triptych.evaluate.compare import Column
from triptych.evaluate.curves import checked, one_epoch_index
from triptych.evaluate.orderings import Ordering, judge_ordering
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
from triptych.recipes.reproduce import smgr
from triptych.recipes.stages import Stages, Trained
from triptych.training.log import LOG_FILE, read_log

RESULTS = Path(__file__).parent / "results" / "staging_map.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "staging-map.svg"
OF_PAIRS = "staging-pairs.svg"
"""Beside it: what the gap depends on most."""
STEPS, EVERY = 400, 50
HEADLINE, PHOTO_ONLY = Column("recall", 5), Column("recall", 20)
AGAINST, BLENDED = "joint", "joint-blended"
RATE, FUSED_RATE = 2e-3, 1e-3
"""Chosen on validation in that table, for warm starts: joint training and stages are best at twice the fused loss's."""


def training(stages: str | list[Tree], *, steps: int = STEPS, every: int = EVERY, **settings: Any) -> MultitaskConfig:
    """The encoder and loop that all regimes share, validated after so many steps."""
    rate = FUSED_RATE if stages == "fused" else RATE
    made = smgr.training(stages, **settings).override(
        f"loop.steps={steps}", f"loop.validate_every={every}", f"loop.learning_rate={rate}"
    )
    assert isinstance(made, MultitaskConfig)
    return made


def warm() -> PretrainConfig:
    """Both modalities warm, without labels."""
    return smgr.warm_start().override(f"loop.steps={STEPS}", "loop.validate_every=50")


def warm_text() -> PretrainConfig:
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


def items_corrected(stages: list[Tree]) -> list[Tree]:
    """Take log Q off the scores of items alone, not off those of queries that items ask for."""

    def mended(task: Tree) -> Tree:
        return {name: value for name, value in task.items() if name != "query_log_q_weight"}

    return [{**stage, "tasks": [mended(task) for task in stage["tasks"]]} for stage in stages]


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
    every: int = EVERY
    """Steps between validations; what a second epoch costs takes one within the first."""
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
            *((f"{name}-item-log-q", items_corrected(PRESETS[name]), {}) for name in (AGAINST, "o1")),
            *((name, name, {}) for name in ("o1-anchored", "o1-cumulative", "o2", "o3", "o4", "o5", "three")),
        ),
    ),
    "long": Regime(
        "both warm, three times the steps",
        steps=3 * STEPS,
        more=(("o1-own-stops", "o1-own-stops", {}),),
    ),
    "longest": Regime(
        "both warm, eight times the steps",
        steps=8 * STEPS,
        every=200,
        more=(("o1-cumulative", "o1-cumulative", {}),),
    ),
    "full-titles": Regime("titles keep what the photo shows", data=("dataset.shoppers.title_keep=0.9",)),
    "bare-titles": Regime("titles keep hardly any of it", data=("dataset.shoppers.title_keep=0.1",)),
    "unequal": Regime("text warm, photo new", start=warm_text),
    "unequal-full-titles": Regime(
        "text warm, photo new, titles keep what the photo shows",
        data=("dataset.shoppers.title_keep=0.9",),
        start=warm_text,
    ),
    "few-pairs": Regime("5 % of the pairs: many epochs", settings={"pairs_rate": 0.05}),
    "fewer-pairs": Regime("1 % of the pairs", settings={"pairs_rate": 0.01}),
    "ids": Regime(
        "20 % of the pairs, fast tables of ids",
        settings=IDS,
        every=20,
        more=(
            ("joint-ids", with_ids(PRESETS["joint"], last=None), IDS),
            ("joint-late-ids", with_ids(PRESETS["joint"], last=0.12), IDS),
            ("o1-ids", with_ids(PRESETS["o1"], last=None), IDS),
            ("o1-late-ids", with_ids(PRESETS["o1"], last=0.12), IDS),
        ),
    ),
}


SHARES = {"fewer-pairs": 0.01, "few-pairs": 0.05, "ids": IDS["pairs_rate"], "warm": 1.0}
"""Regimes that differ in their share of the pairs, and share the warm start and all else."""


def plans_of(regime: Regime) -> list[Plan]:
    """Write the arms of a regime down."""
    settings = regime.settings or {}
    arms: list[tuple[str, str | list[Tree], dict[str, Any]]] = [(name, name, settings) for name in ARMS]
    start = None if regime.start is None else regime.start()
    return [
        Plan(name, training(stages, steps=regime.steps, every=regime.every, **own), start=start)
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
            "loop.validate_every=2"  # the first is where gains are counted from
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
    return Plan(BLENDED, training([stage], steps=regime.steps, **(regime.settings or {})), start=start)


def measure(
    stages: Stages, trained: dict[tuple[str, int], Trained], *, names: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
    """Rank the items of each validation query's cell; returns rows, and their differences from joint training."""
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
    records = single(to_rows(found.records))
    rows = []
    for name in names:
        line: dict[str, Any] = {"arm": name}
        for column, where in ((HEADLINE, "all"), (PHOTO_ONLY, "photo_only"), (PHOTO_ONLY, "new_items")):
            for row in select(records, model=name, metric=column.metric, k=column.k, slice=where):
                line[f"{column} {where}"] = row["value"]
        encoders = [trained[name, seed].encoder for seed in seeds]
        line["seconds"] = [round(one.summary["seconds"], 1) for one in encoders]
        line["validation"] = [one.summary["metrics"] for one in encoders]
        line["one_epoch_index"] = [_one_epoch_indices(checked(list(read_log(one.file(LOG_FILE))))) for one in encoders]
        rows.append(line)
    differences = []
    for name in names:
        for column, where in ((HEADLINE, "all"), (PHOTO_ONLY, "photo_only")):
            if name == AGAINST:
                continue
            claim = Ordering(f"{name} above {AGAINST}", name, AGAINST, column=column, slice=where)
            one = judge_ordering(claim, found.per_query, headline=HEADLINE, config=config, drawn_by=found.drawn_by)
            if one is not None:
                differences.append(
                    {
                        "arm": name,
                        "metric": f"{column} {where}",
                        "difference": one.difference,
                        "low": one.low,
                        "high": one.high,
                        "seeds": list(one.seeds),
                    }
                )
    return {"seeds": list(seeds), "rows": rows, "differences": differences}


def _one_epoch_indices(log: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return what a second epoch costs in each stage, which has epochs of its own: name of the stage → index."""
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for line in log:
        by_stage.setdefault(line.get("phase", "all"), []).append(line)
    return {name: one_epoch_index(lines, "recall@10/query-item") for name, lines in by_stage.items()}


def run(name: str, *, out: Path, seeds: Sequence[int], jobs: int, arms: Sequence[str] | None) -> dict[str, Any]:
    """Train and measure one regime: all of its arms, or those named and joint training."""
    regime = REGIMES[name]
    config = resolve("fashion", settings=("compare=[]", "photo_queries=0", *regime.data)).config
    folder = out / ("-".join(setting.replace("=", "-") for setting in regime.data) or "default")
    stages = Stages(config, base=Path(), out=folder, command="", jobs=jobs)
    plans = [plan for plan in plans_of(regime) if arms is None or plan.name in (AGAINST, *arms)]
    split = stages.split()
    tokenizer = stages.tokenizer(split)
    if regime.blends and (arms is None or BLENDED in arms):
        plans.append(blended(stages, regime, split=split, tokenizer=tokenizer))
    trained = stages.train_plans(plans, seeds=seeds, split=split, tokenizer=tokenizer)
    measured = measure(stages, trained, names=[plan.name for plan in plans], seeds=seeds)
    return {"regime": name, "what": regime.what, "steps": regime.steps, **measured}


def lines(known: dict[str, Any]) -> Iterator[str]:
    """Write what was measured as lines of a Markdown table: each arm's difference from joint training, in points."""
    yield "| regime | seeds | joint, R@5 | arm | R@5 | R@20 where only the photo shows it | seconds, of joint's |"
    yield "|---|---|---|---|---|---|---|"
    for regime in known.values():
        rows = {row["arm"]: row for row in regime["rows"]}
        joint = rows[AGAINST]
        for arm, row in rows.items():
            if arm == AGAINST:
                continue
            own = {one["metric"]: one for one in regime["differences"] if one["arm"] == arm}
            shown = [_points(own.get(f"{HEADLINE} all")), _points(own.get(f"{PHOTO_ONLY} photo_only"))]
            rate = "–"
            if row["seconds"] and joint["seconds"]:  # none where processes were paused
                rate = f"{sum(row['seconds']) / sum(joint['seconds']):.2f}"
            value = f"{100 * joint[f'{HEADLINE} all']:.1f}"
            yield f"| {regime['what']} | {len(regime['seeds'])} | {value} | {arm} | {' | '.join(shown)} | {rate} |"


def _points(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    shown = f"{100 * one['difference']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
    return shown.replace("-", "−")


def draw(known: dict[str, Any], place: Path) -> None:
    """Draw the map: below each regime its arms, right of the line where they are ahead of joint training."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    metrics = {f"{HEADLINE} all": "Recall@5, all", f"{PHOTO_ONLY} photo_only": "Recall@20, only the photo shows it"}
    colours = {"fused": "#7a7a7a", "o1": "#c2410c", "o1-open": "#0f766e"}
    places: list[tuple[float, str, str]] = []
    headings, y = [], 0.0
    for name, regime in known.items():
        headings.append((y, f"{regime['what']} ({len(regime['seeds'])} seed{'s' * (len(regime['seeds']) > 1)})"))
        for row in regime["rows"]:
            if row["arm"] != AGAINST:
                y += 1
                places.append((y, name, row["arm"]))
        y += 1.6
    style = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "staging map"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9.5, 0.2 * y + 0.9), layout="constrained")
        first, second = figure.subplots(1, 2, sharey=True)
        for axes, (metric, title) in zip((first, second), metrics.items(), strict=True):
            axes.axvline(0, color="#999999", linewidth=1, zorder=0)
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel("points ahead of joint training, 95 % interval over queries")
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(left=False)
            for at, regime, arm in places:
                one = next((d for d in known[regime]["differences"] if (d["arm"], d["metric"]) == (arm, metric)), None)
                if one is None:
                    continue
                colour = colours.get(arm, "#4338ca")
                axes.plot([100 * one["low"], 100 * one["high"]], [at, at], color=colour, linewidth=1.8)
                axes.plot([100 * one["difference"]], [at], "o", color=colour, markersize=4)
                axes.plot([100 * value for value in one["seeds"]], [at] * len(one["seeds"]), "|", color=colour)
        first.set_yticks([at for at, _, _ in places], [arm for _, _, arm in places])
        for at, words in headings:
            first.annotate(
                words,
                (0, at),
                xycoords=("axes fraction", "data"),
                xytext=(-68, 0),
                textcoords="offset points",
                fontweight="bold",
                va="center",
                annotation_clip=False,
            )
        first.set_ylim(y, -1)
        place.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(place, metadata={"Date": None})


def draw_pairs(known: dict[str, Any], place: Path) -> None:
    """Draw how far stages are ahead of joint training, by the share of the pairs that both learn from."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colours = {"fused": "#7a7a7a", "o1": "#c2410c", "o1-open": "#0f766e"}
    names = {"fused": "query–item alone", "o1": "stages (o1)", "o1-open": "stages, nothing frozen"}
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "staging pairs"}):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color="#999999", linewidth=1, zorder=0)
        for shift, (arm, colour) in zip((0.94, 1.0, 1.06), colours.items(), strict=True):
            found = [
                (share * shift, one)
                for regime, share in SHARES.items()
                for one in known.get(regime, {"differences": []})["differences"]
                if (one["arm"], one["metric"]) == (arm, f"{HEADLINE} all")
            ]
            for at, one in found:
                axes.plot([at, at], [100 * one["low"], 100 * one["high"]], color=colour, linewidth=1.6)
            points = [(at, 100 * one["difference"]) for at, one in found]
            line = "o-" if len(points) == len(SHARES) else "o"  # none over what was not measured
            axes.plot(*zip(*points, strict=True), line, color=colour, markersize=4, linewidth=0.8, label=names[arm])
        axes.set_xscale("log")
        axes.set_xticks(list(SHARES.values()), [f"{100 * share:g} %" for share in SHARES.values()])
        axes.minorticks_off()
        axes.set_xlabel("share of the clicked pairs that is learned from")
        axes.set_ylabel("points of recall@5\nahead of joint training")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(place, metadata={"Date": None})


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--regimes", nargs="*", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--arms", nargs="*", help="beside joint training; default: all of a regime")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    chosen = parser.parse_args()
    known = json.loads(chosen.result.read_text())["regimes"] if chosen.result.is_file() else {}
    if not chosen.draw:
        if chosen.out is None:
            parser.error("--out: where encoders are kept")
        for name in chosen.regimes:
            known[name] = run(name, out=chosen.out, seeds=chosen.seeds, jobs=chosen.jobs, arms=chosen.arms)
            content = {"machine": machine(), "simulated": True, "part": "validation", "regimes": known}
            chosen.result.write_text(json.dumps(content, indent=1) + "\n")
    draw({name: known[name] for name in REGIMES if name in known}, chosen.picture)
    if any(name in known for name in SHARES):
        draw_pairs(known, chosen.picture.with_name(OF_PAIRS))
    print("\n".join(lines({name: known[name] for name in REGIMES if name in known})))


if __name__ == "__main__":
    main()
