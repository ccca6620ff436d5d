"""Structured output through the whole server with OpenAI's client and an agent framework.

The reference executor serves the embedded model, which unguided writes no JSON and calls no tool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelSettings, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from nemotron_deploy.tests.e2e.scripted_bundle import scripted_bundle
from nemotron_deploy.triton_repo import local
from nemotron_deploy.triton_repo.openai import Endpoint

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

TEMPLATE = Path(__file__).parents[1] / "runtime" / "nemotron.jinja"

DIRECT: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "How is it in Zürich?"}],
    "temperature": 1.5,
    "max_tokens": 200,
    "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
}


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    warm: bool


class Report(BaseModel):
    degrees: int = Field(ge=-50, le=50)
    weather: Weather
    wind: Literal["north", "south"] | None


TOOL: Any = {
    "type": "function",
    "function": {"name": "report", "strict": True, "parameters": Weather.model_json_schema()},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.LocalServer]:
    bundle = scripted_bundle(tmp_path_factory.mktemp("bundle"), [], 4, TEMPLATE)
    endpoint = Endpoint("tiny")
    with local.LocalServer(bundle.repository, executor="reference", openai=endpoint) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def client(server: local.LocalServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.openai_url, api_key="none", max_retries=0) as made:
        yield made


def test_a_model_of_pydantic_is_parsed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(response_format=Report, n=2, seed=1, **DIRECT)
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 2
    assert all(isinstance(choice.message.parsed, Report) for choice in answer.choices)
    with client.chat.completions.stream(response_format=Report, seed=1, **DIRECT) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == answer.choices[0].message.parsed


def test_reasoning_comes_before_the_form(client: openai.OpenAI) -> None:
    request = DIRECT | {"extra_body": {"thinking_budget": 4}}
    answer = client.chat.completions.parse(response_format=Report, **request)
    message: Any = answer.choices[0].message
    assert isinstance(message.parsed, Report)
    assert message.model_extra["reasoning_content"]


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "report"}}],
    ids=["required", "named"],
)
def test_a_call_that_must_be_made_is_made(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(tools=[TOOL], tool_choice=choice, seed=3, **DIRECT)
    message: Any = answer.choices[0].message
    assert message.content is None
    first = message.tool_calls[0].function
    assert first.name == "report"
    Weather.model_validate_json(first.arguments)


def test_an_agent_framework_gets_its_output(server: local.LocalServer) -> None:
    provider = OpenAIProvider(base_url=str(server.openai_url), api_key="none")
    model = OpenAIChatModel("tiny", provider=provider)
    settings = ModelSettings(
        temperature=1.5, seed=3, max_tokens=200, extra_body=DIRECT["extra_body"]
    )
    for output in (NativeOutput(Weather), Weather):  # as a format, and as a tool
        agent: Any = Agent(model, output_type=output, model_settings=settings, retries=0)
        assert isinstance(agent.run_sync("How is it in Zürich?").output, Weather)


def test_a_schema_that_cannot_be_used_is_a_bad_request(client: openai.OpenAI) -> None:
    schema = {"name": "n", "schema": {"type": "object", "if": {}}}
    form: Any = {"type": "json_schema", "json_schema": schema}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(response_format=form, **DIRECT)
    body: Any = caught.value.body
    assert body["message"] == 'response_format cannot be used: Unimplemented keys: ["if"]'
    assert body["param"] == "response_format"
    any_object: Any = {"type": "json_object"}
    with pytest.raises(openai.BadRequestError, match="ignore_eos exclude each other"):
        request = DIRECT | {"extra_body": {"ignore_eos": True}}
        client.chat.completions.create(response_format=any_object, **request)
    cut = client.chat.completions.create(response_format=any_object, **(DIRECT | {"max_tokens": 9}))
    assert str(cut.choices[0].message.content).startswith("{")
    with pytest.raises(ValueError, match="Expecting value"):
        unguided = client.chat.completions.create(**(DIRECT | {"max_tokens": 9}))
        json.loads(str(unguided.choices[0].message.content))
