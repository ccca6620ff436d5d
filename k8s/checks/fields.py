"""Reading fields of objects that anybody may have written.

A `Field` is a value and its path. A missing field is one whose value is None, so that rules ask for
what they need without looking whether its parents are there. A value of another type than the API
has is no crash: `Malformed` says which field it is, and becomes a finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from ..quantities import parse_quantity
from .findings import Problem

if TYPE_CHECKING:
    from .object_set import KubeObject


_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


class Malformed(Exception):  # noqa: N818 - it says what a field is, not what the program did
    """A field has another type than the Kubernetes API gives it."""

    def __init__(self, field: Field, expected: str) -> None:
        super().__init__(f"{field.path}: must be {expected}")
        self.field = field
        self.expected = expected

    @property
    def reason(self) -> str:
        return f"is {_describe(self.field.value)}, must be {self.expected}"


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One value in an object, at `path`."""

    value: Any
    path: str
    owner: KubeObject

    def __getitem__(self, key: str) -> Field:
        mapping = self.mapping()
        step = key if _PLAIN_KEY.fullmatch(key) else f"['{key}']"
        dot = "." if self.path and step == key else ""
        return Field(mapping.get(key), f"{self.path}{dot}{step}", self.owner)

    def at(self, *keys: str) -> Field:
        """The field that these keys lead to."""
        field = self
        for key in keys:
            field = field[key]
        return field

    @property
    def is_set(self) -> bool:
        return self.value is not None

    def mapping(self) -> dict[str, Any]:
        """The value as a mapping; empty where missing."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise Malformed(self, "a mapping")
        return self.value

    def entries(self) -> Iterator[tuple[str, Field]]:
        """Key and field of each entry of a mapping."""
        return ((key, self[key]) for key in self.mapping())

    def items(self) -> list[Field]:
        """The elements of a list; none where missing."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise Malformed(self, "a list")
        path, owner = self.path, self.owner
        return [Field(item, f"{path}[{i}]", owner) for i, item in enumerate(self.value)]

    def text(self) -> str:
        """The value as text; empty where missing."""
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise Malformed(self, "text")
        return self.value

    def texts(self) -> list[str]:
        """A list of texts; empty where missing."""
        return [item.text() for item in self.items()]

    def labels(self) -> dict[str, str]:
        """A mapping from text to text, such as labels; empty where missing."""
        return {key: field.text() for key, field in self.entries()}

    def flag(self, default: bool = False) -> bool:
        """The value as a boolean."""
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            raise Malformed(self, "true or false")
        return self.value

    def integer(self, default: int) -> int:
        """The value as a whole number."""
        if self.value is None:
            return default
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise Malformed(self, "a whole number")
        return self.value

    def number_or_text(self) -> int | str | None:
        """A port or a count: a whole number, or text (a name, a percentage)."""
        if self.value is None or isinstance(self.value, str):
            return self.value
        return self.integer(0)

    def quantity(self) -> Fraction | None:
        """The value as a quantity; None where missing."""
        if self.value is None:
            return None
        try:
            return parse_quantity(self.value)
        except ValueError:
            raise Malformed(self, "a quantity") from None

    def problem(self, reason: str, mend: str = "") -> Problem:
        """A rule's problem with this field."""
        return Problem(self, reason, mend)
