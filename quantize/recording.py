"""Record golden outputs of a quantized checkpoint, from its weights and from its source's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ..core.errors import CheckFailedError
from ..model.checkpoint import Checkpoint
from ..runtime.golden import Entry, Recording, Scores, bounds_from, compare, recorded_positions
from . import forced
from .golden_texts import cases as golden_cases
from .roundings import Served


def record(
    quantized: Checkpoint,
    digest: str,
    source: forced.Source | None = None,
    note: str = "",
    *,
    served: Served | None = None,
    device: str = "cpu",
    work: Path | None = None,
    on_layer: Callable[[int], None] | None = None,
) -> Recording:
    """Golden outputs of `quantized`, whose weights `digest` tells from others; `note` says why it
    is not compared with its source, where it is not. The other arguments are those of `forced.run`,
    which says what is raised."""
    import torch
    from transformers import __version__

    texts = golden_cases(quantized.path)
    found = forced.run(
        quantized,
        [case for _, case in texts],
        source,
        served=served,
        device=device,
        work=work,
        on_layer=on_layer,
    )
    scaled: Sequence[Scores | None] = found.scaled or [None] * len(texts)
    entries = tuple(
        Entry(text, case, recorded_positions(exact, other))
        for (text, case), exact, other in zip(texts, found.exact, scaled, strict=True)
    )
    bounds = bounds_from(compare(entries, found.healthy))
    if not math.isfinite(bounds.divergence):
        raise CheckFailedError(f"{quantized.path}: what this checkpoint answers is no number")
    versions = f"torch {torch.__version__}, transformers {__version__}"
    return Recording(
        "golden",
        digest,
        f"its weights layer by layer, float32, {device} ({versions})",
        entries,
        bounds,
        found.source,
        note,
    )
