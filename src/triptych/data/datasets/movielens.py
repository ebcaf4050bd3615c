"""MovieLens (ml-latest-small) with posters and plots: real users, real ratings over twenty years, no queries.

A rating of four or more is a choice, a lower one an impression: the user met the film and did not like it as much.

The users' tags are left out. As events they would have to be choices under a query, and a tag such as "boring" is
none; as judgements they would say nothing of the films that nobody thought of tagging.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from triptych.data.datasets.base import Card, DatasetConfig, Tables, dataset_folder, events_config, items_config
from triptych.data.schema import EventKind, Role
from triptych.data.simulate.tables import EVENTS_FILE, ITEMS_FILE, write_parquet

FOLDER = "movielens_posters"
RATINGS_FILE = "interactions.parquet"

_NO_GENRES = "(no genres listed)"


class MovielensConfig(DatasetConfig):
    """Films with title, poster, plot, genres and year, and what 610 people thought of them."""

    kind: Literal["movielens"] = "movielens"
    """Name of the dataset."""
    data_root: str | None = None
    """Folder that holds `movielens_posters`; left out, the environment variable TRIPTYCH_DATA, else ../shared/data."""
    positive_rating: float = Field(4.0, ge=0.5, le=5)
    """Rating, in stars, from which it is a click; a lower one is an impression."""

    def prepare(self, out: Path) -> Tables:
        """Write the tables; posters stay where they are."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        write_parquet(read_films(folder), out / ITEMS_FILE)
        write_parquet(read_ratings(folder, positive_rating=self.positive_rating), out / EVENTS_FILE)
        features = {"plot": Role.TEXT, "genres": Role.MULTI, "year": Role.NUMERIC}
        items = items_config(ITEMS_FILE, title="title", photo="photo", photo_root=str(folder), features=features)
        return Tables(items=items, events=events_config(EVENTS_FILE), judgements=None)

    def source_files(self) -> Sequence[Path]:
        """Return the tables of films and ratings."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        return (folder / ITEMS_FILE, folder / RATINGS_FILE)

    def photo_folder(self) -> Path:
        """Return the folder that photo paths start from."""
        return dataset_folder(FOLDER, data_root=self.data_root)

    def card(self) -> Card:
        """Return the dataset's origin and licence."""
        return Card(
            name="movielens",
            source="MovieLens ml-latest-small (GroupLens, 2018), posters and plots from TMDB: 9,742 films, 610 users",
            licence="GroupLens terms: research use, no commercial use, citation required; posters are the studios'",
            note=f"A rating of {self.positive_rating:g} stars or more is a click, a lower one an impression.",
            simulated=False,
        )


def read_films(folder: Path) -> pl.DataFrame:
    """Read the films with canonical column names, by id."""
    source = pl.read_parquet(folder / ITEMS_FILE).sort("movieId")
    genres = pl.col("genres").str.split("|").list.set_difference([_NO_GENRES, ""])
    return source.select(
        item_id=pl.col("movieId").cast(pl.String),
        title=pl.col("title").str.strip_chars(),
        photo=pl.col("image").replace("", None),
        plot=pl.col("overview").str.strip_chars().replace("", None),
        genres=pl.when(genres.list.len() > 0).then(genres.list.sort()),
        year=pl.col("year").cast(pl.Float64),
    )


def read_ratings(folder: Path, *, positive_rating: float) -> pl.DataFrame:
    """Read the ratings as events, by time; ratings of one second stay in the order of the file."""
    source = pl.read_parquet(folder / RATINGS_FILE).sort("timestamp", maintain_order=True)
    kind = pl.when(pl.col("rating") >= positive_rating).then(pl.lit(EventKind.CLICK.value))
    return source.select(
        time=pl.from_epoch("timestamp", time_unit="s").dt.replace_time_zone("UTC").dt.cast_time_unit("us"),
        user=pl.col("userId").cast(pl.String),
        item_id=pl.col("movieId").cast(pl.String),
        kind=kind.otherwise(pl.lit(EventKind.IMPRESSION.value)),
    )


CONFIG = MovielensConfig
