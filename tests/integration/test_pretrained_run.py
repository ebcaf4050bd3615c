"""A run with pretrained models, from a config file to answers; the folder they came from is not needed afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_demo import REPOSITORY

from triptych.encoders.pretrained import PatchCut
from triptych.engine import Engine
from triptych.foundation.artifact import MANIFEST, Artifact
from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.recipes import resolve
from triptych.recipes.config import RunConfig
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder
from triptych.training.log import LOG_FILE, read_log

pytest.importorskip("transformers")
from tiny_models import bert, clip, resnet, save

CONFIG = """
recipe = "demo"
compare = ["title", "permuted-photo"]
photo_queries = 20
[dataset]
num_items = 120
[dataset.shoppers]
num_pages = 1500
[catalogue]
photo_px = 24
[evaluation]
bootstrap_repeats = 100
[pretrain]
batch_items = 32
[pretrain.encoder]
photo_px = 24
dim = 32
layers = 1
max_query_tokens = 12
max_title_tokens = 13
text_model = { name = "models/bert", weights = "trained" }
vision_model = { name = "models/clip" }
[pretrain.loop]
steps = 4
validate_every = 2
"""


PATCHES = """
recipe = "demo"
compare = ["title"]
photo_queries = 20
[dataset]
num_items = 120
[dataset.shoppers]
num_pages = 1500
[catalogue]
photo_px = 48
[evaluation]
bootstrap_repeats = 100
[pretrain]
kind = "multitask"
stages = "taobao"
batch_items = 16
rank_queries = 20
[pretrain.encoder]
photo_px = 48
dim = 32
layers = 1
vision_model = { name = "models/resnet", output = "pooled", patch_grid = 3, patch_px = 32 }
[pretrain.loop]
steps = 4
validate_every = 2
"""


def triptych(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "triptych.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def run_again(shop: Path, *settings: str) -> None:
    resolved = resolve(str(shop / "shop.toml"), settings=settings)
    run_pipeline(resolved.config, base=resolved.base, out=shop / "run")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config file, models beside it, and the run made of them."""
    folder = tmp_path_factory.mktemp("pretrained")
    for make in (bert, clip):
        save(make, folder / "models" / make.__name__)
    (folder / "shop.toml").write_text(CONFIG)
    done = triptych("run", str(folder / "shop.toml"), "--out", str(folder / "run"), folder=folder.parent)
    assert done.returncode == 0, done.stderr
    assert "Loading weights" not in done.stderr
    return folder


def test_a_second_run_makes_nothing_and_nothing_is_left_over(shop: Path):
    before = {path: path.stat().st_mtime_ns for path in (shop / "run").rglob(MANIFEST)}
    run_again(shop)
    assert {path: path.stat().st_mtime_ns for path in (shop / "run").rglob(MANIFEST)} == before
    folder = RunFolder.existing(shop / "run")
    assert folder.prune(delete=False) == []
    for artifact in folder.artifacts():
        artifact.verify()


def test_the_encoders_name_their_models_and_only_those_they_read_by(shop: Path):
    folder = RunFolder.existing(shop / "run")
    found = {arm: folder.stage(f"encoder {arm} seed 0") for arm in ("title+photo", "title", "permuted-photo")}
    summary: dict[str, Any] = found["title+photo"].summary
    assert (summary["vision_model"]["name"], summary["vision_model"]["architecture"]) == ("models/clip", "clip")
    assert len(summary["vision_model"]["checksum"]) == 16 and summary["vision_model"]["revision"] is None
    assert "vision_model" not in found["title"].summary and "photo_features" not in found["title"].inputs
    seen = folder.stage("photo features")
    assert found["title+photo"].inputs["photo_features"] == found["permuted-photo"].inputs["photo_features"] == seen.id
    photos = Artifact.open(folder.stage("catalogue").path).summary["distinct_photos"]
    assert np.load(seen.file("features.npy")).shape == (2 * photos, 9, 16)


def test_what_was_saved_answers_without_the_models_folder(shop: Path, tmp_path: Path):
    shutil.copytree(shop / "run", tmp_path / "moved")
    shutil.move(shop / "models", tmp_path / "models")
    try:
        engine = Engine.open(tmp_path / "moved")
        assert len(engine.search("red plate", k=5, explain=True)) == 5
        photo = next(jpeg for i in range(120) if (jpeg := engine.photo_jpeg(f"i{i:05}")) is not None)
        assert len(engine.search(photo=photo, k=5)) == 5
        assert engine.add_items([{"item_id": "new", "photo": photo}]) == ["new"]
        assert "new" in [hit.item_id for hit in engine.search(photo=photo, k=3)]
        assert engine.search("☕").note is not None  # nothing that the model's tokenizer knows
        with pytest.raises(ConfigError, match="models/bert"):
            run_again(shop)
        before = RunFolder.existing(shop / "run").stages()
        names = {"text_model": tmp_path / "models" / "bert", "vision_model": tmp_path / "models" / "clip"}
        run_again(shop, *(f"pretrain.encoder.{slot}.name={place}" for slot, place in names.items()))
        assert RunFolder.existing(shop / "run").stages() == before  # the same files, wherever they lie
        shutil.rmtree(tmp_path / "moved" / "pretrained")
        with pytest.raises(ArtifactError, match="Copy the run folder as a whole"):
            Engine.open(tmp_path / "moved")
    finally:
        shutil.move(tmp_path / "models", shop / "models")


def test_a_hub_name_without_a_network_is_a_sentence_and_ends_the_run_at_once(shop: Path, tmp_path: Path):
    command = [sys.executable, "-m", "triptych.cli", "run", str(shop / "shop.toml"), "--out", str(tmp_path / "run")]
    command += ["--set", "pretrain.encoder.vision_model.name=somebody/some-model"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    assert done.returncode == 2
    assert "'somebody/some-model' is no folder here, is not in the hub's cache" in done.stderr
    assert set(json.loads((tmp_path / "run" / "run.json").read_text())["stages"]) == {"pretrained text model"}


def test_taobaos_pretraining_by_patches_that_a_frozen_network_sees_one_by_one(tmp_path: Path):
    save(resnet, tmp_path / "models" / "resnet")
    (tmp_path / "shop.toml").write_text(PATCHES)
    run_again(tmp_path)
    folder = RunFolder.existing(tmp_path / "run")
    photos = Artifact.open(folder.stage("catalogue").path).summary["distinct_photos"]
    assert np.load(folder.stage("photo features").file("features.npy")).shape == (photos, 9, 16)  # none are varied
    records = list(read_log(folder.stage("encoder title+photo seed 0").file(LOG_FILE)))
    losses = [record for record in records if record["event"] == "train"]
    found = {field for record in losses for field in record if field.startswith("masked_patches/")}
    assert found == {"masked_patches/masked_patches", "masked_patches/target_entropy"}
    assert all(0 < record["masked_patches/target_entropy"] <= np.log(16) for record in losses)
    last = [record for record in records if record["event"] == "validation"][-1]
    ranks = [last[f"rank@{k}/query-item sampled"] for k in (1, 5, 10)]
    assert 0 <= ranks[0] <= ranks[1] <= ranks[2] <= 1
    (tmp_path / "models").rename(tmp_path / "gone")
    engine = Engine.open(tmp_path / "run")
    assert len(engine.search("red plate", k=5)) == 5
    photo = next(jpeg for i in range(120) if (jpeg := engine.photo_jpeg(f"i{i:05}")) is not None)
    assert len(engine.search(photo=photo, k=5)) == 5
    assert engine.add_items([{"item_id": "new", "photo": photo}]) == ["new"]
    assert "new" in [hit.item_id for hit in engine.search(photo=photo, k=3)]


def test_the_page_about_pretrained_models_is_true(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (REPOSITORY / "docs" / "pretrained-models.md").read_text()
    configs = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    whole, patches, beside = (RunConfig().merged(tomllib.loads(config)) for config in configs)
    assert {name: bool(one.query_prefix) for name, one in beside.untuned.items()} == {"minilm": False, "e5": True}
    whole, patches = whole.pretrain.encoder, patches.pretrain.encoder
    assert list(whole.model_configs) == ["text_model", "vision_model"]
    assert patches.vision_model is not None and patches.vision_model.cut == PatchCut(8, 112)
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shop / "models" / "clip", tmp_path / "models" / "clip-vit-b32")
    names: dict[str, Any] = {}
    exec(code, names)
    photos = torch.zeros(2, 24, 24, 3, dtype=torch.uint8)
    assert names["vision"](photos).shape == (2, 9, 16)
