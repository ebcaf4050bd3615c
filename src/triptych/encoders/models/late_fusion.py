"""Two towers whose item side reads title and photo apart and joins them at the end.

::

    query   [CLS] q1 q2 … [SEP] ─► text transformer ─► mean ─► query head ─► query vector
    title   [CLS] t1 t2 … [SEP] ─► (the same)       ─► mean ─┬► title head ─► title vector
    photo   patch 1 … patch 16  ─► photo transformer ─► mean ─┼► photo head ─► photo vector
                                                              └─► fusion ─► item vector

Title, photo and query have vectors of their own in one space, so that any two of them can be contrasted and any part
can be trained while another is frozen. A missing title or photo is one learned token of the fusion.

Source: SMGR (Meituan, 2602.06654), whose encoders and fusion are not public: the shape is that of the reconstruction
(Que2Search-like, late fusion); ours reads pixels by patches of its own where no pretrained model is in the slot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.encoders.base import Encoder, EncoderConfig, unit
from triptych.encoders.inputs import ItemInputs, ItemReading, Places, QueryReading, Tokens, View
from triptych.encoders.slots import NO_MODELS, Models
from triptych.encoders.text import WORD_INIT_STD
from triptych.nn.pooling import masked_mean
from triptych.nn.transformer import Transformer


class Fusion(StrEnum):
    """How title and photo become one vector."""

    TRANSFORMER = "transformer"
    """A transformer over a learned token, the title's state and the photo's."""
    GATED = "gated"
    """The sum of title and photo vector, weighted by a softmax that looks at both (Que2Search)."""
    CONCAT = "concat"
    """Both states side by side through a head of their own."""


class LateFusionConfig(EncoderConfig):
    """Size and inputs of the late-fusion encoder."""

    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("text.", "text_types", "text_norm.", "text_transformer."),
        "photo": ("patches.", "photo_norm.", "photo_transformer."),
        "query_head": ("query_head.",),
        "title_head": ("title_head.",),
        "photo_head": ("photo_head.",),
        "fusion": ("fusion.",),
    }

    kind: Literal["late_fusion"] = "late_fusion"
    """Title and photo each by a transformer of its own, their vectors joined at the end."""
    text_layers: int = Field(3, ge=0, le=48)
    """Transformer blocks over words, shared by queries and titles."""
    photo_layers: int = Field(2, ge=0, le=48)
    """Transformer blocks over patches; 0 where a pretrained vision model does that work."""
    fusion: Fusion = Fusion.TRANSFORMER
    """How title and photo become one vector: transformer, gated (weighted sum), concat."""
    fusion_layers: int = Field(2, ge=1, le=12)
    """Transformer blocks of the fusion, with fusion = transformer."""

    def build(self, *, vocab_size: int, models: Models = NO_MODELS) -> LateFusionEncoder:
        """Make the encoder; see `EncoderConfig.build`."""
        return LateFusionEncoder(self, vocab_size=vocab_size, models=models)

    @model_validator(mode="after")
    def _one_photo(self) -> Self:
        if self.photos > 1:
            raise ValueError("photos: late_fusion reads one photo per item. Set photos = 1, or kind = 'two_tower'.")
        return self


CONFIG = LateFusionConfig


class _Read(NamedTuple):
    """One modality of a batch."""

    tokens: Tokens
    pooled: Tensor
    """float32 ``[batch, dim]``."""


class _Both(NamedTuple):
    """Title and photo of a batch, each read by itself."""

    title: _Read | None
    photo: _Read | None
    states: Tensor
    """float32 ``[batch, 2, dim]``, pooled; of what is not there, anything."""
    vectors: list[Tensor]
    """Two of float32 ``[batch, vector_dim]``."""
    there: Tensor
    """bool ``[batch, 2]``."""


SHOWN = {View.ITEM: (True, True), View.WITHOUT_PHOTO: (True, False), View.WITHOUT_TITLE: (False, True)}
"""Which of title and photo an item's vector is made of."""


class LateFusionEncoder(Encoder):
    """Encode queries, titles, photos and items into one space."""

    GIVES_VIEWS: ClassVar[bool] = True
    config: LateFusionConfig

    def __init__(self, config: LateFusionConfig, *, vocab_size: int, models: Models = NO_MODELS) -> None:
        """Make the layers, drawing weights from torch's global generator; see `EncoderConfig.build`."""
        super().__init__(config, vocab_size=vocab_size, models=models)
        dim = config.dim
        self.text_types = nn.Parameter(torch.empty(2, dim))  # query, title
        nn.init.normal_(self.text_types, std=WORD_INIT_STD)
        self.text_norm = nn.LayerNorm(dim)
        self.text_transformer = Transformer(dim, layers=config.text_layers, heads=config.heads)
        if self.patches is not None:
            self.photo_norm = nn.LayerNorm(dim)
            self.photo_transformer = Transformer(dim, layers=config.photo_layers, heads=config.heads)
        self.query_head = Head(dim, config.vector_dim)
        self.title_head = Head(dim, config.vector_dim)
        self.photo_head = Head(dim, config.vector_dim)
        self.fusion = {Fusion.TRANSFORMER: _Transformed, Fusion.GATED: _Gated, Fusion.CONCAT: _Concatenated}[
            config.fusion
        ](config)
        # All begin as one head, so that a query is near the titles that share its words before anything is learned
        # (docs/decisions/0016).
        for head in (self.title_head, self.photo_head, *self.fusion.heads()):
            head.load_state_dict(self.query_head.state_dict())

    def encode_queries(self, tokens: Tensor) -> Tensor:
        """Encode query texts."""
        return self.read_queries(tokens).vectors

    def encode_items(self, items: ItemInputs, *, view: View = View.ITEM) -> Tensor:
        """Encode items, or their titles or photos alone.

        The vector of a title or a photo that is not there is finite and means nothing.
        """
        return self.encode_views(items.only(view), views=(view,))[view]

    def encode_views(self, items: ItemInputs, *, views: Collection[View]) -> dict[View, Tensor]:
        """Encode several vectors of each item, reading title and photo once."""
        read = self._read(items)
        used = read.there & torch.stack([items.reads_title, items.reads_photo], dim=1)
        made: dict[View, Callable[[], Tensor]] = {
            View.TITLE: lambda: read.vectors[0],
            View.PHOTO: lambda: read.vectors[1],
        }
        for view, shown in SHOWN.items():
            made[view] = partial(self._fused, read, used=used & used.new_tensor(shown))
        return {view: made[view]() for view in views}

    def read_queries(self, tokens: Tensor) -> QueryReading:
        """Encode query texts, keeping all states."""
        read = self._read_text(tokens, role=0)
        return QueryReading(unit(self.query_head(read.pooled)), read.tokens)

    def read_items(self, items: ItemInputs) -> ItemReading:
        """Encode items, keeping all states."""
        read = self._read(items)
        used = read.there & torch.stack([items.reads_title, items.reads_photo], dim=1)
        both = (read.title, read.photo)
        parts = [one.tokens for one in both if one is not None]
        keeps = [one.tokens.keep & has[:, None] for one, has in zip(both, read.there.T, strict=True) if one]
        return ItemReading(
            vectors=self._fused(read, used=used),
            tokens=self._joined(parts, keeps, batch=len(used)),
            places=_places(read.title, read.photo),
            title_vectors=read.vectors[0],
            photo_vectors=read.vectors[1],
        )

    def _read(self, items: ItemInputs) -> _Both:
        """Read title and photo, each by itself."""
        title = photo = None
        if items.title_tokens is not None and self.config.modalities.reads_title:
            title = self._read_text(items.title_tokens, role=1)
        if items.pixels is not None and self.patches is not None:
            photo = self._read_photo(items)
        nothing = self.text_types.new_zeros(len(items.has_title), self.config.dim, dtype=torch.float32)
        states = [nothing if one is None else one.pooled for one in (title, photo)]
        vectors = [unit(head(state)) for head, state in zip((self.title_head, self.photo_head), states, strict=True)]
        there = [items.has_title & (title is not None), items.has_photo & (photo is not None)]
        return _Both(title, photo, torch.stack(states, dim=1), vectors, torch.stack(there, dim=1))

    def _fused(self, read: _Both, *, used: Tensor) -> Tensor:
        """Join title and photo, as far as they are `used`, bool ``[batch, 2]``."""
        return unit(self.fusion(read.states, vectors=torch.stack(read.vectors, dim=1), used=used))

    def _read_text(self, tokens: Tensor, *, role: int) -> _Read:
        read = self.text(tokens)
        # Where there is no text, not even [CLS], there is something to attend to all the same: else all were NaN.
        keep = torch.cat([torch.ones_like(read.keep[:, :1]), read.keep[:, 1:]], dim=1)
        states = self.text_transformer(self.text_norm(read.states + self.text_types[role]), keep=keep)
        return _Read(Tokens(states, keep), masked_mean(states, read.words))

    def _read_photo(self, items: ItemInputs) -> _Read:
        assert self.patches is not None
        states = self.photo_transformer(self.photo_norm(self.patches(items.pixels, hidden=items.hidden)))
        keep = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return _Read(Tokens(states, keep), states.float().mean(dim=1))

    def _joined(self, parts: list[Tokens], keeps: list[Tensor], *, batch: int) -> Tokens:
        """Put the states of title and photo side by side, behind one that is always there."""
        first = self.fusion.token.expand(batch, 1, -1)
        states = [first, *(part.states for part in parts)]
        there = torch.ones(batch, 1, dtype=torch.bool, device=first.device)
        return Tokens(torch.cat([s.to(states[-1].dtype) for s in states], dim=1), torch.cat([there, *keeps], dim=1))


def _places(title: _Read | None, photo: _Read | None) -> Places:
    """Find title and patches behind the token that is always there; the title's own [CLS] comes before its words."""
    num_title = 0 if title is None else title.tokens.states.shape[1]
    num_patches = 0 if photo is None else photo.tokens.states.shape[1]
    start = 1 + num_title
    return Places(slice(2, start) if num_title else None, slice(start, start + num_patches) if num_patches else None)


class Head(nn.Sequential):
    """Linear, GELU, Linear, LayerNorm: ``[batch, dim]`` → ``[batch, out_dim]``."""

    def __init__(self, dim: int, out_dim: int) -> None:
        """Make the layers."""
        super().__init__(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out_dim), nn.LayerNorm(out_dim))


class _Fusion(nn.Module, ABC):
    """What all fusions have: one learned token, and one each for a title and a photo that are not there."""

    def __init__(self, config: LateFusionConfig) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(config.dim))
        self.missing = nn.Parameter(torch.empty(2, config.dim))
        for vectors in (self.token, self.missing):
            nn.init.normal_(vectors, std=WORD_INIT_STD)

    @abstractmethod
    def forward(self, pooled: Tensor, *, vectors: Tensor, used: Tensor) -> Tensor:
        """Fuse.

        Args:
            pooled: ``[batch, 2, dim]``, states of title and photo; of what is not used, anything.
            vectors: ``[batch, 2, vector_dim]``, their vectors.
            used: bool ``[batch, 2]``.

        Returns:
            ``[batch, vector_dim]``.
        """

    def heads(self) -> Sequence[Head]:
        """Return the heads that make a vector of one state."""
        return ()

    def _filled(self, pooled: Tensor, used: Tensor) -> Tensor:
        return torch.where(used[:, :, None], pooled, self.missing.to(pooled.dtype))


class _Transformed(_Fusion):
    def __init__(self, config: LateFusionConfig) -> None:
        super().__init__(config)
        self.transformer = Transformer(config.dim, layers=config.fusion_layers, heads=config.heads)
        self.kinds = nn.Parameter(torch.empty(2, config.dim))
        nn.init.normal_(self.kinds, std=WORD_INIT_STD)
        self.head = Head(config.dim, config.vector_dim)

    def heads(self) -> Sequence[Head]:
        return (self.head,)

    def forward(self, pooled: Tensor, *, vectors: Tensor, used: Tensor) -> Tensor:
        del vectors
        row = self._filled(pooled, used) + self.kinds
        row = torch.cat([self.token.expand(len(row), 1, -1).to(row.dtype), row], dim=1)
        return self.head(self.transformer(row, read=1)[:, 0])


class _Gated(_Fusion):
    def __init__(self, config: LateFusionConfig) -> None:
        super().__init__(config)
        self.gate = nn.Sequential(nn.Linear(2 * config.dim, config.dim), nn.GELU(), nn.Linear(config.dim, 2))
        self.neither = nn.Parameter(torch.empty(config.vector_dim))
        nn.init.normal_(self.neither, std=WORD_INIT_STD)

    def forward(self, pooled: Tensor, *, vectors: Tensor, used: Tensor) -> Tensor:
        weights = self.gate(self._filled(pooled, used).flatten(1)).float()
        neither = ~used.any(dim=1, keepdim=True)  # a softmax needs something, if only to be thrown away
        weights = weights.masked_fill(~(used | neither), float("-inf")).softmax(dim=1)
        return torch.where(neither, self.neither, (weights[:, :, None] * vectors).sum(dim=1))


class _Concatenated(_Fusion):
    def __init__(self, config: LateFusionConfig) -> None:
        super().__init__(config)
        self.head = nn.Sequential(
            nn.Linear(2 * config.dim, config.dim),
            nn.GELU(),
            nn.Linear(config.dim, config.vector_dim),
            nn.LayerNorm(config.vector_dim),
        )

    def forward(self, pooled: Tensor, *, vectors: Tensor, used: Tensor) -> Tensor:
        del vectors
        return self.head(self._filled(pooled, used).flatten(1))
