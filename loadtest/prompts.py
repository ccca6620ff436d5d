"""What the requests of a test ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """One generation: a prompt, and how many output tokens to ask for."""

    prompt: str
    max_tokens: int


def repeated(prompts: Sequence[str], max_tokens: int) -> Iterator[Work]:
    """Work without end: `prompts` in turn, over and over."""
    while True:
        for prompt in prompts:
            yield Work(prompt, max_tokens)
