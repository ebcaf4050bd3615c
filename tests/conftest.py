"""Fixtures and options shared by every test: real data, the device's threads, the line that counts real-data tests."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from small_demo import DEMO_SETTINGS, REPOSITORY, SMALL_DECODER, SMALL_RANKER


def real_data_root() -> Path | None:
    """Folder of the real data sets: TRIPTYCH_DATA, else ``shared/data`` beside the checkout."""
    named = os.environ.get("TRIPTYCH_DATA")
    root = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    return root if root.is_dir() else None


def pytest_configure(config: pytest.Config) -> None:
    root = real_data_root()
    if root is not None:  # commands that the tests start find it as well
        os.environ["TRIPTYCH_DATA"] = str(root)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The files that take minutes come first, so that no worker is left alone with one at the end.
    long = ("learning", "integration", "browser")
    items.sort(key=lambda item: long.index(folder) if (folder := item.path.parent.name) in long else len(long))
    if real_data_root() is None:
        reason = "real data absent: set TRIPTYCH_DATA to the folder that holds fashion_products, grocery_store, ..."
        for item in items:
            if item.get_closest_marker("real_data"):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Say how many tests met real data; under xdist only the controller prints."""
    if hasattr(config, "workerinput"):
        return
    counts = {"ran": 0, "skipped": 0}
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if "real_data" in getattr(report, "keywords", {}) and getattr(report, "when", None) in ("call", "setup"):
                if outcome == "skipped":
                    counts["skipped"] += 1
                elif outcome in ("passed", "failed") and report.when == "call":
                    counts["ran"] += 1
    terminalreporter.write_line(f"real-data tests: {counts['ran']} ran, {counts['skipped']} skipped")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets; tests that use it carry ``@pytest.mark.real_data``."""
    root = real_data_root()
    assert root is not None, "mark the test with real_data"
    return root


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A finished run of a small demo; made once, by the first worker that asks. Read it, never change it."""
    return _demo("demo_run", (), tmp_path_factory=tmp_path_factory, request=request)


@pytest.fixture(scope="session")
def hybrid_run(demo_run: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The small demo with its channels fused and a decoder of semantic IDs; all else is found finished. Read it, never
    change it."""
    fused = 'hybrid={"channels":["recall","dense","bm25","new"],"quotas":{"new":2}}'
    settings = (fused, f"generative={json.dumps(SMALL_DECODER)}")
    return _demo("hybrid_run", settings, tmp_path_factory=tmp_path_factory, request=request, start=demo_run)


@pytest.fixture(scope="session")
def ranked_run(demo_run: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The small demo with a ranker that reads the encoder's vectors. Read it, never change it."""
    less = ("compare=[]", "photo_queries=0", "evaluation.examples=0", "evaluation.bootstrap_repeats=100")
    settings = (f"ranker={json.dumps(SMALL_RANKER)}", "rank_candidates=50", *less)
    return _demo("ranked_run", settings, tmp_path_factory=tmp_path_factory, request=request, start=demo_run)


def _demo(
    name: str,
    settings: tuple[str, ...],
    *,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    start: Path | None = None,
) -> Path:
    """Run the small demo with further settings, over what another run has finished."""
    from triptych.recipes import resolve
    from triptych.recipes.pipeline import run_pipeline

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base  # beside the workers' own folders
    out = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if start is not None and not out.exists():
            shutil.copytree(start, out)
        resolved = resolve("demo", settings=(*DEMO_SETTINGS, *settings))
        run_pipeline(resolved.config, base=resolved.base, out=out)
    return out
