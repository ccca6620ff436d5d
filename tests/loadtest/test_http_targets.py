"""Load tests over HTTP against the FAKE server of http_server.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import loadtest
from nemotron_deploy.core.errors import BadInputError, RefusedError, UsageError
from nemotron_deploy.loadtest import LoadTest
from nemotron_deploy.loadtest.prompts import Work
from nemotron_deploy.runtime import contract
from nemotron_deploy.tests.loadtest.http_server import FakeHttp
from nemotron_deploy.tests.loadtest.starting import started

PROTOCOLS = ("chat", "completions", "generate-stream")


@pytest.fixture
def fake_http() -> Iterator[Callable[..., FakeHttp]]:
    """Starts a FAKE HTTP server with the given fields; stopped at the end."""
    yield from started(FakeHttp)


def prompt(**options: Any) -> str:
    return json.dumps(options)


def config(*prompts: str, **fields: Any) -> LoadTest:
    defaults = {"warmup": 0, "timeout_s": 10.0, "allow_late": True, "requests": 4}
    return LoadTest(prompts=prompts or (prompt(),), **{**defaults, **fields})


def serving(fake_http: Callable[..., FakeHttp], protocol: str) -> FakeHttp:
    return fake_http(openai=protocol != "generate-stream")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_streams_are_measured(fake_http: Callable[..., FakeHttp], protocol: str) -> None:
    server = serving(fake_http, protocol)
    test = config(
        prompt(texts=["a", "b", "cd"], tokens=5), concurrencies=(2,), protocol=protocol,
        max_tokens=9, ignore_eos=True,
    )  # fmt: skip
    report = loadtest.run(server.url, test)
    (run,) = report.runs
    assert (report.model, report.url) == ("mock", server.url)
    assert (run.requests, run.errors, run.output_tokens, run.prompt_tokens) == (4, 0, 20, 28)
    assert report.token_counting == "server"
    assert run.latencies["ttft"].samples == 4
    body = server.bodies[0]
    if protocol == "generate-stream":
        assert server.paths[0] == "/v2/models/mock/generate_stream"
        assert (body["sampling_param_max_tokens"], body["streaming"]) == (9, True)
        assert "ignore_eos" not in body, "this model has no such input"
    else:
        assert (body["max_tokens"], body["stream"], body["ignore_eos"]) == (9, True, True)
        assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("path", "openai", "asked"),
    [
        ("", True, "/v1/chat/completions"),
        ("/v1", True, "/v1/chat/completions"),
        ("/v1/completions", True, "/v1/completions"),
        ("", False, "/v2/models/mock/generate_stream"),
    ],
)
def test_the_protocol_follows_from_the_address_or_the_server(
    fake_http: Callable[..., FakeHttp], path: str, openai: bool, asked: str
) -> None:
    server = fake_http(openai=openai)
    loadtest.run(server.url + path, config(requests=1))
    assert server.paths == [asked]


def test_the_first_reasoning_token_is_the_first_token(
    fake_http: Callable[..., FakeHttp], tmp_path: Path
) -> None:
    out = tmp_path / "samples.jsonl"
    server = fake_http()
    test = config(prompt(reasoning=["hm", "so"], texts=["a"]), requests=1)
    (run,) = loadtest.run(server.url, test, out=out).runs
    (line,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(line["arrivals_s"]) == 3
    assert line["first_content_s"] >= line["arrivals_s"][1]
    first, content = run.latencies["ttft"].at("p50"), run.latencies["content"].at("p50")
    assert first is not None
    assert content is not None
    assert first < content


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"status": 500}, "server error"),
        ({"status": 503}, "overloaded"),
        ({"status": 400}, "rejected"),
        ({"error": "out of blocks"}, "server error"),
        ({"cut": True}, "closed"),
        ({"garbage": "{"}, "garbage"),
        ({"garbage": "[1]"}, "garbage"),
        ({"garbage": '{"choices": 3, "text_output": 3}'}, "garbage"),
        ({"type": "text/html"}, "garbage"),
        ({"texts": []}, "empty"),
        ({"refuse": True}, "unreachable"),
    ],
)
def test_faults_are_classified(
    fake_http: Callable[..., FakeHttp], protocol: str, options: dict[str, Any], kind: str
) -> None:
    server = serving(fake_http, protocol)
    report = loadtest.run(server.url, config(prompt(), prompt(**options), protocol=protocol))
    (run,) = report.runs
    assert {name: errors.count for name, errors in run.error_kinds.items()} == {kind: 2}
    assert run.requests == 4
    assert report.aborted is None, "the server is alive"
    assert not report.ok


@pytest.mark.parametrize(("option", "kind"), [("unended", "closed"), ("after", "garbage")])
def test_a_completion_ends_with_its_mark(
    fake_http: Callable[..., FakeHttp], option: str, kind: str
) -> None:
    (run,) = loadtest.run(fake_http().url, config(prompt(**{option: True}), requests=1)).runs
    assert list(run.error_kinds) == [kind]


def test_a_refused_connection_is_tried_once_more(fake_http: Callable[..., FakeHttp]) -> None:
    server = fake_http()
    (run,) = loadtest.run(server.url, config(prompt(refuse=True), requests=1)).runs
    assert (run.retries, run.errors, len(server.paths)) == (1, 1, 2)


def test_the_key_is_sent_and_stays_out_of_the_report(
    fake_http: Callable[..., FakeHttp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(contract.OPENAI_KEY.name, "a-secret")
    server = fake_http()
    report = loadtest.run(server.url, config(requests=1))
    assert server.headers[0]["authorization"] == "Bearer a-secret"
    assert "a-secret" not in json.dumps(report.to_json())


@pytest.mark.parametrize(
    ("text", "header"),
    [("# of the team\n\nfirst\nsecond\n", "Bearer first"), (None, None)],
    ids=["keys", "no-file"],
)
def test_the_key_may_be_in_a_file(
    fake_http: Callable[..., FakeHttp],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str | None,
    header: str | None,
) -> None:
    """In a pod, that of a Secret, which need not exist."""
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    monkeypatch.delenv(contract.OPENAI_KEY.name, raising=False)
    monkeypatch.setenv(contract.OPENAI_KEYS.name, str(file))
    server = fake_http()
    loadtest.run(server.url, config(requests=1))
    assert server.headers[0].get("authorization") == header


def test_a_file_without_keys_is_refused(
    fake_http: Callable[..., FakeHttp], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("# none\n")
    monkeypatch.setenv(contract.OPENAI_KEYS.name, str(tmp_path / "keys"))
    with pytest.raises(BadInputError, match="has no API key"):
        loadtest.run(fake_http().url, config(requests=1))


def test_proxies_of_the_environment_are_not_used(
    fake_http: Callable[..., FakeHttp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    (run,) = loadtest.run(fake_http().url, config(requests=1)).runs
    assert run.errors == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("models", "model", "problem"),
    [(("a", "b"), None, "a, b"), (("a",), "c", "no (ready )?model 'c'"), ((), None, "none")],
)
def test_a_model_that_is_not_there_is_refused(
    fake_http: Callable[..., FakeHttp],
    protocol: str,
    models: tuple[str, ...],
    model: str | None,
    problem: str,
) -> None:
    server = fake_http(openai=protocol != "generate-stream", models=models)
    with pytest.raises(BadInputError, match=problem):
        loadtest.run(server.url, config(protocol=protocol, model=model))
    assert not server.bodies


def test_a_server_of_another_kind_is_refused(fake_http: Callable[..., FakeHttp]) -> None:
    with pytest.raises(BadInputError, match="is no Triton server"):
        loadtest.run(fake_http().url, config(protocol="generate-stream", model="x"))
    with pytest.raises(BadInputError, match="is no OpenAI endpoint"):
        loadtest.run(fake_http(openai=False).url, config(protocol="chat"))


@pytest.mark.parametrize("protocol", ["auto", *PROTOCOLS])
def test_a_refused_connection_names_the_address(protocol: str) -> None:
    with pytest.raises(BadInputError, match=r"no server answers at http://127\.0\.0\.1:9 "):
        loadtest.run("http://127.0.0.1:9", config(protocol=protocol))


@pytest.mark.parametrize(
    ("url", "fields", "problem"),
    [
        ("http://localhost:9000", {"protocol": "smtp"}, "--protocol 'smtp'"),
        ("http://localhost:9000", {"protocol": "grpc"}, "is an HTTP address"),
        ("http://localhost:9000/metrics", {}, "has the path /metrics"),
        ("http://user@localhost:9000", {}, "not an address"),
        ("http://localhost:99999", {}, "not an address"),
        ("http://", {}, "not an address"),
    ],
)
def test_wrong_addresses(url: str, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        loadtest.run(url, config(**fields))


@pytest.mark.parametrize("url", ["http://8.8.8.8", "https://8.8.8.8/v1"])
def test_other_peoples_servers_are_refused(url: str) -> None:
    with pytest.raises(RefusedError, match="--yes-this-is-mine"):
        loadtest.run(url, config())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_conversation_grows_by_its_answers(
    fake_http: Callable[..., FakeHttp], tmp_path: Path, protocol: str
) -> None:
    """The reasoning is no part of it."""
    server, out = serving(fake_http, protocol), tmp_path / "samples.jsonl"
    turns = [prompt(reasoning=["hm"], texts=["a", "b"]), "And then?", "And now?"]
    work = Work(turns[0], 8, Work(turns[1], 8, Work(turns[2], 8), 0.05), 0.1)
    test = LoadTest(
        work=iter([work]), schedule=(0.0,), warmup=0, protocol=protocol, allow_late=True
    )
    (run,) = loadtest.run(server.url, test, out=out).runs
    assert (run.requests, run.errors) == (3, 0)
    last = server.bodies[2]
    if protocol == "chat":
        assert last["messages"] == [
            {"role": role, "content": text}
            for role, text in (
                ("user", turns[0]), ("assistant", "ab"), ("user", turns[1]), ("assistant", "ab"),
                ("user", turns[2]),
            )
        ]  # fmt: skip
    else:
        name = "prompt" if protocol == "completions" else "text_input"
        first = "hmab" if protocol == "completions" else "ab"  # which has no reasoning
        assert last[name] == f"{turns[0]}{first}{turns[1]}ab{turns[2]}"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for earlier, later, think_s in zip(lines, lines[1:], (0.1, 0.05), strict=False):
        assert later["intended_s"] >= earlier["ended_s"] + think_s - 1e-5


def test_a_conversation_ends_with_a_failure(fake_http: Callable[..., FakeHttp]) -> None:
    server = fake_http()
    work = Work(prompt(status=500), 8, Work("And then?", 8))
    test = LoadTest(work=iter([work]), schedule=(0.0,), warmup=0, allow_late=True)
    (run,) = loadtest.run(server.url, test).runs
    assert (run.requests, run.errors, len(server.bodies)) == (1, 1, 1)
