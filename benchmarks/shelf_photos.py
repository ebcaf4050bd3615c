"""Shelf photo → product on groceries, with the encoders of a run trained on other goods: does sight carry over?

    python benchmarks/shelf_photos.py runs/fashion [--out FILE]

81 products with a studio photo each; 2,781 photos taken in a shop ask which product they show. Nothing is trained here.
Needs TRIPTYCH_DATA. Beside the encoders: chance and a colour histogram.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from machine import machine

from triptych.data import catalogue as catalogues
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.datasets.grocery import GroceryConfig
from triptych.data.images import decode_photo
from triptych.data.tables import read_items
from triptych.encoders.embed import Embedder
from triptych.evaluate.records import to_rows
from triptych.evaluate.tasks import photo
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.artifact import Artifact
from triptych.foundation.progress import track
from triptych.index.backends.exact import ExactIndex
from triptych.recall.base import Retriever
from triptych.recall.models.dense import Dense
from triptych.recipes.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder whose encoders read photos")
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    dataset = GroceryConfig()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        catalogue = open_groceries(dataset, folder=folder)
        shelf = dataset.photo_queries()
        photos = [
            decode_photo(one.path, px=catalogue.photos.px) for one in track(shelf, label="shelf photos", unit="photo")
        ]
        result = photo.evaluate(
            models(arguments.run, catalogue=catalogue),
            catalogue=catalogue,
            photos=np.stack(photos),
            item_rows=np.array([catalogue.item_row(one.item_ids[0]) for one in shelf]),
            config=EvaluationConfig(),
            task="shelf-photo",
        )
    rows = to_rows(result.records)
    text = json.dumps({"benchmark": "shelf_photos", "records": rows, "machine": machine()}, indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    for row in rows:
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if row.get("low") is not None else ""
        what = f"{row['model']} - {row['baseline']}" if "baseline" in row else row["model"]
        print(f"{what:<40} {row['metric']}@{row['k']:<3} {row['value']:.3f} {interval} {row.get('verdict') or ''}")


def open_groceries(dataset: GroceryConfig, *, folder: Path) -> Catalogue:
    """Prepare the products and decode their studio photos."""
    tables = dataset.prepare(folder)
    checked = check_tables(read_items(tables.items, base=folder), None, None)
    return Catalogue.open(catalogues.build(CatalogueConfig(), tables=checked, inputs={}, out=folder / "catalogue"))


def models(run: Path, *, catalogue: Catalogue) -> dict[str, list[Retriever]]:
    """Open a run's encoders that read photos, each with an index of the groceries; one retriever for each seed."""
    found: dict[str, list[Retriever]] = {}
    for stage, place in RunFolder.existing(run).stages().items():
        if not stage.startswith("encoder "):
            continue
        name = stage.removeprefix("encoder ").partition(" seed ")[0]
        embedder = Embedder.open(Artifact.open(run / place))
        if embedder.modalities.reads_photo and name != "permuted-photo":
            index = ExactIndex.build(embedder.embed_catalogue(catalogue))
            found.setdefault(name, []).append(Dense(embedder, index, name=name))
    return found


if __name__ == "__main__":
    main()
