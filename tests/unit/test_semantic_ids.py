"""Semantic IDs: fitting, the artefact, quality and its gate."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from triptych.encoders.embeddings import Modality
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import ArtifactError, ConfigError, DataError
from triptych.semantic_ids import vectors as vectors_module
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.fit import run, run_each
from triptych.semantic_ids.kmeans import Assignment, cluster
from triptych.semantic_ids.matching import match_with_room
from triptych.semantic_ids.quality import Gate, Grouping, QualityConfig, measure, require, seed_agreement
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeansConfig
from triptych.semantic_ids.stored import SemanticIds

SMALL = SemanticIdsConfig.parse({"quantizer": {"levels": 2, "codes": 8}})


def clustered(num=400, *, dim=10, centres=12, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((centres, dim))[rng.integers(0, centres, num)]
    return (points + 0.3 * rng.standard_normal((num, dim))).astype(np.float32)


def embeddings(folder, vectors) -> Artifact:
    """An embeddings artefact as the encoder stage leaves it; its id depends on the vectors."""

    def build(into):
        np.save(into / "vectors.npy", vectors.astype(np.float16))
        return {}

    inputs = {"encoder": str(float(vectors.sum())), "catalogue": "none"}
    return produce(folder / "embeddings", kind="embeddings", config={}, inputs=inputs, build=build)


def mean_error(quantizer, vectors, levels):
    codes = quantizer.assign(vectors)[:, :levels]
    return float(np.square(vectors - quantizer.reconstruct(codes)).mean())


def views(folder, title) -> Artifact:
    """The item_views artefact of an encoder, photos left out."""

    def build(into):
        for side in ("title", "photo"):
            np.save(into / f"{side}.npy", title.astype(np.float16))
        return {}

    inputs = {"encoder": str(float(np.nansum(title))), "catalogue": "none"}
    return produce(folder / "item_views", kind="item_views", config={}, inputs=inputs, build=build)


def test_ids_of_a_side_are_those_of_the_items_that_have_it(tmp_path):
    vectors, has = clustered(), np.arange(400) % 4 > 0
    made = run(
        SMALL,
        embeddings=views(tmp_path, np.where(has[:, None], vectors, np.nan)),
        out=tmp_path,
        of=Modality.TITLE,
    )
    found = SemanticIds.open(made)
    alone = SemanticIds.open(run(SMALL, embeddings=embeddings(tmp_path, vectors[has]), out=tmp_path))
    np.testing.assert_array_equal(found.there, has)
    np.testing.assert_array_equal(found.codes[has], alone.codes)
    assert not found.codes[~has].any()
    np.testing.assert_array_equal(found.quantizer.codebooks, alone.quantizer.codebooks)
    assert found.quality == alone.quality
    whole = SemanticIds.open(run(SMALL, embeddings=views(tmp_path, vectors), out=tmp_path, of=Modality.TITLE))
    assert whole.there is None and len(whole.codes) == 400
    with pytest.raises(DataError, match="semantic ids of photo: no item has one"):
        run(SMALL, embeddings=views(tmp_path, np.full((9, 2), np.nan)), out=tmp_path, of=Modality.PHOTO)
    with pytest.raises(ArtifactError, match="embeddings"):
        run(SMALL, embeddings=views(tmp_path, vectors), out=tmp_path)


@pytest.mark.parametrize("assignment", list(Assignment))
def test_each_level_brings_the_vectors_nearer(assignment):
    vectors = clustered()
    quantizer = ResidualKmeansConfig(levels=5, codes=8, assignment=assignment).fit(vectors)
    errors = [mean_error(quantizer, vectors, levels) for levels in range(6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[5] < 0.5 * errors[1] < 0.25 * errors[0]


@pytest.mark.parametrize("assignment", list(Assignment))
def test_fitting_again_gives_the_same_and_another_seed_another(assignment):
    vectors = clustered()
    first, second, other = (
        ResidualKmeansConfig(codes=8, assignment=assignment, seed=seed).fit(vectors) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.codebooks, second.codebooks)
    assert not np.array_equal(first.codebooks, other.codebooks)


def test_planted_clusters_are_found():
    vectors = clustered(600, centres=8)
    quantizer = ResidualKmeansConfig(levels=1, codes=8).fit(vectors)
    assert mean_error(quantizer, vectors, 1) == pytest.approx(0.3**2, rel=0.1)


def test_balanced_clusters_take_their_share():
    rng = np.random.default_rng(0)
    skewed = np.concatenate([rng.normal(0, 0.1, (450, 4)), rng.normal(3, 0.1, (50, 4))]).astype(np.float32)
    centres = cluster(skewed, codes=10, iterations=10, assignment=Assignment.BALANCED, rng=rng)
    counts = np.bincount(cdist(skewed, centres).argmin(axis=1), minlength=10)
    assert counts.max() <= 100  # plain assignment to balanced centres is balanced but roughly
    near = np.linalg.norm(centres, axis=1) < 2
    assert near.sum() >= 8  # nine tenths of the vectors have as many of the centres


@pytest.mark.parametrize(("room", "short"), [(4, False), (5, True), (40, False)])
def test_matching_with_room_is_that_of_a_loop(room, short, monkeypatch):
    if short:  # lists that have to be lengthened
        monkeypatch.setattr("triptych.semantic_ids.matching.ALL_PAIRS", 0)
        monkeypatch.setattr("triptych.semantic_ids.matching.SHORT_LIST", 1)
    rng = np.random.default_rng(room)
    vectors = rng.integers(-2, 3, (40, 2)).astype(np.float32)  # many equal distances
    codebook = rng.standard_normal((10, 2)).astype(np.float32)
    distances = cdist(vectors.astype(np.float64), codebook.astype(np.float64), "sqeuclidean").round(9)
    chosen, left = {}, [room] * 10
    while len(chosen) < 40:
        asks = {}
        for row in set(range(40)) - set(chosen):
            code = min((c for c in range(10) if left[c]), key=lambda c: (distances[row, c], c))
            asks.setdefault(code, []).append(row)
        for code, rows in asks.items():
            for row in sorted(rows, key=lambda row: (distances[row, code], row))[: left[code]]:
                chosen[row] = code
        left = [room - list(chosen.values()).count(code) for code in range(10)]
    found = match_with_room(vectors, codebook=codebook, room=room)
    assert found.tolist() == [chosen[row] for row in range(40)]


def test_few_distinct_vectors_are_their_own_codes():
    vectors = np.repeat(np.eye(5, dtype=np.float32), 4, axis=0)
    quantizer = ResidualKmeansConfig(levels=2, codes=8).fit(vectors)
    codes = quantizer.assign(vectors)
    np.testing.assert_array_equal(quantizer.reconstruct(codes), vectors)
    assert len(np.unique(codes[:, 0])) == 5
    assert (codes[:, 1] == 0).all()  # nothing is left to say


def test_equal_vectors_share_an_id():
    vectors = np.full((50, 3), 0.25, np.float32)
    quantizer = ResidualKmeansConfig(codes=4).fit(vectors)
    assert (quantizer.assign(vectors) == 0).all()
    quality = measure(quantizer, vectors, quantizer.assign(vectors), config=QualityConfig(), seed=0)
    assert (quality.unique_ids, quality.collision_rate, quality.largest_id) == (1, 0.98, 50)
    assert quality.mse == 0


def test_vectors_that_cannot_be_quantised():
    with pytest.raises(ConfigError, match=r"codes is 256, and there are 40 vectors"):
        ResidualKmeansConfig().fit(clustered(40))
    broken = clustered(40)
    broken[7, 2] = np.nan
    with pytest.raises(DataError, match="vector 7 holds NaN"):
        ResidualKmeansConfig(codes=4).fit(broken)
    quantizer = ResidualKmeansConfig(codes=4).fit(clustered(40))
    with pytest.raises(DataError, match="vector 7 holds NaN"):
        quantizer.assign(broken)
    with pytest.raises(DataError, match="have 9 numbers, the quantiser was fitted on 10"):
        quantizer.assign(broken[:, :9])
    with pytest.raises(DataError, match=r"expected real numbers \[items, dim\]"):
        quantizer.assign(broken[0])
    with pytest.raises(DataError, match=r"outside 0\.\.3"):
        quantizer.reconstruct(np.array([[4, 0, 0]]))
    with pytest.raises(DataError, match="at most 3 levels"):
        quantizer.reconstruct(np.zeros((1, 4), int))


def test_no_vectors_have_no_codes():
    quantizer = ResidualKmeansConfig(codes=4).fit(clustered(40))
    assert quantizer.assign(np.empty((0, 10), np.float32)).shape == (0, 3)
    assert quantizer.reconstruct(np.empty((0, 3), np.uint16)).shape == (0, 10)


def test_fitting_reads_a_sample_and_assigns_in_blocks(monkeypatch, tmp_path):
    vectors = clustered(1000)
    np.save(tmp_path / "vectors.npy", vectors)
    expected = ResidualKmeansConfig(codes=8, sample_per_code=10).fit(vectors)
    monkeypatch.setattr(vectors_module, "BLOCK_NUMBERS", 300)
    seen = []
    real = vectors_module._checked
    monkeypatch.setattr(
        vectors_module, "_checked", lambda given, rows: seen.append(len(given)) or real(given, rows=rows)
    )
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    quantizer = ResidualKmeansConfig(codes=8, sample_per_code=10).fit(mapped)
    assert seen == [80]
    np.testing.assert_array_equal(quantizer.codebooks, expected.codebooks)
    seen.clear()
    np.testing.assert_array_equal(quantizer.assign(mapped), expected.assign(vectors))
    assert max(seen) == 30


def test_quality_is_what_loops_find():
    rng = np.random.default_rng(3)
    vectors = clustered(60)
    quantizer = ResidualKmeansConfig(levels=2, codes=4).fit(vectors)
    codes = quantizer.assign(vectors)
    categories = np.where(rng.random(60) < 0.2, -1, rng.integers(0, 3, 60))
    grouping = Grouping(categories, rng.random((60, 3)) < 0.5)
    quality = measure(
        quantizer, vectors, codes, config=QualityConfig(k=5, items=60, queries=60), seed=0, grouping=grouping
    )
    rebuilt = quantizer.reconstruct(codes)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(vectors, rebuilt, strict=True)]
    assert quality.cosine == pytest.approx(np.mean(cosines), rel=1e-5)
    assert quality.mse == quality.levels[1].mse == pytest.approx(np.square(vectors - rebuilt).mean(), rel=1e-5)
    assert quality.levels[0].mse == pytest.approx(mean_error(quantizer, vectors, 1), rel=1e-5)
    assert quality.levels[1].prefixes == quality.unique_ids == len({tuple(row) for row in codes.tolist()})
    assert quality.levels[0].category_nmi is not None
    assert quality.in_cell_collision_rate is not None

    def neighbours(table, row):
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        others = sorted((-float(unit[row] @ unit[other]), other) for other in range(60) if other != row)
        return {other for _, other in others[:5]}

    # Items of one id have equal rebuilt vectors: a loop may round their scores otherwise than a matrix product does.
    shared = [len(neighbours(vectors, row) & neighbours(rebuilt, row)) / 5 for row in range(60)]
    assert quality.neighbour_recall == pytest.approx(np.mean(shared), abs=0.05)
    assert (quality.neighbours, quality.neighbour_items, quality.neighbour_queries) == (5, 60, 60)


def test_neighbours_are_kept_where_nothing_is_lost():
    vectors = clustered(20)
    quantizer = ResidualKmeansConfig(levels=1, codes=20).fit(vectors)
    quality = measure(quantizer, vectors, quantizer.assign(vectors), config=QualityConfig(k=4), seed=0)
    assert quality.neighbour_recall == 1
    assert quality.cosine == pytest.approx(1)
    assert quality.levels[0].utilisation_rate == 1


def test_a_gate_names_what_is_missing_and_both_numbers():
    vectors = clustered(60)
    quantizer = ResidualKmeansConfig(levels=2, codes=4).fit(vectors)
    quality = measure(quantizer, vectors, quantizer.assign(vectors), config=QualityConfig(), seed=0)
    require(quality, gate=Gate(collision_rate=1, cosine=0.1, utilisation_rate=0.1, perplexity_rate=0.1), of="x")
    for name, asked in (("collision_rate", 0.0), ("utilisation_rate", 1.0), ("cosine", 1.0), ("neighbour_recall", 1.0)):
        values = [level.utilisation_rate for level in quality.levels] if name == "utilisation_rate" else None
        if values is not None and min(values) == 1:
            continue
        with pytest.raises(
            DataError, match=rf"of shop: {name}.* is \d\S*, and gate asks for at (least|most) {asked:g}\."
        ):
            require(quality, gate=Gate.parse({name: asked}), of="shop")
    with pytest.raises(DataError, match="no item has a delivery cell"):
        require(quality, gate=Gate(in_cell_collision_rate=0.05), of="shop")


def test_seeds_that_agree_and_seeds_that_do_not():
    vectors = clustered(600, centres=4)
    fits = [ResidualKmeansConfig(levels=1, codes=4, seed=seed).fit(vectors).assign(vectors) for seed in range(3)]
    shuffled = [np.random.default_rng(seed).permutation(fits[0]) for seed in range(3)]
    assert seed_agreement(fits) > 0.6
    assert abs(seed_agreement(shuffled)) < 0.05
    with pytest.raises(DataError, match="at least two"):
        seed_agreement(fits[:1])


def test_the_artefact_assigns_rebuilds_and_knows_what_it_was_made_from(tmp_path):
    vectors = clustered()
    made = embeddings(tmp_path, vectors)
    artifact = run(SMALL, embeddings=made, out=tmp_path / "semantic_ids")
    assert set(artifact.manifest["files"]) == {"codes.npy", "quantizer.safetensors", "quality.json"}
    ids = SemanticIds.open(artifact, embeddings=made)
    stored = np.load(made.path / "vectors.npy")
    assert (ids.codes.dtype, ids.codes.shape) == (np.uint16, (400, 2))
    np.testing.assert_array_equal(ids.assign(stored), ids.codes)
    assert np.square(stored - ids.reconstruct(ids.codes)).mean() == pytest.approx(ids.quality.mse, rel=1e-4)
    assert artifact.summary["collision_rate"] == ids.quality.collision_rate
    other = embeddings(tmp_path, clustered(seed=1))
    with pytest.raises(ArtifactError, match=f"made from embeddings {made.id}, but is used with embeddings {other.id}"):
        SemanticIds.open(artifact, embeddings=other)
    with pytest.raises(ArtifactError, match="is a 'embeddings', not a 'semantic_ids'"):
        SemanticIds.open(made)
    with pytest.raises(ArtifactError, match="is a 'semantic_ids', not a 'embeddings'"):
        run(SMALL, embeddings=artifact, out=tmp_path / "semantic_ids")


def test_the_same_work_is_found_and_another_gate_judges_it(tmp_path):
    made = embeddings(tmp_path, clustered())
    first = run(SMALL, embeddings=made, out=tmp_path / "ids")
    assert run(SMALL, embeddings=made, out=tmp_path / "ids").id == first.id
    with pytest.raises(DataError, match="collision_rate is"):
        run(SMALL.override("gate.collision_rate=0"), embeddings=made, out=tmp_path / "ids")
    assert [path.name for path in (tmp_path / "ids").iterdir() if path.is_dir()] == [first.id]
    assert run(SMALL.override("quantizer.codes=4"), embeddings=made, out=tmp_path / "ids").id != first.id


def test_three_vocabularies_from_artefacts_and_files(tmp_path):
    np.save(tmp_path / "image.npy", clustered(dim=7, seed=1))
    found = run_each(
        SMALL,
        embeddings={"item": embeddings(tmp_path, clustered()), "image": tmp_path / "image.npy"},
        out=tmp_path / "ids",
    )
    opened = {name: SemanticIds.open(artifact) for name, artifact in found.items()}
    assert {name: ids.quantizer.dim for name, ids in opened.items()} == {"item": 10, "image": 7}
    assert opened["item"].artifact.id != opened["image"].artifact.id
    (tmp_path / "no.npy").write_text("no vectors")
    with pytest.raises(DataError, match="is no file of vectors"):
        run(SMALL, embeddings=tmp_path / "no.npy", out=tmp_path / "ids")


def test_the_report_is_json(tmp_path):
    artifact = run(SMALL, embeddings=embeddings(tmp_path, clustered()), out=tmp_path / "ids")
    written = json.loads((artifact.path / "quality.json").read_text())
    assert written["items"] == 400
    assert len(written["levels"]) == 2
    assert all(math.isfinite(level["perplexity"]) for level in written["levels"])


def test_settings_without_effect_are_refused():
    with pytest.raises(ConfigError, match="training has no effect"):
        SemanticIdsConfig.parse({"training": {"batch_vectors": 8}})
    with pytest.raises(ConfigError, match="cap has no effect"):
        SemanticIdsConfig.parse({"collisions": {"cap": 3}})
    with pytest.raises(ConfigError, match="unknown kind 'residual_kmean'"):
        SemanticIdsConfig.parse({"quantizer": "residual_kmean"})


def of_shop(folder, shop, *, moved=0.0):
    """Embeddings of the shop's items, those that came with validation or later moved away from the others."""
    known = shop.split.items_known(shop.catalogue)
    assert 0 < known.sum() < len(known)
    vectors = clustered(len(known), centres=3)
    vectors[~known] += moved

    def build(into):
        np.save(into / "vectors.npy", vectors)
        return {}

    inputs = {"encoder": str(moved), "catalogue": shop.catalogue.artifact}
    return produce(folder / "embeddings", kind="embeddings", config={}, inputs=inputs, build=build), vectors, known


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"quantizer": {"kind": "product_kmeans", "levels": 2, "codes": 8}},
        {
            "quantizer": {"kind": "rq_vae", "levels": 2, "codes": 8, "hidden": [8], "latent_dim": 4},
            "training": {"loop": {"steps": 3, "validate_every": 2, "warmup_steps": 1, "device": "cpu"}},
        },
        *({"collisions": {"policy": policy}} for policy in ("extra_token", "sinkhorn_last_level")),
        {"collisions": {"policy": "capped", "cap": 5}},
    ],
    ids=str,
)
def test_what_training_must_not_know_changes_nobody_elses_id(tmp_path, small_shop, settings):
    config = SMALL.merged({"quantizer": {"codes": 4}, **settings})
    shop = {"catalogue": small_shop.catalogue, "split": small_shop.split}
    opened = []
    for moved in (0.0, 3.0):
        made, vectors, known = of_shop(tmp_path, small_shop, moved=moved)
        artifact = run(config, embeddings=made, out=tmp_path / "ids", **shop)
        assert artifact.inputs["split"] == small_shop.split.artifact.id
        opened.append(SemanticIds.open(artifact, embeddings=made))
    ids, other = opened
    np.testing.assert_array_equal(ids.quantizer.codebooks, other.quantizer.codebooks)
    np.testing.assert_array_equal(ids.codes[known], other.codes[known])
    assert not np.array_equal(ids.codes[~known], other.codes[~known])
    levels = other.quantizer.levels
    np.testing.assert_array_equal(other.codes[~known, :levels], other.assign(vectors[~known]))
    if config.collisions.policy == "extra_token":
        assert len(np.unique(other.codes, axis=0)) == len(known)
    assert other.quality.new.items == (~known).sum()
    for part, chosen in ((other.quality.known, known), (other.quality.new, ~known)):
        rebuilt = other.reconstruct(other.codes[chosen])
        assert part.mse == pytest.approx(np.square(vectors[chosen] - rebuilt).mean(), rel=1e-4)
    without = run(config, embeddings=made, out=tmp_path / "ids", catalogue=small_shop.catalogue)
    assert not np.array_equal(SemanticIds.open(without).quantizer.codebooks, ids.quantizer.codebooks)
    assert SemanticIds.open(without).quality.new is None


def test_codes_are_counted_against_the_items_that_they_are_learned_of(tmp_path, small_shop):
    made, _, known = of_shop(tmp_path, small_shop)
    shop = {"catalogue": small_shop.catalogue, "split": small_shop.split}
    with pytest.raises(ConfigError, match=f"codes is {known.sum() + 1}, and there are {known.sum()} vectors"):
        run(SMALL.override(f"quantizer.codes={known.sum() + 1}"), embeddings=made, out=tmp_path / "ids", **shop)
