"""The data of the task `tiny_text`. lm-eval loads this file by its path."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from datasets import Dataset

from nemotron_deploy.model.catalog.text import prompts

QUESTIONS: Final = 128
_SEED: Final = 128
"""A seed of its own: no other questions of the project are drawn with it."""


def answers() -> dict[str, str]:
    """The answer to each of the held-out questions, always the same and none of them twice."""
    drawn = {prompt.question: prompt.answer for prompt in prompts(_SEED, 2 * QUESTIONS)}
    return dict(islice(drawn.items(), QUESTIONS))


def data(**_: Any) -> dict[str, Any]:
    """The questions as lm-eval takes them."""
    rows = [{"question": question, "answer": answer} for question, answer in answers().items()]
    return {"test": Dataset.from_list(rows)}
