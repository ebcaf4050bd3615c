"""The section on semantic IDs: how evenly codes are used, how many items share an ID, what is left of the vectors."""

from __future__ import annotations

from collections.abc import Mapping

from triptych.evaluate.page.markup import definitions, section, table, text
from triptych.foundation.artifact import Artifact
from triptych.semantic_ids.quality_table import counts, facts, level_rows
from triptych.semantic_ids.stored import KIND, read_quality

_MEANINGS = {
    "used": "Share of the level's codes that any item has.",
    "perplexity": "How many evenly used codes would say as much.",
    "gini": "How unevenly they are used: 0 evenly, towards 1 by few.",
    "distinct prefixes": "Different beginnings of IDs that end with the level.",
    "mse of prefix": "Mean squared error, per number, of vectors rebuilt from the codes up to here.",
    "NMI with category": "What those codes say of the category; many small groups score high by themselves.",
}


def semantic_ids_section(inputs: Mapping[str, Artifact | str]) -> str:
    """Write the section; "" where no semantic IDs are among the inputs.

    Args:
        inputs: of the report, name → artefact.
    """
    parts = []
    for name, one in inputs.items():
        if not isinstance(one, Artifact) or one.kind != KIND:
            continue
        quality = read_quality(one)
        rows = level_rows(quality)
        parts += [
            table(
                list(rows[0]),
                [[text(value) for value in row.values()] for row in rows],
                caption=f"{name}: {counts(quality)}",
            ),
            definitions({column: _MEANINGS[column] for column in rows[0] if column in _MEANINGS}),
            "<h3>Whole IDs</h3>",
            table(["Measure", "Value"], [map(text, fact) for fact in facts(quality).items()], css="plain"),
        ]
    return section(
        "semantic-ids",
        "Semantic IDs",
        *parts,
        lead="Each item as a short tuple of codes, the coarsest first; measured when they were made, over all items "
        "that have one.",
    )
