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
from triptych.recall.relevance_control import KIND as RELEVANCE_CONTROL
from triptych.recipes.config import GENERATIVE, HYBRID, RANKED, RECALL
from triptych.recipes.generation import generation_of_run
from triptych.recipes.hybrid import hybrid_of_run
from triptych.recipes.ranked_line import ranked_line
from triptych.recipes.ranker import ranker_inputs, ranker_of_run, require_shown
from triptych.recipes.ranking_table import ranking_of_run
from triptych.recipes.recall import control_of_run, recall_inputs, recall_of_run
from triptych.recipes.served import served_of_run
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
    evaluation = config.evaluation
    if config.ranker is not None and evaluation.users_per_query is None:
        evaluation = evaluation.model_copy(update={"users_per_query": 1})  # for nobody a ranker of users orders blindly
    require_shown(config, catalogue=catalogue, split=split)
    control = control_of_run(stages, split=split)
    tokenizer = stages.tokenizer(split)
    popularity, bm25 = stages.popularity(split), stages.bm25()
    trained = stages.train(split, tokenizer)
    served = served_of_run(trained, stages=stages, split=split)
    recalled = recall_of_run(trained, stages=stages, split=split, served=served.plan, control=control)
    own = recalled.get(RECALL, [])
    generated = generation_of_run(trained, stages=stages, split=split, served=served.plan)
    hybrids = hybrid_of_run(
        trained,
        stages=stages,
        split=split,
        served=served.plan,
        popularity=popularity,
        bm25=bm25,
        recalled=own,
        control=control,
        generated=generated,
    )
    rankers = ranker_of_run(trained, stages=stages, split=split, served=served.plan)
    line = ranked_line(
        rankers,
        trained,
        stages=stages,
        split=split,
        served=served.plan,
        recalled=own,
        control=control,
        hybrids=hybrids,
    )
    ranking = None if line is None else line.rule(stages)
    recall, ranker = own[0] if own else None, rankers[0] if rankers else None
    bundle = stages.bundle(
        trained,
        split=split,
        served=served.plan,
        popularity=popularity,
        bm25=bm25,
        recall=None if recall is None else recall.model,
        recall_index=None if recall is None else recall.index,
        relevance_control=control,
        hybrid=hybrids[0].artifact if hybrids else None,
        generative=generated[0].model if generated else None,
        ranker=None if ranker is None else ranker.model,
        ranking=ranking,
        item_views=None if ranker is None else ranker.views,
    )

    def searched() -> TaskResult:
        counts = Popularity.load(popularity.path)
        models: dict[str, Retriever | list[Retriever]] = {"popularity": counts, "bm25": Bm25.load(bm25.path)}
        oracle = {} if catalogue.judgements is None else {"oracle": Oracle.fit(catalogue, counts=counts.counts)}
        fused: dict[str, list[Retriever]] = {
            name: [one.retriever(name=name, config=config) for one in by_seed] for name, by_seed in recalled.items()
        }
        if generated:
            fused[GENERATIVE] = [one.alone(name=GENERATIVE) for one in generated]
        if hybrids:
            fused[HYBRID] = [one.retriever(name=HYBRID) for one in hybrids]
        if line is not None:
            fused[RANKED] = [*line.retrievers(config.evaluation.part)]
        return search.evaluate(
            {**models, **stages.untuned_rows(), **stages.encoders(trained), **fused, **oracle},
            catalogue=catalogue,
            split=split,
            config=evaluation,
        )

    shown = ranking_of_run(
        rankers,
        trained,
        stages=stages,
        split=split,
        served=served.plan,
        popularity=popularity,
        recalled=own,
    )
    return stages.report(
        [searched, *shown, *stages.relit_photos(split, trained, served=served.plan)],
        split=split,
        trained=trained,
        bundle=bundle,
        inputs={
            "popularity": popularity,
            "bm25": bm25,
            "photo queries": str(config.photo_queries),
            **stages.untuned_inputs,
            **served.inputs,
            **recall_inputs(recalled, stages=stages),
            **({} if control is None else {RELEVANCE_CONTROL: control}),
            **ranker_inputs(rankers, stages=stages),
            **({} if ranking is None else {"ranking": ranking, "users per query": str(evaluation.users_per_query)}),
            **{f"{GENERATIVE} seed {seed}": one.model for seed, one in zip(config.seeds, generated, strict=False)},
            **{f"hybrid seed {seed}": one.artifact for seed, one in zip(config.seeds, hybrids, strict=False)},
        },
        chosen=served.words,
    )
