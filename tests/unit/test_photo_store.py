"""The photos of a catalogue: what the memory-mapped store gives back, and going on after a kill."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from photo_files import encoded, orientation, picture
from PIL import Image

from triptych.data import photo_store
from triptych.data.images import Decoded, decode_both, decode_photo, display_jpeg
from triptych.data.photo_store import PhotoStore, check_photos, decode_photos
from triptych.foundation.artifact import Artifact


@pytest.fixture
def sources(tmp_path: Path) -> list[Path | bytes | None]:
    """Rows: a file, none, bytes, a copy of the file, a missing file, a truncated one."""
    jpeg = encoded(picture(90, 60), "JPEG")
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (tmp_path / "copy.jpg").write_bytes(jpeg)
    (tmp_path / "cut.jpg").write_bytes(jpeg[:400])
    png = encoded(picture(20, 30), "PNG")
    return [tmp_path / "a.jpg", None, png, tmp_path / "copy.jpg", tmp_path / "gone.jpg", tmp_path / "cut.jpg"]


def test_the_store_gives_back_what_was_decoded(sources: list[Path | bytes | None], tmp_path: Path) -> None:
    out = tmp_path / "photos"
    report = decode_photos(sources, px=16, display_px=64, out=out)
    assert report.num_photos == 2
    assert report.num_with_photo == 3
    assert list(report.faults) == [4, 5]
    assert "does not exist" in report.faults[4]
    assert "damaged" in report.faults[5]

    store = PhotoStore(out)
    assert (store.px, store.num_photos) == (16, 2)
    assert store.has.tolist() == [True, False, True, True, False, False]
    assert store.photo_rows.tolist() == [0, -1, 1, 0, -1, -1]  # equal photos are stored once
    pixels = store.pixels([2, 0, 1, 0])
    assert np.array_equal(pixels[0], decode_photo(sources[2], px=16))
    assert np.array_equal(pixels[1], decode_photo(sources[0], px=16))
    assert not pixels[2].any()
    assert np.array_equal(pixels[3], pixels[1])
    assert store.jpeg(0) == display_jpeg(sources[0], px=64)
    assert store.jpeg(2) == display_jpeg(sources[2], px=64)
    assert store.jpeg(1) is None
    assert store.checksum(2) == hashlib.sha256(sources[2]).hexdigest()
    assert store.checksum(5) is None


def test_the_store_holds_what_the_single_functions_give(tmp_path: Path) -> None:
    """One pass makes both pictures of a photo; it must not differ from asking for each."""
    large = picture(300, 200)
    kinds: list[tuple[str, dict[str, object]]] = [
        ("JPEG", {}),
        ("JPEG", {"exif": orientation(6)}),
        ("PNG", {}),
        ("GIF", {}),
    ]
    sources = [encoded(image, kind, **options) for image in (large, picture(30, 50)) for kind, options in kinds]
    decode_photos(sources, px=16, display_px=100, out=tmp_path)
    store = PhotoStore(tmp_path)
    for row, source in enumerate(sources):
        assert np.array_equal(store.pixels([row])[0], decode_photo(source, px=16))
        assert store.jpeg(row) == display_jpeg(source, px=100)


def test_the_pixels_are_memory_mapped_and_read_only(sources: list[Path | bytes | None], tmp_path: Path) -> None:
    decode_photos(sources, px=16, display_px=64, out=tmp_path / "photos")
    mapped = np.load(tmp_path / "photos" / "pixels.npy", mmap_mode="r")
    assert mapped.shape == (2, 16, 16, 3)
    store = PhotoStore(tmp_path / "photos")
    assert isinstance(store._pixels, np.memmap)
    pixels = store.pixels([0])
    pixels[:] = 0  # a copy: the file must not change
    assert store.pixels([0]).any()


def test_the_files_do_not_depend_on_the_threads_or_on_leftovers(tmp_path: Path) -> None:
    sources = [encoded(picture(20 + i % 7, 30), "PNG") for i in range(60)]
    decode_photos(sources, px=8, display_px=64, out=tmp_path / "one", workers=1)
    decode_photos(sources[::-1], px=8, display_px=64, out=tmp_path / "four", workers=4)
    decode_photos(sources, px=8, display_px=64, out=tmp_path / "four", workers=4)
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "four").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "four" / name).read_bytes()


@pytest.mark.parametrize("sources", [[], [None, None], [b"no photo"]])
def test_a_catalogue_without_photos_has_an_empty_store(sources: list[bytes | None], tmp_path: Path) -> None:
    report = decode_photos(sources, px=8, display_px=64, out=tmp_path)
    store = PhotoStore(tmp_path)
    assert report.num_photos == store.num_photos == 0
    assert store.pixels(np.arange(len(sources))).shape == (len(sources), 8, 8, 3)
    assert not store.has.any()
    assert all(store.jpeg(row) is None for row in range(len(sources)))


def test_check_photos_names_the_rows(sources: list[Path | bytes | None]) -> None:
    faults = check_photos(sources)
    assert list(faults) == [4, 5]
    assert "does not exist" in faults[4]


@pytest.mark.real_data
def test_every_shelf_photo_decodes(real_data: Path, tmp_path: Path) -> None:
    photos = sorted((real_data / "grocery_store" / "images").glob("*.jpg"))[:300]
    report = decode_photos(photos, px=64, display_px=256, out=tmp_path)
    assert report.faults == {}
    assert PhotoStore(tmp_path).has.all()


BUILD = """
import sys, time
from pathlib import Path
from triptych.data import photo_store
from triptych.data.catalogue import CatalogueConfig, build
from triptych.data.check import check_tables
from triptych.data.schema import ItemsConfig
from triptych.data.tables import read_items

folder, out, pause_s = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
photo_store.SAVE_EVERY_S = 0.02
decode, asked = photo_store.decode_both, []

def counted(*arguments, **settings):
    asked.append(arguments)
    time.sleep(pause_s)
    return decode(*arguments, **settings)

photo_store.decode_both = counted
tables = lambda: check_tables(read_items(ItemsConfig(path="items.csv", photo="photo"), base=folder), None, None)
config = CatalogueConfig(photo_px=16, display_px=32, max_photos=3)
artifact = build(config, tables=tables, inputs={"items": "test"}, out=out)
print(len(asked), artifact.path)
"""


def test_a_build_killed_again_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """Killed with SIGKILL wherever it is, six times; each attempt goes on behind what the one before had saved."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(240):
        names = [f"{number}.jpg", f"{number}_b.png", f"{rng.integers(number + 1)}.jpg"]
        noise = rng.integers(0, 256, (int(rng.integers(8, 60)), 40, 3), dtype=np.uint8)
        data = encoded(Image.fromarray(noise), "JPEG")
        (tmp_path / names[0]).write_bytes(data[:200] if number % 17 == 0 else data)
        (tmp_path / names[1]).write_bytes(encoded(Image.fromarray(noise[:8]), "PNG"))
        rows.append({"id": f"i{number}", "photo": "|".join(names)})
    pl.DataFrame(rows).write_csv(tmp_path / "items.csv")

    def start(out: Path, *, pause_s: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", BUILD, str(tmp_path), str(out), str(pause_s)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finished(process: subprocess.Popen[str]) -> tuple[int, Artifact]:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        asked, path = output.split()
        return int(asked), Artifact.open(path)

    asked, unbroken = finished(start(tmp_path / "unbroken", pause_s=0))
    assert asked == 720
    saved = 0
    for _ in range(6):
        process = start(tmp_path / "broken", pause_s=0.004)
        deadline = time.monotonic() + 60
        while (now := saved_lines(tmp_path / "broken")) < saved + 60 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.003)
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        assert now > saved  # it did not begin anew
        saved = now
    asked, artifact = finished(start(tmp_path / "broken", pause_s=0))
    assert asked <= 720 - saved
    assert artifact.id == unbroken.id
    assert artifact.manifest["files"] == unbroken.manifest["files"]
    assert artifact.summary == unbroken.summary
    artifact.verify()
    assert not any("resume" in name for name in artifact.manifest["files"])


def saved_lines(out: Path) -> int:
    """Sources that the journal speaks of; its first line tells the work."""
    journals = list(out.glob("*.partial/resume/photos.jsonl"))
    return max(0, journals[0].read_bytes().count(b"\n") - 1) if journals else 0


def test_what_the_files_lack_is_decoded_again(tmp_path: Path) -> None:
    """A journal cut anywhere, and files that are shorter than it says: never other bytes, and no more than needed."""
    sources = [encoded(picture(20 + i, 30), "PNG") if i % 5 else b"no photo" for i in range(40)]
    settings = {"px": 8, "display_px": 32, "workers": 1}
    decode_photos(sources, out=tmp_path / "whole", resume=tmp_path / "journal", **settings)
    journal = (tmp_path / "journal" / "photos.jsonl").read_bytes()
    losses = [(1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (1.0, 0.3, 1.0), (1.0, 1.0, 0.4), (0.01, 1.0, 1.0), (0.0, 0.0, 0.0)]
    for number, (left, pixels, display) in enumerate(losses):
        out, resume = tmp_path / f"out{number}", tmp_path / f"resume{number}"
        shutil.copytree(tmp_path / "whole", out)
        resume.mkdir()
        (resume / "photos.jsonl").write_bytes(journal[: int(left * len(journal))])
        for name, share in (("pixels.npy", pixels), ("display.bin", display)):
            os.truncate(out / name, int(share * (out / name).stat().st_size))
        report = decode_photos(sources, out=out, resume=resume, **settings)
        assert len(report.faults) == 8
        for file in (tmp_path / "whole").iterdir():
            assert file.read_bytes() == (out / file.name).read_bytes(), (number, file.name)
        assert (resume / "photos.jsonl").read_bytes() == journal


@pytest.mark.parametrize("other", [{"px": 16}, {"display_px": 16}, {"max_pixels": 10_000}, {"keep_bytes": 9_999}])
def test_the_journal_of_another_work_is_not_gone_on_with(tmp_path: Path, other: dict[str, int]) -> None:
    sources = [encoded(picture(40 + i, 30), "JPEG") for i in range(6)]
    settings = {"px": 8, "display_px": 32}
    decode_photos(sources, out=tmp_path / "out", resume=tmp_path / "resume", **settings)
    decode_photos(sources, out=tmp_path / "out", resume=tmp_path / "resume", **settings | other)
    decode_photos(sources, out=tmp_path / "fresh", **settings | other)
    for file in (tmp_path / "fresh").iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()


def test_stopped_by_hand_it_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [encoded(picture(20 + i, 30), "PNG") for i in range(64)]
    asked: list[bytes] = []

    def decode(source: bytes, **settings: int) -> Decoded:
        asked.append(source)
        if source is sources[40]:
            raise KeyboardInterrupt
        return decode_both(source, **settings)

    monkeypatch.setattr(photo_store, "decode_both", decode)
    with pytest.raises(KeyboardInterrupt):
        decode_photos(sources, px=8, display_px=32, out=tmp_path, resume=tmp_path / "resume", workers=1)
    asked.clear()
    monkeypatch.setattr(
        photo_store, "decode_both", lambda source, **kw: asked.append(source) or decode_both(source, **kw)
    )
    decode_photos(sources, px=8, display_px=32, out=tmp_path, resume=tmp_path / "resume", workers=1)
    assert asked == sources[40:]
    assert PhotoStore(tmp_path).num_photos == 64


def test_further_photos_are_kept_in_order_without_repeats(tmp_path: Path) -> None:
    a, b, c, d = (encoded(picture(20 + i, 30), "PNG") for i in range(4))
    others = [(0, b), (0, a), (0, c), (0, b), (1, d), (1, b), (2, b"no photo"), (3, a), (3, c)]
    sources = [a, b"no photo", None, b]
    report = decode_photos(sources, others=others, px=8, display_px=32, out=tmp_path)
    assert list(report.faults) == [1, len(sources) + 6]
    assert (report.num_photos, report.num_with_photo, report.num_others) == (4, 3, 5)
    store = PhotoStore(tmp_path)
    assert store.photo_rows.tolist() == [0, 3, -1, 1]  # own photos first, in the order of items
    assert [store.others(row).tolist() for row in range(4)] == [[1, 2], [1], [], [0, 2]]
    assert store.other_counts.tolist() == [2, 1, 0, 2]
    assert np.array_equal(store.pixels([1])[0], decode_photo(d, px=8))  # its own could not be used
    assert np.array_equal(store.distinct(store.others(0)), [decode_photo(b, px=8), decode_photo(c, px=8)])


def test_without_further_photos_the_store_is_what_it_was(tmp_path: Path) -> None:
    sources = [encoded(picture(20 + i, 30), "PNG") for i in range(3)]
    decode_photos(sources, px=8, display_px=32, out=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checksums.npy", "display.bin", "display_offsets.npy", "photo_rows.npy", "pixels.npy",
    ]  # fmt: skip
    store = PhotoStore(tmp_path)
    assert store.others(1).tolist() == []
    assert store.other_counts.tolist() == [0, 0, 0]
