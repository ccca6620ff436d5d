"""`quantize`: a checkpoint in another format, in a directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..core.bundle import REPORT
from ..core.errors import RefusedError
from ..core.files import Work, digest_of, require_free, resumable_directory
from ..core.progress import Advance, Progress, Silent
from ..quantize.options import Options
from ..sources.checkpoint_source import Source, open_source
from ..sources.fetching import fetch_plan, weights
from .preflight import require_text
from .quality import brief, measure, write

if TYPE_CHECKING:
    from ..quantize.calibrate import Calibration
    from ..quantize.stream import Summary
    from ..sources.fetching import Weights


def quantize(
    checkpoint: str | Source,
    options: Options,
    out: Path,
    progress: Progress | None = None,
    on_fetch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Quantize `checkpoint` into the new directory `out`; gives what `quantize --json` prints.

    An interrupted run leaves what it finished beside `out`; the same call goes on from there.
    `on_fetch` is called with what will be downloaded (see `fetching.fetch_plan`) before it is.
    """
    require_free(out)
    source = checkpoint if isinstance(checkpoint, Source) else open_source(checkpoint)
    source.opened.require_complete()  # before anything heavy is imported
    require_low_disk_source(source, options)
    if options.calibrates or options.heldout:
        require_text(source, (options.calibration, options.heldout))
    fetch = fetch_plan(source, options)
    if fetch is not None and on_fetch is not None:
        on_fetch(fetch)
    inputs = digest_of([__version__, source.fingerprint(), options.identity()])
    with resumable_directory(out, inputs) as work:
        record, report = quantize_into(source, options, work, progress or Silent())
        if report is not None:
            (work.content / REPORT).mkdir(exist_ok=True)
            write(work.content / REPORT, report)
    return {"out": str(out), **record, "quality": brief(report) if report else None}


def require_low_disk_source(source: Source, options: Options) -> None:
    """Raise `RefusedError` for `--low-disk` with shards that are the user's own."""
    if options.low_disk and source.snapshot is None:
        raise RefusedError(
            f"--low-disk with {source.asked} (rule: low-disk): its files are here already and are "
            "never removed. What works instead: leave --low-disk out, or name a repository of the "
            "hub, owner/name[@revision]"
        )


def quantize_into(
    source: Source, options: Options, work: Work, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Quantize into the directory `work.content`, fetching and calibrating first where needed;
    gives the record and, unless nothing was quantized, the quality report.

    What an interrupted run finished in `work` is not done again.
    """
    recipe, layout = options.recipe, options.layout
    told = _Told()
    with weights(source, options, work, progress, told.arrived) as here:
        measured = _calibrated(here, options, work, progress)
        told.advance = progress.step("quantize", here.checkpoint.bytes, unit="bytes")
        told.to_fetch = here.to_fetch
        summary = _stream(source, here, options, measured, work, told)
    record: dict[str, Any] = {**asdict(summary), "format": recipe.summary}
    del record["errors"]  # thousands of them: they are in the report
    record["readers"] = [asdict(reader) for reader in layout.readers(recipe)]
    record["source"] = source.snapshot.record(computed=True) if source.snapshot else None
    if measured:
        record["calibration"] = measured.record()
    if recipe.format == "bf16":
        return record, None
    asked = None if here.passing else source.asked
    return record, measure(here.checkpoint, asked, options, summary, measured, progress)


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
    told: _Told,
) -> Summary:
    from ..quantize.stream import quantize as stream

    return stream(
        here.checkpoint,
        options.recipe,
        work.content,
        layout=options.layout,
        activation_amax=measured.amax if measured else None,
        folding=measured.folding if measured and options.smooth else None,
        state=work.state,
        shard_source=here.hold,
        verify_sha256=source.shard_sha256,
        on_progress=told.encoded,
    )


class _Told:
    """Progress of encoding and, where it goes on at the same time, of fetching, as one."""

    def __init__(self) -> None:
        self.advance: Advance = lambda done, note="", /: None
        self.to_fetch = 0
        self._done = self._fetched = 0
        self._note = ""

    def arrived(self, count: int) -> None:
        """So many more bytes were fetched (or were lost)."""
        self._fetched += count
        self._tell()

    def encoded(self, done: int, tensor: str, error: float) -> None:
        """`done` source bytes are encoded, last those of `tensor`."""
        self._done, self._note = done, _note(tensor, error)
        self._tell()

    def _tell(self) -> None:
        note = self._note
        if self.to_fetch:
            note = f"fetched {self._fetched / 1e9:.2f} of {self.to_fetch / 1e9:.2f} GB  {note}"
        self.advance(self._done, note)


def _note(tensor: str, error: float) -> str:
    """What a progress bar says of the tensor at hand and the error so far."""
    short = tensor.removeprefix("backbone.").removesuffix(".weight")
    return f"{short}, error {error:.2%}" if error else short
