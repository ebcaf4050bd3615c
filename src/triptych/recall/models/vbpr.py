r"""VBPR: matrix factorisation with a second pair of vectors, the item's made of its content.

.. math:: x_{ui} = \beta_i + \gamma_u \cdot \gamma_i + \theta_u \cdot (E f_i) + \beta' \cdot f_i

Source: He and McAuley, "VBPR: Visual Bayesian personalized ranking from implicit feedback", AAAI 2016, equation (4).
Changed: f is what the pretrained encoder makes of title and photo, as a unit vector, where theirs is a CNN's of the
photo; terms that are the same for all items of a user (his bias, the global one) are left out. An item that training
has not met has γ and β of row 0, and its own content. To be trained as theirs: ``loss = 'bpr'``, ``single_choices``,
``against = 'full'``.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.id_table import IdTable, TableConfig
from triptych.recall.learned import ItemFeatures, Needs, PenalisedModel, RecallModelConfig, RequestFeatures, Sizes
from triptych.recall.models.matrix_factorization import squares, with_one


class VbprConfig(RecallModelConfig):
    """Sizes."""

    kind: Literal["vbpr"] = "vbpr"
    """Name of the file that defines it."""
    dim: int = Field(64, ge=1)
    """Length of γ, by ID."""
    content_dim: int = Field(64, ge=1)
    """Length of θ, and of E f."""
    temperature: float = Field(1.0, gt=0)
    """Divides scores in training."""
    id_rate_factor: float = Field(100.0, gt=0)
    """Learning rate of γ, θ and β (row-wise Adagrad) as a multiple of the loop's."""
    id_init_std: float = Field(0.1, ge=0)
    """Standard deviation of the first vectors."""
    tables: TableConfig = TableConfig()
    """How the vectors by ID are trained and kept, row by row: optimizer and stored_as."""

    @property
    def reads_content(self) -> bool:
        """It does."""
        return True

    @property
    def needs(self) -> Needs:
        """Users."""
        return Needs(query=False, user=True)

    @property
    def is_penalised(self) -> bool:
        """They are."""
        return True

    def build(self, sizes: Sizes, *, seed: int) -> Vbpr:
        """Make the model with new weights."""
        return Vbpr(self, sizes, seed=seed)


CONFIG = VbprConfig


class Vbpr(PenalisedModel):
    """A user is [γ, θ, 1], an item [γ, E f, β + β' f]: the inner product is the score."""

    config: VbprConfig

    def __init__(self, config: VbprConfig, sizes: Sizes, *, seed: int) -> None:
        """Draw the vectors; use `VbprConfig.build`."""
        super().__init__()
        self.config, self.sizes = config, sizes
        drawn = torch.Generator().manual_seed(seed)

        def table(rows: int, dim: int) -> IdTable:
            return config.tables.build(
                rows, dim, rate_factor=config.id_rate_factor, init_std=config.id_init_std, generator=drawn
            )

        self.users = table(sizes.num_users, config.dim + config.content_dim)
        self.items = table(sizes.num_items, config.dim + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reduce = nn.Linear(sizes.item_content_dim, config.content_dim, bias=False)
            self.bias = nn.Linear(sizes.item_content_dim, 1, bias=False)

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self.config.dim + self.config.content_dim + 1

    def encode_requests(self, requests: RequestFeatures) -> Tensor:
        """Return vectors of users ``[n, vector_dim]``."""
        assert requests.user_ids is not None
        return with_one(self.users(requests.user_ids))

    def encode_items(self, items: ItemFeatures) -> Tensor:
        """Return vectors of items ``[n, vector_dim]``."""
        assert items.content is not None
        own = self.items(items.item_ids)
        content = functional.normalize(items.content, dim=1)
        bias = own[:, -1:] + self.bias(content).float()
        return torch.cat([own[:, :-1], self.reduce(content).float(), bias], dim=1)

    def squared_lengths(self, requests: RequestFeatures, items: ItemFeatures) -> tuple[Tensor, Tensor]:
        """Return those of γ and θ, of γ and β; E and β' are left to the loop's weight decay. See `PenalisedModel`."""
        assert requests.user_ids is not None
        return squares(self.users(requests.user_ids)), squares(self.items(items.item_ids))
