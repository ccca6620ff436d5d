"""Answers that were received, in a file: what an interrupted run had asked is not asked again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from ..core.files import digest_of

FILE_NAME: Final = "answers.jsonl"


class Journal:
    """Answers by request, appended to a file in `directory`, one JSON object a line.

    `kept` is how many it had at first. A line that was not written to its end is dropped. A context
    manager.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._answers: dict[str, Any] = {}
        self._file: IO[str] | None = None
        complete = 0
        if self._path.is_file():
            with self._path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    row = json.loads(line)
                    self._answers[row["request"]] = row["answer"]
                    complete += len(line)
            with self._path.open("rb+") as file:
                file.truncate(complete)
        self.kept = len(self._answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, request: Mapping[str, Any]) -> Any:
        """The answer to `request`, None where there is none."""
        return self._answers.get(digest_of(request))

    def add(self, request: Mapping[str, Any], answer: Any) -> None:
        """Keep an answer, in the file too."""
        key = digest_of(request)
        self._answers[key] = answer
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._file.write(json.dumps({"request": key, "answer": answer}) + "\n")
