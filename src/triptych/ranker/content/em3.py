"""EM3: a Fusion-Q-Former that the ranking loss trains, in full on candidates, by low rank on behaviours.

Each distinct item of a batch goes through the Q-Former once for each side. Candidates are one a sample, so their branch
may train all weights; behaviours are a hundred times as many, and their branch follows those weights and learns a few
factors of its own (`nn.low_rank`), or is not run at all: in training a behaviour may be what its item was when it last
was a candidate (`nn.vector_cache`). Outside of training nothing is read from there, and behaviours are encoded by the
weights as they are.

The tokens come from an encoder that stays as it is, or, end to end, from one that the ranking loss trains with all
else. There is one encoder for both sides, as it is at that moment; `train`, `train_behaviours` and `encoder_blocks` say
from where gradient reaches it.

An item's vector and its vector by ID find each other by a contrast (`losses.content_id`), among the candidates of a
batch that have an ID.

Source: EM3 (Deng et al., "End-to-end training of multimodal model and ranking model", arXiv 2404.06078), of which the
ranking form is not public: the reconstruction's proposals, sections 2.3, 3.2 and 4.3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from triptych.data.ids import UNK
from triptych.encoders.base import Encoder
from triptych.encoders.inputs import ItemInputs, Tokens, View
from triptych.foundation.errors import ConfigError
from triptych.losses.content_id import Direction, Sides, Stop, content_id, draw_others, drawn_log_q
from triptych.nn.few_shapes import in_few_shapes
from triptych.nn.low_rank import LowRankBranch, LowRankMap, adapt
from triptych.nn.query_former import ModalityTokens, QueryFormer
from triptych.nn.target_attention import Steps
from triptych.nn.transformer import Transformer
from triptych.nn.vector_cache import VectorCache
from triptych.ranker.content.base import Asked, ContentConfig, ContentModule, Described, ItemSide, Term
from triptych.ranker.inputs import Shown


class Train(StrEnum):
    """What one side teaches the Q-Former."""

    FROZEN = "frozen"
    """Nothing."""
    LORA = "lora"
    """Low-rank factors of its own, over the shared weights."""
    ADAPTER = "adapter"
    """The shared weights."""
    FULL = "full"
    """Those, and the encoder of titles and photos that makes the tokens."""
    CACHE = "cache"
    """Nothing, of behaviours alone: in training an item's vector is what it was when it last was a candidate."""
    LORA_CACHE = "lora_cache"
    """Low-rank factors of a map of that vector, of behaviours alone."""


LEARNING = frozenset({Train.LORA, Train.ADAPTER, Train.FULL})
"""What sends gradient through the Q-Former."""
CACHED = frozenset({Train.CACHE, Train.LORA_CACHE})
"""What reads behaviours from a table in training."""


LATER = ("tokens", "encoder_blocks", "encoder_rate_factor", "contrast_log_q", "contrast_min_count")
"""Settings that came when there were rankers already."""


class Form(StrEnum):
    """How the Q-Former is built."""

    AS_PUBLISHED = "as_published"
    """Attention alone, post-norm: for one token a modality."""
    FULL = "full"
    """With feed-forward layers, pre-norm, tokens for what is absent: for patches and words."""


class ItemTokens(StrEnum):
    """What the Q-Former reads of an item's title and of its photo."""

    VECTORS = "vectors"
    """One token of each: its vector by the encoder."""
    STATES = "states"
    """A token of each word and of each patch: its state in the encoder's last layer."""


class Shape(NamedTuple):
    """The Q-Former's sizes."""

    width: int
    queries: int
    layers: int
    heads: int


SHAPES = {
    Form.AS_PUBLISHED: Shape(64, queries=1, layers=1, heads=4),
    Form.FULL: Shape(256, queries=4, layers=2, heads=8),
}
"""What a form has where nothing else is set; as published its width is the vector's length."""
WARMUP_RATE = 0.1


class Em3ContentConfig(ContentConfig):
    """The Q-Former, what trains it, and the contrast."""

    kind: Literal["em3"] = "em3"
    """Name of the file that defines it."""
    train: Train = Train.ADAPTER
    """What candidates train: frozen, lora, adapter, or full (the encoder of titles and photos as well)."""
    train_behaviours: Train = Train.LORA
    """What behaviours train: frozen, lora, adapter, full; or cache (nothing, and their vectors are kept from when they
    were last candidates), lora_cache (low-rank factors of a map of those)."""
    form: Form = Form.AS_PUBLISHED
    """How the Q-Former is built: as_published or full."""
    tokens: ItemTokens = ItemTokens.VECTORS
    """What it reads of title and photo: vectors (one token each), or with form = full states (one of each word and of
    each patch: ten times the room and more, and as much longer to train)."""
    dim: int = Field(64, ge=1)
    """Length of an item's vector."""
    width: int | None = Field(None, ge=1)
    """Width of the Q-Former, with form = full only (none: 256); as published it is dim."""
    queries: int | None = Field(None, ge=1)
    """Trained queries; none: 1 as published, 4 with form = full."""
    layers: int | None = Field(None, ge=1)
    """Blocks; none: 1, or 2."""
    heads: int | None = Field(None, ge=1)
    """Attention heads of a block; none: 4, or 8."""
    dropout_rate: float = Field(0.0, ge=0, lt=1)
    """Within blocks."""
    modality_dropout_rate: float = Field(0.1, ge=0, lt=1)
    """Share of an item's modalities that training takes for absent; with form = full only."""
    rank: int = Field(8, ge=1)
    """Of low-rank factors."""
    alpha: float = Field(16.0, gt=0)
    """Factors' product is multiplied by alpha / rank."""
    fusion_rate_factor: float = Field(0.3, gt=0)
    """Learning rate of the Q-Former's own weights as a share of the loop's; factors have the loop's."""
    encoder_blocks: int = Field(0, ge=0)
    """Last blocks of each of the encoder's own transformers whose linear layers candidates train by low-rank factors
    (rank, alpha), with train = lora or adapter; 0: they do not."""
    encoder_rate_factor: float = Field(0.1, gt=0)
    """Learning rate of the encoder's weights as a share of the loop's, with full; factors have the loop's."""
    chunk_items: int = Field(4096, ge=1)
    """Items encoded at a time."""
    recompute: bool = False
    """Whether chunks are encoded again in the backward pass instead of kept, for long histories and many tokens."""
    contrast_weight: float = Field(1e-3, ge=0)
    """Weight of the content-ID contrast; 0: there is none."""
    contrast_dim: int = Field(64, ge=1)
    """Length of what both sides are mapped to for it."""
    contrast_temperature: float = Field(0.1, gt=0)
    """Divides its cosines."""
    contrast_negatives: int = Field(16, ge=0)
    """Negatives of an item, drawn among the batch's candidates; 0: all others."""
    contrast_direction: Direction = Direction.BOTH
    """Which side looks for the other: both, content_to_id or id_to_content."""
    contrast_stop: Stop = Stop.NONE
    """Which side is given no gradient: none, id or content."""
    contrast_warmup_steps: int | None = Field(None, ge=0)
    """Steps over which its weight rises to the full; none: a tenth of the training's."""

    contrast_log_q: bool = False
    """Whether its scores are corrected for how likely an item is to be among a batch's candidates, by how often
    training shows it: what is shown often is a negative often."""
    contrast_min_count: float = Field(0.0, ge=0)
    """Samples of an epoch in which an item must be a candidate for its ID to be contrasted: a row that has hardly been
    trained says nothing. Its content is a negative all the same. 0: all that have a row."""

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, tree: Any) -> Any:
        """Take rankers that were trained when a width stood where it has no effect."""
        if isinstance(tree, dict) and tree.get("width") == 64 and tree.get("form") in (None, Form.AS_PUBLISHED):
            return {name: value for name, value in tree.items() if name != "width"}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        full = self.form is Form.FULL
        sides = {self.train, self.train_behaviours}
        low_rank = {Train.LORA, Train.LORA_CACHE} & sides
        blocks = self.encoder_blocks > 0
        if blocks and (self.train not in (Train.LORA, Train.ADAPTER) or self.train_behaviours is Train.FULL):
            raise ValueError(
                "encoder_blocks goes with train = 'lora' or 'adapter', and no train_behaviours = 'full', which trains "
                "all of the encoder. Set encoder_blocks = 0, or another mode."
            )
        if self.tokens is ItemTokens.STATES and not full:
            raise ValueError(
                "tokens = 'states' gives a modality many tokens, and form = 'as_published' is for one. Set form = "
                "'full' with it."
            )
        low_rank_why = "neither train nor train_behaviours = 'lora' (or 'lora_cache'), nor encoder_blocks"
        if self.train in CACHED:
            raise ValueError(f"train = '{self.train}' is for train_behaviours: candidates are what fills the table.")
        if self.shape.width % self.shape.heads:
            name = "width" if full else "dim"
            raise ValueError(f"{name} {self.shape.width} must be a multiple of heads ({self.shape.heads}).")
        idle = {
            "width": (not full, "form = 'as_published'"),
            "modality_dropout_rate": (not full, "form = 'as_published'"),
            "rank": (not low_rank and not blocks, low_rank_why),
            "alpha": (not low_rank and not blocks, low_rank_why),
            "fusion_rate_factor": (
                not self.trains_weights,
                "neither train nor train_behaviours = 'adapter' (or 'full')",
            ),
            "encoder_rate_factor": (Train.FULL not in sides, "neither train nor train_behaviours = 'full'"),
            **{
                name: (not self.contrast_weight, "contrast_weight = 0")
                for name in type(self).model_fields
                if name.startswith("contrast_") and name != "contrast_weight"
            },
        }
        for name, (without_effect, why) in idle.items():
            if without_effect and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with {why}. Remove it.")
        return self

    @model_serializer(mode="wrap")
    def _without_encoder(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what stands at its default and came later: rankers trained before keep their ids."""
        tree: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {name: value for name, value in tree.items() if name not in LATER or value != fields[name].default}

    @property
    def shape(self) -> Shape:
        """The Q-Former's sizes, those that are not set by its form."""
        found = {name: value for name in Shape._fields if (value := getattr(self, name)) is not None}
        if self.form is Form.AS_PUBLISHED:
            found["width"] = self.dim
        return SHAPES[self.form]._replace(**found)

    @property
    def fuses_modalities(self) -> bool:
        """It does."""
        return True

    @property
    def reads_states(self) -> bool:
        """Whether it reads words and patches."""
        return self.tokens is ItemTokens.STATES

    @property
    def trains_weights(self) -> bool:
        """Whether either side trains the shared weights."""
        return bool({Train.ADAPTER, Train.FULL} & {self.train, self.train_behaviours})

    @property
    def trains_encoder(self) -> bool:
        """Whether gradient reaches the encoder of titles and photos from either side."""
        return Train.FULL in (self.train, self.train_behaviours) or self.encoder_blocks > 0

    def build(self, modalities: Mapping[str, int], *, id_dim: int, catalogue_items: int) -> Em3Content:
        """Make it."""
        if not modalities:
            raise ConfigError("content: 'em3' reads what items are made of, and there is nothing. Give modalities.")
        return Em3Content(self, modalities, id_dim=id_dim, catalogue_items=catalogue_items)


CONFIG = Em3ContentConfig


class Em3Content(ContentModule):
    """The Q-Former, and a branch of it for each side."""

    pair_dim = 0
    counts: Tensor | None

    def __init__(
        self, config: Em3ContentConfig, modalities: Mapping[str, int], *, id_dim: int, catalogue_items: int
    ) -> None:
        """Make the layers; use `Em3ContentConfig.build`."""
        super().__init__()
        self.config, self.dim, self._modalities = config, config.dim, tuple(modalities)
        self.encoder: Encoder | None = None
        token_dims = tuple(modalities.values())
        shape = {name: size for name, size in config.shape._asdict().items() if name != "width"}
        if config.form is Form.FULL:
            self.fusion = QueryFormer.full(
                token_dims,
                dim=config.shape.width,
                out_dim=config.dim,
                dropout_rate=config.dropout_rate,
                modality_dropout_rate=config.modality_dropout_rate,
                **shape,
            )
        else:
            self.fusion = QueryFormer.as_published(
                token_dims, dim=config.dim, dropout_rate=config.dropout_rate, **shape
            )
        # Before the factors are drawn, so that every mode begins with the same contrast.
        sides = {"content": config.dim, "id": id_dim} if config.contrast_weight else {}
        self.contrast_heads = nn.ModuleDict({name: nn.Linear(dim, config.contrast_dim) for name, dim in sides.items()})
        self.fusion.requires_grad_(config.trains_weights)
        self.target_factors = self._factors(config.train)
        self.behaviour_factors = self._factors(config.train_behaviours)
        cached = config.train_behaviours in CACHED
        self.cache = VectorCache(catalogue_items, config.dim) if cached else None
        self.cache_map = (
            LowRankMap(config.dim, rank=config.rank, alpha=config.alpha)
            if config.train_behaviours is Train.LORA_CACHE
            else None
        )
        self._warmup_steps = config.contrast_warmup_steps or 0
        self.register_buffer("contrasted", torch.zeros((), dtype=torch.int64))
        reads_counts = config.contrast_log_q or config.contrast_min_count
        counts = torch.zeros(catalogue_items) if reads_counts else None
        self.register_buffer("counts", counts, persistent=False)  # of the log, which training has at hand

    def encode_by(self, encoder: Encoder, *, seed: int) -> None:
        """Take an encoder: all of its weights are trained, or factors beside its last blocks.

        Raises:
            ConfigError: it has no blocks of its own to train.
        """
        config = self.config
        self.encoder = encoder.requires_grad_(not config.encoder_blocks)
        if not config.encoder_blocks:
            return
        layers = _last_layers(encoder, blocks=config.encoder_blocks)
        if not layers:
            raise ConfigError(
                "content.encoder_blocks: the encoder has no transformer blocks of its own, only pretrained models. Set "
                "content.train = 'full' in its place."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapt(encoder, layers, rank=config.rank, alpha=config.alpha)

    def rate_factors(self) -> Mapping[str, float]:
        """The Q-Former's weights have a rate of their own, and those of an encoder another one."""
        found = {"fusion": self.config.fusion_rate_factor}
        if self.encoder is None or self.config.encoder_blocks:
            return found
        own = self.config.encoder_rate_factor
        within = {f"encoder.{name}": own * share for name, share in self.encoder.rate_factors().items()}
        return {**within, "encoder.": own, **found}

    def learns_for(self, steps: int) -> None:
        """Count the steps over which the contrast's weight rises, where none are set."""
        if self.config.contrast_warmup_steps is None:
            self._warmup_steps = round(WARMUP_RATE * steps)

    def forward(self, asked: Asked) -> Described:
        """Describe every distinct candidate, and every distinct item of a history, once."""
        config, shown = self.config, asked.shown
        target, of = torch.unique(asked.target, return_inverse=True)
        described = self._encode(
            shown,
            target,
            train=config.train,
            factors=self.target_factors,
            reaches_encoder=config.train is Train.FULL or config.encoder_blocks > 0,
        )
        keep = asked.steps >= 0
        chosen, places, counts = torch.unique(asked.steps[keep], return_inverse=True, return_counts=True)
        if self.cache is None:
            train = config.train_behaviours
            steps = self._encode(
                shown,
                chosen,
                train=train,
                factors=self.behaviour_factors,
                reaches_encoder=train is Train.FULL,
            )
        elif self.training:
            self.cache.begin()
            self.cache.write(asked.item_rows[target], described)
            steps = self._kept(asked, chosen, counts=counts, cache=self.cache)
        else:
            steps = self._as_candidates(shown, chosen)
        if self.cache_map is not None:
            steps = self.cache_map(steps).float()
        places = torch.full_like(asked.steps, -1).masked_scatter(keep, places)
        nothing = described.new_zeros(len(of), 0)
        return Described(functional.embedding(of, described), Steps(steps, places), nothing)

    def item_side(self) -> Em3ItemSide:
        """A vector of each item for either side, by weights with the factors added in; one where both are the same."""
        is_kept = self.config.train_behaviours in CACHED
        factors = self.target_factors if is_kept else self.behaviour_factors
        if factors is self.target_factors and self.cache_map is None:
            return Em3ItemSide(_plain(self.fusion, factors), None)
        steps = _plain(self.fusion, factors)
        if self.cache_map is not None:
            self.cache_map.add_to(steps.readout)
        return Em3ItemSide(_plain(self.fusion, self.target_factors), steps)

    def describe(self, items: Sequence[Tensor], *, target: Tensor, steps: Tensor) -> Described:
        """Look the vectors up."""
        candidates, behaviours = items[0], items[-1]
        nothing = candidates.new_zeros(target.shape[0], 0)
        return Described(functional.embedding(target, candidates), Steps(behaviours, steps), nothing)

    def report(self, shown: Callable[[Tensor], Shown]) -> Mapping[str, float]:
        """How stale what is kept of behaviours is (`VectorCache.report`)."""

        def fresh(rows: Tensor) -> Tensor:
            return self._as_candidates(shown(rows), torch.arange(len(rows), device=rows.device))

        return {} if self.cache is None else self.cache.report(fresh)

    def settle(self) -> None:
        """Take every behaviour for kept, as nearly all are once their items have been candidates."""
        if self.cache is not None:
            self.cache.begin()
            self.cache.written.copy_(self.cache.passes)

    def unsaved(self) -> Sequence[str]:
        """The table of kept vectors, and the encoder, which is saved by itself."""
        return ("cache.", "encoder.")

    def terms(self, asked: Asked, described: Described) -> Sequence[Term]:
        """Contrast the candidates' two sides; those without an ID have one."""
        config = self.config
        if not config.contrast_weight:
            return ()
        self.get_buffer("contrasted").add_(1)
        places, of = torch.unique(asked.target, return_inverse=True)
        order = torch.arange(len(of), device=of.device)
        first = torch.full_like(places, len(of)).scatter_reduce_(0, of, order, "amin")
        known = asked.id_rows[places] != UNK
        places, first = places[known], first[known]
        rows = Sides(
            self.contrast_heads["content"](described.target[first]),
            self.contrast_heads["id"](asked.id_vectors[places]),
            asked.item_rows[places],
            *self._counted(asked.item_rows[places], samples=len(asked.target)),
        )
        drawn = None
        if config.contrast_negatives:
            own = torch.arange(len(places), device=places.device)
            drawn = draw_others(own, num_rows=len(places), negatives=config.contrast_negatives)
        loss = content_id(
            rows,
            drawn=drawn,
            temperature=config.contrast_temperature,
            direction=config.contrast_direction,
            stop=config.contrast_stop,
        )
        warm = min(1.0, int(self.get_buffer("contrasted")) / (self._warmup_steps + 1))
        return (Term(warm * config.contrast_weight, loss),)

    def count_candidates(self, counts: Tensor) -> None:
        """Keep how often items are candidates, where the contrast reads it."""
        if self.counts is not None:
            self.counts.copy_(counts)

    def _counted(self, item_rows: Tensor, *, samples: int) -> tuple[Tensor | None, Tensor | None]:
        """Return ``log_q`` and ``trusted`` of some items, as of `Sides`."""
        if self.counts is None:
            return None, None
        total = self.counts.sum()
        if not total:
            raise ConfigError(
                "content: contrast_log_q and contrast_min_count read how often items are candidates, and nobody has "
                "counted. Give count_candidates the counts."
            )
        counts, config = self.counts[item_rows], self.config
        log_q = drawn_log_q(counts, total=total, draws=samples) if config.contrast_log_q else None
        return log_q, counts >= config.contrast_min_count if config.contrast_min_count else None

    def _factors(self, train: Train) -> LowRankBranch | None:
        config = self.config
        return LowRankBranch(self.fusion, rank=config.rank, alpha=config.alpha) if train is Train.LORA else None

    def _kept(self, asked: Asked, places: Tensor, *, counts: Tensor, cache: VectorCache) -> Tensor:
        """Look distinct behaviours up, float32 ``[places, dim]``; those that nothing is kept of are encoded and kept.

        Args:
            asked: the batch.
            places: int64 ``[n]``.
            counts: int64 ``[n]``, how often each stands in a history.
            cache: the table.
        """
        rows = asked.item_rows[places]
        vectors, there = cache.read(rows, counts=counts)
        lacking = ~there
        if lacking.any():
            fresh = self._as_candidates(asked.shown, places[lacking])
            cache.write(rows[lacking], fresh)
            vectors[lacking] = fresh
        return vectors

    def _as_candidates(self, shown: Shown, places: Tensor) -> Tensor:
        """Encode distinct items as if they were candidates, without gradient."""
        return self._encode(shown, places, train=Train.FROZEN, factors=self.target_factors)

    def _encode(
        self,
        shown: Shown,
        places: Tensor,
        *,
        train: Train,
        factors: LowRankBranch | None,
        reaches_encoder: bool = False,
    ) -> Tensor:
        """Encode distinct items, float32 ``[places, dim]``."""
        branch: Callable[..., Tensor] = self.fusion if factors is None else factors
        learns = train in LEARNING and torch.is_grad_enabled()

        def encoded(some: Tensor) -> Tensor:
            given = shown.at(in_few_shapes(some))
            found: Tensor = branch(self._tokens(given, learns=learns and reaches_encoder))
            return found[: len(some)]

        parts = []
        with torch.set_grad_enabled(learns):
            for some in places.split(self.config.chunk_items) if len(places) else ():
                again = learns and self.config.recompute
                parts.append(checkpoint(encoded, some, use_reentrant=False) if again else encoded(some))
        return torch.cat(parts).float() if parts else torch.zeros(0, self.dim, device=places.device)

    def _tokens(self, shown: Shown, *, learns: bool) -> Sequence[ModalityTokens]:
        """Return the tokens of some items: those given, or what the encoder makes of them, as it is now."""
        looks = shown.looks
        if looks is None:
            return shown.content
        assert self.encoder is not None, "items are shown by title and photo to a ranker that trains their encoder"
        views = [View(name) for name in self._modalities]
        if self.config.reads_states:
            with torch.set_grad_enabled(learns):
                reading = self.encoder.read_items(looks)
            sides = reading.sides(looks)
            return [
                ModalityTokens(reading.vectors[:, None]) if view is View.ITEM else self._side(sides.get(view), looks)
                for view in views
            ]
        with torch.set_grad_enabled(learns):
            vectors = self.encoder.encode_views(looks, views=views)
        always = torch.ones_like(looks.has_title)
        there = {View.TITLE: looks.has_title, View.PHOTO: looks.has_photo}
        return [ModalityTokens(vectors[view][:, None], there.get(view, always)[:, None]) for view in views]

    def _side(self, found: Tokens | None, looks: ItemInputs) -> ModalityTokens:
        """Take the states of a title or a photo; of one that nobody in a batch has, one that is not there."""
        assert self.encoder is not None
        if found is not None:
            return ModalityTokens(found.states, found.keep)
        nobody = torch.zeros_like(looks.has_title)[:, None]
        return ModalityTokens(torch.zeros(*nobody.shape, self.encoder.config.dim, device=nobody.device), nobody)


class Em3ItemSide(ItemSide):
    """The Q-Former of candidates, and that of behaviours."""

    def __init__(self, target: QueryFormer, steps: QueryFormer | None) -> None:
        """Take both; None: behaviours are what candidates are."""
        super().__init__()
        self.target, self.steps = target, steps
        self.names = ("item",) if steps is None else ("candidate", "behaviour")

    def forward(self, content: Sequence[ModalityTokens]) -> tuple[Tensor, ...]:
        """Return float32 ``[items, dim]`` of each side."""
        sides = (self.target,) if self.steps is None else (self.target, self.steps)
        return tuple(side(content).float() for side in sides)


def _plain(fusion: QueryFormer, factors: LowRankBranch | None) -> QueryFormer:
    """Return a copy of the Q-Former in which a branch's factors are added in."""
    found = copy.deepcopy(fusion).eval()
    if factors is not None:
        found.load_state_dict(factors.merged())
    return found


def _last_layers(encoder: Encoder, *, blocks: int) -> list[str]:
    """Return the names of the linear layers in the last blocks of each of an encoder's transformers."""
    names = []
    for place, part in encoder.named_modules():
        if isinstance(part, Transformer):
            first = max(0, len(part.blocks) - blocks)
            within = part.blocks.named_modules(prefix=f"{place}.blocks")
            names += [
                name
                for name, layer in within
                if isinstance(layer, nn.Linear) and int(name.removeprefix(f"{place}.blocks.").split(".")[0]) >= first
            ]
    return names
