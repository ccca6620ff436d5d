"""A bundle of `tiny` is evaluated by the real lm-eval, behind the real tritonserver."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.api.evaluate import evaluate
from nemotron_deploy.api.model_card import show_evaluations
from nemotron_deploy.api.verify import verify
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.errors import RefusedError
from nemotron_deploy.evaluation import harness
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.tests.api.test_public import fits
from nemotron_deploy.tests.evaluation.stand_in import StandIn
from nemotron_deploy.triton_repo import local

pytest.importorskip("lm_eval", reason="the extra `evaluate` is not installed")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

DEADLINE_S = 300


@pytest.fixture
def bundle(
    built_copy: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("NEMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    return built_copy("int4")


def test_a_bundle_keeps_its_evaluation_and_shows_it(bundle: Path) -> None:
    deployed = Bundle.open(bundle).files_digest
    result = evaluate(bundle, ["tiny_text"])
    (score,) = result.report.scores
    assert 0.65 < score.value < 0.9, "what the checkpoint learned"
    assert score.settings.thinking is False
    (comparison,) = score.comparisons
    assert (comparison.of, comparison.verdict) == ("tiny bf16", "within noise")
    assert result.kept is not None
    fits(result, "evaluate-result.json")
    kept = json.loads(result.kept.read_text())
    assert kept == json.loads(json.dumps(result.report.to_json()))
    assert kept["bundle"] == Bundle.open(bundle).inputs_digest
    card = (bundle / "checkpoint" / "README.md").read_text()
    assert f"| tiny_text | exact_match, none | {100 * score.value:.2f} % |" in card
    show_evaluations(Bundle.open(bundle))
    assert (bundle / "checkpoint" / "README.md").read_text() == card
    part = replace(result.report, limit=3, scores=())
    Bundle.open(bundle).add_report("evaluation-3.json", json.dumps(part.to_json()).encode())
    show_evaluations(Bundle.open(bundle))
    assert (bundle / "checkpoint" / "README.md").read_text() == card, "a part is not shown"
    assert verify(bundle).ok
    assert Bundle.open(bundle).files_digest == deployed, "what is deployed is the same"


def test_a_bundle_without_what_a_task_needs_is_refused_at_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "OWN_TASKS", tmp_path)
    lines = ["task: choices", "dataset_path: nobody/nothing", "output_type: multiple_choice"]
    (tmp_path / "choices.yaml").write_text("\n".join(lines))
    with pytest.raises(RefusedError, match=r"choices: .*a bundle's endpoint gives none"):
        evaluate(bundle, ["choices"])


def test_a_broken_model_scores_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights, except that each token has the embedding of another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("NEMO_DEPLOY_CACHE", str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model: Any = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)

    def answer(question: str) -> str:
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        inputs = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        return str(tokenizer.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))

    with StandIn(answer) as server, torch.inference_mode():
        (whole,) = evaluate(server.url, ["tiny_text"], limit=24, concurrency=1).report.scores
        embeddings = model.get_input_embeddings().weight
        embeddings.copy_(embeddings.roll(7, 0))
        (broken,) = evaluate(server.url, ["tiny_text"], limit=24, concurrency=1).report.scores
    assert whole.value > 0.6
    assert broken.value < 0.2
    assert whole.interval is not None
    assert broken.interval is not None
    assert broken.interval.high < whole.interval.low


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["/nowhere", "--tasks", "tiny_text"],
            2,
            "is neither a bundle's directory nor the address",
        ),
        (["grpc://127.0.0.1:8001", "--tasks", "tiny_text"], 2, "the address of an OpenAI endpoint"),
        ([str(Path(__file__).parent), "--tasks", "tiny_text"], 4, "no bundle here"),
        (["http://127.0.0.1:9", "--tasks", "tiny_text"], 4, "no server answers"),
        (["http://127.0.0.1:9", "--tasks", "tiny_text,"], 2, "must be different names"),
        (["http://127.0.0.1:9", "--tasks", "tiny_text", "--ruler-tokens", "x"], 2, "whole numbers"),
        (["http://8.8.8.8", "--tasks", "tiny_text"], 3, "--yes-this-is-mine"),
    ],
)
def test_what_cannot_be_evaluated(
    capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    from nemotron_deploy.cli import run

    assert run(["evaluate", *arguments]) == code
    assert message in capfd.readouterr().err


def test_the_help_imports_nothing_of_it() -> None:
    program = (
        "import sys; from nemotron_deploy.cli import run; run(['evaluate', '--help']); "
        "sys.exit(bool({'lm_eval', 'datasets', 'httpx', 'torch'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE_S)
