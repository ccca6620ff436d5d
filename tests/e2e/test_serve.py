"""The real tritonserver, the real Python backend, the reference executor on the tiny checkpoint."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import tritonclient.grpc.aio as grpc
from grpc.aio import AioRpcError
from tritonclient.utils import InferenceServerException

from nemotron_deploy.core.errors import BadInputError, CheckFailedError
from nemotron_deploy.model import catalog
from nemotron_deploy.tests.e2e.scripted_bundle import tiny_repository
from nemotron_deploy.tests.e2e.streams import stream
from nemotron_deploy.triton_repo import local

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

PROMPT = "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"

LONG = {"max_tokens": 2000, "ignore_eos": True}
"""More tokens than any test waits for, on a busy machine, too."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return tiny_repository(tmp_path_factory.mktemp("bundle"), active=4)


@pytest.fixture(scope="module")
def server(repository):
    with local.LocalServer(repository, executor="reference") as server:
        server.wait_ready()
        yield server


def _stream(client, text, request_id="", **parameters):
    """Yield each response's tensors; ends after the final response. Raises what the server says."""
    own = ("streaming", "stop", "return_finish_reason", "ignore_eos")
    values = {n if n in own else f"sampling_param_{n}": value for n, value in parameters.items()}
    return stream(client, request_id, text_input=text, streaming=True, **values)


async def _complete(url, text, **parameters):
    async with grpc.InferenceServerClient(url) as client:
        return [response async for response in _stream(client, text, **parameters)]


def _post(server, path, **body):
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/tiny/{path}", data=json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def _stubs(server):
    """Process ids of the Python stubs of a server."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = status.read_text().rsplit(")", 1)
        except OSError:
            continue
        if "triton_python" in name and int(fields.split()[1]) == server.pid:
            found.append(int(status.parent.name))
    return found


def test_streamed_tokens_are_those_of_transformers(server):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(catalog.TINY, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(catalog.TINY)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    responses = asyncio.run(
        _complete(server.grpc_url, PROMPT, max_tokens=24, return_finish_reason=True)
    )
    assert len(responses) == len(expected), "one response per token"
    text = b"".join(response["text_output"] for response in responses).decode()
    assert text == tokenizer.decode(expected, skip_special_tokens=True)
    assert responses[-1]["finish_reason"] in (b"stop", b"length")
    assert "finish_reason" not in responses[0]


def test_http_answers_whole_and_streamed(server):
    whole = json.loads(_post(server, "generate", text_input=PROMPT))["text_output"]
    events = _post(server, "generate_stream", text_input=PROMPT, streaming=True).split("\n\n")
    pieces = [json.loads(e.removeprefix("data: "))["text_output"] for e in events if e.strip()]
    assert len(pieces) > 1
    assert "".join(pieces) == whole
    echoed = _post(
        server, "generate", text_input=PROMPT, sampling_param_exclude_input_from_output=False
    )
    assert json.loads(echoed)["text_output"] == PROMPT + whole


def test_many_streams_at_once_answer_as_if_alone(server):
    async def run():
        async with grpc.InferenceServerClient(server.grpc_url) as client:

            async def text():
                parts = [r["text_output"] async for r in _stream(client, PROMPT, max_tokens=16)]
                return b"".join(parts)

            return await asyncio.gather(*(text() for _ in range(12)))

    assert len(set(asyncio.run(run()))) == 1


def test_stop_ends_a_stream_with_an_error_and_frees_its_id(server):
    async def run():
        async with grpc.InferenceServerClient(server.grpc_url) as client:
            stream = _stream(client, "Monday", "one-id-that-nobody-guesses", **LONG)
            await anext(stream)
            with pytest.raises(InferenceServerException, match="belongs to a live request"):
                await anext(_stream(client, "Tuesday", "one-id-that-nobody-guesses"))
            async for answer in _stream(client, "ignored", "one-id-that-nobody-guesses", stop=True):
                assert answer["text_output"] == b""
            with pytest.raises(InferenceServerException, match="cancelled"):
                async for _ in stream:
                    pass
            return [
                r
                async for r in _stream(client, "Monday", "one-id-that-nobody-guesses", max_tokens=2)
            ]

    assert asyncio.run(run())


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"best_of": 3}, "sampling_param_best_of must be 1"),
        ({"max_tokens": 0}, "sampling_param_max_tokens must be at least 1"),
        ({"max_tokens": 10**6}, "together at most 4096"),
        ({"top_p": 2.0}, "sampling_param_top_p must be between 0 and 1"),
    ],
)
def test_a_bad_request_gets_an_error_and_the_server_lives(server, parameters, said):
    with pytest.raises(InferenceServerException, match=said):
        asyncio.run(_complete(server.grpc_url, "Monday", **parameters))
    with pytest.raises(urllib.error.HTTPError) as refused:
        _post(server, "generate", text_input="")
    refused.value.close()
    assert asyncio.run(_complete(server.grpc_url, "Monday", max_tokens=2))


def test_clients_that_vanish_end_their_generations(server, eventually):
    """Hang up on twenty long streams: the same process goes idle, and serves the next."""
    (stub,) = _stubs(server)
    for seed in range(10):
        _hang_up_http(server.http_port, seed)
    asyncio.run(_hang_up_grpc(server.grpc_url, 10))
    eventually(lambda: not _busy(stub), "generations go on without a client")
    assert asyncio.run(_complete(server.grpc_url, "Monday", max_tokens=4))
    assert _stubs(server) == [stub]


def _busy(pid):
    """Whether a process used its CPU in the last half second."""

    def ticks():
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(0.5)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") > 0.1


def _hang_up_http(port, seed):
    """Close a server-sent-events stream after its first bytes."""
    fields = {"max_tokens": 4000, "temperature": 100.0, "seed": seed}
    body = {"text_input": "Monday", "streaming": True}
    body |= {f"sampling_param_{name}": value for name, value in fields.items()}
    text = json.dumps(body)
    head = (
        f"POST /v2/models/tiny/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}\r\n\r\n{text}".encode())
        assert b"200 OK" in connection.recv(64)


async def _hang_up_grpc(url, count):
    for index in range(count):
        async with grpc.InferenceServerClient(url) as client:
            stream = _stream(client, "Monday", **LONG)
            for _ in range(index % 4):
                await anext(stream)


def test_a_port_taken_during_the_start_is_named(repository, monkeypatch):
    """The check before the start cannot see it: the server's own log must tell."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = local._ports({"gRPC": None, "metrics": None, "health": None})
        monkeypatch.setattr(local, "_ports", lambda wanted: [port, *free])
        with (
            local.LocalServer(repository, executor="reference") as server,
            pytest.raises(BadInputError, match=f"port {port} on 127.0.0.1 is in use"),
        ):
            server.wait_ready()


def test_a_model_that_cannot_start_says_why_in_one_line(repository):
    with (
        local.LocalServer(repository, executor="trtllm") as server,
        pytest.raises(CheckFailedError) as caught,
    ):
        server.wait_ready()
    assert "needs the package tensorrt_llm" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_killed_stub_is_an_error_not_a_hang(repository):
    async def run(server):
        async with grpc.InferenceServerClient(server.grpc_url) as client:
            stream = _stream(client, "Monday", **LONG)
            await anext(stream)
            for stub in _stubs(server):
                os.kill(stub, signal.SIGKILL)
            async for _ in stream:
                pass

    with local.LocalServer(repository, executor="reference") as server:
        server.wait_ready()
        with pytest.raises((InferenceServerException, AioRpcError), match="UNAVAILABLE"):
            asyncio.run(asyncio.wait_for(run(server), 60))
        with pytest.raises(urllib.error.URLError):
            _post(server, "generate", text_input="Monday")


def test_stop_leaves_no_process_memory_or_file(repository, eventually):
    server = local.LocalServer(repository, executor="reference")
    server.wait_ready()
    stubs, scratch = _stubs(server), server._scratch
    regions = list(Path("/dev/shm").glob("nemo_deploy_*"))
    assert stubs
    assert regions
    assert scratch.is_dir()
    server.stop()
    for pid in (*stubs, server.pid):
        eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"process {pid} lives on")
    assert not scratch.exists()
    server.stop()


def test_nothing_outlives_a_starter_that_is_killed(repository, eventually):
    """SIGKILL the process that started the server: supervisor, server and stub must go."""
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from nemotron_deploy.triton_repo.local import LocalServer\n"
        "server = LocalServer(Path(sys.argv[1]), executor='reference')\n"
        "server.wait_ready()\n"
        "print(server.pid, server._scratch, flush=True)\n"
        "time.sleep(600)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, str(repository)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    with starter:
        pid, scratch = starter.stdout.readline().split()
        starter.kill()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the server lives on")
    eventually(lambda: not Path(scratch).exists(), "its scratch directory is left")
