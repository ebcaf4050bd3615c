"""The side of FuxiCTR in `benchmarks/ranking.py`, which starts it in an environment of theirs; ours is not needed.

Their package has DIN's attention, an MLP, tables of features and a training loop; its DIN is put together of these
here, the way it is published: the history as the candidate sees it stands beside the vectors of all other features.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import OrderedDict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block
from fuxictr.pytorch.models import BaseModel

ITEM = ("item", "category")


class Din(BaseModel):
    """Target attention over item and category, and an MLP."""

    def __init__(self, feature_map: FeatureMap, *, size: dict[str, Any], folder: str) -> None:
        super().__init__(feature_map, model_id="din", verbose=0, model_root=folder, metrics=["AUC"], eval_steps=10**9)
        dim = size["dim"]
        self.tables = FeatureEmbeddingDict(feature_map, dim)
        self.attention = DIN_Attention(
            len(ITEM) * dim, attention_units=list(size["attention"]), hidden_activations="ReLU", use_softmax=False
        )
        self.mlp = MLP_Block(
            input_dim=feature_map.num_fields * dim,
            output_dim=1,
            hidden_units=list(size["hidden"]),
            hidden_activations="ReLU",
            output_activation=self.output_activation,
        )
        self.compile("adam", "binary_crossentropy", 1e-3)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Score a batch."""
        given = self.get_inputs(inputs)
        vectors = self.tables(given)
        target = torch.cat([vectors[name] for name in ITEM], dim=-1)
        history = torch.cat([vectors[f"{name}_history"] for name in ITEM], dim=-1)
        seen = self.attention(target, history, given[f"{ITEM[0]}_history"] != 0)
        rest = [value for name, value in vectors.items() if not name.endswith("_history")]
        return {"y_pred": self.mlp(torch.cat([*rest, seen], dim=-1))}


def described(rows: dict[str, int], *, folder: str, history: int) -> FeatureMap:
    """Name the columns: features, and sequences that share the tables of item and category."""
    found = FeatureMap("planted", folder)
    found.labels = ["label"]
    columns: OrderedDict[str, dict[str, Any]] = OrderedDict()
    for name, count in rows.items():
        columns[name] = {"source": "", "type": "categorical", "vocab_size": count + 1}
    for name in ITEM:
        shared = {"padding_idx": 0, "vocab_size": rows[name] + 1, "max_len": history, "share_embedding": name}
        columns[f"{name}_history"] = {"source": "", "type": "sequence", "feature_encoder": None, **shared}
        columns[name]["padding_idx"] = 0
    found.features = columns
    found.num_fields = found.get_num_fields()
    found.set_column_index()
    return found


def main() -> None:
    """Train on the columns of a file, and print rate and AUC."""
    asked = json.loads(sys.argv[1])
    size, folder = asked["size"], Path(asked["folder"])
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        for name in ("train", "validation"):
            with np.load(folder / f"{name}.npz") as file:
                # Rows begin at 1, as 0 is padding and items share their table with the history.
                columns = {key: file[key] + (0 if key == "label" or "history" in key else 1) for key in file.files}
            np.savez(Path(place) / f"{name}.npz", **columns)
        feature_map = described(asked["rows"], folder=place, history=size["history"])
        model = Din(feature_map, size=size, folder=place)
        train, validation = (
            NpzDataLoader(
                feature_map, f"{place}/{name}.npz", batch_size=size["batch"], shuffle=name == "train", num_workers=1
            )
            for name in ("train", "validation")
        )
        model._max_gradient_norm, model._stop_training, model._total_steps = 10.0, False, 0
        started = time.perf_counter()
        for _ in range(size["epochs"]):
            model.train_epoch(train)
        seconds = time.perf_counter() - started
        found = model.evaluate(validation)
    print(
        json.dumps(
            {
                "samples_per_s": round(size["epochs"] * train.num_samples / seconds),
                "auc": round(float(found["AUC"]), 4),
                "version": metadata.version("fuxictr"),
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
