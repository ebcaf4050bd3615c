"""Splits that are no cut by time for all: within users, by query, as given; and what each user has to be shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data import catalogue as catalogues
from triptych.data import splits, text
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.cuts import cut_queries, cut_within_users
from triptych.data.datasets.homedepot import HomedepotConfig
from triptych.data.datasets.movielens import MovielensConfig
from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig
from triptych.data.splits import Part, Split, SplitBy, SplitConfig
from triptych.data.tables import read_events, read_items, read_judgements
from triptych.data.targets import HistoryFrom
from triptych.foundation.errors import DataError

START = datetime(2024, 5, 1, tzinfo=UTC)
WITHIN_USERS = SplitConfig(by=SplitBy.USER)


def catalogue_of(folder: Path, *, events: pl.DataFrame | None, judgements: pl.DataFrame | None = None) -> Catalogue:
    tables = [table for table in (events, judgements) if table is not None]
    item_ids = pl.concat([table["item_id"] for table in tables]).unique().sort()
    pl.DataFrame({"item_id": item_ids, "title": "title of " + item_ids}).write_parquet(folder / "items.parquet")
    read_log = read_grades = None
    if events is not None:
        events.write_parquet(folder / "events.parquet")
        read_log = read_events(EventsConfig(path="events.parquet"), base=folder)
    if judgements is not None:
        judgements.write_parquet(folder / "judgements.parquet")
        read_grades = read_judgements(JudgementsConfig(path="judgements.parquet"), base=folder)
    checked = check_tables(read_items(ItemsConfig(path="items.parquet"), base=folder), read_log, read_grades)
    return Catalogue.open(catalogues.build(CatalogueConfig(), tables=checked, inputs={}, out=folder / "catalogue"))


def log_of(rows: list[tuple[int, str, str, str]], **more: list[str | None]) -> pl.DataFrame:
    """Make events of (second, user, item, kind)."""
    second, user, item, kind = zip(*rows, strict=True)
    times = [START + timedelta(seconds=one) for one in second]
    return pl.DataFrame({"time": times, "user": user, "item_id": item, "kind": kind, **more})


def split_of(catalogue: Catalogue, config: SplitConfig, folder: Path) -> Split:
    return Split.open(splits.build(config, catalogue=catalogue, out=folder / "split"))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-1, 5), min_size=1, max_size=80),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
)
def test_each_users_events_are_cut_in_the_order_of_time(users: list[int], validation: float, test: float) -> None:
    config = SplitConfig(by=SplitBy.USER, validation_fraction=validation, test_fraction=test)
    codes = cut_within_users(np.array(users), config=config)
    assert (codes[np.array(users) < 0] == 0).all()
    for user in set(users) - {-1}:
        own = codes[np.array(users) == user]
        assert (np.diff(own) >= 0).all()  # events are in time order: none of test comes before one of training
        number = len(own)
        before = max(1, int(number * (1 - validation - test) + 1e-9))
        until = max(before, int(number * (1 - test) + 1e-9))
        assert np.bincount(own, minlength=3).tolist() == [before, until - before, number - until]


def test_shares_do_not_depend_on_how_a_fraction_is_written_in_binary() -> None:
    for number in range(10, 200, 10):
        counts = np.bincount(cut_within_users(np.zeros(number, int), config=WITHIN_USERS))
        assert counts.tolist() == [number * 8 // 10, number // 10, number // 10]


def random_log(seed: int, *, num: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    kinds = ["impression", "click", "order"]
    rows = [
        (second, f"u{rng.integers(6)}", f"i{rng.integers(40):02}", kinds[rng.integers(3)])
        for second in np.sort(rng.integers(0, 9 * 86_400, num)).tolist()  # some of one second
    ]
    return log_of(rows).unique(maintain_order=True)


@pytest.mark.parametrize("config", [WITHIN_USERS, SplitConfig(by=SplitBy.FRACTION), SplitConfig()], ids=lambda c: c.by)
@pytest.mark.parametrize("history", list(HistoryFrom))
@pytest.mark.parametrize("part", [Part.VALIDATION, Part.TEST])
def test_what_a_user_should_be_shown_equals_a_plain_loop(
    config: SplitConfig, part: Part, history: HistoryFrom, tmp_path: Path
) -> None:
    catalogue = catalogue_of(tmp_path, events=random_log(3))
    split = split_of(catalogue, config, tmp_path)
    found = split.user_targets(catalogue, part, history=history)
    parts = np.full(len(catalogue.events), "none", dtype=object)
    for one in Part:
        parts[split.part(one)] = one.value
    earlier = ["train", "validation"] if part is Part.TEST and history is HistoryFrom.EARLIER else ["train"]
    rows = catalogue.events.with_columns(part=pl.Series(parts, dtype=pl.String)).filter(pl.col("kind") > 0)
    expected, lonely = {}, 0
    for user in range(catalogue.num_users):
        own = rows.filter(user_row=user)
        before = own.filter(pl.col("part").is_in(earlier))["item_row"].to_list()
        after = set(own.filter(part=part.value)["item_row"])
        lonely += bool(after) and not before
        if before and after - set(before):
            expected[user] = (before, sorted(after - set(before)))
    assert found.num_without_history == lonely
    assert found.user_row.tolist() == list(expected)
    for place, (before, after) in enumerate(expected.values()):
        assert found.histories.of(place).tolist() == before
        assert found.targets.of(place).tolist() == after


def test_training_histories_are_the_positives_of_training_in_time_order(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, events=random_log(4))
    split = split_of(catalogue, WITHIN_USERS, tmp_path)
    train = catalogue.events[split.train].filter(pl.col("kind") > 0)
    histories = split.train_histories(catalogue)
    for user in range(catalogue.num_users):
        assert histories.of(user).tolist() == train.filter(user_row=user)["item_row"].to_list()
    counts = train["item_row"].value_counts()
    assert dict(counts.iter_rows()) == {i: n for i, n in enumerate(split.train_counts(catalogue).tolist()) if n}


def test_within_users_is_said_wherever_a_number_stands(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, events=random_log(5))
    assert split_of(catalogue, WITHIN_USERS, tmp_path).caution == (
        "Split within each user: other users' later events are in training."
    )
    assert split_of(catalogue, SplitConfig(), tmp_path).caution == ""
    artifact = splits.build(WITHIN_USERS, catalogue=catalogue, out=tmp_path / "split")
    assert sum(artifact.summary[part]["events"] for part in Part) == len(catalogue.events)
    again = splits.build(WITHIN_USERS, catalogue=catalogue, out=tmp_path / "again")
    assert again.manifest["files"] == artifact.manifest["files"]


def test_the_tokenizer_knows_every_title_where_the_cut_is_not_by_time_for_all(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, events=random_log(6))
    within, by_time = (split_of(catalogue, one, tmp_path) for one in (WITHIN_USERS, SplitConfig()))
    assert text.training_texts(catalogue, split=within) == (catalogue.titles, [])
    assert len(text.training_texts(catalogue, split=by_time)[0]) <= catalogue.num_items


def test_a_split_that_the_table_brings(tmp_path: Path) -> None:
    rows = [(n, "ab"[n % 2], f"i{n}", "click") for n in range(8)]
    words: list[str | None] = ["train", "Train", "val", "0", "test", "valid", None, "2"]
    catalogue = catalogue_of(tmp_path, events=log_of(rows, split=words))
    split = split_of(catalogue, SplitConfig(by=SplitBy.GIVEN), tmp_path)
    assert [split.part(part).tolist() for part in Part] == [[0, 1, 3], [2, 5], [4, 7]]
    assert "as the events table brings it" in split.caution
    found = split.user_targets(catalogue, Part.TEST)
    asked = [catalogue.users[row] for row in found.user_row]
    assert {user: found.histories.of(place).tolist() for place, user in enumerate(asked)} == {
        "a": [0, 2],
        "b": [1, 3, 5],
    }
    trained = split.user_targets(catalogue, Part.TEST, history=HistoryFrom.TRAIN)
    assert [trained.histories.of(place).tolist() for place in range(2)] == [[0], [1, 3]]


def test_a_log_that_brings_no_split_is_told_so(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, events=random_log(7))
    with pytest.raises(DataError, match=r"the table brings no split\. Name the column .* with part under \[events\]"):
        split_of(catalogue, SplitConfig(by=SplitBy.GIVEN), tmp_path)
    with pytest.raises(DataError, match=r"judgements: there are none, and split\.by = 'query' divides judged queries"):
        split_of(catalogue, SplitConfig(by=SplitBy.QUERY), tmp_path)


def judged(num_queries: int = 50) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        (f"query {query}", f"i{item}", float(rng.choice([0.0, 0.67, 1.33, 2.0])))
        for query in range(num_queries)
        for item in rng.choice(30, 6, replace=False).tolist()
    ]
    return pl.DataFrame(rows, schema=["query", "item_id", "grade"], orient="row")


def test_judged_queries_are_divided_and_their_relevant_items_are_the_targets(tmp_path: Path) -> None:
    grades = judged()
    catalogue = catalogue_of(tmp_path, events=None, judgements=grades)
    config = SplitConfig(by=SplitBy.QUERY, relevant_grade=1.33)
    split = split_of(catalogue, config, tmp_path)
    own = {part: {catalogue.queries[row] for row in split.query_rows(part, catalogue=catalogue)} for part in Part}
    assert [len(own[part]) for part in Part] == [40, 5, 5]
    assert len(set.union(*own.values())) == 50
    relevant = grades.filter(pl.col("grade") > 1.3)
    for part in (Part.VALIDATION, Part.TEST):
        targets = split.targets(part)
        found = {
            (catalogue.queries[query], catalogue.item_ids[row])
            for query, start, end in zip(targets.query_row, targets.offsets[:-1], targets.offsets[1:], strict=True)
            for row in targets.item_rows[start:end]
        }
        assert found == set(relevant.filter(pl.col("query").is_in(own[part])).select("query", "item_id").rows())
    pairs = split.train_pairs(catalogue)
    learnt = {
        (catalogue.queries[q], catalogue.item_ids[i]) for q, i in zip(pairs.query_row, pairs.item_row, strict=True)
    }
    assert learnt == set(relevant.filter(pl.col("query").is_in(own[Part.TRAIN])).select("query", "item_id").rows())
    assert set(pairs.clicks.tolist()) == {1}
    new = {catalogue.item_ids[row] for row in np.flatnonzero(split.items_new(catalogue))}
    assert new == set(catalogue.item_ids) - {item for _, item in learnt}
    titles, queries = text.training_texts(catalogue, split=split)
    assert (titles, set(queries)) == (catalogue.titles, own[Part.TRAIN])
    assert split.caution == ""
    assert len(split.part(Part.TEST).indices(0)) == 3  # a run without events


def test_another_seed_draws_other_queries(tmp_path: Path) -> None:
    rows = np.arange(40)
    first, again, other = (
        cut_queries(rows, num_queries=50, config=SplitConfig(by=SplitBy.QUERY, seed=seed)) for seed in (0, None, 1)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert (first[40:] == -1).all()
    assert np.bincount(first[:40]).tolist() == [32, 4, 4]


def test_a_threshold_nobody_reaches_is_told(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, events=None, judgements=judged())
    with pytest.raises(DataError, match=r"no query of the train part has an item of grade 7 or more\. Lower split"):
        split_of(catalogue, SplitConfig(by=SplitBy.QUERY, relevant_grade=7), tmp_path)


def test_judged_queries_with_events_are_refused(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, events=random_log(8), judgements=judged())
    with pytest.raises(DataError, match=r"divides judged queries of data without events, and here are \d+"):
        split_of(catalogue, SplitConfig(by=SplitBy.QUERY), tmp_path)


@pytest.fixture(scope="module")
def films(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """MovieLens without its posters."""
    folder = tmp_path_factory.mktemp("films")
    tables = MovielensConfig(data_root=str(real_data)).prepare(folder)
    assert tables.events is not None
    items = tables.items.model_copy(update={"photo": "", "photo_root": None})
    checked = check_tables(read_items(items, base=folder), read_events(tables.events, base=folder), None)
    return Catalogue.open(catalogues.build(CatalogueConfig(), tables=checked, inputs={}, out=folder / "catalogue"))


@pytest.mark.real_data
@pytest.mark.parametrize("by", [SplitBy.USER, SplitBy.FRACTION])
def test_no_real_test_event_precedes_its_users_training_events(films: Catalogue, by: SplitBy, tmp_path: Path) -> None:
    split = split_of(films, SplitConfig(by=by), tmp_path)
    time_us, user_row = films.event_array("time"), films.event_array("user_row")
    last = np.full(films.num_users, np.iinfo(np.int64).min)
    for part in Part:
        places = split.part(part)
        assert (time_us[places] >= last[user_row[places]]).all()
        np.maximum.at(last, user_row[places], time_us[places])


@pytest.mark.real_data
def test_the_counts_of_both_protocols_on_real_ratings(films: Catalogue, tmp_path: Path) -> None:
    within = split_of(films, WITHIN_USERS, tmp_path)
    codes = films.events[within.test].group_by("user_row").agg(pl.col("kind").n_unique())
    assert codes.filter(pl.col("kind") == 2).height == 478  # users with a high and a low rating in test
    assert [len(within.part(part)) for part in Part] == [80_419, 10_059, 10_358]
    found = within.user_targets(films, Part.TEST)
    assert (len(found.user_row), len(found.targets.item_rows)) == (573, 4_930)
    by_time = split_of(films, SplitConfig(by=SplitBy.FRACTION), tmp_path)
    asked = by_time.user_targets(films, Part.TEST)
    assert len(asked.user_row) + asked.num_without_history == 72
    assert len(asked.user_row) == 25


@pytest.mark.real_data
def test_the_counts_of_real_judgements(real_data: Path, tmp_path: Path) -> None:
    tables = HomedepotConfig(data_root=str(real_data)).prepare(tmp_path)
    assert tables.judgements is not None
    checked = check_tables(
        read_items(tables.items, base=tmp_path), None, read_judgements(tables.judgements, base=tmp_path)
    )
    catalogue = Catalogue.open(
        catalogues.build(CatalogueConfig(), tables=checked, inputs={}, out=tmp_path / "catalogue")
    )
    split = split_of(catalogue, SplitConfig(by=SplitBy.QUERY, relevant_grade=1.33), tmp_path)
    assert [len(split.query_rows(part, catalogue=catalogue)) for part in Part] == [9_436, 1_179, 1_180]
    labels = pl.read_parquet(real_data / "homedepot_search" / "labels.parquet")
    learnt = sum(split.artifact.summary[part]["pairs"] for part in Part)
    assert learnt == labels.filter(pl.col("relevance") >= 2.33).height
