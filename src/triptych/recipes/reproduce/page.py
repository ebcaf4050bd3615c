"""The page of a table, in the look of every report: rows, claims, slices, trials, curves, data, origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from triptych.evaluate import figures
from triptych.evaluate.definitions import METRICS, label, layout
from triptych.evaluate.figures import forest, forest_scale
from triptych.evaluate.orderings import Judged
from triptych.evaluate.paces import JudgedPace
from triptych.evaluate.page import tables
from triptych.evaluate.page.examples import Gallery
from triptych.evaluate.page.layout import assemble
from triptych.evaluate.page.markup import chip, command, definitions, figure, section, table, text
from triptych.evaluate.page.parts import parts_of
from triptych.evaluate.page.training import training_section
from triptych.evaluate.palette import variables
from triptych.evaluate.records import distinct
from triptych.evaluate.text_table import ONE_SEED, interval_text, table_columns, value_text
from triptych.foundation.artifact import Artifact
from triptych.metrics.significance import Interval
from triptych.recipes.reproduce.choices import first_best
from triptych.recipes.reproduce.costs import QUERIES
from triptych.recipes.reproduce.result import Made, RowMade, agreement_cells, cost_cells, describe

LINKS = (
    ("results", "Rows"),
    ("increments", "Increments"),
    ("pictures", "Photos"),
    ("claims", "Claims"),
    ("costs", "Costs"),
    ("agreement", "Seeds"),
    ("spaces", "Spaces"),
    ("trials", "Trials"),
    ("training", "Training"),
    ("data", "Data"),
    ("provenance", "Origin"),
)


def write_page(made: Made) -> str:
    """Write the page as one HTML text that needs nothing else."""
    body = (
        _rows(made)
        + _increments(made)
        + _pictures(made)
        + _claims(made)
        + _costs(made)
        + _agreement(made)
        + _spaces(made)
        + _trials(made)
        + _training(made)
        + _data(made)
        + _provenance(made)
    )
    return assemble(
        title=made.planned.table.name,
        chips=_chips(made),
        heading=made.planned.table.title,
        sentence=_sentence(made),
        tiles="",
        links=LINKS,
        body=body,
    )


def _one_seed(made: Made) -> bool:
    return len(made.planned.run.seeds) == 1


def _chips(made: Made) -> str:
    found = []
    if made.about.simulated:
        found.append(chip("simulated behaviour", css="warn", title="Queries and clicks come from simulated shoppers."))
    found.append(chip(f"{made.planned.size} form", css="", title=f"reproduce {made.planned.table.name}"))
    found.append(chip(f"{made.planned.evaluation.part} period", css=""))
    seeds = len(made.planned.run.seeds)
    found.append(chip("one seed", css="warn", title=ONE_SEED) if seeds == 1 else chip(f"{seeds} seeds", css=""))
    return "".join(found)


def _sentence(made: Made) -> str:
    counts = {
        verdict: sum(one.verdict == verdict for one in made.judged) for verdict in ("holds", "fails", "undecided")
    }
    said = ", ".join(f"<b>{number}</b> {verdict}" for verdict, number in counts.items() if number) or "none judged"
    weak = " One seed: none of this is evidence." if _one_seed(made) else ""
    return f"Of {len(made.judged)} claims on {text(made.about.dataset)}: {said}.{weak}"


def _rows(made: Made) -> str:
    rows, k = made.records, made.planned.evaluation.headline_k
    unit, drawn = layout(made.result.task).unit, layout(made.result.task).over
    columns = table_columns(rows, headline_k=k)
    meanings = {label(one.metric): made.result.meanings.get(one.metric, METRICS[one.metric].meaning) for one in columns}
    slices = distinct(rows, "slice")
    metric = columns[0].metric
    ks: list[int | None] = [None]
    if made.planned.headline.k is not None:
        ks = [*sorted({made.planned.headline.k, max(made.planned.evaluation.ks)})]
    where = {name.replace("_", " "): meaning for name, meaning in made.result.definitions.items()}
    return section(
        "results",
        "Rows",
        tables.main_table(rows, headline_k=k, main_model=""),
        definitions({one.row.name: one.row.what for one in made.rows}, css="names"),
        f'<p class="warning">{text(ONE_SEED)}</p>' if _one_seed(made) else "",
        definitions(meanings),
        "<h3>By slice</h3>" if len(slices) > 1 else "",
        figure(
            figures.by_slice(rows, metric=metric, ks=ks), caption="Line: 95 % interval. Hollow: control or ceiling."
        ),
        tables.slice_table(rows, metric=metric, ks=ks),
        definitions(where),
        lead=f"{rows[0]['num_queries']:,} {unit}; shares in percent; small print: 95 % bootstrap interval over {drawn} "
        "of the seeds' mean. Every row was tried with as many settings, and the best on validation was taken.",
    )


def _claims(made: Made) -> str:
    if not made.judged and not made.unjudged:
        return ""
    shown = [_as_record(one) for one in made.judged]
    place = forest_scale(shown, kind="difference")
    colours = variables([one.row.name for one in made.rows])
    body = [
        [
            f"{text(one.ordering.claim)}<br><small>{text(one.ordering)}</small>",
            text(one.ordering.slice.replace("_", " ")),
            text(label(*one.column)),
            _difference(row),
            f'<span style="--c:var({colours.get(one.ordering.better, "--ink")})">{forest(row, place=place)}</span>',
            tables.verdict_chip(row),
        ]
        for one, row in zip(made.judged, shown, strict=True)
    ]
    head = [
        "Claim",
        "Slice",
        "Metric",
        "Difference, points",
        "<small>dashes: 0; right of it is better</small>",
        "Verdict",
    ]
    return section(
        "claims",
        "Claims",
        table(head, body, css="numbers pairs") if body else "",
        definitions(made.unjudged),
        lead="Written down before anything was measured. The rows answer the same queries, so the bootstrap is paired. "
        "A claim <i>holds</i> when the whole interval agrees with it and <i>fails</i> when all of it contradicts it. "
        "Of one that two rows are alike, all of it must lie within the margin.",
    )


def _increments(made: Made) -> str:
    if not made.increments:
        return ""
    k, there = made.planned.evaluation.headline_k, " and ".join(made.there)

    def cell(one: Interval, *, rate: float = 100) -> str:
        if one.value != one.value:
            return "–"
        interval = f"{rate * one.low:.1f} to {rate * one.high:.1f}" if one.low == one.low else ""
        shown = f'<span class="value">{rate * one.value:.1f}</span><small class="interval">{interval}</small>'
        return shown.replace("-", "−")

    body = [
        [
            text(one.model),
            cell(one.size, rate=1),
            cell(one.relevance),
            cell(one.of_whole),
            cell(one.difference),
            cell(one.photo_only),
        ]
        for one in made.increments
    ]
    head = [
        "Row",
        f"Items added to the first {k}",
        "Relevant among them, %",
        f"… among all {k}, %",
        "Difference, points",
        "By photo only, %",
    ]
    return section(
        "increments",
        "What each adds",
        table(head, body, css="numbers"),
        lead=f"To {text(there)}, which a shop would have already: items among the first {k} that none of these has "
        f"among its own first {k}. Means over {made.increments[0].num_queries:,} judged queries, of each over the "
        "seeds, each against the same seed of what is there; the difference is paired, of each query and seed. Of "
        "the relevant ones, the last column is those of which only the photo shows something that was asked for.",
    )


def _pictures(made: Made) -> str:
    rankings = made.result.rankings
    if not made.pictures or rankings is None:
        return ""
    gallery = Gallery(made.catalogue, rankings=rankings, config=made.planned.evaluation)
    key = (
        '<span class="key clicked">✓ chosen in the period</span>'
        '<span class="key relevant">judged relevant, not chosen</span>'
        '<span class="key brought">◆ brought by the picture</span>'
    )
    lead = f'The first eight results for the same query, first seed. <span class="keys">{key}</span>'
    return section("pictures", "What it looks like", gallery.section(made.pictures), lead=lead)


def _spaces(made: Made) -> str:
    if not made.spaces:
        return ""
    body = [
        [text(name), *(f"{value:.2f}".replace("-", "−") for value in (one.alignment, *one.uniformity))]
        for name, one in made.spaces.items()
    ]
    head = ["Row", "Alignment", "Uniformity by ID", "Uniformity by content"]
    (first, *_) = made.spaces.values()
    return section(
        "spaces",
        "Items by ID and by content",
        table(head, body, css="numbers"),
        figure(
            figures.item_spaces(made.spaces),
            caption="The same items in one plane for each row: that in which its two spaces together vary most.",
        ),
        lead=f"{first.num_items:,} items that training has shown, first seed. Alignment: mean squared distance of an "
        "item's two unit vectors, content mapped to IDs linearly by the other half of the items; 2 by chance. "
        "Uniformity: log of the mean of e<sup>−2d²</sup> over pairs of items. Less is better of both.",
    )


def _costs(made: Made) -> str:
    told = describe(made)["costs"]
    if told is None:
        return ""
    rows = [cost_cells(one) for one in told["rows"]]
    on = ", ".join(f"{name} {value}" for name, value in told["machine"].items())
    return section(
        "costs",
        "What an answer costs",
        table(list(rows[0]), [[text(cell) for cell in row.values()] for row in rows], css="numbers"),
        lead=f"Of this machine ({text(on)}), as it was then: no claim rests on it. The same {QUERIES} queries of each "
        "row, one by one and all rows in turn, from words to items; first seed. Bytes: what is kept of an item to find "
        "it, without models. Illegal: IDs at the end of the decoder's beams that no item of the cell has.",
    )


def _agreement(made: Made) -> str:
    rows = [agreement_cells(one._asdict()) for one in made.agreements]
    if not rows:
        return ""
    return section(
        "agreement",
        "Semantic IDs of other seeds",
        table(list(rows[0]), [[text(cell) for cell in row.values()] for row in rows], css="plain"),
        lead="How far the first codes of two seeds group the same items: 1 alike, 0 as by chance; the mean of all "
        "pairs. Every seed has an encoder of its own, and its codebooks are of that one's vectors.",
    )


def _difference(row: Mapping[str, Any]) -> str:
    seeds = " · ".join(f"{100 * value:+.1f}" for value in row["seeds"]).replace("-", "−")
    return (
        f'<span class="value">{value_text(row)}</span><small class="interval">{interval_text(row)}</small>'
        f'<small class="seeds">seeds {seeds}</small>'
    )


def _as_record(one: Judged) -> dict[str, Any]:
    low, high = (None if value != value else value for value in (one.low, one.high))
    return {
        "kind": "difference",
        "value": one.difference,
        "low": low,
        "high": high,
        "verdict": one.verdict,
        "evidence": one.evidence,
        "seeds": one.seeds,
    }


def _pace_as_record(one: JudgedPace) -> dict[str, Any]:
    value, low, high = (None if number != number else number for number in one.difference)
    interval = {"kind": "difference", "value": value, "low": low, "high": high}
    return {**interval, "verdict": one.verdict, "evidence": one.evidence, "seeds": one.seeds}


def _trials(made: Made) -> str:
    head = ["Row", "Settings", f"{label(*made.planned.headline)} on validation, first seed"]
    chosen, every = [], []
    for one in made.rows:
        best = first_best(one.trials)
        for place, trial in enumerate(one.trials):
            settings = f"<code>{text(' '.join(trial.settings) or 'as it is')}</code>"
            value = f"{100 * trial.value:.1f}"
            every.append([text(one.row.name if place == 0 else ""), settings, value])
            if place == best:
                chosen.append([text(one.row.name), settings, value])
                every[-1].append(chip("chosen", css=""))
            else:
                every[-1].append("")
    rate = made.planned.form.trial_steps_rate
    lead = "What each row was tried with" + ("" if rate == 1 else f", in {100 * rate:.0f} % of its steps")
    return section(
        "trials",
        "Trials",
        table(head, chosen, css="numbers"),
        f"<details><summary>All {len(every)} trials</summary>{table([*head, ''], every, css='numbers')}</details>",
        lead=f"{lead}, and the best was chosen.",
    )


def _training(made: Made) -> str:
    """Show the logs of the chosen settings; the metrics are those of each row's own training."""
    logs = {f"{one.row.name}/{seed}": lines for one in made.rows for seed, lines in one.logs.items()}
    times = {one.row.name: _times(one) for one in made.rows}
    return training_section(
        logs, against=("step", "seconds"), facts=times, lead="Chosen settings, every seed.", claims=_paces(made)
    )


def _paces(made: Made) -> str:
    """Write who has learned soon."""
    if not made.paces:
        return ""
    body = [
        [
            f"{text(one.pace.claim)}<br><small>{text(one.pace)}</small>",
            f"{100 * one.pace.by:g}",
            f"{100 * one.sooner:.1f}",
            f"{100 * one.later:.1f}",
            _difference(row),
            tables.verdict_chip(row),
        ]
        for one, row in ((one, _pace_as_record(one)) for one in made.paces)
    ]
    head = ["Claim", "Steps done, %", "Reached by the first, %", "… by the second", "Difference, points", "Verdict"]
    said = (
        f"<h3>Who has learned soon</h3><p>{text(label(*made.planned.headline))} on the validation part, as a share of "
        "the best that a row comes to. The interval is over seeds; of one there is none.</p>"
    )
    return said + table(head, body, css="numbers")


def _times(one: RowMade) -> str:
    seconds = [
        max((line["seconds"] for line in lines if "seconds" in line), default=0.0) for lines in one.logs.values()
    ]
    return "training " + ", ".join(f"{value:,.0f} s" for value in seconds)


def _data(made: Made) -> str:
    summary, about = made.catalogue.artifact.summary, made.about
    facts = {name: f"{summary[name]:,}" for name in ("items", "queries", "users", "events") if summary.get(name)}
    facts |= {name: value for name, value in (("source", about.source), ("licence", about.licence)) if value}
    return section("data", "Data", definitions(facts), parts_of(made.split, config=made.planned.evaluation))


def _provenance(made: Made) -> str:
    rows = [
        [text(name), text(one.kind if isinstance(one, Artifact) else "fingerprint"), f"<code>{text(_id(one))}</code>"]
        for name, one in made.inputs.items()
    ]
    settings = json.dumps(describe(made)["settings"], indent=2, ensure_ascii=False)
    return section(
        "provenance",
        "Origin",
        command(made.about.run_command, what="makes everything again"),
        f"<details><summary>All {len(rows)} inputs</summary>"
        f"{table(['Input', 'Kind', 'Id'], rows, css='plain')}</details>",
        f"<details><summary>All settings</summary><pre>{text(settings)}</pre></details>",
        lead="Every number follows from these artefacts and settings.",
    )


def _id(one: Artifact | str) -> str:
    return one.id if isinstance(one, Artifact) else one
