"""Quality reports: the one beside a quantized checkpoint, and those of `quantize --compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..core.extras import require
from ..core.files import new_directory, require_free
from ..core.html import today
from ..core.progress import Progress, Silent
from ..core.sizes import size_text
from ..model.tokenizer import TOKENIZER_NAME
from ..quantize.layouts import DEFAULT, Layout, weights_bytes
from ..quantize.quality import FormatQuality, Heldout, QualityReport, format_entry
from ..quantize.quality import report as quality_report
from ..quantize.texts import read_sequences
from ..quantize.variants import named
from ..sources.checkpoint_source import open_source
from ..sources.fetching import fetched
from .preflight import available_memory, require_device, require_readable, require_text

if TYPE_CHECKING:
    from ..model.checkpoint import Checkpoint
    from ..model.recipe import Recipe
    from ..quantize.calibrate import Calibration
    from ..quantize.fidelity import Comparison, Fidelity, Stored, Variant
    from ..quantize.options import Options
    from ..quantize.stream import Summary

JSON_NAME: Final = "quality.json"
PAGE_NAME: Final = "quality.html"

RUN_BELOW: Final = 1_000_000_000
"""Parameters up to which a quantized model is run beside its source without being asked to."""


def compare(
    checkpoint: str,
    formats: str,
    *,
    out: Path | None = None,
    calibration: Path | None = None,
    heldout: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> QualityReport:
    """Compare the `formats` (see `quantize.variants.named`) of `checkpoint` with it.

    With `out` the report and its page are written into that new directory. Source and variants run
    layer by layer where memory allows, whatever the model's size; where it does not, the report
    holds the errors of the weights and says what is missing.

    Raises `UsageError` for an unknown format, `BadInputError` for a checkpoint or a text that
    cannot be used and for an `out` that already holds something.
    """
    progress, asked = progress or Silent(), named(formats)
    require_device(device)
    require_readable(calibration, heldout)
    if out is not None:
        require_free(out)
    require("torch", "transformers", "safetensors", purpose="comparing formats")
    from ..quantize.calibrate import calibrate
    from ..quantize.fidelity import Stored

    source = open_source(checkpoint)
    source.opened.require_unquantized()
    variants = [variant.for_model(source.model) for variant in asked]
    require_text(source, (calibration, heldout), "measuring quality (--compare)")
    opened = fetched(source, progress).opened
    calibrations = [
        calibrate(
            opened,
            variant.recipe,
            calibration,
            smooth=variant.smooth,
            device=device,
            on_layer=progress.step(f"calibrate {variant.key}", len(opened.model.pattern), "layers"),
        )
        if variant.calibrates
        else None
        for variant in variants
    ]
    stored = [
        Stored(variant_of(variant.key, variant.recipe, DEFAULT, measured), opened)
        for variant, measured in zip(variants, calibrations, strict=True)
    ]
    run = _Run(opened, heldout, device, progress)
    if run.fits(len(stored)):
        run.compare(stored)
    else:
        _weights_only(opened, stored, progress)
    entries = [
        _entry(
            row.variant.key,
            row.variant.recipe,
            weights_bytes(DEFAULT, row.variant.recipe, opened.model),
            row.errors,
            measured,
            run.result(index),
        )
        for index, (row, measured) in enumerate(zip(stored, calibrations, strict=True))
    ]
    report = quality_report(opened, entries, run.compared, run.heldout, run.missing)
    if out is not None:
        with new_directory(out) as work:
            write(work, report)
    return report


def measure(
    checkpoint: Checkpoint,
    asked: str | None,
    options: Options,
    summary: Summary,
    measured: Calibration | None,
    progress: Progress,
) -> QualityReport:
    """The report on what `stream.quantize` wrote; large models are run on request only.

    `asked` is how `--checkpoint` named the source, or None when its weights were deleted.
    """
    from ..quantize.fidelity import Stored

    recipe = options.recipe
    run = _Run(checkpoint, options.heldout, options.device, progress)
    if asked is None:
        run.missing = _DELETED
    elif not (checkpoint.path / TOKENIZER_NAME).is_file():
        run.missing = _NO_TOKENIZER
    elif options.heldout or checkpoint.model.parameters_total <= RUN_BELOW:
        if run.fits(1):
            run.compare(
                [Stored(variant_of(recipe.key, recipe, options.layout, measured), checkpoint)]
            )
    else:
        run.missing = _not_run(asked, recipe.key)
    entry = _entry(
        recipe.key, recipe, summary.written_bytes, summary.errors, measured, run.result(0)
    )
    return quality_report(checkpoint, [entry], run.compared, run.heldout, run.missing)


def _entry(
    key: str,
    recipe: Recipe,
    written_bytes: int,
    errors: Mapping[str, float],
    measured: Calibration | None,
    fidelity: Fidelity | None,
) -> FormatQuality:
    calibration = measured.record() if measured else None
    return format_entry(key, recipe, written_bytes, errors, calibration, fidelity)


def write(directory: Path, report: QualityReport) -> None:
    """Write the report and its page into the existing `directory`."""
    for name, content in files(report).items():
        (directory / name).write_bytes(content)


def files(report: QualityReport) -> dict[str, bytes]:
    """The report and its page, by file name."""
    from ..quantize.quality_page import quality_page

    document = report.to_json()
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    return {JSON_NAME: text.encode(), PAGE_NAME: quality_page(document, today()).encode()}


class _Run:
    """Running variants beside their source, if that is possible here."""

    def __init__(
        self, checkpoint: Checkpoint, file: Path | None, device: str, progress: Progress
    ) -> None:
        self._checkpoint, self._file = checkpoint, file
        self._device, self._progress = device, progress
        self.compared: Comparison | None = None
        self.heldout: Heldout | None = None
        self.missing: str | None = None

    @cached_property
    def _text(self) -> tuple[str, list[list[int]]]:
        return read_sequences(self._checkpoint, self._file, "heldout")

    def fits(self, variants: int) -> bool:
        """Whether memory allows; `missing` says so where it does not."""
        from ..quantize.fidelity import memory_needed

        tokens = sum(map(len, self._text[1]))
        needed, available = (
            memory_needed(self._checkpoint.model, variants, tokens),
            available_memory(),
        )
        if needed <= available:
            return True
        self.missing = (
            "Perplexity, divergence and agreement are missing: running this model layer by layer "
            f"takes {size_text(needed, 0)} of memory and {size_text(available, 0)} are free here. "
            "On a larger machine, nemo-deploy quantize --compare measures them."
        )
        return False

    def compare(self, stored: Sequence[Stored]) -> None:
        """Run them."""
        from ..quantize.calibrate import device_named
        from ..quantize.fidelity import compare

        source, sequences = self._text
        advance = self._progress.step("compare", len(self._checkpoint.model.pattern), "layers")
        self.compared = compare(
            self._checkpoint,
            stored,
            sequences,
            device=device_named(self._device),
            on_layer=advance,
        )
        self.heldout = Heldout(source, len(sequences), self.compared.tokens)

    def result(self, index: int) -> Fidelity | None:
        """What was measured of one variant, if it was run."""
        return self.compared.results[index] if self.compared else None


def variant_of(key: str, recipe: Recipe, layout: Layout, measured: Calibration | None) -> Variant:
    """A format with what calibration measured for it."""
    from ..quantize.fidelity import Variant
    from ..quantize.smooth import Folding

    amax, folding = (measured.amax, measured.folding) if measured else ({}, Folding())
    return Variant(key, recipe, layout, amax, folding)


def _weights_only(checkpoint: Checkpoint, stored: Sequence[Stored], progress: Progress) -> None:
    """Measure the errors of the weights alone, one tensor in memory at a time."""
    advance, done = progress.step("measure weights", checkpoint.bytes, "bytes"), 0
    for name, info in checkpoint.tensors.items():
        for row in stored:
            if name in row.quantized:
                row.read(name)
        done += info.bytes
        advance(done)


_DELETED: Final = (
    "Perplexity, divergence and agreement are missing: --low-disk deletes the source's weights, "
    "with which the quantized model would be compared. On a larger disk, nemo-deploy quantize "
    "--compare measures them."
)


_NO_TOKENIZER: Final = (
    "Perplexity, divergence and agreement are missing: the checkpoint has no tokenizer.json, "
    "without which no text can be run."
)


def _not_run(asked: str, key: str) -> str:
    return (
        "Perplexity, divergence and agreement are missing: models of over "
        f"{RUN_BELOW / 1e9:.0f} billion parameters are run on request only. nemo-deploy quantize "
        f"--compare {key} --checkpoint {asked} measures them layer by layer; "
        "--heldout FILE measures them on your own text."
    )
