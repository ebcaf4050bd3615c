"""Live changes of a served shop: added, replaced, removed; forgotten by no kill, lost by no swap of the run."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from tiny_shop import ITEMS, NUM_ITEMS, PX, photo, write_run

from triptych.data.images import decode_photo
from triptych.encoders.embed import Embedder
from triptych.engine import Engine, Filters
from triptych.engine.journal import CHANGES, Journal, JournalError
from triptych.foundation.errors import ArtifactError, EngineError
from triptych.recall.models.bm25 import Bm25

WORDS = ("velvet", "oak", "red", "shirt", "lamp", "sofa", "blue")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "shop")


@pytest.fixture
def engine(run):
    return Engine.open(run.path)


@pytest.fixture
def opened(run, tmp_path):
    """Opens engines over one journal, each closed before the next."""
    engines = []

    def open_again(path=run.path, **options):
        for engine in engines:
            engine.close()
        engines.append(Engine.open(path, journal=tmp_path / "journal", **options))
        return engines[-1]

    yield open_again
    for engine in engines:
        engine.close()


def ids(hits):
    return [hit.item_id for hit in hits]


def drawn(rng, item_id):
    """A row with whatever."""
    row = {"item_id": item_id, "title": " ".join(rng.choices(WORDS, k=3))}
    if rng.random() < 0.5:
        row["photo"] = photo(rng.randrange(NUM_ITEMS), shift=rng.randrange(20))
    if rng.random() < 0.7:
        row |= {"category": rng.choice(["clothes", "sofas", "lamps"]), "price": float(rng.randrange(1, 100))}
    return row | {"cells": rng.sample(["c1", "c2", "c77"], k=rng.randrange(3))}


def catalogue_rows(run):
    """Item id → its row as it could have been added."""
    photos = {item["item_id"]: photo(row) for row, item in enumerate(ITEMS)}
    photos["i4"] = None
    return {item["item_id"]: {**item, "photo": photos[item["item_id"]]} for item in ITEMS}


def check_answers(engine, shop, *, embedder):
    """Compare every kind of answer with a plain calculation over the items that there should be."""
    listed = list(shop.values())
    assert engine.num_items == len(shop)
    pixels = np.stack(
        [decode_photo(r["photo"], px=PX) if r.get("photo") else np.zeros((PX, PX, 3), np.uint8) for r in listed]
    )
    vectors = embedder.items(
        [row.get("title") for row in listed], pixels=pixels, has_photo=[bool(row.get("photo")) for row in listed]
    ).astype(np.float16)
    scores = vectors.astype(np.float64) @ embedder.queries(["red velvet"])[0].astype(np.float64)
    expected = dict(zip(shop, scores.tolist(), strict=True))
    hits = engine.search("red velvet", k=1000, channel="dense")
    assert {hit.item_id: hit.score for hit in hits} == pytest.approx(expected, abs=5e-3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(set(ids(hits))) == len(hits)
    words = Bm25.fit([row.get("title") or "" for row in listed]).scores("red velvet")
    expected = {item_id: score for item_id, score in zip(shop, words.tolist(), strict=True) if score > 0}
    found = {hit.item_id: hit.score for hit in engine.search("red velvet", k=1000, channel="bm25")}
    # rows without item count as empty titles, which moves the mean length: the same items, other numbers
    assert set(found) == set(expected)
    assert set(ids(engine.search(channel="popularity", k=1000))) == set(shop)
    somebody = rng_of(shop).choice(list(shop))
    assert set(ids(engine.similar(somebody, k=1000))) == set(shop) - {somebody}
    facets = engine.facets()
    assert facets.categories == dict(Counter(row["category"] for row in listed if row.get("category")))
    assert facets.cells == dict(Counter(cell for row in listed for cell in row.get("cells") or ()))
    prices = [row["price"] for row in listed if row.get("price") is not None]
    assert facets.price == ((min(prices), max(prices)) if prices else None)
    for category in facets.categories:
        kept = ids(engine.search("red", k=1000, filters=Filters(category=category)))
        assert set(kept) == {item_id for item_id, row in shop.items() if row.get("category") == category}
    for item_id, row in shop.items():
        shown = engine.item(item_id)
        assert (shown["title"], shown["price"], shown["has_photo"]) == (
            row.get("title"),
            row.get("price"),
            bool(row.get("photo")),
        )


def rng_of(shop):
    return random.Random(len(shop))


@pytest.mark.parametrize("seed", [0, 1])
def test_after_any_changes_every_answer_is_that_of_the_items_that_are_left(run, opened, seed):
    rng, engine = random.Random(seed), opened()
    embedder = Embedder.open(run.parts["encoder"])
    shop = catalogue_rows(run)
    for step in range(24):
        known, kind = list(shop), rng.choice(["add", "replace", "remove"])
        if kind == "add":
            names = [
                name for name in rng.sample([f"n{place}" for place in range(12)] + ["i3"], k=3) if name not in shop
            ]
        else:
            names = rng.sample(known, k=rng.randrange(1, 4))
        if kind == "remove":
            assert engine.remove_items(names) == names
            for name in names:
                del shop[name]
        else:
            rows = [drawn(rng, name) for name in names]
            assert (engine.add_items if kind == "add" else engine.replace_items)(rows) == names
            shop |= {row["item_id"]: row for row in rows}
        if step % 6 == 5:
            check_answers(engine, shop, embedder=embedder)
            engine = opened()
            check_answers(engine, shop, embedder=embedder)


def test_a_removed_item_is_nowhere(engine):
    removed = engine.search("red shirt", k=1)[0].item_id
    others = engine.num_items - 1
    assert engine.remove_items([removed, removed]) == [removed]
    assert engine.num_items == others
    for hits in (
        engine.search("red shirt", k=100),
        engine.search("red shirt", channel="bm25", k=100),
        engine.search(channel="popularity", k=100),
        engine.search(photo=photo(0), k=100),
        engine.recommend(user="u1", k=100),
        engine.recommend(user="nobody", k=100),
        engine.similar("i20", k=100),
        engine.search("red", filters=Filters(min_price=0), k=100),
    ):
        assert removed not in ids(hits)
        assert len(hits) > 1
    for ask in (engine.item, engine.photo_jpeg, engine.similar, lambda one: engine.score("red", [one])):
        with pytest.raises(EngineError, match=f"There is no item '{removed}'"):
            ask(removed)
    assert not engine.knows_item(removed)
    assert engine.add_items([{"item_id": removed, "title": "velvet sofa"}]) == [removed]
    assert ids(engine.search("velvet", channel="bm25")) == [removed]
    engine.remove_items(ids(engine.search("red", k=100)))
    assert (engine.num_items, engine.search("red"), engine.search(channel="popularity")) == (0, [], [])
    assert engine.facets() == ({}, {}, None)


def test_a_category_that_only_removed_items_had_is_no_category_any_more(engine):
    engine.add_items([{"item_id": "n", "title": "x", "category": "sofas", "cells": ["c77"]}])
    engine.remove_items(["n"])
    assert "sofas" not in engine.facets().categories
    with pytest.raises(EngineError, match="There is no category 'sofas'"):
        engine.search("x", filters=Filters(category="sofas"))


def test_a_replaced_item_is_only_what_its_new_row_says(engine):
    before = engine.item("i5")
    engine.replace_items([{"item_id": "i5", "title": "velvet sofa"}])
    after = engine.item("i5")
    assert (after["title"], after["category"], after["price"], after["has_photo"]) == ("velvet sofa", None, None, False)
    assert (before["has_photo"], engine.photo_jpeg("i5"), engine.num_items) == (True, None, NUM_ITEMS)
    assert ids(engine.search("velvet", channel="bm25")) == ["i5"]
    assert ids(engine.search("velvet sofa", k=100)).count("i5") == 1
    assert engine.replace_items([{"item_id": "new", "title": "x"}]) == ["new"]  # one that is new is added
    assert engine.num_items == NUM_ITEMS + 1


def test_past_choices_of_an_id_go_on_to_count(engine):
    def counts():
        return {hit.item_id: hit.score for hit in engine.search(channel="popularity", k=100)}

    before = counts()
    most = max(before, key=before.get)
    assert before[most] > 1
    engine.replace_items([{"item_id": most, "title": "velvet sofa"}, {"item_id": "new", "title": "oak"}])
    assert counts() == before | {"new": 0}
    engine.remove_items([most, "new"])
    engine.add_items([{"item_id": most, "title": "oak lamp"}])
    assert counts() == before


def test_histories_that_name_replaced_and_removed_items_keep_working(run, engine):
    """A replaced item is left out of its buyer's recommendations, and counts as it is now; a removed one as it was."""
    user = "u1"
    history = run.catalogue.history(run.catalogue.user_row(user))
    bought = [f"i{row}" for row in dict.fromkeys(history.tolist())]
    engine.replace_items([{"item_id": bought[0], "title": "velvet sofa", "photo": photo(9)}])
    embedder = Embedder.open(run.parts["encoder"])
    vectors = np.load(run.parts["index"].path / "vectors.npy").astype(np.float32)
    new = embedder.items(["velvet sofa"], pixels=decode_photo(photo(9), px=PX)[None], has_photo=[True])[0]
    vectors[run.catalogue.item_row(bought[0])] = new.astype(np.float16)
    mean = vectors[history.astype(np.int64)].mean(axis=0)
    expected = [f"i{row}" for row in np.argsort(-(vectors @ mean), kind="stable") if f"i{row}" not in bought]
    found = engine.recommend(user=user, k=100)
    assert ids(found) == expected and found.note is None
    engine.remove_items(bought[:2])
    assert ids(engine.recommend(user=user, k=100))[:3] != []
    assert set(ids(engine.recommend(user=user, k=100))) == set(expected)
    engine.remove_items(bought[2:])
    assert engine.recommend(user=user, k=100).note is None  # still his taste


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.replace_items([{"item_id": "i1"}]), "neither a title nor a photo"),
        (lambda e: e.replace_items([{"item_id": "i1", "title": "a"}] * 2), r"New item 2 \('i1'\): .* given twice"),
        (lambda e: e.replace_items([{"item_id": "i1", "title": "a"}, {"item_id": "i2", "titel": "b"}]), "no column"),
        (lambda e: e.replace_items({"item_id": "i1"}), "put this one row into a list"),
        (lambda e: e.remove_items(["i1", "i_13"]), "no item 'i_13' in the catalogue. Did you mean 'i13'"),
        (lambda e: e.remove_items("i1"), r"put this one into a list: \['i1'\]"),
        (lambda e: e.remove_items([3]), "named by its item_id, a text, not by 3"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(opened, change, message):
    engine = opened()
    before = (engine.item("i1"), ids(engine.search("red", k=100)))
    with pytest.raises(EngineError, match=message):
        change(engine)
    assert (engine.item("i1"), ids(engine.search("red", k=100))) == before
    assert opened().info()["added_items"] == 0


def test_rows_of_the_past_take_room_until_the_engine_is_opened_again(run, opened):
    engine = opened(max_added_items=3)
    for title in ("a", "b", "c"):
        engine.replace_items([{"item_id": "n", "title": title}])
    with pytest.raises(EngineError, match="room for 0 more items"):
        engine.replace_items([{"item_id": "n", "title": "d"}])
    engine = opened(max_added_items=3)
    engine.replace_items([{"item_id": "n", "title": "d"}])
    assert engine.item("n")["title"] == "d"


# --- while others search


def test_searching_while_items_are_replaced_and_removed(engine):
    """Answers are of one moment: of an item there is one row or none, and what is found can be shown."""
    faults: list[BaseException] = []
    done = threading.Event()

    def search():
        try:
            while not done.is_set():
                hits = engine.search("velvet sofa", k=1000)
                assert len(set(ids(hits))) == len(hits) >= NUM_ITEMS
                assert [engine.shown(hit)["item_id"] for hit in hits] == ids(hits)
                assert len(engine.search("velvet", channel="bm25", k=1000, explain=True)) <= 2
                assert len(engine.search(channel="popularity", k=1000)) >= NUM_ITEMS
                assert "i1" not in ids(engine.similar("i1", k=1000))
                engine.recommend(user="u1")
        except BaseException as error:  # a thread's exception would be lost
            faults.append(error)

    def change(name):
        try:
            for place in range(8):
                engine.replace_items([{"item_id": name, "title": f"velvet sofa {place}"}])
                engine.replace_items([{"item_id": "i1", "title": f"oak {place}"}])
                engine.remove_items([name])
        except BaseException as error:
            faults.append(error)

    searching = [threading.Thread(target=search) for _ in range(2)]
    changing = [threading.Thread(target=change, args=(f"t{name}",)) for name in range(2)]
    for thread in [*searching, *changing]:
        thread.start()
    for thread in changing:
        thread.join()
    done.set()
    for thread in searching:
        thread.join()
    assert faults == []
    assert engine.num_items == NUM_ITEMS


# --- the journal


def test_an_engine_opened_again_is_as_it_was(run, opened, tmp_path):
    engine = opened()
    (tmp_path / "photo.png").write_bytes(photo(21))
    engine.add_items(
        [
            {"item_id": "n1", "title": "velvet sofa", "price": 5, "cells": "c77", "colour": "plum"},
            {"item_id": "n2", "photo": str(tmp_path / "photo.png")},
        ]
    )
    engine.replace_items([{"item_id": "i3", "title": "oak lamp", "photo": photo(2)}, {"item_id": "n1", "title": "oak"}])
    engine.remove_items(["i7", "i8"])
    engine.add_items([{"item_id": "i8", "title": "red velvet"}])
    (tmp_path / "photo.png").unlink()  # the journal has the photo itself
    before = {name: (engine.item(name), engine.photo_jpeg(name)) for name in ("n1", "n2", "i3", "i8", "i9")}
    answers = [[(h.item_id, h.score) for h in engine.search("red velvet", k=99, channel=c)] for c in ("bm25", "dense")]
    engine.close()
    with pytest.raises(EngineError, match="was closed, so it takes no changes"):
        engine.remove_items(["i9"])
    assert engine.search("red", k=3)
    engine = opened()
    assert {name: (engine.item(name), engine.photo_jpeg(name)) for name in before} == before
    assert not engine.knows_item("i7")
    for channel, answer in zip(("bm25", "dense"), answers, strict=True):
        found = {hit.item_id: hit.score for hit in engine.search("red velvet", k=99, channel=channel)}
        assert found == pytest.approx(dict(answer), abs=2e-3 if channel == "dense" else 0.05)
    assert Image.open(io.BytesIO(engine.photo_jpeg("n2"))).size == (40, 40)


def test_a_change_is_on_disk_before_anybody_sees_it(opened, tmp_path, monkeypatch):
    engine = opened()
    path = tmp_path / "journal" / CHANGES
    seen, fsync = [], os.fsync

    def watched(descriptor):
        seen.append(
            (engine.knows_item("n1"), engine.knows_item("i1"), b'"n1"' in path.read_bytes(), path.stat().st_size)
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    engine.add_items([{"item_id": "n1", "title": "oak"}])
    engine.remove_items(["i1"])
    assert [one[:3] for one in seen] == [(False, True, True), (True, True, True)]
    assert seen[1][3] == path.stat().st_size > seen[0][3]
    assert engine.knows_item("n1") and not engine.knows_item("i1")


def test_a_change_that_cannot_be_written_down_is_not_made(opened, monkeypatch):
    engine = opened()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("triptych.engine.journal._write", fail)
        for change in (lambda: engine.remove_items(["i1"]), lambda: engine.add_items([{"item_id": "n", "title": "x"}])):
            with pytest.raises(JournalError, match="so it was not made"):
                change()
    assert engine.knows_item("i1") and not engine.knows_item("n")
    engine.remove_items(["i1"])
    assert not opened().knows_item("i1")


def test_a_journal_that_is_mostly_of_the_past_is_shortened(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("triptych.engine.engine.SHORTEN_FROM", 2)
    engine = opened()
    for place in range(12):
        engine.replace_items([{"item_id": "n", "title": f"velvet {place}"}])
    engine.add_items([{"item_id": "m", "title": "oak"}])
    engine.remove_items(["m"])
    size = (tmp_path / "journal" / CHANGES).stat().st_size
    engine = opened()
    assert (tmp_path / "journal" / CHANGES).stat().st_size < size / 4
    assert engine.item("n")["title"] == "velvet 11"
    assert opened().item("n")["title"] == "velvet 11"


def test_a_journal_is_held_by_one_engine(run, opened, tmp_path):
    opened()
    with pytest.raises(ArtifactError, match="Another process is writing the journal"):
        Engine.open(run.path, journal=tmp_path / "journal")
    with pytest.raises(EngineError, match="carry_over is said of a journal, and none is named"):
        Engine.open(run.path, carry_over=True)


WRITER = """
import sys
from triptych.engine import Engine
run, journal, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
engine = Engine.open(run, journal=journal)
photo = open(sys.argv[4], "rb").read()
print("open", flush=True)
for place in range(first, first + 10_000):
    engine.add_items([{"item_id": f"n{place}", "title": f"velvet {place}", "photo": photo}])
    print(f"add n{place}", flush=True)
    if place % 3 == 1:
        engine.replace_items([{"item_id": f"n{place}", "title": f"oak {place}"}])
        print(f"replace n{place}", flush=True)
    if place % 3 == 2:
        engine.remove_items([f"n{place}"])
        print(f"remove n{place}", flush=True)
"""


def changes_from(first):
    """What the writer does, in order."""
    place = first
    while True:
        yield f"add n{place}"
        if place % 3 == 1:
            yield f"replace n{place}"
        if place % 3 == 2:
            yield f"remove n{place}"
        place += 1


def after(told):
    """Item id → title, by what was told."""
    shop = {}
    for line in told:
        kind, name = line.split()
        if kind == "remove":
            del shop[name]
        else:
            shop[name] = f"{'velvet' if kind == 'add' else 'oak'} {name[1:]}"
    return shop


def test_killed_at_any_moment_it_forgets_nothing_that_it_acknowledged(run, opened, tmp_path):
    rng = random.Random(5)
    (tmp_path / "photo.png").write_bytes(photo(3))
    made: list[str] = []  # by all writers, one after the other, each killed
    for _ in range(4):
        first = 1 + max((int(line.split("n")[-1]) for line in made), default=0)
        arguments = [run.path, tmp_path / "journal", first, tmp_path / "photo.png"]
        command = [sys.executable, "-c", WRITER, *map(str, arguments)]
        number = rng.randrange(2, 30)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            told = [next(writer.stdout).strip() for _ in range(number)]
            time.sleep(rng.random() * 0.02)
            writer.kill()
            told += writer.stdout.read().splitlines()  # acknowledged before the kill came
        assert writer.returncode == -signal.SIGKILL
        assert told.pop(0) == "open"
        engine = opened()
        titles = {hit.item_id: engine.item(hit.item_id) for hit in engine.search("velvet", k=10**4)}
        found = {name: item["title"] for name, item in titles.items() if item["added"]}
        order = changes_from(first)
        due = [next(order) for _ in range(len(told) + 1)]
        assert told == due[:-1]
        # one change more may have been on disk when the process ended before it could say so
        assert found in (after([*made, *told]), after([*made, *due]))
        made += told if found == after([*made, *told]) else due
        assert all(engine.photo_jpeg(name) for name, title in found.items() if title.startswith("velvet"))
        engine.close()
    assert len(made) > 20


# --- another catalogue


def backdated(run, days):
    """Make a run's catalogue as old as that."""
    path = run.parts["catalogue"].path / "artifact.json"
    manifest = json.loads(path.read_text())
    manifest["created"] = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    path.write_text(json.dumps(manifest))


MORE = [*ITEMS, {**ITEMS[1], "item_id": "n1", "title": "velvet sofa of the tables"}]


def test_a_journal_of_another_catalogue_is_refused(opened, tmp_path):
    opened().remove_items(["i1"])
    other = write_run(tmp_path / "other", items=MORE)
    content = (tmp_path / "journal" / CHANGES).read_bytes()
    with pytest.raises(ArtifactError, match="was begun on catalogue .*, this run's is .*--carry-over"):
        opened(other.path)
    assert (tmp_path / "journal" / CHANGES).read_bytes() == content
    opened(other.path, carry_over=True)  # and the refusal has let go of it


@pytest.mark.parametrize("age_days", [-1, 1])
def test_carried_over_older_changes_yield_to_the_tables_and_younger_ones_do_not(opened, tmp_path, caplog, age_days):
    engine = opened()
    engine.add_items([{"item_id": "n1", "title": "velvet by hand"}, {"item_id": "n2", "title": "oak by hand"}])
    engine.replace_items([{"item_id": "i3", "title": "lamp by hand"}])
    engine.add_items([{"item_id": "n3", "title": "gone again"}])
    engine.remove_items(["i5", "n3"])
    newer = write_run(tmp_path / "newer", items=MORE)
    backdated(newer, age_days)
    is_older = age_days < 0
    for options in ({"carry_over": True}, {}):  # from then on it is a journal of this catalogue
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            engine = opened(newer.path, **options)
        titles = {name: engine.item(name)["title"] for name in ("n1", "n2", "i3")}
        assert titles == {
            "n1": "velvet sofa of the tables" if is_older else "velvet by hand",
            "n2": "oak by hand",
            "i3": ITEMS[3]["title"] if is_older else "lamp by hand",
        }
        assert not engine.knows_item("i5")  # what was removed stays removed
        assert not engine.knows_item("n3")
        told = "2 items of the journal are in the catalogue by now, which counts: n1, i3"
        assert (told in caplog.text) == (is_older and "carry_over" in options)
    assert engine.num_items == NUM_ITEMS + 1
    engine.close()
    journal = Journal.open(tmp_path / "journal", catalogue_id="x")
    assert {entry.item_id for entry in journal.latest()} == ({"n2", "i5"} if is_older else {"n1", "n2", "i3", "i5"})
    journal.close()


def test_a_change_that_no_longer_fits_is_told(opened, tmp_path):
    opened().add_items([{"item_id": "n", "title": "x", "colour": "red"}])
    path = tmp_path / "journal" / CHANGES
    journal = Journal.open(tmp_path / "elsewhere", catalogue_id="x")
    journal.append(put=[{"item_id": "n", "title": "x", "finish": "matt"}])
    journal.close()
    engine = opened()
    engine.close()
    shutil.copy(tmp_path / "elsewhere" / CHANGES, path)
    with pytest.raises(ArtifactError, match=r"does not fit this catalogue: .*no column 'finish'.*remove item 'n'"):
        opened(carry_over=True)


# --- another run takes over


@pytest.mark.parametrize("items", [None, MORE])
def test_no_change_is_lost_while_another_run_takes_over(run, opened, tmp_path, items):
    """A writer goes on through three swaps; what it was told is made is there after each, and after opening again."""
    runs = [write_run(tmp_path / f"run{place}", seed=place, items=items if place % 2 else None) for place in (1, 2, 3)]
    current = first = opened()
    faults: list[BaseException] = []
    told: list[tuple[str, str]] = []
    done = threading.Event()

    def write(name, engine_of):
        try:
            place = 0
            while not done.is_set():
                item_id = f"{name}{place % 20}"
                engine_of().replace_items([{"item_id": item_id, "title": f"velvet {name} {place}"}])
                told.append((item_id, f"velvet {name} {place}"))
                if place % 5 == 4:
                    engine_of().remove_items([item_id])
                    told.append((item_id, ""))
                place += 1
        except BaseException as error:
            faults.append(error)

    # one asks whoever serves now, as requests do; the other has never heard of a swap, as requests under way
    writers = [
        threading.Thread(target=write, args=("w", lambda: current)),
        threading.Thread(target=write, args=("x", lambda: first)),
    ]
    for thread in writers:
        thread.start()
    for newer in runs:
        new = Engine.open(newer.path)
        seen = len(told)
        published = []

        def publish(new=new, published=published, seen=seen):
            published.append(dict(told[:seen]))  # made before the swap began: they must be there now
            nonlocal current
            current = new

        new.succeed(current, publish=publish)
        state = published[0]
        later = dict(told)  # a later change of an item may have come meanwhile
        for item_id, title in state.items():
            if later[item_id] == title:
                assert (new.item(item_id)["title"] if title else not new.knows_item(item_id)) == (title or True)
    time.sleep(0.1)
    done.set()
    for thread in writers:
        thread.join()
    assert faults == []
    expected = {item_id: title for item_id, title in dict(told).items() if title}
    for engine in (current, None):
        if engine is None:
            current.close()
            engine = opened(runs[-1].path)
        assert {name: engine.item(name)["title"] for name in expected} == expected
        assert not any(engine.knows_item(name) for name, title in dict(told).items() if not title)
    assert first.search("red", k=3)  # who still asks it is answered


def test_a_run_that_cannot_take_the_changes_leaves_the_old_one_as_it_was(opened, tmp_path):
    engine = opened()
    engine.add_items([{"item_id": f"n{place}", "title": "oak"} for place in range(3)])
    new = Engine.open(write_run(tmp_path / "new", seed=4).path, max_added_items=2)
    with pytest.raises(ArtifactError, match=r"holds 3 items, there is room for 2"):
        new.succeed(engine)
    engine.add_items([{"item_id": "n3", "title": "oak"}])
    assert opened().knows_item("n3")


def test_without_a_journal_the_log_says_how_many_changes_are_forgotten(run, engine, caplog):
    engine.replace_items([{"item_id": "i1", "title": "oak"}, {"item_id": "n", "title": "oak"}])
    engine.remove_items(["i2"])
    new = Engine.open(run.path)
    with caplog.at_level(logging.WARNING):
        new.succeed(engine)
    assert "3 changes were made without a journal" in caplog.text
    assert new.num_items == NUM_ITEMS
    engine.remove_items(["i3"])  # goes to the one that serves
    assert not new.knows_item("i3")
