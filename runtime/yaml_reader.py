"""Reading YAML that somebody else may have written: bounded, and as plain data.

An alias repeats what its anchor names, and aliases of aliases repeat it without bound: a file of a
few hundred bytes can take minutes and all memory. This project writes no aliases, so none is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

MAX_YAML_BYTES: Final = 4_000_000
"""Largest text that is parsed; the largest file of a bundle has some 30 kB."""

MAX_YAML_EVENTS: Final = 200_000
"""Most scalars, mappings and lists in a text, their beginnings and ends counted."""

MAX_YAML_DEPTH: Final = 64

MAX_PLAIN_CHARACTERS: Final = 16_000
"""Longest scalar without quotes: it may be a number, and YAML's numbers in base 60 take time that
grows with the square of their length."""


def load_yaml(text: str) -> list[Any]:
    """Every non-empty document of `text`.

    Raises `ValueError` saying why: malformed, too large, nested too deeply, or with an alias.
    """
    import yaml

    # libyaml is ten times as fast, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"it is too large: over {MAX_YAML_BYTES} characters")
    try:
        # Events are parsed one by one; only after them are nested objects made.
        _require_bounded(text, loader)
        documents = list(yaml.load_all(text, Loader=loader))
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(str(error)) from error
    return [document for document in documents if document is not None]


def read_yaml(path: Path) -> list[Any]:
    """Every non-empty document of the file `path`. Raises `OSError`, and `ValueError` as
    `load_yaml`."""
    with path.open("rb") as file:
        data = file.read(MAX_YAML_BYTES + 1)
    return load_yaml(data.decode())


def read_yaml_document(path: Path) -> Any:
    """The only document of the file `path`. Raises as `read_yaml`."""
    documents = read_yaml(path)
    if len(documents) != 1:
        raise ValueError(f"it holds {len(documents)} documents and must hold one")
    return documents[0]


def _require_bounded(text: str, loader: Any) -> None:
    """Raise `ValueError` for an alias, and for more or deeper values than we read."""
    import yaml

    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=loader)):
        if isinstance(event, yaml.AliasEvent):
            where = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
            raise ValueError(f"{where}aliases (*name) are not read")  # noqa: TRY004
        if count > MAX_YAML_EVENTS:
            raise ValueError(f"it has over {MAX_YAML_EVENTS} values")
        if isinstance(event, yaml.ScalarEvent) and not event.style:
            if len(event.value) > MAX_PLAIN_CHARACTERS:
                raise ValueError(
                    f"a value without quotes has over {MAX_PLAIN_CHARACTERS} characters"
                )
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_YAML_DEPTH} levels")
