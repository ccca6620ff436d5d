"""The far end of `nemo-deploy push`: writes the chunks of a bundle to a claim, and checks it there.

It runs in a pod by itself, with Python 3.8 or later and the standard library. `BOOTSTRAP` starts it
and reads it, with the modules that it needs, from standard input.

On standard input come lines of JSON: first what is copied (see `receive`), then chunks, each with
its bytes behind it, and `{"end": true}` after the last. On standard output go lines of JSON: `have`
says how many bytes of each file are there, `size` how many are now, `damaged` names files to be
sent again, and `error` or `installed` is the last. A connection may break at any point: the next
one goes on with what is there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import select
import shutil
import sys
from pathlib import Path
from typing import Any

from . import claim as claims
from .check_bundle import (
    Identity,
    ProgressLines,
    confusion,
    mark_used,
    problems,
    say,
    served_files,
)

BOOTSTRAP = """\
import json, os, sys, types
def read(count):
    data = b""
    while len(data) < count:
        part = os.read(0, count - len(data))
        data += part or sys.exit("ended early")
    return data
package = types.ModuleType("receiver")
package.__path__ = []
sys.modules["receiver"] = package
for name, text in json.loads(read(int(read(10)))):
    module = types.ModuleType("receiver." + name)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    module.__dict__["__package__"] = "receiver"
    exec(compile(text, name + ".py", "exec"), module.__dict__)
sys.exit(module.main())
"""
MODULES = ("check_bundle", "claim", "receive")
"""What `BOOTSTRAP` reads: ten digits, the length of a JSON list of [name, source] pairs."""

SILENCE_S = 60
"""After so long without a byte, the other end is taken to be gone."""

_READ = 1 << 20


class GoneError(Exception):
    """The other end is gone."""


def main() -> int:
    """Receive one bundle; returns the exit status."""
    stream = Stream(0)
    try:
        hello = stream.line()
        receive(stream, hello)
        stream.line()  # the other end has read the last answer: output may be cut at the end
    except GoneError:
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
        answer(error="full" if full else "write", reason=reason)
        return 1
    except ValueError as error:
        answer(error="other", reason=str(error))
        return 1
    return 0


def answer(**row: Any) -> None:
    """Send one line."""
    say(json.dumps(row))


class Stream:
    """Lines and bytes from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()

    def line(self) -> Any:
        """The next line, which holds JSON."""
        while b"\n" not in self._buffer:
            self._fill()
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return json.loads(line)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        while len(self._buffer) < count:
            self._fill()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _fill(self) -> None:
        if not select.select([self._descriptor], [], [], SILENCE_S)[0]:
            raise GoneError
        part = os.read(self._descriptor, _READ)
        if not part:
            raise GoneError
        self._buffer += part


def receive(stream: Stream, hello: dict[str, Any]) -> None:
    """Take one bundle over, as `hello` describes it: `claim`, `digest` and its `kind`, `keep`
    and the `record`."""
    claim, digest = Path(hello["claim"]), hello["digest"]
    with ProgressLines() as progress:

        def on_wait() -> None:
            progress.step("waiting")

        with claims.working_folder(claim, claims.INCOMING, digest, on_wait) as folder:
            expected = Identity(digest, hello["kind"])
            deleted: list[str] = []
            if _is_there(claim / digest, folder / "bundle", expected, progress):
                mark_used(claim, digest)
            else:
                deleted = _take(stream, hello, folder / "bundle", progress)
            shutil.rmtree(folder, ignore_errors=True)
            answer(installed=str(claim / digest), deleted=deleted)


def _is_there(target: Path, work: Path, expected: Identity, progress: ProgressLines) -> bool:
    """Whether the claim holds the bundle. One that is damaged becomes the beginning of `work`, so
    that only what is damaged is sent again."""
    if not (target / "bundle.json").exists():
        return False
    damaged = problems(target, progress)
    if not damaged and not confusion(target, expected):
        return True
    shutil.rmtree(work, ignore_errors=True)
    target.rename(work)
    _drop(work, damaged)
    return False


def _take(stream: Stream, hello: dict[str, Any], work: Path, progress: ProgressLines) -> list[str]:
    """Write what is missing in `work`, check it, and put it in its place. Gives the older bundles
    that were deleted."""
    claim, digest, record = Path(hello["claim"]), hello["digest"], hello["record"]
    listed = served_files(record)
    deleted = claims.prune(claim, hello["keep"], digest)
    if any(path.is_symlink() for path in work.rglob("*")):
        shutil.rmtree(work)  # bundles contain no links, and one would be written through
    have = _have(work, listed)
    missing = sum(entry["bytes"] for entry in listed.values()) - sum(have.values())
    free = shutil.disk_usage(claim).free
    if missing > free:
        raise OSError(errno.ENOSPC, f"{missing} bytes more are needed, {free} are free", str(claim))
    for _ in range(2):
        answer(have=have)
        _write_chunks(stream, work, listed)
        (work / "bundle.json").write_text(json.dumps(record), encoding="utf-8")
        damaged = problems(work, progress)
        if not damaged:
            claims.install(work, claim, digest)
            return deleted
        _drop(work, damaged)
        have = _have(work, listed)
        answer(damaged=list(damaged.values()))
    raise ValueError(
        f"the bundle arrived damaged twice, the volume may be failing: {list(damaged.values())[:3]}"
    )


def _drop(work: Path, names: dict[str, str]) -> None:
    for name in names:
        (work / name).unlink(missing_ok=True)


def _have(work: Path, listed: dict[str, Any]) -> dict[str, int]:
    """How many bytes of each file are there. Files are written from the first byte on."""
    have = {}
    for name, entry in listed.items():
        path = work / name
        size = path.stat().st_size if path.is_file() else 0
        if size > entry["bytes"]:
            path.unlink()
            size = 0
        have[name] = size
    return have


def _write_chunks(stream: Stream, work: Path, listed: dict[str, Any]) -> None:
    """Write chunks up to the end that the other side announces. Raises ValueError for one that is
    damaged or has no place."""
    while True:
        chunk = stream.line()
        if "end" in chunk:
            return
        name, offset = chunk["path"], chunk["offset"]
        data = stream.take(chunk["bytes"])
        if hashlib.sha256(data).hexdigest() != chunk["sha256"]:
            raise ValueError(f"{name}: a chunk was damaged on its way")
        entry = listed.get(name)
        if entry is None or offset + len(data) > entry["bytes"]:
            raise ValueError(f"{name}: a chunk has no place in the bundle")
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            if file.seek(0, os.SEEK_END) != offset:
                raise ValueError(f"{name}: a chunk is missing before byte {offset}")
            file.write(data)
            file.flush()
            if offset + len(data) == entry["bytes"]:
                os.fsync(file.fileno())
        answer(path=name, size=offset + len(data))


if __name__ == "__main__":
    sys.exit(main())
