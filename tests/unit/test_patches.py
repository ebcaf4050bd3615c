"""Patches that a pretrained model sees one by one: alone, as features, hidden, guessed, refused where it is not so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from photo_files import encoded
from PIL import Image
from torch import Tensor

from triptych.data import catalogue as catalogues
from triptych.data.augment import AugmentConfig
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import ItemsConfig
from triptych.data.tables import read_items
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders import features, model_files
from triptych.encoders.base import EncoderConfig, load_encoder
from triptych.encoders.cross import crossed, rows_of
from triptych.encoders.embed import Embedder
from triptych.encoders.features import Modality, PhotoFeatures, load_features
from triptych.encoders.inputs import ItemInputs
from triptych.encoders.models.late_fusion import LateFusionConfig
from triptych.encoders.models.two_tower import TwoTowerConfig
from triptych.encoders.patches import PATCHES_AT_ONCE, PatchVision, open_vision
from triptych.encoders.pretrained import Output, PatchCut, PretrainedConfig, VisionModelConfig
from triptych.encoders.slots import ModelArtifacts
from triptych.foundation.errors import ConfigError
from triptych.nn.patch_histograms import patch_histograms
from triptych.nn.precision import Precision
from triptych.pretrain.base import make_encoder
from triptych.pretrain.objectives.masked_patches import MaskedPatches, MaskedPatchesConfig
from triptych.pretrain.objectives.masked_words import At
from triptych.pretrain.passes import HiddenPatches, MultitaskBatch, Passes
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.recipes import resolve
from triptych.recipes.models import check_models
from triptych.training.distributed import ALONE

transformers = pytest.importorskip("transformers")
from tiny_models import DEVIATION, MEAN, PX, bert, clip, resnet, save, siglip, vit  # noqa: E402

GRID, SIDE = 3, 16
PHOTO_PX = GRID * SIDE
SIZES: dict[str, Any] = {"dim": 16, "heads": 2, "vector_dim": 8, "photo_px": PHOTO_PX, "max_title_tokens": 8}
WORDS = "red green blue black white nice shirt shoe bag hat".split()
Make = Callable[[], Any]


def photos(count: int, *, px: int = PHOTO_PX, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, px, px, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[Make, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {make: save(make, folder / make.__name__, seed=3) for make in (bert, vit, resnet, clip, siglip)}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Twenty items, every fifth without a photo, some with two."""
    folder = tmp_path_factory.mktemp("shop")
    files = [encoded(Image.fromarray(photo.numpy()), "PNG") for photo in photos(24, seed=5)]
    shown = [None if row % 5 == 4 else [files[row], *files[20 : 20 + row % 3]] for row in range(20)]
    rows = {"item_id": [str(row) for row in range(20)], "title": ["red shirt", "black hat"] * 10, "photo": shown}
    pl.DataFrame(rows).write_parquet(folder / "items.parquet")
    checked = check_tables(read_items(ItemsConfig(path="items.parquet", photo="photo"), base=folder), None, None)
    config = CatalogueConfig(photo_px=PHOTO_PX, display_px=PHOTO_PX, max_photos=3)
    return Catalogue.open(catalogues.build(config, tables=checked, inputs={}, out=folder / "out"))


class Made(NamedTuple):
    encoder: Any
    models: ModelArtifacts
    tokenizer: TextTokenizer


@pytest.fixture
def make(checkpoints: dict[Make, Path], tmp_path: Path) -> Callable[..., Made]:
    """Make an encoder whose model sees patches one by one."""

    def made(model: Make, *, kind: type[EncoderConfig] = TwoTowerConfig, photos: int = 1, **settings: Any) -> Made:
        name = str(checkpoints[model])
        vision = VisionModelConfig(name=name, output=Output.POOLED, patch_grid=GRID, **settings)
        layers = {"layers": 1} if kind is TwoTowerConfig else {"text_layers": 1, "photo_layers": 1}
        config = kind.parse({"kind": kind.model_fields["kind"].default, **SIZES, **layers, "photos": photos})
        config = config.model_copy(update={"vision_model": vision})
        models = ModelArtifacts(vision=model_files.run(vision, out=tmp_path / "pretrained"))
        tokenizer = TextTokenizer.fit(WORDS, config=TokenizerConfig(vocab_size=64, min_count=1))
        return Made(make_encoder(config, tokenizer=tokenizer, seed=0, models=models).eval(), models, tokenizer)

    return made


def extracted(made: Made, catalogue: Catalogue, *, out: Path, views: int = 0, **settings: Any) -> Any:
    assert made.models.vision is not None
    return features.run(
        made.models.vision,
        modality=Modality.PHOTO,
        catalogue=catalogue,
        out=out,
        output=Output.POOLED,
        cut=made.encoder.config.vision_model.cut,
        views=views,
        augment=AugmentConfig(),
        precision=Precision.FP32,
        **settings,
    )


@pytest.mark.parametrize(
    ("model", "alone"),
    [
        (vit, lambda m, x: m(x).last_hidden_state[:, 0]),
        (resnet, lambda m, x: m(x).pooler_output.flatten(1)),
        (clip, lambda m, x: m.visual_projection(m.vision_model(x).pooler_output)),
        (siglip, lambda m, x: m.vision_model(x).pooler_output),
    ],
)
def test_a_patch_is_what_the_model_makes_of_that_patch_alone(model, alone, checkpoints):
    count = PATCHES_AT_ONCE // GRID**2 + 2  # more than are seen at once
    vision = open_vision(checkpoints[model], output=Output.POOLED, cut=PatchCut(GRID))
    reference = transformers.AutoModel.from_pretrained(checkpoints[model]).eval()
    shown = photos(count)
    with torch.no_grad():
        found = vision(shown)
        assert found.shape == (count, GRID**2, vision.dim) and vision.num_tokens == GRID**2
        for photo, place in ((0, 0), (1, 1), (2, 5), (count - 1, GRID**2 - 1)):
            down, across = SIDE * (place // GRID), SIDE * (place % GRID)
            patch = shown[photo, down : down + SIDE, across : across + SIDE].permute(2, 0, 1)[None].float()
            grown = torch.nn.functional.interpolate(patch, size=(PX, PX), mode="bicubic", antialias=True).clamp(0, 255)
            seen = (grown / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
            torch.testing.assert_close(found[photo, place], alone(reference, seen)[0], atol=1e-5, rtol=1e-4)
        assert vision(shown[:0]).shape == (0, GRID**2, vision.dim)


def test_a_convolutional_network_sees_patches_of_the_side_that_is_asked_for(checkpoints):
    reference, shown = transformers.AutoModel.from_pretrained(checkpoints[resnet]).eval(), photos(1)
    vision = open_vision(checkpoints[resnet], output=Output.POOLED, cut=PatchCut(GRID, SIDE))
    seen = (shown[:, SIDE : 2 * SIDE, :SIDE] / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    with torch.no_grad():
        expected = reference(seen.permute(0, 3, 1, 2)).pooler_output.flatten(1)
        torch.testing.assert_close(vision(shown)[:, GRID], expected, atol=1e-5, rtol=1e-4)
    for model in (vit, clip, siglip):
        with pytest.raises(ConfigError, match="patch_px is 16, and .* takes photos of 24 px and of no other side"):
            open_vision(checkpoints[model], output=Output.POOLED, cut=PatchCut(GRID, 16))


@pytest.mark.parametrize(("model", "settings"), [(resnet, {"patch_px": 16}), (clip, {})])
def test_features_are_what_the_model_sees_live_and_are_extracted_once(model, settings, make, catalogue, tmp_path):
    made = make(model, photos=3, **settings)
    artifact = extracted(made, catalogue, out=tmp_path / "features", views=1)
    store = catalogue.photos
    assert load_features(artifact).shape == (2 * store.num_photos, GRID**2, made.encoder.patches.pretrained.dim)
    assert extracted(made, catalogue, out=tmp_path / "features", views=1, batch_size=3).id == artifact.id
    seen = PhotoFeatures(artifact, photos=store)
    own, varied = (seen.pixels(np.arange(4), views=np.full(4, view)).astype(np.float32) for view in (0, 1))
    assert np.abs(own - varied).max() > 0.01
    embedder = Embedder(made.encoder, tokenizer=made.tokenizer, precision=Precision.FP32, device="cpu")
    live = embedder.embed_catalogue(catalogue, label=None).astype(np.float32)
    stored = embedder.embed_catalogue(catalogue, features=seen, label=None).astype(np.float32)
    np.testing.assert_allclose(live, stored, atol=3e-3)
    pixels = store.pixels(np.arange(4))
    np.testing.assert_allclose(embedder.see(pixels), own, atol=3e-3)
    by_photo = embedder.items([None] * 4, pixels=pixels)
    np.testing.assert_allclose(by_photo, embedder.items([None] * 4, pixels=embedder.see(pixels)), atol=3e-3)
    assert np.abs(by_photo[0] - by_photo[1]).max() > 1e-3


def test_patches_in_another_order_are_another_photo(make):
    encoder = make(resnet).encoder
    assert encoder.patches.positions.shape == (GRID**2, 16)
    seen = encoder.patches.see(photos(1))
    has = torch.ones(1, dtype=torch.bool)
    with torch.no_grad():
        one, other = (encoder.encode_items(ItemInputs(None, each, ~has, has)) for each in (seen, seen.flip(1)))
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("weights", ["frozen", "trained"])
def test_it_is_saved_and_opened_again(weights, make, tmp_path):
    made = make(resnet, weights=weights)
    folder = tmp_path / "encoder" / "id"
    folder.mkdir(parents=True)
    made.encoder.save(folder)
    loaded = load_encoder(folder)
    assert loaded.config == made.encoder.config and isinstance(loaded.slots["vision_model"].pretrained, PatchVision)
    assert any(name.startswith("patches.model.") for name in loaded.state_dict()) == (weights == "trained")
    has = torch.ones(2, dtype=torch.bool)
    with torch.no_grad():
        one, other = (each.encode_items(ItemInputs(None, photos(2), ~has, has)) for each in (made.encoder, loaded))
    assert torch.equal(one, other)


HIDDEN = torch.tensor([[True, False, False, True, False, False, False, False, True], [False] * 8 + [True]])
TITLES = ["red shirt", "black hat"]


def batch_of(made: Made, pixels: Tensor) -> MultitaskBatch:
    """Two items with both, of whose photos some patches are hidden; no queries, and nothing that is not read here."""
    tokens = torch.from_numpy(made.tokenizer.encode(TITLES, max_tokens=8))
    yes, nothing = torch.ones(2, dtype=torch.bool), torch.zeros(0, dtype=torch.long)
    read = {
        "number": 0,
        "items": ItemInputs(tokens, pixels, yes, yes),
        "has_title": yes,
        "has_photo": yes,
        "query_tokens": torch.zeros(0, 1, dtype=torch.int32),
        "own_queries": nothing,
        "positive": nothing,
        "hidden_patches": HiddenPatches(HIDDEN, int(HIDDEN.sum())),
    }
    return MultitaskBatch(**{**dict.fromkeys(MultitaskBatch._fields), **read})


def passes_over(made: Made, pixels: Tensor) -> Passes:
    return Passes(batch_of(made, pixels), encoder=made.encoder, cross=None, group=ALONE)


def other_in(shown: Tensor, hidden: Tensor) -> Tensor:
    """The photos with other pixels in some patches."""
    mask = hidden.unflatten(1, (GRID, GRID)).repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)
    return torch.where(mask[..., None], 255 - shown, shown)


@pytest.mark.parametrize("weights", ["frozen", "trained"])
@pytest.mark.parametrize("kind", [TwoTowerConfig, LateFusionConfig])
@pytest.mark.parametrize("model", [resnet, clip])
def test_what_is_hidden_changes_no_output(model, kind, weights, make):
    made = make(model, kind=kind, weights=weights)
    shown = photos(2)
    with torch.no_grad():
        one = passes_over(made, shown).masked_items
        hidden = passes_over(made, other_in(shown, HIDDEN)).masked_items
        in_sight = passes_over(made, other_in(shown, torch.roll(HIDDEN, 1, dims=1))).masked_items
    assert torch.equal(one.vectors, hidden.vectors) and torch.equal(one.tokens.states, hidden.tokens.states)
    assert ((one.vectors - in_sight.vectors).abs().amax(dim=1) > 1e-5).all()


def loss_of(made: Made, pixels: Tensor, **settings: Any) -> tuple[MaskedPatches, Any]:
    torch.manual_seed(0)
    objective = MaskedPatchesConfig(**settings).build(made.encoder, batch_items=2)
    return objective, objective(passes_over(made, pixels))


def divergence(states: Tensor, *, head: Tensor, targets: Tensor) -> float:
    """The mean Kullback-Leibler divergence of guesses from targets, patch by patch."""
    found = []
    for state, target in zip(states, targets, strict=True):
        guess = (head @ state).double().softmax(0)
        found.append(sum(float(t * (t / g).log()) for t, g in zip(target.double(), guess, strict=True) if t > 0))
    return float(np.mean(found))


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_the_target_is_the_softmax_of_what_the_frozen_model_sees(temperature, make):
    made = make(resnet)
    shown = photos(2)
    slot = made.encoder.patches
    objective, output = loss_of(made, shown, temperature=temperature)
    targets = (slot.see(shown)[HIDDEN] / (temperature or 1.0)).softmax(-1)
    reading = passes_over(made, shown).masked_items
    states = reading.tokens.states[:, reading.places.patches][HIDDEN]
    expected = divergence(states.detach(), head=objective.head.weight.detach(), targets=targets)
    assert output.total.item() == pytest.approx(expected, rel=1e-4)
    entropy = float(-(targets * targets.log()).sum(-1).mean())
    assert output.parts["target_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    stored = slot.see(shown).half()
    assert loss_of(made, stored, temperature=temperature)[1].total.item() == pytest.approx(expected, rel=1e-2)
    output.total.backward()
    assert objective.head.weight.grad is not None and slot.project.weight.grad is not None
    assert all(weight.grad is None for weight in slot.pretrained.parameters())


def test_a_trained_model_is_asked_for_histograms_that_it_cannot_make_easy(make):
    made = make(resnet, weights="trained")
    shown = photos(2)
    objective, output = loss_of(made, shown)
    targets = patch_histograms(shown, patch_px=SIDE)[HIDDEN]
    reading = passes_over(made, shown).masked_items
    states = reading.tokens.states[:, reading.places.patches][HIDDEN]
    expected = divergence(states.detach(), head=objective.head.weight.detach(), targets=targets)
    assert output.total.item() == pytest.approx(expected, rel=1e-4)
    output.total.backward()
    assert any(w.grad is not None and bool(w.grad.any()) for w in made.encoder.patches.pretrained.parameters())


def test_with_a_query_beside_each_pair_guesses_the_patches_of_its_own_item(make):
    """As FashionBERT does, in the encoder's own transformer: one row for each query, whichever item is its."""
    made = make(resnet)
    shown, positive = photos(2), torch.tensor([1, 0, 1])
    queries = torch.from_numpy(made.tokenizer.encode(["black hat", "red shirt", "hat"], max_tokens=8))
    batch = batch_of(made, shown)._replace(query_tokens=queries, own_queries=torch.arange(3), positive=positive)
    passes = Passes(batch, encoder=made.encoder, cross=None, group=ALONE)
    torch.manual_seed(0)
    objective = MaskedPatchesConfig(at=At.CROSS).build(made.encoder, batch_items=2)
    output = objective(passes)
    assert output is not None
    seen, states, targets = made.encoder.patches.see(shown), [], []
    for row, item in enumerate(positive):
        query = rows_of(made.encoder.embed_queries(queries), torch.tensor([row]))
        own = rows_of(made.encoder.embed_items(passes.masked_inputs)[0], item[None])
        alone = crossed(made.encoder.transformer, query, own)
        for place in range(GRID**2):
            if HIDDEN[item, place]:
                states.append(alone.states[0, place - GRID**2].detach())
                targets.append(seen[item, place].softmax(-1))
    expected = divergence(torch.stack(states), head=objective.head.weight.detach(), targets=torch.stack(targets))
    assert output.total.item() == pytest.approx(expected, rel=1e-4)


def multitask(*settings: str, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None) -> Any:
    encoder: dict[str, Any] = {"photo_px": PHOTO_PX}
    encoder |= {"vision_model": {"name": "m", **vision}} if vision is not None else {}
    encoder |= {"text_model": {"name": "m", **text}} if text is not None else {}
    tree = {"kind": "multitask", "stages": "taobao", "encoder": encoder}
    return MultitaskConfig.parse(tree).override(*settings)


ONE_BY_ONE = {"output": "pooled", "patch_grid": GRID}


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        ({"vision": {}}, [], r"without patch_grid sees the whole photo: .* Set vision_model.patch_grid = 8"),
        ({"vision": {"output": "pooled"}}, [], "without patch_grid sees the whole photo"),
        ({"vision": {"weights": "trained"}}, [], "without patch_grid sees the whole photo"),
        ({}, ["stages.0.tasks.3.temperature=0.5"], "temperature has no effect without a frozen vision_model"),
        (
            {"vision": {**ONE_BY_ONE, "weights": "trained"}},
            ["stages.0.tasks.3.temperature=0.5"],
            "temperature has no effect without a frozen vision_model",
        ),
        ({"text": {"output": "pooled"}}, [], "masked_query_words guesses each word .* Set output = 'tokens'"),
        ({"vision": {"patch_grid": 3}}, [], "patch_grid makes one token of each patch. Set output = 'pooled'"),
        ({"vision": {"patch_px": 32}}, [], "patch_px has no effect without patch_grid"),
        ({"vision": {"output": "pooled", "patch_grid": 8}}, [], r"photo_px 48 cannot be cut into 8 x 8 patches of at"),
        ({"vision": {"output": "pooled", "patch_grid": 5}}, [], r"multiple of vision_model.patch_grid \(5\) from 80"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(given, settings, message):
    with pytest.raises(ConfigError, match=message) as raised:
        multitask(*settings, **given)
    assert "\n" not in str(raised.value)


def test_what_goes_together_is_taken():
    assert multitask(vision=ONE_BY_ONE).encoder.vision_model.cut == PatchCut(GRID)
    assert multitask("stages.0.tasks.3.temperature=0.5", vision=ONE_BY_ONE).stages[0].tasks[3].temperature == 0.5
    multitask(vision={**ONE_BY_ONE, "weights": "trained"}, text={})


def test_a_model_of_whole_photos_says_nothing_of_patches():
    """Encoders and features made before there were any keep their ids."""
    assert not {"patch_grid", "patch_px"} & VisionModelConfig(name="m").dump().keys()
    named = VisionModelConfig(name="m", output=Output.POOLED, patch_grid=8, patch_px=112)
    assert VisionModelConfig.parse(named.dump()) == named


def test_a_side_that_the_model_does_not_take_is_told_before_the_run(checkpoints, tmp_path):
    settings = [f"catalogue.photo_px={PHOTO_PX}", f"pretrain.encoder.photo_px={PHOTO_PX}"]
    slot = "pretrain.encoder.vision_model"
    settings += [f"{slot}.name=m", f"{slot}.output=pooled", f"{slot}.patch_grid={GRID}"]
    for model, fits in ((resnet, True), (vit, False)):
        kept = model_files.run(PretrainedConfig(name=str(checkpoints[model])), out=tmp_path)
        check_models(resolve("demo", settings=settings).config, {"vision_model": kept})
        config = resolve("demo", settings=[*settings, f"{slot}.patch_px=32"]).config
        if fits:
            check_models(config, {"vision_model": kept})
            continue
        with pytest.raises(ConfigError, match=r"vision_model: patch_px is 32, and '.*vit' \(vit\) takes photos of 24"):
            check_models(config, {"vision_model": kept})
