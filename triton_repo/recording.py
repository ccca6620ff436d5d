"""Record golden outputs of a quantized checkpoint with the reference executor, in float32.

Bounds come from the same weights in BF16, which differ as much as a healthy server may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ..runtime.golden import (
    NEW_TOKENS,
    Entry,
    Forced,
    Golden,
    Scores,
    bounds_from,
    compare,
    recorded_positions,
)

PROMPTS: Final = (
    "The capital of France is",
    "Monday, Tuesday, Wednesday, Thursday,",
    "2 + 2 = 4, 3 + 5 = 8, 7 + 6 =",
    "Water boils at a temperature of",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Once upon a time there was a small house at the edge of a forest.",
    "one two three four five six seven",
    "The opposite of hot is cold. The opposite of up is",
    "import json\n\nwith open(path) as file:\n    data =",
    "Dear Anna,\n\nthank you for your letter. We were glad to hear that",
    "SELECT name, count(*) FROM orders WHERE",
    "If all birds can fly and a penguin is a bird, then",
    "January has 31 days, February has",
    "The train leaves at nine o'clock and takes two hours, so it arrives at",
    '{"name": "Emma", "age": 31, "city":',
    "To make bread one needs flour, water, salt and",
)
"""Ordinary text of several kinds: prose, lists, sums, code. Short, because it is continued."""

RUNS: Final = 3
"""How often each prompt is run: as it is, with other scales, and in another precision."""

SCALES_OFF_BY: Final = 1.02
"""The fault whose direction is recorded (see `runtime/golden.py`)."""


def owed(tokens: Sequence[Sequence[int]], checkpoint: str, why: str) -> Golden:
    """Golden outputs that a server is still to record: `PROMPTS` and their token numbers."""
    entries = tuple(
        Entry(text, Forced(tuple(ids), ()), ()) for text, ids in zip(PROMPTS, tokens, strict=True)
    )
    return Golden(checkpoint, why, entries)


def record(
    checkpoint: Path,
    digest: str,
    on_prompt: Callable[[int], None] | None = None,
    device: str = "cpu",
) -> Golden:
    """Run `PROMPTS` on the checkpoint in that directory, `RUNS` times; `on_prompt` is told how many
    were run. `digest` tells this checkpoint from others; `device` is torch's.

    Raises `StartError` naming a file or tensor that cannot be read.
    """
    import torch
    from transformers import __version__

    from ..runtime.executors.loading import load_model
    from ..runtime.executors.reference import continuation, score

    done = 0

    def scores(model: Any, cases: list[Forced]) -> list[Scores]:
        nonlocal done
        found = []
        for case in cases:
            found.append(score(model, case))
            done += 1
            if on_prompt:
                on_prompt(done)
        return found

    model, tokenizer = load_model(checkpoint, "float32")
    model = model.to(device)
    cases = []
    for text in PROMPTS:
        prompt = tuple(tokenizer(text).input_ids)
        cases.append(Forced(prompt, continuation(model, prompt, NEW_TOKENS)))
    base = scores(model, cases)
    del model
    changed: list[str] = []

    def scales_off(tensors: dict[str, Any]) -> dict[str, Any]:
        changed.extend(name for name in tensors if name.endswith(".weight_scale"))
        return tensors | {name: tensors[name] * SCALES_OFF_BY for name in changed}

    other, _ = load_model(checkpoint, "float32", scales_off)
    scaled: list[Scores | None] = [None] * len(cases)
    if changed:
        scaled = [*scores(other.to(device), cases)]
    del other
    entries = tuple(
        Entry(text, case, recorded_positions(own, with_other))
        for text, case, own, with_other in zip(PROMPTS, cases, base, scaled, strict=True)
    )
    versions = f"torch {torch.__version__}, transformers {__version__}"
    by = f"reference executor, float32, {device} ({versions})"
    rounded = scores(load_model(checkpoint)[0].to(device), cases)
    healthy = compare(Golden(digest, by, entries), rounded)
    return Golden(digest, by, entries, bounds_from(healthy))
