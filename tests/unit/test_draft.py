"""A first config for tables under foreign names: what is told, what is asked for, and that `check` takes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from triptych.cli import app
from triptych.foundation.config import read_tree
from triptych.foundation.errors import ConfigError
from triptych.recipes import resolve
from triptych.recipes.draft import draft
from triptych.recipes.tables import read_and_check

START = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Films and ratings as MovieLens has them, under names that nobody knows."""
    (tmp_path / "posters").mkdir()
    rows = range(40)
    for row in rows:
        Image.new("RGB", (20, 30), (row, 0, 0)).save(tmp_path / "posters" / f"{row}.jpg")
    pl.DataFrame(
        {
            "film_no": rows,
            "name": [f"The {row}th story" for row in rows],
            "cover": [f"{row}.jpg" for row in rows],
            "synopsis": [f"a long tale of {row} people who went out to sea" for row in rows],
            "moods": ["dark|funny" if row % 2 else "dark" for row in rows],
        }
    ).write_csv(tmp_path / "films.csv")
    events = range(600)
    pl.DataFrame(
        {
            "viewer": [row % 23 for row in events],
            "film_no": [row * 7 % 40 for row in events],
            "stars": [row % 9 / 2 + 0.5 for row in events],
            "rated_at": [START + row * 3600 for row in events],
        }
    ).write_csv(tmp_path / "ratings.csv")
    return tmp_path


def drafted(folder: Path, **tables: str | None) -> Path:
    """Draft a config for files of a folder and write it there."""
    paths = {name: None if file is None else folder / file for name, file in tables.items()}
    text = draft(**{"events": None, "judgements": None, "photos": None, **paths}, base=folder)
    (folder / "shop.toml").write_text(text)
    return folder / "shop.toml"


def test_films_and_ratings_under_foreign_names_need_nothing_filled_in(films: Path):
    config = drafted(films, items="films.csv", events="ratings.csv", photos="posters")
    tree = read_tree(config)
    assert tree["recipe"] == "feed"
    assert tree["items"] == {
        "path": "films.csv",
        "id": "film_no",
        "title": "name",
        "photo": "cover",
        "photo_root": "posters",
    }
    assert tree["events"] == {
        "path": "ratings.csv",
        "item": "film_no",
        "time": "rated_at",
        "rating": "stars",
        "positive_rating": 3.5,
        "user": "viewer",
    }
    assert "synopsis (text)" in config.read_text() and "moods (multi)" in config.read_text()
    resolved = resolve(str(config), settings=())
    checked = read_and_check(resolved.config, base=resolved.base)
    assert checked.faults == []
    assert checked.summary.photo_rate == 1
    assert checked.summary.num_positives == sum(row % 9 / 2 + 0.5 >= 3.5 for row in range(600))
    assert checked.summary.num_users == 23


def test_with_several_columns_left_the_user_is_asked_for_and_check_points_at_the_line(films: Path):
    ratings = pl.read_csv(films / "ratings.csv").with_columns(device=pl.col("viewer") % 3)
    ratings.write_csv(films / "ratings.csv")
    config = drafted(films, items="films.csv", events="ratings.csv")
    assert read_tree(config)["events"]["user"] == "?"
    assert "'viewer', 'device'" in config.read_text()
    for command in (["check", str(config), "--no-photos"], ["config", "check", str(config)]):
        told = CliRunner().invoke(app, command)
        assert str(told.exception).startswith('events.user: still "?"')


def test_searches_make_a_shop_and_words_that_are_not_known_are_asked_for(films: Path):
    times = [datetime(2024, 5, 1, tzinfo=UTC) + timedelta(minutes=row) for row in range(20)]
    pl.DataFrame(
        {
            "uid": [f"u{row % 5}" for row in range(20)],
            "q": ["dark story"] * 20,
            "film_no": list(range(20)),
            "ts": times,
            "action": ["saw", "liked"] * 10,
        }
    ).write_parquet(films / "searches.parquet")
    config = drafted(films, items="films.csv", events="searches.parquet")
    tree = read_tree(config)
    assert tree["recipe"] == "shop"
    assert tree["events"]["kinds"] == {"saw": "?", "liked": "?"}
    with pytest.raises(ConfigError, match="saw"):
        resolve(str(config), settings=())
    config.write_text(config.read_text().replace('"saw" = "?"', '"saw" = "impression"').replace('"?"', '"click"'))
    resolved = resolve(str(config), settings=())
    checked = read_and_check(resolved.config, base=resolved.base)
    assert checked.summary.events_by_kind == {"impression": 10, "click": 10, "cart": 0, "order": 0}


def test_a_title_a_rating_and_an_item_under_names_nobody_knows_are_asked_for(films: Path):
    """As a German cinema exports them: nothing that matters may be left out without a word."""
    films_table = pl.read_csv(films / "films.csv").rename({"name": "titel", "film_no": "kino_id", "moods": "worte"})
    films_table.write_csv(films / "filme.csv", separator=";")
    ratings = pl.read_csv(films / "ratings.csv")
    ratings = ratings.rename({"viewer": "gast", "film_no": "kino", "stars": "wertung", "rated_at": "gesehen_at"})
    ratings.with_columns(was=pl.Series(["gesehen", "gekauft"] * 300)).write_ndjson(films / "besuche.jsonl")
    config = drafted(films, items="filme.csv", events="besuche.jsonl")
    tree, text = read_tree(config), config.read_text()
    assert tree["items"]["title"] == "?" and "'titel', 'synopsis'" in text
    assert "is 'wertung' a rating (0.5 to 4.5)?" in text and "# positive_rating = 3.5" in text
    assert "does 'was' say what happened?" in text and '"gekauft" = "?"' in text
    assert "title_features" not in text


def test_of_two_ratings_none_is_taken_and_a_name_of_two_lines_stays_on_one(films: Path):
    ratings = pl.read_csv(films / "ratings.csv")
    ratings.with_columns(score=pl.col("stars") > 3, note=pl.lit("x")).with_columns(pl.col("score").cast(int)).rename(
        {"note": "two\nlines"}
    ).write_csv(films / "ratings.csv")
    config = drafted(films, items="films.csv", events="ratings.csv")
    assert "rating" not in read_tree(config)["events"]
    assert "is 'stars' a rating" in config.read_text() and "is 'score' a rating" in config.read_text()
    assert "two lines" in config.read_text()


def test_the_recipe_follows_from_the_tables(films: Path):
    assert read_tree(drafted(films, items="films.csv"))["recipe"] == "catalogue"
    pl.DataFrame({"q": ["sea"], "film_no": [3], "grade": [2]}).write_csv(films / "grades.csv")
    tree = read_tree(drafted(films, items="films.csv", judgements="grades.csv"))
    assert tree["recipe"] == "judged"
    assert tree["judgements"] == {"path": "grades.csv", "query": "q", "item": "film_no", "grade": "grade"}


def test_two_columns_that_could_be_one_are_both_named(films: Path):
    pl.DataFrame({"sku": ["a", "b"], "asin": ["1", "2"], "name": ["x", "y"]}).write_csv(films / "two.csv")
    text = draft(items=films / "two.csv", events=None, judgements=None, photos=None, base=films)
    assert 'id = "?"' in text
    assert "'sku', 'asin'" in text


def test_a_file_is_written_beside_its_tables_and_never_over_another(films: Path):
    out = films / "config" / "shop.toml"
    out.parent.mkdir()
    arguments = ["config", "draft", "--items", str(films / "films.csv"), "--out", str(out)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert read_tree(out)["items"]["path"] == "../films.csv"
    assert f"triptych check {out}" in done.output
    before = out.read_text()
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ConfigError)
    assert out.read_text() == before
