"""Golden outputs of a bundle, recorded while it is built: from its weights, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..core.errors import RefusedError
from ..core.progress import Progress
from ..core.sizes import size_text
from ..model.architecture import Model
from ..model.checkpoint import Checkpoint
from ..model.recipe import Recipe
from ..model.spec import Serving
from ..quantize.golden_texts import not_recorded
from ..sources.checkpoint_source import Source
from ..sources.fetching import fetched, is_local
from .preflight import available_memory

if TYPE_CHECKING:
    from ..runtime.golden import Recording

_PACKAGES: Final = ("torch", "transformers", "safetensors")


@dataclass(frozen=True, slots=True)
class GoldenJob:
    """What golden outputs are recorded from: the quantized `checkpoint`, whose weights `digest`
    tells from others, and the `source` that `recipe` rounded. `serving` is how the server is
    configured. `work` keeps finished layers of an interrupted run. With `required`, a bundle
    without golden outputs is refused."""

    checkpoint: Path
    digest: str
    source: Source
    recipe: Recipe
    serving: Serving
    device: str
    work: Path
    required: bool


def write_golden(engine: Path, job: GoldenJob, progress: Progress) -> None:
    """Write `golden.json` into the directory `engine`.

    Raises `CheckFailedError` where the quantized checkpoint is not what its source says,
    `BadInputError` for one that cannot be read, `RefusedError` as `require_recordable`.
    """
    from ..runtime.golden import FILE

    why = _why_not(job.source.model)
    if why and job.required:
        raise _refusal(why)
    recording = not_recorded(job.checkpoint, job.digest, why) if why else _record(job, progress)
    recording.write(engine / FILE)


def require_recordable(model: Model) -> None:
    """Raise `RefusedError` where golden outputs of this model cannot be recorded here."""
    if why := _why_not(model):
        raise _refusal(why)


def _record(job: GoldenJob, progress: Progress) -> Recording:
    from ..quantize import forced, recording
    from ..quantize.roundings import Served

    quantized = Checkpoint.open(job.checkpoint)
    source, note = None, ""
    if job.source.opened.is_quantized:
        note = (
            "recorded from the quantized weights alone: the checkpoint was quantized already, and "
            "there is no source to compare them with"
        )
    elif is_local(job.source):
        source = forced.Source(fetched(job.source, progress).opened, job.recipe)
    else:
        note = (
            "recorded from the quantized weights alone: the source's weights, with which they "
            "would be compared, were no longer on the machine that built the bundle"
        )
    return recording.record(
        quantized,
        job.digest,
        source,
        note,
        served=Served(job.serving.kv_dtype == "F8_E4M3", job.serving.state_dtype),
        device=_device(job.device, forced.bytes_needed(quantized.model)),
        work=job.work,
        on_layer=progress.step("golden", len(quantized.model.pattern), "layers"),
    )


def _why_not(model: Model) -> str:
    """Why golden outputs cannot be recorded on this machine; empty where they can."""
    missing = [name for name in _PACKAGES if not find_spec(name)]
    if missing:
        return f"the machine that builds the bundle lacks {', '.join(missing)}"
    from ..quantize.forced import bytes_needed

    needed, available = bytes_needed(model), available_memory()
    if needed <= available:
        return ""
    return (
        f"running this model layer by layer takes {size_text(needed, 0)} of memory, and the "
        f"machine that builds the bundle has {size_text(available, 0)} free"
    )


def _device(name: str, needed: int) -> str:
    """The torch device to run on: with `auto`, a GPU that has `needed` bytes free."""
    import torch

    from ..quantize.calibrate import device_named

    device = device_named(name)
    if name == "auto" and device == "cuda" and torch.cuda.mem_get_info()[0] < needed:
        return "cpu"
    return device


def _refusal(why: str) -> RefusedError:
    return RefusedError(
        f"--require-golden (rule: golden-outputs): {why}. What works instead: build on a larger "
        "machine with these packages, or leave --require-golden out"
    )
