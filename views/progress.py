"""Progress on standard error: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
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

from .parts import amount

_TITLES: Final = {
    "checkpoint": "Quantized checkpoint",
    "engine": "Engine directory",
    "model_repository": "Triton model repository",
    "k8s": "Kubernetes manifests",
    "digests": "Checking digests",
}


class _Rate(ProgressColumn):
    """Units a second, in the task's unit."""

    def render(self, task: Task) -> Text:
        speed, unit = task.finished_speed or task.speed, task.fields["unit"]
        if not speed:
            return Text("")
        shown = f"{amount(speed)}/s" if unit == "bytes" else f"{speed:.1f} {unit}/s"
        return Text(shown, style="dim")


class Shown:
    """The `verbs.progress.Progress` of a command line. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._current: int | None = None
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
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

    def step(self, name: str, total: int = 0, unit: str = "") -> Callable[[int], None]:
        """Begin a step; the one before it is done."""
        self._finish()
        title = _TITLES.get(name, name[:1].upper() + name[1:])
        if not self._console.is_terminal:
            self._console.print(title)
            return lambda _: None
        task = self._bars.add_task(title, total=total or None, unit=unit)
        self._current = task
        return lambda done: self._bars.update(task, completed=done)

    def _finish(self) -> None:
        if self._current is None:
            return
        task = self._bars.tasks[self._current]
        total = task.total or max(task.completed, 1)
        self._bars.update(task.id, total=total, completed=total)
        self._current = None
