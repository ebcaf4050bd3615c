"""Beam search for semantic IDs: ours beside `transformers`' generate with a prefix function, on the same weights.

    python benchmarks/beam_search.py [--items 100000] [--beams 50] [--batches 1,32] [--threads 1,2] [--rounds 30]
                                     [--out FILE]
    python benchmarks/beam_search.py --smoke     the same in a few seconds, whose figures mean nothing

One decoder (2 blocks, 256 wide, 3 levels of 256 codes), one tree of random IDs, random requests of 16 tokens. Both say
the same IDs: `same` is the share of each request's IDs that both found, `off` the largest difference of their log
probabilities.

`generate` has what an encoder–decoder of `transformers` has: the keys and values of what is asked are made once for
each request, those of what was said are kept in a `DynamicCache`, and each step maps the newest code of each beam. It
asks a dictionary of the prefixes that exist for each beam, as its users do.

The two alternate, and the median round counts; batches of more than one have a tenth of the rounds. `ratio` is of
seconds, `cpu_ratio` of the process' processor seconds: of one thread the two say the same, unless something else was
running.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutput

from triptych.nn.code_decoder import CodeDecoder, SearchDecoder
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
        super().__init__(Config(vocab_size=vocabulary, num_hidden_layers=len(decoder.blocks)))
        self.decoder = decoder

    def remember(self, asked: Tensor) -> Tensor:
        """Make keys and values of what is asked ``[n, blocks, 2, heads, tokens, head_dim]``."""
        parts = [block.asked(asked).unflatten(2, (2, block.heads, -1)) for block in self.decoder.blocks]
        return torch.stack(parts, dim=1).permute(0, 1, 3, 4, 2, 5).contiguous()

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Give each step what was said, and what is kept of it and of what was asked."""
        name = "cache" if "cache" in kwargs else "past_key_values"  # by the version of transformers
        return {"input_ids": input_ids, "memory": kwargs["memory"], "kept": kwargs[name]}

    def forward(self, input_ids: Tensor, memory: Tensor, kept: Cache, **_: Any) -> CausalLMOutput:
        """Score the tokens of the next level."""
        decoder, level = self.decoder, input_ids.shape[1] - 1
        if level:
            states = decoder.codes(input_ids[:, -1:] - 1) + decoder.places[level]
        else:
            states = (decoder.start + decoder.places[0]).expand(len(input_ids), 1, -1)
        for place, block in enumerate(decoder.blocks):
            own = block.own(block.own_norm(states)).unflatten(2, (3, block.heads, -1))
            query, key, value = own.permute(2, 0, 3, 1, 4)  # [n, heads, 1, head_dim] each
            mixed = scaled_dot_product_attention(query, *kept.update(key, value, place))
            states = states + block.own_out(mixed.flatten(1)[:, None])
            query = block.query(block.asked_norm(states)).unflatten(2, (block.heads, -1)).transpose(1, 2)
            mixed = scaled_dot_product_attention(query, *memory[:, place].unbind(1))
            states = states + block.asked_out(mixed.flatten(1)[:, None])
            states = states + block.mlp(block.mlp_norm(states))
        width = decoder.num_codes
        own = linear(decoder.norm(states), decoder.scores[level], decoder.offsets[level])
        logits = own.new_full((len(own), 1, self.config.vocab_size), float("-inf"))
        logits[:, :, 1 + level * width : 1 + (level + 1) * width] = own
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
        use_cache=True,
        pad_token_id=model.config.vocab_size - 1,
        return_dict_in_generate=True,
        output_scores=True,
    )
    begin = torch.zeros(len(asked), 1, dtype=torch.int64)

    def may_follow(_: int, said: Tensor) -> list[int]:
        return allowed[tuple(said[1:].tolist())]

    with torch.inference_mode():
        memory = model.remember(asked)
        return model.generate(begin, generation_config=settings, prefix_allowed_tokens_fn=may_follow, memory=memory)


def prefixes(codes: np.ndarray, *, width: int) -> dict[tuple[int, ...], list[int]]:
    """List the tokens that may follow each prefix."""
    found: dict[tuple[int, ...], set[int]] = {}
    for path in np.unique(codes, axis=0).tolist():
        tokens = [1 + level * width + code for level, code in enumerate(path)]
        for length in range(len(path)):
            found.setdefault(tuple(tokens[:length]), set()).add(tokens[length])
    return {prefix: sorted(after) for prefix, after in found.items()}


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return seconds, and processor seconds."""
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu_start


def compared(
    model: Wrapped, search: SearchDecoder, asked: Tensor, *, trie: CodeTrie, allowed: Any, beams: int
) -> dict[str, float]:
    """Check that both say the same."""
    width, levels = model.decoder.num_codes, model.decoder.levels
    ours = beam_search(search, asked, trie=trie, beams=beams)
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


def measure(
    *, items: int, beams: int, batches: list[int], threads: list[int], rounds: int, width: int
) -> dict[str, Any]:
    """Time both at every batch size and number of threads."""
    torch.manual_seed(0)
    decoder = CodeDecoder(256, levels=3, num_codes=width, layers=2, heads=4).eval()
    codes = np.random.default_rng(0).integers(width, size=(items, 3)).astype(np.uint16)
    trie, model, allowed = CodeTrie.build(codes), Wrapped(decoder).eval(), prefixes(codes, width=width)
    search, found = decoder.for_search(), []
    for batch in batches:
        asked = torch.randn(batch, TOKENS, 256)
        check = compared(model, search, asked, trie=trie, allowed=allowed, beams=beams)
        for number in threads:
            torch.set_num_threads(number)
            ours, theirs = [], []
            for _ in range(rounds if batch == 1 else max(1, rounds // 10)):
                ours.append(timed(lambda asked=asked: beam_search(search, asked, trie=trie, beams=beams)))
                theirs.append(timed(lambda asked=asked: generate(model, asked, allowed=allowed, beams=beams)))
            (own, own_cpu), (other, other_cpu) = np.median(ours, axis=0).tolist(), np.median(theirs, axis=0).tolist()
            rates = {"ours_queries_per_s": batch / own, "generate_queries_per_s": batch / other}
            ratios = {"ratio": other / own, "cpu_ratio": other_cpu / own_cpu}
            found.append({"batch": batch, "threads": number, **rates, **ratios, **check})
    tree = {"leaves": trie.num_leaves, "tree_bytes_per_item": trie.memory_bytes / items}
    return {"items": items, "beams": beams, "codes": width, **tree, "results": found}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--beams", type=int, default=50)
    parser.add_argument("--batches", default="1,32", help="queries at a time, separated by commas")
    parser.add_argument("--threads", default=None, help="of both, separated by commas; default: 1, and all cores")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    about = machine()
    threads = sorted({1, about["cores"]}) if chosen.threads is None else [int(one) for one in chosen.threads.split(",")]
    small = {"items": 500, "beams": 8, "batches": [1, 2], "threads": [1], "rounds": 1, "width": 16}
    full = {
        "items": chosen.items,
        "beams": chosen.beams,
        "batches": [int(one) for one in chosen.batches.split(",")],
        "threads": threads,
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
