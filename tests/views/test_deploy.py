"""What `deploy` shows, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from nemotron_deploy.k8s.deploy.diagnosis import Diagnosis
from nemotron_deploy.k8s.deploy.stages import Position, Progress
from nemotron_deploy.k8s.deploy.watch import Look
from nemotron_deploy.views.deploy import Shown, duration, progress_text
from nemotron_deploy.views.progress import Shown as Bars

NO_NODE = Diagnosis("no-matching-node", "pod x: no node [fits]", "add a node", heals=False)


def shown(terminal: bool, *looks: Look) -> str:
    """All that was written, without the terminal's control sequences."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, no_color=True)
    with Shown(console) as view:
        for look in looks:
            view.looked(look)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())


def look(stage: str, *diagnoses: Diagnosis, done: bool = False, detail: str = "") -> Look:
    return Look(Position(stage, detail, done=done), {stage: 4.0}, diagnoses)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (None, ""),
        (Progress("download"), "download"),
        (Progress("digests", 5e9, 10e9, "bytes", 1e9, 5),
         "digests 50% of 10.00 GB 1.00 GB/s 5 s left"),
        (Progress("golden", 3, 12, "prompts", 0.5, 18), "golden 25% 0.5 prompts/s 18 s left"),
        (Progress("checkpoint", 3, 0, "bytes"), "checkpoint"),
    ],
)  # fmt: skip
def test_progress_says_what_is_known(progress: Progress | None, text: str) -> None:
    assert progress_text(progress) == text


def test_elsewhere_a_stage_is_one_line_and_a_cause_is_said_once() -> None:
    text = shown(
        False,
        look("scheduled", detail="waits for a node"),
        look("scheduled", NO_NODE),
        look("scheduled", NO_NODE),
        look("loading"),
        look("ready", done=True, detail="1 of 1"),
    )
    assert text.splitlines() == [
        "Node  waits for a node",
        "  pod x: no node [fits]; add a node",
        "Loading the model",
        "Ready  1 of 1",
    ]


def test_on_a_terminal_every_stage_has_a_mark() -> None:
    text = shown(True, look("loading"), look("loading", NO_NODE))
    last = text[text.rindex("✓ Node") :]
    lines = last.splitlines()
    assert any("✗ Loading the model" in line and "4 s" in line for line in lines)
    assert any("· Ready" in line for line in lines)
    assert "pod x: no node [fits]" in last
    assert "add a node" in last


def test_the_table_of_a_finished_phase_stays() -> None:
    text = shown(True, look("filling", done=True), look("ready", done=True))
    assert "✓ Filling the claim" in text
    assert "✓ Ready" in text


def test_on_a_terminal_other_progress_may_follow_a_phase_that_is_done() -> None:
    """A terminal shows one thing that is redrawn at a time: a load test in a cluster waits for the
    servers, then for its pods, and then has bars."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100, no_color=True)
    with Shown(console) as view, Bars(console) as bars:
        view.looked(look("ready", done=True))
        view.looked(look("load-pulling", detail="1 of 2 run"))
        view.looked(look("load-ready", done=True))
        bars.step("concurrency 4", 16, "requests")(16)
    text = output.getvalue()
    places = [text.rindex(part) for part in ("Golden outputs", "Load test's pods", "Concurrency 4")]
    assert places == sorted(places)
