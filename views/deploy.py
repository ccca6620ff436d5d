"""View of `deploy`: what will change, the stages as they pass, why one stalls, what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ..k8s.deploy.stages import FILLING, ROLLOUT
from ..k8s.loadtest.stages import STARTING
from .parts import BAD, GOOD, amount, facts, heading, show

if TYPE_CHECKING:
    from ..api.deploy import DeployResult, Plan
    from ..k8s.deploy.changes import Change
    from ..k8s.deploy.diagnosis import Diagnosis
    from ..k8s.deploy.stages import Progress
    from ..k8s.deploy.watch import Look

_PHASES: Final = (FILLING, ROLLOUT, STARTING)

LINE_EVERY_S: Final = 15.0
"""Seconds between two plain lines of one stage."""

_LINES_OF_A_CHANGE: Final = 40


class Shown:
    """The `api.deploy.Listener` of a command line: a table that is redrawn on a terminal, lines
    elsewhere. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._stages: dict[str, str] = {}
        self._line = _Lines(console)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def planned(self, plan: Plan) -> None:
        """Show what will change."""
        show(self._console, heading("Deploying", _place(plan)), facts(_plan_rows(plan)))
        for change in plan.changes:
            if not change.created:
                self._console.print(_difference(change), soft_wrap=True)

    def looked(self, look: Look) -> None:
        """Show how far the rollout is."""
        stages = next(phase for phase in _PHASES if look.position.stage in phase)
        if not self._console.is_terminal:
            self._line.print(stages[look.position.stage], look)
            return
        if self._stages is not stages:
            if self._live:
                self._live.stop()
            self._stages = stages
            self._live = Live(console=self._console, refresh_per_second=8, transient=False)
            self._live.start()
        assert self._live is not None, "started above"
        self._live.update(_table(stages, look))
        if look.position.done:
            self._live.stop()  # others may show something now


class _Lines:
    """Stages on an output that cannot be redrawn: a line for each, and some in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = ""
        self._shown_at = 0.0
        self._diagnoses: tuple[Diagnosis, ...] = ()

    def print(self, title: str, look: Look) -> None:
        """Print a line where there is something new to say."""
        now, position = time.monotonic(), look.position
        if title != self._title or now - self._shown_at >= LINE_EVERY_S or position.done:
            texts = [title, position.detail, progress_text(position.progress)]
            self._console.print("  ".join(filter(None, texts)), markup=False, soft_wrap=True)
            self._title, self._shown_at = title, now
        for diagnosis in look.diagnoses:
            if diagnosis not in self._diagnoses:
                self._console.print(f"  {diagnosis}", markup=False, soft_wrap=True)
        self._diagnoses = look.diagnoses


def _table(stages: dict[str, str], look: Look) -> RenderableType:
    position, order = look.position, list(stages)
    at = order.index(position.stage)
    table = Table.grid(padding=(0, 1))
    for index, (stage, title) in enumerate(stages.items()):
        passed = index < at or position.done
        style = "" if passed or index == at else "dim"
        mark: RenderableType = GOOD if passed else Text("·", style="dim")
        detail = Text(style="dim")
        if index == at:
            detail.append(
                "  ".join(filter(None, (position.detail, progress_text(position.progress))))
            )
            if not position.done:
                mark = BAD if any(not row.heals for row in look.diagnoses) else Spinner("dots")
        seconds = look.seconds.get(stage)
        took = duration(seconds) if seconds else ""
        table.add_row(mark, Text(title, style=style), Text(took, style="dim"), detail)
    return Group(Text(), table, *(_stall(row) for row in look.diagnoses))


def _stall(diagnosis: Diagnosis) -> Text:
    style = "yellow" if diagnosis.heals else "bold red"
    return Text.assemble(("  ", ""), (diagnosis.message, style), "\n  ", (diagnosis.action, ""))


def progress_text(progress: Progress | None) -> str:
    """A container's own progress: share, rate and time left."""
    if progress is None:
        return ""
    words = [progress.step]
    if progress.done is not None and progress.total:
        words.append(f"{progress.done / progress.total:.0%}")
        if progress.unit == "bytes":
            words.append(f"of {amount(progress.total)}")
    if progress.per_second:
        rate = progress.per_second
        words.append(
            f"{amount(rate)}/s" if progress.unit == "bytes" else f"{rate:.1f} {progress.unit}/s"
        )
    if progress.seconds_left is not None:
        words.append(f"{duration(progress.seconds_left)} left")
    return " ".join(words)


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _place(plan: Plan) -> str:
    context = f"{plan.context}, " if plan.context else ""
    return f"{plan.name} to {context}namespace {plan.namespace}"


def _plan_rows(plan: Plan) -> Iterator[tuple[str, RenderableType]]:
    created = [change.object for change in plan.changes if change.created]
    changed = [change.object for change in plan.changes if not change.created]
    if created:
        yield "creates", ", ".join(created)
    if changed:
        yield "changes", ", ".join(changed)
    if not plan.changes:
        yield "changes", "nothing"
    yield "clients", _outage(plan)
    for warning in plan.warnings:
        yield "warning", Text(warning, style="yellow")
    for refusal in plan.refusals:
        yield "refused", Text(str(refusal), style="bold red")


def _outage(plan: Plan) -> Text:
    if not plan.outage.happens:
        return Text(f"no outage: {plan.outage.reason}")
    basis = "as the running pod took" if plan.outage.measured else "assumed from the bundle's size"
    text = f"OUTAGE of about {duration(plan.outage.seconds)} ({basis}): {plan.outage.reason}"
    return Text(text, style="bold yellow")


def _difference(change: Change) -> Text:
    text = Text(f"  {change.object}\n", style="bold")
    for line in change.lines[:_LINES_OF_A_CHANGE]:
        text.append(f"    {line}\n", style="green" if line.startswith("+") else "red")
    if (left := len(change.lines) - _LINES_OF_A_CHANGE) > 0:
        text.append(f"    {left} more lines\n", style="dim")
    return text


def deployed(console: Console, result: DeployResult) -> None:
    """How it ended, and what to type next."""
    rows: list[tuple[str, RenderableType]] = []
    for diagnosis in result.diagnoses:
        rows.append(("why", Text(diagnosis.message, style="bold red")))
        rows.append(("do", diagnosis.action))
    if result.stages:
        times = (f"{row.stage} {duration(row.seconds)}" for row in result.stages)
        rows.insert(0, ("took", ", ".join(times)))
    show(console, heading(_TITLES[result.state], _place(result.plan)), facts(rows))
    for command in result.next:
        console.print(f"   {command}", markup=False, soft_wrap=True)


_TITLES: Final = {
    "dry-run": "Nothing was changed",
    "refused": "The cluster would refuse the pods; nothing was applied",
    "applied": "Applied, not watched",
    "filling": "The Job fills the claim; run the same command again to change the server",
    "ready": "Ready",
    "stalled": "Stalled",
    "timeout": "Not ready in time",
}
