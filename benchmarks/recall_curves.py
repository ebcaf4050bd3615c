"""What recall models owe to negatives, to the length of the log, to pretraining, and to what no content shows.

    python benchmarks/recall_curves.py --out runs/curves [--parts negatives log hidden] [--seeds 0 1 2] [--jobs 2]
    python benchmarks/recall_curves.py --draw     the picture of what was measured, again

Fashion photos and titles, simulated shoppers; the models, batches and passes over the log of `triptych reproduce
taobao-recall`, over the encoder of its rows 7 and 8. *negatives*: IDs fused with content against 100, 1,000 and 10,000
drawn negatives, and against all items. *log*: IDs alone and fused, by the share of the pages that recall learns from
and the share of the pairs that the encoder was pretrained on: does pretraining on little help a model that is trained
on far more? *hidden*: content, IDs and both, by the spread of what no content shows in the simulated shoppers' choices.

Models are artefacts: what was interrupted goes on where it stopped. Everything is measured on the validation day; the
test day is never read. Results: `results/recall_curves.json` and `docs/images/recall-curves.svg`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine

from triptych.data.schema import Part
from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Ordering, judge_ordering
from triptych.evaluate.records import select, single, to_rows
from triptych.evaluate.tasks import search
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.nn.fusion import Fusion
from triptych.recipes import resolve
from triptych.recipes.recall import RecallConfig, RecallPlan, train_recall
from triptych.recipes.reproduce import taobao_recall
from triptych.recipes.stages import Stages

RESULTS = Path(__file__).parent / "results" / "recall_curves.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "recall-curves.svg"
HEADLINE, RELEVANCE = Column("recall", 20), Column("relevance", 20)
NEGATIVES = (100, 1_000, 10_000)
SHARES = (0.1, 0.3, 1.0)
HIDDEN = (0.0, 0.6, 1.2, 1.8)
PARTS = ("negatives", "log", "hidden")
FULL = "all items"
FUSED = "fused"
NAMES = {Fusion.MM: "content", Fusion.ID: "IDs", Fusion.IDFC: FUSED}


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


def made(fusion: Fusion, *, steps: int, pretrained_on: float = 1.0, **training: Any) -> RecallConfig:
    """Write a model down."""
    config = taobao_recall.recall(fusion, improved=fusion.reads_content, **training)
    if not fusion.reads_content:
        return config
    return config.override(f"pretrain.loop.steps={steps}", f"pretrain.pairs_rate={pretrained_on}")


def points(parts: Sequence[str], *, steps: int) -> Iterator[Point]:
    """List all that is trained."""
    if "negatives" in parts:
        for count in NEGATIVES:
            config = made(Fusion.IDFC, steps=steps, num_negatives=count)
            yield Point("negatives", {"negatives": count, "model": FUSED}, config)
        config = made(Fusion.IDFC, steps=steps, against="full")
        yield Point("negatives", {"negatives": FULL, "model": FUSED}, config)
    if "log" in parts:
        for pages in SHARES:
            yield Point(
                "log", {"log": pages, "model": NAMES[Fusion.ID]}, made(Fusion.ID, steps=steps, pages_rate=pages)
            )
            for pairs in SHARES:
                config = made(Fusion.IDFC, steps=steps, pretrained_on=pairs, pages_rate=pages)
                yield Point("log", {"log": pages, "pretraining": pairs, "model": FUSED}, config)
    if "hidden" in parts:
        for sd in HIDDEN:
            for fusion, name in NAMES.items():
                where: dict[str, float | str] = {"hidden": sd, "model": name}
                yield Point("hidden", where, made(fusion, steps=steps), (f"dataset.shoppers.hidden_sd={sd}",))


def measure(found: Sequence[Point], *, out: Path, seeds: Sequence[int], jobs: int) -> list[dict[str, Any]]:
    """Train and measure points over the same data."""
    (data,) = {point.data for point in found}
    config = resolve("fashion", settings=("compare=[]", "photo_queries=0", "recall=null", *data)).config
    folder = out / ("-".join(setting.replace("=", "-") for setting in data) or "default")
    stages = Stages(config, base=Path(), out=folder, command="", jobs=jobs)
    split = stages.split()
    plans = [RecallPlan(f"{point.part}: {point.name}", point.config) for point in found]
    trained = train_recall(plans, stages=stages, seeds=seeds, split=split, tokenizer=stages.tokenizer(split))
    rows = []
    asked = EvaluationConfig(part=Part.VALIDATION, headline_k=20, bootstrap_repeats=1000)
    for part in dict.fromkeys(point.part for point in found):
        own = {f"{part}: {point.name}": point for point in found if point.part == part}
        models = {name: [trained[name, seed].retriever(name=name, config=config) for seed in seeds] for name in own}
        answered = search.evaluate(models, catalogue=stages.catalogue, split=split, config=asked)
        records = single(to_rows(answered.records))
        for name, point in own.items():
            line: dict[str, Any] = {"part": part, **point.where, "seeds": list(seeds)}
            for column in (HEADLINE, RELEVANCE):
                for row in select(records, model=name, metric=column.metric, k=column.k, slice="all"):
                    line[str(column)] = {key: row[key] for key in ("value", "low", "high")}
            line["seconds"] = [round(trained[name, seed].model.summary["seconds"], 1) for seed in seeds]
            beside = next((other for other in own if own[other].where == _alone(point)), None)
            if beside is not None:
                claim = Ordering("fused finds more than IDs", name, beside)
                one = judge_ordering(
                    claim, answered.per_query, headline=HEADLINE, config=asked, drawn_by=answered.drawn_by
                )
                if one is not None:
                    line["above_ids"] = {"difference": one.difference, "low": one.low, "high": one.high}
            rows.append(line)
    return rows


def _alone(point: Point) -> dict[str, float | str] | None:
    """Return where the model by IDs alone stands that a fused one is compared with."""
    if point.where["model"] != FUSED or point.part == "negatives":
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

    parts = [part for part in PARTS if any(row["part"] == part for row in rows)]
    colours = ("#7a7a7a", "#0f766e", "#c2410c")
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "recall curves"}):
        figure = Figure(figsize=(3.4 * len(parts), 3.1), layout="constrained")
        for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            own = [row for row in rows if row["part"] == part]
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
    parser.add_argument("--steps", type=int, default=200, help="of the encoder's pretraining")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    chosen = parser.parse_args()
    rows = json.loads(chosen.result.read_text())["rows"] if chosen.result.is_file() else []
    if not chosen.draw:
        if chosen.out is None:
            parser.error("--out: where models are kept")
        wanted = list(points(chosen.parts, steps=chosen.steps))
        for data in dict.fromkeys(point.data for point in wanted):
            own = [point for point in wanted if point.data == data]
            new = measure(own, out=chosen.out, seeds=chosen.seeds, jobs=chosen.jobs)
            known = {point.part: [one.where for one in own if one.part == point.part] for point in own}
            rows = [row for row in rows if not any(_is_at(row, where) for where in known.get(row["part"], []))] + new
            rows.sort(key=lambda row: PARTS.index(row["part"]))
            content = {"machine": machine(), "simulated": True, "part": "validation", "steps": chosen.steps}
            chosen.result.write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n")
    draw(rows, chosen.picture)


def _is_at(row: dict[str, Any], where: dict[str, float | str]) -> bool:
    """Say whether a row is of that point."""
    return all(row.get(name) == value for name, value in where.items()) and ("pretraining" in row) == (
        "pretraining" in where
    )


if __name__ == "__main__":
    main()
