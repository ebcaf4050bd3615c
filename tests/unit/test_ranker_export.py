"""Exported rankers against torch, over batches of every shape; and parts of two exports beside each other."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from planted_ranking import planted_log
from tiny_rankers import EM3, ITEMS, candidates, drawn, model_of, padded, warmed

onnx = pytest.importorskip("onnx", reason="exports need the 'export' extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="exports need the 'export' extra")
pytest.importorskip("onnxscript", reason="exports need the 'export' extra")

from triptych.data.schema import Part  # noqa: E402
from triptych.foundation.artifact import Artifact, produce  # noqa: E402
from triptych.foundation.errors import ArtifactError, ConfigError  # noqa: E402
from triptych.nn.bags import TableBags  # noqa: E402
from triptych.ranker.config import RankTrainConfig  # noqa: E402
from triptych.ranker.content.base import ContentModule  # noqa: E402
from triptych.ranker.export import CONTENT_GRAPH, RANKER_GRAPH, SIGNATURE_FILE, export_ranker, write_graphs  # noqa: E402
from triptych.ranker.exported import ExportedRanker, graph_inputs  # noqa: E402
from triptych.ranker.samples import read_samples  # noqa: E402
from triptych.ranker.scorer import Ranker  # noqa: E402
from triptych.ranker.task import Given, RankTask  # noqa: E402

TOKENS = {"image": 2, "text": 1}
FULL = {**EM3, "form": "full", "width": 8, "train": "lora", "rank": 2, "layers": 2, "queries": 2}
CONTENTS = {
    "none": "none",
    "frozen": "frozen",
    "simtier": "simtier",
    "em3": EM3,
    "em3 kept": {**EM3, "train_behaviours": "lora_cache"},
    "em3 full": FULL,
}
SIM = {"found_items": 2, "recent_items": 1}
CASES = [
    *(
        (kind, {}, content)
        for kind in ("din", "bst", "dcnv2", "mlp")
        for content in ("none", "frozen", "simtier", "em3")
    ),
    *(("sim", {"search": "category", **SIM}, content) for content in ("none", "simtier")),
    ("sim", {"search": "features", **SIM}, "em3"),
    ("sim", {"search": "content", **SIM}, "frozen"),
    ("mlp", {"history_items": 0}, "em3 full"),
    ("din", {"weights": "softmax", "activation": "dice"}, "em3 kept"),
]


def run(file, inputs):
    session = onnxruntime.InferenceSession(file)
    return session.run(None, {one.name: inputs[one.name] for one in session.get_inputs()})


def from_graphs(folder, model, given):
    """Ask the graphs as who serves them would: items once, then candidates."""
    vectors = {}
    if (folder / CONTENT_GRAPH).exists():
        inputs = {}
        for name, one in zip(model.sizes.modalities, given.items.content, strict=True):
            inputs |= {f"tokens.{name}": one.tokens.numpy(), f"is_there.{name}": one.keep.numpy()}
        names = model.content.item_side().names
        vectors = dict(zip(names, run(folder / CONTENT_GRAPH, inputs), strict=True))
    sizes = model.sizes
    inputs = graph_inputs(given, item_lists=sizes.item_lists, request_lists=sizes.request_lists, vectors=vectors)
    return run(folder / RANKER_GRAPH, inputs)[0]


def one_of_each(given):
    """One candidate of one request with one step, and lists without a value."""
    requests, nothing = given.requests, TableBags.of(np.full((1, 1), -1))
    first = {name: getattr(requests, name)[1:2, :1] for name in ("steps", "gaps", "kinds")}
    return given._replace(
        requests=requests._replace(fields=requests.fields[1:2], lists=(nothing,), **first),
        request=torch.zeros(1, dtype=torch.int64),
        target=given.target[:1],
        numbers=given.numbers[:1],
    )


def without_histories(given):
    return given._replace(requests=given.requests._replace(steps=torch.full_like(given.requests.steps, -1)))


def many(given, *, longest, count=300):
    """Many candidates with long histories."""
    generator = drawn(7)
    steps = torch.randint(0, ITEMS, (3, longest), generator=generator)
    steps[torch.arange(longest) >= torch.tensor([longest, longest // 2, 0])[:, None]] = -1
    rows = torch.randint(1, 3, (2, 3, longest), generator=generator)
    request = torch.sort(torch.randint(0, 3, (count,), generator=generator)).values
    return given._replace(
        requests=given.requests._replace(steps=steps, gaps=rows[0] * (steps >= 0), kinds=rows[1] * (steps >= 0)),
        request=request,
        target=torch.randint(0, ITEMS, (count,), generator=generator),
        numbers=torch.rand(count, 2, generator=generator),
    )


@pytest.mark.parametrize(("kind", "settings", "content"), CASES, ids=str)
def test_a_graph_says_what_torch_says(tmp_path, kind, settings, content):
    model = warmed(model_of(kind, CONTENTS[content], **settings))
    described = write_graphs(model, tokens=TOKENS, folder=tmp_path, ranker_id="abc")
    given = candidates(content=content != "none")
    batches = [given, padded(given), one_of_each(given), without_histories(given), many(given, longest=60)]
    for batch in batches:
        with torch.no_grad():
            expected = model(batch).logits.numpy()
        np.testing.assert_allclose(from_graphs(tmp_path, model, batch), expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(expected)) > 10
    for name, graph in described.items():
        for side, told in (("inputs", graph["inputs"]), ("outputs", graph["outputs"])):
            session = onnxruntime.InferenceSession(tmp_path / name)
            found = session.get_inputs() if side == "inputs" else session.get_outputs()
            assert [(one.name, one.shape) for one in found] == [(one["name"], one["shape"]) for one in told]
            types = {"int64": "tensor(int64)", "float32": "tensor(float)", "bool": "tensor(bool)"}
            assert [one.type for one in found] == [types[one["dtype"]] for one in told]
    reads = {one["name"] for one in described[RANKER_GRAPH]["inputs"]}
    assert ("steps" in reads) == (settings.get("history_items") != 0)
    assert ("gaps" in reads) == (kind in ("din", "sim", "bst"))


@pytest.mark.parametrize("form", [{}, {"form": "full", "width": 8, "layers": 2}], ids=["as_published", "full"])
def test_low_rank_factors_are_added_in(tmp_path, form):
    """A branch with factors has the products of one without, and a map of kept vectors none of its own."""
    products = {}
    for name, modes in {
        "one": {"train": "adapter", "train_behaviours": "adapter"},
        "lora": {"train": "adapter", "train_behaviours": "lora"},
        "kept": {"train": "lora", "train_behaviours": "lora_cache"},
        "shared": {"train": "lora", "train_behaviours": "cache"},
    }.items():
        (tmp_path / name).mkdir()
        model = warmed(model_of("mlp", {**EM3, **form, **modes}))
        write_graphs(model, tokens=TOKENS, folder=tmp_path / name, ranker_id="abc")
        graph = onnx.load(tmp_path / name / CONTENT_GRAPH).graph
        counts = Counter(node.op_type for node in graph.node)
        products[name] = counts["MatMul"] + counts["Gemm"] + counts["FusedMatMul"]
        request_time = onnx.load(tmp_path / name / RANKER_GRAPH).graph
        weights = {one.name for one in (*graph.initializer, *request_time.initializer)}
        assert weights and not [one for one in weights if "factors" in one or "cache" in one or "contrast" in one]
    assert products["one"] == products["shared"]
    assert products["lora"] == products["kept"] == 2 * products["one"]


MODALITIES = {"photo": 5, "title": 3}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return planted_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def modalities(log):
    generator = drawn(3)
    found = {
        name: torch.randn(log.catalogue.num_items, dim, generator=generator).numpy() for name, dim in MODALITIES.items()
    }
    found["photo"][2] = np.nan
    return found


def stored(log, modalities, out, *, seed=0):
    """A ranker with content as `train.run` leaves it, but with weights that nobody has trained."""
    content = {**EM3, "dim": 8}
    config = RankTrainConfig.parse({"model": {"kind": "din", "dim": 4, "hidden_dims": [8]}, "content": content})
    task = RankTask(config, Given(log.catalogue, log.split, seed=seed, modalities=modalities))
    warmed(task.module)

    def build(folder):
        task.save(folder)
        return {}

    inputs = {"catalogue": log.catalogue.artifact, "split": log.split.artifact, "encoder": "0123456789abcdef"}
    return produce(out, kind="ranker", config={"ranker": config.dump(), "seed": seed}, inputs=inputs, build=build)


@pytest.fixture(scope="module")
def rankers(log, modalities, tmp_path_factory):
    """Two rankers of one shop, and their exports."""
    out = tmp_path_factory.mktemp("rankers")
    found = []
    for seed in range(2):
        artifact = stored(log, modalities, out / "ranker", seed=seed)
        ranker = Ranker.load(artifact, catalogue=log.catalogue, modalities=modalities)
        exported = export_ranker(ranker, artifact=artifact, catalogue=log.catalogue, out=out / "exported_ranker")
        found.append((ranker, artifact, exported))
    return found


def test_an_export_answers_as_its_ranker_does(log, modalities, rankers):
    ranker, artifact, exported = rankers[0]
    assert exported.inputs["ranker"] == artifact.id and exported.inputs["encoder"] == "0123456789abcdef"
    found = ExportedRanker.load(exported, catalogue=log.catalogue)
    samples = read_samples(log.catalogue, places=log.split.part(Part.VALIDATION))
    expected = ranker.score_samples(samples)
    np.testing.assert_allclose(found.score_samples(samples), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01
    asked = {
        "user": "u1",
        "query": "something nice",
        "cell": None,
        "time_us": int(log.catalogue.event_array("time")[-1]),
    }
    rows = np.arange(log.catalogue.num_items)
    by_torch, by_graph = (
        one.score(one.features.of_words(**asked, past=None), item_rows=rows) for one in (ranker, found)
    )
    np.testing.assert_allclose(by_graph, by_torch, rtol=1e-5, atol=1e-5)
    found_signature = json.loads(exported.file(SIGNATURE_FILE).read_text())
    assert found_signature["made_from"] == exported.inputs
    assert found_signature["graphs"][RANKER_GRAPH]["inputs"][0]["columns"] == ["item", "category"]


def test_new_items_are_worked_out_by_the_graph(log, modalities, rankers):
    ranker, _, exported = rankers[0]
    found = ExportedRanker.load(exported, catalogue=log.catalogue)
    more = {name: vectors[[4, 2]] * (1 if name == "photo" else 2) for name, vectors in modalities.items()}
    items = log.catalogue.items[[4, 2]].with_columns(item_id=pl.Series(["new-1", "new-2"]))
    by_torch, by_graph = (one.with_items(items, modalities=more) for one in (ranker, found))
    rows = np.array([0, log.catalogue.num_items, log.catalogue.num_items + 1])
    expected, given = (
        one.score(
            one.features.of_words(user=None, query=None, cell=None, time_us=0, past=None),
            item_rows=rows,
        )
        for one in (by_torch, by_graph)
    )
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(expected)) == 3
    with pytest.raises(ConfigError, match=r"exported with photo \[1, 5\], title \[1, 3\], and is given photo \[1, 5\]"):
        found.content_vectors({"photo": more["photo"]})


@pytest.mark.parametrize("name", [RANKER_GRAPH, "content_vectors.safetensors", CONTENT_GRAPH, SIGNATURE_FILE])
def test_parts_of_two_exports_are_refused(tmp_path, log, modalities, rankers, name):
    (_, first, one), (_, second, other) = rankers
    mixed = tmp_path / one.id
    shutil.copytree(one.path, mixed)
    shutil.copy(other.path / name, mixed / name)
    with pytest.raises(
        ArtifactError, match=f"made from ranker {first.id}, and its file '{name}' from ranker {second.id}"
    ):
        ExportedRanker.load(Artifact.open(mixed), catalogue=log.catalogue).content_vectors(modalities)


def test_an_export_is_of_one_catalogue_and_encoder(tmp_path, log, rankers):
    (_, _, exported), *_ = rankers
    other = produce(tmp_path, kind="encoder", config={}, inputs={}, build=lambda folder: {})
    with pytest.raises(ArtifactError, match=f"from encoder 0123456789abcdef, but is used with encoder {other.id}"):
        ExportedRanker.load(exported, catalogue=log.catalogue, beside={"encoder": other})
    catalogue = planted_log(tmp_path / "log", tells_category=False).catalogue
    with pytest.raises(ArtifactError, match="from catalogue"):
        ExportedRanker.load(exported, catalogue=catalogue)
    with pytest.raises(ArtifactError, match="is a 'ranker', not a 'exported_ranker'"):
        ExportedRanker.load(rankers[0][1], catalogue=log.catalogue)


def test_a_plug_in_that_is_of_one_piece_says_so(tmp_path):
    model = warmed(model_of("din", "frozen"))

    class OfOnePiece(ContentModule):
        dim, pair_dim = model.content.dim, 0
        forward = type(model.content).forward

    model.content = OfOnePiece()
    with pytest.raises(ConfigError, match="OfOnePiece does not say what of an item is worked out before a request"):
        write_graphs(model, tokens=TOKENS, folder=tmp_path, ranker_id="abc")
