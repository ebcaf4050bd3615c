"""Pretrained models in the encoder's slots: trained or left alone, seen live or as features, saved and opened again."""

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

from triptych.data import catalogue as catalogues
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import ItemsConfig
from triptych.data.tables import read_items
from triptych.data.text import AnyTokenizer, TextTokenizer, TokenizerConfig
from triptych.encoders import features, model_files
from triptych.encoders.base import load_encoder, open_models
from triptych.encoders.embed import Embedder
from triptych.encoders.features import Modality, PhotoFeatures
from triptych.encoders.inputs import ItemInputs, Modalities
from triptych.encoders.models.two_tower import TwoTowerConfig, TwoTowerEncoder
from triptych.encoders.pretrained import PretrainedConfig, PretrainedTokenizer, VisionModelConfig
from triptych.encoders.slots import ModelArtifacts, PhotoSlot, TextSlot
from triptych.foundation.errors import ArtifactError, ConfigError, DataError
from triptych.nn.precision import Precision
from triptych.pretrain.base import Given, PretrainConfig, make_encoder
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.pretrain.tasks.history_contrast import HistoryContrastConfig
from triptych.pretrain.tasks.item_contrast import ItemContrastConfig
from triptych.recipes import resolve
from triptych.recipes.config import RunConfig
from triptych.recipes.models import check_models
from triptych.training.loop import LoopConfig, fit

pytest.importorskip("transformers")
from tiny_models import MAX_TOKENS, PX, bert, clip, resnet, save, siglip, vit

Make = Callable[[], Any]
SIZES: dict[str, Any] = {"dim": 16, "layers": 1, "heads": 2, "vector_dim": 8, "photo_px": PX}
SIZES |= {"max_query_tokens": 8, "max_title_tokens": 10}
LOOP = LoopConfig(steps=2, warmup_steps=0, validate_every=2, precision=Precision.FP32, device="cpu")


class Parts(NamedTuple):
    """What a task is made of, beside the shop."""

    config: TwoTowerConfig
    models: ModelArtifacts
    tokenizer: AnyTokenizer


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[Make, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {make: save(make, folder / make.__name__, seed=3) for make in (bert, vit, resnet, clip, siglip)}


@pytest.fixture
def parts(checkpoints: dict[Make, Path], tmp_path: Path) -> Callable[..., Parts]:
    """Name models for the slots, keep them as a run would, and extract features of a catalogue's photos."""

    def make(
        text: Make | None,
        vision: Make | None,
        *,
        features_of: Catalogue | None = None,
        views: int = 1,
        photos: int = 1,
        **settings: Any,
    ) -> Parts:
        def named(one: Make) -> dict[str, Any]:
            return {"name": str(checkpoints[one]), **settings}

        def kept(config: PretrainedConfig | None) -> Any:
            return None if config is None else model_files.run(config, out=tmp_path / "pretrained")

        config = TwoTowerConfig(
            modalities=Modalities.TITLE if vision is None else Modalities.TITLE_PHOTO,
            text_model=None if text is None else PretrainedConfig(**named(text)),
            vision_model=None if vision is None else VisionModelConfig(**named(vision)),
            photos=photos,
            **SIZES,
        )
        models = ModelArtifacts(kept(config.text_model), kept(config.vision_model))
        if features_of is not None and models.vision is not None and config.vision_model is not None:
            seen = features.run(
                models.vision,
                modality=Modality.PHOTO,
                catalogue=features_of,
                out=tmp_path / "features",
                output=config.vision_model.output,
                views=views,
                precision=Precision.FP32,
            )
            models = models._replace(features=seen)
        tokenizer: AnyTokenizer
        if models.text is not None:
            tokenizer = PretrainedTokenizer(models.text.path)
        else:
            words = "red green blue black white nice shirt shoe bag hat".split()
            tokenizer = TextTokenizer.fit(words, config=TokenizerConfig(vocab_size=64, min_count=1))
        return Parts(config, models, tokenizer)

    return make


def weights(slot: TextSlot | PhotoSlot) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in slot.pretrained.state_dict().items()}


def some_items(module: TwoTowerEncoder, tokenizer: AnyTokenizer) -> ItemInputs:
    """Four items: with both, without photo, without title, with nothing."""
    texts = ["red shirt", "nice black bag", "blue hat", ""]
    tokens = torch.from_numpy(tokenizer.encode(texts, max_tokens=module.config.max_title_tokens))
    tokens[2:] = 0
    pixels = torch.randint(0, 256, (4, PX, PX, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    has = torch.tensor([[True, True, False, False], [True, False, True, False]])
    return ItemInputs(tokens, pixels, *has)


def queries(tokenizer: AnyTokenizer) -> torch.Tensor:
    return torch.from_numpy(tokenizer.encode(["red shirt", "hat", ""], max_tokens=8))


def task_of(config: PretrainConfig, given: Given) -> Any:
    """The task of a training with one phase."""
    return next(config.phases(given)).task


CASES = [
    (bert, vit, {"weights": "frozen"}),
    (bert, vit, {"weights": "trained"}),
    (clip, clip, {"weights": "frozen", "output": "pooled"}),
    (clip, clip, {"weights": "trained"}),
    (siglip, siglip, {"weights": "frozen"}),
    (siglip, siglip, {"weights": "trained", "output": "pooled"}),
    (None, resnet, {"weights": "frozen"}),
    (None, resnet, {"weights": "trained"}),
    (bert, None, {"weights": "trained", "output": "pooled"}),
]


@pytest.mark.parametrize(("text", "vision", "settings"), CASES)
def test_each_model_trains_in_its_slot_and_comes_back_the_same(text, vision, settings, parts, small_shop, tmp_path):
    frozen = settings["weights"] == "frozen"
    config, models, tokenizer = parts(text, vision, features_of=small_shop.catalogue if frozen else None, **settings)
    task = task_of(
        ContrastiveConfig(encoder=config, loop=LOOP, batch_items=8),
        Given(catalogue=small_shop.catalogue, split=small_shop.split, tokenizer=tokenizer, seed=0, models=models),
    )
    assert len(task.encoder.slots) == (text is not None) + (vision is not None)
    before = {name: weights(slot) for name, slot in task.encoder.slots.items()}
    fit(task, config=LOOP, out=tmp_path / "out", seed=0)
    task.module.train()
    task.losses(task.batch(0)).total.backward()
    task.module.eval()
    for name, slot in task.encoder.slots.items():
        grads = [weight.grad for weight in slot.pretrained.parameters()]
        changed = {key for key, value in weights(slot).items() if not torch.equal(value, before[name][key])}
        if frozen:
            assert all(grad is None for grad in grads) and not changed
        else:
            assert sum(grad is not None and bool(grad.any()) for grad in grads) > 5 and len(changed) > 5
            assert all(grad is None or bool(grad.isfinite().all()) for grad in grads)
        assert slot.project.weight.grad is not None and slot.project.weight.grad.any()

    folder = tmp_path / "encoder" / "id"
    folder.mkdir(parents=True)
    task.encoder.save(folder)
    if not frozen:  # all that it needs is with it
        (tmp_path / "pretrained").rename(tmp_path / "gone")
    loaded = load_encoder(folder)
    assert loaded.config == config and not any(module.training for module in loaded.modules())
    items = some_items(loaded, tokenizer)
    with torch.no_grad():
        assert torch.equal(loaded.encode_items(items), task.encoder.encode_items(items))
        assert torch.equal(loaded.encode_queries(queries(tokenizer)), task.encoder.encode_queries(queries(tokenizer)))


def make(given: Parts, *, seed: int = 0) -> TwoTowerEncoder:
    return make_encoder(given.config, tokenizer=given.tokenizer, seed=seed, models=given.models)


@pytest.mark.parametrize(("text", "vision"), [(bert, vit), (clip, clip), (siglip, siglip), (None, resnet)])
def test_what_an_item_lacks_is_never_looked_at(text, vision, parts):
    given = parts(text, vision, weights="trained")
    module = make(given).train()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    items = some_items(module, given.tokenizer)
    pixels = torch.where(items.has_photo[:, None, None, None], items.pixels, 255 - items.pixels)
    tokens = items.title_tokens.clone()
    tokens[2:] = tokens[0]
    together = module.encode_items(items)
    others = module.encode_items(items._replace(pixels=pixels, title_tokens=tokens))
    assert torch.allclose(together, others, atol=1e-6)
    alone = torch.cat([module.encode_items(ItemInputs(*(part[n : n + 1] for part in items[:4]))) for n in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)
    together[:, 0].sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in module.parameters())


def test_padding_and_the_other_texts_of_a_batch_change_nothing(parts):
    for text, output in ((bert, "tokens"), (clip, "pooled"), (siglip, "tokens"), (siglip, "pooled")):
        given = parts(text, None, output=output)
        module = make(given).eval()
        texts = ["red shirt", "nice black hat bag", "", "shoe"]
        tokens = torch.from_numpy(given.tokenizer.encode(texts, max_tokens=8))
        with torch.no_grad():
            together = module.encode_queries(tokens)
            for row in range(len(texts)):
                length = int((tokens[row] != 0).sum())
                alone = module.encode_queries(tokens[row : row + 1, :length])
                assert torch.allclose(alone[0], together[row], atol=1e-5), (text, output, texts[row])
            assert not torch.allclose(together[0], together[1], atol=1e-3)


def with_several_photos(folder: Path) -> Catalogue:
    """Thirty items with no, one, two or three photos."""
    rng = np.random.default_rng(4)
    noise = rng.integers(0, 256, size=(40, PX, PX, 3), dtype=np.uint8)
    files = [encoded(Image.fromarray(photo), "PNG") for photo in noise]
    shown = [[files[n] for n in rng.choice(40, size=row % 4, replace=False)] or None for row in range(30)]
    rows = {"item_id": [str(row) for row in range(30)], "title": ["red shirt", "black hat", None] * 10, "photo": shown}
    pl.DataFrame(rows).write_parquet(folder / "items.parquet")
    checked = check_tables(read_items(ItemsConfig(path="items.parquet", photo="photo"), base=folder), None, None)
    config = CatalogueConfig(photo_px=PX, display_px=PX, max_photos=3)
    return Catalogue.open(catalogues.build(config, tables=checked, inputs={}, out=folder / "out"))


@pytest.mark.parametrize(("vision", "output"), [(vit, "tokens"), (resnet, "tokens"), (clip, "pooled")])
def test_features_give_the_vectors_that_the_model_gives_live(vision, output, parts, tmp_path):
    catalogue = with_several_photos(tmp_path)
    given = parts(bert, vision, features_of=catalogue, output=output, photos=3)
    seen = PhotoFeatures(given.models.features, photos=catalogue.photos)
    embedder = Embedder(make(given), tokenizer=given.tokenizer, precision=Precision.FP32, device="cpu")
    for rows in (None, np.random.default_rng(0).permutation(30)):
        live = embedder.embed_catalogue(catalogue, photo_rows=rows, label=None)
        stored = embedder.embed_catalogue(catalogue, photo_rows=rows, features=seen, label=None)
        assert np.abs(live.astype(np.float32) - stored).max() < 3e-3
    pixels = catalogue.photos.pixels(np.arange(1, 4))
    asked = embedder.items([None] * 3, pixels=pixels)
    assert np.abs(asked - embedder.items([None] * 3, pixels=embedder.see(pixels))).max() < 3e-3
    assert np.abs(asked[0] - asked[1]).max() > 1e-3


@pytest.mark.parametrize("kind", [HistoryContrastConfig, ItemContrastConfig])
def test_the_other_tasks_train_by_features_too(kind: type[PretrainConfig], parts, small_shop, tmp_path):
    given = parts(bert, vit, features_of=small_shop.catalogue)
    shown = np.random.default_rng(0).permutation(small_shop.catalogue.num_items)
    task = task_of(
        kind(kind=kind.model_fields["kind"].default, encoder=given.config, loop=LOOP, photo_view_items=4),
        Given(
            catalogue=small_shop.catalogue,
            split=small_shop.split,
            tokenizer=given.tokenizer,
            seed=0,
            photo_rows=shown,
            models=given.models,
        ),
    )
    batch = task.batch(0)
    photos = small_shop.catalogue.photos
    seen = PhotoFeatures(given.models.features, photos=photos)
    stored = {row.tobytes() for row in np.asarray(seen.pixels(np.arange(photos.photo_rows.size)))}
    assert {row.numpy().tobytes() for part in batch.items for row in part.pixels} <= stored
    assert batch.photo_views.items.pixels.dtype == torch.float16
    result = fit(task, config=LOOP, out=tmp_path / "out", seed=0)
    assert np.isfinite(list(result.metrics.values())).all()


def test_a_trained_model_learns_at_a_rate_of_its_own(parts, small_shop, tmp_path):
    given = parts(bert, vit, weights="trained", rate_factor=0.01)
    loop = LOOP.model_copy(update={"steps": 1, "weight_decay": 0.0, "learning_rate": 1e-2})
    task = task_of(
        ContrastiveConfig(encoder=given.config, loop=loop, batch_items=8),
        Given(
            catalogue=small_shop.catalogue,
            split=small_shop.split,
            tokenizer=given.tokenizer,
            seed=0,
            models=given.models,
        ),
    )
    before = {name: weight.detach().clone() for name, weight in task.module.named_parameters()}
    fit(task, config=loop, out=tmp_path / "out", seed=0)
    named = task.module.named_parameters()
    moved = {name: float((weight.detach() - before[name]).abs().max()) for name, weight in named}
    ours = {name for name in moved if ".model." not in name}
    # Adam's first step is the learning rate, whatever the gradient.
    assert max(moved[name] for name in ours) == pytest.approx(1e-2, rel=0.01)
    assert max(moved[name] for name in moved.keys() - ours) == pytest.approx(1e-4, rel=0.02)


class Killed(Exception):
    pass


def test_a_killed_training_of_a_model_with_dropout_ends_with_the_same_weights(parts, small_shop, tmp_path):
    given = parts(bert, vit, weights="trained")
    loop = LOOP.model_copy(update={"steps": 3, "checkpoint_every_s": 0.0})

    def task() -> Any:
        return task_of(
            ContrastiveConfig(encoder=given.config, loop=loop, batch_items=8),
            Given(
                catalogue=small_shop.catalogue,
                split=small_shop.split,
                tokenizer=given.tokenizer,
                seed=0,
                models=given.models,
            ),
        )

    def dies(batch: Any) -> Any:
        if len(list((tmp_path / "broken" / "resume").glob("step_*"))) == 2:
            raise Killed
        return losses(batch)

    unbroken, broken, resumed = task(), task(), task()
    fit(unbroken, config=loop, out=tmp_path / "unbroken", seed=0)
    losses, broken.losses = broken.losses, dies
    with pytest.raises(Killed):
        fit(broken, config=loop, out=tmp_path / "broken", seed=0)
    fit(resumed, config=loop, out=tmp_path / "broken", seed=0)
    ends = unbroken.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_frozen_model_takes_no_part_in_what_is_saved(parts):
    module = make(parts(bert, vit))
    assert not any("model" in name for name in [*module.state_dict(), *dict(module.named_parameters())])
    for slot in module.slots.values():
        slot.to(torch.float64)
        assert next(slot.pretrained.parameters()).dtype == torch.float64  # it moves along
        module.train()
        assert not any(layer.training for layer in slot.pretrained.modules())


def test_a_model_that_a_stage_does_not_train_drops_nothing_out(parts):
    given = parts(bert, None, weights="trained")
    module, tokens = make(given), queries(given.tokenizer)
    model = module.slots["text_model"].pretrained

    def differ() -> bool:
        module.train()
        return not torch.equal(module.encode_queries(tokens), module.encode_queries(tokens))

    assert differ(), "it has dropout, and is trained"
    model.requires_grad_(False)
    assert not differ()
    model.requires_grad_(True)
    assert differ()


def test_a_frozen_model_that_has_gone_or_is_another_is_a_sentence(parts, tmp_path):
    given = parts(bert, vit)
    folder = tmp_path / "encoder" / "id"
    folder.mkdir(parents=True)
    make(given).save(folder)
    weights_file = given.models.vision.path / "model.safetensors"
    kept = weights_file.read_bytes()
    weights_file.write_bytes(kept[:-4] + b"\0\0\1\0")
    with pytest.raises(ArtifactError, match="Put the model back"):
        load_encoder(folder)
    weights_file.write_bytes(kept)
    load_encoder(folder)
    given.models.text.path.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="reads by the frozen model '.*bert', whose copy should be in .*not there"):
        load_encoder(folder)


def test_without_slots_nothing_is_said_of_them():
    assert not {"text_model", "vision_model"} & TwoTowerConfig().dump().keys()
    named = TwoTowerConfig(vision_model=VisionModelConfig(name="m", views=2))
    assert "text_model" not in named.dump() and TwoTowerConfig.parse(named.dump()) == named
    assert open_models(TwoTowerConfig(), places={}) == (None, None)
    with pytest.raises(ValueError, match="not those that the encoder's config names"):
        TwoTowerEncoder(named, vocab_size=10)


def config(*settings: str) -> RunConfig:
    return resolve("demo", settings=settings).config


ENCODER = "pretrain.encoder"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["vision_model.name=m", "stem=linear"], "stem = 'linear' has no effect with a vision_model"),
        (["vision_model.name=m", "vision_model.rate_factor=0.1"], "rate_factor has no effect with weights = 'frozen'"),
        (["vision_model.name=m", "vision_model.weights=trained", "vision_model.views=2"], "views has no effect"),
        (["text_model.weights=trained"], r"text_model\.name: this setting is required"),
        (["text_model.name=m", "text_model.view=2"], "there is no such setting"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(*(f"{ENCODER}.{setting}" for setting in settings))


def test_models_without_use_are_refused():
    with pytest.raises(ConfigError, match="no encoder of the run reads photos"):
        config(f"{ENCODER}.vision_model.name=m", f"{ENCODER}.modalities=title", "compare=[]")
    with pytest.raises(ConfigError, match="tokenizer has no effect with pretrain.encoder.text_model"):
        config(f"{ENCODER}.text_model.name=m", "tokenizer.vocab_size=500")


def test_a_model_that_does_not_fit_the_config_is_told_before_the_run(parts):
    px = ("catalogue.photo_px=24", f"{ENCODER}.photo_px=24", f"{ENCODER}.vision_model.name=m")
    text = (f"{ENCODER}.text_model.name=m", f"{ENCODER}.max_query_tokens={MAX_TOKENS + 1}")
    models = {"text_model": parts(clip, None).models.text, "vision_model": parts(None, clip).models.vision}
    fits = config(*px, *text, f"{ENCODER}.max_title_tokens={MAX_TOKENS + 1}")
    check_models(fits, models)
    with pytest.raises(ConfigError, match=r"max_title_tokens is 32, and '.*clip' \(clip\) reads texts of up to 12"):
        check_models(config(*px, *text), models)
    with pytest.raises(ConfigError, match=r"photo_px are 64, and '.*clip' \(clip\) takes photos of 24 px. Set both"):
        check_models(config(px[-1]), {"vision_model": models["vision_model"]})
    with pytest.raises(ConfigError, match="reads no photos"):
        check_models(fits, {"vision_model": parts(bert, None).models.text})
    with pytest.raises(ConfigError, match="reads no texts"):
        check_models(fits, {"text_model": parts(None, vit).models.vision})


def test_without_a_photo_a_frozen_model_has_nothing_to_see_and_says_so(parts, tmp_path):
    (tmp_path / "items.csv").write_text("sku,name\n" + "\n".join(f"s{row},thing {row}" for row in range(9)))
    tables = check_tables(read_items(ItemsConfig(path="items.csv"), base=tmp_path), None, None)
    made = catalogues.build(CatalogueConfig(photo_px=32), tables=tables, inputs={}, out=tmp_path / "catalogue")
    with pytest.raises(DataError, match="none has a photo"):
        parts(None, vit, features_of=Catalogue.open(made))
