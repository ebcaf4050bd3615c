"""What recall models owe to negatives, to the length of the log, to pretraining, to what no content shows, to passes.

    python benchmarks/recall_curves.py --out runs/curves --jobs 2 [--choices runs/taobao-recall-full/choices.json]
    python benchmarks/recall_curves.py --out runs/curves --parts negatives log hidden passes --seeds 0 1 2
    python benchmarks/recall_curves.py --draw     the picture of what was measured, again

Fashion photos and titles, simulated shoppers; the models are rows 1, 2 and 5 of `triptych reproduce taobao-recall` as
its full form makes them (encoder, batches, passes over the log, validations), and are asked as that table asks. Their
learning rate is the one that the table chose for the row, where `--choices` names its `choices.json` or `result.json`,
else the first that it tries; the result says which.

*negatives*: IDs fused with content against 100, 1,000 and 10,000 drawn negatives, and against all items. *log*: IDs
alone and fused, by the share of the pages that recall learns from and the share of the pairs that the encoder was
pretrained on: does pretraining on little help a model that is trained on far more? *hidden*: content, IDs and both, by
the spread of what no content shows in the simulated shoppers' choices. *passes*: the same three by passes over the log,
from the trainings' own validations (a sample of queries): is content alone learned early?

Models are artefacts: what was interrupted goes on where it stopped. Everything is measured on the validation day; the
test day is never read. What it will take is said first, and what it took is in the result: `results/recall_curves.json`
and `docs/images/recall-curves.svg`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine

from triptych.data.datasets.fashion import FashionConfig
from triptych.data.schema import Part
from triptych.evaluate.compare import Column
from triptych.evaluate.curves import checked
from triptych.evaluate.orderings import Ordering, judge_ordering
from triptych.evaluate.paces import Pace, judge_pace
from triptych.evaluate.records import select, single, to_rows
from triptych.evaluate.tasks import search
from triptych.nn.fusion import Fusion
from triptych.recipes.recall import AllRecall, RecallConfig, RecallPlan, train_recall
from triptych.recipes.reproduce import taobao_recall
from triptych.recipes.reproduce.base import Size
from triptych.recipes.reproduce.choices import first_best, read_choices
from triptych.recipes.reproduce.plans import Planned, resolve
from triptych.recipes.stages import Stages
from triptych.training.log import LOG_FILE, read_log

RESULTS = Path(__file__).parent / "results" / "recall_curves.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "recall-curves.svg"
HEADLINE, RELEVANCE = Column("recall", 20), Column("relevance", 20)
NEGATIVES = (100, 1_000, 10_000)
SHARES = (0.1, 0.3, 1.0)
HIDDEN = (0.0, 0.6, 1.2, 1.8)
PARTS = ("negatives", "log", "hidden", "passes")
FULL = "all items"
FUSED = "fused"
NAMES = {Fusion.MM: "content", Fusion.ID: "IDs", Fusion.IDFC: FUSED}
ROWS = {Fusion.MM: "1 mm", Fusion.ID: "2 id", Fusion.IDFC: "5 idfc"}
"""Of the table."""
EARLY = taobao_recall.EARLY
DEFAULT_RATE = "the first that the table tries"

PAGES_BATCHES = 262
"""Batches in which all of fashion's training pages are seen once."""
RECALL_STEP_S, ENCODER_STEP_S, DATA_S, ASKED_S = 0.036, 0.39, 120.0, 5.0
"""On one thread: a step of two towers, one of the encoder; data and their catalogue; the validation day's queries, and
vectors. For the estimate alone."""


class Point(NamedTuple):
    """One trained model of a part."""

    part: str
    where: dict[str, float | str]
    """Its coordinates in the part, model included."""
    config: RecallConfig
    data: tuple[str, ...] = ()
    """Settings of the run, such as the simulator's."""

    @property
    def name(self) -> str:
        """Of the row."""
        return ", ".join(f"{name} {value}" for name, value in self.where.items())


class Models:
    """The rows of the table that the curves are of."""

    def __init__(self, *, choices: Path | None, steps: int | None) -> None:
        """Read what the table chose.

        Args:
            choices: its file; None: each row is as in its first trial.
            steps: of the encoder's pretraining; None: the table's.
        """
        planned = planned_with()
        found = None if choices is None else read_choices(choices, planned=planned).rows
        rows = {row.name: row for row in planned.rows}
        self._configs: dict[Fusion, RecallConfig] = {}
        for fusion, name in ROWS.items():
            best = 0 if found is None else first_best(found[name])
            plan = planned.chosen(rows[name], best=best)
            assert isinstance(plan, RecallPlan)
            self._configs[fusion] = _shorter(plan.config, steps)

    def made(self, fusion: Fusion, *, pretrained_on: float = 1.0, **training: Any) -> RecallConfig:
        """Write a model down."""
        config = self._configs[fusion].merged({"recall": training})
        return config if pretrained_on == 1 else config.override(f"pretrain.pairs_rate={pretrained_on}")


def planned_with(*data: str) -> Planned:
    """Return the table's plan on the validation day, with other data."""
    return resolve(taobao_recall.table(), size=Size.FULL, part=Part.VALIDATION, settings=data)


def _shorter(config: RecallConfig, steps: int | None) -> RecallConfig:
    if steps is None or config.pretrain is None:
        return config
    return config.override(f"pretrain.loop.steps={steps}")


def points(parts: Sequence[str], *, models: Models) -> Iterator[Point]:
    """List all that is trained."""
    if "negatives" in parts:
        for count in NEGATIVES:
            config = models.made(Fusion.IDFC, num_negatives=count)
            yield Point("negatives", {"negatives": count, "model": FUSED}, config)
        config = models.made(Fusion.IDFC, against="full")
        yield Point("negatives", {"negatives": FULL, "model": FUSED}, config)
    if "log" in parts:
        for pages in SHARES:
            yield Point("log", {"log": pages, "model": NAMES[Fusion.ID]}, models.made(Fusion.ID, pages_rate=pages))
            for pairs in SHARES:
                config = models.made(Fusion.IDFC, pretrained_on=pairs, pages_rate=pages)
                yield Point("log", {"log": pages, "pretraining": pairs, "model": FUSED}, config)
    if "hidden" in parts:
        usual = FashionConfig().shoppers.hidden_sd
        for sd in HIDDEN:
            data = () if sd == usual else (f"dataset.shoppers.hidden_sd={sd}",)
            for fusion, name in NAMES.items():
                yield Point("hidden", {"hidden": sd, "model": name}, models.made(fusion), data)
    if "passes" in parts:
        for fusion, name in NAMES.items():
            yield Point("passes", {"model": name}, models.made(fusion))


def estimated_s(found: Sequence[Point], *, seeds: int, jobs: int) -> float:
    """Return about what it will take, in seconds, where nothing of it is made yet; equal models are trained once."""
    recall = {(point.data, point.config.to_json()): point.config for point in found}
    encoders = {
        (point.data, point.config.pretrain.to_json()): point.config.pretrain
        for point in found
        if point.config.pretrain is not None
    }
    alone = DATA_S * len({point.data for point in found}) + ASKED_S * seeds * len(found)
    steps = sum(one.recall.epochs * one.recall.pages_rate * PAGES_BATCHES for one in recall.values())
    trained = RECALL_STEP_S * steps + ENCODER_STEP_S * sum(one.loop.steps for one in encoders.values())
    return alone + seeds * trained / jobs


def measure(found: Sequence[Point], *, out: Path, seeds: Sequence[int], jobs: int) -> list[dict[str, Any]]:
    """Train and measure points over the same data."""
    (data,) = {point.data for point in found}
    planned = planned_with(*data)
    config, asked = planned.run, planned.evaluation
    folder = out / ("-".join(setting.replace("=", "-") for setting in data) or "default")
    stages = Stages(config, base=Path(), out=folder, command="", jobs=jobs)
    split = stages.split()
    plans = [RecallPlan(f"{point.part}: {point.name}", point.config) for point in found]
    trained = train_recall(plans, stages=stages, seeds=seeds, split=split, tokenizer=stages.tokenizer(split))
    rows = []
    for part in dict.fromkeys(point.part for point in found):
        own = {f"{part}: {point.name}": point for point in found if point.part == part}
        models = {name: [trained[name, seed].retriever(name=name, config=config) for seed in seeds] for name in own}
        answered = search.evaluate(models, catalogue=stages.catalogue, split=split, config=asked)
        records = single(to_rows(answered.records))
        for name, point in own.items():
            line: dict[str, Any] = {"part": part, **point.where, "seeds": list(seeds)}
            line["learning_rate"] = point.config.recall.learning_rate
            if point.config.pretrain is not None:
                line["encoder_steps"] = point.config.pretrain.loop.steps
            for column in (HEADLINE, RELEVANCE):
                for row in select(records, model=name, metric=column.metric, k=column.k, slice="all"):
                    line[str(column)] = {key: row[key] for key in ("value", "low", "high")}
            line["seconds"] = [round(trained[name, seed].model.summary["seconds"], 1) for seed in seeds]
            if part == "passes":
                line["curve"] = _by_passes(trained, name=name, seeds=seeds, epochs=point.config.recall.epochs)
            beside = next((other for other in own if own[other].where == _alone(point)), None)
            if beside is not None:
                claim = Ordering("fused finds more than IDs", name, beside)
                one = judge_ordering(
                    claim, answered.per_query, headline=HEADLINE, config=asked, drawn_by=answered.drawn_by
                )
                if one is not None:
                    line["above_ids"] = {"difference": one.difference, "low": one.low, "high": one.high}
            rows.append(line)
        if part == "passes":
            rows += _paces(trained, own, seeds=seeds)
    return rows


def _by_passes(trained: AllRecall, *, name: str, seeds: Sequence[int], epochs: float) -> list[list[float]]:
    """Return passes over the log, and what was found after so many, each seed for itself."""
    logs = [checked(list(read_log(trained[name, seed].model.file(LOG_FILE)))) for seed in seeds]
    return [
        [round(epochs * lines[0]["step"] / logs[0][-1]["step"], 3), *(line[str(HEADLINE)] for line in lines)]
        for lines in zip(*logs, strict=True)
    ]


def _paces(trained: AllRecall, own: dict[str, Point], *, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Judge whether content alone is learned sooner than the others."""
    named = {str(point.where["model"]): name for name, point in own.items()}
    logs = {
        model: {seed: list(read_log(trained[name, seed].model.file(LOG_FILE))) for seed in seeds}
        for model, name in named.items()
    }
    found = []
    for other in (NAMES[Fusion.ID], FUSED):
        claim = Pace(f"Content alone is learned sooner than {other}", NAMES[Fusion.MM], other, EARLY)
        one = judge_pace(claim, logs, metric=str(HEADLINE))
        if one is not None:
            told = {"claim": claim.claim, "by": EARLY, "content": one.sooner, "other": one.later}
            verdict = {"verdict": one.verdict, "evidence": one.evidence}
            found.append({"part": "passes", **told, **verdict, "differences": list(one.seeds), "seeds": list(seeds)})
    return found


def _alone(point: Point) -> dict[str, float | str] | None:
    """Return where the model by IDs alone stands that a fused one is compared with."""
    if point.where["model"] != FUSED or point.part in ("negatives", "passes"):
        return None
    return {name: value for name, value in point.where.items() if name != "pretraining"} | {"model": NAMES[Fusion.ID]}


def draw(rows: Sequence[dict[str, Any]], place: Path) -> None:
    """Draw a panel for each part."""
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    def line(axes: Axes, own: Sequence[dict[str, Any]], x: str, *, label: str, colour: str, y: str = "") -> None:
        at = [str(row[x]) for row in own]
        values = [row[y] if y else row[str(HEADLINE)] for row in own]
        middle = [100 * one["difference" if y else "value"] for one in values]
        spread = [[m - 100 * one["low"] for m, one in zip(middle, values, strict=True)]]
        spread.append([100 * one["high"] - m for m, one in zip(middle, values, strict=True)])
        axes.errorbar(at, middle, spread, marker="o", markersize=4, capsize=2, label=label, color=colour)

    def learned(axes: Axes, row: dict[str, Any], *, colour: str) -> None:
        passes, *by_seed = zip(*row["curve"], strict=True)
        for place, values in enumerate(by_seed):
            shown = [100 * value for value in values]
            axes.plot(
                passes,
                shown,
                marker="o",
                markersize=3,
                linewidth=1,
                color=colour,
                label=row["model"] if not place else None,
            )

    parts = [part for part in PARTS if any(row["part"] == part for row in rows)]
    colours = ("#7a7a7a", "#0f766e", "#c2410c")
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "recall curves"}):
        figure = Figure(figsize=(3.4 * len(parts), 3.1), layout="constrained")
        for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            own = [row for row in rows if row["part"] == part and "claim" not in row]
            axes.spines[["top", "right"]].set_visible(False)
            if part == "negatives":
                line(axes, own, "negatives", label="fused", colour=colours[2])
                axes.set(title="Negatives", xlabel="negatives of a batch", ylabel="recall@20, %")
            elif part == "log":
                for share, colour in zip(SHARES, colours, strict=True):
                    fused = [row for row in own if row.get("pretraining") == share]
                    line(axes, fused, "log", label=f"pretrained on {share:.0%}", colour=colour, y="above_ids")
                axes.axhline(0, color="#999999", linewidth=1, zorder=0)
                axes.set(title="Fused above IDs alone", xlabel="share of the log", ylabel="points of recall@20")
            elif part == "passes":
                for name, colour in zip(NAMES.values(), colours, strict=True):
                    for row in own:
                        if row["model"] == name:
                            learned(axes, row, colour=colour)
                axes.set(title="Passes", xlabel="passes over the log", ylabel="recall@20, % (a sample)")
                axes.set_ylim(bottom=0)
            else:
                for name, colour in zip(NAMES.values(), colours, strict=True):
                    line(axes, [row for row in own if row["model"] == name], "hidden", label=name, colour=colour)
                axes.set(title="What no content shows", xlabel="its standard deviation", ylabel="recall@20, %")
            axes.title.set(fontweight="bold", fontsize=10)
            axes.legend(frameon=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(place, metadata={"Date": None})


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="of the encoder's pretraining; the table's where it is left out")
    parser.add_argument("--choices", type=Path, help="choices.json or result.json of the table: its learning rates")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    chosen = parser.parse_args()
    rows = json.loads(chosen.result.read_text())["rows"] if chosen.result.is_file() else []
    if not chosen.draw:
        if chosen.out is None:
            parser.error("--out: where models are kept")
        models = Models(choices=chosen.choices, steps=chosen.steps)
        wanted = list(points(chosen.parts, models=models))
        minutes = estimated_s(wanted, seeds=len(chosen.seeds), jobs=chosen.jobs) / 60
        print(f"about {minutes:.0f} minutes, {chosen.jobs} at a time; what is made already takes none", flush=True)
        started = time.monotonic()
        for data in dict.fromkeys(point.data for point in wanted):
            own = [point for point in wanted if point.data == data]
            new = measure(own, out=chosen.out, seeds=chosen.seeds, jobs=chosen.jobs)
            rows = [row for row in rows if not any(_is_of(row, point) for point in own)] + new
            rows.sort(key=lambda row: PARTS.index(row["part"]))
            content = {
                "machine": machine(),
                "simulated": True,
                "part": "validation",
                "settings": list(taobao_recall.table().full.settings),
                "rates_from": DEFAULT_RATE if chosen.choices is None else "chosen on validation by the table",
                "minutes": round((time.monotonic() - started) / 60, 1),
            }
            chosen.result.write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n")
    draw(rows, chosen.picture)


def _is_of(row: dict[str, Any], point: Point) -> bool:
    """Say whether a row is of that point, or a claim of its part."""
    if row["part"] != point.part or "claim" in row:
        return row["part"] == point.part
    return all(row.get(name) == value for name, value in point.where.items()) and ("pretraining" in row) == (
        "pretraining" in point.where
    )


if __name__ == "__main__":
    main()
