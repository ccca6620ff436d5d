"""Whatever a client sends ends as a valid request or as one clear error."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nemotron_deploy.runtime.contract import INPUTS
from nemotron_deploy.runtime.generation import GenerationRequest, RequestError
from nemotron_deploy.runtime.triton.parsing import (
    MAX_PROMPT_BYTES,
    MAX_STOP_WORDS,
    is_stop,
    parse_request,
)


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
    assert request.prompt
    assert request.max_tokens >= 1
    assert 0 <= request.seed < 2**64
