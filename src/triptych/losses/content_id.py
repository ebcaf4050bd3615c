"""Content-ID contrast (CIC): an item's vector by content and its vector by ID should find each other."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput

EPS = 1e-5
"""Least length that a vector is divided by."""
LEAST_RATE = 1e-9
"""Taken for the share of an item that nobody has counted."""


class Direction(StrEnum):
    """Which side looks for the other."""

    BOTH = "both"
    """Half of each."""
    CONTENT_TO_ID = "content_to_id"
    """Content looks for its ID among IDs."""
    ID_TO_CONTENT = "id_to_content"
    """An ID looks for its content among contents."""


class Stop(StrEnum):
    """Which side is given no gradient."""

    NONE = "none"
    """Both learn."""
    ID = "id"
    """Content learns from IDs, which stay as they are."""
    CONTENT = "content"
    """IDs learn from content."""


class Sides(NamedTuple):
    """Some items by content and by ID."""

    content: Tensor
    """``[n, dim]``; lengths do not matter."""
    ids: Tensor
    """``[n, dim]``."""
    items: Tensor
    """int64 ``[n]``, which item each row is: equal ones are no negatives of each other."""
    log_q: Tensor | None = None
    """``[n]``, log probability of each item to be among the negatives; None corrects nothing."""
    trusted: Tensor | None = None
    """bool ``[n]``, whose ID has been trained enough to say anything; None: all."""


def content_id(
    rows: Sides,
    *,
    temperature: float,
    pool: Sides | None = None,
    drawn: Tensor | None = None,
    direction: Direction = Direction.BOTH,
    stop: Stop = Stop.NONE,
    masks_equal: bool = True,
    total: int | None = None,
) -> LossOutput:
    r"""Contrast content with IDs, and IDs with content, over the same negatives.

    .. math:: L = -\frac{1}{2R} \sum_r \log \frac{e^{c_r \cdot d_r / t}}{e^{c_r \cdot d_r / t} + \sum_n e^{c_r \cdot
                  d_n / t}} + \log \frac{e^{d_r \cdot c_r / t}}{e^{d_r \cdot c_r / t} + \sum_n e^{d_r \cdot c_n / t}}

    with unit vectors c and d. An item whose ID is not trusted has no term of its own and its ID is nobody's negative;
    its content still is.

    Source: EM3 (Deng et al., arXiv 2404.06078); the form is that of the authors' public code, which draws the negatives
    from the whole catalogue and may draw the item itself (``masks_equal=False``). Masks, correction, directions, stops
    and trust are ours. `infonce` contrasts queries with items, in one direction.

    Args:
        rows: the items that are contrasted, each once.
        temperature: t, divides the cosines; > 0.
        pool: whose rows are negatives; None: `rows`, each the others' negatives.
        drawn: int64 ``[rows, negatives]``, places in the pool, as of `draw_others`; None: all of the pool.
        direction: which terms there are; one alone counts whole.
        stop: which side is given no gradient.
        masks_equal: whether an item is never its own negative. Where the pool is `rows` and all of it is taken, no row
            is its own either way: it is the positive.
        total: rows R that the sum is divided by, where these are a process's share of more; None: those trusted.

    Returns:
        The mean over rows in float32 (float64 for float64 input), whatever autocast says; 0, with a gradient of zeros,
        without rows. Parts: ``content_id``; ``content_to_id`` and ``id_to_content``, the terms there are; ``aligned``,
        the mean cosine of a row's own two sides.
    """
    dtype = torch.promote_types(rows.content.dtype, torch.float32)
    with torch.autocast(rows.content.device.type, enabled=False):
        own, others = (
            _units(rows, stop=stop, dtype=dtype),
            _units(rows if pool is None else pool, stop=stop, dtype=dtype),
        )
        is_own_pool = pool is None and drawn is None
        hidden = _hidden(rows.items, others.items, drawn=drawn, masks_equal=masks_equal, is_own_pool=is_own_pool)
        counted = torch.ones(len(rows.items), device=own.content.device, dtype=dtype)
        if rows.trusted is not None:
            counted = rows.trusted.to(dtype)
        count = counted.sum().clamp(min=1) if total is None else max(total, 1)
        cosine = (own.content * own.ids).sum(dim=1)
        positive = _corrected(cosine[:, None] / temperature, rows.log_q, drawn=None, dtype=dtype, per_row=True)
        terms: dict[str, Tensor] = {}
        for name, asking, answering in (
            (Direction.CONTENT_TO_ID, own.content, others.ids),
            (Direction.ID_TO_CONTENT, own.ids, others.content),
        ):
            if direction in (Direction.BOTH, name):
                scores = _scores(asking, answering, drawn=drawn) / temperature
                scores = _corrected(scores, others.log_q, drawn=drawn, dtype=dtype)
                masked = hidden
                if name is Direction.CONTENT_TO_ID and others.trusted is not None:
                    masked = masked | ~(others.trusted[None] if drawn is None else others.trusted[drawn])
                logits = torch.cat([positive, scores.masked_fill(masked, float("-inf"))], dim=1)
                losses = torch.logsumexp(logits, dim=1) - positive[:, 0]
                terms[name.value] = (losses * counted).sum() / count
        loss = torch.stack(list(terms.values())).mean()
        aligned = (cosine * counted).sum() / count
    return LossOutput(loss, {"content_id": loss, **terms, "aligned": aligned})


def draw_others(own: Tensor, *, num_rows: int, negatives: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw places of a pool uniformly, with replacement, never a row's own.

    Args:
        own: int64 ``[rows]``, each row's place in the pool.
        num_rows: rows of the pool.
        negatives: draws for each row.
        generator: None: torch's own.

    Returns:
        int64 ``[rows, negatives]``; without columns where the pool has one row.
    """
    if num_rows < 2:
        return own.new_empty(len(own), 0)
    device = own.device if generator is None else generator.device
    drawn = torch.randint(num_rows - 1, (len(own), negatives), generator=generator, device=device).to(own.device)
    return drawn + (drawn >= own[:, None])


def drawn_log_q(counts: Tensor, *, total: float | Tensor, draws: int) -> Tensor:
    """Return the log probability of items to be among the distinct ones of some draws, for `Sides.log_q`.

    Args:
        counts: ``[n]``, how often each stands in what is drawn from.
        total: how much that is.
        draws: how many there are; an item that is drawn twice is one negative.

    Returns:
        float32 ``[n]``.
    """
    rate = (counts.float() / total).clamp(min=LEAST_RATE, max=1.0)
    return torch.log(-torch.expm1(draws * torch.log1p(-rate)))


def _units(sides: Sides, *, stop: Stop, dtype: torch.dtype) -> Sides:
    content = functional.normalize(sides.content.to(dtype), dim=1, eps=EPS)
    ids = functional.normalize(sides.ids.to(dtype), dim=1, eps=EPS)
    return sides._replace(
        content=content.detach() if stop is Stop.CONTENT else content, ids=ids.detach() if stop is Stop.ID else ids
    )


def _scores(asking: Tensor, answering: Tensor, *, drawn: Tensor | None) -> Tensor:
    """Return cosines ``[rows, negatives]``."""
    if drawn is None:
        return asking @ answering.T
    return torch.einsum("nd,nkd->nk", asking, functional.embedding(drawn, answering))


def _corrected(
    scores: Tensor, log_q: Tensor | None, *, drawn: Tensor | None, dtype: torch.dtype, per_row: bool = False
) -> Tensor:
    if log_q is None:
        return scores
    found = log_q.to(dtype)
    return scores - (found[:, None] if per_row else found[None] if drawn is None else found[drawn])


def _hidden(items: Tensor, others: Tensor, *, drawn: Tensor | None, masks_equal: bool, is_own_pool: bool) -> Tensor:
    """Return bool ``[rows, negatives]``, True where a pair is no negative."""
    if masks_equal:
        return items[:, None] == (others[None] if drawn is None else others[drawn])
    if is_own_pool:
        return torch.eye(len(items), dtype=torch.bool, device=items.device)
    width = len(others) if drawn is None else drawn.shape[1]
    return torch.zeros(len(items), width, dtype=torch.bool, device=items.device)
