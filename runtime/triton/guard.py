"""A small process beside the model's: it tells others how the model is, and lets none outlive it.

Triton 2.51 knows no `is_ready` of a model, and reports a model as ready whose process is stopped or
dead. When the process is killed (for using too much memory, say), Triton never answers its
requests, and their clients wait forever (also its issues 5381 and 8448). When the server is killed,
the model's process and its shared memory are left. So this process

- answers `GET /ready` and `GET /live` with 200 or 503 and the reason, from what the model's process
  last wrote to its standard input;
- ends the server when the model's process is gone, so that connections break and whatever runs the
  server starts it again;
- kills the model's process and removes its shared memory when the server is gone;
- ends a server that was asked to end and does not, although all requests have ended. Triton 2.51
  keeps a request forever whose client closes the stream in the moment in which it ends, and then
  waits with unloading the model until its exit timeout (triton-inference-server/server, pull
  request 8078 of April 2025);
- ends a server that does not get ready although the model did. Triton 2.51 takes a model's process
  that had no processor for a second for dead, and then waits for its end forever (seen on a
  starved node: `StubLauncher::WaitForStubProcess` below `Launch`).

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
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from ..contract import HEALTH_ADDRESS, TRITON_ADDRESS
from ..errors import StartError
from ..health import Health
from ..isolation import command

END_SECONDS: Final = 1.0
"""How long a server whose model is gone has between SIGTERM and SIGKILL."""

ANSWER_SECONDS: Final = 3.0
"""How long Triton may take to say that it is ready."""

UNLOAD_SECONDS: Final = 5.0
"""How long after the last request a server that is no longer ready may take until it unloads."""

START_SECONDS: Final = 120.0
"""How long after the model a server may take to be ready."""

LOOK_SECONDS: Final = 1.0
"""How often a server without requests is asked whether it is still ready."""

_REGIONS: Final = Path("/dev/shm")  # noqa: S108  no temporary file


class Guard:
    """The guard of this process and of its parent, the server; ends with `dismiss`.

    A health that is older than `stall` seconds is that of a process that does not run. The health
    can be asked for as soon as this exists. A server that is no longer ready has `unload` seconds
    to unload the model after its last request, and one that was never ready has `start` seconds
    after the model was. Raises `StartError` for an address that cannot be
    used.
    """

    def __init__(
        self,
        server: int,
        stall: float,
        dead: float,
        region: str = "",
        unload: float = UNLOAD_SECONDS,
        start: float = START_SECONDS,
    ) -> None:
        grouped = os.getpgid(0) == server  # then the group holds nothing but the server's processes
        with contextlib.ExitStack() as handed_over:
            fds = [os.pidfd_open(server), os.pidfd_open(os.getpid())]
            for fd in fds:
                handed_over.callback(os.close, fd)
            if address := os.environ.get(HEALTH_ADDRESS.name):
                fds.append(handed_over.enter_context(_listener(address)).fileno())
            words = (stall, dead, unload, start, region, int(grouped), *fds)
            self._process = subprocess.Popen(
                command(__name__, *map(str, words)),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=fds,
            )

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
        self.had_requests = False

    def hear(self, line: bytes) -> None:
        """Take a health."""
        self._health, self._heard_at = Health(**json.loads(line)), time.monotonic()
        self.had_requests |= self._health.requests > 0

    @property
    def health(self) -> Health:
        """The health now."""
        unheard = 0.0 if self._heard_at is None else time.monotonic() - self._heard_at
        if unheard < self._stall:
            return self._health
        silent = self._health.silent + unheard
        reason = f"the model's process has said nothing for {unheard:.0f} s"
        return Health(False, silent < self._dead, silent, reason)


def health_server(state: State, listener: socket.socket, triton: str) -> ThreadingHTTPServer:
    """A server of `state` on `listener`, which also asks Triton at `triton` (host:port)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            health = state.health
            good = {"/ready": health.ready, "/live": health.live}.get(self.path)
            reason = health.reason
            if good and triton and self.path == "/ready":
                try:
                    good = _is_ready(triton)
                    reason = "" if good else "Triton is not ready"
                except TimeoutError:
                    good, reason = False, "Triton does not answer"
            status = 404 if good is None else 200 if good else 503
            body = json.dumps({"ok": bool(good), "reason": reason}).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Probes come every few seconds."""

    server = ThreadingHTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    return server


def _listener(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")  # an IPv6 address: [::]:8003
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family)
    except (OSError, OverflowError, ValueError) as error:
        raise StartError(
            f"the health address {address} cannot be used ({error}): see ${HEALTH_ADDRESS.name}"
        ) from error


def _is_ready(triton: str) -> bool:
    """Whether Triton says that it is ready. Raises `TimeoutError` where it does not say."""
    connection = http.client.HTTPConnection(triton, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """The guard's side."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to the whole group
    stall, dead, unload, start, region, grouped, *fds = sys.argv[1:]
    server, model, *listening = map(int, fds)
    state = State(float(stall), float(dead))
    triton = os.environ.get(TRITON_ADDRESS.name, "")
    for fd in listening:
        http_server = health_server(state, socket.socket(fileno=fd), triton)
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
    if _watch(state, server, Ending(state, triton, float(unload), float(start))):
        return
    if select.select([server], [], [], 0)[0]:
        _send(model, signal.SIGKILL)
    else:
        _send(server, signal.SIGTERM)
        select.select([server], [], [], END_SECONDS)
        _send(server, signal.SIGKILL)
        select.select([server], [], [])
    if region:
        for path in _REGIONS.glob(f"{region}*"):
            with contextlib.suppress(OSError):
                path.unlink()
    if grouped == "1":
        os.killpg(0, signal.SIGKILL)


class Ending:
    """Finds out that a server neither serves nor ends by itself: Triton at `triton` (host:port) is
    not ready, although the model is, and there has been no request for `unload` seconds if Triton
    was ready before, or for `start` seconds if it never was."""

    def __init__(self, state: State, triton: str, unload: float, start: float) -> None:
        self._state = state
        self._triton = triton
        self._unload, self._start = unload, start
        self._was_ready = False
        self._since: float | None = None

    def overdue(self) -> str | None:
        """Why the server is to be ended; None where it is not."""
        health, now = self._state.health, time.monotonic()
        if not self._triton or not health.ready or health.requests:
            self._since = None
            return None
        self._was_ready |= self._state.had_requests
        with contextlib.suppress(TimeoutError):
            if _is_ready(self._triton):
                self._was_ready, self._since = True, None
            else:
                self._since = self._since or now
        waited = None if self._since is None else now - self._since
        if waited is None or waited < (self._unload if self._was_ready else self._start):
            return None
        if self._was_ready:
            return "Triton does not end although all requests have"
        return f"Triton is not ready, {waited:.0f} s after its model was"


def _watch(state: State, server: int, ending: Ending) -> bool:
    """Wait until a process is gone or overdue; True where the guard was dismissed instead."""
    pending = b""
    look_at = time.monotonic() + LOOK_SECONDS
    while True:
        readable, _, _ = select.select([0, server], [], [], max(look_at - time.monotonic(), 0))
        if server in readable:
            return False
        if 0 in readable:
            received = os.read(0, 65536)
            if not received:
                return False
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                if line == b"dismissed":
                    return True
                state.hear(line)
        if time.monotonic() >= look_at:
            if reason := ending.overdue():
                print(f"{reason}; ending it", file=sys.stderr)
                return False
            look_at = time.monotonic() + LOOK_SECONDS


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


if __name__ == "__main__":
    main()
