"""Saying semantic IDs: step by step as at once, nothing that does not exist, and the likeliest of what does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.nn.code_decoder import CodeDecoder, of_beams
from triptych.recall.beam_search import beam_search
from triptych.recall.code_trie import CodeTrie

LEVELS, NUM_CODES, DIM, COUNT, TOKENS = 3, 7, 16, 4, 5


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    made = CodeDecoder(DIM, levels=LEVELS, num_codes=NUM_CODES, layers=2, heads=4)
    for weight in made.parameters():  # far from uniform, so that an order is one
        torch.nn.init.normal_(weight, std=0.5)
    return made.eval()


@pytest.fixture(scope="module")
def search(decoder):
    return decoder.for_search()


@pytest.fixture(scope="module")
def asked():
    return torch.randn(COUNT, TOKENS, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def keep():
    return torch.arange(TOKENS) < torch.tensor([[5], [1], [3], [2]])


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(2).integers(NUM_CODES, size=(60, LEVELS)).astype(np.uint16)


def scored(decoder, asked, keep, leaves):
    """Log probability of each ID ``[requests, IDs]``, from all levels at once."""
    found = []
    for row in range(len(asked)):
        rows = asked[row : row + 1].expand(len(leaves), -1, -1)
        kept = None if keep is None else keep[row : row + 1].expand(len(leaves), -1)
        logits = decoder(rows, codes=torch.from_numpy(leaves.astype(np.int64)), keep=kept).log_softmax(dim=2)
        found.append(logits.gather(2, torch.from_numpy(leaves.astype(np.int64))[:, :, None])[:, :, 0].sum(dim=1))
    return torch.stack(found).detach().numpy()


@pytest.mark.parametrize("padded", [True, False])
def test_step_by_step_is_as_all_at_once(decoder, search, asked, keep, padded):
    kept = keep if padded else None
    codes = torch.randint(NUM_CODES, (COUNT, LEVELS), generator=torch.Generator().manual_seed(3))
    at_once = decoder(asked, codes=codes, keep=kept)
    memory, said = search.remember(asked, keep=kept), ()
    for level in range(LEVELS):
        logits, said = search.step(memory, codes=codes[:, level - 1 : level] if level else None, said=said)
        torch.testing.assert_close(logits[:, 0], at_once[:, level])


def test_a_code_is_scored_by_those_before_it_and_padding_by_nobody(decoder, asked, keep):
    codes = torch.zeros(COUNT, LEVELS, dtype=torch.int64)
    first = decoder(asked, codes=codes, keep=keep)
    later = codes.clone()
    later[:, 1] = 3
    changed = decoder(asked, codes=later, keep=keep)
    torch.testing.assert_close(changed[:, :2], first[:, :2], rtol=0, atol=0)
    assert not torch.allclose(changed[:, 2], first[:, 2])
    torch.testing.assert_close(decoder(asked.masked_fill(~keep[:, :, None], 9.0), codes=codes, keep=keep), first)


def test_beams_take_over_what_their_parents_said(search, asked):
    """Two beams that change places go on as the other did."""
    memory = search.remember(asked)
    _, said = search.step(memory, codes=None)
    said = of_beams(said, torch.arange(COUNT)[:, None].expand(COUNT, 2))
    second, said = search.step(memory, codes=torch.tensor([[1, 2]]).expand(COUNT, 2), said=said)
    turned = of_beams(said, torch.arange(2 * COUNT).view(COUNT, 2).flip(1))
    straight, _ = search.step(memory, codes=torch.tensor([[4, 5]]).expand(COUNT, 2), said=said)
    crossed, _ = search.step(memory, codes=torch.tensor([[5, 4]]).expand(COUNT, 2), said=turned)
    torch.testing.assert_close(crossed, straight.flip(1))
    assert not torch.allclose(second[:, 0], second[:, 1])


@pytest.mark.parametrize("padded", [True, False])
def test_enough_beams_find_the_exact_order(decoder, search, asked, keep, codes, padded):
    trie, kept = CodeTrie.build(codes), keep if padded else None
    leaves = np.stack([trie.code_path(leaf) for leaf in range(trie.num_leaves)])
    exact = scored(decoder, asked, kept, leaves)
    found = beam_search(search, asked, trie=trie, beams=64, keep=kept)
    for row in range(COUNT):
        order = np.argsort(-exact[row], kind="stable")
        np.testing.assert_array_equal(found.leaves[row, : len(leaves)], order)
        np.testing.assert_allclose(found.log_probabilities[row, : len(leaves)], exact[row][order], rtol=1e-4)
    assert (found.leaves[:, len(leaves) :] == -1).all()
    assert (found.log_probabilities[:, len(leaves) :] == -np.inf).all()


def plain_beam_search(decoder, asked, keep, codes, *, beams):
    """One request, one prefix at a time, by dictionaries."""
    exist = [{tuple(row[:length]) for row in codes.tolist()} for length in range(LEVELS + 1)]
    kept = {(): 0.0}
    for level in range(LEVELS):
        grown = {}
        for prefix, total in kept.items():
            whole = torch.tensor([[*prefix, *[0] * (LEVELS - level)]])
            scores = decoder(asked, codes=whole, keep=keep)[0, level].log_softmax(dim=0).tolist()
            grown |= {
                (*prefix, code): total + score
                for code, score in enumerate(scores)
                if (*prefix, code) in exist[level + 1]
            }
        kept = dict(sorted(grown.items(), key=lambda one: -one[1])[:beams])
    return list(kept)


@pytest.mark.parametrize("beams", [1, 3, 8])
def test_few_beams_find_what_a_plain_loop_finds(decoder, search, asked, keep, codes, beams):
    trie = CodeTrie.build(codes)
    found = beam_search(search, asked, trie=trie, beams=beams, keep=keep)
    for row in range(COUNT):
        with torch.no_grad():
            expected = plain_beam_search(decoder, asked[row : row + 1], keep[row : row + 1], codes, beams=beams)
        assert [tuple(trie.code_path(leaf).tolist()) for leaf in found.leaves[row] if leaf >= 0] == expected


def test_what_was_taken_out_is_never_said(search, asked, codes):
    trie = CodeTrie.build(codes)
    first = beam_search(search, asked, trie=trie, beams=1).leaves[:, 0]
    gone = np.concatenate([trie.items(leaf) for leaf in first])
    rest = trie.without(gone)
    found = beam_search(search, asked, trie=rest, beams=64)
    said = {row for leaves in found.leaves for leaf in leaves if leaf >= 0 for row in rest.items(leaf).tolist()}
    assert said == set(range(60)) - set(gone.tolist())
    nothing = beam_search(search, asked, trie=trie.without(np.arange(60)), beams=3)
    assert (nothing.leaves == -1).all()
    assert nothing.leaves.shape == (COUNT, 3)
    assert beam_search(search, asked[:0], trie=trie, beams=3).leaves.shape == (0, 3)


def test_one_level_is_a_ranking_of_codes(asked, keep):
    torch.manual_seed(5)
    decoder = CodeDecoder(DIM, levels=1, num_codes=NUM_CODES, layers=3, heads=2).eval()
    trie = CodeTrie.build(np.arange(NUM_CODES)[1:, None])
    exact = scored(decoder, asked, keep, np.arange(NUM_CODES)[1:, None])
    found = beam_search(decoder.for_search(), asked, trie=trie, beams=4, keep=keep)
    np.testing.assert_array_equal(found.leaves, np.argsort(-exact, axis=1)[:, :4])


def test_trees_of_other_depths_are_refused(search, asked, codes):
    with pytest.raises(ValueError, match="the decoder says 3 codes and the tree has 2 levels"):
        beam_search(search, asked, trie=CodeTrie.build(codes[:, :2]), beams=2)


@pytest.mark.parametrize("beams", [1, 3, 64])
def test_what_a_request_leaves_out_is_left_out_as_in_a_tree_without_it(search, asked, keep, codes, beams):
    """Also of few beams: what is left out takes the place of nothing. Items of shared IDs, of no tree, and twice."""
    codes = np.concatenate([codes, codes[:20]])
    rows = np.random.default_rng(4).permutation(len(codes))
    trie = CodeTrie.build(codes, item_rows=rows)
    likeliest = beam_search(search, asked, trie=trie, beams=4, keep=keep).leaves
    left_out = [np.concatenate([trie.items(leaf) for leaf in leaves]) for leaves in likeliest]
    left_out[1], left_out[2], left_out[3] = rows, np.empty(0, int), np.append(left_out[3].repeat(2)[1:], [900, 901])
    left_out[0] = left_out[0][1:]  # of the first ID one item is still there
    found = beam_search(search, asked, trie=trie, beams=beams, keep=keep, left_out=left_out)
    for row in range(COUNT):
        rest = trie.without(left_out[row])
        one = slice(row, row + 1)
        alone = beam_search(search, asked[one], trie=rest, beams=beams, keep=keep[one])
        said = [tuple(trie.code_path(leaf)) for leaf in found.leaves[row] if leaf >= 0]
        assert said == [tuple(rest.code_path(leaf)) for leaf in alone.leaves[0] if leaf >= 0]
        np.testing.assert_allclose(found.log_probabilities[row], alone.log_probabilities[0], rtol=1e-5)
    assert (found.leaves[1] == -1).all()


def test_a_tree_of_codes_that_the_decoder_has_not_is_refused(decoder, asked, codes):
    wider = codes.copy()
    wider[0, -1] = NUM_CODES
    with pytest.raises(ValueError, match="says codes below 7 and the tree has 7"):
        beam_search(decoder, asked, trie=CodeTrie.build(wider), beams=2)
