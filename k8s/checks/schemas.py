"""Which kinds Kubernetes defines, and whether objects fit their schemas."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, Final

KUBERNETES: Final = ("1.30", "1.37")
"""Releases whose schemas the objects must satisfy: the oldest that can run them, and the newest
that `kubernetes-validate` knew when this was written."""

WITH_DEVICES: Final = ("1.34", "1.37")
"""The same for pods that claim devices: dynamic resource allocation is stable from 1.34 on."""

REMOVED: Final = {
    "extensions/v1beta1": "1.22", "apps/v1beta1": "1.16", "apps/v1beta2": "1.16",
    "batch/v1beta1": "1.25", "batch/v2alpha1": "1.21", "policy/v1beta1": "1.25",
    "autoscaling/v2beta1": "1.25", "autoscaling/v2beta2": "1.26",
    "networking.k8s.io/v1beta1": "1.22", "rbac.authorization.k8s.io/v1beta1": "1.22",
}  # fmt: skip
"""API versions that are gone, and the release that removed them."""


def is_known(kind: str, api_version: str) -> bool:
    """Whether Kubernetes itself defines, or once defined, that kind."""
    if api_version in REMOVED:
        return True
    return any(_validator(version, kind, api_version) is not None for version in KUBERNETES)


def schema_errors(
    document: dict[str, Any], releases: tuple[str, ...] = KUBERNETES
) -> Iterator[tuple[str, str]]:
    """Path and message of the clearest error in an object, for each release that says another;
    nothing for kinds that Kubernetes does not define."""
    from jsonschema.exceptions import best_match

    said: set[str] = set()
    for version in releases:
        validator = _validator(version, document["kind"], document["apiVersion"])
        error = best_match(validator.iter_errors(document)) if validator else None
        if error is not None and error.message not in said:
            said.add(error.message)
            steps = (f"[{s}]" if isinstance(s, int) else f".{s}" for s in error.absolute_path)
            message = error.message if len(error.message) < 300 else f"{error.message[:300]}..."
            yield "".join(steps).removeprefix("."), f"{message} (Kubernetes {version})"


@functools.cache
def _validator(version: str, kind: str, api_version: str) -> Any:
    """The validator of a kind; None for a kind without a schema."""
    from jsonschema import Draft202012Validator

    # The name of a schema has the first word of an API group: role-rbac-v1.
    named = re.fullmatch(r"(?:([a-z0-9-]+)[a-z0-9.-]*/)?(v[a-z0-9]+)", api_version)
    if named is None or not re.fullmatch(r"[A-Za-z]+", kind):
        return None
    file = "-".join(filter(None, (kind.lower(), named[1], named[2])))
    try:
        schema = _contents(version, file)
    except FileNotFoundError:
        return None
    versions = schema.get("properties", {}).get("apiVersion", {}).get("enum", [])
    if api_version not in versions:
        return None  # a kind of the same name in another project's API group
    return Draft202012Validator(_inlined(schema, _contents(version, "_definitions")["$defs"], ()))


def _inlined(schema: Any, definitions: dict[str, Any], inside: tuple[str, ...]) -> Any:
    """A schema without references and descriptions, which take most of the time of a validation. A
    definition `inside` of itself, as in schemas of custom resources, allows everything."""
    if isinstance(schema, list):
        return [_inlined(item, definitions, inside) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$ref"), str):
        name = schema["$ref"].rpartition("/")[2]
        return {} if name in inside else _inlined(definitions[name], definitions, (*inside, name))
    return {
        key: _inlined(value, definitions, inside)
        for key, value in schema.items()
        if key != "description" or isinstance(value, dict)  # a property of that name
    }


@functools.cache
def _contents(version: str, file: str) -> Any:
    """A file of the strict schemas of a release. Raises `FileNotFoundError`."""
    from kubernetes_validate.utils import all_versions, major_minor, schema_contents

    (full,) = {known for known in all_versions() if major_minor(known) == version}
    return schema_contents(f"kubernetes-json-schema/v{full}-local-strict/{file}.json", version)
