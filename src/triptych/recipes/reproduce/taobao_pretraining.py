"""The Taobao article's table of pretraining (article part 7; the order of its rows is public, its values are not).

The article's eight rows need training tasks of their own; each becomes one function here that returns its config, and
joins `ROWS` and `CLAIMS`. Until then the table holds what query–item contrast alone gives, with and without photos.
"""

from __future__ import annotations

from triptych.data.datasets.fashion import FashionConfig
from triptych.data.datasets.generated_shop import GeneratedShopConfig
from triptych.evaluate.orderings import Ordering
from triptych.pretrain.base import PretrainConfig
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.recipes.config import Arm, RunConfig
from triptych.recipes.reproduce.base import Form, Row, Table

TRIALS = (("temperature=0.05",), ("temperature=0.03",), ("temperature=0.1",))
"""The scale of the softmax, tried alike for every row."""


def table() -> Table:
    """Return the definition."""
    return Table(
        name="taobao-pretraining",
        title="Taobao pretraining: which tasks, and which loss between query and item",
        rows=ROWS,
        claims=CLAIMS,
        full=Form(run=RunConfig(dataset=FashionConfig(), seeds=(0, 1, 2)), hours=0.7),
        quick=Form(
            run=RunConfig(dataset=GeneratedShopConfig(), seeds=(0,)),
            hours=0.1,
            settings=("loop.steps=150", "loop.warmup_steps=20", "loop.validate_every=50"),
            num_trials=2,
        ),
    )


def contrast_title() -> PretrainConfig:
    """Query–item contrast on titles alone."""
    return Arm.TITLE.config(ContrastiveConfig())


def contrast_title_photo() -> PretrainConfig:
    """Query–item contrast on titles and photos."""
    return ContrastiveConfig()


ROWS = (
    Row("title", "query–item contrast on titles alone", contrast_title, TRIALS),
    Row("title+photo", "query–item contrast on titles and photos", contrast_title_photo, TRIALS),
    Row(
        "permuted-photo",
        "title+photo with photos permuted over the items: its gain must vanish",
        contrast_title_photo,
        TRIALS,
        permutes_photos=True,
    ),
)
CLAIMS = (
    Ordering("The picture helps recall", "title+photo", "title"),
    Ordering("It helps where only the photo shows what is asked for", "title+photo", "title", slice="photo_only"),
    Ordering("The gain is the picture's own", "title+photo", "permuted-photo"),
)
