"""A recall model as a run has it: opened with the run's log, so that it can be asked for users; what a run refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from triptych.encoders.embeddings import Modality
from triptych.evaluate.tasks import search
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import ConfigError
from triptych.recall.base import Request
from triptych.recall.item_codes import ItemCodes, check_item_codes
from triptych.recall.models.semantic_tower import Content as Semantic
from triptych.recipes import resolve
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.encoders import Plan
from triptych.recipes.generation import GenerationConfig, GenerationPlan, GenerationWork
from triptych.recipes.recall import Content, RecallConfig, RecallPlan, RecallWork, TrainedRecall, recall_of_run
from triptych.recipes.reproduce.smgr import fused, reader, tower, whole
from triptych.recipes.side_by_side import train_new
from triptych.recipes.views import side_by_side
from triptych.semantic_ids import fit
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.stored import SemanticIds

SETTINGS = {"num_negatives": 20, "validations": 1, "device": "cpu", "precision": "fp32"}
MODELS = {
    "two_tower": {"fusion": "id", "asks": "query+history", "dim": 8, "id_init_std": 0.5},
    "mgdspr": {"kind": "mgdspr", "dim": 8, "heads": 2, "id_init_std": 0.5},
}


def trained(shop, out: Path, *, model: dict) -> TrainedRecall:
    stages = SimpleNamespace(
        catalogue=shop.catalogue,
        config=RunConfig.parse({"recall": {"model": model, **SETTINGS}}),
        out=out,
        jobs=1,
        stage=lambda name, make, *, record, is_new=None: make(out / name),
    )
    ((found,),) = recall_of_run(
        {}, stages=stages, split=shop.split, served=Plan("title+photo", stages.config.pretrain)
    ).values()
    return found


def test_sides_stand_beside_each_other_as_unit_vectors_and_what_is_not_there_is_zero():
    photo = np.array([[3.0, 4.0], [np.nan, np.nan]], np.float16)
    title = np.array([[0.0, 0.0, 2.0], [0.0, -5.0, 0.0]], np.float16)
    joined = side_by_side({"title": title, "photo": photo})
    np.testing.assert_allclose(joined, [[0, 0, 1, 0.6, 0.8], [0, -1, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_a_personal_model_is_asked_for_the_users_of_the_log(small_shop, tmp_path, kind):
    retriever = trained(small_shop, tmp_path, model=MODELS[kind]).retriever(name="personal", config=RunConfig())
    user, query = small_shop.catalogue.users[2], small_shop.catalogue.queries[0]
    known, stranger = retriever.request_vectors([Request(query=query, user=user), Request(query=query)])
    assert abs(known - stranger).max() > 1e-3
    config = EvaluationConfig(ks=(5,), headline_k=5, bootstrap_repeats=100, users_per_query=3)
    found = search.evaluate(
        {"personal": retriever}, catalogue=small_shop.catalogue, split=small_shop.split, config=config
    )
    assert len(found.per_query.filter(slice="all")) == len(found.rankings.query_rows) > 5


def test_a_model_that_does_not_read_words_is_refused_before_anything_is_trained():
    with pytest.raises(ConfigError, match="recall.model goes by users or histories alone"):
        resolve("shop", settings=["recall.model.asks=history"])
    assert resolve("shop", settings=["recall.model.asks=query+history"]).config.recall is not None


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("feed", ["recall.epochs=1"], r"recall.model answers queries, and this recipe has none. Set .* 'sasrec'"),
        ("movielens", ["recall.model.kind=mgdspr"], "recall.model answers queries, and this recipe has none"),
        ("feed", ["recommend=recall"], "recommend = 'recall', and there is no recall model"),
        ("shop", ["recommend=dense"], "recommend has no effect: it is for recipes without queries"),
        ("feed", ["hybrid={}"], "hybrid fuses answers to queries, and this recipe has none"),
        ("catalogue", ["recall.model.kind=sasrec"], "recall learns from searches or users that led to a choice"),
        ("judged", ["recall.epochs=1"], "recall learns from searches or users that led to a choice"),
        (
            "shop",
            ["recall.model.kind=semantic_tower"],
            "recall.model reads semantic IDs, and there are none. Set semantic_ids",
        ),
        (
            "shop",
            ['recall_beside={"both":{"model":{"kind":"semantic_tower","content":"both"}}}'],
            "recall_beside.both.model reads semantic IDs, and there are none",
        ),
        (
            "shop",
            [
                "recall.model.kind=semantic_tower",
                "recall.model.content=none",
                "pretrain.encoder.modalities=title",
                "compare=[]",
            ],
            "reads titles by themselves beside titles with photos, and pretrain reads 'title' alone",
        ),
        (
            "shop",
            [
                "recall.model.kind=semantic_tower",
                "recall.model.content=dense",
                'beside={"seen":{"kind":"contrastive","encoder":{"modalities":"photo"}}}',
                "serve=validation",
            ],
            "and beside.seen reads 'photo' alone. Set beside.seen.encoder.modalities",
        ),
        ("feed", ["recall.model.kind=semantic_tower"], "recall.model answers queries, and this recipe has none"),
        ("shop", ['semantic_ids.sets=["title","photo"]'], "semantic_ids.sets must name item"),
        ("shop", ['semantic_ids.sets=["item","item"]'], "sets must not name one twice"),
        (
            "shop",
            ['semantic_ids.sets=["item","photo"]', "pretrain.encoder.modalities=title", "compare=[]"],
            "semantic_ids.sets are of titles and photos each, and pretrain reads 'title' alone",
        ),
        ("shop", ["recall.model.kind=lightgcn"], "recall.model goes by users or histories alone"),
        ("feed", ["recall.model.kind=freedom"], "fuses vectors of titles and photos itself, and a run gives it none"),
        ("shop", ["recall.model.fusion=id", "recall.mined_negatives=4"], "mined by the encoder's vectors, and recall"),
        ("shop", ['recall_beside={"mf":{"model":"vbpr"}}'], "recall_beside.mf.model goes by users or histories"),
        ("feed", ['recall_beside={"mf":{"model":"vbpr"}}'], "names models beside the served one, and there is none"),
        (
            "feed",
            ["recall.model.kind=sasrec", 'recall_beside={"item-knn":{"model":"vbpr"}}'],
            "recall_beside.item-knn: the tables have a row of that name already",
        ),
        (
            "feed",
            ["recall.model.kind=sasrec", 'recall_beside={"two":{}}'],
            "recall_beside.two.model answers queries, and this recipe has none",
        ),
    ],
)
def test_models_that_do_not_go_with_the_recipe_are_refused(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve(recipe, settings=settings)


@pytest.mark.parametrize("content", list(Semantic))
def test_a_recipe_of_searches_takes_titles_beside_semantic_ids(content):
    settings = ["recall.model.kind=semantic_tower", f"recall.model.content={content}"]
    ids = ["semantic_ids={}"] if content.reads_codes else []
    assert resolve("shop", settings=[*settings, *ids]).config.recall.recall_model.content is content


@pytest.mark.parametrize("kind", ["sasrec", "matrix_factorization", "vbpr", "lightgcn"])
@pytest.mark.parametrize("recipe", ["feed", "movielens"])
def test_recipes_without_queries_take_models_of_users_and_histories(recipe, kind):
    found = resolve(recipe, settings=[f"recall.model.kind={kind}", "recall.single_choices=false"]).config
    assert found.recall.model.kind == kind
    assert resolve(recipe, settings=[]).config.recall is None


def item_views(folder: Path, sides: dict) -> Artifact:
    def build(into):
        for name, vectors in sides.items():
            np.save(into / f"{name}.npy", vectors.astype(np.float16))
        return {}

    return produce(folder, kind="item_views", config={}, inputs={"encoder": "none"}, build=build)


VECTORS = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def ids(tmp_path_factory):
    """IDs of those vectors, a token against collisions behind."""
    folder = tmp_path_factory.mktemp("ids")
    np.save(folder / "item.npy", VECTORS)
    tree = {"quantizer": {"levels": 2, "codes": 4}, "collisions": {"policy": "extra_token"}}
    return fit.run(SemanticIdsConfig.parse(tree), embeddings=folder / "item.npy", out=folder)


def test_tokens_are_of_the_codes_that_mean_something(ids, tmp_path):
    """Not of the one against collisions; in the control the items change IDs, and as many share one as before."""
    content = Content(encoder=ids, embeddings=ids, query_embeddings=None, semantic_ids=ids)

    def read(control: Control = Control.NONE) -> ItemCodes:
        plan = RecallPlan("tower", tower(Semantic.SID), control)
        work = RecallWork(plan, 3, ids, ids, content, num_pages=1, out=tmp_path)
        (found,) = work.item_codes
        check_item_codes([found], num_items=60)
        return found

    own, shuffled = read(), read(Control.IDS)
    np.testing.assert_array_equal(own.codes, SemanticIds.open(ids).assign(VECTORS))
    np.testing.assert_array_equal(own.codebooks, SemanticIds.open(ids).quantizer.codebooks)
    assert sorted(map(tuple, own.codes)) == sorted(map(tuple, shuffled.codes))
    assert (own.codes != shuffled.codes).any(axis=1).mean() > 0.5
    without = RecallWork(RecallPlan("none", tower(Semantic.NONE)), 3, ids, ids, content, num_pages=1, out=tmp_path)
    assert without.item_codes == ()


def test_a_model_reads_the_sets_that_its_config_names_in_one_order(ids, tmp_path):
    views = tmp_path / "views"
    made = item_views(views, {"title": VECTORS, "photo": np.where(np.arange(60)[:, None] % 3, -VECTORS, np.nan)})
    quantizer = {"quantizer": {"levels": 2, "codes": 4}}
    sides = {
        of: fit.run(SemanticIdsConfig.parse(quantizer), embeddings=made, out=tmp_path, of=of)
        for of in (Modality.TITLE, Modality.PHOTO)
    }
    content = Content(ids, ids, None, ids, made, sides[Modality.TITLE], sides[Modality.PHOTO])

    def read(control: Control = Control.NONE) -> tuple[ItemCodes, ...]:
        return RecallWork(
            RecallPlan("tower", tower(Semantic.SID), control), 3, ids, ids, content, num_pages=1, out=tmp_path
        ).item_codes

    own, shuffled = read(), read(Control.IDS)
    check_item_codes(own, num_items=60)
    np.testing.assert_array_equal(own[0].codes, SemanticIds.open(ids).assign(VECTORS))
    np.testing.assert_array_equal(own[1].codes, SemanticIds.open(sides[Modality.TITLE]).codes)
    np.testing.assert_array_equal(own[2].codes[:, 0] < 0, np.arange(60) % 3 == 0)
    with_all = np.concatenate([one.codes for one in own], axis=1)
    assert sorted(map(tuple, with_all)) == sorted(map(tuple, np.concatenate([one.codes for one in shuffled], axis=1)))
    sets = RecallConfig.parse({**tower(Semantic.SID).dump(), "semantic_ids": {"sets": ["photo", "item"]}}).semantic_ids
    assert sets.in_order == (Modality.ITEM, Modality.PHOTO)
    assert sets.of_one == SemanticIdsConfig()
    with pytest.raises(ConfigError, match="sets have no effect on a model that reads what the item's IDs stand for"):
        RecallConfig.parse({**reader({}).dump(), "semantic_ids": {"sets": ["photo", "item"]}})


def test_a_tower_may_be_given_photos_in_the_place_of_the_whole(ids, tmp_path):
    photos = np.where(np.arange(60)[:, None] % 3, 2 * VECTORS, np.nan)
    made = item_views(tmp_path / "views", {"title": VECTORS, "photo": photos, "vectors": VECTORS})
    plan = RecallPlan("photos", whole("o1", Semantic.DENSE, of_photos=True))
    work = RecallWork(plan, 3, ids, ids, Content(ids, made, None, item_views=made), num_pages=1, out=tmp_path)
    lengths = np.linalg.norm(work.item_content, axis=1)
    np.testing.assert_allclose(lengths, np.arange(60) % 3 > 0, atol=1e-3)
    np.testing.assert_allclose(work.item_content[1], VECTORS[1] / np.linalg.norm(VECTORS[1]), atol=1e-3)
    assert work.item_codes == ()
    with pytest.raises(ConfigError, match="content has no effect on a model that reads none"):
        RecallConfig.parse({**tower(Semantic.SID).dump(), "content": ["photo"]})


def test_a_decoder_is_fused_with_its_encoder_by_a_rule_that_is_given():
    assert fused().hybrid.weights == {"dense": 0.5, "generative": 0.5}
    rule = fused().hybrid.dump()
    for changes in ({"weights": None}, {"channels": ["dense", "bm25"], "weights": {"dense": 1, "bm25": 1}}):
        with pytest.raises(ConfigError, match=r"set hybrid.channels = \['dense', 'generative'\], fusion and weights"):
            GenerationConfig.parse({"hybrid": {**rule, **changes}})
    with pytest.raises(ConfigError, match="histories ask this decoder"):
        GenerationConfig.parse({"hybrid": rule, "generative": {"model": {"asks": "history"}}})


def test_a_decoder_that_two_rows_share_is_trained_once(ids, tmp_path):
    """Two processes would train it side by side into one folder."""

    def work(name: str, config: GenerationConfig, *, seed: int = 0, control: Control = Control.NONE) -> GenerationWork:
        plan = GenerationPlan(name, config, control)
        return GenerationWork(plan, seed, ids, ids, None, ids, num_pages=1, out=tmp_path)

    works = [
        work("alone", GenerationConfig()),
        work("fused", fused()),
        work("fused", fused(), seed=1),
        work("shuffled", fused(), control=Control.IDS),
        work("other", GenerationConfig().override("generative.learning_rate=0.01")),
    ]
    assert works[0]._inputs == works[1]._inputs, "so that both have one artefact"
    assert train_new(works, jobs=1) == {"alone seed 0", "fused seed 1", "shuffled seed 0", "other seed 0"}


def test_a_recall_model_and_the_same_with_its_answers_controlled_are_one_training(ids, tmp_path):
    content = Content(encoder=ids, embeddings=ids, query_embeddings=None)

    def key(control: Control = Control.NONE, *, keeps_relevant: bool = False):
        plan = RecallPlan("row", tower(Semantic.DENSE), control, keeps_relevant)
        return RecallWork(plan, 3, ids, ids, content, num_pages=1, out=tmp_path).key

    assert key() == key(keeps_relevant=True)
    told = [key(one) for one in Control if one is not Control.PHOTO]
    assert len(set(told)) == 4
    assert key(Control.PHOTO) == key(), "what it reads is of another encoder"
