"""`import triptych` stays light: checked by what it imports, not by a clock."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "polars", "faiss", "matplotlib", "fastapi", "bm25s", "PIL", "numpy")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*[n for n in {HEAVY!r} if n in sys.modules])"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_triptych_loads_nothing_heavy():
    assert loaded_after("import triptych") == set()


def test_the_command_line_help_loads_nothing_heavy():
    statement = (
        "import contextlib, io\nfrom typer.testing import CliRunner\nfrom triptych.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0, result.output"
    )
    assert loaded_after(statement) == set()
