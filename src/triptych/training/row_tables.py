"""The parts of a module that change their own weights by rows (`training.task.RowTrained`), in the loop's hands."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from triptych.foundation.errors import ConfigError
from triptych.nn.id_table import WHOLE, Exchange
from triptych.training.task import RateFactors, RowTrained

STATE = "rows/"


class RowTables:
    """All such parts of a module that are trained, by name."""

    def __init__(self, module: nn.Module) -> None:
        """Find them.

        Raises:
            ConfigError: one is shared out among the processes.
        """
        parts = dict(module.named_modules())
        found = [name for name, part in parts.items() if isinstance(part, RowTrained)]
        trained = [name for name in found if any(weight.requires_grad for weight in parts[name].parameters())]
        if shared := [name for name in found if parts[name].shard != WHOLE]:
            raise ConfigError(
                f"The rows of '{shared[0]}' lie with several processes, but only the first one validates and saves. "
                "Use an IdTable, which each process holds, or a loop of your own (docs/id-tables.md)."
            )
        self._tables: dict[str, RowTrained] = {name: parts[name] for name in trained}
        self._shares = {name: rate_factor_of(_beginning(name), module=module) for name in trained}
        self._norms: dict[str, Tensor] = {}
        self.weights = {_beginning(name) + weight for name in found for weight, _ in parts[name].named_parameters()}
        """Names of the weights that are theirs, those at rest included."""

    def sum_gradients(self, group: Exchange) -> list[Tensor]:
        """Add up each table's gradients of the step over all processes; return their norms."""
        self._norms = {name: table.sum_row_gradients(group) for name, table in self._tables.items()}
        return list(self._norms.values())

    def norms(self, beginnings: tuple[str, ...]) -> list[Tensor]:
        """Return the norms, before clipping, of the tables whose names begin so."""
        return [norm for name, norm in self._norms.items() if _beginning(name).startswith(beginnings)]

    def update(self, *, learning_rate: float, scale: Tensor, seed: int) -> None:
        """Change the rows of the step; see `RowTrained.update_rows`."""
        for place, (name, table) in enumerate(self._tables.items()):
            table.update_rows(learning_rate=learning_rate * self._shares[name], scale=scale, seed=seed + place)

    def state(self) -> dict[str, Tensor]:
        """Return what they remember, by name: the tensors themselves."""
        found = {name: table.row_state() for name, table in self._tables.items()}
        return {
            STATE + _beginning(name) + slot: value for name, state in found.items() for slot, value in state.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite what they remember by what `state` returned, here or in another run; pass over other names."""
        for key, own in self.state().items():
            if key in tensors:
                own.copy_(tensors[key])


def rate_factor_of(name: str, *, module: nn.Module) -> float:
    """Return a weight's share of the learning rate; see `training.task.RateFactors`."""
    factors = module.rate_factors() if isinstance(module, RateFactors) else {}
    return next((factor for beginning, factor in factors.items() if name.startswith(beginning)), 1.0)


def _beginning(name: str) -> str:
    """Return how the names of a part's weights begin; the module itself has no name."""
    return f"{name}." if name else ""
