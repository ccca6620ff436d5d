"""Treats a connection that is reset as one that ended early, which huggingface_hub resumes.

huggingface_hub 1.33 resumes a download after `httpx.RemoteProtocolError` and timeouts, but after
`httpx.ReadError`, which a reset connection ends in, it discards what had arrived.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx


class _Resumable(httpx.SyncByteStream):
    """The body of a response, which reports a reset as an early end."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpx.ReadError as error:
            raise httpx.RemoteProtocolError("the connection was reset") from error

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()


def _wrap(answer: httpx.Response) -> None:
    if isinstance(answer.stream, httpx.SyncByteStream):
        answer.stream = _Resumable(answer.stream)


def make_resumable(session: httpx.Client) -> None:
    """Treat resets of `session`'s connections so. May be called again."""
    hooks = session.event_hooks
    if _wrap not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _wrap]}
