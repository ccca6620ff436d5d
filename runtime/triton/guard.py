"""A small process beside the model's: it tells others how the model is, and lets none outlive it.

Triton 2.51 knows no `is_ready` of a model, and reports a model as ready whose process is stopped or
dead. When the process is killed (for using too much memory, say), Triton never answers its
requests, and their clients wait forever (also its issues 5381 and 8448). When the server is killed,
the model's process and its shared memory are left. So this process

- answers `GET /ready` and `GET /live` with 200 or 503 and the reason, from what the model's process
  last wrote to its standard input;
- ends the server when the model's process is gone, so that connections break and whatever runs the
  server starts it again;
- kills the model's process and removes its shared memory when the server is gone.

Processes are held by pidfds that were opened in the model's process, so that a number that was
given to another process is never killed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from ..contract import HEALTH_ADDRESS, TRITON_ADDRESS
from ..health import Health
from ..isolation import command

END_SECONDS: Final = 1.0
"""How long a server whose model is gone has between SIGTERM and SIGKILL."""

ANSWER_SECONDS: Final = 3.0
"""How long Triton may take to say that it is ready."""

_REGIONS: Final = Path("/dev/shm")  # noqa: S108  no temporary file


class Guard:
    """The guard of this process and of its parent, the server; ends with `dismiss`.

    A health that is older than `stall` seconds is that of a process that does not run.
    """

    def __init__(self, server: int, stall: float, dead: float, region: str = "") -> None:
        pidfds = (os.pidfd_open(server), os.pidfd_open(os.getpid()))
        grouped = os.getpgid(0) == server  # then the group holds nothing but the server's processes
        self._process = subprocess.Popen(
            command(__name__, *map(str, pidfds), str(stall), str(dead), region, str(int(grouped))),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=pidfds,
        )
        for fd in pidfds:
            os.close(fd)

    def report(self, health: Health) -> None:
        """Tell how the model is."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(asdict(health)).encode() + b"\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """Stop guarding: this process is about to end normally."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(b"dismissed\n")


class State:
    """What the model's process last said, and when."""

    def __init__(self, stall: float, dead: float) -> None:
        self._stall, self._dead = stall, dead
        self._health = Health(False, True, 0.0, "the model is starting")
        self._heard_at: float | None = None

    def hear(self, line: bytes) -> None:
        """Take a health."""
        self._health, self._heard_at = Health(**json.loads(line)), time.monotonic()

    @property
    def health(self) -> Health:
        """The health now."""
        unheard = 0.0 if self._heard_at is None else time.monotonic() - self._heard_at
        if unheard < self._stall:
            return self._health
        silent = self._health.silent + unheard
        reason = f"the model's process has said nothing for {unheard:.0f} s"
        return Health(False, silent < self._dead, silent, reason)


def health_server(state: State, address: str, triton: str) -> ThreadingHTTPServer:
    """A server of `state` at `address` (host:port), which also asks Triton at `triton`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            health = state.health
            good = {"/ready": health.ready, "/live": health.live}.get(self.path)
            reason = health.reason
            if good and triton and self.path == "/ready" and not _triton_is_ready(triton):
                good, reason = False, "Triton is not ready"
            status = 404 if good is None else 200 if good else 503
            body = json.dumps({"ok": bool(good), "reason": reason}).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Probes come every few seconds."""

    host, _, port = address.rpartition(":")
    return ThreadingHTTPServer((host, int(port)), Handler)


def _triton_is_ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """The guard's side."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to the whole group
    server, model = int(sys.argv[1]), int(sys.argv[2])
    state = State(float(sys.argv[3]), float(sys.argv[4]))
    if address := os.environ.get(HEALTH_ADDRESS.name):
        http_server = health_server(state, address, os.environ.get(TRITON_ADDRESS.name, ""))
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
    if _watch(state, server):
        return
    if select.select([server], [], [], 0)[0]:
        _send(model, signal.SIGKILL)
    else:
        _send(server, signal.SIGTERM)
        select.select([server], [], [], END_SECONDS)
        _send(server, signal.SIGKILL)
        select.select([server], [], [])
    if region := sys.argv[5]:
        for path in _REGIONS.glob(f"{region}*"):
            with contextlib.suppress(OSError):
                path.unlink()
    if sys.argv[6] == "1":
        os.killpg(0, signal.SIGKILL)


def _watch(state: State, server: int) -> bool:
    """Wait until a process is gone; True where the guard was dismissed instead."""
    pending = b""
    while True:
        readable, _, _ = select.select([0, server], [], [])
        if server in readable:
            return False
        received = os.read(0, 65536)
        if not received:
            return False
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            if line == b"dismissed":
                return True
            state.hear(line)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


if __name__ == "__main__":
    main()
