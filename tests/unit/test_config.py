"""Config and registry: precedence, messages, and the three traps of trees with a `kind`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig
from triptych.foundation.config import Config, describe, elsewhere
from triptych.foundation.errors import ConfigError, did_you_mean
from triptych.foundation.registry import config_class, kinds, one_of
from triptych.recipes.config import RunConfig
from triptych.recipes.shop import shop

PACKAGE = "toy_losses"


@pytest.fixture(scope="module", autouse=True)
def toy_registry(tmp_path_factory: pytest.TempPathFactory):
    """A registry folder with two kinds, and one whose library is not installed."""
    root = tmp_path_factory.mktemp("registry")
    folder = root / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text(
        "from triptych.foundation.config import Config\nclass LossConfig(Config):\n    kind: str\n"
    )
    head = "from typing import Literal\nfrom pydantic import Field\nfrom toy_losses.base import LossConfig\n"
    (folder / "softmax.py").write_text(
        head + "class C(LossConfig):\n    kind: Literal['softmax'] = 'softmax'\n"
        "    temperature: float = Field(0.05, gt=0)\n    '''Dimensionless.'''\nCONFIG = C\n"
    )
    (folder / "sigmoid.py").write_text(
        head + "class C(LossConfig):\n    kind: Literal['sigmoid'] = 'sigmoid'\n    bias: float = -10.0\nCONFIG = C\n"
    )
    (folder / "exotic.py").write_text("import a_library_nobody_has\n")
    sys.path.insert(0, str(root))
    yield
    sys.path.remove(str(root))
    for name in [n for n in sys.modules if n.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def recipe() -> Config:
    loss_config = config_class(PACKAGE, "softmax")

    class Training(Config):
        steps: int = Field(100, gt=0)
        """Optimiser steps."""
        loss: Annotated[Config, one_of(PACKAGE)] = loss_config()
        """What is minimised."""

    class Run(Config):
        name: str = "run"
        training: Training = Training()

    return Run()


def test_dump_keeps_the_fields_that_only_the_chosen_kind_has():
    assert recipe().dump()["training"]["loss"] == {"kind": "softmax", "temperature": 0.05}


def test_round_trip_through_a_file_is_exact(tmp_path: Path):
    config = recipe().override("training.loss.kind=sigmoid", "training.loss.bias=-3", "training.steps=7")
    path = tmp_path / "saved.json"
    path.write_text(config.to_json())
    assert type(config).load(path) == config
    assert json.loads(config.to_json())["training"]["loss"] == {"kind": "sigmoid", "bias": -3.0}


def test_an_override_keeps_what_it_does_not_name():
    config = recipe().override("training.loss.temperature=0.1")
    assert config.dump()["training"] == {"steps": 100, "loss": {"kind": "softmax", "temperature": 0.1}}


def test_a_new_kind_drops_the_fields_of_the_old_one():
    config = recipe().override("training.loss.kind=sigmoid")
    with pytest.raises(ConfigError, match="training.loss.temperature"):  # what the new kind has not, said beside it
        recipe().override("training.loss.temperature=0.1", "training.loss.kind=sigmoid")
    assert config.dump()["training"]["loss"] == {"kind": "sigmoid", "bias": -10.0}
    merged = recipe().merged({"training": {"loss": {"kind": "sigmoid"}}})
    assert merged.dump()["training"]["loss"] == {"kind": "sigmoid", "bias": -10.0}


def test_a_file_is_laid_over_the_recipe_key_by_key():
    merged = recipe().merged({"training": {"loss": {"temperature": 0.2}}})
    assert merged.dump() == {"name": "run", "training": {"steps": 100, "loss": {"kind": "softmax", "temperature": 0.2}}}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.stepz=5", r"^training\.stepz: there is no such setting\. Did you mean 'steps'\?$"),
        ("training.zzz=5", r"^training\.zzz: there is no such setting\. Valid names: steps, loss\.$"),
        ("training.steps=0", r"^training\.steps: Input should be greater than 0 \(got 0\)\.$"),
        ("training.steps=many", r"^training\.steps: Input should be a valid integer.*\(got 'many'\)\.$"),
        ("training.loss.kind=sigmod", r"^training\.loss\.kind: unknown kind 'sigmod'\. Did you mean 'sigmoid'\?"),
        ("training.loss.temprature=1", r"^training\.loss\.temprature: there is no such setting.*'temperature'"),
        ("training.loss.temperature=-1", r"^training\.loss\.temperature: Input should be greater than 0 \(got -1\)\.$"),
        ("training.steps.x=1", r"'training\.steps' is a value \(100\), not a section"),
        ("training.steps", r"expected path=value"),
    ],
)
def test_a_mistake_gets_its_path_and_the_nearest_name(setting: str, message: str):
    with pytest.raises(ConfigError, match=message):
        recipe().override(setting)


def test_every_mistake_of_a_file_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        recipe().merged({"nam": "x", "training": {"steps": -1}})
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_kind_and_a_missing_file_are_sentences(tmp_path: Path):
    class Run(Config):
        loss: Annotated[Config, one_of(PACKAGE)]

    with pytest.raises(ConfigError, match="'kind' is missing. Available: exotic, sigmoid, softmax"):
        Run.parse({"loss": {"temperature": 1}})
    (tmp_path / "shop.toml").write_text("a = ")
    with pytest.raises(ConfigError, match=r"shop\.toml' is not valid TOML"):
        Run.load(tmp_path / "shop.toml")
    with pytest.raises(ConfigError, match=r"does not exist\. Did you mean 'shop.toml'"):
        Run.load(tmp_path / "shp.toml")


def test_kinds_are_listed_without_importing_them():
    assert kinds(PACKAGE) == ["exotic", "sigmoid", "softmax"]
    assert f"{PACKAGE}.exotic" not in sys.modules


def test_a_third_party_kind_is_the_path_of_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = """
from typing import Literal
from triptych.foundation.config import Config

class MyConfig(Config):
    kind: Literal["KIND"] = "KIND"
    bias: float = -10.0

CONFIG = MyConfig
"""
    for name, kind in (("shopkit_rightly", "shopkit_rightly.own"), ("shopkit_wrongly", "own")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text(written.replace("KIND", kind))
    monkeypatch.syspath_prepend(tmp_path)

    class Run(Config):
        loss: Annotated[Config, one_of(PACKAGE)]

    made = Run.parse({"loss": {"kind": "shopkit_rightly.own", "bias": 2.0}})
    assert made.dump() == {"loss": {"kind": "shopkit_rightly.own", "bias": 2.0}}
    assert Run.parse(made.dump()) == made
    with pytest.raises(ConfigError, match=r"of kind 'own'; .* write kind: Literal\['shopkit_wrongly.own'\]"):
        Run.parse({"loss": "shopkit_wrongly.own"})
    with pytest.raises(ConfigError, match="cannot import 'no_such.module'"):
        config_class(PACKAGE, "no_such.module")


def test_describe_names_every_leaf_with_default_range_and_meaning():
    rows = {row.path: row for row in describe(recipe())}
    assert list(rows) == ["name", "training.steps", "training.loss.kind", "training.loss.temperature"]
    assert rows["training.steps"].default == "100"
    assert rows["training.steps"].limits == "> 0"
    assert rows["training.steps"].meaning == "Optimiser steps."


def test_describe_enters_a_section_that_is_left_out_and_lists_the_kinds_of_a_choice():
    class Table(Config):
        path: str
        """Where it is."""
        rows: int = Field(7, gt=0)
        names: tuple[str, ...] = ("a", "b")

    class Run(Config):
        table: Table | None = None
        """A table of yours."""
        loss: Annotated[Config | None, one_of(PACKAGE)] = None
        sizes: dict[str, Literal[1]] = Field({})

    rows = {row.path: row for row in describe(Run())}
    assert list(rows) == ["table", "table.path", "table.rows", "table.names", "loss", "sizes"]
    assert [row.default for row in rows.values()] == ["null", "required", "7", '["a", "b"]', "null", "{}"]
    assert (rows["table"].type, rows["table"].meaning) == ("section | None", "A table of yours.")
    assert (rows["table.path"].meaning, rows["table.rows"].limits) == ("Where it is.", "> 0")
    assert rows["loss"].type == "exotic | sigmoid | softmax | None"
    assert rows["sizes"].type == "dict[str, Literal[1]]"
    given = {row.path: row.default for row in describe(Run.parse({"table": {"path": "x"}, "loss": "sigmoid"}))}
    assert given["table.path"] == '"x"'
    assert given["loss.bias"] == "-10.0"
    assert not {"table", "loss"} & set(given)


def test_every_setting_that_the_users_tables_have_is_listed():
    rows = {row.path: row for row in describe(shop())}
    for section, config in (("items", ItemsConfig), ("events", EventsConfig), ("judgements", JudgementsConfig)):
        assert [path for path in rows if path.startswith(f"{section}.")] == [
            f"{section}.{n}" for n in config.model_fields
        ]
        assert rows[f"{section}.path"].default == "required"
    assert rows["dataset"].type == " | ".join([*kinds("triptych.data.datasets"), "None"])
    assert all(row.meaning for row in rows.values() if not row.path.endswith(".kind"))


def test_configs_are_frozen_and_literal_kinds_hold():
    class One(Config):
        kind: Literal["one"] = "one"

    with pytest.raises(Exception, match="frozen"):
        One().kind = "two"


def test_did_you_mean_ignores_case_and_stays_silent_when_nothing_is_near():
    assert did_you_mean("sku", ["SKU", "title"]) == " Did you mean 'SKU'?"
    assert did_you_mean("xyz", ["title"]) == ""


def test_a_kind_is_set_before_all_else_wherever_it_stands():
    """A new kind drops the old one's fields, but not what the same command says of the new one."""
    settings = (
        "pretrain.loop.steps=60",
        "pretrain.stages=o1",
        "pretrain.encoder.dim=64",
        "pretrain.encoder.kind=late_fusion",
        "pretrain.kind=multitask",
    )
    found = [RunConfig().override(*order) for order in (settings, settings[::-1])]
    assert found[0] == found[1]
    learned = found[0].dump()["pretrain"]
    assert (learned["kind"], learned["encoder"]["kind"]) == ("multitask", "late_fusion")
    assert (learned["loop"]["steps"], learned["encoder"]["dim"], len(learned["stages"])) == (60, 64, 4)


def test_a_setting_reaches_into_a_list():
    config = RunConfig().override("pretrain.kind=multitask", 'pretrain.stages=[{"name": "a", "tasks": ["contrast"]}]')
    changed = config.override("pretrain.stages.0.tasks.0.temperature=0.3", "pretrain.stages.0.name=b")
    (stage,) = changed.dump()["pretrain"]["stages"]
    assert (stage["name"], stage["tasks"][0]["temperature"]) == ("b", 0.3)
    with pytest.raises(ConfigError, match="'1' is no place in a list of 1; they count from 0"):
        config.override("pretrain.stages.1.name=b")


def test_describe_enters_lists_of_sections():
    config = RunConfig().override("pretrain.kind=multitask", "pretrain.encoder.kind=late_fusion", "pretrain.stages=o1")
    rows = {row.path: row for row in describe(config)}
    assert (rows["pretrain.stages"].type, rows["pretrain.stages"].default) == ("list of sections", "4 of them")
    assert rows["pretrain.stages.N.steps_rate"].limits == "> 0, ≤ 1"
    assert rows["pretrain.stages.N.data"].type == "clicks | items"
    assert "contrast" in rows["pretrain.stages.N.tasks"].type and "Annotated" not in rows["beside"].type


def test_a_kind_that_is_set_lists_the_others_and_their_fields_are_found():
    """Also those of a section that is left out, by the kind that it would have."""

    class Inner(Config):
        loss: Annotated[Config, one_of(PACKAGE)] = config_class(PACKAGE, "softmax")()

    class Run(Config):
        loss: Annotated[Config | None, one_of(PACKAGE)] = None
        inner: Inner | None = None

    rows = {row.path: row for row in describe(Run())}
    assert rows["inner.loss.kind"].type == "exotic | sigmoid | softmax"
    assert rows["inner.loss.kind"].default == '"softmax"'
    assert [tuple(one) for one in elsewhere(Run(), match="bias")] == [
        ("loss.bias", "loss", "sigmoid"),
        ("inner.loss.bias", "inner.loss", "sigmoid"),
    ]
    assert [tuple(one) for one in elsewhere(Run(), match="sigm")] == [
        ("loss", "loss", "sigmoid"),
        ("inner.loss", "inner.loss", "sigmoid"),
    ]
    chosen = Run.parse({"loss": "sigmoid", "inner": {}})
    assert [one.place for one in elsewhere(chosen, match="bias")] == ["inner.loss"]
    assert list(elsewhere(chosen, match="nothing of the kind")) == []
