"""EM3's table: rankers that read content in several ways, and EM3 without each of its parts.

Source: EM3 (Deng et al., "End-to-end training of multimodal model and ranking model", arXiv 2404.06078), whose figures
for ranking are not public; the rows are those that the reconstruction asks for (specs/em3.md, section 9). Each ranker
is DIN, SIM or DCNv2, by IDs and attributes alone, or with one way to read content more.

All content is of one encoder, the same for every row, which stays as it is: its vectors of an item's title, of its
photo and of both. Every row reads all three, and makes vectors of one length of them, but for the rows that are about
that: EM3 by its Q-Former, `frozen` by one map of the three side by side, `din, frozen mlp` by an MLP, which is EM3
without the Q-Former and the contrast. Of `din, em3 full` alone the ranking loss trains the encoder on, from candidates.
Where searches are the requests, `match` rows read that encoder's cosine of query and item as a number more.

Made in parts: what searches showed (fashion, simulated shoppers), and ratings of films, high against low, each user's
latest ones held out, or all after a moment, which is the honest protocol and has few users to judge by. Ranked is what
was shown and nothing else (`evaluate.tasks.ranking`).
"""

from __future__ import annotations

from typing import Any

from triptych.data.datasets.fashion import FashionConfig
from triptych.data.datasets.generated_shop import GeneratedShopConfig
from triptych.data.splits import SplitBy
from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Ordering
from triptych.pretrain.base import PretrainConfig
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.ranker.models.sim import Search
from triptych.recipes.config import RunConfig
from triptych.recipes.controls import Control
from triptych.recipes.movielens import movielens
from triptych.recipes.ranker import RankerConfig
from triptych.recipes.reproduce.base import Form, Protocol, Row, Settings, Table

RATES = 0.001, 0.003


def trials(*epochs: float, further: Settings = ()) -> tuple[Settings, ...]:
    """Return both learning rates with each number of passes over the log, 1 being what a ranker has by itself."""
    return tuple(
        (f"ranker.learning_rate={rate}", *(() if passes == 1 else (f"ranker.epochs={passes}",)), *further)
        for passes in epochs
        for rate in RATES
    )


TRIALS = trials(1, 3)
"""IDs are learned by heart in a second epoch, other weights want more than one: each row may choose, where the log is
small enough to try it; three with the higher rate lose on films, and are left out (docs/experiments.md). On fashion's
every row has one pass over it, as rankers of a stream have, and tries the rate. Trials have all of their steps, so that
what is chosen is trained already, with the first seed."""
END_TO_END = trials(0.25, 0.75, further=("ranker.validations=2",))
"""A quarter of those, for rows that are compared with one whose encoder is trained; it encodes all items anew for each
validation."""
SIDES = ("title", "photo")
EVERY = (*SIDES, "item")
DIM = 64
"""Length of an item's vector by content, in every row that has one."""
FROZEN: dict[str, Any] = {"kind": "frozen", "dim": DIM}
MLP: dict[str, Any] = {**FROZEN, "hidden_dims": (DIM,)}
GAUC = Column("gauc")
NEW, FEW = "shown 0 times", "shown 1–5 times"
"""Slices of items by how often training has shown them."""


def on_fashion() -> Table:
    """What searches showed."""
    full = RunConfig(dataset=FashionConfig(), seeds=(0, 1, 2))
    quick = RunConfig(dataset=GeneratedShopConfig(), seeds=(0,))
    return _table(
        "fashion",
        "what searches showed, simulated shoppers",
        encoder=ContrastiveConfig(),
        forms=(full, quick),
        hours=1.2,
        settings=("ranker.negative_rate=0.25", "ranker.validations=2", "ranker.validation_samples=20000"),
        num_trials=2,
        trial_queries=5_000,
        has_queries=True,
    )


def on_movielens() -> Table:
    """What users thought of films; each one's latest ratings are held out, others' later ones are in training."""
    return _on_films("movielens", "films rated high or low, others' later ratings known", split=SplitBy.USER)


def on_movielens_by_time() -> Table:
    """The same after a moment: nothing later is known, and of few users something is held out."""
    return _on_films("movielens-by-time", "films rated high or low, nothing later known", split=SplitBy.FRACTION)


def _on_films(part: str, of: str, *, split: SplitBy) -> Table:
    full = movielens().merged({"seeds": [0, 1, 2], "split": {"by": split}})
    quick = RunConfig(dataset=GeneratedShopConfig(), seeds=(0,)).merged({"split": {"by": SplitBy.USER}})
    encoder = movielens().pretrain
    settings = ("pretrain.loop.steps=400", "ranker.validations=6", "ranker.patience=2")
    return _table(
        part,
        of,
        encoder=encoder,
        forms=(full, quick),
        hours=0.7,
        settings=settings,
        num_trials=3,
        search=Search.FEATURES,
    )


def _table(
    part: str,
    of: str,
    *,
    encoder: PretrainConfig,
    forms: tuple[RunConfig, RunConfig],
    hours: float,
    settings: Settings,
    num_trials: int | None = None,
    trial_queries: int | None = None,
    has_queries: bool = False,
    search: Search = Search.CATEGORY,
) -> Table:
    """One part of the table.

    Args:
        part: its name.
        of: what is told apart, in a few words.
        encoder: what makes the content.
        forms: data and split of the full and of the quick form.
        hours: of the full form.
        settings: likewise.
        num_trials: likewise; None: all.
        trial_queries: likewise; see `Form`.
        has_queries: whether searches are the requests.
        search: how SIM finds: films, other than goods, have no category.
    """
    full, quick = forms
    return Table(
        name=f"em3 --part {part}",
        title=f"Rankers that read content: {of}",
        rows=(*_rows(encoder, search=search), *(_match_rows(encoder) if has_queries else ())),
        claims=(*CLAIMS, *(MATCH_CLAIMS if has_queries else ())),
        protocol=Protocol.RANK,
        headline=GAUC,
        spaces=("din, em3", "din, em3 no contrast"),
        full=Form(run=full, hours=hours, settings=settings, num_trials=num_trials, trial_queries=trial_queries),
        quick=Form(
            run=quick,
            hours=0.3,
            rows=("din", "din, frozen", "din, simtier", "din, em3", "permuted-content din, em3"),
            settings=(
                "pretrain.encoder.title_features=[]",
                "pretrain.loop.steps=200",
                "pretrain.loop.warmup_steps=20",
                "ranker.negative_rate=0.1",
                "ranker.model.history_items=20",
            ),
            num_trials=1,
        ),
    )


def ranker(
    model: dict[str, Any],
    content: dict[str, Any],
    *,
    modalities: tuple[str, ...],
    encoder: PretrainConfig,
    reads_match: bool = False,
    semantic_ids: dict[str, Any] | None = None,
) -> RankerConfig:
    """A ranker, over the encoder's vectors where it reads content (or IDs made of them), or the match with a query."""
    tree: dict[str, Any] = {"ranker": {"model": model, "content": content, "reads_match": reads_match}}
    if modalities:
        tree["modalities"] = modalities
    if semantic_ids is not None:
        tree["semantic_ids"] = semantic_ids
    if modalities or reads_match or semantic_ids is not None:
        tree["pretrain"] = encoder.dump()
    return RankerConfig.parse(tree)


def _rows(encoder: PretrainConfig, *, search: Search) -> tuple[Row, ...]:
    def row(
        name: str,
        what: str,
        content: str | dict[str, Any],
        *modalities: str,
        permuted: bool = False,
        tried: tuple[Settings, ...] = TRIALS,
        **sizes: Any,
    ) -> Row:
        kind = name.removeprefix("permuted-content ").split(",")[0]
        model = {"kind": kind, **({"search": search.value} if kind == "sim" else {}), **sizes}
        tree = {"kind": content} if isinstance(content, str) else content

        def config() -> RankerConfig:
            return ranker(model, tree, modalities=modalities, encoder=encoder)

        return Row(name, what, config, tried, Control.CONTENT if permuted else Control.NONE)

    def em3(**settings: Any) -> dict[str, Any]:
        return {"kind": "em3", "dim": DIM, **settings}

    def of_codes() -> RankerConfig:
        return ranker(
            {"kind": "din"}, {"kind": "semantic_ids", "dim": DIM}, modalities=(), encoder=encoder, semantic_ids={}
        )

    def plain(kind: str, what: str) -> tuple[Row, ...]:
        return (
            row(kind, what, "none"),
            row(f"{kind}, frozen", "… and title, photo and item side by side, as they are", FROZEN, *EVERY),
            row(f"{kind}, simtier", "… a histogram of their cosines with the history's", "simtier", *EVERY),
            row(f"{kind}, em3", "… EM3: candidates train the Q-Former, behaviours factors", em3(), *EVERY),
        )

    return (
        *plain("din", "DIN, target attention: IDs and attributes alone"),
        row("din, frozen mlp", "din, frozen through an MLP", MLP, *EVERY),
        row("din, frozen item", "… through one map, and of the item's vector alone", FROZEN, "item"),
        Row("din, semantic ids", "… trained vectors of the codes of the item's vector", of_codes, TRIALS),
        row("din, em3 frozen", "EM3, its Q-Former as drawn", em3(train="frozen", train_behaviours="frozen"), *EVERY),
        row("din, em3 lora", "… both sides train factors", em3(train="lora", train_behaviours="lora"), *EVERY),
        row("din, em3 adapter", "… both train the weights", em3(train_behaviours="adapter"), *EVERY),
        row("din, em3 one-sided", "… candidates alone train them", em3(train_behaviours="frozen"), *EVERY),
        row(
            "din, em3 cache", "… and behaviours are what they last were as those", em3(train_behaviours="cache"), *EVERY
        ),
        row("din, em3 lora cache", "… with factors over that", em3(train_behaviours="lora_cache"), *EVERY),
        row(
            "din, em3 kept",
            "… of title and photo, a quarter of the steps",
            em3(train_behaviours="lora_cache"),
            *SIDES,
            tried=END_TO_END,
        ),
        row(
            "din, em3 full",
            "… the same, and candidates train the encoder on",
            em3(train="full", train_behaviours="lora_cache"),
            *SIDES,
            tried=END_TO_END,
        ),
        row("din, em3 no contrast", "… nothing is contrasted", em3(contrast_weight=0.0), *EVERY),
        row("din, em3 strong contrast", "… with a hundred times the weight", em3(contrast_weight=0.1), *EVERY),
        row("din, em3 ten choices", "… of the latest ten choices", em3(), *EVERY, history_items=10),
        row("din, em3 title", "… of the title alone", em3(), "title"),
        row("din, em3 photo", "… of the photo alone", em3(), "photo"),
        row("permuted-content din, frozen", "din, frozen with another item's", FROZEN, *EVERY, permuted=True),
        row("permuted-content din, em3", "din, em3 with another item's", em3(), *EVERY, permuted=True),
        *plain("sim", "SIM, what a search finds in long histories"),
        *plain("dcnv2", "DCNv2, cross layers and a mean of the history"),
    )


def _match_rows(encoder: PretrainConfig) -> tuple[Row, ...]:
    def plain() -> RankerConfig:
        return ranker({"kind": "din"}, {"kind": "none"}, modalities=(), encoder=encoder, reads_match=True)

    def em3() -> RankerConfig:
        return ranker({"kind": "din"}, {"kind": "em3", "dim": DIM}, modalities=EVERY, encoder=encoder, reads_match=True)

    return (
        Row("din, match", "din, and the encoder's cosine of query and item", plain, TRIALS),
        Row("din, em3 match", "din, em3, and that", em3, TRIALS),
    )


def _claims(kind: str) -> tuple[Ordering, ...]:
    plain, frozen, simtier, em3 = kind, f"{kind}, frozen", f"{kind}, simtier", f"{kind}, em3"
    return (
        Ordering(f"Frozen content helps {kind}", frozen, plain),
        Ordering("… among items that training has not shown", frozen, plain, slice=NEW),
        Ordering(f"To train what fuses it with {kind} is better: EM3 > frozen", em3, frozen),
        Ordering("… among items that training has not shown", em3, frozen, slice=NEW),
        Ordering("… shown one to five times", em3, frozen, slice=FEW),
        Ordering("EM3 > SimTier", em3, simtier),
    )


CLAIMS = (
    *_claims("din"),
    Ordering("EM3 > semantic IDs", "din, em3", "din, semantic ids"),
    Ordering("The Q-Former earns its place: > MLP", "din, em3 no contrast", "din, frozen mlp"),
    Ordering("The encoder's vectors of title and photo add to that of both", "din, frozen", "din, frozen item"),
    Ordering("The contrast earns its place", "din, em3", "din, em3 no contrast"),
    Ordering("… with more weight", "din, em3 strong contrast", "din, em3"),
    Ordering("To train the Q-Former at all helps", "din, em3", "din, em3 frozen"),
    Ordering("To train behaviours' side helps", "din, em3", "din, em3 one-sided"),
    Ordering("… in full more than by factors", "din, em3 adapter", "din, em3"),
    Ordering("Candidates in full are better than by factors", "din, em3", "din, em3 lora"),
    Ordering("Kept behaviours are worse than encoded ones", "din, em3 one-sided", "din, em3 cache"),
    Ordering("… with factors too", "din, em3", "din, em3 lora cache"),
    Ordering("The ranking loss should reach the encoder: full > kept", "din, em3 full", "din, em3 kept"),
    Ordering("… among items that training has not shown", "din, em3 full", "din, em3 kept", slice=NEW),
    Ordering("Longer histories help: fifty > ten", "din, em3", "din, em3 ten choices"),
    Ordering("The photo adds to the title", "din, em3", "din, em3 title"),
    Ordering("The title adds to the photo", "din, em3", "din, em3 photo"),
    Ordering("It is what content says that helps: frozen > permuted", "din, frozen", "permuted-content din, frozen"),
    Ordering("… EM3 > permuted", "din, em3", "permuted-content din, em3"),
    *_claims("sim"),
    *_claims("dcnv2"),
)
MATCH_CLAIMS = (
    Ordering("How query and item go together is worth a number of its own", "din, match", "din"),
    Ordering("… more than what the item is made of", "din, match", "din, em3"),
    Ordering("EM3 helps beside it", "din, em3 match", "din, match"),
)
"""Where searches are the requests."""
