"""The report as an artefact: its files, its HTML, the tables for a terminal."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from triptych.evaluate import report
from triptych.evaluate.examples import ExampleKind, choose_examples
from triptych.evaluate.figures import by_slice, forest, forest_scale, training_curves
from triptych.evaluate.page.layout import training_logs
from triptych.evaluate.page.semantic_ids import semantic_ids_section
from triptych.evaluate.palette import variables
from triptych.evaluate.records import Role, role_of
from triptych.evaluate.report import About, read_records, text_tables
from triptych.evaluate.tasks import photo, search
from triptych.evaluate.tasks.base import EvaluationConfig, Rankings
from triptych.evaluate.text_table import with_interval
from triptych.foundation.artifact import produce
from triptych.foundation.errors import ArtifactError
from triptych.metrics.ranking import TargetSets
from triptych.semantic_ids import fit
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.stored import read_quality

CONFIG = EvaluationConfig(ks=(1, 2, 5), headline_k=2, bootstrap_repeats=200, examples=6)
ABOUT = About(
    name="shop",
    dataset="A <b>small</b> shop",
    simulated=True,
    run_command="triptych run demo --out runs/demo",
    report_command="triptych report runs/demo",
    faults=[{"table": "items", "column": "photo", "fault": "broken_photo", "count": 1234, "first_rows": [3, 4]}],
)


@pytest.fixture(scope="module")
def models(scripted):
    return {
        "popularity": scripted("popularity", knowledge=0.0),
        "bm25": scripted("bm25", knowledge=0.3, sight=0.3),
        "title": scripted("title", sight=0.1, seed=1),
        "title+photo": scripted("title+photo", seed=2),
        "permuted-photo": scripted("permuted-photo", sight=0.1, seed=3),
        "my <own> model": scripted("mine", knowledge=0.5, seed=4),
        "oracle": scripted("oracle", noise=0.0),
    }


@pytest.fixture(scope="module")
def inputs(small_shop, tmp_path_factory):
    def write(folder):
        lines = [{"event": "train", "step": step, "loss": 5.0 / step} for step in range(1, 91)]
        lines.insert(50, {"event": "validation", "step": 50, "recall@5": 0.5, "validation_seconds": 1.0})
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {}

    encoder = produce(tmp_path_factory.mktemp("encoder"), kind="encoder", config={}, inputs={}, build=write)
    shop = {"catalogue": small_shop.catalogue.artifact, "split": small_shop.split.artifact}
    return {**shop, "encoder/title+photo/0": encoder, "popularity": "0123456789abcdef"}


@pytest.fixture(scope="module")
def made(models, inputs, small_shop, tmp_path_factory):
    catalogue = small_shop.catalogue

    def photo_task():
        rows = np.flatnonzero(catalogue.photos.has)[:10]
        return photo.evaluate(
            {},
            catalogue=catalogue,
            photos=catalogue.photos.pixels(rows),
            item_rows=rows,
            config=CONFIG,
            split=small_shop.split,
            task="shelf photo",
        )

    return report.run(
        CONFIG,
        catalogue=catalogue,
        split=small_shop.split,
        tasks=[
            lambda: search.evaluate(models, catalogue=catalogue, split=small_shop.split, config=CONFIG),
            photo_task,
        ],
        inputs=inputs,
        out=tmp_path_factory.mktemp("report"),
        about=ABOUT,
    )


@pytest.fixture(scope="module")
def page(made) -> str:
    return made.file("report.html").read_text(encoding="utf-8")


def test_the_artefact_holds_the_numbers_and_the_page(made):
    assert made.kind == "report"
    assert set(made.manifest["files"]) == {"records.json", "per_query.parquet", "report.html"}
    records = read_records(made)
    assert {row["task"] for row in records} == {"search", "shelf photo"}
    values = pl.read_parquet(made.file("per_query.parquet"))
    assert set(values["task"]) == {"search", "shelf photo"}
    own = values.filter(task="search", slice="photo_only", model="bm25")["recall@5"]
    record = next(
        row
        for row in records
        if (row["slice"], row["model"], row["metric"], row["k"]) == ("photo_only", "bm25", "recall", 5)
    )
    assert record["value"] == pytest.approx(own.mean())
    assert made.summary["recall@2"]["oracle"] == 1.0
    assert made.summary["queries"] == 20
    assert made.summary["headline_k"] == CONFIG.headline_k
    assert made.summary["simulated"] is True
    assert all(row["simulated"] is True for row in records)


def test_records_that_do_not_say_whether_behaviour_is_simulated_are_refused(made, tmp_path):
    rows = [{key: value for key, value in row.items() if key != "simulated"} for row in read_records(made)]

    def write(folder):
        (folder / "records.json").write_text(json.dumps(rows))
        return {}

    old = produce(tmp_path, kind="report", config={}, inputs={}, build=write)
    with pytest.raises(ArtifactError, match=r"written by an earlier version.*Delete the folder and run again"):
        read_records(old)


def test_a_finished_report_is_opened_without_loading_a_model(made, inputs, small_shop):
    def refuse():
        raise AssertionError("the report is there already")

    again = report.run(
        CONFIG,
        catalogue=small_shop.catalogue,
        split=small_shop.split,
        tasks=[refuse],
        inputs=inputs,
        out=made.path.parent,
        about=About(name="another name"),
    )
    assert again.id == made.id


class _Balance(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if "svg" not in self.open and values.get("id"):
            self.ids.append(values["id"])
        self.links += [values["href"]] if tag == "a" else []
        self.sources += [values[name] for name in ("src", "srcset", "data") if values.get(name)]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


@pytest.fixture(scope="module")
def parsed(page) -> _Balance:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_is_one_file_that_needs_nothing_else(page, parsed):
    assert parsed.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in parsed.sources)
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "$" not in parsed.text
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link for link in parsed.links if link.startswith("#")} <= {f"#{anchor}" for anchor in parsed.ids}


def test_the_page_says_what_it_must(parsed):
    text = " ".join(parsed.text.split())
    for words in (
        "A <b>small</b> shop",  # escaped, so that it is text
        "my <own> model",
        "simulated behaviour",
        "one seed",
        "One seed is never evidence",
        "triptych report runs/demo --json",
        "broken_photo",
        "1,234",
        "Recall@2, title+photo",
        "photo only",
        "Training loss",
        "Validation: recall@5",
        "What the picture brought",
        "Bad results",
        "0123456789abcdef",
        "<i>scarf</i> & more",
        "baseline",
        "ceiling",
        "control",
        "difference > 0",
        "5 May 2024",
    ):
        assert words in text, words


def test_every_table_of_numbers_says_that_behaviour_is_simulated_and_no_word_speaks_of_people(page, parsed):
    tables = re.findall(r'<table class="(numbers[^"]*)">(<caption>[^<]*</caption>)?', page)
    assert {css for css, _ in tables} == {"numbers main-table", "numbers pairs", "numbers"}
    assert {caption for _, caption in tables} == {"<caption>Simulated behaviour.</caption>"}
    assert not re.search(r"\b(people|somebody|anybody|nobody)\b", parsed.text, re.IGNORECASE)


def test_the_quality_of_semantic_ids_stands_level_by_level(inputs, tmp_path, page):
    assert "Semantic IDs" not in page
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    settings = ("quantizer.codes=8", "quantizer.levels=2", "quality.k=5")
    ids = fit.run(SemanticIdsConfig().override(*settings), embeddings=tmp_path / "vectors.npy", out=tmp_path / "ids")
    shown = semantic_ids_section({**inputs, "semantic ids": ids})
    quality = read_quality(ids)
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", shown)
    for place, level in enumerate(quality.levels, start=1):
        start = cells.index(str(place))
        assert cells[start + 1 : start + 3] == [f"{level.utilisation_rate:.1%}", f"{level.perplexity:,.1f}"]
        assert cells[start + 5] == f"{level.mse:.3g}"
    assert quality.levels[1].mse < quality.levels[0].mse
    assert cells[cells.index("distinct ids") + 1] == f"{quality.unique_ids:,}"
    assert "semantic ids: 200 items, 2 levels of 8 codes" in shown


def test_every_figure_follows_the_pages_colours(page):
    assert page.count("<svg role") >= 4
    assert not re.findall(r"#[ab]000[0-9a-f]{2}", page)
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)", page)):
        assert f"{variable}:" in page, f"{variable} is used and not defined"


def test_the_best_value_is_bold_and_neither_ceiling_nor_control(page, made):
    table = page[page.index('class="numbers main-table"') : page.index("</table>")]
    rows = {re.search(r"</i>([^<]*)<", row)[1]: row for row in table.split("<tr")[2:]}
    records = [row for row in read_records(made) if row["task"] == "search" and row["slice"] == "all"]
    recall = {
        row["model"]: row["value"]
        for row in records
        if row["metric"] == "recall" and row["k"] == 2 and "kind" not in row
    }
    rivals = {model: value for model, value in recall.items() if role_of(model) in (Role.MODEL, Role.BASELINE)}
    assert max(rivals, key=rivals.get) == "title+photo"
    assert "<b>" in rows["title+photo"]
    assert "<b>" not in rows["oracle"]
    assert "<b>" not in rows["permuted-photo"]


def test_text_tables_have_the_same_columns_in_every_row(made):
    tables = text_tables(read_records(made), headline_k=made.summary["headline_k"])
    assert len(tables) == 5  # models, slices, comparisons; the photo task has nothing trained to compare
    for table in tables:
        assert {tuple(row) for row in table.rows} == {tuple(table.rows[0])}
        assert all(isinstance(value, str) for row in table.rows for value in row.values())
    models, slices, pairs, photos, photo_slices = tables
    assert [row["model"] for row in models.rows][-2:] == ["permuted-photo", "oracle"]
    assert models.rows[-1]["R@2"].startswith("100.0 [")
    assert "One seed is never evidence" in models.note
    assert {row["slice"] for row in slices.rows} >= {"all", "photo_only", "new_items"}
    assert {row["verdict"] for row in pairs.rows if row["claim"]} <= {"holds", "fails", "undecided"}
    assert {row["verdict"] for row in pairs.rows if not row["claim"]} <= {""}
    assert [row["model"] for row in photos.rows] == ["colour-histogram", "chance"]
    assert [row["slice"] for row in photo_slices.rows] == ["all", "seen_items", "new_items"]
    assert photos.note == "Simulated behaviour."
    assert all(table.note.startswith("Simulated behaviour.") for table in tables)
    real = text_tables([{**row, "simulated": False} for row in read_records(made)], headline_k=2)
    assert [table.note for table in real] == [models.note.removeprefix("Simulated behaviour. "), "", "", "", ""]


def test_many_models_stand_below_each_other(made):
    """More than a terminal is wide: the same figures, turned."""
    rows = [row for row in read_records(made) if row["task"] == "search"]
    wide = next(table for table in text_tables(rows) if "by slice" in table.title).rows
    more = [{**row, "model": f"twin of {row['model']}"} for row in rows if "baseline" not in row]
    turned = next(table for table in text_tables([*rows, *more]) if "by slice" in table.title).rows
    found = {line["model"]: line for line in turned}
    for line in wide:
        for model in (name for name in line if name != "slice"):
            assert found[model][line["slice"]] == line[model]


def test_numbers_are_written_as_people_read_them():
    share = {"value": 0.3694, "low": 0.352, "high": 0.3836}
    assert with_interval(share) == "36.9 [35.2, 38.4]"
    assert with_interval({**share, "low": None, "high": None}) == "36.9"
    assert with_interval({"kind": "difference", "value": -0.012, "low": -0.03, "high": 0.005}) == "−1.2 [−3.0, +0.5]"
    assert with_interval({"kind": "ratio", "value": 1.36, "low": 1.2, "high": None}) == "1.36× [1.20×, ∞]"


def test_a_paired_interval_is_drawn_to_scale():
    rows = [
        {"kind": "difference", "value": 0.1, "low": 0.0, "high": 0.2},
        {"kind": "difference", "value": -0.1, "low": -0.2, "high": 0.0},
    ]
    place = forest_scale(rows, kind="difference")
    assert [place(value) for value in (-0.2, 0.0, 0.2)] == pytest.approx([0.0, 0.5, 1.0])
    assert 'cx="146.0"' in forest(rows[0], place=place)
    ratio = {"kind": "ratio", "value": 2.0, "low": 1.0, "high": 4.0}
    assert forest_scale([ratio], kind="ratio")(2.0) == pytest.approx(0.5)
    assert forest({**ratio, "low": None, "high": None}, place=place) == ""
    assert "infinity" in forest({**ratio, "high": None}, place=forest_scale([ratio], kind="ratio"))


def test_figures_are_the_same_every_time(made):
    rows = [row for row in read_records(made) if row["task"] == "search"]
    assert by_slice(rows, metric="recall", ks=[2, 5]) == by_slice(rows, metric="recall", ks=[2, 5])
    assert training_curves({"title": [{"step": 1}]}, field="loss", title="Loss") == ""


def test_curves_of_many_models_are_told_apart():
    """More models than colours: those of one colour have another line each, and the figure grows by its legend."""
    curves = {f"row {place}": [{"step": step, "loss": place + step} for step in (1, 2)] for place in range(20)}
    few = {name: curves[name] for name in list(curves)[:4]}
    drawn, small = (training_curves(some, field="loss", title="Loss") for some in (curves, few))
    lines = re.findall(r'<path d="M [^"]*" (?:clip-path="[^"]*" )?style="fill: none; ([^"]*)"', drawn)
    looks = {(re.findall(r"stroke: (var[^;]*)", one)[0], "dasharray" in one) for one in lines if "var(--m-" in one}
    assert len(looks) == 20
    width, height = (float(value) for value in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0])
    small_width, small_height = (float(value) for value in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', small)[0])
    assert width > small_width
    assert height > small_height


def test_training_logs_are_found_by_model_and_seed(inputs):
    encoder = inputs["encoder/title+photo/0"]
    names = {"encoder": encoder, "encoder:title": encoder, "encoder/title+photo/1": encoder, "split": inputs["split"]}
    assert set(training_logs(names, models=["title", "title+photo"])) == {"", "title", "title+photo/1"}


def test_known_models_keep_their_colours_and_others_get_their_own():
    assert variables(["title", "x", "y"])["title"] == variables(["y", "title"])["title"]
    assert len({variables(["x", "y"])[model] for model in ("x", "y", "title", "bm25")}) == 4


def rankings(model: list[list[int]], title: list[list[int]]) -> Rankings:
    targets = TargetSets(np.arange(len(model) + 1), np.zeros(len(model), dtype=np.int64))
    shown = {"title+photo": np.array(model), "title": np.array(title), "bm25": np.array(title)}
    return Rankings(np.arange(len(model)), targets, shown)


def test_examples_keep_the_rules_that_the_page_prints():
    # Item 0 is every query's target. The model has it for queries 0 to 5, the title model for 0 to 2.
    found, missed = [0, 1, 2], [3, 1, 2]
    shown = rankings([found] * 6 + [missed] * 4, [found] * 3 + [missed] * 7)
    chosen = choose_examples(shown, config=CONFIG.override("examples=30"))
    by_kind = {kind: {one.position for one in chosen if one.kind is kind} for kind in ExampleKind}
    assert by_kind[ExampleKind.BROUGHT] == {3, 4, 5}
    assert by_kind[ExampleKind.GOOD] == {0, 1, 2}
    assert by_kind[ExampleKind.BAD] == {6, 7, 8, 9}
    assert {one.highlights for one in chosen if one.kind is ExampleKind.BROUGHT} == {frozenset({0})}
    assert {one.beside for one in chosen if one.kind is ExampleKind.BROUGHT} == {"title"}
    assert len(choose_examples(shown, config=CONFIG)) == 6
    assert choose_examples(shown, config=CONFIG) == choose_examples(shown, config=CONFIG)
    assert choose_examples(shown, config=CONFIG.override("examples=0")) == []
    assert choose_examples(shown, config=CONFIG.override("model=mine")) == []
