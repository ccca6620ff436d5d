"""`serve`: a real tritonserver on this machine, on a bundle's own model repository."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from ..build.engines.registry import built_for
from ..core.bundle import Bundle
from ..core.errors import BadInputError, UsageError
from ..core.progress import Progress, Silent
from ..core.result import Result
from ..runtime import contract
from ..runtime.openai.keys import KeysError, read_keys
from ..runtime.script import ScriptError, read_script
from ..triton_repo.openai import Endpoint
from .trust import require_trusted

if TYPE_CHECKING:
    from ..triton_repo.local import LocalServer

EXECUTORS: Final = ("auto", *contract.EXECUTORS)

START_SECONDS: Final = 1800.0
"""How long a server may take to become ready: engines load, compile and tune for minutes."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports to listen on; None takes a free one."""

    http: int | None = None
    grpc: int | None = None
    metrics: int | None = None
    health: int | None = None


@dataclass(frozen=True, slots=True)
class ServeResult(Result):
    """A server that is ready: the model's name, `host:port` of gRPC, the URL of HTTP, files of the
    bundle whose code differs from what this version writes and is trusted, and the base URL for
    OpenAI clients where there is one."""

    SCHEMA: ClassVar[int] = 1

    model: str
    grpc: str
    http: str
    trusted_code: tuple[str, ...] = ()
    openai: str | None = None


@contextmanager
def serving(
    bundle: Bundle,
    executor: str = "auto",
    ports: Ports | None = None,
    log: Path | None = None,
    script: Path | None = None,
    grace: float = contract.GRACE_SECONDS,
    openai: Endpoint | None = None,
    trace: Sequence[str] = (),
) -> Iterator[LocalServer]:
    """Serve `bundle` until the block ends; the server is ready when the block begins.

    When the block ends, live requests have `grace` seconds to end. The bundle's code runs: check it
    first (`trust.require_trusted`). `auto` is that of the bundle's engine where it is installed and
    the bundle needs nothing that is missing, `reference` otherwise. Raises `UsageError` for an
    unknown executor, `CheckFailedError` for an incomplete bundle or a server that does not start.
    """
    from ..triton_repo.local import LocalServer

    name = chosen_executor(bundle, executor)
    bundle.require_complete()
    ports = ports or Ports()
    with LocalServer(
        bundle.repository.absolute(),
        executor=name,
        script=script,
        http_port=ports.http,
        grpc_port=ports.grpc,
        metrics_port=ports.metrics,
        health_port=ports.health,
        openai=openai,
        grace=grace,
        trace=trace,
        log=log,
    ) as server:
        server.wait_ready(START_SECONDS)
        yield server


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is running. `wait` returns never: it raises `CheckFailedError` when the server
    ends by itself."""

    result: ServeResult
    wait: Callable[[], None]


@contextmanager
def serve(
    bundle: str | Path,
    *,
    executor: str = "auto",
    script: str | Path | None = None,
    http_port: int | None = None,
    grpc_port: int | None = None,
    metrics_port: int | None = None,
    health_port: int | None = None,
    openai_port: int | None = None,
    api_keys: str | Path | None = None,
    openai_traces: bool = False,
    grace: float = contract.GRACE_SECONDS,
    trace_config: Sequence[str] = (),
    verify: str = "quick",
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Iterator[Served]:
    """Serve the bundle in the directory `bundle` until the block ends.

    The server is ready when the block begins, and it has ended when the block has.

    Args:
        bundle: The bundle's directory.
        executor: `trtllm`, `vllm`, `reference` (on the CPU), `scripted` (answers from a file), or
            `auto`: that of the bundle's engine where it works here, else `reference`.
        script: The file of answers for `scripted`.
        http_port, grpc_port, metrics_port, health_port: Ports to listen on; None takes a free one.
        openai_port: The port for OpenAI clients; None offers no endpoint for them.
        api_keys: A file with one API key a line, which is read again when it changes. With keys,
            the endpoint is reached from other machines; without, only from this one.
        openai_traces: Whether the endpoint sends OpenTelemetry spans of its requests. The variables
            in `contract.TRACING` configure them.
        grace: Seconds that live requests have to end when the block ends. New ones are refused
            meanwhile. Interrupting that wait ends the server at once.
        trace_config: Settings of Triton's tracing, as `tritonserver --trace-config` takes them.
        verify: What is hashed before the bundle's code runs: `quick` or `full`.
        trust_code: Whether code may run that this version would not write.
        progress: Receives what is being done.

    Raises `UsageError` for an unknown executor, a script that does not go with it, keys or traces
    without an endpoint, or a setting of tracing that is none, `BadInputError` for a directory
    without a bundle, a script that cannot be played, a file without keys or a port that is taken,
    `CheckFailedError` for a bundle that is incomplete or does not start, or whose files or code are
    not as they should be.
    """
    progress = progress or Silent()
    _check_settings(trace_config)
    answers = _checked_script(executor, script)
    keys = _checked_keys(openai_port, api_keys)
    if openai_traces and openai_port is None:
        raise UsageError("--openai-traces is for the OpenAI endpoint; also pass --openai-port")
    opened = Bundle.open(Path(bundle))
    endpoint = None
    if openai_port is not None:
        endpoint = Endpoint(opened.model_name, openai_port, keys, openai_traces)
    trusted = require_trusted(opened, verify, trust_code, progress)
    progress.step("start tritonserver")
    ports = Ports(http_port, grpc_port, metrics_port, health_port)
    with serving(
        opened,
        executor,
        ports,
        script=answers,
        grace=grace,
        openai=endpoint,
        trace=trace_config,
    ) as server:
        address = ServeResult(
            opened.model_name, server.grpc_url, server.http_url, trusted, server.openai_url
        )
        yield Served(address, server.wait)


def _check_settings(trace_config: Sequence[str]) -> None:
    for setting in trace_config:
        if not re.fullmatch(r"((triton|opentelemetry),)?[\w-]+=\S+", setting):
            raise UsageError(
                f"--trace-config {setting!r} is not a setting: write NAME=VALUE, "
                "triton,NAME=VALUE or opentelemetry,NAME=VALUE, as tritonserver takes them"
            )


def _checked_keys(port: int | None, path: str | Path | None) -> Path | None:
    """The file of API keys, which is checked to have some."""
    if path is None:
        return None
    if port is None:
        raise UsageError("--api-keys is for the OpenAI endpoint; also pass --openai-port")
    try:
        read_keys(Path(path))
    except KeysError as error:
        raise BadInputError(str(error)) from error
    return Path(path)


def _checked_script(executor: str, script: str | Path | None) -> Path | None:
    """The script, which is checked to be there and playable where the executor plays one."""
    if (executor == "scripted") != (script is not None):
        raise UsageError(
            "the executor scripted needs --script FILE"
            if script is None
            else f"--script is for the executor scripted, not for {executor}"
        )
    if script is None:
        return None
    try:
        read_script(Path(script))
    except ScriptError as error:
        raise BadInputError(str(error)) from error
    return Path(script)


def chosen_executor(bundle: Bundle, executor: str) -> str:
    """The executor for `bundle` on this machine, where it is `auto`; otherwise as asked.

    Raises `UsageError` for one that does not exist, `BadInputError` for a bundle of no known
    engine.
    """
    if executor not in EXECUTORS:
        raise UsageError(f"unknown executor {executor!r}; known are {', '.join(EXECUTORS)}")
    if executor != "auto":
        return executor
    engine = built_for(bundle.engine)
    ready = find_spec(engine.package) is not None and not bundle.needs
    return engine.executor if ready else "reference"
