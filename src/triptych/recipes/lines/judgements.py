"""Judged queries without a log: the encoder learns from relevant pairs, and is measured by the grades."""

from __future__ import annotations

from triptych.evaluate.tasks import graded
from triptych.evaluate.tasks.base import TaskResult
from triptych.foundation.artifact import Artifact
from triptych.recall.base import Retriever
from triptych.recall.models.bm25 import Bm25
from triptych.recipes.config import HYBRID
from triptych.recipes.hybrid import hybrid_of_run
from triptych.recipes.served import served_of_run
from triptych.recipes.stages import Stages


def run(stages: Stages) -> Artifact:
    """Run every stage; returns the report."""
    catalogue, config = stages.catalogue, stages.config
    split = stages.split()
    popularity, bm25 = stages.popularity(None), stages.bm25()
    trained = stages.train(split, stages.tokenizer(split))
    served = served_of_run(trained, stages=stages, split=split)
    hybrids = hybrid_of_run(trained, stages=stages, split=split, served=served.plan, popularity=popularity, bm25=bm25)
    hybrid = hybrids[0].artifact if hybrids else None
    bundle = stages.bundle(trained, split=split, served=served.plan, popularity=popularity, bm25=bm25, hybrid=hybrid)

    def judged() -> TaskResult:
        models: dict[str, Retriever] = {"bm25": Bm25.load(bm25.path)}
        fused: dict[str, list[Retriever]] = {}
        if hybrids:
            fused[HYBRID] = [one.retriever(name=HYBRID) for one in hybrids]
        return graded.evaluate(
            {**models, **stages.untuned_rows(), **stages.encoders(trained), **fused},
            catalogue=catalogue,
            split=split,
            config=config.evaluation,
        )

    return stages.report(
        [judged, *stages.relit_photos(split, trained, served=served.plan)],
        split=split,
        trained=trained,
        bundle=bundle,
        inputs={
            "bm25": bm25,
            "photo queries": str(config.photo_queries),
            **stages.untuned_inputs,
            **served.inputs,
            **{f"hybrid seed {seed}": one.artifact for seed, one in zip(config.seeds, hybrids, strict=False)},
        },
        chosen=served.words,
    )
