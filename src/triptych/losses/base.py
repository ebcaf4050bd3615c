"""What every loss returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LossOutput:
    """A scalar to minimise, and figures to log.

    The parts are detached when the object is made, so that a logged diagnostic can never join the gradient.

    Attributes:
        total: scalar with a gradient.
        parts: name → detached scalar: the terms of the total, and diagnostics such as in-batch accuracy.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Cut the parts off the graph."""
        object.__setattr__(self, "parts", {name: part.detach() for name, part in self.parts.items()})
