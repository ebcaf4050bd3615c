"""Two towers with shared weights: query text on one side, title and photo in one stream on the other.

::

    query   [CLS] q1 q2 … [SEP]                          ──► transformer ─► mean of words  ─► W_query ─► L2 ─► vector
    item    [CLS] t1 t2 … [SEP] | patch 1 … patch 16     ──► (the same)  ─► mean of states ─► W_item  ─► L2 ─► vector

Title and patches attend to each other from the first layer. A type vector tells query, title and patch apart. Where an
item has no title or no photo, one learned token stands in that modality's place, so a photo alone is a query and a
title alone is an item. With `photos` above 1, four tokens pooled from an item's further photos follow the patches of
its own. Word vectors and stem are slots: a pretrained text or vision model may stand there (`encoders.slots`).

Source: the Taobao pre-training model (query tower, single-stream item tower, shared encoder). Changed: it exports the
state of [CLS] (``export = 'projected'``), which learns slowly where nothing is pretrained (docs/decisions/0016).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from triptych.data.text import PAD
from triptych.encoders.base import Encoder, EncoderConfig, Export, unit
from triptych.encoders.image import POOLED_TOKENS, PhotoPool
from triptych.encoders.inputs import ItemInputs, ItemReading, Places, QueryReading, Tokens, View
from triptych.encoders.slots import NO_MODELS, Models
from triptych.encoders.text import WORD_INIT_STD
from triptych.nn.pooling import masked_mean
from triptych.nn.transformer import Transformer


class TwoTowerConfig(EncoderConfig):
    """Size and inputs of the two-tower encoder."""

    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("text.", "missing_title"),
        "photo": ("patches.", "missing_photo", "pool."),
        "body": ("types", "input_norm.", "transformer."),
        "query_head": ("query_projection.",),
        "item_head": ("item_projection.",),
    }

    kind: Literal["two_tower"] = "two_tower"
    """Title and patches in one stream, the transformer shared by both towers."""
    layers: int = Field(3, ge=1, le=48)
    """Transformer blocks, shared by both towers."""
    export: Export = Export.PROJECTED_MEAN
    """Which vector stands for a query or an item: projected-mean (the mean of words and patches through a linear map),
    projected ([CLS] through it), mean, cls, mean-with-padding."""
    normalize: bool = True
    """Whether vectors are scaled to length 1, in training and after it."""

    def build(self, *, vocab_size: int, models: Models = NO_MODELS) -> TwoTowerEncoder:
        """Make the encoder; see `EncoderConfig.build`."""
        return TwoTowerEncoder(self, vocab_size=vocab_size, models=models)


CONFIG = TwoTowerConfig


class _Type(IntEnum):
    QUERY = 0
    TITLE = 1
    PATCH = 2


class _Laid(NamedTuple):
    """A batch laid out for the transformer."""

    tokens: Tokens
    content: Tensor
    """bool ``[batch, tokens]``, words and patches."""
    places: Places


class TwoTowerEncoder(Encoder):
    """Encode queries and items by one transformer, each through a map of its own."""

    config: TwoTowerConfig

    def __init__(self, config: TwoTowerConfig, *, vocab_size: int, models: Models = NO_MODELS) -> None:
        """Make the layers, drawing weights from torch's global generator; see `EncoderConfig.build`."""
        super().__init__(config, vocab_size=vocab_size, models=models)
        dim = config.dim
        self.export = config.export
        """May be changed after training: what is exported need not be what was trained."""
        self.types = nn.Parameter(torch.empty(len(_Type), dim))
        self.missing_title = nn.Parameter(torch.empty(dim)) if config.modalities.reads_title else None
        self.missing_photo = nn.Parameter(torch.empty(dim)) if config.modalities.reads_photo else None
        for vectors in (self.types, self.missing_title, self.missing_photo):
            if vectors is not None:
                nn.init.normal_(vectors, std=WORD_INIT_STD)
        self.input_norm = nn.LayerNorm(dim)
        self.transformer = Transformer(dim, layers=config.layers, heads=config.heads)
        self.query_projection = nn.Linear(dim, config.vector_dim, bias=False)
        self.item_projection = nn.Linear(dim, config.vector_dim, bias=False)
        # Both begin as one orthogonal map, so that a query is near the titles that share its words before anything is
        # learned; drawn apart, they cost a third of the recall of a short training (docs/decisions/0016).
        nn.init.orthogonal_(self.query_projection.weight)
        self.item_projection.load_state_dict(self.query_projection.state_dict())
        several = config.photos > 1 and config.modalities.reads_photo
        self.pool = PhotoPool(dim) if several else None  # last: what is drawn before it is as without

    @property
    def vector_dim(self) -> int:
        """Length of a vector, by what is exported."""
        projected = self.export in (Export.PROJECTED, Export.PROJECTED_MEAN)
        return self.config.vector_dim if projected else self.config.dim

    def encode_queries(self, tokens: Tensor) -> Tensor:
        """Encode query texts."""
        laid = self._lay_queries(tokens)
        return self._vectors(self._states(laid), laid, self.query_projection)

    def encode_items(self, items: ItemInputs, *, view: View = View.ITEM) -> Tensor:
        """Encode items; the vector of one modality alone is that of an item without the other."""
        laid = self._lay_items(items.only(view))
        return self._vectors(self._states(laid), laid, self.item_projection)

    def read_queries(self, tokens: Tensor) -> QueryReading:
        """Encode query texts, keeping all states."""
        laid = self._lay_queries(tokens)
        states = self.transformer(laid.tokens.states, keep=laid.tokens.keep)
        vectors = self._vectors(states, laid, self.query_projection)
        return QueryReading(vectors, _leading(Tokens(states, laid.tokens.keep), tokens.shape[1]))

    def read_items(self, items: ItemInputs) -> ItemReading:
        """Encode items, keeping all states."""
        laid = self._lay_items(items)
        states = self.transformer(laid.tokens.states, keep=laid.tokens.keep)
        return ItemReading(
            vectors=self._vectors(states, laid, self.item_projection),
            tokens=Tokens(states, laid.tokens.keep),
            places=laid.places,
        )

    def embed_queries(self, tokens: Tensor) -> Tokens:
        """Return what the transformer is given of queries: for a single stream of query and item."""
        return _leading(self._lay_queries(tokens).tokens, tokens.shape[1])

    def embed_items(self, items: ItemInputs) -> tuple[Tokens, Places]:
        """Return what the transformer is given of items: for a single stream of query and item."""
        laid = self._lay_items(items)
        return laid.tokens, laid.places

    def _states(self, laid: _Laid) -> Tensor:
        """Run the transformer, the last block only for what is exported."""
        read = 1 if self.export in (Export.PROJECTED, Export.CLS) else None
        return self.transformer(laid.tokens.states, keep=laid.tokens.keep, read=read)

    def _vectors(self, states: Tensor, laid: _Laid, project: nn.Linear) -> Tensor:
        match self.export:
            case Export.PROJECTED:
                found = project(states[:, 0])
            case Export.CLS:
                found = states[:, 0]
            case Export.PROJECTED_MEAN:
                found = project(masked_mean(states, laid.content))
            case Export.MEAN:
                found = masked_mean(states, laid.content)
            case Export.MEAN_WITH_PADDING:
                found = states.float().mean(dim=1)
        return unit(found) if self.config.normalize else found.float()

    def _lay_queries(self, tokens: Tensor) -> _Laid:
        if self.export is Export.MEAN_WITH_PADDING:
            tokens = functional.pad(tokens, (0, self.config.max_query_tokens - tokens.shape[1]), value=PAD)
        read = self.text(tokens)
        tokens = Tokens(self.input_norm(read.states + self.types[_Type.QUERY]), read.keep)
        return _Laid(tokens, read.words, Places(None, None))

    def _lay_items(self, items: ItemInputs) -> _Laid:
        """Lay out ``[CLS] title | patches``."""
        cls = (self.text.cls() + self.types[_Type.TITLE]).expand(len(items.has_title), 1, -1)
        row = _Row(cls, items.has_title)
        in_title = self._append_title(row, items)
        in_photo = self._append_photos(row, items)
        states, keep, content = row.joined()
        return _Laid(Tokens(self.input_norm(states), keep), content, Places(in_title, in_photo))

    def _append_title(self, row: _Row, items: ItemInputs) -> slice | None:
        if self.missing_title is None:
            return None
        tokens = items.title_tokens
        num_read = 0 if tokens is None else tokens.shape[1] - 1
        if self.export is Export.MEAN_WITH_PADDING:
            if tokens is None:
                tokens = torch.zeros(len(items.has_title), 1, dtype=torch.int32, device=items.has_title.device)
            tokens = functional.pad(tokens, (0, self.config.max_title_tokens - tokens.shape[1]), value=PAD)
        title = inside = words = None
        if tokens is not None and tokens.shape[1] > 1:
            read = self.text(tokens)
            title = (read.states + self.types[_Type.TITLE])[:, 1:]
            inside, words = read.keep[:, 1:], read.words[:, 1:]
            num_read = min(num_read, title.shape[1])  # a pretrained model's pooled text is one state
        start = row.append(title, inside, present=items.reads_title, missing=self.missing_title, content=words)
        return slice(start, start + num_read) if num_read else None

    def _append_photos(self, row: _Row, items: ItemInputs) -> slice | None:
        if self.missing_photo is None or self.patches is None:
            return None
        batch, num_patches, dim = len(items.has_photo), self.patches.num_patches, self.config.dim
        padded = self.export is Export.MEAN_WITH_PADDING
        patch = inside = None
        if items.pixels is not None:
            patch = self.patches(items.pixels, hidden=items.hidden) + self.types[_Type.PATCH]
        elif padded:
            patch = self.missing_photo.new_zeros(batch, num_patches, dim)
        if patch is not None:
            inside = items.has_photo.new_ones(batch, num_patches)
        start = row.append(patch, inside, present=items.reads_photo, missing=self.missing_photo)
        if self.pool is not None and items.others is not None:
            pixels, present = items.others.pixels, items.others.present & items.reads_photo[:, None]
            other = self.patches(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
            row.append_pooled(self.pool(other, present=present), present=present.any(dim=1, keepdim=True))
        elif self.pool is not None and padded:
            nothing = self.missing_photo.new_zeros(batch, POOLED_TOKENS, dim)
            row.append_pooled(nothing, present=torch.zeros_like(items.has_photo)[:, None])
        return None if items.pixels is None else slice(start, start + num_patches)


def _leading(tokens: Tokens, count: int) -> Tokens:
    """Take the first tokens: without what a mean over padding has added."""
    return Tokens(tokens.states[:, :count], tokens.keep[:, :count])


class _Row:
    """An item's tokens, modality by modality."""

    def __init__(self, cls: Tensor, has_title: Tensor) -> None:
        """Begin with the state of [CLS], ``[batch, 1, dim]``."""
        self._states = [cls]
        self._keeps = [torch.ones_like(has_title)[:, None]]
        self._contents = [torch.zeros_like(has_title)[:, None]]

    def append(
        self,
        tokens: Tensor | None,
        inside: Tensor | None,
        *,
        present: Tensor,
        missing: Tensor,
        content: Tensor | None = None,
    ) -> int:
        """Append one modality's tokens; where an item lacks it, the `missing` token in the first place and no more.

        Args:
            tokens: ``[batch, tokens, dim]``; None where no item has it.
            inside: bool ``[batch, tokens]``, False at padding; None with `tokens`.
            present: bool ``[batch]``, which items have the modality.
            missing: ``[dim]``, the learned token.
            content: bool ``[batch, tokens]``, which of them are more than marks; None: all that are inside.

        Returns:
            The place of the first of them.
        """
        start = sum(states.shape[1] for states in self._states)
        if tokens is None or inside is None:
            self._states.append(missing.expand(present.shape[0], 1, -1))
            self._keeps.append(torch.ones_like(present)[:, None])
            self._contents.append(torch.zeros_like(present)[:, None])
            return start
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        self._states.append(torch.where(present[:, None, None], tokens, missing))
        self._keeps.append(torch.where(present[:, None], inside, first))
        self._contents.append(present[:, None] & (inside if content is None else content))
        return start

    def append_pooled(self, tokens: Tensor, *, present: Tensor) -> None:
        """Append tokens pooled from further photos; present: bool ``[batch, 1]``."""
        self._states.append(torch.where(present[:, :, None], tokens, 0.0))
        self._keeps.append(present.expand(-1, tokens.shape[1]))
        self._contents.append(self._keeps[-1])

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return states, keep and content, ``[batch, tokens]`` each, the first ``[batch, tokens, dim]``."""
        return torch.cat(self._states, dim=1), torch.cat(self._keeps, dim=1), torch.cat(self._contents, dim=1)
