"""Whatever a client sends ends as a valid request or as one clear error."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nemotron_deploy.runtime.contract import INPUTS
from nemotron_deploy.runtime.errors import RequestError
from nemotron_deploy.runtime.generation import GenerationRequest
from nemotron_deploy.runtime.guides import Guide, any_object
from nemotron_deploy.runtime.prompts import MAX_PROMPT_BYTES
from nemotron_deploy.runtime.triton.parsing import MAX_STOP_WORDS, is_stop, parse_request


def test_defaults_are_those_of_tensorrt_llm(tensors):
    assert parse_request(tensors("Hi")) == GenerationRequest(prompt="Hi", max_tokens=32)
    assert GenerationRequest("Hi").greedy


def test_every_parameter_arrives(tensors):
    request = parse_request(
        tensors(
            "né", streaming=True, max_tokens=7, temperature=0.5, top_k=3, top_p=0.75,
            seed=2**64 - 1, frequency_penalty=1.5, presence_penalty=-0.5, stop=["\n", "é"],
            best_of=1, exclude_input_from_output=False, return_perf_metrics=True,
            return_finish_reason=True, return_stop_reason=True, return_cumulative_logprob=True,
        )
    )  # fmt: skip
    assert request == GenerationRequest(
        prompt="né", streaming=True, max_tokens=7, temperature=0.5, top_k=3, top_p=0.75,
        seed=2**64 - 1, frequency_penalty=1.5, presence_penalty=-0.5, stop=("\n", "é"),
        echo_prompt=True, return_perf_metrics=True, return_finish_reason=True,
        return_stop_reason=True, return_cumulative_logprob=True,
    )  # fmt: skip
    assert not request.greedy


@pytest.mark.parametrize(
    ("sampling", "greedy"),
    [
        ({}, True),
        ({"top_k": 1}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.0, "top_p": 0.9}, True),
        ({"top_k": 0}, True),
        ({"temperature": 1.0}, False),
        ({"top_k": 2}, False),
        ({"top_p": 0.5}, False),
    ],
)
def test_greedy_unless_sampling_is_asked_for(tensors, sampling, greedy):
    assert parse_request(tensors(**sampling)).greedy is greedy


USER = '[{"role": "user", "content": "Hi"}]'
TOOLS = '[{"type": "function", "function": {"name": "f"}}]'
ANY = {"type": "object", "properties": {}}


def test_a_conversation_arrives(tensors):
    request: Any = parse_request(
        tensors(
            None, messages=USER, tools=TOOLS, tool_choice='"required"', thinking_budget=9,
            chat_template_kwargs='{"enable_thinking": false}', ignore_eos=True, logprobs=0,
        )
    )  # fmt: skip
    assert request.conversation.messages == [{"role": "user", "content": "Hi"}]
    assert request.conversation.schemas == {"f": ANY}
    assert request.conversation.template_arguments == {"enable_thinking": False}
    assert request.guide == Guide("tool_choice", tools=request.conversation.schemas)
    assert (request.max_tokens, request.thinking_budget, request.logprobs) == (None, 9, 0)
    assert request.ignore_eos
    assert request.return_finish_reason
    assert not request.prompt


def test_a_tool_may_be_called_instead_of_the_format_unless_calls_are_off(tensors):
    given = {"messages": USER, "tools": TOOLS, "response_format": '{"type": "json_object"}'}
    request: Any = parse_request(tensors(None, **given))
    assert request.guide == replace(any_object("response_format"), tools={"f": ANY})
    request = parse_request(tensors(None, **given, tool_choice="none"))
    assert request.guide == any_object("response_format")


def test_a_prompt_may_be_tokens(tensors):
    request = parse_request(tensors(None, input_ids=[5, 7]))
    assert (request.input_ids, request.prompt, request.max_tokens) == ((5, 7), "", 32)


def test_a_format_becomes_a_guide(tensors):
    schema = '{"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}'
    assert parse_request(tensors(response_format=schema)).guide == any_object("response_format")
    schema = schema.replace('"object"', '"array"').replace('{"schema"', '{"strict": true, "schema"')
    guide = Guide("response_format", schema={"type": "array"})
    assert parse_request(tensors(response_format=schema)).guide == guide
    anything = parse_request(tensors(response_format='{"type": "json_object"}')).guide
    assert anything == any_object("response_format")
    assert parse_request(tensors(response_format='{"type": "text"}')).guide is None


@pytest.mark.parametrize("wanted", ["text_input", "messages", "tools"])
def test_sizes_are_checked_before_anything_is_read(tensors, wanted):
    values = {"text": None, "messages": USER, wanted: "x" * 101}
    if wanted == "text_input":
        values = {"text": "x" * 101}
    with pytest.raises(RequestError, match=f"{wanted} has 101 bytes; the limit is 100"):
        parse_request(tensors(**values), most_bytes=100)


def test_requests_of_tritons_own_frontend(tensors):
    """As it builds them with `--backend vllm`, and without."""
    parameters = {
        "temperature": 0.5, "top_p": 0.75, "max_tokens": 7, "stop": ["x"], "seed": 3,
        "frequency_penalty": 1.5, "presence_penalty": 0.5, "n": 1, "logprobs": 2, "top_k": None,
    }  # fmt: skip
    expected = GenerationRequest(
        "Hi", max_tokens=7, temperature=0.5, top_p=0.75, stop=("x",), seed=3, streaming=True,
        frequency_penalty=1.5, presence_penalty=0.5, logprobs=2,
    )  # fmt: skip
    flags = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    request = tensors(
        stream=True, exclude_input_in_output=True, sampling_parameters=json.dumps(parameters),
        return_logprobs=True, **flags,
    )  # fmt: skip
    assert parse_request(request) == expected
    # Their names are also the ends of ours, which the fixture takes for those.
    named = {name: parameters[name] for name in ("temperature", "top_p", "max_tokens", "seed")}
    types = {"temperature": "float32", "top_p": "float32", "max_tokens": "int32", "seed": "uint64"}
    arrays = {name: np.array([value], types[name]) for name, value in named.items()}
    arrays["stop_words"] = np.array([b"x"], dtype=object)
    request = {**tensors(stream=True, **flags), **arrays}
    assert parse_request(request) == replace(
        expected, frequency_penalty=0.0, presence_penalty=0.0, logprobs=None
    )


def test_logprobs_that_the_frontend_does_not_want(tensors):
    request = parse_request(tensors(sampling_parameters='{"logprobs": false, "stop": "x"}'))
    assert (request.logprobs, request.stop) == (None, ("x",))


def test_a_guide_of_tritons_own_frontend(tensors):
    request = tensors(guided_decoding_guide_type="json_schema", guided_decoding_guide="{}")
    assert parse_request(request).guide == Guide("response_format", schema={})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stream": True, "streaming": True}, "stream and streaming are both given"),
        ({"sampling_parameters": "[]"}, "sampling_parameters must be a JSON object"),
        ({"sampling_parameters": "{"}, "sampling_parameters is not valid JSON"),
        ({"sampling_parameters": '{"lora_name": "x"}'}, "lora_name is not supported"),
        (
            {"sampling_parameters": '{"max_tokens": true}'},
            "max_tokens must be TYPE_INT32, got True",
        ),
        ({"sampling_parameters": '{"max_tokens": 99999999999}'}, "max_tokens is out of range"),
        ({"sampling_parameters": '{"n": 2}'}, "sampling_param_best_of must be 1"),
        ({"sampling_parameters": f'{{"user": "{"x" * 2**20}"}}'}, "bytes; the limit is 1048576"),
        ({"guided_decoding_guide": "{}"}, "guided_decoding_guide_type must be json_schema"),
        (
            {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "x"},
            "must be json_schema",
        ),
    ],
)
def test_what_the_frontend_may_not_send(tensors, values, said):
    with pytest.raises(RequestError, match=said):
        parse_request(tensors(**values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text": None}, "text_input must hold one prompt, got 0"),
        ({"text": ""}, "text_input is empty"),
        ({"text": ["a", "b"]}, "text_input must hold one prompt, got 2"),
        ({"text": "x" * (MAX_PROMPT_BYTES + 1)}, "the limit is"),
        ({"max_tokens": 0}, "sampling_param_max_tokens must be at least 1, got 0"),
        ({"max_tokens": [1, 2]}, r"sampling_param_max_tokens must have shape \[1\], got \[2\]"),
        ({"best_of": 4}, "sampling_param_best_of must be 1, got 4"),
        ({"temperature": -1.0}, "between 0 and 100, got -1"),
        ({"temperature": math.nan}, "sampling_param_temperature must be between"),
        ({"top_k": -1}, "sampling_param_top_k must be at least 0"),
        ({"top_p": 0.0}, "sampling_param_top_p must be above 0"),
        ({"top_p": 1.5}, "sampling_param_top_p must be between 0 and 1"),
        ({"presence_penalty": math.inf}, "sampling_param_presence_penalty must be between"),
        ({"stop": ["x"] * (MAX_STOP_WORDS + 1)}, "has 17 words; the limit is 16"),
        ({"stop": [""]}, "each word of sampling_param_stop"),
        ({"text": None, "messages": "[]"}, "messages is empty"),
        ({"text": None, "messages": "[{"}, "messages is not valid JSON: "),
        ({"text": None, "messages": r'["\ud800"]'}, "messages is not valid JSON: .* surrogates"),
        (
            {"text": None, "messages": "[" * 10**5},
            "messages is not valid JSON: it is nested deeper",
        ),
        ({"text": None, "messages": ["[]", "[]"]}, "messages must hold one JSON text, got 2"),
        ({"messages": USER}, "text_input and messages are both given; send one of them"),
        ({"input_ids": [1]}, "text_input and input_ids are both given"),
        ({"text": None, "input_ids": []}, "input_ids is empty"),
        ({"tools": "[]"}, "tools needs messages"),
        ({"tool_choice": "auto"}, "tool_choice needs messages"),
        ({"chat_template_kwargs": "{}"}, "chat_template_kwargs needs messages"),
        ({"thinking_budget": 5}, "thinking_budget needs messages"),
        (
            {"text": None, "messages": USER, "thinking_budget": -1},
            "thinking_budget must be at least",
        ),
        ({"text": None, "messages": USER, "tool_choice": "any"}, "tool_choice is not valid JSON"),
        (
            {"text": None, "messages": USER, "tool_choice": '"any"'},
            "tool_choice must be one of auto",
        ),
        ({"logprobs": 21}, "logprobs must be at most 20, got 21"),
        ({"response_format": '{"type": "xml"}'}, "response_format must be an object whose"),
        ({"response_format": '{"type": "json_schema"}'}, "json_schema.schema must be an object"),
        (
            {
                "text": None,
                "messages": USER,
                "tools": TOOLS,
                "tool_choice": "required",
                "response_format": '{"type": "json_object"}',
            },
            "exclude each other",
        ),
    ],
)
def test_refusals_name_the_tensor_and_the_rule(tensors, values, said):
    with pytest.raises(RequestError, match=said):
        parse_request(tensors(**values))


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(RequestError, match="text_input must be UTF-8"):
        parse_request({"text_input": np.array([b"\xff\xfe"], dtype=object)})


def test_unknown_inputs_types_and_ranks_are_refused(tensors):
    with pytest.raises(RequestError, match="unknown input 'lora_path'"):
        parse_request({**tensors(), "lora_path": np.array([b"/etc"], dtype=object)})
    with pytest.raises(RequestError, match="must be TYPE_INT32, got int64"):
        parse_request({**tensors(), "sampling_param_max_tokens": np.array([1], dtype=np.int64)})
    with pytest.raises(RequestError, match="one dimension"):
        parse_request({**tensors(), "streaming": np.array([[True]])})


def test_stop_is_read_without_the_rest(tensors):
    assert is_stop({"stop": np.array([True])})
    assert not is_stop(tensors())


_DTYPES = st.sampled_from(["O", "bool", "int32", "int64", "uint64", "float32", "float64"])
_ELEMENTS = st.one_of(st.binary(max_size=8), st.text(max_size=8), st.none(), st.integers())


@st.composite
def _arrays(draw):
    dtype = draw(_DTYPES)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    elements = _ELEMENTS if dtype == "O" else None
    return draw(hnp.arrays(dtype, shape, elements=elements))


@given(st.dictionaries(st.sampled_from([spec.name for spec in INPUTS]), _arrays()))
def test_arbitrary_tensors_never_raise_anything_else(tensors):
    try:
        is_stop(tensors)
        request = parse_request(tensors)
    except RequestError:
        return
    sources = [request.prompt, request.conversation, request.input_ids]
    assert len([source for source in sources if source]) == 1
    assert request.max_tokens is None or request.max_tokens >= 1
    assert request.seed is None or 0 <= request.seed < 2**64
