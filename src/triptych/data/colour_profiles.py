"""Embedded colour profiles: from the colours that a file means to sRGB, which screens show and models are trained on.

Decided: profiles are applied. Phones save Display P3, cameras Adobe RGB, printers CMYK; with their numbers taken for
sRGB, one red is three different ones, and CMYK is far off. It costs next to nothing: most photos have no profile, most
profiles are sRGB (recognised by what they do, and skipped), the rest is applied to the few pixels that are left after
resizing, and what a profile does is worked out once for all photos that carry it. What cannot be read is passed over,
as browsers do: a photo is not lost for its profile.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

MAX_BYTES = 4 * 2**20
"""Larger profiles are passed over: the largest in use, of printing presses, have three million bytes."""
UNSEEN = 3
"""Differences of up to so many of 256 levels are taken for rounding."""
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_GREYS = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")


class Profile(NamedTuple):
    """What a profile makes of colours."""

    mode: str
    """Pillow mode of the colours that it is for: RGB, L or CMYK."""
    transform: ImageCms.ImageCmsTransform

    def fits(self, mode: str) -> bool:
        """Say whether it is of the kind that a photo of a Pillow mode needs."""
        if self.mode == "RGB":  # grey can be written in any RGB
            return mode != "CMYK"
        return mode == "CMYK" if self.mode == "CMYK" else mode in _GREYS

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """Return an image, of this profile's mode once converted, in sRGB."""
        converted = ImageCms.applyTransform(image.convert(self.mode), self.transform)
        assert converted is not None, "it is None only where the image itself is changed"
        return converted


def read_profile(image: Image.Image) -> Profile | None:
    """Return the profile of an opened photo; None where it has none, or one that changes nothing or is unusable."""
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not 0 < len(data) <= MAX_BYTES:
        return None
    profile = _parsed(data)
    return profile if profile is not None and profile.fits(image.mode) else None


@lru_cache(maxsize=16)  # a shop's photos carry few, and each may have megabytes
def _parsed(data: bytes) -> Profile | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _MODES.get(opened.profile.xcolor_space)
        if mode is None:
            return None
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
        profile = Profile(mode, transform)
        return profile if _changes_colours(profile) else None
    except Exception:  # damaged, of another kind (a link, a named colour), or a Pillow built without LittleCMS
        return None


def _changes_colours(profile: Profile) -> bool:
    if profile.mode == "CMYK":
        return True
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    colours = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3) if profile.mode == "L" else cube
    seen = np.asarray(profile.to_srgb(Image.fromarray(colours)))
    return bool(np.abs(seen.astype(np.int16) - colours).max() > UNSEEN)
