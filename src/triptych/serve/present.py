"""From the engine's answers to what travels: hits, items, reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from triptych.serve import schemas

if TYPE_CHECKING:
    from triptych.engine import Answer, CodePath, CodeTree, Engine, Facets, Hit, Why

# Columns that have a field of their own in `schemas.Item`, or serve the engine only.
OWN_COLUMNS = frozenset({*schemas.Item.model_fields, "has_photo", "photo", "added"})


def answer(engine: Engine, found: Answer) -> schemas.SearchAnswer:
    """The answer to a search.

    Args:
        engine: as for `hits`.
        found: what it found.
    """
    return schemas.SearchAnswer(
        hits=hits(engine, found),
        num_items=engine.num_items,
        channel=found.channel,
        ranked=found.is_ranked,
        note=found.note,
    )


def recommendation(engine: Engine, found: Answer) -> schemas.RecommendAnswer:
    """The answer to a recommendation; arguments as of `answer`."""
    return schemas.RecommendAnswer(
        hits=hits(engine, found),
        num_items=engine.num_items,
        channel=found.channel,
        personal=found.channel != "popularity",
        note=found.note,
    )


def code_path(engine: Engine, found: CodePath) -> schemas.CodePath:
    """An item's codes and who shares them; arguments as of `answer`."""
    return schemas.CodePath(
        codes=found.codes,
        steps=[
            schemas.CodeStep(codes_shared=step.codes_shared, num_items=step.num_items, hits=hits(engine, step.hits))
            for step in found.steps
        ],
        of=found.of,
        sets=list(found.sets),
    )


def code_tree(engine: Engine, found: CodeTree) -> schemas.CodeTree:
    """What follows a prefix; arguments as of `answer`."""
    return schemas.CodeTree(
        prefix=found.prefix,
        levels=found.levels,
        num_codes=found.num_codes,
        num_items=found.num_items,
        num_branches=found.num_branches,
        branches=[
            schemas.CodeBranch(code=one.code, num_items=one.num_items, hits=hits(engine, one.hits))
            for one in found.branches
        ],
        hits=hits(engine, found.hits),
    )


def hits(engine: Engine, found: Sequence[Hit]) -> list[schemas.Hit]:
    """The hits in order, each with its item.

    Args:
        engine: gives what is shown of each item.
        found: best first.
    """
    return [
        schemas.Hit(
            rank=rank,
            item=item(engine.shown(hit), version=engine.version),
            score=hit.score,
            why=why(hit.why) if hit.why is not None else None,
        )
        for rank, hit in enumerate(found, start=1)
    ]


def item(shown: Mapping[str, Any], *, version: str) -> schemas.Item:
    """One item from what the engine shows of it.

    Args:
        shown: the engine's columns of the item.
        version: of the run; it becomes part of the photo's address, so that the photo may be cached for long. Behind it
            stands, of an item that was added or replaced since, when that was.
    """
    item_id = str(shown["item_id"])
    if shown.get("added"):
        version = f"{version}.{int(shown['first_seen'].timestamp() * 10**6):x}"
    photo_url = f"/api/items/{quote(item_id, safe='')}/photo?v={version}" if shown.get("has_photo") else None
    return schemas.Item(
        item_id=item_id,
        title=shown.get("title"),
        category=shown.get("category"),
        brand=shown.get("brand"),
        merchant=shown.get("merchant"),
        price=finite(shown.get("price")),
        cells=list(shown.get("cells") or []),
        photo_url=photo_url,
        features={name: plain(value) for name, value in shown.items() if name not in OWN_COLUMNS and _is_given(value)},
    )


def why(reason: Why) -> schemas.Why:
    """One reason; a side that the model lacks becomes none."""
    return schemas.Why(
        score=reason.score,
        unmasked=reason.unmasked,
        without_title=finite(reason.without_title),
        without_photo=finite(reason.without_photo),
        without_clicks=finite(reason.without_clicks),
        shared_words=list(reason.shared_words),
        found_by=reason.found_by,
        ranked=None if reason.ranked is None else schemas.Placed(**reason.ranked._asdict()),
        required=None if reason.required is None else schemas.Required(**reason.required._asdict()),
    )


def facets(found: Facets) -> schemas.Facets:
    """The filters' values, most items first."""
    return schemas.Facets(
        categories=_counts(found.categories),
        cells=_counts(found.cells),
        price=schemas.PriceRange(low=found.price[0], high=found.price[1]) if found.price is not None else None,
    )


def finite(value: float | None) -> float | None:
    """The number, or none where there is none (JSON has no NaN)."""
    return float(value) if value is not None and math.isfinite(value) else None


def plain(value: object) -> schemas.Feature:
    """A feature's value as JSON has it; what JSON has no form for as text."""
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return [str(part) for part in value]
    return str(value)


def _is_given(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is not None and value != "" and value != []


def _counts(counts: Mapping[str, int]) -> list[schemas.Count]:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [schemas.Count(name=name, count=count) for name, count in ordered]
