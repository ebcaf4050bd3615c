"""The command line: one file per command; what is heavy is imported inside the command.

Exit codes: 0 done, 1 ``check`` or ``score`` found faults under ``--strict``, 2 something the user can mend (told in one
sentence), 130 interrupted. Ctrl-C is how ``serve`` is done: 0.
"""

from __future__ import annotations

import sys

import typer

from triptych.cli import (
    artifacts,
    check,
    config,
    doctor,
    export,
    index,
    recommend,
    report,
    reproduce,
    run,
    score,
    search,
    semantic_ids,
    serve,
    similar,
)
from triptych.foundation.errors import TriptychError

app = typer.Typer(
    name="triptych",
    help="From a catalogue with photos and a click log to a search page and a ranked feed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(check.check)
app.command()(run.run)
app.command()(report.report)
app.command()(reproduce.reproduce)
app.command()(serve.serve)
app.command()(search.search)
app.command()(recommend.recommend)
app.command()(similar.similar)
app.command()(score.score)
app.command()(export.export)
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(index.app, name="index")
app.command(name="semantic-ids")(semantic_ids.semantic_ids)
app.add_typer(config.app, name="config")
app.command()(doctor.doctor)


def main() -> None:
    """Run the command line; a mistake of the user's becomes one sentence and exit code 2."""
    try:
        app()
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `triptych search ... | head`
        sys.stderr.close()
        sys.exit(0)
