"""An item tower that reads semantic IDs as tokens, beside the title; and the tasks that teach it what they mean.

An item is its title, as the pretrained encoder sees it, and what `content` says: the tokens of its semantic IDs, the
encoder's vector of all of it, both, or nothing. A query is the encoder's vector, mapped. All maps begin as one
(docs/decisions/0016), and tokens as what their codes stand for under it, so that an item begins as the sum of what it
is read from; a Transformer over these then says what they are together.

With `tasks` an ID is also said and told from others, by the query and by the title (`recall.code_tasks`).

Source: SMGR (arXiv 2602.06654), component C as reconstructed (sections 6.1 and 6.2; the paper's own is not public).
Changed: the encoder is frozen, and the tower reads its vectors instead of fine-tuning it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from triptych.losses.base import LossOutput
from triptych.nn.code_tokens import CodeSet, CodeTokens
from triptych.nn.transformer import Block, Transformer
from triptych.recall.code_tasks import CodeTasks, CodeTasksConfig
from triptych.recall.learned import (
    CodeModel,
    CodeNeeds,
    CodeTargets,
    Encoded,
    ItemFeatures,
    Needs,
    RecallModelConfig,
    RequestFeatures,
    Sizes,
    Step,
    Term,
)


class Content(StrEnum):
    """What an item is read from beside its title."""

    SID = "sid"
    """Tokens of its semantic IDs."""
    DENSE = "dense"
    """The vector that the encoder makes of title and photo."""
    BOTH = "both"
    """Both."""
    NONE = "none"
    """Nothing."""

    @property
    def reads_codes(self) -> bool:
        """Whether there are tokens."""
        return self in (Content.SID, Content.BOTH)

    @property
    def reads_dense(self) -> bool:
        """Whether there is the vector."""
        return self in (Content.DENSE, Content.BOTH)


class TokensBegin(StrEnum):
    """What tokens are before training."""

    CODEBOOKS = "codebooks"
    """What the codes stand for, mapped as content is."""
    RANDOM = "random"
    """Drawn, each by itself."""


class SemanticTowerConfig(RecallModelConfig):
    """What an item is read from, and what is learned of its IDs."""

    kind: Literal["semantic_tower"] = "semantic_tower"
    """Name of the file that defines it."""
    content: Content = Content.SID
    """What an item is read from beside its title: sid, dense, both or none."""
    dim: int = Field(128, ge=8)
    """Length of a vector; a multiple of heads."""
    layers: int = Field(1, ge=1)
    """Blocks over what an item is read from."""
    heads: int = Field(4, ge=1)
    """Attention heads of a block."""
    tokens_begin: TokensBegin = TokensBegin.CODEBOOKS
    """What tokens are before training: codebooks or random; with content = 'sid' and 'both' only."""
    group_dropout_rate: float = Field(0.15, ge=0, lt=1)
    """Share of items of which the tokens of a set of IDs are hidden in training, each set by itself; with content =
    'sid' and 'both' only."""
    tasks: CodeTasksConfig | None = None
    """What is learned of IDs beside the contrast; none: nothing. With content = 'sid' and 'both' only."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads}).")
        for name in () if self.content.reads_codes else ("tokens_begin", "group_dropout_rate", "tasks"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with content = '{self.content}'. Remove it.")
        return self

    @property
    def reads_content(self) -> bool:
        """Yes: a query is nothing else."""
        return True

    @property
    def reads_ids(self) -> bool:
        """No: semantic IDs take their place."""
        return False

    @property
    def needs(self) -> Needs:
        """Titles, and IDs where the content has them."""
        tasks = self.tasks
        told = tasks is not None and tasks.discriminates
        codes = CodeNeeds(
            dropout_rate=self.group_dropout_rate,
            targets=tasks is not None,
            prefix_negatives=tasks.prefix_negatives if tasks is not None and told else 0,
            corrupted_negatives=tasks.corrupted_negatives if tasks is not None and told else 0,
        )
        return Needs(title_content=True, codes=codes if self.content.reads_codes else None)

    @property
    def first_epochs(self) -> int:
        """As the tasks."""
        return 0 if self.tasks is None else self.tasks.first_epochs

    def build(self, sizes: Sizes, *, seed: int) -> SemanticTower:
        """Make the model with new weights."""
        return SemanticTower(self, sizes, seed=seed)


CONFIG = SemanticTowerConfig


class SemanticTower(CodeModel):
    """Queries by a map, items by their tokens."""

    config: SemanticTowerConfig

    def __init__(self, config: SemanticTowerConfig, sizes: Sizes, *, seed: int) -> None:
        """Make the towers; use `SemanticTowerConfig.build`."""
        super().__init__()
        self.config, self.sizes = config, sizes
        dim, reads = config.dim, config.content
        sets = [CodeSet(*one) for one in sizes.code_sets]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query = nn.Linear(sizes.query_content_dim, dim)
            self.title = nn.Linear(sizes.title_content_dim, dim)
            self.dense = nn.Linear(sizes.item_content_dim, dim) if reads.reads_dense else None
            self.codes = CodeTokens(dim, sets=sets) if reads.reads_codes else None
            self.tower = Transformer(dim, layers=config.layers, heads=config.heads)
            nn.init.orthogonal_(self.query.weight)
            nn.init.zeros_(self.query.bias)
            for other in (self.title, self.dense):
                if other is not None:
                    _begin_like(other, self.query)
            for block in self.tower.blocks:
                assert isinstance(block, Block)
                for last in (block.attention.out, block.mlp.down):
                    nn.init.zeros_(last.weight)
                    nn.init.zeros_(last.bias)
            self.tasks = None
            if config.tasks is not None:
                self.tasks = CodeTasks(config.tasks, dim=dim, heads=config.heads, sets=sets)

    def begin_with(self, codebooks: Sequence[Tensor]) -> None:
        """Let tokens begin as what their codes stand for; arguments as of `CodeModel.begin_with`.

        What stands for a vector of the encoder is mapped as these are; of another length, by a map drawn for it.
        """
        if self.config.tokens_begin is TokensBegin.RANDOM:
            return
        assert self.codes is not None, "it reads codes"
        drawn_by = torch.Generator().manual_seed(0)
        projections = []
        for codebook in codebooks:
            own = self.query.weight.detach()
            if codebook.shape[2] != own.shape[1]:
                own = nn.init.orthogonal_(torch.empty(self.config.dim, codebook.shape[2]), generator=drawn_by)
            projections.append(own)
        self.codes.begin_with(codebooks, projections=projections)

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self.config.dim

    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return unit vectors of requests ``[n, vector_dim]``."""
        return _unit(self._asked(requests))

    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return unit vectors ``[n, vector_dim]``."""
        reads = self.config.content
        return _unit(
            self._read(
                title=items.title_content,
                dense=items.content if reads.reads_dense else None,
                codes=items.codes if reads.reads_codes else None,
            )
        )

    def ids(self, codes: Tensor) -> Tensor:
        """Return unit vectors of semantic IDs ``[..., levels of all sets]`` by themselves: ``[..., vector_dim]``."""
        return _unit(self._read(codes=codes.flatten(0, -2)).view(*codes.shape[:-1], -1))

    def encode(self, step: Step) -> Encoded:
        """Return vectors of both and the tasks; of the first epochs the tasks alone."""
        if self.tasks is None or step.targets is None:
            return super().encode(step)
        if step.epoch < self.config.first_epochs:
            nobody = self.query.weight.new_zeros(0, self.vector_dim)
            return Encoded(nobody, nobody, terms=self._terms(None, step.targets), contrasted=False)
        asked = self._asked(step.requests)
        return Encoded(_unit(asked), self.encode_items(step.items), terms=self._terms(asked, step.targets))

    def _terms(self, asked: Tensor | None, targets: CodeTargets) -> tuple[Term, ...]:
        """Return the tasks' losses; in the first epochs (`asked` is None) nothing is learned of what asks."""
        tasks, heads = self.config.tasks, self.tasks
        assert tasks is not None and heads is not None and targets.items.codes is not None
        title = targets.items.title_content
        assert title is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and asked is not None):
            features = self._read(title=title[targets.own])
        asks = {"query": asked, "features": features}
        found = []
        for name, vectors in asks.items():
            weight = getattr(tasks, f"generative_{name}")
            if weight and vectors is not None:
                found.append(Term(weight, _named(f"generative_{name}", heads.say(vectors, targets))))
        if not tasks.discriminates:
            return tuple(found)
        ids, negatives = self.ids(targets.items.codes), self.ids(targets.negatives)
        masks = {
            "query": (targets.same | targets.chosen, targets.same_negatives | targets.chosen_negatives),
            "features": (targets.same, targets.same_negatives),
        }
        for name, vectors in asks.items():
            weight, (masked, masked_negatives) = getattr(tasks, f"discriminative_{name}"), masks[name]
            if weight and vectors is not None:
                told = heads.tell(
                    _unit(vectors),
                    targets,
                    ids=ids,
                    negatives=negatives,
                    masked=masked,
                    masked_negatives=masked_negatives,
                    temperature=self.config.temperature,
                )
                found.append(Term(weight, _named(f"discriminative_{name}", told)))
        return tuple(found)

    def _asked(self, requests: RequestFeatures) -> Tensor:
        assert requests.query_content is not None
        asked: Tensor = self.query(requests.query_content)
        return asked

    def _read(self, *, title: Tensor | None = None, dense: Tensor | None = None, codes: Tensor | None = None) -> Tensor:
        """Read some of what items have ``[n, vector_dim]``."""
        tokens, keep = [], []
        if title is not None:
            there = ~title.isnan().any(dim=1, keepdim=True)
            tokens.append(self.title(title.nan_to_num(nan=0.0))[:, None])
            keep.append(there)
        if dense is not None:
            assert self.dense is not None
            tokens.append(self.dense(dense)[:, None])
            keep.append(torch.ones(len(dense), 1, dtype=torch.bool, device=dense.device))
        if codes is not None:
            assert self.codes is not None
            found, there = self.codes(codes)
            tokens.append(found)
            keep.append(there)
        states, kept = torch.cat(tokens, dim=1), torch.cat(keep, dim=1)
        whole = (states * kept[:, :, None]).sum(dim=1, keepdim=True)
        states, kept = torch.cat([whole, states], dim=1), functional.pad(kept, (1, 0), value=True)
        return self.tower(states, keep=kept, read=1)[:, 0].float()


def _begin_like(layer: nn.Linear, other: nn.Linear) -> None:
    """Let a map begin as another one, where they are of one shape."""
    nn.init.zeros_(layer.bias)
    if layer.weight.shape == other.weight.shape:
        layer.load_state_dict(other.state_dict())
    else:
        nn.init.orthogonal_(layer.weight)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)


def _named(name: str, loss: LossOutput) -> LossOutput:
    """Name a task's loss for the log, its accuracy too."""
    accuracy = {f"{name}_accuracy": loss.parts["accuracy"]} if "accuracy" in loss.parts else {}
    return LossOutput(loss.total, {name: loss.total, **accuracy})
