"""Photos per second: the whole photo stage against Pillow's draft mode and resize, bare, on the same files.

    python benchmarks/photo_decoding.py [FOLDER] [--px 64] [--threads N] [--display-bytes N] [--out FILE]

Four things are timed, alternating, and the best round of each is kept, since other work on the machine only ever
takes time:

    pillow          the bare loop `Image.open → draft → convert → resize → array` on one thread
    decode_photo    the same on one thread, and upright, letterboxed, white under alpha, sRGB, bounded
    pillow_threads  the bare loop on as many threads as the stage has, eight photos at a time each
    stage           `decode_photos`: also the checksum, the page's JPEG, the files, and the journal to go on from

`decode_photo_over_pillow` is what correctness costs, `stage_over_pillow` (equal threads) what the whole stage does.
`cpu_ms` is processor time per photo, which other work on the machine disturbs less. What the stage costs beyond
decoding is nearly all the page's JPEG, where a photo is larger than that: it is decoded a second time, at the larger
size, and encoded. `--display-bytes` shows the stage without (the catalogue's `display_bytes`: JPEGs of at most so many
bytes are shown as they are).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from machine import machine
from PIL import Image

from triptych.data.images import decode_photo
from triptych.data.photo_store import decode_photos
from triptych.foundation.machine import num_cores

DISPLAY_PX = 256
AT_ONCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Photos per second, ours against bare Pillow.")
    parser.add_argument("folder", nargs="?", type=Path, help="photos; default: the fashion photos, else generated ones")
    parser.add_argument("--px", type=int, default=64, help="side of the square, in pixels")
    parser.add_argument("--photos", type=int, default=2_000, help="how many photos at most")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the best of each is kept")
    parser.add_argument("--threads", type=int, default=num_cores(), help="of the stage; default: one per core")
    parser.add_argument("--display-bytes", type=int, default=0, help="JPEGs of at most so many bytes are shown as is")
    parser.add_argument(
        "--generated", action="store_true", help="generated photos of 600 × 800, whatever else there is"
    )
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or (None if arguments.generated else default_folder())
        folder = folder or generate(Path(temporary) / "photos", number=min(arguments.photos, 300))
        photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[: arguments.photos]
        if not photos:
            parser.error(f"no .jpg in {folder}")
        result = measure(
            photos,
            px=arguments.px,
            rounds=arguments.rounds,
            threads=arguments.threads,
            display_bytes=arguments.display_bytes,
            scratch=Path(temporary) / "stage",
        )
    text = json.dumps({"benchmark": "photo_decoding", **result, "machine": machine()}, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def measure(
    photos: list[Path], *, px: int, rounds: int, threads: int, display_bytes: int, scratch: Path
) -> dict[str, object]:
    """Time the four ways in turn, `rounds` times, and keep the best of each."""

    def stage() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress line
            decode_photos(
                photos,
                px=px,
                display_px=DISPLAY_PX,
                keep_bytes=display_bytes,
                out=scratch / "photos",
                resume=scratch / "resume",
                workers=threads,
            )

    def bare_threads() -> None:
        some = [photos[start : start + AT_ONCE] for start in range(0, len(photos), AT_ONCE)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: [bare(photo, px=px) for photo in part], some))

    work: dict[str, Callable[[], object]] = {
        "pillow": lambda: [bare(photo, px=px) for photo in photos],
        "decode_photo": lambda: [decode_photo(photo, px=px) for photo in photos],
        "pillow_threads": bare_threads,
        "stage": stage,
    }
    for photo in photos:  # so that the first round does not pay for the disk
        photo.read_bytes()
    seconds, cpu_seconds = dict.fromkeys(work, float("inf")), dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, function in work.items():
            shutil.rmtree(scratch, ignore_errors=True)  # nothing to go on from
            started, cpu_started = time.perf_counter(), time.process_time()
            function()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
            cpu_seconds[name] = min(cpu_seconds[name], time.process_time() - cpu_started)
    with Image.open(photos[0]) as first:
        size = first.size
    return {
        "settings": {
            "photos": len(photos),
            "first_photo_px": size,
            "mean_bytes": round(sum(p.stat().st_size for p in photos) / len(photos)),
            "px": px,
            "display_px": DISPLAY_PX,
            "display_bytes": display_bytes,
            "rounds": rounds,
            "threads": threads,
        },
        "photos_per_s": {name: round(len(photos) / best, 1) for name, best in seconds.items()},
        "cpu_ms": {name: round(1e3 * best / len(photos), 3) for name, best in cpu_seconds.items()},
        "decode_photo_over_pillow": round(seconds["pillow"] / seconds["decode_photo"], 3),
        "stage_over_pillow": round(seconds["pillow_threads"] / seconds["stage"], 3),
        "stage_over_pillow_cpu": round(cpu_seconds["pillow_threads"] / cpu_seconds["stage"], 3),
    }


def bare(photo: Path, *, px: int) -> np.ndarray:
    """Decode with Pillow's draft mode and resize, and nothing else; the aspect is lost."""
    with Image.open(photo) as image:
        image.draft("RGB", (px, px))
        return np.asarray(image.convert("RGB").resize((px, px), Image.Resampling.BICUBIC))


def default_folder() -> Path | None:
    """The real fashion photos, where they are."""
    root = os.environ.get("TRIPTYCH_DATA")
    data = Path(root) if root else Path(__file__).parents[2] / "shared" / "data"
    folder = data / "fashion_products" / "images"
    return folder if folder.is_dir() else None


def generate(folder: Path, *, number: int) -> Path:
    """Write JPEGs of 600 × 800 pixels with detail at several scales, about as large as product photos."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(number):
        canvas = np.zeros((800, 600, 3))
        for cells in (4, 32, 200):
            noise = Image.fromarray(rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
            canvas += np.asarray(noise.resize((600, 800), Image.Resampling.BICUBIC)) / 3
        buffer = io.BytesIO()
        Image.fromarray(canvas.astype(np.uint8)).save(buffer, "JPEG", quality=85)
        (folder / f"{index:04d}.jpg").write_bytes(buffer.getvalue())
    return folder


if __name__ == "__main__":
    main()
