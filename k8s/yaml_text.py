"""YAML in one style: keys in the order given, block style, lists indented, no aliases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

Object = dict[str, Any]
"""One Kubernetes object, or another YAML mapping."""


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump(*documents: Any, comment: str = "") -> str:
    """The documents as YAML text, with `comment` as comment lines above them."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    body = [
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=4096, allow_unicode=True)
        for document in documents
    ]
    return head + "---\n".join(body)


def title(document: Object) -> str:
    """`Kind/name`, as messages and keys name an object."""
    return f"{document.get('kind', '?')}/{document.get('metadata', {}).get('name', '?')}"


def by_title(documents: Iterable[Object]) -> dict[str, Object]:
    """Objects by their `title`."""
    return {title(document): document for document in documents}
