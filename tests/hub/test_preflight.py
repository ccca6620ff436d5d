"""What a later step would refuse is refused before any weights are requested from the hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy.core import files
from nemotron_deploy.tests.hub.conftest import NAMES, REPOSITORY, run
from nemotron_deploy.tests.hub.stand_in import StandIn

QUANTIZE = ("quantize", "--quant", "int4")
COMPARE = ("quantize", "--compare", "int4")
BUILD = ("build", "--gpu", "a100", "--quant", "int4")
COMMANDS = (QUANTIZE, COMPARE, BUILD)

TEXT = '{"text": "two and two"}\n'


@pytest.fixture
def text(tmp_path: Path) -> Callable[[str], str]:
    """Writes a file of text; gives its path."""

    def write(content: str) -> str:
        path = tmp_path / "texts.jsonl"
        path.write_text(content)
        return str(path)

    return write


def refused(hub: StandIn, out: Path, *arguments: str) -> str:
    """The message that a command ends with, which must come before the first weights."""
    before = sorted(out.rglob("*"))
    done = run(*arguments, "--checkpoint", REPOSITORY, "--out", str(out))
    assert done.returncode in (2, 4), done
    assert not set(NAMES) & set(hub.fetched())
    assert sorted(out.rglob("*")) == before
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--calibration", "--heldout"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": there is no such text file"),
        ("", ": has no text in it"),
        ("\n \n", ": has no text in it"),
        ("two and two\n", ", line 1: not JSON but plain text"),
    ],
)
def test_a_file_that_holds_no_text(
    hub: StandIn,
    tmp_path: Path,
    text: Callable[[str], str],
    command: tuple[str, ...],
    option: str,
    content: str | None,
    message: str,
) -> None:
    path = text(content) if content is not None else str(tmp_path / "none.jsonl")
    assert f"{path}{message}" in refused(hub, tmp_path / "out", *command, option, path)
    assert command is BUILD or hub.requests == [], "only a plan needs the hub"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--calibration", "--heldout"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT + "two\n", "line 2: not JSON"),
        (TEXT + '{"texts": []}\n', "line 2: needs `text`, `prompt` or `messages`"),
        (TEXT + '{"messages": [{"rolle": "user"}]}\n', "line 2"),
    ],
)
def test_a_line_that_cannot_be_used(
    hub: StandIn,
    tmp_path: Path,
    text: Callable[[str], str],
    command: tuple[str, ...],
    option: str,
    content: str,
    message: str,
) -> None:
    assert message in refused(hub, tmp_path / "out", *command, option, text(content))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_device(hub: StandIn, tmp_path: Path, command: tuple[str, ...]) -> None:
    message = refused(hub, tmp_path / "out", *command, "--device", "tpu")
    assert "unknown --device 'tpu'; known are auto, cpu, cuda" in message
    assert command is BUILD or hub.requests == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_device_that_is_not_here(
    hub: StandIn, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refused(hub, tmp_path / "out", *command, "--device", "cuda")
    assert "finds no CUDA device on this machine" in message
    assert command is BUILD or hub.requests == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tokenizer(hub: StandIn, sharded: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(sharded, broken)
    (broken / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    hub.repositories[REPOSITORY] = broken
    assert "tokenizer" in refused(hub, tmp_path / "out", *command)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_is_taken(hub: StandIn, tmp_path: Path, command: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    message = refused(hub, out, *command)
    assert "holds something" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_is_too_small(
    hub: StandIn, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    assert "MB are needed here" in refused(hub, tmp_path / "out", *command)


def test_text_that_can_be_used_is_used(
    hub: StandIn, tmp_path: Path, text: Callable[[str], str]
) -> None:
    path = text(TEXT + '{"prompt": "three"}\n{"messages": [{"role": "user", "content": "x"}]}\n')
    done = run(
        *QUANTIZE, "--calibration", path, "--checkpoint", REPOSITORY, "--out", str(tmp_path / "out")
    )
    assert done.returncode == 0, done.stderr
    assert set(NAMES) <= set(hub.fetched())
