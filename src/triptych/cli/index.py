"""``triptych index``: which index a run's vectors want."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from triptych.index.sweep import Filtered, Measured

app = typer.Typer(help="Measure which index, by which settings, suits a run.", no_args_is_help=True)

KINDS = ("exact", "ivf", "hnsw")


@app.callback()
def _group() -> None:
    """Keep `sweep` a command of its own, so that there can be others."""


@app.command()
def sweep(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    *,
    k: Annotated[int, typer.Option(min=1, help="Places per query.")] = 100,
    kinds: Annotated[
        list[str] | None, typer.Option(help=f"Index to try; may be repeated (default: {', '.join(KINDS)}).")
    ] = None,
    recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Target: this share of what exact search finds, or more.")
    ] = None,
    p99_ms: Annotated[
        float | None, typer.Option("--p99-ms", min=0, help="Target: 99 of 100 single queries take no longer.")
    ] = None,
    max_gib: Annotated[
        float | None, typer.Option("--max-gib", min=0, help="Target: the index takes no more memory.")
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Validation queries asked, at most.")] = 1000,
    seconds: Annotated[float, typer.Option(min=0.01, help="Bound on each measurement of a setting.")] = 3.0,
    quick: Annotated[bool, typer.Option("--quick", help="Build each kind once, as it is by default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build indexes over a run's item vectors, those that answer words, and ask them its validation queries.

    Prints recall, latency, throughput, bytes and build time of each setting, `*` where no other is both nearer and
    faster; recall under filters; and, given a target, the config lines of the fastest setting that meets it. Each kind
    is measured by its defaults first.
    """
    from triptych.index.sweep import RANDOM, Extent, Target
    from triptych.recipes.index_sweep import FIGURE, RESULT, sweep_run

    target = Target(recall, p99_ms, max_gib)
    extent = Extent(k=k, seconds=seconds, builds=1 if quick else None)
    swept = sweep_run(run, kinds=kinds or KINDS, target=target, extent=extent, queries=queries)
    if as_json:
        chosen = None if swept.chosen is None else swept.chosen.dump()
        print_json({**swept.about, "chosen": chosen, "found": [one.dump() for one in swept.found]})
        return
    about = swept.about
    items = f"{about['vectors_of']}: {about['items']:,} items of {about['dim']} numbers"
    title = f"{items}, {about['queries']:,} {about['queries_are']}, k = {k}"
    rows = [_row(one) for one in swept.found]
    print_table(rows, title=title, right=frozenset(rows[0]) - {SETTING}, whole=frozenset({SETTING}))
    print("*: no other finds more in less time. p50, p99: ms of single queries, as many as `timed`; q/s: in a batch")
    print("of all; build: s.\n")
    shown = [one for one in swept.found if one.on_front or one.is_default or one is swept.chosen]
    for heading, is_random in (("at random", True), ("as a shop filters", False)):
        filtered = [_filtered_row(one, [f for f in one.filtered if (f.of == RANDOM) == is_random]) for one in shown]
        if len(filtered[0]) > 1:
            title = f"recall@{k} where filters keep a share, {heading}"
            print_table(filtered, title=title, whole=frozenset({SETTING.strip()}))
    print("In brackets: what lists or graph alone would find, where so little is kept that it is searched exactly.")
    print(f"{swept.folder / FIGURE}    {swept.folder / RESULT}    {about['seconds']:,.0f} s")
    if swept.chosen is not None:
        print("\nThe fastest that does what is asked:\n")
        print("\n".join(f"  {line}" for line in swept.chosen.lines))
    elif any(value is not None for value in target):
        print("\nNone of these settings does what is asked.")


SETTING = "  setting"


def _row(one: Measured) -> dict[str, Any]:
    return {
        SETTING: _setting(one),
        "recall": f"{one.recall:.4f}",
        "p50": f"{one.p50_ms:.3g}",
        "p99": f"{one.p99_ms:.3g}",
        "timed": f"{one.timed_queries:,}",
        "q/s": f"{one.queries_per_s:,.0f}",
        "MiB": f"{one.bytes / 2**20:,.0f}" if one.bytes >= 10 * 2**20 else f"{one.bytes / 2**20:.1f}",
        "build": f"{one.build_s:,.1f}",
    }


def _setting(one: Measured) -> str:
    mark = "*" if one.on_front else " "
    return f"{mark} {_name(one)}"


def _name(one: Measured) -> str:
    return " ".join(filter(None, [one.label, one.search_label, "(default)" if one.is_default else ""]))


def _filtered_row(one: Measured, filters: Sequence[Filtered]) -> dict[str, Any]:
    from triptych.index.sweep import RANDOM

    row: dict[str, Any] = {SETTING.strip(): _name(one)}
    for kept in filters:
        alone = kept.recall_unaided
        narrow = "" if alone is None or alone == kept.recall else f" ({alone:.2f})"
        column = f"{'' if kept.of == RANDOM else kept.of}\n{100 * kept.rate:.2g} %".strip()
        while column in row:  # two of the same kind that keep as much
            column += " "
        row[column] = f"{kept.recall:.2f}{narrow}"
    return row
