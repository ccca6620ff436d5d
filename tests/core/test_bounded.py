"""Work in a child that deadline and memory limit really end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nemotron_deploy.bounded import Limits, Worker, WorkError
from nemotron_deploy.errors import BadInputError
from nemotron_deploy.models import TINY
from nemotron_deploy.tokenizer_file import check_tokenizer, encode

MODULE = "bounded_work"
WORK = """
import os, time
from nemotron_deploy.bounded import serve

def handle(request):
    kind, value = request
    if kind == "echo":
        return value
    if kind == "loop":
        while True:
            pass
    if kind == "multiply":
        return len(str(9 ** (9 ** value)))
    if kind == "memory":
        return len(bytearray(value))
    if kind == "crash":
        os.abort()
    raise ValueError("x" * 1000)

serve(handle)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / f"{MODULE}.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return MODULE


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (["loop", 0], "it took more than 0.5 s"),
        (["multiply", 9], "it took more than 0.5 s"),
        (["memory", 10**9], "too much memory"),
        (["crash", 0], "or crashed"),
        (["raise", 0], "ValueError: x{300}$"),
    ],
)
def test_a_request_that_fails_is_explained_and_the_next_one_works(
    module: str, request_: list[object], why: str
) -> None:
    started = time.monotonic()
    with Worker(module, Limits(seconds=0.5, memory=200 << 20)) as worker:
        assert worker.ask(["echo", {"a": [1, "é"]}]) == {"a": [1, "é"]}
        with pytest.raises(WorkError, match=why):
            worker.ask(request_)
        assert worker.ask(["echo", 2]) == 2
    assert time.monotonic() - started < 20


def test_time_is_counted_by_request(module: str) -> None:
    with Worker(module, Limits(seconds=0.5, memory=200 << 20)) as worker:
        for number in range(3):
            assert worker.ask(["echo", number]) == number
            time.sleep(0.3)


def test_a_good_tokenizer_passes_and_encodes() -> None:
    path = TINY / "tokenizer.json"
    size = json.loads((TINY / "config.json").read_text())["vocab_size"]
    check_tokenizer(path, size)
    first, second = encode(path, ["What is 2 plus 3?", "x" * 500], 7)
    assert 0 < len(first) <= 7
    assert len(second) == 7


def test_a_vocabulary_larger_than_the_model_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"tokenizer\.json: this tokenizer is refused"):
        check_tokenizer(TINY / "tokenizer.json", 100)


def test_a_tokenizer_of_nanos_size_passes(tmp_path: Path) -> None:
    fields = json.loads((TINY / "tokenizer.json").read_text())
    size = 131_072
    vocabulary = fields["model"]["vocab"]
    for number in range(len(vocabulary) + len(fields["added_tokens"]), size):
        vocabulary[f"token-of-some-length-{number:08}-and-more-of-it-to-make-it-long{'x' * 60}"] = (
            number
        )
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    assert (tmp_path / "tokenizer.json").stat().st_size > 16_000_000
    check_tokenizer(tmp_path / "tokenizer.json", size)
