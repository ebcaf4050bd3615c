"""One colour for each model, wherever it stands: tables, figures, examples; by day and by night.

Colours are CSS variables, defined in `report.css` for both schemes. Figures are drawn with stand-in colours that
`figures.py` replaces by the variables, so that one picture is readable on both grounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_KNOWN = {
    "title+photo": "both",
    "title": "title",
    "photo": "photo",
    "permuted-photo": "permuted",
    "bm25": "bm25",
    "item-knn": "bm25",
    "popularity": "popularity",
    "chance": "chance",
    "colour-histogram": "bm25",
    "oracle": "oracle",
}
_OTHERS = tuple(f"other-{number}" for number in range(1, 11))


def variables(models: Iterable[str]) -> Mapping[str, str]:
    """Give each model the name of its CSS variable; models without a colour of their own share ten in turn."""
    unknown = [model for model in models if model not in _KNOWN]
    others = {model: _OTHERS[position % len(_OTHERS)] for position, model in enumerate(unknown)}
    return {model: f"--m-{name}" for model, name in {**_KNOWN, **others}.items()}
