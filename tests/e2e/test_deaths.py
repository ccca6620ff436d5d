"""Pressure, readiness and deaths, with the real tritonserver and answers from a script.

Failures that are reported of other servers, and the tests that reproduce them:

- a client that closes its stream crashes the server:
  `e2e/test_failures.test_disconnects_leave_nothing_behind`,
  `e2e/test_failures.test_a_reader_that_stalls_may_leave`;
- a cancelled request leaves its generation or its cache behind: the same, and
  `e2e/test_serve.test_clients_that_vanish_end_their_generations`,
  `runtime/test_trtllm.test_cancelling_aborts_the_generation`;
- cancelling crashes the engine, with log-probabilities, several choices, in the prompt, at the
  first or the last token: `runtime/test_service.test_a_request_may_be_cancelled_at_any_moment`,
  `e2e/test_openai.test_hang_ups_before_the_answer`. TensorRT-LLM itself was not run;
- a server that hangs says that it is healthy: `test_a_stopped_model_is_not_ready`,
  `runtime/test_health.test_a_probe_without_an_answer_ends_readiness_then_liveness`;
- it hangs under load: `test_requests_without_progress_end_readiness`;
- an engine that died refuses for ever: `runtime/test_health.test_a_dead_executor_is_not_ready`,
  `runtime/test_guard.test_the_server_ends_when_its_model_is_killed`. Ranks of several GPUs are
  TensorRT-LLM's own processes, which no test here can start;
- a stop hangs: `test_sigterm_ends_a_server_without_requests`,
  `test_requests_that_never_end_do_not_keep_a_server_up`,
  `triton_repo/test_processes.test_those_that_do_not_end_are_killed`;
- a shutdown cuts live streams: `test_live_streams_end_before_the_server_does`,
  `e2e/test_openai.test_streams_end_when_the_server_stops`;
- processes and shared memory are left: `test_nothing_outlives_a_killed_supervisor`,
  `e2e/test_serve.test_nothing_outlives_a_starter_that_is_killed`,
  `e2e/test_serve.test_stop_leaves_no_process_memory_or_file`,
  `runtime/test_guard.test_the_model_and_its_memory_go_when_the_server_is_killed`;
- shared memory or the server's own grows with requests:
  `e2e/test_failures.test_disconnects_leave_nothing_behind`,
  `runtime/test_service.test_requests_that_have_ended_are_forgotten`, and for hours
  `benchmarks/serving.py soak`;
- a model that is killed leaves its clients waiting:
  `e2e/test_serve.test_a_killed_stub_is_an_error_not_a_hang`;
- a client that does not read blocks or crashes the server:
  `e2e/test_failures.test_a_reader_that_stalls_delays_nobody`.

Defects that were read in NVIDIA's own `llmapi` model, and the tests that ours has none of them:

- one failing send ends the thread that cancels:
  `runtime/test_sessions.test_the_watch_outlives_channels_that_break`;
- `stop` leaves a request that is not streamed without its end:
  `runtime/test_sessions.test_stop_ends_a_request_that_is_not_streamed`;
- a second `stop`, or one that races with the end, is never answered:
  `runtime/test_model.test_stop_cancels_by_id`,
  `runtime/test_sessions.test_racing_ends_send_one_final`;
- two live requests with one id, and a `stop` from somebody else:
  `runtime/test_sessions.test_a_live_id_is_refused_and_free_again_afterwards`,
  `runtime/test_sessions.test_an_id_that_can_be_guessed_stops_nothing`;
- a count of requests that threads change without a lock, and an end that waits for it:
  `runtime/test_sessions.test_counts_are_right_when_many_threads_open_and_end`,
  `runtime/test_model.test_finalize_fails_what_is_live`;
- an unbounded queue, and no check of health:
  `test_more_than_the_queue_holds_is_refused_as_retriable`,
  `runtime/test_service.test_only_so_many_long_prompts_wait`, and those of a server that hangs;
- inputs that name a path on the server or a URL that it fetches:
  `e2e/test_failures.test_inputs_that_reach_beyond_the_server_do_not_exist`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from nemotron_deploy.runtime.contract import ERROR_CODES
from nemotron_deploy.tests.e2e.scripted_bundle import ScriptedBundle, scripted_bundle
from nemotron_deploy.triton_repo import local

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

PATIENCE_S = 120
TESTS = Path(__file__).parents[1]
TOKENS = 40
HOUR_US = 3600 * 10**6

ANSWERS: list[dict[str, Any]] = [
    {"when": "forever", "pieces": ["x "] * 9, "pace_ms": 1000 * 3600},
    {"when": "slow", "pieces": ["x "] * TOKENS, "pace_ms": 100},
    {"when": "", "pieces": ["quick"]},
]

Built = Callable[[str], Path]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, ANSWERS)))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> ScriptedBundle:
    """Two answers are played at a time."""
    return scripted_bundle(tmp_path, ANSWERS, 2)


@pytest.fixture
def server(bundle: ScriptedBundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[local.LocalServer]:
    """Room for 2 waiting requests beside those that are played. The server ends soon after its
    grace: most of these tests leave requests behind that never end."""
    monkeypatch.setenv("NEMO_DEPLOY_MAX_WAITING", "2")
    monkeypatch.setattr(local, "UNLOAD_SECONDS", 1.0)
    with local.LocalServer(
        bundle.repository, executor="scripted", script=bundle.script, grace=1
    ) as running:
        running.wait_ready()
        yield running


class Stream:
    """One request on a stream of its own; `texts` are what came so far."""

    def __init__(self, url: str, prompt: str, timeout_us: int = 0) -> None:
        self.texts: list[bytes] = []
        self.error: Exception | None = None
        self.began, self.ended = threading.Event(), threading.Event()
        self._values = (url, prompt, timeout_us)
        threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True).start()

    async def _run(self) -> None:
        url, prompt, timeout_us = self._values
        try:
            async with triton.InferenceServerClient(url) as client:
                async for result, error in client.stream_infer(self._requests(prompt, timeout_us)):
                    if error is not None:
                        self.error = error
                        break
                    response = result.get_response()
                    self.texts.append(result.as_numpy("text_output")[0])
                    self.began.set()
                    if response.parameters["triton_final_response"].bool_param:
                        break
        except Exception as error:
            self.error = error
        self.ended.set()

    @staticmethod
    async def _requests(prompt: str, timeout_us: int) -> Any:
        inputs = []
        for name, kind, value in (
            ("text_input", "BYTES", np.array([prompt.encode()], dtype=object)),
            ("streaming", "BOOL", np.array([True])),
            ("sampling_param_max_tokens", "INT32", np.array([100], dtype=np.int32)),
        ):
            inputs.append(triton.InferInput(name, [1], kind))
            inputs[-1].set_data_from_numpy(value)
        yield {
            "model_name": "tiny", "inputs": inputs, "timeout": timeout_us or None,
            "enable_empty_final_response": True, "parameters": {ERROR_CODES: True},
        }  # fmt: skip

    def code(self) -> str:
        """The code before the error's text."""
        assert self.ended.wait(PATIENCE_S)
        assert isinstance(self.error, InferenceServerException), self.error
        message: str = self.error.message()
        return message.partition(": ")[0]


def _health(server: local.LocalServer, path: str) -> int:
    """The status of the health port; 0 while nothing listens there."""
    try:
        with urllib.request.urlopen(server.health_url + path, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except urllib.error.URLError:
        return 0


def _stubs(server: local.LocalServer) -> list[int]:
    """The process ids of the model's processes."""
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return [
        pid for pid in children if b"triton_python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def _stub(server: local.LocalServer) -> int:
    """The process id of the model's process."""
    (pid,) = _stubs(server)
    return pid


def test_every_test_that_is_named_above_exists() -> None:
    assert __doc__ is not None
    named = re.findall(r"`(?:([\w/]+)\.)?(test_\w+)`", __doc__)
    assert len(named) > 30
    for module, test in named:
        source = (TESTS / f"{module or 'e2e/test_deaths'}.py").read_text(encoding="utf-8")
        assert f"def {test}(" in source, f"{module}.{test}"


def test_more_than_the_queue_holds_is_refused_as_retriable(
    server: local.LocalServer, eventually: Callable[..., None]
) -> None:
    """Two are played and two wait; of five, one is refused."""
    streams = [Stream(server.grpc_url, "forever", HOUR_US) for _ in range(5)]
    eventually(lambda: any(stream.ended.is_set() for stream in streams), "none is refused")
    (refused,) = (stream for stream in streams if stream.ended.is_set())
    assert refused.code() == "unavailable"
    assert "live requests, its limit; try again later" in str(refused.error)


def test_a_deadline_ends_a_request_and_frees_its_place(server: local.LocalServer) -> None:
    for _ in range(5):  # more than there are places
        late = Stream(server.grpc_url, "forever", 1000)
        assert late.code() == "deadline"
        assert "deadline of the request has passed: 0.001 s" in str(late.error)
    body = json.dumps({"text_input": "forever", "timeout": 1000}).encode()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.http_url}/v2/models/tiny/generate", body, PATIENCE_S)
    with caught.value as error:
        assert "deadline of the request has passed" in error.read().decode()
    quick = Stream(server.grpc_url, "quick")
    assert quick.ended.wait(PATIENCE_S)
    assert quick.error is None


def test_a_stopped_model_is_not_ready(
    server: local.LocalServer, eventually: Callable[..., None]
) -> None:
    eventually(lambda: _health(server, "/ready") == 200, "never ready")
    stub = _stub(server)
    os.kill(stub, signal.SIGSTOP)
    try:
        eventually(lambda: _health(server, "/ready") == 503, "ready although it is stopped")
        assert _health(server, "/live") == 200
    finally:
        os.kill(stub, signal.SIGCONT)
    eventually(lambda: _health(server, "/ready") == 200, "not ready again")


def test_requests_without_progress_end_readiness(
    server: local.LocalServer, eventually: Callable[..., None]
) -> None:
    eventually(lambda: _health(server, "/ready") == 200, "never ready")
    Stream(server.grpc_url, "forever", HOUR_US)
    eventually(lambda: _health(server, "/ready") == 503, "ready although nothing moves")


def test_nothing_outlives_a_killed_supervisor(
    server: local.LocalServer, eventually: Callable[..., None]
) -> None:
    processes = [os.pidfd_open(pid) for pid in (server.pid, _stub(server))]
    prefix = server._processes._region_prefix
    assert list(Path("/dev/shm").glob(f"{prefix}*"))
    server._processes._process.kill()
    for process in processes:
        assert select.select([process], [], [], PATIENCE_S)[0], "a process lives on"
        os.close(process)
    eventually(lambda: not list(Path("/dev/shm").glob(f"{prefix}*")), "shared memory is left")


@pytest.mark.parametrize("signals", [1, 2], ids=["drained", "twice"])
def test_live_streams_end_before_the_server_does(
    built: Built, script: Path, signals: int, eventually: Callable[..., None]
) -> None:
    """SIGTERM to the command: its streams end whole, and its status is 0. Two cut them."""
    ports = local._ports({"http": None, "grpc": None, "metrics": None, "health": None})
    options = [
        f"--{name}-port={port}"
        for name, port in zip(("http", "grpc", "metrics", "health"), ports, strict=True)
    ]
    command = [sys.executable, "-m", "nemotron_deploy", "serve", str(built("int4")), *options]
    with subprocess.Popen(
        [*command, "--executor", "scripted", "--script", str(script), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = ""
        while not printed.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            printed += line
        url = json.loads(printed)["grpc"]
        streams = [Stream(url, "slow") for _ in range(8)]
        assert all(stream.began.wait(PATIENCE_S) for stream in streams)
        process.terminate()
        eventually(lambda: _refuses(ports[0]), "it accepts connections")
        if signals == 2:
            process.terminate()
        assert process.wait(PATIENCE_S) == (0 if signals == 1 else 143)
    assert all(stream.ended.wait(PATIENCE_S) for stream in streams)
    whole = [len(stream.texts) == TOKENS + 1 and stream.error is None for stream in streams]
    assert all(whole) if signals == 1 else not any(whole)


def _left(server: local.LocalServer) -> Callable[[], bool]:
    """Tells whether a process of the server or its shared memory is left."""
    processes = [os.pidfd_open(pid) for pid in (server.pid, *_stubs(server))]
    prefix = server._processes._region_prefix

    def left() -> bool:
        alive = len(select.select(processes, [], [], 0)[0]) < len(processes)
        return alive or bool(list(Path("/dev/shm").glob(f"{prefix}*")))

    return left


def test_requests_that_never_end_do_not_keep_a_server_up(
    server: local.LocalServer, eventually: Callable[..., None]
) -> None:
    """One has no token yet, the other one has some. Triton itself does not end with them, also not
    after its exit timeout: whatever runs it (`serve`, kubelet) kills it then."""
    waiting = Stream(server.grpc_url, "forever", HOUR_US)
    running = Stream(server.grpc_url, "slow")
    assert running.began.wait(PATIENCE_S)
    left = _left(server)
    server.stop()
    eventually(lambda: not left(), "something is left of the server")
    for stream in (waiting, running):
        assert stream.ended.wait(PATIENCE_S)
        assert stream.error is not None


@pytest.mark.parametrize("loaded", [True, False], ids=["idle", "loading"])
def test_sigterm_ends_a_server_without_requests(
    bundle: ScriptedBundle, loaded: bool, eventually: Callable[..., None]
) -> None:
    with local.LocalServer(
        bundle.repository, executor="scripted", script=bundle.script, grace=1
    ) as server:
        if loaded:
            server.wait_ready()
        else:
            eventually(lambda: _stubs(server), "the model's process is not started")
        left = _left(server)
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: not left(), "something is left of the server")


def _refuses(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=PATIENCE_S)
    except urllib.error.URLError:
        return True
    return False
