"""YAML in one style: keys in the order given, block style, no aliases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import yaml

Object = dict[str, Any]
"""One Kubernetes object, or another YAML mapping."""


# libyaml writes ten times as fast as Python; both write the same.
_Base: Final[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]  # which of the two is known at run time only
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
