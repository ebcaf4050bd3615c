"""What pretrained models cost: photos and texts a second, bytes and hours for 100,000 items; and what the stage adds.

    python benchmarks/pretrained_models.py [--out benchmarks/results/pretrained_models.json] [--rounds 3]

Models of the usual shapes with weights drawn at random, which cost what trained ones do. `photos_over_bare` is the
features stage (photos gathered, scaled, encoded, written as float16) against the model's bare forward pass over pixels
in memory, alternating, the best round of each. `cpu_hours_per_100k` is processor time, which other work on the machine
disturbs less than the clock. For texts: a batch as training draws it, 256 titles and 512 queries, read by a frozen
model without gradient, and the bytes that the states of 100,000 titles would take on disk instead.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from machine import machine
from PIL import Image

from triptych.data import catalogue as catalogues
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import ItemsConfig
from triptych.data.tables import read_items
from triptych.encoders import features, model_files
from triptych.encoders.features import Modality
from triptych.encoders.pretrained import ModelInput, Output, PretrainedConfig, PretrainedText, PretrainedVision
from triptych.nn.precision import Precision, autocast

PX, PHOTOS, BATCH = 224, 64, 16
TITLES, QUERIES = (256, 12), (512, 6)
"""Texts of a training batch, and their tokens, special ones included: as in a log of shop queries."""
ITEMS = 100_000
CPU = torch.device("cpu")
VISION: dict[str, Callable[[], Any]] = {
    "clip-vit-b32": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig()),
    "vit-b16": lambda: transformers.ViTModel(transformers.ViTConfig()),
    "resnet-50": lambda: transformers.ResNetModel(transformers.ResNetConfig()),
}
TEXT = {
    "minilm-l6": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6},
    "bert-base": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What pretrained models cost.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the best of each is kept")
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        catalogue = noise(folder)
        photos = {
            name: measure_vision(make, catalogue=catalogue, folder=folder / name, rounds=arguments.rounds)
            for name, make in VISION.items()
        }
        texts = {
            name: measure_text(shape, folder=folder / name, rounds=arguments.rounds) for name, shape in TEXT.items()
        }
    text = json.dumps(
        {"benchmark": "pretrained_models", "photos": photos, "texts": texts, "machine": machine()}, indent=2
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def measure_vision(make: Callable[[], Any], *, catalogue: Catalogue, folder: Path, rounds: int) -> dict[str, Any]:
    make().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": PX, "width": PX}}))
    kept = model_files.run(PretrainedConfig(name=str(folder)), out=folder / "kept")
    model = PretrainedVision(kept.path, output=Output.TOKENS)
    pixels = torch.randn(PHOTOS, 3, PX, PX)

    def bare() -> None:
        with torch.inference_mode(), autocast(Precision.AUTO, device=CPU):
            for start in range(0, PHOTOS, BATCH):
                model.model(pixel_values=pixels[start : start + BATCH])

    def stage() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            features.run(
                kept,
                modality=Modality.PHOTO,
                output=Output.TOKENS,
                catalogue=catalogue,
                out=Path(out),
                batch_size=BATCH,
                device="cpu",
            )

    def opening() -> None:
        PretrainedVision(kept.path, output=Output.TOKENS)

    times = best({"bare": bare, "stage": stage, "opening": opening}, rounds=rounds)
    encoding = times["stage"][0] - times["opening"][0]
    return {
        "photos_per_s": round(PHOTOS / times["bare"][0], 2),
        "photos_over_bare": round(times["bare"][0] / encoding, 3),
        "cpu_hours_per_100k": round(times["bare"][1] / PHOTOS * ITEMS / 3600, 2),
        "gb_per_100k_tokens": round(ITEMS * model.num_tokens * model.dim * 2 / 1e9, 2),
        "gb_per_100k_pooled": round(ITEMS * model.dim * 2 / 1e9, 3),
    }


def measure_text(shape: dict[str, int], *, folder: Path, rounds: int) -> dict[str, Any]:
    transformers.BertModel(transformers.BertConfig(**shape)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    model = PretrainedText(folder, output=Output.TOKENS)
    ids = [torch.randint(5, 30_000, size) for size in (TITLES, QUERIES)]

    def read() -> None:
        with torch.inference_mode(), autocast(Precision.AUTO, device=CPU):
            for one in ids:
                model(ModelInput(one, torch.ones_like(one, dtype=torch.bool)))

    seconds, cpu = best({"read": read}, rounds=rounds)["read"]
    return {
        "batch_seconds": round(seconds, 3),
        "batch_cpu_seconds": round(cpu, 3),
        "cpu_hours_per_1000_steps": round(cpu * 1000 / 3600, 2),
        "gb_per_100k_titles": round(ITEMS * TITLES[1] * model.dim * 2 / 1e9, 2),
    }


def best(works: dict[str, Callable[[], None]], *, rounds: int) -> dict[str, tuple[float, float]]:
    """Alternate; the best wall time and the least processor time of each, in seconds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: (min(t[0] for t in times), min(t[1] for t in times)) for name, times in found.items()}


def noise(folder: Path) -> Catalogue:
    """A catalogue of photos of noise."""
    drawn = np.random.default_rng(0).integers(0, 256, size=(PHOTOS, PX, PX, 3), dtype=np.uint8)
    files = []
    for photo in drawn:
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "PNG")
        files.append(file.getvalue())
    rows = {"item_id": [str(row) for row in range(PHOTOS)], "title": ["a"] * PHOTOS, "photo": files}
    pl.DataFrame(rows).write_parquet(folder / "items.parquet")
    checked = check_tables(read_items(ItemsConfig(path="items.parquet", photo="photo"), base=folder), None, None)
    config = CatalogueConfig(photo_px=PX)
    return Catalogue.open(catalogues.build(config, tables=checked, inputs={}, out=folder / "catalogue"))


if __name__ == "__main__":
    main()
