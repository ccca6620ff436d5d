"""`quantize`: writes a checkpoint in another format into a directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.errors import RefusedError
from ..core.files import REPORT, Work, digest_of, require_free, resumable_directory
from ..core.progress import Advance, Progress, Silent
from ..core.result import Result
from ..core.sizes import size_text
from ..model.catalog import DEFAULT_CHECKPOINT
from ..model.format_request import requested
from ..quantize.calibration_record import CalibrationRecord
from ..quantize.encoding import ENCODING
from ..quantize.layouts import DEFAULT, Reader, layout_for
from ..quantize.options import Options
from ..quantize.quality import QualityReport
from ..sources.checkpoint_source import Source, open_source
from ..sources.fetching import fetch_plan, weights
from .model_card import carry_card, write_card
from .preflight import require_checkpoint_needs, require_device, require_readable
from .quality import measure, write
from .quantize_options import options_for, require_one_reading

if TYPE_CHECKING:
    from ..quantize.calibrate import Calibration
    from ..quantize.job import ShardJob
    from ..quantize.stream import Summary
    from ..sources.fetching import Weights


OnFetch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What was written. Bytes are those of tensors.

    Attributes:
        recipe: The format's key, for example `int4`.
        layout: How the files are laid out.
        format: Which tensors have which format, in words.
        tensors: Number of quantized tensors.
        source_bytes: Before.
        written_bytes: After.
        kept_shards: Output shards that an interrupted run had finished.
        readers: Engines that read the result.
        source: Repository, commit and hashes of what came from the hub, None for local files.
        calibration: The text that was used, and what it reached; None without calibration.
    """

    recipe: str
    layout: str
    format: str
    tensors: int
    source_bytes: int
    written_bytes: int
    kept_shards: int
    readers: tuple[Reader, ...]
    source: dict[str, Any] | None
    calibration: CalibrationRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeResult(Quantized, Result):
    """A quantized checkpoint in the directory `out`. `quality` is the report that lies beside it,
    None where nothing was quantized (BF16). `warnings` are sentences about the source."""

    SCHEMA: ClassVar[int] = 1

    out: Path
    quality: QualityReport | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The document. The report is in it without the errors of single tensors."""
        document = Result.to_json(self)
        return document | {"quality": self.quality.brief() if self.quality else None}


def quantize(
    checkpoint: str = DEFAULT_CHECKPOINT,
    *,
    quant: str,
    out: str | Path,
    layout: str = DEFAULT.key,
    group_size: int | None = None,
    recipe: str | None = None,
    calibration: str | Path | None = None,
    smooth: bool | None = None,
    heldout: str | Path | None = None,
    device: str = "auto",
    low_disk: bool = False,
    on_fetch: OnFetch | None = None,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Quantize `checkpoint` into the new directory `out`.

    An interrupted run leaves what it finished beside `out`; the same call resumes it.

    Args:
        checkpoint: `tiny`, a local directory, or a repository of the hub.
        quant: The format: `bf16`, `fp8`, `int8`, `int4` or `nvfp4`.
        out: The directory to write; it must not hold anything.
        layout: `modelopt`, or `compressed-tensors` (INT4 and INT8 for vLLM).
        group_size: Weights that share a scale, for INT4 and INT8; 0 for whole rows of INT8.
        recipe: `published`, `conservative`, `aggressive` or a YAML file; by default the one that
            was published for the model, else `conservative`.
        calibration: A text file to calibrate with instead of the built-in text.
        smooth: Whether to smooth INT4 experts; by default where it does something.
        heldout: A text file on which the result is compared with its source.
        device: `cpu`, `cuda` or `auto`, for calibrating.
        low_disk: Whether to delete each downloaded shard once its output is written.
        on_fetch: Called with what will be downloaded (see `fetching.fetch_plan`) before it is.
        progress: Receives what is being done.

    Raises `UsageError` and `RefusedError` for options that are unknown or do not go together,
    `BadInputError` for files, tensors, packages and disks that cannot be used.
    """
    wanted = requested(quant, recipe, group_size)
    layout_for(layout, wanted.least)
    texts = [None if file is None else Path(file) for file in (calibration, heldout)]
    if low_disk:
        require_one_reading(wanted.least, smooth, texts[1])
    require_readable(*texts)
    require_device(device)
    require_free(Path(out))
    source = open_source(checkpoint)
    source.opened.require_unquantized()
    options = options_for(
        wanted.for_model(source.model).recipe,
        layout=layout,
        calibration=texts[0],
        smooth=smooth,
        device=device,
        heldout=texts[1],
        low_disk=low_disk,
    )
    return quantize_source(source, options, Path(out), progress, on_fetch)


def quantize_source(
    checkpoint: str | Source,
    options: Options,
    out: Path,
    progress: Progress | None = None,
    on_fetch: OnFetch | None = None,
) -> QuantizeResult:
    """As `quantize`, with options that are checked already."""
    require_free(out)
    source = checkpoint if isinstance(checkpoint, Source) else open_source(checkpoint)
    source.opened.require_unquantized()  # before anything heavy is imported
    require_low_disk_source(source, options)
    fetch = fetch_plan(source, options, out)  # before small files are fetched to check them
    warnings = require_checkpoint_needs(source, options, out)
    if fetch is not None and on_fetch is not None:
        on_fetch(fetch)
    inputs = digest_of([ENCODING, source.fingerprint(), options.identity()])
    with resumable_directory(out, inputs) as work:
        quantized, report = quantize_into(source, options, work, progress or Silent())
        if report is not None:
            (work.content / REPORT).mkdir(exist_ok=True)
            write(work.content / REPORT, report)
    written = {row.name: getattr(quantized, row.name) for row in fields(quantized)}
    return QuantizeResult(**written, out=out, quality=report, warnings=warnings)


def require_low_disk_source(source: Source, options: Options) -> None:
    """Raise `RefusedError` for `--low-disk` with shards that are the user's own."""
    if options.low_disk and source.snapshot is None:
        raise RefusedError(
            f"--low-disk with {source.asked} (rule: low-disk): its files are local, and local "
            "files are never deleted. What works instead: leave --low-disk out, or name a "
            "repository of the hub, owner/name[@revision]"
        )


def quantize_into(
    source: Source, options: Options, work: Work, progress: Progress
) -> tuple[Quantized, QualityReport | None]:
    """Quantize into the directory `work.content`, fetching and calibrating first where needed, or
    take a quantized checkpoint over.

    Gives what was written and, unless nothing was quantized, the quality report. What an
    interrupted run finished in `work` is not done again.
    """
    recipe, layout = options.recipe, options.layout
    shown = _ShownProgress()
    with weights(source, options, work, progress, shown.arrived) as here:
        measured = _calibrated(here, options, work, progress)
        doing = "take over" if options.taken_over else "quantize"
        shown.advance = progress.step(doing, here.checkpoint.bytes, unit="bytes")
        shown.to_fetch = here.to_fetch
        summary = _stream(source, here, options, measured, work, shown)
    quantized = Quantized(
        recipe=summary.recipe,
        layout=summary.layout,
        format=recipe.summary,
        tensors=summary.tensors,
        source_bytes=summary.source_bytes,
        written_bytes=summary.written_bytes,
        kept_shards=summary.kept_shards,
        readers=layout.readers(recipe),
        source=source.snapshot.record(computed=True) if source.snapshot else None,
        calibration=measured.record() if measured else None,
    )
    if options.taken_over:
        carry_card(work.content, source)
        return quantized, None
    report = None
    if recipe.choices:
        asked = None if here.passing else source.asked
        report = measure(here.checkpoint, asked, options, summary, measured, progress)
    write_card(work.content, source, quantized, report)
    return quantized, report


def _calibrated(
    here: Weights, options: Options, work: Work, progress: Progress
) -> Calibration | None:
    if not options.calibrates:
        return None
    from ..quantize.calibrate import calibrate

    return calibrate(
        here.checkpoint,
        options.recipe,
        options.calibration,
        smooth=options.smooth,
        device=options.device,
        work=work.state,
        on_layer=progress.step("calibrate", len(here.checkpoint.model.pattern), unit="layers"),
    )


def _stream(
    source: Source,
    here: Weights,
    options: Options,
    measured: Calibration | None,
    work: Work,
    shown: _ShownProgress,
) -> Summary:
    from ..quantize.job import prepare
    from ..quantize.stream import run
    from ..quantize.takeover import takeover

    if options.taken_over:
        job: ShardJob = takeover(here.checkpoint, options.layout)
    else:
        job = prepare(
            here.checkpoint,
            options.recipe,
            options.layout,
            measured.amax if measured else None,
            measured.folding if measured and options.smooth else None,
        )
    return run(
        job,
        work.content,
        state=work.state,
        shard_source=here.hold,
        verify_sha256=source.shard_sha256,
        on_progress=shown.encoded,
    )


class _ShownProgress:
    """Progress of encoding and, where it goes on at the same time, of fetching, as one."""

    def __init__(self) -> None:
        self.advance: Advance = lambda done, note="", /: None
        self.to_fetch = 0
        self._done = self._fetched = 0
        self._note = ""

    def arrived(self, count: int) -> None:
        """Add `count` bytes that were downloaded; a negative count takes lost ones off."""
        self._fetched += count
        self._show()

    def encoded(self, done: int, tensor: str, error: float) -> None:
        """Note that `done` source bytes are encoded, the last of them those of `tensor`."""
        self._done, self._note = done, _note(tensor, error)
        self._show()

    def _show(self) -> None:
        note = self._note
        if self.to_fetch:
            note = f"downloaded {size_text(self._fetched)} of {size_text(self.to_fetch)}  {note}"
        self.advance(self._done, note)


def _note(tensor: str, error: float) -> str:
    """The present tensor and the error so far, for a progress bar."""
    short = tensor.removeprefix("backbone.").removesuffix(".weight")
    return f"{short}, error {error:.2%}" if error else short
