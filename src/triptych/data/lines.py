"""Text tables line by line: which lines of CSV or JSONL cannot be read, and the rows of all the others.

A file is gone through in blocks, so that memory holds one block and the longest line, whatever the file's size; a good
line never becomes a Python object. For CSV the judge is a regular expression of RFC 4180, because polars, like most
readers, fills short rows up and guesses at stray quotes without a word. For JSONL it is polars itself.

`scan` finds out whether a file is clean; polars' own reader takes such a file as it is. Only one that is not goes
through `lazy_rows`, which leaves out what is broken and yields the rest.

CSV, as read here: fields in double quotes hold separators, line ends and doubled quotes; lines end with LF, CRLF or
CRCRLF; a quote inside an unquoted field stands for itself (`5" nail`). In both formats a line without any content is no
row, and a broken line is set aside alone: an unclosed quote costs its own line, not the rest of the file.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import IO, NamedTuple

import polars as pl
from polars.io.plugins import register_io_source

from triptych.foundation.errors import DataError

BLOCK_BYTES = 1 << 22
MAX_RECORD_BYTES = 1 << 24
"""A CSV record that runs over lines for longer than this is taken for an unclosed quote."""
RAW_CHARS = 200
"""Characters of a broken line that are kept."""
_BOM = b"\xef\xbb\xbf"


class LineFault(StrEnum):
    """Why a line is no row."""

    NOT_UTF8 = "not_utf8"
    TOO_FEW_FIELDS = "too_few_fields"
    TOO_MANY_FIELDS = "too_many_fields"
    OPEN_QUOTE = "open_quote"
    BAD_QUOTES = "bad_quotes"
    STRAY_RETURN = "stray_return"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"


class _Words(NamedTuple):
    meaning: str
    advice: str


WORDS = {
    LineFault.NOT_UTF8: _Words("the line is not UTF-8 text", "save the file as UTF-8"),
    LineFault.TOO_FEW_FIELDS: _Words(
        "the line has fewer fields than the header", "keep the separators of fields that are empty"
    ),
    LineFault.TOO_MANY_FIELDS: _Words(
        "the line has more fields than the header", "put quotes around a field that holds the separator"
    ),
    LineFault.OPEN_QUOTE: _Words("a quote is opened and never closed", "close it, or double it where it is meant"),
    LineFault.BAD_QUOTES: _Words("the quotes do not match", "double a quote that stands inside a quoted field"),
    LineFault.STRAY_RETURN: _Words(
        "a carriage return stands inside a field without quotes", "end lines with LF or CRLF, or quote the field"
    ),
    LineFault.NOT_JSON: _Words("the line is not JSON", "write one whole JSON object per line"),
    LineFault.NOT_AN_OBJECT: _Words("the line holds no JSON object", "write one JSON object per line"),
}
"""Fault → what is wrong, and how to mend it."""


class BrokenLine(NamedTuple):
    """A line that is set aside because it cannot be read."""

    line: int
    """Number in its file, from 1; the first of them where a CSV record runs over several."""
    fault: LineFault
    """Kind of fault."""
    reason: str
    """What is wrong with this line."""
    raw: str
    """Its text, cut to `RAW_CHARS`; bytes that are not UTF-8 as `\\xe9`."""


class Block(NamedTuple):
    """Whole lines that follow each other in a file."""

    data: bytes
    """The good ones among them, as polars reads them; may be empty."""
    broken: list[BrokenLine]
    """The others, but for those without content."""
    is_verbatim: bool
    """`data` is all of the lines, unchanged."""


class Scan(NamedTuple):
    """What one pass over a file found."""

    is_clean: bool
    """Polars reads the file as it is."""
    has_rows: bool
    """Some line is good."""
    broken: list[BrokenLine]
    """The others."""


# --- CSV ---


class CsvGrammar:
    """RFC 4180 for one separator and number of fields, as regular expressions that never go back (`*+`, `++`)."""

    def __init__(self, separator: str, *, num_fields: int) -> None:
        """Compile the expressions; they pass a hundred megabytes in about half a second."""
        between = re.escape(separator.encode())
        opened = rb'"[^"]*+(?:""[^"]*+)*+'
        strict = rb"(?:" + opened + rb'"|[^"\r\n' + between + rb"]*+)"
        loose = rb"(?:" + opened + rb'"|(?!")[^\r\n' + between + rb"]*+)"  # quotes inside a field that starts with none
        before = rb"(?:" + loose + between + rb")*+"
        row = strict + rb"(?:" + between + strict + rb"){%d}+\r?\n" % (num_fields - 1)
        self.separator = separator
        self.num_fields = num_fields
        self.row = re.compile(row)
        self.rows = re.compile(rb"(?:" + row + rb")*+")
        self.record = re.compile(before + loose + rb"\r*+\n")  # of any number of fields
        self.fields = re.compile(rb"(" + loose + rb")(" + between + rb"|\r*+\n)")
        self.cut_short = re.compile(before + rb"(?:" + opened + rb'"?+|' + loose + rb")\r*+\Z")
        self.opened = re.compile(before + opened + rb"\Z")


def csv_blocks(file: IO[bytes], *, grammar: CsvGrammar, first_line: int) -> Iterator[Block]:
    """Go through the records of a CSV file.

    Args:
        file: positioned after the header.
        grammar: of the table.
        first_line: number of the line it is positioned at.
    """
    line, rest, is_last, recovering = first_line, b"", False, False
    while not is_last:
        chunk = file.read(BLOCK_BYTES)
        is_last = not chunk
        data = rest + chunk
        if is_last and data and not data.endswith(b"\n"):
            data += b"\n"
        good: list[bytes] = []
        broken: list[BrokenLine] = []
        is_verbatim, at = True, 0
        while at < len(data):
            match = grammar.rows.match(data, at)
            if match is not None and match.end() > at:
                run = match.group()
                whole = _only_utf8(run, grammar=grammar, line=line, broken=broken)
                is_verbatim &= whole is run
                good.append(whole)
                line, at, recovering = line + run.count(b"\n"), match.end(), False
                continue
            if not is_last and _may_go_on(data, at, grammar=grammar):
                break
            record = grammar.record.match(data, at)
            end = record.end() if record is not None else data.index(b"\n", at) + 1
            piece = data[at:end]
            if piece.strip():
                found = _judge(piece, grammar=grammar, is_record=record is not None, recovering=recovering)
                if isinstance(found, bytes):
                    good.append(found)
                else:
                    broken.append(_broken(line, found, piece))
                    recovering = record is None or (recovering and found.fault is not LineFault.BAD_QUOTES)
            is_verbatim = False
            line, at = line + piece.count(b"\n"), end
        rest = data[at:]
        yield Block(b"".join(good), broken, is_verbatim)


class _Verdict(NamedTuple):
    fault: LineFault
    reason: str


def _broken(line: int, verdict: _Verdict, raw: bytes) -> BrokenLine:
    # Cut first: a line may be as long as the file. No character takes more than four bytes.
    text = raw[: 4 * RAW_CHARS + 4].decode("utf-8", errors="backslashreplace").strip("\r\n")
    return BrokenLine(line, verdict.fault, verdict.reason, text if len(text) <= RAW_CHARS else text[:RAW_CHARS] + "…")


def _may_go_on(data: bytes, at: int, *, grammar: CsvGrammar) -> bool:
    """Tell whether what is odd at `at` may only be cut off by the end of the block."""
    if data.find(b"\n", at) < 0:
        return True
    return len(data) - at < MAX_RECORD_BYTES and grammar.cut_short.match(data, at) is not None


def _judge(piece: bytes, *, grammar: CsvGrammar, is_record: bool, recovering: bool) -> bytes | _Verdict:
    """Say what is wrong with a record or line, or return it as strict CSV where it can be read all the same.

    Args:
        piece: one record that is not strict or not of the right number of fields, or one line that starts none.
        grammar: of the table.
        is_record: which of the two.
        recovering: a line shortly before was torn, and this one may be the rest of it.
    """
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError as error:
        return _not_utf8_at(piece, error.start)
    if is_record:
        fields = [match.groups() for match in grammar.fields.finditer(piece)]
        if (count := len(fields)) != grammar.num_fields:
            fault = LineFault.TOO_FEW_FIELDS if count < grammar.num_fields else LineFault.TOO_MANY_FIELDS
            plural = "" if count == 1 else "s"
            return _Verdict(fault, f"{count} field{plural} where the header has {grammar.num_fields}")
        if recovering:
            return _Verdict(LineFault.BAD_QUOTES, "this looks like the rest of the broken line before it")
        return b"".join(_quoted(value) + end.lstrip(b"\r") for value, end in fields)
    if grammar.opened.match(piece):
        return _Verdict(LineFault.OPEN_QUOTE, WORDS[LineFault.OPEN_QUOTE].meaning)
    if "\r" in text.rstrip("\r\n") and '"' not in text:
        return _Verdict(LineFault.STRAY_RETURN, WORDS[LineFault.STRAY_RETURN].meaning)
    return _Verdict(LineFault.BAD_QUOTES, "something stands between a closing quote and the separator")


def _quoted(value: bytes) -> bytes:
    return value if value.startswith(b'"') else b'"' + value.replace(b'"', b'""') + b'"'


def _not_utf8_at(data: bytes, at: int) -> _Verdict:
    return _Verdict(LineFault.NOT_UTF8, f"byte {data[at]:#04x} is not UTF-8")


def _only_utf8(run: bytes, *, grammar: CsvGrammar, line: int, broken: list[BrokenLine]) -> bytes:
    """Return the records that are UTF-8 (the very same object if all are), and add the others to `broken`."""
    good, start = [], 0
    while (bad := _not_utf8(run, start)) >= 0:
        at = start
        while (record := grammar.row.match(run, at)) is not None and record.end() <= bad:
            at = record.end()
        assert record is not None
        broken.append(_broken(line + run.count(b"\n", 0, at), _not_utf8_at(run, bad), record.group()))
        good.append(run[start:at])
        start = record.end()
    return run if start == 0 else b"".join([*good, run[start:]])


def _not_utf8(data: bytes, start: int) -> int:
    if data.isascii():
        return -1
    try:
        str(memoryview(data)[start:], "utf-8")
    except UnicodeDecodeError as error:
        return start + error.start
    return -1


class CsvHeader(NamedTuple):
    """The first record of a CSV file."""

    names: list[str]
    """Of the columns."""
    separator: str
    """The one that gives most columns."""
    num_bytes: int
    """Where the second record starts."""
    num_lines: int
    """Lines before the second record."""
    is_verbatim: bool
    """Polars finds it as it is."""

    def grammar(self) -> CsvGrammar:
        """Return the grammar of the records."""
        return CsvGrammar(self.separator, num_fields=len(self.names))


def read_header(file: IO[bytes], *, separators: str, name: str) -> CsvHeader | None:
    """Read the names of the columns; None where the file is empty.

    Args:
        file: at its start; left at its second record.
        separators: those to choose from, by the number of columns they give; of equals the first.
        name: of the file, for messages.

    Raises:
        DataError: the header cannot be read.
        UnicodeDecodeError: the header is not UTF-8.
    """
    lines = [file.readline()]
    while lines[-1] and not lines[-1].removeprefix(_BOM).strip():
        lines.append(file.readline())
    if not lines[-1]:
        return None
    num_blank = len(lines) - 1
    record = lines[-1].removeprefix(_BOM)
    first = record.decode("utf-8").rstrip("\r\n")
    if "\r" in first:
        raise DataError(f"{name} ends its lines with a carriage return alone; save it with LF or CRLF.")
    separator = max(separators, key=lambda mark: len(_names(first, separator=mark, file=name)))
    opened = CsvGrammar(separator, num_fields=1).opened
    while opened.match(record):  # a name that runs over lines
        lines.append(file.readline())
        record += lines[-1]
        if not lines[-1] or len(record) > MAX_RECORD_BYTES:
            raise DataError(f"{name}, line {num_blank + 1}: the header opens a quote and never closes it.")
    names = _names(record.decode("utf-8").rstrip("\r\n"), separator=separator, file=name)
    header = CsvHeader(names, separator, sum(map(len, lines)), len(lines), is_verbatim=False)
    is_strict = header.grammar().row.fullmatch(record if record.endswith(b"\n") else record + b"\n") is not None
    return header._replace(is_verbatim=is_strict and num_blank == 0)


def _names(header: str, *, separator: str, file: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(header, newline=""), delimiter=separator))
    except csv.Error as error:  # a name of a hundred thousand letters: this is no table
        raise DataError(f"{file}: the header is not CSV ({error}); is the file what its name says?") from None


def read_csv_block(data: bytes, *, header: CsvHeader) -> pl.DataFrame:
    """Read good records; every value is text."""
    schema = dict.fromkeys(header.names, pl.String())
    return pl.read_csv(data, has_header=False, separator=header.separator, schema=schema, infer_schema=False)


# --- JSONL ---


def json_blocks(file: IO[bytes]) -> Iterator[Block]:
    """Go through the lines of a JSONL file, from its start."""
    rest = file.read(len(_BOM))
    is_verbatim = rest != _BOM
    line, rest, is_last = 1, rest if is_verbatim else b"", False
    while not is_last:
        chunk = file.read(BLOCK_BYTES)
        is_last = not chunk
        data = rest + chunk
        cut = len(data) if is_last else data.rfind(b"\n") + 1
        data, rest = data[:cut], data[cut:]
        if data:
            whole = Block(data if data.strip() else b"", [], is_verbatim)
            yield whole if _complaint(data) is None else _sift(data, first_line=line)
            line, is_verbatim = line + data.count(b"\n"), True


def _sift(data: bytes, *, first_line: int) -> Block:
    good: dict[int, bytes] = {}
    broken: list[BrokenLine] = []
    for line, text in enumerate(data.split(b"\n"), start=first_line):
        verdict = _json_verdict(text) if text.strip() else None
        if verdict is not None:
            broken.append(_broken(line, verdict, text))
        elif text.strip():
            good[line] = text
    for line, reason in list(_unparsed(list(good.items()))):
        broken.append(_broken(line, _Verdict(LineFault.NOT_JSON, reason), good.pop(line)))
    return Block(b"\n".join(good.values()), sorted(broken), False)


def _json_verdict(text: bytes) -> _Verdict | None:
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        return _not_utf8_at(text, error.start)
    except (ValueError, RecursionError) as error:  # json.JSONDecodeError is one
        return _Verdict(LineFault.NOT_JSON, f"this is not JSON ({error})")
    if isinstance(value, dict):
        return None
    shape = {list: "an array", str: "text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    return _Verdict(LineFault.NOT_AN_OBJECT, f"this is {shape}, not a JSON object")


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON value; write null")


def _complaint(data: bytes) -> str | None:
    try:
        pl.read_ndjson(io.BytesIO(data), schema={"any": pl.String()})  # lines are parsed whole, whatever is asked for
    except pl.exceptions.PolarsError as error:
        return (str(error).splitlines() or [""])[0].removeprefix("error parsing line: ")
    return None


def _unparsed(lines: list[tuple[int, bytes]]) -> Iterator[tuple[int, str]]:
    """Halve until the lines are found that Python's parser takes and polars' does not (`1e999`, a hundred digits)."""
    complaint = _complaint(b"\n".join(text for _, text in lines))
    if complaint is None:
        return
    if len(lines) == 1:
        yield lines[0][0], f"this JSON cannot be read ({complaint})"
        return
    half = len(lines) // 2
    yield from _unparsed(lines[:half])
    yield from _unparsed(lines[half:])


def json_schema(blocks: Iterable[bytes]) -> dict[str, pl.DataType]:
    """Find the columns of JSON lines, block by block.

    A column keeps lists or records where every value is one of these and their types fit together; anything else is
    text, and so loses nothing: a list among words is its JSON.
    """
    known: dict[str, pl.DataType] = {}
    for data in blocks:
        for name, dtype in (_plainly(data) or _one_by_one(data)).items():
            known[name] = _together(known[name], dtype) if name in known else dtype
    return {name: dtype if dtype.is_nested() else pl.String() for name, dtype in known.items()}


def without_misfits(schema: dict[str, pl.DataType], blocks: Iterable[bytes]) -> dict[str, pl.DataType]:
    """Make text of the columns whose values do not all fit the type that was found for them."""
    for data in blocks:
        if _read_json(data, schema) is None:
            for name, dtype in schema.items():
                if dtype.is_nested() and _read_json(data, {name: dtype}) is None:
                    schema = schema | {name: pl.String()}
    return schema


def _plainly(data: bytes) -> dict[str, pl.DataType] | None:
    """Let polars find the types; None where they conflict, which it finds out while inferring or while reading."""
    try:
        inferred = dict(pl.scan_ndjson(io.BytesIO(data), infer_schema_length=None).collect_schema())
    except pl.exceptions.PolarsError:
        return None
    text = {name: dtype if dtype.is_nested() else pl.String() for name, dtype in inferred.items()}
    return None if _read_json(data, text) is None else inferred


def _one_by_one(data: bytes) -> dict[str, pl.DataType]:
    """Find the types column by column, by the values; null where a column has none."""
    nested: dict[str, list[str]] = {}
    plain: set[str] = set()
    for record in (json.loads(text) for text in data.split(b"\n") if text.strip()):
        for name, value in record.items():
            nested.setdefault(name, [])
            if isinstance(value, list | dict):
                nested[name].append(json.dumps({name: value}))
            elif value is not None:
                plain.add(name)
    types: dict[str, pl.DataType] = dict.fromkeys(nested, pl.String())
    for name in nested.keys() - plain:
        alone = _plainly("\n".join(nested[name]).encode()) if nested[name] else {name: pl.Null()}
        if alone is not None:
            types[name] = alone[name]
    return types


def _together(one: pl.DataType, other: pl.DataType) -> pl.DataType:
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if not (one.is_nested() and other.is_nested()):
        return pl.String()
    try:
        both = pl.concat([pl.DataFrame(schema={"v": dtype}) for dtype in (one, other)], how="vertical_relaxed")
    except pl.exceptions.PolarsError:
        return pl.String()
    return both.schema["v"]


def _read_json(data: bytes, schema: dict[str, pl.DataType]) -> pl.DataFrame | None:
    try:
        return pl.read_ndjson(io.BytesIO(data), schema=schema)
    except pl.exceptions.PolarsError:
        return None


def read_json_block(data: bytes, *, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """Read good lines under a schema from `json_schema`."""
    return pl.read_ndjson(io.BytesIO(data), schema=schema)


# --- both ---


def scan(blocks: Iterable[Block]) -> Scan:
    """Go through a file once."""
    is_clean, has_rows = True, False
    broken: list[BrokenLine] = []
    for block in blocks:
        is_clean &= block.is_verbatim
        has_rows |= bool(block.data)
        broken += block.broken
    return Scan(is_clean, has_rows, broken)


def lazy_rows(
    blocks: Callable[[], Iterator[Block]], *, read: Callable[[bytes], pl.DataFrame], schema: dict[str, pl.DataType]
) -> pl.LazyFrame:
    """Return the good rows of a file; it is read anew, block by block, whenever they are asked for.

    Args:
        blocks: goes through the file.
        read: from a block's data to rows.
        schema: of these rows.
    """

    def rows(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for block in blocks():
            if not block.data:
                continue
            frame = read(block.data)
            if left is not None:
                frame = frame.head(left)
                left -= len(frame)
            frame = frame if with_columns is None else frame.select(with_columns)
            yield frame if predicate is None else frame.filter(predicate)
            if left == 0:
                return

    return register_io_source(rows, schema=pl.Schema(schema), validate_schema=True)
