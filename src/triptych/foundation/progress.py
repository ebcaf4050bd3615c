"""Progress of long work: a bar with rate and time left on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

PLAIN_INTERVAL_S = 10.0

_listener: ContextVar[Callable[[Progress], None] | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Tell `listener` of every step instead of the user, for work in a process that shares a terminal with others."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Progress:
    """Progress of one piece of work of known or unknown length.

    Example:
        ``with Progress("photos", total=9583, unit="photo") as bar: bar.advance(64)``
    """

    def __init__(self, label: str, *, total: int | None = None, unit: str = "it", start: int = 0) -> None:
        """Describe the work.

        Args:
            label: a word or two, in front of the bar.
            total: how many units there are; None when unknown.
            unit: what one unit is, singular.
            start: units already done by an earlier, interrupted attempt; they do not count for the rate.
        """
        self.label = label
        self.total = total
        self.unit = unit
        self.done = self._first = start
        self._note = ""
        self._started = self._spoken = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._bar: _Bar | None = None
        self._listener = _listener.get()

    def __enter__(self) -> Self:
        """Start the clock and draw the bar."""
        self._started = self._spoken = time.monotonic()
        if self._listener is not None:
            self._listener(self)
        elif self._terminal:
            self._bar = _Bar(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave one closing line."""
        if self._bar is not None:
            self._bar.close()
        elif error is None and self._listener is None:
            self._say(f"{self.done:,} {self.unit}s in {self.seconds:.1f} s ({self.rate:,.0f}/s)")

    def advance(self, units: int = 1) -> None:
        """Count finished units."""
        self.done += units
        if self._listener is not None:
            self._listener(self)
        elif self._bar is not None:
            self._bar.draw()
        elif time.monotonic() - self._spoken >= PLAIN_INTERVAL_S:
            self._spoken = time.monotonic()
            of = f"/{self.total:,}" if self.total is not None else ""
            self._say(f"{self.done:,}{of} {self.unit}s, {self.rate:,.0f}/s{self._left()}{self._suffix()}")

    def note(self, text: str) -> None:
        """Show a short remark behind the bar, such as the current loss."""
        self._note = text

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._started, 1e-9)

    @property
    def rate(self) -> float:
        """Units per second of this attempt."""
        return (self.done - self._first) / self.seconds

    def _left(self) -> str:
        if self.total is None or self.rate == 0:
            return ""
        return f", {(self.total - self.done) / self.rate:,.0f} s left"

    def _suffix(self) -> str:
        return f", {self._note}" if self._note else ""

    def _say(self, text: str) -> None:
        print(f"{self.label}: {text}", file=sys.stderr, flush=True)


class _Bar:
    """The rich bar behind `Progress`; rich is imported only when there is a terminal to draw on."""

    def __init__(self, owner: Progress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._owner = owner
        self._rich = RichProgress(
            TextColumn("[bold]{task.description:<22}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._rich.start()
        self._task = self._rich.add_task(owner.label, total=owner.total, completed=owner.done, rate="", note="")

    def draw(self) -> None:
        owner = self._owner
        rate = f"{owner.rate:,.0f} {owner.unit}/s"
        self._rich.update(self._task, completed=owner.done, rate=rate, note=owner._note)

    def close(self) -> None:
        self.draw()
        self._rich.stop()


def track(items: Iterable[T], *, label: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield from `items` while showing progress.

    Args:
        items: what to walk through.
        label: a word or two, in front of the bar.
        total: how many there are; taken from ``len(items)`` where that works.
        unit: what one item is, singular.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(label, total=total, unit=unit) as bar:
        for item in items:
            yield item
            bar.advance()
