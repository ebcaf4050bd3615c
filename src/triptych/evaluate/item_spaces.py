r"""Two spaces of one ranker's items, by ID and by content: do they say the same, and do they spread?

*Alignment* is the mean squared distance of an item's two unit vectors, *uniformity* the logarithm of the mean of
:math:`e^{-2 d^2}` over pairs of different items, for each space by itself; less is better of both. At chance, with
nothing to do with each other, alignment is 2.

Source: Wang & Isola, "Understanding contrastive representation learning through alignment and uniformity on the
hypersphere", ICML 2020 (arXiv 2005.10242), equations 3 and 4. Changed: the two spaces have axes, and often lengths, of
their own, which a ranker never compares. So content is first mapped to IDs linearly, by half of the items, and
alignment is of the other half: the same for rankers that bring both together and for those that do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.ids import UNK
from triptych.ranker.content_vectors import ContentVectors
from triptych.ranker.scorer import Ranker

MOST_ITEMS, MOST_DRAWN, LEAST_ITEMS = 4_000, 500, 40
"""Items that are measured, and of these drawn, at most; of fewer than the least nothing is said."""
RIDGE = 1e-2
"""What keeps the map small, as a share of the mean variance of content."""
SEED = 0
"""Draws the items, and their halves."""


class ItemSpaces(NamedTuple):
    """What is said of one ranker."""

    alignment: float
    uniformity_ids: float
    uniformity_content: float
    num_items: int
    """Measured: items that training has given a vector by ID."""
    ids: NDArray[np.float64]
    """``[drawn, 2]``, unit vectors by ID of items that the map was not fitted on, in the plane in which both spaces
    together vary most."""
    content: NDArray[np.float64]
    """``[drawn, 2]``, those of the same items by content, mapped, in the same plane."""
    categories: Sequence[str | None]
    """``[drawn]``."""

    @property
    def uniformity(self) -> tuple[float, float]:
        """By ID, and by content."""
        return self.uniformity_ids, self.uniformity_content


def item_spaces(ranker: Ranker, *, catalogue: Catalogue) -> ItemSpaces | None:
    """Measure a ranker's spaces; None where it has one alone, or knows too few items by ID.

    Args:
        ranker: opened over the catalogue. Content is that of candidates.
        catalogue: for the categories.
    """
    module = ranker.model.content
    if not module.dim or not module.has_item_side:
        return None
    rows = np.random.default_rng(SEED).permutation(catalogue.num_items)
    id_rows = ranker.features.id_rows(rows)
    rows, id_rows = (one[id_rows != UNK][:MOST_ITEMS] for one in (rows, id_rows))
    if len(rows) < LEAST_ITEMS:
        return None
    with torch.no_grad():
        table = ranker.model.features.item_fields[0]
        ids = table(torch.from_numpy(id_rows).to(next(table.parameters()).device))
    side = module.item_side()
    assert side is not None, "it has vectors of items"
    vectors = ContentVectors.of_rows(side, ranker.features, item_rows=rows, device=ids.device)
    content = vectors.at(torch.arange(len(rows)))[0]
    names = catalogue.items["category"].gather(rows).to_list()
    return measured(ids.double().cpu().numpy(), content.double().numpy(), categories=names)


def measured(ids: NDArray[np.float64], content: NDArray[np.float64], *, categories: Sequence[str | None]) -> ItemSpaces:
    """Measure two spaces of the same items, in an order that is drawn.

    Args:
        ids: ``[items, id_dim]``.
        content: ``[items, dim]``.
        categories: ``[items]``.
    """
    half = len(ids) // 2
    by_id = _units(ids - ids[:half].mean(axis=0))
    mapped = _units(_mapped(content, to=by_id, half=half))
    left, right = by_id[half:], mapped[half:]
    drawn = slice(min(MOST_DRAWN, len(left)))
    both = np.concatenate([left[drawn], right[drawn]])
    _, _, axes = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    places = (both - both.mean(axis=0)) @ axes[:2].T
    drawn_ids, drawn_content = np.split(places, 2)
    return ItemSpaces(
        alignment=alignment(left, right),
        uniformity_ids=uniformity(by_id),
        uniformity_content=uniformity(_units(content - content.mean(axis=0))),
        num_items=len(ids),
        ids=drawn_ids,
        content=drawn_content,
        categories=list(categories[half:])[drawn],
    )


def alignment(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return the mean squared distance of pairs of unit vectors ``[n, dim]``: 0 of equal ones, 2 by chance."""
    return float(((left - right) ** 2).sum(axis=1).mean())


def uniformity(units: NDArray[np.float64]) -> float:
    """Return the logarithm of the mean of e^(-2 d²) over pairs of different rows ``[n, dim]``; 0 where all are one."""
    count = len(units)
    squared = np.maximum(2 - 2 * units @ units.T, 0.0)
    total = np.exp(-2 * squared).sum() - np.exp(-2 * np.diagonal(squared)).sum()
    return float(np.log(total / (count * (count - 1))))


def _mapped(content: NDArray[np.float64], *, to: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Map content to IDs by ridge regression on the first half."""
    centred = content - content[:half].mean(axis=0)
    known = centred[:half]
    shrink = RIDGE * half * known.var(axis=0).mean() * np.eye(content.shape[1])
    found: NDArray[np.float64] = centred @ np.linalg.solve(known.T @ known + shrink, known.T @ to[:half])
    return found


def _units(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found
