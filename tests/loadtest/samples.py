"""Samples made by hand."""

from __future__ import annotations

from array import array
from typing import Any

from nemotron_deploy.loadtest import LoadTest
from nemotron_deploy.loadtest.sample import Failure, Kind, Sample

STARTED: dict[str, Any] = {
    "started_at": "2026-11-28T02:30:00Z",
    "settings": LoadTest(prompts=["x"]).settings,
}
"""What every report needs, and no figure depends on."""


def sample(*arrivals: float, error: str | None = None, **fields: Any) -> Sample:
    """A request whose responses of one character each came at `arrivals`."""
    defaults: dict[str, Any] = {
        "due": 0.0,
        "sent": 0.0,
        "ended": arrivals[-1] if arrivals else 9.0,
        "lengths": array("L", [1] * len(arrivals)),
        "failure": Failure(Kind.SERVER, error) if error is not None else None,
    }
    return Sample(arrivals=array("d", arrivals), **(defaults | fields))
