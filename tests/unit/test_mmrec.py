"""MMRec's folders, written here in their format: numbers, the split they bring, vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych.data.check import Checked, check_tables
from triptych.data.datasets.mmrec import MmrecConfig
from triptych.data.tables import read_events, read_items
from triptych.foundation.errors import DataError
from triptych.foundation.registry import config_class

ROWS = """userID\titemID\trating\ttimestamp\tx_label
1\t0\t5.0\t1328140800\t0
0\t10\t2.0\t1330387200\t0
1\t2\t4.0\t1328400000\t1
0\t3\t4.0\t1366675200\t2
"""


def write(folder: Path, text: str = ROWS, *, name: str = "toy") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.inter").write_text(text)
    return folder


def read(config: MmrecConfig, out: Path) -> Checked:
    tables = config.prepare(out)
    assert tables.events is not None
    return check_tables(read_items(tables.items, base=out), read_events(tables.events, base=out), None)


def test_the_registry_finds_it():
    assert config_class("triptych.data.datasets", "mmrec") is MmrecConfig


def test_an_items_row_is_its_number_and_the_label_its_part(tmp_path: Path):
    folder = write(tmp_path / "toy")
    checked = read(MmrecConfig(path=str(folder)), tmp_path)
    assert checked.items["item_id"].to_list() == [str(number) for number in range(11)]  # 10 is the largest met
    assert checked.events is not None
    assert checked.events.select("user", "item_id", "kind", "part").rows() == [
        ("1", "0", "click", "train"),
        ("0", "10", "click", "train"),
        ("1", "2", "click", "validation"),
        ("0", "3", "click", "test"),
    ]
    assert checked.events["time"].dt.epoch("s").to_list() == [1328140800, 1330387200, 1328400000, 1366675200]
    assert checked.rejected == {}


def test_without_a_timestamp_the_order_of_the_rows_stands_for_time(tmp_path: Path):
    folder = write(tmp_path / "toy", "userID\titemID\tx_label\n0\t1\t0\n0\t0\t1\n1\t1\t0\n")
    events = read(MmrecConfig(path=str(folder)), tmp_path).events
    assert events is not None
    assert events["time"].is_sorted()
    assert events["time"].n_unique() == 3


def test_vectors_are_by_item_row(tmp_path: Path):
    folder = write(tmp_path / "toy")
    image = np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)
    np.save(folder / "image_feat.npy", image)
    np.save(folder / "text_feat.npy", image[:, :2])
    config = MmrecConfig(path=str(folder))
    vectors = config.vectors()
    assert list(vectors) == ["image", "text"]
    np.testing.assert_array_equal(vectors["image"], image)
    assert {file.name for file in config.source_files()} == {"toy.inter", "image_feat.npy", "text_feat.npy"}
    np.save(folder / "text_feat.npy", image[:4])
    with pytest.raises(
        DataError, match=r"text_feat\.npy has the shape \(4, 6\); .* each of the 11 items of toy\.inter"
    ):
        config.vectors()


def test_mistakes_are_one_sentence(tmp_path: Path):
    folder = write(tmp_path / "toy")
    write(folder, name="other")
    with pytest.raises(DataError, match=r"holds other\.inter, toy\.inter; say which with dataset\.name\."):
        MmrecConfig(path=str(folder)).prepare(tmp_path)
    assert read(MmrecConfig(path=str(folder), name="toy"), tmp_path).events is not None
    with pytest.raises(DataError, match=r"there is no baby\.inter in it \(other\.inter, toy\.inter\)"):
        MmrecConfig(path=str(folder), name="baby").prepare(tmp_path)
    with pytest.raises(DataError, match="there is no NAME.inter in it \\(no such folder\\)"):
        MmrecConfig(path=str(tmp_path / "nowhere")).prepare(tmp_path)
    write(folder, "user\titem\n0\t1\n")
    with pytest.raises(DataError, match=r"toy\.inter has no column 'userID' \(it has user, item\)"):
        MmrecConfig(path=str(folder), name="toy").prepare(tmp_path)
    write(folder, ROWS + "7\tB00X\t1\t1366675200\t0\n")
    with pytest.raises(DataError, match=r"toy\.inter, line 6: itemID is 'B00X'; MMRec numbers users and items from 0"):
        MmrecConfig(path=str(folder), name="toy").prepare(tmp_path)


def test_a_label_that_is_no_part_is_named_and_its_event_is_in_none(tmp_path: Path):
    folder = write(tmp_path / "toy", ROWS + "1\t5\t1\t1366675201\t7\n")
    checked = read(MmrecConfig(path=str(folder)), tmp_path)
    assert [(fault.fault, fault.count, fault.example) for fault in checked.faults] == [("unknown_part", 1, "7")]
    assert checked.events is not None
    assert checked.events["part"].to_list()[-1] is None


@pytest.mark.real_data
def test_the_published_baby_graph(real_data: Path, tmp_path: Path):
    """The graph's own counts survive a trip through MMRec's format."""
    graph = pl.read_parquet(real_data / "amazon_mm_ids" / "baby_diffmm.parquet")
    labels = {"train": 0, "valid": 1, "test": 2}
    rows = graph.select(
        userID="user", itemID="item", x_label=pl.col("split").replace_strict(labels, return_dtype=pl.Int64)
    )
    folder = tmp_path / "baby"
    folder.mkdir()
    rows.write_csv(folder / "baby.inter", separator="\t")
    checked = read(MmrecConfig(path=str(folder)), tmp_path)
    assert (len(checked.items), checked.summary.num_users) == (7_050, 19_445)
    assert checked.events is not None
    counts = dict(checked.events["part"].value_counts().iter_rows())
    assert counts == {"train": 118_551, "validation": 21_682, "test": 20_559}
