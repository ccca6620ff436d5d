"""Metrics of the server and its GPUs beside a test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy import loadtest
from nemotron_deploy.core.errors import BadInputError, NemoDeployError, RefusedError, UsageError
from nemotron_deploy.loadtest import LoadTest
from nemotron_deploy.loadtest.observers.catalog import METRICS
from nemotron_deploy.loadtest.observers.exposition import MOST_SERIES, Key, read
from nemotron_deploy.loadtest.observers.sampler import MOST_POINTS, Sampler
from nemotron_deploy.loadtest.observers.sources import sources_of
from nemotron_deploy.loadtest.saved_report import typed
from nemotron_deploy.runtime import contract

RUNNING, TOKENS = contract.RUNNING.name, contract.OUTPUT_TOKENS.name
Eventually = Callable[[Callable[[], object], str], None]

NOBODY = 9
"""A port at which nothing answers."""

PAGE = f"""# HELP {RUNNING} Sequences that the executor generates for.
# TYPE {RUNNING} gauge
{RUNNING}{{model="a"}} 3
{contract.KV_CACHE_OCCUPANCY.name}{{model="a"}} 0.25
python_gc_objects_collected_total{{generation="0"}} 361
DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="GPU-1",modelName="NVIDIA, \\"H100\\""}} 96 1700000000000
DCGM_FI_DEV_FB_USED{{gpu="0"}} 1024
nv_gpu_power_usage{{gpu_uuid="GPU-1"}} nan
"""


@pytest.fixture
def page() -> Iterator[tuple[str, ThreadingHTTPServer]]:
    """A FAKE exporter, with `PAGE` at /metrics, and its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = PAGE if self.path == "/metrics" else "up 1\n" if self.path == "/up" else None
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", server
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_known_metrics_are_kept_in_their_units() -> None:
    assert read(PAGE) == {
        (RUNNING, (("model", "a"),)): 3.0,
        (contract.KV_CACHE_OCCUPANCY.name, (("model", "a"),)): 25.0,
        ("DCGM_FI_DEV_GPU_UTIL", (("gpu", "0"),)): 96.0,
        ("DCGM_FI_DEV_FB_USED", (("gpu", "0"),)): pytest.approx(1.073741824),
    }


def test_series_that_differ_in_other_labels_are_added_and_their_number_is_limited() -> None:
    lines = [f'{RUNNING}{{model="a",slot="{number}"}} 1' for number in range(500)]
    assert read("\n".join(lines)) == {(RUNNING, (("model", "a"),)): 500.0}
    lines = [f'{RUNNING}{{model="{number}"}} 1' for number in range(500)]
    assert len(read("\n".join(lines))) == MOST_SERIES


@given(st.text(), st.sampled_from(sorted(METRICS)))
def test_no_page_is_too_strange(text: str, name: str) -> None:
    read(f"{name}{text}\n{name}{{{text}}} 1\n{name} {text}")


@pytest.mark.parametrize(
    ("path", "error", "problem"),
    [
        ("/nothing", BadInputError, "no metrics are there: status 404"),
        ("/up", BadInputError, "has none of the metrics"),
    ],
)
def test_a_page_that_was_asked_for_must_have_metrics(
    page: tuple[str, Any], path: str, error: type[NemoDeployError], problem: str
) -> None:
    with pytest.raises(error, match=problem):
        sources_of("grpc://127.0.0.1:9", [page[0] + path], NOBODY, yours=False)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("localhost:8002", UsageError),
        ("ftp://localhost/metrics", UsageError),
        ("http://user:secret@localhost/metrics", UsageError),
        ("http://localhost:port", UsageError),
        ("http://8.8.8.8:9400", RefusedError),
        ("http://169.254.169.254/latest/meta-data", RefusedError),
        (f"http://127.0.0.1:{NOBODY}", BadInputError),
    ],
)
def test_pages_that_may_not_or_cannot_be_asked(url: str, error: type[NemoDeployError]) -> None:
    with pytest.raises(error):
        sources_of("grpc://127.0.0.1:9", [url], NOBODY, yours=False)


def test_a_page_on_the_same_host_is_taken_where_it_answers(
    page: tuple[str, Any], monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    port = page[1].server_address[1]
    for at, answers in ((port, True), (NOBODY, False)):
        (source,) = sources_of("grpc://127.0.0.1:9", [], at, yours=False)
        asked = threading.Event()
        monkeypatch.setattr(source, "close", asked.set)
        with Sampler([source], every_s=0.001) as sampler:
            if answers:
                eventually(lambda: sampler.between(0.0, 1e9), "nothing was sampled")
            else:
                assert asked.wait(60), "given up"
                assert sampler.between(0.0, 1e9) is None


def test_nvidia_smi_is_asked_where_the_server_is_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """FAKE: prints what `nvidia-smi --format=csv,noheader,nounits` prints for two cards, one of
    which does not say its power."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, 97, 81559, 650.20'\necho '1, 3, 12, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    _, source = sources_of("grpc://localhost:9", [], NOBODY, yours=False)
    assert source.name == "nvidia-smi"
    assert source.sample() == {
        ("nvidia_smi_utilization_gpu", (("gpu", "0"),)): 97.0,
        ("nvidia_smi_memory_used", (("gpu", "0"),)): pytest.approx(85.52, abs=0.01),
        ("nvidia_smi_power_draw", (("gpu", "0"),)): 650.2,
        ("nvidia_smi_utilization_gpu", (("gpu", "1"),)): 3.0,
        ("nvidia_smi_memory_used", (("gpu", "1"),)): pytest.approx(0.0126, abs=0.001),
    }
    names = [each.name for each in sources_of("grpc://10.0.0.9:9", [], NOBODY, yours=False)]
    assert names == ["http://10.0.0.9:9/metrics"], "the cards here are not those of that server"


class Clock:
    """FAKE. A source that is asked once a second of its own clock; blocks after `count` times."""

    name = "clock"
    optional = False

    def __init__(self, count: int, failing: range = range(0)) -> None:
        self.now, self._left, self._failing = 0.0, count, failing
        self.all_asked, self._released = threading.Event(), threading.Event()
        self.closed = False

    def sample(self) -> dict[Key, float]:
        if not self._left:
            self.all_asked.set()
            self._released.wait()
            raise OSError("the end")
        self._left -= 1
        self.now += 1
        if int(self.now) in self._failing:
            raise OSError("connection refused")
        return {(RUNNING, ()): self.now, (TOKENS, ()): 20 * self.now}

    def release(self) -> None:
        self.now += 1e6
        self._released.set()

    def close(self) -> None:
        self.closed = True


def test_a_level_gets_what_was_sampled_during_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1000, failing=range(300, 310))
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    with Sampler([clock], every_s=0.0) as sampler:
        assert clock.all_asked.wait(60)
        observed = sampler.between(100.0, 900.0)
        early = sampler.between(0.0, 50.0)
        clock.release()
    assert clock.closed
    assert observed is not None
    assert early is not None
    running, tokens = observed.series
    assert (running.name, running.unit, running.min, running.max) == (RUNNING, "requests", 100, 900)
    assert (tokens.unit, tokens.min) == ("tokens/s", 20)
    assert tokens.mean == pytest.approx(20)
    assert 100 < len(running.points) <= MOST_POINTS
    assert running.points[0][0] == 0, "seconds after the level's start"
    assert observed.problems == (
        "clock: did not answer 10 times, first after 200 s: connection refused",
    )
    assert early.problems == ()


def test_without_sources_nothing_is_sampled() -> None:
    with Sampler([]) as sampler:
        assert sampler.between(0.0, 1.0) is None


def test_metrics_stand_beside_a_test_and_may_stop(
    fake_triton: Callable[..., Any], page: tuple[str, ThreadingHTTPServer]
) -> None:
    url, exporter = page

    def stop(progress: loadtest.Progress) -> None:
        if progress.index == 0 and progress.done == 2:
            exporter.shutdown()
            exporter.socket.close()

    prompt = json.dumps({"gap_s": 0.7})
    test = LoadTest(
        prompts=[prompt], concurrencies=(1, 2), requests=2, warmup=0, allow_late=True,
        metrics_urls=(url,), max_tokens=2,
    )  # fmt: skip
    report = loadtest.run(fake_triton().url, test, on_progress=stop)
    first, second = report.to_json()["runs"]
    running = next(each for each in first["observed"]["series"] if each["name"] == RUNNING)
    assert (running["mean"], running["labels"]) == (3.0, {"model": "a"})
    assert not first["observed"]["problems"]
    assert "did not answer" in second["observed"]["problems"][0]
    assert second["errors"] == 0
    assert typed(report.to_json())["runs"][0]["observed"] == report.runs[0].observed
