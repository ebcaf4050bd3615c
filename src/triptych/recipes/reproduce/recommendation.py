"""Recommendation by the users' own log, against the models that others would train: user to item, without queries.

Not a table of the papers: it asks whether what pretrained vectors bring to recall (`taobao_recall`) holds where there
is nobody's query, on real ratings of films with posters. Made in two parts, which differ in what may be learned from:
within users, each one's latest choices are held out, and others' later ones are in training, as most of the
literature has it; by time, nothing after the cut is.

Every row has the same choices, negatives a batch, validations of which the best is kept, and number of trials: three
learning rates with two values each of what matters most to it, in half of its steps; item-kNN has as many. BPR-MF, VBPR
and LightGCN are trained by BPR with a penalty of length, all else by the sampled softmax; the first and the last of
them stand with the softmax as well, so that a loss is not taken for a model.

A decoder that says the semantic IDs of the next item, given those of the history (TIGER), has a softmax over the codes
of each level and so no negatives; its IDs are made of the vectors that the rows with content read. It learns each
choice by itself, which costs many times SASRec's pass over all of them: it has half the others' epochs.
"""

from __future__ import annotations

from typing import Any

from triptych.data.datasets.generated_shop import GeneratedShopConfig
from triptych.data.splits import SplitBy
from triptych.evaluate.orderings import Ordering
from triptych.nn.fusion import Fusion
from triptych.pretrain.base import PretrainConfig
from triptych.recall.models.item_knn import ItemKnnConfig
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.generation import GenerationConfig
from triptych.recipes.movielens import movielens
from triptych.recipes.recall import RecallConfig
from triptych.recipes.reproduce.base import Form, Protocol, Row, Settings, Table


def trials(
    field: str, values: tuple[float, ...], *, part: str = "recall", rates: tuple[float, ...]
) -> tuple[Settings, ...]:
    """Return the learning rates, each with every value of a field of the row's own."""
    return tuple((f"{part}.learning_rate={rate}", f"{part}.{field}={value}") for value in values for rate in rates)


RATES = (0.001, 0.003, 0.01)
PENALTIES = trials("l2", (0.001, 0.01), rates=RATES)
"""By a first look (films, validation, one seed) 0.0001 does nothing, and 0.03 is too much."""
COSINES = trials("model.temperature", (0.1, 0.2), rates=RATES)
HISTORIES = trials("model.temperature", (0.05, 0.1), rates=RATES)
DROPOUTS = trials("model.dropout_rate", (0.2, 0.5), rates=RATES)
DECODERS = trials("model.dropout_rate", (0.1, 0.3), part="generative", rates=(0.001, 0.003, 0.0003))
NEIGHBOURS = tuple(ItemKnnConfig(neighbours=k, shrinkage=s) for k in (100, None) for s in (0, 10, 100))
TRAINING: dict[str, Any] = {
    "num_negatives": 2_000,
    "batch_pages": 512,
    "epochs": 20,
    "validations": 20,
    "validation_k": 20,
}
GENERATION: dict[str, Any] = {
    "model": {"asks": "history", "dim": 64, "reader_layers": 1, "layers": 1},
    "batch_pages": TRAINING["batch_pages"],
    "epochs": 10,
    "validations": TRAINING["validations"],
    "validation_k": TRAINING["validation_k"],
}
OF_IDS: dict[str, Any] = {"single_choices": True, "id_dropout_rate": 0.0}
"""No ID is hidden, as published: there is nothing else to answer by."""
BPR: dict[str, Any] = {"loss": "bpr", "negative_power": 0.0, **OF_IDS}
"""Every item is as likely to be a negative, as published."""
COSINE: dict[str, Any] = {"score": "cosine", "temperature": 0.1}
NEW_ITEMS = "new_items"


def within_users() -> Table:
    """Each user's latest choices are held out."""
    return _table(
        "recommendation --part within-users",
        "Recommendation on films: what a user chose last, others' later choices known",
        split=SplitBy.USER,
    )


def by_time() -> Table:
    """What was chosen after a moment is held out."""
    return _table(
        "recommendation --part by-time",
        "Recommendation on films: what users chose after a moment, nothing later known",
        split=SplitBy.FRACTION,
    )


def _table(name: str, title: str, *, split: SplitBy) -> Table:
    full = movielens().merged({"seeds": [0, 1, 2], "split": {"by": split}})
    quick = RunConfig(dataset=GeneratedShopConfig(), seeds=(0,)).merged({"split": {"by": SplitBy.USER}})
    return Table(
        name=name,
        title=title,
        rows=ROWS,
        claims=CLAIMS,
        protocol=Protocol.RECOMMEND,
        item_knn=NEIGHBOURS,
        full=Form(run=full, hours=2.4, settings=("pretrain.loop.steps=300",), trial_steps_rate=0.5),
        quick=Form(
            run=quick,
            hours=0.1,
            rows=("bpr-mf", "vbpr", "sasrec", "sasrec, idfc", "generative"),
            settings=(
                "pretrain.encoder.title_features=[]",
                "pretrain.loop.steps=100",
                "pretrain.loop.warmup_steps=10",
                "recall.epochs=4",
                "generative.epochs=1",
            ),
            num_trials=1,
        ),
    )


def pretraining() -> PretrainConfig:
    """The encoder behind every row with content: of the recipe for films, learned from the same histories."""
    return movielens().pretrain


def recall(model: dict[str, Any], *, content: bool = False, **training: Any) -> RecallConfig:
    """A recall model, over the encoder's vectors where it reads content."""
    tree: dict[str, Any] = {"recall": {"model": model, **TRAINING, **training}}
    if content:
        tree["pretrain"] = pretraining().dump()
    return RecallConfig.parse(tree)


def decoder() -> GenerationConfig:
    """A decoder of the semantic IDs of the encoder's vectors, given those of a history."""
    return GenerationConfig.parse({"pretrain": pretraining().dump(), "generative": GENERATION})


def _history(fusion: Fusion) -> RecallConfig:
    model = {"kind": "two_tower", "asks": "history", "fusion": fusion.value, "dim": 64}
    return recall(model, content=fusion.reads_content, single_choices=True)


def _sasrec(fusion: Fusion) -> RecallConfig:
    return recall({"kind": "sasrec", "fusion": fusion.value}, content=fusion.reads_content)


ROWS = (
    Row(
        "bpr-mf", "a vector for each user and item", lambda: recall({"kind": "matrix_factorization"}, **BPR), PENALTIES
    ),
    Row(
        "mf, softmax",
        "the same by cosine and softmax",
        lambda: recall({"kind": "matrix_factorization", **COSINE}, **OF_IDS),
        COSINES,
    ),
    Row("vbpr", "bpr-mf and the content", lambda: recall({"kind": "vbpr"}, content=True, **BPR), PENALTIES),
    Row("lightgcn", "vectors along who chose what", lambda: recall({"kind": "lightgcn"}, **BPR), PENALTIES),
    Row(
        "lightgcn, softmax",
        "the same by cosine and softmax",
        lambda: recall({"kind": "lightgcn", **COSINE}, **OF_IDS),
        COSINES,
    ),
    Row("history, id", "attention over the history, IDs alone", lambda: _history(Fusion.ID), HISTORIES),
    Row("history, mm", "… content alone", lambda: _history(Fusion.MM), HISTORIES),
    Row("history, idfc", "… both", lambda: _history(Fusion.IDFC), HISTORIES),
    Row("sasrec", "a Transformer over the history, IDs alone", lambda: _sasrec(Fusion.ID), DROPOUTS),
    Row("sasrec, idfc", "… and content", lambda: _sasrec(Fusion.IDFC), DROPOUTS),
    Row(
        "random-vector idfc",
        "sasrec, idfc with a random vector for each film's content",
        lambda: _sasrec(Fusion.IDFC),
        DROPOUTS,
        Control.RANDOM,
    ),
    Row("generative", "a decoder says the IDs of what comes next, given the history's", decoder, DECODERS),
    Row("random-id generative", "… IDs of other films", decoder, DECODERS, Control.IDS),
)
CLAIMS = (
    Ordering("Content adds to IDs: history, idfc > history, id", "history, idfc", "history, id"),
    Ordering("… among films nobody had chosen", "history, idfc", "history, id", slice=NEW_ITEMS),
    Ordering("IDs add to content: history, idfc > history, mm", "history, idfc", "history, mm"),
    Ordering("Content adds to a sequence model: sasrec, idfc > sasrec", "sasrec, idfc", "sasrec"),
    Ordering("… among films nobody had chosen", "sasrec, idfc", "sasrec", slice=NEW_ITEMS),
    Ordering("It is what content says that helps: sasrec, idfc > random vectors", "sasrec, idfc", "random-vector idfc"),
    Ordering("Content helps BPR-MF: vbpr > bpr-mf", "vbpr", "bpr-mf"),
    Ordering("The graph helps: lightgcn > bpr-mf", "lightgcn", "bpr-mf"),
    Ordering("… with the same softmax", "lightgcn, softmax", "mf, softmax"),
    Ordering("The softmax is the better loss: mf, softmax > bpr-mf", "mf, softmax", "bpr-mf"),
    Ordering("To say IDs finds more than a vector for each: generative > sasrec", "generative", "sasrec"),
    Ordering("… among films nobody had chosen", "generative", "sasrec", slice=NEW_ITEMS),
    Ordering("IDs that mean something are said better: generative > random IDs", "generative", "random-id generative"),
    Ordering("… among films nobody had chosen", "generative", "random-id generative", slice=NEW_ITEMS),
    *(
        Ordering(f"Fused recall beats {name}", "sasrec, idfc", name)
        for name in ("item-knn", "bpr-mf", "vbpr", "lightgcn", "lightgcn, softmax", "generative")
    ),
)
