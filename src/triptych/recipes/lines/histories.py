"""Users without queries: encoder and recall models learn from their log, and are measured on what they chose next."""

from __future__ import annotations

from triptych.evaluate.tasks import recommend
from triptych.evaluate.tasks.base import TaskResult
from triptych.foundation.artifact import Artifact
from triptych.recall.base import Retriever
from triptych.recall.models.item_knn import ItemKnn
from triptych.recall.models.popularity import Popularity
from triptych.recipes.config import RECALL
from triptych.recipes.recall import recall_inputs, recall_of_run
from triptych.recipes.stages import Stages
from triptych.recipes.tables import require_behaviour


def run(stages: Stages) -> Artifact:
    """Run every stage; returns the report.

    Raises:
        DataError: no event has a user.
    """
    catalogue, config = stages.catalogue, stages.config
    require_behaviour(config, has_queries=catalogue.num_queries > 0, has_users=catalogue.num_users > 0)
    split = stages.split()
    popularity, bm25 = stages.popularity(split), stages.bm25()
    item_knn = stages.item_knn(split)
    trained = stages.train(split, stages.tokenizer(split))
    recalled = recall_of_run(trained, stages=stages, split=split, served=stages.own_plan)
    served = recalled[RECALL][0] if recalled else None
    bundle = stages.bundle(
        trained,
        split=split,
        popularity=popularity,
        bm25=bm25,
        recall=None if served is None else served.model,
        recall_index=None if served is None else served.index,
        item_knn=item_knn,
    )

    def recommended() -> TaskResult:
        models: dict[str, Retriever] = {
            "popularity": Popularity.load(popularity.path),
            "item-knn": ItemKnn.load(item_knn.path),
        }
        by_content = [
            trained[config.arms[0].value, seed].retriever(name="dense", config=config) for seed in config.seeds
        ]
        learned: dict[str, list[Retriever]] = {
            name: [one.recommender(name=name, dense=dense) for one, dense in zip(by_seed, by_content, strict=True)]
            for name, by_seed in recalled.items()
        }
        return recommend.evaluate(
            {**models, **stages.encoders(trained), **learned},
            catalogue=catalogue,
            split=split,
            config=config.evaluation,
        )

    return stages.report(
        [recommended, *stages.relit_photos(split, trained)],
        split=split,
        trained=trained,
        bundle=bundle,
        inputs={
            "popularity": popularity,
            "item-knn": item_knn,
            "history events": str(config.dense.history_events),
            "photo queries": str(config.photo_queries),
            **recall_inputs(recalled, stages=stages),
        },
    )
