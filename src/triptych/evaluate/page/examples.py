"""The report's photos: what two models show for a query, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import polars as pl
from PIL import Image

from triptych.data.catalogue import Catalogue
from triptych.evaluate.examples import SHOWN, Example, ExampleKind
from triptych.evaluate.page.markup import text
from triptych.evaluate.palette import variables
from triptych.evaluate.tasks.base import EvaluationConfig, Rankings

THUMBNAIL_PX = 132


class Gallery:
    """Writes examples as HTML; every photo is shrunk once."""

    def __init__(self, catalogue: Catalogue, *, rankings: Rankings, config: EvaluationConfig) -> None:
        """Take what the examples point into."""
        self._catalogue = catalogue
        self._rankings = rankings
        self._config = config
        self._thumbnails: dict[int, str] = {}
        self._colours = variables(rankings.item_rows)
        self._unit = "queries" if rankings.histories is None else "users"

    def section(self, examples: Sequence[Example]) -> str:
        """All examples, under a heading for each kind that says how they were chosen."""
        parts = []
        for kind in ExampleKind:
            own = [example for example in examples if example.kind is kind]
            if own:
                heading, rule = self._heading(own[0])
                shown = "".join(self._example(example) for example in own)
                parts.append(f'<h3>{heading}</h3><p class="rule">{rule}</p>{shown}')
        return "".join(parts)

    def _heading(self, example: Example) -> tuple[str, str]:
        config = self._config
        model, k = text(example.model), config.headline_k
        match example.kind:
            case ExampleKind.BROUGHT:
                return "What the picture brought", (
                    f"Drawn at random from the {self._unit} with a chosen item among the first {SHOWN} of {model} that "
                    f"{text(example.beside)} does not have among its first {k}; that item carries a ◆."
                )
            case ExampleKind.GOOD:
                return "Good results", (
                    f"Drawn at random from the fifth of the {self._unit} with the highest Recall@{k} of {model}."
                )
            case ExampleKind.BAD:
                return "Bad results", (
                    f"Drawn at random from the fifth with the lowest Recall@{k}; below, what was chosen instead."
                )
            case ExampleKind.ADDED:
                there = " and ".join(text(one) for one in (example.beside, *example.others))
                return "What photos add", (
                    f"Drawn at random from the {self._unit} with a relevant item among the first {SHOWN} of {model} "
                    f"that is not among the first {k} of {there}, and of which only the photo shows something that was "
                    "asked for; that item carries a ◆."
                )

    def _example(self, example: Example) -> str:
        targets = self._targets(example)
        asked = int(self._rankings.query_rows[example.position])
        histories = self._rankings.histories
        relevant = self._relevant(asked) - targets if histories is None else set()
        rows = [
            self._shelf(model, self._first(model, example), example, targets, relevant)
            for model in (example.model, example.beside, *example.others)
        ]
        if histories is not None:
            latest = dict.fromkeys(int(row) for row in histories.of(example.position)[::-1])
            rows.insert(0, self._shelf("chosen before", list(latest)[:SHOWN], example, set(), set()))
        if example.kind is ExampleKind.BAD:
            rows.append(self._shelf("chosen", sorted(targets)[:SHOWN], example, targets, relevant))
        k = self._config.headline_k
        shares = " · ".join(
            f"{text(model)} {self._found(model, example, targets)}"
            for model in (example.model, example.beside, *example.others)
        )
        number = len(targets)
        meta = f"{number} chosen {'item' if number == 1 else 'items'}; among the first {k}: {shares}"
        who = self._catalogue.queries[asked] if histories is None else f"User {self._catalogue.users[asked]}"
        return f'<article class="example"><h4>{text(who)}</h4><p>{meta}</p>{"".join(rows)}</article>'

    def _found(self, model: str, example: Example, targets: set[int]) -> int:
        first = self._rankings.item_rows[model][example.position, : self._config.headline_k]
        return len(targets.intersection(int(row) for row in first))

    def _targets(self, example: Example) -> set[int]:
        offsets = self._rankings.targets.offsets
        rows = self._rankings.targets.item_rows[offsets[example.position] : offsets[example.position + 1]]
        return {int(row) for row in rows}

    def _relevant(self, query_row: int) -> set[int]:
        """Items judged relevant, clicked or not."""
        judgements = self._catalogue.judgements
        if judgements is None:
            return set()
        least = self._config.relevant_grade
        least = float(judgements["grade"].max()) if least is None else least  # type: ignore[arg-type]
        kept = judgements.filter((pl.col("query_row") == query_row) & (pl.col("grade") >= least))
        return set(kept["item_row"].to_list())

    def _first(self, model: str, example: Example) -> list[int]:
        rows = self._rankings.item_rows[model][example.position, :SHOWN]
        return [int(row) for row in rows if row >= 0]

    def _shelf(
        self, name: str, item_rows: Iterable[int], example: Example, targets: set[int], relevant: set[int]
    ) -> str:
        cards = "".join(
            self._card(row, clicked=row in targets, relevant=row in relevant, brought=row in example.highlights)
            for row in item_rows
        )
        colour = f' style="--c:var({self._colours[name]})"' if name in self._colours else ""
        label = f'<span class="model"{colour}><i></i>{text(name)}</span>'
        shelf = f"<ol>{cards}</ol>" if cards else '<p class="nothing">nothing found</p>'
        return f'<div class="shelf {"" if colour else "wanted"}">{label}{shelf}</div>'

    def _card(self, item_row: int, *, clicked: bool, relevant: bool, brought: bool) -> str:
        title = self._catalogue.titles[item_row] or "(no title)"
        state, words = (
            ("clicked", "chosen") if clicked else ("relevant", "relevant, not chosen") if relevant else ("", "")
        )
        mark = "◆" if brought else "✓" if clicked else ""
        badge = f'<b aria-hidden="true">{mark}</b>' if mark else ""
        note = f'<span class="hidden">{words}</span>' if words else ""
        return f'<li class="{state}">{self._photo(item_row, title)}{badge}<span>{text(title)}</span>{note}</li>'

    def _photo(self, item_row: int, title: str) -> str:
        source = self._thumbnail(item_row)
        if not source:
            return '<div class="no-photo">no photo</div>'
        return f'<img src="{source}" alt="" title="{text(title)}" width="{THUMBNAIL_PX}" height="{THUMBNAIL_PX}">'

    def _thumbnail(self, item_row: int) -> str:
        if item_row not in self._thumbnails:
            jpeg = self._catalogue.photos.jpeg(item_row)
            self._thumbnails[item_row] = "" if jpeg is None else _data_uri(jpeg)
        return self._thumbnails[item_row]


def _data_uri(jpeg: bytes) -> str:
    """Shrink a photo and write it into the page itself."""
    with Image.open(io.BytesIO(jpeg)) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
