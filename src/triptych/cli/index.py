"""``triptych index``: which index a run's vectors want."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from triptych.index.sweep import Measured

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
    as_json: AsJson = False,
) -> None:
    """Build indexes over a run's item vectors, those that answer words, and ask them its validation queries.

    Prints recall, latency, throughput, bytes and build time of each setting, `*` where no other is both nearer and
    faster, and, given a target, the config lines of the fastest setting that meets it.
    """
    from triptych.index.sweep import Extent, Target
    from triptych.recipes.index_sweep import FIGURE, RESULT, sweep_run

    target = Target(recall, p99_ms, max_gib)
    swept = sweep_run(run, kinds=kinds or KINDS, target=target, extent=Extent(k=k, seconds=seconds), queries=queries)
    if as_json:
        chosen = None if swept.chosen is None else swept.chosen.dump()
        print_json({**swept.about, "chosen": chosen, "found": [one.dump() for one in swept.found]})
        return
    about = swept.about
    items = f"{about['vectors_of']}: {about['items']:,} items of {about['dim']} numbers"
    title = f"{items}, {about['queries']:,} {about['queries_are']}, k = {k}"
    rows = [_row(one, k=k) for one in swept.found]
    whole = frozenset({"index", "settings", "filtered"})
    print_table(rows, title=title, right=frozenset(rows[0]) - {"", *whole}, whole=whole)
    shares = ", ".join(f"{100 * filtered.rate:g} %" for filtered in swept.found[0].filtered)
    print(f"q/s: queries per second in a batch. filtered: recall with {shares} of the items kept")
    print(f"{swept.folder / FIGURE}    {swept.folder / RESULT}")
    if swept.chosen is not None:
        print("\nThe fastest that does what is asked:\n")
        print("\n".join(f"  {line}" for line in swept.chosen.lines))
    elif any(value is not None for value in target):
        print("\nNone of these settings does what is asked.")


def _row(one: Measured, *, k: int) -> dict[str, Any]:
    searched = " ".join(f"{name}={value}" for name, value in one.settings.items() if name != "storage")
    row: dict[str, Any] = {
        "": "*" if one.on_front else "",
        "index": one.label,
        "settings": searched,
        f"recall@{k}": f"{one.recall:.4f}",
        "p50 ms": f"{one.p50_ms:.2f}",
        "p99 ms": f"{one.p99_ms:.2f}",
        "q/s": f"{one.queries_per_s:,.0f}",
        "MiB": f"{one.bytes / 2**20:,.1f}",
        "build s": f"{one.build_s:,.1f}",
    }
    row["filtered"] = " ".join(f"{filtered.recall:.2f}" for filtered in one.filtered)
    return row
