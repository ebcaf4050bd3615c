"""What a pretrained encoder might make of the planted shop's words, without one."""

from __future__ import annotations

import numpy as np

WORDS = ["shirt", "lamp", "bowl", "chair", "scarf", "red", "green", "blue", "yellow", "black", "white"]


def content_of(texts: list[str]) -> np.ndarray:
    """What a pretrained encoder might make of words: unit vectors that share a direction with every shared word."""
    directions = np.random.default_rng(0).standard_normal((len(WORDS), 24)).astype(np.float32)
    known = [[word for word in text.lower().split() if word in WORDS] for text in texts]
    found = np.stack([sum(directions[WORDS.index(word)] for word in words) for words in known])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


class Encoder:
    """Gives that content for any words."""

    def queries(self, texts: list[str]) -> np.ndarray:
        return content_of([text.replace("crimson", "red") for text in texts])
