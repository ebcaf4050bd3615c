"""The journal: what was acknowledged is there, whatever the file ends with; what is damaged is told."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from triptych.engine.journal import CHANGES, MAGIC, Journal, JournalError
from triptych.foundation.errors import ArtifactError

PHOTO = bytes(range(0, 256, 3))
CHANGES_MADE = [
    {"put": [{"item_id": "a", "title": "red lamp", "price": 2.5}, {"item_id": "菜/1", "photo": PHOTO}]},
    {"remove": ["i1"]},
    {"put": [{"item_id": "a", "title": "blue lamp", "cells": ["c1"], "photo": b"x"}]},
    {"put": [{"item_id": "b", "title": "\ud800 odd"}]},
    {"remove": ["b", "i2"]},
]


def opened(folder, catalogue_id="cat-1"):
    return Journal.open(folder, catalogue_id=catalogue_id)


def state(journal):
    """Item id → its row, None where it was removed."""
    found = {entry.item_id: None for entry in journal.latest()}
    found |= {entry.item_id: row for entry, row in journal.rows(journal.latest())}
    return found


def expected(changes):
    found = {}
    for change in changes:
        found |= {row["item_id"]: row for row in change.get("put", ())}
        found |= dict.fromkeys(change.get("remove", ()))
    return found


@pytest.fixture
def written(tmp_path):
    """A folder with a journal, and its size after each change."""
    journal = opened(tmp_path / "journal")
    ends = [journal.end]
    for change in CHANGES_MADE:
        journal.append(**change)
        ends.append(journal.end)
    journal.close()
    return tmp_path / "journal", ends


def test_what_was_appended_is_read_back(written):
    folder, ends = written
    assert (folder / CHANGES).stat().st_size == ends[-1]
    journal = opened(folder, catalogue_id="another")
    assert journal.catalogue_id == "cat-1"
    assert state(journal) == expected(CHANGES_MADE)
    assert [entry.item_id for entry in journal.latest()] == ["菜/1", "i1", "a", "b", "i2"]
    assert [entry.item_id for entry in journal.latest(ends[3])] == ["b", "i2"]
    assert journal.num_changes == 7
    journal.append(put=[{"item_id": "c"}])
    assert state(journal) == expected([*CHANGES_MADE, {"put": [{"item_id": "c"}]}])
    journal.close()


def test_cut_at_every_byte_it_holds_exactly_the_changes_that_were_finished(written, tmp_path, caplog):
    folder, ends = written
    whole = (folder / CHANGES).read_bytes()
    for size in range(ends[0], len(whole)):
        cut = tmp_path / "cut"
        cut.mkdir(exist_ok=True)
        (cut / CHANGES).write_bytes(whole[:size])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            journal = opened(cut)
        finished = sum(end <= size for end in ends[1:])
        assert state(journal) == expected(CHANGES_MADE[:finished])
        torn = size - ends[finished]
        assert len(caplog.records) == (torn > 0)
        assert not torn or f"its {torn} bytes are cut off" in caplog.text
        if size % 8:
            journal.close()
            continue
        journal.append(remove=["later"])  # and it can be gone on with
        journal.close()
        again = opened(cut)
        assert state(again) == expected([*CHANGES_MADE[:finished], {"remove": ["later"]}])
        again.close()
    for size in range(ends[0]):  # made at one stroke, so no kill can leave this
        (cut / CHANGES).write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="is no journal of triptych|ends within its first record|newer version"):
            opened(cut)


def test_a_changed_byte_anywhere_is_an_error_that_says_where(written, tmp_path):
    folder, ends = written
    whole = (folder / CHANGES).read_bytes()
    places = [len(MAGIC), *ends]
    bad = tmp_path / "bad"
    bad.mkdir()
    for place in range(len(MAGIC), len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        (bad / CHANGES).write_bytes(damaged)
        record = max(start for start in places if start <= place)
        with pytest.raises(ArtifactError, match=rf"damaged at byte {record:,}: .*truncate -s {record} "):
            opened(bad)
        assert (bad / CHANGES).read_bytes() == damaged  # nothing is mended unasked


def test_what_is_no_journal_is_left_alone(tmp_path):
    (tmp_path / CHANGES).write_bytes(b"my notes")
    with pytest.raises(ArtifactError, match="is no journal of triptych"):
        opened(tmp_path)
    (tmp_path / CHANGES).write_bytes(b"triptych journal 2\n")
    with pytest.raises(ArtifactError, match="newer version of triptych. Upgrade"):
        opened(tmp_path)
    with pytest.raises(ArtifactError, match="No journal can be kept in"):
        opened(tmp_path / CHANGES)


def test_one_process_at_a_time(written):
    folder, _ = written
    journal = opened(folder)
    script = (
        "import sys\n"
        "from triptych.engine.journal import Journal\n"
        "try: Journal.open(sys.argv[1], catalogue_id='cat-1')\n"
        "except Exception as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Another process is writing the journal in" in told
    with pytest.raises(ArtifactError, match="Another process"):  # nor twice in this one
        opened(folder)
    journal.close()
    opened(folder).close()


def test_rewritten_it_keeps_what_is_asked_for_with_its_times(written):
    folder, _ = written
    journal = opened(folder)
    then = datetime(2024, 5, 1, tzinfo=UTC)
    journal.append(put=[{"item_id": "d", "photo": PHOTO}, {"item_id": "e", "photo": b"e"}], time=then)
    before = {entry.item_id: entry.time for entry in journal.latest()}
    keep = [entry for entry in journal.latest() if entry.item_id in ("菜/1", "i1", "a", "e")]
    journal.rewrite(catalogue_id="cat-2", keep=keep)
    journal.append(remove=["z"])
    wanted = {"菜/1": CHANGES_MADE[0]["put"][1], "i1": None, "a": CHANGES_MADE[2]["put"][0]}
    wanted |= {"e": {"item_id": "e", "photo": b"e"}, "z": None}
    assert (state(journal), journal.catalogue_id) == (wanted, "cat-2")
    journal.close()
    again = opened(folder)
    assert (state(again), again.catalogue_id) == (wanted, "cat-2")
    assert all(entry.time == before[entry.item_id] for entry in again.latest() if entry.item_id != "z")
    assert before["e"] == then
    assert sorted(os.listdir(folder)) == [CHANGES, "lock"]
    again.close()


def test_a_change_that_cannot_be_written_is_not_made(written, monkeypatch):
    folder, ends = written
    journal = opened(folder)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    pwrite = os.pwrite

    def half(descriptor, data, offset):
        pwrite(descriptor, data[: len(data) // 2], offset)
        raise full

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", half)
        with pytest.raises(JournalError, match=r"No space left on device\), so it was not made"):
            journal.append(remove=["x"])
    assert (folder / CHANGES).stat().st_size == ends[-1]
    journal.append(remove=["y"])
    assert state(journal) == expected([*CHANGES_MADE, {"remove": ["y"]}])
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", half)
        broken.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(JournalError):
            journal.append(remove=["x"])
    with pytest.raises(JournalError, match="no more changes are taken"):
        journal.append(remove=["x"])
    journal.close()
    again = opened(folder)
    assert state(again) == expected([*CHANGES_MADE, {"remove": ["y"]}])
    again.close()


def test_a_journal_that_cannot_be_written_anew_is_as_it_was(written, monkeypatch):
    folder, _ = written
    journal = opened(folder)
    whole = (folder / CHANGES).read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(JournalError, match="could not be written anew: No space"):
            journal.rewrite(catalogue_id="cat-2", keep=journal.latest())
    assert (folder / CHANGES).read_bytes() == whole
    assert state(journal) == expected(CHANGES_MADE)
    journal.close()
    assert sorted(os.listdir(folder)) == [CHANGES, "lock"]


def test_the_format_is_what_the_docs_say(written):
    """Read by a second, plain reader: a journal of today must be read by every later version."""
    folder, ends = written
    content = (folder / CHANGES).read_bytes()
    assert content.startswith(b"triptych journal 1\n")
    place, bodies = len(b"triptych journal 1\n"), []
    while place < len(content):
        size = int.from_bytes(content[place : place + 8], "little")
        bodies.append(content[place + 16 : place + 16 + size])
        place += 16 + size
    assert place == ends[-1]
    texts = [(json.loads(body[4 : 4 + (n := int.from_bytes(body[:4], "little"))]), body[4 + n :]) for body in bodies]
    assert texts[0][0]["catalogue"] == "cat-1"
    assert texts[1][0]["put"][1] == {"item_id": "菜/1", "photo": len(PHOTO)}
    assert texts[1][1] == PHOTO
    assert texts[5][0]["remove"] == ["b", "i2"]
    shutil.rmtree(folder)
