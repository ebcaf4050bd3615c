"""Foreign tables in every format, under every name, and the sentences where they cannot be told apart."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from triptych.data.catalogue import photo_fingerprint
from triptych.data.check import check_tables
from triptych.data.schema import (
    EVENTS_SCHEMA,
    ITEMS_SCHEMA,
    EventKind,
    EventsConfig,
    ItemsConfig,
    JudgementsConfig,
    Role,
)
from triptych.data.tables import (
    MappedTable,
    PhotoSource,
    photos_by_id,
    read_events,
    read_frame,
    read_items,
    read_judgements,
    write_frame,
)
from triptych.foundation.errors import DataError

ITEMS: list[dict[str, Any]] = [
    {"sku": "007", "name": "red “round” dress, long", "dept": "dresses", "cost": 12.5, "img": "a.jpg", "stars": 4,
     "tags": ["summer", "party wear"], "zones": ["n1", "n2"], "in_stock": True, "blurb": "a dress for warm days out"},
    {"sku": "008", "name": "白色衬衫", "dept": "shirts", "cost": 1e3, "img": "b.jpg", "stars": 5,
     "tags": ["office"], "zones": ["n1"], "in_stock": False, "blurb": "the shirt everyone wears to work"},
    {"sku": "009", "name": None, "dept": "shirts", "cost": None, "img": None, "stars": None,
     "tags": None, "zones": None, "in_stock": None, "blurb": None},
    {"sku": "010", "name": "two\nlines", "dept": "shirts", "cost": 0.1, "img": "b.jpg", "stars": 2,
     "tags": ["office", "summer"], "zones": ["n2"], "in_stock": True, "blurb": "nothing to say about this one"},
]  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"ts": 1706702400, "uid": 42, "q": "red dress", "sku": "007", "action": "click", "request_id": "p1", "pos": 0},
    {"ts": 1706702401, "uid": 42, "q": "red dress", "sku": "008", "action": "view", "request_id": "p1", "pos": 1},
    {"ts": 1706702402, "uid": None, "q": "衬衫", "sku": "008", "action": "Add to cart", "request_id": "p2", "pos": 0},
    {"ts": 1706702403, "uid": 7, "q": None, "sku": "010", "action": "purchase", "request_id": None, "pos": None},
]


def _write(rows: list[dict[str, Any]], file: Path) -> Path:
    """Write rows as a person would: lists as `a|b` in CSV, as lists elsewhere."""
    frame = pl.DataFrame(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    suffix = file.name.removesuffix(".gz").rsplit(".", 1)[1]
    if suffix == "parquet":
        frame.write_parquet(file)
    elif suffix == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    else:
        lists = [name for name, dtype in frame.schema.items() if dtype == pl.List(pl.String)]
        text = frame.with_columns(pl.col(lists).list.join("|")).write_csv(separator="\t" if suffix == "tsv" else ",")
        file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def _photos(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"photo")


def _items(folder: Path, rows: list[dict[str, Any]] | None = None, **settings: Any) -> MappedTable:
    name = settings.pop("path", "items.csv")
    _write(rows or ITEMS, folder / name)
    return read_items(ItemsConfig(path=name, **settings), base=folder)


FORMATS = ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_tables(tmp_path: Path, form: str) -> None:
    _photos(tmp_path, "a.jpg", "b.jpg")
    items = _items(tmp_path, path=f"items.{form}")
    _write(EVENTS, tmp_path / f"clicks.{form}")
    events = read_events(EventsConfig(path=f"clicks.{form}"), base=tmp_path)
    checked = check_tables(items, events, None)

    assert items.roles == {
        "stars": Role.NUMERIC, "tags": Role.MULTI, "in_stock": Role.CATEGORICAL, "blurb": Role.TEXT,
    }  # fmt: skip
    expected = pl.DataFrame(
        {
            "item_id": ["007", "008", "009", "010"],
            "title": ["red “round” dress, long", "白色衬衫", None, "two\nlines"],
            "photo": ["a.jpg", "b.jpg", None, "b.jpg"],
            "more_photos": None,
            "category": ["dresses", "shirts", "shirts", "shirts"],
            "brand": None,
            "merchant": None,
            "price": [12.5, 1000.0, None, 0.1],
            "cells": [["n1", "n2"], ["n1"], None, ["n2"]],
            "first_seen": None,
            "stars": [4.0, 5.0, None, 2.0],
            "tags": [["summer", "party wear"], ["office"], None, ["office", "summer"]],
            "in_stock": ["true", "false", None, "true"],
            "blurb": [row["blurb"] for row in ITEMS],
        },
        schema=ITEMS_SCHEMA
        | {"stars": pl.Float64(), "tags": pl.List(pl.String), "in_stock": pl.String(), "blurb": pl.String()},
    )
    assert_frame_equal(checked.items, expected)
    time = pl.Series([row["ts"] for row in EVENTS]).cast(pl.Int64) * 1_000_000
    expected_events = pl.DataFrame(
        {
            "time": time.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "user": ["42", "42", None, "7"],
            "query": ["red dress", "red dress", "衬衫", None],
            "item_id": ["007", "008", "008", "010"],
            "kind": ["click", "impression", "cart", "order"],
            "page": ["p1", "p1", "p2", None],
            "position": [0, 1, 0, None],
            "cell": None,
        },
        schema=EVENTS_SCHEMA,
    )
    assert checked.events is not None
    assert_frame_equal(checked.events.cast(EVENTS_SCHEMA), expected_events)


def test_explicit_names_win_and_guesses_are_told(tmp_path: Path) -> None:
    rows = [
        {"title": "A1", "item_id": "Red dress", "brand": "x", "note": 1},
        {"title": "A2", "item_id": "Hat", "brand": "y", "note": 2},
    ]
    items = _items(tmp_path, rows, id="title", title="item_id")
    assert items.frame["item_id"].to_list() == ["A1", "A2"]
    assert items.frame["title"].to_list() == ["Red dress", "Hat"]
    assert items.mapping == {"item_id": "title", "title": "item_id", "brand": "brand", "note": "note"}
    assert items.guessed == {"brand": "brand"}
    assert [(row["field"], row["column"], row["how"]) for row in items.describe()] == [
        ("item_id", "title", "given"),
        ("title", "item_id", "given"),
        ("brand", "brand", "guessed"),
        ("feature", "note", "guessed"),
    ]


def test_an_empty_name_says_that_there_is_none(tmp_path: Path) -> None:
    items = _items(tmp_path, [{"id": "a", "brand": "x"}, {"id": "b", "brand": "x"}], brand="")
    assert "brand" not in items.frame.columns
    assert items.roles == {"extra_brand": Role.CATEGORICAL}  # kept, and not under a name that means something else
    assert items.mapping["extra_brand"] == "brand"


def test_names_that_mean_nothing_are_guessed_by_content(tmp_path: Path) -> None:
    rows = [{"a": f"k{i}", "b": f"pics/{i}.JPG", "c": "some words here"} for i in range(5)]
    items = _items(tmp_path, rows)
    assert items.guessed == {"item_id": "a", "photo": "b"}
    logs = [{"x": f"2024-01-0{i + 1}T00:00:01Z", "uid": "u", "item": f"k{i}", "y": "click"} for i in range(5)]
    _write(logs, tmp_path / "log.csv")
    events = read_events(EventsConfig(path="log.csv"), base=tmp_path)
    assert events.guessed == {"item_id": "item", "time": "x", "user": "uid", "kind": "y"}


ITEM_TABLES = {
    "MovieLens": (
        "i.csv",
        "movieId,title,genres\n1,Toy Story (1995),Comedy|Fantasy\n",
        {"item_id": "movieId", "title": "title"},
    ),
    "Amazon 2023": (
        "i.jsonl",
        (
            '{"main_category": "Toys", "title": "Red car", "average_rating": 4.5, "price": 3.5, '
            '"images": [{"large": "https://a.b/1.jpg"}], "store": "Acme", "categories": ["Toys"], "parent_asin": "B01"}'
        ),
        {
            "item_id": "parent_asin",
            "title": "title",
            "category": "main_category",
            "merchant": "store",
            "price": "price",
        },
    ),
    "Amazon 2018": (
        "i.jsonl",
        '{"asin": "B01", "title": "Red car", "imUrl": "http://a.b/1.jpg", "brand": "Acme"}',
        {"item_id": "asin", "title": "title", "photo": "imUrl", "brand": "brand"},
    ),
    "RecBole": (
        "ml.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\n1\tToy Story\t1995\n",
        {"item_id": "item_id:token", "title": "movie_title:token_seq"},
    ),
    "Shopify": (
        "i.csv",
        (
            "Handle,Title,Body (HTML),Vendor,Product Category,Type,Variant SKU,Variant Price,Image Src,"
            "Variant Image\nred-car,Red car,<p>fast</p>,Acme,Toys,Cars,S1,3.50,https://cdn.a.b/1.jpg?v=2,\n"
        ),
        {
            "item_id": "Handle",
            "title": "Title",
            "photo": "Image Src",
            "category": "Product Category",
            "merchant": "Vendor",
            "price": "Variant Price",
        },
    ),
    "GA4": (
        "i.csv",
        "item_id,item_name,item_brand,item_category,price\n1,Red car,Acme,Toys,3.5\n",
        {
            "item_id": "item_id",
            "title": "item_name",
            "category": "item_category",
            "brand": "item_brand",
            "price": "price",
        },
    ),
    "merchant feed": (
        "i.tsv",
        "id\ttitle\timage_link\tprice\tgtin\tproduct_type\n1\tRed car\thttps://a.b/1.png\t3\t7\tT\n",
        {"item_id": "id", "title": "title", "photo": "image_link", "category": "product_type", "price": "price"},
    ),
    "WooCommerce": (
        "i.csv",
        "ID,SKU,Name,Sale price,Regular price,Categories,Images\n1,S1,Red car,,3.5,Toys,https://a.b/1.jpg\n",
        {"item_id": "ID", "title": "Name", "photo": "Images", "price": "Regular price"},
    ),
}
EVENT_TABLES = {
    "MovieLens": (
        "e.csv",
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n",
        {"item_id": "movieId", "time": "timestamp", "user": "userId"},
    ),
    "Amazon 2023": (
        "e.jsonl",
        (
            '{"rating": 5.0, "title": "Good", "text": "x", "parent_asin": "B01", "user_id": "AE", '
            '"timestamp": 1588687728923}'
        ),
        {"item_id": "parent_asin", "time": "timestamp", "user": "user_id"},
    ),
    "Amazon 2018": (
        "e.jsonl",
        '{"overall": 5.0, "reviewerID": "A2", "asin": "B01", "unixReviewTime": 1362096000}',
        {"item_id": "asin", "time": "unixReviewTime", "user": "reviewerID"},
    ),
    "RecBole": (
        "ml.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3.0\t978300760.0\n",
        {"item_id": "item_id:token", "time": "timestamp:float", "user": "user_id:token"},
    ),
    "GA4": (
        "e.csv",
        (
            "event_date,event_timestamp,event_name,user_id,user_pseudo_id,item_id,search_term\n"
            "20240131,1706702400000000,add_to_cart,,17.42,1,red car\n20240131,1706702401000000,purchase,,17.42,1,\n"
        ),
        {
            "item_id": "item_id",
            "time": "event_timestamp",
            "user": "user_pseudo_id",
            "query": "search_term",
            "kind": "event_name",
        },
    ),
    "Retailrocket": (
        "e.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n",
        {"item_id": "itemid", "time": "timestamp", "user": "visitorid", "kind": "event"},
    ),
    "multi-category store": (
        "e.csv",
        (
            "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,"
            "user_session\n2019-10-01 00:00:00 UTC,view,44600062,210,,x,35.79,541,72d7\n"
        ),
        {"item_id": "product_id", "time": "event_time", "user": "user_id", "kind": "event_type"},
    ),
    "H&M": (
        "e.csv",
        "t_dat,customer_id,article_id,price,sales_channel_id\n2018-09-20,00ab,0663713001,0.05,2\n",
        {"item_id": "article_id", "time": "t_dat", "user": "customer_id"},
    ),
}


@pytest.mark.parametrize("origin", ITEM_TABLES)
def test_the_items_that_people_have_need_no_names(tmp_path: Path, origin: str) -> None:
    name, text, guessed = ITEM_TABLES[origin]
    (tmp_path / name).write_text(text)
    assert read_items(ItemsConfig(path=name), base=tmp_path).guessed == guessed


@pytest.mark.parametrize("origin", EVENT_TABLES)
def test_the_events_that_people_have_need_no_names(tmp_path: Path, origin: str) -> None:
    name, text, guessed = EVENT_TABLES[origin]
    (tmp_path / name).write_text(text)
    events = read_events(EventsConfig(path=name), base=tmp_path)
    assert events.guessed == guessed
    printed = {row["column"] for row in events.describe() if row["how"] == "guessed"}
    assert printed == set(guessed.values())


@pytest.mark.parametrize(
    ("header", "row", "sentence"),
    [
        (
            "rating,asin,parent_asin,user_id,timestamp",
            "5,B1,B2,u,1588687728923",
            (
                "columns 'asin' and 'parent_asin' could each be the item's id; say which under [events], for example "
                'item = "asin".'
            ),
        ),
        (
            "item_id,user_id,user_pseudo_id,event_timestamp",
            "1,7,17.42,1706702400000000",
            (
                "columns 'user_id' and 'user_pseudo_id' could each be the user; say which under [events], for example "
                'user = "user_id".'
            ),
        ),
        (
            "item_id,user_id,event_timestamp,timestamp",
            "1,7,1706702400000000,1706702400",
            (
                "columns 'timestamp' and 'event_timestamp' could each be the time; say which under [events], for "
                'example time = "timestamp".'
            ),
        ),
        (
            "user_id,item_id,behavior_type,timestamp",
            "1,7,zap,1706702400",
            (
                "column 'behavior_type' may be what happened, but its words are not known ('zap'); give kind = "
                '"behavior_type" and their meaning in kinds, or kind = "" where every event is a click.'
            ),
        ),
    ],
)
def test_what_can_be_two_things_is_asked_for(tmp_path: Path, header: str, row: str, sentence: str) -> None:
    (tmp_path / "e.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(DataError) as caught:
        read_events(EventsConfig(path="e.csv"), base=tmp_path)
    assert str(caught.value) == f"e.csv: {sentence}"


def test_a_name_with_the_wrong_content_is_passed_over(tmp_path: Path) -> None:
    logs = [{"time": "12:30:00", "date": "2024-01-31", "user": "u", "item": "a", "action": "click"}]
    _write(logs, tmp_path / "log.csv")
    events = read_events(EventsConfig(path="log.csv"), base=tmp_path)
    assert events.mapping["time"] == "date"
    assert events.unused == {"time": "no field of this table"}


def test_roles_are_recognised_and_declarations_win(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"i{i}",
            "colour": ["red", "blue"][i % 2],
            "size": ["38", "40", "XL"][i % 3],
            "weight": f"{i}.5",
            "zip_code": f"0{i:04}",
            "genres": ["Drama|War", "War", "Drama"][i % 3],
            "story": f"story number {i} told in words",
            "name": f"Dress | Women | look {i}",
            "empty": None,
            "year": 2000 + i % 3,
        }
        for i in range(30)
    ]
    items = _items(tmp_path, rows, features={"year": "categorical"})
    assert items.roles == {
        "colour": Role.CATEGORICAL,
        "size": Role.CATEGORICAL,
        "weight": Role.NUMERIC,
        "zip_code": Role.CATEGORICAL,
        "genres": Role.MULTI,
        "story": Role.TEXT,
        "year": Role.CATEGORICAL,
    }
    assert items.unused == {"empty": "empty"}
    assert items.mapping["title"] == "name"
    assert check_tables(items, None, None).items["year"].to_list()[:3] == ["2000", "2001", "2002"]


def test_a_numeric_feature_may_have_a_few_faults(tmp_path: Path) -> None:
    rows = [{"id": f"i{i}", "weight": "heavy" if i == 7 else str(i)} for i in range(40)]
    items = _items(tmp_path, rows)
    assert items.roles == {"weight": Role.NUMERIC}
    checked = check_tables(items, None, None)
    assert [(f.column, f.fault, f.count, f.first_rows, f.example) for f in checked.faults] == [
        ("weight", "bad_number", 1, [7], "heavy")
    ]


def test_globs_and_folders_read_in_order_of_names(tmp_path: Path) -> None:
    for part in (2, 1, 10):
        _write([{"id": f"{part}-{row}", "name": f"word{part}"} for row in range(2)], tmp_path / f"parts/p{part:02}.csv")
    (tmp_path / "parts/_SUCCESS").touch()
    (tmp_path / "parts/.hidden.csv").write_text("id\nx\n")
    expected = ["1-0", "1-1", "2-0", "2-1", "10-0", "10-1"]
    for path in ("parts", "parts/", "parts/p*.csv", "**/p*.csv", str(tmp_path / "parts")):
        items = read_items(ItemsConfig(path=path), base=tmp_path)
        assert items.frame["item_id"].to_list() == expected
        assert [file.name for file in items.files] == ["p01.csv", "p02.csv", "p10.csv"]
    rows = items.rows(pl.Series([1, 4]))
    assert rows.rows() == [(1, "1-1", "word1", "p01.csv"), (4, "10-0", "word10", "p10.csv")]
    assert rows.columns == ["row", "id", "name", "file"]


def test_files_of_one_table_may_differ_in_columns(tmp_path: Path) -> None:
    _write([{"id": "1", "price": 2}], tmp_path / "p/a.jsonl")
    _write([{"id": "2", "price": "3.5", "brand": "x"}], tmp_path / "p/b.jsonl")
    checked = check_tables(read_items(ItemsConfig(path="p"), base=tmp_path), None, None)
    assert checked.items.select("item_id", "price", "brand").rows() == [("1", 2.0, None), ("2", 3.5, "x")]


def test_mixed_types_in_jsonl_lose_nothing(tmp_path: Path) -> None:
    lines = ['{"id": 1, "tags": ["a"], "price": true}', '{"id": "02", "tags": "b|c", "price": "x"}', "", '{"id": 3.0}']
    (tmp_path / "i.jsonl").write_text("\n".join(lines))
    items = read_items(ItemsConfig(path="i.jsonl", price="price", features={"tags": Role.MULTI}), base=tmp_path)
    assert items.frame["item_id"].to_list() == ["1", "02", "3"]
    assert items.frame["price"].to_list() == ["true", "x", None]
    with pytest.raises(DataError, match=r"column 'price' \(price\) holds no numbers \(its first value is 'true'\)"):
        check_tables(items, None, None)


def test_semicolons_byte_order_marks_and_windows_lines(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_bytes("\ufeffid;name\r\n1;a, b\r\n2;c\r\n".encode())
    items = read_items(ItemsConfig(path="i.csv"), base=tmp_path)
    assert items.frame.rows() == [("1", "a, b"), ("2", "c")]


def test_photos_as_paths_below_a_root(tmp_path: Path) -> None:
    _photos(tmp_path / "pics", "a.jpg", "sub/b.jpg")
    rows = [{"id": "1", "image": "a.jpg"}, {"id": "2", "image": "sub\\b.jpg"}, {"id": "3", "image": "c.jpg"}]
    items = _items(tmp_path, rows, photo_root="pics")
    checked = check_tables(items, None, None)
    assert items.photo_source is PhotoSource.PATHS
    assert checked.photo_sources() == [tmp_path / "pics/a.jpg", tmp_path / "pics/sub/b.jpg", None]
    assert [(fault.column, fault.fault, fault.count) for fault in checked.faults] == [("image", "missing_photo", 1)]


def test_the_photo_root_is_found_beside_the_items_or_the_config(tmp_path: Path) -> None:
    rows = [{"id": "1", "image": "pics/a.jpg"}]
    _photos(tmp_path, "pics/a.jpg")
    assert _items(tmp_path, rows, path="tables/items.csv").photo_root == tmp_path
    _photos(tmp_path, "tables/pics/a.jpg")
    assert _items(tmp_path, rows, path="tables/items.csv").photo_root == tmp_path / "tables"


@pytest.mark.parametrize("settings", [{"photo": "pics"}, {"photo_root": "pics/"}, {"photo": "pics", "photo_root": "."}])
def test_photos_in_a_folder_keyed_by_id(tmp_path: Path, settings: dict[str, str]) -> None:
    _photos(tmp_path / "pics", "1.jpg", "500.2.PNG", "deep/3.webp", "3.txt", "1.png")
    items = _items(tmp_path, [{"id": "1"}, {"id": "500.2"}, {"id": "3"}, {"id": "4"}], **settings)
    assert items.photo_source is PhotoSource.FOLDER
    assert items.frame["photo"].to_list() == ["1.jpg", "500.2.PNG", "deep/3.webp", None]
    checked = check_tables(items, None, None)
    assert checked.photo_sources()[1] == tmp_path / "pics/500.2.PNG"
    assert [(fault.fault, fault.count, fault.first_rows) for fault in checked.faults] == [("no_photo", 1, [3])]
    assert checked.summary.photo_rate == 0.75


def test_photos_as_bytes(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["1", "2", "3"], "blob": [b"abc", b"", None]}).write_parquet(tmp_path / "i.parquet")
    items = read_items(ItemsConfig(path="i.parquet"), base=tmp_path)
    checked = check_tables(items, None, None)
    assert items.photo_source is PhotoSource.BYTES
    assert checked.items.schema["photo"] == pl.Binary
    assert checked.photo_sources() == [b"abc", None, None]


def test_photos_by_id_takes_the_first_of_several(tmp_path: Path) -> None:
    _photos(tmp_path, "x.png", "x.jpg", "readme.md", "x.jpg.part")
    assert photos_by_id(tmp_path).rows() == [("x", "x.jpg")]


def test_kinds_are_mapped_by_the_user(tmp_path: Path) -> None:
    logs = [
        {"time": 1706702400 + i, "user": "u", "item": "a", "act": act} for i, act in enumerate(["1", "2", "PDP-view"])
    ]
    _write(logs, tmp_path / "log.parquet")
    kinds = {"1": EventKind.IMPRESSION, "2": EventKind.ORDER, "pdp view": EventKind.CLICK}
    events = read_events(EventsConfig(path="log.parquet", kind="act", kinds=kinds), base=tmp_path)
    items = _items(tmp_path, [{"id": "a"}])
    checked = check_tables(items, events, None)
    assert checked.events is not None
    assert checked.events["kind"].to_list() == ["impression", "order", "click"]


def test_without_a_kind_column_every_event_is_a_click(tmp_path: Path) -> None:
    _write([{"time": 1706702400, "user": "u", "item": "a"}], tmp_path / "log.csv")
    events = read_events(EventsConfig(path="log.csv"), base=tmp_path)
    assert events.describe()[-1] == {
        "table": "events", "field": "kind", "column": None, "role": None, "how": "every event is a click",
    }  # fmt: skip
    checked = check_tables(_items(tmp_path, [{"id": "a"}]), events, None)
    assert checked.events is not None
    assert checked.events["kind"].to_list() == ["click"]


def test_judgements_keep_the_photo_only_mark(tmp_path: Path) -> None:
    rows = [
        {"search term": "red", "product": "a", "relevance": 3, "photo_only": True},
        {"search term": "red", "product": "b", "relevance": 0.5, "photo_only": False},
    ]
    items = _items(tmp_path, [{"id": "a"}, {"id": "b"}])
    for form in FORMATS:
        _write(rows, tmp_path / f"j.{form}")
        judgements = read_judgements(JudgementsConfig(path=f"j.{form}"), base=tmp_path)
        checked = check_tables(items, None, judgements)
        assert checked.judgements is not None
        assert checked.judgements.rows() == [("red", "a", 3.0, True), ("red", "b", 0.5, False)]


def _fails(folder: Path, text: str, *, name: str = "items.csv", **settings: Any) -> str:
    (folder / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_items(ItemsConfig(path=name, **settings), base=folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_sentences_for_columns(tmp_path: Path) -> None:
    message = _fails(tmp_path, "SKU,name\n1,a\n", id="sku")
    assert (
        message
        == "items.csv has no column 'sku' (id under [items]). Did you mean 'SKU'? Its columns are 'SKU', 'name'."
    )
    message = _fails(tmp_path, "id,colour\n1,a\n", features={"color": "categorical"})
    assert "no column 'color' (features under [items]). Did you mean 'colour'?" in message
    message = _fails(tmp_path, "a b,colour\nx y,red\nx y,red\n")
    assert message.startswith('items.csv has no column that looks like the item\'s id; name it with id = "..." under')
    message = _fails(tmp_path, "sku,product_id,name\n1,2,x\n")
    assert message == (
        "items.csv: columns 'sku' and 'product_id' could each be the item's id; say which under [items], for example "
        'id = "sku".'
    )
    assert _fails(tmp_path, "id,a,a\n1,2,3\n") == "'items.csv' has two columns called 'a'; rename one."
    message = _fails(tmp_path, "id\n1\n", photo="pics")
    assert 'photo = "pics" under [items] is neither a column of items.csv nor a folder.' in message
    (tmp_path / "photos").mkdir()
    message = _fails(tmp_path, "id,image\n1,x.jpg\n", photo_root="photo/")
    assert 'photo_root = "photo/" under [items] is no folder' in message
    assert "Did you mean 'photos'?" in message


def test_sentences_for_files(tmp_path: Path) -> None:
    assert _fails(tmp_path, "id,name\n") == "items.csv has no rows; the items table needs at least one."
    assert _fails(tmp_path, "") == "'items.csv' is empty."
    assert _fails(tmp_path, "id,name\n1,a,b\n2,b,c\n") == (
        "items.csv: none of its 2 lines can be read (line 2: 3 fields where the header has 2); put quotes around a "
        "field that holds the separator."
    )
    assert _fails(tmp_path, 'id,"name\n1,a\n') == "items.csv, line 1: the header opens a quote and never closes it."
    assert _fails(tmp_path, "id,name\r1,a\r") == (
        "items.csv ends its lines with a carriage return alone; save it with LF or CRLF."
    )
    assert _fails(tmp_path, "x" * 200_000).startswith("items.csv: the header is not CSV (field larger than")
    assert _fails(tmp_path, "id,name\n1,a\n", name="i.jsonl") == (
        "i.jsonl: none of its 2 lines can be read (line 1: this is not JSON (Expecting value: line 1 column 1 (char "
        "0))); write one whole JSON object per line."
    )
    assert _fails(tmp_path, "5", name="i.jsonl") == (
        "i.jsonl: its only line cannot be read (line 1: this is a number, not a JSON object); write one JSON object "
        "per line."
    )
    assert _fails(tmp_path, "{}\n", name="i.jsonl") == "i.jsonl has no columns."
    assert _fails(tmp_path, "\n \n", name="i.jsonl") == "'i.jsonl' is empty."
    for torn in ('[{"id": 1},', '[\n{"id": 1},\n{"id": 2}\n', "[1, 2]"):
        message = _fails(tmp_path, torn, name="i.json")
        assert message.startswith("i.json holds a JSON array that cannot be read (")
        assert message.endswith("write one object per line (JSON Lines).")
    assert _fails(tmp_path, "[]", name="i.json") == "i.json has no columns."
    assert _fails(tmp_path, "x", name="items.xlsx").startswith("'items.xlsx' is in no format that is read")
    assert _fails(tmp_path, "PAR0", name="i.parquet").startswith("i.parquet cannot be read: ")
    (tmp_path / "latin.csv").write_bytes("id,name\n1,café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv is not UTF-8 text; save it as UTF-8\."):
        read_items(ItemsConfig(path="latin.csv"), base=tmp_path)
    with pytest.raises(
        DataError, match=r"items: there is no file or folder 'itmes\.csv' .* Did you mean 'items\.csv'\?"
    ):
        read_items(ItemsConfig(path="itmes.csv"), base=tmp_path)
    with pytest.raises(DataError, match=r"items: no file matches 'x\*\.csv'"):
        read_items(ItemsConfig(path="x*.csv"), base=tmp_path)
    (tmp_path / "both").mkdir()
    with pytest.raises(DataError, match="the folder 'both' holds no Parquet, CSV, TSV or JSONL file"):
        read_items(ItemsConfig(path="both"), base=tmp_path)
    _write([{"id": "1"}], tmp_path / "both/a.csv")
    _write([{"id": "1"}], tmp_path / "both/a.parquet")
    with pytest.raises(DataError, match=r"holds files of several formats \(CSV, Parquet\)"):
        read_items(ItemsConfig(path="both"), base=tmp_path)


def test_sentences_for_types(tmp_path: Path) -> None:
    pl.DataFrame({"id": [["a"]], "size": [["a"]]}).write_parquet(tmp_path / "i.parquet")
    with pytest.raises(DataError, match=r"i\.parquet: column 'id' \(item_id\) holds lists, not one value per row"):
        read_items(ItemsConfig(path="i.parquet", id="id"), base=tmp_path)
    pl.DataFrame({"id": ["a"], "size": [["a"]]}).write_parquet(tmp_path / "i.parquet")
    with pytest.raises(DataError, match=r"column 'size' is declared numeric .* but holds lists; declare it \"multi\""):
        read_items(ItemsConfig(path="i.parquet", features={"size": Role.NUMERIC}), base=tmp_path)


def test_sentences_for_events(tmp_path: Path) -> None:
    def fails(*rows: dict[str, Any], **settings: Any) -> str:
        _write(list(rows), tmp_path / "log.csv")
        with pytest.raises(DataError) as caught:
            read_events(EventsConfig(path="log.csv", **settings), base=tmp_path)
        return str(caught.value)

    assert "no column for the user and none for the query" in fails({"time": 1706702400, "item": "a"})
    assert "'ts' is called like it, but does not hold it" in fails({"ts": "soon", "user": "u", "item": "a"})
    message = fails({"time": 1706702400, "user": "u", "item": "a", "action": "pdp"})
    assert "column 'action' may be what happened, but its words are not known ('pdp')" in message
    assert 'kind = ""' in message


def test_plain_frames_are_read_and_written_by_the_files_name(tmp_path: Path) -> None:
    pairs = pl.DataFrame({"query": ["red dress", "白"], "item_id": ["007", "8"]})
    for name in ("pairs.csv", "pairs.jsonl", "pairs.parquet"):
        write_frame(pairs, tmp_path / name)
        assert_frame_equal(read_frame(tmp_path / name), pairs)
    (tmp_path / "pairs.csv").write_text("query,item_id\nred,1\nblue\n")
    with pytest.raises(DataError, match=r"^pairs\.csv, line 3: 1 field where the header has 2; keep the separators"):
        read_frame(tmp_path / "pairs.csv")
    with pytest.raises(DataError, match=r"'pairs\.xls' names no format that is written"):
        write_frame(pairs, tmp_path / "pairs.xls")


@pytest.mark.real_data
def test_real_tables_are_understood_without_a_config(real_data: Path) -> None:
    fashion = read_items(ItemsConfig(path="items.parquet"), base=real_data / "fashion_products")
    assert fashion.guessed == {
        "item_id": "id", "title": "productDisplayName", "photo": "image", "category": "articleType",
    }  # fmt: skip
    assert fashion.roles["baseColour"] is Role.CATEGORICAL
    checked = check_tables(fashion, None, None)
    assert checked.faults == []
    assert (len(checked.items), checked.summary.photo_rate) == (9583, 1.0)
    films = read_items(ItemsConfig(path="items.parquet"), base=real_data / "movielens_posters")
    assert (films.roles["genres"], films.roles["overview"]) == (Role.MULTI, Role.TEXT)
    ratings = read_events(EventsConfig(path="interactions.parquet"), base=real_data / "movielens_posters")
    checked = check_tables(films, ratings, None)
    assert [(fault.fault, fault.count) for fault in checked.faults] == [("no_photo", 199)]
    assert (checked.summary.num_users, checked.summary.num_positives) == (610, 100_836)


def test_several_photos_of_an_item(tmp_path: Path) -> None:
    """However they are written: the first is the item's photo, further ones follow in order."""
    _photos(tmp_path, "a.jpg", "b.jpg", "c.png", "sub/d.jpg", "x,y.jpg")
    lists = [["a.jpg", "b.jpg", " sub\\d.jpg "], ["c.png"], [], ["", None, "b.jpg"], None, ["x,y.jpg"]]
    firsts = ["a.jpg", "c.png", None, "b.jpg", None, "x,y.jpg"]
    pl.DataFrame({"id": list("123456"), "pictures": lists}).write_parquet(tmp_path / "lists.parquet")
    texts = ["a.jpg|b.jpg|sub\\d.jpg", "c.png", "", "b.jpg;", None, "x,y.jpg"]
    commas = ["a.jpg, b.jpg ,sub/d.jpg", "c.png", None, "b.jpg", None, "x,y.jpg"]
    literals = ['["a.jpg", "b.jpg", "sub/d.jpg"]', "['c.png']", "[]", "b.jpg", None, "x,y.jpg"]
    for number, column in enumerate((texts, commas, literals)):
        pl.DataFrame({"id": list("123456"), "photo": column}).write_csv(tmp_path / f"text{number}.csv")
    for file in ("lists.parquet", "text0.csv", "text1.csv", "text2.csv"):
        items = read_items(ItemsConfig(path=file), base=tmp_path)
        assert items.photo_source is PhotoSource.PATHS, file
        assert items.frame["photo"].to_list() == firsts, file
        assert items.frame["more_photos"].to_list() == [["b.jpg", "sub/d.jpg"], *[None] * 5], file
        checked = check_tables(items, None, None)
        assert [fault.fault for fault in checked.faults] == ["no_photo"], file
        assert checked.photo_sources()[:2] == [tmp_path / "a.jpg", tmp_path / "c.png"]
        assert checked.other_photos(max_photos=5) == [(0, tmp_path / "b.jpg"), (0, tmp_path / "sub/d.jpg")]
        assert checked.other_photos(max_photos=2) == [(0, tmp_path / "b.jpg")]
        assert checked.other_photos(max_photos=1) == []
        assert len(items.photo_files()) == 6


def test_several_photos_some_of_which_are_not_there(tmp_path: Path) -> None:
    _photos(tmp_path, "a.jpg", "b.jpg")
    photos = [["gone.jpg", "a.jpg", "b.jpg"], ["a.jpg", "https://x.org/1.jpg", "gone.jpg"], ["gone.jpg", "gone2.jpg"]]
    pl.DataFrame({"id": ["1", "2", "3"], "photos": photos}).write_parquet(tmp_path / "i.parquet")
    checked = check_tables(read_items(ItemsConfig(path="i.parquet"), base=tmp_path), None, None)
    assert checked.items.select("photo", "more_photos").rows() == [("a.jpg", ["b.jpg"]), ("a.jpg", None), (None, None)]
    assert [(fault.fault, fault.count) for fault in checked.faults] == [("photo_is_url", 1), ("missing_photo", 3)]
    meaning = "there is no such file under the photo root"
    assert checked.rejected["items"].filter(pl.col("fault") == "missing_photo")["reason"].to_list() == [
        f"gone.jpg: {meaning}", f"gone.jpg: {meaning}", f"gone.jpg, gone2.jpg: {meaning}",
    ]  # fmt: skip


def test_several_photos_as_bytes(tmp_path: Path) -> None:
    photos = [[b"one", b"", b"two"], None, [b"three"]]
    pl.DataFrame({"id": ["1", "2", "3"], "photo": photos}).write_parquet(tmp_path / "i.parquet")
    checked = check_tables(read_items(ItemsConfig(path="i.parquet", photo="photo"), base=tmp_path), None, None)
    assert checked.photo_sources() == [b"one", None, b"three"]
    assert checked.other_photos(max_photos=3) == [(0, b"two")]


def test_lists_of_neither_paths_nor_bytes_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["1"], "photo": [[{"src": "a.jpg"}]]}).write_parquet(tmp_path / "i.parquet")
    with pytest.raises(DataError, match=r"column 'photo' \(photo\) holds lists of neither paths nor bytes"):
        read_items(ItemsConfig(path="i.parquet", photo="photo"), base=tmp_path)


def test_numbered_photos_in_a_folder(tmp_path: Path) -> None:
    names = [
        "7_10.jpg",
        "7_2.jpg",
        "7.jpg",
        "7-1.png",
        "8_1.jpg",
        "8_2.jpg",
        "8_x.jpg",
        "9_1.jpg",
        "9_1_1.jpg",
        "10.jpg",
    ]
    _photos(tmp_path / "pics", *names)
    items = _items(tmp_path, [{"id": "7"}, {"id": "8"}, {"id": "9_1"}, {"id": "9"}, {"id": "6"}], photo="pics")
    assert items.frame.select("photo", "more_photos").rows() == [
        ("7.jpg", ["7-1.png", "7_2.jpg", "7_10.jpg"]),
        ("8_1.jpg", ["8_2.jpg"]),
        ("9_1.jpg", ["9_1_1.jpg"]),  # an item of its own, not the first photo of item 9
        (None, None),
        (None, None),
    ]


def test_strange_names_beside_the_photos(tmp_path: Path) -> None:
    """A link that leads to itself and names that are no Unicode cost no other photo."""
    _photos(tmp_path / "pics", "1.jpg")
    (tmp_path / "pics" / "2.jpg").symlink_to(tmp_path / "pics" / "2.jpg")
    os.close(os.open(os.fsencode(tmp_path / "pics") + b"/3\xff.jpg", os.O_CREAT))
    os.mkfifo(tmp_path / "pics" / "4.jpg")
    rows = [
        {"id": str(n), "image": name} for n, name in enumerate(["1.jpg", "2.jpg", "4.jpg", "x" * 5_000, "bad\0.jpg"])
    ]
    checked = check_tables(_items(tmp_path, rows, path="items.parquet", photo_root="pics"), None, None)
    assert checked.items["photo"].to_list() == ["1.jpg", None, None, None, None]
    assert [(fault.fault, fault.count) for fault in checked.faults] == [("missing_photo", 4)]
    assert photo_fingerprint(checked.tables["items"].photo_files(), root=tmp_path)
    by_id = _items(tmp_path, [{"id": "1"}, {"id": "3"}], photo="pics")
    assert by_id.frame["photo"].to_list() == ["1.jpg", None]
    beside = _items(tmp_path, rows, path="items.parquet")  # where the root has to be looked for
    assert beside.photo_root == tmp_path
