"""Patterns of module names in a checkpoint's configuration, as globs.

`compressed-tensors` writes regular expressions. They come from an untrusted file, and Python cannot
interrupt one that takes for ever, so the simple ones that tools write become globs.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product
from typing import Final

REGEX: Final = "re:"
"""What a regular expression begins with."""

_MOST: Final = 256
"""Globs that one regular expression may become."""

_BRACKETS: Final = 20
"""Brackets that one regular expression may have."""


class PatternError(ValueError):
    """A regular expression that is not read; the message is that expression."""


def globs_of(pattern: str) -> tuple[str, ...]:
    """The globs that match what `pattern` matches: a name, a glob, or with `re:` an expression of
    literal text, `.*`, `\\d+` and alternatives in brackets. Raises `PatternError`."""
    if not pattern.startswith(REGEX):
        return (pattern,)
    text = pattern.removeprefix(REGEX)
    if text.count("(") > _BRACKETS:
        raise PatternError(pattern)
    try:
        globs, rest = _alternatives(text)
    except PatternError:
        raise PatternError(pattern) from None
    if rest or len(globs) > _MOST:
        raise PatternError(pattern)
    return tuple(glob.removesuffix("$") if glob.endswith("$") else f"{glob}*" for glob in globs)


def is_glob(pattern: str) -> bool:
    """Whether `pattern` is more than a name."""
    return not set(pattern).isdisjoint("*?[")


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Whether any of `globs` matches `name`."""
    return any(fnmatchcase(name, glob) for glob in globs)


def _alternatives(text: str) -> tuple[list[str], str]:
    """The globs of alternatives up to a closing bracket, and what follows them."""
    globs: list[str] = []
    while True:
        parts, text = _sequence(text)
        globs += parts
        if not text.startswith("|"):
            return globs, text
        text = text[1:]


def _sequence(text: str) -> tuple[list[str], str]:
    """The globs of what stands before the next `|` or closing bracket, and the rest."""
    globs = [""]
    while text and text[0] not in "|)":
        options, text = _item(text)
        globs = ["".join(pair) for pair in product(globs, options)]
        if len(globs) > _MOST:
            raise PatternError(text)
    return globs, text


def _item(text: str) -> tuple[list[str], str]:
    """The globs of the first item of `text`, and the rest."""
    first, rest = text[0], text[1:]
    if first == "^":
        return [""], rest
    if first == "$" and not rest:
        return ["$"], rest
    if first == "(":
        return _group(rest)
    glob, rest = _character(text)
    if rest[:1] not in ("*", "+"):
        return [glob], rest
    if glob not in _ANY:
        raise PatternError(text)
    return ["*"], rest[1:]


def _group(text: str) -> tuple[list[str], str]:
    """The globs of what stands in brackets, and what follows them."""
    options, rest = _alternatives(text.removeprefix("?:"))
    if not rest.startswith(")"):
        raise PatternError(text)
    rest = rest[1:]
    return ([*options, ""], rest[1:]) if rest.startswith("?") else (options, rest)


_ANY: Final = ("?", "[0-9]")
"""Globs of one character that can be repeated."""


def _character(text: str) -> tuple[str, str]:
    """The glob of the first character that `text` matches, and the rest."""
    if text.startswith("\\d"):
        return "[0-9]", text[2:]
    if text[0] == "\\" and text[1:2] in (".", "-", "_", "/"):
        return text[1], text[2:]
    if text[0] == ".":
        return "?", text[1:]
    if text[0].isalnum() or text[0] in "_-":
        return text[0], text[1:]
    raise PatternError(text)
