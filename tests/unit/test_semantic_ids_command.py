"""``triptych semantic-ids`` over a catalogue with categories and delivery cells."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from tiny_shop import ITEMS, NUM_ITEMS, PX, write_tables
from typer.testing import CliRunner

from triptych.cli import app
from triptych.data import catalogue as catalogues
from triptych.data import splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.foundation.artifact import Artifact, produce, remove
from triptych.foundation.errors import ArtifactError, ConfigError, DataError
from triptych.metrics.codes import in_cell_collision_rate, normalised_mutual_information, number_ids
from triptych.recipes.run_folder import RunFolder
from triptych.semantic_ids.config import TrainingConfig
from triptych.semantic_ids.stored import SemanticIds

SMALL = ("--set", "quantizer.codes=4", "--set", "quantizer.levels=2")


class Run(NamedTuple):
    folder: Path
    catalogue: Artifact
    embeddings: Artifact


@pytest.fixture
def shop_run(tmp_path) -> Run:
    """A catalogue, and embeddings of its items, as a run lies on disk."""
    config = CatalogueConfig(photo_px=PX, display_px=40)
    catalogue = catalogues.build(
        config, tables=partial(write_tables, tmp_path), inputs={"t": "1"}, out=tmp_path / "catalogue"
    )

    def build(folder):
        vectors = np.random.default_rng(0).standard_normal((NUM_ITEMS, 6)).astype(np.float16)
        np.save(folder / "vectors.npy", vectors)
        return {}

    inputs = {"encoder": "none", "catalogue": catalogue}
    embeddings = produce(tmp_path / "embeddings", kind="embeddings", config={}, inputs=inputs, build=build)
    return Run(tmp_path, catalogue, embeddings)


def answer(*arguments) -> str:
    result = CliRunner().invoke(
        app, ["semantic-ids", *(str(argument) for argument in arguments)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_writes_beside_the_embeddings_and_measures_by_category_and_cell(shop_run):
    (found,) = json.loads(answer(shop_run.embeddings.path, *SMALL, "--json"))
    artifact = Artifact.open(found["path"], kind="semantic_ids")
    assert artifact.path.parent == shop_run.folder / "semantic_ids"
    assert artifact.inputs == {"embeddings": shop_run.embeddings.id, "catalogue": shop_run.catalogue.id}
    numbers = number_ids(np.asarray(SemanticIds.open(artifact).codes))
    known = [row for row, item in enumerate(ITEMS) if item["category"] is not None]
    names = pl.Series([ITEMS[row]["category"] for row in known]).rank("dense").to_numpy()
    expected = normalised_mutual_information(numbers[known], names)
    assert found["quality"]["levels"][1]["category_nmi"] == pytest.approx(expected)
    cells = sorted({cell for item in ITEMS for cell in item["cells"]})
    is_in = np.array([[cell in item["cells"] for cell in cells] for item in ITEMS])
    assert found["quality"]["in_cell_collision_rate"] == in_cell_collision_rate(numbers, item_cells=is_in)


def test_codebooks_are_learned_as_the_encoder_was(shop_run):
    catalogue = Catalogue.open(shop_run.catalogue)
    split = splits.build(splits.SplitConfig(), catalogue=catalogue, out=shop_run.folder / "split")
    inputs = {"catalogue": shop_run.catalogue, "split": split}
    encoder = produce(shop_run.folder / "encoder", kind="encoder", config={}, inputs=inputs, build=lambda _: {})

    def build(folder):
        shutil.copy(shop_run.embeddings.file("vectors.npy"), folder)
        return {}

    inputs = {"encoder": encoder, "catalogue": shop_run.catalogue}
    made = produce(shop_run.folder / "embeddings", kind="embeddings", config={}, inputs=inputs, build=build)
    (found,) = json.loads(answer(made.path, *SMALL, "--json"))
    assert Artifact.open(found["path"]).inputs["split"] == split.id
    remove(split.path)
    with pytest.raises(ArtifactError, match="does not exist"):
        answer(made.path, *SMALL)


def test_the_table_has_the_figures(shop_run):
    arguments = (shop_run.embeddings.path, *SMALL)
    (found,) = json.loads(answer(*arguments, "--json"))
    table = answer(*arguments)
    quality = found["quality"]
    assert found["path"] in table
    assert f"{quality['collision_rate']:.2%}" in table
    assert f"{quality['in_cell_collision_rate']:.2%}" in table
    assert f"{quality['levels'][1]['perplexity']:.1f}" in table
    assert f"36 items among a sample of {NUM_ITEMS}" in table


def test_several_at_once_and_files(shop_run):
    np.save(shop_run.folder / "text.npy", np.random.default_rng(1).standard_normal((NUM_ITEMS, 5)))
    found = json.loads(answer(shop_run.embeddings.path, shop_run.folder / "text.npy", *SMALL, "--json"))
    assert len({one["path"] for one in found}) == 2
    assert found[1]["quality"]["in_cell_collision_rate"] is None  # nothing says whose vectors a file holds
    (told,) = json.loads(answer(shop_run.folder / "text.npy", "--catalogue", shop_run.catalogue.path, *SMALL, "--json"))
    assert told["quality"]["in_cell_collision_rate"] is not None


def test_a_file_changes_what_it_names_alone(shop_run):
    file = shop_run.folder / "ids.toml"
    file.write_text(
        '[quantizer]\nkind = "rq_vae"\ncodes = 4\nhidden = [8]\n[training.loop]\nsteps = 2\ndevice = "cpu"\n'
    )
    (found,) = json.loads(
        answer(shop_run.embeddings.path, "--config", file, "--set", "training.batch_vectors=9", "--json")
    )
    written = Artifact.open(found["path"]).config
    assert (written["quantizer"]["levels"], written["quantizer"]["codes"]) == (3, 4)
    assert written["training"]["batch_vectors"] == 9
    assert written["training"]["loop"] == {**TrainingConfig().loop.dump(), "steps": 2, "device": "cpu"}


def test_mistakes_are_sentences(shop_run):
    run = partial(answer, shop_run.embeddings.path)
    with pytest.raises(ConfigError, match="quantizer.code: there is no such setting"):
        run("--set", "quantizer.code=4")
    with pytest.raises(ConfigError, match="codes is 256, and there are 36 vectors"):
        run()
    with pytest.raises(DataError, match="neighbour_recall is .* gate asks for at least 1"):
        run(*SMALL, "--set", "gate.neighbour_recall=1")
    with pytest.raises(ArtifactError, match="is a 'catalogue', not a 'embeddings'"):
        answer(shop_run.catalogue.path, *SMALL)
    other = catalogues.build(
        CatalogueConfig(photo_px=PX, display_px=41),
        tables=partial(write_tables, shop_run.folder),
        inputs={"t": "1"},
        out=shop_run.folder / "other",
    )
    with pytest.raises(ArtifactError, match=f"made from catalogue {shop_run.catalogue.id}, but is used with catalogue"):
        run("--catalogue", Catalogue.open(other).artifact.path, *SMALL)


def test_a_run_folder_is_answered_with_the_vectors_it_has(shop_run):
    folder = RunFolder(shop_run.folder)
    folder.start({"recipe": "one"})
    folder.record("catalogue", shop_run.catalogue)
    folder.record("embeddings title seed 3", shop_run.embeddings)
    for given in (shop_run.folder, shop_run.folder / "embeddings"):
        with pytest.raises(ArtifactError, match="item vectors is wanted") as caught:
            answer(given, *SMALL)
        assert f"This run has: {shop_run.embeddings.path} (title seed 3)." in str(caught.value)
    answer(shop_run.embeddings.path, *SMALL)
    remove(shop_run.embeddings.path)
    with pytest.raises(ArtifactError, match="has none yet"):
        answer(shop_run.folder, *SMALL)
    with pytest.raises(ArtifactError, match="does not exist"):
        answer(shop_run.folder / "nothing", *SMALL)


def test_what_it_made_stays_while_the_run_has_the_embeddings(shop_run):
    folder = RunFolder(shop_run.folder)
    folder.start({"recipe": "one"})
    folder.record("catalogue", shop_run.catalogue)
    folder.record("embeddings", shop_run.embeddings)
    answer(shop_run.embeddings.path, *SMALL)
    (made,) = (shop_run.folder / "semantic_ids").iterdir()
    assert folder.prune(delete=False) == []
    again = RunFolder(shop_run.folder)
    again.start({"recipe": "another"})  # a run with another config, which has the embeddings no more
    again.record("catalogue", shop_run.catalogue)
    assert {path for path, _ in again.prune(delete=True)} == {shop_run.embeddings.path, made}
    assert again.prune(delete=False) == []
