"""What rankers are given: features of distinct items, of requests, and which candidate is whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from triptych.encoders.inputs import ItemInputs
from triptych.nn.bags import PaddedRows, TableBags
from triptych.nn.query_former import ModalityTokens


class Sizes(NamedTuple):
    """What a model's shape depends on beside its config. Row 0 of every table stands for what is not known."""

    item_fields: Mapping[str, int]
    """Categorical features of items: name → rows of its table. The first one is the item itself."""
    item_lists: Mapping[str, int]
    """Multi-valued ones."""
    item_numbers: Sequence[str]
    """Numeric ones."""
    request_fields: Mapping[str, int]
    """Categorical features of requests, the user among them."""
    request_lists: Mapping[str, int]
    """Multi-valued ones."""
    sample_numbers: Sequence[str]
    """Numeric features of a candidate at a moment."""
    gap_rows: int
    """Rows of the table of times between a choice and the request."""
    kind_rows: int
    """Rows of the table of kinds of choices."""
    modalities: Mapping[str, int]
    """What items are made of: name → length of a token; without any where no plug-in reads them."""
    catalogue_items: int = 0
    """Items of the catalogue, for plug-ins that keep something of each."""


class Shown(NamedTuple):
    """What some distinct items are made of, as a plug-in is given it."""

    content: tuple[ModalityTokens, ...] = ()
    """Tokens of each modality, as ``Sizes.modalities`` names them; none where nobody reads any."""
    looks: ItemInputs | None = None
    """Titles and photos, in the place of tokens, for a plug-in that trains the encoder of them; None: tokens."""

    def at(self, places: Tensor) -> Shown:
        """Take some of them, int64 ``[n]``."""
        content = (
            ModalityTokens(one.tokens[places], None if one.keep is None else one.keep[places]) for one in self.content
        )
        return Shown(tuple(content), None if self.looks is None else self.looks.at(places))


class ItemFeatures(NamedTuple):
    """What is known of some distinct items, each once, whether it is a candidate, in a history, or both."""

    item_rows: Tensor
    """int64 ``[items]``, of the catalogue."""
    fields: Tensor
    """int64 ``[items, fields]``, rows of each field's table."""
    lists: tuple[TableBags | PaddedRows, ...]
    """Of each list ``[items]`` bags of rows of its table; side by side in an exported graph."""
    numbers: Tensor
    """float32 ``[items, 2 · numbers]``: values in [-1, 1] (`features.Quantiles`), 0 where there is none; then which of
    them are there."""
    content: tuple[ModalityTokens, ...]
    """Tokens of each modality, as ``Sizes.modalities`` names them."""
    looks: ItemInputs | None = None
    """Titles and photos in their place; see `Shown`."""


class RequestFeatures(NamedTuple):
    """What is known of some requests."""

    fields: Tensor
    """int64 ``[requests, fields]``."""
    lists: tuple[TableBags | PaddedRows, ...]
    """Of each list ``[requests]`` bags."""
    steps: Tensor
    """int64 ``[requests, longest]``, what the user had chosen before, as places among the items, oldest first, -1
    behind the end."""
    gaps: Tensor
    """int64 ``[requests, longest]``, rows of the table of times between choice and request; 0 behind the end."""
    kinds: Tensor
    """int64 ``[requests, longest]``, rows of the table of kinds; 0 behind the end."""


class Candidates(NamedTuple):
    """What is to be scored."""

    items: ItemFeatures
    requests: RequestFeatures
    request: Tensor
    """int64 ``[n]``, the request of each candidate."""
    target: Tensor
    """int64 ``[n]``, its place among the items."""
    numbers: Tensor
    """float32 ``[n, 2 · numbers]``, as of `ItemFeatures`."""


Given = TypeVar("Given", Candidates, Shown)


def on_device(given: Given, device: torch.device) -> Given:
    """Move candidates, or what items are made of, to a device."""

    def moved(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return part.to(device)
        if isinstance(part, tuple):
            parts = [moved(one) for one in part]
            return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
        return part

    found: Given = moved(given)
    return found
