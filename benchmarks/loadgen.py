"""How exact and how cheap load tests are, against servers that stamp each token when they send it.

    python benchmarks/loadgen.py exact     arrivals here minus stamps there, at 1 to 64 streams
    python benchmarks/loadgen.py sends     how late requests of an open loop are sent
    python benchmarks/loadgen.py cost      CPU of the client for each token, with 1 and 2 processes
    python benchmarks/loadgen.py start     from the command to its first request
    python benchmarks/loadgen.py stall     whether a server that stops for two seconds shows
    python benchmarks/loadgen.py others    the same endpoint measured by AIPerf and perf_analyzer
    python benchmarks/loadgen.py           all of these

The real tritonserver runs a model that does nothing else, and a process of its own is an OpenAI
endpoint; both give each request a token every 20 ms, from one thread, so that no other thread of
theirs delays what was stamped. Stamps are of the same monotonic clock that the client reads. Prints
one JSON line for each measurement, with what is wanted. On a machine that does other work, too,
`--realtime` (as root) schedules servers and clients ahead of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from nemotron_deploy import loadtest
from nemotron_deploy.loadtest import LoadTest
from nemotron_deploy.loadtest.arrivals import Arrivals
from nemotron_deploy.loadtest.client import Client
from nemotron_deploy.loadtest.client_clock import StampingSelector, new_event_loop
from nemotron_deploy.loadtest.prompts import Work
from nemotron_deploy.loadtest.sample import Sample
from nemotron_deploy.loadtest.sender import Destination
from nemotron_deploy.loadtest.sending import Sending
from nemotron_deploy.loadtest.share import Share
from nemotron_deploy.loadtest.statistics import summary
from nemotron_deploy.loadtest.targets.factory import connect
from nemotron_deploy.tests.loadtest import conftest
from nemotron_deploy.triton_repo.local import LocalServer

PACE_S: Final = 0.02
TOKENS: Final = 64
PROMPT: Final = "x"
STREAMS: Final = (1, 8, 32, 64)
ROUNDS: Final = 3
"""Requests of each stream."""
WANTED: Final = {
    "delay_ms": {"streams": 32, "p50": 0.5, "p99": 2.0},
    "lateness_ms": {"p99": 1.0},
    "cpu_us_per_token": {"streams": 64, "processes 1": 150},
    "start_s": 0.6,
    "ttft_s": {"p90": [1.2, 1.6], "max": [1.8, 2.2]},
}
TOKENIZER: Final = files("nemotron_deploy.model.catalog") / "tiny"
STARTS: Final = 5
STALL_S: Final = 2.0


CONFIG: Final = Path(conftest.__file__).parent / "mock_model" / "mock" / "config.pbtxt"
MODEL: Final = f'''
import heapq, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    """Sends each request as many stamps as it asks for tokens, PACE_S apart."""

    def initialize(self, args):
        self.due, self.number, self.changed = [], 0, threading.Condition()
        threading.Thread(target=self.run, daemon=True).start()

    def execute(self, requests):
        for request in requests:
            asked = pb_utils.get_input_tensor_by_name(request, "sampling_param_max_tokens")
            count = int(asked.as_numpy().reshape(-1)[0])
            self.push(time.monotonic() + {PACE_S}, count, request.get_response_sender())

    def push(self, due, left, sender):
        with self.changed:
            self.number += 1
            heapq.heappush(self.due, (due, self.number, left, sender))
            self.changed.notify()

    def run(self):
        while True:
            with self.changed:
                while not self.due or self.due[0][0] > time.monotonic():
                    self.changed.wait(self.due[0][0] - time.monotonic() if self.due else None)
                due, _, left, sender = heapq.heappop(self.due)
            text = np.array([b"%d " % time.monotonic_ns()], dtype=object)
            response = pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)])
            final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if left == 1 else 0
            sender.send(response, final)
            if left > 1:
                self.push(due + {PACE_S}, left - 1, sender)
'''


@contextmanager
def triton() -> Iterator[str]:
    """The address of a tritonserver with the model above."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "mock" / "1" / "model.py"
        model.parent.mkdir(parents=True)
        model.write_text(MODEL)
        shutil.copy(CONFIG, Path(folder) / "mock")
        with LocalServer(Path(folder), executor="reference") as server:
            server.wait_ready()
            yield f"grpc://{server.grpc_url}"


@contextmanager
def openai() -> Iterator[tuple[str, int]]:
    """The address of an OpenAI endpoint that stamps its tokens, and its process."""
    command = [sys.executable, __file__, "endpoint"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


async def endpoint() -> None:
    """Be an OpenAI endpoint: chat and completions, streamed, `max_tokens` stamps PACE_S apart."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
                length = next(
                    (int(line.split(":")[1]) for line in head.split("\r\n") if "th:" in line), 0
                )
                body = await reader.readexactly(length)
                if head.startswith("post"):
                    await stream(writer, json.loads(body), chat="chat" in head.partition("\r\n")[0])
                else:
                    models = json.dumps({"object": "list", "data": [{"id": "mock"}]})
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                        b"content-length: %d\r\n\r\n%s" % (len(models), models.encode())
                    )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def stream(writer: asyncio.StreamWriter, asked: dict[str, Any], *, chat: bool) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        kind = "chat.completion.chunk" if chat else "text_completion"
        event = {"id": "x", "object": kind, "model": "mock"}
        due = time.monotonic()
        for _ in range(asked.get("max_completion_tokens") or asked.get("max_tokens") or TOKENS):
            due += PACE_S
            await asyncio.sleep(due - time.monotonic())
            text = f"{time.monotonic_ns()} "
            choice = {"index": 0, **({"delta": {"content": text}} if chat else {"text": text})}
            chunk(writer, json.dumps(event | {"choices": [choice]}))
        end = {"index": 0, "finish_reason": "length"} | ({"delta": {}} if chat else {"text": ""})
        chunk(writer, json.dumps(event | {"choices": [end]}))
        chunk(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")

    def chunk(writer: asyncio.StreamWriter, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(event), event))

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/completions", flush=True)
    await server.serve_forever()


def measured(
    url: str, share: Share, streams: int, protocol: str = "auto"
) -> tuple[float, list[Sample]]:
    """Send `share` from this process, after one request for each stream that is not counted. When
    it began, in seconds of the monotonic clock, and the samples with their texts."""
    selector = StampingSelector()

    async def send() -> tuple[float, list[Sample]]:
        destination = Destination(url, protocol, keep_text=True)
        target = await connect(url, protocol, yours=False)
        try:
            await target.check(None)
            await target.open(streams)
            client = Client(target, destination, selector)
            for each in (closed(streams, 1), share):
                sending = Sending(client, each, end=asyncio.Event(), record=lambda _: None)
                held = await sending.run()
        finally:
            await target.close()
        assert all(sample.failure is None for sample in held.samples), held.samples
        return sending.started, held.samples

    with asyncio.Runner(loop_factory=new_event_loop(selector)) as runner:
        return runner.run(send())


def closed(streams: int, rounds: int) -> Share:
    """A closed loop, whose streams start one after the other within the time of a request."""
    ramp = PACE_S * TOKENS
    return Share(
        (Work(PROMPT, TOKENS),) * (streams * rounds),
        starts=tuple(index * ramp / streams for index in range(streams)),
    )


def stamps(sample: Sample) -> list[float]:
    """When the server sent each token, in seconds of the monotonic clock."""
    return [int(stamp) / 1e9 for stamp in sample.text.split()]


def shown(values: list[float], scale: float = 1000.0) -> dict[str, float]:
    """The median and the 99th percentile, scaled to milliseconds."""
    figures = summary(value * scale for value in values)
    return {name: round(figures.at(name) or 0.0, 3) for name in ("p50", "p99")}


def exact() -> Iterator[dict[str, Any]]:
    """Arrival minus stamp of each token, and the time to first token beside what the server says it
    was."""
    with triton() as grpc, openai() as (http, _):
        for name, url in (("grpc", grpc), ("completions", http)):
            for streams in STREAMS:
                began, samples = measured(url, closed(streams, ROUNDS), streams)
                delays, first = [], []
                for sample in samples:
                    due, sent = began + sample.due, stamps(sample)
                    delays += [
                        due + at - stamp for at, stamp in zip(sample.arrivals, sent, strict=True)
                    ]
                    first.append(sent[0] - due)
                yield {
                    "protocol": name,
                    "streams": streams,
                    "delay_ms": shown(delays),
                    "ttft_ms": shown([sample.arrivals[0] for sample in samples]),
                    "ttft_ms_stamped": shown(first),
                    "wanted": {"delay_ms": WANTED["delay_ms"]},
                }


def sends() -> Iterator[dict[str, Any]]:
    """Actual minus intended sends of an open loop that keeps about 32 streams busy."""
    rate, count = 32 / (PACE_S * TOKENS), 300
    with triton() as url:
        share = Share(
            (Work(PROMPT, TOKENS),) * count, due=tuple(Arrivals().schedule(rate, count, seed=0))
        )
        _, samples = measured(url, share, 32)
    yield {
        "rate": rate,
        "requests": count,
        "lateness_ms": shown([sample.sent for sample in samples]),
        "wanted": {"lateness_ms": WANTED["lateness_ms"]},
    }


def cost() -> Iterator[dict[str, Any]]:
    """CPU of all client processes for each token."""
    with triton() as grpc, openai() as (http, _):
        for name, url in (("grpc", grpc), ("completions", http)):
            for streams in STREAMS[-2:]:
                figures = {}
                for processes in (1, 2):
                    test = LoadTest(
                        prompts=[PROMPT],
                        concurrencies=(streams,),
                        requests=streams * ROUNDS,
                        warmup=streams,
                        max_tokens=TOKENS,
                        processes=processes,
                    )
                    (run,) = loadtest.run(url, test).runs
                    spent = (run.client.cpu or 0.0) * run.duration_s
                    figures[f"processes {processes}"] = round(1e6 * spent / run.output_tokens, 1)
                yield {
                    "protocol": name,
                    "streams": streams,
                    "cpu_us_per_token": figures,
                    "wanted": {"cpu_us_per_token": WANTED["cpu_us_per_token"]},
                }


def start() -> Iterator[dict[str, Any]]:
    """Seconds from starting the command to the moment its first request reaches the server."""
    server = conftest.FakeTriton()
    server.start()
    seconds: dict[str, list[float]] = {"processes 1": [], "processes 2": []}
    try:
        for _ in range(STARTS):
            for name, values in seconds.items():
                server.seen.clear()
                options = ["--requests", "1", "--concurrency", "1", "--processes", name[-1]]
                command = [sys.executable, "-m", "nemotron_deploy", "loadtest", server.url]
                began = time.perf_counter()
                with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
                    while not server.seen and process.poll() is None:
                        time.sleep(0.001)
                    values.append(time.perf_counter() - began)
    finally:
        server.stop()
    yield {
        "start_s": {name: round(statistics.median(each), 3) for name, each in seconds.items()},
        "wanted": {"start_s": WANTED["start_s"]},
    }


def stall() -> Iterator[dict[str, Any]]:
    """An open loop of six seconds whose server stops for two: a third of the requests wait, evenly
    from nothing to two seconds, so that one in ten waits 1.4 s or more."""
    with openai() as (url, server):
        stop = threading.Timer(STALL_S, os.kill, (server, signal.SIGSTOP))
        go_on = threading.Timer(2 * STALL_S, os.kill, (server, signal.SIGCONT))
        test = LoadTest(
            prompts=[PROMPT],
            rates=(20.0,),
            arrivals=Arrivals.parse("constant"),
            requests=round(20 * 3 * STALL_S),
            warmup=0,
            max_tokens=4,
        )
        for timer in (stop, go_on):
            timer.start()
        (run,) = loadtest.run(url, test).runs
        for timer in (stop, go_on):
            timer.join()
    ttft = run.latencies["ttft"]
    yield {
        "stall_s": STALL_S,
        "ttft_s": {name: round((ttft.at(name) or 0.0) / 1000, 2) for name in ("p50", "p90", "max")},
        "wanted": {"ttft_s": WANTED["ttft_s"]},
    }


def others(aiperf: str | None) -> Iterator[dict[str, Any]]:
    """What other tools say of the same OpenAI endpoint, where the first token takes 20 ms, and how
    long they take in all. They count tokens differently, so gaps are not compared."""
    with openai() as (url, _):
        command = [sys.executable, "-m", "nemotron_deploy", "loadtest", url, "--json"]
        load = ["--concurrency", "32", "--requests", str(32 * ROUNDS), "--max-tokens", str(TOKENS)]
        began = time.perf_counter()
        done = subprocess.run([*command, *load, "--allow-late"], capture_output=True, check=True)
        seconds = round(time.perf_counter() - began, 1)
        first = json.loads(done.stdout)["runs"][0]["ttft_ms"]
        yield {"tool": "nemo-deploy loadtest"} | time_to_first(first, seconds)
        yield {"tool": "aiperf"} | (
            by_aiperf(aiperf, url.partition("/v1")[0])
            if aiperf
            else {"skipped": "give its program with --aiperf (pip install aiperf: 1.2 GB)"}
        )
    yield {"tool": "perf_analyzer", "skipped": "does not install on Debian 12"}


def time_to_first(figures: dict[str, float], seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "ttft_ms": {name: round(figures[name], 1) for name in ("p50", "p99")},
    }


def by_aiperf(program: str, url: str) -> dict[str, Any]:
    """The figures of AIPerf, with the tokenizer of `tiny`: its own ones come from the network."""
    with tempfile.TemporaryDirectory() as folder:
        command = (
            f"{program} profile --model mock --url {url} --endpoint-type chat --streaming "
            f"--concurrency 32 --request-count {32 * ROUNDS} --tokenizer {TOKENIZER} --ui none "
            f"--synthetic-input-tokens-mean 16 --output-tokens-mean {TOKENS} "
            f"--output-artifact-dir {folder}"
        )
        began = time.perf_counter()
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        seconds = round(time.perf_counter() - began, 1)
        reports = sorted(Path(folder).rglob("profile_export_aiperf.json"))
        if done.returncode or not reports:
            return {"skipped": f"failed: {(done.stderr or done.stdout)[-300:]}"}
        report = json.loads(reports[0].read_text())
    return time_to_first(report["time_to_first_token"], seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", help="one measurement; default: all")
    parser.add_argument("--realtime", action="store_true", help="run ahead of other work")
    parser.add_argument("--aiperf", metavar="PROGRAM", help="AIPerf's program, for `others`")
    arguments = parser.parse_args()
    if arguments.what == "endpoint":
        asyncio.run(endpoint())
        return
    if arguments.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
    measurements: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "exact": exact,
        "sends": sends,
        "cost": cost,
        "start": start,
        "stall": stall,
        "others": lambda: others(arguments.aiperf),
    }
    chosen = [arguments.what] if arguments.what else list(measurements)
    for name in chosen:
        for line in measurements[name]():
            line |= {"load_average": round(os.getloadavg()[0], 1)}
            print(json.dumps({"measurement": name, **line}), flush=True)


if __name__ == "__main__":
    main()
