"""The manners of the command line: options that stand anywhere, errors, logs, reports of bugs."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from nemotron_deploy import __version__, cli
from nemotron_deploy.api import doctor
from nemotron_deploy.core.log import LOGGER, masked

COMMANDS = tuple(typer.main.get_group(cli.app).commands)
PLAN = ("plan", "--gpu", "h100", "--quant", "int4")
TOKEN = "hf_" + "a1B2" * 8


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (("COLUMNS", "100"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    yield
    for handler in [*logging.getLogger(LOGGER).handlers]:
        logging.getLogger(LOGGER).removeHandler(handler)
        handler.close()


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def broken_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes `doctor` fail as nobody foresaw; gives the folder of temporary files."""

    def fail() -> None:
        raise KeyError(f"unforeseen, with the token {TOKEN}")

    monkeypatch.setattr(doctor, "doctor", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "--version") == (0, f"nemo-deploy {__version__}\n", "")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_short_help_is_help_and_ends_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = command.split()
    short = answer(capsys, *words, "-h")
    assert short == answer(capsys, *words, "--help")
    assert short[0] == 0
    if command:
        assert short[1].rstrip().splitlines()[-1].startswith(f"  Example: nemo-deploy {command}")


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys) == answer(capsys, "--help")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--debug", "inspect", "--checkpoint", "/nowhere"),
        ("inspect", "--debug", "--checkpoint", "/nowhere"),
        ("inspect", "--checkpoint", "/nowhere", "--debug"),
    ],
)
def test_debug_stands_anywhere(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, _, err = answer(capsys, *arguments)
    assert code == 4
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: /nowhere: no such directory")


@pytest.mark.parametrize("place", [0, 1, 3, 5])
@pytest.mark.parametrize("form", ["separate", "equals"])
def test_a_log_file_is_appended_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, place: int, form: str
) -> None:
    log = tmp_path / "run.log"
    log.write_text("earlier\n")
    words = list(PLAN)
    words[place:place] = ["--log-file", str(log)] if form == "separate" else [f"--log-file={log}"]
    code, out, err = answer(capsys, *words)
    assert (code, err) == (0, "")
    assert "H100" in out
    first, *lines = log.read_text().splitlines()
    assert first == "earlier"
    assert lines
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} DEBUG nemotron_deploy\.", line)
    assert f"nemo-deploy {__version__}: nemo-deploy" in lines[0]
    assert "exit code 0" in lines[-1]


def test_the_log_file_keeps_tracebacks_that_are_not_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = tmp_path / "run.log"
    code, _, err = answer(capsys, "verify", str(tmp_path / "none"), "--log-file", str(log))
    assert code == 4
    assert "Traceback" not in err
    text = log.read_text()
    assert "Traceback" in text
    assert err.strip() in text


@pytest.mark.parametrize("option", ["-v", "--verbose"])
def test_verbose_shows_the_steps_that_json_hides(
    capsys: pytest.CaptureFixture[str], int4_tiny: Path, tmp_path: Path, option: str
) -> None:
    words = ["quantize", "--quant", "int4", "--no-smooth", "--checkpoint", "tiny", "--json"]
    _, _, quiet = answer(capsys, *words, "--out", str(tmp_path / "quiet"))
    assert quiet == ""
    code, out, err = answer(capsys, *words, option, "--out", str(tmp_path / "verbose"))
    assert code == 0
    assert out.startswith("{")
    assert re.search(r"^quantize \(\d+ bytes\)$", err, re.MULTILINE)


def test_an_unusable_log_file_is_one_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "none" / "run.log"
    code, out, err = answer(capsys, "--log-file", str(path), *PLAN)
    assert (code, out) == (4, "")
    assert err == f"error: --log-file {path}: cannot be written: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--gpuu", "h100"], "unknown option --gpuu; did you mean --gpu or --gpus? (see "),
        (["--frobnicate"], "unknown option --frobnicate (see nemo-deploy --help)"),
        (["plann"], "unknown command 'plann'; did you mean 'plan'? (see nemo-deploy --help)"),
        (["verify"], "missing argument 'BUNDLE' (see nemo-deploy verify --help)"),
        (["quantize", "--quant", "int4"], "missing option --out (see nemo-deploy quantize --help)"),
        (["verify", "a", "b"], "unexpected argument (b) (see nemo-deploy verify --help)"),
        (["plan", "--gpus", "two"], "'two' is not a whole number"),
        (["plan", "--price", "much"], "'much' is not a number"),
        ([*PLAN, "--gpu"], "option '--gpu' requires an argument"),
        ([*PLAN, "--log-file"], "--log-file needs a path"),
        (["quantize", "--quant", "int4", "--out", "x", "--device", "tpu"],
         "unknown --device 'tpu'; known are auto, cpu, cuda"),
        (["quantize", "--quant", "int4", "--out", "x", "--layout", "gguf"],
         "modelopt, compressed-tensors"),
        (["quantize", "--quant", "fp8", "--out", "x", "--recipe", "some"],
         "known are published, conservative, aggressive, and files ending in .yaml"),
        (["plan", "--matrix", "--optimize", "fame"], "latency"),
        (["quantize", "--compare", "int3", "--out", "x"], "fp8-aggressive"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_in_one_style(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = answer(capsys, *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_an_unforeseen_error_leaves_its_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], broken_doctor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "do-not-show-this")
    code, out, err = answer(capsys, "doctor", "--checkpoint=do-not-show-this")
    assert code == 2, "that is wrong usage, not a bug"
    code, out, err = answer(capsys, "doctor", "--json")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: unexpected KeyError: ")
    (report,) = broken_doctor.glob("nemo-deploy-error-*.log")
    assert line.endswith(str(report))
    assert report.stat().st_mode & 0o777 == 0o600
    text = report.read_text()
    for words in (
        f"nemo-deploy {__version__}\n", f"Python {sys.version.split()[0]} on ",
        "nemo-deploy doctor --json\n", "Traceback (most recent call last)", "KeyError",
    ):  # fmt: skip
        assert words in text
    assert TOKEN not in text


def test_the_report_is_written_beside_the_log_file(
    capsys: pytest.CaptureFixture[str], broken_doctor: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    code, _, err = answer(capsys, "doctor", "--debug", "--log-file", str(folder / "run.log"))
    assert code == 1
    assert "Traceback" in err, "--debug shows it, too"
    (report,) = folder.glob("nemo-deploy-error-*.log")
    assert str(report) in err
    assert TOKEN not in (folder / "run.log").read_text()


def test_a_report_that_cannot_be_written_is_said(
    capsys: pytest.CaptureFixture[str], broken_doctor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(broken_doctor / "none"))
    code, _, err = answer(capsys, "doctor")
    assert code == 1
    assert "The traceback could not be saved" in err
    assert "--debug shows it" in err


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_REGISTRY_PASSWORD", "correct horse")
    monkeypatch.setenv("USE_TOKEN", "1")
    text = masked(
        f"--token {TOKEN} https://user:word@host/x?X-Amz-Signature=abcdef&part=1 "
        "Authorization: Bearer xyzzy; correct horse"
    )
    for secret in (TOKEN, "user:word", "abcdef", "xyzzy", "correct horse"):
        assert secret not in text
    assert "@host/x?" in text
    assert "part=1" in text


def test_completion(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    command = [sys.executable, "-m", "nemotron_deploy"]
    shown = subprocess.run(
        [*command, "--show-completion", "bash"],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "_NEMO_DEPLOY_COMPLETE=complete_bash" in shown
    environment |= {"_NEMO_DEPLOY_COMPLETE": "complete_bash", "COMP_WORDS": "nemo-deploy qu"}
    completed = subprocess.run(
        command, env=environment | {"COMP_CWORD": "1"}, capture_output=True, text=True, check=False
    )
    assert completed.stdout.split() == ["quantize"]
    environment["COMP_WORDS"] = "nemo-deploy quantize --ca"
    completed = subprocess.run(
        command, env=environment | {"COMP_CWORD": "2"}, capture_output=True, text=True, check=False
    )
    assert completed.stdout.split() == ["--calibration"]


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m nemotron_deploy plan --matrix --json | head -c 1",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("{", "")
