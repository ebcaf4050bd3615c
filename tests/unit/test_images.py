"""Photos: what each kind of file becomes, and what is refused."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from photo_files import encoded, orientation, picture, png_by_hand, png_chunk, tiled_tiff
from PIL import Image, ImageCms, ImageOps, features

from triptych.data.images import _Room, decode_photo, display_jpeg
from triptych.foundation.errors import DataError


def as_shown(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def difference(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(int) - right.astype(int)).max())


def test_a_square_photo_of_the_wanted_size_is_unchanged() -> None:
    image = picture(32, 32)
    decoded = decode_photo(encoded(image, "PNG"), px=32)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, np.asarray(image))


def test_a_path_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    data = encoded(picture(50, 20), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.array_equal(decode_photo(tmp_path / "a.jpg", px=16), decode_photo(data, px=16))


def test_letterbox_puts_white_above_and_below_a_wide_photo() -> None:
    decoded = decode_photo(encoded(Image.new("RGB", (40, 20), (10, 20, 30)), "PNG"), px=8)
    expected = np.full((8, 8, 3), 255, dtype=np.uint8)
    expected[2:6] = (10, 20, 30)
    assert np.array_equal(decoded, expected)


def test_letterbox_puts_white_left_and_right_of_a_tall_photo() -> None:
    decoded = decode_photo(encoded(Image.new("RGB", (20, 40), (10, 20, 30)), "PNG"), px=8)
    expected = np.full((8, 8, 3), 255, dtype=np.uint8)
    expected[:, 2:6] = (10, 20, 30)
    assert np.array_equal(decoded, expected)


def test_one_pixel_fills_the_square() -> None:
    assert np.all(decode_photo(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), px=8) == (1, 2, 3))


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (2999, 7)])
def test_an_extreme_aspect_keeps_at_least_one_line(size: tuple[int, int]) -> None:
    decoded = decode_photo(encoded(Image.new("RGB", size, (0, 0, 0)), "PNG"), px=16)
    black = (decoded == 0).all(axis=-1)
    assert black.sum() == 16
    assert (decoded[~black] == 255).all()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_equals_pillows_own_transpose(turn: int, kind: str) -> None:
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture(64, 32), kind, exif=orientation(turn), **options)
    upright = ImageOps.exif_transpose(as_shown(data))
    expected = decode_photo(encoded(upright, "PNG"), px=32)
    assert difference(decode_photo(data, px=32), expected) <= (6 if kind == "JPEG" else 2)
    shown = as_shown(display_jpeg(data, px=64))
    assert shown.size == upright.size
    assert "exif" not in shown.info
    assert difference(np.asarray(shown), np.asarray(upright)) <= 20  # chroma at half resolution


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_photo() -> None:
    data = encoded(picture(16, 16), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff rubbish")
    assert difference(decode_photo(data, px=16), np.asarray(picture(16, 16))) <= 20


def test_alpha_shows_white() -> None:
    image = Image.new("RGBA", (4, 2), (200, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 51))  # a fifth of black on white
    decoded = decode_photo(encoded(image, "PNG"), px=4)[1:3]
    assert tuple(decoded[0, 0]) == (255, 255, 255)
    assert tuple(decoded[0, 1]) == (204, 204, 204)
    assert (decoded[1] == (200, 0, 0)).all()


def test_grey_with_alpha_shows_white() -> None:
    image = Image.new("LA", (2, 1), (40, 255))
    image.putpixel((1, 0), (40, 0))
    assert decode_photo(encoded(image, "PNG"), px=2)[0, :, 0].tolist() == [40, 255]


def test_a_transparent_photo_that_is_shrunk_has_no_dark_fringe() -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))  # black, wholly transparent
    image.paste((250, 250, 250, 255), (0, 0, 64, 31))
    assert decode_photo(encoded(image, "PNG"), px=8).min() >= 245


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 0), 1)
    opaque = decode_photo(encoded(image, "PNG"), px=2)[0]
    assert opaque.tolist() == [[10, 20, 30], [200, 100, 0]]
    for kind in ("PNG", "GIF"):
        transparent = decode_photo(encoded(image, kind, transparency=0), px=2)[0]
        assert transparent.tolist() == [[255, 255, 255], [200, 100, 0]]


def test_the_transparent_colour_of_an_rgb_png_shows_white() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (8, 8, 8))
    decoded = decode_photo(encoded(image, "PNG", transparency=(9, 9, 9)), px=2)[0]
    assert decoded.tolist() == [[255, 255, 255], [8, 8, 8]]


def test_one_bit_and_eight_bit_grey() -> None:
    assert decode_photo(encoded(Image.new("1", (2, 2), 1), "PNG"), px=2).tolist() == [[[255] * 3] * 2] * 2
    assert decode_photo(encoded(Image.new("L", (2, 2), 77), "PNG"), px=2).tolist() == [[[77] * 3] * 2] * 2


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257 * 100, 65535, 1000]], dtype=np.uint16)
    decoded = decode_photo(encoded(Image.fromarray(values), "PNG"), px=4)[1]
    assert decoded[:, 0].tolist() == [0, 100, 255, round(1000 / 257)]


def test_sixteen_bit_rgb_png() -> None:
    row = b"\x00" + struct.pack(">6H", 0x1234, 0xFFFF, 0x0000, 0xABCD, 0x8000, 0x00FF)
    expected = np.array([[0x12, 0xFF, 0x00], [0xAB, 0x80, 0x00]])
    assert difference(decode_photo(png_by_hand(2, 1, bits=16, rows=row), px=2)[0], expected) <= 1


def test_numbers_without_a_known_white_are_refused() -> None:
    for values in (np.array([[0.5]], dtype=np.float32), np.array([[70_000]], dtype=np.int32)):
        with pytest.raises(DataError, match="nobody knows what is white"):
            decode_photo(encoded(Image.fromarray(values), "TIFF"), px=2)


def test_cmyk_jpeg() -> None:
    rgb = Image.new("RGB", (16, 16), (200, 40, 90))
    decoded = decode_photo(encoded(rgb.convert("CMYK"), "JPEG", quality=95), px=16)
    assert difference(decoded, np.asarray(rgb)) <= 4
    assert as_shown(display_jpeg(encoded(rgb.convert("CMYK"), "JPEG"), px=16)).mode == "RGB"


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_photo(data, px=4) == (255, 0, 0)).all()


@pytest.mark.parametrize("px", [8, 16, 64, 100])
def test_draft_decoding_stays_close_to_a_full_decode(px: int) -> None:
    data = encoded(picture(600, 450), "JPEG", quality=95)
    full = as_shown(data).convert("RGB").resize((px, round(px * 0.75)), Image.Resampling.BICUBIC)
    decoded = decode_photo(data, px=px)
    top = (px - full.height) // 2
    inner = decoded[top : top + full.height]
    assert np.abs(inner.astype(int) - np.asarray(full).astype(int)).mean() < 1.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_truncated_photo_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(DataError, match="damaged|not a photo"):
        decode_photo(data[: len(data) // 2], px=8)
    with pytest.raises(DataError, match="damaged|not a photo"):
        display_jpeg(data[: len(data) // 2], px=64)


def test_what_is_no_photo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        decode_photo(b"", px=8)
    with pytest.raises(DataError, match="not a photo in a format"):
        decode_photo(b"<html>404</html>", px=8)
    with pytest.raises(DataError, match="not a photo in a format"):
        decode_photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", px=8)
    with pytest.raises(DataError, match="does not exist"):
        decode_photo(tmp_path / "none.jpg", px=8)


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_decompression_bomb_is_refused_unread(side: int) -> None:
    """Between Pillow's warning and its error, and beyond both."""
    data = png_by_hand(side, side, bits=8, rows=b"")
    with pytest.raises(DataError, match="more than 89,478,485"):
        decode_photo(data, px=8)


def test_a_small_plain_jpeg_is_shown_byte_for_byte() -> None:
    data = encoded(picture(60, 30), "JPEG", progressive=True)
    assert display_jpeg(data, px=60) == data
    assert display_jpeg(data, px=59) != data


def test_an_exif_block_is_not_passed_on() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    assert b"maker" not in display_jpeg(encoded(picture(20, 20), "JPEG", exif=exif), px=60)


def test_display_is_not_enlarged_and_keeps_its_aspect() -> None:
    assert as_shown(display_jpeg(encoded(picture(40, 20), "PNG"), px=256)).size == (40, 20)
    assert as_shown(display_jpeg(encoded(picture(1000, 400), "JPEG"), px=256)).size == (256, 102)


@pytest.mark.parametrize("keep_bytes", [0, 100_000])
def test_the_rest_of_a_file_is_not_passed_on(keep_bytes: int) -> None:
    """What may tell where and by whom a photo was taken, or makes a small one large."""
    xmp = b"<x:xmpmeta>GPSLatitude</x:xmpmeta>"
    small = picture(20, 20)
    assert b"GPSLatitude" not in display_jpeg(encoded(small, "JPEG", xmp=xmp), px=60, keep_bytes=keep_bytes)
    shown = display_jpeg(encoded(picture(200, 20), "JPEG", comment=b"from me"), px=60)
    assert b"from me" not in shown
    heavy = encoded(small, "JPEG", icc_profile=bytes(400_000))
    assert len(display_jpeg(heavy, px=60, keep_bytes=keep_bytes)) < 2_000


def test_a_larger_jpeg_is_shown_byte_for_byte_where_its_file_is_small() -> None:
    data = encoded(picture(600, 400), "JPEG")
    assert display_jpeg(data, px=60, keep_bytes=len(data)) == data
    assert max(as_shown(display_jpeg(data, px=60, keep_bytes=len(data) - 1)).size) == 60
    with pytest.raises(DataError, match="damaged"):
        display_jpeg(data[:-200], px=60, keep_bytes=len(data))
    turned = encoded(picture(600, 400), "JPEG", exif=orientation(6))
    assert as_shown(display_jpeg(turned, px=60, keep_bytes=2**20)).size == (40, 60)


def test_grey_of_sixteen_bits_where_white_is_zero() -> None:
    """TIFF allows it, and Pillow turns only eight bits around."""
    values = np.array([[0, 257 * 100, 65535, 1000]], dtype="<u2")
    tags = [(256, 4), (257, 1), (258, 16), (259, 1), (262, 0), (273, 8), (277, 1), (278, 1), (279, 8)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 16) + values.tobytes() + directory + b"\0\0\0\0"
    assert decode_photo(data, px=4)[1, :, 0].tolist() == [255, 155, 0, 255 - round(1000 / 257)]


def test_the_transparent_grey_of_sixteen_bits_shows_white() -> None:
    values = np.array([[257 * 100, 257 * 30]], dtype=np.uint16)
    data = encoded(Image.fromarray(values), "PNG", transparency=257 * 100)
    assert decode_photo(data, px=2)[0, :, 0].tolist() == [255, 30]


def gamma_profile(*, gamma: float, primaries: str = "sRGB") -> bytes:
    """An RGB profile whose curves are a power; with `primaries` "swapped", its red is our green."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(made[132 + 12 * n : 136 + 12 * n]): 132 + 12 * n for n in range(struct.unpack_from(">I", made, 128)[0])
    }
    if primaries == "swapped":
        red, green = tags[b"rXYZ"], tags[b"gXYZ"]
        made[red + 4 : red + 12], made[green + 4 : green + 12] = made[green + 4 : green + 12], made[red + 4 : red + 12]
    at = len(made)
    made += b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        struct.pack_into(">II", made, tags[name] + 4, at, 14)
    struct.pack_into(">I", made, 0, len(made))
    return bytes(made)


def test_an_embedded_profile_is_applied() -> None:
    """Against the closed form: curve of the profile, then the curve of sRGB backwards; primaries are the same."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    image = Image.fromarray(np.repeat(levels, 3).reshape(1, -1, 3))
    data = encoded(image, "PNG", icc_profile=gamma_profile(gamma=1.0))
    light = levels / 255
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    decoded = decode_photo(data, px=len(levels))[(len(levels) - 1) // 2]
    assert np.abs(decoded - expected[:, None]).max() < 2
    shown = np.asarray(
        as_shown(display_jpeg(encoded(image, "WEBP", lossless=True, icc_profile=gamma_profile(gamma=1.0)), px=256))
    )
    assert np.abs(shown[0] - expected[:, None]).max() < 8


def test_a_profile_of_other_primaries_is_applied() -> None:
    red = Image.new("RGB", (8, 8), (250, 0, 0))
    decoded = decode_photo(
        encoded(red, "JPEG", quality=95, icc_profile=gamma_profile(gamma=2.2, primaries="swapped")), px=8
    )
    assert decoded[4, 4, 1] > 230
    assert decoded[4, 4, 0] < 20


def test_a_profile_that_is_srgb_changes_nothing() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode_photo(encoded(noise, "PNG", icc_profile=profile), px=16), np.asarray(noise))


@pytest.mark.parametrize("profile", [b"no profile", bytes(5_000_000), b"", gamma_profile(gamma=1.0)[:300]])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_a_photo_is_not_lost_for_its_profile(profile: bytes, kind: str) -> None:
    image = Image.new("RGB", (16, 16), (90, 120, 200))
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_photo(encoded(image, kind, icc_profile=profile, **options), px=16)
    assert difference(decoded, np.asarray(image)) <= 4


def test_a_profile_of_another_kind_than_the_photo_is_passed_over() -> None:
    inks = Image.new("CMYK", (16, 16), (10, 200, 30, 0))
    plain = decode_photo(encoded(inks, "TIFF"), px=16)
    assert np.array_equal(decode_photo(encoded(inks, "TIFF", icc_profile=gamma_profile(gamma=1.0)), px=16), plain)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
@pytest.mark.parametrize("turn", [3, 6])
def test_orientation_of_formats_that_turn_by_themselves(kind: str, turn: int) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    options = {"quality": 98} if kind == "AVIF" else {}
    data = encoded(picture(64, 32), kind, exif=orientation(turn), **options)
    expected = decode_photo(encoded(ImageOps.exif_transpose(as_shown(data)), "PNG"), px=32)
    assert difference(decode_photo(data, px=32), expected) <= 2


def test_what_kind_of_file_is_no_photo() -> None:
    kinds = {
        b"\n<!DOCTYPE html><title>404</title>": "a web page",
        b'<?xml version="1.0"?><svg xmlns=""/>': "a drawing in SVG",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "HEIC",
        b"\0\0\0\x0cjP  \r\n\x87\n\0\0": "JPEG 2000",
        b"%PDF-1.7": "a PDF",
        b"8BPS\0\1": "a Photoshop file",
    }
    for data, kind in kinds.items():
        with pytest.raises(DataError, match=rf"not a photo in a format that can be read \(it is {kind}"):
            decode_photo(data, px=8)


def test_the_contents_decide_not_the_name(tmp_path: Path) -> None:
    file = tmp_path / "photo.txt"
    file.write_bytes(encoded(picture(8, 8), "PNG"))
    assert np.array_equal(decode_photo(file, px=8), np.asarray(picture(8, 8)))
    (tmp_path / "photo.jpg").write_text("not a photo")
    with pytest.raises(DataError, match="not a photo"):
        decode_photo(tmp_path / "photo.jpg", px=8)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "to_pipe.jpg").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    reasons = {
        "pipe.jpg": "it is a pipe",
        "to_pipe.jpg": "it is a pipe",
        "folder.jpg": "it is a folder",
        "loop.jpg": "Too many levels of symbolic links",
        "nowhere.jpg": "does not exist",
        "bad\0name.jpg": "no file can have this name",
        "x" * 400: "File name too long",
    }
    with socket.socket(socket.AF_UNIX) as listener:
        short = Path(tempfile.mkdtemp(dir="/tmp")) / "s"  # a socket's path has at most a hundred letters
        listener.bind(str(short))
        with pytest.raises(DataError, match="it is a socket"):
            decode_photo(short, px=8)
        shutil.rmtree(short.parent)
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason):
            decode_photo(tmp_path / name, px=8)
    with pytest.raises(DataError, match="it is a device"):
        decode_photo(Path("/dev/zero"), px=8)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_photo_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "secret.jpg"
    file.write_bytes(encoded(picture(8, 8), "JPEG"))
    file.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        decode_photo(file, px=8)


def test_limits_are_settings(tmp_path: Path) -> None:
    data = encoded(picture(100, 50), "PNG")
    assert decode_photo(data, px=8, max_pixels=5_000).shape == (8, 8, 3)
    with pytest.raises(DataError, match="100 × 50 pixels, more than 4,999"):
        decode_photo(data, px=8, max_pixels=4_999)
    with pytest.raises(DataError, match="more than 4,999"):
        display_jpeg(data, px=8, max_pixels=4_999)
    (tmp_path / "large.bmp").write_bytes(data + bytes(20_000))
    with pytest.raises(DataError, match=r"has [\d,]+ bytes, more than 20,000"):
        decode_photo(tmp_path / "large.bmp", px=8, max_pixels=5_000)


def test_a_side_that_no_photo_has_is_refused() -> None:
    data = png_by_hand(65_536, 1, bits=8, rows=bytes(3 * 65_536 + 1))
    with pytest.raises(DataError, match="a side may have 65,535"):
        decode_photo(data, px=8)
    assert decode_photo(png_by_hand(65_535, 1, bits=8, rows=bytes(3 * 65_535 + 1)), px=8)[3].max() == 0


def many_passes(number: int) -> bytes:
    """A progressive JPEG whose last pass, which changes nothing, is repeated: a hundred bytes, all pixels anew."""
    data = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * number + data[-2:]


def test_a_jpeg_of_too_many_passes_is_refused() -> None:
    assert (decode_photo(many_passes(50), px=8) == 128).all()
    with pytest.raises(DataError, match="stored in [0-9]+ passes, more than 100"):
        decode_photo(many_passes(200), px=8)


BOMBS = """
import resource, sys
from pathlib import Path
from triptych.data.images import decode_photo
from triptych.foundation.errors import DataError
decode_photo(Path({valid!r}), px=8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, used + 2**25))
for name in sys.argv[1:]:
    try:
        decode_photo(Path(name), px=8)
        print("pixels")
    except DataError as error:
        print(error)
"""


def test_bombs_are_refused_from_their_headers(tmp_path: Path) -> None:
    """In a process that may have 32 MB more than it has: each would unpack to hundreds."""
    valid = tmp_path / "valid.tif"
    valid.write_bytes(tiled_tiff(16, 16))
    png, small = encoded(picture(8, 8), "PNG"), encoded(Image.new("L", (64, 64)), "JPEG")
    bombs = {
        "png": png_by_hand(12_000, 12_000, bits=8, rows=bytes(100)),
        "gif": b"GIF89a" + bytes([96, 234, 96, 234, 0, 0, 0, 44, 0, 0, 0, 0, 96, 234, 96, 234, 0, 8]),  # 60,000 wide
        "tif": tiled_tiff(20_000, 16),
        "jpg": small.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 64_000, 64_000)),
        "zip.png": png[:33] + png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(10**8))) + png[33:],
    }  # fmt: skip
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    code = BOMBS.format(valid=str(valid))
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *(str(tmp_path / name) for name in bombs)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    reasons = dict(zip(bombs, child.stdout.splitlines(), strict=True))
    assert all("more than 89,478,485" in reasons[name] for name in ("png", "gif", "jpg")), reasons
    assert "tiles of 20000 × 20000" in reasons["tif"]
    assert "too large" in reasons["zip.png"]


def test_too_little_memory_for_a_photo_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", no_memory)
    with pytest.raises(DataError, match="more memory than there is"):
        decode_photo(encoded(picture(20, 20), "PNG"), px=8)


def test_large_photos_wait_for_room() -> None:
    """Threads that decode at one time more than the room allows."""
    room = _Room(10 * 2**20)
    inside, most, lock = 0, 0, threading.Lock()

    def use(_: int) -> None:
        nonlocal inside, most
        with room.of(4 * 2**20):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(24)))
        assert most == 2
        pool.submit(lambda: room.of(2**40).__enter__()).result(timeout=5)  # larger than the room: it has it alone
