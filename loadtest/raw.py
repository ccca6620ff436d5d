"""The samples themselves, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..core.errors import BadInputError
from .config import Level
from .metrics import Window
from .sample import CountTokens, Sample, count

SCHEMA: Final = 1
"""Of every line."""


class RawFile:
    """A file that receives every sample; a context manager that closes it.

    Raises `BadInputError` if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise BadInputError(f"{path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(
        self,
        run: int,
        level: Level,
        samples: Iterable[Sample],
        steady: Window | None,
        tokenizer: CountTokens | None,
    ) -> None:
        """Append the samples of the `run`-th level."""
        for sample in samples:
            measured = sample.failure is None and (steady is None or steady.holds(sample.due))
            line = {"schema": SCHEMA, "run": run, **_load(level), "measured": measured}
            self._file.write(json.dumps(line | _document(sample, tokenizer)) + "\n")
        self._file.flush()


def _load(level: Level) -> dict[str, Any]:
    load = {"concurrency": level.concurrency, "rate": level.rate}
    return {name: value for name, value in load.items() if value is not None}


def _document(sample: Sample, tokenizer: CountTokens | None) -> dict[str, Any]:
    """All times in seconds after the level's start, but `waits_s`, which are durations."""

    def absolute(after_due: float | None) -> float | None:
        return None if after_due is None else round(sample.due + after_due, 6)

    tokens = count(sample, tokenizer)
    return {
        "id": sample.request_id,
        "intended_s": absolute(0.0),
        "sent_s": absolute(sample.sent),
        "first_byte_s": absolute(sample.first_byte),
        "first_content_s": absolute(sample.content),
        "arrivals_s": [absolute(at) for at in sample.arrivals],
        "arrival_tokens": tokens.of_responses,
        "waits_s": [round(wait, 6) for wait in sample.waits],
        "ended_s": absolute(sample.ended),
        "queue_s": sample.queue,
        "output_tokens": tokens.total,
        "token_counting": tokens.counting,
        "prompt_tokens": sample.prompt_tokens,
        "max_tokens": sample.asked,
        "retries": sample.retries,
        "error_kind": sample.failure.kind if sample.failure else None,
        "error": sample.failure.message if sample.failure else None,
    }
