"""What a stage gives to the training loop.

Where several processes train together (`training.distributed`), each has a task of its own, made with the group: its
batches hold its share of what one process would have, and its losses are its share of a sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from triptych.losses.base import LossOutput
from triptych.nn.id_table import Exchange, Shard

Batch = TypeVar("Batch")
"""A tuple or NamedTuple of tensors, numbers, None, or of such tuples again, in host memory."""


class Validation(NamedTuple):
    """Figures on the validation part."""

    metrics: Mapping[str, float]
    """Name → value."""
    headline: str
    """The name of the metric that chooses the best weights; higher is better."""


@runtime_checkable
class RateFactors(Protocol):
    """A module some of whose weights are trained at a rate of their own."""

    def rate_factors(self) -> Mapping[str, float]:
        """Return the beginning of the weights' names → their share of the learning rate; all others have 1."""
        ...


@runtime_checkable
class Undecayed(Protocol):
    """A module some of whose matrices have no weight decay, because their rows are vectors by ID."""

    def undecayed(self) -> Sequence[str]:
        """Return the names of those weights."""
        ...


@runtime_checkable
class RowTrained(Protocol):
    """A part of the module that changes its own weights, by the rows that a step has used: `nn.id_table.IdTable`.

    The loop's optimiser leaves its weights alone, and so does weight decay. The loop clips its gradients together with
    all others, gives it the learning rate (`RateFactors` included), and saves what it remembers. Where its weights
    require no gradient, it is left as it is.

    Attributes:
        shard: which of its rows this process holds.
    """

    shard: Shard

    def sum_row_gradients(self, group: Exchange) -> Tensor:
        """Add up the gradients of the step's backward passes over all processes; return the norm of all of them.

        Called once a step by every process, also where none has used the table.
        """
        ...

    def update_rows(self, *, learning_rate: float, seed: int, scale: Tensor) -> None:
        """Change the rows by their gradients times `scale`, and forget those.

        Args:
            learning_rate: of this step.
            seed: of what is drawn; the same in every process, another one for every step.
            scale: what clipping leaves of the gradients.
        """
        ...

    def row_state(self) -> Mapping[str, Tensor]:
        """Return what a step changes beside the weights, by name: the tensors themselves, to be overwritten."""
        ...


@runtime_checkable
class Parts(Protocol):
    """A module with parts whose gradients are worth telling apart."""

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Return part → beginnings of its weights' names."""
        ...


class Task(Protocol[Batch]):
    """A stage, as the loop sees it.

    Attributes:
        name: what is trained, for the progress bar and messages.
        module: holds the weights. Those that require a gradient are trained.
    """

    name: str
    module: nn.Module

    def batch(self, index: int) -> Batch:
        """Prepare batch `index` in host memory: a pure function of the index, called in a thread of its own.

        That the batch depends on nothing else is what makes a resumed run exact: there is no loader to rewind. What is
        drawn is drawn for the whole batch, so that it is the same for any number of processes.
        """
        ...

    def num_samples(self, batch: Batch) -> int:
        """Return how many samples a batch counts for, in samples per second; those of all processes."""
        ...

    def losses(self, batch: Batch) -> LossOutput:
        """Run the model on a batch that is on the module's device, under the loop's autocast.

        Of several processes each returns its share, of the total and of the parts: the sum over them is the loss of the
        whole batch. All call `Group.gather` equally often, even with nothing to add.
        """
        ...

    def validate(self) -> Validation:
        """Measure the module on the validation part, in evaluation mode, without gradients and autocast.

        Asked of the first process only.
        """
        ...
