"""The local server: what is refused before a server starts, and how its log is read."""

import importlib.util
import socket

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.triton_repo import local
from nemotron_deploy.triton_repo.log import decisive_lines, refused_ports


@pytest.mark.parametrize("which", ["http_port", "grpc_port", "metrics_port"])
def test_a_taken_port_is_named(repository, which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInputError, match=f"port {port} on 127.0.0.1"):
            local.LocalServer(repository, executor="reference", **{which: port})


def test_an_impossible_port_is_refused(repository):
    with pytest.raises(BadInputError, match="99999"):
        local.LocalServer(repository, executor="reference", http_port=99999)


def test_a_missing_repository_is_named(tmp_path):
    with pytest.raises(BadInputError, match="nowhere: no such model repository"):
        local.LocalServer(tmp_path / "nowhere", executor="reference")


@pytest.mark.parametrize("package", ["pytriton", "torch"])
def test_a_missing_package_is_answered_with_the_command(repository, monkeypatch, package):
    real = importlib.util.find_spec
    monkeypatch.setattr(local, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(BadInputError, match=r"pip install 'nemotron-deploy\[local\]'"):
        local.LocalServer(repository, executor="reference")
    assert package in str(local.unavailable())


def test_available_here():
    assert local.unavailable() is None


FAILED = "failed to load 'tiny' version 1: Internal: StartError: no."

STACK = "\\n\\nAt:\\n  /b/model_repository/tiny/1/engine.py(40): read_settings\\n"

LOG = f"""\
W1124 04:19:33.818250 6590 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"
E1124 04:19:33.818490 6590 server.cc:241] "CudaDriverHelper has not been initialized."
I1124 04:19:33.9 6590 model_lifecycle.cc:473] "loading: tiny:1"
E1124 04:19:34.1 6590 backend_model.cc:692] "ERROR: Failed to create: StartError: no.{STACK}"
E1124 04:19:34.1 6590 model_lifecycle.cc:642] "{FAILED}{STACK}"
| tiny | 1 | UNAVAILABLE |
error: creating server: Internal - failed to load all models
"""


def test_the_decisive_line_of_a_failed_start():
    assert decisive_lines(LOG) == [FAILED]


def test_a_stub_that_died_is_explained_by_its_own_output():
    log = (
        "stub: error while loading shared libraries: libpython3.11.so.1.0\n"
        "E1124 04:19:34.1 6590 model_lifecycle.cc:642] \"failed to load 'tiny' version 1: "
        "Internal: Stub process 'tiny_0_0' is not healthy.\"\n"
    )
    assert "libpython3.11.so.1.0" in decisive_lines(log)[-1]


def test_an_empty_log_decides_nothing():
    assert decisive_lines("") == []


@pytest.mark.parametrize("service", ["HTTP", "GRPC", "Metrics"])
def test_ports_refused_by_the_server_are_found(service):
    line = (
        f'E1124 04:19:38.6 6590 main.cc:257] "failed to start {service} service: '
        "Unavailable - Socket '127.0.0.1:44383' already in use \"\n"
    )
    assert refused_ports(LOG + line) == [44383]
    assert refused_ports(LOG) == []
