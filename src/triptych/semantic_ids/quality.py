"""How good semantic IDs are, and whether that is good enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.foundation.config import Config
from triptych.foundation.errors import DataError
from triptych.metrics.codes import (
    adjusted_rand,
    collision_rate,
    gini,
    in_cell_collision_rate,
    normalised_mutual_information,
    number_ids,
    perplexity,
    shared_rate,
    utilisation_rate,
)
from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.vectors import blocks, sample_rows, take

QUERY_BLOCK = 64


class QualityConfig(Config):
    """How neighbours are sampled."""

    k: int = Field(20, ge=1)
    """Neighbours of an item that are compared."""
    items: int = Field(20_000, ge=2)
    """Items among which neighbours are looked for, drawn from all; the fewer, the farther apart neighbours are."""
    queries: int = Field(1_000, ge=1)
    """Of these, the items whose neighbours are looked for."""


class Gate(Config):
    """What semantic IDs must reach for a run to go on; none: nothing is asked. Proposals: docs/semantic-ids.md."""

    collision_rate: float | None = Field(None, ge=0, le=1)
    """1 - distinct ids / items, at most."""
    in_cell_collision_rate: float | None = Field(None, ge=0, le=1)
    """The same inside delivery cells, at most."""
    utilisation_rate: float | None = Field(None, ge=0, le=1)
    """Share of the codes that are used, of every level at least."""
    perplexity_rate: float | None = Field(None, ge=0, le=1)
    """Perplexity of the first level over its number of codes, at least."""
    cosine: float | None = Field(None, ge=-1, le=1)
    """Mean cosine of vectors and what their codes stand for, at least."""
    neighbour_recall: float | None = Field(None, ge=0, le=1)
    """Neighbours kept, at least."""


class Grouping(NamedTuple):
    """What is known of the items beside their vectors."""

    categories: NDArray[np.integer] | None = None
    """``[items]``, a number for each category, -1 for none."""
    item_cells: NDArray[np.bool_] | None = None
    """``[items, cells]``, where they are delivered."""
    known: NDArray[np.bool_] | None = None
    """``[items]``, whether the codebooks may have been learned of them; None: of all."""

    def some(self, items: NDArray[np.bool_]) -> Grouping:
        """Return the same of some items."""
        categories = None if self.categories is None else self.categories[items]
        cells = None if self.item_cells is None else self.item_cells[items]
        return Grouping(categories, cells, None if self.known is None else self.known[items])


@dataclass(frozen=True)
class LevelQuality:
    """One level, and the prefix of ids that ends with it."""

    utilisation_rate: float
    """Share of its codes that any item has."""
    perplexity: float
    gini: float
    mse: float
    """Mean squared error, per number, of vectors rebuilt from the prefix."""
    prefixes: int
    """Distinct prefixes."""
    category_nmi: float | None
    """Normalised mutual information of prefixes and categories, among items with one; None: there are none."""


@dataclass(frozen=True)
class PartQuality:
    """How well the codes of some items say what they are of."""

    items: int
    mse: float
    """As `Quality.mse`."""
    cosine: float
    """As `Quality.cosine`."""


@dataclass(frozen=True)
class Quality:
    """What codes are worth, over all items, but for neighbours, which are sampled."""

    items: int
    num_codes: int
    """Codes of each level."""
    levels: tuple[LevelQuality, ...]
    """Of the quantiser; a token against collisions is no level."""
    unique_ids: int
    collision_rate: float
    """1 - unique_ids / items; of whole ids, a token against collisions included, as the two that follow."""
    shared_rate: float
    """Share of items whose id another has too."""
    largest_id: int
    """Items of the id that most items share."""
    in_cell_collision_rate: float | None
    """1 - distinct (cell, id) pairs / (cell, item) pairs; None: no item has a cell."""
    mse: float
    """Mean squared error, per number, of vectors rebuilt from all codes."""
    cosine: float
    """Mean cosine of vectors and those rebuilt, where both have a length."""
    neighbour_recall: float
    """Share of the `neighbours` nearest by cosine that are so by rebuilt vectors too; of equal ones, lower rows."""
    neighbours: int
    neighbour_items: int
    """Items of the sample among which neighbours are looked for."""
    neighbour_queries: int
    """Of these, those whose neighbours are looked for."""
    known: PartQuality | None = None
    """Of the items that the codebooks were learned of; None: of all."""
    new: PartQuality | None = None
    """Of those that came later."""

    def dump(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Quality:
        """Read what `dump` returned."""
        levels = tuple(LevelQuality(**level) for level in dumped["levels"])
        parts = {name: dumped.get(name) and PartQuality(**dumped[name]) for name in ("known", "new")}
        return cls(**{**dumped, "levels": levels, **parts})


def measure(
    quantizer: Quantizer,
    vectors: NDArray[Any],
    codes: NDArray[np.uint16],
    *,
    config: QualityConfig,
    seed: int,
    grouping: Grouping = Grouping(),  # noqa: B008  (immutable)
) -> Quality:
    """Measure the codes of all items, in bounded memory.

    Args:
        quantizer: chose the codes.
        vectors: ``[items, dim]``; may be memory-mapped.
        codes: ``[items, levels or more]``; what stands behind the quantiser's levels keeps ids apart and no more.
        config: how neighbours are sampled.
        seed: of the sample.
        grouping: categories, cells, and what is known.

    Raises:
        DataError: there are no items, or not as many of one thing as of the other.
    """
    _check(len(vectors), codes=codes, grouping=grouping)
    own = codes[:, : quantizer.levels]
    numbers = number_ids(codes)
    errors = _errors(quantizer, vectors, own)
    everything = np.ones(len(codes), np.bool_)
    known = everything if grouping.known is None else grouping.known
    new = ~known
    sizes = np.bincount(numbers)
    cells = grouping.item_cells
    in_cell = None if cells is None or not cells.any() else in_cell_collision_rate(numbers, item_cells=cells)
    neighbours = _neighbours(quantizer, vectors, own, config=config, seed=seed)
    return Quality(
        items=len(codes),
        num_codes=quantizer.num_codes,
        levels=tuple(_levels(own, mse=errors.mse, num_codes=quantizer.num_codes, categories=grouping.categories)),
        unique_ids=len(sizes),
        collision_rate=collision_rate(numbers),
        shared_rate=shared_rate(numbers),
        largest_id=int(sizes.max()),
        in_cell_collision_rate=in_cell,
        mse=errors.mse[-1],
        cosine=errors.part(everything).cosine,
        neighbour_recall=neighbours.recall,
        neighbours=neighbours.k,
        neighbour_items=neighbours.items,
        neighbour_queries=neighbours.queries,
        known=errors.part(known) if new.any() else None,
        new=errors.part(new) if new.any() else None,
    )


def require(quality: Quality, *, gate: Gate, of: str) -> None:
    """Refuse IDs that are not good enough.

    Args:
        quality: what was measured.
        gate: what is asked.
        of: what the IDs are of, to be named.

    Raises:
        DataError: the first thing that is not as asked; the message has both numbers.
    """
    if gate.in_cell_collision_rate is not None and quality.in_cell_collision_rate is None:
        raise DataError(
            f"semantic ids of {of}: gate.in_cell_collision_rate is asked for, and no item has a delivery cell. Give "
            "the catalogue with its cells, or remove it."
        )
    for name, found, asked, least in _asked(quality, gate):
        if found < asked if least else found > asked:
            raise DataError(
                f"semantic ids of {of}: {name} is {found:.4g}, and gate asks for at {'least' if least else 'most'} "
                f"{asked:g}. Change the quantizer's settings, or the gate."
            )


def seed_agreement(found: Sequence[NDArray[np.integer]]) -> float:
    """Return how far fits from different seeds group the same items alike: the mean adjusted Rand index of all pairs.

    Args:
        found: of each seed, codes ``[items, levels]``; the first level is compared. At least two.

    Raises:
        DataError: there are fewer, or of different items.
    """
    if len(found) < 2:
        raise DataError(f"Agreement of seeds needs at least two, and there is {len(found)}.")
    return float(np.mean([adjusted_rand(one[:, 0], other[:, 0]) for one, other in combinations(found, 2)]))


def _asked(quality: Quality, gate: Gate) -> Iterator[tuple[str, float, float, bool]]:
    """Yield what is asked: name, found, asked, and whether that is the least (or else the most)."""
    for name in ("collision_rate", "in_cell_collision_rate"):
        asked = getattr(gate, name)
        if asked is not None:
            yield name, getattr(quality, name), asked, False
    if gate.utilisation_rate is not None:
        for place, level in enumerate(quality.levels, start=1):
            yield f"utilisation_rate of level {place}", level.utilisation_rate, gate.utilisation_rate, True
    if gate.perplexity_rate is not None:
        found = quality.levels[0].perplexity / quality.num_codes
        yield "perplexity_rate (perplexity of level 1 / codes)", found, gate.perplexity_rate, True
    for name in ("cosine", "neighbour_recall"):
        asked = getattr(gate, name)
        if asked is not None:
            yield name, getattr(quality, name), asked, True


def _check(num_items: int, *, codes: NDArray[np.uint16], grouping: Grouping) -> None:
    if not num_items:
        raise DataError("semantic ids: there are no items to measure.")
    for what, given in (
        ("codes", codes),
        ("categories", grouping.categories),
        ("cells", grouping.item_cells),
        ("known", grouping.known),
    ):
        if given is not None and len(given) != num_items:
            raise DataError(f"semantic ids: there are vectors of {num_items} items, and {what} of {len(given)}.")


def _levels(
    codes: NDArray[np.uint16], *, mse: Sequence[float], num_codes: int, categories: NDArray[np.integer] | None
) -> Iterator[LevelQuality]:
    known = None if categories is None else np.flatnonzero(categories >= 0)
    for level in range(codes.shape[1]):
        counts = np.bincount(codes[:, level], minlength=num_codes)
        prefixes = number_ids(codes[:, : level + 1])
        nmi = None
        if known is not None and categories is not None and len(known):
            nmi = normalised_mutual_information(prefixes[known], categories[known])
        yield LevelQuality(
            utilisation_rate=utilisation_rate(counts),
            perplexity=perplexity(counts),
            gini=gini(counts),
            mse=mse[level],
            prefixes=int(prefixes.max()) + 1,
            category_nmi=nmi,
        )


class _Errors(NamedTuple):
    mse: list[float]
    """Of each prefix."""
    own: NDArray[np.float32]
    """``[items]``, each item's mean squared error, per number, by all codes."""
    cosines: NDArray[np.float32]
    """``[items]``, NaN where its vector, or what was rebuilt of it, has no length."""

    def part(self, items: NDArray[np.bool_]) -> PartQuality:
        found = self.cosines[items & ~np.isnan(self.cosines)]
        cosine = float(found.mean(dtype=np.float64)) if len(found) else 0.0
        return PartQuality(int(items.sum()), float(self.own[items].mean(dtype=np.float64)), cosine)


def _errors(quantizer: Quantizer, vectors: NDArray[Any], codes: NDArray[np.uint16]) -> _Errors:
    squares = np.zeros(quantizer.levels)
    last, cosines = np.empty(len(codes), np.float32), np.full(len(codes), np.nan, np.float32)
    for block in blocks(vectors, widest=quantizer.widest):
        own = codes[block.rows]
        for level in range(quantizer.levels):
            rebuilt = quantizer.reconstruct(own[:, : level + 1])
            errors = np.square(block.vectors - rebuilt, dtype=np.float64).sum(axis=1)
            squares[level] += errors.sum()
        last[block.rows] = errors / vectors.shape[1]
        lengths = np.linalg.norm(block.vectors, axis=1) * np.linalg.norm(rebuilt, axis=1)
        there = lengths > 0
        products = np.einsum("nd,nd->n", block.vectors, rebuilt, dtype=np.float64)
        cosines[block.rows][there] = products[there] / lengths[there]
    return _Errors((squares / vectors.size).tolist(), last, cosines)


class _Neighbours(NamedTuple):
    recall: float
    k: int
    items: int
    queries: int


def _neighbours(
    quantizer: Quantizer, vectors: NDArray[Any], codes: NDArray[np.uint16], *, config: QualityConfig, seed: int
) -> _Neighbours:
    rng = np.random.default_rng(seed)
    rows = sample_rows(len(vectors), size=config.items, rng=rng)
    asked = sample_rows(len(rows), size=config.queries, rng=rng)
    k = min(config.k, len(rows) - 1)
    if k == 0:
        return _Neighbours(1.0, 0, len(rows), 0)
    true, rebuilt = _unit(take(vectors, rows)), _unit(quantizer.reconstruct(codes[rows]))
    shared = 0
    for start in range(0, len(asked), QUERY_BLOCK):
        part = asked[start : start + QUERY_BLOCK]
        for mine, others in zip(_nearest(rebuilt, part, k=k), _nearest(true, part, k=k), strict=True):
            shared += len(np.intersect1d(mine, others, assume_unique=True))
    return _Neighbours(shared / (len(asked) * k), k, len(rows), len(asked))


def _nearest(vectors: NDArray[np.float32], queries: NDArray[np.int64], *, k: int) -> NDArray[np.int64]:
    scores = vectors[queries] @ vectors.T
    scores[np.arange(len(queries)), queries] = -np.inf  # nobody is his own neighbour
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
