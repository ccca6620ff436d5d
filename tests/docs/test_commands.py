"""Commands in the pages exist, and those that can run here do what the pages say.

A shell block below the comment `<!-- run -->` is run line by line, all of a page in one directory;
`<!-- run: exit 3 -->` expects that exit code of each line. A text block below `<!-- output -->`
shows lines of the output so far.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer

from nemotron_deploy.cli import app, run
from nemotron_deploy.tests.docs.pages import PAGES, ROOT, Block, blocks, commands

GROUP = typer.main.get_group(app)
BY_NAME = {page.relative_to(ROOT).as_posix(): page for page in PAGES}


def runnable(page: Path) -> bool:
    return any(block.marker.startswith("run") for block in blocks(page))


@pytest.mark.parametrize("name", [name for name, page in BY_NAME.items() if blocks(page)])
def test_commands_exist(name: str) -> None:
    """Every command in a shell block is one of ours, with options that it has."""
    for block in blocks(BY_NAME[name]):
        if block.language == "sh":
            for words in commands(block.text):
                with typer.Context(GROUP) as context:
                    found, command, rest = GROUP.resolve_command(context, words)
                assert command is not None, f"nemo-deploy {words[0]}: no such command"
                command.make_context(found, rest)  # raises for an unknown option


@pytest.mark.e2e
@pytest.mark.parametrize("name", [name for name, page in BY_NAME.items() if runnable(page)])
def test_commands_run(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable, value in (("COLUMNS", "100"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    shown = ""
    for block in blocks(BY_NAME[name]):
        if block.marker.startswith("run"):
            shown += _run(block, capsys)
        elif block.marker == "file":
            _write(block)
        elif block.marker == "output":
            for line in filter(str.strip, block.text.splitlines()):
                assert " ".join(line.split()) in shown, f"not printed: {line}"


def _run(block: Block, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the block's commands; gives what they printed, with single spaces."""
    expected = int(block.marker.partition("exit ")[2] or 0)
    printed = ""
    for words in commands(block.text):
        code = run(words)
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert code == expected, f"nemo-deploy {shlex.join(words)}: exit code {code}\n{said}"
        printed += said
    return " ".join(printed.split())


def _write(block: Block) -> None:
    """A file whose name and first lines the page shows: its first line is `# NAME`."""
    first, _, rest = block.text.partition("\n")
    Path(first.removeprefix("# ")).write_text(rest, encoding="utf-8")
