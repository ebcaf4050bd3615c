"""Definitions of tables: mistakes are told, and the tables there are have rows that can be made."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from triptych.cli import app
from triptych.data.pages import PagesOf
from triptych.data.schema import Part
from triptych.data.splits import SplitBy
from triptych.data.targets import HistoryFrom
from triptych.evaluate.orderings import Ordering
from triptych.evaluate.records import Role, role_of
from triptych.foundation.errors import ConfigError
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.recall.config import Loss
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.ranker import RankerConfig
from triptych.recipes.recall import RecallConfig
from triptych.recipes.reproduce import TABLES, find_tables
from triptych.recipes.reproduce.base import Form, Row, Size, Table
from triptych.recipes.reproduce.choices import Trial, new_choices, read_choices, write_choices
from triptych.recipes.reproduce.harness import reproduce
from triptych.recipes.reproduce.plans import answered_through, resolve, trial_plans
from triptych.recipes.run_folder import RunFolder

FORM = Form(run=RunConfig(), hours=1.0)


def row(name: str, *trials: str) -> Row:
    return Row(name, "what", ContrastiveConfig, tuple((trial,) for trial in trials) or ((),))


def table(*rows: Row, claims: tuple[Ordering, ...] = (), quick: Form = FORM) -> Table:
    return Table(name="t", title="T", rows=rows, claims=claims, full=FORM, quick=quick)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: table(row("a"), row("a")), "the name 'a' stands for two rows"),
        (lambda: table(row("a"), row("bm25")), "the name 'bm25' stands for two rows"),
        (lambda: table(row("item-knn")), "'item-knn' is the name of a baseline"),
        (
            lambda: table(row("a", "loop.steps=5"), quick=replace(FORM, trial_steps_rate=0.5)),
            "trials that set how long they are would not be shortened",
        ),
        (
            lambda: table(row("a", "x=1", "x=2"), row("b", "x=1")),
            "every row must have the same number of trials, not a 2, b 1",
        ),
        (
            lambda: table(row("joint"), claims=(Ordering("c", "joint", "jiont"),)),
            r"there is no row 'jiont'\. Did you mean 'joint'\?",
        ),
        (lambda: table(row("joint"), quick=Form(run=RunConfig(), hours=1.0, rows=("j",))), "there is no row 'j'"),
        (lambda: table(row("permuted-photo a")), r"has the control '', and its name says 'permuted photo'"),
        (
            lambda: table(replace(row("a"), control=Control.PHOTO)),
            "has the control 'permuted photo', and its name says ''. Rows of a control begin with 'permuted-photo '",
        ),
        (
            lambda: table(replace(row("permuted-content a"), control=Control.CONTENT)),
            "row 'permuted-content a' has nothing that the control 'permuted content' could exchange",
        ),
        (lambda: find_tables("taobao"), "There is no table 'taobao'"),
        (lambda: find_tables("smgr", part="sids"), "Table 'smgr' has no part 'sids'. Parts: pretraining"),
        (lambda: find_tables("taobao-pretraining", part="x"), "has no part 'x'. Parts: none"),
    ],
)
def test_a_mistake_is_told(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("size", Size)
def test_every_trial_of_every_row_is_a_config_of_its_own(name, size):
    made = TABLES[name]()
    form = made.form(size)
    for one in made.rows_of(form):
        plans = trial_plans(one, form)
        assert len({plan.config.to_json() for plan in plans}) == len(plans)
        assert bool(one.control) == (role_of(one.name) is Role.CONTROL)
    assert made.quick.hours <= 0.5
    assert len(made.quick.run.seeds) == 1
    assert len(made.full.run.seeds) >= 3


def test_a_table_is_all_of_its_parts_unless_one_is_named():
    assert [one.name for one in find_tables("smgr", part="retrieval").values()] == ["smgr --part retrieval"]
    assert {part: one.name for part, one in find_tables("smgr").items()} == {
        part: f"smgr --part {part}" for part in ("pretraining", "retrieval")
    }
    assert {part: one.name for part, one in find_tables("taobao-recall").items()} == {"": "taobao-recall"}
    found = [(name, part) for name in {key.split(" ")[0] for key in TABLES} for part in find_tables(name)]
    assert {f"{name} --part {part}".removesuffix(" --part ") for name, part in found} == set(TABLES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--choices", "choices.json"], "--choices are those of one part. Name it: --part fashion or --part movielens"),
        (
            ["--set", "recall.model.fusion=id"],
            "--part fashion: --set recall.model.fusion=id: what a row learns is what the row is",
        ),
        (["--set", "dataset.photo_px=64x"], "--part fashion: "),
    ],
)
def test_what_not_every_part_can_be_made_with_is_told_before_the_first(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    arguments = ["reproduce", "em3", "--quick", "--out", str(tmp_path / "em3"), *arguments]
    with pytest.raises(ConfigError, match=re.escape(message)):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "em3").exists()


def test_parts_are_not_made_below_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")
    RunFolder(tmp_path).start({"recipe": "reproduce em3 --part fashion"})
    with pytest.raises(ConfigError, match="holds a run of 'reproduce em3 --part fashion', and all parts are made in"):
        CliRunner().invoke(app, ["reproduce", "em3", "--quick", "--out", str(tmp_path)], catch_exceptions=False)


def test_a_trial_is_laid_over_the_settings_of_the_form():
    form = Form(run=RunConfig(), hours=1.0, settings=("temperature=0.7", "batch_items=9"), num_trials=2)
    first, second = trial_plans(row("a", "temperature=0.1", "temperature=0.2", "temperature=0.3"), form)
    assert (first.config.temperature, second.config.temperature) == (0.1, 0.2)
    assert first.config.batch_items == second.config.batch_items == 9


def test_trials_may_be_shorter_than_what_is_chosen():
    tried = Table(
        "t", "T", (row("a", "temperature=0.1", "temperature=0.2"),), (), replace(FORM, trial_steps_rate=0.4), FORM
    )
    settings = ["pretrain.loop.steps=50"]
    planned = resolve(tried, size=Size.FULL, part=Part.VALIDATION, settings=settings)
    assert [plan.config.loop.steps for plan in planned.trial_plans] == [20, 20]
    assert planned.chosen(planned.rows[0], best=1).config.loop.steps == 50
    assert planned.chosen(planned.rows[0], best=1).config.temperature == 0.2


def test_a_row_may_have_more_steps_than_the_form_gives():
    longer = Table("t", "T", (row("a"), replace(row("b"), steps_rate=1.5)), (), FORM, FORM)
    planned = resolve(longer, size=Size.FULL, part=Part.VALIDATION, settings=["pretrain.loop.steps=50"])
    assert [plan.config.loop.steps for plan in planned.trial_plans] == [50, 75]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "quick"}, "these are of the quick form of 't', not of the full form of 't'"),
        ({"dataset": {"kind": "fashion"}}, "they were made on other data"),
        (
            {"rows": {"a": {"trials": [{"settings": ["temperature=0.3"], "validation": 0.5}]}}},
            "row 'a' is to be tried with other settings",
        ),
        ({"headline": "ndcg@20"}, "they were chosen by ndcg@20, and this is by recall@20"),
        ({"rows": None, "settings": 3}, "neither a choices.json nor a result.json"),
        ({"rows": {"a": 3}}, "neither a choices.json nor a result.json"),
        ({"rows": {"a": {"trials": [{"settings": ["temperature=0.1"]}]}}}, "neither a choices.json nor a result.json"),
    ],
)
def test_choices_of_something_else_are_refused(tmp_path, change, message):
    planned = resolve(table(row("a", "temperature=0.1")), size=Size.FULL, part=Part.VALIDATION, settings=[])
    file = tmp_path / "choices.json"
    trials = {"a": [Trial(("temperature=0.1",), 0.25)]}
    write_choices(file, planned=planned, choices=new_choices(trials, planned=planned))
    assert read_choices(file, planned=planned).rows == trials
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        read_choices(file, planned=planned)
    with pytest.raises(ConfigError, match=r"other\.json: No such file"):
        read_choices(tmp_path / "other.json", planned=planned)


def test_a_row_that_choices_do_not_have_is_left_to_be_tried(tmp_path):
    both = table(row("a", "temperature=0.1"), row("b", "temperature=0.2"))
    planned = resolve(both, size=Size.FULL, part=Part.VALIDATION, settings=[])
    trials = {"a": [Trial(("temperature=0.1",), 0.25)]}
    write_choices(tmp_path / "choices.json", planned=planned, choices=new_choices(trials, planned=planned))
    assert read_choices(tmp_path / "choices.json", planned=planned).rows == trials
    assert [plan.name for plan in planned.trial_plans_of(planned.rows[1:])] == ["b trial 1"]


def test_what_rows_are_tried_with_is_not_set_for_all():
    """The trials would overrule it, and nobody would know."""
    tried = TABLES["smgr --part pretraining"]()
    settings = ["pretrain.loop.learning_rate=0.003"]
    with pytest.raises(
        ConfigError, match=r"learning_rate=0\.003 would have no effect: row 'fused' is tried with values"
    ):
        resolve(tried, size=Size.QUICK, part=Part.VALIDATION, settings=settings)
    planned = resolve(tried, size=Size.QUICK, part=Part.VALIDATION, settings=["pretrain.loop.steps=7"])
    assert {plan.config.loop.steps for plan in planned.trial_plans} == {7}


def test_the_command_lists_tables_with_their_hours():
    listed = json.loads(CliRunner().invoke(app, ["reproduce", "--json"], catch_exceptions=False).stdout)
    assert [one["table"] for one in listed] == list(TABLES)
    assert all(one["quick form, hours"] <= 0.5 for one in listed)
    assert all(one["quick form, hours"] < one["full form, hours"] for one in listed)


SHARED = ("batch_items", "queries_per_item", "item_power", "pairs", "pairs_rate", "cell_rate", "word_mask_rate")
SHARED += ("patch_mask_rate", "title_dropout_rate", "photo_dropout_rate", "cheap_pass", "cross_layers")


@pytest.mark.parametrize("name", [name for name in TABLES if TABLES[name]().is_of_encoders])
@pytest.mark.parametrize("few", [False, True])
def test_rows_differ_in_what_they_are_about_alone(name: str, few: bool):
    """Same data, batches, steps and size of model; a row that had more of any would win by that."""
    trees = {one.name: one.config().dump() for one in TABLES[name]().rows if one.name.endswith("-few") == few}
    if not trees:
        assert few
        return
    first = next(iter(trees.values()))
    for tree in trees.values():
        assert tree["loop"] == first["loop"]
        assert {key: tree[key] for key in SHARED} == {key: first[key] for key in SHARED}
        assert {**tree["encoder"], "export": 0, "normalize": 0} == {**first["encoder"], "export": 0, "normalize": 0}
        assert sum(stage["steps_rate"] for stage in tree["stages"]) == pytest.approx(1)


def test_rows_of_the_recall_table_differ_in_what_they_are_about_alone():
    made = TABLES["taobao-recall"]()
    rows = {one.name: one.config() for one in made.rows}
    about = {"model": {"fusion": "", "hidden_dims": ()}, "against": ""}
    shared = []
    for name, one in rows.items():
        tree = one.recall.dump()
        if one.recall.model.kind == "mgdspr":
            published = name in ("6 mgdspr", "6 controlled")
            assert tree.pop("hard_mixes") == (684 if published else 0)
            assert tree.pop("validation_users") == made.full.run.evaluation.users_per_query == 3
            model = tree["model"]
            assert (model["score"] == "inner", model["temperature"]) == (published, 2.0 if published else 0.05)
            assert (model["fusion"] is None) == (one.pretrain is None) == (name[0] != "8")
            tree = {**tree, "hard_mixes": 0, "validation_users": None, "model": shared[0]["model"]}
        shared.append({**tree, **about, "model": {**tree["model"], **about["model"]}})
    assert all(tree == shared[0] for tree in shared)
    for one in rows.values():
        assert one.recall.recall_model.needs.history == (one.recall.validation_users is not None)
    assert len({row.trials for row in made.rows}) == 1
    pretrained = {name: one.pretrain.to_json() for name, one in rows.items() if one.pretrain is not None}
    assert set(rows) - set(pretrained) == {"2 id", "6 mgdspr", "6 controlled", "mgdspr, our loss"}
    assert {one.name for one in made.rows if one.keeps_relevant} == {"6 controlled"}
    assert rows["6 controlled"] == rows["6 mgdspr"], "one training"
    planned = resolve(made, size=Size.FULL, part=Part.VALIDATION, settings=())
    through = {name: answered_through(plans[0]) for name, plans in planned.plans.items()}
    assert {name for name, one in through.items() if one} == {"6 controlled"}, "and answers of its own"
    improved = {name for name, one in pretrained.items() if one != pretrained["5 idfc"]}
    assert improved == {"7 idfc, improved", "8 idfc + base"}
    by_pretraining = {one.name: one.config() for one in TABLES["taobao-pretraining"]().rows}
    assert rows["1 mm"].pretrain == by_pretraining["6 sigmoid"].override(*_first_trial("6 sigmoid"))
    assert rows["7 idfc, improved"].pretrain == by_pretraining["8 AM-softmax"].override(*_first_trial("8 AM-softmax"))


def test_choices_tell_how_they_were_made_whoever_hands_them_on(tmp_path):
    one = table(row("a", "temperature=0.1"))
    given = ["pretrain.loop.steps=50"]
    planned = resolve(one, size=Size.FULL, part=Part.VALIDATION, settings=given)
    write_choices(
        tmp_path / "first.json",
        planned=planned,
        choices=new_choices({"a": [Trial(("temperature=0.1",), 0.2)]}, planned=planned),
    )
    later = resolve(one, size=Size.FULL, part=Part.TEST, settings=[])
    read = read_choices(tmp_path / "first.json", planned=later)
    write_choices(tmp_path / "second.json", planned=later, choices=read)
    again = read_choices(tmp_path / "second.json", planned=later)
    assert again == read and again.made["given"] == given


@pytest.mark.parametrize("part", ["within-users", "by-time"])
def test_rows_of_the_recommendation_table_differ_in_model_and_loss_alone(part):
    made = find_tables("recommendation", part=part)[part]
    configs = {one.name: one.config() for one in made.rows}
    rows = {name: one for name, one in configs.items() if isinstance(one, RecallConfig)}
    decoders = {name: one for name, one in configs.items() if name not in rows}
    assert set(decoders) == {"generative", "random-id generative"}
    assert len({one.to_json() for one in decoders.values()}) == 1
    said, read = decoders["generative"].generative, rows["sasrec"].recall
    assert said.pages_of is PagesOf.CHOICES
    for name in ("batch_pages", "validations", "validation_k", "validation_queries"):
        assert getattr(said, name) == getattr(read, name)
    assert said.model.dim == 64
    about = {"model": "", "loss": "", "single_choices": "", "negative_power": "", "id_dropout_rate": ""}
    trees = [{**one.recall.dump(), **about} for one in rows.values()]
    assert all(tree == trees[0] for tree in trees)
    assert {one.recall.model.dim for one in rows.values()} == {64}
    assert {one.recall.pages_of for one in rows.values()} == {PagesOf.CHOICES}
    by_bpr = {"bpr-mf", "vbpr", "lightgcn"}
    assert {name for name, one in rows.items() if one.recall.loss is Loss.BPR} == by_bpr
    of_ids = {name for name, one in rows.items() if one.recall.id_dropout_rate == 0}
    assert of_ids == by_bpr | {"mf, softmax", "lightgcn, softmax"}
    assert {len({trial[0].partition("=")[2] for trial in one.trials}) for one in made.rows} == {3}, "rates"
    assert {len({trial[1].partition("=")[2] for trial in one.trials}) for one in made.rows} == {2}, (
        "and what is its own"
    )
    assert len({one.pretrain.to_json() for one in configs.values() if one.pretrain is not None}) == 1
    assert len(made.item_knn) == len(made.rows[0].trials)
    by = {"within-users": SplitBy.USER, "by-time": SplitBy.FRACTION}[part]
    assert resolve(made, size=Size.FULL, part=Part.TEST, settings=[]).run.split.by is by


@pytest.mark.parametrize("part", ["movielens", "fashion", "baby"])
def test_rows_of_em3s_public_table_differ_in_the_model_alone(part):
    made = find_tables("em3-public", part=part)[part]
    configs = {one.name: one.config() for one in made.rows}
    trees = [{**one.recall.dump(), "model": ""} for one in configs.values()]
    assert all(tree == trees[0] for tree in trees)
    assert {one.recall.model.dim for one in configs.values()} == {64}
    assert len({one.pretrain.to_json() for one in configs.values() if one.pretrain is not None}) == (part != "baby")
    models = [one.recall.model for name, one in configs.items() if name not in ("bpr-mf", "vbpr")]  # rows by Adagrad
    assert {one.id_rate_factor for one in models} == {1.0}
    assert len(made.item_knn) == len(made.rows[0].trials)
    planned = resolve(made, size=Size.FULL, part=Part.TEST, settings=[])
    assert (planned.run.split.by, planned.evaluation.history) == (SplitBy.GIVEN, HistoryFrom.TRAIN)
    assert planned.evaluation.ks == (5, 10, 20, 50)
    if part != "baby":
        assert configs["vbpr"].content == configs["em3"].modalities == configs["lattice"].modalities
        one, control = configs["em3"], configs["permuted-content em3"]
        assert one == control and configs["freedom"] == configs["permuted-content freedom"]
        assert one.recall.model.modality_weights == configs["freedom"].recall.model.modality_weights


@pytest.mark.parametrize("part", ["movielens", "movielens-by-time", "fashion"])
def test_rows_of_em3s_table_differ_in_model_and_content_alone(part):
    made = find_tables("em3", part=part)[part]
    configs = {one.name: one.config() for one in made.rows}
    matched = {name: configs.pop(name) for name in ("din, match", "din, em3 match") if name in configs}
    assert bool(matched) == (part == "fashion")  # ratings have no queries
    for name, one in matched.items():
        without = configs[name.removesuffix(" match").removesuffix(",")].ranker
        assert one.ranker.reads_match and one.ranker == without.merged({"reads_match": True})
        assert one.pretrain == configs["din, em3"].pretrain
    full, kept = configs["din, em3 full"].ranker.content, configs["din, em3 kept"].ranker.content
    assert full.trains_encoder and full == kept.merged({"train": "full"})
    shorter = configs.pop("din, em3 ten choices").ranker
    assert shorter == configs["din, em3"].ranker.merged({"model": {"history_items": 10}})
    trees = [{**one.ranker.dump(), "model": "", "content": ""} for one in configs.values()]
    assert all(tree == trees[0] for tree in trees)
    for name, one in configs.items():
        first = name.removeprefix("permuted-content ").split(",")[0]
        assert one.ranker.model == configs[first].ranker.model
        assert one.ranker.content.reads_modalities == (one.pretrain is not None) == ("," in name)
    assert len({one.pretrain.to_json() for one in configs.values() if one.pretrain is not None}) == 1
    about_modalities = {"din, em3 title", "din, em3 photo", "din, frozen item"}
    for claim in made.claims:
        read = {
            (configs[name].modalities, configs[name].ranker.content.dump().get("dim", 64))  # SimTier has no vectors
            for name in claim.rows
            if name in configs and configs[name].modalities
        }
        assert len(read) <= 1 or set(claim.rows) & about_modalities, claim.claim
    assert configs["din, em3"].modalities == ("title", "photo", "item")
    tried = {one.name: one.trials for one in made.rows}
    assert all(len({tried[name] for name in claim.rows}) == 1 for claim in made.claims)  # what is compared is alike
    assert {name for name, one in tried.items() if one != tried["din"]} == {"din, em3 full", "din, em3 kept"}
    with pytest.raises(ConfigError, match=r"ranker\.learning_rate=0\.01 would have no effect"):
        resolve(made, size=Size.FULL, part=Part.TEST, settings=["ranker.learning_rate=0.01"])
    planned = resolve(made, size=Size.QUICK, part=Part.TEST, settings=["ranker.epochs=2"])
    assert {plans[0].config.ranker.epochs for plans in planned.plans.values()} == {2}


@pytest.mark.parametrize(
    ("config", "tree", "message"),
    [
        (RankerConfig, {"ranker": {"content": {"kind": "frozen"}}}, "reads vectors of items: set pretrain"),
        (RankerConfig, {"modalities": ["item"]}, "reads no vectors of items: remove"),
        (RecallConfig, {"modalities": ["title"], "recall": {"model": {"kind": "lightgcn"}}}, "have no effect"),
        (RecallConfig, {"content": ["title"], "recall": {"model": {"kind": "lightgcn"}}}, "content has no effect"),
        (
            RecallConfig,
            {"content": ["title"], "pretrain": {"kind": "contrastive"}, "recall": {}},
            "one that reads queries",
        ),
    ],
)
def test_content_that_nobody_reads_is_refused(config, tree, message):
    with pytest.raises(ConfigError, match=message):
        config.parse(tree)


def _first_trial(name: str) -> tuple[str, ...]:
    return next(one.trials[0] for one in TABLES["taobao-pretraining"]().rows if one.name == name)


def test_settings_reach_the_encoder_and_the_model_of_a_recall_row():
    made = TABLES["taobao-recall"]()
    settings = ["pretrain.loop.steps=7", "recall.batch_pages=9"]
    planned = resolve(made, size=Size.QUICK, part=Part.VALIDATION, settings=settings)
    configs = {name: plans[0].config for name, plans in planned.plans.items()}
    assert {one.pretrain.loop.steps for one in configs.values() if one.pretrain is not None} == {7}
    assert {one.recall.batch_pages for one in configs.values()} == {9}
    with pytest.raises(ConfigError, match="recall.learning_rate=0.1 would have no effect: row '1 mm' is tried with"):
        resolve(made, size=Size.QUICK, part=Part.VALIDATION, settings=["recall.learning_rate=0.1"])
    with pytest.raises(ConfigError, match="what a row learns is what the row is"):
        resolve(made, size=Size.QUICK, part=Part.VALIDATION, settings=["recall.model.fusion=id"])
    for setting in ("recall.against=full", "recall.hard_mixes=3"):
        with pytest.raises(ConfigError, match=f"{setting}: rows of this table differ in"):
            resolve(made, size=Size.FULL, part=Part.VALIDATION, settings=[setting])
    assert resolve(made, size=Size.QUICK, part=Part.VALIDATION, settings=["recall.hard_mixes=3"])
    assert resolve(made, size=Size.FULL, part=Part.VALIDATION, settings=["recall.pages_rate=0.3"])


def test_rows_of_the_taobao_table_differ_by_one_step_of_the_argument():
    rows = {one.name: one.config().dump() for one in TABLES["taobao-pretraining"]().rows}

    def tasks(name: str) -> list[dict]:
        return [{k: v for k, v in task.items() if k not in TUNED} for task in rows[name]["stages"][0]["tasks"]]

    contrast, *rest = tasks("6 sigmoid")
    assert [task["kind"] for task in rest] == ["masked_words"] * 2 + ["masked_patches"] + ["matching"] * 2
    for name, loss in (("7 softmax", "softmax"), ("8 AM-softmax", "am-softmax")):
        assert tasks(name) == [{**contrast, "loss": loss}, *rest]
    moved = [
        {**task, "at": "cross"} if task.get("of") == "title" or task["kind"] == "masked_patches" else task
        for task in rest
    ]
    assert tasks("4 masks on top") == [contrast, *moved]
    assert tasks("5 no L2") == tasks("6 sigmoid")
    assert [rows[name]["encoder"]["normalize"] for name in ("5 no L2", "6 sigmoid")] == [False, True]
    one = tasks("3 one tower")
    assert one == [{**contrast, "loss": "softmax"}, *tasks("3 no QIC")]
    assert {str({**task, "at": ""}) for task in one} == {str({**task, "at": ""}) for task in tasks("7 softmax")}
    assert tasks("1 padded mean") == tasks("3 [CLS]") == one
    assert tasks("2 no QIM2") == [task for task in one if task.get("pair") != "query-photo"]
    assert tasks("7 [CLS]") == tasks("7 softmax")
    exports = {name: tree["encoder"]["export"] for name, tree in rows.items()}
    assert exports["1 padded mean"] == "mean-with-padding"
    assert exports["3 [CLS]"] == "cls"
    assert exports["3 one tower"] == exports["2 no QIM2"] == exports["3 no QIC"] == "mean"
    assert exports["7 [CLS]"] == "projected"
    assert {exports[name] for name in rows if name[0] in "45678" and name != "7 [CLS]"} == {"projected-mean"}
    assert {tree["crossing"] for name, tree in rows.items() if name[0] in "123"} == {"single-stream"}


@pytest.mark.parametrize("one", TABLES["taobao-pretraining"]().rows, ids=lambda row: row.name)
def test_no_row_exports_through_a_map_that_nothing_trains(one: Row):
    """A map as it was drawn answers by chance, whatever the tower has learned: such a row would say nothing."""
    tree = one.config().dump()
    kinds = {task["kind"] for stage in tree["stages"] for task in stage["tasks"]}
    assert "contrast" in kinds or not tree["encoder"]["export"].startswith("projected")


TUNED = ("temperature", "margin", "bias", "scalar_rate")


def test_staged_rows_end_and_start_alike():
    rows = {one.name: one for one in TABLES["smgr --part pretraining"]().rows}
    stages = {name: one.config().dump()["stages"] for name, one in rows.items()}
    assert stages["joint-then-last"][-1] == stages["o1"][-1]
    assert [{**stage, "train": None} for stage in stages["o1"]] == stages["o1-open"]
    assert stages["o1-cold"] == stages["o1-one-schedule"] == stages["permuted-photo o1"] == stages["o1"]
    for other in ("o2", "o3", "o4", "o1-cumulative"):
        assert sorted(stage["name"] for stage in stages[other]) == sorted(stage["name"] for stage in stages["o1"])
    assert [stage["name"] for stage in stages["o1-cumulative"]] == [stage["name"] for stage in stages["o1"]]
    assert stages["o1 as long"] == stages["o1"] == stages["o1-few"]
    assert (stages["joint-few"], stages["o5-few"]) == (stages["joint"], stages["o5"])
    assert stages["o5-cold"] == stages["o5"]
    warm = {name for name, one in rows.items() if one.start is not None}
    assert set(rows) - warm == {"joint-cold", "o1-cold", "o5-cold"}
    starts = {one.start().to_json() for one in rows.values() if one.start is not None}
    assert len(starts) == 1, "one warm start for all"


def test_one_tower_with_tasks_has_as_much_contrast_as_that_without():
    table = TABLES["smgr --part retrieval"]()
    towers = {row.name: row.config().recall for row in table.rows if row.name.startswith("tower ")}
    assert towers["tower sid, all sets"] == towers["tower sid"], "they differ in what is read"
    contrasted = {name: one.epochs - one.recall_model.first_epochs for name, one in towers.items()}
    assert contrasted["tower sid + tasks, longer"] == contrasted["tower sid"] == towers["tower sid + tasks"].epochs
    assert contrasted["tower sid + tasks"] < contrasted["tower sid"]
    longer, shorter = (towers[name].dump() for name in ("tower sid + tasks, longer", "tower sid + tasks"))
    assert {**longer, "epochs": None} == {**shorter, "epochs": None}


def test_smgr_as_a_whole_stands_on_the_encoders_that_stand_beside_it():
    """The same training by the same settings: each is made once, for a row of its own and for what is behind it."""
    planned = resolve(TABLES["smgr --part retrieval"](), size=Size.FULL, part=Part.VALIDATION, settings=[])
    encoders = {
        name: {(plan.config.to_json(), plan.start.to_json()) for plan in planned.plans[f"late fusion, {name}"]}
        for name in ("joint", "staged")
    }
    below = {"smgr": "staged", "smgr, joint": "joint", "smgr without ids": "staged", "smgr by photos": "staged"}
    for row, name in below.items():
        assert all((one.pretrain.to_json(), one.start.to_json()) in encoders[name] for one in planned.plans[row])
    assert not encoders["joint"] & encoders["staged"]
    models = {row: planned.plans[row][0].config for row in below}
    assert models["smgr"].recall == models["smgr, joint"].recall
    assert models["smgr by photos"].content == ("photo",) and models["smgr by photos"].semantic_ids is None
    assert models["smgr without ids"].recall.epochs == models["smgr"].recall.epochs


@pytest.mark.parametrize(
    "setting",
    [
        *("pretrain.stages=o1", "pretrain.kind=contrastive", "pretrain.stages.0.steps_rate=0.5"),
        "generative.model.asks=history",
    ],
)
def test_what_a_row_is_cannot_be_set(setting):
    with pytest.raises(ConfigError, match="what a row learns is what the row is. Leave it out."):
        resolve(TABLES["smgr --part pretraining"](), size=Size.QUICK, part=Part.VALIDATION, settings=[setting])


def test_the_folder_of_another_run_is_refused(tmp_path):
    RunFolder(tmp_path).start({"recipe": "demo"})
    before = sorted(path.read_bytes() for path in tmp_path.iterdir())
    made = TABLES["taobao-pretraining"]()
    with pytest.raises(
        ConfigError, match="holds a run of 'demo', not of 'reproduce taobao-pretraining'. Choose another"
    ):
        reproduce(made, out=tmp_path, base=tmp_path, size=Size.QUICK)
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == before
