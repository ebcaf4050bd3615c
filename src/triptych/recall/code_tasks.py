"""Tasks that teach a recall model what semantic IDs mean: to say them, and to know them from IDs that are almost them.

Both are asked by queries and by what items are made of, so that there are four. What is read to say an ID, or to find
it, never holds a code: it is the vector of the query, or of the item's title alone.

Source: the SMGR reconstruction, section 6.2 (the paper's losses are not public). Changed: what asks is a vector of the
tower, spread over a few tokens, instead of a text encoder's states; L_DQ and L_DI ask in one direction, queries and
features for IDs; a query's other choices are masked as those with the same ID are; there is no log-Q correction; of a
page one choice is drawn evenly, so that a query's items are its positives in proportion to how often they were clicked,
where the proposal draws them by the square root of the clicks in the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from triptych.foundation.config import Config
from triptych.losses.base import LossOutput
from triptych.losses.infonce import infonce
from triptych.losses.matching import matching
from triptych.losses.next_code import next_code
from triptych.nn.code_decoder import CodeDecoder
from triptych.nn.code_tokens import CodeSet
from triptych.recall.learned import CodeTargets

WEIGHT = 0.25


class Discriminates(StrEnum):
    """How an ID is told from others."""

    CONTRAST = "contrast"
    """By a softmax over the batch's IDs and the hard ones (`losses.infonce`)."""
    BCE = "bce"
    """Pair by pair: a head says whether both belong together (`losses.matching`), with the hard ones and another
    page's."""


class CodeTasksConfig(Config):
    """What is learned of semantic IDs beside the contrast of requests and items."""

    generative_query: float = Field(WEIGHT, ge=0)
    """Weight of saying the ID of what was chosen, asked by the query (L_GQ); 0: not learned. So with the others."""
    generative_features: float = Field(WEIGHT, ge=0)
    """Weight of saying an item's ID, asked by its title (L_GI)."""
    discriminative_query: float = Field(WEIGHT, ge=0)
    """Weight of finding the ID of what was chosen, asked by the query (L_DQ)."""
    discriminative_features: float = Field(WEIGHT, ge=0)
    """Weight of finding an item's ID, asked by its title (L_DI)."""
    form: Discriminates = Discriminates.CONTRAST
    """How an ID is told from others: contrast or bce; with a discriminative task only."""
    prefix_negatives: int = Field(2, ge=0)
    """IDs of other items that begin alike, drawn for each target; with a discriminative task only."""
    corrupted_negatives: int = Field(1, ge=0)
    """Times that the target's own ID with one code replaced is set against it; with a discriminative task only."""
    decoder_layers: int = Field(2, ge=1)
    """Blocks of what says IDs; with a generative task only."""
    memory_tokens: int = Field(4, ge=1)
    """Tokens that what asks is spread over, for it to read; with a generative task only."""
    first_epochs: int = Field(1, ge=0)
    """Times through the log in which tokens, item tower and decoder alone learn, by the tasks that titles ask (C1),
    before all is learned (C2)."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if not (self.generates or self.discriminates):
            raise ValueError("tasks: all four have weight 0. Remove tasks, or give one a weight.")
        without_effect = {
            "form": not self.discriminates,
            "prefix_negatives": not self.discriminates,
            "corrupted_negatives": not self.discriminates,
            "decoder_layers": not self.generates,
            "memory_tokens": not self.generates,
        }
        for name, idle in without_effect.items():
            if idle and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"tasks: {name} has no effect with these weights. Remove it.")
        if self.first_epochs and not (self.generative_features or self.discriminative_features):
            raise ValueError("tasks: first_epochs are of tasks that titles ask, and none has a weight. Set it to 0.")
        return self

    @property
    def generates(self) -> bool:
        """Whether IDs are said."""
        return self.generative_query > 0 or self.generative_features > 0

    @property
    def discriminates(self) -> bool:
        """Whether they are told from others."""
        return self.discriminative_query > 0 or self.discriminative_features > 0


class CodeTasks(nn.Module):
    """The heads of the tasks."""

    def __init__(self, config: CodeTasksConfig, *, dim: int, heads: int, sets: Sequence[CodeSet]) -> None:
        """Make them.

        Args:
            config: which there are.
            dim: of what asks, and of the encodings of IDs.
            heads: attention heads of a block of the decoders.
            sets: of IDs.
        """
        super().__init__()
        self._tokens = config.memory_tokens
        self.spread = nn.Linear(dim, config.memory_tokens * dim) if config.generates else None
        self.norm = nn.LayerNorm(dim) if config.generates else None
        self.decoders = nn.ModuleList(
            CodeDecoder(dim, levels=levels, num_codes=num_codes, layers=config.decoder_layers, heads=heads)
            for levels, num_codes in (sets if config.generates else ())
        )
        pairs = config.discriminates and config.form is Discriminates.BCE
        self.match = nn.Sequential(nn.Linear(3 * dim, dim), nn.GELU(), nn.Linear(dim, 2)) if pairs else None

    def memory(self, asked: Tensor) -> Tensor:
        """Return what the decoders read of what asks ``[n, dim]``: ``[n, memory_tokens, dim]``."""
        assert self.spread is not None and self.norm is not None, "nothing is said"
        tokens: Tensor = self.norm(self.spread(asked).view(len(asked), self._tokens, -1))
        return tokens

    def say(self, asked: Tensor, targets: CodeTargets) -> LossOutput:
        """Say the IDs of this process's targets.

        Args:
            asked: ``[own pages, dim]``, what asks; of no code.
            targets: whose IDs.

        Returns:
            The mean over the pages of all processes, this one's share.
        """
        assert targets.items.codes is not None
        memory, total = self.memory(asked), asked.new_zeros((), dtype=torch.float32)
        code_set, start = targets.code_set[targets.own], 0
        for number, decoder in enumerate(self.decoders):
            assert isinstance(decoder, CodeDecoder)
            codes = targets.items.codes[targets.own, start : start + decoder.levels]
            start += decoder.levels
            rows = torch.nonzero(code_set == number)[:, 0]
            if len(rows):
                logits = decoder(memory[rows], codes=codes[rows])
                total = total + next_code(logits, codes=codes[rows], total=len(targets.code_set)).total
        return LossOutput(total, {})

    def tell(
        self,
        asked: Tensor,
        targets: CodeTargets,
        *,
        ids: Tensor,
        negatives: Tensor,
        masked: Tensor,
        masked_negatives: Tensor,
        temperature: float,
    ) -> LossOutput:
        """Tell the IDs of this process's targets from others.

        Args:
            asked: ``[own pages, dim]``, unit vectors; of no code.
            targets: whose IDs.
            ids: ``[pages, dim]``, unit vectors of all targets' IDs.
            negatives: ``[own pages, negatives, dim]``, of the hard ones.
            masked: bool ``[own pages, pages]``, True where an ID is no negative.
            masked_negatives: bool ``[own pages, negatives]``, likewise.
            temperature: divides cosines, with form = 'contrast'.
        """
        if self.match is not None:
            return self._match(
                asked, targets, ids=ids, negatives=negatives, masked=masked, masked_negatives=masked_negatives
            )
        own, (count, hard, _) = targets.own, negatives.shape
        # The hard ones of a page are set against its own choice alone.
        others = torch.ones(count, count, hard, dtype=torch.bool, device=masked.device)
        rows = torch.arange(count, device=masked.device)
        others[rows, rows] = masked_negatives
        return infonce(
            asked,
            items=torch.cat([ids, negatives.flatten(0, 1)]),
            positive=own,
            known=torch.cat([masked, others.flatten(1)], dim=1),
            temperature=temperature,
            total=len(ids),
        )

    def _match(
        self,
        asked: Tensor,
        targets: CodeTargets,
        *,
        ids: Tensor,
        negatives: Tensor,
        masked: Tensor,
        masked_negatives: Tensor,
    ) -> LossOutput:
        """Say of each pair whether it belongs together: the choice, the hard ones, and the next page's."""
        assert self.match is not None
        other = (targets.own + 1) % len(ids)
        candidates = torch.cat([ids[targets.own][:, None], ids[other][:, None], negatives], dim=1)
        kept = ~torch.cat([masked.gather(1, other[:, None]), masked_negatives], dim=1)
        kept = functional.pad(kept, (1, 0), value=True)
        asking = asked[:, None].expand_as(candidates)
        logits = self.match(torch.cat([asking, candidates, asking * candidates], dim=-1))
        labels = torch.zeros_like(kept)
        labels[:, 0] = True
        return matching(logits[kept], labels=labels[kept], total=len(ids) * candidates.shape[1])
