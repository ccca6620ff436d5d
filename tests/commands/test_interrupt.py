"""Ctrl-C and SIGTERM: what was finished is kept, and one message says how to continue."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.tests.hub.conftest import NAMES, REPOSITORY, hub, run, sharded
from nemotron_deploy.tests.hub.stand_in import StandIn
from nemotron_deploy.tests.loadtest.conftest import FakeTriton

__all__ = ["hub", "sharded"]  # fixtures

NEMO_DEPLOY = [sys.executable, "-m", "nemotron_deploy"]
PATIENCE_S = 120.0


class Gate(threading.Event):
    """Holds back what waits for it, and says in `reached` that something does."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*NEMO_DEPLOY, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        (("quantize", "--quant", "int4"), signal.SIGINT, 130),
        (("build", "--gpu", "a100", "--quant", "bf16"), signal.SIGTERM, 143),
    ],
)
def test_finished_shards_are_kept_and_the_command_that_continues_is_named(
    hub: StandIn, tmp_path: Path, command: tuple[str, ...], number: int, code: int
) -> None:
    gate = Gate()
    hub.faults.hold[NAMES[2]] = gate  # asked for once the first shard's output is safe
    out = tmp_path / "a directory" / "out"
    words = [*command, "--checkpoint", REPOSITORY, "--low-disk", "--out", str(out)]
    process = started(*words)
    assert gate.reached.wait(PATIENCE_S)
    process.send_signal(number)
    gate.set()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "bug" not in err
    message, resume = err.splitlines()[-2:]
    assert message.startswith("interrupted. Finished parts are kept in ")
    assert message.endswith("To continue, run:")
    assert shlex.split(resume) == ["nemo-deploy", *words]
    hub.requests.clear()
    done = run(*shlex.split(resume)[1:], "--json")
    assert done.returncode == 0, done.stderr
    assert NAMES[0] not in hub.fetched()
    assert NAMES[3] in hub.fetched()


def test_a_build_says_which_stages_are_finished(tmp_path: Path) -> None:
    """The second stage is interrupted: it begins when its title is shown."""
    out = tmp_path / "bundle"
    process = started(
        "build", "--gpu", "a100", "--quant", "bf16", "--checkpoint", "tiny", "--out", str(out)
    )
    assert process.stderr is not None
    assert any(line == "Engine directory\n" for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert f"interrupted. Finished stages are kept in {out}: checkpoint. To continue, run:" in err
    assert "Traceback" not in err


class _Silent(FakeTriton):
    """FAKE. Takes requests and never answers; `hanging` is set by the first."""

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        ended = threading.Event()
        context.add_callback(ended.set)
        for _ in requests:
            self.hanging.set()
            ended.wait()
        yield from ()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_load_test_ends_at_once_and_writes_no_report(number: int, code: int) -> None:
    server = _Silent()
    server.start()
    try:
        process = started("loadtest", server.url, "--requests", "8")
        assert server.hanging.wait(PATIENCE_S)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        server.stop()
    assert (process.returncode, out) == (code, "")
    message, again = err.splitlines()[-2:]
    assert message == "interrupted. No report was written. To continue, run:"
    assert again.split()[:3] == ["nemo-deploy", "loadtest", server.url]
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_load_test_prints_and_saves_the_report_so_far(
    number: int, code: int, tmp_path: Path
) -> None:
    saved = tmp_path / "report.json"
    server = FakeTriton(hang_after=5)
    server.start()
    try:
        process = started(
            "loadtest", server.url, "--requests", "900", "--json", "--save", str(saved)
        )
        assert server.hanging.wait(PATIENCE_S)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        server.stop()
    assert process.returncode == code, err
    report = json.loads(out)
    assert report["interrupted"] is True
    assert report["runs"][0]["requests"] == 4, "of five, one is the warm-up"
    assert json.loads(saved.read_text()) == report
    assert "The report so far was printed and saved." in err
    assert "Traceback" not in err
