"""The command line over a finished run: every command answers, and a mistake is one sentence and exit code 2."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import polars as pl
import pytest
from small_demo import DEMO_SETTINGS
from typer.testing import CliRunner

from triptych.cli import app
from triptych.engine import Engine
from triptych.foundation.errors import TriptychError
from triptych.recipes import resolve
from triptych.recipes.run_folder import RunFolder


@pytest.fixture(autouse=True)
def no_second_process(monkeypatch: pytest.MonkeyPatch):
    """`run` and `serve` start over under tcmalloc where there is one; inside pytest that would replace pytest."""
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")


def answer(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_search_prints_what_the_engine_finds(demo_run: Path):
    hits = json.loads(answer("search", demo_run, "red cake", "--k", "4", "--why", "--json"))
    expected = Engine.open(demo_run).search("red cake", k=4)
    assert [hit["item_id"] for hit in hits] == [hit.item_id for hit in expected]
    assert hits[0]["why"]["without_title"] is not None
    table = answer("search", demo_run, "red cake", "--k", "4")
    assert all(hit.item_id in table for hit in expected)


def test_search_by_photo_with_a_filter(demo_run: Path, tmp_path: Path):
    engine = Engine.open(demo_run)
    item = engine.search(None, channel="popularity", k=1)[0].item_id
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(engine.photo_jpeg(item))
    category = engine.item(item)["category"]
    hits = json.loads(answer("search", demo_run, "--photo", photo, "--category", category, "--json"))
    assert {hit["item"]["category"] for hit in hits} == {category}


def test_similar_and_recommend(demo_run: Path):
    item = json.loads(answer("search", demo_run, "lamp", "--k", "1", "--json"))[0]["item_id"]
    assert item not in {hit["item_id"] for hit in json.loads(answer("similar", demo_run, item, "--json"))}
    assert len(json.loads(answer("recommend", demo_run, "nobody", "--k", "3", "--json"))) == 3
    by_history = json.loads(
        answer("recommend", demo_run, "--history", item, "--channel", "dense", "--k", "3", "--json")
    )
    assert len(by_history) == 3 and item not in {hit["item_id"] for hit in by_history}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_score_keeps_the_order_of_its_pairs(demo_run: Path, tmp_path: Path, suffix: str):
    engine = Engine.open(demo_run)
    items = [hit.item_id for hit in engine.search("blue", k=3)]
    pairs = pl.DataFrame({"query": ["red", "blue", "red"], "item_id": items})
    pairs.write_csv(tmp_path / "pairs.csv")
    answer("score", demo_run, tmp_path / "pairs.csv", "--out", tmp_path / f"scored{suffix}")
    read = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[suffix]
    scored = read(tmp_path / f"scored{suffix}")
    assert scored["item_id"].to_list() == items
    expected = [engine.score(query, [item])[0] for query, item in zip(pairs["query"], items, strict=True)]
    assert scored["score"].to_list() == pytest.approx(expected, abs=1e-6)


PAIRS = (
    "query,item_id,grade\n"
    "red,{good},1\n"
    "red,no-such-item,2\n"
    "🦆,{good},3\n"
    ",{good},4\n"
    "blue,,5\n"
    "blue,{near},6\n"
    "blue,{good},7\n"
)
UNKNOWN_ITEM = "the catalogue has no such item"


@pytest.fixture
def faulty_pairs(demo_run: Path, tmp_path: Path) -> tuple[Path, str]:
    """A table in which rows 2 to 6 cannot be scored, and the item of the others."""
    good = Engine.open(demo_run).search("red", k=1)[0].item_id
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(PAIRS.format(good=good, near=good.upper().replace("I", "I_")), encoding="utf-8")
    return pairs, good


def test_score_scores_what_it_can_and_says_of_each_other_row_why_not(
    demo_run: Path, tmp_path: Path, faulty_pairs: tuple[Path, str]
):
    pairs, good = faulty_pairs
    out = tmp_path / "new" / "scored.parquet"
    told = answer("score", demo_run, pairs, "--out", out)
    scored = pl.read_parquet(out)
    assert scored.columns == ["query", "item_id", "grade", "score", "reason"]
    assert scored["grade"].to_list() == list("1234567")
    engine = Engine.open(demo_run)
    expected = [engine.score("red", [good])[0], *[None] * 5, engine.score("blue", [good])[0]]
    assert scored["score"].to_list() == [
        value if value is None else pytest.approx(value, abs=1e-6) for value in expected
    ]
    unknown_query = "nothing in the query is known"
    reasons = [None, UNKNOWN_ITEM, unknown_query, "no query", "no item_id", UNKNOWN_ITEM, None]
    assert scored["reason"].to_list() == reasons
    by = f"score: cosine by encoder {engine.info()['parts']['encoder']}, which reads title+photo"
    assert told.startswith(f"2 of 7 pairs scored → {out}\n{by}\n2 not scored, {UNKNOWN_ITEM}:\n  row 2: ")
    assert (
        f"row 6: There is no item '{good.upper().replace('I', 'I_')}' in the catalogue. Did you mean '{good}'?" in told
    )
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # nothing beside it


def test_score_as_json_counts_and_names_the_first_rows(demo_run: Path, tmp_path: Path):
    item = Engine.open(demo_run).search("red", k=1)[0].item_id
    pairs = pl.DataFrame({"query": ["red"] * 9, "item_id": [item, *(f"nope-{place}" for place in range(8))]})
    pairs.write_parquet(tmp_path / "pairs.parquet")
    told = json.loads(answer("score", demo_run, tmp_path / "pairs.parquet", "--out", tmp_path / "s.jsonl", "--json"))
    assert (told["pairs"], told["scored"], told["out"]) == (9, 1, str(tmp_path / "s.jsonl"))
    (fault,) = told["not_scored"]
    assert (fault["reason"], fault["pairs"]) == (UNKNOWN_ITEM, 8)
    assert [first["row"] for first in fault["first"]] == [2, 3, 4, 5, 6]
    assert fault["first"][0]["item_id"] == "nope-0"


def test_score_under_strict_ends_with_1_after_writing(demo_run: Path, tmp_path: Path, faulty_pairs: tuple[Path, str]):
    pairs, good = faulty_pairs
    out = tmp_path / "scored.csv"
    arguments = ["score", str(demo_run), str(pairs), "--out", str(out), "--strict"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 1
    assert pl.read_csv(out)["score"].null_count() == 5
    pairs.write_text(f"query,item_id\nred,{good}\n")
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0


def test_score_leaves_what_was_there_where_nothing_can_be_scored(demo_run: Path, tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("query,item_id\nred,nope\nblue,nope\n")
    (tmp_path / "scored.csv").write_text("older")
    for out, message in (
        ("scored.csv", "None of the 2 pairs of .* can be scored; row 1: There is no item 'nope'"),
        ("scored.txt", "'scored.txt' names no format that is written"),
        ("scored.csv/scored.csv", "cannot be written: "),
    ):
        with pytest.raises(TriptychError, match=message):
            answer("score", demo_run, tmp_path / "pairs.csv", "--out", tmp_path / out)
    assert (tmp_path / "scored.csv").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.csv", "scored.csv"}


def test_an_answer_that_is_not_what_was_asked_for_says_so_on_stderr(demo_run: Path):
    def told(*arguments: str) -> tuple[list[dict[str, object]], str]:
        result = CliRunner().invoke(
            app, [arguments[0], str(demo_run), *arguments[1:], "--json"], catch_exceptions=False
        )
        assert result.exit_code == 0
        return json.loads(result.stdout), result.stderr

    hits, note = told("search", "🦆", "--k", "3")
    assert note == "note: Nothing in '🦆' is known here, so these are the most popular items; try other words.\n"
    assert [hit["channel"] for hit in hits] == ["popularity"] * 3
    assert told("search", "zebrafish", "--channel", "bm25")[1].startswith("note: No title has a word of 'zebrafish'")
    assert told("recommend", "nobody")[1].startswith("note: Nothing is known of user 'nobody'")
    assert told("search", "red")[1] == ""


def test_report_prints_tables_and_records(demo_run: Path):
    table = answer("report", demo_run)
    assert "title+photo" in table
    assert "report.html" in table
    assert "semantic ids title+photo seed 0: 600 items, 3 levels of 64 codes" in table
    page = RunFolder.existing(demo_run).stage("report").file("report.html").read_text()
    assert "semantic ids: 600 items, 3 levels of 64 codes" in page and 'href="#semantic-ids"' in page
    records = json.loads(answer("report", demo_run, "--json"))
    assert {"task", "split", "slice", "model", "metric", "k", "value", "low", "high"} <= set(records[0])


def test_artifacts_are_listed_verified_and_drawn_as_a_tree(demo_run: Path):
    rows = json.loads(answer("artifacts", "list", demo_run, "--json"))
    assert {"catalogue", "encoder", "index", "bundle", "report"} <= {row["kind"] for row in rows}
    assert {row["of"] for row in rows if row["kind"] == "embeddings"} == {"title seed 0", "title+photo seed 0"}
    assert "every file as it was written" in answer("artifacts", "verify", demo_run)
    assert "from catalogue: catalogue/" in answer("artifacts", "tree", demo_run)
    assert "nothing to delete" in answer("artifacts", "prune", demo_run)
    shown = json.loads(answer("artifacts", "show", demo_run / rows[0]["artifact"]))
    assert shown["kind"] == rows[0]["kind"]


def test_config_shows_recipes_fields_and_a_config_that_is_itself_a_config(tmp_path: Path):
    assert "demo" in answer("config", "recipes")
    (tmp_path / "saved.json").write_text(answer("config", "show", "demo", "--set", "pretrain.loop.steps=7"))
    again = json.loads(answer("config", "show", tmp_path / "saved.json"))
    assert again["pretrain"]["loop"]["steps"] == 7
    assert "fine" in answer("config", "check", tmp_path / "saved.json")
    with pytest.raises(TriptychError, match="serve = 'validation' has no effect"):
        answer("config", "check", tmp_path / "saved.json", "--set", "serve=validation")
    fields = json.loads(answer("config", "fields", "--match", "loop.steps", "--json"))
    assert fields[0]["default"] == str(resolve("shop", settings=()).config.pretrain.loop.steps)
    assert fields[0]["meaning"]
    told = answer("config", "fields", "--match", "ranker.content")
    assert "em3 | frozen | none | semantic_ids | simtier" in told and "--set ranker.content.kind=em3" in told
    fields = json.loads(answer("config", "fields", "--set", "ranker.content.kind=em3", "--match", "tokens", "--json"))
    assert "ranker.content.tokens" in [field["path"] for field in fields]


def test_a_field_that_is_not_there_is_looked_for_where_it_may_be():
    with pytest.raises(
        TriptychError, match=r"with ranker.content.kind = 'em3' there is one: .*ranker.content.kind=em3"
    ):
        answer("config", "fields", "--match", "encoder_blocks")
    with pytest.raises(
        TriptychError, match="no field of 'shop' contains 'negatve_rate'. Did you mean 'negative_rate'?"
    ):
        answer("config", "fields", "--match", "negatve_rate")


def test_every_setting_has_a_meaning():
    fields = json.loads(answer("config", "fields", "demo", "--json"))
    assert [field["path"] for field in fields if not field["meaning"]] == []


def test_doctor_names_versions_and_memory():
    facts = json.loads(answer("doctor", "--json"))
    assert facts["torch"]
    assert facts["memory_gib"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "demmo", "--out", "x"), "no recipe 'demmo'. Did you mean 'demo'?"),
        (("run", "demo", "--out", "x", "--set", "pretrain.loop.stepz=1"), "Did you mean 'steps'?"),
        (("run", "shop", "--out", "x"), "names no items table"),
        (("run", "no.toml", "--out", "x"), "does not exist"),
        (("report", "nowhere"), "There is no run in 'nowhere'"),
        (("search", "nowhere", "dress"), "There is no run in 'nowhere'"),
        (("serve", "nowhere"), "There is no run in 'nowhere'"),
        (("check", "--items", "absent.csv"), "absent.csv"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TriptychError, match=message.replace("?", r"\?").replace("+", r"\+")):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_serve_says_what_is_wrong_before_anything_is_loaded(demo_run: Path, tmp_path: Path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "run.json").write_text(json.dumps({"stages": {"tables": "tables/0", "catalogue": "catalogue/0"}}))
    table = tmp_path / "items.csv"
    table.write_text("id\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, message in (
            (
                (unfinished,),
                "has no 'bundle' yet \\(finished: tables, catalogue\\). If it is still running, wait for it",
            ),
            ((table,), "items.csv' is a file; give the folder of a run"),
            ((demo_run, "--port", port), f"Port {port} of 127.0.0.1 is in use; choose another with --port"),
            ((demo_run, "--log-format", "xml"), "log_format: Input should be 'text' or 'json'"),
            ((demo_run, "--set", "max_photo_pixel=9"), "Did you mean 'max_photo_pixels'"),
        ):
            with pytest.raises(TriptychError, match=message):
                answer("serve", *arguments)


def test_serve_answers_logs_json_and_ends_quietly_at_ctrl_c(demo_run: Path):
    command = [sys.executable, "-m", "triptych.cli", "serve", str(demo_run), "--port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        try:
            assert served.stdout is not None
            address = served.stdout.readline().split()[2]
            until = time.monotonic() + 60
            while httpx.get(f"{address}ready").status_code != 200:
                assert time.monotonic() < until, "the service did not get ready"
                time.sleep(0.1)
            request_id = httpx.get(f"{address}api/search", params={"q": "a secret"}).headers["x-request-id"]
            served.send_signal(signal.SIGINT)
            out, err = served.communicate(timeout=60)
        finally:
            served.kill()
    assert (served.returncode, out) == (0, "")
    lines = [json.loads(line) for line in err.splitlines()]  # nothing but JSON: no traceback, no words of a library
    assert {line["route"] for line in lines} == {"/ready", "/api/search"}
    assert lines[-1]["request_id"] == request_id
    assert "secret" not in err


def test_a_mistake_ends_the_process_with_code_2_and_no_traceback(tmp_path: Path):
    command = [sys.executable, "-m", "triptych.cli", "report", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: There is no run in")
    assert "Traceback" not in done.stderr


def test_two_settings_that_do_not_go_together_are_refused():
    with pytest.raises(TriptychError, match="brings its own tables"):
        CliRunner().invoke(
            app,
            ["config", "show", "demo", "--set", "items.path=x.csv", "--set", DEMO_SETTINGS[0]],
            catch_exceptions=False,
        )


def test_index_sweep_measures_the_run_and_answers_a_target(demo_run: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(demo_run, folder)
    options = ("--k", 10, "--seconds", 0.2, "--queries", 40, "--kinds", "exact", "--kinds", "ivf")
    printed = answer("index", "sweep", folder, *options, "--recall", 0.99)
    assert "recall: 600 items of 128 numbers, 40 queries of the validation part, k = 10" in printed
    assert "index.kind = " in printed
    told = json.loads((folder / "index-sweep" / "sweep.json").read_text())
    assert {one["kind"] for one in told["found"]} == {"exact", "ivf"}
    assert told["vectors_of"] == "recall"
    assert told["found"][0]["recall"] == 1
    by = {one["of"] for one in told["found"][0]["filtered"]}
    assert by == {"random", "category", "cell", "price"}
    assert "(default)" in printed and "as a shop filters" in printed
    assert (folder / "index-sweep" / "sweep.png").is_file()
    nothing = answer("index", "sweep", folder, *options[:6], "--kinds", "exact", "--max-gib", 0)
    assert "None of these settings does what is asked." in nothing
