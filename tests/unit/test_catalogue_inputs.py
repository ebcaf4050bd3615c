"""What an encoder that is trained behind something is shown of a catalogue: the same as in bulk encoding."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from photo_files import encoded
from PIL import Image
from tiny_encoders import WORDS, tiny_embedder

from triptych.data import catalogue as catalogues
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import ItemsConfig, Role
from triptych.data.tables import read_items
from triptych.encoders.catalogue_inputs import CatalogueInputs
from triptych.encoders.inputs import View
from triptych.foundation.errors import ConfigError

PX, ITEMS = 32, 24
VIEWS = (View.ITEM, View.TITLE, View.PHOTO)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Items with no, one or two photos, and with a title, a description, both or neither."""
    folder, rng = tmp_path_factory.mktemp("items"), np.random.default_rng(0)
    photos = rng.integers(0, 256, size=(40, PX, PX, 3), dtype=np.uint8)
    shown = [[encoded(Image.fromarray(photos[row + 20 * n]), "PNG") for n in range(row % 3)] for row in range(20)]
    rows = {
        "item_id": [str(row) for row in range(ITEMS)],
        "title": [None if row % 5 == 0 else WORDS[row % 3] for row in range(ITEMS)],
        "about": ["blue" if row % 10 else None for row in range(ITEMS)],
        "photo": [*(one or None for one in shown), *([None] * 4)],
    }
    pl.DataFrame(rows).write_parquet(folder / "items.parquet")
    config = ItemsConfig(path="items.parquet", photo="photo", features={"about": Role.TEXT})
    checked = check_tables(read_items(config, base=folder), None, None)
    settings = CatalogueConfig(photo_px=PX, display_px=PX, max_photos=2)
    return Catalogue.open(catalogues.build(settings, tables=checked, inputs={}, out=folder / "out"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"photos": 2},
        {"title_features": ["about"]},
        {"kind": "late_fusion"},
        {"modalities": "title"},
        {"modalities": "photo"},
    ],
    ids=str,
)
@pytest.mark.parametrize("control", ["none", "photo", "content"])
def test_what_is_gathered_is_encoded_as_in_bulk(catalogue, settings, control):
    embedder = tiny_embedder(**settings)
    rows = np.random.default_rng(1).permutation(ITEMS)
    permuted = {"photo": {"photo_rows": rows}, "content": {"content_rows": rows}}.get(control, {})
    inputs = CatalogueInputs(catalogue, embedder=embedder, **permuted)
    views = VIEWS if "modalities" not in settings else (View.ITEM,)
    some = np.array([0, 1, 2, 7, 15, 20, 10, 21])
    given = inputs.of(some)
    with torch.no_grad():
        one_by_one = embedder.encoder.encode_views(given, views=views)
        turned = embedder.encoder.encode_views(given.at(torch.arange(len(some)).flip(0)), views=views)
    for view in views:
        torch.testing.assert_close(turned[view].flip(0), one_by_one[view])
    in_bulk = inputs.embed(embedder, views=views, item_rows=some)
    whole = embedder.embed_views(catalogue, views=views, photo_rows=permuted.get("photo_rows"), label=None)
    there = {View.TITLE: given.has_title.numpy(), View.PHOTO: given.has_photo.numpy()}
    for view in views:
        has = there.get(view, np.ones(len(some), dtype=bool))
        found = in_bulk[view.value]
        assert np.array_equal(~np.isnan(found).any(axis=1), has)
        np.testing.assert_allclose(found[has], one_by_one[view].numpy()[has], atol=0.02)  # bulk may be bf16
        of = rows[some] if control == "content" else some
        np.testing.assert_allclose(found[has], whole[view][of][has], atol=0.02)
    if settings.get("modalities") is None and control == "none":
        assert len(np.unique(in_bulk["item"].round(2), axis=0)) > 5


def test_photos_of_another_size_are_refused(catalogue):
    with pytest.raises(ConfigError, match="takes photos of 16 px, but the catalogue's are 32 px"):
        CatalogueInputs(catalogue, embedder=tiny_embedder(photo_px=16))
