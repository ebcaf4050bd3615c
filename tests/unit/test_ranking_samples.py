"""Samples from a log: what belongs together, what is a choice, and that nothing later is in a history."""

from __future__ import annotations

import numpy as np
import pytest
from planted_ranking import event, make_log, planted_log

from triptych.data.events import is_positive
from triptych.data.schema import Part
from triptych.data.splits import SplitBy, SplitConfig
from triptych.ranker.samples import read_samples

DAY = 24 * 60
ITEMS = {"item_id": list("abcdef"), "title": list("abcdef")}
FILL = [event(day * DAY, "filler", "f", "click") for day in (1, 2)]
"""Something on the last two days, so that the days before are training."""


def shown(page, minute, user, *items, **others):
    return [
        event(minute, user, item, "impression", page=page, position=place, query="q", **others)
        for place, item in enumerate(items)
    ]


def told(log, part=Part.TRAIN):
    """Samples as sets of words: user, item, chosen, and what was known of before."""
    samples = read_samples(log.catalogue, places=log.split.part(part))
    found = []
    item_row = log.catalogue.event_array("item_row")
    for request, item, label, position in zip(*samples[1:], strict=True):
        user, start, stop = (
            int(getattr(samples.requests, name)[request]) for name in ("user_row", "history_start", "history_stop")
        )
        before = item_row[log.catalogue.histories.positions[start:stop]]
        name = log.catalogue.users[user] if user >= 0 else None
        ids = log.catalogue.item_ids
        found.append((int(request), name, ids[item], bool(label), int(position), "".join(ids[row] for row in before)))
    return found


def test_a_page_is_a_request_and_its_own_clicks_are_not_before_it(tmp_path):
    events = [
        event(0, 1, "f", "click"),
        *shown("p1", 10, 1, "a", "b", "c"),
        event(11, 1, "b", "click", page="p1", position=1, query="q"),
        event(12, 1, "b", "order", page="p1", position=1, query="q"),
        *shown("p2", 20, 1, "c", "d"),
        *FILL,
    ]
    log = make_log(tmp_path, items=ITEMS, events=events)
    assert told(log) == [
        (0, "u1", "f", True, -1, ""),
        (1, "u1", "a", False, 0, "f"),
        (1, "u1", "b", True, 1, "f"),
        (1, "u1", "c", False, 2, "f"),
        (2, "u1", "c", False, 0, "fbb"),
        (2, "u1", "d", False, 1, "fbb"),
    ]


def test_without_pages_queries_are_sessions_and_ratings_are_by_themselves(tmp_path):
    events = [
        event(0, 1, "a", "impression", query="q"),
        event(0, 1, "b", "impression", query="q"),
        event(5, 1, "b", "click", query="q"),
        event(50, 1, "c", "click", query="q"),  # another session
        event(60, 2, "a", "click"),
        event(60.5, 2, "b", "impression"),
        event(61, 2, "c", "click"),
        event(62, 2, "b", "click"),  # what was shown before
        *FILL,
    ]
    log = make_log(tmp_path, items=ITEMS, events=events)
    assert told(log) == [
        (0, "u1", "a", False, -1, ""),
        (0, "u1", "b", True, -1, ""),
        (1, "u1", "c", True, -1, "b"),
        (2, "u2", "a", True, -1, ""),
        (3, "u2", "b", True, -1, "a"),
        (4, "u2", "c", True, -1, "a"),
    ]


def test_of_one_instant_nothing_is_before_anything(tmp_path):
    events = [event(0, 1, item, "click") for item in "abc"] + [event(1, 1, "d", "click"), *FILL]
    assert [sample[5] for sample in told(make_log(tmp_path, items=ITEMS, events=events))] == ["", "", "", "abc"]


def test_who_is_not_known_shares_nothing(tmp_path):
    events = [event(minute, 1, "a", "click", query="q") | {"user": None} for minute in range(2)]
    found = told(make_log(tmp_path, items=ITEMS, events=[*events, *FILL]))
    assert found == [(0, None, "a", True, -1, ""), (1, None, "a", True, -1, "")]


def test_a_click_after_the_cut_is_not_known_before_it_nor_a_sample_of_its_own(tmp_path):
    """The page is shown before midnight and clicked after it."""
    last = DAY - 8 * 60 - 1  # a day begins at eight
    events = [
        event(0, 1, "f", "click"),
        *shown("p1", last, 1, "a", "b"),
        event(last + 2, 1, "b", "click", page="p1", position=1, query="q"),
        *FILL,
    ]
    log = make_log(tmp_path, items=ITEMS, events=events)
    assert [sample[1:4] for sample in told(log)] == [("u1", "f", True), ("u1", "a", False), ("u1", "b", False)]
    assert [sample[1:3] for sample in told(log, Part.VALIDATION)] == [("ufiller", "f")]


@pytest.mark.parametrize("by", [SplitBy.LAST_DAY, SplitBy.USER])
def test_no_history_holds_anything_of_its_moment_or_later(tmp_path, by):
    rng, events = np.random.default_rng(0), []
    for minute in np.sort(rng.integers(0, 3 * DAY, size=150)).tolist():  # many of one minute
        kind = "click" if rng.random() < 0.4 else "impression"
        page = {"page": f"p{minute // 3}", "query": "q"} if rng.random() < 0.5 else {}
        events.append(event(minute, int(rng.integers(4)), "abcdef"[rng.integers(6)], kind, **page))
    log = make_log(tmp_path, items=ITEMS, events=events, split=SplitConfig(by=by))
    time_us, user_row = (log.catalogue.event_array(name) for name in ("time", "user_row"))
    chosen = is_positive(log.catalogue.event_array("kind"))
    for part in Part:
        samples = read_samples(log.catalogue, places=log.split.part(part))
        assert len(samples.label) > 10
        for place, now in enumerate(samples.requests.time_us):
            start, stop = samples.requests.history_start[place], samples.requests.history_stop[place]
            found = log.catalogue.histories.positions[start:stop]
            own = user_row == samples.requests.user_row[place]
            np.testing.assert_array_equal(found, np.flatnonzero(chosen & own & (time_us < now)))


def test_samples_of_a_part_are_its_shown_items_once_each(tmp_path):
    log = planted_log(tmp_path)
    samples = read_samples(log.catalogue, places=log.split.train)
    page = log.catalogue.event_array("page")[log.split.train]
    impressions = log.catalogue.event_array("kind")[log.split.train] == 0
    assert (samples.position >= 0).sum() == impressions.sum()
    assert samples.label[samples.position >= 0].sum() == len(np.unique(page[page >= 0]))
    sizes = np.bincount(samples.request)
    assert sorted(set(sizes.tolist())) == [1, 4]
    some = samples.of_requests(np.array([0, 3, 7]))
    assert len(some.label) == sizes[[0, 3, 7]].sum()
    np.testing.assert_array_equal(some.item_row, samples.item_row[np.isin(samples.request, [0, 3, 7])])
    np.testing.assert_array_equal(some.user_row, samples.user_row[np.isin(samples.request, [0, 3, 7])])
