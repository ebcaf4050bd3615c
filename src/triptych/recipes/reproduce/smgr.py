"""SMGR's tables (arXiv 2602.06654), reconstructed: no value and no equation of the paper's body is public.

The unit is a query in a delivery cell, and only what is delivered there can be found. Part *pretraining* compares
staged with joint training of one late-fusion encoder: same data, batches, steps and trials, from scratch and from one
warm start without labels (masked words and patches, titles with photos) that all arms share. A step of a stage is
cheaper than one of all losses, so that one row has as many more steps as take the seconds of joint training. Controls:
photos permuted over the items, and joint training that ends as the staged one does, which tells the order of the stages
from their ending. Three rows learn from one pair of query and item in twenty, where the map of
`benchmarks/staging_map.py` (validation) saw stages ahead. Other orders, the stages with nothing frozen or no task
given up (our remedy against forgetting), and joint training with its modalities kept in balance (OGM-GE) stand beside
them; one schedule over all stages is in that map alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from triptych.data.datasets.fashion import FashionConfig
from triptych.data.datasets.generated_shop import GeneratedShopConfig
from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Ordering
from triptych.evaluate.tasks import cells
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.pretrain.stages import PRESETS, TITLE_PHOTO, Tree
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.recall.code_tasks import CodeTasksConfig
from triptych.recall.models.semantic_tower import Content
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.generation import GenerationConfig
from triptych.recipes.recall import RecallConfig
from triptych.recipes.reproduce.base import Form, Protocol, Row, Settings, Table

EVALUATION = EvaluationConfig(ks=cells.KS, headline_k=5)
RATES: tuple[Settings, ...] = (("loop.learning_rate=0.001",), ("loop.learning_rate=0.002",))
"""0.0005, of a first look, lost everywhere; 0.004, on the other side, does with joint training and with stages
(docs/staging.md)."""
ORDERS = {
    "o1": "title–photo, query–photo, query–title, query–item",
    "o2": "titles before photos",
    "o3": "titles, photos, then title–photo",
    "o4": "query–item first, then the others",
    "o5": "o1 without title–photo",
    "three": "o1 with titles and photos in one stage",
    "o1-cumulative": "o1, each going on with what those before have taught",
}
AS_LONG = 1.3
"""Steps of `o1` in the seconds of one of `joint`: its stages have one loss or three, and part of it is frozen."""
FEW_PAIRS = {"pairs_rate": 0.05}
"""A log of which every pair is seen many times over."""


def pretraining() -> Table:
    """Return the definition of the part on pretraining."""
    return Table(
        name="smgr --part pretraining",
        title="SMGR, reconstructed: pretraining in stages or jointly",
        rows=PRETRAINING_ROWS,
        claims=PRETRAINING_CLAIMS,
        protocol=Protocol.CELLS,
        full=Form(
            run=RunConfig(dataset=FashionConfig(), seeds=(0, 1, 2), evaluation=EVALUATION),
            hours=3.0,
            rows=tuple(row.name for row in PRETRAINING_ROWS if row.name not in LEFT_OUT),
            settings=("loop.steps=400", "loop.validate_every=50"),
            trial_steps_rate=0.5,
        ),
        quick=Form(
            run=RunConfig(dataset=GeneratedShopConfig(), seeds=(0,), evaluation=EVALUATION),
            hours=0.4,
            rows=("fused", "joint", "o1", "permuted-photo joint", "permuted-photo o1"),
            settings=("loop.steps=240", "loop.warmup_steps=20", "loop.validate_every=60"),
            num_trials=1,
        ),
    )


def training(stages: str | list[Tree], **settings: Any) -> MultitaskConfig:
    """One late-fusion encoder, by stages of that name or written down."""
    tree = {
        "stages": stages,
        "encoder": {"kind": "late_fusion"},
        "batch_items": 128,
        "cell_rate": 0.5,
        "photo_dropout_rate": 0.15,
        "validation_k": 10,
        "loop": {"steps": 1000, "warmup_steps": 50, "validate_every": 100},
        **settings,
    }
    return MultitaskConfig.parse(tree)


def warm_start() -> MultitaskConfig:
    """What needs no label: masked words of titles, masked patches, titles with photos."""
    tasks = [TITLE_PHOTO, {"kind": "masked_words", "of": "title"}, {"kind": "masked_patches"}]
    stage = {"name": "warm", "tasks": tasks, "data": "items", "validate_on": "title-photo"}
    return training([stage], loop={"steps": 500, "warmup_steps": 50, "validate_every": 250})


def joint_then_last() -> MultitaskConfig:
    """Joint training that ends as the staged one does."""
    (joint,), last = PRESETS["joint"], PRESETS["o1"][-1]
    return training([{**joint, "steps_rate": 1 - last["steps_rate"]}, last])


def _row(name: str, what: str, make: Callable[[], MultitaskConfig], *, warm: bool = True, **more: Any) -> Row:
    return Row(name, what, make, RATES, start=warm_start if warm else None, **more)


PRETRAINING_ROWS = (
    _row("fused", "query–item contrast alone", lambda: training("fused")),
    _row("joint", "all four contrasts at once", lambda: training("joint")),
    *(_row(name, f"stages: {what}", partial(training, name)) for name, what in ORDERS.items()),
    _row("o1 as long", "o1 for the seconds of joint", lambda: training("o1"), steps_rate=AS_LONG),
    _row("o1-open", "o1 with nothing frozen", lambda: training("o1-open")),
    _row("o1-one-schedule", "o1 under one schedule", lambda: training("o1", schedules="one")),
    _row("joint-ogm-ge", "joint, modalities in balance", lambda: training("joint", balance="ogm-ge")),
    _row("joint-then-last", "joint, then the last stage of o1", joint_then_last),
    _row("joint-cold", "joint, from scratch", lambda: training("joint"), warm=False),
    _row("o1-cold", "o1, from scratch", lambda: training("o1"), warm=False),
    _row("o5-cold", "… without title–photo", lambda: training("o5"), warm=False),
    _row("joint-few", "joint, from one pair in twenty", lambda: training("joint", **FEW_PAIRS)),
    _row("o1-few", "o1, from one pair in twenty", lambda: training("o1", **FEW_PAIRS)),
    _row("o5-few", "… without the stage that needs no pair", lambda: training("o5", **FEW_PAIRS)),
    _row("permuted-photo joint", "joint with photos permuted", lambda: training("joint"), control=Control.PHOTO),
    _row("permuted-photo o1", "o1 with photos permuted", lambda: training("o1"), control=Control.PHOTO),
)
LEFT_OUT = ("o1-one-schedule",)
"""For the time that it would take; it is in `benchmarks/staging_map.py`."""
_NDCG = Column("ndcg", 5)
PRETRAINING_CLAIMS = (
    Ordering("Stages beat joint training", "o1", "joint"),
    Ordering("… in the order of results", "o1", "joint", column=_NDCG),
    Ordering("… from scratch as well", "o1-cold", "joint-cold"),
    Ordering("… at equal seconds", "o1 as long", "joint"),
    Ordering("… whose modalities are kept in balance", "o1", "joint-ogm-ge"),
    Ordering(
        "The picture's benefit is larger under stages",
        "o1",
        "permuted-photo o1",
        than=("joint", "permuted-photo joint"),
    ),
    Ordering("… where only the photo shows what is asked for", "o1", "joint", slice="photo_only"),
    Ordering("Stages beat joint training where pairs are few", "o1-few", "joint-few"),
    Ordering("… since the first needs none: o1 > o5", "o1-few", "o5-few"),
    Ordering("It is the order of the stages, not their ending", "o1", "joint-then-last"),
    Ordering("Photos come before titles: o1 > o2", "o1", "o2"),
    Ordering("Title and photo come before both: o1 > o3", "o1", "o3"),
    Ordering("… and the whole last: o1 > o4", "o1", "o4"),
    Ordering("The stage without a log helps: o1 > o5", "o1", "o5"),
    Ordering("… from scratch, where nothing has taught it before", "o1-cold", "o5-cold"),
    Ordering("Four stages are more than three", "o1", "three"),
    Ordering("Stages that go on with what was taught forget less", "o1-cumulative", "o1"),
    Ordering("… and beat joint training", "o1-cumulative", "joint"),
    Ordering("… where only the photo shows what is asked for", "o1-cumulative", "joint", slice="photo_only"),
    Ordering("Freezing helps: o1 > o1-open", "o1", "o1-open"),
)


def retrieval() -> Table:
    """Return the definition of the part on semantic IDs: read as tokens, said, and fused with the encoder.

    The rows whose names begin with `tower` have one tower of items, which reads the title and what their names say, and
    the same steps; those with tasks spend the first third of them on tasks that titles ask (C1). One of these is longer
    by as much, so that it is contrasted in as many steps as those without. `smgr` is all of it in one row, over an
    encoder that goes on from training without labels, as its two rivals by the name of late fusion do.
    """
    return Table(
        name="smgr --part retrieval",
        title="SMGR, reconstructed: semantic IDs as what is read, and as what is said",
        rows=RETRIEVAL_ROWS,
        claims=RETRIEVAL_CLAIMS,
        protocol=Protocol.CELLS,
        costs=True,
        full=Form(
            run=RunConfig(dataset=FashionConfig(), seeds=(0, 1, 2), evaluation=EVALUATION),
            hours=6.0,
            settings=("pretrain.loop.steps=600", "pretrain.loop.warmup_steps=50"),
            num_trials=2,
        ),
        quick=Form(
            run=RunConfig(dataset=GeneratedShopConfig(), seeds=(0,), evaluation=EVALUATION),
            hours=0.4,
            rows=(
                "encoder",
                "towers",
                "towers over ids",
                "generative",
                "hybrid",
                "tower none",
                "tower sid",
                "tower sid, all sets",
                "tower sid + tasks",
                "smgr",
                "random-id towers",
                "random-id generative",
                "random-id tower sid",
            ),
            settings=(
                "pretrain.loop.steps=200",
                "pretrain.loop.warmup_steps=20",
                "pretrain.loop.validate_every=100",
                "recall.num_negatives=5000",
                "semantic_ids.quantizer.codes=64",
            ),
            num_trials=1,
        ),
    )


def text_encoder() -> ContrastiveConfig:
    """The encoder that all else stands on, without photos."""
    made = ContrastiveConfig().override("encoder.modalities=title")
    assert isinstance(made, ContrastiveConfig)
    return made


def gated(stages: str) -> MultitaskConfig:
    """Title and photo each by a tower of its own, their vectors joined by a gate; as many items a batch as all rows."""
    return training(
        stages, encoder={"kind": "late_fusion", "fusion": "gated"}, batch_items=ContrastiveConfig().batch_items
    )


def gated_warm() -> MultitaskConfig:
    """What it begins with: trained without labels, once for all rows of it."""
    return warm_start().override("encoder.fusion=gated", f"batch_items={ContrastiveConfig().batch_items}")


def whole(stages: str, content: Content = Content.SID, *, of_photos: bool = False) -> RecallConfig:
    """SMGR as a whole: an encoder trained so, semantic IDs of whole item, title and photo, a tower with all four tasks.

    Of other content than IDs, the same tower without any; `of_photos` gives it the vectors of photos alone.
    """
    reads_ids = content.reads_codes
    own = tower(content, tasks={} if reads_ids else None, sets=ALL_SETS).dump()
    pretrain = gated(stages).override(*WHOLE_RATE).dump()
    return RecallConfig.parse({**own, "pretrain": pretrain, **({"content": ["photo"]} if of_photos else {})})


def reader(semantic_ids: Tree | None) -> RecallConfig:
    """Two towers over vectors of the items, or over what their semantic IDs, made so, stand for."""
    tree: dict[str, Any] = {"pretrain": ContrastiveConfig().dump(), "recall": {"model": {"fusion": "mm"}}}
    return RecallConfig.parse(tree if semantic_ids is None else {**tree, "semantic_ids": semantic_ids})


def tower(
    content: Content, *, tasks: Tree | None = None, longer: bool = False, sets: Sequence[str] = ("item",)
) -> RecallConfig:
    """One tower of items over their titles and what `content` says, with tasks of semantic IDs or without.

    `longer` adds the epochs of C1, so that the contrast has as many as without tasks. `sets` are those of the IDs.
    """
    model = {"kind": "semantic_tower", "content": content.value, "tasks": tasks}
    epochs = TOWER_EPOCHS + (CodeTasksConfig().first_epochs if longer else 0)
    tree: dict[str, Any] = {"pretrain": ContrastiveConfig().dump(), "recall": {"model": model, "epochs": epochs}}
    return RecallConfig.parse({**tree, "semantic_ids": {"sets": sets}} if content.reads_codes else tree)


def fused() -> GenerationConfig:
    """A decoder whose answers are fused with the encoder's, by the reciprocals of places alone."""
    rule = {"channels": ["dense", "generative"], "fusion": "rrf", "weights": {"dense": 0.5, "generative": 0.5}}
    return GenerationConfig.parse({"hybrid": rule})


PRODUCT_CODES: Tree = {"quantizer": {"kind": "product_kmeans"}}
"""What an index keeps of a vector in as many bytes as its ID takes."""
ALL_SETS = ("item", "title", "photo")
"""What there are semantic IDs of in one row, each with codebooks of its own."""
WHOLE_RATE = ("loop.learning_rate=0.002",)
"""Of the encoders below SMGR as a whole: what both trainings choose in the part on pretraining."""
TOWER_EPOCHS = 3.0
"""Of every row of a tower but a longer one; with tasks, one of them is of C1."""
_NO_SAYING: Tree = {"generative_query": 0.0, "generative_features": 0.0}
_NO_TELLING: Tree = {"discriminative_query": 0.0, "discriminative_features": 0.0}
_RECALL_RATES = tuple((f"recall.learning_rate={value}",) for value in (0.001, 0.003))
_DECODER_RATES = tuple((f"generative.learning_rate={value}",) for value in (0.001, 0.002))
_ENCODER_TRIALS: tuple[Settings, ...] = (("temperature=0.05",), ("temperature=0.07",))


def _whole(name: str, what: str, stages: str, content: Content = Content.SID, *, of_photos: bool = False) -> Row:
    return Row(name, what, lambda: whole(stages, content, of_photos=of_photos), _RECALL_RATES, start=gated_warm)


def _tower(
    name: str,
    what: str,
    content: Content,
    *,
    tasks: Tree | None = None,
    longer: bool = False,
    sets: Sequence[str] = ("item",),
    **more: Any,
) -> Row:
    return Row(name, what, lambda: tower(content, tasks=tasks, longer=longer, sets=sets), _RECALL_RATES, **more)


RETRIEVAL_ROWS = (
    Row("text encoder", "an encoder of titles, by its vectors", text_encoder, _ENCODER_TRIALS),
    Row("late fusion", "title and photo joined at the end, all contrasts (Que2Search)", partial(gated, "joint"), RATES),
    Row(
        "encoder", "title and photo in one stream (as MAKE); all below stand on it", ContrastiveConfig, _ENCODER_TRIALS
    ),
    Row("towers", "two towers over its vectors", lambda: reader(None), _RECALL_RATES),
    Row("towers over ids", "… over what their IDs stand for", lambda: reader({}), _RECALL_RATES),
    Row("towers over parts", "… or product codes of as many bytes", lambda: reader(PRODUCT_CODES), _RECALL_RATES),
    Row("generative", "a decoder says the IDs", GenerationConfig, _DECODER_RATES),
    Row("hybrid", "… and its answers are fused with the encoder's", fused, _DECODER_RATES),
    _tower("tower none", "one tower of items, over their titles", Content.NONE),
    _tower("tower dense", "… and the encoder's vectors", Content.DENSE),
    _tower("tower sid", "… and tokens of their IDs", Content.SID),
    _tower("tower both", "… and both", Content.BOTH),
    _tower("tower sid, item + title", "… tokens, also of titles' own IDs", Content.SID, sets=("item", "title")),
    _tower("tower sid, item + photo", "… or of photos' own", Content.SID, sets=("item", "photo")),
    _tower("tower sid, title + photo", "… or of these two alone", Content.SID, sets=("title", "photo")),
    _tower("tower sid, all sets", "… or of all three", Content.SID, sets=ALL_SETS),
    _tower("tower sid + tasks", "tokens, with all four tasks of IDs", Content.SID, tasks={}),
    _tower("tower sid + tasks, longer", "… and as much contrast as without", Content.SID, tasks={}, longer=True),
    _tower("tower both + tasks", "both, with all four", Content.BOTH, tasks={}),
    _tower("tower sid - generative", "tokens, without the tasks that say IDs", Content.SID, tasks=_NO_SAYING),
    _tower("tower sid - discriminative", "… without those that tell them", Content.SID, tasks=_NO_TELLING),
    _tower("tower sid, bce", "… told pair by pair", Content.SID, tasks={"form": "bce"}),
    Row("late fusion, joint", "late fusion, from a warm start", partial(gated, "joint"), RATES, start=gated_warm),
    Row("late fusion, staged", "… in stages (o1)", partial(gated, "o1"), RATES, start=gated_warm),
    _whole("smgr", "SMGR as a whole: that in stages, three sets of IDs, a tower with all four tasks", "o1"),
    _whole("smgr, joint", "… the encoder trained jointly", "joint"),
    _whole("smgr without ids", "… a tower of titles alone", "o1", Content.NONE),
    _whole("smgr by photos", "… by the vectors of photos in the place of IDs", "o1", Content.DENSE, of_photos=True),
    Row(
        "random-id towers", "towers over IDs that belong to other items", lambda: reader({}), _RECALL_RATES, Control.IDS
    ),
    Row("random-id generative", "a decoder says IDs of other items", GenerationConfig, _DECODER_RATES, Control.IDS),
    _tower("random-id tower sid", "tokens of other items' IDs", Content.SID, control=Control.IDS),
    _tower("random-id tower both", "… and the encoder's vectors", Content.BOTH, control=Control.IDS),
    _tower("random-id tower sid + tasks", "… with all four tasks", Content.SID, tasks={}, control=Control.IDS),
)
RETRIEVAL_CLAIMS = (
    Ordering("Photos find more than titles alone", "encoder", "text encoder"),
    Ordering("… where only the photo shows what is asked for", "encoder", "text encoder", slice="photo_only"),
    Ordering("Title and photo in one stream find more than joined at the end", "encoder", "late fusion"),
    Ordering("Vectors hold more than their codes", "towers", "towers over ids"),
    Ordering("… also of new items", "towers", "towers over ids", slice="new_items"),
    Ordering("Residual codes keep more than product codes", "towers over ids", "towers over parts"),
    Ordering("Codes say what an item is", "towers over ids", "random-id towers"),
    Ordering("… of new items too", "towers over ids", "random-id towers", slice="new_items"),
    Ordering("To say IDs finds more than the vectors that they were made of", "generative", "encoder"),
    Ordering("… but not more than towers trained on the same clicks", "towers", "generative"),
    Ordering("… nor of new items", "towers", "generative", slice="new_items"),
    Ordering("IDs that mean something are said better", "generative", "random-id generative"),
    Ordering("… of new items too", "generative", "random-id generative", slice="new_items"),
    Ordering("Tokens of IDs add to the title", "tower sid", "tower none"),
    Ordering("… of new items too", "tower sid", "tower none", slice="new_items"),
    Ordering("… in the order of results", "tower sid", "tower none", column=_NDCG),
    Ordering("All sets of IDs add to the title", "tower sid, all sets", "tower none"),
    Ordering("… more than that of the whole item", "tower sid, all sets", "tower sid"),
    Ordering("… than it and the titles'", "tower sid, all sets", "tower sid, item + title"),
    Ordering("… than it and the photos'", "tower sid, all sets", "tower sid, item + photo"),
    Ordering("… than those of titles and photos", "tower sid, all sets", "tower sid, title + photo"),
    Ordering("It is what IDs say that adds", "tower sid", "random-id tower sid"),
    Ordering("… of new items too", "tower sid", "random-id tower sid", slice="new_items"),
    Ordering("Vectors tell more than tokens", "tower dense", "tower sid"),
    Ordering("Tokens add to the vectors that they are of", "tower both", "tower dense"),
    Ordering("… by what they say", "tower both", "random-id tower both"),
    Ordering("The tasks help: full > without", "tower sid + tasks", "tower sid"),
    Ordering("… at as much contrast", "tower sid + tasks, longer", "tower sid"),
    Ordering("… in the order of results", "tower sid + tasks", "tower sid", column=_NDCG),
    Ordering("… beside vectors too", "tower both + tasks", "tower both"),
    Ordering("… more than with IDs of other items", "tower sid + tasks", "random-id tower sid + tasks"),
    Ordering("Saying IDs has a share in it: full > -generative", "tower sid + tasks", "tower sid - generative"),
    Ordering("So has telling them: full > -discriminative", "tower sid + tasks", "tower sid - discriminative"),
    Ordering("A contrast of IDs teaches more than pairs", "tower sid + tasks", "tower sid, bce"),
    Ordering("SMGR as a whole finds more than its encoder", "smgr", "late fusion, staged"),
    Ordering("… than a text two-tower", "smgr", "text encoder"),
    Ordering("… than joint training with late fusion (Que2Search)", "smgr", "late fusion, joint"),
    Ordering("… in the order of results", "smgr", "late fusion, joint", column=_NDCG),
    Ordering("… than one stream (MAKE)", "smgr", "encoder"),
    Ordering("… than generation alone", "smgr", "generative"),
    Ordering("… than without IDs", "smgr", "smgr without ids"),
    Ordering("… than with vectors of photos in their place", "smgr", "smgr by photos"),
    Ordering("… over stages more than over joint training", "smgr", "smgr, joint"),
    Ordering("Stages beat joint training with late fusion", "late fusion, staged", "late fusion, joint"),
    Ordering("What says IDs and what compares vectors find different things", "hybrid", "encoder"),
    Ordering("… to both sides", "hybrid", "generative"),
)
