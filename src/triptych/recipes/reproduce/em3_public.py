"""EM3's table on public data: recommenders that read content beside a graph, under MMRec's protocol.

Source: EM3 (Deng et al., "End-to-end training of multimodal model and ranking model", arXiv 2404.06078) in the form
that its authors published for Amazon's data, as reconstructed (specs/em3.md, sections 5 and 7.2). A 5-core, each user's
choices divided at random, all items ranked but those of training, recall and NDCG at 5, 10, 20 and 50.

The published tables choose settings by the test part; here the validation part chooses, with as many trials for every
row. Amazon's photos and descriptions are not at hand, so the content is that of our own encoder: its vectors of title
and of photo, learned from the training part's histories, the same for every row. On Amazon Baby, of which there is the
graph alone, stand the rows without content, whose published figures can be compared.

Every row with content reads the same two vectors of an item, and every row along a graph has one learning rate for all
that it trains (`id_rate_factor` 1), as published.

The paper draws one negative a choice; here a batch shares 200, whose mean is the same loss with less noise.

Trials have a quarter of the epochs. By a first look (films, validation, one seed) BPR-MF, LightGCN and VBPR are best
after four to fourteen; a training ends after twenty without a new best, as published, or ten of fashion's larger ones.
Rows by ID and VBPR are tried with the penalties of length that `recommendation` has, without which they learn by heart.
"""

from __future__ import annotations

from typing import Any

from triptych.data.splits import SplitBy
from triptych.evaluate.orderings import Ordering
from triptych.pretrain.base import PretrainConfig
from triptych.recall.models.item_knn import ItemKnnConfig
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.feed import feed
from triptych.recipes.movielens import movielens
from triptych.recipes.recall import RecallConfig
from triptych.recipes.reproduce.base import Form, Protocol, Row, Settings, Table

PROTOCOL: dict[str, Any] = {
    "split": {"by": SplitBy.GIVEN},
    "evaluation": {"ks": (5, 10, 20, 50), "headline_k": 20, "history": "train"},
}
TRAINING: dict[str, Any] = {
    "loss": "bpr",
    "single_choices": True,
    "num_negatives": 200,
    "negative_power": 0.0,
    "batch_pages": 2_048,
    "epochs": 200,
    "validations": 200,
    "patience": 20,
    "validation_k": 20,
    "id_dropout_rate": 0.0,
    "weight_decay": 0.0,
    "warmup_rate": 0.0,
}
"""A validation an epoch, and the end after twenty without a new best, as published."""
SMALL_SHOP = {"dataset": {"of": {"num_items": 1_500, "shoppers": {"num_users": 800, "num_pages": 12_000}}}}
"""The generated shop of the quick form: every step of a graph's model passes over all users and items."""
LIGHTGCN: dict[str, Any] = {"kind": "lightgcn", "layers": 2, "id_rate_factor": 1.0}
SIDES = {"photo": 0.1, "title": 0.9}
"""What both graphs of items weigh, as published."""
EVENLY = "recall.model.modality_weights.photo=0.5", "recall.model.modality_weights.title=0.5"


def trials(*own: Settings) -> tuple[Settings, ...]:
    """Return two settings of a model's own with two learning rates each."""
    return tuple((f"recall.learning_rate={rate}", *one) for one in own for rate in (0.001, 0.003))


TRIED: dict[str, Any] = {"trial_steps_rate": 0.25}
"""How the full forms choose."""
PENALTIES = trials(("recall.l2=0.001",), ("recall.l2=0.01",))
OF_LATTICE = trials((), ("recall.model.frozen_rate=0.5",))
OF_GRAPHS = trials((), EVENLY)
NEIGHBOURS = tuple(ItemKnnConfig(neighbours=k, shrinkage=s) for k in (100, None) for s in (0, 10))


def on_movielens() -> Table:
    """Films with posters: real ratings."""
    training = ("pretrain.loop.steps=400", "recall.epochs=100", "recall.validations=100")
    of = "films with posters, real ratings"
    return _table("movielens", of, encoder=movielens().pretrain, hours=0.7, training=training)


def on_fashion() -> Table:
    """Fashion: simulated shoppers."""
    training = (
        *("pretrain.loop.steps=600", "recall.batch_pages=8192"),
        *("recall.epochs=30", "recall.validations=30", "recall.patience=10"),
    )
    of = "fashion products, simulated shoppers"
    return _table("fashion", of, encoder=feed().pretrain, hours=0.8, training=training)


def on_baby() -> Table:
    """Amazon Baby: the graph, and no content."""
    run = _run("amazon_baby", encoder=feed().pretrain)
    quick = ("recall.epochs=10", "recall.validations=5")
    return Table(
        name="em3-public --part baby",
        title="Graph recommenders without content on Amazon Baby, MMRec's protocol",
        rows=tuple(_by_id()),
        claims=(THE_GRAPH_HELPS,),
        protocol=Protocol.RECOMMEND,
        item_knn=NEIGHBOURS,
        full=Form(run=run.merged({"seeds": [0, 1, 2]}), hours=0.4, **TRIED),
        quick=Form(run=run, hours=0.2, settings=quick, num_trials=1),
    )


def _table(
    part: str,
    of: str,
    *,
    encoder: PretrainConfig,
    hours: float,
    training: Settings,
) -> Table:
    full = _run(part, encoder=encoder).merged({"seeds": [0, 1, 2]})
    return Table(
        name=f"em3-public --part {part}",
        title=f"Graph recommenders that read content: {of}, MMRec's protocol",
        rows=_rows(encoder),
        claims=CLAIMS,
        protocol=Protocol.RECOMMEND,
        item_knn=NEIGHBOURS,
        full=Form(run=full, hours=hours, settings=training, **TRIED),
        quick=Form(
            run=_run("generated_shop", encoder=feed().pretrain).merged(SMALL_SHOP),
            hours=0.2,
            rows=("bpr-mf", "lightgcn", "vbpr", "lattice", "freedom", "em3", "permuted-content em3"),
            settings=(
                "pretrain.encoder.title_features=[]",
                "pretrain.loop.steps=100",
                "pretrain.loop.warmup_steps=10",
                "recall.epochs=20",
                "recall.validations=10",
            ),
            num_trials=1,
        ),
    )


def _run(dataset: str, *, encoder: PretrainConfig) -> RunConfig:
    """Return the stages of all rows over a dataset's 5-core."""
    core = {"kind": "k_core", "of": {"kind": dataset}}
    return feed().merged({"dataset": core, "pretrain": encoder.dump(), **PROTOCOL})


def recall(model: dict[str, Any], *, encoder: PretrainConfig | None = None, **further: Any) -> RecallConfig:
    """A recall model, over the encoder's vectors where it reads content."""
    tree: dict[str, Any] = {"recall": {"model": model, **TRAINING}, **further}
    return RecallConfig.parse(tree if encoder is None else {**tree, "pretrain": encoder.dump()})


def _by_id() -> list[Row]:
    return [
        Row("bpr-mf", "a vector for each user and item", lambda: recall({"kind": "matrix_factorization"}), PENALTIES),
        Row("lightgcn", "vectors along who chose what", lambda: recall(LIGHTGCN), PENALTIES),
    ]


def _rows(encoder: PretrainConfig) -> tuple[Row, ...]:
    def of(kind: str, *, modalities: tuple[str, ...] = ("title", "photo"), **model: Any) -> RecallConfig:
        return recall({"kind": kind, **model}, encoder=encoder, modalities=modalities)

    def vbpr() -> RecallConfig:
        return recall({"kind": "vbpr"}, encoder=encoder, content=("title", "photo"))

    def em3(**model: Any) -> RecallConfig:
        return of("em3", **{"modality_weights": SIDES, **model})

    def of_one(side: str) -> RecallConfig:
        return em3(modalities=(side,), modality_weights={side: 1.0})

    one_graph = trials((), ("recall.model.dropout_rate=0.8",))  # there is nothing to weigh
    return (
        *_by_id(),
        Row("vbpr", "bpr-mf and the content, title and photo side by side", vbpr, PENALTIES),
        Row("lattice", "lightgcn and learned graphs of items that are alike", lambda: of("lattice"), OF_LATTICE),
        Row("freedom", "… frozen graphs", lambda: of("freedom", modality_weights=SIDES), OF_GRAPHS),
        Row("em3", "freedom and the content through a Q-Former, contrasted with IDs", em3, OF_GRAPHS),
        Row("em3, no contrast", "… not contrasted", lambda: em3(contrast_weight=0.0), OF_GRAPHS),
        Row(
            "em3, whole catalogue", "… contrasted as the authors' code does", lambda: em3(paper_compat=True), OF_GRAPHS
        ),
        Row("em3, two queries", "… of two queries", lambda: em3(queries=2), OF_GRAPHS),
        Row("em3, title", "… of the title alone", lambda: of_one("title"), one_graph),
        Row("em3, photo", "… of the photo alone", lambda: of_one("photo"), one_graph),
        Row(
            "permuted-content freedom",
            "freedom with another item's content",
            lambda: of("freedom", modality_weights=SIDES),
            OF_GRAPHS,
            Control.CONTENT,
        ),
        Row("permuted-content em3", "em3 with another item's content", em3, OF_GRAPHS, Control.CONTENT),
    )


THE_GRAPH_HELPS = Ordering("The graph helps: lightgcn > bpr-mf", "lightgcn", "bpr-mf")
CLAIMS = (
    Ordering("EM3 > FREEDOM", "em3", "freedom"),
    Ordering("FREEDOM > LATTICE", "freedom", "lattice"),
    Ordering("LATTICE > VBPR", "lattice", "vbpr"),
    Ordering("Content helps: vbpr > bpr-mf", "vbpr", "bpr-mf"),
    THE_GRAPH_HELPS,
    Ordering("Content helps a graph: freedom > lightgcn", "freedom", "lightgcn"),
    Ordering("It is what content says that helps: freedom > permuted content", "freedom", "permuted-content freedom"),
    Ordering("… em3 > permuted content", "em3", "permuted-content em3"),
    Ordering("The contrast helps: em3 > em3, no contrast", "em3", "em3, no contrast"),
    Ordering("Over the whole catalogue it is better", "em3, whole catalogue", "em3"),
    Ordering("Two queries are better than one", "em3, two queries", "em3"),
    Ordering("The photo adds to the title", "em3", "em3, title"),
    Ordering("The title adds to the photo", "em3", "em3, photo"),
)
