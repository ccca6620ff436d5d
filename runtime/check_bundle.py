"""Block a pod until its claim holds a complete and undamaged bundle.

    check_bundle.py wait CLAIM      wait until CLAIM/bundle is valid; print how to copy it there
    check_bundle.py install CLAIM   check CLAIM/.incoming and rename it to CLAIM/bundle
    check_bundle.py verify BUNDLE   check once; exit status 1 and the invalid files

The files of the served folders are compared with `bundle.json`:
{"files": {path: {"sha256": hex, "bytes": count}}}. This protects against damage and incomplete
copies, not against someone who can write both a file and its digest. The script runs by itself in
the serving image, with Python 3.8 or later and the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SERVED = ("checkpoint", "engine", "model_repository")
REPORT_EVERY_S = 30
CHUNK = 1 << 22


def main() -> int:
    """Parse the command line and run; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["wait", "install", "verify"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--poll", type=float, default=5, help="seconds between looks (wait)")
    given = parser.parse_args()
    # Process 1 of a container has no default handler: without this one it would outlive SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.verb == "wait":
        return wait(given.directory, given.poll)
    if given.verb == "install":
        return install(given.directory)
    return report(given.directory, problems(given.directory))


def say(text: str) -> None:
    """Print and flush: the log is read while the process waits."""
    print(text, flush=True)


def report(bundle: Path, found: list[str]) -> int:
    """Print the problems; returns the exit status."""
    for problem in found:
        say(problem)
    say(f"{bundle}: {'NOT usable' if found else 'complete, all digests match'}")
    return 1 if found else 0


def wait(claim: Path, poll_s: float) -> int:
    """Return 0 once the claim holds a valid bundle. An unchanged bundle is not read again."""
    bundle = claim / "bundle"
    checked: object = None
    next_report = 0.0
    while True:
        state = snapshot(bundle)
        if state != checked:
            found = problems(bundle)
            if not found:
                return report(bundle, found)
            checked, next_report = state, 0.0
        if time.monotonic() >= next_report:
            report(bundle, found)
            say(instructions(claim))
            next_report = time.monotonic() + REPORT_EVERY_S
        time.sleep(poll_s)


def instructions(claim: Path) -> str:
    """The two commands that copy a bundle to this pod's claim."""
    name = os.environ.get("BUNDLE_NAME", "BUNDLE")
    pod = os.environ.get("POD_NAME", "POD")
    scope = f"--namespace {os.environ.get('POD_NAMESPACE', 'default')} --container check-bundle"
    lines = [
        "Waiting for a bundle. On the machine that built it, run:",
        f"    kubectl cp {scope} dist/{name} {pod}:{claim}/.incoming",
        f"    kubectl exec {scope} {pod} -- python3 {Path(__file__).resolve()} install {claim}",
    ]
    if not os.access(claim, os.W_OK):
        lines.append(
            f"User {os.getuid()} cannot write to {claim}: use a storage class that supports "
            "fsGroup, or make the volume's root writable for that user."
        )
    return "\n".join(lines)


def install(claim: Path) -> int:
    """Check the copied bundle, and rename it to where the pod expects it."""
    incoming, bundle, replaced = claim / ".incoming", claim / "bundle", claim / ".replaced"
    # `kubectl cp` puts a directory into an existing one: the second try after a broken copy.
    nested = [path.parent for path in incoming.glob("*/bundle.json")]
    source = nested[0] if len(nested) == 1 else incoming
    found = problems(source)
    if report(source, found):
        say(f"Copy again. To start over, first run in this container: rm -rf {incoming}")
        return 1
    shutil.rmtree(replaced, ignore_errors=True)
    if bundle.exists():
        bundle.rename(replaced)
    source.rename(bundle)
    for left in (replaced, incoming):
        shutil.rmtree(left, ignore_errors=True)
    say(f"{bundle}: in place")
    return 0


def snapshot(bundle: Path) -> list[tuple[str, int, int, int]]:
    """A value that changes when a file of the bundle changes; reads no content."""
    state = []
    for path in [bundle / "bundle.json", *present(bundle)]:
        try:
            status = path.lstat()
        except OSError:
            continue
        state.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return state


def present(bundle: Path) -> Iterator[Path]:
    """Every file in the served folders, without Python's byte-code caches."""
    for folder in SERVED:
        for path in sorted((bundle / folder).rglob("*")):
            if (path.is_symlink() or not path.is_dir()) and "__pycache__" not in path.parts:
                yield path


def problems(bundle: Path) -> list[str]:
    """The bundle's problems, one line for each file; empty if it is valid."""
    try:
        listed = served_files(json.loads((bundle / "bundle.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return [f"{bundle}: no bundle (there is no bundle.json)"]
    except (OSError, ValueError) as error:
        return [f"{bundle}/bundle.json: {error}"]
    actual = {path.relative_to(bundle).as_posix() for path in present(bundle)}
    found = [f"{bundle}/{name}: missing" for name in sorted(set(listed) - actual)]
    found += [f"{bundle}/{name}: not in bundle.json" for name in sorted(actual - set(listed))]
    if found:
        return found
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda item: file_problem(bundle, *item), sorted(listed.items()))
        return [problem for problem in results if problem]


def served_files(record: Any) -> dict[str, dict[str, Any]]:
    """{path: entry} of the served folders. Raises ValueError where the record is not one."""
    files = record.get("files") if isinstance(record, dict) else None
    if not isinstance(files, dict):
        raise ValueError("has no mapping `files`")  # noqa: TRY004 - bad data, not a bug
    listed = {name: entry for name, entry in files.items() if name.split("/")[0] in SERVED}
    for name, entry in listed.items():
        if ".." in name.split("/"):
            raise ValueError(f"`files` names a path outside the bundle: {name!r}")
        if not isinstance(entry, dict) or not {"sha256", "bytes"} <= entry.keys():
            raise ValueError(f"`files` has no sha256 and bytes for {name!r}")
    empty = [folder for folder in SERVED if not any(n.startswith(folder + "/") for n in listed)]
    if empty:
        raise ValueError(f"`files` lists nothing in {', '.join(empty)}")
    return listed


def files_digest(record: Any) -> str:
    """The digest that names the served bytes of the bundle with this record, 64 hex digits.

    Raises ValueError where the record is not one, or lacks a served folder.
    """
    return _digest({name: entry["sha256"] for name, entry in served_files(record).items()})


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


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_problem(bundle: Path, name: str, entry: dict[str, Any]) -> str | None:
    """The problem of one file, or None. Size and digest are read from the same open file."""
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
    except OSError as error:
        return f"{path}: {error.strerror}"
    if digest.hexdigest() != entry["sha256"]:
        return f"{path}: digest differs (damaged, or changed since the build)"
    return None


if __name__ == "__main__":
    sys.exit(main())
