"""Whatever tokens are chosen, an answer that follows its grammar has the demanded form."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_deploy.model import catalog
from nemotron_deploy.runtime.answers import (
    MARKERS,
    THINK_END,
    AnswerParser,
    Call,
    Content,
    Reasoning,
    Start,
)
from nemotron_deploy.runtime.arguments import types_of
from nemotron_deploy.runtime.errors import RequestError
from nemotron_deploy.runtime.executors.guidance import GuideCompiler
from nemotron_deploy.runtime.guides import MAX_BYTES, Guide, any_object, grammar, guided_start
from nemotron_deploy.runtime.vocabulary import CheckpointVocabulary

Choose = Callable[[list[int]], int]


class Model:
    """A tokenizer, and a model that chooses any token that it may."""

    def __init__(self, checkpoint: Path) -> None:
        self.vocabulary = CheckpointVocabulary(checkpoint)
        self._end = min(self.vocabulary.end_tokens)
        text, size = self.vocabulary.tokenizer_json, self.vocabulary.size
        self.compiler = GuideCompiler(text, size, self._end)

    def answer(self, guide: Guide, start: Start, choose: Choose, most: int = 5000) -> str:
        """A guided answer. Fails where it has not ended after `most` tokens."""
        matcher = self.compiler.compile(grammar(guide, start, self.vocabulary.markers))
        tokens: list[int] = []
        while len(tokens) < most:
            allowed = [number for number, byte in enumerate(matcher.allowed()) if byte]
            token = self._end if self._end in allowed else choose(allowed)
            if token == self._end:
                return self.vocabulary.decode(tuple(tokens))
            tokens.append(token)
            matcher.take(token)
        raise AssertionError("the answer does not end")

    def chooser(self, chance: random.Random) -> Choose:
        """Any token, and every third time one that tends to end what it is in."""
        texts = [self.vocabulary.token_text(number) for number in range(self.vocabulary.size)]
        ending = {number for number, text in enumerate(texts) if text and text[0] in '<"\n]}'}

        def choose(allowed: list[int]) -> int:
            return chance.choice(
                (chance.random() < 0.3 and sorted(ending & set(allowed))) or allowed
            )

        return choose


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The embedded tokenizer, in which markers are text like any other."""
    model = Model(catalog.TINY)
    yield model
    model.compiler.close(5)


@pytest.fixture(scope="module", params=["special", "plain", "mixed"])
def marked(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Model]:
    """A tokenizer that has markers as tokens of their own: flagged special or not, or only some."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for file in catalog.TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    template, count = tokenizer["added_tokens"][0], len(tokenizer["model"]["vocab"])
    for marker in MARKERS[1:3] if request.param == "mixed" else MARKERS:
        token = {"id": count, "content": marker, "special": request.param == "special"}
        tokenizer["added_tokens"].append({**template, **token})
        count += 1
    path.write_text(json.dumps(tokenizer))
    model = Model(folder)
    yield model
    model.compiler.close(5)


def parsed(text: str, start: Start, tools: Mapping[str, Any]) -> tuple[str, str, list[Any]]:
    """(reasoning, content, [(function, arguments)])."""
    parser = AnswerParser(start, tools, guided=True)
    events = [*parser.push(text), *parser.finish()]
    calls = [event for event in events if isinstance(event, Call)]
    return (
        "".join(event.text for event in events if isinstance(event, Reasoning)),
        "".join(event.text for event in events if isinstance(event, Content)),
        [
            (
                first.name,
                json.loads("".join(c.arguments for c in calls if c.index == first.index)),
            )
            for first in calls
            if first.name
        ],
    )


SCALARS = st.one_of(
    st.builds(
        lambda low, width: {"type": "integer", "minimum": low, "maximum": low + width},
        st.integers(-1000, 1000),
        st.integers(0, 500),
    ),
    st.just({"type": "number", "minimum": -2.5, "maximum": 3}),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.lists(st.sampled_from(["a", "b c", 'd"', "é\n", "<think>", 7, None, True]), min_size=1).map(
        lambda values: {"enum": values}
    ),
    st.sampled_from([{"const": "x"}, {"$ref": "#/$defs/size"}]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most},
            inner,
            st.integers(0, 3),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda members: {"anyOf": members}),
        st.builds(
            lambda rows: {
                "type": "object",
                "properties": {f"p{i}": schema for i, (schema, _) in enumerate(rows)},
                "required": [f"p{i}" for i, (_, needed) in enumerate(rows) if needed],
                "additionalProperties": False,
            },
            st.lists(st.tuples(inner, st.booleans()), max_size=3),
        ),
    ),
    max_leaves=6,
)
DEFINITIONS = {"size": {"enum": ["small", "large"]}}


def clear(schema: dict[str, Any]) -> bool:
    """Whether a text can be told from a number: the text `7` is the number in a union of both."""
    types = types_of({"properties": {"a": schema}, "$defs": DEFINITIONS}, "a")
    return not {"string"} < types - {"null"}


PARAMETERS = VALUES.filter(clear)
OBJECTS = st.lists(st.tuples(PARAMETERS, st.booleans()), max_size=4).map(
    lambda rows: {
        "type": "object",
        "properties": {f"key{i}": schema for i, (schema, _) in enumerate(rows)},
        "required": [f"key{i}" for i, (_, needed) in enumerate(rows) if needed],
        "additionalProperties": False,
        "$defs": DEFINITIONS,
    }
)
CHANCE = st.integers(0, 2**32).map(random.Random)


@settings(max_examples=40, deadline=None)
@given(VALUES, CHANCE)
def test_any_answer_conforms_to_its_schema(
    model: Model, schema: dict[str, Any], chance: random.Random
) -> None:
    schema = {**schema, "$defs": DEFINITIONS}
    guide = Guide("response_format", schema=schema)
    text = model.answer(guide, Start.CONTENT, model.chooser(chance))
    _, content, _ = parsed(text, Start.CONTENT, {})
    jsonschema.validate(json.loads(content), schema)


@settings(max_examples=40, deadline=None)
@given(OBJECTS, st.booleans(), CHANCE)
def test_any_call_has_the_arguments_that_its_tool_declares(
    model: Model, schema: dict[str, Any], several: bool, chance: random.Random
) -> None:
    tools = {"f": schema, "no.parameters": {}}
    guide = Guide("tool_choice", tools=tools, several=several)
    text = model.answer(guide, Start.CONTENT, model.chooser(chance))
    reasoning, content, calls = parsed(text, Start.CONTENT, tools)
    assert (reasoning, content) == ("", "")
    assert len(calls) == 1 or (several and calls)
    for name, arguments in calls:
        if name == "f":
            jsonschema.validate(arguments, schema)
        else:
            assert (name, arguments) == ("no.parameters", {})


def test_the_same_choices_without_a_guide_are_no_json(model: Model) -> None:
    for seed in range(20):
        choose = model.chooser(random.Random(seed))
        tokens = tuple(choose([*range(4, model.vocabulary.size)]) for _ in range(60))
        with pytest.raises(ValueError, match=r".+"):
            json.loads(model.vocabulary.decode(tokens))


FORM = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
        "additionalProperties": False}  # fmt: skip


@pytest.mark.parametrize("start", [Start.REASONING, Start.OPEN, Start.CONTENT])
@pytest.mark.parametrize("tools", [{}, {"f": FORM}], ids=["without-tools", "with-tools"])
def test_reasoning_is_free_and_what_follows_is_guided(
    marked: Model, start: Start, tools: dict[str, Any]
) -> None:
    """Whether markers are tokens or text, and whether the reasoning ends with its marker or with a
    call."""
    reasonings = set()
    for seed in range(12):
        guide = Guide("response_format", schema=FORM, tools=tools)
        text = marked.answer(guide, start, _closing(marked, random.Random(seed)))
        reasoning, content, calls = parsed(text, start, tools)
        reasonings.add(reasoning)
        assert bool(content) is not bool(calls)
        answer = calls[0][1] if calls else json.loads(content)
        jsonschema.validate(answer, FORM)
    assert (reasonings == {""}) is (start is Start.CONTENT)


def _closing(model: Model, chance: random.Random) -> Choose:
    """Any token for a while; then, in free text, those that write a marker."""
    any_token, count = model.chooser(chance), 0
    texts = [model.vocabulary.token_text(number) for number in range(model.vocabulary.size)]
    written = ""

    def choose(allowed: list[int]) -> int:
        nonlocal count, written
        count += 1
        token = any_token(allowed)
        if len(allowed) > 100 and count > 20:
            held = next(
                (n for n in range(len(THINK_END), 0, -1) if written.endswith(THINK_END[:n])), 0
            )
            wanted = THINK_END[held : held + 1]
            token = next(
                (n for n in allowed if texts[n] == THINK_END),
                next((n for n in allowed if texts[n] == wanted), token),
            )
        written += texts[token]
        return token

    return choose


def test_a_prompt_of_the_client_may_end_within_a_reasoning() -> None:
    assert guided_start(Start.RAW, "<|im_start|>assistant\n<think>\n") is Start.REASONING
    assert guided_start(Start.RAW, "Monday") is Start.CONTENT
    assert guided_start(Start.OPEN, "Monday") is Start.OPEN


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "if": {}}, r'Unimplemented keys: \["if"\]'),
        # Which of its two limits a compilation reaches first depends on the machine.
        ({"type": "integer", "multipleOf": 999983}, "it (took|needed) more than 1"),
        ({"$ref": "#"}, "no text conforms to it"),
        ({"$ref": "https://example.com/schema"}, "https://example.com/schema"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": 5}, "type"),
        ({"type": "object", "x-guidance": {"lenient": True}, "if": {}}, r'keys: \["if"\]'),
    ],
    ids=["keyword", "large", "nothing", "remote", "pattern", "no-schema", "lenient"],
)
def test_a_schema_that_cannot_be_used_is_refused_with_one_line(
    model: Model, schema: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        model.compiler.compile(grammar(Guide("response_format", schema=schema), Start.CONTENT))
    assert "\n" not in str(caught.value)
    text = model.answer(any_object("response_format"), Start.CONTENT, _shortest(model))
    assert json.loads(text) == {}, "the compiler goes on"


def _shortest(model: Model) -> Choose:
    def choose(allowed: list[int]) -> int:
        closing = [n for n in allowed if model.vocabulary.token_text(n) == "}"]
        return (closing or allowed)[0]

    return choose


def test_what_the_format_of_calls_cannot_hold_is_refused() -> None:
    def refusal(parameters: dict[str, Any]) -> str:
        with pytest.raises(RequestError) as caught:
            grammar(Guide("tool_choice", tools={"f": parameters}), Start.CONTENT)
        return str(caught.value)

    for key in ("", " a", "a>b", "a\nb"):
        assert f"f has a parameter {key!r}" in refusal({"properties": {key: {}}})
    listed = {"properties": {"a": {"enum": ["x</function>"]}}}
    assert "the parameter 'a' lists a value" in refusal(listed)
    long = {"properties": {f"key{i}": {"type": "boolean"} for i in range(1000)}}
    assert refusal(long) == f"tool_choice needs a grammar of more than {MAX_BYTES} bytes"
