"""Content-ID contrast against a plain loop, its closed forms, and gradients that its switches stop."""

from __future__ import annotations

import math

import pytest
import torch

from triptych.losses.content_id import Direction, Sides, Stop, content_id, draw_others

TEMPERATURE = 0.3
ROWS, POOL, NEGATIVES = 6, 9, 4


def random_sides(count: int, *, seed: int, dim: int = 5, dtype=torch.float32, **more) -> Sides:
    generator = torch.Generator().manual_seed(seed)
    content, ids = (torch.randn(count, dim, generator=generator, dtype=dtype) for _ in range(2))
    return Sides(content, ids, torch.arange(count), **more)


@pytest.fixture
def rows() -> Sides:
    """Items 0 and 4 are one and the same; the ID of row 3 says nothing."""
    log_q = torch.tensor([-1.0, -2.0, -0.5, -3.0, -1.0, -2.5])
    trusted = torch.tensor([True, True, True, False, True, True])
    items = torch.tensor([7, 1, 2, 3, 7, 5])
    return random_sides(ROWS, seed=0, log_q=log_q, trusted=trusted)._replace(items=items)


@pytest.fixture
def pool() -> Sides:
    trusted = torch.tensor([True] * 7 + [False, True])
    return random_sides(POOL, seed=1, log_q=-torch.arange(1.0, POOL + 1), trusted=trusted)


DRAWN = torch.randint(POOL, (ROWS, NEGATIVES), generator=torch.Generator().manual_seed(2))


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(entry * entry for entry in vector))
    return [entry / length for entry in vector]


def loop_loss(rows: Sides, pool: Sides, drawn: list[list[int]], *, direction: Direction, masks_equal: bool) -> float:
    terms, counted = [], 0
    for row in range(len(rows.items)):
        if rows.trusted is not None and not rows.trusted[row]:
            continue
        counted += 1
        for asking, answering, goes in (
            ("content", "ids", Direction.CONTENT_TO_ID),
            ("ids", "content", Direction.ID_TO_CONTENT),
        ):
            if direction not in (Direction.BOTH, goes):
                continue
            own = unit(getattr(rows, asking)[row].tolist())

            def score(sides: Sides, place: int, own=own, answering=answering) -> float:
                other = unit(getattr(sides, answering)[place].tolist())
                logit = sum(a * b for a, b in zip(own, other, strict=True)) / TEMPERATURE
                return logit - (0.0 if sides.log_q is None else sides.log_q[place].item())

            positive = score(rows, row)
            denominator = math.exp(positive)
            for place in drawn[row]:
                if masks_equal and pool.items[place] == rows.items[row]:
                    continue
                if answering == "ids" and pool.trusted is not None and not pool.trusted[place]:
                    continue
                denominator += math.exp(score(pool, place))
            share = 0.5 if direction is Direction.BOTH else 1.0
            terms.append(share * (math.log(denominator) - positive))
    return sum(terms) / counted


@pytest.mark.parametrize("masks_equal", [True, False])
@pytest.mark.parametrize("direction", list(Direction))
def test_drawn_negatives_equal_the_loop(rows, pool, direction, masks_equal):
    settings = {"direction": direction, "masks_equal": masks_equal}
    found = content_id(rows, pool=pool, drawn=DRAWN, temperature=TEMPERATURE, **settings)
    expected = loop_loss(rows, pool, DRAWN.tolist(), **settings)
    assert found.total.item() == pytest.approx(expected, rel=1e-5)
    assert {"content_to_id", "id_to_content"} & set(found.parts) == (
        {"content_to_id", "id_to_content"} if direction is Direction.BOTH else {direction.value}
    )


@pytest.mark.parametrize("masks_equal", [True, False])
def test_a_batch_by_itself_equals_the_loop(rows, masks_equal):
    found = content_id(rows, temperature=TEMPERATURE, masks_equal=masks_equal).total.item()
    others = [[place for place in range(ROWS) if place != row] for row in range(ROWS)]
    expected = loop_loss(rows, rows, others, direction=Direction.BOTH, masks_equal=masks_equal)
    assert found == pytest.approx(expected, rel=1e-5)


def test_without_correction_and_trust_it_is_symmetric_cross_entropy():
    rows = random_sides(8, seed=4)
    content, ids = (torch.nn.functional.normalize(side, dim=1) for side in rows[:2])
    logits, target = content @ ids.T / TEMPERATURE, torch.arange(8)
    expected = (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2
    torch.testing.assert_close(content_id(rows, temperature=TEMPERATURE).total, expected)


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_unrelated_vectors_cost_what_a_guess_among_all_costs(temperature):
    """ln(K + 1), and half the variance of a score: two random unit vectors of 64 numbers have cosines of spread 1/8."""
    rows = random_sides(4_000, seed=5, dim=64)
    drawn = draw_others(rows.items, num_rows=4_000, negatives=16, generator=torch.Generator().manual_seed(0))
    found = content_id(rows, drawn=drawn, temperature=temperature).total.item()
    expected = math.log(17) + (1 / (8 * temperature)) ** 2 / 2
    assert found == pytest.approx(expected, abs=0.01)
    assert found > math.log(17)


def test_equal_sides_cost_nothing_at_a_low_temperature():
    rows = random_sides(50, seed=6, dim=64)
    equal = rows._replace(ids=3.0 * rows.content)  # lengths do not matter
    found = [content_id(equal, temperature=temperature) for temperature in (0.5, 0.01)]
    assert found[1].total.item() < 1e-6 < 1.0 < found[0].total.item()
    assert found[0].parts["aligned"].item() == pytest.approx(1.0)


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize(("stop", "moves"), [("none", (1, 1)), ("id", (1, 0)), ("content", (0, 1))])
@pytest.mark.parametrize("from_pool", [True, False])
def test_what_is_stopped_gets_no_gradient(stop, moves, direction, from_pool):
    rows, pool = (random_sides(count, seed=seed) for count, seed in ((ROWS, 0), (POOL, 1)))
    for side in (*rows[:2], *pool[:2]):
        side.requires_grad_()
    given = {"pool": pool, "drawn": DRAWN} if from_pool else {}
    content_id(rows, temperature=TEMPERATURE, direction=direction, stop=Stop(stop), **given).total.backward()

    def moved(*sides: torch.Tensor) -> int:
        return int(any(side.grad is not None and bool((side.grad != 0).any()) for side in sides))

    assert (moved(rows.content), moved(rows.ids)) == moves
    if from_pool:  # a direction's answers come from one side alone
        answers = direction is not Direction.ID_TO_CONTENT, direction is not Direction.CONTENT_TO_ID
        assert moved(pool.ids) == (moves[1] and answers[0])
        assert moved(pool.content) == (moves[0] and answers[1])


def test_equal_items_have_no_influence_on_each_other(rows):
    def first_row(moved: int) -> float:
        content, ids = rows.content.clone(), rows.ids.clone()
        content[moved] += 1.0
        ids[moved] -= 1.0
        pool = Sides(content, ids, rows.items)
        return content_id(Sides(*(part[:1] for part in rows[:3])), pool=pool, temperature=TEMPERATURE).total.item()

    still = first_row(0)
    assert first_row(4) == still  # item 7 as well
    assert first_row(1) != still


def test_an_id_that_is_not_trusted_has_no_gradient_and_its_content_is_still_a_negative(rows):
    content, ids = rows.content.requires_grad_(), rows.ids.requires_grad_()
    content_id(rows, temperature=TEMPERATURE).total.backward()
    assert (ids.grad != 0).any(dim=1).tolist() == [True, True, True, False, True, True]
    assert (content.grad != 0).any(dim=1).all()


def test_a_row_is_never_drawn_for_itself_and_all_others_are_alike():
    own = torch.tensor([0, 3, 6])
    drawn = draw_others(own, num_rows=7, negatives=14_000, generator=torch.Generator().manual_seed(0))
    assert not (drawn == own[:, None]).any()
    for place, row in zip(own.tolist(), drawn, strict=True):
        counts = torch.bincount(row, minlength=7).double() / 14_000
        others = torch.arange(7) != place
        torch.testing.assert_close(counts[others], torch.full((6,), 1 / 6).double(), atol=0.015, rtol=0)
    assert draw_others(torch.tensor([0]), num_rows=1, negatives=4).shape == (1, 0)


def test_shares_of_the_rows_add_up(rows, pool):
    whole = content_id(rows, pool=pool, drawn=DRAWN, temperature=TEMPERATURE).total
    parts = [
        content_id(
            Sides(*(part[some] for part in rows)), pool=pool, drawn=DRAWN[some], temperature=TEMPERATURE, total=5
        )
        for some in (slice(0, 2), slice(2, ROWS), slice(ROWS, ROWS))
    ]
    torch.testing.assert_close(sum(part.total for part in parts), whole)
    assert parts[2].total.item() == 0.0


def test_gradient_and_precision():
    rows = random_sides(4, seed=8, dtype=torch.float64)

    def total(content: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return content_id(Sides(content, ids, rows.items), temperature=TEMPERATURE).total

    assert torch.autograd.gradcheck(total, (rows.content.requires_grad_(), rows.ids.requires_grad_()))
    single = random_sides(4, seed=8)
    plain = content_id(single, temperature=TEMPERATURE).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = content_id(single, temperature=TEMPERATURE).total
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)
