"""A log of searches: the encoder learns from queries and clicks, and is measured on what was clicked next."""

from __future__ import annotations

import numpy as np

from triptych.evaluate.tasks import search
from triptych.evaluate.tasks.base import TaskResult
from triptych.foundation.artifact import Artifact
from triptych.recall.base import Retriever
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.oracle import Oracle
from triptych.recall.models.popularity import Popularity
from triptych.recipes.stages import Stages
from triptych.recipes.tables import require_behaviour


def run(stages: Stages) -> Artifact:
    """Run every stage; returns the report.

    Raises:
        DataError: no event has a query.
    """
    catalogue, config = stages.catalogue, stages.config
    has_queries = bool(np.any(catalogue.event_array("query_row") >= 0))
    require_behaviour(config, has_queries=has_queries, has_users=catalogue.num_users > 0)
    split = stages.split()
    tokenizer = stages.tokenizer(split)
    popularity, bm25 = stages.popularity(split), stages.bm25()
    trained = stages.train(split, tokenizer)
    stages.bundle(trained, popularity=popularity, bm25=bm25)

    def searched() -> TaskResult:
        counts = Popularity.load(popularity.path)
        models: dict[str, Retriever | list[Retriever]] = {"popularity": counts, "bm25": Bm25.load(bm25.path)}
        oracle = {} if catalogue.judgements is None else {"oracle": Oracle.fit(catalogue, counts=counts.counts)}
        return search.evaluate(
            {**models, **stages.encoders(trained), **oracle},
            catalogue=catalogue,
            split=split,
            config=config.evaluation,
        )

    return stages.report(
        [searched, *stages.relit_photos(split, trained)],
        split=split,
        trained=trained,
        inputs={"popularity": popularity, "bm25": bm25, "photo queries": str(config.photo_queries)},
    )
