"""The metadata at the beginning of a model card, which somebody else may have written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from ..core.untrusted import open_inside
from ..runtime.yaml_reader import load_yaml

CARD: Final = "README.md"

MAX_CARD_BYTES: Final = 1_000_000
MAX_TEXT: Final = 300

_FRONT: Final = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_TEXT: Final = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_TEXT}}}")


def card_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of the card in `folder`, as far as it is short texts and lists of them; empty
    where there is no card, or none that can be read."""
    if not (folder / CARD).is_file():
        return {}
    try:
        with open_inside(folder / CARD) as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8-sig", errors="replace")
        front = _FRONT.match(text.replace("\r\n", "\n"))
        documents = load_yaml(front[1]) if front else []
    except (OSError, ValueError):
        return {}
    if len(documents) != 1 or not isinstance(documents[0], dict):
        return {}
    return {str(key): value for key, value in documents[0].items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) and _is_plain(item) for item in value)
    return isinstance(value, str) and _TEXT.fullmatch(value) is not None
