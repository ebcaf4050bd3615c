"""Patch histograms against a plain loop over pixels, and on patches whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from triptych.nn.patch_histograms import COLOUR_LEVELS, FLAT_BELOW, ORIENTATIONS, PATCH_BINS, patch_histograms

PX = 16
FLAT = ORIENTATIONS
COLOURS = slice(ORIENTATIONS + 1, PATCH_BINS)


def loop_histogram(patch: np.ndarray) -> np.ndarray:
    """One patch, ``[px, px, 3]``, pixel by pixel in float64."""
    side = len(patch)
    luminance = patch.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    edges, colours, flat = np.zeros(ORIENTATIONS), np.zeros((COLOUR_LEVELS,) * 3), 0
    for y in range(side):
        for x in range(side):
            up, below = max(y - 1, 0), min(y + 1, side - 1)
            left, beside = max(x - 1, 0), min(x + 1, side - 1)
            down = (luminance[below, x] - luminance[up, x]) / (below - up)
            right = (luminance[y, beside] - luminance[y, left]) / (beside - left)
            if math.hypot(down, right) < FLAT_BELOW:
                flat += 1
            else:
                degrees = math.degrees(math.atan2(down, right)) % 180
                low, rest = divmod(degrees, 180 / ORIENTATIONS)
                rest /= 180 / ORIENTATIONS
                edges[int(low) % ORIENTATIONS] += (1 - rest) * math.hypot(down, right)
                edges[(int(low) + 1) % ORIENTATIONS] += rest * math.hypot(down, right)
            places = [value / 255 * (COLOUR_LEVELS - 1) for value in patch[y, x].tolist()]
            for corner in np.ndindex(colours.shape):
                colours[corner] += math.prod(max(0.0, 1 - abs(p - c)) for p, c in zip(places, corner, strict=True))
    share = flat / side**2
    edges *= (1 - share) / max(edges.sum(), 1e-9)
    return np.concatenate([edges, [share], colours.ravel() / side**2]) / 2


def random_photos(*, px: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, px, px, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def structured_photos() -> torch.Tensor:
    """A ramp, a disc on white, stripes with faint noise, and a dark patch: blank, edged and textured."""
    y, x = np.mgrid[:32, :32]
    photos = np.full((3, 32, 32, 3), 255, np.uint8)
    photos[0] = np.stack([7 * x, 3 * y + 2 * x, 255 - 7 * y], axis=-1)
    photos[1][(y - 12) ** 2 + (x - 14) ** 2 < 90] = (200, 30, 60)
    photos[2, :16] = np.where((x[:16] + y[:16]) % 8 < 4, 40, 160)[..., None]
    photos[2, 16:] = np.random.default_rng(0).integers(0, 6, (16, 32, 3))
    return torch.from_numpy(photos)


def of_colour(*colours: tuple[int, int, int]) -> torch.Tensor:
    """Blank photos of one patch."""
    return torch.tensor(colours, dtype=torch.uint8)[:, None, None].expand(-1, PX, PX, -1)


def cut(photos: torch.Tensor, *, patch_px: int) -> list[list[np.ndarray]]:
    """Patches of each photo, row by row."""
    starts = range(0, photos.shape[1], patch_px)
    return [[p[y : y + patch_px, x : x + patch_px] for y in starts for x in starts] for p in photos.numpy()]


@pytest.mark.parametrize("patch_px", [4, 16])
@pytest.mark.parametrize("photos", [random_photos(px=32), structured_photos()], ids=["random", "structured"])
def test_equals_the_loop(photos, patch_px):
    expected = [[loop_histogram(patch) for patch in patches] for patches in cut(photos, patch_px=patch_px)]
    histograms = patch_histograms(photos, patch_px=patch_px)
    assert histograms.dtype == torch.float32
    np.testing.assert_allclose(histograms.numpy(), expected, atol=2e-6)


def test_many_photos_are_as_each_alone():
    """More patches than are worked on at once."""
    photos = torch.cat([random_photos(px=64, seed=seed) for seed in range(20)])
    assert len(photos) * PX > 2 * 256
    together = patch_histograms(photos)
    torch.testing.assert_close(together, torch.cat([patch_histograms(photo[None]) for photo in photos]))


def test_no_photos_have_no_rows():
    assert patch_histograms(torch.zeros(0, 32, 32, 3, dtype=torch.uint8)).shape == (0, 4, PATCH_BINS)


def test_rows_are_distributions():
    photos = torch.cat([structured_photos(), random_photos(px=32)])
    histograms = patch_histograms(photos)
    assert (histograms >= 0).all()
    torch.testing.assert_close(histograms.sum(dim=2), torch.ones(5, 4))
    torch.testing.assert_close(histograms[:, :, COLOURS].sum(dim=2), torch.full((5, 4), 0.5))


def test_a_row_changes_if_and_only_if_its_own_pixels_do():
    photo = random_photos(px=48)[:1]
    before = patch_histograms(photo)[0]
    generator = torch.Generator().manual_seed(1)
    for patch in range(9):
        y, x = (PX * (patch // 3), PX * (patch % 3))
        for at in [[0, 0], [PX - 1, PX - 1], *torch.randint(0, PX, (5, 2), generator=generator).tolist()]:
            moved = photo.clone()
            moved[0, y + at[0], x + at[1]] += 1  # wraps: still another value
            after = patch_histograms(moved)[0]
            others = torch.arange(9) != patch
            assert torch.equal(after[others], before[others])
            assert not torch.equal(after[patch], before[patch])


@pytest.mark.parametrize(
    ("degrees", "bins"),
    [(0, {0: 1.0}), (90, {4: 0.5, 5: 0.5}), (40, {2: 1.0}), (130, {6: 0.5, 7: 0.5}), (175, {8: 0.25, 0: 0.75})],
)
def test_an_edge_falls_in_the_bins_of_its_gradient(degrees, bins):
    """A ramp of grey: 0 degrees grows from left to right, as over a vertical edge."""
    y, x = np.mgrid[:PX, :PX]
    slope = 8 * (math.cos(math.radians(degrees)) * x + math.sin(math.radians(degrees)) * y)
    grey = (slope - slope.min()).round().astype(np.uint8)
    for ramp in (grey, 255 - grey):  # unsigned
        photo = torch.from_numpy(np.repeat(ramp[None, :, :, None], 3, axis=3))
        edges = patch_histograms(photo)[0, 0, : FLAT + 1]
        expected = torch.zeros(FLAT + 1)
        for place, share in bins.items():
            expected[place] = share / 2
        torch.testing.assert_close(edges, expected, atol=0.02, rtol=0)  # grey levels are whole numbers


@pytest.mark.parametrize(("axis", "bins"), [(1, [0]), (0, [4, 5])], ids=["vertical", "horizontal"])
def test_a_step_marks_the_two_lines_beside_it_and_leaves_the_rest_flat(axis, bins):
    photo = np.zeros((1, PX, PX, 3), np.uint8)
    photo[0].swapaxes(0, axis)[9:] = 180
    row = patch_histograms(torch.from_numpy(photo))[0, 0]
    assert row[FLAT].item() == pytest.approx(0.5 * 14 / 16)
    assert row[bins].sum().item() == pytest.approx(0.5 * 2 / 16)


def test_blank_patches_are_flat_and_of_their_colour():
    rows = patch_histograms(of_colour((0, 0, 0), (255, 255, 255), (255, 0, 170)))[:, 0]
    first = COLOURS.start
    for row, colour in zip(rows, (0, 63, 3 * 16 + 0 * 4 + 2), strict=True):
        expected = torch.zeros(PATCH_BINS)
        expected[FLAT] = expected[first + colour] = 0.5
        torch.testing.assert_close(row, expected)


def test_faint_noise_is_flat_and_strong_is_not():
    noise = torch.randint(0, 2, (1, PX, PX, 1), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    faint, strong = (patch_histograms((100 + swing * noise).expand(-1, -1, -1, 3))[0, 0] for swing in (2, 100))
    assert faint[FLAT].item() == 0.5
    assert strong[FLAT] < 0.25


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((255, 0, 0), (255, 192, 203)),  # red, pink
        ((0, 0, 128), (0, 0, 0)),  # navy, black
        ((0, 0, 255), (0, 0, 128)),  # blue, navy
        ((220, 20, 60), (165, 42, 42)),  # crimson, brown
        ((255, 165, 0), (139, 69, 19)),  # orange, saddle brown
    ],
)
def test_colours_with_names_of_their_own_share_less_than_half(one, other):
    rows = patch_histograms(of_colour(one, other))[:, 0, COLOURS]
    assert torch.minimum(rows[0], rows[1]).sum() < 0.5 * 0.5


def test_autocast_changes_nothing():
    photos = structured_photos()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = patch_histograms(photos)
    assert torch.equal(mixed, patch_histograms(photos))


@pytest.mark.parametrize(("px", "patch_px"), [(40, 16), (16, 1)])
def test_photos_that_cannot_be_cut_are_refused(px, patch_px):
    with pytest.raises(ValueError, match=rf"^photos of {px} x {px} px cannot be cut into patches of {patch_px} px"):
        patch_histograms(random_photos(px=px), patch_px=patch_px)
