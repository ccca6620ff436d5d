"""Standard output and standard error that cannot take what a command writes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

INT4 = ("quantize", "--checkpoint", "tiny", "--quant", "int4", "--no-smooth", "--out")
ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TERM": "xterm", "COLUMNS": "100"}
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nemotron_deploy", *arguments]


def shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command whose standard streams a shell redirects."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *program(*arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "--checkpoint", "tiny"),
        ("plan", "--checkpoint", "tiny", "--gpu", "h100", "--quant", "int4"),
        ("plan", "--matrix"),
        ("doctor",),
        ("--help",),
    ],
)
def test_an_ascii_terminal_gets_similar_characters(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        program(*arguments), capture_output=True, env=os.environ | ASCII, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"?" not in done.stdout.replace(b"$?", b"")  # in the matrix: a price is not known


def test_progress_bars_and_paths_on_an_ascii_terminal(tmp_path: Path) -> None:
    out = tmp_path / "\u00e9"
    process, terminal = pty.fork()
    if not process:  # pragma: no cover - the child
        os.execvpe(sys.executable, program(*INT4, str(out)), os.environ | ASCII)
    shown = b""
    try:
        while data := os.read(terminal, 65536):
            shown += data
    except OSError:  # Linux: the other side was closed
        pass
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert shown.isascii()
    assert b"/s" in shown  # the bars' rate
    assert (out / "model.safetensors").is_file()


def test_names_that_are_no_text_are_shown() -> None:
    done = subprocess.run(
        program("inspect", "--checkpoint", os.fsdecode(b"/no/\xff")),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr.startswith(b"error: /no/?: no such directory")


@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_stop_work(redirection: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert shell(redirection, *INT4, str(out)).returncode == 0
    assert (out / "model.safetensors").is_file()
    assert shell(redirection, "inspect", "--checkpoint", "nothing").returncode == 4


@needs_full
def test_progress_that_cannot_be_written_does_not_stop_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = shell("2>/dev/full", *INT4, str(out), "--verbose")
    assert done.returncode == 0
    assert (out / "model.safetensors").is_file()
    assert "78 quantized" in done.stdout


@needs_full
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_result_that_cannot_be_written_is_one_message(more: tuple[str, ...]) -> None:
    done = shell(">/dev/full", "inspect", "--checkpoint", "tiny", *more)
    assert done.returncode == 4
    assert done.stderr == "error: standard output: No space left on device\n"


@needs_full
def test_a_log_file_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = shell("", *INT4, str(out), "--log-file", "/dev/full", "--json")
    assert done.returncode == 0
    warning = "warning: --log-file /dev/full: cannot be written any more: No space left on device\n"
    assert done.stderr == warning
