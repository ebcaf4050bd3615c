"""Pretrained models give what `transformers` gives, and every way of not finding one is a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.encoders import features
from triptych.encoders.features import Modality, load_features
from triptych.encoders.pretrained import Output, PretrainedConfig, PretrainedText, PretrainedVision
from triptych.foundation.errors import ConfigError

transformers = pytest.importorskip("transformers")

PX = 32
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "black", "nice", "shirt", "shoe", "bag", "hat"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**TOWER, "vocab_size": len(WORDS), "max_position_embeddings": 12, "pad_token_id": 0}
IDS = {"bos_token_id": 2, "eos_token_id": 3}
VISION = {**TOWER, "image_size": PX, "patch_size": 16}


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**TEXT))


def vit() -> Any:
    return transformers.ViTModel(transformers.ViTConfig(**VISION))


def resnet() -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return transformers.ResNetModel(transformers.ResNetConfig(**sizes))


def clip() -> Any:
    config = transformers.CLIPConfig(text_config={**TEXT, **IDS}, vision_config=VISION, projection_dim=8)
    return transformers.CLIPModel(config)


def siglip() -> Any:
    return transformers.SiglipModel(transformers.SiglipConfig(text_config={**TEXT, **IDS}, vision_config=VISION))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Callable[[], Any]], Path]:
    """Save a tiny checkpoint as people share them: config, safetensors, preprocessor, tokenizer."""

    def save(make: Callable[[], Any]) -> Path:
        folder = tmp_path / make.__name__
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make().save_pretrained(folder)
        size = {"size": {"height": PX, "width": PX}, "image_mean": MEAN, "image_std": DEVIATION}
        (folder / "preprocessor_config.json").write_text(json.dumps(size))
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
        return folder

    return save


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
        one = PretrainedVision(PretrainedConfig(name=str(folder)))
        all_tokens = PretrainedVision(PretrainedConfig(name=str(folder), output=Output.TOKENS))
        torch.testing.assert_close(one(pixels)[:, 0], pooled(reference, normalised(pixels)))
        torch.testing.assert_close(all_tokens(pixels), tokens(reference, normalised(pixels)))
        assert (one.num_tokens, one.dim) == tuple(one(pixels).shape[1:])
        assert (all_tokens.num_tokens, all_tokens.dim) == tuple(all_tokens(pixels).shape[1:])
        assert one(photos(2, px=48)).shape == (2, 1, one.dim)  # of another size: scaled to the model's


@pytest.mark.parametrize("make", [bert, clip, siglip])
def test_texts_are_read_as_the_model_itself_reads_them(saved, make):
    folder = saved(make)
    config = PretrainedConfig(name=str(folder))
    text = PretrainedText(config)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["red shirt", "nice black hat bag shoe", ""]
    with torch.no_grad():
        found = text(texts)[:, 0]
        for row, words in enumerate(texts):
            if make is bert:
                alone = reference(**tokenizer([words], return_tensors="pt")).last_hidden_state.mean(dim=1)
            else:
                inputs = tokenizer([words], padding="max_length", max_length=12, return_tensors="pt")
                output = reference.get_text_features(**inputs)
                alone = output if isinstance(output, torch.Tensor) else output.pooler_output
            torch.testing.assert_close(found[row], alone[0], msg=words)
        assert text(["shirt " * 50]).shape == (1, 1, text.dim)


def test_features_are_computed_once_and_named_by_their_weights(saved, small_shop, tmp_path: Path):
    folder = saved(vit)
    catalogue = small_shop.catalogue

    def run(where: Path, **given: Any) -> features.Artifact:
        config = PretrainedConfig(name=str(where))
        return features.run(config, modality=Modality.PHOTO, catalogue=catalogue, out=tmp_path / "features", **given)

    first = run(folder, batch_size=7)
    rows = load_features(first)
    assert rows.shape == (catalogue.photos.num_photos, 1, 16)
    model = PretrainedVision(PretrainedConfig(name=str(folder)))
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

    titles = features.run(
        PretrainedConfig(name=str(saved(bert))), modality=Modality.TITLE, catalogue=catalogue, out=tmp_path / "features"
    )
    assert load_features(titles).shape == (catalogue.num_items, 1, 16)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_weights, "holds no .*safetensors"),
        (other_weights, "its weights lack"),
        (no_preprocessor, "has no preprocessor_config.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_a_sentence(saved, change, message):
    folder = saved(vit)
    change(folder)
    with pytest.raises(ConfigError, match=message):
        PretrainedVision(PretrainedConfig(name=str(folder)))


def test_a_model_of_the_other_kind_is_refused(saved):
    with pytest.raises(ConfigError, match="is a text model, not a vision model"):
        PretrainedVision(PretrainedConfig(name=str(saved(bert))))
    with pytest.raises(ConfigError, match="is a vision model, not a text model"):
        PretrainedText(PretrainedConfig(name=str(saved(vit))))


def test_a_model_that_is_not_there_is_a_sentence(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="the hub cannot be reached. Copy"):
        PretrainedText(PretrainedConfig(name="someone/some-model"))
    with pytest.raises(ConfigError, match="there is no folder"):
        PretrainedText(PretrainedConfig(name=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="no name on the model hub"):
        PretrainedText(PretrainedConfig(name="a name/with blanks/and slashes"))
    with pytest.raises(ConfigError, match="has no effect on a folder"):
        PretrainedText(PretrainedConfig(name=str(saved(bert)), revision="main"))
