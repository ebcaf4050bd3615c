"""What is read out of training logs."""

from __future__ import annotations

import pytest

from triptych.evaluate.curves import RATIO, checked, learned, metrics_of, one_epoch_index, stage_ends
from triptych.evaluate.page.training import training_section


def validations(*points: tuple[float, float]) -> list[dict]:
    return [{"event": "validation", "step": n, "epoch": epoch, "r": value} for n, (epoch, value) in enumerate(points)]


@pytest.mark.parametrize(
    ("points", "index"),
    [
        (((0.5, 0.2), (1.0, 0.3), (1.5, 0.2), (2.0, 0.25)), 0.05),  # the second epoch cost five points
        (((0.5, 0.4), (1.0, 0.3), (2.0, 0.25)), 0.15),  # the best was in the midst of the first
        (((0.5, 0.1), (1.5, 0.3), (2.5, 0.5)), -0.2),  # between validations: 0.2 at one, 0.4 at two
        (((0.9, 0.3), (2.0, 0.3)), 0.0),
        (((1.2, 0.3), (2.0, 0.3)), None),  # nothing is known of the first
        (((0.5, 0.3), (1.9, 0.3)), None),  # nothing of the end of the second
        ((), None),
    ],
)
def test_the_cost_of_a_second_epoch(points, index):
    found = one_epoch_index(validations(*points), "r")
    assert found == (None if index is None else pytest.approx(index))


def test_no_second_epoch_costs_what_a_loss_has_fallen_by():
    lines = [{**line, "loss of validation/query-item": 3 - line["epoch"]} for line in validations((1, 0.3), (2, 0.25))]
    shown = training_section({"joint": lines})
    assert "What a second epoch costs" in shown
    table = shown.partition("What a second epoch costs")[2]
    assert "+5.0" in table
    assert "loss of" not in table


def test_the_ratio_of_gradients_is_there_where_both_are():
    lines = [
        {"event": "train", "step": 1, "grad_norm/photo": 0.2, "grad_norm/text": 0.8},
        {"event": "train", "step": 2, "grad_norm/text": 0.8},
        {"event": "validation", "step": 2, "recall@10/query-item": 0.5, "epoch": 1.0, "phase": "1-a"},
    ]
    assert [line.get(RATIO) for line in learned(lines)] == [pytest.approx(0.25), None]
    assert metrics_of([checked(lines)]) == ["recall@10/query-item"]


def test_stages_end_where_the_next_one_begins():
    phases = ["look", "look", "ask", "ask", "join"]
    lines = [{"step": step, "phase": phase, "r": 0.1 * step} for step, phase in enumerate(phases)]
    del lines[1]["r"]
    assert [line["step"] for line in stage_ends(lines, field="r")] == [0, 3]
    assert stage_ends(validations((0.5, 0.2), (1.0, 0.3)), field="r") == []
