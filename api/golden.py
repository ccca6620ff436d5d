"""Golden outputs of a bundle: recorded while it is built where the model runs here, or owed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from ..core.progress import Progress
from ..model.architecture import Model
from ..model.tokenizer import TOKENIZER_NAME, encode
from .quality import RUN_BELOW, available_memory

_LONGEST_PROMPT: Final = 1024

_BYTES_PER_PARAMETER: Final = 4.5
"""Weights in float32, and room to work in."""


def write_golden(
    engine: Path, checkpoint: Path, digest: str, model: Model, progress: Progress
) -> None:
    """Write `golden.json` into the directory `engine`, for the quantized `checkpoint` that `digest`
    tells from others. Raises `BadInputError` for a checkpoint that does not load."""
    from ..runtime.generation import StartError
    from ..runtime.golden import FILE
    from ..triton_repo import recording

    device, why = _where(model)
    if device:
        total = recording.RUNS * len(recording.PROMPTS)
        advance = progress.step("golden", total, "prompts")
        try:
            golden = recording.record(checkpoint, digest, advance, device)
        except StartError as error:
            raise BadInputError(str(error)) from error
    else:
        tokens = encode(checkpoint / TOKENIZER_NAME, recording.PROMPTS, _LONGEST_PROMPT)
        golden = recording.owed(list(tokens), digest, why)
    golden.write(engine / FILE)


def _where(model: Model) -> tuple[str, str]:
    """The device on which the reference executor runs this model here, or why on none."""
    missing = [name for name in ("torch", "transformers", "safetensors") if not find_spec(name)]
    if missing:
        return "", f"owed: the machine that built this lacked {', '.join(missing)}"
    needed = _BYTES_PER_PARAMETER * model.parameters_total
    if model.parameters_total <= RUN_BELOW:
        if needed <= available_memory():
            return "cpu", ""
        return "", f"owed: the machine that built this had no {needed / 1e9:.0f} GB of memory free"
    if _free_on_gpu() >= needed:
        return "cuda", ""
    return "", (
        f"owed: models of over {RUN_BELOW / 1e9:.0f} billion parameters are run while a bundle is "
        f"built on a GPU only, with {needed / 1e9:.0f} GB for this one; the first server that "
        "starts on a node records them"
    )


def _free_on_gpu() -> int:
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
