"""`quantize`: a checkpoint in another format, in a directory of its own."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..build.plan import quant_named
from ..errors import BadInputError, UsageError
from ..files import Work, digest_of, require_space, resumable_directory, sha256, tree_bytes
from ..quantize.layouts import DEFAULT, Layout, layout_for
from ..recipe import Recipe, recipe_for
from .progress import Progress, Silent
from .quality import REPORT, brief, measure, write
from .source import resolve

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Options:
    """How to quantize. `smooth` folds activation-aware scales into INT4 experts; with `heldout`, a
    text file, the result is run beside its source whatever its size."""

    recipe: Recipe
    layout: Layout = DEFAULT
    calibration: Path | None = None
    smooth: bool = False
    device: str = "auto"
    heldout: Path | None = None

    @property
    def calibrates(self) -> bool:
        return self.recipe.activation_scales or self.smooth

    def identity(self) -> dict[str, Any]:
        """All of them that the result depends on."""
        return {
            "recipe": asdict(self.recipe) | {"roles": sorted(self.recipe.roles)},
            "layout": self.layout.key,
            "calibration": sha256(self.calibration) if self.calibration else None,
            "smooth": self.smooth,
        }


def options_for(
    quant: str,
    *,
    layout: str = DEFAULT.key,
    group_size: int | None = None,
    fp8_layers: str | None = None,
    calibration: Path | None = None,
    smooth: bool | None = None,
    device: str = "auto",
    heldout: Path | None = None,
) -> Options:
    """The options that a command line gives; `smooth` None means: wherever it does something.

    Raises `UsageError` and `RefusedError` for what does not go together, `BadInputError` for a
    calibration file or a package that is not there.
    """
    recipe = recipe_for(quant_named(quant).key, group_size, fp8_layers)
    if smooth and recipe.format != "int4":
        raise UsageError(f"--smooth is for --quant int4; {recipe.key} has no groups to protect")
    smooths = recipe.format == "int4" if smooth is None else smooth
    options = Options(recipe, layout_for(layout, recipe), calibration, smooths, device, heldout)
    if calibration is not None and not options.calibrates:
        raise UsageError(
            f"--calibration is of no use here: {recipe.key} without smoothing needs none"
        )
    for file in (calibration, heldout):
        if file is not None and not file.is_file():
            raise BadInputError(f"{file}: there is no such text file")
    _require_packages(options)
    return options


def _require_packages(options: Options) -> None:
    """Raise `BadInputError` naming a package that this work needs and that is not installed."""
    needed = ["torch"]
    if options.calibrates:
        needed += ["transformers", "safetensors"]
    if options.recipe.activation_scales:
        needed.append("modelopt")
    for name in needed:
        if find_spec(name) is None:
            plain = "; or do without calibration: --no-smooth" if options.smooth else ""
            raise BadInputError(
                f"quantizing needs the package {name}; install it with "
                f"pip install 'nemotron-deploy[quantize]'{plain if name != 'torch' else ''}"
            )


def quantize(
    checkpoint: str, options: Options, out: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Quantize `checkpoint` into the new directory `out`; gives what `quantize --json` prints.

    An interrupted run leaves what it finished beside `out`; the same call goes on from there.
    """
    opened = resolve(checkpoint).require_checkpoint()
    opened.require_complete()  # before anything heavy is imported
    inputs = digest_of([__version__, fingerprint(opened), options.identity()])
    with resumable_directory(out, inputs) as work:
        record, report = quantize_into(opened, options, work, progress or Silent())
        if report is not None:
            (work.content / REPORT).mkdir(exist_ok=True)
            write(work.content / REPORT, report)
    return {"out": str(out), **record, "quality": brief(report) if report else None}


def quantize_into(
    checkpoint: Checkpoint, options: Options, work: Work, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Quantize into the directory `work.content`, calibrating first where needed; gives the record
    and, unless nothing was quantized, the quality report.

    What an interrupted run finished in `work` is not done again.
    """
    from ..quantize.calibrate import calibrate
    from ..quantize.stream import bytes_needed
    from ..quantize.stream import quantize as stream

    recipe, layout = options.recipe, options.layout
    needed = bytes_needed(checkpoint, recipe, layout)
    require_space(work.content, needed - tree_bytes(work.content))
    measured = None
    if options.calibrates:
        advance = progress.step("calibrate", len(checkpoint.model.pattern), unit="layers")
        measured = calibrate(
            checkpoint,
            recipe,
            options.calibration,
            smooth=options.smooth,
            device=options.device,
            work=work.state,
            on_layer=advance,
        )
    advance = progress.step("quantize", checkpoint.bytes, unit="bytes")
    summary = stream(
        checkpoint,
        recipe,
        work.content,
        layout=layout,
        activation_amax=measured.amax if measured else None,
        folding=measured.folding if measured and options.smooth else None,
        state=work.state,
        on_progress=lambda done, tensor, error: advance(done, _note(tensor, error)),
    )
    record: dict[str, Any] = {**asdict(summary), "format": recipe.summary}
    del record["errors"]  # thousands of them: they are in the report
    record["readers"] = [asdict(reader) for reader in layout.readers(recipe)]
    if measured:
        record["calibration"] = measured.record()
    quantized = recipe.format != "bf16"
    report = measure(checkpoint, options, summary, measured, progress) if quantized else None
    return record, report


def _note(tensor: str, error: float) -> str:
    """What a progress bar says of the tensor at hand and the error so far."""
    short = tensor.removeprefix("backbone.").removesuffix(".weight")
    return f"{short}, error {error:.2%}" if error else short


def fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells a checkpoint from another. Shards count by header, size and time of change:
    hashing 63 GB at every run would be no quick look."""
    shards = []
    for shard in checkpoint.shards:
        status = shard.stat()
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = hashlib.sha256(file.read(length)).hexdigest()
        shards.append([shard.name, status.st_size, status.st_mtime_ns, header])
    others = [
        [path.name, sha256(path)]
        for path in sorted(checkpoint.path.iterdir())
        if path.is_file() and path.suffix in (".json", ".jinja", ".model", ".txt")
    ]
    return {"shards": shards, "files": others}
