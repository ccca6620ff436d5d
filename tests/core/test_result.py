from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

from nemotron_deploy import __version__
from nemotron_deploy.core.result import Result


class Color(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Part:
    color: Color
    size: float | None


@dataclass(frozen=True, slots=True)
class Whole(Result):
    SCHEMA: ClassVar[int] = 3

    path: Path
    parts: tuple[Part, ...]
    by_color: dict[Color, int]


def test_a_result_becomes_one_versioned_document() -> None:
    whole = Whole(Path("a/b"), (Part(Color.RED, 1.5), Part(Color.RED, None)), {Color.RED: 2})
    document = whole.to_json()
    assert json.loads(json.dumps(document)) == {
        "schema": 3,
        "made_by": f"nemo-deploy {__version__}",
        "path": "a/b",
        "parts": [{"color": "red", "size": 1.5}, {"color": "red", "size": None}],
        "by_color": {"red": 2},
    }
