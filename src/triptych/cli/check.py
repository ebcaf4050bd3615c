"""``triptych check``: what is in the tables, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.output import AsJson, log_on_stderr, print_json, print_table

if TYPE_CHECKING:
    from triptych.data.check import Checked
    from triptych.recipes.config import RunConfig

_MUCH = 0.1
"""Share of a table's rows from which on losing them is pointed out."""


def check(
    config: Annotated[Path | None, typer.Argument(help="Config file that names the items and events tables.")] = None,
    *,
    config_option: Annotated[Path | None, typer.Option("--config", help="The same, as an option.")] = None,
    items: Annotated[Path | None, typer.Option(help="Items table: file, glob or folder.")] = None,
    events: Annotated[Path | None, typer.Option(help="Events table: file, glob or folder.")] = None,
    judgements: Annotated[Path | None, typer.Option(help="Judgements table: file, glob or folder.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything had to be set aside.")] = False,
    photos: Annotated[bool, typer.Option("--photos/--no-photos", help="Decode every photo as well.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder to write the rejected rows to, with their reasons.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check tables and photos: how columns were understood, each fault by table, column and row, and what is done.

    Exit code 0: clean, or faulty rows are set aside; 1: something was set aside, under --strict; 2: unusable.
    """
    from triptych.data.check import exit_code, render, set_aside_photos, write_rejected
    from triptych.data.photo_store import check_photos
    from triptych.recipes import resolve
    from triptych.recipes.tables import read_and_check

    overrides = list(settings or ())
    for table, path in (("items", items), ("events", events), ("judgements", judgements)):
        if path is not None:
            overrides.append(f"{table}.path={path.resolve()}")
    source = config or config_option
    resolved = resolve(str(source) if source else "shop", settings=overrides)
    with log_on_stderr():
        checked = read_and_check(resolved.config, base=resolved.base)
    if photos:
        kept = resolved.config.catalogue
        others = [photo for _, photo in checked.other_photos(max_photos=kept.max_photos)]
        broken = check_photos([*checked.photo_sources(), *others], max_pixels=kept.max_photo_pixels)
        checked = set_aside_photos(checked, broken, max_photos=kept.max_photos)
    if out is not None:
        write_rejected(checked, out / "rejected")
    if as_json:
        print_json(render(checked))
    else:
        _print(checked)
        if out is not None or checked.rejected:
            where = f"{out / 'rejected'}/*.parquet" if out is not None else "add --out DIR to write them"
            print(f"\nrejected rows, with reasons: {where if checked.rejected else 'none, nothing written'}")
        for line in _doubts(checked, resolved.config):
            print(f"\nlook: {line}")
        print(f"\n{_next(checked, resolved.config, source=source)}")
    raise typer.Exit(exit_code(checked, strict=strict))


def _doubts(checked: Checked, config: RunConfig) -> list[str]:
    """Say what is no fault and yet hardly meant."""
    summary, found = checked.summary, []
    if summary.title_rate == 0 and config.items is not None and config.items.title != "":
        found.append(
            "no item has a title, so nothing is found by words. Name the column with title under [items], or say "
            'title = "".'
        )
    for table, read in summary.rows_read.items():
        lost = 1 - summary.rows_kept[table] / read
        if lost > _MUCH:
            found.append(f"{lost:.0%} of the rows of {table} are set aside. Is the first fault of {table} above meant?")
    return found


def _next(checked: Checked, config: RunConfig, *, source: Path | None) -> str:
    """Say whether a run would find what it learns from, and how it is started."""
    from triptych.data.text import require_text_features
    from triptych.foundation.errors import TriptychError
    from triptych.recipes.tables import require_behaviour, require_tables

    if checked.events is not None and checked.summary.num_positives == 0:
        return _no_positives(config)
    events = checked.events
    has_queries = events is None or events["query"].null_count() < len(events)
    try:
        require_tables(config)
        require_behaviour(config, has_queries=has_queries, has_users=checked.summary.num_users > 0)
        require_text_features(config.pretrain.encoder.title_features, roles=checked.roles)
    except TriptychError as error:
        return f"before a run: {error}"
    return f"next: triptych run {source} --out runs/NAME" if source else "next: write these settings into a config file"


def _no_positives(config: RunConfig) -> str:
    if config.events is not None and config.events.rating:
        return (
            f"No rating in '{config.events.rating}' reaches positive_rating = {config.events.positive_rating:g}: "
            "nothing can be learned. Set it lower."
        )
    return (
        "No event is a click, cart or order: nothing can be learned. Is a word missing under [events]?\n"
        '  kinds = { opened = "click" }'
    )


def _print(checked: Checked) -> None:
    """Print how columns were understood, what the tables hold, and the faults."""
    columns = [row for mapped in checked.tables.values() for row in mapped.describe()]
    print_table(
        [
            {
                "table": row["table"],
                "column": row["column"],
                "taken for": row["field"] if row["role"] is None else f"{row['role']} feature",
                "how": row["how"],
            }
            for row in columns
        ],
        title="Columns",
    )
    summary = checked.summary
    facts = [
        {"what": f"{table} read / kept", "value": f"{rows:,} / {summary.rows_kept[table]:,}"}
        for table, rows in summary.rows_read.items()
    ]
    facts += [
        {"what": "items with title / photo", "value": f"{summary.title_rate:.1%} / {summary.photo_rate:.1%}"},
        {"what": "users", "value": f"{summary.num_users:,}"},
        {"what": "distinct queries", "value": f"{summary.num_queries:,}"},
        {"what": "events by kind", "value": ", ".join(f"{n:,} {kind}" for kind, n in summary.events_by_kind.items())},
    ]
    if summary.first_time and summary.last_time:
        span = f"{summary.first_time:%Y-%m-%d %H:%M} to {summary.last_time:%Y-%m-%d %H:%M} UTC"
        facts.append({"what": "time", "value": span})
    print_table(facts, title="What is there")
    if not checked.faults:
        print("No faults.")
        return
    print_table(
        [
            {
                "table": fault.table,
                "column": fault.column,
                "fault": fault.meaning,
                "count": f"{fault.count:,}",
                "first rows": ", ".join(str(row + 1) for row in fault.first_rows),
                "example": fault.example,
                "what is done": fault.action,
            }
            for fault in checked.faults
        ],
        title="Faults",
        right=frozenset({"count"}),
    )
