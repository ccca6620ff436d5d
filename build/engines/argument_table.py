"""Checks an engine's arguments against a table of them: a JSON Schema for each of its versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def problems(args: Mapping[str, Any], table: Path, name: str) -> list[str]:
    """What an engine with the arguments in `table` would refuse in `args`, one line each; `name` is
    what the arguments are called as a whole."""
    from jsonschema import Draft202012Validator

    schema = json.loads(table.read_text(encoding="utf-8"))
    return [
        f"{'.'.join(map(str, error.path)) or name}: {error.message}"
        for error in Draft202012Validator(schema).iter_errors(args)
    ]
