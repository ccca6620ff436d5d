"""A stand-in for the Hugging Face hub: a local server that answers what huggingface_hub 1.33 asks.

It is none of the hub's code. What it imitates was read in huggingface_hub 1.33.0: its
`HfApi.model_info` (hf_api.py), `get_hf_file_metadata` and `http_get` (file_download.py), and the
error headers in `hf_raise_for_status` (utils/_http.py). Large files lie behind a signed address on
another host, as the hub's do (here `localhost` instead of `127.0.0.1`). Xet is not imitated.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

SIGNATURE = "signature-of-nobodys-business"
"""Part of every signed address: must never be seen in an output or a file."""

_BLOCK = 1 << 14
_API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_RESOLVE = re.compile(
    r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)"
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One request: `file` is empty for the listing; `start` is where its range begins, and `whole`
    says that it has no end before the file's."""

    method: str
    file: str
    start: int
    whole: bool
    authorization: str | None
    signed: bool


@dataclass
class Faults:
    """What is to go wrong. Files are named as in the repository."""

    refuse: tuple[int, str] | None = None
    """Status and `X-Error-Code` of every answer."""
    cut: dict[str, list[int]] = field(default_factory=dict)
    """The connection ends after that many bytes of the body, once for each number."""
    reset: bool = False
    """A cut is a reset (RST) and no orderly end."""
    flip: set[str] = field(default_factory=set)
    """Files of which one bit arrives wrong."""
    hold: dict[str, threading.Event] = field(default_factory=dict)
    """The second half of the body waits for the event."""


class StandIn:
    """The server: `repositories` are folders by name, `requests` all that was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.faults = Faults()
        self.requests: list[Request] = []
        self.sent: dict[str, int] = {}
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self})
        )
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def downloads(self) -> list[Request]:
        """Requests for a file, or the rest of one; neither redirections nor headers."""
        return [
            row
            for row in self.requests
            if row.method == "GET" and row.file and row.whole
            if row.signed or not is_large(Path(row.file))
        ]

    def fetched(self) -> list[str]:
        """The files that were downloaded, in order."""
        return [row.file for row in self.downloads()]

    def starts(self, file: str) -> list[int]:
        """Where each download of `file` began."""
        return [row.start for row in self.downloads() if row.file == file]

    def commit(self, repository: str) -> str:
        """A commit hash that changes with any file."""
        digest = hashlib.sha1()
        for path in sorted(self.repositories[repository].iterdir()):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    @contextmanager
    def running(self) -> Iterator[StandIn]:
        """Serve while the block runs."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            for event in self.faults.hold.values():
                event.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def is_large(path: Path) -> bool:
    """Whether the hub would keep the file in its large file storage."""
    return path.suffix == ".safetensors"


def digests(path: Path) -> tuple[str, str]:
    """SHA-256, and git's hash of a blob."""
    data = path.read_bytes()
    return (
        hashlib.sha256(data).hexdigest(),
        hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    )


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[StandIn]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        path, query = address.path, parse_qs(address.query)
        signed = path.startswith("/storage/")
        found = _RESOLVE.fullmatch(path.removeprefix("/storage"))
        listing = _API.fullmatch(path)
        self._note(found["file"] if found else "", signed)
        if self.hub.faults.refuse and not signed:
            self._refuse(*self.hub.faults.refuse)
        elif listing:
            self._list(unquote(listing["repository"]), unquote(listing["revision"]), query)
        elif found:
            self._resolve(found["repository"], found["revision"], unquote(found["file"]), signed)
        else:
            self._refuse(404, "")

    def _note(self, file: str, signed: bool) -> None:
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        row = Request(
            self.command,
            unquote(file),
            int(span[1]) if span else 0,
            not (span and span[2]),
            self.headers.get("Authorization"),
            signed,
        )
        with self.hub.lock:
            self.hub.requests.append(row)

    def _known(self, repository: str, revision: str) -> Path | None:
        """The folder of a repository, or None once the refusal is sent."""
        folder = self.hub.repositories.get(repository)
        if folder is None:
            # The hub does not say whether a repository is private or does not exist.
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", self.hub.commit(repository)):
            self._refuse(404, "RevisionNotFound")
            return None
        return folder

    def _list(self, repository: str, revision: str, query: dict[str, list[str]]) -> None:
        folder = self._known(repository, revision)
        if folder is None:
            return
        rows: list[dict[str, Any]] = []
        for path in sorted(folder.iterdir()):
            sha256, blob = digests(path)
            row: dict[str, Any] = {"rfilename": path.name}
            if "blobs" in query:
                row |= {"size": path.stat().st_size, "blobId": blob}
                if is_large(path):
                    row["lfs"] = {"sha256": sha256, "size": row["size"], "pointerSize": 135}
            rows.append(row)
        record = {"id": repository, "sha": self.hub.commit(repository), "siblings": rows}
        body = json.dumps(record).encode()
        self._begin(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _resolve(self, repository: str, revision: str, file: str, signed: bool) -> None:
        folder = self._known(repository, revision)
        if folder is None:
            return
        path = folder / file
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        sha256, blob = digests(path)
        headers = {"X-Repo-Commit": self.hub.commit(repository), "Accept-Ranges": "bytes"}
        if is_large(path) and not signed:
            self._begin(302, headers | {
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(path.stat().st_size),
                "Location": f"http://localhost:{self.hub.port}/storage/{repository}/resolve/"
                f"{revision}/{file}?X-Signature={SIGNATURE}",
                "Content-Length": "0",
            })  # fmt: skip
            return
        headers["ETag"] = f'"{sha256 if signed else blob}"'
        self._send(file, path.read_bytes(), headers)

    def _send(self, file: str, data: bytes, headers: dict[str, str]) -> None:
        faults, size = self.hub.faults, len(data)
        if file in faults.flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            start, end = int(span[1]), min(int(span[2] or size - 1), size - 1)
            data = data[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        self._begin(206 if span else 200, headers | {"Content-Length": str(len(data))})
        if self.command == "HEAD":
            return
        # A header alone, which is asked for by a range with an end, is never disturbed.
        whole = not (span and span[2])
        cuts = faults.cut.get(file, [])
        stop = cuts.pop(0) if whole and cuts else None
        for position in range(0, len(data), _BLOCK):
            block = data[position : min(position + _BLOCK, len(data) if stop is None else stop)]
            if whole and file in faults.hold and 2 * position >= len(data):
                faults.hold[file].wait()
            try:
                self.wfile.write(block)
            except OSError:
                break
            with self.hub.lock:
                self.hub.sent[file] = self.hub.sent.get(file, 0) + len(block)
            if stop is not None and position + len(block) >= stop:
                self._cut()
                return

    def _cut(self) -> None:
        self.close_connection = True
        if self.hub.faults.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def _refuse(self, status: int, code: str) -> None:
        headers = {"Content-Length": "0"}
        self._begin(status, headers | ({"X-Error-Code": code} if code else {}))

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
