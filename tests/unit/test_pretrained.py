"""Pretrained models give what `transformers` gives, and every way of not finding one is a sentence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.data.augment import AugmentConfig
from triptych.data.text import CLS, PAD
from triptych.encoders import features, model_files
from triptych.encoders.features import Modality, PhotoFeatures, load_features
from triptych.encoders.model_files import find_model, open_copy
from triptych.encoders.pretrained import (
    OWN_IDS,
    Output,
    PretrainedConfig,
    PretrainedText,
    PretrainedTokenizer,
    PretrainedVision,
    model_input,
)
from triptych.encoders.text import text_tensor
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, ConfigError, MissingExtra
from triptych.nn.precision import Precision

transformers = pytest.importorskip("transformers")
from tiny_models import DEVIATION, MAX_TOKENS, MEAN, PX, bert, clip, resnet, save, siglip, vit  # noqa: E402


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Callable[[], Any]], Path]:
    return lambda make: save(make, tmp_path / make.__name__)


def photos(count: int, *, px: int = PX) -> torch.Tensor:
    return torch.randint(0, 256, (count, px, px, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return ((pixels / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("make", "pooled", "tokens"),
    [
        (vit, lambda m, x: m(x).last_hidden_state[:, 0], lambda m, x: m(x).last_hidden_state[:, 1:]),
        (
            resnet,
            lambda m, x: m(x).pooler_output.flatten(1),
            lambda m, x: m(x).last_hidden_state.flatten(2).transpose(1, 2),
        ),
        (
            clip,
            lambda m, x: m.visual_projection(m.vision_model(x).pooler_output),
            lambda m, x: m.vision_model(x).last_hidden_state[:, 1:],
        ),
        (siglip, lambda m, x: m.vision_model(x).pooler_output, lambda m, x: m.vision_model(x).last_hidden_state),
    ],
)
def test_photos_are_seen_as_the_model_itself_sees_them(saved, make, pooled, tokens):
    folder = saved(make)
    reference, pixels = transformers.AutoModel.from_pretrained(folder).eval(), photos(3)
    with torch.no_grad():
        one = PretrainedVision(folder, output=Output.POOLED)
        all_tokens = PretrainedVision(folder, output=Output.TOKENS)
        torch.testing.assert_close(one(pixels)[:, 0], pooled(reference, normalised(pixels)))
        torch.testing.assert_close(all_tokens(pixels), tokens(reference, normalised(pixels)))
        assert (one.num_tokens, one.dim) == tuple(one(pixels).shape[1:])
        assert (all_tokens.num_tokens, all_tokens.dim) == tuple(all_tokens(pixels).shape[1:])
        assert one(photos(2, px=48)).shape == (2, 1, one.dim)  # of another size: scaled to the model's


def read(model: PretrainedText, texts: list[str], *, max_tokens: int = MAX_TOKENS) -> torch.Tensor:
    tokens = PretrainedTokenizer(model.folder).encode(texts, max_tokens=1 + max_tokens)
    return model(model_input(text_tensor(tokens)))


@pytest.mark.parametrize("make", [bert, clip, siglip])
def test_texts_are_read_as_the_model_itself_reads_them(saved, make):
    folder = saved(make)
    pooled, all_tokens = (PretrainedText(folder, output=output) for output in (Output.POOLED, Output.TOKENS))
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["red shirt", "nice black hat bag shoe", ""]
    with torch.no_grad():
        vectors, states = read(pooled, texts)[:, 0], read(all_tokens, texts)
        for row, words in enumerate(texts):
            if make is bert:
                alone = reference(**tokenizer([words], return_tensors="pt")).last_hidden_state
                vector = alone.mean(dim=1)
            else:
                inputs = tokenizer([words], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
                output = reference.get_text_features(**inputs)
                vector = output if isinstance(output, torch.Tensor) else output.pooler_output
                alone = reference.text_model(**inputs).last_hidden_state
            torch.testing.assert_close(vectors[row], vector[0], msg=words)
            length = len(tokenizer(words)["input_ids"])
            torch.testing.assert_close(states[row, :length], alone[0, :length], msg=words)
        assert read(pooled, ["shirt " * 50]).shape == (1, 1, pooled.dim)


def test_token_ids_are_those_of_the_models_own_tokenizer(saved):
    folder = saved(bert)
    own, reference = PretrainedTokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["red shirt", "", "shirt " * 50, "[MASK] hat"]
    tokens = own.encode(texts, max_tokens=1 + MAX_TOKENS)
    assert (tokens[:, 0] == CLS).all() and tokens.shape == (4, 1 + MAX_TOKENS)
    for row, text in enumerate(texts[:3]):
        ids = reference(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        assert (tokens[row, 1 : len(ids) + 1] - OWN_IDS).tolist() == ids
        assert (tokens[row, len(ids) + 1 :] == PAD).all()
    assert reference.mask_token_id + OWN_IDS not in tokens[3]  # five letters and two brackets, not the token
    assert own.pieces("red ☕") == ["red", "[UNK]"]


def test_threads_share_a_tokenizer(saved):
    own = PretrainedTokenizer(saved(bert))
    texts = [" ".join(["red", "hat", "bag"][: 1 + n % 3]) for n in range(200)]
    expected = own.encode(texts, max_tokens=8)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: own.encode(texts, max_tokens=8), range(64)):
            assert np.array_equal(found, expected)


def test_features_are_computed_once_and_named_by_their_model(saved, small_shop, tmp_path: Path):
    folder = saved(vit)
    catalogue = small_shop.catalogue

    def run(where: Path, **given: Any) -> Artifact:
        model = model_files.run(PretrainedConfig(name=str(where)), out=tmp_path / "pretrained")
        return features.run(model, modality=Modality.PHOTO, catalogue=catalogue, out=tmp_path / "features", **given)

    first = run(folder, batch_size=7)
    rows = load_features(first)
    assert rows.shape == (catalogue.photos.num_photos, 1, 16)
    model = PretrainedVision(folder, output=Output.POOLED)
    item = int(np.flatnonzero(catalogue.photos.has)[5])
    with torch.no_grad():
        alone = model(torch.from_numpy(catalogue.photos.pixels([item])))[0].numpy()
    np.testing.assert_allclose(rows[catalogue.photos.photo_rows[item]], alone, atol=2e-2)  # bf16 and float16
    assert first.summary["name"] == str(folder) and first.summary["architecture"] == "vit"

    moved = folder.rename(tmp_path / "elsewhere")
    assert run(moved, batch_size=3).id == first.id
    other = transformers.ViTModel.from_pretrained(moved)
    with torch.no_grad():
        other.layernorm.bias += 1
    other.save_pretrained(moved)
    assert run(moved).id != first.id

    text = model_files.run(PretrainedConfig(name=str(saved(bert))), out=tmp_path / "pretrained")
    titles = features.run(text, modality=Modality.TITLE, catalogue=catalogue, out=tmp_path / "features")
    assert load_features(titles).shape == (catalogue.num_items, 1, 16)


def test_variations_are_those_of_each_photo_whatever_the_batch(saved, small_shop, tmp_path: Path):
    photos = small_shop.catalogue.photos
    model = model_files.run(PretrainedConfig(name=str(saved(vit))), out=tmp_path / "pretrained")
    by_batch = []
    for batch_size in (5, 64):
        made = features.run(
            model,
            modality=Modality.PHOTO,
            catalogue=small_shop.catalogue,
            out=tmp_path / str(batch_size),
            output=Output.TOKENS,
            views=2,
            augment=AugmentConfig(),
            precision=Precision.FP32,
            batch_size=batch_size,
        )
        by_batch.append(made)
    one, other = (load_features(made) for made in by_batch)
    assert one.shape == (3 * photos.num_photos, 9, 16)
    np.testing.assert_allclose(one, other, atol=2e-3)
    plain, first, second = np.split(np.asarray(one, np.float32), 3)
    assert min(np.abs(plain - first).max(), np.abs(first - second).max()) > 0.01
    seen = PhotoFeatures(by_batch[0], photos=photos)
    rows = np.array([4, 5, len(photos.photo_rows) - 1, 4])
    assert np.array_equal(seen.pixels(rows)[:2], plain[photos.photo_rows[rows[:2]]].astype(np.float16))
    assert not seen.pixels(rows)[2].any()  # it has no photo
    views = seen.draw_views(64, rng=np.random.default_rng(0))
    drawn = seen.pixels(np.full(64, 4), views=views)
    place = photos.photo_rows[4]
    is_first, is_second = ((drawn == view[place].astype(np.float16)).all(axis=(1, 2)) for view in (first, second))
    assert (is_first == (views == 1)).all() and (is_second == (views == 2)).all() and 16 < is_first.sum() < 48
    assert np.array_equal(seen.pixels(rows, views=np.zeros(4, int)), seen.pixels(rows))


def test_features_that_do_not_fit_on_the_disk_are_a_sentence(
    saved, small_shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = model_files.run(PretrainedConfig(name=str(saved(vit))), out=tmp_path / "pretrained")
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(ConfigError, match=r"take 0\.0 GB \(9 tokens each.* Choose output = 'pooled' or a folder with"):
        features.run(
            model,
            modality=Modality.PHOTO,
            output=Output.TOKENS,
            catalogue=small_shop.catalogue,
            out=tmp_path / "features",
        )


def test_an_interrupted_pass_goes_on_where_it_was_written(tmp_path: Path):
    asked: list[int] = []

    def encode(rows: slice, *, fail_at: int | None = None) -> np.ndarray:
        if fail_at is not None and rows.start >= fail_at:
            raise KeyboardInterrupt
        asked.append(rows.start)
        return np.arange(rows.start, rows.stop, dtype=np.float16)[:, None, None].repeat(2, axis=2)

    given: dict[str, Any] = {"shape": (100, 1, 2), "batch_size": 2, "label": "encoding"}
    with pytest.raises(KeyboardInterrupt):
        features._fill(tmp_path, lambda rows: encode(rows, fail_at=80), **given)
    asked.clear()
    features._fill(tmp_path, encode, **given)
    assert asked[0] == 64  # two notes of sixteen batches were on disk
    assert np.array_equal(np.load(tmp_path / features.FEATURES)[:, 0, 1], np.arange(100))


def no_weights(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")


def other_weights(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


def no_preprocessor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def unknown(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no such thing"}')


def with_code(folder: Path) -> None:
    (folder / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}'
    )
    (folder / "own.py").write_text("raise SystemExit('ran')")


def half_copied(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def of_another_size(folder: Path) -> None:
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, "hidden_size": 2 * tree["hidden_size"]}))


def config_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")


@pytest.mark.parametrize("damage", [half_copied, empty_weights, of_another_size, config_is_a_list])
def test_a_damaged_model_is_a_sentence(saved, damage, tmp_path: Path):
    folder = saved(vit)
    damage(folder)
    with pytest.raises(ConfigError):
        made = model_files.run(PretrainedConfig(name=str(folder)), out=tmp_path / "pretrained")
        PretrainedVision(made.path, output=Output.POOLED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_weights, r"holds no model\.safetensors"),
        (other_weights, "its weights lack"),
        (no_preprocessor, r"has no preprocessor_config\.json"),
        (unknown, "cannot be opened as a model"),
        (with_code, "cannot be opened as a model .*custom code"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_a_sentence(saved, change, message, tmp_path: Path):
    folder = saved(vit)
    change(folder)
    with pytest.raises(ConfigError, match=message):
        model_files.run(PretrainedConfig(name=str(folder)), out=tmp_path / "pretrained")


def test_a_model_of_the_other_kind_is_refused(saved):
    with pytest.raises(ConfigError, match="is a text model, not a vision model"):
        PretrainedVision(saved(bert), output=Output.POOLED)
    with pytest.raises(ConfigError, match="is a vision model, not a text model"):
        PretrainedText(saved(vit), output=Output.POOLED)


def test_a_model_that_is_not_there_is_a_sentence(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="the hub cannot be reached. Copy"):
        find_model(PretrainedConfig(name="someone/some-model"))
    with pytest.raises(ConfigError, match="there is no folder"):
        find_model(PretrainedConfig(name=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="no name on the model hub"):
        find_model(PretrainedConfig(name="a name/with blanks/and slashes"))
    with pytest.raises(ConfigError, match="has no effect on a folder"):
        find_model(PretrainedConfig(name=str(saved(bert)), revision="main"))


def test_without_the_extra_the_command_that_brings_it_is_named(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(bert)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'triptych\[hf\]'"):
        model_files.run(PretrainedConfig(name=str(folder)), out=tmp_path / "pretrained")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match="A pretrained model .'someone/some-model'. needs the 'hf' extra"):
        find_model(PretrainedConfig(name="someone/some-model"))


def test_the_copy_of_a_pair_serves_both_slots(saved, tmp_path: Path):
    config = PretrainedConfig(name=saved(clip).name)
    copy = model_files.run(config, out=tmp_path / "pretrained", base=tmp_path)  # a folder beside the config file
    assert (copy.summary["photo_px"], copy.summary["max_tokens"]) == (PX, MAX_TOKENS)
    whole = sum(p.numel() for p in transformers.AutoModel.from_pretrained(copy.path).parameters())
    text, vision = PretrainedText(copy.path, output=Output.TOKENS), PretrainedVision(copy.path, output=Output.TOKENS)
    assert sum(p.numel() for one in (text, vision) for p in one.parameters()) == whole + 1  # the pair's scale, twice
    (copy.path / "model.safetensors").write_bytes((saved(vit) / "model.safetensors").read_bytes())
    wanted = {"artifact": copy.id, **model_files.provenance_of(copy)}
    with pytest.raises(ArtifactError, match=f"reads by the frozen model 'clip' .weights {wanted['checksum']}., but"):
        open_copy(copy.path, wanted=wanted, reader=tmp_path)
    with pytest.raises(ArtifactError, match="whose copy should be in .* and is not there"):
        open_copy(tmp_path / "gone", wanted=wanted, reader=tmp_path)
