"""What people read of results."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from nemotron_deploy.api.build_result import BuildResult, BuildStep, DryRunResult
from nemotron_deploy.api.verify import VerifyResult
from nemotron_deploy.core.checks import Check
from nemotron_deploy.model.spec import Concession
from nemotron_deploy.views import results as views

GOOD = Check("digests", True, "12 files, 34 bytes")
BAD = Check("complete", False, "build again")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200, highlight=False)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_heading_says_verified_when_every_check_passed(console: Console) -> None:
    views.checks(console, VerifyResult(Path("b"), True, (GOOD, GOOD)))
    assert "Verified" in shown(console)


def test_the_heading_counts_the_checks_that_failed(console: Console) -> None:
    views.checks(console, VerifyResult(Path("b"), False, (GOOD, BAD, GOOD)))
    assert "Verified" not in shown(console)
    assert "1 of 3 checks failed" in shown(console)
    assert "build again" in shown(console)


def test_a_dry_run_says_why_a_stage_is_made(console: Console) -> None:
    steps = (
        BuildStep("checkpoint", "keep", "1.00 GB of tensors", None),
        BuildStep("k8s", "make", "kustomize tree", "the code that makes it has changed"),
    )
    views.dry_run(console, DryRunResult(Path("b"), steps, None, ("no end token",)))
    assert "no end token" in shown(console)
    assert "the code that makes it has changed" in shown(console)


def test_a_dry_run_says_what_the_server_gives_up(console: Console) -> None:
    smaller = Concession("max_num_tokens", "8192", "2048", "prompts take longer")
    views.dry_run(console, DryRunResult(Path("b"), (), None, (), (smaller,)))
    assert "max_num_tokens 8192 → 2048: prompts take longer" in shown(console)


def test_a_build_names_its_calibration_and_warns_when_it_is_thin(console: Console) -> None:
    result = BuildResult(
        bundle=Path("b"),
        name="b",
        model_name="m",
        made=("checkpoint",),
        kept=(),
        files=1,
        bytes=1,
        checkpoint_bytes=1,
        backend="trtllm",
        needs=(),
        reasons=(),
        calibration="ours.jsonl (1 empty row skipped)",
        thin="3 of 8 experts received fewer than 32 tokens",
        warnings=("no generation_config.json",),
    )
    views.built(console, result)
    assert "ours.jsonl (1 empty row skipped)" in shown(console)
    assert "thin: 3 of 8 experts received fewer than 32 tokens" in shown(console)
