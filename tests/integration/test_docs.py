"""The Python of the guides is true: every block imports what it names, and runs over a finished run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from small_demo import REPOSITORY

PAGES = sorted(page for page in (REPOSITORY / "docs").rglob("*.md") if "```python" in page.read_text())
SMALLER = {
    '{"kind": "din"}': '{"kind": "din", "dim": 8, "history_items": 5, "hidden_dims": [16]}',
    '"negative_rate": 0.25': '"negative_rate": 0.02, "validations": 1, "validation_samples": 2000',
    '"train_behaviours": "lora_cache"}': '"train_behaviours": "lora_cache", "dim": 16}, "epochs": 0.01, '
    '"model": {"kind": "din", "dim": 8, "history_items": 5}, "validations": 1, "validation_samples": 2000',
    '{"kind": "em3"}': '{"kind": "em3"}, "epochs": 1, "validations": 1',
}
"""What a page shows → the same of less work."""


def python_of(page: Path) -> str:
    """The blocks of a page as one program: a later one has the names of those before it."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_is_imported_and_every_import_is_used(page: Path):
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--select", "E9,F", "-"],
        input=python_of(page),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_references_name_files_that_are_there_and_every_paper_of_the_code():
    text, source = (REPOSITORY / "docs" / "references.md").read_text(), REPOSITORY / "src" / "triptych"
    paths = set(re.findall(r"`([a-z_0-9/]+(?:\.py|/))`", text)) - {"src/triptych/"}
    assert len(paths) > 50
    assert [path for path in sorted(paths) if not (source / path).exists()] == []
    arxiv = re.compile(r"\b\d{4}\.\d{5}\b")
    named = {number for file in source.rglob("*.py") for number in arxiv.findall(file.read_text())}
    assert named and named <= set(arxiv.findall(text))


def a_shop(folder: Path, request: pytest.FixtureRequest) -> None:
    shutil.copytree(request.getfixturevalue("demo_run"), folder / "runs" / "shop")


def baby(folder: Path, _: pytest.FixtureRequest) -> None:
    """Forty users who chose ten of thirty items each, in MMRec's format."""
    rng = np.random.default_rng(0)
    (folder / "baby").mkdir()
    rows = ["userID\titemID\trating\ttimestamp\tx_label"]
    for user in range(40):
        for place, item in enumerate(rng.permutation(30)[:10]):
            rows.append(f"{user}\t{item}\t5.0\t{1328140800 + 100 * user + place}\t{max(0, place - 7)}")
    (folder / "baby" / "baby.inter").write_text("\n".join([*rows, ""]))
    for name, dim in (("image", 6), ("text", 4)):
        np.save(folder / "baby" / f"{name}_feat.npy", rng.standard_normal((30, dim)).astype(np.float32))


def a_model(folder: Path, _: pytest.FixtureRequest) -> None:
    pytest.importorskip("transformers")
    tiny_models.save(tiny_models.clip, folder / "models" / "clip-vit-b32")


def nothing(folder: Path, _: pytest.FixtureRequest) -> None: ...


GIVEN: dict[str, Callable[[Path, pytest.FixtureRequest], None]] = {
    "extending": nothing,
    "id-tables": nothing,
    "pretrained-models": a_model,
    "ranking": a_shop,
    "recall": baby,
    "semantic-ids": a_shop,
}
"""What a page takes for granted."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_guide_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    GIVEN[page.stem](tmp_path, request)
    monkeypatch.chdir(tmp_path)
    text = python_of(page)
    for shown, smaller in SMALLER.items():
        text = text.replace(shown, smaller)
    names: dict[str, Any] = {"__name__": page.stem}
    exec(compile(text, page.name, "exec", dont_inherit=True), names)  # not with the annotations of this file
    if page.stem == "extending":
        assert names["CONFIG"]().prepare(tmp_path).items.path == "items.parquet"
        assert names["CONFIG"]().card().name == "coffee"
    if page.stem == "ranking":
        ranker, new = names["ranker"], np.array([names["catalogue"].num_items])
        asking = ranker.features.of_words(user=None, query="a", cell=None, time_us=names["now_us"], past=None)
        assert np.isfinite(ranker.score(asking, item_rows=new)).all()
        expected = names["trained"].score(names["asking"], item_rows=np.arange(100))
        np.testing.assert_allclose(names["scores"], expected, rtol=1e-4, atol=1e-4)
    if page.stem == "semantic-ids":
        assert names["vectors"].shape == (3, names["load_vectors"](names["embeddings"]).shape[1])
