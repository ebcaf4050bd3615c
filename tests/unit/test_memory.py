"""What ingestion will take is told beforehand: more than it takes, not much more, and too much is refused."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych.data import memory
from triptych.data.memory import estimate
from triptych.data.schema import EventsConfig, ItemsConfig, Table
from triptych.foundation.errors import DataError
from triptych.foundation.machine import available_bytes, held_bytes, most_held_bytes
from triptych.recipes.config import RunConfig
from triptych.recipes.tables import read_and_check

WRITE = {"parquet": pl.DataFrame.write_parquet, "csv": pl.DataFrame.write_csv, "jsonl": pl.DataFrame.write_ndjson}

CHILD = """
import json, sys
from pathlib import Path
from triptych.data import catalogue, memory
from triptych.data.schema import Table
from triptych.foundation.machine import most_held_bytes
from triptych.recipes.config import RunConfig
from triptych.recipes.tables import read_and_check
memory._FIRST, memory._LATER = memory._Size(2**16, 2**22), memory._Size(2**13, 2**19)  # a small log has a middle, too
base, form = Path(sys.argv[1]), sys.argv[2]
config = RunConfig.parse({"items": {"path": f"items.{form}"}, "events": {"path": f"events.{form}"}})
told, needs = memory.estimate_peak({Table.ITEMS: config.items, Table.EVENTS: config.events}, base=base)
checked = read_and_check(config, base=base)
catalogue.build(config.catalogue, tables=checked, inputs={}, out=base / "catalogue")
print(json.dumps({"rows": needs[1].num_rows, "told": told, "taken": most_held_bytes()}))
"""


def write_tables(folder: Path, *, form: str, num_events: int, num_items: int = 5_000) -> None:
    """Write items and a log whose users and queries never end."""
    rng = np.random.default_rng(0)
    pl.DataFrame({"item_id": range(num_items)}).select(
        pl.format("item-{}", "item_id").alias("item_id"), title=pl.format("a red thing called {}", "item_id")
    ).pipe(WRITE[form], folder / f"items.{form}")
    pl.DataFrame({"row": range(num_events), "item": rng.integers(0, num_items, num_events)}).select(
        user=pl.format("user-{}", pl.col("row") // 3),
        query=pl.format("a red thing like {}", pl.col("row") * 7919 % (num_events // 2)),
        item_id=pl.format("item-{}", "item"),
        time=1_700_000_000 + pl.col("row"),
        kind=pl.lit("click"),
        position=pl.col("row") % 10,
    ).pipe(WRITE[form], folder / f"events.{form}")


@pytest.mark.parametrize(("form", "num_events"), [("parquet", 1_000_000), ("csv", 500_000), ("jsonl", 300_000)])
def test_the_estimate_is_more_than_is_taken_and_not_thrice_as_much(form: str, num_events: int, tmp_path: Path) -> None:
    write_tables(tmp_path, form=form, num_events=num_events)
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), form], check=True, capture_output=True)
    found = json.loads(done.stdout)
    assert found["rows"] == pytest.approx(num_events, rel=0.1)
    assert found["taken"] <= found["told"] <= 3 * found["taken"]


def test_more_events_and_more_words_take_more(tmp_path: Path) -> None:
    sizes = []
    for number, num_events in enumerate((10_000, 20_000)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_tables(folder, form="parquet", num_events=num_events)
        needs = [
            estimate(EventsConfig(path="events.parquet", query=query), base=folder, table=Table.EVENTS)
            for query in (None, "")
        ]
        assert [need.num_rows for need in needs] == [num_events, num_events]
        sizes.append([need.num_bytes for need in needs])
    assert 1.7 * sizes[0][0] < sizes[1][0] < 2 * sizes[0][0]  # the items stay the same
    assert sizes[0][1] < 0.75 * sizes[0][0]  # a column that is not used is not read


def test_packed_text_counts_as_what_it_unpacks_to(tmp_path: Path) -> None:
    write_tables(tmp_path, form="csv", num_events=3_000)
    plain = estimate(EventsConfig(path="events.csv"), base=tmp_path, table=Table.EVENTS)
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress((tmp_path / "events.csv").read_bytes()))
    assert estimate(EventsConfig(path="packed.csv.gz"), base=tmp_path, table=Table.EVENTS) == plain


def test_many_packed_parts_count_as_what_they_unpack_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words go on being new in every part, which only a sample of a later part can tell."""
    monkeypatch.setattr(memory, "_FIRST", memory._Size(2**16, 2**18))
    monkeypatch.setattr(memory, "_LATER", memory._Size(2**13, 2**16))
    write_tables(tmp_path, form="csv", num_events=30_000)
    log = pl.read_csv(tmp_path / "events.csv", infer_schema=False)
    for name in ("plain", "packed"):
        (tmp_path / name).mkdir()
    for part, first in enumerate(range(0, 30_000, 5_000)):
        text = log[first : first + 5_000].write_csv().encode()
        (tmp_path / "plain" / f"{part}.csv").write_bytes(text)
        (tmp_path / "packed" / f"{part}.csv.gz").write_bytes(gzip.compress(text))
    plain, packed = (
        estimate(EventsConfig(path=name), base=tmp_path, table=Table.EVENTS).num_bytes for name in ("plain", "packed")
    )
    assert packed == pytest.approx(plain, rel=0.15)


def test_photos_in_the_table_count(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).bytes(50_000)
    for name, more in (("without", {}), ("with", {"photo": [photo] * 100})):
        pl.DataFrame({"item_id": [f"i{n}" for n in range(100)], **more}).write_parquet(tmp_path / f"{name}.parquet")
    without, with_photos = (
        estimate(ItemsConfig(path=f"{name}.parquet"), base=tmp_path, table=Table.ITEMS).num_bytes
        for name in ("without", "with")
    )
    assert 100 * 50_000 < with_photos - without < 3 * 100 * 50_000


def test_a_json_array_and_a_damaged_file_are_estimated_by_size(tmp_path: Path) -> None:
    (tmp_path / "array.json").write_text(json.dumps([{"item_id": str(n), "title": "red"} for n in range(50)]))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing else")
    for name in ("array.json", "bad.parquet"):
        need = estimate(ItemsConfig(path=name), base=tmp_path, table=Table.ITEMS)
        assert need.num_bytes > (tmp_path / name).stat().st_size


def test_what_will_not_fit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write_tables(tmp_path, form="parquet", num_events=10_000)
    tables = {"items": {"path": "items.parquet"}, "events": {"path": "events.parquet"}}
    with pytest.raises(DataError, match=r"takes about \d+\.\d GiB of memory for about 5,000 items, 10,000 ") as told:
        read_and_check(RunConfig.parse({**tables, "memory_limit_gib": 0.1}), base=tmp_path)
    assert "memory_limit_gib allows 0.1 GiB" in str(told.value)
    advice = float(str(told.value).rsplit("memory_limit_gib = ", 1)[1].rstrip("."))
    assert read_and_check(RunConfig.parse({**tables, "memory_limit_gib": advice}), base=tmp_path).summary.rows_read


def test_the_estimate_is_said_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tables(tmp_path, form="csv", num_events=1_000)
    with caplog.at_level(logging.INFO, logger="triptych"):
        read_and_check(
            RunConfig.parse({"items": {"path": "items.csv"}, "events": {"path": "events.csv"}}), base=tmp_path
        )
    assert caplog.messages[0].startswith("reading tables: about ")
    assert "5,000 items, 1,000 events; there are " in caplog.messages[0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not say what a process holds")
def test_memory_is_counted() -> None:
    before = held_bytes()
    block = np.ones(2**24)  # 128 MiB
    assert held_bytes() - before > 100 * 2**20
    del block
    assert most_held_bytes() >= before + 100 * 2**20
    assert 0 < available_bytes() < 2**44
