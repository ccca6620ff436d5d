"""From a checkpoint to a load-tested server, with the real tritonserver and through `api`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemotron_deploy.api import loadtest, serve
from nemotron_deploy.api.ask import ask
from nemotron_deploy.api.serve import serving
from nemotron_deploy.api.verify import verify
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.errors import CheckFailedError
from nemotron_deploy.model.catalog import TINY, text
from nemotron_deploy.runtime.formats import decode_checkpoint

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-m", "nemotron_deploy"]
DEADLINE_S = 300
QUESTIONS = [prompt.text for prompt in text.prompts(5, 4, split="heldout")]


@pytest.fixture(params=["int4", "int8", "fp8"])
def quant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bundle(built: Callable[[str], Path], quant: str) -> Path:
    return built(quant)


@pytest.fixture
def int4_bundle(built: Callable[[str], Path]) -> Path:
    return built("int4")


def greedy_with_transformers(bundle: Path, folder: Path, max_tokens: int) -> list[str]:
    """Answers of plain `generate` on the bundle's weights, decoded into an ordinary checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for path in TINY.iterdir():
        shutil.copyfile(path, folder / path.name)
    weights = decode_checkpoint(load_file(bundle / "checkpoint" / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generate: Callable[..., torch.Tensor] = getattr(model, "generate")  # noqa: B009
    answers = []
    for question in QUESTIONS:
        inputs = tokenizer(question, return_tensors="pt")
        out = generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        new = out[0, inputs.input_ids.shape[1] :]
        answers.append(str(tokenizer.decode(new, skip_special_tokens=True)))
    return answers


def test_the_served_tokens_are_those_of_transformers(bundle: Path, tmp_path: Path) -> None:
    expected = greedy_with_transformers(bundle, tmp_path, max_tokens=24)
    with serving(_opened(bundle), executor="reference") as server:
        pieces = [list(ask(server.grpc_url, "tiny", question, 24)) for question in QUESTIONS]
    assert ["".join(answer) for answer in pieces] == expected
    assert any(len(answer) > 1 for answer in pieces), "nothing was streamed"
    assert verify(bundle).ok, "serving changed the bundle"


def _opened(path: Path) -> Bundle:
    return Bundle.open(path)


@pytest.fixture
def served(int4_bundle: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """`nemo-deploy serve`, as a user runs it, and what it printed."""
    ports = [str(_free_port()) for _ in range(4)]
    options = [f"--{name}-port" for name in ("http", "grpc", "metrics", "health")]
    arguments = [word for pair in zip(options, ports, strict=True) for word in pair]
    process = subprocess.Popen(
        [*COMMAND, "serve", str(int4_bundle), "--json", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    printed = ""
    while not printed.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        printed += line
    yield process, json.loads(printed)
    process.send_signal(signal.SIGINT)
    process.wait(DEADLINE_S)


def test_a_server_with_other_answers_does_not_go_ready(
    built_copy: Callable[[str], Path], quant: str, exchange_experts: Callable[[Path], None]
) -> None:
    broken = built_copy(quant)
    exchange_experts(broken)
    with (
        pytest.raises(CheckFailedError, match="golden outputs differ"),
        serving(Bundle.open(broken), executor="reference"),
    ):
        pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nemo_deploy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


def test_serve_loadtest_and_interrupt(
    served: tuple[subprocess.Popen[str], dict[str, str]], int4_bundle: Path
) -> None:
    process, where = served
    with urllib.request.urlopen(f"{where['http']}/v2/health/ready") as answer:
        assert answer.status == 200
    taken = where["grpc"].rpartition(":")[2]
    second = nemo_deploy("serve", str(int4_bundle), "--grpc-port", taken)
    assert second.returncode == 4
    assert taken in second.stderr
    load = nemo_deploy(
        "loadtest", f"grpc://{where['grpc']}", "--concurrency", "1,2", "--requests", "6",
        "--max-tokens", "8", "--slo", "errors<1%", "--allow-late", "--json",
    )  # fmt: skip
    assert load.returncode == 0, load.stderr
    report = json.loads(load.stdout)
    assert [run["concurrency"] for run in report["runs"]] == [1, 2]
    for run in report["runs"]:
        assert (run["requests"], run["errors"]) == (6, 0)
        for metric in ("ttft_ms", "itl_ms", "e2e_ms"):
            assert 0 < run[metric]["p50"] <= run[metric]["p90"] <= run[metric]["p99"]
        assert run["output_tokens_per_s"] > run["requests_per_s"] > 0
    assert report["slo"]["met"] is True
    missed = nemo_deploy(
        "loadtest", f"grpc://{where['grpc']}", "--concurrency", "1", "--requests", "2",
        "--max-tokens", "2", "--slo", "ttft_p99<0.001ms",
    )  # fmt: skip
    assert missed.returncode == 5
    assert "missed" in missed.stdout
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 130


def test_a_server_that_is_told_to_end_ends_well(
    served: tuple[subprocess.Popen[str], dict[str, str]],
) -> None:
    process, _ = served
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0


def answered(http: str) -> int:
    """Requests that a server's `tiny` has answered."""
    with urllib.request.urlopen(f"{http}/v2/models/tiny/stats") as reply:
        (stats,) = json.load(reply)["model_stats"]
    return int(stats["inference_stats"]["success"]["count"])


def test_a_server_that_dies_during_a_load_test(
    served: tuple[subprocess.Popen[str], dict[str, str]],
    eventually: Callable[[Callable[[], object], str], None],
) -> None:
    process, where = served
    test = subprocess.Popen(
        [*COMMAND, "loadtest", f"grpc://{where['grpc']}", "--concurrency", "2",
         "--requests", "5000", "--max-tokens", "16", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    eventually(lambda: answered(where["http"]) > 4, "the load test sends nothing")
    assert test.poll() is None
    process.kill()  # nothing of a server outlives the process that started it
    out, _ = test.communicate(timeout=DEADLINE_S)
    assert test.returncode == 5
    report = json.loads(out)
    assert report["aborted"]
    assert report["runs"][0]["requests"] > report["runs"][0]["errors"] > 0
    assert report["runs"][0]["complete"] is False


def test_loadtest_of_a_bundle_serves_it_and_keeps_the_report(
    built_copy: Callable[[str], Path],
) -> None:
    bundle = built_copy("int4")
    done = nemo_deploy(
        "loadtest", str(bundle), "--requests", "4", "--concurrency", "1", "--allow-late"
    )
    assert done.returncode == 0, done.stderr
    reports = list((bundle / "report").glob("loadtest-*.json"))
    assert json.loads(reports[0].read_text())["token_counting"] == "server"
    assert verify(bundle).ok


def test_the_demo_runs_through(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    done = nemo_deploy("demo", "--out", str(tmp_path / "bundle"), "--svg", str(picture))
    assert done.returncode == 0, done.stderr
    for words in (
        "INT4, group 64",
        "checks, all passed",
        "TTFT ms",
        "nemo-deploy build --gpu h100",
    ):
        assert words in done.stdout
    assert picture.read_text().startswith("<svg")


def test_serving_and_loading_from_python(int4_bundle: Path) -> None:
    with serve(int4_bundle, executor="reference") as server:
        assert server.result.model == "tiny"
        result = loadtest(
            f"grpc://{server.result.grpc}",
            concurrency=[2],
            requests=4,
            max_tokens=8,
            allow_late=True,
        )
    assert result.ok
    assert result.kept is None
    (run,) = result.report.runs
    assert (run.requests, run.errors) == (4, 0)


def test_edited_code_is_served_only_when_trusted_and_sees_no_token(
    int4_bundle: Path, tmp_path: Path
) -> None:
    edited, seen = tmp_path / "edited", tmp_path / "seen.json"
    shutil.copytree(int4_bundle, edited)
    model = edited / "model_repository" / "tiny" / "1" / "model.py"
    model.write_text(
        "import json, os\n"
        f"with open({str(seen)!r}, 'w') as file:\n    json.dump(dict(os.environ), file)\n"
        "raise RuntimeError('the edited model ran')\n"
    )
    environment = os.environ | {"HF_TOKEN": "secret", "HTTPS_PROXY": "http://user:secret@proxy"}
    command = [*COMMAND, "serve", str(edited), "--executor", "reference"]
    ports = [
        word
        for name in ("http", "grpc", "metrics", "health")
        for word in (f"--{name}-port", str(_free_port()))
    ]

    def serve(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *ports, *options], capture_output=True, text=True, check=False,
            env=environment,
        )  # fmt: skip

    refused = serve()
    assert refused.returncode == 5
    assert "--trust-code" in refused.stderr
    assert not seen.exists()
    trusted = serve("--trust-code")
    assert "the edited model ran" in trusted.stderr
    assert "secret" not in seen.read_text()
    assert json.loads(seen.read_text())["NEMO_DEPLOY_EXECUTOR"] == "reference"
