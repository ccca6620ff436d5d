"""Golden outputs of a bundle: recorded while it is built where the model runs here, or owed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..errors import BadInputError
from ..spec import Model
from ..tokenizer_file import TOKENIZER_NAME, encode
from .progress import Progress
from .quality import RUN_BELOW, available_memory

_LONGEST_PROMPT = 1024


def write_golden(
    engine: Path, checkpoint: Path, digest: str, model: Model, progress: Progress
) -> None:
    """Write `golden.json` into the directory `engine`, for the quantized `checkpoint` that `digest`
    tells from others. Raises `BadInputError` for a checkpoint that does not load."""
    from ..triton_repo import recording
    from ..triton_repo.served.generation import StartError
    from ..triton_repo.served.golden import FILE

    why = _not_here(model)
    if why is None:
        total = recording.RUNS * len(recording.PROMPTS)
        try:
            golden = recording.record(checkpoint, digest, progress.step("golden", total, "prompts"))
        except StartError as error:
            raise BadInputError(str(error)) from error
    else:
        tokens = encode(checkpoint / TOKENIZER_NAME, recording.PROMPTS, _LONGEST_PROMPT)
        golden = recording.owed(list(tokens), digest, why)
    golden.write(engine / FILE)


def _not_here(model: Model) -> str | None:
    """Why the reference executor does not run this model on this machine, or None where it does."""
    if model.parameters_total > RUN_BELOW:
        return (
            f"owed: models of over {RUN_BELOW / 1e9:.0f} billion parameters are not run while a "
            "bundle is built; the first server that starts on a node records them"
        )
    missing = [name for name in ("torch", "transformers", "safetensors") if not find_spec(name)]
    if missing:
        return f"owed: the machine that built this lacked {', '.join(missing)}"
    needed, free = 8 * model.parameters_total, available_memory()
    if needed > free:
        return f"owed: {needed / 1e9:.0f} GB of memory were needed and {free / 1e9:.0f} GB free"
    return None
