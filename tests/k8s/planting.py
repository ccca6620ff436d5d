"""Planting one mistake in a tree that is right otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

GONE: Final = object()
"""Instead of a value: the field is taken out."""

POD: Final = ("spec", "template", "spec")
SERVER: Final = (*POD, "containers", "triton")

ROOTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "deployment": ("deployment.yaml", ("spec",)),
    "template": ("deployment.yaml", ("spec", "template", "metadata")),
    "metadata": ("deployment.yaml", ("metadata",)),
    "pod": ("deployment.yaml", POD),
    "server": ("deployment.yaml", SERVER),
    "openai": ("deployment.yaml", (*POD, "containers", "openai")),
    "check": ("deployment.yaml", (*POD, "initContainers", "check-bundle")),
    "terms": (
        "deployment.yaml",
        (
            *POD,
            "affinity",
            "nodeAffinity",
            "requiredDuringSchedulingIgnoredDuringExecution",
            "nodeSelectorTerms",
        ),
    ),
    "service": ("service.yaml", ("spec",)),
    "budget": ("poddisruptionbudget.yaml", ("spec",)),
    "policy": ("networkpolicy.yaml", ("spec",)),
    "claim": ("fill/persistentvolumeclaim.yaml", ("spec",)),
    "job": ("fill/job.yaml", ()),
    "account": ("serviceaccount.yaml", ()),
    "scaler": ("scaledobject.yaml", ("spec",)),
}
"""First word of a path: the file of the object it is in, and where it starts there."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mistake was planted: the file, the object's title and the path of the field."""

    file: str
    object: str
    field: str


def read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def write(path: Path, document: Any) -> None:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


def plant(tree: Path, path: str, value: object) -> Place:
    """Set the field at `path` in a file of `tree`.

    Words of the path are keys. In a list, a word is an index, a new element (`+`), the name (or
    `mountPath`, or `key`) of an element, or the beginning of one that is text.
    """
    root, *words = path.split()
    file, start = ROOTS[root]
    document = read(tree / file)
    node, steps, text = document, [*start, *words], ""
    for position, word in enumerate(steps):
        step = _step(node, word)
        text += f"[{step}]" if isinstance(step, int) else _key(step, text)
        if position < len(steps) - 1:
            node = node[step]
        elif value is GONE:
            del node[step]
        elif word == "+":
            node.append(value)
        else:
            node[step] = value
    write(tree / file, document)
    return Place(file, f"{document['kind']}/{document['metadata']['name']}", text)


def _key(step: str, before: str) -> str:
    is_plain = step.replace("-", "").replace("_", "").isalnum()
    return f"{'.' if before else ''}{step}" if is_plain else f"['{step}']"


def _step(node: Any, word: str) -> Any:
    if not isinstance(node, list):
        return word
    if word == "+":
        return len(node)
    if word.isdecimal():
        return int(word)
    for index, item in enumerate(node):
        if isinstance(item, str) and item.startswith(word):
            return index
        if isinstance(item, dict) and word in (item.get(k) for k in ("name", "mountPath", "key")):
            return index
    raise KeyError(word)


def remove(tree: Path, file: str) -> None:
    """Take an object out of the tree."""
    path = tree / file
    path.unlink()
    index = path.parent / "kustomization.yaml"
    document = read(index)
    document["resources"].remove(path.name)
    write(index, document)


def add(tree: Path, file: str, document: dict[str, Any]) -> None:
    """Add an object to the tree."""
    write(tree / file, document)
    index = tree / "kustomization.yaml"
    kustomization = read(index)
    kustomization["resources"].append(file)
    write(index, kustomization)
