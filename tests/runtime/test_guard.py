"""Who is ended when a server or its stub dies, and what is said about the model's health."""

import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from nemotron_deploy.runtime.contract import HEALTH_ADDRESS, TRITON_ADDRESS
from nemotron_deploy.runtime.errors import StartError
from nemotron_deploy.runtime.health import Health
from nemotron_deploy.runtime.triton.guard import Ending, Guard, State, health_server

MODEL = """\
import os, signal, sys
from nemotron_deploy.runtime.triton.guard import Guard
guard = Guard(int(sys.argv[1]), 60, 60, sys.argv[2])
print("up", flush=True)
signal.pause()
"""

GOOD = Health(True, True, 0.0)


@pytest.fixture
def server():
    """Some process in the server's place."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def region():
    path = Path("/dev/shm") / f"nemo_deploy_guard_test_{id(object())}"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@contextmanager
def _model(server, region):
    """A process in the stub's place, with its guard."""
    command = [sys.executable, "-c", MODEL, str(server.pid), region.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_the_server_ends_when_its_model_is_killed(server, region, eventually):
    with _model(server, region) as model:
        model.kill()
        assert server.wait(timeout=60) != 0
    eventually(lambda: not region.exists())


def test_the_model_and_its_memory_go_when_the_server_is_killed(server, region, eventually):
    with _model(server, region) as model:
        server.kill()
        server.wait()
        assert model.wait(timeout=60) == -9
    eventually(lambda: not region.exists())


def test_both_live_on_when_the_guard_is_dismissed(server, region):
    Guard(server.pid, 60, 60, region.name).dismiss()
    assert server.poll() is None
    assert region.exists()


def test_the_health_can_be_asked_for_as_soon_as_there_is_a_guard(server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv(HEALTH_ADDRESS.name, f"127.0.0.1:{port}")
    guard = Guard(server.pid, 3600, 3600)
    assert _get(f"http://127.0.0.1:{port}", "/ready") == (503, "the model is starting")
    guard.report(GOOD)
    guard.dismiss()


@pytest.mark.parametrize("address", ["taken", "127.0.0.1:99999", "127.0.0.1:http"])
def test_a_health_address_that_cannot_be_used_is_named(server, monkeypatch, address):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if address == "taken":
            address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv(HEALTH_ADDRESS.name, address)
        with pytest.raises(StartError, match=f"the health address {address} cannot be used"):
            Guard(server.pid, 60, 60)


def test_what_was_not_heard_for_long_is_not_ready_and_later_not_live():
    state = State(stall=3600, dead=7200)
    assert (state.health.ready, state.health.live) == (False, True)
    assert "starting" in state.health.reason
    state.hear(json.dumps(asdict(GOOD)).encode())
    assert (state.health.ready, state.health.live) == (True, True)
    deaf = State(stall=0.0, dead=7200)
    deaf.hear(json.dumps(asdict(GOOD)).encode())
    assert (deaf.health.ready, deaf.health.live) == (False, True)
    assert "the model's process has said nothing" in deaf.health.reason
    gone = State(stall=0.0, dead=0.0)
    gone.hear(json.dumps(asdict(GOOD)).encode())
    assert (gone.health.ready, gone.health.live) == (False, False)


@pytest.mark.parametrize(
    ("health", "ready", "live"),
    [
        (GOOD, 200, 200),
        (Health(False, True, 9.0, "no token"), 503, 200),
        (Health(False, False, 200.0, "no token"), 503, 503),
    ],
    ids=["good", "stalled", "dead"],
)
def test_health_over_http(health, ready, live):
    state = State(3600, 3600)
    state.hear(json.dumps(asdict(health)).encode())
    with _serving(state, "") as url:
        assert _get(url, "/ready") == (ready, health.reason)
        assert _get(url, "/live") == (live, health.reason)
        assert _get(url, "/other")[0] == 404


def test_a_triton_that_does_not_answer_is_not_ready():
    state = State(3600, 3600)
    state.hear(json.dumps(asdict(GOOD)).encode())
    with _serving(state, "127.0.0.1:1") as url:
        assert _get(url, "/ready") == (503, "Triton is not ready")
        assert _get(url, "/live")[0] == 200


class Triton(BaseHTTPRequestHandler):
    """Triton's readiness; `asked` is released by every question."""

    asked = threading.Semaphore(0)

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.asked.release()

    def log_message(self, *_):
        pass


@contextmanager
def _triton():
    with HTTPServer(("127.0.0.1", 0), Triton) as triton:
        threading.Thread(target=triton.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{triton.server_port}"
        triton.shutdown()


def test_a_server_that_does_not_end_after_its_last_request_is_ended(server, monkeypatch):
    with _triton() as address:
        monkeypatch.setenv(TRITON_ADDRESS.name, address)
        guard = Guard(server.pid, 3600, 3600, unload=0.0)
        guard.report(GOOD)
        assert Triton.asked.acquire(timeout=60)
    assert server.wait(timeout=60) != 0


def test_what_shows_that_a_server_does_not_end():
    state = State(3600, 3600)

    def hear(health):
        state.hear(json.dumps(asdict(health)).encode())

    with _triton() as address:
        hear(GOOD)
        ending, patient = Ending(state, address, 0.0, 3600), Ending(state, address, 3600, 0.0)
        assert not ending.overdue(), "it is ready"
        assert not patient.overdue()
    assert ending.overdue()
    assert not patient.overdue(), "it has time"
    assert not Ending(state, address, 0.0, 3600).overdue(), "it was never ready, and has time"
    assert not Ending(state, "", 0.0, 0.0).overdue(), "nobody says where it is"
    hear(Health(True, True, 0.0, requests=1))
    assert not ending.overdue(), "a request is live"
    busy = Ending(state, address, 0.0, 3600)
    assert not busy.overdue(), "a request is live"
    hear(Health(False, True, 9.0, "no token"))
    assert not ending.overdue(), "Triton may follow the model"
    hear(GOOD)
    assert busy.overdue(), "it had a request, so it was ready"


def test_a_server_that_does_not_get_ready_though_its_model_is_is_ended():
    with _triton() as address:
        pass  # nobody listens there any more
    state = State(3600, 3600)
    state.hear(json.dumps(asdict(Health(False, True, 0.0, "the model is starting"))).encode())
    ending = Ending(state, address, 3600, 0.0)
    assert not ending.overdue(), "the model is starting"
    state.hear(json.dumps(asdict(GOOD)).encode())
    assert "Triton is not ready" in str(ending.overdue())


@contextmanager
def _serving(state, triton):
    listener = socket.create_server(("127.0.0.1", 0))
    with health_server(state, listener, triton) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _get(url, path):
    try:
        with urllib.request.urlopen(url + path, timeout=60) as answer:
            return answer.status, json.load(answer)["reason"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["reason"]
