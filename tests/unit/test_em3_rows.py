"""Every row of EM3's tables can be made of the columns that its part's items have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from photo_files import encoded, picture
from tiny_encoders import SIZES, tiny_encoder

from triptych.data.catalogue import Catalogue
from triptych.data.datasets import fashion, movielens
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.inputs import View
from triptych.foundation.errors import ConfigError
from triptych.ranker.content.semantic_ids import SEMANTIC_ID, code_tokens
from triptych.ranker.match import Match
from triptych.ranker.own_encoder import EncoderStart
from triptych.ranker.task import Given, RankTask
from triptych.recipes.ranker import train_rankers
from triptych.recipes.reproduce import find_tables
from triptych.recipes.reproduce.base import Size
from triptych.recipes.reproduce.plans import Planned, resolve
from triptych.recipes.stages import Stages

ITEMS, USERS, EACH = 24, 6, 30
GOODS = (
    ("Topwear", "Tshirts", "Apparel"),
    ("Shoes", "Casual Shoes", "Footwear"),
    ("Watches", "Watches", "Accessories"),
)


def write_fashion(folder: Path) -> tuple[str, ...]:
    """Products as the data's own table has them; returns settings of few shoppers."""
    rows = []
    for place in range(ITEMS):
        category, kind, master = GOODS[place % len(GOODS)]
        colour = ("Black", "White", "Blue")[place // 3 % 3]
        rows.append(
            {
                "id": place,
                "productDisplayName": f"Corner Men {colour} {kind} {place}",
                "gender": "Men",
                "masterCategory": master,
                "subCategory": category,
                "articleType": kind,
                "baseColour": colour,
                "season": "Fall",
                "usage": "Casual",
            }
        )
        (folder / "images" / f"{place}.jpg").write_bytes(encoded(picture(32, 32), "JPEG"))
    pl.DataFrame(rows).write_parquet(folder / fashion.ITEMS_FILE)
    few = {"num_pages": 240, "num_users": 20, "num_intents": 6, "min_page_items": 4, "max_page_items": 6}
    return tuple(f"dataset.shoppers.{name}={number}" for name, number in few.items())


def write_movielens(folder: Path) -> tuple[str, ...]:
    """Films and ratings likewise."""
    rng = np.random.default_rng(0)
    for place in range(ITEMS):
        (folder / "images" / f"{place}.jpg").write_bytes(encoded(picture(32, 32), "JPEG"))
    films = {
        "movieId": list(range(ITEMS)),
        "title": [f"Film {place}" for place in range(ITEMS)],
        "genres": [("Action|Drama", "Comedy")[place % 2] for place in range(ITEMS)],
        "year": [1990 + place for place in range(ITEMS)],
        "image": [f"images/{place}.jpg" for place in range(ITEMS)],
        "overview": ["It goes well."] * ITEMS,
    }
    pl.DataFrame(films).write_parquet(folder / movielens.ITEMS_FILE)
    ratings = {
        "userId": [user for user in range(USERS) for _ in range(EACH)],
        "movieId": rng.integers(ITEMS, size=USERS * EACH),
        "rating": rng.integers(1, 6, size=USERS * EACH).astype(float),
        "timestamp": 1_000_000_000 + 40_000 * np.arange(USERS * EACH),
    }
    pl.DataFrame(ratings).write_parquet(folder / movielens.RATINGS_FILE)
    return ()


WRITE = {"fashion": (fashion.FOLDER, write_fashion), "movielens": (movielens.FOLDER, write_movielens)}
DATA = {name.partition("-")[0]: one for name, one in WRITE.items()}


class Made:
    """A part of the table in its full form, over items of its columns."""

    def __init__(self, part: str, folder: Path) -> None:
        self.planned: Planned = resolve(
            find_tables("em3", part=part)[part], size=Size.FULL, part=Part.TEST, settings=[]
        )
        name, write = DATA[part.partition("-")[0]]
        (folder / name / "images").mkdir(parents=True)
        few = write(folder / name)
        run = self.planned.run.override(f"dataset.data_root={folder}", *few)
        run = run.model_copy(update={"catalogue": run.catalogue.override(f"photo_px={SIZES['photo_px']}")})
        self.stages = Stages(run, base=folder, out=folder / "run", command="", jobs=1)
        self.catalogue: Catalogue = self.stages.catalogue
        self.split: Split = self.stages.split()
        self.encoder = tiny_encoder(folder / "encoder")

    def vectors(self, count: int) -> np.ndarray:
        return np.random.default_rng(1).normal(size=(count, SIZES["vector_dim"])).astype(np.float16)


@pytest.fixture(scope="module", params=["fashion", "movielens", "movielens-by-time"])
def made(request, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp("em3"))


def test_every_row_of_the_full_form_has_a_model_of_its_parts_items(made: Made):
    """What does not go with the data would be told after hours of training encoders."""
    catalogue = made.catalogue
    for row in made.planned.rows:
        config = made.planned.plans[row.name][0].config
        content, reads = config.ranker.content, config.reads
        vectors = {name.value: made.vectors(catalogue.num_items) for name in reads}
        if content.reads_codes:
            codes = np.random.default_rng(2).integers(content.codes, size=(catalogue.num_items, 3))
            vectors[SEMANTIC_ID] = code_tokens(codes)
        match = Match(
            made.vectors(catalogue.num_items),
            lambda texts: made.vectors(len(texts)).astype(np.float32),
            made.vectors(len(catalogue.queries)),
        )
        task = RankTask(
            config.ranker,
            Given(
                catalogue,
                made.split,
                seed=0,
                modalities=None if content.trains_encoder or not vectors else vectors,
                encoder=EncoderStart(made.encoder, [View(one.value) for one in reads])
                if content.trains_encoder
                else None,
                match=match if config.ranker.reads_match else None,
            ),
        )
        losses = task.losses(task.batch(0))
        assert losses.total.isfinite(), row.name


@pytest.mark.parametrize("made", ["movielens"], indirect=True)
def test_what_the_items_lack_is_told_before_anything_is_trained(made: Made):
    """Films have no category."""
    frozen, sim = (made.planned.plans[name][0] for name in ("din, frozen", "sim"))
    by_category = sim._replace(config=sim.config.override("ranker.model.search=category"))
    tokenizer = made.stages.tokenizer(made.split)
    before = sorted(made.stages.out.iterdir())
    with pytest.raises(ConfigError, match="sim trial 1: model.search: items have no category"):
        train_rankers([frozen, by_category], stages=made.stages, seeds=[0], split=made.split, tokenizer=tokenizer)
    assert sorted(made.stages.out.iterdir()) == before
