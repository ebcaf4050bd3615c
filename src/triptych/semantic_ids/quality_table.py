"""How good semantic IDs are, in words for people: what the command prints and the report shows."""

from __future__ import annotations

from triptych.semantic_ids.quality import Quality


def counts(quality: Quality) -> str:
    """Say how many items there are, and what their IDs are made of."""
    return f"{quality.items:,} items, {len(quality.levels)} levels of {quality.num_codes:,} codes"


def level_rows(quality: Quality) -> list[dict[str, str]]:
    """Return a row for each level, the same columns in each: its codes, and what is rebuilt from all up to it."""
    rows = []
    for place, level in enumerate(quality.levels, start=1):
        row = {
            "level": str(place),
            "used": f"{level.utilisation_rate:.1%}",
            "perplexity": f"{level.perplexity:,.1f}",
            "gini": f"{level.gini:.3f}",
            "distinct prefixes": f"{level.prefixes:,}",
            "mse of prefix": f"{level.mse:.3g}",
        }
        if level.category_nmi is not None:
            row["NMI with category"] = f"{level.category_nmi:.3f}"
        rows.append(row)
    return rows


def facts(quality: Quality) -> dict[str, str]:
    """Return what is measured of whole IDs: name → value."""
    in_cell = quality.in_cell_collision_rate
    return {
        "distinct ids": f"{quality.unique_ids:,}",
        "collision rate (1 - distinct / items)": f"{quality.collision_rate:.2%}",
        "items that share their id": f"{quality.shared_rate:.2%}",
        "items of the most shared id": f"{quality.largest_id:,}",
        "collision rate inside a cell": "no cells" if in_cell is None else f"{in_cell:.2%}",
        "cosine of rebuilt vectors": f"{quality.cosine:.3f}",
        **_of_new(quality),
        f"neighbour recall@{quality.neighbours}": f"{quality.neighbour_recall:.3f}, of {quality.neighbour_queries:,} "
        f"items among a sample of {quality.neighbour_items:,}",
    }


def _of_new(quality: Quality) -> dict[str, str]:
    """Say what the codebooks are worth for items that they were not learned of, where there are such."""
    if quality.known is None or quality.new is None:
        return {}
    known, new = quality.known, quality.new
    return {
        f"… of the {known.items:,} items learned from": f"{known.cosine:.3f} (mse {known.mse:.3g})",
        f"… of the {new.items:,} that came later": f"{new.cosine:.3f} (mse {new.mse:.3g})",
    }
