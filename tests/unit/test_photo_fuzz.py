"""Ten thousand damaged photos of every format: each gives pixels or a reason, in bounded memory and little time.

They are decoded in a process of their own, in which memory beyond the limit cannot be had and a crash is seen.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import photo_files
from photo_files import encoded, picture, png_by_hand, tiled_tiff
from PIL import Image, ImageCms

from triptych.data.images import FORMATS, decode_both
from triptych.foundation.errors import DataError

NUM_FILES = 10_000
SEED = 11
PX = 16
MAX_PIXELS = 2**21
MEMORY_BYTES = 13 * MAX_PIXELS + 2**26
"""What decoding may add to the process: the pixels that are allowed, and what libraries keep for themselves."""
SLOW_S = 2.0


def valid_photos() -> dict[str, bytes]:
    """Small photos in every format that can be read, in the modes and with the blocks that it knows."""
    rgb, frames = picture(40, 28), [picture(20, 12), picture(20, 12).rotate(90)]
    rgba, grey = rgb.copy(), rgb.convert("L")
    rgba.putalpha(grey)
    palette, deep = rgb.quantize(32), Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker" * 20
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    blocks: dict[str, Any] = {"exif": exif, "icc_profile": profile}
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    several: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("jpeg", rgb, "JPEG", {}),
        ("jpeg-progressive", rgb, "JPEG", {"progressive": True, **blocks}),
        ("jpeg-grey", grey, "JPEG", {"restart_marker_rows": 1}),
        ("jpeg-cmyk", rgb.convert("CMYK"), "JPEG", blocks),
        ("mpo", frames[0], "MPO", animated),
        ("png", rgb, "PNG", blocks),
        ("png-grey", grey, "PNG", {"transparency": 3}),
        ("png-alpha", rgba, "PNG", {}),
        ("png-grey-alpha", rgba.convert("LA"), "PNG", {}),
        ("png-palette", palette, "PNG", {"transparency": 1, "bits": 4}),
        ("png-one-bit", grey.convert("1"), "PNG", {}),
        ("png-16", deep, "PNG", {}),
        ("apng", frames[0], "PNG", animated),
        ("webp", rgb, "WEBP", blocks),
        ("webp-lossless", rgba, "WEBP", {"lossless": True}),
        ("webp-alpha", rgba, "WEBP", {}),
        ("webp-animated", frames[0], "WEBP", animated),
        ("avif", rgb, "AVIF", {"speed": 10, **blocks}),
        ("avif-alpha", rgba, "AVIF", {"speed": 10}),
        ("gif", palette, "GIF", {"transparency": 0, "comment": b"said" * 9}),
        ("gif-animated", frames[0], "GIF", animated),
        ("bmp", rgb, "BMP", {}),
        ("bmp-palette", palette, "BMP", {}),
        ("bmp-one-bit", grey.convert("1"), "BMP", {}),
        ("tiff", rgb, "TIFF", blocks),
        ("tiff-lzw", rgba, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff-deflate", deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("tiff-jpeg", rgb, "TIFF", {"compression": "jpeg"}),
        ("tiff-fax", grey.convert("1"), "TIFF", {"compression": "group4"}),
        ("tiff-packbits", palette, "TIFF", {"compression": "packbits"}),
        ("tiff-inks", rgb.convert("CMYK"), "TIFF", {}),
        ("tiff-pages", frames[0], "TIFF", animated),
        ("tiff-big", rgb, "TIFF", {"big_tiff": True}),
    ]
    Image.init()
    photos = {name: encoded(image, kind, **options) for name, image, kind, options in several if kind in Image.SAVE}
    return photos | {
        "png-48": png_by_hand(8, 8, bits=16, rows=b"".join(b"\0" + bytes(range(48)) for _ in range(8))),
        "bmp-rle": run_length_bmp(),
        "tiff-tiled": tiled_tiff(16, 16),
    }


def run_length_bmp() -> bytes:
    rows = b"\x08\x05\x00\x00" * 7 + b"\x00\x04\x01\x02\x03\x04\x04\x09\x00\x01"
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, len(rows), 0, 0, 256, 0)
    colours = bytes(range(256)) * 4
    start = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + colours + rows


def flip_bits(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    out = np.frombuffer(data, dtype=np.uint8).copy()
    places = rng.integers(0, min(len(out), int(rng.choice([64, 1024, 2**31]))), int(rng.integers(1, 9)))
    out[places] ^= np.uint8(1) << rng.integers(0, 8, len(places)).astype(np.uint8)
    return out.tobytes()


def set_bytes(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(data)))
    length = int(rng.integers(1, 33))
    filling = bytes([int(rng.choice([0, 255, 128, 1]))]) * length if rng.random() < 0.5 else rng.bytes(length)
    return data[:start] + filling + data[start + length :]


def cut(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def remove(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(0, len(data))), int(rng.integers(1, 200))
    return data[:start] + data[start + length :]


def splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The beginning of one photo and the end of another, of any format."""
    return data[: int(rng.integers(1, len(data)))] + other[int(rng.integers(0, len(other))) :]


def repeat(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(data)))
    part = data[start : start + int(rng.integers(1, 400))]
    return data[:start] + part * int(rng.integers(2, 60)) + data[start:]


def resize(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Overwrite one or two numbers that may be a size, in either byte order; a PNG's header is made whole again."""
    out = bytearray(data)
    sizes = [0, 1, 2, 41, 255, 256, 1_448, 9_000, 32_767, 65_535, 2**24, 2**31 - 1, 2**32 - 1]
    for _ in range(int(rng.integers(1, 3))):
        form = str(rng.choice(["<H", ">H", "<I", ">I"]))
        known = [struct.pack(form, side) for side in (40, 28, 39, 27, 20, 12, 19, 11, 16, 8)]
        found = [at for number in known for at in (data.find(number), data.rfind(number)) if at >= 0]
        width = struct.calcsize(form)
        at = int(rng.choice(found)) if found else int(rng.integers(0, len(data) - width))
        out[at : at + width] = struct.pack(form, int(rng.choice(sizes)) % 2 ** (8 * width))
    if out[12:16] == b"IHDR":
        out[29:33] = struct.pack(">I", zlib.crc32(out[12:29]))
    return bytes(out)


MUTATIONS: tuple[Callable[[bytes, bytes, np.random.Generator], bytes], ...] = (
    flip_bits,
    set_bytes,
    cut,
    remove,
    splice,
    repeat,
    resize,
)


def damaged_photos(photos: dict[str, bytes], *, number: int) -> Iterator[tuple[str, bytes]]:
    """Mutate valid photos, every photo and mutation as often as any other; a fifth are mutated twice."""
    rng = np.random.default_rng(SEED)
    names = sorted(photos)
    for place in range(number):
        name = names[place % len(names)]
        mutate = MUTATIONS[place // len(names) % len(MUTATIONS)]
        data = mutate(photos[name], photos[str(rng.choice(names))], rng)
        if rng.random() < 0.2 and len(data) > 16:
            data = MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, photos[str(rng.choice(names))], rng)
        yield f"{name} {mutate.__name__} {place}", data


def decode_all(number: int) -> dict[str, Any]:
    """Decode every damaged photo under the limit; this is what the child process does."""
    photos = valid_photos()
    for data in photos.values():  # libraries take what they need once
        decode_both(data, px=PX, display_px=2 * PX, max_pixels=MAX_PIXELS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    outcomes: Counter[str] = Counter()
    slow, wrong, digest = [], [], hashlib.sha256()
    for name, data in damaged_photos(photos, number=number):
        digest.update(data)
        started = time.process_time()
        try:
            decoded = decode_both(data, px=PX, display_px=2 * PX, max_pixels=MAX_PIXELS)
            outcomes["pixels"] += 1
            if decoded.pixels.shape != (PX, PX, 3) or not decoded.display.startswith(b"\xff\xd8"):
                wrong.append(name)
        except DataError as error:
            reason = str(error)
            outcomes[re.sub(r"[\d,]*\d", "N", reason.partition(" (")[0])] += 1
            if not reason or "\n" in reason or "memory" in reason or len(reason) > 300:
                wrong.append(f"{name}: {reason}")
        seconds = time.process_time() - started
        if seconds > SLOW_S:
            slow.append(f"{name}: {seconds:.1f} s")
    return {"outcomes": outcomes, "slow": slow, "wrong": wrong, "sha256": digest.hexdigest()}


def test_every_damaged_photo_gives_pixels_or_a_reason() -> None:
    child = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(NUM_FILES)],
        env={**os.environ, "PYTHONPATH": str(Path(photo_files.__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, f"decoding ended with {child.returncode}: {child.stderr[-2_000:]}"
    found = json.loads(child.stdout)
    outcomes = found["outcomes"]
    assert sum(outcomes.values()) == NUM_FILES
    assert found["slow"] == []
    assert found["wrong"] == []
    assert outcomes["pixels"] > NUM_FILES / 10  # the damage is not so bad that nothing is decoded
    assert outcomes["the photo is damaged"] > NUM_FILES / 10


def test_the_valid_photos_cover_every_format() -> None:
    photos = valid_photos()
    kinds = {Image.open(io.BytesIO(data)).format for data in photos.values()}
    Image.init()
    assert kinds - {"MPO"} == {name for name in FORMATS if name in Image.OPEN}
    for data in photos.values():
        assert decode_both(data, px=PX, display_px=2 * PX, max_pixels=MAX_PIXELS).pixels.std() > 0


if __name__ == "__main__":
    print(json.dumps(decode_all(int(sys.argv[1]))))
