"""Histories against a plain loop through the log; nothing at a moment or after it is read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from triptych.data.events import KIND_CODES, build_histories
from triptych.data.schema import EventKind
from triptych.recall.behaviour import DAY_US, BehaviourLog, Moments, choices_of, either
from triptych.recall.learned import Needs

NEEDS = Needs(past_queries=3, real_time=4, short_term=5, long_term=9)
KINDS = [KIND_CODES[kind] for kind in (EventKind.CLICK, EventKind.CART, EventKind.ORDER)]
USERS = 5


def log(seed: int, *, count: int = 300) -> SimpleNamespace:
    """Forty-five days, so that some choices are too old for either term."""
    rng = np.random.default_rng(seed)
    columns = {
        "time": np.sort(rng.integers(0, 45 * DAY_US, size=count)),
        "user_row": rng.integers(-1, USERS, size=count).astype(np.int32),
        "query_row": rng.integers(-1, 6, size=count).astype(np.int32),
        "item_row": rng.integers(0, 40, size=count).astype(np.int32),
        "kind": rng.integers(0, 4, size=count).astype(np.uint8),
    }
    histories = build_histories(user_row=columns["user_row"], kind=columns["kind"], num_users=USERS)
    return SimpleNamespace(events=pl.DataFrame(columns), event_array=columns.__getitem__, histories=histories)


def by_loop(events: list[dict], user: int, place: int) -> tuple[list, list, list[list], list]:
    now = events[min(place, len(events) - 1)]["time"]
    own = [event for event in events[:place] if event["user_row"] == user >= 0 and event["kind"] in KINDS]
    real_time, before = own[-NEEDS.real_time :], own[: -NEEDS.real_time][-NEEDS.short_term :]
    short_term = [event for event in before if event["time"] >= now - 10 * DAY_US]
    month = [event for event in own[-NEEDS.long_term :] if event["time"] >= now - 30 * DAY_US]
    past: list[int] = []
    for event in reversed(own):
        if event["query_row"] >= 0 and event["query_row"] not in past:
            past.append(event["query_row"])
    items = [[event["item_row"] for event in part] for part in (real_time, short_term)]
    kinds = [[event["item_row"] for event in month if event["kind"] == kind] for kind in KINDS]
    return items[0], items[1], kinds, past[: NEEDS.past_queries][::-1]


def listed(row: np.ndarray) -> list[int]:
    """What a padded list holds; nothing stands behind its end."""
    held = row[row >= 0].tolist()
    assert row.tolist() == held + [-1] * (len(row) - len(held))
    return held


@pytest.mark.parametrize("seed", range(3))
def test_choices_before_a_moment_are_those_of_a_loop(seed):
    catalogue = log(seed)
    rng = np.random.default_rng(seed)
    moments = Moments(rng.integers(-1, USERS, size=80), rng.integers(0, 301, size=80))
    found = BehaviourLog(catalogue, needs=NEEDS).before(moments)
    events, lengths = catalogue.events.to_dicts(), np.zeros(4)
    for row, (user, place) in enumerate(zip(*(part.tolist() for part in moments), strict=True)):
        expected = by_loop(events, user, place)
        own = [part[row] for part in found]
        kinds = [listed(kind) for kind in own[2]]
        assert (listed(own[0]), listed(own[1]), kinds, listed(own[3])) == expected
        lengths += [len(expected[0]), len(expected[1]), sum(map(len, expected[2])), len(expected[3])]
    assert (lengths > 50).all()


def test_nothing_at_a_moment_or_after_it_is_read():
    """What stands there is exchanged for other items, kinds and queries; no history changes."""
    catalogue, cut = log(0), 200
    moments = Moments(np.arange(USERS), np.full(USERS, cut))
    found = BehaviourLog(catalogue, needs=NEEDS).before(moments)
    changed = log(0)
    for name, other in (("item_row", 39), ("query_row", 5), ("kind", 3), ("user_row", 2)):
        changed.event_array(name)[cut:] = other
    changed.histories = build_histories(
        user_row=changed.event_array("user_row"), kind=changed.event_array("kind"), num_users=USERS
    )
    again = BehaviourLog(changed, needs=NEEDS).before(moments)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one >= 0).any()
    later = BehaviourLog(changed, needs=NEEDS).before(Moments(np.arange(USERS), np.full(USERS, cut + 1)))
    assert not np.array_equal(later.real_time, again.real_time)  # the event at the cut is user 2's


def test_items_alone_are_clicks_of_just_now():
    found = choices_of([np.arange(12), None, np.array([7, 7])], needs=NEEDS)
    assert [listed(row) for row in found.real_time] == [[8, 9, 10, 11], [], [7, 7]]
    assert [listed(row) for row in found.short_term] == [[3, 4, 5, 6, 7], [], []]
    assert [listed(row) for row in found.long_term[:, 0]] == [list(range(3, 12)), [], [7, 7]]
    assert (found.long_term[:, 1:] == -1).all()
    assert (found.past_queries == -1).all()


def test_each_request_takes_its_own_source():
    given = choices_of([np.array([1]), np.array([2])], needs=NEEDS)
    logged = choices_of([np.array([3]), np.array([4])], needs=NEEDS)
    found = either(np.array([True, False]), given, logged)
    assert [listed(row) for row in found.real_time] == [[1], [4]]
    assert [listed(row) for row in found.long_term[:, 0]] == [[1], [4]]


def test_a_log_without_choices_is_no_history():
    nothing = {name: np.empty(0, np.int64) for name in ("item_row", "query_row", "kind", "time", "user_row")}
    histories = build_histories(user_row=nothing["user_row"], kind=nothing["kind"], num_users=0)
    catalogue = SimpleNamespace(event_array=nothing.__getitem__, histories=histories)
    found = BehaviourLog(catalogue, needs=NEEDS).before(Moments(np.array([-1]), np.array([0])))
    assert all((part == -1).all() and part.size for part in found)
