"""The one interface through which rankers read content: `target, behaviours -> vectors`.

A plug-in is given what the distinct items of a batch are made of, and where candidates and histories stand among them.
It says what a candidate is, what each step of a history is, and, if it likes, something of both together (such as a
histogram of similarities). Whatever in it has weights is trained by the ranking loss; losses of its own are `terms`.
Any model of `ranker.models` runs with any plug-in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from triptych.encoders.base import Encoder
from triptych.encoders.inputs import ItemInputs
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError
from triptych.losses.base import LossOutput
from triptych.nn.query_former import ModalityTokens
from triptych.nn.target_attention import Steps
from triptych.ranker.inputs import Shown


class Asked(NamedTuple):
    """What a plug-in is given: some distinct items, and who asks for them."""

    content: tuple[ModalityTokens, ...]
    """Of each modality ``[items, tokens, token_dim]``; none where the plug-in reads none."""
    item_rows: Tensor
    """int64 ``[items]``, of the catalogue."""
    id_rows: Tensor
    """int64 ``[items]``, of the model's table of items; 0 for an item that it does not know."""
    id_vectors: Tensor
    """float32 ``[items, id_dim]``, of that table, with their gradient."""
    target: Tensor
    """int64 ``[n]``, the place of each candidate."""
    steps: Tensor
    """int64 ``[n, longest]``, places of what was chosen before, -1 behind the end."""
    looks: ItemInputs | None = None
    """Titles and photos of the items in the place of `content`, for a plug-in that encodes them itself; None: not."""

    @property
    def shown(self) -> Shown:
        """What the items are made of."""
        return Shown(self.content, self.looks)


class Described(NamedTuple):
    """What a plug-in says."""

    target: Tensor
    """float32 ``[n, dim]``, of the candidate."""
    steps: Steps
    """Of what was chosen before, ``dim`` long."""
    pair: Tensor
    """float32 ``[n, pair_dim]``, of both together."""


class Term(NamedTuple):
    """A loss that a plug-in works out itself."""

    weight: float
    """In the total."""
    loss: LossOutput


class ContentConfig(Config):
    """Base of every plug-in's config."""

    kind: str
    """Name of the file that defines it."""

    @property
    def reads_modalities(self) -> bool:
        """Whether it reads what items are made of; as it stands, it does."""
        return True

    @property
    def reads_codes(self) -> bool:
        """Whether that is items' semantic IDs and no vectors; as it stands, it is not."""
        return False

    @property
    def fuses_modalities(self) -> bool:
        """Whether it makes one vector of several modalities itself, and so is given each; as it stands, it does not."""
        return False

    @property
    def reads_states(self) -> bool:
        """Whether title and photo are the encoder's states of words and patches, and no vectors; as it stands, not."""
        return False

    @property
    def trains_encoder(self) -> bool:
        """Whether it trains the encoder of titles and photos, and so is given one; as it stands, it does not."""
        return False

    @abstractmethod
    def build(self, modalities: Mapping[str, int], *, id_dim: int, catalogue_items: int) -> ContentModule:
        """Make the plug-in with new weights.

        Args:
            modalities: name → length of a token; empty where it reads none.
            id_dim: length of an item's vector by ID.
            catalogue_items: items of the catalogue, for one that keeps something of each.

        Raises:
            ConfigError: it cannot be made of these.
        """


class ItemSide(nn.Module, ABC):
    """What a plug-in works out of each item by itself, before anybody asks for it.

    The other side of it is `ContentModule.describe`, which is all that is left to be done when somebody does. Weights
    are those of answers: low-rank factors are added in.
    """

    names: tuple[str, ...]
    """Of what it works out, in its order."""

    @abstractmethod
    def forward(self, content: Sequence[ModalityTokens]) -> tuple[Tensor, ...]:
        """Return float32 ``[items, ...]`` of each name; arguments as of `Asked.content`."""


class ContentModule(nn.Module, ABC):
    """Describes candidates and histories by content."""

    dim: int
    """Length of a vector; 0: it has none."""
    pair_dim: int
    """Length of what is said of both together; 0: nothing is."""

    @abstractmethod
    def forward(self, asked: Asked) -> Described:
        """Describe candidates and histories."""

    @property
    def has_item_side(self) -> bool:
        """Whether `item_side` says what is worked out before a request; else it is all worked out in each."""
        return type(self).item_side is not ContentModule.item_side

    def item_side(self) -> ItemSide | None:
        """Return what it works out of items by themselves, in evaluation mode; None where it reads nothing of them.

        Raises:
            ConfigError: it cannot be taken apart like that.
        """
        raise ConfigError(
            f"content: {type(self).__name__} does not say what of an item is worked out before a request, so it cannot "
            "be exported. Give it item_side and describe."
        )

    def describe(self, items: Sequence[Tensor], *, target: Tensor, steps: Tensor) -> Described:
        """Describe candidates and histories by what `item_side` has worked out; `forward` says the same.

        Args:
            items: of some distinct items.
            target: int64 ``[n]``, as of `Asked`.
            steps: int64 ``[n, longest]``, likewise.
        """
        raise NotImplementedError(f"{type(self).__name__} has no item_side")

    def encode_by(self, encoder: Encoder, *, seed: int) -> None:
        """Take an encoder, to be trained as a part of it: items are then shown by their titles and photos.

        Args:
            encoder: whose vectors (`encoders.inputs.View`) are the modalities that it was built for; title and photo
                its states of words and patches, where `ContentConfig.reads_states`.
            seed: of new weights beside it.
        """
        raise NotImplementedError(f"{type(self).__name__} trains no encoder; see ContentConfig.trains_encoder")

    def learns_for(self, steps: int) -> None:
        """Be told how many steps its training has, before the first; as it stands, that does not matter."""

    def rate_factors(self) -> Mapping[str, float]:
        """Return the beginning of weights' names → their share of the learning rate; as it stands, all have 1."""
        return {}

    def terms(self, asked: Asked, described: Described) -> Sequence[Term]:
        """Return its own losses on what it has just described, in training; as it stands, none."""
        return ()

    def report(self, shown: Callable[[Tensor], Shown]) -> Mapping[str, float]:
        """Return what training's log tells of it beside validation's figures; as it stands, nothing.

        Args:
            shown: gathers what items of the catalogue are made of, by rows, int64 ``[n]``, on the module's device.
        """
        return {}

    def count_candidates(self, counts: Tensor) -> None:
        """Be told, before training, how often each item is a candidate; as it stands, it does not care.

        Args:
            counts: float32 ``[catalogue_items]``, in how many samples of an epoch, in expectation.
        """

    def settle(self) -> None:
        """Come to where the midst of a training has it, to be timed and thrown away; as it stands, it is there."""

    def unsaved(self) -> Sequence[str]:
        """Return how the names begin of what training alone needs; as it stands, nothing does."""
        return ()
