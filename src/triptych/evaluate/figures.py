"""The report's figures, as inline SVG that follows the page's colours and fonts.

Matplotlib draws with stand-in colours; each is then replaced by a CSS variable, so that the same picture is right on a
light and on a dark page. Text stays text. Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.evaluate.curves import stage_ends
from triptych.evaluate.definitions import label, layout
from triptych.evaluate.palette import variables
from triptych.evaluate.records import Role, distinct, role_of, select, single

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from triptych.evaluate.item_spaces import ItemSpaces

Rows = Sequence[Mapping[str, Any]]

_INK, _MUTED, _LINE = "#b00001", "#b00002", "#b00003"
_THEME = {_INK: "var(--ink)", _MUTED: "var(--muted)", _LINE: "var(--line)"}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Liberation Sans", "Arial", "Helvetica", "DejaVu Sans"],
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
}


def by_slice(rows: Rows, *, metric: str, ks: Sequence[int | None]) -> str:
    """One metric of every model on every slice with its interval, one panel for each cut-off.

    Args:
        rows: Records of one task.
        metric: What to show, a share.
        ks: The cut-offs to show; None: the metric has none.

    Returns:
        An `<svg>` element.
    """
    found = [row for row in select(single(rows), metric=metric) if row["k"] in ks]
    models, slices = distinct(found, "model"), distinct(found, "slice")
    colours = _colours(models)
    step = 0.74 / max(1, len(models) - 1)
    height = 0.9 + len(slices) * (0.24 + 0.115 * len(models))
    with _figure("slices", width=10.4, height=height, panels=len(ks), colours=colours) as (figure, panels, finish):
        for axes, k in zip(panels, ks, strict=True):
            for i, slice_name in enumerate(slices):
                if i % 2:
                    axes.axhspan(i - 0.5, i + 0.5, color=_LINE, alpha=0.28, linewidth=0)
                for j, model in enumerate(models):
                    _dot(
                        axes, select(found, slice=slice_name, model=model, k=k), y=i - 0.37 + j * step, colours=colours
                    )
            axes.set_ylim(len(slices) - 0.5, -0.5)
            # Left-aligned: the page's font is not the one that matplotlib measures.
            axes.set_yticks(
                range(len(slices)), [_slice_label(found, name) for name in slices], color=_INK, ha="left", ma="left"
            )
            axes.tick_params(axis="y", pad=84)
            axes.grid(visible=False, axis="y")
            axes.set_xlim(left=0)
            axes.set_title(f"{label(metric, k)}, %")
        _legend(figure, models, colours)
        return finish(f"{label(metric)} of {', '.join(models)} on the slices {', '.join(slices)}")


def _slice_label(found: Rows, name: str) -> str:
    row = select(found, slice=name)[0]
    unit = {"queries": "query"}.get(units := layout(row["task"]).unit, units.removesuffix("s"))
    return f"{name.replace('_', ' ')}\n{row['num_queries']:,} {unit if row['num_queries'] == 1 else units}"


def _dot(axes: Axes, found: Rows, *, y: float, colours: Mapping[str, str]) -> None:
    for row in found:
        colour, value = colours[row["model"]], 100 * row["value"]
        if row["low"] is not None and row["high"] is not None:
            axes.plot(
                [100 * row["low"], 100 * row["high"]], [y, y], color=colour, linewidth=1.4, alpha=0.75, clip_on=False
            )
        hollow = role_of(row["model"]) in (Role.CEILING, Role.CONTROL)
        axes.plot(
            [value],
            [y],
            "o",
            markersize=5,
            color=colour,
            markeredgewidth=1.3,
            fillstyle="none" if hollow else "full",
            clip_on=False,
        )


def by_cutoff(rows: Rows, *, metric: str) -> str:
    """One metric of every model against K, over all queries.

    Returns:
        An `<svg>` element, or "" where there is one cut-off only.
    """
    found = select(single(rows), metric=metric, slice="all")
    models, ks = distinct(found, "model"), sorted(distinct(found, "k"))
    if len(ks) < 2:
        return ""
    colours = _colours(models)
    with _figure("cutoffs", width=5.1, height=3.5, panels=1, colours=colours) as (_, (axes,), finish):
        for model in models:
            line = sorted(select(found, model=model), key=lambda row: row["k"])
            dashed = role_of(model) in (Role.CEILING, Role.CONTROL)
            axes.plot(
                [row["k"] for row in line],
                [100 * row["value"] for row in line],
                "o--" if dashed else "o-",
                color=colours[model],
                markersize=3.5,
                linewidth=1.7,
            )
        axes.set_xscale("log")
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(ks[0] * 0.9, ks[-1] * (ks[-1] / ks[0]) ** 0.36)
        axes.set_ylim(bottom=0)
        ends = [(model, 100 * select(found, model=model, k=ks[-1])[0]["value"]) for model in models]
        _end_labels(axes, ends, x=ks[-1] * 1.08, colours=colours)
        axes.set_xlabel("K")
        axes.set_title(f"{label(metric)}@K, %")
        return finish(f"{label(metric)} against the number of results shown")


def _end_labels(axes: Axes, ends: Sequence[tuple[str, float]], *, x: float, colours: Mapping[str, str]) -> None:
    """Write each line's name at its end, pushed apart where they would overlap."""
    gap = axes.get_ylim()[1] * 0.062
    place = -np.inf
    for model, value in sorted(ends, key=lambda one: one[1]):
        place = max(value, place + gap)
        axes.text(x, place, model, color=colours[model], va="center", fontsize=8.5)


MOST_COLOURS = 8
"""Categories that have a colour of their own: the most frequent ones."""


def item_spaces(spaces: Mapping[str, ItemSpaces]) -> str:
    """Items by ID and by content, side by side in one plane, a pair of panels for each model; colours are categories.

    Args:
        spaces: model → its spaces.

    Returns:
        An `<svg>` element.
    """
    counted = Counter(name for one in spaces.values() for name in one.categories if name is not None)
    shown = [name for name, _ in sorted(counted.items(), key=lambda one: (-one[1], one[0]))[:MOST_COLOURS]]
    colours = _colours(shown)
    panels = 2 * len(spaces)
    with _figure("item-spaces", width=2.6 * panels, height=3.1, panels=panels, colours=colours) as (
        figure,
        axes,
        finish,
    ):
        for place, (model, one) in enumerate(spaces.items()):
            reach = 1.05 * float(max(np.abs(one.ids).max(), np.abs(one.content).max()))
            for panel, (side, points) in zip(
                axes[2 * place :], (("by ID", one.ids), ("by content", one.content)), strict=False
            ):
                for name in [None, *shown]:
                    own = np.array([(each if each in colours else None) == name for each in one.categories])
                    colour = _LINE if name is None else colours[name]
                    panel.plot(*points[own].T, "o", markersize=2.2, markeredgewidth=0, color=colour, alpha=0.75)
                panel.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
                panel.spines["bottom"].set_visible(False)
                panel.set_title(f"{model}\n{side}")
        if shown:
            _legend(figure, shown, colours)
        return finish(f"Items of {', '.join(spaces)} by ID and by content, coloured by category")


LEGEND_HANDLE, LEGEND_LETTER, LEGEND_LINE = 0.55, 0.075, 0.2
"""Inches that a name's mark and each of its letters take in a legend, and a line of names, about."""
MOST_IN_HALF = 8
"""Models whose curves are told apart in half of the page's width; of more a figure takes all of it."""
_DASHES = ("-", "--", ":")
"""What tells apart models that share a colour."""


def training_curves(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], *, field: str, title: str, against: str = "step"
) -> str:
    """One line for each model over its training.

    Where a training had stages, a bar across its line marks the end of each.

    Args:
        curves: Name (a model, or model and seed as `title/0`) → log lines.
        field: Which value of a log line to draw; lines without it are passed over.
        title: Above the figure.
        against: Which value of a log line it is drawn against: `step` or `seconds`.

    Returns:
        An `<svg>` element, or "" where no log has the field.
    """
    drawn = {
        name: points
        for name, lines in curves.items()
        if (points := [(line[against], line[field]) for line in lines if isinstance(line.get(field), int | float)])
    }
    if not drawn:
        return ""
    models = list(dict.fromkeys(name.split("/")[0] for name in drawn))
    colours, dashes = _colours(models), _dashes(models)
    width = 5.1 if len(models) <= MOST_IN_HALF else 10.4
    height = 3.1 + LEGEND_LINE * (-(-len(models) // _legend_columns(models, width=width)) - 1)
    with _figure(f"curve-{field}-{against}", width=width, height=height, panels=1, colours=colours) as (
        figure,
        (axes,),
        finish,
    ):
        for name, points in drawn.items():
            steps, values = [step for step, _ in points], [value for _, value in points]
            model = name.split("/")[0]
            colour, dash = colours[model], dashes[model]
            if len(values) > 60:
                axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
                steps, values = _smoothed(steps, values)
            marker = "o" if len(values) < 25 else ""
            axes.plot(steps, values, marker + dash, color=colour, linewidth=1.6, markersize=3)
            ends = stage_ends(curves[name], field=field)
            at = [line[against] for line in ends]
            axes.plot(at, np.interp(at, steps, values), "|", color=colour, markersize=11, markeredgewidth=1.4)
        axes.set_xlabel(against)
        axes.set_title(title)
        _legend(figure, models, colours, dashes)
        return finish(f"{title} of {', '.join(drawn)} during training")


def _smoothed(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Running mean over a fiftieth of the curve."""
    width = max(2, len(values) // 50)
    means = np.convolve(values, np.ones(width) / width, mode="valid")
    return list(steps[width - 1 :]), [float(value) for value in means]


def _colours(models: Sequence[str]) -> dict[str, str]:
    """Stand-in colour of each model."""
    return {model: f"#a000{position:02x}" for position, model in enumerate(models)}


def _dashes(models: Sequence[str]) -> dict[str, str]:
    """Line of each model: of those that share a colour each has another."""
    named, before = variables(models), Counter[str]()
    found = {}
    for model in models:
        found[model] = _DASHES[before[named[model]] % len(_DASHES)]
        before[named[model]] += 1
    return found


def _legend_columns(models: Sequence[str], *, width: float) -> int:
    """Return the names that stand side by side in a legend as wide."""
    fitting = int(width / (LEGEND_HANDLE + LEGEND_LETTER * max(map(len, models))))
    return max(1, min(8, len(models), fitting))


def _legend(
    figure: Figure, models: Sequence[str], colours: Mapping[str, str], dashes: Mapping[str, str] | None = None
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=colours[model],
            marker="o",
            markersize=5,
            linewidth=1.6,
            linestyle="-" if dashes is None else dashes[model],
            fillstyle="none" if role_of(model) in (Role.CEILING, Role.CONTROL) else "full",
        )
        for model in models
    ]
    columns = _legend_columns(models, width=figure.get_figwidth())
    figure.legend(
        handles,
        models,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        handlelength=1.6 if dashes is None else 2.6,
    )


@contextmanager
def _figure(
    name: str, *, width: float, height: float, panels: int, colours: Mapping[str, str]
) -> Iterator[tuple[Figure, list[Axes], Callable[[str], str]]]:
    """Open a figure in the house style; the third value turns it into SVG, given words for those who cannot see it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
        for later in axes[1:]:
            later.tick_params(labelleft=False)
        named = variables(colours)
        themed = {**_THEME, **{colour: f"var({named[model]})" for model, colour in colours.items()}}
        yield figure, axes, lambda words: _svg(figure, themed=themed, words=words)


def _svg(figure: Figure, *, themed: Mapping[str, str], words: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    # The page's own font, at the size matplotlib laid out.
    text = re.sub(r"font-family:[^;\"]*;?|(?<=px )'[^;\"]*(?=[;\"])", "", text)
    for colour, variable in themed.items():
        text = text.replace(colour, variable)
    return text.replace("<svg ", f'<svg role="img" aria-label="{_quoted(words)}" ', 1)


def _quoted(words: str) -> str:
    return words.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


Scale = Callable[[float | None], float]
"""A value of a paired record → its place on a line, from 0 to 1; None lies at the far end."""


def forest_scale(rows: Rows, *, kind: str) -> Scale:
    """Make the scale that the paired intervals of one table share.

    It spans the intervals and the value that means no effect: 0 for a difference, 1 for a ratio. Ratios lie on a
    logarithmic scale between a sixteenth and sixteen.
    """

    def bent(value: float) -> float:
        return value if kind == "difference" else float(np.log2(min(16.0, max(1 / 16, value))))

    neutral = bent(0.0 if kind == "difference" else 1.0)
    ends = [neutral, *(bent(row[end]) for row in rows for end in ("low", "high") if row[end] is not None)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    return lambda value: 1.0 if value is None else (bent(value) - low) / span


def forest(row: Mapping[str, Any], *, place: Scale) -> str:
    """Draw a paired interval as a small line, as an `<svg>` element; "" for a record without one.

    Args:
        row: A paired record.
        place: From `forest_scale`.
    """
    if row["low"] is None or row["value"] is None:
        return ""

    def x(value: float | None) -> str:
        return f"{8 + 184 * place(value):.1f}"

    neutral = x(0.0 if row["kind"] == "difference" else 1.0)
    words = (
        f"{row['value']:.3f}, from {row['low']:.3f} to {'infinity' if row['high'] is None else round(row['high'], 3)}"
    )
    return (
        f'<svg class="forest" viewBox="0 0 200 18" role="img" aria-label="{words}">'
        f'<line class="zero" x1="{neutral}" x2="{neutral}" y1="1" y2="17"/>'
        f'<line class="span" x1="{x(row["low"])}" x2="{x(row["high"])}" y1="9" y2="9"/>'
        f'<circle cx="{x(row["value"])}" cy="9" r="4"/></svg>'
    )
