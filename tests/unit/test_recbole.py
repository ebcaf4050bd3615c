"""RecBole's atomic files, written here in their format."""

from __future__ import annotations

from pathlib import Path

import pytest

from triptych.data.check import Checked, check_tables
from triptych.data.datasets.recbole import RecboleConfig
from triptych.data.schema import Role
from triptych.data.tables import read_events, read_items
from triptych.foundation.errors import DataError
from triptych.foundation.registry import config_class

INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
196\t242\t3\t881250949
186\t302\t5\t891717742
196\t302\t4\t881250950
22\t377\t1\t878887116
"""
ITEM = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tlength:float\tvector:float_seq
242\tKolya\t1996\tComedy\t105\t0.1 0.2
302\tL.A. Confidential\t1997\tCrime Film-Noir, Mystery\t\t0.3 0.4
9\tUnrated\t\t\t90\t0 0
"""


def write(folder: Path, *, inter: str = INTER, item: str | None = ITEM, name: str = "ml-100k") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.inter").write_text(inter)
    if item is not None:
        (folder / f"{name}.item").write_text(item)
    return folder


def read(config: RecboleConfig, out: Path) -> Checked:
    tables = config.prepare(out)
    assert tables.events is not None
    return check_tables(read_items(tables.items, base=out), read_events(tables.events, base=out), None)


def test_the_registry_finds_it():
    assert config_class("triptych.data.datasets", "recbole") is RecboleConfig


def test_types_decide_what_a_field_becomes(tmp_path: Path):
    folder = write(tmp_path / "ml-100k")
    checked = read(RecboleConfig(path=str(folder)), tmp_path)
    # 377 was rated and is not described
    assert checked.items["item_id"].to_list() == ["242", "302", "9", "377"]
    assert checked.items["title"].to_list() == ["Kolya", "L.A. Confidential", "Unrated", None]
    assert checked.items["class"].to_list() == [["Comedy"], ["Crime", "Film-Noir", "Mystery"], None, None]
    assert checked.items["release_year"].to_list() == ["1996", "1997", None, None]
    assert checked.items["length"].to_list() == [105.0, None, 90.0, None]
    assert "vector" not in checked.items.columns
    roles = {"release_year": Role.CATEGORICAL, "class": Role.MULTI, "length": Role.NUMERIC}
    assert checked.roles == roles
    assert checked.events is not None
    assert checked.events.select("user", "item_id", "kind").rows() == [
        ("196", "242", "click"),
        ("186", "302", "click"),
        ("196", "302", "click"),
        ("22", "377", "click"),
    ]
    assert checked.events["time"].dt.epoch("s")[0] == 881250949
    assert {file.name for file in RecboleConfig(path=str(folder)).source_files()} == {"ml-100k.inter", "ml-100k.item"}


def test_a_rating_may_divide_clicks_from_impressions(tmp_path: Path):
    folder = write(tmp_path / "ml-100k")
    events = read(RecboleConfig(path=str(folder), positive_rating=4), tmp_path).events
    assert events is not None
    assert events["kind"].to_list() == ["impression", "click", "click", "impression"]


def test_interactions_alone_are_enough(tmp_path: Path):
    text = "uid:token\tiid:token\na\tx\nb\ty\na\ty\n"
    folder = write(tmp_path / "bare", inter=text, item=None)
    checked = read(RecboleConfig(path=str(folder), user="uid", item="iid"), tmp_path)
    assert checked.items["item_id"].to_list() == ["x", "y"]
    assert checked.events is not None
    assert checked.events["time"].is_sorted()


def test_three_files_bring_a_split(tmp_path: Path):
    folder = tmp_path / "split"
    folder.mkdir()
    for part, rows in {"train": "a\tx\nb\tx\n", "valid": "a\ty\n", "test": "a\tz\n"}.items():
        (folder / f"toy.{part}.inter").write_text("user_id:token\titem_id:token\n" + rows)
    (folder / "toy.item").write_text("item_id:token\ttitle:token\nx\tThe X\n")
    checked = read(RecboleConfig(path=str(folder)), tmp_path)
    assert checked.events is not None
    assert checked.events.select("item_id", "part").rows() == [
        ("x", "train"),
        ("x", "train"),
        ("y", "validation"),
        ("z", "test"),
    ]
    assert checked.events["time"].n_unique() == 4
    assert checked.items["title"].to_list() == ["The X", None, None]


def test_mistakes_are_one_sentence(tmp_path: Path):
    folder = write(tmp_path / "ml-100k")
    with pytest.raises(DataError, match=r"ml-100k\.inter has no field 'userid'\. Did you mean 'user_id'\?"):
        RecboleConfig(path=str(folder), user="userid").prepare(tmp_path)
    with pytest.raises(DataError, match=r"ml-100k\.item has no field 'heading' for the title"):
        RecboleConfig(path=str(folder), title="heading").prepare(tmp_path)
    write(folder, inter=INTER.replace("rating:float", "rating"))
    with pytest.raises(DataError, match=r"ml-100k\.inter: field 'rating' has no type; .* name:type"):
        RecboleConfig(path=str(folder)).prepare(tmp_path)
    write(folder, inter="user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(DataError, match=r"ml-100k\.inter has no field 'rating'"):
        RecboleConfig(path=str(folder), positive_rating=4).prepare(tmp_path)
