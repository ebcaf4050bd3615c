"""What towers read, and what they make of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Modalities(StrEnum):
    """What the item tower reads."""

    TITLE = "title"
    PHOTO = "photo"
    TITLE_PHOTO = "title+photo"

    @property
    def reads_title(self) -> bool:
        """Whether titles are read."""
        return self is not Modalities.PHOTO

    @property
    def reads_photo(self) -> bool:
        """Whether photos are read."""
        return self is not Modalities.TITLE


class View(StrEnum):
    """Which of an item's vectors is meant."""

    ITEM = "item"
    """The one that is searched: of title and photo together."""
    TITLE = "title"
    """Of the title alone."""
    PHOTO = "photo"
    """Of the photo alone."""
    WITHOUT_PHOTO = "item without photo"
    """As of the item, its photo hidden."""
    WITHOUT_TITLE = "item without title"
    """As of the item, its title hidden."""


class OtherPhotos(NamedTuple):
    """Further photos of a batch of items, in any order."""

    pixels: Tensor
    """uint8 RGB ``[batch, photos, px, px, 3]``, or features ``[batch, photos, tokens, model dim]``; of a photo that is
    not there, anything."""
    present: Tensor
    """bool ``[batch, photos]``."""

    def at(self, places: Tensor) -> OtherPhotos:
        """Take those of some items, int64 ``[n]``."""
        return OtherPhotos(self.pixels[places], self.present[places])


class ItemInputs(NamedTuple):
    """A batch of items. What an item lacks may hold anything: it is never looked at."""

    title_tokens: Tensor | None
    """int ``[batch, tokens]``, `PAD` after the end; None where no item of the batch has a title."""
    pixels: Tensor | None
    """uint8 RGB ``[batch, px, px, 3]``, or what a frozen vision model made of it, float ``[batch, tokens, model dim]``
    (`PhotoSlot.see`, `PhotoFeatures`); None where no item of the batch has a photo."""
    has_title: Tensor
    """bool ``[batch]``."""
    has_photo: Tensor
    """bool ``[batch]``."""
    others: OtherPhotos | None = None
    """Further photos, read only by an encoder of several `photos`, and only of items that have one at all."""
    hidden: Tensor | None = None
    """bool ``[batch, patches]``, patches that are blanked before anything looks at them; None: none."""

    drop_title: Tensor | None = None
    """bool ``[batch]``, items whose title is there and kept from their vector, to teach it to do without."""
    drop_photo: Tensor | None = None
    """bool ``[batch]``, likewise."""

    @property
    def reads_title(self) -> Tensor:
        """Bool ``[batch]``, whose title enters the vector."""
        return self.has_title if self.drop_title is None else self.has_title & ~self.drop_title

    @property
    def reads_photo(self) -> Tensor:
        """Bool ``[batch]``, whose photo enters the vector."""
        return self.has_photo if self.drop_photo is None else self.has_photo & ~self.drop_photo

    def at(self, places: Tensor) -> ItemInputs:
        """Take some of the items, int64 ``[n]``."""
        return ItemInputs(*(None if part is None else _taken(part, places) for part in self))

    def on(self, device: torch.device) -> ItemInputs:
        """Move them to a device."""
        parts = (None if part is None else _moved(part, device) for part in self)
        return ItemInputs(*parts)

    def only(self, view: View) -> ItemInputs:
        """Return the same items without their photos, or without their titles."""
        if view in (View.TITLE, View.WITHOUT_PHOTO):
            nobody = torch.zeros_like(self.has_photo)
            return self._replace(pixels=None, has_photo=nobody, others=None, hidden=None, drop_title=None)
        if view in (View.PHOTO, View.WITHOUT_TITLE):
            return self._replace(title_tokens=None, has_title=torch.zeros_like(self.has_title), drop_photo=None)
        return self


def _taken(part: Any, places: Tensor) -> Any:
    return part.at(places) if isinstance(part, OtherPhotos) else part[places]


def _moved(part: Any, device: torch.device) -> Any:
    return OtherPhotos(*(one.to(device) for one in part)) if isinstance(part, OtherPhotos) else part.to(device)


class Tokens(NamedTuple):
    """Token states of a batch, and which of them are there."""

    states: Tensor
    """``[batch, tokens, dim]``."""
    keep: Tensor
    """bool ``[batch, tokens]``, False where there is nothing to attend to."""


class QueryReading(NamedTuple):
    """What the query tower makes of a batch."""

    vectors: Tensor
    """``[batch, vector_dim]``, as `Encoder.encode_queries`."""
    tokens: Tokens
    """Of ``[CLS]`` and the words, in the places of the token ids that were read."""


class Places(NamedTuple):
    """Where in an item's tokens its modalities are."""

    title: slice | None
    """The states of ``title_tokens[:, 1:]``; None where no title was read."""
    patches: slice | None
    """Those of the photo's patches; None where no photo was read."""


class ItemReading(NamedTuple):
    """What the item tower makes of a batch."""

    vectors: Tensor
    """``[batch, vector_dim]``, as `Encoder.encode_items`."""
    tokens: Tokens
    """All token states, one that is always there first."""
    places: Places
    title_vectors: Tensor | None = None
    """``[batch, vector_dim]``, where the tower makes one of the title alone on the way."""
    photo_vectors: Tensor | None = None
    """``[batch, vector_dim]``, where the tower makes one of the photo alone on the way."""

    def sides(self, items: ItemInputs) -> dict[View, Tokens]:
        """Return the states of words (with what closes the title) and of patches, of what was read in the batch.

        Args:
            items: the batch; of an item that lacks a title or a photo, none of that side's states are there.
        """
        places = {View.TITLE: self.places.title, View.PHOTO: self.places.patches}
        there = {View.TITLE: items.has_title, View.PHOTO: items.has_photo}
        return {
            view: Tokens(self.tokens.states[:, place], self.tokens.keep[:, place] & there[view][:, None])
            for view, place in places.items()
            if place is not None
        }
