"""Objects in files: YAML of one or several documents, Lists, and what is no manifest."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Any, Final

from ...runtime.yaml_reader import load_yaml
from .findings import ERROR, Finding
from .object_set import KubeObject

KUSTOMIZE: Final = "kustomize.config.k8s.io/"

_MEND: Final = "Write it as YAML of Kubernetes objects"


class NotAnObject(Exception):  # noqa: N818 - it says what a document is
    """A document that is meant to be a Kubernetes object, and is none."""


class NotRead(Exception):  # noqa: N818 - it says what becomes of a file
    """A file is beyond what is read: too large, too deep, or with aliases."""


def parse(text: str) -> list[Any]:
    """The documents of a file, in JSON's types.

    Raises `NotRead`, and `ValueError` where the text is no YAML, or has a value that JSON has not.
    """
    try:
        documents = load_yaml(text)
    except ValueError as error:
        if error.__cause__ is None:  # a limit of the reader, not an error of the parser
            raise NotRead(str(error)) from error
        raise
    return [_as_json(document) for document in documents]


def objects_of(file: str, documents: list[Any]) -> tuple[list[KubeObject], list[Finding]]:
    """The Kubernetes objects among documents, those in Lists included, and what is malformed.

    Documents of another kind, such as the values of a chart, are left out.
    """
    found: list[KubeObject] = []
    findings: list[Finding] = []
    for document in documents:
        try:
            found += _objects(file, document, "")
        except NotAnObject as error:
            findings.append(Finding("malformed", ERROR, file, "", "", str(error), _MEND))
    return found, findings


def unreadable(file: str, reason: str, mend: str = _MEND) -> Finding:
    """A finding about a file that cannot be read."""
    return Finding("malformed", ERROR, file, "", "", " ".join(reason.split()), mend)


def _objects(file: str, document: Any, prefix: str) -> Iterator[KubeObject]:
    if not isinstance(document, dict):
        if prefix:
            raise NotAnObject(f"{prefix} is not a Kubernetes object")
        return
    kind, version = document.get("kind"), document.get("apiVersion")
    if isinstance(kind, str) and isinstance(version, str) and kind and version:
        if version.startswith(KUSTOMIZE):
            return
        items = document.get("items")
        if kind.endswith("List") and isinstance(items, list):
            for index, item in enumerate(items):
                yield from _objects(file, item, f"{prefix}{'.' if prefix else ''}items[{index}]")
        else:
            yield KubeObject(file, document, prefix)
    elif prefix or ("metadata" in document and {"kind", "apiVersion"} & document.keys()):
        where = f"{prefix} is not" if prefix else "a document is not"
        raise NotAnObject(f"{where} a Kubernetes object: apiVersion and kind must be text")


def _as_json(value: Any) -> Any:
    """A value as Kubernetes' own reader has it: keys are text, and so are dates."""
    if isinstance(value, dict):
        return {_key(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"a value of the type {type(value).__name__} has no place in a manifest")


def _key(key: Any) -> str:
    if isinstance(key, bool):
        return str(key).lower()
    if isinstance(key, (str, int, float)):
        return str(key)
    if key is None:
        return "null"
    raise ValueError(f"a key of the type {type(key).__name__} has no place in a manifest")
