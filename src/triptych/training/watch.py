"""Watching that the loss stays a number, without making a GPU wait."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from triptych.foundation.errors import TriptychError

LAG = {"cpu": 0, "cuda": 1}
"""Steps by which a look lags behind, by type of device."""


class _Seen(NamedTuple):
    step: int
    values: Tensor
    """``[2]`` in host memory: loss and norm of the gradient; filled once `arrived` has happened."""
    arrived: torch.cuda.Event | None


class LossWatch:
    """Looks at the loss and the gradient of every step: on a CPU at once, on a GPU one step later.

    Reading a number from a GPU waits for all it has been given to do, and while the host waits it gives it nothing
    more. So a step's numbers are copied beside the computation and read when the next step is under way. By then a
    spoilt gradient has spoilt the weights in memory, which is why whoever saves or measures them calls `settle` before.
    """

    def __init__(self, device: torch.device, *, name: str, advice: str) -> None:
        """Begin with the next step.

        Args:
            device: where the steps run.
            name: of the task, for the message.
            advice: what to do about it, for the message.
        """
        self.loss = math.nan
        """The newest loss that is known."""
        self._is_cuda = device.type == "cuda"
        self._lag = LAG.get(device.type, 0)
        self._name = name
        self._advice = advice
        self._waiting: deque[_Seen] = deque()

    def see(self, step: int, *, total: Tensor, grad_norm: Tensor) -> None:
        """Take a step's loss and gradient norm before the weights are changed by it.

        Raises:
            TriptychError: one of them, or one of an earlier step, is no finite number.
        """
        # To the host with non_blocking, torch copies into pinned memory, beside the computation.
        values = torch.stack([total, grad_norm]).to("cpu", non_blocking=self._is_cuda)
        arrived = None
        if self._is_cuda:
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append(_Seen(step, values, arrived))
        self._look(keep=self._lag)

    def settle(self) -> None:
        """Look at every step so far.

        Raises:
            TriptychError: as `see`.
        """
        self._look(keep=0)

    def _look(self, *, keep: int) -> None:
        while len(self._waiting) > keep:
            seen = self._waiting.popleft()
            if seen.arrived is not None:
                seen.arrived.synchronize()
            self.loss, norm = seen.values.tolist()
            for what, value in (("loss", self.loss), ("gradient", norm)):
                if not math.isfinite(value):
                    raise TriptychError(
                        f"{self._name}: the {what} became {value} at step {seen.step}, so training stopped before "
                        f"spoilt weights could be saved. {self._advice}"
                    )
