"""`evaluate`: benchmarks a served model, or a bundle that is served here for the run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..core.bundle import Bundle
from ..core.errors import BadInputError, UsageError
from ..core.extras import require
from ..core.files import digest_of, locked, resumable
from ..core.progress import Progress, Silent
from ..core.result import Result
from ..evaluation.endpoint import Endpoint
from ..evaluation.journal import Journal
from ..evaluation.published import PUBLISHED, Settings, family_name
from ..evaluation.report import EvaluationReport, Reference, Score, read_references, scores
from ..evaluation.requirements import (
    Requirements,
    require_generated,
    require_supported,
    requirements,
)
from ..runtime.startup_check import cache_directory
from .evaluation_target import EvaluationTarget, require_log_probabilities
from .loadtest_work import LoadedTokenizer
from .model_card import EVALUATION, show_evaluations

if TYPE_CHECKING:
    from ..evaluation.harness import LoadedTasks

RULER_TOKENS: Final = (4096,)
"""Lengths of RULER's texts where none are given."""


class _Document(EvaluationReport):
    """A report, and where it was kept."""

    kept: str | None


@dataclass(frozen=True, slots=True)
class EvaluateResult(Result):
    """A report, and the file in the bundle that keeps it (None for a server that is no bundle of
    this machine)."""

    SCHEMA: ClassVar[int] = EvaluationReport.SCHEMA
    DOCUMENT: ClassVar[type | None] = _Document

    report: EvaluationReport
    kept: Path | None

    def to_json(self) -> dict[str, Any]:
        """The report's document and `kept`."""
        return self.report.to_json() | {"kept": str(self.kept) if self.kept else None}


def evaluate(
    target: str | Path,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    max_tokens: int | None = None,
    thinking: bool | None = None,
    ruler_tokens: Sequence[int] = RULER_TOKENS,
    against: Sequence[Path] = (),
    protocol: str = "auto",
    model: str | None = None,
    tokenizer: Path | None = None,
    concurrency: int = 8,
    timeout: float = 600.0,
    run_generated_code: bool = False,
    yours: bool = False,
    out: Path | None = None,
    verify: str = "quick",
    trust_code: bool = False,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Benchmark a served model with EleutherAI's lm-eval.

    A bundle is served on this machine for the run, the report is kept in its `report/`, and its
    model card shows the scores. A run that was interrupted resumes: what it has answers to is not
    asked again.

    Args:
        target: A bundle's directory, or the address of an OpenAI endpoint.
        tasks: Names of lm-eval's tasks, groups and tags, and of our own `tiny_text`.
        limit: Ask only so many questions of each task. Such scores are compared with nothing.
        num_fewshot: Answered examples before each question; by default as published, else the
            task's.
        max_tokens: Longest answer; by default the task's, or what the context leaves for a model
            that reasons.
        thinking: Whether the model reasons before it answers; by default as published, else it
            does.
        ruler_tokens: Lengths of RULER's texts, in tokens.
        against: JSON reports to compare with.
        protocol: `chat`, `completions`, or `auto`: what the address says or the server answers to.
        model: The served model; by default the only one.
        tokenizer: The model's tokenizer.json or its directory; by default the bundle's.
        concurrency: Requests at the same time.
        timeout: Seconds that an answer may take.
        run_generated_code: Whether tasks may run code that the model writes.
        yours: Whether a server outside of private networks is one's own.
        out: A file for every question with its answer, one JSON object a line.
        verify: What of a bundle is hashed before its code runs: `quick` or `full`.
        trust_code: Whether code may run that this version would not write.
        progress: Receives what is being done.

    Raises `UsageError` for an unknown task or a target that is none, `RefusedError` for a task that
    is not run here and a server that is not one's own, `BadInputError` for missing packages or data
    and for a server that does not answer, and what `serve` raises for a bundle. A note on any
    failure and on an interrupt says how many answers are kept.
    """
    require("lm_eval", purpose="evaluating a model")
    progress = progress or Silent()
    if out is not None and not out.absolute().parent.is_dir():
        raise BadInputError(f"{out}: its directory does not exist")
    references = [row for path in against for row in _read_report(path)]
    place = EvaluationTarget.of(
        target, protocol, yours=yours, verify=verify, trust_code=trust_code, progress=progress
    )
    if tokenizer is None and place.bundle is not None:
        tokenizer = place.bundle.checkpoint
    words = LoadedTokenizer(tokenizer) if tokenizer is not None else None
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {"max_seq_lengths": list(ruler_tokens)}
        if words is not None:
            options["tokenizer"] = _plain_tokenizer(words, Path(folder))
        tasks_loaded, harness = _loaded(tasks, options, place, run_generated_code, progress)
    work = _Work(
        tasks_loaded,
        references,
        limit,
        Settings(num_fewshot, max_tokens=max_tokens, thinking=thinking),
        run_generated_code,
        words,
        progress,
    )
    with place.reached(model, concurrency, timeout, progress) as (endpoint, chat):
        work.require_answerable(endpoint)
        began = time.monotonic()
        answers = cache_directory() / "evaluations" / digest_of(place.name)[:16]
        identity = digest_of([harness, *place.identity(endpoint.model)])
        with resumable(answers, identity) as kept, Journal(kept.state) as journal:
            measured = tuple(work.measure(endpoint, journal, chat))
            report = EvaluationReport(
                model=endpoint.model,
                target=place.name,
                bundle=place.bundle.inputs_digest if place.bundle else None,
                harness=harness,
                protocol="chat" if chat else "completions",
                limit=limit,
                date=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                duration_s=round(time.monotonic() - began, 1),
                resumed=journal.kept,
                scores=measured,
            )
            if out is not None:
                work.write_samples(out)
            return EvaluateResult(report, _keep(place.bundle, report) if place.bundle else None)


@dataclass(slots=True)
class _Work:
    """The tasks of a run, and what all of them have in common. `changes` are the settings that the
    user chose; `samples` are lm-eval's, by task, once the questions were asked."""

    tasks: Sequence[LoadedTasks]
    references: Sequence[Reference]
    limit: int | None
    changes: Settings
    run_code: bool
    tokenizer: LoadedTokenizer | None
    progress: Progress
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def require_answerable(self, endpoint: Endpoint) -> None:
        """Raise where tasks compare log-probabilities and that cannot be done: `UsageError` without
        a tokenizer, `RefusedError` for a server that gives none."""
        compared = [row.compared[0] for row in self._rows() if row.compared]
        if compared and self.tokenizer is None:
            raise UsageError(
                f"{compared[0]}: compares the log-probabilities of given answers, for which the "
                "model's tokenizer is needed: add --tokenizer PATH"
            )
        if compared:
            require_log_probabilities(endpoint, compared[0])

    def measure(self, endpoint: Endpoint, journal: Journal, chat: bool) -> Iterator[Score]:
        """Ask all questions, those with given answers as plain text, and score the answers."""
        for compared in (False, True):
            tasks = [each for each in self.tasks if bool(each.row.compared) is compared]
            if tasks:
                yield from self._measure(tasks, endpoint, journal, chat and not compared)

    def write_samples(self, path: Path) -> None:
        """Write every question with its answer and its scores."""
        with path.open("w", encoding="utf-8") as file:
            for task, rows in self.samples.items():
                for row in rows:
                    json.dump({"task": task} | row, file, ensure_ascii=False, default=str)
                    file.write("\n")

    def _measure(
        self, tasks: Sequence[LoadedTasks], endpoint: Endpoint, journal: Journal, chat: bool
    ) -> Iterator[Score]:
        from ..evaluation.harness import run
        from ..evaluation.served_model import ServedModel

        family = family_name(endpoint.model)
        settings = {
            each.row.name: each.set_up(self._settings(family, each.row.name, chat), chat=chat)
            for each in tasks
        }
        model = ServedModel(endpoint, journal, self.progress, chat=chat, tokenizer=self.tokenizer)
        try:
            results = run(model, tasks, limit=self.limit, chat=chat, run_code=self.run_code)
        except BaseException as error:
            error.add_note(f"{model.answered:,} of {model.total:,} answers are kept.")
            raise
        self.samples |= results["samples"]
        references = [
            *(Reference.of_published(row) for row in PUBLISHED if row.model == family),
            *self.references,
        ]
        for each in tasks:
            names = [each.row.name] if each.row.name in results["results"] else each.row.tasks
            for name in names:
                yield from scores(
                    name, results, settings[each.row.name], model.cut, references, self.limit
                )

    def _settings(self, family: str, task: str, chat: bool) -> Settings:
        """As published, where it is, with what the user changes."""
        rows = [row for row in PUBLISHED if (row.model, row.task) == (family, task)]
        settings = rows[0].settings if rows else Settings(thinking=True)
        given = {name: value for name, value in asdict(self.changes).items() if value is not None}
        settings = replace(settings, **given)
        return settings if chat else replace(settings, thinking=None)

    def _rows(self) -> Iterator[Requirements]:
        return (each.row for each in self.tasks)


def _loaded(
    names: Sequence[str],
    options: Mapping[str, Any],
    place: EvaluationTarget,
    run_code: bool,
    progress: Progress,
) -> tuple[list[LoadedTasks], str]:
    """The tasks with their data, and the version of lm-eval. What is refused is so before any data
    are fetched."""
    from ..evaluation.harness import Harness

    progress.step("read lm-eval's tasks")
    harness = Harness(names, options)
    rows = requirements(names, harness.index)
    require_supported(rows, run_code=run_code)
    if place.bundle is not None:
        require_generated(
            rows, harness.index, "a bundle's endpoint gives none of a prompt's tokens"
        )
    for row in rows:
        if row.ruler and "tokenizer" not in options:
            raise UsageError(
                f"{row.ruler[0]}: makes texts of a length in tokens, for which the model's "
                "tokenizer is needed: add --tokenizer PATH"
            )
    loaded = []
    for row in rows:
        sets = [*row.data_sets, *(["what RULER's texts are made of"] if row.ruler else [])]
        fetched = f", from the Hugging Face hub unless cached: {', '.join(sets)}" if sets else ""
        progress.step(f"load {row.name}{fetched}")
        loaded.append(harness.load(row, run_code=run_code))
    return loaded, harness.version


def _plain_tokenizer(tokenizer: LoadedTokenizer, folder: Path) -> str:
    """A directory with the tokenizer and nothing else: transformers, which RULER loads it with, is
    told by RULER to trust code that lies beside it."""
    tokenizer.save(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return str(folder)


def _read_report(path: Path) -> list[Reference]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: cannot be read as JSON ({error})") from error
    return read_references(document, str(path))


def _keep(bundle: Bundle, report: EvaluationReport) -> Path:
    """Write `report` into the bundle, record it there, and show it in the model card."""
    name = f"{EVALUATION}{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.json"
    text = json.dumps(report.to_json(), indent=2) + "\n"
    with locked(bundle.path):
        opened = Bundle.open(bundle.path)
        path = opened.add_report(name, text.encode())
        show_evaluations(opened)
    return path


def names(text: str) -> tuple[str, ...]:
    """The names in a text such as `mmlu_pro,gsm8k`. Raises `UsageError`."""
    given = tuple(name.strip() for name in text.split(","))
    if not all(given) or len(set(given)) < len(given):
        raise UsageError(f"--tasks {text!r}: must be different names, for example mmlu_pro,gsm8k")
    return given


def token_counts(text: str) -> tuple[int, ...]:
    """The numbers in a text such as `4096,65536`. Raises `UsageError`."""
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise UsageError(f"--ruler-tokens {text!r}: must be whole numbers, for example 4096,65536")
    return counts
