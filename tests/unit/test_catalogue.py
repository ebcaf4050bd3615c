"""The catalogue: numbering, time order, histories, what is filled in and set aside, mapping, determinism."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photo_files import encoded, picture
from PIL import Image

from triptych.data.catalogue import Catalogue, CatalogueConfig, build, fingerprint, photo_fingerprint
from triptych.data.check import Checked, check_tables, render
from triptych.data.events import KIND_CODES, build_histories, is_positive
from triptych.data.images import decode_photo
from triptych.data.schema import EventKind, EventsConfig, ItemsConfig, JudgementsConfig, Role
from triptych.data.tables import read_events, read_items, read_judgements
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import ArtifactError, DataError

CONFIG = CatalogueConfig(photo_px=16, display_px=64)
START = datetime(2024, 5, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(buffer, "PNG")
    return buffer.getvalue()


ITEMS: list[dict[str, Any]] = [
    {"item_id": "b7", "title": "Red dress", "photo": "red.png", "colour": "red", "first_seen": None},
    {"item_id": "a1", "title": None, "photo": "blue.png", "colour": "blue", "first_seen": at(-50)},
    {"item_id": "c3", "title": "Shoe", "photo": "broken.png", "colour": "red", "first_seen": None},
    {"item_id": "d4", "title": "红色连衣裙", "photo": None, "colour": None, "first_seen": None},
    {"item_id": "e5", "title": "Red dress again", "photo": "red.png", "colour": "red", "first_seen": None},
]
EVENTS: list[dict[str, Any]] = [  # not in time order; three at one instant keep the order of the file
    {"time": at(9), "user": "u2", "query": "shoe", "item_id": "c3", "kind": "order", "page": "p2", "position": 0},
    {"time": at(5), "user": "u1", "query": "red", "item_id": "b7", "kind": "click", "page": "p1", "position": 1},
    {"time": at(5), "user": "u1", "query": "red", "item_id": "a1", "kind": "impression", "page": "p1", "position": 0},
    {"time": at(5), "user": None, "query": "blue", "item_id": "a1", "kind": "cart", "page": None, "position": None},
    {"time": at(20), "user": "u1", "query": None, "item_id": "c3", "kind": "click", "page": None, "position": None},
    {"time": at(1), "user": "u2", "query": "red", "item_id": "b7", "kind": "impression", "page": "p0", "position": 3},
]
JUDGEMENTS: list[dict[str, Any]] = [
    {"query": "never asked", "item_id": "d4", "grade": 2.0, "photo_only": True},
    {"query": "red", "item_id": "b7", "grade": 3.0, "photo_only": False},
]


def write_tables(folder: Path, *, events: list[dict[str, Any]] = EVENTS) -> Checked:
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "red.png").write_bytes(png((200, 0, 0)))
    (folder / "photos" / "blue.png").write_bytes(png((0, 0, 200)))
    (folder / "photos" / "broken.png").write_bytes(png((0, 0, 0))[:30])
    pl.DataFrame(ITEMS, infer_schema_length=None).write_parquet(folder / "items.parquet")
    cells = [event | {"cell": ["north", "east", None][row % 3]} for row, event in enumerate(events)]
    pl.DataFrame(cells, infer_schema_length=None).write_parquet(folder / "events.parquet")
    pl.DataFrame(JUDGEMENTS).write_parquet(folder / "judgements.parquet")
    items = ItemsConfig(path="items.parquet", photo_root="photos", features={"colour": Role.CATEGORICAL})
    return check_tables(
        read_items(items, base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        read_judgements(JudgementsConfig(path="judgements.parquet"), base=folder),
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def artifact(tables: Checked, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build(CONFIG, tables=tables, inputs={"tables": "test"}, out=tmp_path_factory.mktemp("run") / "catalogue")


@pytest.fixture
def catalogue(artifact: Artifact) -> Catalogue:
    return Catalogue.open(artifact)


def test_items_keep_their_order(catalogue: Catalogue) -> None:
    assert catalogue.num_items == 5
    assert catalogue.item_ids == ["b7", "a1", "c3", "d4", "e5"]
    assert catalogue.titles == ["Red dress", "", "Shoe", "红色连衣裙", "Red dress again"]
    assert [catalogue.item_row(item_id) for item_id in catalogue.item_ids] == [0, 1, 2, 3, 4]
    assert "photo" not in catalogue.items.columns
    assert catalogue.items["colour"].to_list() == ["red", "blue", "red", None, "red"]
    assert catalogue.feature_roles == {"colour": Role.CATEGORICAL}


def test_an_unknown_item_names_the_nearest(catalogue: Catalogue) -> None:
    with pytest.raises(DataError, match=r"no item 'b77' in the catalogue. Did you mean 'b7'\?"):
        catalogue.item_row("b77")


def test_events_are_sorted_by_time_and_ties_keep_their_order(catalogue: Catalogue) -> None:
    order = [5, 1, 2, 3, 0, 4]
    assert catalogue.events["time"].to_list() == [EVENTS[row]["time"] for row in order]
    assert catalogue.events["item_row"].to_list() == [catalogue.item_row(EVENTS[row]["item_id"]) for row in order]
    assert catalogue.events["kind"].to_list() == [list(EventKind).index(EVENTS[row]["kind"]) for row in order]
    assert catalogue.events["position"].to_list() == [3, 1, 0, -1, 0, -1]
    assert catalogue.events["page"].to_list() == [0, 1, 1, -1, 2, -1]
    assert catalogue.events["cell"].to_list() == [None, "east", None, "north", "north", "east"]
    types = [catalogue.events[name].dtype for name in ("user_row", "query_row", "item_row", "kind", "page", "position")]
    assert types == [pl.Int32, pl.Int32, pl.Int32, pl.UInt8, pl.Int32, pl.Int32]


def test_users_and_queries_are_numbered_by_first_appearance_in_time(catalogue: Catalogue) -> None:
    assert catalogue.users == ["u2", "u1"]
    assert catalogue.queries == ["red", "blue", "shoe", "never asked"]
    assert catalogue.events["user_row"].to_list() == [0, 1, 1, -1, 0, 1]
    assert catalogue.events["query_row"].to_list() == [0, 0, 0, 1, 2, -1]
    assert (catalogue.num_users, catalogue.num_queries) == (2, 4)
    assert (catalogue.user_row("u1"), catalogue.user_row("u9")) == (1, None)
    assert (catalogue.query_row("shoe"), catalogue.query_row("Shoe")) == (2, None)


def test_judgements_are_numbered(catalogue: Catalogue) -> None:
    assert catalogue.judgements is not None
    assert catalogue.judgements.rows() == [(3, 3, 2.0, True), (0, 0, 3.0, False)]
    assert catalogue.judgements.columns == ["query_row", "item_row", "grade", "photo_only"]
    assert catalogue.judgements["grade"].dtype == pl.Float32


def test_first_seen_is_declared_or_the_first_event_or_the_start_of_the_log(catalogue: Catalogue) -> None:
    assert catalogue.items["first_seen"].to_list() == [at(1), at(-50), at(9), at(1), at(1)]


def test_history_holds_positives_before_an_event(catalogue: Catalogue) -> None:
    b7, c3 = catalogue.item_row("b7"), catalogue.item_row("c3")
    assert catalogue.history(1).tolist() == [b7, c3]
    assert catalogue.history(1, before=1).tolist() == []
    assert catalogue.history(1, before=2).tolist() == [b7]
    assert catalogue.history(1, before=5).tolist() == [b7]
    assert catalogue.history(0).tolist() == [c3]
    assert catalogue.history(1).dtype == np.int32


def test_photos_are_decoded_and_a_broken_one_is_set_aside(catalogue: Catalogue) -> None:
    assert catalogue.photos.has.tolist() == [True, True, False, False, True]
    assert np.array_equal(catalogue.photos.pixels([0])[0], decode_photo(png((200, 0, 0)), px=16))
    assert catalogue.photos.px == 16
    rejected = pl.read_parquet(catalogue.artifact.file("rejected/items.parquet"))
    assert rejected.select("item_id", "row", "column", "fault").rows() == [("c3", 3, "photo", "broken_photo")]
    assert catalogue.artifact.summary["broken_photos"] == 1
    assert catalogue.artifact.summary["distinct_photos"] == 2


def test_what_the_check_found_is_kept(catalogue: Catalogue, tables: Checked) -> None:
    assert catalogue.checks is not None
    before = render(tables)
    assert catalogue.checks["columns"] == before["columns"]
    (broken,) = [fault for fault in catalogue.checks["faults"] if fault["fault"] == "broken_photo"]  # seen when decoded
    assert (broken["table"], broken["count"], broken["first_rows"]) == ("items", 1, [3])
    assert [fault for fault in catalogue.checks["faults"] if fault != broken] == before["faults"]
    assert catalogue.checks["summary"]["photo_rate"] == pytest.approx(3 / 5)


def test_a_catalogue_from_before_the_checks_were_kept_has_none(artifact: Artifact, tmp_path: Path) -> None:
    old = tmp_path / artifact.id
    shutil.copytree(artifact.path, old)
    (old / "checks.json").unlink()
    manifest = json.loads((old / "artifact.json").read_text())
    del manifest["files"]["checks.json"]
    (old / "artifact.json").write_text(json.dumps(manifest))
    assert Catalogue.open(old).checks is None


def test_columns_are_mapped_not_copied(catalogue: Catalogue) -> None:
    column = catalogue.event_array("item_row")
    assert not column.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1
    assert catalogue.event_array("time").dtype == np.int64
    assert catalogue.event_array("time")[0] == int(at(1).timestamp() * 1e6)
    assert catalogue.events["cell"].dtype.categories.to_list() == ["east", "north"]
    assert catalogue.event_array("cell").tolist() == [-1, 0, -1, 1, 1, 0]


def test_opening_reads_no_table(artifact: Artifact) -> None:
    opened = Catalogue.open(artifact.path)
    assert not {"items", "events", "photos", "item_ids"} & set(vars(opened))


def test_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        Catalogue.open(tmp_path / "none")
    other = produce(tmp_path, kind="encoder", config={}, inputs={}, build=lambda folder: {})
    with pytest.raises(ArtifactError, match="is a 'encoder', not a 'catalogue'"):
        Catalogue.open(other)


def test_the_same_tables_give_the_same_bytes(artifact: Artifact, tables: Checked, tmp_path: Path) -> None:
    pl.Series(["zzz", "north", "east"], dtype=pl.Categorical)  # another process has other codes
    again = build(CONFIG, tables=lambda: tables, inputs={"tables": "test"}, out=tmp_path)
    assert again.id == artifact.id
    assert again.manifest["files"] == artifact.manifest["files"]
    again.verify()


def test_a_finished_catalogue_is_not_read_again(artifact: Artifact) -> None:
    def never() -> Checked:
        raise AssertionError("the tables were read")

    again = build(CONFIG, tables=never, inputs={"tables": "test"}, out=artifact.path.parent)
    assert again.path == artifact.path


def test_the_inputs_and_the_config_decide_the_id(artifact: Artifact, tables: Checked, tmp_path: Path) -> None:
    other_inputs = build(CONFIG, tables=tables, inputs={"tables": "changed"}, out=tmp_path)
    other_config = build(CatalogueConfig(photo_px=8), tables=tables, inputs={"tables": "test"}, out=tmp_path)
    assert len({artifact.id, other_inputs.id, other_config.id}) == 3
    assert Catalogue.open(other_config).photos.px == 8


def test_leftovers_of_an_interrupted_build_do_not_matter(artifact: Artifact, tables: Checked, tmp_path: Path) -> None:
    partial = tmp_path / f"{artifact.id}.partial"
    (partial / "photos").mkdir(parents=True)
    (partial / "photos" / "pixels.npy").write_bytes(b"half of an array" * 5_000)
    (partial / "events.arrow").write_bytes(b"half")
    again = build(CONFIG, tables=tables, inputs={"tables": "test"}, out=tmp_path)
    assert again.manifest["files"] == artifact.manifest["files"]


def test_items_alone_make_a_catalogue(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["a", "b"], "title": ["x y", "z"]}).write_csv(tmp_path / "items.csv")
    items = read_items(ItemsConfig(path="items.csv"), base=tmp_path)
    artifact = build(CONFIG, tables=check_tables(items, None, None), inputs={"items": "csv"}, out=tmp_path / "out")
    catalogue = Catalogue.open(artifact)
    assert (catalogue.num_items, catalogue.num_users, catalogue.num_queries) == (2, 0, 0)
    assert catalogue.judgements is None
    assert catalogue.events.is_empty()
    assert catalogue.queries == catalogue.users == []
    assert catalogue.items["first_seen"].to_list() == [None, None]
    assert not catalogue.photos.has.any()
    assert catalogue.photos.pixels([1, 0]).sum() == 0


def test_photos_may_be_bytes(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["a", "b"], "title": ["x", "y"], "photo": [png((9, 99, 9)), None]}).write_parquet(
        tmp_path / "items.parquet"
    )
    items = read_items(ItemsConfig(path="items.parquet"), base=tmp_path)
    artifact = build(CONFIG, tables=check_tables(items, None, None), inputs={"items": "bytes"}, out=tmp_path / "out")
    photos = Catalogue.open(artifact).photos
    assert photos.has.tolist() == [True, False]
    assert tuple(photos.pixels([0])[0, 8, 8]) == (9, 99, 9)


def test_kind_codes_follow_the_schema() -> None:
    assert KIND_CODES == {"impression": 0, "click": 1, "cart": 2, "order": 3}
    assert is_positive(np.array([0, 1, 2, 3], dtype=np.uint8)).tolist() == [False, True, True, True]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 3)), max_size=40),
    st.integers(0, 4),
    st.integers(0, 45),
)
def test_histories_equal_a_loop(log: list[tuple[int, int]], user: int, before: int) -> None:
    users = np.array([row for row, _ in log], dtype=np.int32)
    kinds = np.array([kind for _, kind in log], dtype=np.uint8)
    histories = build_histories(user_row=users, kind=kinds, num_users=5)
    expected = [place for place, (row, kind) in enumerate(log) if row == user and kind > 0]
    assert histories.of(user).tolist() == expected
    assert histories.of(user, before=before).tolist() == [place for place in expected if place < before]
    assert histories.offsets.dtype == np.int64
    assert histories.positions.dtype == np.int32
    assert histories.offsets[-1] == len(histories.positions)


def test_fingerprint_is_of_the_contents_in_order(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "2"), ("copy_of_a", "1")):
        (tmp_path / name).write_text(text)
    one = fingerprint([tmp_path / "a", tmp_path / "b"])
    assert one == fingerprint([tmp_path / "copy_of_a", tmp_path / "b"])
    assert one != fingerprint([tmp_path / "b", tmp_path / "a"])


def test_photo_fingerprint_sees_a_changed_and_a_missing_file(tmp_path: Path) -> None:
    photo = tmp_path / "x.jpg"
    missing = photo_fingerprint([photo], root=tmp_path)
    photo.write_bytes(b"123")
    there = photo_fingerprint([photo], root=tmp_path)
    assert there == photo_fingerprint([photo], root=tmp_path)
    photo.write_bytes(b"1234")
    assert len({missing, there, photo_fingerprint([photo], root=tmp_path)}) == 3


def test_the_manifest_is_plain_json(artifact: Artifact) -> None:
    summary = json.loads((artifact.path / "artifact.json").read_text())["summary"]
    assert summary["items"] == 5
    assert summary["positives"] == 4
    assert (summary["from"], summary["to"]) == (at(1).isoformat(), at(20).isoformat())


@pytest.mark.real_data
def test_the_fashion_items_make_a_catalogue(real_data: Path, tmp_path: Path) -> None:
    """A sample of the real photos and titles, with their own column names."""
    folder = real_data / "fashion_products"
    pl.read_parquet(folder / "items.parquet").head(400).write_parquet(tmp_path / "items.parquet")
    config = ItemsConfig(path="items.parquet", title="productDisplayName", photo="image", photo_root=str(folder))
    checked = check_tables(read_items(config, base=tmp_path), None, None)
    artifact = build(CatalogueConfig(), tables=checked, inputs={"items": "400"}, out=tmp_path / "out")
    catalogue = Catalogue.open(artifact)
    assert catalogue.num_items == 400
    assert artifact.summary["broken_photos"] == 0
    assert catalogue.photos.has.all()
    source = checked.photo_sources()[7]
    assert isinstance(source, Path)
    assert catalogue.photos.jpeg(7) == source.read_bytes()  # small plain JPEGs are kept as they are


def several_photos(folder: Path) -> Checked:
    """Items with three photos, with a first and with a second one that cannot be decoded, with none that can."""
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    for number, colour in enumerate(colours):
        (folder / f"{number}.png").write_bytes(png(colour))
    (folder / "torn.png").write_bytes(png((0, 0, 0))[:30])
    photos = [["0.png", "1.png", "2.png"], ["torn.png", "2.png"], ["1.png", "torn.png"], ["torn.png", "torn.png"], None]
    pl.DataFrame({"item_id": list("abcde"), "title": ["x"] * 5, "photos": photos}).write_parquet(folder / "i.parquet")
    return check_tables(read_items(ItemsConfig(path="i.parquet"), base=folder), None, None)


def test_one_photo_is_kept_of_an_item_that_has_several(tmp_path: Path) -> None:
    artifact = build(CONFIG, tables=several_photos(tmp_path), inputs={}, out=tmp_path / "out")
    catalogue = Catalogue.open(artifact)
    assert catalogue.photos.has.tolist() == [True, False, True, False, False]
    assert catalogue.photos.other_counts.sum() == 0
    assert (artifact.summary["broken_photos"], artifact.summary["further_photos"]) == (2, 0)
    assert catalogue.checks is not None
    assert catalogue.checks["summary"]["photo_rate"] == pytest.approx(2 / 5)
    assert not {"photo", "more_photos"} & set(catalogue.items.columns)


def test_further_photos_are_kept_where_the_config_says_so(tmp_path: Path) -> None:
    config = CONFIG.override("max_photos=2")
    artifact = build(config, tables=several_photos(tmp_path), inputs={}, out=tmp_path / "out")
    catalogue = Catalogue.open(artifact)
    photos = catalogue.photos
    assert photos.has.tolist() == [True, True, True, False, False]
    assert [len(photos.others(row)) for row in range(5)] == [1, 0, 0, 0, 0]
    assert tuple(photos.distinct(photos.others(0))[0, 8, 8]) == (0, 200, 0)
    assert tuple(photos.pixels([1])[0, 8, 8]) == (0, 0, 200)  # its first one cannot be decoded
    assert artifact.summary["further_photos"] == 1
    assert catalogue.checks is not None
    assert catalogue.checks["summary"]["photo_rate"] == pytest.approx(3 / 5)
    rejected = pl.read_parquet(artifact.file("rejected/items.parquet"))
    assert rejected["item_id"].to_list() == ["b", "c", "d"]
    whys = [[why.split(": ")[0] for why in reason.split("; ")] for reason in rejected["reason"].to_list()]
    assert whys == [["torn.png"], ["torn.png"], ["torn.png", "torn.png"]]


def test_the_limit_of_pixels_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(encoded(Image.new("RGB", (70, 60)), "PNG"))
    (tmp_path / "small.png").write_bytes(encoded(Image.new("RGB", (64, 64)), "PNG"))
    pl.DataFrame({"item_id": ["a", "b"], "photo": ["large.png", "small.png"]}).write_csv(tmp_path / "i.csv")
    checked = check_tables(read_items(ItemsConfig(path="i.csv"), base=tmp_path), None, None)
    artifact = build(CONFIG.override("max_photo_pixels=4096"), tables=checked, inputs={}, out=tmp_path / "out")
    assert Catalogue.open(artifact).photos.has.tolist() == [False, True]
    (reason,) = pl.read_parquet(artifact.file("rejected/items.parquet"))["reason"]
    assert reason == "large.png: the photo has 70 × 60 pixels, more than 4,096"


def test_jpegs_that_are_shown_as_they_are(tmp_path: Path) -> None:
    data = encoded(picture(200, 100), "JPEG")
    pl.DataFrame({"item_id": ["a"], "title": ["x"], "photo": [data]}).write_parquet(tmp_path / "i.parquet")
    checked = check_tables(read_items(ItemsConfig(path="i.parquet"), base=tmp_path), None, None)
    shown = []
    for limit in (0, len(data)):
        config = CONFIG.override(f"display_bytes={limit}")
        shown.append(Catalogue.open(build(config, tables=checked, inputs={}, out=tmp_path / "out")).photos.jpeg(0))
    assert shown[1] == data
    assert shown[0] is not None
    assert Image.open(io.BytesIO(shown[0])).size == (64, 32)
