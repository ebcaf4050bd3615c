"""SMGR's tables (arXiv 2602.06654), reconstructed: no value and no equation of the paper's body is public.

The unit is a query in a delivery cell, and only what is delivered there can be found. Part *pretraining* compares
staged with joint training. Those rows need a training task of their own; each becomes one function here that returns
its config, and joins `PRETRAINING_ROWS` and `PRETRAINING_CLAIMS`. Until then the part holds the picture's benefit under
query–item contrast, measured as SMGR measures it.
"""

from __future__ import annotations

from triptych.data.datasets.fashion import FashionConfig
from triptych.data.datasets.generated_shop import GeneratedShopConfig
from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Ordering
from triptych.evaluate.tasks import cells
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.recipes.config import RunConfig
from triptych.recipes.reproduce.base import Form, Protocol, Row, Table
from triptych.recipes.reproduce.taobao_pretraining import TRIALS, contrast_title, contrast_title_photo

EVALUATION = EvaluationConfig(ks=cells.KS, headline_k=5)


def pretraining() -> Table:
    """Return the definition of the part on pretraining."""
    return Table(
        name="smgr --part pretraining",
        title="SMGR, reconstructed: pretraining in stages or jointly",
        rows=PRETRAINING_ROWS,
        claims=PRETRAINING_CLAIMS,
        protocol=Protocol.CELLS,
        full=Form(run=RunConfig(dataset=FashionConfig(), seeds=(0, 1, 2), evaluation=EVALUATION), hours=0.7),
        quick=Form(
            run=RunConfig(dataset=GeneratedShopConfig(), seeds=(0,), evaluation=EVALUATION),
            hours=0.1,
            settings=("loop.steps=150", "loop.warmup_steps=20", "loop.validate_every=50"),
            num_trials=2,
        ),
    )


PRETRAINING_ROWS = (
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
PRETRAINING_CLAIMS = (
    Ordering("The picture helps recall", "title+photo", "title"),
    Ordering("The picture helps the order", "title+photo", "title", column=Column("ndcg", 5)),
    Ordering("The gain is the picture's own", "title+photo", "permuted-photo"),
)
