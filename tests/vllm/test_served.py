"""The complete served model with a real vLLM: `nemo-deploy serve` from an environment with both.

The real tritonserver, its Python backend, and vLLM's CPU build with nothing replaced, on a dense
model in BF16.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.triton_repo import local

PATIENCE_S = 300
DEATH_S = 5
"""How long a client may wait for an error when the engine is dead."""

PROMPT = "What is 3 + 4?"

ENDLESS = {
    "text_input": PROMPT, "streaming": True, "ignore_eos": True, "sampling_param_max_tokens": 4000,
}  # fmt: skip

CITIES = ["Oslo", "Rome"]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": CITIES}, "sunny": {"type": "boolean"}},
    "required": ["city", "sunny"],
    "additionalProperties": False,
}

PORTS = ("http", "grpc", "metrics", "health")


class Server:
    """A running `nemo-deploy serve`, ready. `files` is its directory of temporary files."""

    def __init__(self, python: str, bundle: Path, environment: dict[str, str], files: Path) -> None:
        files.mkdir()
        self.files = files
        self.ports = dict(zip(PORTS, local._ports(dict.fromkeys(PORTS)), strict=True))
        options = [f"--{name}-port={port}" for name, port in self.ports.items()]
        command = [python, "-m", "nemotron_deploy", "serve", str(bundle), "--executor=vllm"]
        self.process = subprocess.Popen(
            [*command, "--json", *options],
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"TMPDIR": str(files)},
        )
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            if line.startswith("}"):
                break
        assert text.rstrip().endswith("}"), "it did not start; see its output above"
        self.model = json.loads(text)["model"]
        self.processes = _descendants(self.process.pid)
        self.engine = next(pid for pid in self.processes if b"EngineCore" in _command(pid))
        self.regions = _regions(self.processes)

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def generate(self, **body: Any) -> dict[str, Any]:
        """The answer to a request that is not streamed."""
        answer: dict[str, Any] = json.loads(self._post("generate", body))
        return answer

    def refusal(self, **body: Any) -> str:
        """The error of a request."""
        with pytest.raises(urllib.error.HTTPError) as caught:
            self._post("generate", body)
        with caught.value as error:
            return str(json.load(error)["error"])

    def metric(self, name: str) -> float:
        """A gauge of the served model."""
        with urllib.request.urlopen(self._url("metrics", "/metrics"), timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        (value,) = re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
        return float(value)

    def health(self) -> dict[str, Any]:
        """Whether it is ready, and the reason if not."""
        try:
            with urllib.request.urlopen(
                self._url("health", "/ready"), timeout=PATIENCE_S
            ) as answer:
                body: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                body = json.load(error)
        return body

    def _url(self, port: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def _post(self, what: str, body: dict[str, Any]) -> bytes:
        url = self._url("http", f"/v2/models/{self.model}/{what}")
        request = urllib.request.Request(url, data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            content: bytes = answer.read()
        return content


class Stream:
    """A streamed request; `events` are the answers so far, and `error` is what the server says."""

    def __init__(self, server: Server, **body: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.error = ""
        self.began, self.ended = threading.Event(), threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", server.ports["http"])
        self._path, self._body = f"/v2/models/{server.model}/generate_stream", json.dumps(body)
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def text(self) -> str:
        return "".join(event["text_output"] for event in self.events)

    def hang_up(self) -> None:
        """Close the connection."""
        assert self._connection.sock is not None
        self._connection.sock.shutdown(2)

    def _run(self) -> None:
        try:
            self._connection.request("POST", self._path, self._body)
            for line in self._connection.getresponse():
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line[len(b"data: ") :])
                if "error" in event:
                    self.error = event["error"]
                else:
                    self.events.append(event)
                self.began.set()
        except (OSError, http.client.HTTPException) as error:
            self.error = self.error or str(error)
        self._connection.close()  # Triton would wait for it when it ends
        self.ended.set()


Start = Callable[[], Server]


@pytest.fixture(scope="module")
def start(
    vllm_python: str,
    vllm_bundle: Callable[[str, str, str], Path],
    vllm_environment: dict[str, str],
    dense: Path,
) -> Iterator[Start]:
    """Starts a server."""
    bundle = vllm_bundle(str(dense), "h100", "bf16")
    scratch = Path(tempfile.mkdtemp(prefix="served-"))  # paths of sockets have at most 107 bytes
    caches = {
        name: str(scratch / "caches")
        for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    }
    servers: list[Server] = []

    def run() -> Server:
        files = scratch / f"files-{len(servers)}"
        servers.append(Server(vllm_python, bundle, vllm_environment | caches, files))
        return servers[-1]

    yield run
    for server in servers:
        server.process.kill()
        server.process.wait()
    shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def server(start: Start) -> Server:
    return start()


def test_streams_give_the_same_answer_as_whole_requests(server: Server) -> None:
    given = {"text_input": PROMPT, "sampling_param_max_tokens": 16, "ignore_eos": True}
    whole = server.generate(**given)
    stream = Stream(server, streaming=True, **given)
    assert stream.ended.wait(PATIENCE_S)
    assert stream.text == whole["text_output"]
    assert len(stream.events) > 8
    assert whole["num_output_tokens"] == 16


def test_a_seed_decides_what_is_sampled(server: Server) -> None:
    given = {
        "text_input": PROMPT, "sampling_param_temperature": 2.0, "sampling_param_max_tokens": 24,
        "ignore_eos": True,
    }  # fmt: skip
    first, again, other, largest = (
        server.generate(**given, sampling_param_seed=seed)["text_output"]
        for seed in (1, 1, 2, 2**64 - 1)
    )
    assert first == again
    assert first not in (other, largest)


def test_log_probabilities_come_with_the_answer(server: Server) -> None:
    answer = server.generate(
        text_input=PROMPT, sampling_param_max_tokens=5, logprobs=3, ignore_eos=True,
        return_cumulative_logprob=True,
    )  # fmt: skip
    rows = json.loads(answer["logprobs"])["content"]
    assert len(rows) == 5
    assert all(len(row["top_logprobs"]) == 3 for row in rows)
    assert all(row["logprob"] == row["top_logprobs"][0]["logprob"] for row in rows), "greedy"
    total = sum(row["logprob"] for row in rows)
    assert answer["cumulative_logprob"] == pytest.approx(total, abs=1e-4)


def test_an_answer_follows_a_schema(server: Server) -> None:
    answer = server.generate(
        messages=json.dumps([{"role": "user", "content": "The weather?"}]),
        response_format=json.dumps({"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
        chat_template_kwargs=json.dumps({"enable_thinking": False}),
        sampling_param_max_tokens=100,
    )
    assert answer["finish_reason"] == "stop"
    weather = json.loads(answer["text_output"])
    assert set(weather) == {"city", "sunny"}
    assert weather["city"] in CITIES
    assert isinstance(weather["sunny"], bool)


def test_more_requests_than_run_at_once_are_all_answered(server: Server) -> None:
    def ask(seed: int) -> int:
        answer = server.generate(
            text_input=PROMPT, sampling_param_max_tokens=20 + seed, ignore_eos=True,
            sampling_param_seed=seed, sampling_param_temperature=1.0,
        )  # fmt: skip
        return int(answer["num_output_tokens"])

    with ThreadPoolExecutor(10) as threads:
        counts = list(threads.map(ask, range(10)))
    assert counts == list(range(20, 30))


def test_a_value_that_vllm_does_not_take_is_refused(server: Server) -> None:
    said = server.refusal(text_input=PROMPT, sampling_param_temperature=3.0)
    assert "vLLM refuses the request: temperature must be in [0, 2]" in said
    assert server.generate(text_input=PROMPT)["num_output_tokens"]


def test_a_client_that_hangs_up_ends_its_generation(
    server: Server, eventually: Callable[..., None]
) -> None:
    stream = Stream(server, **ENDLESS)
    assert stream.began.wait(PATIENCE_S)
    eventually(lambda: server.metric("nemo_deploy_kv_cache_occupancy_ratio") > 0, "no occupancy")
    stream.hang_up()
    eventually(lambda: server.metric("nemo_deploy_sequences_running") == 0, "it goes on")


def test_live_streams_end_before_the_server_does(
    server: Server, eventually: Callable[..., None]
) -> None:
    """The last test with this server."""
    streams = [Stream(server, **ENDLESS | {"sampling_param_max_tokens": 400}) for _ in range(3)]
    assert all(stream.began.wait(PATIENCE_S) for stream in streams)
    assert server.stop() == 0
    assert all(stream.ended.wait(PATIENCE_S) for stream in streams)
    assert [stream.error for stream in streams] == ["", "", ""]
    assert all(stream.events[-1]["num_output_tokens"] == 400 for stream in streams)
    _require_nothing_left(server, eventually)


def test_a_killed_engine_is_an_error_for_its_clients(
    start: Start, eventually: Callable[..., None]
) -> None:
    server = start()
    streams = [Stream(server, **ENDLESS) for _ in range(2)]
    assert all(stream.began.wait(PATIENCE_S) for stream in streams)
    os.kill(server.engine, signal.SIGKILL)
    assert all(stream.ended.wait(DEATH_S) for stream in streams), "clients wait"
    assert all("vLLM's engine has died" in stream.error for stream in streams)
    eventually(lambda: not server.health()["ok"], "it says that it is ready")
    assert "the executor has stopped" in server.health()["reason"]
    assert "the executor has stopped" in server.refusal(text_input=PROMPT)
    assert server.stop() == 0
    _require_nothing_left(server, eventually)


def test_a_killed_command_leaves_no_process(start: Start, eventually: Callable[..., None]) -> None:
    server = start()
    server.process.kill()
    _require_no_process_left(server, eventually)


def _require_nothing_left(server: Server, eventually: Callable[..., None]) -> None:
    """No process, no shared memory, no file."""
    _require_no_process_left(server, eventually)
    eventually(lambda: not _files(server.files), "files are left")


def _require_no_process_left(server: Server, eventually: Callable[..., None]) -> None:
    """No process and no shared memory."""
    eventually(lambda: not _living(server.processes), "processes are left")
    assert server.regions, "none was seen"
    eventually(lambda: not any(map(Path.exists, server.regions)), "shared memory is left")


def _files(folder: Path) -> list[Path]:
    """What is in it, without PyTorch's cache."""
    return [path for path in folder.iterdir() if not path.name.startswith("torchinductor_")]


def _living(processes: list[int]) -> list[bytes]:
    commands = [_command(pid) for pid in processes]
    return [command for command in commands if command]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for process in found:  # grows meanwhile
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def _regions(processes: list[int]) -> list[Path]:
    """The named shared memory that processes map."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in processes)
    names = re.findall(r" (/dev/shm/\S+)(?: \(deleted\))?$", maps, re.MULTILINE)
    return [Path(name) for name in set(names)]
