"""Broken lines of CSV and JSONL: found by line, set aside alone, and nothing shifted, against csv and json."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from triptych.cli import app
from triptych.data import files, lines
from triptych.data.check import Checked, check_tables, exit_code, render, write_rejected
from triptych.data.faults import Severity
from triptych.data.files import TableFiles, open_table
from triptych.data.lines import CsvGrammar, csv_blocks, json_blocks
from triptych.data.schema import EventsConfig, ItemsConfig
from triptych.data.tables import read_events, read_items


def _open(folder: Path, content: str | bytes, *, name: str) -> TableFiles:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_table(name, base=folder, table="items")


def _rows(source: TableFiles) -> list[tuple[Any, ...]]:
    return source.collect(source.frame).rows()


def _broken(source: TableFiles) -> list[tuple[int, str]]:
    return [(line.line, line.fault.value) for _, line in source.broken]


# Name → file, rows, broken lines.
CSV: dict[str, tuple[bytes, list[tuple[str | None, ...]], list[tuple[int, str]]]] = {
    "too many": (b"a,b\n1,x\n2,y,z\n3,w\n", [("1", "x"), ("3", "w")], [(3, "too_many_fields")]),
    "too many in the last line": (b"a,b\n1,x\n2,y,", [("1", "x")], [(3, "too_many_fields")]),
    "too few": (b"a,b,c\n1,x,p\n2,y\n3,w,q\n", [("1", "x", "p"), ("3", "w", "q")], [(3, "too_few_fields")]),
    "too few in the last line": (b"a,b,c\n1,x,p\n2,y", [("1", "x", "p")], [(3, "too_few_fields")]),
    "a short and a long line": (b"a,b\n1\n2,y,", [], [(2, "too_few_fields"), (3, "too_many_fields")]),
    "empty fields": (b"a,b,c\n1,,\n,,\n", [("1", None, None), (None, None, None)], []),
    "quotes": (b'a,b\n1,"x, ""y"""\n"2","z\n\nw"\n', [("1", 'x, "y"'), ("2", "z\n\nw")], []),
    "a quote never closed": (b'a,b\n1,x\n2,"y\n3,w\n', [("1", "x"), ("3", "w")], [(3, "open_quote")]),
    "a quote closed by another": (b'a,b\n1,"x\n2,"y"\n3,w\n', [("2", "y"), ("3", "w")], [(2, "open_quote")]),
    "text after a quote": (b'a,b\n1,"x" y\n3,w\n', [("3", "w")], [(2, "bad_quotes")]),
    "quotes not doubled": (b'a,b\n1,"x "y" z"\n3,w\n', [("3", "w")], [(2, "bad_quotes")]),
    "backslashed quotes": (b'a,b\n1,"x \\"y\\" z"\n3,"w\\"\n', [("3", "w\\")], [(2, "bad_quotes")]),
    "the rest of a torn line": (
        b'a,b\n1,"she said "hi"\nthere",z\n3,w"\n4,x\n',
        [("3", 'w"'), ("4", "x")],
        [(2, "bad_quotes"), (3, "bad_quotes")],
    ),
    "inches": (b'a,b\n1,5" nail\n2,6" nail\n3,w\n', [("1", '5" nail'), ("2", '6" nail'), ("3", "w")], []),
    "quotes after a space": (b'a,b\n1, "x, y"\n3,w\n', [("3", "w")], [(2, "too_many_fields")]),
    "a long record over lines": (b'a,b\n1,"x\ny",z\n3,w\n', [("3", "w")], [(2, "too_many_fields")]),
    "not UTF-8": (b"a,b\n1,caf\xe9\n2,x\n3,\xff\n", [("2", "x")], [(2, "not_utf8"), (4, "not_utf8")]),
    "blank lines": (b"\n\na,b\n1,x\n\n  \n3,w\n\n", [("1", "x"), ("3", "w")], []),
    "a mark and Windows lines": (b'\xef\xbb\xbf"a",b\r\n1,"x\r\ny"\r\n2,\r\n', [("1", "x\r\ny"), ("2", None)], []),
    "Windows lines, one short": (b"a;b;c\r\n1;x\r\n2;y;z\r\n", [("2", "y", "z")], [(2, "too_few_fields")]),
    "mixed line ends": (b"a,b\r\n1,x\n2,y\r\r\n3,z\r\n", [("1", "x"), ("2", "y"), ("3", "z")], []),
    "returns in a line": (b'a,b\n1,x\n2,y\rz\n3,"w\rv"\n', [("1", "x"), ("3", "w\rv")], [(3, "stray_return")]),
    "semicolons": (b"a;b\n1;x, y\n2;\n", [("1", "x, y"), ("2", None)], []),
    "tabs": (b'a\tb\n1\tx, y\n2\t"z\tw"\n3\n', [("1", "x, y"), ("2", "z\tw")], [(4, "too_few_fields")]),
    "bars": (b"a|b\n1|x\n", [("1", "x")], []),
    "separators in names": (b'"a, b, c";d\n1;x\n', [("1", "x")], []),
    "a name over lines": (b'"a\nb",c\n1,x\n2\n', [("1", "x")], [(4, "too_few_fields")]),
    "one column": (b"a\n1\n2,3\n", [("1",)], [(3, "too_many_fields")]),
    "only tabs": (b"a\tb\tc\n\t\t\n\n", [(None, None, None)], []),
}


@pytest.mark.parametrize("case", CSV)
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 22])
def test_csv_is_read_right_or_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, block_bytes: int
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    content, rows, broken = CSV[case]
    if rows:
        source = _open(tmp_path, content, name="t.csv")
        assert _rows(source) == rows
        assert _broken(source) == broken
        assert _rows(_open(tmp_path, gzip.compress(content), name="t.csv.gz")) == rows
    else:
        with pytest.raises(files.DataError, match=rf"^t\.csv: none of its 2 lines can be read \(line {broken[0][0]}: "):
            _open(tmp_path, content, name="t.csv")


CELLS = ["a", "é", ",", '"', "\n", "\\", " ", "\r\n", '""', ',"', '",', '"\n', '\n"', "\r"]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(CELLS), max_size=16).map("".join),
    st.integers(1, 3),
    st.integers(1, 9),
)
def test_csv_blocks_against_the_csv_module(body: str, num_fields: int, block_bytes: int) -> None:
    grammar = CsvGrammar(",", num_fields=num_fields)

    def read() -> tuple[bytes, list[lines.BrokenLine], bool]:
        blocks = list(csv_blocks(io.BytesIO(body.encode()), grammar=grammar, first_line=2))
        broken = [line for block in blocks for line in block.broken]
        return b"".join(block.data for block in blocks), broken, all(block.is_verbatim for block in blocks)

    good, broken, is_clean = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        assert read() == (good, broken, is_clean)

    kept = [row or [""] for row in csv.reader(io.StringIO(good.decode(), newline=""), strict=True)]
    assert all(len(row) == num_fields for row in kept)
    schema = {str(place): pl.String() for place in range(num_fields)}
    if good:  # polars understands what it is given as csv does
        frame = pl.read_csv(good, has_header=False, schema=schema, infer_schema=False)
        assert [[value or "" for value in row] for row in frame.rows()] == kept
    try:
        expected = list(csv.reader(io.StringIO(body, newline=""), strict=True))
    except csv.Error:
        assert broken
        return
    if "\r" not in body.replace("\r\n", "") and num_fields > 1:  # csv takes a return alone for the end of a line
        assert kept == [row for row in expected if len(row) == num_fields]
        ragged = [row for row in expected if len(row) != num_fields]
        assert sum(bool("".join(row).strip()) for row in ragged) <= len(broken) <= sum(bool(row) for row in ragged)
    if is_clean:
        header = ",".join(schema).encode() + b"\n"
        whole = pl.scan_csv(header + body.encode(), infer_schema=False).collect(engine="streaming")
        assert [[value or "" for value in row] for row in whole.rows()] == kept


JSON_LINES = [
    b'{"id": 1, "p": "x"}', b'{"p": 2.5, "id": "01"}', b'{"id": true, "q": null}', b"{}", b' {"id": "\xc3\xa9"}\r',
    b'{"id": 2,', b'{"id": 2}}', b"[1, 2]", b"5", b'"x"', b"null", b"true", b'{"id": NaN}', b'{"id": 1e999}',
    b'{"id": "\xe9"}', b'{"id": "a\tb"}', b"", b"  ", b"id,name", b'{"id": ' + b"[" * 1500 + b"]" * 1500 + b"}",
    b'{"id": 1}{"id": 2}', b'{"id": 12345678901234567890123}',
]  # fmt: skip
READABLE = {0, 1, 2, 3, 4, 21}
BLANK = {16, 17}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(JSON_LINES) - 1), max_size=12), st.integers(1, 200), st.booleans())
def test_json_blocks_against_each_line_alone(numbers: list[int], block_bytes: int, is_marked: bool) -> None:
    text = (b"\xef\xbb\xbf" if is_marked else b"") + b"\n".join(JSON_LINES[number] for number in numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        blocks = list(json_blocks(io.BytesIO(text)))
    found = [line for block in blocks for line in block.broken]
    good = [line for block in blocks for line in block.data.split(b"\n") if line.strip()]
    assert good == [JSON_LINES[number] for number in numbers if number in READABLE]
    assert [line.line for line in found] == [
        place for place, number in enumerate(numbers, start=1) if number not in READABLE | BLANK
    ]


def test_broken_json_lines_say_what_they_are(tmp_path: Path) -> None:
    source = _open(tmp_path, b"\n".join(JSON_LINES[:16]), name="t.jsonl")
    assert [(line.line, line.fault.value, line.reason.split(":")[0]) for _, line in source.broken] == [
        (6, "not_json", "this is not JSON (Expecting property name enclosed in double quotes"),
        (7, "not_json", "this is not JSON (Extra data"),
        (8, "not_an_object", "this is an array, not a JSON object"),
        (9, "not_an_object", "this is a number, not a JSON object"),
        (10, "not_an_object", "this is text, not a JSON object"),
        (11, "not_an_object", "this is null, not a JSON object"),
        (12, "not_an_object", "this is true or false, not a JSON object"),
        (13, "not_json", "this is not JSON (NaN is no JSON value; write null)"),
        (14, "not_json", "this JSON cannot be read (InvalidNumber at character 7 ('1'))"),
        (15, "not_utf8", "byte 0xe9 is not UTF-8"),
        (16, "not_json", "this is not JSON (Invalid control character at"),
    ]
    assert source.broken[9][1].raw == '{"id": "\\xe9"}'
    assert _rows(source) == [
        ("1", "x", None), ("01", "2.5", None), ("true", None, None), (None, None, None), ("é", None, None),
    ]  # fmt: skip


def test_a_broken_first_line_does_not_make_an_array_of_the_file(tmp_path: Path) -> None:
    source = _open(tmp_path, '[1,\n{"id": 1}\n{"id": 2}\n', name="t.jsonl")
    assert (_rows(source), _broken(source)) == ([("1",), ("2",)], [(1, "not_json")])


VALUES = ["1", "1.5", '"x"', "true", "null", "[1, 2]", '["a"]', "[]", "[null]", '[{"a": 1}]', "[[1]]", '{"a": 1}',
          '{"b": "x"}', '{"a": "x"}', '{"a": [1]}', "{}"]  # fmt: skip


@pytest.mark.parametrize("block_bytes", [1, 1 << 22])
@pytest.mark.parametrize("first", VALUES)
def test_types_that_differ_between_lines_lose_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, block_bytes: int
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    for second, third in itertools.product(VALUES, [None, "{"]):
        text = "".join(f'{{"v": {value}, "id": {row}}}\n' for row, value in enumerate([first, second]))
        source = _open(tmp_path, text + (third or ""), name="t.jsonl")
        assert _broken(source) == ([] if third is None else [(3, "not_json")])
        frame = source.collect(source.frame.select("v", "id"))
        assert frame["id"].to_list() == ["0", "1"]
        for value, read in zip((first, second), frame["v"].to_list(), strict=True):
            expected = json.loads(value)
            assert _same(expected, read), (first, second, frame)


def _same(value: Any, read: Any) -> bool:
    """Tell whether what was read still says what was written: text says it as words or as JSON, nulls fill records."""
    if isinstance(read, str) and not isinstance(value, str):
        return read == str(value) or json.loads(read) == value
    if isinstance(value, dict):
        return isinstance(read, dict) and all(_same(value.get(name), read[name]) for name in value.keys() | read.keys())
    if isinstance(value, list):
        return len(value) == len(read) and all(map(_same, value, read))
    return value == read


def test_lists_stay_lists_beside_a_broken_line(tmp_path: Path) -> None:
    text = '{"id": 1, "t": ["a"], "m": [1]}\n{"id": 2,\n{"id": 3, "t": ["b", "c"], "m": "x"}\n{"id": 4, "t": null}\n'
    source = _open(tmp_path, text, name="t.jsonl")
    assert source.columns == {"id": pl.String(), "t": pl.List(pl.String()), "m": pl.String()}
    assert _rows(source) == [("1", ["a"], "[1]"), ("3", ["b", "c"], "x"), ("4", None, None)]


def test_an_array_of_objects_is_a_table(tmp_path: Path) -> None:
    text = '[{"id": "007", "p": 1.50, "t": ["a"]},\n {"id": 8, "p": "x", "n": true}]\n'
    for name, content in (("t.json", text.encode()), ("t.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + text.encode()))):
        source = _open(tmp_path, content, name=name)
        assert _rows(source) == [("007", "1.5", ["a"], None), ("8", "x", None, "true")]


def test_clean_files_are_left_to_polars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("read line by line")

    monkeypatch.setattr(files, "lazy_rows", refuse)
    monkeypatch.setattr(files, "json_blocks", refuse)
    monkeypatch.setattr(lines.json, "loads", refuse)
    monkeypatch.setattr(lines, "_judge", refuse)
    assert len(_rows(_open(tmp_path, 'a,b\r\n1,"x\ny"\r\n2,"é ""z"""', name="t.csv"))) == 2
    assert len(_rows(_open(tmp_path, '{"a": 1, "b": [1]}\n\n{"a": "é", "b": []}', name="t.jsonl"))) == 2


def test_good_lines_become_no_objects_and_blocks_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    loads = json.loads
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(lines.json, "loads", lambda text, **given: parsed.append(text) or loads(text, **given))
    text = b"".join(b'{"id": %d}\n' % row if row != 5000 else b"{broken}\n" for row in range(10_000))
    blocks = list(json_blocks(io.BytesIO(text)))
    assert [line.line for block in blocks for line in block.broken] == [5001]
    assert 0 < len(parsed) < 200  # the lines of one block
    assert max(len(block.data) for block in blocks) <= 1000 + 20

    class Counted(CsvGrammar):
        judged = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "record":
                Counted.judged += 1
            return super().__getattribute__(name)

    text = b"".join(b'%d,"x, y"\n' % row if row != 5000 else b"5000\n" for row in range(10_000))
    rows = list(csv_blocks(io.BytesIO(text), grammar=Counted(",", num_fields=2), first_line=2))
    assert [line.line for block in rows for line in block.broken] == [5002]
    assert Counted.judged == 1
    assert max(len(block.data) for block in rows) <= 1000 + 20


def test_an_unclosed_quote_is_looked_after_so_far_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 500)
    text = b'0,"x\n' + b"".join(b"%d,y\n" % row for row in range(1, 1000))
    blocks = csv_blocks(io.BytesIO(text), grammar=CsvGrammar(",", num_fields=2), first_line=2)
    sizes, broken, rows = [], [], 0
    for block in blocks:
        sizes.append(len(block.data))
        broken += [(line.line, line.fault.value) for line in block.broken]
        rows += block.data.count(b"\n")
    assert (broken, rows) == ([(2, "open_quote")], 999)
    assert max(sizes) <= 700


def test_a_long_broken_line_is_cut(tmp_path: Path) -> None:
    source = _open(tmp_path, "a,b\n1,x\n" + "é" * 5000 + "\n", name="t.csv")
    assert source.broken[0][1].raw == "é" * lines.RAW_CHARS + "…"


def _checked(folder: Path) -> Checked:
    return check_tables(
        read_items(ItemsConfig(path="items.csv"), base=folder),
        read_events(EventsConfig(path="clicks"), base=folder),
        None,
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop with two broken lines of items, and three in two files of events."""
    (tmp_path / "items.csv").write_text('sku,name,raw\na,red dress,1\nb,"blue" hat,2\nc,hat\nd,,3\na,again,4\n')
    events = [{"ts": 1706702400 + row, "uid": "u", "sku": "a", "action": "click"} for row in range(6)]
    records = [json.dumps(event) for event in events]
    (tmp_path / "clicks").mkdir()
    (tmp_path / "clicks/1.jsonl").write_text("\n".join([records[0], '{"ts": 17', "[]", records[1]]))
    (tmp_path / "clicks/2.jsonl").write_text("\n".join([*records[2:], "{}}", records[0].replace('"a"', '"z"')]))
    (tmp_path / "shop.toml").write_text('recipe = "shop"\n[items]\npath = "items.csv"\n[events]\npath = "clicks"\n')
    return tmp_path


def test_broken_lines_are_faults_and_rejected_rows(shop: Path) -> None:
    checked = _checked(shop)
    found = [
        (fault.table.value, fault.column, fault.fault, fault.count, fault.first_rows, fault.example)
        for fault in checked.faults
        if fault.severity is Severity.SET_ASIDE
    ]
    assert found == [
        ("items", "items.csv", "too_few_fields", 1, [3], "line 4: c,hat"),
        ("items", "items.csv", "bad_quotes", 1, [2], 'line 3: b,"blue" hat,2'),
        ("items", "sku", "duplicate_id", 1, [2], "a"),
        ("events", "1.jsonl", "not_json", 2, [1], 'line 2: {"ts": 17'),
        ("events", "1.jsonl", "not_an_object", 1, [2], "line 3: []"),
        ("events", "sku", "unknown_item", 1, [6], "z"),
    ]
    assert checked.summary.rows_read == {"items": 5, "events": 10}
    assert checked.summary.rows_kept == {"items": 2, "events": 6}
    for table, rows in checked.summary.rows_read.items():
        aside = checked.rejected[table].filter(pl.col("set_aside") == "row")
        assert rows == checked.summary.rows_kept[table] + len(aside)
    assert (exit_code(checked, strict=False), exit_code(checked, strict=True)) == (0, 1)
    fault = render(checked)["faults"][0]
    assert (fault["first_rows"], fault["meaning"]) == ([4], "the line has fewer fields than the header")

    written = {file.stem: pl.read_parquet(file) for file in write_rejected(checked, shop / "rejected")}
    items = written["items"].to_dicts()
    assert items[0] == {
        "sku": "a", "name": "again", "original_raw": "4", "row": 3, "column": "sku", "fault": "duplicate_id",
        "reason": "an earlier row has the same id", "set_aside": "row", "file": None, "line": None, "raw": None,
    }  # fmt: skip
    assert [(row["file"], row["line"], row["raw"], row["reason"], row["row"], row["sku"]) for row in items[1:]] == [
        ("items.csv", 3, 'b,"blue" hat,2', "something stands between a closing quote and the separator", None, None),
        ("items.csv", 4, "c,hat", "2 fields where the header has 3", None, None),
    ]
    events = written["events"]
    assert events.select("file", "line", "row", "fault").rows() == [
        ("2.jsonl", None, 7, "unknown_item"),
        ("1.jsonl", 2, None, "not_json"),
        ("1.jsonl", 3, None, "not_an_object"),
        ("2.jsonl", 5, None, "not_json"),
    ]
    assert events["raw"].to_list() == [None, '{"ts": 17', "[]", "{}}"]


def test_check_ends_with_0_and_under_strict_with_1_and_with_2_where_nothing_is_left(shop: Path) -> None:
    def check(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["check", str(shop / "shop.toml"), *arguments], catch_exceptions=False)

    told = check("--out", str(shop / "out"))
    assert told.exit_code == 0
    assert "items read / kept" in told.stdout
    assert pl.read_parquet(shop / "out/rejected/events.parquet")["line"].drop_nulls().to_list() == [2, 3, 5]
    assert check("--strict").exit_code == 1
    (shop / "items.csv").write_text("sku,name\na,b,c\n")
    with pytest.raises(files.DataError, match=r"^items\.csv: its only line cannot be read \(line 2: 3 fields where "):
        check()  # the process turns it into one line and exit code 2


def test_all_broken_and_set_aside_is_counted_together(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,name\n,x\nb\n")
    mapped = read_items(ItemsConfig(path="items.csv", id="sku"), base=tmp_path)
    sentence = r"items\.csv: all 2 rows are set aside \(1 too_few_fields, 1 empty_id\); nothing is left to use"
    with pytest.raises(files.DataError, match=sentence):
        check_tables(mapped, None, None)


def _lines(count: int) -> Iterator[str]:
    yield from (f"i{row},word{row}" for row in range(count))


def test_rows_are_found_again_past_broken_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    text = list(_lines(2000))
    text[700] = "i700"
    (tmp_path / "items.csv").write_text("\n".join(["sku,name", *text]))
    items = read_items(ItemsConfig(path="items.csv"), base=tmp_path)
    assert items.frame["item_id"].to_list() == [f"i{row}" for row in range(2000) if row != 700]
    assert items.rows(pl.Series([0, 699, 700, 1998])).rows() == [
        (0, "i0", "word0"), (699, "i699", "word699"), (700, "i701", "word701"), (1998, "i1999", "word1999"),
    ]  # fmt: skip
