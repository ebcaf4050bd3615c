"""The README is true: its Python runs, its config parses, its commands exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from small_demo import REPOSITORY
from typer.testing import CliRunner

from triptych.recipes.config import RunConfig

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_of_the_readme_runs(demo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(demo_run)
    Image.new("RGB", (120, 90), (200, 30, 30)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec("\n".join(blocks("python")), names)
    shop = names["shop"]
    assert len(names["hits"]) == 10
    assert shop.search("red enamel teapot", k=shop.num_items)
    assert "new-1" in {hit.item_id for hit in shop.search(photo="photo.jpg", k=5)}


def test_the_config_of_the_readme_is_a_config():
    (text,) = blocks("toml")
    RunConfig().merged(tomllib.loads(text))


def test_every_command_the_readme_names_exists():
    from triptych.cli import app

    commands = set(re.findall(r"triptych ([\w-]+)", README)) - {"reproduce"}
    assert {"check", "run", "report", "serve", "search", "config", "doctor"} <= commands
    for command in sorted(commands):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, f"README names `triptych {command}`, which does not exist"
