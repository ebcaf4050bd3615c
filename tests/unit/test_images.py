"""Photos: what each kind of file becomes, what is refused, and what the memory-mapped store gives back."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from triptych.data.images import PhotoStore, check_photos, decode_photo, decode_photos, display_jpeg
from triptych.foundation.errors import DataError


def picture(width: int, height: int) -> Image.Image:
    """Smooth, and different in its four corners, so that a wrong turn shows and JPEG keeps it well."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), np.full(x.shape, 60.0)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_equals_pillows_own_transpose(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture(64, 32), kind, exif=exif, **options)
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


def png_by_hand(width: int, height: int, *, bits: int, rows: bytes) -> bytes:
    """An RGB PNG of a depth or a size that Pillow would not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + image


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
    with pytest.raises(DataError, match="cannot be read"):
        decode_photo(tmp_path, px=8)


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_decompression_bomb_is_refused_unread(side: int) -> None:
    """Between Pillow's warning and its error, and beyond both."""
    data = png_by_hand(side, side, bits=8, rows=b"")
    with pytest.raises(DataError, match="more than 89,478,485"):
        decode_photo(data, px=8)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bytes_give_pixels_or_a_reason(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"):
        clean = np.frombuffer(encoded(picture(24, 24), kind), dtype=np.uint8)
        for _ in range(20):
            damaged = clean.copy()
            damaged[rng.integers(0, len(clean), 4)] = rng.integers(0, 256, 4)
            try:
                assert decode_photo(damaged.tobytes(), px=8).shape == (8, 8, 3)
            except DataError as error:
                assert "photo" in str(error)


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
    exif = Image.Exif()
    exif[0x0112] = 6
    large = picture(300, 200)
    kinds: list[tuple[str, dict[str, object]]] = [("JPEG", {}), ("JPEG", {"exif": exif}), ("PNG", {}), ("GIF", {})]
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
