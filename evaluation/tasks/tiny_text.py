"""The data of the task `tiny_text`. lm-eval loads this file by its path."""

from __future__ import annotations

from typing import Any, Final

from datasets import Dataset

from nemotron_deploy.model.catalog.text import prompts

QUESTIONS: Final = 128
_SEED: Final = 128
"""A seed of its own: no other questions of the project are drawn with it."""


def data(**_: Any) -> dict[str, Any]:
    """The held-out questions and their answers, always the same."""
    drawn = prompts(_SEED, QUESTIONS)
    rows = [{"question": prompt.question, "answer": prompt.answer} for prompt in drawn]
    return {"test": Dataset.from_list(rows)}
