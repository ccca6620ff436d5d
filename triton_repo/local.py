"""A real tritonserver on this machine, without a container or a GPU.

The PyPI wheel `nvidia-pytriton` contains the server, its Python backend, and one stub for each
Python version. This module runs them on an ordinary model repository.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import secrets
import shutil
import socket
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..core.errors import BadInputError, CheckFailedError
from ..runtime import contract
from .log import decisive_lines, refused_ports
from .openai import NAME as ENDPOINT
from .openai import Endpoint, endpoint_process
from .processes import Child, Supervised

HOST: Final = "127.0.0.1"

UNLOAD_SECONDS: Final = 15.0
"""What unloading the model may take after the last request has ended."""

_INSTALL: Final = "pip install 'nemotron-deploy[local]'"

_STUB: Final = "triton_python_backend_stub"


def unavailable() -> str | None:
    """Why a local server cannot run here, in one line; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "nvidia-pytriton contains tritonserver for Linux on x86-64 only"
    root = _wheel()
    if root is None:
        return f"the package nvidia-pytriton is not installed: {_INSTALL}"
    if not _stub(root).is_file():
        return f"nvidia-pytriton has no Python backend for Python {_python_version()}"
    for package in ("torch", "transformers", "safetensors"):
        if find_spec(package) is None:
            return f"the reference executor needs the package {package}: {_INSTALL}"
    library = (
        Path(sysconfig.get_config_var("LIBDIR") or "") / f"libpython{_python_version()}.so.1.0"
    )
    if not library.is_file():
        return f"this Python was built without a shared library ({library} is missing)"
    return None


class LocalServer:
    """A running tritonserver that serves `repository`; a context manager that stops it.

    `executor` is one of `contract.EXECUTORS`; `script` is what the scripted one plays. A port that
    is None is chosen. With `openai`, OpenAI's API is offered, too. When it is stopped, live
    requests have `grace` seconds to end. `trace` are values of Triton's `--trace-config`.
    `auto_complete` lets Triton complete what it misses in a `config.pbtxt`. The log goes to `log`,
    or to a temporary file. The server sees only the environment variables that the contract passes
    to children. Raises `BadInputError` if the wheel is missing or a port is in use. The server and
    its files are removed when this process ends, even if it is killed.
    """

    def __init__(
        self,
        repository: Path,
        *,
        executor: str,
        script: Path | None = None,
        http_port: int | None = None,
        grpc_port: int | None = None,
        metrics_port: int | None = None,
        health_port: int | None = None,
        openai: Endpoint | None = None,
        grace: float = contract.GRACE_SECONDS,
        trace: Sequence[str] = (),
        auto_complete: bool = False,
        log: Path | None = None,
    ) -> None:
        reason = unavailable()
        if reason is not None:
            raise BadInputError(f"a local tritonserver cannot run here: {reason}")
        if not repository.is_dir():
            raise BadInputError(f"{repository}: no such model repository")
        self.repository = repository
        wanted = {
            "HTTP": http_port, "gRPC": grpc_port, "metrics": metrics_port, "health": health_port,
        }  # fmt: skip
        if openai is not None:
            openai.require_runnable(repository)
            wanted["OpenAI"] = openai.port
        self.http_port, self.grpc_port, self.metrics_port, self.health_port, *others = _ports(
            wanted
        )
        self.openai_url = f"http://{HOST}:{others[0]}/v1" if others else None
        self._scratch = Path(tempfile.mkdtemp(prefix="nemo-deploy-triton-"))
        self._log = log.open("w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115
        self._options = [f"--trace-config={setting}" for setting in trace]
        if not auto_complete:
            self._options.append("--disable-auto-complete-config")
        region_prefix = f"nemo_deploy_{secrets.token_hex(4)}_"
        children = [self._server(executor, script, region_prefix, grace)]
        if openai is not None:
            copy = self._scratch / "bundle" / repository.name
            children.append(endpoint_process(openai, copy, self.grpc_url, others[0], grace))
        self._processes = Supervised(
            children,
            scratch=self._scratch,
            region_prefix=region_prefix,
            grace=grace + UNLOAD_SECONDS,
            log=self._log,
        )
        self._was_ready = False

    @property
    def pid(self) -> int:
        """The process id of `tritonserver`; 0 if it could not be started."""
        return self._processes.pids[0] if self._processes.pids else 0

    @property
    def pids(self) -> list[int]:
        """The process ids of `tritonserver` and of what runs beside it."""
        return self._processes.pids

    @property
    def http_url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def health_url(self) -> str:
        """Where `/ready` and `/live` say whether the model makes progress."""
        return f"http://{HOST}:{self.health_port}"

    @property
    def grpc_url(self) -> str:
        """`host:port`, as `tritonclient.grpc` takes it."""
        return f"{HOST}:{self.grpc_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Return once every model serves.

        Raises `BadInputError` naming a port that is now in use, and `CheckFailedError` with the
        decisive lines of the log if the server ended or is not ready after `timeout` seconds. Both
        stop the server.
        """
        deadline = time.monotonic() + timeout
        while not self._ready():
            if self._processes.ended:
                raise self._failed("ended while it started")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready after {timeout:g} s")
            time.sleep(0.1)
        if refused_ports(self._log_text()):  # the metrics port: the server goes on without it
            raise self._failed("could not listen")
        self._was_ready = True

    def wait(self) -> None:
        """Block until interrupted. Raises `CheckFailedError` when the server ends by itself."""
        self._processes.wait()
        raise self._failed("ended")

    def stop(self) -> None:
        """Stop the server.

        It refuses new requests at once, and live ones have the grace to end. An interrupt while
        they do ends the server at once. One that is not ready yet has no requests, and is killed.
        Does nothing if it is stopped already.
        """
        if self._was_ready:
            self._processes.stop()
        else:
            self._processes.kill()
        self._log.close()

    def _server(
        self, executor: str, script: Path | None, region_prefix: str, grace: float
    ) -> Child:
        root = _wheel()
        assert root is not None, "`unavailable` looked for it"
        command = (
            str(root / "bin" / "tritonserver"),
            f"--model-repository={_private_copy(self.repository, self._scratch)}",
            f"--backend-directory={_prepare_backend(root, self._scratch)}",
            f"--backend-config=python,shm-region-prefix-name={region_prefix}",
            f"--exit-timeout-secs={math.ceil(grace)}",
            f"--http-address={HOST}", f"--http-port={self.http_port}",
            f"--grpc-address={HOST}", f"--grpc-port={self.grpc_port}",
            f"--metrics-address={HOST}", f"--metrics-port={self.metrics_port}",
            *contract.METRICS_FLAGS,
            *self._options,
        )  # fmt: skip
        places = {
            contract.HEALTH_ADDRESS.name: f"{HOST}:{self.health_port}",
            contract.TRITON_ADDRESS.name: f"{HOST}:{self.http_port}",
            contract.VLLM_SOCKETS.name: str(self._scratch),
        }
        environment = _environment(root, executor, script) | places
        return Child("tritonserver", command, environment)

    def _ready(self) -> bool:
        answers = [_status(f"{self.http_url}/v2/health/ready")]
        if self.openai_url is not None:
            answers.append(_status(f"{self.openai_url.removesuffix('/v1')}/health"))
        if all(answer == 200 for answer in answers):
            # A model that answers for itself does so before Triton is ready; others never do.
            return _status(f"{self.health_url}/ready") in (200, None) and not self._processes.ended
        return False

    def _log_text(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def _failed(self, what: str) -> BadInputError | CheckFailedError:
        text = self._log_text()
        self.stop()
        ports = refused_ports(text)
        if ports:
            return BadInputError(
                f"port {ports[0]} on {HOST} is in use; stop what uses it, or choose another port"
            )
        lines = decisive_lines(text) or ["its log is empty"]
        program = ENDPOINT if f"{ENDPOINT} ended" in text else "tritonserver"
        return CheckFailedError(f"{program} {what}: " + "\n  ".join(lines))


def _status(url: str) -> int | None:
    """The status of a page; None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def _wheel() -> Path | None:
    """The directory that holds `bin/tritonserver`, without importing the package."""
    spec = find_spec("pytriton")
    for location in (spec.submodule_search_locations or []) if spec else []:
        root = Path(location) / "tritonserver"
        if (root / "bin" / "tritonserver").is_file():
            return root
    return None


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _stub(root: Path) -> Path:
    return root / "python_backend_stubs" / _python_version() / _STUB


def _private_copy(repository: Path, scratch: Path) -> Path:
    """A copy of the repository, in a directory that looks like its bundle.

    Python writes byte code beside the sources (the stub ignores the variable that forbids it), and
    a bundle must not change when it is served.
    """
    bundle = scratch / "bundle"
    for sibling in repository.parent.iterdir():
        if sibling.is_dir() and sibling != repository:
            bundle.mkdir(exist_ok=True)
            (bundle / sibling.name).symlink_to(sibling)
    return Path(shutil.copytree(repository, bundle / repository.name))


def _prepare_backend(root: Path, scratch: Path) -> Path:
    """A backend directory with the Python backend and the stub of the running Python version."""
    backend = scratch / "backends" / "python"
    backend.mkdir(parents=True)
    for source in (root / "backends" / "python").glob("*.*"):
        (backend / source.name).symlink_to(source)
    shutil.copy2(_stub(root), backend / _STUB)
    return backend.parent


def _environment(root: Path, executor: str, script: Path | None) -> dict[str, str]:
    """The server's environment. The stub finds packages through the first `python3` on PATH."""
    given = contract.child_environment()
    libraries = [
        str(root.parent.parent / "nvidia_pytriton.libs"),
        str(sysconfig.get_config_var("LIBDIR")),
        given.get(contract.LIBRARIES.name, ""),
    ]
    return {
        **given,
        contract.LIBRARIES.name: ":".join(filter(None, libraries)),
        contract.PATH.name: f"{Path(sys.executable).parent}:{given.get(contract.PATH.name, '')}",
        contract.EXECUTOR.name: executor,
        **({contract.SCRIPT.name: str(script.absolute())} if script else {}),
        **contract.OFFLINE,
    }


def _ports(wanted: dict[str, int | None]) -> list[int]:
    """The wanted ports, free ones for None. Raises `BadInputError` naming one that is in use."""
    with contextlib.ExitStack() as held:
        ports = []
        for name, port in wanted.items():
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port or 0))
            except (OSError, OverflowError) as error:
                raise BadInputError(
                    f"the {name} port {port} on {HOST} cannot be used ({error}); choose another"
                ) from error
            ports.append(int(listener.getsockname()[1]))
        return ports
