"""Grammars that make an answer conform to a JSON schema, or make it a call of a tool.

A grammar covers the whole answer: free reasoning first, where there is some, and then the content
that the guide demands. So every engine is guided from its first token, none has to know where the
reasoning ends, and no prompt is processed twice. (TensorRT-LLM 1.2 guides from the first token
whatever its reasoning parser is, except for gpt-oss: `_response_format_to_guided_decoding_params`
in NVIDIA/TensorRT-LLM, tensorrt_llm/serve/openai_protocol.py.)

The dialect is llguidance's variant of Lark (guidance-ai/llguidance @792d6bf, docs/syntax.md), which
the reference executor, TensorRT-LLM and vLLM can follow alike. Nothing is used that llguidance
0.7.29 lacks, the version that TensorRT-LLM 1.2 pins.

    answer  := [reasoning `</think>`] (JSON | call+)
    call    := `<tool_call>` newline `<function=NAME>` newline parameter* `</function>` newline
               `</tool_call>`
    parameter := `<parameter=KEY>` newline VALUE newline `</parameter>` newline

The parameters of a call stand in the order in which the tool declares them; those that it requires
are all there. A VALUE is JSON of its declared type, or a text as it is. A text holds no marker that
would end it for the parser of answers (`calls`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .answers import THINK_END, THINK_START, Start, start_after
from .arguments import Schema, alternatives, types_of
from .calls import (
    CALL_END,
    CALL_START,
    FUNCTION,
    FUNCTION_END,
    PARAMETER,
    PARAMETER_END,
)
from .errors import RequestError

MAX_BYTES: Final = 64 * 1024
"""The longest grammar. OpenAI allows schemas of 120,000 characters of names and values; compiling
takes time and memory that grow with it."""

_ANY_OBJECT: Final[Schema] = {"type": "object"}

_JSON_OPTIONS: Final = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""JSON is written in one line: a model that may write white space sometimes writes nothing else."""

_ANY_LENGTH: Final = "*"

_VALUE_END: Final = f"\n{PARAMETER_END}"


@dataclass(frozen=True, slots=True)
class Guide:
    """What the content of an answer must be: JSON that conforms to `schema`, or calls of `tools`
    (their parameter schemas, by name); either one where both are given.

    With `several`, more than one call may be made. `source` names the input that demands it.
    """

    source: str
    schema: Schema | None = None
    tools: Mapping[str, Schema] = field(default_factory=dict)
    several: bool = True


def any_object(source: str) -> Guide:
    """The guide to any JSON object."""
    return Guide(source, schema=_ANY_OBJECT)


def guided_start(start: Start, prompt: str) -> Start:
    """Where the answer to a rendered `prompt` begins for its guide. A prompt that the client made
    itself may end within a reasoning, too."""
    if start is not Start.RAW:
        return start
    return Start.REASONING if start_after(prompt) is Start.REASONING else Start.CONTENT


def grammar(guide: Guide, start: Start, markers: Collection[str] = ()) -> str:
    """The grammar of an answer that begins at `start`. `markers` are those of the model's format
    that its tokenizer has as tokens of their own: llguidance takes each of them for a special
    token, which no text stands for.

    Raises `RequestError` for a guide that is too long, or that this model's format cannot express.
    """
    rules = _Rules(guide.source, frozenset(markers))
    content = rules.content(guide)
    if start is Start.REASONING:
        rules.add("start", rules.reasoning(content, bool(guide.tools)))
    elif start is Start.OPEN:
        opened = f"{rules.marker(THINK_START)} ({rules.reasoning(content, bool(guide.tools))})"
        rules.add("start", f"{content} | {opened}")
    else:
        rules.add("start", content)
    return rules.text


class _Rules:
    """The rules of one grammar, as they are added."""

    def __init__(self, source: str, tokens: frozenset[str]) -> None:
        self._source = source
        self._tokens = tokens
        self._lines: list[str] = []
        self._bytes = 0
        self._names = 0
        self._texts: dict[str, str] = {}

    @property
    def text(self) -> str:
        """All rules."""
        return "\n".join(self._lines) + "\n"

    def add(self, name: str, body: str, options: str = "") -> str:
        """Add a rule; returns its name."""
        line = f"{name}{options}: {body}"
        self._bytes += len(line) + 1
        if self._bytes > MAX_BYTES:
            raise RequestError(f"{self._source} needs a grammar of more than {MAX_BYTES} bytes")
        self._lines.append(line)
        return name

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}_{self._names}"

    def marker(self, text: str) -> str:
        """What stands for a marker in rules."""
        return text if text in self._tokens else _literal(text)

    def content(self, guide: Guide) -> str:
        """The rule of what the guide demands."""
        forms = []
        if guide.schema is not None:
            forms.append(self._json(guide.schema))
        if guide.tools:
            functions = [self._function(name, tool) for name, tool in guide.tools.items()]
            body = f'"\\n" ({" | ".join(functions)}) "\\n" {self.marker(CALL_END)}'
            again = f' ("\\n" {self.marker(CALL_START)} body)*' if guide.several else ""
            self.add("body", body)
            self.add("calls", f"body{again}")
            forms.append(f"{self.marker(CALL_START)} calls")
        return self.add("content", " | ".join(forms))

    def reasoning(self, content: str, calls: bool) -> str:
        """Free text up to its closing marker, and the content; a call ends the reasoning, too."""
        markers = (THINK_START, THINK_END, *((CALL_START,) if calls else ()))
        closed = f'{self._free(THINK_END, markers)} ("\\n" "\\n"?)? {content}'
        return f"{closed} | {self._free(CALL_START, markers)} calls" if calls else closed

    def _free(self, end: str, markers: Iterable[str]) -> str:
        """Text that holds none of `markers`, and the marker `end`."""
        if end in self._tokens:
            return f"{self._text_rule('', markers, lazy=False)} {end}"
        return self._text_rule(end, [marker for marker in markers if marker != end])

    def _text_rule(
        self, end: str, excluded: Iterable[str], lengths: str = _ANY_LENGTH, *, lazy: bool = True
    ) -> str:
        """A rule for a text of so many characters up to the first `end`, with that; without any of
        `excluded`."""
        without = "|".join(map(_pattern, excluded))
        body = f"/(?s:.{lengths}){_pattern(end)}/ & ~/(?s:.*)({without})(?s:.*)/"
        if body not in self._texts:
            name = self._name("text")
            self.add(name.upper(), body)
            self._texts[body] = self.add(name, name.upper(), "[lazy]" if lazy else "")
        return self._texts[body]

    def _json(self, schema: Schema) -> str:
        options = {"x-guidance": _JSON_OPTIONS}
        return self.add(self._name("json"), f"%json {json.dumps({**schema, **options})}")

    def _function(self, name: str, schema: Schema) -> str:
        """The rule of a function with its parameters."""
        properties = schema.get("properties") or {}
        listed = schema.get("required")
        required = (
            [key for key in listed if isinstance(key, str)] if isinstance(listed, list) else []
        )
        parts = [_literal(f"{FUNCTION}{name}>\n")]
        for key in dict.fromkeys([*properties, *required]):
            self._require_key(name, key)
            head = _literal(f"{PARAMETER}{key}>\n")
            value = self._value(properties.get(key), schema, key)
            parameter = self.add(self._name("parameter"), f'{head} {value} "\\n"')
            parts.append(parameter if key in required else f"{parameter}?")
        return self.add(self._name("function"), " ".join([*parts, _literal(FUNCTION_END)]))

    def _require_key(self, function: str, key: str) -> None:
        if not key or key != key.strip() or not key.isprintable() or set(key) & set("<>"):
            raise RequestError(
                f"{self._source}: {function} has a parameter {key!r:.60}, a name that this model's "
                "format of calls cannot hold"
            )

    def _value(self, schema: Any, root: Schema, key: str) -> str:
        """What the parameter `key` may be, and the marker that ends it. `root` holds what its
        schema refers to."""
        forms = alternatives(schema, root)
        excluded = (PARAMETER, FUNCTION_END, CALL_END)
        lengths = dict.fromkeys(map(_lengths, filter(_is_text, forms)))
        if _ANY_LENGTH in lengths:  # any text is a value
            return self._text_rule(_VALUE_END, excluded)
        rows = [self._text_rule(_VALUE_END, excluded, length) for length in lengths]
        for form in forms:
            if not _is_text(form):
                rows += self._value_forms(form, root, key)
        return f"({' | '.join(dict.fromkeys(rows))})"

    def _value_forms(self, schema: Schema, root: Schema, key: str) -> list[str]:
        """The forms of a value that is listed or JSON, each with the marker that ends it."""
        if "const" in schema:
            return [self._literal_value(schema["const"], key)]
        if isinstance(schema.get("enum"), list):
            return [self._literal_value(value, key) for value in schema["enum"]]
        definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
        return [f"{self._json({**definitions, **schema})} {_literal(_VALUE_END)}"]

    def _literal_value(self, value: Any, key: str) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if any(marker in text for marker in (PARAMETER, PARAMETER_END, FUNCTION_END, CALL_END)):
            raise RequestError(
                f"{self._source}: the parameter {key!r:.60} lists a value that this model's format "
                "of calls cannot hold"
            )
        return _literal(f"{text}{_VALUE_END}")


def _literal(text: str) -> str:
    """A text as grammars write it."""
    return json.dumps(text)


def _pattern(text: str) -> str:
    """A regular expression of a text, as grammars write it."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")


def _is_text(schema: Any) -> bool:
    """Whether a value is a text as it is: neither JSON nor one of those that the schema lists."""
    if not isinstance(schema, Mapping):
        return True
    types = types_of({"properties": {"": schema}}, "")
    listed = "const" in schema or isinstance(schema.get("enum"), list)
    return not listed and (not types or "string" in types)


def _lengths(schema: Any) -> str:
    """The repetition of characters that the schema of a text allows."""
    if not isinstance(schema, Mapping) or schema.get("type") != "string":
        return _ANY_LENGTH
    least, most = (
        value if type(value) is int and value >= 0 else None
        for value in (schema.get("minLength"), schema.get("maxLength"))
    )
    if least is most is None:
        return _ANY_LENGTH
    return f"{{{least or 0},{'' if most is None else most}}}"
