"""The metrics port of a real tritonserver after requests whose number and pace are known."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.runtime import contract
from nemotron_deploy.tests.e2e.scripted_bundle import scripted_bundle
from nemotron_deploy.triton_repo import local

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

PACE_MS = 20
ANSWERS = (
    {"when": "slow", "pieces": ["a "] * 2000, "pace_ms": 50},
    {"when": "", "pieces": ["one ", "two ", "three "], "pace_ms": PACE_MS},
)

Values = dict[str, float]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., local.LocalServer]:
    """Start a server that plays two answers at a time, at a fixed pace."""
    bundle = scripted_bundle(tmp_path_factory.mktemp("bundle"), ANSWERS, 2)

    def run(**options: Any) -> local.LocalServer:
        server = local.LocalServer(
            bundle.repository, executor="scripted", script=bundle.script, **options
        )
        server.wait_ready()
        return server

    return run


@pytest.fixture(scope="module")
def server(start: Callable[..., local.LocalServer]) -> Iterator[local.LocalServer]:
    with start() as running:
        yield running


def scrape(server: local.LocalServer) -> tuple[Values, set[str]]:
    """Every series of the model, without the label `model`, and the names of all families."""
    url = f"http://{local.HOST}:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    families = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    values = {}
    for name, labels, value in re.findall(r"^(nemo_deploy_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        given = sorted(set(labels.split(",")) - {f'{contract.MODEL_LABEL}="tiny"'})
        values[f"{name}{{{','.join(given)}}}" if given else name] = float(value)
    return values, families


@pytest.fixture
def until(server: local.LocalServer) -> Callable[[Callable[[Values], bool]], Values]:
    """Scrape until the values, which are exported once a second, fulfil a condition."""

    def wait(condition: Callable[[Values], bool]) -> Values:
        deadline = time.monotonic() + 30
        while not condition(values := scrape(server)[0]):
            assert time.monotonic() < deadline, values
        return values

    return wait


def generate(server: local.LocalServer, text: str = "x", **values: Any) -> None:
    body = {"text_input": text, "sampling_param_max_tokens": 100, **values}
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/tiny/generate", data=json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()


def outcome(name: str) -> str:
    return f'{contract.REQUESTS.name}{{outcome="{name}"}}'


def grown(after: Values, before: Values, name: str) -> float:
    return after[name] - before[name]


def test_counts_equal_what_was_sent(
    server: local.LocalServer, until: Callable[[Callable[[Values], bool]], Values]
) -> None:
    before = scrape(server)[0]
    assert {outcome(name) for name in contract.REQUESTS.values} <= before.keys()
    for _ in range(4):
        generate(server)
    for _ in range(3):
        generate(server, sampling_param_max_tokens=2)
    for bad in ({"sampling_param_top_p": 2.0}, {"text": ""}, {"text": "x" * 70_000}):
        with pytest.raises(urllib.error.HTTPError):
            generate(server, **bad)
    # An answer's end is a token, too. These are the last ones to be exported.
    until(lambda values: grown(values, before, f"{contract.INTER_TOKEN_TIME.name}_count") == 15)
    after = until(lambda values: grown(values, before, outcome("refused")) == 3)
    counts = {name: grown(after, before, outcome(name)) for name in contract.REQUESTS.values}
    assert {name: n for name, n in counts.items() if n} == {"stop": 4, "length": 3, "refused": 3}
    assert grown(after, before, contract.OUTPUT_TOKENS.name) == 4 * 4 + 3 * 2
    assert grown(after, before, contract.PROMPT_TOKENS.name) >= 7
    first = _histogram(after, before, contract.TIME_TO_FIRST_TOKEN, 7)
    between = _histogram(after, before, contract.INTER_TOKEN_TIME, 4 * 3 + 3)
    # The first token comes with the next beat, and no token before its time.
    assert first + between >= (4 * 3 + 3 * 1) * PACE_MS / 1000
    assert _histogram(after, before, contract.QUEUE_TIME, 7) >= 0


def _histogram(after: Values, before: Values, metric: contract.Metric, count: int) -> float:
    """The sum of a histogram that has `count` more observations than before."""
    assert grown(after, before, f"{metric.name}_count") == count
    buckets = [
        grown(after, before, f'{metric.name}_bucket{{le="{one.value}"}}')
        for one in contract.series(metric)
        if one.label
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == count
    return grown(after, before, f"{metric.name}_sum")


def test_load_cancellation_and_overload(
    server: local.LocalServer, until: Callable[[Callable[[Values], bool]], Values]
) -> None:
    """Two of three slow answers run, one waits, and they end when they are cancelled."""
    before = scrape(server)[0]
    names = [f"slow-and-stoppable-{number}" for number in range(3)]
    with ThreadPoolExecutor(len(names)) as clients:
        sent = [
            clients.submit(generate, server, "slow", id=name, sampling_param_max_tokens=3000)
            for name in names
        ]
        during = until(lambda values: values[contract.RUNNING.name] == 2)
        during = until(lambda values: values[contract.WAITING.name] == 1)
        assert during[contract.MAMBA_STATE_OCCUPANCY.name] == 1.0
        assert 0 < during[contract.KV_CACHE_OCCUPANCY.name] < 1
        for name in names:
            generate(server, id=name, stop=True)
        for one in sent:
            with pytest.raises(urllib.error.HTTPError):
                one.result(timeout=30)
    after = until(lambda values: values[contract.RUNNING.name] == 0)
    assert grown(after, before, outcome("cancelled")) == 3
    assert after[contract.WAITING.name] == 0
    assert after[contract.KV_CACHE_OCCUPANCY.name] == 0


def test_every_metric_is_there(server: local.LocalServer) -> None:
    generate(server)
    values, families = scrape(server)
    expected = {one for metric in contract.METRICS for one in contract.series(metric)}
    assert {one.name for one in expected} <= families
    assert len(values) == len(expected)


def _configuration(server: local.LocalServer) -> Any:
    url = f"{server.http_url}/v2/models/tiny/config"
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def test_completing_the_configuration_changes_nothing(
    server: local.LocalServer, start: Callable[..., local.LocalServer]
) -> None:
    with start(auto_complete=True) as completed:
        generate(completed)
        assert _configuration(completed) == _configuration(server)


def test_traces_are_written(start: Callable[..., local.LocalServer], tmp_path: Path) -> None:
    """Triton writes its own file of traces when it ends."""
    traces = tmp_path / "traces.json"
    settings = (f"triton,file={traces}", "level=TIMESTAMPS", "rate=1")
    with start(trace=settings) as traced:
        generate(traced)
    names = {
        event["name"]
        for trace in json.loads(traces.read_text())
        for event in trace.get("timestamps", [])
    }
    assert {"REQUEST_START", "COMPUTE_START", "REQUEST_END"} <= names
