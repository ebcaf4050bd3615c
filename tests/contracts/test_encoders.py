"""One suite for every registered encoder: what `triptych.encoders.base.Encoder` and `ItemInputs` promise."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from triptych.data.text import CLS, PAD, SEP
from triptych.encoders.base import MODELS, Encoder, Export, load_encoder, unit
from triptych.encoders.inputs import ItemInputs, Modalities, OtherPhotos, View
from triptych.encoders.models.late_fusion import LateFusionEncoder
from triptych.encoders.models.two_tower import TwoTowerEncoder
from triptych.encoders.slots import NO_MODELS
from triptych.foundation.registry import config_class, kinds

PX, PATCH_PX, VOCAB = 32, 16, 50
SMALL = {"dim": 16, "heads": 2, "vector_dim": 8, "photo_px": PX, "max_query_tokens": 10, "max_title_tokens": 12}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "two_tower": {
        **{export.value: {"export": export.value} for export in Export if export is not Export.PROJECTED_MEAN},
        "long vectors": {"export": "mean", "normalize": False},
        "three photos": {"photos": 3},
        "three photos, mean with padding": {"photos": 3, "export": "mean-with-padding"},
    },
    "late_fusion": {"gated": {"fusion": "gated"}, "concat": {"fusion": "concat"}, "no layers": {"photo_layers": 0}},
}
FOR_ALL: dict[str, dict[str, Any]] = {
    "as it is": {},
    "linear stem": {"stem": "linear"},
    "titles": {"modalities": "title"},
    "photos": {"modalities": "photo"},
}
CASES = {
    f"{kind}, {name}": {"kind": kind, **SMALL, **settings}
    for kind in kinds(MODELS)
    for name, settings in {**FOR_ALL, **VARIANTS.get(kind, {})}.items()
}
LENGTHS = [3, 8, 5, 4, 6, 7]
"""Of the titles, in tokens."""
HAS_TITLE = [True, True, True, False, False, True]
HAS_PHOTO = [True, True, False, True, False, True]
BATCH = len(LENGTHS)
CLOSE = 1e-5


def build(case: str, **more: Any) -> Encoder:
    """Draw an encoder whose every weight counts: as they are initialised, some hardly do."""
    tree = {**CASES[case], **more}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = config_class(MODELS, tree["kind"]).parse(tree).build(vocab_size=VOCAB, models=NO_MODELS).eval()
        for weight in encoder.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return encoder


def texts(lengths: list[int], *, width: int, seed: int = 0) -> Tensor:
    tokens = torch.randint(5, VOCAB, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    place, length = torch.arange(width), torch.tensor(lengths)[:, None]
    tokens = tokens.masked_fill(place == length - 1, SEP).masked_fill(place >= length, PAD)
    tokens[:, 0] = CLS
    return tokens.int()


def pixels(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, PX, PX, 3), generator=generator, dtype=torch.uint8)


def items(encoder: Encoder) -> ItemInputs:
    """Items of every sort: with title and photo, with one, with neither."""
    several = encoder.config.photos > 1
    present = torch.tensor([[True, True], [False, False], [True, True], [True, False], [True, True], [False, True]])
    reads = encoder.config.modalities
    return ItemInputs(
        title_tokens=texts(LENGTHS, width=8) if reads.reads_title else None,
        pixels=pixels(BATCH) if reads.reads_photo else None,
        has_title=torch.tensor(HAS_TITLE),
        has_photo=torch.tensor(HAS_PHOTO),
        others=OtherPhotos(pixels(BATCH, 2, seed=2), present) if several else None,
    )


def take(inputs: ItemInputs, rows: Tensor | slice) -> ItemInputs:
    others = inputs.others
    taken = None if others is None else OtherPhotos(others.pixels[rows], others.present[rows])
    plain = inputs._replace(others=None)
    return ItemInputs(*(None if one is None else one[rows] for one in plain))._replace(others=taken)


def wider(inputs: ItemInputs, columns: int = 4) -> ItemInputs:
    """Pad the titles further."""
    if inputs.title_tokens is None:
        return inputs
    more = torch.full((BATCH, columns), PAD, dtype=torch.int32)
    return inputs._replace(title_tokens=torch.cat([inputs.title_tokens, more], dim=1))


def hidden(rows: int, *, seed: int = 4) -> Tensor:
    """Half of each photo's four patches."""
    luck = torch.rand(rows, (PX // PATCH_PX) ** 2, generator=torch.Generator().manual_seed(seed))
    return luck.argsort(dim=1).argsort(dim=1) < 2


def square(photos: Tensor, patch: int) -> Tensor:
    """Look at one patch of photos."""
    side = PX // PATCH_PX
    top, left = patch // side * PATCH_PX, patch % side * PATCH_PX
    return photos[:, top : top + PATCH_PX, left : left + PATCH_PX]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=CASES)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return build(request.param)


def views_of(encoder: Encoder) -> list[View]:
    reads = encoder.config.modalities
    return [View.ITEM, *([View.TITLE] if reads.reads_title else []), *([View.PHOTO] if reads.reads_photo else [])]


def test_vectors_are_those_of_the_reading(encoder: Encoder):
    given, queries = items(encoder), texts([3, 8, 5], width=8)
    read = encoder.read_items(given)
    assert torch.allclose(encoder.encode_items(given), read.vectors, atol=CLOSE)
    assert torch.allclose(encoder.encode_queries(queries), encoder.read_queries(queries).vectors, atol=CLOSE)
    assert read.vectors.shape == (BATCH, encoder.vector_dim)
    assert read.vectors.dtype == torch.float32
    assert read.tokens.keep[:, 0].all()
    assert read.tokens.states.shape[:2] == read.tokens.keep.shape
    if getattr(encoder.config, "normalize", True):
        assert torch.allclose(read.vectors.norm(dim=1), torch.ones(BATCH), atol=CLOSE)
    for view, vectors in ((View.TITLE, read.title_vectors), (View.PHOTO, read.photo_vectors)):
        assert (vectors is not None) == encoder.GIVES_VIEWS
        if vectors is not None and view in views_of(encoder):
            assert torch.allclose(encoder.encode_items(given, view=view), vectors, atol=CLOSE)


def test_the_vector_of_one_modality_is_that_of_an_item_without_the_other(encoder: Encoder):
    """For an encoder with vectors of title and photo, what the vector of one is made from."""
    given = items(encoder)
    nobody = torch.zeros(BATCH, dtype=torch.bool)
    changes: dict[View, dict[str, Any]] = {
        View.TITLE: {"has_photo": nobody, "pixels": None, "others": None},
        View.PHOTO: {"has_title": nobody, "title_tokens": None},
    }
    hidden = {View.TITLE: View.WITHOUT_PHOTO, View.PHOTO: View.WITHOUT_TITLE}
    for view in views_of(encoder)[1:]:
        without = given._replace(**changes[view])
        assert torch.equal(encoder.encode_items(given.only(view)), encoder.encode_items(without))
        assert torch.equal(encoder.encode_items(given, view=view), encoder.encode_items(without, view=view))
        if not encoder.GIVES_VIEWS:
            assert torch.equal(encoder.encode_items(given, view=view), encoder.encode_items(without))
        assert torch.allclose(encoder.encode_items(given, view=hidden[view]), encoder.encode_items(without), atol=CLOSE)


def test_several_vectors_at_once_are_those_made_one_by_one(encoder: Encoder):
    given = items(encoder)
    views = [*views_of(encoder), View.WITHOUT_PHOTO, View.WITHOUT_TITLE]
    together = encoder.encode_views(given, views=views)
    assert list(together) == views
    for view in views:
        assert torch.allclose(together[view], encoder.encode_items(given, view=view), atol=CLOSE)


def test_padding_changes_no_vector(encoder: Encoder):
    given, queries = items(encoder), texts([3, 5, 4], width=5)
    long = torch.cat([queries, torch.full((3, 5), PAD, dtype=torch.int32)], dim=1)
    assert torch.allclose(encoder.encode_queries(queries), encoder.encode_queries(long), atol=CLOSE)
    for view in views_of(encoder):
        vectors = encoder.encode_items(given, view=view)
        assert torch.allclose(encoder.encode_items(wider(given), view=view), vectors, atol=CLOSE)


def test_a_vector_does_not_depend_on_the_rest_of_the_batch(encoder: Encoder):
    """Nor on what a batch leaves out because none of its items has it."""
    given, queries = items(encoder), texts([3, 8, 5], width=8)
    together, asked = encoder.encode_items(given), encoder.encode_queries(queries)
    for row in range(BATCH):
        alone = take(given, slice(row, row + 1))
        assert torch.allclose(encoder.encode_items(alone), together[row : row + 1], atol=CLOSE)
        changes: dict[str, Any] = {} if HAS_TITLE[row] else {"title_tokens": None}
        changes |= {} if HAS_PHOTO[row] else {"pixels": None, "others": None}
        if alone.others is not None and not alone.others.present.any():
            changes["others"] = None
        assert torch.allclose(encoder.encode_items(alone._replace(**changes)), together[row : row + 1], atol=CLOSE)
    for row, length in enumerate([3, 8, 5]):
        alone_query = encoder.encode_queries(queries[row : row + 1, :length])
        assert torch.allclose(alone_query, asked[row : row + 1], atol=CLOSE)


def test_what_an_item_lacks_is_never_looked_at(encoder: Encoder):
    given = items(encoder)
    changed = given
    if given.title_tokens is not None:
        tokens = torch.where(given.has_title[:, None], given.title_tokens, texts([8] * BATCH, width=8, seed=9))
        tokens[3, 0] = 7  # not even its [CLS] is read
        changed = changed._replace(title_tokens=tokens)
    if given.pixels is not None:
        shown = given.has_photo[:, None, None, None]
        changed = changed._replace(pixels=torch.where(shown, given.pixels, 255 - given.pixels))
    if given.others is not None:
        shown = (given.others.present & given.has_photo[:, None])[:, :, None, None, None]
        changed = changed._replace(
            others=given.others._replace(pixels=torch.where(shown, given.others.pixels, 255 - given.others.pixels))
        )
    assert torch.equal(encoder.encode_items(given), encoder.encode_items(changed))
    first, second = encoder.read_items(given), encoder.read_items(changed)
    assert torch.equal(first.tokens.keep, second.tokens.keep)
    assert torch.equal(first.tokens.states[first.tokens.keep], second.tokens.states[second.tokens.keep])


def test_what_is_not_there_spoils_no_vector_and_no_gradient(encoder: Encoder):
    """A title that is not there is padding from its first column on, where there is nothing to attend to."""
    given = items(encoder)
    if given.title_tokens is not None:
        tokens = torch.where(given.has_title[:, None], given.title_tokens, PAD)
        assert torch.equal(encoder.encode_items(given), encoder.encode_items(given._replace(title_tokens=tokens)))
        given = given._replace(title_tokens=tokens)
    for view in views_of(encoder):
        assert torch.isfinite(encoder.encode_items(given, view=view)).all()
    with torch.enable_grad():
        encoder.encode_items(given)[:, 0].sum().backward()
    gradients = [weight.grad for weight in encoder.parameters() if weight.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


def test_what_an_item_has_is_looked_at(encoder: Encoder):
    given, reads = items(encoder), encoder.config.modalities
    before = encoder.encode_items(given)
    if given.pixels is not None:
        after = encoder.encode_items(given._replace(pixels=255 - given.pixels))
        assert ((before - after).abs().amax(dim=1) > CLOSE).tolist() == HAS_PHOTO
    if reads.reads_title:
        after = encoder.encode_items(given._replace(title_tokens=texts(LENGTHS, width=8, seed=5)))
        assert ((before - after).abs().amax(dim=1) > CLOSE).tolist() == HAS_TITLE


def test_an_item_kept_from_its_title_is_one_without(encoder: Encoder):
    given = items(encoder)
    drop = torch.tensor([True, False, True, False, False, True])
    changes = (("drop_title", "has_title", given.has_title), ("drop_photo", "has_photo", given.has_photo))
    for field, has, there in changes:
        kept = encoder.read_items(given._replace(**{field: drop}))
        lacking = encoder.encode_items(given._replace(**{has: there & ~drop}))
        assert torch.allclose(kept.vectors, lacking, atol=CLOSE), field
        if encoder.GIVES_VIEWS:  # of one alone they are as if nothing had been dropped
            whole = encoder.read_items(given)
            assert kept.title_vectors is not None
            assert kept.photo_vectors is not None
            assert torch.equal(kept.title_vectors, whole.title_vectors)
            assert torch.equal(kept.photo_vectors, whole.photo_vectors)


def test_only_one_view_forgets_what_was_to_be_dropped(encoder: Encoder):
    drop = torch.ones(BATCH, dtype=torch.bool)
    given = items(encoder)
    for view in views_of(encoder)[1:]:
        dropped = given._replace(drop_title=drop, drop_photo=drop)
        assert torch.equal(encoder.encode_items(dropped, view=view), encoder.encode_items(given, view=view))


@pytest.mark.parametrize("case", [case for case, tree in CASES.items() if tree.get("modalities") != "title"])
def test_hidden_patches_have_no_influence_and_the_others_have(case: str):
    encoder = build(case)
    given = items(encoder)
    assert given.pixels is not None
    blanked = given._replace(hidden=hidden(BATCH))
    assert blanked.hidden is not None
    before = encoder.read_items(blanked)
    under, beside = given.pixels.clone(), given.pixels.clone()
    for patch in range(blanked.hidden.shape[1]):
        for changed, rows in ((under, blanked.hidden[:, patch]), (beside, ~blanked.hidden[:, patch])):
            look = square(changed, patch)
            look[rows] = 255 - look[rows]
    after = encoder.read_items(blanked._replace(pixels=under))
    assert torch.equal(before.vectors, after.vectors)
    assert torch.equal(before.tokens.states, after.tokens.states)
    seen = encoder.encode_items(blanked._replace(pixels=beside))
    assert ((before.vectors - seen).abs().amax(dim=1) > CLOSE).tolist() == HAS_PHOTO
    whole = encoder.encode_items(given)
    assert ((before.vectors - whole).abs().amax(dim=1) > CLOSE).tolist() == HAS_PHOTO


@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize("patch", range(4))
def test_each_hidden_patch_is_the_one_that_is_blanked(patch: int, stem: str):
    """In the order of the patch states, whose neighbours a convolution would otherwise let it reach."""
    encoder = build("two_tower, as it is", stem=stem)
    assert encoder.patches is not None
    photos = pixels(2)
    chosen = torch.zeros(2, 4, dtype=torch.bool)
    chosen[:, patch] = True
    for other in range(4):
        changed = photos.clone()
        square(changed, other).fill_(7)
        states = [encoder.patches(one, hidden=chosen) for one in (photos, changed)]
        assert torch.equal(*states) == (other == patch)
    if stem == "linear":  # one patch, one state: only its own becomes that of a grey patch
        plain, blank = encoder.patches(photos), encoder.patches(photos, hidden=chosen)
        assert ((plain - blank).abs().amax(dim=(0, 2)) > CLOSE).tolist() == [other == patch for other in range(4)]


def test_every_weight_belongs_to_one_part(encoder: Encoder):
    parts = encoder.parts()
    found = {
        name: [part for part, starts in parts.items() if name.startswith(tuple(starts))]
        for name, _ in encoder.named_parameters()
    }
    assert all(len(owners) == 1 for owners in found.values()), {n: o for n, o in found.items() if len(o) != 1}
    if encoder.config.modalities is Modalities.TITLE_PHOTO:
        assert set(Counter(owner for (owner,) in found.values())) == set(parts)


def test_comes_back_from_disk_the_same(encoder: Encoder, tmp_path):
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert type(loaded) is type(encoder)
    assert loaded.config == encoder.config
    given, queries = items(encoder), texts([3, 8, 5], width=8)
    assert torch.equal(loaded.encode_queries(queries), encoder.encode_queries(queries))
    for view in views_of(encoder):
        assert torch.equal(loaded.encode_items(given, view=view), encoder.encode_items(given, view=view))


def test_nothing_gives_no_vectors(encoder: Encoder):
    """A process may have no share of a small batch."""
    none = take(items(encoder), slice(0, 0))
    assert encoder.encode_items(none).shape == (0, encoder.vector_dim)
    assert encoder.read_items(none).vectors.shape == (0, encoder.vector_dim)
    assert encoder.encode_queries(texts([3], width=4)[:0]).shape == (0, encoder.vector_dim)


def test_places_point_at_title_and_patches(encoder: Encoder):
    """Changing a word changes the state in its place most of all; there are as many places as words and patches."""
    given = items(encoder)
    places = encoder.read_items(given).places
    if given.title_tokens is None:
        assert places.title is None
    else:
        assert places.title is not None
        assert places.title.stop - places.title.start == given.title_tokens.shape[1] - 1
        inputs = inputs_of(encoder, given)
        for word in (1, 2):
            tokens = given.title_tokens.clone()
            tokens[:, word] = (tokens[:, word] + 1).clamp(max=VOCAB - 1)
            changed = inputs_of(encoder, given._replace(title_tokens=tokens))
            differs = (inputs - changed).abs().amax(dim=2) > CLOSE
            assert differs[0].nonzero()[:, 0].tolist() == [places.title.start + word - 1]
    if given.pixels is None:
        assert places.patches is None
    else:
        assert places.patches is not None
        assert encoder.patches is not None
        assert places.patches.stop - places.patches.start == encoder.patches.num_patches
        if str(encoder.config.stem) == "linear":
            inputs = inputs_of(encoder, given)
            for patch in range(4):
                photos = given.pixels.clone()
                square(photos, patch).fill_(7)
                differs = (inputs - inputs_of(encoder, given._replace(pixels=photos))).abs().amax(dim=2) > CLOSE
                assert differs[0].nonzero()[:, 0].tolist() == [places.patches.start + patch]


def inputs_of(encoder: Encoder, given: ItemInputs) -> Tensor:
    """Read items without any attention: each state then depends on its own token alone."""
    kept = {name: weight.clone() for name, weight in encoder.named_parameters()}
    for name, weight in encoder.named_parameters():
        if ".attention.out." in name:
            weight.zero_()
    states = encoder.read_items(given).tokens.states
    encoder.load_state_dict(kept, strict=False)
    return states


def test_nothing_is_read_where_no_item_has_it(encoder: Encoder):
    nobody = torch.zeros(BATCH, dtype=torch.bool)
    untitled = items(encoder)._replace(title_tokens=None, has_title=nobody)
    assert encoder.read_items(untitled).places.title is None
    unseen = items(encoder)._replace(pixels=None, others=None, has_photo=nobody)
    assert encoder.read_items(unseen).places.patches is None


@pytest.mark.parametrize("export", ["mean", "mean-with-padding"])
def test_means_against_a_loop(export: str):
    encoder = build("two_tower, as it is", export=export)
    assert isinstance(encoder, TwoTowerEncoder)
    given, queries = items(encoder), texts([3, 8, 5], width=8)
    asked, read = encoder.read_queries(queries), encoder.read_items(given)
    assert given.title_tokens is not None
    assert read.places.patches is not None
    assert read.places.title is not None
    padded = export == "mean-with-padding"
    if padded:  # a reading has the states of what was given, and not those of what it is padded with
        longest = torch.full((3, SMALL["max_query_tokens"] - 8), PAD, dtype=torch.int32)
        asked = asked._replace(tokens=encoder.read_queries(torch.cat([queries, longest], dim=1)).tokens)
    for row, length in enumerate([3, 8, 5]):
        inside = range(SMALL["max_query_tokens"]) if padded else range(1, length - 1)
        expected = unit(torch.stack([asked.tokens.states[row, place] for place in inside]).mean(dim=0))
        assert torch.allclose(asked.vectors[row], expected, atol=CLOSE)
    for row, length in enumerate(LENGTHS):
        states = read.tokens.states[row]
        start = read.places.title.start
        words = [states[start + place] for place in range(length - 2)] if HAS_TITLE[row] else []
        patches = list(states[read.places.patches]) if HAS_PHOTO[row] else []
        counted = list(states) if padded else [*words, *patches] or [states[0]]
        assert torch.allclose(read.vectors[row], unit(torch.stack(counted).mean(dim=0)), atol=CLOSE)


@pytest.mark.parametrize("fusion", ["transformer", "gated", "concat"])
def test_late_fusion_means_against_a_loop(fusion: str):
    encoder = build("late_fusion, as it is", fusion=fusion)
    assert isinstance(encoder, LateFusionEncoder)
    given, queries = items(encoder), texts([3, 2, 5], width=8)
    asked, read = encoder.read_queries(queries), encoder.read_items(given)
    assert read.places.title is not None
    assert read.places.patches is not None
    assert read.title_vectors is not None
    assert read.photo_vectors is not None
    for row, length in enumerate([3, 2, 5]):
        words = range(1, length - 1) or [0]  # without words, [CLS]
        mean = torch.stack([asked.tokens.states[row, place] for place in words]).mean(dim=0)
        assert torch.allclose(asked.vectors[row], unit(encoder.query_head(mean)), atol=CLOSE)
    for row, length in enumerate(LENGTHS):
        states = read.tokens.states[row]
        words = torch.stack([states[read.places.title.start + place] for place in range(length - 2)])
        if HAS_TITLE[row]:
            assert torch.allclose(read.title_vectors[row], unit(encoder.title_head(words.mean(dim=0))), atol=CLOSE)
        if HAS_PHOTO[row]:
            mean = states[read.places.patches].mean(dim=0)
            assert torch.allclose(read.photo_vectors[row], unit(encoder.photo_head(mean)), atol=CLOSE)
    if fusion == "gated":  # of an item with one of them, that one
        for row in (2, 3):
            expected = (read.title_vectors if HAS_TITLE[row] else read.photo_vectors)[row]
            assert torch.allclose(read.vectors[row], expected, atol=CLOSE)
    if fusion == "transformer":
        return
    for row, length in enumerate(LENGTHS):
        states, missing = read.tokens.states[row].float(), encoder.fusion.missing
        words = torch.stack([states[read.places.title.start + place] for place in range(length - 2)])
        title = words.mean(dim=0) if HAS_TITLE[row] else missing[0]
        photo = states[read.places.patches].mean(dim=0) if HAS_PHOTO[row] else missing[1]
        if fusion == "concat":
            expected = unit(encoder.fusion.head(torch.cat([title, photo])))
        elif HAS_TITLE[row] and HAS_PHOTO[row]:
            first, second = encoder.fusion.gate(torch.cat([title, photo])).exp()
            mixed = first * read.title_vectors[row] + second * read.photo_vectors[row]
            expected = unit(mixed / (first + second))
        else:
            continue
        assert torch.allclose(read.vectors[row], expected, atol=CLOSE)
