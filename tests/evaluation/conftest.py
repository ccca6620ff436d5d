"""Fixtures of evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def right_answers() -> dict[str, str]:
    """The right answer to each question of `tiny_text`."""
    pytest.importorskip("lm_eval", reason="the extra `evaluate` is not installed")
    from nemotron_deploy.evaluation.tasks.tiny_text import answers

    return answers()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No answer of one test is kept for another."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NEMO_DEPLOY_CACHE", str(folder))
    return folder
