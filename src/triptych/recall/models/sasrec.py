"""SASRec: a Transformer that reads a history from its beginning and says at each step what comes next.

An item's vector is the same in the history and among the answers. Besides IDs it may be made of content (`fusion`),
which answers for items that nobody has chosen. One pass over a history teaches as many choices as it has.

Source: Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018. Changed: the loss is that of all recall
models, a softmax over all items or a sample, and not one negative each, which ranks far worse (Petrov and Macdonald,
"gSASRec", RecSys 2023); scores are cosines over a temperature; blocks are pre-norm; a history begins with a learned
vector, from which a user's first choice is learned and strangers are answered. Of a history that is longer than what is
read the beginning is cut off, in training and in answers alike, and the learned vector with it.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.nn.bags import looked_up
from triptych.nn.fusion import FusedVectors, Fusion
from triptych.nn.id_table import TableConfig
from triptych.recall.learned import (
    Behaviour,
    ItemFeatures,
    Needs,
    RecallModel,
    RecallModelConfig,
    RequestFeatures,
    Score,
    Sizes,
)


class SasrecConfig(RecallModelConfig):
    """Sizes, and what an item is made of."""

    kind: Literal["sasrec"] = "sasrec"
    """Name of the file that defines it."""
    fusion: Fusion = Fusion.ID
    """What an item's vector is made of; as of two_tower."""
    dim: int = Field(64, ge=1)
    """Length of an ID's vector, and of a reduced content vector."""
    layers: int = Field(2, ge=1)
    """Blocks."""
    heads: int = Field(2, ge=1)
    """Attention heads of a block."""
    history_items: int = Field(50, ge=1)
    """The latest choices that are read; of a longer history one more, in the place of its beginning."""
    dropout_rate: float = Field(0.2, ge=0, lt=1)
    """Of the history's vectors and within blocks."""
    score: Score = Score.COSINE
    """What scores history and item: cosine or inner; with the latter set temperature = 1."""
    id_rate_factor: float = Field(100.0, gt=0)
    """Learning rate of the ID vectors (row-wise Adagrad) as a multiple of the loop's."""
    id_init_std: float = Field(0.1, ge=0)
    """Standard deviation of the first ID vectors."""
    tables: TableConfig = TableConfig()
    """How the ID vectors are trained and kept, row by row: optimizer and stored_as."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.score.check(self.temperature)
        width = 2 * self.dim if self.fusion is Fusion.CAT else self.dim
        if width % self.heads:
            raise ValueError(f"the width {width} must be a multiple of heads ({self.heads}).")
        for name, idle in (
            ("id_rate_factor", self.fusion is Fusion.MM),
            ("tables", self.fusion is Fusion.MM),
            ("id_init_std", self.fusion in (Fusion.MM, Fusion.TRAINABLE)),
        ):
            if idle and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with fusion = '{self.fusion}'. Remove it.")
        return self

    @property
    def reads_content(self) -> bool:
        """As the fusion."""
        return self.fusion.reads_content

    @property
    def reads_ids(self) -> bool:
        """As the fusion."""
        return self.fusion.reads_id

    @property
    def needs(self) -> Needs:
        """Histories."""
        steps = self.history_items + 1
        return Needs(query=False, real_time=steps, history_content=self.fusion.reads_content, runs=True)

    def build(self, sizes: Sizes, *, seed: int) -> Sasrec:
        """Make the model with new weights."""
        return Sasrec(self, sizes, seed=seed)


CONFIG = SasrecConfig


class Sasrec(RecallModel):
    """Item vectors and a causal Transformer over them."""

    config: SasrecConfig

    def __init__(self, config: SasrecConfig, sizes: Sizes, *, seed: int) -> None:
        """Make the layers; use `SasrecConfig.build`."""
        super().__init__()
        self.config, self.sizes = config, sizes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.items = FusedVectors(
                config.fusion,
                num_ids=sizes.num_items,
                content_dim=sizes.item_content_dim,
                dim=config.dim,
                id_rate_factor=config.id_rate_factor,
                id_init_std=config.id_init_std,
                tables=config.tables,
            )
            dim = self.items.out_dim
            self.start = nn.Parameter(torch.randn(dim) * dim**-0.5)
            self.positions = nn.Parameter(torch.randn(config.history_items + 1, dim) * 0.02)
            self.dropout = nn.Dropout(config.dropout_rate)
            block = nn.TransformerEncoderLayer(
                dim,
                config.heads,
                dim_feedforward=4 * dim,
                dropout=config.dropout_rate,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            norm = nn.LayerNorm(dim)
            self.blocks = nn.TransformerEncoder(block, config.layers, norm=norm, enable_nested_tensor=False)

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self.items.out_dim

    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return vectors of requests ``[n, vector_dim]``: at the end of each history, or at the steps asked for."""
        assert requests.behaviour is not None
        places, step = requests.behaviour.real_time, requests.step
        if step is None:
            places, last = self._as_runs(places)
            step = torch.arange(len(places), device=places.device) * places.shape[1] + last
        return self.config.score.of(self._states(requests.behaviour, places).flatten(0, 1)[step])

    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return vectors of items ``[n, vector_dim]``."""
        return self.config.score.of(self.items.unnormalized(items.item_ids, items.content))

    def _as_runs(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Put the learned vector before histories ``[n, longest]`` that are whole, as training has them.

        Returns:
            ``[n, steps]``, and the step of each history's last choice ``[n]``, behind which the answer is.
        """
        counts, most = (places >= 0).sum(dim=1), self.config.history_items
        whole = torch.cat([places.new_full((len(places), 1), -1), places], dim=1)[:, : most + 1]
        if places.shape[1] > most:
            whole = torch.where((counts > most)[:, None], places, whole)
        return whole, counts.clamp(max=most)

    def _states(self, behaviour: Behaviour, places: Tensor) -> Tensor:
        """Read histories ``[n, longest]``, the learned vector in the place of -1; returns ``[n, longest, dim]``.

        What stands behind a history's end is read too, but nothing before it sees it.
        """
        vectors = self.items.unnormalized(behaviour.items.item_ids, behaviour.items.content).float()
        steps = torch.where((places >= 0)[:, :, None], looked_up(vectors, places), self.start)
        steps = self.dropout(steps + self.positions[: places.shape[1]])
        mask = nn.Transformer.generate_square_subsequent_mask(places.shape[1], device=steps.device)
        states: Tensor = self.blocks(steps, mask=mask, is_causal=True)
        return states
