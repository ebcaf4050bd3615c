"""Stages as data: what is refused and why, the presets, and the phases that a training goes through."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from triptych.data.sampling import ItemQueryBatch
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders.inputs import Modalities
from triptych.foundation.errors import ConfigError, DataError
from triptych.foundation.registry import config_class
from triptych.pretrain import probe
from triptych.pretrain.base import TASKS, Given, Phase
from triptych.pretrain.probe import HardItems
from triptych.pretrain.stage_task import StageTask
from triptych.pretrain.stages import PRESETS
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.training.loop import LoopConfig
from triptych.training.schedule import Schedule

TWO_TOWER = {"kind": "two_tower", "dim": 16, "heads": 2, "layers": 1, "vector_dim": 8, "photo_px": 32}
LATE_FUSION = {"kind": "late_fusion", "dim": 16, "heads": 2, "vector_dim": 8, "photo_px": 32}
OF_TWO_TOWER = ("contrastive", "taobao", "fashionbert")
CLICKED, TITLES, PHOTOS, WORDS = (
    {"kind": "contrast"},
    {"kind": "contrast", "between": "query-title"},
    {"kind": "contrast", "between": "query-photo"},
    {"kind": "masked_words", "of": "title"},
)
TITLE_PHOTO = {"kind": "contrast", "between": "title-photo"}
MATCHING = {"kind": "matching"}


def stage(*tasks: dict[str, Any], name: str = "only", **settings: Any) -> dict[str, Any]:
    return {"name": name, "tasks": list(tasks), **settings}


def parse(stages: Any, *, encoder: dict[str, Any] = TWO_TOWER, **settings: Any) -> MultitaskConfig:
    return MultitaskConfig.parse({"encoder": encoder, "stages": stages, **settings})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "shares": (
        {"stages": [stage(CLICKED, name="a", steps_rate=0.5), stage(TITLES, name="b", steps_rate=0.4)]},
        "stages: their steps_rate add up to 0.9; as shares of loop.steps they must make 1.",
    ),
    "names": (
        {"stages": [stage(CLICKED, name="a", steps_rate=0.5), stage(TITLES, name="a", steps_rate=0.5)]},
        "stages: two have one name: a, a.",
    ),
    "a part that is not there": (
        {"stages": [stage(CLICKED, train={"fotos": 1.0})]},
        (
            "stage 'only' trains 'fotos', and with these tasks an encoder of kind 'two_tower' has no such part. "
            "Did you mean 'photo'? Its parts: text, photo, body, query_head, item_head."
        ),
    ),
    "a part of another encoder": (
        {"stages": "o1"},
        "an encoder of kind 'two_tower' has no such part. One of kind 'late_fusion' has: set encoder.kind.",
    ),
    "cross without tasks that cross": (
        {"stages": [stage(CLICKED, train={"cross": 1.0})]},
        "stage 'only' trains 'cross', and with these tasks an encoder of kind 'two_tower' has no such part.",
    ),
    "cross where query and item meet in the encoder": (
        {"stages": [stage(MATCHING, train={"cross": 1.0})], "crossing": "single-stream"},
        "stage 'only' trains 'cross', and with these tasks an encoder of kind 'two_tower' has no such part.",
    ),
    "rates": (
        {"stages": [stage(CLICKED, train={"text": 1.5})]},
        "stage 'only' trains 'text' at 1.5 of the rate; it must be in (0, 1].",
    ),
    "a rate of nothing": (
        {"stages": [stage(CLICKED, train={"text": 0.0})]},
        "stage 'only' trains 'text' at 0.0 of the rate; it must be in (0, 1].",
    ),
    "twice the same": (
        {"stages": [stage(CLICKED, {**CLICKED, "loss": "am-softmax"})]},
        "stage 'only' has a task twice: query_item, query_item.",
    ),
    "one head, two settings": (
        {
            "stages": [
                stage(CLICKED, name="a", steps_rate=0.5),
                stage({**CLICKED, "weight": 0.1, "temperature": 0.2}, name="b", steps_rate=0.5),
            ]
        },
        "stages 'a' and 'b' learn query_item with other settings; but for the weight they must be the same.",
    ),
    "items know no queries": (
        {"stages": [stage(TITLE_PHOTO, CLICKED, MATCHING, data="items")]},
        "stage 'only' draws items without a log, and query_item, matching_query_item learn from queries.",
    ),
    "what crosses needs queries": (
        {"stages": [stage({**WORDS, "at": "cross"}, data="items")]},
        "stage 'only' draws items without a log, and masked_title_words learn from queries.",
    ),
    "no hard items without queries": (
        {"stages": [stage(TITLE_PHOTO, data="items", hard_negatives=2)]},
        "stage 'only': hard_negatives has no effect with data = 'items'. Remove it.",
    ),
    "photos for titles": (
        {"stages": [stage(CLICKED, PHOTOS)], "encoder": {**TWO_TOWER, "modalities": "title"}},
        "stage 'only': query_photo takes a photo or a title that an encoder of modalities = 'title' does not read.",
    ),
    "words for photos": (
        {"stages": [stage(CLICKED, WORDS)], "encoder": {**TWO_TOWER, "modalities": "photo"}},
        "stage 'only': masked_title_words takes a photo or a title that an encoder of modalities = 'photo' does not",
    ),
    "chosen by what is not read": (
        {"stages": [stage(CLICKED, validate_on="query-photo")], "encoder": {**TWO_TOWER, "modalities": "title"}},
        (
            "stage 'only': validate_on = 'query-photo' takes a photo or a title that an encoder of modalities = "
            "'title' does not read. Set it to 'query-item'."
        ),
    ),
    "masking without masks": (
        {"stages": "joint", "encoder": LATE_FUSION, "word_mask_rate": 0.3},
        "word_mask_rate has no effect on these stages. Remove it.",
    ),
    "cells that are not drawn from": (
        {"stages": "joint", "encoder": LATE_FUSION, "cells_per_batch": 3},
        "cells_per_batch has no effect on these stages. Remove it.",
    ),
    "one stream of two encoders": (
        {"stages": [stage(CLICKED, {"kind": "matching"})], "encoder": LATE_FUSION, "crossing": "single-stream"},
        "crossing = 'single-stream' takes an encoder of kind 'two_tower', not 'late_fusion'.",
    ),
    "one schedule, broken off": (
        {"stages": [stage(CLICKED, patience=3)], "schedules": "one"},
        "schedules = 'one': a stage's own learning_rate or patience would break the one schedule. Remove them.",
    ),
    "one schedule, another rate": (
        {"stages": [stage(CLICKED, learning_rate=0.1)], "schedules": "one"},
        "schedules = 'one': a stage's own learning_rate or patience would break the one schedule. Remove them.",
    ),
    "one schedule, broken off by the loop": (
        {"stages": "o1", "encoder": LATE_FUSION, "schedules": "one", "loop": {"patience": 2}},
        "schedules = 'one': loop.patience would end a stage amid the one schedule. Remove it.",
    ),
    "no such preset": (
        {"stages": "taoboa"},
        "there are no stages 'taoboa'. Did you mean 'taobao'? Known: contrastive, taobao,",
    ),
    "no such objective": (
        {"stages": [stage({"kind": "maskedwords"})]},
        "kind: unknown kind 'maskedwords'. Did you mean 'masked_words'?",
    ),
    "no tasks": ({"stages": [stage()]}, "tasks"),
    "a name for people": ({"stages": [stage(CLICKED, name="Stage One")]}, "name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused_in_a_sentence(case: str):
    settings, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        MultitaskConfig.parse({"encoder": TWO_TOWER, **settings})
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def encoder_of(preset: str) -> dict[str, Any]:
    return TWO_TOWER if preset in OF_TWO_TOWER else LATE_FUSION


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_a_config_that_is_saved_whole(preset: str):
    config = parse(preset, encoder=encoder_of(preset))
    assert sum(one.steps_rate for one in config.stages) == pytest.approx(1)
    assert [one.name for one in config.stages] == [tree["name"] for tree in PRESETS[preset]]
    again = MultitaskConfig.parse(config.dump())
    assert again == config
    assert again.dump() == config.dump()
    kinds = [[task.kind for task in one.tasks] for one in config.stages]
    assert kinds == [[task["kind"] for task in tree["tasks"]] for tree in PRESETS[preset]]
    assert all(
        "symmetric" in task for one in config.dump()["stages"] for task in one["tasks"] if task["kind"] == "contrast"
    )


def test_what_the_guide_shows_can_be_run():
    guide = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")
    shown = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", guide, flags=re.DOTALL)]
    trainings = [tree["pretrain"] for tree in shown if "pretrain" in tree]
    trainings += [one for tree in shown for one in tree.get("beside", {}).values()]
    assert len(trainings) >= max(2, len(shown))
    for tree in trainings:
        assert config_class(TASKS, tree["kind"]).parse(tree)


def test_stages_are_chosen_by_name_on_the_command_line():
    config = parse("contrastive", encoder=LATE_FUSION)
    changed = config.override("stages=o1", "loop.steps=7")
    assert changed.stages == parse("o1", encoder=LATE_FUSION).stages
    assert changed.loop.steps == 7
    assert changed.encoder == config.encoder
    own = config.override('stages=[{"name": "mine", "tasks": ["contrast", {"kind": "matching", "weight": 2}]}]')
    assert [(task.kind, task.weight) for task in own.stages[0].tasks] == [("contrast", 1.0), ("matching", 2.0)]
    assert MultitaskConfig.parse({}).stages == parse("contrastive").stages


def test_the_orders_have_the_same_stages_in_another_order():
    names = ("o1", "o2", "o3", "o4", "o1-open", "o1-own-stops")
    orders = {name: parse(name, encoder=LATE_FUSION).stages for name in names}
    tasks = {name: sorted(repr(one.tasks) for one in stages) for name, stages in orders.items()}
    assert all(found == tasks["o1"] for found in tasks.values())
    in_order = {name: [one.name for one in stages] for name, stages in orders.items()}
    assert in_order["o1"] == ["title-photo", "query-photo", "query-title", "query-item"]
    assert in_order["o2"] == ["title-photo", "query-title", "query-photo", "query-item"]
    assert in_order["o3"] == ["query-title", "query-photo", "title-photo", "query-item"]
    assert in_order["o4"] == ["query-item", "title-photo", "query-photo", "query-title"]
    assert all(one.train is None for one in orders["o1-open"])
    anchored = parse("o1-anchored", encoder=LATE_FUSION).stages
    assert [len(one.tasks) for one in anchored] == [1, 1, 2, 3] and anchored[:2] == orders["o1"][:2]
    assert anchored[2].tasks[1] == orders["o1"][3].tasks[1]  # the anchor of the last stage
    kept = parse("o1-cumulative", encoder=LATE_FUSION).stages
    assert [sorted(task.label for task in one.tasks) for one in kept] == [
        sorted(task.label for stage in orders["o1"][: number + 1] for task in stage.tasks[:1]) for number in range(4)
    ]
    assert {task.label for task in kept[3].tasks} == {
        task.label for task in parse("joint", encoder=LATE_FUSION).stages[0].tasks
    }
    assert all(one.patience for one in orders["o1-own-stops"])
    assert [one.model_copy(update={"patience": None}) for one in orders["o1-own-stops"]] == list(orders["o1"])


@pytest.fixture(scope="module")
def given(small_shop) -> Given:
    texts = [*small_shop.catalogue.titles, *small_shop.catalogue.queries]
    tokenizer = TextTokenizer.fit(texts, config=TokenizerConfig(min_count=1))
    return Given(catalogue=small_shop.catalogue, split=small_shop.split, tokenizer=tokenizer, seed=0)


def as_arm(config: MultitaskConfig, modalities: Modalities) -> MultitaskConfig:
    """Change what is read and leave the rest, as a run does that compares models of title and photo with others."""
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"modalities": modalities})})


def phases_of(config: MultitaskConfig, given: Given) -> list[Phase]:
    return list(config.phases(given))


def titles_only(stages: Any, **settings: Any) -> MultitaskConfig:
    encoder = encoder_of(stages) if isinstance(stages, str) else TWO_TOWER
    return as_arm(parse(stages, encoder=encoder, **settings), Modalities.TITLE)


def learned(phase: Phase) -> list[str]:
    assert isinstance(phase.task, StageTask)
    return sorted({name.split("/")[0] for name in phase.task.losses(phase.task.batch(0)).parts})


def test_a_model_of_titles_leaves_out_what_takes_a_photo(given: Given):
    phases = phases_of(titles_only("o1"), given)
    assert [phase.name for phase in phases] == ["1-query-title", "2-query-item"]
    assert [learned(phase) for phase in phases] == [["query_title"], ["query_item", "query_title"]]
    (alone,) = phases_of(titles_only("taobao"), given)
    assert alone.name == ""
    assert learned(alone) == ["masked_query_words", "masked_title_words", "matching_query_item", "query_item"]
    with pytest.raises(ConfigError, match="stages: an encoder of modalities = 'title' can learn none of them"):
        phases_of(titles_only([stage(PHOTOS)]), given)


def test_items_that_came_after_training_are_not_learned_and_judge(
    given: Given, other_shop: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    """Every fourth item of the shop is new on the validation day."""
    shop = other_shop(photo_px=32)
    given = replace(given, catalogue=shop.catalogue, split=shop.split)
    config = parse([stage(TITLE_PHOTO, data="items", validate_on="title-photo")], encoder=LATE_FUSION)
    new = np.arange(3, given.catalogue.num_items, 4)
    for least, judges_by_new in ((5, True), (50, False)):
        monkeypatch.setattr(probe, "LEAST_NEW", least)
        (phase,) = phases_of(config, given)
        assert isinstance(phase.task, StageTask)
        drawn = np.concatenate([phase.task.batch(index).item_rows.numpy() for index in range(5)])
        assert not np.isin(new, drawn).any()
        judged = phase.task._feed.probe._items
        assert np.isin(judged, new).all() == np.isin(judged, new).any() == judges_by_new


def test_a_stage_is_chosen_by_query_and_item_where_its_own_measure_is_not_to_be_had(given: Given):
    config = titles_only([stage(CLICKED, PHOTOS, validate_on="query-photo")], diagnose=False, validation_k=3)
    (phase,) = phases_of(config, given)
    phase.task.module.eval()
    validation = phase.task.validate()
    assert validation.headline == "recall@3/query-item"
    assert set(validation.metrics) == {"recall@3/query-item", "epoch"}


def test_an_epoch_is_as_many_pairs_or_items_as_there_are(given: Given):
    """Whatever the other stages draw."""
    stages = [
        stage(CLICKED, name="clicks", steps_rate=0.5),
        stage(WORDS, name="items", data="items", steps_rate=0.5),
    ]
    settings = {"loop": {"steps": 8, "accumulate": 2}, "batch_items": 5, "queries_per_item": 3, "validation_k": 3}
    clicks, items = phases_of(titles_only(stages, diagnose=False, **settings), given)
    num_pairs = len(given.split.train_pairs(given.catalogue).item_row)
    seen = given.catalogue.titles, given.catalogue.photos.has, given.split.items_known(given.catalogue)
    num_both = sum(bool(title) and bool(has) and bool(known) for title, has, known in zip(*seen, strict=True))
    for phase, per_batch, total in ((clicks, 15, num_pairs), (items, 5, num_both)):
        for index in range(4):
            phase.task.losses(phase.task.batch(index))
        assert phase.task.validate().metrics["epoch"] == pytest.approx(4 * per_batch / total)


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_what_else_a_query_was_clicked_for_is_no_negative_of_its_most_clicked_item(given: Given, other_shop, rate):
    def shuffled(events: pl.DataFrame) -> pl.DataFrame:
        return events.with_columns(item_id=pl.col("item_id").shuffle(seed=0))

    shop = other_shop(events=shuffled)
    given = Given(catalogue=shop.catalogue, split=shop.split, tokenizer=given.tokenizer, seed=0)
    settings = {"batch_items": 40, "pairs": "most-clicked", "pairs_rate": rate, "diagnose": False}
    (phase,) = phases_of(titles_only([stage(CLICKED)], **settings), given)
    (every,) = phases_of(titles_only([stage(CLICKED)], **{**settings, "pairs": "clicked"}), given)
    assert isinstance(every.task, StageTask)
    log = every.task._feed.pairs
    assert log is not None
    clicked = set(zip(log.query_row.tolist(), log.item_row.tolist(), strict=True))
    best = log.most_clicked()
    batch = phase.task.batch(0)
    queries, items = batch.query_rows.tolist(), batch.item_rows.tolist()
    assert batch.known.tolist() == [[(query, item) in clicked for item in items] for query in queries]
    drawn = {(query, items[place]) for query, place in zip(queries, batch.positive.tolist(), strict=True)}
    assert drawn <= set(zip(best.query_row.tolist(), best.item_row.tolist(), strict=True))
    assert int(batch.known.sum()) > len(queries)


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 100, 160])
@pytest.mark.parametrize("rates", [(0.3, 0.7), (1 / 3, 1 / 3, 1 / 3), (0.16, 0.24, 0.24, 0.36)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_stages_share_the_steps_and_the_batches(given: Given, steps: int, rates: tuple[float, ...], accumulate: int):
    stages = [stage(CLICKED, name=f"s{place}", steps_rate=rate) for place, rate in enumerate(rates)]
    config = titles_only(stages, schedules="one", loop={"steps": steps, "accumulate": accumulate, "warmup_steps": 2})
    phases = phases_of(config, given)
    counts = [phase.loop.steps for phase in phases]
    assert min(counts) >= 1
    assert sum(counts) == max(steps, len(rates))
    if steps >= 100:
        assert all(abs(count - rate * steps) <= 1 for count, rate in zip(counts, rates, strict=True))
    # one after another the batches are those of one stage alone
    (alone,) = phases_of(titles_only([stage(CLICKED)], loop={"steps": steps, "accumulate": accumulate}), given)
    drawn = [phase.task.batch(index) for phase in phases for index in range(phase.loop.steps * accumulate)]
    for index in {0, len(drawn) // 2, len(drawn) - 1}:
        assert drawn[index].positive.tolist() == alone.task.batch(index).positive.tolist()
        assert drawn[index].items.title_tokens.tolist() == alone.task.batch(index).items.title_tokens.tolist()
        assert drawn[index].step == index // accumulate


@pytest.mark.parametrize("schedule", Schedule)
def test_one_schedule_goes_over_all_stages(given: Given, schedule: Schedule):
    loop = {"steps": 100, "warmup_steps": 20, "schedule": schedule.value}
    rates = (0.16, 0.24, 0.6)
    stages = [stage(CLICKED, name=f"s{place}", steps_rate=rate) for place, rate in enumerate(rates)]
    phases = phases_of(titles_only(stages, schedules="one", loop=loop), given)
    found = [
        phase.loop.learning_rate_at(step, stretch=phase.stretch) for phase in phases for step in range(phase.loop.steps)
    ]
    whole = LoopConfig.parse(loop)
    assert found == [whole.learning_rate_at(step) for step in range(100)]
    assert [phase.keeps_optimizer for phase in phases] == [True] * 3
    fresh = phases_of(titles_only(stages, loop=loop), given)
    assert [phase.stretch for phase in fresh] == [None] * 3
    assert not any(phase.keeps_optimizer for phase in fresh)
    assert [phase.loop.warmup_steps for phase in fresh] == [4, 6, 15]


def test_a_stage_has_its_own_rate_and_patience(given: Given):
    stages = [
        stage(CLICKED, name="a", steps_rate=0.5, learning_rate=0.5, patience=2),
        stage(TITLES, name="b", steps_rate=0.5),
    ]
    first, second = phases_of(titles_only(stages, loop={"learning_rate": 0.1, "patience": 5}), given)
    assert (first.loop.learning_rate, first.loop.patience) == (0.5, 2)
    assert (second.loop.learning_rate, second.loop.patience) == (0.1, 5)


def test_without_a_log_only_items_are_learned_from(given: Given):
    bare = Given(catalogue=given.catalogue, split=None, tokenizer=given.tokenizer, seed=0)
    for settings in ({"data": "items"}, {"validate_on": "title-photo"}):
        config = titles_only([stage(WORDS, **settings)])
        with pytest.raises(
            DataError, match="events: there are none, and stage 'only' learns from them or is chosen by"
        ):
            phases_of(config, bare)
    (phase,) = phases_of(titles_only([stage(WORDS, data="items", validate_on="title-photo")]), bare)
    batch = phase.task.batch(0)
    assert batch.num_queries == 0
    assert (batch.has_title & batch.has_photo).all()
    assert learned(phase) == ["masked_title_words"]


def test_items_alone_are_drawn_alike_and_by_no_click(given: Given):
    config = titles_only([stage(WORDS, data="items")], batch_items=8)
    (phase,) = phases_of(config, given)
    assert isinstance(phase.task, StageTask)
    batches = [phase.task.batch(index) for index in range(200)]
    assert all(batch.num_items == 8 and batch.num_queries == 0 for batch in batches)
    again = phase.task.batch(7)
    assert again.items.title_tokens.tolist() == batches[7].items.title_tokens.tolist()


def test_a_stage_that_trains_nothing_of_what_it_learns_says_so(given: Given):
    config = titles_only([stage(CLICKED, train={"photo": 1.0})])
    (phase,) = phases_of(config, given)
    assert isinstance(phase.task, StageTask)
    with pytest.raises(
        ConfigError, match=r"stage 'only': none of what it trains \(photo\) has a share in what it learns"
    ):
        phase.task.losses(phase.task.batch(0))


def test_a_batch_with_nothing_to_learn_from_has_a_loss_of_nothing(given: Given):
    """Its gradient is that of nothing, and the training goes on."""
    (phase,) = phases_of(titles_only([stage(WORDS)]), given)
    assert isinstance(phase.task, StageTask)
    batch = phase.task.batch(0)
    assert batch.masked_titles is not None
    nothing = batch._replace(masked_titles=batch.masked_titles._replace(total=0))
    output = phase.task.losses(nothing)
    assert output.total.item() == 0
    assert output.parts == {}
    output.total.backward()


def test_hard_negatives_are_ranked_high_and_known_where_they_are_right(given: Given):
    config = titles_only([stage(CLICKED, hard_negatives=3)], batch_items=4)
    (phase,) = phases_of(config, given)
    (plain,) = phases_of(titles_only([stage(CLICKED)], batch_items=4), given)
    assert isinstance(phase.task, StageTask)
    feed = phase.task._feed
    more = 0
    for index in range(20):
        batch, without = phase.task.batch(index), plain.task.batch(index)
        drawn = feed.draw(index, data=phase.task._stage.data)
        with_more = feed.with_more(drawn, drawn.item_rows + 1)
        rows = with_more.item_rows
        assert set(drawn.item_rows.tolist()) <= set(rows.tolist())
        assert rows[with_more.positive].tolist() == drawn.item_rows[drawn.positive].tolist()
        assert batch.query_tokens.tolist() == without.query_tokens.tolist()
        more += batch.num_items - without.num_items
        assert feed.pairs is not None
        clicked = set(zip(feed.pairs.query_row.tolist(), feed.pairs.item_row.tolist(), strict=True))
        expected = [[(query, item) in clicked for item in rows.tolist()] for query in drawn.query_rows.tolist()]
        assert with_more.known.tolist() == expected
    assert more > 0


@pytest.mark.parametrize("num_cells", [0, 3])
def test_hard_negatives_are_of_middling_rank_in_a_cell_of_the_item(num_cells: int):
    rng = np.random.default_rng(0)
    num_items, num_queries = 400, 6
    cells = rng.random((num_items, num_cells)) < 0.6
    query_rows = np.array([2, 3, 5, 7, 11, 13], dtype=np.int32)
    ranked = np.stack([rng.permutation(num_items) for _ in range(num_queries)]).astype(np.int32)
    hard = HardItems(query_rows, ranked, item_cells=cells)
    item_rows = np.array([10, 20, 30])
    asked, positive = np.array([7, 2, 5, 13]), np.array([0, 1, 1, 2])
    drawn = ItemQueryBatch(
        item_rows, asked, positive, np.zeros((4, 3), dtype=bool), *np.zeros((2, 3), dtype=np.float32)
    )
    allowed: list[set[int]] = []
    for item, query in ((10, 7), (20, 2), (30, 13)):  # one query of each
        near = [
            int(other)
            for other in ranked[query_rows.tolist().index(query)]
            if num_cells == 0 or (cells[other] & cells[item]).any()
        ]
        allowed.append(set(near[20:200]))
    seen: set[int] = set()
    for _ in range(1_500):
        found = hard.draw(drawn, count=2, rng=rng)
        assert len(found) <= 6
        assert (np.diff(found) > 0).all()
        assert set(found.tolist()) <= set().union(*allowed)
        assert all(len(set(found.tolist()) & one) >= 2 for one in allowed)
        seen |= set(found.tolist())
    assert seen == set().union(*allowed)
