"""Clicked pages against a plain loop, and batches of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from triptych.data.events import KIND_CODES
from triptych.data.pages import SESSION_US, Pages, PageSampler, PagesOf, RunSampler, read_pages
from triptych.data.schema import EventKind
from triptych.foundation.errors import DataError

CHOSEN = [KIND_CODES[kind] for kind in (EventKind.CLICK, EventKind.CART, EventKind.ORDER)]


def log(seed: int, *, count: int = 400, pages: bool = True) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    columns = {
        "time": np.sort(rng.integers(0, 8 * SESSION_US, size=count)),
        "user_row": rng.integers(-1, 4, size=count).astype(np.int32),
        "query_row": rng.integers(-1, 3, size=count).astype(np.int32),
        "item_row": rng.integers(0, 12, size=count).astype(np.int32),
        "kind": rng.integers(0, 4, size=count).astype(np.uint8),
        "page": (rng.integers(-1, 30, size=count) if pages else np.full(count, -1)).astype(np.int32),
    }
    return SimpleNamespace(events=pl.DataFrame(columns), event_array=columns.__getitem__)


def by_loop(catalogue: SimpleNamespace, places: np.ndarray, *, of: PagesOf) -> list[tuple]:
    """Walk through the log; a page is found again by who asked what, and by its number or by how long ago it was."""
    column = catalogue.event_array
    found: list[dict] = []
    open_pages: dict[tuple, dict] = {}
    for at in places.tolist():
        user, query, page = (int(column(name)[at]) for name in ("user_row", "query_row", "page"))
        if column("kind")[at] not in CHOSEN or (query if of is PagesOf.QUERIES else user) < 0:
            continue
        time, key = int(column("time")[at]), (page, user, query)
        last = open_pages.get(key)
        joins = (
            of is not PagesOf.CHOICES
            and last is not None
            and (page >= 0 or (user >= 0 and time - last["last"] <= SESSION_US))
        )
        if not joins:
            last = {"query": query, "user": user, "at": at, "items": set()}
            found.append(last)
            open_pages[key] = last
        last["items"].add(int(column("item_row")[at]))
        last["last"] = time
    return [(one["query"], one["user"], one["at"], sorted(one["items"])) for one in found]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pages", [True, False])
@pytest.mark.parametrize("of", PagesOf)
def test_choices_are_gathered_as_a_loop_gathers_them(seed, pages, of):
    catalogue = log(seed, pages=pages)
    for places in (slice(0, 300), np.arange(50, 400, 2)):
        read = read_pages(catalogue, places=places, of=of)
        items = [read.item_rows[a:b].tolist() for a, b in zip(read.offsets, read.offsets[1:], strict=False)]
        found = list(zip(read.query_row.tolist(), read.user_row.tolist(), read.place.tolist(), items, strict=True))
        assert found == by_loop(catalogue, np.arange(400)[places], of=of)
        assert len(found) > 5


def test_nothing_chosen_is_no_pages():
    catalogue = log(0)
    assert len(read_pages(catalogue, places=slice(0, 0)).query_row) == 0
    with pytest.raises(DataError, match="nothing was chosen under a query in the training part"):
        PageSampler(read_pages(catalogue, places=slice(0, 0)), batch_pages=4, most_positives=3, seed=0)


def some_pages(count: int = 23) -> Pages:
    sizes = np.random.default_rng(0).integers(1, 7, size=count)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    item_rows = np.concatenate([np.arange(size) + 10 * page for page, size in enumerate(sizes)]).astype(np.int32)
    zeros = np.zeros(count, dtype=np.int32)
    return Pages(zeros, zeros, np.arange(count), offsets, item_rows)


def test_every_page_is_seen_once_in_an_epoch_and_any_batch_can_be_drawn_again():
    pages = some_pages()
    sampler = PageSampler(pages, batch_pages=5, most_positives=3, seed=1)
    assert sampler.batches_per_epoch == pytest.approx(23 / 5)
    drawn = [sampler.batch(index) for index in range(23)]  # five epochs
    seen = np.concatenate([batch.pages for batch in drawn])
    epochs = seen.reshape(5, 23)
    assert all(np.array_equal(np.sort(epoch), np.arange(23)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    again = PageSampler(pages, batch_pages=5, most_positives=3, seed=1)
    for index in (22, 3, 0, 4):
        for one, other in zip(again.batch(index), drawn[index], strict=True):
            np.testing.assert_array_equal(one, other)


def test_of_many_choices_some_are_drawn_all_alike():
    pages = some_pages()
    sampler = PageSampler(pages, batch_pages=23, most_positives=3, seed=0)
    sizes = np.diff(pages.offsets)
    times = np.zeros(240)
    for index in range(400):
        batch = sampler.batch(index)
        assert np.array_equal(np.bincount(batch.page, minlength=23), np.minimum(sizes, 3)[batch.pages])
        assert np.array_equal(batch.item_rows // 10, batch.pages[batch.page])  # of their own page
        times[batch.item_rows] += 1
    expected = np.repeat(np.minimum(sizes, 3) / sizes, sizes)
    np.testing.assert_allclose(times[pages.item_rows] / 400, expected, atol=0.1)


def test_a_share_of_the_pages_keeps_each_whole():
    pages = some_pages()
    kept = pages.some(0.3, rng=np.random.default_rng(0))
    assert len(kept.query_row) == 7
    for place, page in enumerate(kept.place):
        own = kept.item_rows[kept.offsets[place] : kept.offsets[place + 1]]
        assert np.array_equal(own, pages.item_rows[pages.offsets[page] : pages.offsets[page + 1]])


@pytest.mark.parametrize("longest", [1, 4, 7, 100])
def test_runs_teach_each_choice_once_behind_the_one_before_it(longest):
    pages = read_pages(log(0), places=slice(0, 400), of=PagesOf.CHOICES)
    sampler = RunSampler(pages, batch_pages=20, longest=longest, seed=0)
    before: dict[int, list[int]] = {}  # page -> the items that its user had chosen, oldest first
    for user in set(pages.user_row.tolist()):
        own = np.flatnonzero(pages.user_row == user).tolist()
        for number, page in enumerate(own):
            before[page] = [int(pages.item_rows[one]) for one in own[:number]]
    seen, batches = [], round(sampler.batches_per_epoch * 4)
    for index in range(batches):
        batch = sampler.batch(index)
        places, width = batch.runs.before, batch.runs.before.shape[1]
        assert width <= longest
        steps_of_runs: dict[int, set[int]] = {}
        for page, item, step in zip(
            batch.pages.tolist(), batch.item_rows.tolist(), batch.runs.step.tolist(), strict=True
        ):
            assert item == pages.item_rows[page]
            row, at = divmod(step, width)
            known = [one for one in places[row, : at + 1].tolist() if one >= 0]
            assert known == before[page][len(before[page]) - len(known) :]
            assert (places[row, at] < 0) == (not before[page])
            steps_of_runs.setdefault(row, set()).add(at)
        for row, steps in steps_of_runs.items():
            assert steps == set(range(len(steps)))
            assert (places[row, len(steps) :] == -1).all()
        seen += batch.pages.tolist()
    epochs = np.bincount(seen, minlength=len(pages.place))
    assert set(epochs[:]) <= {3, 4, 5} and (longest > 90 or len(seen) == pytest.approx(4 * len(pages.place), rel=0.2))


def test_a_run_is_cut_from_the_latest_backwards():
    pages = Pages(*(np.array([value] * 5, np.int32) for value in (-1, 0)), np.arange(5), np.arange(6), np.arange(5))
    sampler = RunSampler(pages, batch_pages=100, longest=3, seed=0)
    batch = sampler.batch(0)
    runs = {tuple(row[row >= -1].tolist()) for row in batch.runs.before}
    assert runs == {(1, 2, 3), (-1, 0, -1)}  # steps of choices 2, 3, 4, and of 0, 1
    assert sorted(batch.pages.tolist()) == [0, 1, 2, 3, 4]
