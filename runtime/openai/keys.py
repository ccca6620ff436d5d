"""API keys: who may use the endpoint."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final, Self

_SCHEME: Final = "bearer"


class KeysError(ValueError):
    """A file of keys cannot be used. Names it."""


class ApiKeys:
    """Keys that are accepted, kept as digests."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def read(cls, path: Path) -> Self:
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
        return cls(keys)

    def accept(self, authorization: str) -> bool:
        """Whether an `Authorization` header has one of the keys, in time that tells nothing."""
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == _SCHEME and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
