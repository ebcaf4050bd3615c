"""The Taobao article's table of pretraining (its part 7): which tasks, which loss, one tower or two.

The order of the article's eight rows is public, their values are not. Rows 1 to 3 are one tower, FashionBERT, which
reads query, title and patches in one stream and is cut in two at export; rows 4 to 8 are two towers that meet in
blocks on top.

Two things differ from the article, which begins with a pretrained BERT and has a hundred million pairs. Its single
tower is trained by masked parts and matching alone; from scratch such a tower's vectors stay at chance (row "3 no
QIC"), so that rows 1 to 3 have the contrast of row 7 as well, and towers are compared at equal tasks. Its two towers
export [CLS], here they export the mean of their states as the single tower does; row "7 [CLS]" is the article's. Beside
them: [CLS] of the single tower, title–image matching in the place of everything that sees the query, and the
permuted-photo control.

Every row has the same model size, data, batches, steps and number of trials; the full form makes the first two: on
two cores each further one takes twenty minutes.
What is tried is what the row is about: a margin, a temperature, the sigmoid's scale and its rate; where nothing of that
kind is, the learning rate. Pairs are all that were clicked, drawn by clicks: the article takes each query's
most-clicked item, of which it had a hundred million; here that would leave one pair in twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from triptych.data.datasets.fashion import FashionConfig
from triptych.data.datasets.generated_shop import GeneratedShopConfig
from triptych.evaluate.orderings import Ordering
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.reproduce.base import Form, Row, Settings, Table

QUERY_WORDS, TITLE_WORDS = {"kind": "masked_words", "of": "query"}, {"kind": "masked_words", "of": "title"}
PATCHES = {"kind": "masked_patches"}
QIM, QIM2 = {"kind": "matching", "pair": "query-item"}, {"kind": "matching", "pair": "query-photo"}
TITLE_IMAGE = {"kind": "matching", "pair": "title-photo"}
AT_CROSS = {"at": "cross"}

RATES: tuple[Settings, ...] = (
    ("loop.learning_rate=0.001",),
    ("loop.learning_rate=0.0005",),
    ("loop.learning_rate=0.002",),
    ("loop.learning_rate=0.0003",),
)
QIC = "stages.0.tasks.0"
TEMPERATURES = tuple((f"{QIC}.temperature={value}",) for value in (0.05, 0.1, 0.03, 0.07))
MARGINS = tuple((f"{QIC}.margin={value}",) for value in (0.1, 0.2, 0.05, 0.35))
SIGMOIDS = (
    (f"{QIC}.temperature=0.1",),
    (f"{QIC}.temperature=0.05",),
    (f"{QIC}.temperature=0.1", f"{QIC}.scalar_rate=10"),
    (f"{QIC}.temperature=0.1", f"{QIC}.balanced=true"),
)
"""Temperature, the rate of what is learned with it, and the weighing that the reconstruction proposes."""
UNSCALED = tuple((f"{QIC}.temperature={value}",) for value in (10.0, 30.0, 3.0, 100.0))
"""Scores of vectors of any length are some hundred times those of unit vectors: the scale is chosen anew."""


def table() -> Table:
    """Return the definition."""
    return Table(
        name="taobao-pretraining",
        title="Taobao pretraining: one tower or two, which tasks, which loss between query and item",
        rows=ROWS,
        claims=CLAIMS,
        full=Form(
            run=RunConfig(dataset=FashionConfig(), seeds=(0, 1, 2)),
            hours=1.6,
            settings=("loop.steps=200",),
            num_trials=2,
        ),
        quick=Form(
            run=RunConfig(dataset=GeneratedShopConfig(), seeds=(0,)),
            hours=0.4,
            rows=("3 one tower", "6 sigmoid", "7 softmax", "8 AM-softmax"),
            settings=("loop.steps=200", "loop.warmup_steps=20", "loop.validate_every=100"),
            num_trials=1,
        ),
    )


def _contrast(loss: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "contrast", "loss": loss, **settings}


def _config(
    tasks: Sequence[dict[str, Any]], *, encoder: dict[str, Any] | None = None, **settings: Any
) -> MultitaskConfig:
    tree = {
        "encoder": {"kind": "two_tower", "vector_dim": 256, **(encoder or {})},
        "stages": [{"name": "taobao", "tasks": list(tasks)}],
        "batch_items": 128,
        "queries_per_item": 1,
        "diagnose": False,
        "loop": {"steps": 500, "warmup_steps": 50, "validate_every": 100},
        **settings,
    }
    return MultitaskConfig.parse(tree)


def one_tower(*, export: str = "mean", photo_matching: bool = True, contrast: bool = True) -> MultitaskConfig:
    """FashionBERT: masked words and patches and matching, all on query and item side by side."""
    masked = [one | AT_CROSS for one in (QUERY_WORDS, TITLE_WORDS, PATCHES)]
    matching = [QIM, QIM2] if photo_matching else [QIM]
    before = [_contrast("softmax")] if contrast else []
    encoder = {"export": export}
    return _config([*before, *masked, *matching], encoder=encoder, crossing="single-stream")


def two_towers(
    loss: str,
    *,
    masks_at_cross: bool = False,
    normalize: bool = True,
    export: str = "projected-mean",
    more: Sequence[dict[str, Any]] = (),
    **settings: Any,
) -> MultitaskConfig:
    """Towers that share their weights and meet on top."""
    item_masks = [TITLE_WORDS | AT_CROSS, PATCHES | AT_CROSS] if masks_at_cross else [TITLE_WORDS, PATCHES]
    tasks = [_contrast(loss, **settings), QUERY_WORDS, *item_masks, QIM, QIM2, *more]
    return _config(tasks, encoder={"normalize": normalize, "export": export})


def title_image() -> MultitaskConfig:
    """Title–image matching in the place of all that sees query and item together.

    Nothing trains the projections then, so that means are exported, as of one tower.
    """
    encoder = {"export": "mean"}
    return _config([QUERY_WORDS, TITLE_WORDS, PATCHES, TITLE_IMAGE], encoder=encoder)


SIGMOID: dict[str, Any] = {"loss": "sigmoid"}


def _row(name: str, what: str, make: Callable[[], MultitaskConfig], trials: tuple[Settings, ...], **more: Any) -> Row:
    return Row(name, what, make, trials, **more)


ROWS = (
    _row(
        "1 padded mean",
        "one tower, mean over padding too",
        lambda: one_tower(export="mean-with-padding"),
        TEMPERATURES,
    ),
    _row("2 no QIM2", "one tower without query–photo matching", lambda: one_tower(photo_matching=False), TEMPERATURES),
    _row("3 one tower", "FashionBERT with QIC, QIM and QIM2, mean without padding", one_tower, TEMPERATURES),
    _row("3 [CLS]", "row 3, [CLS] exported", lambda: one_tower(export="cls"), TEMPERATURES),
    _row("3 no QIC", "row 3 as the article has it, without contrast", lambda: one_tower(contrast=False), RATES),
    _row(
        "4 masks on top",
        "row 6, the item's masked tasks behind the meeting",
        lambda: two_towers(masks_at_cross=True, **SIGMOID),
        SIGMOIDS,
    ),
    _row("5 no L2", "row 6, vectors of any length", lambda: two_towers(normalize=False, **SIGMOID), UNSCALED),
    _row("6 sigmoid", "two towers, each pair by itself", lambda: two_towers(**SIGMOID), SIGMOIDS),
    _row("7 softmax", "two towers, softmax over the batch", lambda: two_towers("softmax"), TEMPERATURES),
    _row("8 AM-softmax", "two towers, softmax with a margin", lambda: two_towers("am-softmax"), MARGINS),
    _row("7 [CLS]", "row 7, [CLS] projected", lambda: two_towers("softmax", export="projected"), TEMPERATURES),
    _row(
        "7 with title-image",
        "row 7 and title–image matching",
        lambda: two_towers("softmax", more=(TITLE_IMAGE,)),
        TEMPERATURES,
    ),
    _row("title-image", "title–image matching instead of QIC, QIM, QIM2; mean exported", title_image, RATES),
    _row(
        "permuted-photo 7",
        "row 7 with photos permuted over the items",
        lambda: two_towers("softmax"),
        TEMPERATURES,
        control=Control.PHOTO,
    ),
)
CLAIMS = (
    Ordering("A margin helps: 8 > 7", "8 AM-softmax", "7 softmax"),
    Ordering("Competition within the batch helps: 7 > 6", "7 softmax", "6 sigmoid"),
    Ordering("Item tasks belong into the item tower: 6 > 4", "6 sigmoid", "4 masks on top"),
    Ordering("Unit vectors help: 6 > 5", "6 sigmoid", "5 no L2"),
    Ordering("Padding does not belong into the mean: 3 > 1", "3 one tower", "1 padded mean"),
    Ordering("Query–photo matching helps: 3 > 2", "3 one tower", "2 no QIM2"),
    Ordering("[CLS] is the worse export of one tower: 3 > 3 [CLS]", "3 one tower", "3 [CLS]"),
    Ordering("… and of two, from scratch: 7 > 7 [CLS]", "7 softmax", "7 [CLS]"),
    Ordering("Two towers beat one: 8 > 3", "8 AM-softmax", "3 one tower"),
    Ordering("… at equal tasks and loss: 7 > 3", "7 softmax", "3 one tower"),
    Ordering("Vectors need a contrast: 3 > 3 no QIC", "3 one tower", "3 no QIC"),
    Ordering("Title–image matching is no substitute for queries: 6 > title-image", "6 sigmoid", "title-image"),
    Ordering("… and adds to them: 7 with title-image > 7", "7 with title-image", "7 softmax"),
    Ordering("The photo helps: 7 > permuted", "7 softmax", "permuted-photo 7", slice="photo_only"),
)
