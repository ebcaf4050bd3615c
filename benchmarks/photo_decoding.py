"""Photos per second: our decoder against Pillow's draft mode and resize, bare, in the same run.

    python benchmarks/photo_decoding.py [FOLDER] [--px 64] [--out FILE]

Three things are timed, alternating, and the best round of each is kept, since other work on the machine only ever
takes time: the bare loop `Image.open → draft → convert → resize → array` on one thread; `decode_photo` on one thread
(the same, and upright, letterboxed, white under alpha, bounded); and `decode_photos` on every core, which also
checksums, makes the page's JPEG and writes the store. The ratio of the first two is what correctness costs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import machine
from PIL import Image

from triptych.data.images import decode_photo, decode_photos


def main() -> None:
    parser = argparse.ArgumentParser(description="Photos per second, ours against bare Pillow.")
    parser.add_argument("folder", nargs="?", type=Path, help="photos; default: the fashion photos, else generated ones")
    parser.add_argument("--px", type=int, default=64, help="side of the square, in pixels")
    parser.add_argument("--photos", type=int, default=2_000, help="how many photos at most")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the best of each is kept")
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or default_folder() or generate(Path(temporary), number=300)
        photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[: arguments.photos]
        if not photos:
            parser.error(f"no .jpg in {folder}")
        result = measure(photos, px=arguments.px, rounds=arguments.rounds, scratch=Path(temporary))
    text = json.dumps({"benchmark": "photo_decoding", **result, "machine": machine()}, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def measure(photos: list[Path], *, px: int, rounds: int, scratch: Path) -> dict[str, object]:
    """Time the three ways in turn, `rounds` times, and keep the best of each."""

    def store() -> None:
        decode_photos(photos, px=px, display_px=256, out=scratch / "store")

    work: dict[str, Callable[[], object]] = {
        "pillow": lambda: [bare(photo, px=px) for photo in photos],
        "decode_photo": lambda: [decode_photo(photo, px=px) for photo in photos],
        "decode_photos": store,
    }
    for photo in photos:  # so that the first round does not pay for the disk
        photo.read_bytes()
    seconds = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, function in work.items():
            started = time.perf_counter()
            function()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    with Image.open(photos[0]) as first:
        size = first.size
    rates = {name: len(photos) / best for name, best in seconds.items()}
    return {
        "settings": {
            "photos": len(photos),
            "first_photo_px": size,
            "mean_bytes": round(sum(p.stat().st_size for p in photos) / len(photos)),
            "px": px,
            "display_px": 256,
            "rounds": rounds,
            "store_threads": os.cpu_count(),
        },
        "photos_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "decode_photo_over_pillow": round(rates["decode_photo"] / rates["pillow"], 3),
        "store_over_pillow": round(rates["decode_photos"] / rates["pillow"], 3),
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
