"""`nemo-deploy chat` against the real tritonserver and its OpenAI endpoint, which play a script."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.core.errors import CheckFailedError
from nemotron_deploy.tests.e2e.scripted_bundle import scripted_bundle
from nemotron_deploy.triton_repo import local
from nemotron_deploy.triton_repo.openai import Endpoint

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

TEMPLATE = Path(__file__).parents[1] / "runtime" / "nemotron.jinja"

CALL = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"

SCRIPT: list[dict[str, Any]] = [
    {"when": "Once more", "pieces": ["I th", "ink.</think>", "Again"]},
    {"when": "for ever", "pieces": ["</think>", "going", *[" on"] * 3000], "pace_ms": 10},
    {"when": "a tool", "pieces": ["I call.", CALL]},
    {"when": "control", "pieces": ["</think>", "red \x1b[31m", "text"]},
    # What the system message says, and what was said before, are in the prompt.
    {"when": "user\nSecond<|im_end|>", "pieces": ["I remember.</think>", "Two"]},
    {"when": "Be brief", "pieces": ["</think>", "Brief"]},
    {"when": "</think>", "pieces": ["No thoughts"]},
    {"when": "", "pieces": ["I th", "ink.</think>", "One ", "answer"]},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.LocalServer]:
    bundle = scripted_bundle(tmp_path_factory.mktemp("bundle"), SCRIPT, 2, TEMPLATE)
    with local.LocalServer(
        bundle.repository,
        executor="scripted",
        script=bundle.script,
        openai=Endpoint("tiny"),
        grace=5,
    ) as running:
        running.wait_ready()
        yield running


def chat(*arguments: str, questions: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nemotron_deploy", "chat", *arguments],
        input=questions, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture(params=["openai", "grpc"])
def url(request: pytest.FixtureRequest, server: local.LocalServer) -> str:
    return str(server.openai_url) if request.param == "openai" else f"grpc://{server.grpc_url}"


def test_a_pipe_of_questions_is_one_conversation(url: str) -> None:
    done = chat(url, questions="First\n\nSecond\n/quit\nThird\n")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.split("tokens", 1)
    assert first.startswith("I think.\nOne answer\n")
    assert "I remember.\nTwo\n" in second
    assert "\x1b" not in done.stdout
    assert " s\n" in second


def test_json_is_one_document(url: str, tmp_path: Path) -> None:
    function = {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": function}]))
    done = chat(url, "--json", "--tools", str(tools), questions="First\nNow a tool\n")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model"] == "tiny"
    first, second = result["answers"]
    assert (first["question"], first["reasoning"], first["content"]) == (
        "First", "I think.", "One answer",
    )  # fmt: skip
    assert (first["finish_reason"], first["tokens"]) == ("stop", 5)
    assert second["finish_reason"] == "tool_calls"
    assert second["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}


def test_tool_calls_are_shown_as_json(url: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text('[{"type": "function", "function": {"name": "f", "parameters": {}}}]')
    done = chat(url, "--tools", str(tools), questions="Now a tool\n")
    assert 'I call.\n{"name": "f", "arguments": "{\\"a\\": \\"1\\"}"}\n' in done.stdout


def test_options_reach_the_model(url: str) -> None:
    brief = chat(url, "--system", "Be brief", questions="First\n")
    assert brief.stdout.startswith("Brief\n")
    plain = chat(url, "--no-thinking", questions="First\n")
    assert plain.stdout.startswith("No thoughts\n")
    short = chat(url, "--max-tokens", "3", questions="First\n")
    assert short.stdout.startswith("I think.\nOne \n3 tokens")
    assert ", length\n" in short.stdout


def test_a_model_cannot_steer_the_terminal(url: str) -> None:
    assert "red [31mtext" in chat(url, questions="control\n").stdout


def test_interrupting_a_pipe_ends_the_chat(url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nemotron_deploy", "chat", url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write("for ever\n")
        process.stdin.flush()
        assert process.stdout.read(5) == "going"
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130


def test_a_terminal(url: str) -> None:
    """Ctrl-C ends an answer, Ctrl-D the chat; reasoning is dimmed."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nemotron_deploy", "chat", url],
        stdin=child, stdout=child, stderr=child, start_new_session=True,
        env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(child)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            shown += os.read(parent, 1024)

    try:
        until(b"> ")
        os.write(parent, b"for ever\n")
        until(b"going on")
        process.send_signal(signal.SIGINT)
        shown = b""
        until(b"> ")
        os.write(parent, b"Once more\n")
        until(b"tokens")
        assert b"\x1b[2mI th" in shown
        shown = shown.partition(b"tokens")[2]
        until(b"> ")  # the terminal is set for a line only then
        os.write(parent, b"\x04")
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
        os.close(parent)


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("nowhere", 2, "is neither a bundle's directory nor a URL"),
        ("grpc://127.0.0.1", 2, "has no port"),
        ("http://127.0.0.1:1", 4, "no server answers"),
        ("grpc://127.0.0.1:1", 4, "no server answers"),
    ],
)
def test_wrong_targets(target: str, code: int, said: str) -> None:
    done = chat(target, questions="First\n")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_servers_and_models(server: local.LocalServer, tmp_path: Path) -> None:
    other = chat(server.http_url, questions="First\n")
    assert (other.returncode, "is no OpenAI endpoint" in other.stderr) == (4, True)
    for url in (str(server.openai_url), f"grpc://{server.grpc_url}"):
        named = chat(url, "--model", "huge", questions="First\n")
        assert (named.returncode, "has no model 'huge'; it has tiny" in named.stderr) == (4, True)
    scripted = chat(str(server.openai_url), "--executor", "reference", questions="First\n")
    assert (scripted.returncode, "are for a bundle" in scripted.stderr) == (2, True)
    tools = tmp_path / "tools.json"
    tools.write_text("{}")
    bad = chat(str(server.openai_url), "--tools", str(tools), questions="First\n")
    assert (bad.returncode, "must hold a JSON list" in bad.stderr) == (4, True)


def test_what_the_server_refuses_ends_a_pipe(url: str) -> None:
    done = chat(url, "--max-tokens", "100000", questions="First\nSecond\n")
    assert done.returncode == 4
    assert "at most 4096 are possible" in done.stderr


def test_a_server_ends_with_its_endpoint_and_says_so(server: local.LocalServer) -> None:
    """The last test of the module: it ends the server."""
    group = os.getpgid(server.pid)
    others = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"nemo_deploy_runtime.openai" in path.read_bytes()
    ]
    (endpoint,) = [pid for pid in others if os.getpgid(pid) == group]
    os.kill(endpoint, signal.SIGKILL)
    with pytest.raises(CheckFailedError, match="the OpenAI endpoint ended: "):
        server.wait()
