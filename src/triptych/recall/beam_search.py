"""Beam search for semantic IDs, under a tree of those that exist: nothing else can be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.nn.code_decoder import SearchDecoder, of_beams
from triptych.recall.base import FloatArray, IntArray
from triptych.recall.code_trie import CodeTrie


class Beams(NamedTuple):
    """The IDs found for some requests, the likeliest first."""

    leaves: IntArray
    """``[n, beams]``, leaves of the tree, each at most once per request; -1 where it has no more."""
    log_probabilities: FloatArray
    """``[n, beams]``, of the whole ID; -inf where there is none."""


@torch.inference_mode()
def beam_search(
    decoder: SearchDecoder,
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
        decoder: with as many levels as the tree, from `CodeDecoder.for_search`.
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
    count = len(asked)
    nothing = Beams(np.full((count, beams), -1, dtype=np.int64), np.full((count, beams), -np.inf, dtype=np.float32))
    if not count:
        return nothing
    memory = decoder.remember(asked, keep=keep)
    nodes, total = np.zeros((count, 1), dtype=np.int64), torch.zeros(count, 1, device=asked.device)
    emptied = None if left_out is None else trie.emptied(left_out)
    said: tuple[Tensor, ...] = ()
    codes: Tensor | None = None
    for level in range(decoder.levels):
        logits, said = decoder.step(memory, codes=codes, said=said)
        ahead = total - logits.float().logsumexp(dim=2)
        gone = None if emptied is None else emptied[level + 1]
        beam, code, node = _continued(nodes, trie=trie, depth=level, gone=gone)
        if not len(node):
            return nothing
        place = torch.from_numpy(beam * decoder.num_codes + code).to(asked.device)
        scores = logits.flatten()[place] + ahead.flatten()[torch.from_numpy(beam).to(asked.device)]
        # Those of a request stand together: its own row of a table, with minus infinity behind them.
        first = np.searchsorted(beam, np.arange(count + 1) * nodes.shape[1])
        number = np.diff(first)[:, None]
        there = torch.from_numpy(np.arange(number.max()) < number).to(asked.device)
        table = torch.full(there.shape, float("-inf"), device=asked.device).masked_scatter_(there, scores)
        total, best = torch.topk(table, min(beams, table.shape[1]), dim=1)
        found = best.cpu().numpy()
        chosen = np.minimum(first[:-1, None] + found, len(node) - 1)
        nodes = np.where(found < number, node[chosen], -1)
        if level + 1 < decoder.levels:
            codes = torch.from_numpy(code[chosen]).to(asked.device)
            said = of_beams(said, torch.from_numpy(beam[chosen]).to(asked.device))
    return _padded(nodes, total.cpu().numpy().astype(np.float32), beams=beams)


def _continued(
    nodes: IntArray, *, trie: CodeTrie, depth: int, gone: IntArray | None
) -> tuple[IntArray, IntArray, IntArray]:
    """List what may follow the beams.

    Args:
        nodes: ``[n, beams]``, -1 where there is none.
        trie: that they are of.
        depth: codes of the beams.
        gone: those of the next depth that are left out, as `CodeTrie.emptied` has them; None: none are.

    Returns:
        ``[continuations]`` each, in the order of the beams: the beam, counted through all requests, the code after it,
        and the node that this leads to.
    """
    count = nodes.shape[1]
    alive = np.flatnonzero(nodes.reshape(-1) >= 0)
    parent, code, node = trie.children(nodes.reshape(-1)[alive], depth=depth)
    beam = alive[parent]
    if gone is not None:
        left = ~np.isin(beam // count * trie.num_nodes(depth + 1) + node, gone)
        beam, code, node = beam[left], code[left], node[left]
    return beam, code, node


def _padded(leaves: IntArray, log_probabilities: FloatArray, *, beams: int) -> Beams:
    missing = ((0, 0), (0, beams - leaves.shape[1]))
    return Beams(
        np.pad(leaves, missing, constant_values=-1),
        np.pad(np.where(leaves >= 0, log_probabilities, -np.inf), missing, constant_values=-np.inf).astype(np.float32),
    )
