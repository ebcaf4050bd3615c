"""Faults of known rows, found: planted one by one, and against a loop over rows written by hand."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.check import Checked, check_tables, exit_code, render, set_aside_photos, write_rejected
from triptych.data.check_items import missing_files
from triptych.data.faults import Severity
from triptych.data.photo_store import check_photos
from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig
from triptych.data.tables import read_events, read_items, read_judgements
from triptych.foundation.errors import ConfigError, DataError

NOW = datetime(2024, 6, 1, tzinfo=UTC)
Rows = list[dict[str, Any]]


def _items(count: int = 40) -> Rows:
    return [
        {
            "sku": f"s{row:02}",
            "name": f"red dress {row}",
            "img_file": f"{row}.jpg",
            "dept": ["dresses", "shoes"][row % 2],
            "cost": f"{row}.50",
            "weight": str(row),
            "listed_at": "2024-01-01",
        }
        for row in range(count)
    ]


def _events(count: int = 200) -> Rows:
    return [
        {
            "ts": f"2024-05-{row % 28 + 1:02}T10:00:{row % 60:02}",
            "uid": f"u{row % 7}",
            "q": f"dress {row % 5}",
            "sku": f"s{row % 40:02}",
            "action": ["view", "click"][row % 2],
            "request_id": f"p{row // 2}",
            "pos": str(row % 2),
        }
        for row in range(count)
    ]


def _judgements(count: int = 30) -> Rows:
    return [{"q": f"dress {row}", "sku": f"s{row:02}", "grade": str(row % 4)} for row in range(count)]


def _check(
    folder: Path, items: Rows, events: Rows | None = None, judgements: Rows | None = None, **given: Any
) -> Checked:
    for name, rows in (("items", items), ("clicks", events), ("grades", judgements)):
        if rows is not None:
            pl.DataFrame(rows, infer_schema_length=None).write_csv(folder / f"{name}.csv")
    photos = folder / "photos"
    if not photos.exists():
        photos.mkdir()
        for row in range(40):
            (photos / f"{row}.jpg").write_bytes(b"photo")
    return check_tables(
        read_items(ItemsConfig(path="items.csv", photo_root="photos", **given), base=folder),
        None if events is None else read_events(EventsConfig(path="clicks.csv"), base=folder),
        None if judgements is None else read_judgements(JudgementsConfig(path="grades.csv"), base=folder),
        now=NOW,
    )


def _found(checked: Checked) -> set[tuple[str, str, str, int]]:
    return {(fault.table.value, fault.column, fault.fault, fault.count) for fault in checked.faults}


def test_clean_tables_have_no_faults(tmp_path: Path) -> None:
    checked = _check(tmp_path, _items(), _events(), _judgements())
    assert checked.faults == []
    assert checked.rejected == {}
    assert exit_code(checked, strict=True) == 0
    assert checked.summary.rows_read == checked.summary.rows_kept == {"items": 40, "events": 200, "judgements": 30}
    assert (checked.summary.num_users, checked.summary.num_queries) == (7, 30)
    assert (checked.summary.title_rate, checked.summary.photo_rate) == (1.0, 1.0)
    assert checked.summary.num_positives == 100
    assert checked.summary.events_by_kind == {"impression": 100, "click": 100, "cart": 0, "order": 0}
    assert checked.summary.first_time == datetime(2024, 5, 1, 10, 0, 0, tzinfo=UTC)
    assert checked.summary.last_time == datetime(2024, 5, 28, 10, 0, 55, tzinfo=UTC)


def test_planted_faults_are_named_with_table_column_and_count(tmp_path: Path) -> None:
    items, events, judgements = _items(), _events(), _judgements()
    for row in (36, 37, 38):
        items[row]["sku"] = "s01"
    items[39]["sku"] = "  "
    items[3]["name"] = ""
    items[4]["img_file"] = None
    items[5]["img_file"], items[6]["img_file"] = "gone.jpg", "../nowhere/1.jpg"
    items[7]["img_file"] = "https://example.com/7.jpg"
    items[8]["cost"], items[9]["cost"] = "ask us", "-4"
    items[10]["weight"] = "heavy"
    items[11]["listed_at"] = "once"
    for row in (20, 21, 22, 23):
        events[row]["sku"] = f"z{row}"
    events[24]["sku"] = None
    events[25]["ts"], events[26]["ts"] = "yesterday", "31.05.2024"
    events[27]["ts"], events[28]["ts"], events[29]["ts"] = "0", "2031-01-01T00:00:00", None
    events[30]["action"], events[31]["action"], events[32]["action"] = "refund", "share", None
    events[33]["uid"] = events[33]["q"] = None
    events[34]["uid"] = None  # the query remains: no fault
    events[35]["pos"], events[37]["pos"] = "-1", "first"
    events[190] = dict(events[50])
    judgements[1] |= {"sku": "z1"}
    judgements[2] |= {"grade": "good"}
    judgements[3] |= {"q": None}
    judgements[4] |= {"grade": None}
    judgements[5] |= {"grade": "-1"}
    judgements[6] = dict(judgements[7]) | {"grade": "0"}
    # Items s36 to s39 are gone, and with them whatever names them.
    for row in (36, 37, 38, 39):
        for at in range(row, 200, 40):
            if at != 190:
                events[at]["sku"] = "s00"

    checked = _check(tmp_path, items, events, judgements)
    expected = {
        ("items", "sku", "empty_id", 1, (39,)),
        ("items", "sku", "duplicate_id", 3, (36, 37, 38)),
        ("items", "name", "no_title", 1, (3,)),
        ("items", "img_file", "no_photo", 1, (4,)),
        ("items", "img_file", "missing_photo", 2, (5, 6)),
        ("items", "img_file", "photo_is_url", 1, (7,)),
        ("items", "cost", "bad_price", 1, (8,)),
        ("items", "cost", "negative_price", 1, (9,)),
        ("items", "weight", "bad_number", 1, (10,)),
        ("items", "listed_at", "bad_time", 1, (11,)),
        ("events", "sku", "unknown_item", 4, (20, 21, 22, 23)),
        ("events", "sku", "empty_item", 1, (24,)),
        ("events", "ts", "bad_time", 2, (25, 26)),
        ("events", "ts", "time_too_early", 1, (27,)),
        ("events", "ts", "time_in_future", 1, (28,)),
        ("events", "ts", "empty_time", 1, (29,)),
        ("events", "action", "unknown_kind", 2, (30, 31)),
        ("events", "action", "empty_kind", 1, (32,)),
        ("events", "uid, q", "no_user_no_query", 1, (33,)),
        ("events", "pos", "negative_position", 1, (35,)),
        ("events", "pos", "bad_position", 1, (37,)),
        ("events", "ts, uid, q, sku, action, request_id, pos", "duplicate_event", 1, (190,)),
        ("judgements", "sku", "unknown_item", 1, (1,)),
        ("judgements", "grade", "bad_grade", 1, (2,)),
        ("judgements", "q", "empty_query", 1, (3,)),
        ("judgements", "grade", "empty_grade", 1, (4,)),
        ("judgements", "grade", "negative_grade", 1, (5,)),
        ("judgements", "q, sku", "duplicate_judgement", 1, (7,)),
    }
    found = {(f.table.value, f.column, f.fault, f.count, tuple(f.first_rows)) for f in checked.faults}
    assert found == expected
    assert exit_code(checked, strict=False) == 0
    assert exit_code(checked, strict=True) == 1

    examples = {(fault.table.value, fault.fault): fault.example for fault in checked.faults}
    assert examples["items", "bad_price"] == "ask us"
    assert examples["events", "unknown_item"] == "z20"
    assert examples["events", "bad_time"] == "yesterday"
    assert '"refund" = "click", "share" = "click"' in next(
        fault.action for fault in checked.faults if fault.fault == "unknown_kind"
    )

    gone = {
        (row["row"], row["column"], row["fault"], row["set_aside"]) for row in checked.rejected["events"].to_dicts()
    }
    rows = {(row + 1, column, fault) for table, column, fault, _, at in expected if table == "events" for row in at}
    assert {(row, column, fault) for row, column, fault, _ in gone} == rows
    assert {row for row, _, _, what in gone if what == "value"} == {36, 38}
    assert checked.rejected["events"].filter(pl.col("row") == 26)["ts"].to_list() == ["yesterday"]
    assert checked.summary.rows_kept == {"items": 36, "events": 185, "judgements": 24}
    assert checked.events is not None
    assert checked.items.filter(pl.col("item_id") == "s08")["price"].to_list() == [None]
    assert checked.summary.num_items_without_content == 0
    assert checked.summary.photo_rate == pytest.approx(32 / 36)


def test_the_first_of_duplicate_items_is_kept(tmp_path: Path) -> None:
    items = [{"sku": "a", "name": "first"}, {"sku": "b", "name": "x"}, {"sku": " a", "name": "second"}]
    checked = _check(tmp_path, items)
    assert checked.items["title"].to_list() == ["first", "x"]
    assert checked.rows_read.to_list() == [0, 1]


def test_a_repeat_of_a_faulty_row_is_kept(tmp_path: Path) -> None:
    grades = [{"q": "x", "sku": "s01", "grade": grade} for grade in ("good", "2", "3")]
    checked = _check(tmp_path, _items(), judgements=grades)
    assert checked.judgements is not None
    assert checked.judgements["grade"].to_list() == [2.0]
    assert _found(checked) == {
        ("judgements", "grade", "bad_grade", 1),
        ("judgements", "q, sku", "duplicate_judgement", 1),
    }


def test_repeats_within_whole_days_are_only_noted(tmp_path: Path) -> None:
    event = {"ts": "2024-05-01", "uid": "u", "sku": "s01", "action": "click"}
    checked = _check(tmp_path, _items(), [event, event, event | {"uid": "v"}])
    assert [(fault.fault, fault.count, fault.severity) for fault in checked.faults] == [
        ("duplicate_event", 1, Severity.NOTE)
    ]
    assert checked.events is not None
    assert len(checked.events) == 3
    assert exit_code(checked, strict=True) == 0


def test_a_log_without_positives_is_noted(tmp_path: Path) -> None:
    checked = _check(tmp_path, _items(), [row | {"action": "view"} for row in _events()])
    assert _found(checked) == {("events", "action", "no_positives", 200)}


def test_ratings_from_a_threshold_on_are_clicks(tmp_path: Path) -> None:
    stars = ["5", "3.5", "3,5", "4", "", "good", "-1", "1e1"]
    events = [row | {"action": star, "event": "click"} for row, star in zip(_events(len(stars)), stars, strict=True)]
    _check(tmp_path, _items())  # writes the items and their photos
    pl.DataFrame(events).write_csv(tmp_path / "stars.csv")
    rated = EventsConfig(path="stars.csv", rating="action", positive_rating=3.5)
    items = read_items(ItemsConfig(path="items.csv", photo_root="photos"), base=tmp_path)
    checked = check_tables(items, read_events(rated, base=tmp_path), None, now=NOW)
    assert checked.events is not None
    assert checked.events["kind"].to_list() == ["click", "click", "click", "impression", "click"]
    assert _found(checked) == {("events", "action", "empty_rating", 1), ("events", "action", "bad_rating", 2)}
    assert checked.rejected["events"]["action"].to_list() == ["3,5", "", "good"]


def test_a_rating_needs_its_threshold_and_leaves_no_room_for_a_kind() -> None:
    for wrong in (
        {"rating": "stars"},
        {"positive_rating": 4},
        {"rating": "stars", "positive_rating": 4, "kind": "action"},
    ):
        with pytest.raises(ConfigError, match="rating"):
            EventsConfig.parse({"path": "events.csv", **wrong})


def test_a_column_that_may_be_a_rating_is_pointed_out_and_not_used(tmp_path: Path) -> None:
    events = [{**row, "stars": str(place)} for place, row in enumerate(_events(4))]
    for row in events:
        del row["action"]
    told = render(_check(tmp_path, _items(), events))["columns"]
    assert [row["how"] for row in told if row["column"] == "stars"] == [
        'not used: if it is a rating, say rating = "stars" and positive_rating'
    ]


def test_rejected_rows_are_the_users_own(tmp_path: Path) -> None:
    items = [{"sku": "a", "row": "x", "reason": "y"}, {"sku": "a", "row": "v", "reason": "w"}]
    checked = _check(tmp_path, items)
    files = write_rejected(checked, tmp_path / "rejected")
    assert [file.name for file in files] == ["items.parquet"]
    assert pl.read_parquet(files[0]).to_dicts() == [
        {
            "sku": "a",
            "original_row": "v",
            "original_reason": "w",
            "row": 2,
            "column": "sku",
            "fault": "duplicate_id",
            "reason": "an earlier row has the same id",
            "set_aside": "row",
        }
    ]


def test_broken_photos_are_set_aside_and_their_items_stay(tmp_path: Path) -> None:
    items = _items()
    items[0]["sku"] = None  # so that clean rows and rows read differ
    items[3]["cost"] = "free"
    checked = set_aside_photos(_check(tmp_path, items, _events()[1:20]), {4: "truncated", 1: "no photo"})
    fault = next(fault for fault in checked.faults if fault.fault == "broken_photo")
    assert (fault.table, fault.column, fault.count, fault.first_rows, fault.example) == (
        "items", "img_file", 2, [2, 5], "2.jpg",
    )  # fmt: skip
    assert checked.items["photo"].null_count() == 2
    assert len(checked.items) == 39
    assert checked.photo_sources()[4] is None
    assert checked.rejected["items"].select("row", "fault", "reason").rows() == [
        (1, "empty_id", "the item has no id"),
        (3, "broken_photo", "2.jpg: no photo"),
        (4, "bad_price", "the price is not a number"),
        (6, "broken_photo", "5.jpg: truncated"),
    ]
    assert checked.summary.photo_rate == pytest.approx(37 / 39)
    assert exit_code(checked, strict=True) == 1


def test_photo_faults_name_the_path(tmp_path: Path) -> None:
    items = _items()
    items[5]["img_file"], items[7]["img_file"] = "sub/gone.jpg", "https://example.com/7.jpg"
    items[9]["img_file"] = None
    items[11]["img_file"] = "https://example.com/11.jpg"
    checked = _check(tmp_path, items)
    checked = set_aside_photos(checked, check_photos(checked.photo_sources()))
    assert {fault.fault: fault.example for fault in checked.faults} == {
        "missing_photo": "sub/gone.jpg",
        "photo_is_url": "https://example.com/7.jpg",
        "no_photo": "item s09",
        "broken_photo": "0.jpg",
    }
    reasons = checked.rejected["items"].select("row", "reason").rows()
    unreadable = "the file is not a photo in a format that can be read"
    assert reasons[0] == (1, f"0.jpg: {unreadable}")
    assert (6, "sub/gone.jpg: there is no such file under the photo root") in reasons
    assert (8, "https://example.com/7.jpg: the photo is a web address; download it into a folder") in reasons
    assert (12, "https://example.com/11.jpg: the photo is a web address; download it into a folder") in reasons
    assert len(reasons) == 39


def test_photo_faults_name_the_path_in_a_folder_and_the_item_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "pics/deep").mkdir(parents=True)
    (tmp_path / "pics/deep/b.png").write_bytes(b"no photo")
    frame = pl.DataFrame({"id": ["a", "b", "c"], "blob": [None, b"no photo", b"none either"]})
    frame.write_parquet(tmp_path / "blobs.parquet")
    frame.drop("blob").write_csv(tmp_path / "ids.csv")
    in_folder = read_items(ItemsConfig(path="ids.csv", photo="pics"), base=tmp_path)
    as_bytes = read_items(ItemsConfig(path="blobs.parquet"), base=tmp_path)
    for mapped, example, named in (
        (in_folder, "deep/b.png", ["deep/b.png"]),
        (as_bytes, "item b", ["item b", "item c"]),
    ):
        checked = check_tables(mapped, None, None)
        checked = set_aside_photos(checked, check_photos(checked.photo_sources()))
        fault = next(fault for fault in checked.faults if fault.fault == "broken_photo")
        assert fault.example == example
        reasons = checked.rejected["items"]["reason"].to_list()
        assert [reason.split(":")[0] for reason in reasons] == named


def test_broken_photos_stand_beside_broken_lines(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"no photo")
    (tmp_path / "items.csv").write_text("sku,img_file,raw\na,0.jpg,mine\nb\n")
    checked = check_tables(read_items(ItemsConfig(path="items.csv"), base=tmp_path), None, None)
    checked = set_aside_photos(checked, {0: "no photo"})
    assert [(fault.fault, fault.count) for fault in checked.faults] == [("too_few_fields", 1), ("broken_photo", 1)]
    assert checked.rejected["items"].select("original_raw", "row", "reason", "file", "line", "raw").rows() == [
        ("mine", 1, "0.jpg: no photo", None, None, None),
        (None, None, "1 field where the header has 3", "items.csv", 3, "b"),
    ]


def test_missing_files_against_asking_for_each(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg"):
        (tmp_path / name).touch()
    paths = ["1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b", "a/b/", "2.jpg", "x/1.jpg", "./1.jpg", "a/../1.jpg", None, "1.jpg",
             "bad\0name/1.jpg", str(tmp_path / "a/2.jpg"), "/1.jpg"]  # fmt: skip
    expected = [path is not None and ("\0" in path or not (tmp_path / path).is_file()) for path in paths]
    assert missing_files(pl.Series(paths), root=tmp_path).to_list() == expected


def test_render_is_json_with_rows_from_one(tmp_path: Path) -> None:
    items = _items()
    items[5]["cost"] = "free"
    tree = json.loads(json.dumps(render(_check(tmp_path, items, _events()))))
    assert tree["faults"] == [
        {
            "table": "items",
            "column": "cost",
            "fault": "bad_price",
            "count": 1,
            "first_rows": [6],
            "example": "free",
            "meaning": "the price is not a number",
            "action": "price set aside, row kept",
            "severity": "set_aside",
        }
    ]
    assert tree["summary"]["rows_kept"] == {"items": 40, "events": 200}
    assert tree["summary"]["first_time"] == "2024-05-01T10:00:00+00:00"
    assert {"table": "items", "field": "price", "column": "cost", "role": None, "how": "guessed"} in tree["columns"]


@pytest.mark.parametrize(
    ("table", "change", "sentence"),
    [
        ("items", {"sku": None}, r"items\.csv: all 40 rows are set aside \(40 empty_id\); nothing is left to use"),
        (
            "events",
            {"sku": "z"},
            r"no item of clicks\.csv is in items\.csv: 'sku' holds 'z', 'z', 'sku' holds 's00', 's01'",
        ),
        ("events", {"ts": "2050-01-01"}, r"clicks\.csv: all 200 rows are set aside \(200 time_in_future\)"),
        ("judgements", {"grade": "0", "q": None}, r"grades\.csv: all 30 rows are set aside \(30 empty_query\)"),
    ],
)
def test_tables_of_which_nothing_is_left(tmp_path: Path, table: str, change: dict[str, Any], sentence: str) -> None:
    tables = {"items": _items(), "events": _events(), "judgements": _judgements()}
    tables[table] = [row | change for row in tables[table]]
    for rows in tables.values():  # names are given where the content no longer shows what a column is
        rows[0] = dict(rows[0])
    with pytest.raises(DataError, match=sentence):
        _check(tmp_path, tables["items"], tables["events"], tables["judgements"], id="sku")


@pytest.mark.parametrize(
    ("setting", "column", "sentence"),
    [
        ("time", "q", r"column 'q' \(time\) holds no times such as .* \(its first value is 'dress 0'\)"),
        ("position", "uid", r"clicks\.csv: column 'uid' \(position\) holds no numbers \(its first value is 'u0'\)"),
        (
            "kind",
            "uid",
            r"clicks\.csv: no word of column 'uid' is known \('u0', 'u1', …\); say what they mean under \[events\]",
        ),
    ],
)
def test_columns_of_the_wrong_type(tmp_path: Path, setting: str, column: str, sentence: str) -> None:
    _check(tmp_path, _items(), _events())
    items = read_items(ItemsConfig(path="items.csv"), base=tmp_path)
    config = EventsConfig.parse({"path": "clicks.csv", "user": "uid", "query": "q", setting: column})
    with pytest.raises(DataError, match=sentence):
        check_tables(items, read_events(config, base=tmp_path), None, now=NOW)


# What each value of a column is, for the loop below to judge rows by: a time is an instant or a fault.
TIMES: dict[str, int | str] = {
    "2024-05-01T00:00:01Z": 1714521601,
    "2024-05-01T02:00:01+02:00": 1714521601,
    "2024-05-01 00:00:01": 1714521601,
    "1714521601": 1714521601,
    "1714521602": 1714521602,
    "1714521602000": 1714521602,
    "2024-04-30T19:30:02-0430": 1714521602,
    "2024-05-02": 1714608000,
    "never": "bad_time",
    "2024-13-01": "bad_time",
    "": "empty_time",
    "5": "time_too_early",
    "1989-12-31T23:59:59Z": "time_too_early",
    "2024-06-03": "time_in_future",
}
ITEM_IDS = {"a": None, "b": None, "z": "unknown_item", "": "empty_item"}
KINDS = {"click": None, "View": None, "hug": "unknown_kind", "": "empty_kind"}
PRICES = {"1.5": None, "": None, "x": "bad_price", "-2": "negative_price"}
ORDER = ("empty_item", "unknown_item", "empty_time", "bad_time", "time_too_early", "time_in_future", "empty_kind",
         "unknown_kind", "no_user_no_query", "duplicate_event")  # fmt: skip
EVENT_VALUES = {
    "time": list(TIMES),
    "item": list(ITEM_IDS),
    "kind": list(KINDS),
    "user": ["u", "v", ""],
    "query": ["q", "", " "],
    "note": ["m", "n"],
}
ITEM_VALUES = {"id": ["a", "b", "c", "", "NULL"], "price": list(PRICES)}


def _rows(values: dict[str, list[str]], *, most: int) -> st.SearchStrategy[Rows]:
    one = {name: st.sampled_from(choices) for name, choices in values.items()}
    return st.lists(st.fixed_dictionaries(one), max_size=most)


@settings(max_examples=80, deadline=None)
@given(_rows(ITEM_VALUES, most=12), _rows(EVENT_VALUES, most=30))
def test_nothing_is_lost_and_every_row_is_judged_as_by_hand(items: Rows, events: Rows) -> None:
    _judge(items, events)


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ten_thousand_rows_of_all_sorts_are_judged_as_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def drawn(values: dict[str, list[str]], *, count: int) -> Rows:
        columns = {name: rng.choice(np.array(choices, dtype=object), count) for name, choices in values.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    # Users by the thousand, so that not every good event is the repeat of another one.
    users = [*(f"u{number}" for number in range(3000)), ""]
    _judge(drawn(ITEM_VALUES, count=1_000), drawn({**EVENT_VALUES, "user": users}, count=10_000))


def _judge(items: Rows, events: Rows) -> None:
    """Check two tables, and hold every row kept and set aside against a loop over the rows."""
    items = [{"id": "a", "price": "1"}, {"id": "b", "price": "2"}, *items]  # never unusable
    events = [
        {"time": "2024-05-01T00:01:40Z", "item": "a", "kind": "click", "user": "u", "query": "q", "note": "m"},
        *events,
    ]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        pl.DataFrame(items).write_csv(base / "items.csv")
        pl.DataFrame(events).write_csv(base / "log.csv")
        config = EventsConfig(path="log.csv", time="time", item="item", kind="kind", user="user", query="query")
        mapped = read_items(ItemsConfig(path="items.csv", id="id", price="price"), base=base)
        checked = check_tables(mapped, read_events(config, base=base), None, now=NOW)
    assert checked.events is not None

    reasons, counts, seen = [], dict.fromkeys(ORDER, 0), set()
    for event in events:
        query = event["query"].strip()
        instant = TIMES.get(event["time"])
        faults = [ITEM_IDS[event["item"]], KINDS[event["kind"]]]
        faults.append(instant if isinstance(instant, str) else None)
        faults.append("no_user_no_query" if not event["user"] and not query else None)
        faults = [fault for fault in faults if fault is not None]
        key = (instant, event["user"], query, event["item"], event["kind"])
        if not faults and key in seen:
            faults = ["duplicate_event"]
        if not faults:
            seen.add(key)
        for fault in faults:
            counts[fault] += 1
        reasons.append(min(faults, key=ORDER.index) if faults else None)
    assert {fault.fault: fault.count for fault in checked.faults if fault.table == "events"} | {"no_positives": 0} == {
        fault: count for fault, count in counts.items() if count
    } | {"no_positives": 0}
    expected = [(row + 1, reason) for row, reason in enumerate(reasons) if reason]
    rejected = checked.rejected.get("events", pl.DataFrame({"row": [], "fault": []}))
    assert rejected.select("row", "fault").rows() == expected
    assert len(checked.events) + len(rejected) == len(events)
    kept = [event for event, reason in zip(events, reasons, strict=True) if reason is None]
    assert checked.events["item_id"].to_list() == [event["item"] for event in kept]
    assert checked.events["user"].to_list() == [event["user"] or None for event in kept]

    ids: list[str] = []
    row_faults, value_faults = [], []
    for row, item in enumerate(items, start=1):
        if item["id"] in ("", "NULL"):
            row_faults.append((row, "empty_id"))
        elif item["id"] in ids:
            row_faults.append((row, "duplicate_id"))
        else:
            ids.append(item["id"])
            if (fault := PRICES.get(item["price"])) is not None:
                value_faults.append((row, fault))
    assert checked.items["item_id"].to_list() == ids
    rejected = checked.rejected.get("items", pl.DataFrame({"row": [], "fault": [], "set_aside": []}))
    assert rejected.filter(pl.col("set_aside") == "row").select("row", "fault").rows() == row_faults
    assert rejected.filter(pl.col("set_aside") == "value").select("row", "fault").rows() == value_faults
    prices = [fault for item in items if (fault := PRICES.get(item["price"])) is not None]
    found = {fault.fault: fault.count for fault in checked.faults if fault.column == "price"}
    assert found == {fault: prices.count(fault) for fault in set(prices)}
