"""What a stage gives to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import nn

from triptych.losses.base import LossOutput

Batch = TypeVar("Batch")
"""A tuple or NamedTuple of tensors, of None, or of such tuples again, in host memory."""


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

        That the batch depends on nothing else is what makes a resumed run exact: there is no loader to rewind.
        """
        ...

    def num_samples(self, batch: Batch) -> int:
        """Return how many samples a batch counts for, in samples per second."""
        ...

    def losses(self, batch: Batch) -> LossOutput:
        """Run the model on a batch that is on the module's device, under the loop's autocast."""
        ...

    def validate(self) -> Validation:
        """Measure the module on the validation part, in evaluation mode, without gradients and autocast."""
        ...
