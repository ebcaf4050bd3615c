"""How a recall model is trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from triptych.data.pages import PagesOf
from triptych.foundation.registry import one_of
from triptych.recall.base import RetrieverConfig
from triptych.recall.learned import MODELS, RecallModelConfig, model_config
from triptych.recall.models.two_tower import TwoTowerConfig
from triptych.recall.negatives import Against, LogQ
from triptych.training.epochs import EpochsConfig


class Loss(StrEnum):
    """How a page's choices are set against the negatives."""

    SOFTMAX = "softmax"
    """Each choice against all negatives together (`losses.sampled_softmax`)."""
    BPR = "bpr"
    """Each choice against each negative by itself (`losses.bpr`)."""


class RecallTrainConfig(EpochsConfig):
    """The model, and how it is trained."""

    model: Annotated[RetrieverConfig, one_of(MODELS, default="two_tower")] = TwoTowerConfig()
    """What is trained: a kind of `triptych.recall.models` that learns."""
    loss: Loss = Loss.SOFTMAX
    """How choices are set against negatives: softmax, or bpr (Bayesian personalised ranking)."""
    l2: float = Field(0.0, ge=0)
    """With loss = 'bpr': what each comparison adds of the squared lengths of the rows by ID that it is made of, halved;
    with matrix_factorization, vbpr and lightgcn."""
    against: Against = Against.SAMPLED
    """What a page's choices are contrasted with."""
    num_negatives: int = Field(10_000, ge=1)
    """Draws for a batch, with replacement, shared by its pages; with against = 'sampled' and 'mixed' only."""
    log_q: LogQ = LogQ.IMPORTANCE
    """How scores are corrected for how often an item is a negative: importance, none, or tf with against = 'sampled';
    all items, against = 'full', need no correction."""
    negative_power: float = Field(1.0, ge=0)
    """Negatives are drawn by their number of choices to this power."""
    negative_smoothing: float = Field(0.0, ge=0)
    """Added to the number of choices of every item that training may know; above 0, those that nobody chose are
    negatives too, and what has no vector of its own, as new items have none, is learned to be avoided."""
    hard_mixes: int = Field(0, ge=0)
    """MGDSPR's hard negatives: for each page, so many of the highest-scoring negatives are mixed with its choices."""
    mix_low: float = Field(0.4, ge=0, le=1)
    """Least share of the choice in such a mixture, drawn uniformly for each page."""
    mix_high: float = Field(0.6, ge=0, le=1)
    """Largest share."""
    mined_negatives: int = Field(0, ge=0)
    """For each page so many items more, for it alone, that the pretrained encoder ranks high for its query and that
    nobody chose under it; drawn for each batch."""
    mined_from: int = Field(10, ge=1)
    """Best of those ranks: nearer items may be right ones that nobody happened to choose."""
    mined_to: int = Field(100, ge=1)
    """Worst of those ranks."""
    batch_pages: int = Field(256, ge=1)
    """Pages of a batch; fewer where the log has fewer."""
    most_positives: int = Field(3, ge=1)
    """Choices of a page that are learned from; of more, so many are drawn."""
    single_choices: bool = False
    """Whether each choice of a user is a page by itself, with all of his choices before it as its history, and nothing
    that he chose is a negative; with models that do not read queries only. Otherwise a page is half an hour."""
    pages_rate: float = Field(1.0, gt=0, le=1)
    """Share of the clicked pages that are learned from, to see what a shorter log does."""
    id_min_count: int = Field(1, ge=1)
    """Pages on which a query or an item must stand to be given a vector of its own."""
    query_buckets: int | None = Field(None, ge=1)
    """Vectors that queries share by a hash of their words; none: each has its own."""
    item_buckets: int | None = Field(None, ge=1)
    """Vectors that items share by a hash of their id; none: each has its own."""
    id_dropout_rate: float = Field(0.05, ge=0, lt=1)
    """Share of IDs that are hidden in training, so that what is new is answered by content."""
    history_dropout_rate: float = Field(0.1, ge=0, lt=1)
    """Share of pages that are learned from as those of nobody known, so that a stranger's query is answered too; with
    models that read histories beside queries only."""
    validation_queries: int = Field(1_000, ge=1)
    """Queries of the validation part that choose the best weights; fewer where it has fewer."""
    validation_users: int | None = Field(None, ge=1)
    """Ask each of them for up to so many of the users who chose something under it, with their histories before that,
    as ``evaluation.users_per_query`` does; with models that read histories beside queries only. None: once, for nobody
    known."""
    validation_k: int = Field(100, ge=1)
    """Cut-off of the recall that chooses them."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of all weights but those by ID, which have a multiple of it (`model.id_rate_factor`)."""
    clip_norm: float = Field(3.0, gt=0)
    """Gradients are scaled down to this norm."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        model_config(self.model)
        if self.mix_low > self.mix_high:
            raise ValueError(f"mix_low is {self.mix_low:g} and mix_high {self.mix_high:g}: set them in order.")
        if self.log_q is LogQ.TF and self.against is not Against.SAMPLED:
            raise ValueError("log_q = 'tf' corrects for draws alone: set against = 'sampled', or log_q = 'importance'.")
        needs = self.recall_model.needs
        for name in ("history_dropout_rate", "validation_users"):
            if not (needs.history and needs.query) and getattr(self, name) != _default(name):
                raise ValueError(
                    f"{name} has no effect with model.kind = '{self.model.kind}' as it is set: it does not read "
                    "histories beside queries. Remove it."
                )
        if self.single_choices and needs.query:
            raise ValueError(
                f"single_choices is for users without queries, and model.kind = '{self.model.kind}' as it is set reads "
                "queries. Remove it."
            )
        if needs.runs and self.single_choices:
            raise ValueError(f"single_choices has no effect with model.kind = '{self.model.kind}'. Remove it.")
        if self.pages_of is PagesOf.CHOICES and self.most_positives != _default("most_positives"):
            raise ValueError("most_positives has no effect where each choice is a page by itself. Remove it.")
        if self.loss is Loss.BPR and (self.hard_mixes or self.log_q is LogQ.TF):
            raise ValueError("loss = 'bpr' has no denominator: remove hard_mixes and log_q = 'tf'.")
        if self.l2 and (self.loss is not Loss.BPR or not self.recall_model.is_penalised):
            other = f"loss = '{self.loss}'" if self.loss is not Loss.BPR else f"model.kind = '{self.model.kind}'"
            raise ValueError(f"l2 has no effect with {other}. Remove it.")
        if self.mined_from > self.mined_to:
            raise ValueError(f"mined_from is {self.mined_from} and mined_to {self.mined_to}: set them in order.")
        if self.mined_negatives and (not needs.query or self.against is Against.FULL):
            other = "against = 'full'" if needs.query else f"model.kind = '{self.model.kind}', which reads no queries"
            raise ValueError(f"mined_negatives has no effect with {other}. Remove it.")
        draws = self.against in (Against.SAMPLED, Against.MIXED)
        without_effect = {
            "num_negatives": not draws,
            "negative_power": not draws,
            "negative_smoothing": not draws,
            "log_q": self.against is Against.FULL,
            "mix_low": not self.hard_mixes,
            "mix_high": not self.hard_mixes,
            "mined_from": not self.mined_negatives,
            "mined_to": not self.mined_negatives,
        }
        for name, idle in without_effect.items():
            if idle and getattr(self, name) != _default(name):
                unset = {"mix": "hard_mixes = 0", "mined": "mined_negatives = 0"}
                other = unset.get(name.partition("_")[0], f"against = '{self.against}'")
                raise ValueError(f"{name} has no effect with {other}. Remove one of them.")
        return self

    @model_validator(mode="after")
    def _ids_have_an_effect(self) -> Self:
        needs = self.recall_model.needs
        if self.query_buckets and self.item_buckets and self.id_min_count != _default("id_min_count"):
            raise ValueError("id_min_count has no effect where all ids are hashed into buckets. Remove it.")
        for name in ("item_buckets", "id_min_count") if needs.modalities else ():
            if getattr(self, name) != _default(name):
                raise ValueError(
                    f"{name} has no effect with model.kind = '{self.model.kind}', which has a vector for every item of "
                    "the catalogue. Remove it."
                )
        if not needs.query and self.query_buckets is not None:
            raise ValueError(
                f"query_buckets has no effect with model.kind = '{self.model.kind}' as it is set, which reads no "
                "queries. Remove it."
            )
        for name in ("id_min_count", "query_buckets", "item_buckets", "id_dropout_rate"):
            if not self.recall_model.reads_ids and getattr(self, name) != _default(name):
                fusion = getattr(self.model, "fusion", None)
                other = f"model.kind = '{self.model.kind}'" if fusion is None else f"model.fusion = '{fusion}'"
                raise ValueError(f"{name} has no effect with {other}, which has no vectors by ID. Remove it.")
        return self

    @model_validator(mode="after")
    def _something_is_contrasted(self) -> Self:
        first = self.recall_model.first_epochs
        if self.epochs <= first:
            raise ValueError(
                f"epochs is {self.epochs:g}, and the first {first} are of the model's own tasks: requests and items "
                "would never be contrasted. Raise epochs, or lower model.tasks.first_epochs."
            )
        return self

    @property
    def pages_of(self) -> PagesOf:
        """Whose pages are learned from."""
        needs = self.recall_model.needs
        if needs.query:
            return PagesOf.QUERIES
        return PagesOf.CHOICES if needs.runs or self.single_choices else PagesOf.USERS

    @property
    def recall_model(self) -> RecallModelConfig:
        """The model's config."""
        return model_config(self.model)


def _default(name: str) -> Any:
    return RecallTrainConfig.model_fields[name].default
