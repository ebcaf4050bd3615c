"""A trained ranker as ONNX graphs, for whoever serves it without this package.

    ranker.onnx                  candidates of requests → log odds: look-ups, attention, the network behind them
    content.onnx                 what an item is made of → its content vectors; asked once, when an item appears
    content_vectors.safetensors  those of the catalogue's items, by item row
    features/                    rows of tables and quantiles of numbers, by name
    signature.json               every input and output by name, type, axes and meaning, and what it was made from

The second and third are there where the ranker reads content. All of it is one artefact: its manifest has the ids of
the ranker and of what that was made from, and both graphs and the vectors say the ranker's once more, so that parts of
two exports, copied beside each other, are refused (`exported.ExportedRanker`).

Nothing that only training needs is in the graphs: low-rank factors are added in, so there is one product for each
layer. What depends on the item alone is worked out beforehand (`content.base.ItemSide`).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from triptych.data.catalogue import Catalogue
from triptych.data.events import KIND_CODES
from triptych.foundation.artifact import Artifact, produce, write_json
from triptych.foundation.errors import MissingExtra
from triptych.nn.bags import PaddedRows
from triptych.nn.query_former import ModalityTokens
from triptych.ranker.base import RankModel
from triptych.ranker.content.base import ItemSide
from triptych.ranker.content_vectors import ContentVectors
from triptych.ranker.inputs import Candidates, ItemFeatures, RequestFeatures
from triptych.ranker.scorer import FEATURES, Ranker

KIND = "exported_ranker"
RANKER_GRAPH, CONTENT_GRAPH = "ranker.onnx", "content.onnx"
VECTORS_FILE, SIGNATURE_FILE = "content_vectors.safetensors", "signature.json"
MADE_BY = "ranker"
"""Under which graphs and vectors name the ranker that they are of."""
FORMAT = 1
OPSET = 20
LOG_ODDS = "log_odds"
TOKENS, IS_THERE, CONTENT, ITEM_LIST, REQUEST_LIST = "tokens.", "is_there.", "content.", "item_list.", "request_list."
INT, FLOAT, BOOL = "int64", "float32", "bool"


class Port(NamedTuple):
    """One input or output of a graph."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    """Axes: a number, or the name of one that every call chooses; axes of one name have one length."""
    meaning: str
    columns: tuple[str, ...] = ()
    """What stands in each column, where it is a table."""

    def example(self, lengths: Mapping[str, int]) -> Tensor:
        """Return zeros of that shape."""
        shape = [lengths[axis] if isinstance(axis, str) else axis for axis in self.shape]
        return torch.zeros(*shape, dtype=getattr(torch, self.dtype))

    def dump(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        tree = self._asdict() | {"shape": list(self.shape), "columns": list(self.columns)}
        return tree if self.columns else {name: value for name, value in tree.items() if name != "columns"}


def export_ranker(ranker: Ranker, *, artifact: Artifact, catalogue: Catalogue, out: Path) -> Artifact:
    """Write a ranker as ONNX graphs.

    Args:
        ranker: as `Ranker.load` opens it over the catalogue.
        artifact: from where it was opened.
        catalogue: whose items it was opened over; their content vectors are written too.
        out: folder of the stage; the export is the folder of its id in it.

    Returns:
        Artefact ``exported_ranker``: the files above. Its inputs are the ranker, and what that was made from.

    Raises:
        MissingExtra: the ``export`` extra is not installed.
        ConfigError: the plug-in for content cannot be taken apart into what is of the item and what is of the request.
    """
    inputs: dict[str, Artifact | str] = {"catalogue": catalogue.artifact, **artifact.inputs, MADE_BY: artifact}

    def build(folder: Path) -> dict[str, Any]:
        model, features = _on_cpu(ranker.model), ranker.features
        side, graphs = model.content.item_side(), {}
        vectors: dict[str, NDArray[np.float32]] = {}
        if side is not None:
            first = features.shown(np.arange(1)).content
            tokens = {name: one.tokens.shape[1] for name, one in zip(model.sizes.modalities, first, strict=True)}
            file = folder / CONTENT_GRAPH
            graphs[file.name] = write_content_graph(model, side=side, tokens=tokens, file=file, ranker_id=artifact.id)
            vectors = ContentVectors.of_catalogue(side, features, device=torch.device("cpu")).arrays()
            save_file(vectors, folder / VECTORS_FILE, metadata={MADE_BY: artifact.id})
        file, dims = folder / RANKER_GRAPH, {name: found.shape[1] for name, found in vectors.items()}
        graphs[file.name] = write_ranker_graph(model, vectors=dims, file=file, ranker_id=artifact.id)
        features.ids.save(folder / FEATURES)
        signature = {
            "format": FORMAT,
            "made_from": {name: one.id if isinstance(one, Artifact) else one for name, one in inputs.items()},
            "history_items": model.config.history_items,
            "graphs": graphs,
            "content_vectors": {name: list(found.shape) for name, found in vectors.items()},
        }
        write_json(folder / SIGNATURE_FILE, signature)
        return {"model": model.config.kind, "content": model.content_config.kind, "opset": OPSET}

    return produce(out, kind=KIND, config={"format": FORMAT, "opset": OPSET}, inputs=inputs, build=build)


def write_content_graph(
    model: RankModel, *, side: ItemSide, tokens: Mapping[str, int], file: Path, ranker_id: str
) -> dict[str, Any]:
    """Write the graph that is asked once of each item.

    Args:
        model: which reads content.
        side: its `ContentModule.item_side`.
        tokens: of each modality, how many an item has; where there are several, a call may have any number.
        file: where to.
        ranker_id: of the ranker's artefact; the graph says it.

    Returns:
        Its ``inputs`` and ``outputs``, as `Port.dump` gives them.
    """
    given = _content_ports(model, tokens=tokens)
    graph = ContentGraph(side, model.sizes.modalities)
    with torch.no_grad():
        axes = {axis: 1 for port in given for axis in port.shape if isinstance(axis, str)}
        examples = graph({port.name: port.example(axes) for port in given})
    dims = {name: found.shape[1] for name, found in zip(side.names, examples, strict=True)}
    meaning = f"goes into {RANKER_GRAPH} wherever the item does"
    return _write(graph, given, _vector_ports(dims, meaning), file=file, ranker_id=ranker_id)


def write_ranker_graph(model: RankModel, *, vectors: Mapping[str, int], file: Path, ranker_id: str) -> dict[str, Any]:
    """Write the graph that is asked in every request.

    Args:
        model: in evaluation mode, on a CPU.
        vectors: length of each content vector, by its name in `ItemSide.names`; none of a model without content.
        file: where to.
        ranker_id: of the ranker's artefact; the graph says it.

    Returns:
        As of `write_content_graph`.
    """
    odds = Port(LOG_ODDS, FLOAT, ("candidates",), "log odds of being chosen; the logistic function makes them a rate")
    given = _ranker_ports(model, vectors=vectors)
    return _write(RankerGraph(model, vectors), given, [odds], file=file, ranker_id=ranker_id)


class RankerGraph(nn.Module):
    """A model as a graph sees it: arrays by name in, log odds out."""

    def __init__(self, model: RankModel, content: Iterable[str]) -> None:
        """Take a model in evaluation mode, and the names of its content vectors."""
        super().__init__()
        self.model, self._content = model, tuple(content)

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """Score candidates; inputs as of `_ranker_ports`."""
        sizes, fields = self.model.sizes, given["item_fields"]
        candidates = Candidates(
            ItemFeatures(
                item_rows=fields[:, 0],  # nobody who answers reads it
                fields=fields,
                lists=tuple(PaddedRows(given[ITEM_LIST + name]) for name in sizes.item_lists),
                numbers=given["item_numbers"],
                content=(),
            ),
            RequestFeatures(
                fields=given["request_fields"],
                lists=tuple(PaddedRows(given[REQUEST_LIST + name]) for name in sizes.request_lists),
                steps=given["steps"],
                gaps=given["gaps"],
                kinds=given["kinds"],
            ),
            request=given["request"],
            target=given["target"],
            numbers=given["candidate_numbers"],
        )
        return self.model.answer(candidates, [given[CONTENT + name] for name in self._content])


class ContentGraph(nn.Module):
    """What is worked out of items, as a graph sees it."""

    def __init__(self, side: ItemSide, modalities: Iterable[str]) -> None:
        """Take it, and the names of what items are made of."""
        super().__init__()
        self.side, self._modalities = side, tuple(modalities)

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Work it out; inputs as of `_content_ports`."""
        return self.side([ModalityTokens(given[TOKENS + name], given[IS_THERE + name]) for name in self._modalities])


def _ranker_ports(model: RankModel, *, vectors: Mapping[str, int]) -> list[Port]:
    sizes, most = model.sizes, model.config.history_items
    rows = "rows of the tables in features/, 0 for what is not known"
    times = "hour: 1 + hour, weekday: 1 + days since Monday, both UTC"
    of_items = "of the distinct items of the call, be they candidates or in a history"
    of_steps = f"what the user had chosen before, the latest {most}, oldest first"
    gaps = f"1 + floor(log2(1 + whole minutes before the request)), at most {sizes.gap_rows - 1}; 0 behind the end"
    kinds = ", ".join(f"{1 + code} {name}" for name, code in KIND_CODES.items())

    def of_lists(prefix: str, names: Mapping[str, int], axis: str) -> list[Port]:
        meaning = "rows of its table in features/, -1 behind the end; what has no row is left out"
        return [Port(prefix + name, INT, (axis, f"values of {prefix}{name}"), meaning) for name in names]

    def of_numbers(name: str, axis: str, columns: Sequence[str]) -> Port:
        columns = (*columns, *(f"has {one}" for one in columns))
        meaning = "places among the quantiles of training, in [-1, 1], 0 where there is none; then 1 where there is one"
        return Port(name, FLOAT, (axis, len(columns)), meaning, columns)

    return [
        Port("item_fields", INT, ("items", len(sizes.item_fields)), f"{of_items}: {rows}", tuple(sizes.item_fields)),
        *of_lists(ITEM_LIST, sizes.item_lists, "items"),
        of_numbers("item_numbers", "items", sizes.item_numbers),
        *_vector_ports(vectors, f"{of_items}: from {CONTENT_GRAPH} or {VECTORS_FILE}"),
        Port(
            "request_fields",
            INT,
            ("requests", len(sizes.request_fields)),
            f"{rows}; {times}",
            tuple(sizes.request_fields),
        ),
        *of_lists(REQUEST_LIST, sizes.request_lists, "requests"),
        Port("steps", INT, ("requests", "steps"), f"{of_steps}: places among the items of the call, -1 behind the end"),
        Port("gaps", INT, ("requests", "steps"), f"of those: {gaps}"),
        Port("kinds", INT, ("requests", "steps"), f"of those: {kinds}; 0 behind the end"),
        Port("request", INT, ("candidates",), "the place of each candidate's request"),
        Port("target", INT, ("candidates",), "its place among the items of the call"),
        of_numbers("candidate_numbers", "candidates", sizes.sample_numbers),
    ]


def _content_ports(model: RankModel, *, tokens: Mapping[str, int]) -> list[Port]:
    found = []
    for name, dim in model.sizes.modalities.items():
        count = tokens[name] if tokens[name] == 1 else f"tokens of {name}"  # titles differ in length
        given = f"of the encoder's '{name}', 0 where there is none"
        found += [
            Port(TOKENS + name, FLOAT, ("items", count, dim), given),
            Port(IS_THERE + name, BOOL, ("items", count), "which of them are there"),
        ]
    return found


def _vector_ports(dims: Mapping[str, int], meaning: str) -> list[Port]:
    return [Port(CONTENT + name, FLOAT, ("items", dim), meaning) for name, dim in dims.items()]


def _write(
    module: nn.Module, given: Sequence[Port], found: Sequence[Port], *, file: Path, ranker_id: str
) -> dict[str, Any]:
    """Write a graph and return its inputs and outputs; what it is given and does not read is no input of it."""
    axes = list(dict.fromkeys(axis for port in given for axis in port.shape if isinstance(axis, str)))
    # torch takes an axis of length 1 for a constant, and two axes of one length for one.
    lengths = {axis: length for length, axis in enumerate(axes, start=2)}
    shapes = {
        port.name: {place: axis for place, axis in enumerate(port.shape) if isinstance(axis, str)} for port in given
    }
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            kwargs={"given": {port.name: port.example(lengths) for port in given}},
            dynamic_shapes={"given": shapes},
            input_names=[port.name for port in given],
            output_names=[port.name for port in found],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    graph = program.model.graph
    for one in [one for one in graph.inputs if not one.uses()]:
        graph.inputs.remove(one)
    program.model.metadata_props[MADE_BY] = ranker_id
    program.save(file)
    read = {one.name for one in graph.inputs}
    return {"inputs": [one.dump() for one in given if one.name in read], "outputs": [one.dump() for one in found]}


def _on_cpu(model: RankModel) -> RankModel:
    is_there = next(model.parameters()).device.type == "cpu"
    return (model if is_there else copy.deepcopy(model).cpu()).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """See that there is what writes graphs, and keep what it has to say of itself from users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnx  # noqa: F401 - torch imports it late, and says less where it is absent
            import onnxscript  # noqa: F401

            yield
    except ModuleNotFoundError as error:
        if error.name in ("onnx", "onnxscript"):
            raise MissingExtra("Exporting a ranker", extra="export") from None
        raise
    finally:
        logger.setLevel(level)
