"""Evaluations of a stand-in by the real lm-eval."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from nemotron_deploy.api.evaluate import evaluate
from nemotron_deploy.core.errors import BadInputError, RefusedError, UsageError
from nemotron_deploy.evaluation import harness
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.catalog.text import prompts
from nemotron_deploy.runtime import contract
from nemotron_deploy.tests.evaluation.stand_in import StandIn

pytest.importorskip("lm_eval", reason="the extra `evaluate` is not installed")

TASK = ("tiny_text",)
PATIENCE_S = 300.0


def wrong(_: str) -> str:
    return "I do not know."


def test_right_answers(right_answers: dict[str, str]) -> None:
    with StandIn(right_answers.get) as server:
        report = evaluate(server.url, TASK).report
    (score,) = report.scores
    assert (report.model, report.target, report.bundle) == ("tiny", server.url, None)
    assert (report.protocol, report.limit, report.resumed) == ("chat", None, 0)
    assert report.harness.startswith("lm-eval 0.")
    assert (score.task, score.metric, score.value) == ("tiny_text", "exact_match,none", 1.0)
    assert (score.questions, score.cut) == (128, 0)
    assert score.interval is not None
    assert 0.96 < score.interval.low < 1
    (comparison,) = score.comparisons
    assert comparison.of == "tiny bf16"
    assert comparison.verdict == "higher"
    assert comparison.difference == pytest.approx(1 - comparison.value)


def test_wrong_answers_of_a_model_that_nothing_is_published_of() -> None:
    with StandIn(wrong, model="other") as server:
        (score,) = evaluate(server.url, TASK).report.scores
    assert (score.value, score.comparisons) == (0.0, ())


def test_what_is_sent(
    right_answers: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(contract.OPENAI_KEY.name, "a-secret")
    out = tmp_path / "answers.jsonl"
    with StandIn(right_answers.get) as server:
        evaluate(server.url, TASK, max_tokens=7, thinking=False, out=out)
    assert set(server.keys) == {"Bearer a-secret"}
    assert sorted(server.questions) == sorted(right_answers)
    body = server.bodies[-1]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.0, 7)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "stop" not in body, "a server may end the reasoning at it"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["doc"]["question"]: row["resps"] for row in rows} == {
        question: [[answer]] for question, answer in right_answers.items()
    }


def test_reasoning_and_what_follows_the_answer_do_not_count(right_answers: dict[str, str]) -> None:
    def verbose(question: str) -> str | None:
        answer = right_answers.get(question)
        return answer and f"<think>\nIs it {question}?\n</think>\n\n{answer}\nI am sure."

    with StandIn(verbose) as server:
        (score,) = evaluate(server.url, TASK, thinking=True).report.scores
    assert score.value == 1
    assert "max_tokens" not in server.bodies[-1], "a model that reasons has what the context leaves"
    assert [row.verdict for row in score.comparisons] == ["not comparable"]
    assert "thinking on instead of off" in score.comparisons[0].caveats


def test_a_base_model_completes(right_answers: dict[str, str]) -> None:
    with StandIn(right_answers.get, chats=False, finish="length") as server:
        report = evaluate(server.url, TASK).report
    assert report.protocol == "completions"
    assert (report.scores[0].value, report.scores[0].cut) == (1.0, 128)
    assert server.bodies[-1]["stop"] == ["\n"]
    assert server.bodies[-1]["max_tokens"] == 32


def test_a_part_of_the_questions_is_compared_with_nothing(right_answers: dict[str, str]) -> None:
    with StandIn(right_answers.get) as server:
        report = evaluate(server.url, TASK, limit=10).report
    (score,) = report.scores
    assert (report.limit, score.questions, len(server.questions)) == (10, 10, 10)
    assert score.comparisons[0].verdict == "not comparable"
    assert "only the first 10 questions of each task" in score.comparisons[0].caveats


def test_another_report_is_compared_with(right_answers: dict[str, str], tmp_path: Path) -> None:
    def worse(question: str) -> str:
        return right_answers[question] if len(question) > 20 else "?"

    source = tmp_path / "source.json"
    with StandIn(right_answers.get, model="other") as server:
        source.write_text(json.dumps(evaluate(server.url, TASK).to_json()))
    with StandIn(worse, model="other") as server:
        (score,) = evaluate(server.url, TASK, against=[source]).report.scores
    (comparison,) = score.comparisons
    assert (comparison.value, comparison.verdict, comparison.caveats) == (1.0, "lower", ())
    assert comparison.source == str(source)
    assert comparison.interval is not None
    assert comparison.interval.high < 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "is no report of nemo-deploy evaluate"),
        ('{"schema": 1, "limit": 5, "scores": []}', "only the first 5|first 5 questions"),
    ],
)
def test_a_file_that_nothing_is_compared_with(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(BadInputError, match=rf"other\.json: .*{message}|{message}"):
        evaluate("http://127.0.0.1:9", TASK, against=[file])


def test_a_run_that_failed_asks_only_what_is_missing(right_answers: dict[str, str]) -> None:
    with StandIn(right_answers.get, refuse_after=51) as server:
        with pytest.raises(BadInputError, match="refuses a request: no more") as failure:
            evaluate(server.url, TASK, concurrency=1)
        assert "50 of 128 answers are kept." in failure.value.__notes__
        first = set(server.questions[:50])
        server.refuse_after, server.bodies = None, []
        report = evaluate(server.url, TASK).report
        assert set(server.questions).isdisjoint(first)
        assert len(server.questions) == 78
        assert (report.resumed, report.scores[0].value) == (50, 1.0)
        server.bodies = []
        assert evaluate(server.url, TASK).report.resumed == 0, "a run that ended keeps nothing"
        assert len(server.questions) == 128


def test_ctrl_c_keeps_the_answers(right_answers: dict[str, str]) -> None:
    hold = threading.Event()
    with StandIn(right_answers.get, hold=hold, hold_after=41) as server:
        words = ["evaluate", server.url, "--tasks", "tiny_text", "--concurrency", "1"]
        command = [sys.executable, "-m", "nemotron_deploy", *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert server.held.wait(PATIENCE_S)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
        hold.set()
        assert process.returncode == 130, err
        assert "interrupted. 40 of 128 answers are kept." in err
        assert "To continue, run:" in err
        assert "Traceback" not in err
        server.hold, server.bodies = None, []
        done = subprocess.run(
            [*command, "--json"], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
    report = json.loads(done.stdout)
    assert (report["resumed"], report["scores"][0]["value"]) == (40, 1.0)
    assert len(server.questions) == 88


def test_a_busy_server_is_asked_again(
    right_answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nemotron_deploy.evaluation.endpoint._PAUSES_S", (0.0, 0.0))
    with StandIn(right_answers.get, busy=2) as server:
        assert evaluate(server.url, TASK, limit=2).report.scores[0].value == 1
    with (
        StandIn(right_answers.get, busy=1000) as server,
        pytest.raises(BadInputError, match="the model is loading, tried 3 times"),
    ):
        evaluate(server.url, TASK)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tasks in the place of our own."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    monkeypatch.setattr(harness, "OWN_TASKS", folder)
    return folder


CHOICES = """
task: choices
custom_dataset: !function choices.data
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: "{{choices}}"
"""

CHOICES_DATA = """
from datasets import Dataset
from nemotron_deploy.model.catalog.text import prompts

def data(**_):
    rows = [{"question": p.question, "choices": [p.answer, "never"]} for p in prompts(1, 20)]
    return {"test": Dataset.from_list(rows)}
"""


@pytest.fixture
def choices(tasks: Path) -> Callable[[Sequence[int]], list[float]]:
    """A task of given answers, and the log-probabilities of a model that knows the right ones."""
    (tasks / "choices.yaml").write_text(CHOICES)
    (tasks / "choices.py").write_text(CHOICES_DATA)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    right = {f"{each.question} {each.answer}" for each in prompts(1, 20)}
    known = {tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in right}
    return lambda ids: [-0.5 if tuple(ids) in known else -5.0] * len(ids)


def test_given_answers_are_compared_by_their_log_probabilities(
    choices: Callable[[Sequence[int]], list[float]],
) -> None:
    with StandIn(wrong, log_probabilities=choices) as server:
        report = evaluate(server.url, ["choices"], tokenizer=TINY).report
    by_metric = {score.metric: score for score in report.scores}
    assert by_metric["acc,none"].value == 1
    assert by_metric["acc,none"].questions == 20
    assert by_metric["acc,none"].interval is not None


def test_a_server_without_log_probabilities(
    choices: Callable[[Sequence[int]], list[float]],
) -> None:
    with StandIn(wrong) as server:
        with pytest.raises(UsageError, match=r"choices: .* add --tokenizer PATH"):
            evaluate(server.url, ["choices"])
        with pytest.raises(RefusedError, match=r"none of a prompt's tokens .*echo is not"):
            evaluate(server.url, ["choices"], tokenizer=TINY)


def test_data_that_cannot_be_fetched(tasks: Path) -> None:
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    shutil.copy(Path(spec.origin).parent / "tasks" / "gsm8k" / "gsm8k.yaml", tasks)
    with (
        StandIn(wrong) as server,
        pytest.raises(BadInputError, match=r"gsm8k: its data \(openai/gsm8k\) .*HF_HUB_OFFLINE is"),
    ):
        evaluate(server.url, ["gsm8k"])
    assert not server.bodies, "nothing was asked"


def test_servers_that_cannot_be_evaluated(right_answers: dict[str, str]) -> None:
    with StandIn(right_answers.get) as server:
        with pytest.raises(BadInputError, match="has no model 'huge'; it has tiny"):
            evaluate(server.url, TASK, model="huge")
        with pytest.raises(UsageError, match="--protocol 'soap'"):
            evaluate(server.url, TASK, protocol="soap")
        with pytest.raises(BadInputError, match="its directory does not exist"):
            evaluate(server.url, TASK, out=Path("/nowhere/answers.jsonl"))
    with pytest.raises(BadInputError, match="no server answers"):
        evaluate(server.url, TASK)
    with pytest.raises(RefusedError, match="--yes-this-is-mine if the server is yours to send an"):
        evaluate("http://8.8.8.8/v1", TASK)
    with pytest.raises(RefusedError, match="link-local"):
        evaluate("http://169.254.169.254", TASK, yours=True)
