"""A ranker in a run: what it is trained of, what the report says of it, and what the engine does with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triptych.data.catalogue import Catalogue
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import encode_views, load_vectors, load_views
from triptych.encoders.inputs import View
from triptych.recipes.run_folder import RunFolder


@pytest.fixture(scope="module")
def folder(ranked_run: Path) -> RunFolder:
    return RunFolder.existing(ranked_run)


def test_it_is_trained_of_the_served_encoders_vectors(folder: RunFolder):
    ranker = folder.stage("ranker seed 0")
    read = {
        "encoder": "encoder title+photo seed 0",
        "embeddings": "embeddings title+photo seed 0",
        "item_views": "item views title+photo seed 0",
    }
    assert {name: ranker.inputs[name] for name in read} == {name: folder.stage(one).id for name, one in read.items()}
    assert ranker.summary["positives"] < ranker.summary["samples"]


def test_title_and_photo_are_encoded_alone_and_absent_sides_said_to_be(folder: RunFolder):
    catalogue = Catalogue.open(folder.stage("catalogue"))
    stored = load_views(folder.stage("item views title+photo seed 0"))
    rows = np.flatnonzero(np.asarray(catalogue.photos.has))[:8]
    embedder = Embedder.open(folder.stage("encoder title+photo seed 0"))
    titles, pixels = [catalogue.titles[row] for row in rows], catalogue.photos.pixels(rows)
    whole = embedder.item_views(titles, views=[View.ITEM], pixels=pixels)[View.ITEM]
    items = load_vectors(folder.stage("embeddings title+photo seed 0"))[rows]
    np.testing.assert_allclose(whole, items, atol=0.02)
    has = np.arange(8) != 1
    found = encode_views([None, *titles[1:]], pixels=pixels, has_photo=has, embedder=embedder)
    for side, is_there in (("title", np.arange(8) != 0), ("photo", has)):
        assert np.array_equal(~np.isnan(found[side]).any(axis=1), is_there)
        np.testing.assert_allclose(found[side][is_there], stored[side][rows][is_there], atol=0.02)
