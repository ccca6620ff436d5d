"""API keys: who may use the endpoint."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SCHEME: Final = "bearer"

_log = logging.getLogger(__name__)


class KeysError(ValueError):
    """A file of keys cannot be used. Names it."""


def read_keys(path: Path) -> list[str]:
    """The keys in a file, one a line; empty lines and those that begin with # are none.

    Raises `KeysError` for a file that cannot be read or has no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"{path}: cannot be read as a file of API keys ({error})") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise KeysError(f"{path}: has no API key; write one on each line")
    return keys


class ApiKeys:
    """The keys in the file `path`, kept as digests. The file is read again when it changes.

    With `optional`, the file may be missing: everybody is accepted until there is one. From then
    on a key is needed, also if the file goes away again or cannot be read: the last keys that were
    read stay valid. Raises `KeysError` for a file that cannot be used at the start.
    """

    def __init__(self, path: Path, optional: bool = False) -> None:
        self._path = path
        self._digests: Sequence[bytes] | None = None
        self._version = _version(path)
        if self._version is None and optional:
            _log.warning(
                "%s: no such file, so no API key is needed: whoever reaches this endpoint may use "
                "it. Once there is a file, its keys are needed",
                path,
            )
        else:
            self._read()

    def accept(self, authorization: str) -> bool:
        """Whether an `Authorization` header has one of the keys, in time that tells nothing."""
        self._follow()
        if self._digests is None:
            return True
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == _SCHEME and any(matches)

    def _follow(self) -> None:
        """Read the file again if it has changed."""
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._read()
        except KeysError as error:
            self._digests = self._digests or ()
            _log.error("%s; the keys that were read before stay valid", error)

    def _read(self) -> None:
        self._digests = [_digest(key) for key in read_keys(self._path)]
        _log.info("%s: %d API keys", self._path, len(self._digests))


def _version(path: Path) -> object:
    """What differs when the file has other content; None where there is none.

    Kubernetes replaces the files of a Secret by others, so that the inode changes.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.errno
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
