"""Reports of load tests that were saved to files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_type_hints

from ..core.errors import BadInputError
from ..core.migrations import Document, Migration, migrated
from ..runtime.untrusted import MAX_JSON_BYTES, parse_json
from .documents import LoadTestDocument, RunDocument, SummaryDocument
from .statistics import PERCENTILES, STATISTICS


def _with_last_tokens(document: Document) -> Document:
    """Schema 2: `e2e_ms` ends with the last text; that to the end of the stream is `stream_ms`."""
    runs = [{**run, "stream_ms": run.get("e2e_ms")} for run in document.get("runs", ())]
    return {**document, "runs": runs}


_NO_SUMMARY: Final[Document] = {
    **dict.fromkeys(STATISTICS),
    "samples": 0,
    "intervals": dict.fromkeys(PERCENTILES),
}
_SUMMARIES: Final = tuple(
    name for name, hint in get_type_hints(RunDocument).items() if hint is SummaryDocument
)
_OF_OLD_RUNS: Final[Document] = {
    "retries": 0,
    "output_tokens": 0,
    "prompt_tokens": None,
    "token_counting": None,
    "short_outputs": {"count": 0, "share": 0.0},
    "steady_s": None,
    "offered_per_s": None,
    "attainment": None,
    "throughput": [],
    "error_kinds": {},
    "error_messages": {},
    "complete": True,
    "valid": True,
    "invalid_because": [],
    "client": {"cpu_cores": None, "machine_busy": None, "load_average": None},
    "timeline": None,
    "distributions_ms": {},
    "aiperf": None,
    "until": None,
    "observed": None,
}
_OF_OLD_REPORTS: Final[Document] = {
    "token_counting": None,
    "seed": None,
    "started_at": None,
    "settings": None,
    "aborted": None,
    "interrupted": False,
    "max_errors": 1.0,
    "problems": [],
}
_OF_OLD_OBJECTIVES: Final[Document] = {
    "objectives": [],
    "met": None,
    "best": None,
    "search": None,
    "levels": [],
}


def _with_charts(document: Document) -> Document:
    """Schema 3: what charts are made from. Earlier reports lack it, and the earliest of them some
    figures, too."""
    runs = [_with_all_figures(run) for run in document.get("runs", ())]
    objectives = {**_OF_OLD_OBJECTIVES, **(document.get("slo") or {})}
    return {**_OF_OLD_REPORTS, **document, "runs": runs, "slo": objectives}


def _with_all_figures(run: Document) -> Document:
    summaries = {name: {**_NO_SUMMARY, **(run.get(name) or {})} for name in _SUMMARIES}
    requests, errors = run.get("requests", 0), run.get("errors", 0)
    known = {"measured": requests - errors, "goodput": run.get("requests_per_s")}
    return {**_OF_OLD_RUNS, **known, **run, **summaries}


MIGRATIONS: Final[tuple[Migration, ...]] = (_with_last_tokens, _with_charts)
"""Reports that do not say their schema have the first."""


def read_report(path: Path) -> Document:
    """The document of a load test that was saved to `path`, in the present schema.

    Raises `BadInputError` for a file that is no JSON object, or of a newer version, `OSError` for
    one that cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise _unusable(path, f"it is larger than {MAX_JSON_BYTES} bytes")
    try:
        document = parse_json(data)
    except ValueError as error:
        raise _unusable(path, error) from error
    if not isinstance(document, dict):
        raise _unusable(path, "it contains no JSON object")
    try:
        return migrated(document, path, MIGRATIONS)
    except (AttributeError, TypeError, ValueError) as error:
        raise _unusable(path, error) from error


def read_whole_report(path: Path) -> Document:
    """Like `read_report`, but `typed` accepts the document, and a file that cannot be read raises
    `BadInputError`, too."""
    try:
        document = read_report(path)
        typed(document)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise _unusable(path, error) from error
    return document


def typed(document: Mapping[str, Any]) -> LoadTestDocument:
    """`document`, which may come from a file, with the type of every value checked.

    Raises `ValueError` for a value that is missing or of another type.
    """
    import msgspec  # takes a while to import

    return msgspec.json.decode(json.dumps(document), type=LoadTestDocument)


def _unusable(path: Path, problem: object) -> BadInputError:
    return BadInputError(
        f"{path}: cannot be used as a report of nemo-deploy loadtest --json: {problem}"
    )
