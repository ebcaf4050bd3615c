"""The config of a whole run: one tree from tables to report."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from triptych.data.catalogue import CatalogueConfig
from triptych.data.datasets.base import DatasetConfig
from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig
from triptych.data.splits import SplitBy, SplitConfig
from triptych.data.text import TokenizerConfig
from triptych.encoders.embeddings import Modality
from triptych.encoders.inputs import Modalities
from triptych.encoders.untuned import UntunedConfig
from triptych.evaluate.records import is_trained
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.config import Config
from triptych.foundation.registry import one_of
from triptych.index.backends.auto import AutoConfig
from triptych.index.base import BACKENDS, IndexConfig
from triptych.pretrain.base import TASKS, LearnsFrom, PretrainConfig
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.pretrain.tasks.history_contrast import HistoryContrastConfig
from triptych.ranker.config import RankTrainConfig
from triptych.recall.config import RecallTrainConfig
from triptych.recall.generative_train import GenerativeTrainConfig
from triptych.recall.hybrid_channels import CHANNELS, NEW, channel_names
from triptych.recall.models.bm25 import Bm25Config
from triptych.recall.models.dense import DenseConfig
from triptych.recall.models.generative import Asks
from triptych.recall.models.hybrid import HybridConfig
from triptych.recall.models.item_knn import ItemKnnConfig
from triptych.recall.models.popularity import PopularityConfig
from triptych.recall.relevance_control import RelevanceControlConfig
from triptych.recipes.semantic_ids import SetsConfig, check_codes

RECALL = "recall"
"""Row of the recall model in a run's tables."""
HYBRID = "hybrid"
"""Row of the fused channels."""
GENERATIVE = "generative"
"""Row of the decoder of semantic IDs."""
RANKER = "ranker"
"""Row of the ranker where scores of what was shown are measured."""
RANKED = "ranked"
"""Row of the whole line: what is found, its first put into the ranker's order."""
ROWS = (RECALL, GENERATIVE, HYBRID, RANKER, RANKED)
"""Names that no training beside may have."""


class Arm(StrEnum):
    """An encoder trained for comparison: same data, steps and settings, another view of the items."""

    TITLE_PHOTO = "title+photo"
    TITLE = "title"
    PHOTO = "photo"
    PERMUTED_PHOTO = "permuted-photo"

    @property
    def modalities(self) -> Modalities:
        """What the item tower reads; the permuted-photo control reads title and (another item's) photo."""
        return Modalities.TITLE_PHOTO if self is Arm.PERMUTED_PHOTO else Modalities(self.value)

    def config(self, config: PretrainConfig) -> PretrainConfig:
        """Return a run's training config with this arm's view of the items."""
        changes: dict[str, Any] = {"modalities": self.modalities}
        if not self.modalities.reads_photo:
            changes["vision_model"] = None
        return config.model_copy(update={"encoder": config.encoder.model_copy(update=changes)})


class Serve(StrEnum):
    """Which of a run's trainings is served."""

    PRETRAIN = "pretrain"
    VALIDATION = "validation"


class RunConfig(Config):
    """Everything that decides a run."""

    recipe: str = "shop"
    """The recipe this config started from."""
    dataset: Annotated[DatasetConfig | None, one_of("triptych.data.datasets")] = None
    """A built-in dataset that brings its own tables; none: the tables below."""
    items: ItemsConfig | None = None
    """Your items table."""
    events: EventsConfig | None = None
    """Your events table."""
    judgements: JudgementsConfig | None = None
    """Your judgements table, if you have one."""
    memory_limit_gib: float | None = Field(None, gt=0)
    """Memory that the process may take while it reads the tables, in GiB; none: what it has and the machine has free.
    What it will take is estimated first, from samples and upwards, and a run that would take more ends with one
    sentence."""
    catalogue: CatalogueConfig = CatalogueConfig()
    """How photos are kept."""
    split: SplitConfig = SplitConfig()
    """How time is divided into training, validation and test."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Subwords of titles and queries."""
    pretrain: Annotated[PretrainConfig, one_of(TASKS)] = ContrastiveConfig()
    """The encoder, and what it learns from: contrastive (queries and what was chosen under them), multitask (many
    objectives, in any mix and order of stages), history_contrast (what users chose one after another), item_contrast
    (titles and photos alone)."""
    compare: tuple[Arm, ...] = (Arm.TITLE,)
    """Encoders trained beside the one that is served, to show what title and photo are worth."""
    beside: dict[str, Annotated[PretrainConfig, one_of(TASKS)]] = Field(default_factory=dict)
    """Further trainings of the same data, shown in the report beside the served one: name → how. They read by the same
    tokenizer, and photos of the same size."""
    untuned: dict[str, UntunedConfig] = Field(default_factory=dict)
    """Pretrained text encoders as they are, without training, shown in the report beside the run's own: name → which;
    the row is called `pretrained NAME`. For recipes with queries."""
    serve: Serve = Serve.PRETRAIN
    """Whose encoder is served, and read by recall and hybrid: pretrain, or validation: the one beside it that finds
    most on the validation part, if by more than chance and than seeds differ; a tie goes to pretrain. The others stand
    in the report all the same."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Training seeds; the first one's encoder is served, and a claim needs three."""
    recall: RecallTrainConfig | None = None
    """The served recall model, over the served encoder's vectors: of searches, or of users where there are no queries
    (kinds sasrec, two_tower with asks = 'history', matrix_factorization, vbpr, lightgcn); none: the encoder alone
    answers."""
    recall_beside: dict[str, RecallTrainConfig] = Field(default_factory=dict)
    """Further recall models over the same vectors, shown in the report beside the served one: name → how."""
    relevance_control: RelevanceControlConfig | None = None
    """Cuts the answers of the served recall model to searches down to items of a kind that the query asks for: of a
    category that holds a share of what was chosen under it in training. None: they are left as they are."""
    recommend: Literal["recall", "item_knn", "dense"] | None = None
    """What recommends where a run without queries is served: the recall model, item-kNN, or dense (the encoder by the
    history); none: recall where there is a recall model, else dense."""
    hybrid: HybridConfig | None = None
    """Channels fused into one, for logs of searches and for judged queries; none: there is no such row and channel."""
    ranker: RankTrainConfig | None = None
    """Puts the first of what a search found into another order, where validation finds it better: trained on what was
    shown, chosen or not. Where its content is not 'none' it reads the served encoder's item vectors, with those of
    title and photo where it fuses them itself (em3); with reads_match also how query and item go together. None: there
    is none."""
    rank_candidates: int = Field(200, ge=1)
    """How many of a search's first items the ranker looks at."""
    semantic_ids: SetsConfig | None = None
    """Short codes of the served encoder's item vectors, and of titles and photos by themselves where `sets` names them:
    the page shows an item's path of codes and who shares it, and a recall model that has tokens for them
    (semantic_tower) reads them; none: there are none. `triptych semantic-ids` makes and measures them by themselves."""
    generative: GenerativeTrainConfig | None = None
    """A decoder that answers words by saying semantic IDs, trained on clicked pages: channel and row `generative`. It
    takes semantic_ids. None: there is none."""
    popularity: PopularityConfig = PopularityConfig()
    """The popularity baseline."""
    bm25: Bm25Config = Bm25Config()
    """Search by the words of titles."""
    item_knn: ItemKnnConfig = ItemKnnConfig()
    """The item-kNN baseline, for logs of users without queries."""
    dense: DenseConfig = DenseConfig()
    """How requests become vectors."""
    index: Annotated[IndexConfig, one_of(BACKENDS)] = AutoConfig()
    """How vectors are searched: auto (exact up to 200,000 items, inverted lists above), exact, ivf, hnsw, milvus.
    `triptych index sweep` measures which settings suit a run."""
    photo_queries: int = Field(500, ge=0)
    """Photos of the catalogue, cropped and re-lit, that must find their own item in the report; 0 leaves that out."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Metrics, intervals and claims of the report."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dataset is not None and any((self.items, self.events, self.judgements)):
            raise ValueError(
                f"dataset '{self.dataset.kind}' brings its own tables, so [items], [events] and [judgements] would "
                'have no effect. Remove them, or start from recipe = "shop".'
            )
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(
                f"compare names {', '.join(self.compare)}, and {self.arms[0]} is served: nothing may be named twice."
            )
        for name, other in self.beside.items():
            self._check_beside(name, other)
        if self.serve is Serve.VALIDATION:
            self._check_choice()
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must not name a seed twice.")
        if self.pretrain.encoder.photos > self.catalogue.max_photos:
            raise ValueError(
                f"pretrain.encoder.photos is {self.pretrain.encoder.photos}, but the catalogue keeps "
                f"{self.catalogue.max_photos} per item; raise catalogue.max_photos to the same."
            )
        if self.pretrain.encoder.photo_px != self.catalogue.photo_px:
            raise ValueError(
                f"pretrain.encoder.photo_px is {self.pretrain.encoder.photo_px} and catalogue.photo_px is "
                f"{self.catalogue.photo_px}; set both to the same."
            )
        if self.pretrain.encoder.vision_model is not None and not any(arm.modalities.reads_photo for arm in self.arms):
            raise ValueError(
                "pretrain.encoder.vision_model has no effect: no encoder of the run reads photos. Remove it, or set "
                "pretrain.encoder.modalities = 'title+photo'."
            )
        if self.pretrain.encoder.text_model is not None and self.tokenizer != TokenizerConfig():
            raise ValueError(
                "tokenizer has no effect with pretrain.encoder.text_model, which brings its own. Remove one of them."
            )
        self._check_sets()
        self._check_recall()
        self._check_control()
        if self.recommend is not None and self.pretrain.learns_from is not LearnsFrom.HISTORIES:
            raise ValueError("recommend has no effect: it is for recipes without queries, such as feed. Remove it.")
        if self.recommend == RECALL and self.recall is None:
            raise ValueError("recommend = 'recall', and there is no recall model. Set recall, or another.")
        self._check_untuned()
        self._check_generative()
        if self.hybrid is not None:
            self._check_hybrid(self.hybrid)
        self._check_ranker()
        learned = self.pretrain
        if isinstance(learned, HistoryContrastConfig) and learned.history_events != self.dense.history_events:
            raise ValueError(
                f"pretrain.history_events is {learned.history_events} and dense.history_events is "
                f"{self.dense.history_events}; set both to the same."
            )
        return self

    def _check_choice(self) -> None:
        if not self.beside:
            raise ValueError(
                "serve = 'validation' has no effect: nothing is trained beside pretrain. Add [beside.NAME], or leave "
                "it out."
            )
        beside = {f"beside.{name}": config for name, config in self.beside.items()}
        for name, config in {"pretrain": self.pretrain, **beside}.items():
            if config.learns_from is not LearnsFrom.QUERIES:
                raise ValueError(
                    f"serve = 'validation' asks queries of the validation part, and {name} learns from none. Leave it "
                    "out."
                )

    def _check_recall(self) -> None:
        if self.recall is None:
            if self.recall_beside:
                raise ValueError("recall_beside names models beside the served one, and there is none. Set recall.")
            return
        if self.pretrain.learns_from is LearnsFrom.ITEMS or self.split.by is SplitBy.QUERY:
            raise ValueError(
                "recall learns from searches or users that led to a choice, and this recipe has none. Remove it."
            )
        for name in self.recall_beside:
            if name in (*Arm, *ROWS) or name in self.beside or not is_trained(name):
                raise ValueError(f"recall_beside.{name}: the tables have a row of that name already. Choose another.")
        asks_words = self.pretrain.learns_from is LearnsFrom.QUERIES
        every = {RECALL: self.recall, **{f"recall_beside.{name}": one for name, one in self.recall_beside.items()}}
        for place, one in every.items():
            if asks_words and not one.recall_model.needs.query:
                raise ValueError(
                    f"{place}.model goes by users or histories alone, and this recipe asks it by words. Set "
                    f"{place}.model.kind = 'two_tower' with asks = 'query' or 'query+history', or 'mgdspr'."
                )
            if not asks_words and one.recall_model.needs.query:
                raise ValueError(
                    f"{place}.model answers queries, and this recipe has none. Set {place}.model.kind = 'sasrec', "
                    "'matrix_factorization', 'vbpr' or 'lightgcn', or 'two_tower' with asks = 'history'."
                )
            if one.recall_model.needs.modalities:
                raise ValueError(
                    f"{place}.model.kind = '{one.recall_model.kind}' fuses vectors of titles and photos itself, and a "
                    "run gives it none: `triptych reproduce em3-public` does, and Python (docs/recall.md). Choose "
                    "another."
                )
            if one.mined_negatives and not one.recall_model.reads_content:
                raise ValueError(
                    f"{place}.mined_negatives are mined by the encoder's vectors, and {place}.model reads none. Set it "
                    "to 0, or another model.fusion."
                )
            if one.recall_model.needs.codes is not None and self.semantic_ids is None:
                raise ValueError(f"{place}.model reads semantic IDs, and there are none. Set semantic_ids.")
            if one.recall_model.needs.title_content:
                self._check_reads_both(f"{place}.model reads titles by themselves beside titles with photos")

    def _check_sets(self) -> None:
        if (ids := self.semantic_ids) is None:
            return
        if Modality.ITEM not in ids.sets:
            raise ValueError("semantic_ids.sets must name item: a page, a decoder and a ranker go by it. Add it.")
        if ids.reads_sides:
            self._check_reads_both("semantic_ids.sets are of titles and photos each")

    def _check_control(self) -> None:
        if self.relevance_control is None:
            return
        if self.recall is None:
            raise ValueError("relevance_control has no effect: there is no recall model. Set recall, or remove it.")
        if self.pretrain.learns_from is not LearnsFrom.QUERIES:
            raise ValueError("relevance_control is of answers to queries, and this recipe has none. Remove it.")

    def _check_untuned(self) -> None:
        if self.untuned and self.pretrain.learns_from is not LearnsFrom.QUERIES:
            raise ValueError("untuned is asked by words, and this recipe has no queries. Remove it.")

    def _check_reads_both(self, why: str) -> None:
        """Refuse an encoder that may be served and that has no vectors of titles beside titles with photos."""
        others = {f"beside.{name}": one for name, one in self.beside.items()} if self.serve is Serve.VALIDATION else {}
        for name, config in {"pretrain": self.pretrain, **others}.items():
            if config.encoder.modalities is not Modalities.TITLE_PHOTO:
                raise ValueError(
                    f"{why}, and {name} reads '{config.encoder.modalities}' alone. Set {name}.encoder.modalities = "
                    "'title+photo'."
                )

    def _check_generative(self) -> None:
        if self.generative is None:
            return
        if self.pretrain.learns_from is not LearnsFrom.QUERIES or self.split.by is SplitBy.QUERY:
            raise ValueError(
                "generative learns from searches that led to a choice, and this recipe has none. Remove it; "
                "`triptych reproduce recommendation` has a decoder that goes by histories."
            )
        if self.generative.model.asks is not Asks.QUERY:
            raise ValueError(
                "generative.model.asks = 'history', and this recipe is asked by words. Set it to 'query', or leave it "
                "out."
            )
        if self.semantic_ids is None:
            raise ValueError("generative says semantic IDs, and there are none. Set semantic_ids.")

    def _check_hybrid(self, hybrid: HybridConfig) -> None:
        if self.pretrain.learns_from is not LearnsFrom.QUERIES:
            raise ValueError("hybrid fuses answers to queries, and this recipe has none. Remove it.")
        names = channel_names(hybrid.channels, has_recall=self.recall is not None)
        unknown = [name for name in names if name not in CHANNELS]
        if unknown:
            raise ValueError(f"hybrid.channels: there is no '{unknown[0]}'. There are: {', '.join(CHANNELS)}.")
        if RECALL in names and self.recall is None:
            raise ValueError("hybrid.channels names recall, and there is no recall model. Set recall, or leave it out.")
        if GENERATIVE in names and self.generative is None:
            raise ValueError(
                "hybrid.channels names generative, and there is no decoder. Set generative, or leave it out."
            )
        if NEW in names and self.split.by is SplitBy.QUERY:
            raise ValueError("hybrid.channels names new, items that nobody chose, and there is no log. Leave it out.")
        for field, named in (("weights", hybrid.weights or {}), ("quotas", hybrid.quotas)):
            absent = [name for name in named if name not in names]
            if absent:
                raise ValueError(
                    f"hybrid.{field} names {absent[0]}, and the channels are {', '.join(names)}. Set hybrid.channels."
                )
        if hybrid.weights is not None and set(hybrid.weights) != set(names):
            raise ValueError(f"hybrid.weights must give each channel one ({', '.join(names)}); 0 for none.")

    def _check_ranker(self) -> None:
        if self.ranker is None:
            if self.rank_candidates != type(self).model_fields["rank_candidates"].default:
                raise ValueError("rank_candidates has no effect: there is no ranker. Set ranker, or leave it out.")
        elif self.pretrain.learns_from is not LearnsFrom.QUERIES or self.split.by is SplitBy.QUERY:
            raise ValueError(
                "ranker learns from what searches showed, chosen or not, and this recipe has no log of searches. "
                "Remove it."
            )
        else:
            check_codes(self.ranker, self.semantic_ids)

    def _check_beside(self, name: str, other: PretrainConfig) -> None:
        if name in (*Arm, *ROWS) or not is_trained(name):
            raise ValueError(f"beside.{name}: the tables have a row of that name already. Choose another.")
        own, encoder = self.pretrain.encoder, other.encoder
        for field in ("text_model", "vision_model", "title_features", "photo_px", "photos"):
            if getattr(own, field) != getattr(encoder, field):
                raise ValueError(
                    f"beside.{name}.encoder.{field} is {getattr(encoder, field)!r} and pretrain.encoder.{field} is "
                    f"{getattr(own, field)!r}: trainings beside each other read the same. Set both alike."
                )

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The served encoder's arm, then those compared with it."""
        return (Arm(self.pretrain.encoder.modalities.value), *self.compare)
