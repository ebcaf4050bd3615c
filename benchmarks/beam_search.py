"""Beam search for semantic IDs: ours beside `transformers`' generate with a prefix function, on the same weights.

    python benchmarks/beam_search.py [--items 100000] [--beams 50] [--batches 1,32] [--rounds 5] [--out FILE]
    python benchmarks/beam_search.py --smoke     the same in a few seconds, whose figures mean nothing

One decoder (2 blocks, 256 wide, 3 levels of 256 codes), one tree of random IDs, random requests of 16 tokens. Both say
the same IDs: `same` is the share of each request's IDs that both found, `off` the largest difference of their log
probabilities. `generate` runs without a cache of keys (three codes are hardly worth one) and asks a dictionary of the
prefixes that exist for each beam, as its users do. The two alternate; the median round counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from triptych.nn.code_decoder import CodeDecoder
from triptych.recall.beam_search import beam_search
from triptych.recall.code_trie import CodeTrie

TOKENS = 16


class Config(PretrainedConfig):
    """What `generate` wants to know of a model."""

    model_type = "code_decoder"


class Wrapped(PreTrainedModel, GenerationMixin):
    """The decoder as a language model: token 0 begins, then every level has tokens of its own."""

    config_class = Config

    def __init__(self, decoder: CodeDecoder) -> None:
        vocabulary = 2 + decoder.levels * decoder.num_codes  # what begins, the codes, and padding that is never used
        super().__init__(Config(vocab_size=vocabulary, num_hidden_layers=len(decoder.blocks), use_cache=False))
        self.decoder = decoder

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Give each step all that was said, and what was asked."""
        return {"input_ids": input_ids, "asked": kwargs["asked"]}

    def forward(self, input_ids: Tensor, asked: Tensor, **_: Any) -> CausalLMOutput:
        """Score the tokens of the next level."""
        levels, width = self.decoder.levels, self.decoder.num_codes
        level = input_ids.shape[1] - 1
        codes = torch.zeros(len(input_ids), levels, dtype=torch.int64)
        codes[:, :level] = input_ids[:, 1:] - 1 - width * torch.arange(level)
        own = self.decoder(asked, codes=codes)[:, level]
        logits = own.new_full((len(own), 1, self.config.vocab_size), float("-inf"))
        logits[:, 0, 1 + level * width : 1 + (level + 1) * width] = own
        return CausalLMOutput(logits=logits)


def generate(model: Wrapped, asked: Tensor, *, allowed: dict[tuple[int, ...], list[int]], beams: int) -> Any:
    """Let transformers search."""
    settings = GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=model.decoder.levels,
        min_new_tokens=model.decoder.levels,
        length_penalty=0.0,
        do_sample=False,
        use_cache=False,
        pad_token_id=model.config.vocab_size - 1,
        return_dict_in_generate=True,
        output_scores=True,
    )
    begin = torch.zeros(len(asked), 1, dtype=torch.int64)

    def may_follow(_: int, said: Tensor) -> list[int]:
        return allowed[tuple(said[1:].tolist())]

    with torch.inference_mode():
        return model.generate(begin, generation_config=settings, prefix_allowed_tokens_fn=may_follow, asked=asked)


def prefixes(codes: np.ndarray, *, width: int) -> dict[tuple[int, ...], list[int]]:
    """List the tokens that may follow each prefix."""
    found: dict[tuple[int, ...], set[int]] = {}
    for path in np.unique(codes, axis=0).tolist():
        tokens = [1 + level * width + code for level, code in enumerate(path)]
        for length in range(len(path)):
            found.setdefault(tuple(tokens[:length]), set()).add(tokens[length])
    return {prefix: sorted(after) for prefix, after in found.items()}


def timed(work: Callable[[], Any]) -> float:
    """Return seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compared(model: Wrapped, asked: Tensor, *, trie: CodeTrie, allowed: Any, beams: int) -> dict[str, float]:
    """Check that both say the same."""
    width, levels = model.decoder.num_codes, model.decoder.levels
    ours = beam_search(model.decoder, asked, trie=trie, beams=beams)
    theirs = generate(model, asked, allowed=allowed, beams=beams)
    said = theirs.sequences[:, 1 : 1 + levels].reshape(len(asked), beams, levels) - 1 - width * torch.arange(levels)
    scores = theirs.sequences_scores.reshape(len(asked), beams).numpy()
    same, off = [], 0.0
    for row in range(len(asked)):
        own = {tuple(trie.code_path(leaf).tolist()): place for place, leaf in enumerate(ours.leaves[row])}
        both = [(own[path], place) for place, path in enumerate(map(tuple, said[row].tolist())) if path in own]
        same.append(len(both) / beams)
        off = max([off, *(abs(float(ours.log_probabilities[row, a] - scores[row, b])) for a, b in both)])
    return {"same": float(np.mean(same)), "off": off}


def measure(*, items: int, beams: int, batches: list[int], rounds: int, width: int) -> dict[str, Any]:
    """Time both at every batch size."""
    torch.manual_seed(0)
    decoder = CodeDecoder(256, levels=3, num_codes=width, layers=2, heads=4).eval()
    codes = np.random.default_rng(0).integers(width, size=(items, 3)).astype(np.uint16)
    trie, model, allowed = CodeTrie.build(codes), Wrapped(decoder).eval(), prefixes(codes, width=width)
    found = []
    for batch in batches:
        asked = torch.randn(batch, TOKENS, 256)
        check = compared(model, asked, trie=trie, allowed=allowed, beams=beams)
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(timed(lambda asked=asked: beam_search(decoder, asked, trie=trie, beams=beams)))
            theirs.append(timed(lambda asked=asked: generate(model, asked, allowed=allowed, beams=beams)))
        rates = {"ours_queries_per_s": batch / median(ours), "generate_queries_per_s": batch / median(theirs)}
        found.append({"batch": batch, **rates, "ratio": median(theirs) / median(ours), **check})
    tree = {"leaves": trie.num_leaves, "tree_bytes_per_item": trie.memory_bytes / items}
    return {"items": items, "beams": beams, "codes": width, **tree, "results": found}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--beams", type=int, default=50)
    parser.add_argument("--batches", default="1,32", help="queries at a time, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    about = machine()
    small = {"items": 500, "beams": 8, "batches": [2], "rounds": 1, "width": 16}
    full = {
        "items": chosen.items,
        "beams": chosen.beams,
        "batches": [int(one) for one in chosen.batches.split(",")],
        "rounds": chosen.rounds,
        "width": 256,
    }
    text = json.dumps(
        {"benchmark": "beam_search", **measure(**(small if chosen.smoke else full)), "machine": about}, indent=2
    )
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
