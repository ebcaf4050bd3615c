"""One step of a training with many objectives: what was drawn for it, and each pass through the towers, done once.

An objective asks for what it reads - vectors of titles, states of masked items - and whoever asks first has it made. So
the passes of a step are those that its objectives need, and none is made twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from triptych.encoders.base import Encoder
from triptych.encoders.cross import CrossEncoder, crossed, rows_of
from triptych.encoders.inputs import ItemInputs, ItemReading, Places, QueryReading, Tokens, View
from triptych.encoders.models.two_tower import TwoTowerEncoder
from triptych.pretrain.ids import IdTables
from triptych.pretrain.reader import PhotoViews
from triptych.pretrain.rows import LengthParts, join_rows, num_rows, parts_of, take_rows, whole_of
from triptych.training.distributed import Group

T = TypeVar("T")


class Masked(NamedTuple):
    """Texts of which some words are masked."""

    tokens: Tensor
    """int32 ``[texts, tokens]``."""
    chosen: Tensor
    """bool ``[texts, tokens]``, the words to be guessed; most of them are `MASK` in `tokens`."""
    truth: Tensor
    """int32 ``[texts, tokens]``, as they were."""
    total: int
    """Chosen words of all processes."""


class HiddenPatches(NamedTuple):
    """Patches of items' photos that are blanked."""

    chosen: Tensor
    """bool ``[items, patches]``."""
    total: int
    """Chosen patches of all processes."""


class MultitaskBatch(NamedTuple):
    """One batch in host memory. Of several processes each has its share of queries and items.

    Where a stage has no log (items alone), there are no queries.
    """

    number: int
    """Of the batch in the training, from 0."""
    step: int
    """Of the training's step that it is drawn for, from 0; a step may take several batches."""
    item_rows: Tensor
    """int64 ``[items]``, the catalogue's rows."""
    query_rows: Tensor
    """int64 ``[queries]``, likewise."""
    items: ItemInputs
    """Own items."""
    own_items: Tensor
    """int64 ``[own items]``, their places among the items of all."""
    title_groups: Tensor
    """int64 ``[items]``, equal for equal titles."""
    photo_groups: Tensor
    """int64 ``[items]``, equal for identical photos."""
    has_title: Tensor
    """bool ``[items]``."""
    has_photo: Tensor
    """bool ``[items]``."""
    log_q: Tensor
    """float32 ``[items]``, log probability of each to be in a batch."""
    query_log_q: Tensor
    """float32 ``[queries]``, log of how often each is expected in a batch."""
    query_tokens: Tensor
    """int32 ``[own queries, tokens]``."""
    own_queries: Tensor
    """int64 ``[own queries]``, their places among the queries of all."""
    positive: Tensor
    """int64 ``[queries]``, the place of each query's item among the items of all."""
    known: Tensor
    """bool ``[queries, items]``, clicked in training."""
    masked_queries: Masked | None
    masked_titles: Masked | None
    hidden_patches: HiddenPatches | None
    photo_views: PhotoViews | None
    query_parts: LengthParts | None = None
    """How own queries are cut to be read; None: not at all."""
    title_parts: LengthParts | None = None
    """How own items are, by their titles."""

    @property
    def num_items(self) -> int:
        """Items of all processes."""
        return len(self.has_title)

    @property
    def num_queries(self) -> int:
        """Queries of all processes."""
        return len(self.positive)

    @property
    def own_positive(self) -> Tensor:
        """int64 ``[own queries]``, the place of each own query's item among the items of all."""
        return self.positive[self.own_queries]


class Passes:
    """The passes of one step, made when they are asked for."""

    def __init__(
        self,
        batch: MultitaskBatch,
        *,
        encoder: Encoder,
        cross: CrossEncoder | None,
        group: Group,
        ids: IdTables | None = None,
        keeps_states: bool = True,
        cheap: bool = False,
        rows_at_once: int | None = None,
    ) -> None:
        """Begin a step.

        Args:
            batch: on the encoder's device.
            encoder: makes the passes.
            cross: blocks of its own over both towers; None: query and item meet in the encoder's own transformer.
            group: the processes that train together.
            ids: vectors of their own that queries and items are given; None: none.
            keeps_states: whether an objective reads the states of clean queries and items, and not only their vectors,
                which take less.
            cheap: use the masked pass wherever the clean one is asked for, as FashionBERT does.
            rows_at_once: rows that are encoded at a time, forgotten but for what comes out, and encoded again for the
                gradient: the memory of so many rows for a third more work. Gao et al., "Scaling deep contrastive
                learning batch size under memory limited setup", 2021 (GradCache), by way of torch's checkpointing, so
                that every loss may be had so. None: all at once.
        """
        self.batch = batch
        self.encoder = encoder
        self._cross = cross
        self._ids = ids
        self._group = group
        self._keeps_states = keeps_states
        self._cheap = cheap
        self._rows_at_once = rows_at_once

    @cached_property
    def queries(self) -> QueryReading:
        """Own queries."""
        if self._cheap and self.batch.masked_queries is not None:
            return self.masked_queries
        return self._of_queries(self.encoder.read_queries, self.batch.query_tokens)

    @cached_property
    def masked_queries(self) -> QueryReading:
        """Own queries, some of their words masked."""
        assert self.batch.masked_queries is not None
        return self._of_queries(self.encoder.read_queries, self.batch.masked_queries.tokens)

    @cached_property
    def items(self) -> ItemReading:
        """Own items."""
        if self._shows_masked_items:
            return self.masked_items
        return self._of_items(self.encoder.read_items, self.batch.items)

    @cached_property
    def masked_inputs(self) -> ItemInputs:
        """Own items, some words of their titles masked and some patches of their photos blanked."""
        batch = self.batch
        found = batch.items._replace(drop_title=None, drop_photo=None)
        if batch.masked_titles is not None:
            found = found._replace(title_tokens=batch.masked_titles.tokens)
        if batch.hidden_patches is not None:
            found = found._replace(hidden=batch.hidden_patches.chosen)
        return found

    @cached_property
    def masked_items(self) -> ItemReading:
        """What the item tower makes of them."""
        return self._of_items(self.encoder.read_items, self.masked_inputs)

    @cached_property
    def untitled_items(self) -> ItemReading:
        """Own items by their photos alone: read anew, since patches that have seen the title would tell of it."""
        return self._of_items(self.encoder.read_items, self.batch.items.only(View.PHOTO))

    @cached_property
    def own_query_vectors(self) -> Tensor:
        """``[own queries, dim]``."""
        if self._keeps_states or self._cheap:
            found = self.queries.vectors
        else:
            found = self._of_queries(self.encoder.encode_queries, self.batch.query_tokens)
        rows = self.batch.query_rows[self.batch.own_queries]
        return found if self._ids is None else self._ids.with_queries(found, rows)

    @cached_property
    def own_item_vectors(self) -> Tensor:
        """``[own items, dim]``."""
        if self._keeps_states or self._cheap or self.encoder.GIVES_VIEWS:
            found = self.items.vectors
        else:
            found = self._of_items(self.encoder.encode_items, self.batch.items)
        rows = self.batch.item_rows[self.batch.own_items]
        return found if self._ids is None else self._ids.with_items(found, rows)

    @cached_property
    def item_vectors(self) -> Tensor:
        """``[items, dim]``, of all processes."""
        return self.of_all(self.own_item_vectors)

    @cached_property
    def own_title_vectors(self) -> Tensor:
        """``[own items, dim]``, of titles alone; of an item without one, anything."""
        found = self.items.title_vectors if self.encoder.GIVES_VIEWS else None
        return self._view(View.TITLE) if found is None else found

    @cached_property
    def own_photo_vectors(self) -> Tensor:
        """``[own items, dim]``, of photos alone; of an item without one, anything."""
        found = self.items.photo_vectors if self.encoder.GIVES_VIEWS else None
        if found is None and "untitled_items" in self.__dict__:
            return self.untitled_items.vectors
        return self._view(View.PHOTO) if found is None else found

    @cached_property
    def title_vectors(self) -> Tensor:
        """``[items, dim]``, of all processes."""
        return self.of_all(self.own_title_vectors)

    @cached_property
    def photo_vectors(self) -> Tensor:
        """``[items, dim]``, of all processes."""
        return self.of_all(self.own_photo_vectors)

    @cached_property
    def scores(self) -> Tensor:
        """``[own queries, items]``, without gradient: what is hard is decided by it, not learned."""
        return self.own_query_vectors.detach() @ self.item_vectors.detach().T

    @cached_property
    def query_vectors(self) -> Tensor:
        """``[queries, dim]``, of all processes."""
        return self._group.gather(self.own_query_vectors, total=self.batch.num_queries)

    @property
    def num_processes(self) -> int:
        """How many train together."""
        return self._group.size

    def of_all(self, own: Tensor) -> Tensor:
        """Gather rows of own items, ``[own items, …]``, from all processes, with their gradient."""
        rows = self._group.gather(own.flatten(1), total=self.batch.num_items)
        return rows.unflatten(1, own.shape[1:])

    def titles_of_all(self, masked: Masked) -> Masked:
        """Gather the masked titles of own items from all processes."""
        tokens, chosen, truth = (self.of_all(one.float()) for one in masked[:3])  # ids are exact in float32
        return Masked(tokens.long(), chosen > 0, truth.long(), masked.total)

    def read(self, items: ItemInputs) -> ItemReading:
        """Read the own items changed, but for their titles."""
        return self._of_items(self.encoder.read_items, items)

    def all_item_tokens(self, tokens: Tokens) -> Tokens:
        """Gather the token states of own items from all processes, with their gradient."""
        if self._group.size == 1:
            return tokens
        return Tokens(self.of_all(tokens.states), self.of_all(tokens.keep.float()) > 0)

    def cross_pairs(self, queries: Tensor, items: Tensor, *, untitled: bool = False, read: int | None = None) -> Tokens:
        """Let queries and items meet: clean, or masked with the cheap pass.

        Args:
            queries: int64 ``[pairs]``, places of own queries.
            items: int64 ``[pairs]``, places among the items of all.
            untitled: by the items' photos alone.
            read: how many leading states are wanted: the last block makes no others. None: all.

        Returns:
            States of the pairs, the query's [CLS] first.
        """
        if self._cross is None:
            inputs = self.batch.items.only(View.PHOTO) if untitled else self._shown_items
            encoder = self._single_stream
            query, (item, _) = encoder.embed_queries(self._shown_queries), encoder.embed_items(inputs)
        else:
            query, item = self.queries.tokens, (self.untitled_items if untitled else self.items).tokens
        return self._meet(query, self.all_item_tokens(item), queries=queries, items=items, read=read)

    @cached_property
    def masked_pairs(self) -> tuple[Tokens, int, Places]:
        """Each own masked query with its own masked item: states, and where the item's begin and what is where in it.

        Of several processes, with the item of whichever has it.
        """
        rows = torch.arange(len(self.batch.own_queries), device=self.batch.positive.device)
        if self._cross is None:
            encoder, queries = self._single_stream, self.batch.masked_queries
            query = encoder.embed_queries(self.batch.query_tokens if queries is None else queries.tokens)
            item, places = encoder.embed_items(self.masked_inputs)
        else:
            query = (self.queries if self.batch.masked_queries is None else self.masked_queries).tokens
            places, item = self.masked_items.places, self.masked_items.tokens
        found = self._meet(query, self.all_item_tokens(item), queries=rows, items=self.batch.own_positive)
        return found, query.states.shape[1], places

    def _meet(self, query: Tokens, item: Tokens, *, queries: Tensor, items: Tensor, read: int | None = None) -> Tokens:
        def pairs(rows: tuple[Tensor, Tensor]) -> Tokens:
            one, other = rows_of(query, rows[0]), rows_of(item, rows[1])
            if self._cross is None:
                return crossed(self._single_stream.transformer, one, other, read=read)
            return self._cross(one, other, read=read)

        return self._in_chunks(pairs, (queries, items))

    @property
    def _shows_masked_items(self) -> bool:
        """Whether what asks for clean items is given masked ones."""
        return self._cheap and (self.batch.masked_titles is not None or self.batch.hidden_patches is not None)

    @property
    def _shown_queries(self) -> Tensor:
        masked = self.batch.masked_queries
        return masked.tokens if masked is not None and self._cheap else self.batch.query_tokens

    @property
    def _shown_items(self) -> ItemInputs:
        return self.masked_inputs if self._shows_masked_items else self.batch.items

    @property
    def _single_stream(self) -> TwoTowerEncoder:
        assert isinstance(self.encoder, TwoTowerEncoder), "checked with the config"
        return self.encoder

    def _view(self, view: View) -> Tensor:
        return self._of_items(lambda items: self.encoder.encode_items(items, view=view), self.batch.items)

    def _of_queries(self, make: Callable[[Tensor], Any], tokens: Tensor) -> Any:
        return self._in_parts(make, tokens, parts=self.batch.query_parts)

    def _of_items(self, make: Callable[[ItemInputs], Any], items: ItemInputs) -> Any:
        return self._in_parts(make, items, parts=None if items.title_tokens is None else self.batch.title_parts)

    def _in_parts(self, make: Callable[[Any], Any], inputs: Any, *, parts: LengthParts | None) -> Any:
        """Run a pass over texts of like length at a time."""
        if parts is None:
            return self._in_chunks(make, inputs)
        return whole_of([self._in_chunks(make, one) for one in parts_of(inputs, parts)], parts)

    def _in_chunks(self, make: Callable[[Any], T], inputs: Any) -> T:
        """Run a pass, in chunks of rows that are recomputed for the gradient where so many at once are too many."""
        rows = num_rows(inputs)
        if self._rows_at_once is None or rows <= self._rows_at_once:
            return make(inputs)
        starts = range(0, rows, self._rows_at_once)
        parts = [take_rows(inputs, slice(start, start + self._rows_at_once)) for start in starts]
        if not torch.is_grad_enabled():
            return join_rows([make(part) for part in parts])
        return join_rows([checkpoint(make, part, use_reentrant=False) for part in parts])
