"""From a folder in MMRec's format to EM3's answers: vectors by item row, the given split, the published settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from triptych.data import catalogue as catalogues
from triptych.data import splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.datasets.mmrec import MmrecConfig
from triptych.data.splits import Split, SplitBy, SplitConfig
from triptych.data.tables import read_events, read_items
from triptych.index.backends.exact import ExactIndex
from triptych.recall import train
from triptych.recall.base import Request
from triptych.recall.config import RecallTrainConfig
from triptych.recall.learned import load_model
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given, RecallTask

NUM_ITEMS, USERS, PUBLISHED = 24, 30, {"loss": "bpr", "against": "full", "single_choices": True, "id_dropout_rate": 0}


def folder_of(path: Path) -> Path:
    """Thirty users with six items each, the last two of them held out; items of random vectors."""
    path.mkdir()
    rng, rows = np.random.default_rng(0), ["userID\titemID\tx_label"]
    chosen = [np.append(rng.permutation(NUM_ITEMS - 1)[:5], NUM_ITEMS - 1) for _ in range(USERS)]
    for label, places in ((0, range(4)), (1, (4,)), (2, (5,))):
        rows += [f"{user}\t{items[place]}\t{label}" for place in places for user, items in enumerate(chosen)]
    (path / "toy.inter").write_text("\n".join(rows) + "\n")
    for name, dim in (("image", 12), ("text", 7)):
        np.save(path / f"{name}_feat.npy", rng.normal(size=(NUM_ITEMS, dim)).astype(np.float32))
    return path


def test_an_mmrec_folder_becomes_a_trained_em3(tmp_path: Path):
    dataset = MmrecConfig(path=str(folder_of(tmp_path / "toy")))
    tables = dataset.prepare(tmp_path)
    assert tables.events is not None
    checked = check_tables(read_items(tables.items, base=tmp_path), read_events(tables.events, base=tmp_path), None)
    built = catalogues.build(CatalogueConfig(photo_px=16), tables=checked, inputs={}, out=tmp_path / "catalogue")
    catalogue = Catalogue.open(built)
    split = Split.open(splits.build(SplitConfig(by=SplitBy.GIVEN), catalogue=catalogue, out=tmp_path / "split"))
    config = RecallTrainConfig.parse(
        {
            "model": {"kind": "em3", "dim": 8, "heads": 2},
            **PUBLISHED,
            "batch_pages": 50,
            "epochs": 3,
            "validations": 1,
            "device": "cpu",
            "precision": "fp32",
        }
    )
    given = Given(catalogue, split, None, None, seed=0, item_modalities=dataset.vectors())
    task = RecallTask(config, given)
    first = task.batch(0)
    parts = task.losses(first).parts
    assert {"bpr", "content_id", "content_to_id", "id_to_content"} <= set(parts)
    epochs = [task.batch(index).epoch for index in range(6)]
    assert epochs == [int(index / task.batches_per_epoch) for index in range(6)]
    assert epochs[-1] == 2
    # What an item is made of stands in its own row of the table, whatever was chosen.
    rows = task.ids.items.rows(catalogue.item_ids)
    for name, vectors in dataset.vectors().items():
        np.testing.assert_array_equal(task.module.get_buffer(f"vectors_{name}")[rows].numpy(), vectors)
    assert int(first.chosen.min()) > 0
    assert set(first.chosen.tolist()) <= set(
        rows[: NUM_ITEMS - 1].tolist()
    )  # the last is chosen in the test part alone

    artifact = train.run(config, given, inputs={}, out=tmp_path / "recall")
    vectors = np.load(artifact.file(train.VECTORS))
    assert vectors.shape == (NUM_ITEMS, 16)
    assert load_model(artifact.path).vector_dim == 16
    retriever = LearnedRetriever.load(artifact.path, index=ExactIndex.build(vectors), encoder=None, catalogue=catalogue)
    assert sorted(retriever.retrieve([Request(user="3", before=0)], NUM_ITEMS).item_rows[0]) == list(range(NUM_ITEMS))
