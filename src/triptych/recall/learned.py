"""Recall models that are trained: requests and items become vectors, and an index finds the nearest.

One model per file in `recall.models`. A model knows nothing of logs or files: `recall.features` gathers what it reads,
`recall.train` trains it, `recall.retriever` answers with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.foundation.registry import config_class
from triptych.losses.base import LossOutput
from triptych.nn.bags import Bags, TableBags
from triptych.nn.id_table import WHOLE, Shard
from triptych.nn.model_folder import load_weights, read_described, write_model
from triptych.recall.base import RetrieverConfig

MODELS = "triptych.recall.models"
"""The registry folder; models that are not trained are in it too."""
WHAT = "Recall model"


FLAT_TEMPERATURE = 1.0
"""From here on a softmax over cosines is so flat that it teaches nothing."""


class Score(StrEnum):
    """What scores a request and an item."""

    INNER = "inner"
    """The inner product."""
    COSINE = "cosine"
    """That of unit vectors."""

    def check(self, temperature: float) -> None:
        """Refuse a temperature that does not go with it.

        Raises:
            ValueError: it does not.
        """
        if self is Score.COSINE and temperature >= FLAT_TEMPERATURE:
            raise ValueError(f"temperature {temperature:g} is too high for cosines: set temperature = 0.05.")

    def of(self, vectors: Tensor) -> Tensor:
        """Return vectors whose inner product is the score, float32."""
        vectors = vectors.float()
        return functional.normalize(vectors, dim=-1) if self is Score.COSINE else vectors


class CodeNeeds(NamedTuple):
    """What a model reads of semantic IDs, and what it is asked of them in training."""

    dropout_rate: float = 0.0
    """Share of items of which the ID of a set is hidden in training, each set by itself."""
    targets: bool = False
    """Whether it learns tasks of IDs: of each page one choice is drawn, and IDs that are almost its own."""
    prefix_negatives: int = 0
    """Of these, IDs of other items that begin alike."""
    corrupted_negatives: int = 0
    """And its own with one code replaced."""


class Needs(NamedTuple):
    """What a model reads beside IDs and content, and at most how much of each; 0: it does not.

    What nobody reads is not gathered. Histories are those of `recall.behaviour`.
    """

    query: bool = True
    """Whether it answers queries; False: it goes by users, or by histories, alone."""
    user: bool = False
    """Whether known users have a vector of their own."""
    graph: bool = False
    """Whether it reads who chose what in training, all of it (`GraphModel.connect`)."""
    modalities: bool = False
    """Whether it reads what all items are made of by modality (`ModalityModel.describe`). Then every item of the
    catalogue has a row of its own, chosen or not."""
    runs: bool = False
    """Whether it learns from all choices of a history in one pass, at most `real_time` at a time."""
    query_units: int = 0
    """Characters, pairs of characters, and words of a query, each at most so many."""
    title_words: int = 0
    """Words of an item's title."""
    past_queries: int = 0
    """Queries that the same user has asked before."""
    real_time: int = 0
    """The user's latest choices."""
    short_term: int = 0
    """Those before them, of ten days."""
    long_term: int = 0
    """The latest choices of thirty days, by kind."""
    history_attributes: bool = False
    """Category, brand and merchant of the items in histories."""
    history_content: bool = False
    """Content of the items in histories."""
    title_content: bool = False
    """What the pretrained encoder makes of an item's title alone."""
    codes: CodeNeeds | None = None
    """Semantic IDs of items; None: it reads none."""

    @property
    def choices(self) -> bool:
        """Whether it reads what a user has chosen."""
        return max(self.real_time, self.short_term, self.long_term) > 0

    @property
    def history(self) -> bool:
        """Whether it reads anything of who asks."""
        return self.choices or self.past_queries > 0


class Sizes(NamedTuple):
    """What a model's shape depends on beside its config."""

    num_queries: int
    """Rows of the table of queries; row 0 is that of every query without one of its own."""
    num_items: int
    """Rows of the table of items, likewise."""
    query_content_dim: int
    """Length of a query's content vector; 0 where there are none."""
    item_content_dim: int
    """Length of an item's."""
    unit_rows: Sequence[int] = (0, 0, 0)
    """Rows of the tables of characters, of pairs of characters, and of words; 0 for those that are not read."""
    attribute_rows: Sequence[int] = ()
    """Rows of the table of each attribute of items; a catalogue may have none."""
    num_users: int = 0
    """Rows of the table of users, row 0 that of everybody without one; 0 where nobody has one."""
    num_edges: int = 0
    """Pairs of a user and an item that he chose in training, for a model that reads them; else 0."""
    modalities: Sequence[tuple[str, int]] = ()
    """Name and length of the vectors that items have by modality, for a model that reads them."""
    title_content_dim: int = 0
    """Length of the vector of an item's title alone, for a model that reads it."""
    code_sets: Sequence[tuple[int, int]] = ()
    """Levels and codes of each set of semantic IDs, for a model that reads them."""


class QueryUnits(NamedTuple):
    """The words of queries in three grains. What training has not met is passed over."""

    characters: TableBags
    """Of ``[distinct]`` queries, rows of the table of characters."""
    pairs: TableBags
    """Rows of the table of pairs of characters."""
    words: Tensor
    """int64 ``[distinct, longest]``, rows of the table of words in their order, -1 behind the end."""
    of: Tensor
    """int64 ``[n]``, which of these queries each request has: what many ask is worked out once."""


class PastQueries(NamedTuple):
    """What the users have asked before."""

    words: TableBags
    """Of the ``[distinct]`` queries in question, rows of the table of words."""
    asked: Tensor
    """int64 ``[n, longest]``, places among them, oldest first, -1 behind the end."""


class Behaviour(NamedTuple):
    """What the users have chosen before. Places are among `items`, oldest first, -1 behind the end."""

    items: ItemFeatures
    """The ``[distinct]`` items in question: IDs, and what the model `Needs` of them."""
    real_time: Tensor
    """int64 ``[n, longest]``."""
    short_term: Tensor
    """int64 ``[n, longest]``."""
    long_term: Bags
    """``[n · 3]`` bags of places: of each user the clicks, the carts, the orders."""


class RequestFeatures(NamedTuple):
    """What is known of some requests."""

    query_ids: Tensor
    """int64 ``[n]``, rows of the table of queries; 0 for a query without one."""
    query_content: Tensor | None
    """float32 ``[n, query_content_dim]``, what the pretrained encoder makes of the words; None: nobody reads it."""
    units: QueryUnits | None = None
    """Their words; None: nobody reads them. So with all that follows."""
    past: PastQueries | None = None
    """What was asked before."""
    behaviour: Behaviour | None = None
    """What was chosen before."""
    user_ids: Tensor | None = None
    """int64 ``[n]``, rows of the table of users."""
    step: Tensor | None = None
    """int64 ``[n]``, where several requests share a history: the latest choice that each knows of, as a place in
    ``behaviour.real_time``, row after row. None: request i has row i, and knows all of it."""


class ItemFeatures(NamedTuple):
    """What is known of some items."""

    item_ids: Tensor
    """int64 ``[n]``, rows of the table of items; 0 for an item without one."""
    content: Tensor | None
    """float32 ``[n, item_content_dim]``, what the pretrained encoder makes of title and photo; None where nobody reads
    it."""
    title_words: TableBags | None = None
    """Of ``[n]`` titles, rows of the table of words; None: nobody reads them."""
    attributes: Tensor | None = None
    """int64 ``[n, attributes]``, rows of each attribute's table, -1 for none; None: nobody reads them."""
    title_content: Tensor | None = None
    """float32 ``[n, title_content_dim]``, what the encoder makes of the title alone, NaN where there is none;
    None: nobody reads it."""
    codes: Tensor | None = None
    """int64 ``[n, levels of all sets]``, semantic IDs, -1 where one is hidden or there is none; None: nobody reads
    them."""


class CodeTargets(NamedTuple):
    """What tasks of semantic IDs are asked in a step: one choice of each page, of all processes."""

    items: ItemFeatures
    """``[pages]``, with all of their IDs."""
    code_set: Tensor
    """int64 ``[pages]``, the set whose ID is to be said; every item has one of the first."""
    own: Tensor
    """int64 ``[own pages]``, the places of this process's pages, in the order of its requests."""
    negatives: Tensor
    """int64 ``[own pages, negatives, levels of all sets]``, IDs that are almost those of the choice."""
    same: Tensor
    """bool ``[own pages, pages]``, True where an item has the ID of the page's choice."""
    chosen: Tensor
    """bool ``[own pages, pages]``, True where its ID was chosen under the page's query in training."""
    same_negatives: Tensor
    """bool ``[own pages, negatives]``, likewise."""
    chosen_negatives: Tensor
    """bool ``[own pages, negatives]``, likewise."""


class Step(NamedTuple):
    """A step of training, as a model sees it."""

    requests: RequestFeatures
    """Of this process, as all else unless it says otherwise."""
    items: ItemFeatures
    """Its share of what is chosen and what is not."""
    chosen: Tensor
    """int64 ``[distinct]``, rows of the table of items that the batch's pages chose, of all processes; each once."""
    batch_index: int = 0
    """Of the batch: what is drawn for a step is drawn by it, so that a resumed run draws the same."""
    epoch: int = 0
    """Times that all pages have been seen before."""
    shard: Shard = WHOLE
    """This process's place among those that train together."""
    targets: CodeTargets | None = None
    """What tasks of semantic IDs are asked; None: the model needs none."""


class View(NamedTuple):
    """Further vectors of a step's requests and items, contrasted as its own are."""

    name: str
    """In the log."""
    weight: float
    """Of its loss in the total."""
    requests: Tensor
    """float32 ``[n, dim]``."""
    items: Tensor
    """float32 ``[n, dim]``."""


class Term(NamedTuple):
    """A loss that a model works out itself."""

    weight: float
    """In the total."""
    loss: LossOutput
    """Of several processes, this one's share."""


class Encoded(NamedTuple):
    """What a step is learned from."""

    requests: Tensor
    """float32 ``[n, vector_dim]``."""
    items: Tensor
    """float32 ``[n, vector_dim]``."""
    views: Sequence[View] = ()
    terms: Sequence[Term] = ()
    contrasted: bool = True
    """Whether requests and items are contrasted; False: the step is learned from by the terms alone."""


class RecallModelConfig(RetrieverConfig):
    """Base of every trained model's config."""

    temperature: float = Field(0.05, gt=0)
    """Divides scores in training. An index leaves it out: it changes no order."""

    @property
    @abstractmethod
    def reads_content(self) -> bool:
        """Whether it reads the vectors of a pretrained encoder."""

    @property
    def reads_ids(self) -> bool:
        """Whether queries and items have vectors by ID; as it stands, they have."""
        return True

    @property
    def needs(self) -> Needs:
        """What else it reads; as it stands, nothing."""
        return Needs()

    @property
    def is_penalised(self) -> bool:
        """Whether the lengths of its vectors by ID can be penalised (`PenalisedModel`); as it stands, not."""
        return False

    @property
    def first_epochs(self) -> int:
        """Times through the log before requests and items are contrasted; as it stands, none."""
        return 0

    @abstractmethod
    def build(self, sizes: Sizes, *, seed: int) -> RecallModel:
        """Make the model with new weights."""


class RecallModel(nn.Module, ABC):
    """Requests and items as vectors whose inner product is the score."""

    config: RecallModelConfig
    sizes: Sizes

    @property
    @abstractmethod
    def vector_dim(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return a vector for each request, float32 ``[n, vector_dim]``."""

    @abstractmethod
    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return a vector for each item, float32 ``[n, vector_dim]``."""

    def encode(self, step: Step) -> Encoded:
        """Return vectors of both, as a step of training asks for them; a model whose sides share work does it once."""
        return Encoded(self.encode_requests(step.requests), self.encode_items(step.items))

    def save(self, folder: Path) -> None:
        """Write weights, config and sizes."""
        write_model(folder, self, config=self.config.dump(), sizes=self.sizes._asdict())


class PenalisedModel(RecallModel):
    """A model of vectors by ID, whose lengths a loss may penalise; its config says that it `is_penalised`."""

    @abstractmethod
    def squared_lengths(self, requests: RequestFeatures, items: ItemFeatures) -> tuple[Tensor, Tensor]:
        """Return the squared lengths of the rows by ID behind requests ``[n]`` and items ``[n]``, biases included."""


class CodeModel(RecallModel):
    """A model that reads semantic IDs; its config `Needs` them."""

    @abstractmethod
    def begin_with(self, codebooks: Sequence[Tensor]) -> None:
        """Be told what codes stand for, before training begins.

        Args:
            codebooks: of each set float32 ``[levels, num_codes, code_dim]``, as `Sizes.code_sets` has them.
        """


class GraphModel(RecallModel):
    """A model that reads who chose what in training; its config `Needs` the graph."""

    @abstractmethod
    def connect(self, user_ids: Tensor, item_ids: Tensor) -> None:
        """Be told who chose what, before training begins.

        Args:
            user_ids: int64 ``[edges]``, rows of the table of users.
            item_ids: int64 ``[edges]``, rows of the table of items.
        """


class ModalityModel(GraphModel):
    """A model that reads what all items are made of, modality by modality; its config `Needs` them."""

    @abstractmethod
    def describe(self, modalities: Mapping[str, Tensor]) -> None:
        """Be told what items are made of, before training begins.

        Args:
            modalities: name → float32 ``[num_items, dim]``, by rows of the table of items, as `Sizes.modalities` has
                names and dims; NaN in the row of an item that lacks the modality, and in row 0.
        """


def load_model(folder: Path) -> RecallModel:
    """Open what `RecallModel.save` wrote.

    Raises:
        ArtifactError: files are absent or do not belong together.
    """
    tree, sizes = read_described(folder, what=WHAT)
    model = model_config(config_class(MODELS, tree["kind"]).parse(tree)).build(Sizes(**sizes), seed=0)
    return load_weights(model, folder, what=WHAT)


def read_needs(folder: Path) -> Needs:
    """Say what a saved model reads, without opening it."""
    tree = read_described(folder, what=WHAT).config
    return model_config(config_class(MODELS, tree["kind"]).parse(tree)).needs


def model_config(config: object) -> RecallModelConfig:
    """Return a retriever's config as that of a trained model.

    Raises:
        ConfigError: it is of one that is not trained.
    """
    if not isinstance(config, RecallModelConfig):
        kind = getattr(config, "kind", config)
        raise ConfigError(f"model.kind: '{kind}' is not trained. Choose a model that is, such as 'two_tower'.")
    return config
