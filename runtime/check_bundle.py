"""Let a pod go on only with the bundle that it is meant for, complete and undamaged.

    check_bundle.py wait CLAIM --digest D   wait until CLAIM/D is there, then check it
    check_bundle.py verify BUNDLE           check once

Exit status 1 where the bundle must not be served; the last line says why. The files of the served
folders are compared with `bundle.json`: {"files": {path: {"sha256": hex, "bytes": count}}}. This
protects against damage, incomplete copies and confusion, not against someone who can write both a
file and its digest. The script runs by itself in the serving image, with Python 3.8 or later and
the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

SERVED = ("checkpoint", "engine", "model_repository")
CARD = "checkpoint/README.md"
"""The model card. It lies among the served files, and no server reads it."""

USED = ".used"
"""Folder of the claim with an empty file for each bundle, whose time is that of the last use."""

REPORT_EVERY_S = 5.0
CHUNK = 1 << 22


def main() -> int:
    """Parse the command line and run; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("wait", "verify"):
        command = verbs.add_parser(verb)
        command.add_argument("directory", type=Path)
        command.add_argument("--digest", required=verb == "wait", help="digest of the bundle")
        command.add_argument(
            "--kind", choices=list(DIGESTS), default="files", help="what the digest is of"
        )
        for name in ("model", "gpu", "quant"):
            command.add_argument(f"--{name}", help="what the bundle is made for")
        command.add_argument("--poll", type=float, default=2, help="seconds between looks")
    given = parser.parse_args()
    # Process 1 of a container has no default handler: without this one it would outlive SIGTERM.
    # Threads that read large files are not waited for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    expected = Identity(given.digest, given.kind, given.model, given.gpu, given.quant)
    try:
        with ProgressLines() as progress:
            if given.verb == "wait":
                return wait(given.directory, expected, progress, given.poll)
            return verify(given.directory, expected, progress)
    except OSError as error:
        place, groups = error.filename or given.directory, sorted({os.getgid(), *os.getgroups()})
        runs_as = f"this runs as user {os.getuid()} in groups {groups}"
        say(f"NOT usable: {place}: {error.strerror or error}; {runs_as}")
        return 1


def say(text: str) -> None:
    """Print one line and flush: the log is read while the process waits. In one piece, because
    threads print, too."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class ProgressLines:
    """Prints how far a long work is, a line of JSON at the start of each step and every 5 seconds.

    A context manager, in whose block `step` may be called.
    """

    def __init__(self, every_s: float = REPORT_EVERY_S, write: Callable[[str], None] = say) -> None:
        self._every_s, self._write = every_s, write
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._step: dict[str, Any] | None = None
        self._first = self._began = 0.0

    def __enter__(self) -> ProgressLines:
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._ticker.join()

    def step(self, name: str, total: int = 0, unit: str = "") -> Callable[..., None]:
        """Begin a step of `total` units (0: unknown); gives a function that takes how many are
        done, and may be called from any thread."""
        current = {"step": name, "done": None, "total": total or None, "unit": unit or None}
        with self._lock:
            self._step = current
            self._began = time.monotonic()
        self._report()

        def advance(done: int, _note: str = "") -> None:
            with self._lock:
                if self._step is current:
                    if current["done"] is None:  # what a run before this one had done is not ours
                        self._first = done
                    current["done"] = done

        return advance

    def _tick(self) -> None:
        while not self._ended.wait(self._every_s):
            self._report()

    def _report(self) -> None:
        with self._lock:
            if self._step is None:
                return
            row = {**self._step, "per_second": None, "seconds_left": None}
            seconds = time.monotonic() - self._began
            if row["done"] is not None and row["done"] > self._first and seconds > 0:
                rate = (row["done"] - self._first) / seconds
                row["per_second"] = round(rate, 1)
                if row["total"]:
                    row["seconds_left"] = round((row["total"] - row["done"]) / rate)
            self._write(f"nemo-deploy progress {json.dumps(row)}")


class Identity(NamedTuple):
    """Which bundle it is; None for what is not known or may be anything. `kind` is in `DIGESTS`."""

    digest: str | None
    kind: str
    model: str | None = None
    gpu: str | None = None
    quant: str | None = None

    def __str__(self) -> str:
        made_for = f"{self.model or 'any model'} for {self.gpu or 'any GPU'}"
        return f"{made_for} in {self.quant or 'any format'}, {self.kind} digest {self.digest}"


def identity(record: Any, kind: str) -> Identity:
    """Which bundle has this record. Raises ValueError where it has no digest of this kind."""
    asked = record.get("asked") if isinstance(record, dict) else None
    asked = asked if isinstance(asked, dict) else {}
    digest = DIGESTS[kind](record)
    return Identity(digest, kind, record.get("model_name"), asked.get("gpu"), asked.get("quant"))


def wait(claim: Path, expected: Identity, progress: ProgressLines, poll_s: float) -> int:
    """Wait until the claim holds the expected bundle, and check it; returns the exit status."""
    bundle = claim / str(expected.digest)
    if not (bundle / "bundle.json").exists():
        say(waiting(claim, expected))
        progress.step("waiting")
        while not (bundle / "bundle.json").exists():
            time.sleep(poll_s)
    status = verify(bundle, expected, progress)
    if not status:
        mark_used(claim, str(expected.digest))
    return status


def waiting(claim: Path, expected: Identity) -> str:
    """What is waited for, and what the claim holds instead."""
    filled = (
        f"The Job whose name ends with -fill-{str(expected.digest)[:10]} makes it here; its log: "
        "kubectl logs --follow --selector app.kubernetes.io/name=nemo-deploy-fill"
        if expected.kind == "inputs"
        else "On the machine that built it, run: nemo-deploy push BUNDLE"
    )
    lines = [f"{claim} does not hold the bundle yet: {expected}", filled]
    for bundle in bundles(claim):
        try:
            lines.append(f"{claim} holds {identity(read_record(bundle), expected.kind)}")
        except (OSError, ValueError) as error:
            lines.append(f"{bundle}/bundle.json: {error}")
    return "\n".join(lines)


def bundles(claim: Path) -> list[Path]:
    """The folders of the claim that hold a bundle."""
    return sorted(record.parent for record in claim.glob("[0-9a-f]*/bundle.json"))


def mark_used(claim: Path, digest: str) -> None:
    """Note that the bundle is used now: those that were not used for longest are deleted first."""
    try:
        (claim / USED).mkdir(exist_ok=True)
        (claim / USED / digest).touch()
    except OSError as error:
        say(f"{claim}: the time of use could not be noted: {error.strerror}")


def verify(bundle: Path, expected: Identity, progress: ProgressLines) -> int:
    """Check the bundle and print what is wrong, the reason last; returns the exit status."""
    other = confusion(bundle, expected)
    wrong = [other] if other else list(problems(bundle, progress).values())
    for problem in wrong[1:]:
        say(problem)
    more = f" (and {len(wrong) - 1} more, above)" if len(wrong) > 1 else ""
    say(f"NOT usable: {wrong[0]}{more}" if wrong else f"{bundle}: complete, all digests match")
    return 1 if wrong else 0


def confusion(bundle: Path, expected: Identity) -> str | None:
    """How the bundle is another one than the expected, in a line; None where it is not, or where
    its record cannot be read."""
    if expected.digest is None:
        return None
    try:
        actual = identity(read_record(bundle), expected.kind)
    except (OSError, ValueError):
        return None  # which `problems` says
    differs = [
        name
        for name in ("model", "gpu", "quant", "digest")
        if getattr(expected, name) not in (None, getattr(actual, name))
    ]
    if not differs:
        return None
    return f"{bundle}: another {' and '.join(differs)}: it is {actual}; expected is {expected}"


def present(bundle: Path) -> Iterator[Path]:
    """Every file in the served folders, without Python's byte-code caches."""
    for folder in SERVED:
        for path in sorted((bundle / folder).rglob("*")):
            if (path.is_symlink() or not path.is_dir()) and "__pycache__" not in path.parts:
                yield path


def problems(bundle: Path, progress: ProgressLines) -> dict[str, str]:
    """What is wrong with the bundle, a line for each file by its path; empty if it is valid."""
    try:
        record = read_record(bundle)
        listed = served_files(record)
    except FileNotFoundError:
        return {"bundle.json": f"{bundle}: no bundle (there is no bundle.json)"}
    except (OSError, ValueError) as error:
        return {"bundle.json": f"{bundle}/bundle.json: {error}"}
    if record.get("complete") is False:
        return {"bundle.json": f"{bundle}: incomplete, its build did not end"}
    actual = {path.relative_to(bundle).as_posix() for path in present(bundle)}
    missing, extra = sorted(set(listed) - actual), sorted(actual - set(listed))
    return {
        **{name: f"{bundle}/{name}: missing" for name in missing},
        **{name: f"{bundle}/{name}: not in bundle.json" for name in extra},
        **_damages(bundle, {name: listed[name] for name in listed if name in actual}, progress),
    }


def _damages(
    bundle: Path, listed: dict[str, dict[str, Any]], progress: ProgressLines
) -> dict[str, str]:
    advance = progress.step("verifying", sum(entry["bytes"] for entry in listed.values()), "bytes")
    lock, done, interrupted = threading.Lock(), 0, threading.Event()

    def count(size: int) -> None:
        nonlocal done
        if interrupted.is_set():
            raise InterruptedError
        with lock:
            done += size
            advance(done)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        names = sorted(listed)
        checks = pool.map(lambda name: file_problem(bundle, name, listed[name], count), names)
        try:
            return {name: problem for name, problem in zip(names, checks) if problem}  # noqa: B905
        except BaseException:
            interrupted.set()  # the pool waits for its threads, which may have gigabytes to read
            raise


def read_record(bundle: Path) -> Any:
    """What `bundle.json` says. Raises OSError and ValueError."""
    return json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))


def served_files(record: Any) -> dict[str, dict[str, Any]]:
    """{path: entry} of the served folders. Raises ValueError where the record is not one."""
    files = record.get("files") if isinstance(record, dict) else None
    if not isinstance(files, dict):
        raise ValueError("has no mapping `files`")  # noqa: TRY004 - bad data, not a bug
    listed = {name: entry for name, entry in files.items() if name.split("/")[0] in SERVED}
    for name, entry in listed.items():
        if ".." in name.split("/"):
            raise ValueError(f"`files` names a path outside the bundle: {name!r}")
        typed = {"sha256": str, "bytes": int}
        if not isinstance(entry, dict) or any(
            not isinstance(entry.get(key), kind) for key, kind in typed.items()
        ):
            raise ValueError(f"`files` has no sha256 and bytes for {name!r}")
    empty = [folder for folder in SERVED if not any(n.startswith(folder + "/") for n in listed)]
    if empty:
        raise ValueError(f"`files` lists nothing in {', '.join(empty)}")
    return listed


def files_digest(record: Any) -> str:
    """The digest that names the served bytes of the bundle with this record, 64 hex digits.

    The model card is left out: an evaluation writes into it, and what is deployed stays the same.
    Raises ValueError where the record is not one, or lacks a served folder.
    """
    listed = served_files(record)
    return _digest({name: entry["sha256"] for name, entry in listed.items() if name != CARD})


def inputs_digest(record: Any) -> str:
    """The digest that names what the served folders of the bundle with this record are made from.

    Two machines that build the same thing get the same digest, though their arithmetic may differ
    in the last digit. Raises ValueError where the record does not say what a folder is made from.
    """
    stages = record.get("stages") if isinstance(record, dict) else None
    rows = {}
    for name in SERVED:
        row = stages.get(name) if isinstance(stages, dict) else None
        if not isinstance(row, dict) or not {"maker", "inputs"} <= row.keys():
            raise ValueError(f"`stages` does not say what {name} is made from")
        rows[name] = [row["maker"], row["inputs"]]
    return _digest(rows)


DIGESTS: dict[str, Callable[[Any], str]] = {"files": files_digest, "inputs": inputs_digest}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_problem(
    bundle: Path, name: str, entry: dict[str, Any], count: Callable[[int], None]
) -> str | None:
    """The problem of one file, or None. Size and digest are read from the same open file; `count`
    takes the number of bytes read since its last call."""
    path = bundle / name
    if path.resolve() != bundle.resolve() / name:
        return f"{path}: is a symbolic link; bundles contain none"
    if not path.is_file():
        return f"{path}: is not a regular file"
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry["bytes"]:
                return f"{path}: has {size} bytes, must have {entry['bytes']}"
            digest = hashlib.sha256()
            for chunk in iter(lambda: file.read(CHUNK), b""):
                digest.update(chunk)
                count(len(chunk))
    except OSError as error:
        return f"{path}: {error.strerror}"
    if digest.hexdigest() != entry["sha256"]:
        return f"{path}: digest differs (damaged, or changed since the build)"
    return None


if __name__ == "__main__":
    sys.exit(main())
