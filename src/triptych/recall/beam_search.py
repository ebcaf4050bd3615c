"""Beam search for semantic IDs, under a tree of those that exist: nothing else can be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.nn.code_decoder import CodeDecoder, Said, of_beams
from triptych.recall.base import FloatArray, IntArray
from triptych.recall.code_trie import Children, CodeTrie


class Beams(NamedTuple):
    """The IDs found for some requests, the likeliest first."""

    leaves: IntArray
    """``[n, beams]``, leaves of the tree, each at most once per request; -1 where it has no more."""
    log_probabilities: FloatArray
    """``[n, beams]``, of the whole ID; -inf where there is none."""


@torch.inference_mode()
def beam_search(
    decoder: CodeDecoder,
    asked: Tensor,
    *,
    trie: CodeTrie,
    beams: int,
    keep: Tensor | None = None,
    left_out: Sequence[NDArray[Any]] | None = None,
) -> Beams:
    """Find likely IDs among those that exist.

    At every level each of a request's beams is continued by the codes that exist after it, and of all continuations
    the likeliest ``beams`` are kept. Probabilities are over all codes: what does not exist is left out and its share
    is not passed on, so that an ID has the probability that the decoder gives it. With as many beams as there are
    prefixes at any level the answer is exact.

    Args:
        decoder: with as many levels as the tree.
        asked: ``[n, tokens, dim]``, what each request's ID answers.
        trie: of the IDs that exist.
        beams: kept of a request; at least 1.
        keep: bool ``[n, tokens]``, False at padding; None: all are kept.
        left_out: ``[n]`` lists of item rows that are no answer to a request, such as those of its history: what they
            alone have is not said, as in a tree without them (`CodeTrie.without`); None: all may be answered.
    """
    if decoder.levels != trie.levels:
        raise ValueError(f"the decoder says {decoder.levels} codes and the tree has {trie.levels} levels")
    if trie.largest_code >= decoder.num_codes:
        raise ValueError(f"the decoder says codes below {decoder.num_codes} and the tree has {trie.largest_code}")
    count, width = len(asked), decoder.num_codes
    if not count or not trie.num_items:
        return Beams(np.full((count, beams), -1, dtype=np.int64), np.full((count, beams), -np.inf, dtype=np.float32))
    memory = decoder.remember(asked, keep=keep)
    nodes, total = np.zeros((count, 1), dtype=np.int64), torch.zeros(count, 1, device=asked.device)
    emptied = None if left_out is None else trie.emptied(left_out)
    said: tuple[Said, ...] = ()
    codes: Tensor | None = None
    for level in range(decoder.levels):
        logits, said = decoder.step(memory, codes=codes, said=said)
        every = total[:, :, None] + torch.log_softmax(logits.float(), dim=2)
        alive = np.flatnonzero(nodes.reshape(-1) >= 0)
        found = trie.children(nodes.reshape(-1)[alive], depth=level)
        if emptied is not None:
            key = alive[found.parent] // every.shape[1] * trie.num_nodes(level + 1) + found.node
            left = ~np.isin(key, emptied[level + 1])
            found = Children(*(part[left] for part in found))
        place = alive[found.parent] * width + found.code  # in `every`, laid out flat
        legal = torch.full((every.numel(),), float("-inf"), device=asked.device)
        at = torch.from_numpy(place).to(asked.device)
        legal[at] = every.reshape(-1)[at]
        total, best = torch.topk(legal.view(count, -1), min(beams, every.shape[1] * width), dim=1)
        parents, codes = best // width, best % width
        if level + 1 < decoder.levels:
            said = of_beams(said, parents)
        after = np.full(every.numel(), -1, dtype=np.int64)
        after[place] = found.node
        flat = best.cpu().numpy() + np.arange(count)[:, None] * (every.shape[1] * width)
        nodes = np.where(np.isfinite(total.cpu().numpy()), after[flat], -1)
    return _padded(nodes, total.cpu().numpy().astype(np.float32), beams=beams)


def _padded(leaves: IntArray, log_probabilities: FloatArray, *, beams: int) -> Beams:
    missing = ((0, 0), (0, beams - leaves.shape[1]))
    return Beams(
        np.pad(leaves, missing, constant_values=-1),
        np.pad(np.where(leaves >= 0, log_probabilities, -np.inf), missing, constant_values=-np.inf).astype(np.float32),
    )
