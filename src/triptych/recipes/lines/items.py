"""Items without any log: the encoder learns from titles and photos, and is measured by photos of the items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from triptych.data.catalogue import photo_fingerprint
from triptych.data.datasets.base import PhotoQuery
from triptych.data.images import decode_photo
from triptych.evaluate.tasks import photo
from triptych.evaluate.tasks.base import TaskResult
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import DataError
from triptych.foundation.progress import track
from triptych.recipes.stages import AllTrained, Stages


def run(stages: Stages) -> Artifact:
    """Run every stage; returns the report.

    Raises:
        DataError: nothing could be measured: no item has a photo that the encoder reads.
    """
    dataset, config = stages.config.dataset, stages.config
    popularity, bm25 = stages.popularity(None), stages.bm25()
    trained = stages.train(None, stages.tokenizer(None))
    bundle = stages.bundle(trained, split=None, popularity=popularity, bm25=bm25)
    asked = [] if dataset is None else [one for one in dataset.photo_queries() if one.part is config.evaluation.part]
    tasks = [lambda: _photographed(stages, trained, asked)] if asked else []
    tasks += stages.relit_photos(None, trained)
    if not tasks:
        raise DataError(
            "items: no item has a photo, or the encoder reads none, and items without a log are measured by photos. "
            "Set pretrain.encoder.modalities = 'title+photo', or bring events or judgements."
        )
    inputs = {"photo queries": str(config.photo_queries), "photos asked with": _fingerprint(asked)}
    return stages.report(tasks, split=None, trained=trained, bundle=bundle, inputs=inputs)


def _photographed(stages: Stages, trained: AllTrained, asked: Sequence[PhotoQuery]) -> TaskResult:
    """Ask with photos that are no item's own."""
    catalogue = stages.catalogue
    shown = track(asked, label="decoding photos to ask with", unit="photo")
    pixels = np.stack([decode_photo(one.path, px=catalogue.photos.px) for one in shown])
    return photo.evaluate(
        stages.encoders(trained, reading_photos=True),
        catalogue=catalogue,
        photos=pixels,
        item_rows=[np.array([catalogue.item_row(item) for item in one.item_ids]) for one in asked],
        config=stages.config.evaluation,
        task="photo query",
        title="Photo → the items it shows",
    )


def _fingerprint(asked: Sequence[PhotoQuery]) -> str:
    """Identify the photos, and what they show."""
    if not asked:
        return "none"
    root = asked[0].path.parent
    shown = "\n".join(" ".join(one.item_ids) for one in asked)
    return photo_fingerprint((one.path for one in asked), root=root) + hashlib.sha256(shown.encode()).hexdigest()[:8]
