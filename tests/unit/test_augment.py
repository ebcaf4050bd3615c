"""Photo augmentation: off means untouched, on stays within its limits."""

from __future__ import annotations

import numpy as np

from triptych.data.augment import AugmentConfig, augment

OFF = AugmentConfig(mirror_rate=0, min_side_rate=1, brightness=0, tint=0)


def photos(batch: int = 12, px: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(batch, px, px, 3), dtype=np.uint8)


def with_only(**settings: float) -> AugmentConfig:
    return AugmentConfig.parse({**OFF.dump(), **settings})


def test_off_changes_nothing():
    assert (augment(photos(), config=OFF, rng=np.random.default_rng(1)) == photos()).all()


def test_the_argument_is_left_alone():
    given = photos()
    augment(given, config=AugmentConfig(), rng=np.random.default_rng(1))
    assert (given == photos()).all()


def test_mirroring_turns_left_to_right():
    found = augment(photos(), config=with_only(mirror_rate=1), rng=np.random.default_rng(1))
    assert (found == photos()[:, :, ::-1]).all()
    half = augment(photos(64), config=with_only(mirror_rate=0.5), rng=np.random.default_rng(1))
    same = (half == photos(64)).all(axis=(1, 2, 3))
    assert 16 < same.sum() < 48


def test_a_crop_enlarges_a_square_of_the_photo():
    px = 32
    ramp = np.zeros((20, px, px, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(px)[:, None]  # each pixel says where it is from
    ramp[..., 1] = np.arange(px)[None, :]
    found = augment(ramp, config=with_only(min_side_rate=0.5), rng=np.random.default_rng(1)).astype(int)
    down, across = found[:, :, 0, 0], found[:, 0, :, 1]
    assert (found[..., 0] == down[:, :, None]).all()
    assert (found[..., 1] == across[:, None, :]).all()
    sides = down[:, -1] - down[:, 0] + 1
    assert (sides == across[:, -1] - across[:, 0] + 1).mean() > 0.5  # a square, up to a pixel of rounding
    assert sides.min() >= px // 2 - 1 and sides.max() <= px and sides.std() > 1
    assert (np.diff(down) >= 0).all() and (np.diff(across) >= 0).all()


def test_light_stays_within_its_limits():
    grey = np.full((200, 4, 4, 3), 100, dtype=np.uint8)
    bright = augment(grey, config=with_only(brightness=0.2), rng=np.random.default_rng(1)).astype(int)
    assert (bright == bright[..., :1]).all()  # brightness keeps grey grey
    assert 79 <= bright.min() < 85 and 115 < bright.max() <= 121
    tinted = augment(grey, config=with_only(tint=0.05), rng=np.random.default_rng(1)).astype(int)
    assert tinted.min() >= 94 and tinted.max() <= 106
    assert (tinted != tinted[..., :1]).any()
    white = np.full((50, 4, 4, 3), 255, dtype=np.uint8)
    lit = augment(white, config=with_only(brightness=0.5, tint=0.3), rng=np.random.default_rng(1))
    assert lit.max() == 255 and (lit[:, 0, 0].max(axis=1) == 255).sum() > 10  # clipped, not wrapped around


def test_the_same_generator_state_gives_the_same_photos():
    first, second = (augment(photos(), config=AugmentConfig(), rng=np.random.default_rng(4)) for _ in range(2))
    assert (first == second).all()
    other = augment(photos(), config=AugmentConfig(), rng=np.random.default_rng(5))
    assert (first != other).any()
