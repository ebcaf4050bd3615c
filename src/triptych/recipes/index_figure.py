"""The sweep's figure: what recall costs in latency, a line for each index, the target and what meets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from triptych.index.sweep import Measured, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, INK, MUTED, LINE, GOOD = "#fbfaf7", "#201d1a", "#6b645b", "#e4dfd6", "#2e6b4a"
COLOURS = ("#2f6690", "#b5432a", "#b07a12", "#2f7f76", "#7d5a9c", "#5c6670")
"""As in the report by day."""
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Liberation Sans", "Arial", "Helvetica", "DejaVu Sans"],
    "font.size": 9.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


def draw(
    found: Sequence[Measured], *, chosen: Measured | None, target: Target, k: int, num_items: int, out: Path
) -> None:
    """Write the figure as a PNG.

    Args:
        found: every setting.
        chosen: ringed; None: nothing is.
        target: its recall and latency bound the shaded corner.
        k: places per query.
        num_items: how many were searched.
        out: the file.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained", dpi=160)
        axes = figure.add_subplot()
        axes.set_yscale("log")
        series = _series(found)
        for (colour, dashes), (label, line) in zip(_looks(list(series)), series.items(), strict=True):
            axes.plot(
                [100 * one.recall for one in line],
                [one.p99_ms for one in line],
                marker="o",
                linestyle=dashes,
                color=colour,
                linewidth=1.6,
                markersize=4.5,
                label=label,
                clip_on=False,
            )
        _mark(axes, target=target, chosen=chosen)
        _axes(axes, found, k=k)
        for one in found:
            if one.is_default:
                axes.plot([100 * one.recall], [one.p99_ms], "D", color=INK, markersize=5.5, fillstyle="none", zorder=3)
        axes.set_title(f"{num_items:,} items: what recall costs (diamonds: the defaults)", pad=10)
        figure.legend(loc="outside upper right", ncols=min(4, len(series)), frameon=False, handlelength=1.8)
        figure.savefig(out)


def _series(found: Sequence[Measured]) -> Mapping[str, list[Measured]]:
    """Return label → its settings in the order of their recall."""
    labels = dict.fromkeys(one.label for one in found)
    return {
        label: sorted((o for o in found if o.label == label), key=lambda o: (o.recall, o.p99_ms)) for label in labels
    }


def _looks(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return a colour for each kind and storage, and other dashes for each further build of it."""
    kinds = [" ".join(word for word in label.split() if "=" not in word) for label in labels]
    known = list(dict.fromkeys(kinds))
    return [
        (COLOURS[known.index(kind) % len(COLOURS)], DASHES[kinds[:place].count(kind) % len(DASHES)])
        for place, kind in enumerate(kinds)
    ]


def _mark(axes: Axes, *, target: Target, chosen: Measured | None) -> None:
    """Draw what is asked for as lines, and a ring around what meets it."""
    if target.recall is not None:
        axes.axvline(100 * target.recall, color=GOOD, linewidth=1, linestyle=(0, (4, 3)))
    if target.p99_ms is not None:
        axes.axhline(target.p99_ms, color=GOOD, linewidth=1, linestyle=(0, (4, 3)))
    if chosen is not None:
        axes.plot(
            [100 * chosen.recall], [chosen.p99_ms], "o", markersize=12, fillstyle="none", color=GOOD, clip_on=False
        )


def _axes(axes: Axes, found: Sequence[Measured], *, k: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    low = 100 * min(one.recall for one in found)
    axes.set_xlim(low - 0.03 * (100 - low) - 0.05, 100 + 0.01 * (100 - low))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlabel(f"recall@{k} against exact search, %")
    axes.set_ylabel("single query, 99th percentile, ms")
