"""The two-tower encoder: what it reads, what it must not see, and that it comes back from disk the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.data.text import CLS, PAD, SEP
from triptych.encoders.base import load_encoder
from triptych.encoders.image import POOLED_TOKENS, PatchEmbedding, PhotoPool, Stem
from triptych.encoders.inputs import ItemInputs, Modalities, OtherPhotos
from triptych.encoders.models.two_tower import TwoTowerConfig, TwoTowerEncoder
from triptych.encoders.text import CUT_ROWS, LEAST_SAVING, cut_by_length, trim
from triptych.foundation.errors import ArtifactError, ConfigError

BATCH, PX = 6, 32
SMALL = {"dim": 16, "layers": 2, "heads": 2, "vector_dim": 8, "photo_px": PX}


def encoder(modalities: Modalities = Modalities.TITLE_PHOTO, **settings) -> TwoTowerEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TwoTowerEncoder(TwoTowerConfig(modalities=modalities, **SMALL, **settings), vocab_size=50).eval()


def texts(lengths: list[int], *, width: int = 8, seed: int = 0) -> torch.Tensor:
    tokens = torch.randint(5, 50, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    place, length = torch.arange(width), torch.tensor(lengths)[:, None]
    tokens = tokens.masked_fill(place == length - 1, SEP).masked_fill(place >= length, PAD)
    tokens[:, 0] = CLS
    return tokens.int()


def items(**changes) -> ItemInputs:
    pixels = torch.randint(0, 256, (BATCH, PX, PX, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    inputs = ItemInputs(
        title_tokens=texts([3, 8, 5, 4, 6, 7]),
        pixels=pixels,
        has_title=torch.tensor([True, True, True, False, False, True]),
        has_photo=torch.tensor([True, True, False, True, False, True]),
    )
    return inputs._replace(**changes)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("modalities", Modalities)
def test_vectors_are_unit_float32(modalities):
    model = encoder(modalities)
    for vectors in (model.encode_items(items()), model.encode_queries(texts([3, 4, 8]))):
        assert vectors.dtype == torch.float32
        assert vectors.shape[1] == 8
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-6)


def test_padding_of_a_query_changes_nothing():
    tokens = texts([3, 5, 8, 4])
    short = texts([3, 5, 4])
    wide = torch.cat([short, torch.full((3, 6), PAD, dtype=torch.int32)], dim=1)[:, :14]
    model = encoder()
    assert torch.allclose(model.encode_queries(short), model.encode_queries(wide), atol=1e-6)
    alone = torch.cat([model.encode_queries(tokens[i : i + 1, :length]) for i, length in enumerate([3, 5, 8, 4])])
    assert torch.allclose(model.encode_queries(tokens), alone, atol=1e-6)


@pytest.mark.parametrize("stem", Stem)
def test_what_an_item_lacks_is_never_looked_at(stem):
    model, given = encoder(stem=stem), items()
    other_titles = torch.where(given.has_title[:, None], given.title_tokens, texts([8] * BATCH, seed=9))
    other_titles[3, 0] = 7  # not even its [CLS] is read
    other_photos = torch.where(given.has_photo[:, None, None, None], given.pixels, 255 - given.pixels)
    changed = given._replace(title_tokens=other_titles, pixels=other_photos)
    assert torch.equal(model.encode_items(given), model.encode_items(changed))


def test_what_an_item_has_is_looked_at():
    model, given = encoder(), items()
    before = model.encode_items(given)
    photos = model.encode_items(given._replace(pixels=255 - given.pixels))
    titles = model.encode_items(given._replace(title_tokens=texts([3, 8, 5, 4, 6, 7], seed=5)))
    assert ((before - photos).abs().amax(dim=1) > 1e-4).tolist() == given.has_photo.tolist()
    assert ((before - titles).abs().amax(dim=1) > 1e-4).tolist() == given.has_title.tolist()


def test_each_modality_reads_its_own_input_only():
    given = items()
    for modalities, field in ((Modalities.TITLE, "pixels"), (Modalities.PHOTO, "title_tokens")):
        model = encoder(modalities)
        assert torch.equal(model.encode_items(given), model.encode_items(given._replace(**{field: None})))


def test_an_item_does_not_depend_on_its_batch():
    model, given = encoder(), items()
    together = model.encode_items(given)
    for row in range(BATCH):
        alone = model.encode_items(ItemInputs(*(part[row : row + 1] for part in given[:4])))
        assert torch.allclose(alone, together[row : row + 1], atol=1e-6)
    # a batch in which nobody has a title, or nobody a photo, may leave the tensor out
    no_titles = torch.zeros(BATCH, dtype=torch.bool)
    masked = model.encode_items(given._replace(has_title=no_titles))
    left_out = model.encode_items(given._replace(has_title=no_titles, title_tokens=None))
    only_cls = model.encode_items(given._replace(has_title=no_titles, title_tokens=given.title_tokens[:, :1]))
    assert torch.allclose(masked, left_out, atol=1e-6)
    assert torch.equal(left_out, only_cls)
    masked = model.encode_items(given._replace(has_photo=no_titles))
    left_out = model.encode_items(given._replace(has_photo=no_titles, pixels=None))
    assert torch.allclose(masked, left_out, atol=1e-6)


def test_the_missing_tokens_are_learned():
    with torch.enable_grad():
        model = encoder()
        model.encode_items(items())[3:5, 0].sum().backward()
        assert model.missing_title.grad.abs().sum() > 0  # items 3 and 4 have no title
        assert model.missing_photo.grad.abs().sum() > 0  # item 4 has no photo


def test_towers_share_the_transformer_and_tell_query_from_title():
    model = encoder(Modalities.TITLE)
    model.query_projection.weight.copy_(model.item_projection.weight)
    tokens = texts([5])
    as_item = ItemInputs(tokens, None, torch.tensor([True]), torch.tensor([False]))
    assert not torch.allclose(model.encode_queries(tokens), model.encode_items(as_item), atol=1e-4)
    model.types.zero_()  # the type vectors are all that differs
    assert torch.allclose(model.encode_queries(tokens), model.encode_items(as_item), atol=1e-6)


def test_the_linear_stem_is_a_linear_map_of_each_patch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = PatchEmbedding(8, stem=Stem.LINEAR, px=PX)
    pixels = items().pixels
    found = stem(pixels)
    weight = stem.stem.weight
    for patch in range(4):
        top, left = patch // 2 * 16, patch % 2 * 16
        square = pixels[:, top : top + 16, left : left + 16].reshape(BATCH, -1).float() / 127.5 - 1
        expected = square @ weight.T + stem.stem.bias + stem.positions[patch]
        assert torch.allclose(found[:, patch], expected, atol=1e-4)


@pytest.mark.parametrize("modalities", Modalities)
def test_comes_back_from_disk_the_same(tmp_path, modalities):
    model = encoder(modalities)
    model.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded.encode_items(items()), model.encode_items(items()))
    assert torch.equal(loaded.encode_queries(texts([4, 5])), model.encode_queries(texts([4, 5])))


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(ArtifactError, match=r"'model.safetensors' is absent"):
        load_encoder(tmp_path)
    encoder().save(tmp_path)
    weights = tmp_path / "model.safetensors"
    encoder(Modalities.TITLE).save(tmp_path)
    title_weights = weights.read_bytes()
    encoder().save(tmp_path)
    weights.write_bytes(title_weights)
    with pytest.raises(ArtifactError, match="do not fit its config"):
        load_encoder(tmp_path)
    weights.write_bytes(title_weights[:100])
    with pytest.raises(ArtifactError, match="do not fit its config"):
        load_encoder(tmp_path)


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match=r"dim 30 must be a multiple of 4 and of heads \(4\)"):
        TwoTowerConfig.parse({"dim": 30})
    with pytest.raises(ConfigError, match="photo_px 70 must be a multiple of 16"):
        TwoTowerConfig.parse({"photo_px": 70})


def test_trim_cuts_common_padding():
    tokens = texts([3, 5, 4], width=9).numpy()
    assert trim(tokens).tolist() == tokens[:, :5].tolist()
    assert trim(tokens[:0]).shape == (0, 1)


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_by_length_is_the_cheapest_one_or_none(seed: int):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 3 + rng.integers(1, 20), size=rng.integers(1, 5 * CUT_ROWS))
    tokens = {1: len(lengths) * lengths.max()}
    ordered = np.sort(lengths)
    tokens[2] = min(
        (ordered[:at].max() * at + (len(ordered) - at) * ordered[-1] for at in range(CUT_ROWS, len(ordered), CUT_ROWS)),
        default=tokens[1],
    )
    parts = cut_by_length(lengths, parts=2)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    assert sum(len(rows) * lengths[rows].max() for rows in parts) == tokens[len(parts)]
    assert (len(parts) == 2) == (tokens[2] <= (1 - LEAST_SAVING) * tokens[1])
    assert len(cut_by_length(lengths, parts=1)) == 1


def several(present: list[list[bool]], *, seed: int = 3) -> OtherPhotos:
    shape = (BATCH, len(present[0]), PX, PX, 3)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return OtherPhotos(pixels, torch.tensor(present))


# Rows 2 and 4 of `items` have no photo at all, so their further ones are not looked at.
PRESENT = [[True, True, True], [False, False, False], [True] * 3, [True, False, False], [True] * 3, [False, True, True]]


def loud(**settings) -> TwoTowerEncoder:
    """An encoder of several photos whose pooled tokens weigh as much as a trained one's may."""
    model = encoder(photos=4, **settings)
    generator = torch.Generator().manual_seed(5)
    for weight in (model.pool.queries, model.pool.keys.weight):
        weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def test_one_photo_is_encoded_as_without_the_option():
    plain, model = encoder(), encoder(photos=4)
    shared = [name for name in model.state_dict() if not name.startswith("pool.")]
    assert shared == list(plain.state_dict())
    assert torch.equal(model.encode_items(items()), plain.encode_items(items()))
    beside = model.encode_items(items(others=several(PRESENT)))
    alone = [1, 2, 4]  # no further photo, or no photo at all
    assert torch.allclose(beside[alone], plain.encode_items(items())[alone], atol=1e-6)


def test_the_order_of_further_photos_has_no_influence():
    model, given = loud(), several(PRESENT)
    vectors = model.encode_items(items(others=given))
    for order in ([2, 1, 0], [1, 2, 0]):
        turned = OtherPhotos(given.pixels[:, order], given.present[:, order])
        assert torch.allclose(model.encode_items(items(others=turned)), vectors, atol=1e-6)


def test_each_further_photo_is_looked_at_and_what_is_not_there_is_not():
    model, given = loud(), several(PRESENT)
    vectors = model.encode_items(items(others=given))
    for place in range(3):
        pixels = given.pixels.clone()
        pixels[:, place] = 255 - pixels[:, place]
        changed = model.encode_items(items(others=OtherPhotos(pixels, given.present)))
        differs = ((changed - vectors).abs().amax(dim=1) > 1e-4).tolist()
        assert differs == [PRESENT[row][place] and row not in (2, 4) for row in range(BATCH)]


def test_the_pool_against_a_loop():
    pool = PhotoPool(8)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 2, 5, 8, generator=generator)
    present = torch.tensor([[True, True], [False, True], [True, False]])
    pooled = pool(patches, present=present)
    for row in range(3):
        states = torch.cat([patches[row, photo] for photo in range(2) if present[row, photo]])
        keys = pool.keys(pool.norm(states))
        for token in range(POOLED_TOKENS):
            weights = torch.softmax(keys @ pool.queries[token] / 8**0.5, dim=0)
            expected = sum(w * state for w, state in zip(weights, states, strict=True)) + pool.kind
            assert torch.allclose(pooled[row, token], expected, atol=1e-5)


def test_an_encoder_without_photos_has_no_pool():
    assert encoder(Modalities.TITLE, photos=3).pool is None
    assert encoder(photos=1).pool is None


@pytest.mark.parametrize("vector_dim", [8, 16, 40])
def test_both_projections_begin_as_one_orthogonal_map_and_are_two(vector_dim):
    sizes = {**SMALL, "vector_dim": vector_dim}
    made = TwoTowerEncoder(TwoTowerConfig(**sizes), vocab_size=50)
    query, item = made.query_projection.weight, made.item_projection.weight
    assert torch.equal(query, item) and query is not item
    short = query.T @ query if vector_dim >= sizes["dim"] else query @ query.T
    torch.testing.assert_close(short, torch.eye(len(short)), atol=1e-5, rtol=0)


def test_before_anything_is_learned_a_query_is_near_the_titles_that_share_its_words():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = TwoTowerConfig(**{**SMALL, "dim": 128, "heads": 4}, modalities=Modalities.TITLE)
        made = TwoTowerEncoder(config, vocab_size=50).eval()
    query = texts([6, 6, 6, 6], seed=3)
    shuffled = query[:, [0, 4, 2, 3, 1, 5, 6, 7]]
    there = torch.ones(4, dtype=torch.bool)
    inputs = ItemInputs(title_tokens=shuffled, pixels=None, has_title=there, has_photo=~there)
    scores = made.encode_queries(query) @ made.encode_items(inputs).T
    assert scores.argmax(dim=1).tolist() == [0, 1, 2, 3]
