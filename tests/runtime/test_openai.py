"""The OpenAI endpoint without a server: bodies to tensors, errors of the model, keys, addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.runtime import contract
from nemotron_deploy.runtime.openai.errors import ApiError
from nemotron_deploy.runtime.openai.keys import ApiKeys, KeysError
from nemotron_deploy.runtime.openai.request import read_request
from nemotron_deploy.runtime.openai.upstream import failure
from nemotron_deploy.triton_repo.openai import Endpoint

MESSAGES = [{"role": "user", "content": "Grüezi"}]


def read(chat=True, **fields):
    given = {"model": "m"} | ({"messages": MESSAGES} if chat else {"prompt": "p"}) | fields
    return read_request(json.dumps(given).encode(), "m", chat)


def tensors(chat=True, **fields):
    (inputs,) = read(chat, **fields).generations
    return {tensor.name: list(elements) for tensor, elements in inputs.items()}


def test_fields_become_tensors():
    assert tensors(temperature=1, max_completion_tokens=5, stop="x", stream=True, user="me") == {
        "messages": [json.dumps(MESSAGES, ensure_ascii=False).encode()],
        "sampling_param_temperature": [1.0],
        "sampling_param_max_tokens": [5],
        "sampling_param_stop": [b"x"],
        "streaming": [True],
    }


def test_null_means_that_a_field_is_absent():
    assert tensors(temperature=None, tools=None, colour=None) == tensors()


def test_thinking():
    name = contract.TEMPLATE_ARGUMENTS.name
    off = tensors(reasoning_effort="none")[name]
    assert json.loads(off[0]) == {"enable_thinking": False}
    assert name not in tensors(reasoning_effort="high")
    both = tensors(reasoning_effort="none", **{name: {"enable_thinking": True}})[name]
    assert json.loads(both[0]) == {"enable_thinking": True}
    budget = contract.THINKING_BUDGET.name
    assert tensors(thinking_token_budget=7)[budget] == tensors(**{budget: 7})[budget] == [7]


def test_logprobs_of_both_kinds():
    assert tensors(logprobs=True)["logprobs"] == [0]
    assert tensors(logprobs=True, top_logprobs=3)["logprobs"] == [3]
    assert "logprobs" not in tensors(logprobs=False)
    assert tensors(chat=False, logprobs=2)["logprobs"] == [2]


def test_choices_have_seeds_that_differ():
    request = read(n=3, seed=2**63 - 1)
    assert [inputs[contract.SEED] for inputs in request.generations] == [
        [2**63 - 1 + number] for number in range(3)
    ]
    assert all(contract.SEED not in inputs for inputs in read(n=2).generations)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("p", [{"text_input": [b"p"]}]),
        (["p", "q"], [{"text_input": [b"p"]}, {"text_input": [b"q"]}]),
        ([1, 2], [{"input_ids": [1, 2]}]),
        ([[1], [2, 3]], [{"input_ids": [1]}, {"input_ids": [2, 3]}]),
    ],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_prompts(prompt, expected):
    generations = read(chat=False, prompt=prompt).generations
    found = [
        {tensor.name: list(value) for tensor, value in inputs.items()} for inputs in generations
    ]
    for inputs, wanted in zip(found, expected, strict=True):
        assert wanted.items() <= inputs.items()
        assert inputs["sampling_param_max_tokens"] == [16]


@pytest.mark.parametrize(
    ("chat", "fields", "param"),
    [
        (False, {"prompt": []}, "prompt"),
        (False, {"prompt": [[]]}, "prompt"),
        (False, {"prompt": [1, -1]}, "prompt"),
        (False, {"prompt": ["p", 1]}, "prompt"),
        (False, {"prompt": "\ud800"}, "prompt"),
        (False, {"prompt": ["p"] * 9, "n": 2}, "n"),
        (False, {"echo": True}, "echo"),
        (False, {"messages": []}, "messages"),
        (True, {"prompt": "p"}, "prompt"),
        (True, {"stop": ["x", 1]}, "stop"),
        (True, {"temperature": "1"}, "temperature"),
        (True, {"temperature": True}, "temperature"),
        (True, {"max_tokens": 1.5}, "max_tokens"),
        (True, {"stream": 1}, "stream"),
        (True, {"n": 0}, "n"),
        (True, {"timeout": 1e9}, "timeout"),
        (True, {"stream": True, "stream_options": {"x": 1}}, "stream_options"),
        (True, {"tools": [{"description": "\ud800"}]}, "tools"),
    ],
    ids=lambda value: None,
)
def test_fields_that_are_wrong_are_named(chat, fields, param):
    with pytest.raises(ApiError) as caught:
        read(chat, **fields)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_errors_of_the_model_speak_of_the_clients_fields():
    error = failure("invalid: sampling_param_top_p must be between 0 and 1, got 2")
    assert (error.status, error.param) == (400, "top_p")
    assert error.message == "top_p must be between 0 and 1, got 2"
    prompt = failure("invalid: text_input is empty")
    assert (prompt.message, prompt.param) == ("prompt is empty", "prompt")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("unavailable: the model already has 3 live requests, its limit", 503),
        ("internal: KeyError: 'x'", 500),
        ("cancelled: the request was cancelled", 500),
        ("deadline: the request took too long", 504),
        ("Request for unknown model: 'm' has no available versions", 503),
    ],
)
def test_statuses_of_failures(message, status):
    error = failure(message)
    assert error.status == status
    assert ("retry-after" in error.headers) == (status == 503)
    assert error.to_json()["error"]["type"] == "server_error"


def test_keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# a comment\n\n  sk-one  \nsk-two\n")
    keys = ApiKeys(file)
    for header in ("Bearer sk-one", "bearer sk-two", "Bearer  sk-one"):
        assert keys.accept(header), header
    for header in ("", "Bearer", "Bearer ", "sk-one", "Basic sk-one", "Bearer sk-on", "Bearer é"):
        assert not keys.accept(header), header


@pytest.mark.parametrize("content", [None, b"", b"# none\n\n", b"\xff\xfe"])
def test_files_without_keys_are_named(tmp_path, content):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeysError, match=str(file)):
        ApiKeys(file)
    if content is not None:
        with pytest.raises(KeysError, match=str(file)):
            ApiKeys(file, optional=True)


class Secret:
    """A mounted Secret: kubelet writes a new folder, and then replaces the link to it."""

    def __init__(self, folder):
        self.file = folder / "keys"
        self._folder, self._number = folder, 0
        self.file.symlink_to("..data/keys")

    def write(self, *keys):
        self._number += 1
        version = self._folder / f"..{self._number}"
        version.mkdir()
        if keys:
            (version / "keys").write_text("\n".join(keys))
        link = self._folder / "..new"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")


def test_keys_follow_the_secret(tmp_path, caplog):
    secret = Secret(tmp_path)
    secret.write()
    keys = ApiKeys(secret.file, optional=True)
    assert keys.accept("")
    assert "so no API key is needed" in caplog.text
    secret.write("sk-one", "sk-two")
    assert [keys.accept(f"Bearer {key}") for key in ("sk-one", "sk-two", "sk-new")] == [1, 1, 0]
    assert not keys.accept("")
    secret.write("sk-two", "sk-new")
    assert [keys.accept(f"Bearer {key}") for key in ("sk-one", "sk-two", "sk-new")] == [0, 1, 1]


@pytest.mark.parametrize("broken", [(), ("# none",)], ids=["gone", "empty"])
def test_keys_that_were_needed_stay_needed(tmp_path, caplog, broken):
    """A Secret that is deleted or spoilt lets nobody in that had no key before."""
    secret = Secret(tmp_path)
    secret.write("sk-one")
    keys = ApiKeys(secret.file, optional=True)
    secret.write(*broken)
    assert keys.accept("Bearer sk-one")
    assert not keys.accept("")
    assert "the keys that were read before stay valid" in caplog.text
    secret.write("sk-two")
    assert not keys.accept("Bearer sk-one")
    assert keys.accept("Bearer sk-two")


def test_a_first_file_without_a_key_accepts_nobody(tmp_path):
    keys = ApiKeys(tmp_path / "keys", optional=True)
    assert keys.accept("")
    (tmp_path / "keys").touch()
    assert not keys.accept("")
    assert not keys.accept("Bearer ")


def start(*arguments):
    command = [sys.executable, "-m", "nemotron_deploy.runtime.openai", "--model", "m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_other_machines_are_served_only_with_keys_or_on_purpose(tmp_path: Path):
    done = start("--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 4
    assert "without --api-keys, the endpoint listens on this machine only" in done.stderr
    missing = start("--api-keys", str(tmp_path / "nowhere"))
    assert (missing.returncode, "cannot be read as a file of API keys" in missing.stderr) == (
        4,
        True,
    )


@pytest.mark.parametrize("package", ["opentelemetry", "uvicorn"])
def test_packages_that_are_missing_are_named_before_anything_is_served(package: str):
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from nemotron_deploy.runtime.openai.__main__ import main\n"
        "sys.exit(main(['--model', 'm', '--traces']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 4
    assert f"the Python package {package}" in done.stderr
    assert "pip install starlette uvicorn 'tritonclient[grpc]' opentelemetry-sdk" in done.stderr


def test_tracing_names_the_extra_that_it_needs(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(BadInputError, match=r"pip install 'nemotron-deploy\[tracing\]'"):
        Endpoint("m", traces=True).require_runnable(tmp_path)
