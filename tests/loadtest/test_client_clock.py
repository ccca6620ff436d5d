from __future__ import annotations

import selectors
import socket

import pytest

from nemotron_deploy.loadtest.client_clock import StampingSelector


@pytest.mark.parametrize("timeout", [None, 0.0, 0.0004, 0.001, 0.0025, 60.0])
def test_what_is_ready_is_reported_whatever_the_timeout(timeout: float | None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, StampingSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        theirs.send(b"x")
        ((key, events),) = selector.select(timeout)
        assert (key.fileobj, events) == (ours, selectors.EVENT_READ)


@pytest.mark.parametrize("timeout", [0.0, 0.0004, 0.001, 0.0025])
def test_nothing_ready_is_nothing(timeout: float) -> None:
    with StampingSelector() as selector:
        assert selector.select(timeout) == []
