"""Histories that are semantic IDs: read as a loop would lay them out, from both sides, and nothing of the padding."""

from __future__ import annotations

import pytest
import torch

from triptych.nn.code_reader import CodeReader

LEVELS, NUM_CODES, DIM, LONGEST = 3, 5, 16, 4


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    made = CodeReader(
        DIM, levels=LEVELS, num_codes=NUM_CODES, history_items=LONGEST, layers=2, heads=4, dropout_rate=0.5
    )
    return made.eval()


@pytest.fixture(scope="module")
def histories():
    """Of four, two, no and one items."""
    drawn = torch.randint(NUM_CODES, (4, LONGEST, LEVELS), generator=torch.Generator().manual_seed(1))
    there = torch.arange(LONGEST) < torch.tensor([[4], [2], [0], [1]])
    return drawn.masked_fill(~there[:, :, None], -1)


def laid_out(reader, items):
    """The tokens of one history, one after another."""
    tokens = [reader.start]
    for place, item in enumerate(items):
        for level, code in enumerate(item):
            row = reader.codes.weight[level * NUM_CODES + code]
            tokens.append(row + reader.levels[level] + reader.since[len(items) - 1 - place])
    return torch.stack(tokens)[None]


def test_a_batch_is_read_as_each_history_by_itself(reader, histories):
    tokens, keep = reader(histories)
    assert tokens.shape == (4, 1 + LONGEST * LEVELS, DIM)
    for row, history in enumerate(histories.tolist()):
        items = [item for item in history if item[0] >= 0]
        assert keep[row].tolist() == [place <= len(items) * LEVELS for place in range(tokens.shape[1])]
        alone = reader.transformer(laid_out(reader, items))
        torch.testing.assert_close(tokens[row : row + 1][keep[row : row + 1]], alone[0])


def test_it_does_not_matter_where_the_padding_is(reader, histories):
    """Before the items, behind them, or more of it: what is read of two items stays the same."""
    items = histories[1, :2]
    tokens, keep = reader(histories[1:2])
    none = torch.full((2, LEVELS), -1)
    for padded in (torch.cat([none, items]), items):
        again, kept = reader(padded[None])
        torch.testing.assert_close(again[kept], tokens[keep])


def test_the_oldest_item_is_read_in_the_light_of_the_latest(reader, histories):
    changed = histories[:1].clone()
    changed[0, -1, -1] = (changed[0, -1, -1] + 1) % NUM_CODES
    first = slice(1, 1 + LEVELS)
    assert not torch.allclose(reader(histories[:1])[0][:, first], reader(changed)[0][:, first])
