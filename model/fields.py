"""Typed access to the fields of a `config.json`: each failure names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from ..core.errors import BadInputError
from ..runtime.untrusted import brief

LAYER_LETTERS: Final[Mapping[str, str]] = {
    "mamba": "M", "mamba2": "M", "linear_attention": "M",
    "moe": "E", "attention": "*", "full_attention": "*", "mlp": "-",
}  # fmt: skip
"""What `layers_block_type` calls a layer (several spellings exist), and its pattern letter."""

MAX_NUMBER: Final = 2**31 - 1
MAX_WIDTH: Final = 2**20
MAX_LAYERS: Final = 1_000
"""Bounds on what a configuration may claim, each over a dozen times Nemotron 3 Super's (hidden size
4096, 88 layers)."""


class Fields:
    """The fields of a configuration, or of one that is nested in it under the field `inside`.

    Where several names are given they are spellings of one thing. Whichever is present is read,
    null is as good as absent, and two that differ are a contradiction. What is read in another
    spelling is collected: `respelled` holds the usual one by field, `notes` say it in words.
    """

    def __init__(self, config: Mapping[str, Any], source: str, inside: str = "") -> None:
        self.config, self.source, self._inside = config, source, inside
        self.respelled: dict[str, Any] = {}
        self.notes: list[str] = []

    def fail(self, field: str, why: str) -> NoReturn:
        """Raise `BadInputError` naming `field`."""
        raise BadInputError(f"{self.source}: config.json: {self.name(field)} {why}")

    def name(self, field: str) -> str:
        """`field` as it is called in messages."""
        return f"`{self._inside}.{field}`" if self._inside else f"`{field}`"

    def has(self, field: str) -> bool:
        """Whether `field` is there and not null."""
        return self.config.get(field) is not None

    def integer(
        self, *fields: str, default: int | None = None, least: int = 1, most: int = MAX_WIDTH
    ) -> int:
        """A whole number, which some JSON tools write with a decimal point."""
        values = self._spelled(fields)
        for field, value in values.items():
            if isinstance(value, float) and value.is_integer():
                values[field] = value = int(value)
                self._respell(field, value, "is written with a decimal point")
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                why = f"must be a whole number of at least {least} and at most {most}"
                self.fail(field, f"{why}, got {brief(value)}")
        return int(self._agreed(fields, values, default))

    def positive(self, *fields: str, default: float) -> float:
        """A number between 0 and 1, as a norm's epsilon is."""
        values = self._spelled(fields)
        for field, value in values.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < 1:
                self.fail(field, f"must be a number between 0 and 1, got {brief(value)}")
        return float(self._agreed(fields, values, default))

    def flag(self, field: str, default: bool) -> bool:
        """True or false."""
        value = self.config[field] if self.has(field) else default
        if not isinstance(value, bool):
            self.fail(field, f"must be true or false, got {brief(value)}")
        return value

    def same_in_all(self, field: str, letter: str, pattern: str) -> None:
        """Read a list at `field` as the one number that all layers of kind `letter` have: a list of
        one, one number for each of them, or one for each layer of `pattern`."""
        values = self.config.get(field)
        if not isinstance(values, list):
            return
        if len(values) == len(pattern) != 1:
            pairs = zip(values, pattern, strict=True)
            values = [value for value, kind in pairs if kind == letter] or [None]
        elif not values or len(values) not in (1, pattern.count(letter)):
            self.fail(
                field,
                f"lists {len(values)} numbers, but the pattern has {len(pattern)} layers, "
                f"{pattern.count(letter)} of them {letter}",
            )
        if any(value != values[0] for value in values):
            self.fail(field, "differs between layers, which is not supported")
        self.config = {**self.config, field: values[0]}
        self._respell(field, values[0], "lists the same number for every layer")

    def pattern(self, text_field: str, types_field: str, blocks_field: str) -> str:
        """Layer letters: from a pattern, from a list of block types, or from a list of blocks. An
        empty one is as good as absent."""
        read = {
            text_field: self._letters(text_field),
            types_field: self._typed(types_field, self.config.get(types_field) or ()),
            blocks_field: self._typed(blocks_field, self.block_types(blocks_field)),
        }
        present = {field: letters for field, letters in read.items() if letters}
        if not present:
            return ""
        (first, letters), *others = present.items()
        for field, other in others:
            if other != letters:
                self.fail(field, f"contradicts `{first}`")
        if len(letters) > MAX_LAYERS:
            self.fail(first, f"has {len(letters)} layers; at most {MAX_LAYERS} are planned for")
        return letters

    def blocks(self, field: str) -> list[Mapping[str, Any]]:
        """A list of blocks, as Puzzle's configurations have it; empty where there is none."""
        blocks = self.config.get(field) or []
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            self.fail(field, "must be a list of objects")
        return blocks

    def block_types(self, field: str) -> list[Any]:
        """The `block_type` of each of those blocks."""
        return [block.get("block_type") for block in self.blocks(field)]

    def _letters(self, field: str) -> str:
        text = self.config.get(field) or ""
        # Megatron separates the stages of a pipeline with bars.
        plain = text.replace("|", "") if isinstance(text, str) else None
        if plain is None or set(plain) - set("ME*-"):
            self.fail(field, "must consist of the letters M, E, * and -")
        if plain != text:
            self._respell(field, plain, "has bars between pipeline stages")
        return plain

    def _typed(self, field: str, types: Any) -> str:
        known = isinstance(types, list | tuple) and all(
            isinstance(name, str) and name in LAYER_LETTERS for name in types
        )
        if not known:
            self.fail(field, f"must list layer types out of {', '.join(LAYER_LETTERS)}")
        return "".join(LAYER_LETTERS[name] for name in types)

    def _respell(self, field: str, value: Any, why: str) -> None:
        if field not in self.respelled:
            self.notes.append(f"{self.name(field)} {why}: it is read as {value}")
        self.respelled[field] = value

    def _spelled(self, fields: tuple[str, ...]) -> dict[str, Any]:
        return {field: self.config[field] for field in fields if self.has(field)}

    def _agreed(self, fields: tuple[str, ...], values: dict[str, Any], default: Any) -> Any:
        """The one value of all spellings, or `default`; without either the field is missing."""
        if not values:
            if default is None:
                self.fail(fields[0], "is missing")
            return default
        first, *others = values
        for other in others:
            if values[other] != values[first]:
                self.fail(other, f"({values[other]}) contradicts `{first}` ({values[first]})")
        return values[first]
