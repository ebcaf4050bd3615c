"""What shoppers want, how well an item meets it, and how they say it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from triptych.data.simulate.config import ShoppersConfig
from triptych.data.simulate.market import Market
from triptych.foundation.errors import DataError

_NAMED_RATES = (0.06, 0.42, 0.52)
"""How often a want names one, two, three attributes."""


class Intents(NamedTuple):
    """Wants: the head attribute and up to two more."""

    named: np.ndarray
    """int32 ``[intents, attributes]``: the code that is wanted, -1 where the attribute does not matter."""
    weight: np.ndarray
    """float64 ``[intents]``: how often it is wanted, sums to 1."""


class Queries(NamedTuple):
    """Query strings; each stands for one intent."""

    texts: list[str]
    """Distinct."""
    intent: np.ndarray
    """int32 ``[queries]``."""
    own: np.ndarray
    """bool ``[queries, attributes]``: the attribute is named in the title's own word."""
    weight: np.ndarray
    """float64 ``[queries]``: share among the strings of its intent."""


def grades(market: Market, named: np.ndarray) -> np.ndarray:
    """Return the true grade of every item for one intent, int8 ``[items]``.

    3: the head and every other named attribute match (the head alone, if it is all that is named).
    2: the head matches, and some but not all of the others. 1: only the head matches. 0: the head does not.
    """
    others = np.flatnonzero(named >= 0)
    others = others[others != market.head]
    head = market.codes[:, market.head] == named[market.head]
    matched = (market.codes[:, others] == named[others]).sum(axis=1)
    grade = np.where(matched == len(others), 3, np.where(matched > 0, 2, 1))
    return np.where(head, grade, 0).astype(np.int8)


def draw_intents(market: Market, *, config: ShoppersConfig, seed: int) -> Intents:
    """Draw distinct wants that at least `min_matches` items meet.

    A want is read off a random item, so common things are wanted by more people; within that, wants follow Zipf's law.

    Raises:
        DataError: no want has enough matching items.
    """
    rng = np.random.default_rng([seed, 105])
    num_items, num_attributes = market.codes.shape
    draws = config.num_intents * 12
    rows = rng.integers(0, num_items, draws)
    extra = rng.choice(len(_NAMED_RATES), draws, p=_NAMED_RATES)
    weight = np.array([attribute.weight for attribute in market.attributes])
    weight[market.head] = 0.0
    # Gumbel top-k: a weighted draw of attributes without replacement, for all rows at once.
    with np.errstate(divide="ignore"):
        keys = np.log(weight) + rng.gumbel(size=(draws, num_attributes))
    keys[market.codes[rows] < 0] = -np.inf
    place = np.argsort(np.argsort(-keys, axis=1), axis=1)
    chosen = (place < extra[:, None]) & np.isfinite(keys)
    chosen[:, market.head] = market.codes[rows, market.head] >= 0
    named = np.where(chosen, market.codes[rows], -1)[chosen[:, market.head]]
    _, first, times = np.unique(named, axis=0, return_index=True, return_counts=True)
    kept, drawn = [], []
    for place in np.argsort(first).tolist():
        if (grades(market, named[first[place]]) == 3).sum() >= config.min_matches:
            kept.append(first[place])
            drawn.append(times[place])
        if len(kept) == config.num_intents:
            break
    if not kept:
        raise DataError(
            f"items: no combination of attributes is shared by {config.min_matches} items, so nobody can want it. "
            "Give more items, or lower min_matches."
        )
    share = np.sqrt(drawn) / (rng.permutation(len(kept)) + 5.0) ** 0.8
    return Intents(named=named[kept].astype(np.int32), weight=share / share.sum())


def draw_queries(market: Market, intents: Intents, *, config: ShoppersConfig, seed: int) -> Queries:
    """Put every intent into words, in one or more ways.

    No string stands for two intents; an intent all of whose strings are taken by others goes unsaid.
    """
    rng = np.random.default_rng([seed, 106])
    texts: dict[str, None] = {}
    intent_of, own, weight = [], [], []
    for intent, ways in enumerate((1 + rng.poisson(config.phrasings, len(intents.named))).tolist()):
        made = 0
        for _ in range(3 * ways):  # some tries repeat a string
            text, flags = _phrase(market, intents.named[intent], config=config, rng=rng)
            if text not in texts:
                texts[text] = None
                intent_of.append(intent)
                own.append(flags)
                weight.append(0.4**made)
                made += 1
            if made == ways:
                break
    return Queries(
        texts=list(texts),
        intent=np.array(intent_of, dtype=np.int32),
        own=np.array(own, dtype=bool),
        weight=np.array(weight),
    )


def _phrase(
    market: Market, named: np.ndarray, *, config: ShoppersConfig, rng: np.random.Generator
) -> tuple[str, np.ndarray]:
    """Say one intent: the other attributes in any order, then the head; now and then the head first."""
    flags = np.zeros(len(named), dtype=bool)
    said: dict[int, str] = {}
    for a in np.flatnonzero(named >= 0).tolist():
        value = market.values[a][named[a]]
        words = market.attributes[a].of(value)
        flags[a] = rng.random() < config.own_word_rate or not words.synonyms
        if flags[a]:
            counts = market.own_words[a][named[a]]
            odds = np.array([counts[phrase] + 1e-3 for phrase in words.own])
            said[a] = words.own[rng.choice(len(odds), p=odds / odds.sum())]
        else:
            said[a] = words.synonyms[rng.integers(len(words.synonyms))]
    order = rng.permutation([a for a in said if a != market.head]).astype(int).tolist()
    order = [market.head, *order] if rng.random() < 0.12 else [*order, market.head]
    return " ".join(said[a] for a in order), flags
