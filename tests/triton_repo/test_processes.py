"""Children that live and die together, with small programs in the place of the servers."""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemotron_deploy.triton_repo.processes import Child, Supervised

PATIENCE_S = 60

WAITS = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"
FINISHES = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), sys.exit(0)))\n" + WAITS
)

Start = Callable[..., Supervised]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def start(scratch: Path, log: Path) -> Iterator[Start]:
    started = []
    with log.open("w+b") as output:

        def run(*programs: str, grace: float = PATIENCE_S) -> Supervised:
            children = [
                Child("program", (sys.executable, "-c", text), dict(os.environ))
                for text in programs
            ]
            supervised = Supervised(
                children,
                scratch=scratch,
                region_prefix=_region_prefix(scratch),
                grace=grace,
                log=output,
            )
            started.append(supervised)
            return supervised

        yield run
        for supervised in started:
            supervised.stop()


def _region_prefix(scratch: Path) -> str:
    return f"nemo_deploy_test_{os.getpid()}_{abs(hash(str(scratch)))}_"


def _pidfds(supervised: Supervised) -> list[int]:
    return [os.pidfd_open(pid) for pid in supervised.pids]


def _all_ended(pidfds: list[int]) -> bool:
    """Wait until the processes have ended."""
    for fd in pidfds:
        if not select.select([fd], [], [], PATIENCE_S)[0]:
            return False
        os.close(fd)
    return True


def test_they_are_asked_to_end(start: Start, log: Path, eventually: Callable[..., None]) -> None:
    supervised = start(FINISHES, FINISHES)
    eventually(lambda: log.read_text().count("up") == 2, "the children are not up")
    children = _pidfds(supervised)
    supervised.stop()
    assert _all_ended(children)
    assert log.read_text().count("asked") == 2
    assert supervised.ended


def test_those_that_do_not_end_are_killed(
    start: Start, log: Path, eventually: Callable[..., None]
) -> None:
    supervised = start(FINISHES, STUBBORN, grace=0.1)
    eventually(lambda: log.read_text().count("up") == 2, "the children are not up")
    children = _pidfds(supervised)
    supervised.stop()
    assert _all_ended(children)


@pytest.mark.parametrize("first", [0, 1])
def test_one_that_ends_takes_the_others_along(
    start: Start, log: Path, eventually: Callable[..., None], first: int
) -> None:
    supervised = start(STUBBORN, STUBBORN)
    eventually(lambda: log.read_text().count("up") == 2, "the children are not up")
    children = _pidfds(supervised)
    signal.pidfd_send_signal(children[first], signal.SIGKILL)
    assert _all_ended(children)
    supervised.wait()
    assert supervised.ended


def test_an_interrupt_of_the_wait_kills_them(
    start: Start, log: Path, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second signal arrives while a child takes its time."""
    supervised = start(STUBBORN)
    eventually(lambda: "up" in log.read_text(), "the children are not up")
    children = _pidfds(supervised)
    real = supervised._process.wait

    def interrupted(timeout: float | None = None) -> int:
        monkeypatch.setattr(supervised._process, "wait", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(supervised._process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        supervised.stop()
    assert _all_ended(children)


def test_files_and_shared_memory_are_removed(
    start: Start, scratch: Path, log: Path, eventually: Callable[..., None]
) -> None:
    supervised = start(WAITS)
    eventually(lambda: "up" in log.read_text(), "the children are not up")
    region = Path("/dev/shm") / f"{_region_prefix(scratch)}0"
    region.touch()
    (scratch / "file").touch()
    supervised.stop()
    assert not region.exists()
    assert not scratch.exists()


def test_children_and_files_go_when_the_supervisor_is_killed(
    start: Start, scratch: Path, log: Path, eventually: Callable[..., None]
) -> None:
    supervised = start(STUBBORN, STUBBORN)
    eventually(lambda: log.read_text().count("up") == 2, "the children are not up")
    children = _pidfds(supervised)
    supervised._process.kill()
    assert _all_ended(children)
    supervised.stop()
    assert not scratch.exists()


def test_a_child_that_cannot_start_ends_all(scratch: Path) -> None:
    children = [
        Child("program", (sys.executable, "-c", STUBBORN), dict(os.environ)),
        Child("program", ("/nowhere/program",), {}),
    ]
    with tempfile.TemporaryFile() as output:
        supervised = Supervised(
            children, scratch=scratch, region_prefix=_region_prefix(scratch), grace=1, log=output
        )
        supervised.wait()
        assert supervised.pids == []
        output.seek(0)
        assert b"/nowhere/program" in output.read()
        supervised.stop()
