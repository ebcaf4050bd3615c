"""Slices: parts of the (query, target) pairs that say where a model is good.

A slice *of queries* keeps whole queries, and every metric can be taken over them. A slice *of pairs* keeps some of a
query's targets: recall is then that of these targets, macro over the queries that have at least one, while the ranking
stays that over the whole catalogue.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.schema import PHOTO_ONLY
from triptych.data.splits import Split
from triptych.data.targets import UserTargets
from triptych.metrics.ranking import BoolArray, TargetSets


class SliceUnit(StrEnum):
    """What a slice chooses from."""

    QUERIES = "queries"
    PAIRS = "pairs"


class Slice(NamedTuple):
    """A named part of the target pairs."""

    name: str
    unit: SliceUnit
    definition: str
    pair_mask: BoolArray
    """`[num_pairs]`"""


def search_slices(catalogue: Catalogue, *, split: Split, query_rows: np.ndarray, targets: TargetSets) -> list[Slice]:
    """List the standard slices of the search task that are not empty.

    Args:
        catalogue: Items, queries, events, judgements.
        split: Says which events were there to learn from.
        query_rows: Integers `[queries]`: the catalogue's query behind each target set.
        targets: The target sets.
    """
    seen_query = split.query_seen_in_train(catalogue)[query_rows[targets.query_of_pair]]
    new_item = split.items_new(catalogue)[targets.item_rows]
    everything = np.ones(len(targets.item_rows), dtype=np.bool_)
    slices = [
        Slice("all", SliceUnit.QUERIES, "Every query of the period.", everything),
        Slice(
            "seen_queries",
            SliceUnit.QUERIES,
            "Queries under whose exact words something was chosen in the training period.",
            seen_query,
        ),
        Slice(
            "unseen_queries",
            SliceUnit.QUERIES,
            "Queries under whose exact words nothing was chosen in the training period.",
            ~seen_query,
        ),
        Slice("seen_items", SliceUnit.PAIRS, "Targets that were chosen in the training period.", ~new_item),
        Slice("new_items", SliceUnit.PAIRS, "Targets that were never chosen in the training period.", new_item),
        *_picture_slices(catalogue, query_rows=query_rows, targets=targets, new_item=new_item),
    ]
    return [one for one in slices if one.pair_mask.any()]


_ITEM_BANDS = ((1, 5), (6, 20), (21, None))
"""How often an item was chosen in training, from and to."""
_HISTORY_BANDS = ((1, 5), (6, 20), (21, 100), (101, None))
"""How many choices a user's history has, from and to."""


def user_slices(catalogue: Catalogue, *, split: Split, found: UserTargets) -> list[Slice]:
    """List the standard slices of the recommendation task that are not empty.

    Args:
        catalogue: Items and events.
        split: Says which events were there to learn from.
        found: Histories and target sets.
    """
    user_of_pair = np.repeat(np.arange(len(found.user_row)), np.diff(found.targets.offsets))
    count = split.train_counts(catalogue)[found.targets.item_rows]
    length = np.diff(found.histories.offsets)[user_of_pair]
    everybody = (
        "Every user who chose something in the part that he had not chosen before, and something before it; "
        f"{found.num_without_history:,} more had nothing before it."
    )
    slices = [
        Slice("all", SliceUnit.QUERIES, everybody, np.ones(len(user_of_pair), dtype=np.bool_)),
        Slice("new_items", SliceUnit.PAIRS, "Targets that were never chosen in training: cold items.", count == 0),
    ]
    for low, high in _ITEM_BANDS:
        said = f"Targets that were chosen {_band(low, high)} times in training."
        slices.append(Slice(f"items_{_name(low, high)}", SliceUnit.PAIRS, said, _inside(count, low, high)))
    for low, high in _HISTORY_BANDS:
        said = f"Users with {_band(low, high)} choices in their history."
        slices.append(Slice(f"history_{_name(low, high)}", SliceUnit.QUERIES, said, _inside(length, low, high)))
    return [one for one in slices if one.pair_mask.any()]


def _inside(values: np.ndarray, low: int, high: int | None) -> BoolArray:
    inside: BoolArray = (values >= low) & (True if high is None else values <= high)
    return inside


def _band(low: int, high: int | None) -> str:
    return f"{low} or more" if high is None else f"{low} to {high}"


def _name(low: int, high: int | None) -> str:
    return f"{low}_up" if high is None else f"{low}_{high}"


def _picture_slices(
    catalogue: Catalogue, *, query_rows: np.ndarray, targets: TargetSets, new_item: BoolArray
) -> list[Slice]:
    """The slices by what the picture alone shows; none where the judgements do not say so.

    A query names a visual attribute when one of its judged titles lacks it; the judged pairs of such a query whose
    title does not lack it are the counterpart.
    """
    judgements = catalogue.judgements
    if judgements is None or PHOTO_ONLY not in judgements.columns:
        return []
    keys = ["query_row", "item_row"]
    known = judgements.select(
        pl.col(keys).cast(pl.Int64),
        PHOTO_ONLY,
        pl.col(PHOTO_ONLY).any().over("query_row").alias("names_attribute"),
    )
    pairs = pl.DataFrame(
        {
            "query_row": query_rows[targets.query_of_pair].astype(np.int64),
            "item_row": targets.item_rows.astype(np.int64),
        }
    )
    joined = pairs.join(known, on=keys, how="left", maintain_order="left")
    lacks = joined[PHOTO_ONLY].fill_null(value=False).to_numpy()
    has_it = (joined["names_attribute"] & ~joined[PHOTO_ONLY]).fill_null(value=False).to_numpy()
    return [
        Slice(
            "photo_only",
            SliceUnit.PAIRS,
            "Targets whose title lacks a visual attribute that the query names: only the photo shows it.",
            lacks,
        ),
        Slice(
            "photo_only_new",
            SliceUnit.PAIRS,
            "Those of photo_only that were never chosen in training: no click can have told a title's model what it "
            "looks like.",
            lacks & new_item,
        ),
        Slice(
            "title_has_it",
            SliceUnit.PAIRS,
            "Judged targets of the same queries whose title does name the visual attribute.",
            has_it,
        ),
    ]
