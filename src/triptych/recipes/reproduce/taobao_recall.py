"""The Taobao article's table of recall (its part 5): IDs, pretrained vectors, and what is made of both.

Rows 1 to 5 read the vectors of pretraining row 6 (sigmoid contrast), rows 7 and 8 those of row 8 (AM-softmax); the
encoders are trained here with the first settings of `taobao_pretraining`. The rows that the article names but does not
describe are the reconstruction's (section 6.2). Row 6 is MGDSPR with the scores, the temperature and the hard mixtures
that it was published with, over our negatives and by our optimisers; row 8 is MGDSPR with content and the loss of all
others. Beside them: MGDSPR without content and with that loss, an MLP
in place of the one map, a fusion with a map behind, content vectors that are trained, the batch's choices, or all
items, in place of a sample, and two controls: each item with another item's photo, and a random vector for its content.
What each row adds to BM25 and the baseline, and who has learned soon, is told beside the table; curves over negatives,
log, pretraining and what no content shows are `benchmarks/recall_curves.py`.

Every row has the same pages, batches, passes over the log and number of trials, of the learning rate; a trial has half
of the passes. Of a training's validations, two a pass, the best is kept: so epochs are chosen, up to those that its
learning rate falls over. There is no trial of how many these are, which would cost as much again. Each query is asked
for some of those who chose something under it, with their histories before that, and the metrics are averaged over
them, in the table and in the validations of rows that read histories; to all other rows it is the same who asks.
Targets are merged over users, as in the article. Histories are shorter than MGDSPR's, since a user of this log has some
fifteen choices.
"""

from __future__ import annotations

from typing import Any

from triptych.data.datasets.fashion import FashionConfig
from triptych.data.datasets.generated_shop import GeneratedShopConfig
from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Ordering
from triptych.evaluate.paces import Pace
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.nn.fusion import Fusion
from triptych.pretrain.base import PretrainConfig
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.recall import RecallConfig
from triptych.recipes.reproduce.base import BM25, Form, Row, Settings, Table
from triptych.recipes.reproduce.taobao_pretraining import MARGINS, SIGMOID, SIGMOIDS, two_towers

TRIALS: tuple[Settings, ...] = tuple((f"recall.learning_rate={rate}",) for rate in (0.001, 0.003, 0.0003, 0.01))
"""Between 0.001 and 0.003 some rows rise and most fall: the ends are for both. The quick form has the first."""
USERS = 3
"""Who asks each query, at most so many."""
ASKED_FOR_USERS = EvaluationConfig(users_per_query=USERS)
MGDSPR = {"kind": "mgdspr", "real_time": 10, "short_term": 20, "long_term": 20}
OUR_SCORE = {"score": "cosine", "temperature": 0.05}
KEPT_BY = {"validation_k": 20}
"""A training keeps the weights that are best by what its row is then judged by."""
EXPORT = "mean"
"""The mean state before the projection: the article reduces in the recall model, and not before. Its [CLS] learns too
slowly from scratch (docs/decisions/0016)."""


def table() -> Table:
    """Return the definition."""
    return Table(
        name="taobao-recall",
        title="Taobao recall: vectors by ID, by content, and fused",
        rows=ROWS,
        claims=CLAIMS,
        paces=PACES,
        there=(BM25, "6 mgdspr"),
        shown=("7 idfc, improved", "5 idfc"),
        full=Form(
            run=RunConfig(dataset=FashionConfig(), seeds=(0, 1, 2), evaluation=ASKED_FOR_USERS),
            hours=2.0,
            settings=("recall.epochs=4", "recall.validations=8"),
            trial_steps_rate=0.5,
        ),
        quick=Form(
            run=RunConfig(dataset=GeneratedShopConfig(), seeds=(0,), evaluation=ASKED_FOR_USERS),
            hours=0.3,
            rows=("1 mm", "2 id", "3 sum", "5 idfc", "random-vector 5"),
            settings=(
                "pretrain.loop.steps=200",
                "pretrain.loop.warmup_steps=20",
                "pretrain.loop.validate_every=100",
                "recall.num_negatives=5000",
                "recall.validations=8",
            ),
            num_trials=1,
        ),
    )


def of_row_6() -> PretrainConfig:
    """The pretraining behind rows 1 to 5, with the first of the settings it is tried with there."""
    return two_towers(**SIGMOID).override(*SIGMOIDS[0])


def of_row_8() -> PretrainConfig:
    """The improved pretraining, behind row 7, likewise."""
    return two_towers("am-softmax").override(*MARGINS[0])


def recall(
    fusion: Fusion, *, improved: bool = False, model: dict[str, Any] | None = None, **training: Any
) -> RecallConfig:
    """Two towers with a fusion."""
    tree: dict[str, Any] = {"recall": {"model": {"fusion": fusion.value, **(model or {})}, **KEPT_BY, **training}}
    if fusion.reads_content:
        pretrain = of_row_8() if improved else of_row_6()
        tree |= {"pretrain": pretrain.dump(), "export": EXPORT}
    return RecallConfig.parse(tree)


def mgdspr(*, model: dict[str, Any], improved: bool = False, **training: Any) -> RecallConfig:
    """MGDSPR, with content where the model has a fusion."""
    tree: dict[str, Any] = {"recall": {"model": MGDSPR | model, "validation_users": USERS, **KEPT_BY, **training}}
    if improved:
        tree |= {"pretrain": of_row_8().dump(), "export": EXPORT}
    return RecallConfig.parse(tree)


def _row(name: str, what: str, fusion: Fusion, *, control: Control = Control.NONE, **settings: Any) -> Row:
    return Row(name, what, lambda: recall(fusion, **settings), TRIALS, control)


ROWS = (
    _row("1 mm", "content alone, reduced", Fusion.MM),
    _row("2 id", "IDs alone", Fusion.ID),
    _row("3 sum", "reduced content plus ID", Fusion.SUM),
    _row("4 cat", "reduced content beside ID", Fusion.CAT),
    _row("5 idfc", "reduced content plus mapped ID: the article's choice", Fusion.IDFC),
    Row("6 mgdspr", "the baseline: its features, scores, mixtures", lambda: mgdspr(model={}, hard_mixes=684), TRIALS),
    Row(
        "6 controlled",
        "… keeping what is of the query's categories",
        lambda: mgdspr(model={}, hard_mixes=684),
        TRIALS,
        keeps_relevant=True,
    ),
    _row("7 idfc, improved", "row 5 on the vectors of the improved pretraining", Fusion.IDFC, improved=True),
    Row(
        "8 idfc + base",
        "row 7 within MGDSPR: words, titles, histories",
        lambda: mgdspr(model={"fusion": Fusion.IDFC.value, **OUR_SCORE}, improved=True),
        TRIALS,
    ),
    Row("mgdspr, our loss", "row 6 by cosine, without mixtures", lambda: mgdspr(model=OUR_SCORE), TRIALS),
    _row("mlp", "content alone, through an MLP", Fusion.MM, model={"hidden_dims": [256]}),
    _row("idfc_cat", "both mapped, side by side, mapped again", Fusion.IDFC_CAT),
    _row("trainable", "content vectors that are trained", Fusion.TRAINABLE),
    _row("5 in batch", "row 5 against the other pages' choices", Fusion.IDFC, against="in_batch"),
    _row("5 all items", "row 5 against every item", Fusion.IDFC, against="full"),
    Row(
        "permuted-photo 5",
        "row 5, each item with another item's photo",
        lambda: recall(Fusion.IDFC),
        TRIALS,
        Control.PHOTO,
    ),
    _row("random-vector 5", "row 5, a random vector for each item's content", Fusion.IDFC, control=Control.RANDOM),
)
_RELEVANCE, _CATEGORY = Column("relevance", 20), Column("category", 20)
CLAIMS = (
    Ordering("IDs find more of what is clicked than content: 2 > 1", "2 id", "1 mm"),
    Ordering("… among items that somebody chose in training", "2 id", "1 mm", slice="seen_items"),
    Ordering("Content finds more of what is relevant than IDs: 1 > 2", "1 mm", "2 id", column=_RELEVANCE),
    Ordering("… and of its category", "1 mm", "2 id", column=_CATEGORY),
    *(
        Ordering(f"Fused is better than {one}: {name} > {one}", name, other, column=column)
        for name in ("3 sum", "4 cat", "5 idfc")
        for one, other in (("content", "1 mm"), ("IDs", "2 id"))
        for column in (None, _RELEVANCE, _CATEGORY)
    ),
    Ordering("IDs are mapped before they are added: 5 > 3", "5 idfc", "3 sum"),
    Ordering("… and not set beside: 5 > 4", "5 idfc", "4 cat"),
    Ordering("Better pretraining helps: 7 > 5", "7 idfc, improved", "5 idfc"),
    Ordering("… in what is relevant too", "7 idfc, improved", "5 idfc", column=_RELEVANCE),
    Ordering("… and is as good by category", "7 idfc, improved", "5 idfc", column=_CATEGORY, within=0.01),
    *(
        Ordering(f"The baseline finds more than those without its features: 6 > {name[0]}", "6 mgdspr", name)
        for name in ("1 mm", "2 id", "3 sum", "4 cat", "5 idfc")
    ),
    Ordering("Its relevance control makes answers more relevant", "6 controlled", "6 mgdspr", column=_RELEVANCE),
    *(
        Ordering(f"{told}: {better} > {worse}", better, worse, column=column)
        for told, better, worse in (
            ("With the improved pretraining they beat the baseline", "7 idfc, improved", "6 mgdspr"),
            ("Its features add to them", "8 idfc + base", "7 idfc, improved"),
            ("… so that all of it beats the baseline", "8 idfc + base", "6 mgdspr"),
        )
        for column in (None, _RELEVANCE, _CATEGORY)
    ),
    Ordering("All items as negatives find more than those drawn", "5 all items", "5 idfc"),
    Ordering("The photo helps: 5 > permuted", "5 idfc", "permuted-photo 5", slice="photo_only"),
    Ordering("It is what content says that helps: 5 > random vectors", "5 idfc", "random-vector 5"),
)
EARLY = 0.125
"""The first half of four passes: where the full form validates first."""
PACES = (
    Pace("Content alone is learned early: sooner than IDs", "1 mm", "2 id", EARLY),
    Pace("… and sooner than both fused", "1 mm", "5 idfc", EARLY),
)
