"""Splits: no leak of later events, parts and targets against plain loops, and the sentences for logs too short."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from triptych.data import catalogue as catalogues
from triptych.data import splits, text
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig
from triptych.data.splits import DAY_US, Part, Split, SplitBy, SplitConfig, count_pairs, cut, merge_targets
from triptych.data.tables import read_events, read_items
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, ConfigError, DataError

DAY_0 = datetime(2024, 5, 1, tzinfo=UTC)
DAY_0_US = int(DAY_0.timestamp()) * 1_000_000

CONFIGS = [
    SplitConfig(),
    SplitConfig(by=SplitBy.FRACTION),
    SplitConfig(by=SplitBy.FRACTION, validation_fraction=0.3, test_fraction=0.25),
    SplitConfig(by=SplitBy.DATES, validation_from=date(2024, 5, 3), test_from=date(2024, 5, 5)),
]


def times(hours: list[int]) -> np.ndarray:
    return np.sort(DAY_0_US + np.array(hours, dtype=np.int64) * 3_600_000_000)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.by}")
@settings(max_examples=150, deadline=None)
@given(log=st.lists(st.tuples(st.integers(0, 24 * 7), st.integers(0, 4)), min_size=1, max_size=60))
def test_no_later_part_precedes_its_users_training_events(config: SplitConfig, log: list[tuple[int, int]]) -> None:
    log = sorted(log)
    time_us = times([hour for hour, _ in log])
    try:
        parts = cut(time_us, config=config)
    except DataError:
        assume(False)
    assert [places.start for places in parts.values()] == [0, parts[Part.TRAIN].stop, parts[Part.VALIDATION].stop]
    assert parts[Part.TEST].stop == len(log)
    for user in range(5):
        own = {
            part: [log[i][0] for i in range(places.start, places.stop) if log[i][1] == user]
            for part, places in parts.items()
        }
        for earlier, later in ((Part.TRAIN, Part.VALIDATION), (Part.VALIDATION, Part.TEST), (Part.TRAIN, Part.TEST)):
            if own[earlier] and own[later]:
                assert max(own[earlier]) < min(own[later])  # strictly: one instant is never in two parts


def test_last_day_is_the_last_calendar_day_of_the_log() -> None:
    time_us = times([0, 23, 24, 47, 48, 49, 71, 72])
    parts = cut(time_us, config=SplitConfig())
    days = {part: sorted({int(t - DAY_0_US) // DAY_US for t in time_us[places]}) for part, places in parts.items()}
    assert days == {Part.TRAIN: [0, 1], Part.VALIDATION: [2], Part.TEST: [3]}


def test_last_day_passes_over_days_without_events() -> None:
    parts = cut(times([1, 2, 24 * 10, 24 * 40]), config=SplitConfig())
    assert [places.stop for places in parts.values()] == [2, 3, 4]


def test_last_day_works_before_1970() -> None:
    time_us = np.array([-3 * DAY_US, -2 * DAY_US - 1, -2 * DAY_US, -1], dtype=np.int64)
    assert [places.stop for places in cut(time_us, config=SplitConfig()).values()] == [2, 3, 4]


@settings(max_examples=100, deadline=None)
@given(st.integers(20, 400), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_fractions_are_shares_of_the_events(number: int, validation: float, test: float) -> None:
    config = SplitConfig(by=SplitBy.FRACTION, validation_fraction=validation, test_fraction=test)
    parts = cut(np.arange(number, dtype=np.int64), config=config)
    sizes = {part: places.stop - places.start for part, places in parts.items()}
    assert abs(sizes[Part.TEST] - number * test) <= 1
    assert abs(sizes[Part.VALIDATION] - number * validation) <= 1.5


def test_fraction_gives_a_whole_instant_to_the_later_part() -> None:
    time_us = np.array([0] * 5 + [1] * 3 + [2] * 2, dtype=np.int64)  # 80 % and 90 % both fall into the last instant
    config = SplitConfig(by=SplitBy.FRACTION, validation_fraction=0.3, test_fraction=0.1)
    assert [places.stop for places in cut(time_us, config=config).values()] == [5, 8, 10]


def test_dates_begin_at_midnight() -> None:
    config = SplitConfig(by=SplitBy.DATES, validation_from=date(2024, 5, 2), test_from=date(2024, 5, 4))
    parts = cut(times([0, 23, 24, 71, 72, 100]), config=config)
    assert [places.stop for places in parts.values()] == [2, 4, 6]


def test_a_log_that_is_too_short() -> None:
    with pytest.raises(DataError, match=r"events on 2 days .*needs 3\. Set split\.by = \"fraction\"\."):
        cut(times([0, 30]), config=SplitConfig())
    with pytest.raises(DataError, match="there are none"):
        cut(times([]), config=SplitConfig())
    with pytest.raises(DataError, match="the train part is empty"):
        cut(times([5, 5, 5]), config=SplitConfig(by=SplitBy.FRACTION))
    late = SplitConfig(by=SplitBy.DATES, validation_from=date(2024, 5, 2), test_from=date(2025, 1, 1))
    with pytest.raises(DataError, match=r"the test part is empty \(cut at 2024-05-02T00:00:00\+00:00"):
        cut(times([0, 30]), config=late)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"test_fraction": 0.2}, "test_fraction has no effect with by = 'last_day'"),
        ({"by": "fraction", "test_from": "2024-01-01"}, "test_from has no effect with by = 'fraction'"),
        ({"by": "dates"}, "needs both validation_from and test_from"),
        ({"by": "dates", "validation_from": "2024-02-01", "test_from": "2024-02-01"}, "must be before test_from"),
        ({"by": "fraction", "test_fraction": 0.95}, "leave nothing to train on"),
        ({"by": "fraction", "test_fraction": 1.5}, "less than 1"),
        ({"by": "user", "validation_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"by": "user", "relevant_grade": 2}, "relevant_grade has no effect with by = 'user'.*set by = 'query'"),
        ({"by": "given", "test_fraction": 0.2}, "Remove it, or set by = 'fraction' or 'user' or 'query'"),
        ({"by": "week"}, "'last_day', 'fraction', 'dates', 'user', 'query' or 'given'"),
    ],
)
def test_a_wrong_config_is_one_sentence(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplitConfig.parse(tree)


def test_the_config_survives_its_file() -> None:
    for config in CONFIGS:
        assert SplitConfig.parse(config.dump()) == config


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=60))
def test_merged_targets_and_counts_equal_a_loop(events: list[tuple[int, int]]) -> None:
    query_row = np.array([query for query, _ in events], dtype=np.int32)
    item_row = np.array([item for _, item in events], dtype=np.int32)
    expected: dict[int, set[int]] = {}
    for query, item in events:
        expected.setdefault(query, set()).add(item)
    targets = merge_targets(query_row, item_row, num_items=8)
    assert targets.query_row.tolist() == sorted(expected)
    assert targets.offsets.dtype == np.int64
    assert targets.query_row.dtype == targets.item_rows.dtype == np.int32
    for place, query in enumerate(targets.query_row):
        found = targets.item_rows[targets.offsets[place] : targets.offsets[place + 1]].tolist()
        assert found == sorted(expected[int(query)])
    assert targets.offsets[0] == 0
    assert targets.offsets[-1] == len(targets.item_rows)

    pairs = count_pairs(query_row, item_row, num_items=8)
    counted = sorted(Counter(events).items())
    assert list(zip(pairs.query_row, pairs.item_row, strict=True)) == [pair for pair, _ in counted]
    assert pairs.clicks.tolist() == [number for _, number in counted]


KINDS = ["impression", "click", "cart", "order"]


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    """Five days; user and query are sometimes absent, never both."""
    rng = np.random.default_rng(0)
    number = 600
    users = [f"u{n}" for n in rng.integers(0, 12, number)]
    queries = [f"query {n}" for n in rng.integers(0, 15, number)]
    return pl.DataFrame(
        {
            "time": [DAY_0 + timedelta(seconds=int(s)) for s in rng.integers(0, 5 * 86_400, number)],
            "user": [None if n % 7 == 0 else user for n, user in enumerate(users)],
            "query": [None if n % 5 == 1 else query for n, query in enumerate(queries)],
            "item_id": [f"i{n}" for n in rng.integers(0, 30, number)],
            "kind": [KINDS[n] for n in rng.choice(4, number, p=[0.6, 0.3, 0.05, 0.05])],
        }
    ).unique(maintain_order=True)


@pytest.fixture(scope="module")
def catalogue(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("tables")
    log.write_parquet(folder / "events.parquet")
    seen = [None if n else DAY_0 + timedelta(days=4, hours=1) for n in range(30)]
    titles = [f"title of {n}" if n else "unseen word zebra" for n in range(30)]
    pl.DataFrame({"item_id": [f"i{n}" for n in range(30)], "title": titles, "first_seen": seen}).write_parquet(
        folder / "items.parquet"
    )
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet"), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        None,
    )
    artifact = catalogues.build(CatalogueConfig(), tables=checked, inputs={"log": "seed 0"}, out=folder / "out")
    return Catalogue.open(artifact)


@pytest.fixture(scope="module")
def artifact(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return splits.build(SplitConfig(), catalogue=catalogue, out=tmp_path_factory.mktemp("split"))


def of_days(log: pl.DataFrame, first: int, last: int) -> list[dict[str, Any]]:
    """Positive events of some days, from the log as it was written."""
    inside = (pl.col("time") >= DAY_0 + timedelta(days=first)) & (pl.col("time") < DAY_0 + timedelta(days=last + 1))
    return log.filter(inside, pl.col("kind") != "impression").to_dicts()


@pytest.mark.parametrize(("part", "day"), [(Part.VALIDATION, 3), (Part.TEST, 4)])
def test_targets_merge_all_users_of_that_day(
    artifact: Artifact, catalogue: Catalogue, log: pl.DataFrame, part: Part, day: int
) -> None:
    expected: dict[str, set[str]] = {}
    for event in of_days(log, day, day):
        if event["query"] is not None:
            expected.setdefault(event["query"], set()).add(event["item_id"])
    targets = Split.open(artifact).targets(part)
    found = {
        catalogue.queries[query]: {catalogue.item_ids[row] for row in targets.item_rows[start:end]}
        for query, start, end in zip(targets.query_row, targets.offsets[:-1], targets.offsets[1:], strict=True)
    }
    assert found == expected


def test_train_pairs_and_slices_come_from_training_positives(
    artifact: Artifact, catalogue: Catalogue, log: pl.DataFrame
) -> None:
    split = Split.open(artifact)
    train = of_days(log, 0, 2)
    expected = Counter((event["query"], event["item_id"]) for event in train if event["query"] is not None)
    pairs = split.train_pairs(catalogue)
    found = {
        (catalogue.queries[query], catalogue.item_ids[item]): int(clicks)
        for query, item, clicks in zip(*pairs, strict=True)
    }
    assert found == dict(expected)
    seen = {event["query"] for event in train} - {None}
    assert [query in seen for query in catalogue.queries] == split.query_seen_in_train(catalogue).tolist()
    chosen = {event["item_id"] for event in train}
    assert [item_id not in chosen for item_id in catalogue.item_ids] == split.items_new(catalogue).tolist()
    assert split.items_new(catalogue).any()
    assert not split.items_new(catalogue).all()


def test_the_summary_counts_the_parts(artifact: Artifact, catalogue: Catalogue) -> None:
    split = Split.open(artifact)
    summary = artifact.summary
    assert sum(summary[part]["events"] for part in Part) == len(catalogue.events)
    assert summary["test"]["from"].startswith("2024-05-05")
    assert summary["validation"]["to"].startswith("2024-05-04")
    assert summary["test"]["pairs"] == len(split.targets(Part.TEST).item_rows)
    assert split.part(Part.TEST) == split.test
    assert catalogue.events["time"][split.test.start] >= datetime(2024, 5, 5, tzinfo=UTC)


def test_the_same_work_has_the_same_bytes(artifact: Artifact, catalogue: Catalogue, tmp_path: Path) -> None:
    again = splits.build(SplitConfig(), catalogue=catalogue, out=tmp_path)
    assert (again.id, again.manifest["files"]) == (artifact.id, artifact.manifest["files"])


def test_a_split_refuses_another_catalogue(artifact: Artifact, tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["a"], "title": ["x"]}).write_csv(tmp_path / "items.csv")
    checked = check_tables(read_items(ItemsConfig(path="items.csv"), base=tmp_path), None, None)
    stranger = Catalogue.open(catalogues.build(CatalogueConfig(), tables=checked, inputs={"a": "b"}, out=tmp_path))
    with pytest.raises(ArtifactError, match=stranger.artifact.id):
        Split.open(artifact).train_pairs(stranger)
    with pytest.raises(DataError, match="there are none"):
        splits.build(SplitConfig(), catalogue=stranger, out=tmp_path)


def test_the_tokenizer_is_trained_on_what_training_knew(
    artifact: Artifact, catalogue: Catalogue, log: pl.DataFrame, tmp_path: Path
) -> None:
    split = Split.open(artifact)
    titles, queries = text.training_texts(catalogue, split=split)
    assert sorted(titles) == sorted(title for title in catalogue.titles if "zebra" not in title)
    before = log.filter(pl.col("time") < DAY_0 + timedelta(days=3))["query"].drop_nulls().unique()
    assert sorted(queries) == sorted(before)
    made = text.build(text.TokenizerConfig(vocab_size=100), catalogue=catalogue, split=split, out=tmp_path / "a")
    again = text.build(text.TokenizerConfig(vocab_size=100), catalogue=catalogue, split=split, out=tmp_path / "b")
    assert made.manifest["files"] == again.manifest["files"]
    assert made.inputs == {"catalogue": catalogue.artifact.id, "split": artifact.id}
    tokenizer = text.TextTokenizer.load(made.file(text.FILE))
    assert tokenizer.vocab_size == made.summary["vocab_size"]
    assert "▁title" in tokenizer.pieces("title of 3")
    assert "▁zebra" not in tokenizer.pieces("zebra")
