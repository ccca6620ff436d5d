"""Progress on standard error: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..core.progress import Advance
from .parts import amount

LINE_EVERY_S: Final = 10.0
"""Seconds between two plain lines of one step."""

REDRAWN_PER_S: Final = 4
"""Drawing takes time from what is shown: a load test runs in the same process."""

_TITLES: Final = {
    "checkpoint": "Quantized checkpoint",
    "engine": "Engine directory",
    "kernels": "Compiling kernels",
    "golden": "Golden outputs",
    "model_repository": "Triton model repository",
    "k8s": "Kubernetes manifests",
    "pod": "Pod that takes the bundle over",
    "push": "Copying the bundle",
    "verifying": "Checking it on the claim",
    "digests": "Checking digests",
}


class _Rate(ProgressColumn):
    """Units per second, in the task's unit."""

    def render(self, task: Task) -> Text:
        speed, unit = task.finished_speed or task.speed, task.fields["unit"]
        if not speed:
            return Text("")
        shown = f"{amount(speed)}/s" if unit == "bytes" else f"{speed:.1f} {unit}/s"
        return Text(shown, style="dim")


class _Note(ProgressColumn):
    """The item at hand, in the rest of the line; nothing where the note has several lines."""

    def render(self, task: Task) -> Text:
        note = "" if _below(task) else task.fields["note"]
        return Text(note, style="dim", no_wrap=True, overflow="ellipsis")


class _Bars(Progress):
    """Bars, and below them the notes of several lines."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars and the notes."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if note := _below(task):
                yield Text(note, style="dim", no_wrap=True, overflow="ellipsis")


def _below(task: Task) -> str:
    """A note of several lines, indented; nothing for a note of one line."""
    note: str = task.fields["note"]
    return "\n".join(f"  {line}" for line in note.splitlines()) if "\n" in note else ""


class _Lines:
    """A step on an output that cannot be redrawn: a plain line every few seconds."""

    def __init__(self, console: Console, total: int, unit: str) -> None:
        self._console, self._total, self._unit = console, total, unit
        self._started = self._printed = time.monotonic()

    def __call__(self, done: int, note: str = "", /) -> None:
        now = time.monotonic()
        if not done or not self._total or now - self._printed < LINE_EVERY_S:
            return
        self._printed = now
        rate = done / (now - self._started)
        left = (self._total - done) / rate
        shown = f"{amount(rate)}/s" if self._unit == "bytes" else f"{rate:.1f} {self._unit}/s"
        suffix = f"  {'; '.join(note.splitlines())}" if note else ""
        share = done / self._total
        self._console.print(f"  {share:.0%}  {shown}  {left:.0f} s left{suffix}", markup=False)


class Shown:
    """The `core.progress.Progress` of a command line. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._current: int | None = None
        self._bars = _Bars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            _Note(),
            console=console,
            refresh_per_second=REDRAWN_PER_S,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()
        self._bars.stop()

    def step(self, name: str, total: int = 0, unit: str = "") -> Advance:
        """Begin a step, which ends the one before it."""
        self._bars.start()  # not before: something else may be shown until then
        self._finish()
        title = _TITLES.get(name, name[:1].upper() + name[1:])
        if not self._console.is_terminal:
            self._console.print(title)
            return _Lines(self._console, total, unit)
        task = self._bars.add_task(title, total=total or None, unit=unit, note="")
        self._current = task

        def advance(done: int, note: str = "", /) -> None:
            self._bars.update(task, completed=done, note=note)

        return advance

    def _finish(self) -> None:
        if self._current is None:
            return
        task = self._bars.tasks[self._current]
        total = task.total or max(task.completed, 1)
        self._bars.update(task.id, total=total, completed=total, note="")
        self._current = None
