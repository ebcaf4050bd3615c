"""A small table end to end: what is chosen, what is trained again, what the verdicts rest on, what stays unread."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from triptych.cli import app
from triptych.data.catalogue import Catalogue
from triptych.data.schema import Part
from triptych.data.splits import Split
from triptych.encoders.embed import Embedder
from triptych.evaluate.compare import BETTER, Column
from triptych.evaluate.orderings import Ordering
from triptych.foundation.artifact import MANIFEST, Artifact
from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.metrics.significance import judge, paired_difference
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.recall.learned import load_model
from triptych.recipes.config import Arm, RunConfig
from triptych.recipes.reproduce import TABLES
from triptych.recipes.reproduce.base import Form, Row, Table
from triptych.recipes.reproduce.harness import read_per_query, reproduce
from triptych.recipes.run_folder import RunFolder
from triptych.semantic_ids.stored import PARTS
from triptych.training.log import LOG_FILE, read_log

SMALL_SHOP = ("dataset.num_items=200", "dataset.photo_px=64", "dataset.shoppers.num_pages=2500")
FEW_QUERIES = ("evaluation.bootstrap_repeats=100", "evaluation.max_queries=60")
TINY = (
    "encoder.dim=16",
    "encoder.layers=1",
    "encoder.heads=2",
    "encoder.vector_dim=16",
    "batch_items=32",
    "loop.steps=16",
    "loop.warmup_steps=2",
    "loop.validate_every=8",
)
TRIALS = (("loop.learning_rate=0.000001",), ("temperature=0.1",))
"""The first learns next to nothing."""


def both() -> ContrastiveConfig:
    return ContrastiveConfig()


def title() -> ContrastiveConfig:
    return Arm.TITLE.config(both())


def form(**changes: object) -> Form:
    settings = (*SMALL_SHOP, "evaluation.bootstrap_repeats=200", "evaluation.headline_k=10", "seeds=[0,1]")
    run = RunConfig.parse({"dataset": {"kind": "generated_shop"}}).override(*settings)
    return Form(**{"run": run, "hours": 0.01, "settings": TINY, **changes})


TABLE = Table(
    name="tiny",
    title="A table for tests",
    rows=(Row("title", "titles", title, TRIALS), Row("both", "titles and photos", both, TRIALS)),
    claims=(
        Ordering("photos help", "both", "title"),
        Ordering("learning helps", "title", "chance", column=Column("ndcg", 5)),
        Ordering("photos help more than words", "both", "title", slice="photo_only", than=("title", "bm25")),
        Ordering("nothing of this", "both", "title", slice="no_such_slice"),
    ),
    full=form(),
    quick=form(rows=("title",), num_trials=1),
    there=("bm25",),
    shown=("both",),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made on validation, then, with the split's test targets out of reach, measured there once more."""
    folder = tmp_path_factory.mktemp("reproduce") / "tiny"
    first = reproduce(TABLE, out=folder, base=folder, part=Part.VALIDATION)
    told = read(first)
    split = RunFolder.existing(folder).stage("split").path
    hidden = [file.rename(folder / file.name) for file in split.glob("test_*.npy")]
    assert hidden
    for stage in ("table", "trial"):
        shutil.rmtree(folder / stage)
    again = reproduce(TABLE, out=folder, base=folder, part=Part.VALIDATION)
    assert read(again) == told
    assert told["data"]["part"] == "validation"
    with pytest.raises(ArtifactError, match="has no file 'test_"):
        reproduce(TABLE, out=folder, base=folder)
    for file in hidden:
        file.rename(split / file.name)
    return folder


@pytest.fixture(scope="module")
def made(out: Path) -> Artifact:
    """The table of the test part."""
    before = manifests(out)
    made = reproduce(TABLE, out=out, base=out)
    new = set(manifests(out)) - set(before)
    assert {path.parent.parent.name for path in new} == {
        "table"
    }  # the encoders of the validation are those of the test
    return made


def read(made: Artifact) -> dict:
    return json.loads(made.file("result.json").read_text())


def manifests(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob(MANIFEST)}


def test_the_second_call_makes_nothing(out: Path, made: Artifact):
    before = manifests(out)
    assert reproduce(TABLE, out=out, base=out).id == made.id
    assert manifests(out) == before


def test_every_row_has_its_trials_seeds_and_metrics(out: Path, made: Artifact):
    result = read(made)
    told = {"rows", "increments", "spaces", "costs", "seed_agreement", "orderings", "paces", "data", "settings"}
    assert set(result) == told
    assert (result["costs"], result["seed_agreement"]) == (None, []), "it asks for none, and reads no IDs"
    assert json.loads((out / "result.json").read_text()) == result
    headline = {row["name"]: row for row in result["rows"] if (row["slice"], row["metric"]) == ("all", "recall@10")}
    assert set(headline) == {"chance", "popularity", "bm25", "title", "both", "oracle"}
    assert {name: len(row["seeds"]) for name, row in headline.items()} == {
        name: 2 if name in ("title", "both") else 1 for name in headline
    }
    assert headline["chance"]["value"] == pytest.approx(10 / 200)
    assert headline["oracle"]["value"] > headline["both"]["value"]
    encoders = [path for path in manifests(out) if path.parent.parent.name == "encoder"]
    assert len(encoders) == 2 * 2 + 2  # a trial of each, and the chosen one with one more seed


def test_what_each_row_adds_to_those_that_are_there_is_told(out: Path, made: Artifact):
    told = {one["name"]: one for one in read(made)["increments"]}
    assert set(told) == {"popularity", "title", "both", "oracle"}
    per_list = read(made)["settings"]["evaluation"]["headline_k"]
    assert all(0 <= one["size"]["value"] <= per_list for one in told.values())
    # of what the oracle shows first all is relevant, as far as there is anything
    assert told["oracle"]["relevance"]["value"] > told["popularity"]["relevance"]["value"]
    for one in told.values():
        if one["difference"]["value"] is not None:
            expected = one["relevance"]["value"] - one["of_whole"]["value"]
            assert one["difference"]["value"] == pytest.approx(expected)
            assert one["difference"]["low"] <= expected <= one["difference"]["high"]
    assert {name: one["seeds"] for name, one in told.items()} == {"popularity": 1, "title": 2, "both": 2, "oracle": 1}
    page = (out / "report.html").read_text()
    assert "What each adds" in page
    rule = "among the first 8 of both that is not among the first 10 of bm25, and of which only the photo shows"
    assert rule in page and "data:image/jpeg" in page


def test_the_trial_is_chosen_that_is_best_on_validation(out: Path, made: Artifact):
    folder = RunFolder.existing(out)
    catalogue, split = Catalogue.open(folder.stage("catalogue")), Split.open(folder.stage("split"))
    targets = split.targets(Part.VALIDATION)
    for row, settings in read(made)["settings"]["rows"].items():
        values = [trial["validation"] for trial in settings["trials"]]
        assert settings["chosen"] == list(TRIALS[int(np.argmax(values))])
        for number, told in enumerate(values, start=1):
            embedder = Embedder.open(folder.stage(f"encoder {row} trial {number} seed 0"))
            items = embedder.embed_catalogue(catalogue, label=None).astype(np.float32)
            recalls = []
            for place, query in enumerate(targets.query_row):
                vector = embedder.queries([catalogue.queries[query]])[0]
                first = set(np.argsort(-(items @ vector), kind="stable")[:10].tolist())
                own = set(targets.item_rows[targets.offsets[place] : targets.offsets[place + 1]].tolist())
                recalls.append(len(first & own) / len(own))
            assert told == pytest.approx(np.mean(recalls), abs=0.01)  # the index keeps float16
    assert read(made)["settings"]["rows"]["title"]["chosen"] == list(TRIALS[1])


def test_choices_of_an_earlier_making_are_taken_and_nothing_is_tried(out: Path, made: Artifact, tmp_path: Path):
    again = reproduce(TABLE, out=tmp_path / "again", base=tmp_path, choices=out / "result.json")
    assert not (tmp_path / "again" / "trial").exists()
    assert read(again)["rows"] == read(made)["rows"]
    assert read(again)["orderings"] == read(made)["orderings"]
    rows = read(again)["settings"]["rows"]
    assert {name: row["trials"] for name, row in rows.items()} == {
        name: row["trials"] for name, row in read(made)["settings"]["rows"].items()
    }


def test_trials_can_be_all_that_is_made(out: Path, made: Artifact):
    before = {path for path in manifests(out) if path.parent.parent.name != "choices"}
    tried = reproduce(TABLE, out=out, base=out, trials_only=True)
    assert {path for path in manifests(out) if path.parent.parent.name != "choices"} == before
    rows = json.loads(tried.file("choices.json").read_text())["rows"]
    assert rows == {
        name: {"trials": row["trials"], "chosen": row["chosen"]} for name, row in read(made)["settings"]["rows"].items()
    }
    with pytest.raises(ConfigError, match="so that there is nothing to try"):
        reproduce(TABLE, out=out, base=out, trials_only=True, choices=out / "choices.json")


def test_verdicts_can_be_computed_again_from_the_values_of_each_query(made: Artifact):
    per_query, result = read_per_query(made), read(made)

    def values(model: str, column: str, slice_name: str) -> np.ndarray:
        own = per_query.filter((pl.col("model") == model) & (pl.col("slice") == slice_name)).sort("query_row")
        return np.stack([own.filter(seed=seed)[column].to_numpy() for seed in own["seed"].unique().sort()])

    expected = {
        "photos help": (values("both", "recall@10", "all"), values("title", "recall@10", "all")),
        "learning helps": (values("title", "ndcg@5", "all"), values("chance", "ndcg@5", "all")),
        "photos help more than words": (
            values("both", "recall@10", "photo_only") - values("title", "recall@10", "photo_only"),
            values("title", "recall@10", "photo_only") - values("bm25", "recall@10", "photo_only"),
        ),
    }
    told = {one["claim"]: one for one in result["orderings"]}
    assert set(told) == set(expected)
    for claim, (better, worse) in expected.items():
        one = told[claim]
        interval = paired_difference(better, baseline=worse, rng=np.random.default_rng(0), repeats=200)
        assert (one["difference"], one["low"], one["high"]) == pytest.approx(tuple(interval))
        assert one["verdict"] == judge(interval, claim=BETTER).value
        assert one["seeds"] == pytest.approx(list(better.mean(axis=1) - worse.mean(axis=1)))
        assert one["evidence"] == "2 seeds"
    assert told["learning helps"]["verdict"] == "holds"
    assert result["settings"]["claims_left_out"] == {"nothing of this": "the slice no_such_slice is empty"}


def test_the_page_shows_rows_claims_and_curves(out: Path, made: Artifact):
    page = (out / "report.html").read_text()
    assert page == made.file("report.html").read_text()
    for words in ("photos help more than words", "both − title &gt; title − bm25", "loop.learning_rate=0.000001"):
        assert words in page
    assert page.count("during training") >= 3  # validation by step and by seconds, and the loss


def test_rows_that_cannot_be_made_together_are_refused_before_anything_is_made(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"row 'title trial 1': .*photo_px"):
        reproduce(TABLE, out=tmp_path / "x", base=tmp_path, settings=["catalogue.photo_px=32"])
    assert not (tmp_path / "x").exists()


def test_the_command_makes_a_real_table_in_its_quick_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    layers = ("encoder.text_layers=1", "encoder.photo_layers=1", "encoder.fusion_layers=1")
    tiny = [one for one in TINY if "layers" not in one] + list(layers)
    small = [*SMALL_SHOP, *FEW_QUERIES, *(f"pretrain.{one}" for one in tiny)]
    arguments = ["reproduce", "smgr", "--part", "pretraining", "--quick", "--json", "--out", str(tmp_path / "smgr")]
    arguments += [word for one in (*small, "pretrain.loop.steps=4") for word in ("--set", one)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["settings"]["protocol"] == "cells"
    assert {one["evidence"] for one in result["orderings"]} == {"no evidence: one seed"}
    shown = CliRunner().invoke(app, [one for one in arguments if one != "--json"], catch_exceptions=False)
    assert "no evidence: one seed" in " ".join(shown.stdout.split())
    assert "cells, test" in shown.stdout
    again = CliRunner().invoke(app, ["report", str(tmp_path / "smgr")], catch_exceptions=False)
    assert again.stdout == shown.stdout


def test_all_parts_of_a_table_are_made_one_after_the_other(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    for part in ("one", "two"):  # what both train is finished; the tables themselves are made
        monkeypatch.setitem(TABLES, f"tiny --part {part}", lambda: TABLE)
        shutil.copytree(made.path.parents[1], tmp_path / "out" / part)
        shutil.rmtree(tmp_path / "out" / part / "table")
    arguments = ["reproduce", "tiny", "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert shown.stdout.count("tiny: A table for tests") == 2
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert list(told) == ["one", "two"]
    for part, result in told.items():
        folder = tmp_path / "out" / part
        assert result["rows"] == read(made)["rows"] == json.loads((folder / "result.json").read_text())["rows"]
        assert f"page: {folder / 'report.html'}" in shown.stdout


def test_ids_are_read_and_said_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Encoders, towers and decoders stand in one table; what one sort of row has no place for leaves it as it is."""
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    apart = ("steps", "validate", "layers")  # layers have other names in an encoder of late fusion
    tiny = [f"pretrain.{one}" for one in TINY if not any(word in one for word in apart)]
    small = [*SMALL_SHOP, *FEW_QUERIES, *tiny, "pretrain.loop.steps=16", "pretrain.loop.warmup_steps=2"]
    small += ["recall.num_negatives=50", "recall.validations=1"]
    small += ["semantic_ids.quantizer.codes=16", "generative.epochs=1", "generative.validations=1"]
    small += ["generative.model.dim=16", "generative.model.heads=2", "generative.model.beams=12"]
    arguments = ["reproduce", "smgr", "--part", "retrieval", "--quick", "--json", "--out", str(tmp_path / "smgr")]
    arguments += [word for one in small for word in ("--set", one)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rows = {row["name"]: row for row in result["rows"] if (row["slice"], row["metric"]) == ("all", "recall@5")}
    assert {"encoder", "towers", "towers over ids", "generative", "random-id generative", "bm25"} <= set(rows)
    assert rows["random-id towers"]["role"] == "control"
    folder = RunFolder.existing(tmp_path / "smgr")
    alone, fused = (folder.stage(f"measured {name} trial 1") for name in ("generative", "hybrid"))
    assert alone.inputs["model"] == fused.inputs["model"], "one training"
    assert (alone.id == fused.id, alone.summary["value"] == fused.summary["value"]) == (False, False)
    encoders = {name: one for name, one in folder.stages().items() if name.startswith("encoder")}
    whole = folder.stage("recall smgr seed 0")
    late = Path(next(one for one in encoders.values() if one.endswith(whole.inputs["encoder"])))
    (warm,) = (one for name, one in encoders.items() if name == "encoder warm start")
    assert Artifact.open(tmp_path / "smgr" / late).inputs["start"] == Path(warm).name
    assert len(set(encoders.values()) - {str(late), warm}) == 1, "one encoder for all other rows"
    assert {name for name in whole.inputs if name.startswith("semantic_ids")} == set(PARTS.values())
    read, said = folder.stage("recall towers over ids seed 0"), folder.stage("generative generative seed 0")
    ids = folder.stage("semantic ids generative seed 0")
    assert read.inputs["semantic_ids"] == said.inputs["semantic_ids"] == ids.id
    one, three = (folder.stage(f"recall tower sid{more} seed 0") for more in ("", ", all sets"))
    assert {name for name in three.inputs if name.startswith("semantic_ids")} == set(PARTS.values())
    assert one.inputs["semantic_ids"] == three.inputs["semantic_ids"] == ids.id, "one of the whole for all"
    assert one.inputs["item_views"] == three.inputs["item_views"]
    costs = {one["name"]: one for one in result["costs"]["rows"]}
    assert set(costs) == set(rows) - {"chance", "oracle"}
    saying = {name for name, one in costs.items() if one["said"] is not None}
    assert saying == {"generative", "hybrid", "random-id generative"}
    assert all(costs[name]["said"]["illegal"] == 0 < costs[name]["said"]["ids"] for name in saying)
    assert all(0 < one["p50_ms"] <= one["p95_ms"] and one["item_bytes"] for one in costs.values())
    assert costs["encoder"]["item_bytes"] == {"vectors": 2 * 16}
    assert costs["generative"]["item_bytes"] == costs["hybrid"]["item_bytes"]
    assert costs["generative"]["item_bytes"]["vectors"] == 2 * 16 < sum(costs["generative"]["item_bytes"].values())
    page = (tmp_path / "smgr" / "report.html").read_text()
    assert "What an answer costs" in page and "no claim rests on it" in page
    shuffled = folder.stage("generative random-id generative seed 0")
    own, others = (np.load(one.file("codes.npy")) for one in (said, shuffled))
    assert not np.array_equal(np.load(said.file("item_rows.npy")), np.load(shuffled.file("item_rows.npy")))
    np.testing.assert_array_equal(own, others)  # the same IDs, of other items


def test_who_has_learned_soon_is_told_of_recall_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    small = [*SMALL_SHOP, *FEW_QUERIES, *(f"pretrain.{one}" for one in TINY), "recall.num_negatives=50"]
    small += ["recall.batch_pages=128"]  # 24 steps
    arguments = ["reproduce", "taobao-recall", "--quick", "--json", "--out", str(tmp_path / "recall")]
    arguments += [word for one in small for word in ("--set", one)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    folder = RunFolder.existing(tmp_path / "recall")
    logs = {row: list(read_log(folder.stage(f"recall {row} seed 0").file(LOG_FILE))) for row in ("1 mm", "2 id")}
    found = {row: [one["recall@20"] for one in log if one["event"] == "validation"] for row, log in logs.items()}
    told, _ = result["paces"]
    assert (told["rows"], told["slice"], told["metric"]) == (
        "1 mm > 2 id",
        "12.5 % of the steps",
        "share of the best recall@20",
    )
    for row, values in found.items():
        assert len(values) == 8
        assert told["reached"][row] == pytest.approx(values[0] / max(values))
    assert (told["verdict"], told["low"], told["evidence"]) == ("undecided", None, "no evidence: one seed")
    page = (tmp_path / "recall" / "report.html").read_text()
    assert "Who has learned soon" in page and told["claim"] in page
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "recall")], catch_exceptions=False).stdout
    assert "share of the best" in " ".join(shown.split())


def test_users_are_recommended_to_beside_neighbours_tried_as_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    tiny = [one.replace("batch_items", "batch_pairs") for one in TINY]
    small = [*SMALL_SHOP, *FEW_QUERIES, *(f"pretrain.{one}" for one in tiny)]
    out = tmp_path / "films"
    arguments = ["reproduce", "recommendation", "--part", "within-users", "--quick", "--json", "--out", str(out)]
    small += ["recall.epochs=1", "generative.epochs=1", "generative.validations=1", "semantic_ids.quantizer.codes=16"]
    small += ["generative.model.dim=16", "generative.model.history_items=3", "generative.model.beams=30"]
    arguments += [word for one in small for word in ("--set", one)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["settings"]["protocol"] == "recommend"
    standing = {"chance", "popularity", "item-knn"}
    assert {row["name"] for row in result["rows"]} == standing | {
        *("bpr-mf", "vbpr", "sasrec", "sasrec, idfc", "generative")
    }
    assert len(list((out / "item-knn").iterdir())) == 1  # as many trials as a row of this form
    assert len(list((out / "trial").iterdir())) == 5 + 1
    judged = {one["claim"]: one["verdict"] for one in result["orderings"]}
    assert "To say IDs finds more than a vector for each: generative > sasrec" in judged
    folder = RunFolder.existing(out)
    said, read = folder.stage("generative generative seed 0"), folder.stage("recall sasrec, idfc seed 0")
    assert "query_embeddings" not in said.inputs  # nobody asks by words
    ids = Artifact.open(folder.stage("semantic ids generative seed 0").path)
    assert said.inputs["semantic_ids"] == ids.id and ids.inputs["embeddings"] == read.inputs["embeddings"]
    assert "Fused recall beats item-knn" in judged and "The graph helps: lightgcn > bpr-mf" not in judged


def test_graphs_of_items_are_made_of_title_and_photo_under_mmrecs_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    log = ("dataset.of.num_items=120", "dataset.of.shoppers.num_users=60", "dataset.of.shoppers.num_pages=800")
    shop = [*(one.replace("dataset.", "dataset.of.") for one in SMALL_SHOP), *log]
    tiny = [f"pretrain.{one.replace('batch_items', 'batch_pairs')}" for one in TINY]
    small = [*shop, *tiny, "pretrain.loop.steps=4", "evaluation.bootstrap_repeats=100", "evaluation.ks=[20,50]"]
    small += ["recall.epochs=1", "recall.validations=1", "recall.num_negatives=50"]
    out = tmp_path / "core"
    arguments = ["reproduce", "em3-public", "--part", "movielens", "--quick", "--json", "--out", str(out)]
    arguments += [word for one in small for word in ("--set", one)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rows = {row["name"]: row for row in result["rows"] if (row["slice"], row["metric"]) == ("all", "recall@50")}
    assert {"popularity", "item-knn", "bpr-mf", "lightgcn", "vbpr", "lattice", "freedom", "em3"} <= set(rows)
    assert rows["permuted-content em3"]["role"] == "control"
    assert {"EM3 > FREEDOM", "FREEDOM > LATTICE", "LATTICE > VBPR"} <= {one["claim"] for one in result["orderings"]}
    folder = RunFolder.existing(out)
    own, other = (folder.stage(f"recall {name} seed 0") for name in ("em3", "permuted-content em3"))
    assert own.inputs["item_views"] == folder.stage("recall freedom seed 0").inputs["item_views"]
    weights, others = (load_model(one.path).state_dict() for one in (own, other))
    for side in ("title", "photo"):  # the same vectors, of other items
        mine, theirs = (one[f"vectors_{side}"][1:] for one in (weights, others))
        assert not torch.equal(mine, theirs)
        torch.testing.assert_close(mine.sort(dim=0).values, theirs.sort(dim=0).values)
    split = Split.open(folder.stage("split"))
    user, item = (Catalogue.open(folder.stage("catalogue")).event_array(name) for name in ("user_row", "item_row"))
    assert min(np.bincount(user).min(), np.bincount(item).min()) >= 5
    assert len(set(zip(user.tolist(), item.tolist(), strict=True))) == len(user)
    assert {len(np.unique(user[split.part(part)])) for part in Part} == {len(np.unique(user))}


def test_rankers_are_judged_by_gauc_of_what_was_shown(made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    out = tmp_path / "em3"
    for stage in ("tables", "catalogue", "split", "tokenizer", "popularity", "encoder", "embeddings", "index"):
        shutil.copytree(made.path.parents[1] / stage, out / stage)
    encoder = [f"pretrain.{one}" for one in (*TINY, *TRIALS[1])]
    small = [*SMALL_SHOP, *encoder, "evaluation.bootstrap_repeats=100", "evaluation.max_queries=200"]
    small += ["ranker.epochs=0.3", "ranker.validations=1", "ranker.validation_samples=1000"]
    small += ["ranker.model.hidden_dims=[16]", "ranker.model.dim=4"]
    arguments = ["reproduce", "em3", "--part", "fashion", "--quick", "--json", "--out", str(out)]
    arguments += [word for one in small for word in ("--set", one)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["settings"]["protocol"], result["settings"]["headline"]) == ("rank", "gauc")
    rows = {(row["name"], row["slice"]): row for row in result["rows"] if row["metric"] == "gauc"}
    assert rows["constant", "all"]["value"] == 0.5
    assert rows["permuted-content din, em3", "all"]["role"] == "control"
    trained = {name for name, _ in rows} - {"constant", "popularity"}
    assert trained == {"din", "din, frozen", "din, simtier", "din, em3", "permuted-content din, em3"}
    judged = [one for one in result["orderings"] if one["rows"] == "din, em3 > din, frozen"]
    assert "all" in {one["slice"] for one in judged}
    for one in judged:  # weighed by what users were shown, as the rows are
        better, worse = (rows[name, one["slice"]] for name in ("din, em3", "din, frozen"))
        assert one["difference"] == pytest.approx(better["value"] - worse["value"])
        assert one["low"] < one["difference"] < one["high"]
        assert one["num_queries"] == better["num_queries"]
    folder = RunFolder.existing(out)
    plain, frozen, own, other = (
        folder.stage(f"ranker {name} seed 0")
        for name in ("din", "din, frozen", "din, em3", "permuted-content din, em3")
    )
    assert "embeddings" not in plain.inputs
    assert frozen.inputs["item_views"] == own.inputs["item_views"] == other.inputs["item_views"]
    assert own.id != other.id
    assert len(list((out / "encoder").iterdir())) == len(list((made.path.parents[1] / "encoder").iterdir()))
    (spaces,) = result["spaces"]  # of the two rows that the table shows, the quick form has one
    assert spaces["name"] == "din, em3" and 0 < spaces["alignment"] < 4 and spaces["uniformity_ids"] < 0
    page = (out / "report.html").read_text()
    assert "GAUC" in page and "Items by ID and by content" in page


def test_a_graph_without_titles_is_enough_for_rows_of_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    rng, lines = np.random.default_rng(0), ["userID\titemID\tx_label"]
    for user in range(30):
        lines += [f"{user}\t{item}\t0" for item in rng.permutation(20)[:12].tolist()]
    (tmp_path / "graph.inter").write_text("\n".join(lines) + "\n")
    small = ["dataset.of.kind=mmrec", f"dataset.of.path={tmp_path}", "evaluation.bootstrap_repeats=100"]
    small += ["recall.epochs=1", "recall.validations=1", "evaluation.ks=[5,10]", "evaluation.headline_k=10"]
    arguments = ["reproduce", "em3-public", "--part", "baby", "--quick", "--json", "--out", str(tmp_path / "out")]
    arguments += [word for one in small for word in ("--set", one)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert {row["name"] for row in result["rows"]} == {"chance", "popularity", "item-knn", "bpr-mf", "lightgcn"}
    assert [one["claim"] for one in result["orderings"]] == ["The graph helps: lightgcn > bpr-mf"]
    counts = [result["data"]["split"]["parts"][part]["events"] for part in ("train", "validation", "test")]
    assert counts == [300, 30, 30]  # of twelve: two held out, one each
