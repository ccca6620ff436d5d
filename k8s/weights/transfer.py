"""Copies a bundle to a claim in chunks, over a stream to `runtime/receive.py` there. What is there
already is not sent again, also after a connection that broke off or a client that was killed."""

from __future__ import annotations

import hashlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from ... import runtime
from ...core.bundle import Bundle
from ...core.errors import BadInputError, CheckFailedError
from ...core.files import sha256
from ...core.progress import Advance, Progress
from ...core.record import to_document
from ...runtime.check_bundle import served_files
from ...runtime.receive import BOOTSTRAP, MODULES

CHUNK_BYTES: Final = 1 << 24

TRIES: Final = 6
"""Connections in a row that may break without a byte that arrived."""

RECEIVER: Final = ("python3", "-c", BOOTSTRAP)
"""The command that runs where the claim is mounted."""

Connect = Callable[[], "subprocess.Popen[bytes]"]
"""Starts `RECEIVER`, or what leads to it, with pipes for all three streams."""


class DroppedError(Exception):
    """The connection broke; its last words."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bundle goes: the claim's folder in the pod, the digest that names the bundle there,
    its kind, and how many other bundles stay."""

    claim: str
    digest: str
    kind: str
    keep: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """What arrived: the bundle's folder in the pod, the number of bytes that were sent for it (none
    where it was there already), and the digests of older bundles that were deleted."""

    bundle: str
    sent_bytes: int
    deleted: tuple[str, ...]


def copy(
    bundle: Bundle,
    place: Place,
    connect: Connect,
    progress: Progress,
    pause: Callable[[float], object] = time.sleep,
) -> Arrival:
    """Copy the served files of a bundle and its record; connects again when the connection breaks.

    `pause` waits so many seconds between two connections. Raises `BadInputError` where the volume
    is full or cannot be written and where no connection lasts, `CheckFailedError` for a bundle that
    is damaged here or arrives damaged twice.
    """
    sender = _Sender(bundle, place, progress)
    failures = 0
    while True:
        before = sender.sent_bytes
        try:
            return sender.send(connect)
        except DroppedError as dropped:
            failures = 0 if sender.sent_bytes > before else failures + 1
            if failures == TRIES:
                raise BadInputError(
                    f"the connection to the pod broke {TRIES} times in a row ({dropped}). What "
                    "arrived is kept; run the same command again"
                ) from None
        except KeyboardInterrupt as interrupt:
            interrupt.add_note("What arrived is kept on the claim.")
            raise
        pause(min(2.0**failures, 30))


@dataclass(slots=True)
class _Sender:
    """One copy, over as many connections as it takes."""

    bundle: Bundle
    place: Place
    progress: Progress
    sent_bytes: int = 0
    _advance: Advance | None = None
    _there: dict[str, int] = field(default_factory=dict)

    def send(self, connect: Connect) -> Arrival:
        """Copy what is missing over one connection. Raises `DroppedError`."""
        process = connect()
        try:
            return _Session(process, self).run()
        finally:
            process.kill()
            process.communicate()

    def hello(self) -> bytes:
        """What starts the receiver, and what it is told of the bundle."""
        folder = Path(runtime.__file__).parent
        sources = [[name, (folder / f"{name}.py").read_text("utf-8")] for name in MODULES]
        modules = json.dumps(sources).encode()
        hello = {
            "claim": self.place.claim,
            "digest": self.place.digest,
            "kind": self.place.kind,
            "keep": self.place.keep,
            "record": to_document(self.bundle.record),
        }
        return b"%010d%s%s\n" % (len(modules), modules, json.dumps(hello).encode())

    def missing(self, have: dict[str, int]) -> Iterator[tuple[str, int]]:
        """(path, offset) of every chunk that is not there."""
        self._there = dict(have)
        total = sum(row["bytes"] for row in served_files(to_document(self.bundle.record)).values())
        self._advance = self._advance or self.progress.step("push", total, "bytes")
        self._advance(sum(have.values()))
        for name, start in sorted(have.items()):
            size = self.bundle.files[name].bytes
            yield from ((name, offset) for offset in range(start, size, CHUNK_BYTES))
            if not size:
                yield name, 0

    def arrived(self, name: str, size: int) -> None:
        """Note that the receiver has so many bytes of a file."""
        self.sent_bytes += size - self._there.get(name, 0)
        self._there[name] = size
        if self._advance:
            self._advance(sum(self._there.values()), name)

    def require_undamaged(self, damaged: list[str]) -> None:
        """Raise `CheckFailedError` where files that arrived damaged are damaged here."""
        for name in self.bundle.files:
            if any(f"/{name}: " in text for text in damaged):
                path = self.bundle.path / name
                if not path.is_file() or sha256(path) != self.bundle.files[name].sha256:
                    raise CheckFailedError(
                        f"{path}: differs from bundle.json; build the bundle again (nemo-deploy "
                        "verify lists everything)"
                    )


class _Session:
    """One connection. Answers are read by a thread, so that sending does not wait for them."""

    def __init__(self, process: subprocess.Popen[bytes], sender: _Sender) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._sender = process, sender
        self._stdin: IO[bytes] = process.stdin
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._last_words = b""
        self._verifying: Advance | None = None
        self._threads = [
            threading.Thread(target=self._read, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._listen, args=(process.stderr,), daemon=True),
        ]

    def run(self) -> Arrival:
        """Talk to the receiver until the bundle is in place."""
        for thread in self._threads:
            thread.start()
        try:
            self._stdin.write(self._sender.hello())
            self._stdin.flush()
            while True:
                answer = self._next()
                if "have" in answer:
                    self._send_chunks(answer["have"])
                elif "damaged" in answer:
                    self._sender.require_undamaged(answer["damaged"])
                elif "installed" in answer:
                    self._stdin.write(b"{}\n")
                    self._stdin.flush()
                    return Arrival(
                        answer["installed"], self._sender.sent_bytes, tuple(answer["deleted"])
                    )
        except (BrokenPipeError, ConnectionError):
            while True:  # why it ended may still be in the queue
                self._next()

    def _send_chunks(self, have: dict[str, int]) -> None:
        for name, offset in self._sender.missing(have):
            path = self._sender.bundle.path / name
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(CHUNK_BYTES)
            digest = hashlib.sha256(data).hexdigest()
            header = {"path": name, "offset": offset, "bytes": len(data), "sha256": digest}
            self._stdin.write(json.dumps(header).encode() + b"\n")
            self._stdin.write(data)
            self._stdin.flush()
            while not self._answers.empty():
                self._next()
        self._stdin.write(b'{"end": true}\n')
        self._stdin.flush()

    def _next(self) -> dict[str, Any]:
        """The next answer; how much arrived is noted. Raises what an error means, `DroppedError` at
        the end of the connection."""
        answer = self._answers.get()
        if answer is None:
            self._threads[1].join()
            words = self._last_words.decode(errors="replace").strip().splitlines()
            raise DroppedError(words[-1] if words else "no reason was given")
        if "size" in answer:
            self._sender.arrived(answer["path"], answer["size"])
        if "error" in answer:
            raise _failure(answer, self._sender.place.claim)
        return answer

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            text = line.decode(errors="replace")
            if text.startswith(_PROGRESS):
                self._show(json.loads(text.removeprefix(_PROGRESS)))
            elif text.startswith("{") and text.endswith("}\n"):
                self._answers.put(json.loads(text))
        self._answers.put(None)

    def _show(self, row: dict[str, Any]) -> None:
        """Pass on how far the check in the pod is."""
        if row["done"] is None or self._verifying is None:
            self._verifying = self._sender.progress.step(
                row["step"], row["total"] or 0, row["unit"] or ""
            )
        self._verifying(row["done"] or 0)

    def _listen(self, errors: IO[bytes]) -> None:
        for line in errors:
            self._last_words = line


_PROGRESS: Final = "nemo-deploy progress "


def _failure(answer: dict[str, Any], claim: str) -> Exception:
    """What the receiver's `error` means."""
    reason = answer["reason"]
    if answer["error"] == "full":
        return BadInputError(
            f"the volume is too small: {reason}. Enlarge the claim, or keep fewer bundles "
            "(--keep). What arrived is kept"
        )
    if answer["error"] == "write":
        return BadInputError(
            f"{claim} in the pod cannot be written: {reason}. Use a storage class that supports "
            "fsGroup, or make the volume's root writable for the pod's user"
        )
    return CheckFailedError(reason)
