"""Activation ranges for FP8, collected by ModelOpt's own quantizers on the CPU or a GPU.

The whole model is loaded, so this serves models that fit into memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..checkpoint import Checkpoint
from ..errors import BadInputError, RefusedError
from ..models import text
from ..recipe import Recipe

BUILT_IN_SAMPLES: Final = 64
MAX_TOKENS: Final = 512
"""Longest calibration sequence, as in ModelOpt's own default."""

MEMORY_FACTOR: Final = 1.5
"""Memory for a calibration over the checkpoint's bytes: ModelOpt was measured at 1.3 times."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Largest input magnitude of each quantized tensor, and what it was collected from."""

    amax: dict[str, float]
    source: str
    sequences: int
    tokens: int


def calibrate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    file: Path | None = None,
    on_sequence: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Run the calibration text through the model and read the ranges ModelOpt recorded.

    `file` is JSON lines (see `read_texts`); without it a small built-in set is used. `on_sequence`
    is told how many of how many sequences are done. Raises `RefusedError` when the model does not
    fit into memory, `BadInputError` for an unusable file.
    """
    _require_memory(checkpoint)
    try:
        import modelopt.torch.quantization as mtq
        import torch
        from transformers import AutoTokenizer, NemotronHForCausalLM
    except ImportError as error:
        raise BadInputError(
            f"FP8 calibration needs the package {error.name}; install it with "
            "pip install 'nemotron-deploy[quantize]'"
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=False)
    texts = read_texts(file, tokenizer) if file else list(text.documents(0, BUILT_IN_SAMPLES))
    sequences = [tokenizer(sample).input_ids[:MAX_TOKENS] for sample in texts]
    sequences = [ids for ids in sequences if ids]
    model = NemotronHForCausalLM.from_pretrained(checkpoint.path, dtype=torch.bfloat16)
    model.requires_grad_(False)

    def forward(loaded: Any) -> None:
        for done, ids in enumerate(sequences, 1):
            with torch.inference_mode():
                loaded(torch.tensor([ids]), use_cache=False)
            if on_sequence:
                on_sequence(done, len(sequences))

    # ModelOpt prints what it does to standard output, which belongs to our own result.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        mtq.quantize(model, mtq.MAMBA_MOE_FP8_CONSERVATIVE_CFG, forward)
    source = str(file) if file else f"built-in: {BUILT_IN_SAMPLES} generated sequences, seed 0"
    tokens = sum(map(len, sequences))
    return Calibration(_input_amax(model, checkpoint, recipe), source, len(sequences), tokens)


def _input_amax(model: Any, checkpoint: Checkpoint, recipe: Recipe) -> dict[str, float]:
    """Ranges by hub tensor name. The experts of a layer share one quantizer per projection."""
    seen: dict[str, float] = {}
    for name, module in model.named_modules():
        if not name.endswith("input_quantizer") or getattr(module, "amax", None) is None:
            continue
        owner = name.removesuffix("_input_quantizer").removesuffix(".input_quantizer")
        seen[owner.replace("model.", "backbone.", 1)] = float(module.amax)
    ranges: dict[str, float] = {}
    for group in checkpoint.model.tensors():
        owner = group.template.removesuffix(".weight").replace(".experts.{}.", ".experts.")
        if recipe.quantizes(group) and owner in seen:
            ranges |= dict.fromkeys(group.names(), seen[owner])
    return ranges


def read_texts(file: Path, tokenizer: Any) -> list[str]:
    """Calibration texts of a JSON-lines file: each line has `text`, `prompt` or `messages`.

    `messages` go through the tokenizer's chat template. Raises `BadInputError` naming the line.
    """
    texts = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            texts.append(_text_of(line, f"{file}, line {number}", tokenizer))
    if not texts:
        raise BadInputError(f"{file}: holds no calibration text")
    return texts


def _text_of(line: str, where: str, tokenizer: Any) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadInputError(f"{where}: holds no JSON object")
    for key in ("text", "prompt"):
        if isinstance(row.get(key), str) and row[key]:
            return str(row[key])
    messages = row.get("messages")
    if not isinstance(messages, Sequence) or not messages:
        raise BadInputError(f"{where}: has none of `text`, `prompt` and `messages`")
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:
        raise BadInputError(f"{where}: the chat template refused `messages`: {error}") from error


def _require_memory(checkpoint: Checkpoint) -> None:
    needed = int(checkpoint.bytes * MEMORY_FACTOR)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    available = next(int(row.split()[1]) * 1024 for row in lines if row.startswith("MemAvailable"))
    if needed > available:
        raise RefusedError(
            f"calibrating {checkpoint.model.name} takes about {needed / 1e9:.0f} GB of memory, "
            f"{available / 1e9:.0f} GB are available (rule: calibration-memory). What works: a "
            "machine with more memory, or --quant int4, which needs no calibration."
        )
