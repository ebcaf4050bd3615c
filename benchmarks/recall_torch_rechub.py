"""The side of torch-rechub in `benchmarks/recall.py`, which starts it in an environment of theirs; ours is not needed.

Its DSSM without layers is a vector for each query and each item; its `MatchTrainer` contrasts the items of a batch.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch_rechub.basic.features import SparseFeature
from torch_rechub.basic.initializers import RandomNormal
from torch_rechub.models.matching import DSSM
from torch_rechub.trainers import MatchTrainer


class CosineAdagrad(torch.optim.Adagrad):
    """Adagrad whose rate falls to 0 along a cosine, step by step; their trainer changes rates by epochs alone."""

    def __init__(self, weights: Any, *, lr: float, steps: int) -> None:
        super().__init__(weights, lr=lr)
        self._at_first, self._steps, self._done = lr, steps, 0

    def step(self, closure: Any = None) -> Any:
        """Change the weights, then the rate."""
        found = super().step(closure)
        self._done += 1
        rate = 0.5 * self._at_first * (1 + float(np.cos(np.pi * self._done / self._steps)))
        for group in self.param_groups:
            group["lr"] = rate
        return found


def main() -> None:
    """Train on the batches of a file; write the vectors beside it, and print the rate."""
    asked = json.loads(sys.argv[1])
    size, folder = asked["size"], Path(asked["folder"])
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    features = [
        SparseFeature(name, vocab_size=size[rows], embed_dim=size["dim"], initializer=RandomNormal(0, size["init_std"]))
        for name, rows in (("query", "queries"), ("item", "items"))
    ]
    model = DSSM([features[0]], [features[1]], {"dims": []}, {"dims": []})
    steps = asked["steps"]
    how = {"optimizer_fn": CosineAdagrad, "optimizer_params": {"lr": size["rate"], "steps": steps}}
    trainer = MatchTrainer(
        model, mode=2, in_batch_neg=True, n_epoch=1, sampler_seed=0, **({} if asked["as_it_comes"] else how)
    )
    # Their loss has no temperature.
    trainer.criterion = lambda scores, first: functional.cross_entropy(scores / size["temperature"], first)
    with np.load(folder / "batches.npz") as file:
        query, item = (torch.from_numpy(file[name]).split(size["batch"])[:steps] for name in ("query", "item"))
    loader = [({"query": one, "item": other}, torch.ones(len(one))) for one, other in zip(query, item, strict=True)]
    started = time.perf_counter()
    trainer.train_one_epoch(loader)
    seconds = time.perf_counter() - started
    vectors = {
        name: functional.normalize(model.embedding.embed_dict[name].weight.detach(), dim=1).numpy()
        for name in ("query", "item")
    }
    if not asked["as_it_comes"]:
        np.savez(folder / "vectors.npz", **vectors)
    found = {"pairs_per_s": round(size["batch"] * steps / seconds), "steps": steps}
    print(json.dumps({**found, "version": metadata.version("torch-rechub"), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
