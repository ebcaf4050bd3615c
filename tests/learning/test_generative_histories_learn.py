"""Generation from histories on a log whose next item is known: it follows from the ID of the one before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from triptych.data import catalogue as catalogues
from triptych.data import splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig
from triptych.data.splits import Split, SplitBy, SplitConfig
from triptych.data.tables import read_events, read_items
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError, DataError, EngineError
from triptych.recall import generative_train
from triptych.recall.base import Request
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recall.generative_train import GenerativeTask, GenerativeTrainConfig, Given

RING, MEMBERS, USERS, CHOICES, READ = 7, 3, 63, 6, 2
CODES = np.array([[place, member] for place in range(RING) for member in range(MEMBERS)], dtype=np.uint16)
"""Whoever chose (place, member) chooses (place + 1, member) next."""


def after(row: int, steps: int = 1) -> int:
    """The item that follows."""
    return (row + steps * MEMBERS) % (RING * MEMBERS)


class Walks(NamedTuple):
    catalogue: Catalogue
    split: Split


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Walks:
    folder: Path = tmp_path_factory.mktemp("walks")
    ids = [f"i{row:02}" for row in range(len(CODES))]
    pl.DataFrame({"item_id": ids, "title": ids}).write_parquet(folder / "items.parquet")
    start = datetime(2024, 5, 1, tzinfo=UTC)
    events = [
        {"time": start + timedelta(hours=n, seconds=user), "user": f"u{user:02}", "item_id": ids[row], "kind": "click"}
        for user in range(USERS)
        for n in range(CHOICES)
        for row in [after(user % len(CODES), n)]
    ]
    again = {"time": start + timedelta(hours=1, minutes=30), "user": "u00", "item_id": ids[0], "kind": "order"}
    pl.DataFrame([*events, again]).write_parquet(folder / "events.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet"), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        None,
    )
    built = catalogues.build(CatalogueConfig(photo_px=16), tables=checked, inputs={}, out=folder / "catalogue")
    catalogue = Catalogue.open(built)
    within = SplitConfig(by=SplitBy.USER, validation_fraction=0.2, test_fraction=0.2)
    return Walks(catalogue, Split.open(splits.build(within, catalogue=catalogue, out=folder / "split")))


def given(walks: Walks, codes: np.ndarray = CODES) -> Given:
    return Given(walks.catalogue, walks.split, None, codes, num_codes=RING, seed=0)


def config(**settings) -> GenerativeTrainConfig:
    model = {
        "asks": "history",
        "dim": 32,
        "heads": 2,
        "layers": 1,
        "reader_layers": 1,
        "dropout_rate": 0.0,
        "history_items": READ,
        "beams": 8,
    }
    tree = {"batch_pages": 63, "epochs": 30, "validations": 2, "validation_k": 1, "learning_rate": 5e-3}
    return GenerativeTrainConfig.parse({**tree, "device": "cpu", "precision": "fp32", "model": model, **settings})


@pytest.fixture(scope="module")
def made(walks: Walks, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out: Path = tmp_path_factory.mktemp("generative")
    return generative_train.run(config(), given(walks), inputs={"log": "walks"}, out=out)


@pytest.fixture(scope="module")
def answers(made: Artifact, walks: Walks) -> GenerativeRetriever:
    return GenerativeRetriever.load(made.path, catalogue=walks.catalogue)


def first(answers: GenerativeRetriever, *requests: Request) -> list[int]:
    return answers.retrieve(requests, 1).item_rows[:, 0].tolist()


def test_what_comes_next_is_learned(made: Artifact, answers: GenerativeRetriever):
    assert made.summary["metrics"]["recall@1"] > 0.9
    lasts = range(len(CODES))
    asked = [Request(history=np.array([after(row, -1), row])) for row in lasts]
    assert np.mean([found == after(row) for found, row in zip(first(answers, *asked), lasts, strict=True)]) > 0.9


def test_a_user_is_asked_by_what_the_log_has_of_him_before_a_moment(answers: GenerativeRetriever, walks: Walks):
    own = walks.catalogue.history(walks.catalogue.user_row("u04"))
    places = walks.catalogue.histories.of(walks.catalogue.user_row("u04"))
    for count in (1, 3, CHOICES):
        before = None if count == CHOICES else int(places[count])
        found = answers.retrieve([Request(user="u04", before=before), Request(history=own[:count])], 30)
        np.testing.assert_array_equal(found.item_rows[0], found.item_rows[1])
        np.testing.assert_array_equal(found.scores[0], found.scores[1])
        assert not np.isin(found.item_rows, own[:count]).any()
    assert first(answers, Request(user="u04", before=int(places[3]))) == [own[3]]


def test_a_stranger_is_answered_and_what_cannot_be_read_is_told(
    answers: GenerativeRetriever, made: Artifact, walks: Walks
):
    strangers = answers.retrieve([Request(user="nobody"), Request(history=np.empty(0, np.int64)), Request()], 5)
    assert (strangers.item_rows >= 0).all()
    assert (strangers.item_rows == strangers.item_rows[0]).all()
    for request in (Request(query="i00"), Request(item_row=3, user="u04")):
        with pytest.raises(EngineError, match="it answers users. Give user or history"):
            answers.retrieve([request], 1)
    with pytest.raises(EngineError, match="item row 99 in a history has no semantic ID"):
        answers.retrieve([Request(history=np.array([2, 99]))], 1)
    closed = GenerativeRetriever.load(made.path)
    with pytest.raises(EngineError, match="without a catalogue, so it cannot look up a history"):
        closed.retrieve([Request(user="u04")], 1)
    asked = Request(history=np.array([3]))
    assert first(closed, asked) == first(answers, asked)


@pytest.mark.parametrize("few", [0, 1_000])
def test_a_filter_takes_out_what_it_does_not_keep_by_a_tree_or_as_left_out(
    answers: GenerativeRetriever, monkeypatch: pytest.MonkeyPatch, few: int
):
    monkeypatch.setattr("triptych.recall.generative_retriever.FEW_LEFT_OUT", few)
    rng = np.random.default_rng(0)
    histories = [np.array([after(row, -1), row]) for row in (0, 9, 16)]
    keeps = [rng.random(len(CODES)) < 0.6 for _ in histories]
    asked = [Request(history=history, keep=keep) for history, keep in zip(histories, keeps, strict=True)]
    found = answers.retrieve(asked, 8)
    for row, (history, keep) in enumerate(zip(histories, keeps, strict=True)):
        rest = answers.over(answers.trie.only(keep).without(history), vectors=None)
        alone = rest.retrieve([Request(history=history)], 8)
        np.testing.assert_array_equal(found.item_rows[row], alone.item_rows[0])
        np.testing.assert_allclose(found.scores[row], alone.scores[0], rtol=1e-5)
        said = found.item_rows[row][found.item_rows[row] >= 0]
        assert len(said) and keep[said].all() and not np.isin(said, history).any()


def test_what_is_gone_is_read_on_and_what_is_new_is_said(answers: GenerativeRetriever):
    asked = Request(history=np.array([after(8, -1), 8]))
    without = answers.over(answers.trie.without(np.array([8, after(8)])), vectors=None)
    assert first(answers, asked) == [after(8)]
    assert after(8) not in without.retrieve([asked], 30).item_rows
    new = len(CODES)
    grown = without.over(without.trie.with_items(CODES[after(8)][None], item_rows=np.array([new])), vectors=None)
    assert first(grown, asked) == [new]
    assert first(grown, Request(history=np.array([after(8, -1), 8, new]))) == [after(8, 2)]


def test_items_under_one_id_stand_by_how_near_they_are_to_what_was_chosen(answers: GenerativeRetriever):
    new = np.arange(len(CODES), len(CODES) + 2)
    trie = answers.trie.with_items(CODES[[after(8)] * 2], item_rows=new)
    vectors = np.zeros((len(CODES) + 2, 2), dtype=np.float32)
    vectors[[after(8, -1), 8]] = [[1, 0], [0, 1]]
    vectors[[after(8), *new]] = [[0.3, 0.3], [0.9, 0], [0, 0.2]]
    found = answers.over(trie, vectors=vectors).retrieve([Request(history=np.array([after(8, -1), 8]))], 3)
    assert found.item_rows[0].tolist() == [new[0], after(8), new[1]]
    assert (np.diff(found.scores[0]) < 0).all()


def test_a_batch_is_a_function_of_its_number_and_reads_what_was_chosen_before(walks: Walks):
    """By a plain loop over the log: the latest two before each choice, whichever part of a batch it is in."""
    task, other = GenerativeTask(config(), given(walks)), GenerativeTask(config(), given(walks))
    log = walks.catalogue.events.select("user_row", "item_row").rows()
    pairs, train = [], set(np.arange(len(log))[walks.split.train].tolist())
    for place, (user, item) in enumerate(log):
        before = [chosen for who, chosen in log[:place] if who == user][-READ:]
        if place in train:
            pairs.append((tuple(map(tuple, CODES[before].tolist())), tuple(CODES[item].tolist())))
    drawn = []
    for index in range(round(task.batches_per_epoch)):
        batch = task.batch(index)
        np.testing.assert_array_equal(batch.ask.history, other.batch(index).ask.history)
        for history, target in zip(batch.ask.history.tolist(), batch.codes.tolist(), strict=True):
            drawn.append((tuple(tuple(item) for item in history if item[0] >= 0), tuple(target)))
    assert set(drawn) == set(pairs)
    assert not np.array_equal(task.batch(0).codes, task.batch(1).codes)


def test_what_is_to_be_said_is_not_read(walks: Walks):
    """Another ID for an item changes what is read where it was chosen before, and nowhere else."""
    item = 10
    changed = CODES.copy()
    changed[item] = [6, 6]
    task, other = GenerativeTask(config(), given(walks)), GenerativeTask(config(), given(walks, changed))
    seen = []
    for index in range(3):
        one, two = task.batch(index), other.batch(index)
        is_target = (one.codes.numpy() == CODES[item]).all(axis=1)
        was_before = (one.ask.history.numpy() == CODES[item]).all(axis=2).any(axis=1)
        np.testing.assert_array_equal((one.codes != two.codes).numpy().any(axis=1), is_target)
        np.testing.assert_array_equal((one.ask.history != two.ask.history).numpy().any(axis=(1, 2)), was_before)
        seen.append((is_target & ~was_before).sum())
    assert sum(seen) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"asks": "history", "memory_tokens": 2}, "memory_tokens has no effect with asks = 'history'"),
        ({"history_items": 9}, "history_items has no effect with asks = 'query'"),
        ({"reader_layers": 1}, "reader_layers has no effect"),
        ({"dropout_rate": 0.3}, "dropout_rate has no effect"),
        ({"dim": 18, "heads": 4}, r"dim \(18\) must be a multiple of heads \(4\)"),
    ],
)
def test_options_without_effect_are_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        GenerativeTrainConfig.parse({"model": settings})


def test_what_is_missing_is_told(walks: Walks):
    with pytest.raises(ConfigError, match="model.asks = 'query' reads the vectors of queries, and there are none"):
        GenerativeTask(GenerativeTrainConfig(), given(walks))
    with pytest.raises(DataError, match="semantic IDs: there are 3 for"):
        GenerativeTask(config(), given(walks, CODES[:3]))
