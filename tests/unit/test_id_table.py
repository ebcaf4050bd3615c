"""A table of vectors: what becomes its gradient, what 16 bits keep, what it takes in memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from triptych.nn.id_table import IdTable, summed_by_row, table_bytes
from triptych.nn.rounding import StoredAs, round_by_chance
from triptych.nn.row_optimizer import RowOptimizer
from triptych.training.distributed import ALONE

HALVES = (torch.bfloat16, torch.float16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(**settings) -> IdTable:
    return IdTable(9, 3, init_std=1.0, generator=generator(), **settings)


def gradient_of(found: IdTable) -> torch.Tensor:
    """Return the step's gradient as a dense one."""
    found.sum_row_gradients(ALONE)
    rows, values = found._summed
    return torch.zeros(found.num_rows, found.dim).index_add(0, rows, values)


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(1, 4))
def test_equal_rows_are_added_up(rows, dim):
    values = torch.randn(len(rows), dim, generator=generator())
    found = summed_by_row(torch.tensor(rows, dtype=torch.int64), values)
    assert found.rows.tolist() == sorted(set(rows))
    for row, value in zip(found.rows.tolist(), found.values, strict=True):
        assert torch.allclose(value, sum(v for r, v in zip(rows, values, strict=True) if r == row))


def test_all_lookups_and_passes_before_an_update_count_together():
    ours, dense = table(), table().weight.detach().clone().requires_grad_()
    shapes = ((4,), (2, 5), (0,), (3, 1, 2))
    rows = [torch.randint(9, shape, generator=generator(place)) for place, shape in enumerate(shapes)]
    for lookup in (ours, lambda some: dense[some]):
        first = [lookup(some) for some in rows]
        assert [made.shape for made in first] == [(*shape, 3) for shape in shapes]
        loss = first[0].sum() * first[1].square().sum() + first[3].cos().sum() + first[2].sum()
        loss.backward(retain_graph=True)
        loss.backward()  # twice through one graph
        again = lookup(rows[1])  # of a second batch
        (again * again).mean().backward()
    assert torch.allclose(gradient_of(ours), dense.grad, rtol=1e-5, atol=1e-4)


def test_a_step_changes_its_rows_and_forgets_them():
    ours = table()
    before = ours.weight.detach().clone()
    rows = torch.tensor([7, 2, 7])
    ours(rows).sum().backward()
    ours.sum_row_gradients(ALONE)
    ours.update_rows(learning_rate=0.1, seed=0)
    changed = (ours.weight != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [2, 7]
    assert not gradient_of(ours).any()
    assert ours.sum_row_gradients(ALONE) == 0  # nobody has used it
    ours.update_rows(learning_rate=0.1, seed=0)
    assert torch.equal((ours.weight != before).any(dim=1), changed)


@pytest.mark.parametrize("still", ["eval", "no_grad", "frozen", "unused", "probe"])
def test_what_is_no_training_leaves_no_gradient(still: str):
    ours = table()
    factor = torch.ones((), requires_grad=True)
    if still == "eval":
        ours.eval()
    if still == "frozen":
        ours.requires_grad_(False)
    with torch.set_grad_enabled(still != "no_grad"):
        vectors = ours(torch.arange(4)) * factor
    if still in ("eval", "frozen"):
        vectors.sum().backward()
    if still == "probe":  # as losses are probed for what each does to a shared weight
        torch.autograd.grad(vectors.sum(), factor)
    assert ours._found == []
    assert ours.sum_row_gradients(ALONE) == 0


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_pass_that_is_computed_again_counts_once(use_reentrant: bool):
    once, again = table(), table()
    rows, factor = torch.tensor([1, 1, 5]), torch.ones(3, requires_grad=True)
    (once(rows) * factor).square().sum().backward()
    checkpoint(lambda by: (again(rows) * by).square().sum(), factor, use_reentrant=use_reentrant).backward()
    assert torch.equal(gradient_of(again), gradient_of(once))


def test_autocast_leaves_vectors_and_gradients_in_float32():
    ours = table(stored_as=StoredAs.BFLOAT16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = ours(torch.arange(3))
        loss = (vectors @ torch.ones(3, 3)).float().sum()
    loss.backward()
    assert vectors.dtype == gradient_of(ours).dtype == torch.float32


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = table()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.table(rows) + self.table(rows.flip(0)))


@pytest.mark.filterwarnings("ignore")  # torch warns itself while it traces
def test_a_compiled_block_has_the_gradients_of_one_as_written():
    written, compiled = Block(), Block()
    compiled.compile(dynamic=True, backend="eager")  # traced as ever; only the machine code is left out
    for size in (4, 7, 1, 0):
        rows = torch.randint(9, (size,), generator=generator(size))
        for block in (written, compiled):
            block(rows).square().sum().backward()
        assert torch.equal(gradient_of(compiled.table), gradient_of(written.table))


@pytest.mark.parametrize(("optimizer", "stored_as"), list(itertools.product(RowOptimizer, StoredAs)))
def test_what_a_table_takes(optimizer: RowOptimizer, stored_as: StoredAs):
    ours = IdTable(1_000, 64, optimizer=optimizer, stored_as=stored_as)
    held = sum(tensor.nbytes for tensor in (ours.weight, *ours.row_state().values()))
    assert table_bytes(1_000, 64, optimizer=optimizer, stored_as=stored_as) == held
    assert set(ours.state_dict()) == {"weight"}  # an exported model carries no optimiser


@pytest.mark.parametrize("dtype", HALVES)
@given(st.floats(-1.0, 1.0).filter(bool), st.integers(-30, 12))
def test_rounding_takes_a_neighbour_and_is_right_on_average(dtype: torch.dtype, mantissa: float, exponent: int):
    value = torch.tensor(mantissa, dtype=torch.float64).mul(2.0**exponent).float()
    nearest = value.to(dtype)
    other = torch.nextafter(nearest, torch.full((), float("inf") if nearest < value else -float("inf"), dtype=dtype))
    drawn = round_by_chance(value.expand(4_000), dtype=dtype, generator=generator())
    if nearest == value:
        assert (drawn == value).all()
        return
    assert set(drawn.tolist()) <= {nearest.item(), other.item()}
    gap = (other.double() - nearest.double()).abs()
    share = (value.double() - nearest.double()).abs() / gap  # of the other
    error = (drawn.double().mean() - value.double()).abs() / gap
    assert error < 5 * (share * (1 - share) / 4_000).sqrt() + 5 / 4_000


def test_sixteen_bits_train_where_rounding_to_the_nearest_stands_still():
    """Each step moves an entry by a thousandth of it, less than half of what bfloat16 tells apart."""
    ours = IdTable(64, 8, optimizer=RowOptimizer.ADAM, stored_as=StoredAs.BFLOAT16, init_std=0.0)
    with torch.no_grad():
        ours.weight.fill_(1.0)
    for step in range(200):
        ours(torch.arange(64)).sum().backward()
        ours.sum_row_gradients(ALONE)
        ours.update_rows(learning_rate=1e-3, seed=step)
    assert ours.weight.float().mean().item() == pytest.approx(0.8, abs=5e-3)
    assert 0.65 < ours.weight.min() < ours.weight.max() < 0.95  # every entry, by noise of its own at every step
    nearest = torch.ones(64, 8, dtype=torch.bfloat16)
    for _ in range(200):
        nearest = (nearest.float() - 1e-3).bfloat16()
    assert (nearest == 1).all()


@pytest.mark.parametrize("stored_as", [StoredAs.BFLOAT16, StoredAs.FLOAT16])
def test_a_table_of_sixteen_bits_follows_one_of_thirty_two(stored_as: StoredAs):
    wide, narrow = (
        IdTable(20, 8, init_std=0.1, stored_as=kind, generator=generator()) for kind in (StoredAs.FLOAT32, stored_as)
    )
    for step in range(100):
        rows, wanted = torch.randint(20, (16,), generator=generator(step)), 0.3
        for each in (wide, narrow):
            (each(rows) - wanted).square().sum().backward()
            each.sum_row_gradients(ALONE)
            each.update_rows(learning_rate=0.1, seed=step)
    assert (wide.weight - wanted).abs().max() < 0.05
    assert (narrow.weight.float() - wide.weight).abs().max() < 0.02
