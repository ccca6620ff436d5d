"""Checks of what long work will need, made before the first large file is fetched or read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..core.errors import BadInputError, UsageError
from ..core.extras import require
from ..core.files import kept_bytes
from ..core.sizes import size_text
from ..model.ending import end_tokens
from ..model.tokenizer import TOKENIZER_NAME, check_tokenizer
from ..quantize.texts import read_texts, require_row
from ..runtime.templates import ChatTemplate
from ..sources.checkpoint_source import Source
from ..sources.fetching import require_disk

if TYPE_CHECKING:
    from ..quantize.options import Options

DEVICES: Final = ("auto", "cpu", "cuda")


def require_device(name: str) -> None:
    """Raise `UsageError` for an unknown `--device`, `BadInputError` for one that is not here."""
    if name not in DEVICES:
        raise UsageError(f"unknown --device {name!r}; known are {', '.join(DEVICES)}")
    if name == "cuda":
        require("torch", purpose="--device cuda")
        from ..quantize.calibrate import device_named

        device_named(name)


def require_readable(*files: Path | None) -> None:
    """Raise `BadInputError` for a text file of the user's (None: none given) that cannot be read or
    has no row. Whether every row can be used is known once the checkpoint is."""
    for file in files:
        if file is not None:
            require_row(file)


def require_text(source: Source, files: Iterable[Path | None], purpose: str) -> None:
    """Check that `source` has a tokenizer, which `purpose` needs, that it can be used, and that
    each of `files` can be read and rendered with its chat template. From a repository of the hub,
    tokenizer and template are fetched for that; its weights are not.

    Raises `BadInputError`.
    """
    fetch_small_files(source)
    tokenizer = source.opened.path / TOKENIZER_NAME
    if not tokenizer.exists():
        raise BadInputError(
            f"{source.asked}: has no {TOKENIZER_NAME}, which {purpose} needs. Copy it from the "
            "model that this one was made from. Without it, inspect and plan work, and quantize "
            "with --quant bf16, with --quant int8, and with --quant int4 --no-smooth"
        )
    check_tokenizer(tokenizer, source.model.vocab_size)
    with ChatTemplate(source.opened.path) as template:
        for file in files:
            if file is not None:
                read_texts(file, template)


def fetch_small_files(source: Source) -> None:
    """Fetch configuration, tokenizer and chat template of a repository of the hub."""
    if source.snapshot is not None:
        from ..hub.fetch import fetch_companions

        fetch_companions(source.snapshot)


def require_checkpoint_needs(
    source: Source, options: Options, out: Path, purpose: str | None = None
) -> tuple[str, ...]:
    """Check what writing the checkpoint `out` from `source` will need: tokenizer, texts, disk and
    memory. `purpose` is what needs the tokenizer, if quantizing itself does not.

    Gives warnings, a sentence each. Raises `BadInputError`. Writes nothing; as `require_text` it
    fetches small files.
    """
    fetch_small_files(source)
    if options.calibrates or options.heldout:
        purpose = "calibrating" if options.calibrates else "measuring quality (--heldout)"
    if purpose:
        require_text(source, (options.calibration, options.heldout), purpose)
    require_disk(source, options, out, kept_bytes(out))
    if options.calibrates:
        _require_memory(source)
    warning = end_tokens(source.opened.path, source.opened.config).warning
    return () if warning is None else (f"{source.asked}: {warning}",)


def _require_memory(source: Source) -> None:
    """Raise `BadInputError` where not even the largest layer has room, of which calibration holds
    one at a time."""
    layers: Counter[str] = Counter()
    for group in source.model.tensors():
        layers[".".join(group.template.split(".")[:3])] += group.bytes
    needed, available = max(layers.values()), available_memory()
    if available < needed:
        raise BadInputError(
            f"{source.asked}: calibrating takes {size_text(needed, 1)} of memory for the largest "
            f"layer alone, and {size_text(available, 1)} are free here. Use a machine with more "
            "memory, or --quant int4 --no-smooth, which needs no calibration"
        )


def available_memory() -> int:
    """Bytes of memory that are free or can be freed, as the kernel reports."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux always says")
