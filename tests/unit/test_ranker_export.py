"""Exported rankers against torch, over batches of every shape; and parts of two exports beside each other."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from planted_ranking import planted_log, planted_photo_log
from tiny_rankers import CODES, EM3, ITEMS, candidates, drawn, model_of, padded, warmed

from triptych.data.schema import Part
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.nn.bags import TableBags
from triptych.nn.query_former import ModalityTokens
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.content.base import ContentModule
from triptych.ranker.export import (
    CONTENT_GRAPH,
    RANKER_GRAPH,
    SIGNATURE_FILE,
    export_ranker,
    write_content_graph,
    write_ranker_graph,
)
from triptych.ranker.exported import ExportedRanker, graph_inputs
from triptych.ranker.samples import read_samples
from triptych.ranker.scorer import Ranker
from triptych.ranker.task import Given, RankTask

onnx = pytest.importorskip("onnx", reason="exports need the 'export' extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="exports need the 'export' extra")
pytest.importorskip("onnxscript", reason="exports need the 'export' extra")

TOKENS = {"image": 2, "text": 1}
FULL = {**EM3, "form": "full", "width": 8, "train": "lora", "rank": 2, "layers": 2, "queries": 2}
CONTENTS = {
    "none": "none",
    "frozen": "frozen",
    "simtier": "simtier",
    "semantic ids": CODES,
    "em3": EM3,
    "em3 kept": {**EM3, "train_behaviours": "lora_cache"},
    "em3 full": FULL,
}
SIM = {"found_items": 2, "recent_items": 1}
CASES = [  # an export takes seconds: each ranker, each content and each setting once, not each with each
    ("din", {}, "em3"),
    ("din", {"weights": "softmax", "activation": "dice"}, "em3 kept"),
    ("bst", {}, "simtier"),
    ("dcnv2", {}, "frozen"),
    ("dcnv2", {}, "semantic ids"),
    ("mlp", {}, "none"),
    ("mlp", {"history_items": 0}, "em3 full"),
    ("sim", {"search": "category", **SIM}, "none"),
    ("sim", {"search": "features", **SIM}, "em3"),
    ("sim", {"search": "content", **SIM}, "frozen"),
]


def run(file, inputs):
    """Ask a graph for all that it gives."""
    session = onnxruntime.InferenceSession(file)
    return session.run(None, {one.name: inputs[one.name] for one in session.get_inputs()})


def agrees(file, told):
    """Whether a graph's inputs and outputs are those that it is said to have."""
    types = {"int64": "tensor(int64)", "float32": "tensor(float)", "bool": "tensor(bool)"}
    session = onnxruntime.InferenceSession(file)
    found = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    return {side: [(one.name, one.shape, one.type) for one in ports] for side, ports in found.items()} == {
        side: [(one["name"], one["shape"], types[one["dtype"]]) for one in ports] for side, ports in told.items()
    }


def worked_out(model, given):
    """The content vectors of some items, by torch."""
    side = model.content.item_side()
    with torch.no_grad():
        return {} if side is None else dict(zip(side.names, side(given.items.content), strict=True))


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
    """Many candidates with long histories; no item twice in one of up to all items."""
    generator = drawn(7)
    draws = -(-longest // ITEMS)
    every = [[torch.randperm(ITEMS, generator=generator) for _ in range(draws)] for _ in range(3)]
    steps = torch.stack([torch.cat(own)[:longest] for own in every])
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
    model, file = warmed(model_of(kind, CONTENTS[content], **settings)), tmp_path / RANKER_GRAPH
    given = candidates(content=content != "none", codes=content == "semantic ids")
    vectors = worked_out(model, given)
    dims = {name: one.shape[1] for name, one in vectors.items()}
    described = write_ranker_graph(model, vectors=dims, file=file, ranker_id="abc")
    assert agrees(file, described)
    # The same item twice is a tie in a search by what it is, of which torch and the graph may keep either.
    longest = ITEMS if settings.get("search", "category") != "category" else 60
    for batch in (given, padded(given), one_of_each(given), without_histories(given), many(given, longest=longest)):
        with torch.no_grad():
            expected = model(batch).logits.numpy()
        inputs = graph_inputs(
            batch,
            item_lists=model.sizes.item_lists,
            request_lists=model.sizes.request_lists,
            vectors={name: one.numpy() for name, one in vectors.items()},
        )
        np.testing.assert_allclose(run(file, inputs)[0], expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(expected)) > 10
    reads = {one["name"] for one in described["inputs"]}
    assert ("steps" in reads) == (settings.get("history_items") != 0)
    assert ("gaps" in reads) == (kind in ("din", "sim", "bst"))


def content_graph(folder, content):
    """Write the content graph of a model; return both."""
    model, file = warmed(model_of("mlp", content)), folder / CONTENT_GRAPH
    tokens = {name: TOKENS.get(name, 1) for name in model.sizes.modalities}
    told = write_content_graph(model, side=model.content.item_side(), tokens=tokens, file=file, ranker_id="abc")
    assert agrees(file, told)
    return model, file


@pytest.mark.parametrize("content", [name for name in CONTENTS if name != "none"])
def test_content_vectors_are_worked_out_as_torch_does(tmp_path, content):
    model, file = content_graph(tmp_path, CONTENTS[content])
    given = candidates(codes=content == "semantic ids")
    described = model.content(model.asked(given, model.features.items(given.items)))
    vectors = list(worked_out(model, given).values())
    steps = given.requests.steps[given.request]
    apart = model.content.describe(vectors, target=given.target, steps=steps)
    torch.testing.assert_close(apart.target, described.target, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(apart.pair, described.pair)
    torch.testing.assert_close(apart.steps.looked_up(), described.steps.looked_up(), rtol=1e-5, atol=1e-6)
    image, text = given.items.content if content != "semantic ids" else (None, None)
    if image is not None:  # another number of tokens than it was exported with
        more = [torch.cat([one, one.flip(0)], dim=1) for one in (image.tokens, image.keep)]
        with torch.no_grad():
            expected = model.content.item_side()([ModalityTokens(*more), text])
        inputs = {"tokens.image": more[0], "is_there.image": more[1], "tokens.text": text.tokens}
        inputs["is_there.text"] = text.keep
        for found, one in zip(run(file, named(inputs)), expected, strict=True):
            np.testing.assert_allclose(found, one.numpy(), rtol=1e-5, atol=1e-4)
    for count in (ITEMS, 1):
        inputs = {}
        for name, one in zip(model.sizes.modalities, given.items.content, strict=True):
            inputs |= {f"tokens.{name}": one.tokens[:count].numpy(), f"is_there.{name}": one.keep[:count].numpy()}
        for found, expected in zip(run(file, inputs), vectors, strict=True):
            np.testing.assert_allclose(found, expected[:count].numpy(), rtol=1e-5, atol=1e-5)


def named(tensors):
    return {name: one.numpy() for name, one in tensors.items()}


def test_low_rank_factors_are_added_in(tmp_path):
    """A branch with factors has the products of one without; a map of kept vectors is in the layer before it."""
    products = {}
    for name, modes in {
        "one": {"train": "adapter", "train_behaviours": "adapter"},
        "lora": {"train": "adapter", "train_behaviours": "lora"},
        "kept": {"train": "lora", "train_behaviours": "lora_cache"},
    }.items():
        _, file = content_graph(tmp_path, {**EM3, **modes})
        graph = onnx.load(file).graph
        counts = Counter(node.op_type for node in graph.node)
        products[name] = counts["MatMul"] + counts["Gemm"]
        assert not [one.name for one in graph.initializer if "factors" in one.name or "cache" in one.name]
    assert products["one"] > 0
    assert products["lora"] == 2 * products["one"]
    assert products["kept"] == products["one"] + 1  # both sides differ by their last layer alone


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


def test_an_export_and_its_ranker_are_of_one_catalogue_and_encoder(tmp_path, log, modalities, rankers):
    (_, artifact, exported), *_ = rankers
    other = produce(tmp_path, kind="encoder", config={}, inputs={}, build=lambda folder: {})
    with pytest.raises(ArtifactError, match=f"from encoder 0123456789abcdef, but is used with encoder {other.id}"):
        ExportedRanker.load(exported, catalogue=log.catalogue, beside={"encoder": other})
    own = {"catalogue": log.catalogue, "modalities": modalities}
    assert Ranker.load(artifact, **own, beside={"catalogue": log.catalogue.artifact}).model is not None
    with pytest.raises(ArtifactError, match=f"from encoder 0123456789abcdef, but is used with encoder {other.id}"):
        Ranker.load(artifact, **own, beside={"encoder": other})
    catalogue = planted_photo_log(tmp_path / "log", users=24).catalogue
    with pytest.raises(ArtifactError, match="from catalogue"):
        ExportedRanker.load(exported, catalogue=catalogue)
    with pytest.raises(ArtifactError, match="is a 'ranker', not a 'exported_ranker'"):
        ExportedRanker.load(rankers[0][1], catalogue=log.catalogue)


def test_a_plug_in_that_is_of_one_piece_says_so():
    model = warmed(model_of("din", "frozen"))

    class OfOnePiece(ContentModule):
        dim, pair_dim = model.content.dim, 0
        forward = type(model.content).forward

    model.content = OfOnePiece()
    with pytest.raises(ConfigError, match="OfOnePiece does not say what of an item is worked out before a request"):
        model.content.item_side()
